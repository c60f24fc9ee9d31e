"""Prompt, retrieve, fine-tune, or both? Lesson 01's rule of thumb as a function that gives its reasons.

Prompting comes first, then what takes an hour: a larger model, a schema, the whole text, similar past answers. Retrieval
closes gaps in knowledge, fine-tuning closes gaps in behaviour, and they can be combined.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any, NamedTuple

from course_utils import costs
from course_utils.errors import CourseError

APPROACHES = ("prompt", "larger model", "schema", "whole text", "rag", "past answers", "fine-tune", "rag + fine-tune")
GOOD_ENOUGH = 0.85  # share of the goal above which further work rarely pays
BELOW_GOOD_ENOUGH = 0.84
ENOUGH_EXAMPLES = 100
WHOLE_TEXT = 20_000  # tokens that still go into each prompt; lesson 01 shows what they cost from a cache
SHARES = ("prompt_reaches", "larger_reaches")
FREQUENCIES = ("rarely", "monthly", "weekly", "daily")
TOO_OFTEN_TO_TRAIN = ("weekly", "daily")  # nobody collects data, trains and measures every week


class Question(NamedTuple):
    """A question of `decide`.

    Attributes:
        text: the question.
        label: what is asked about, in a few words.
        allowed: the answers to choose from, or float for a share, int for a count, bool for yes or no.
    """

    text: str
    label: str
    allowed: tuple[str, ...] | type


QUESTIONS = {
    "gap": Question("What is missing?", "missing", ("knowledge", "behaviour", "both", "form")),
    "prompt_reaches": Question("How much of the goal does your best prompt reach?", "the prompt reaches", float),
    "larger_reaches": Question("How much does a larger model reach with the same prompt?", "a larger model reaches", float),
    "past_answers_tried": Question("Does that prompt show similar past answers?", "similar past answers shown", bool),
    "text_tokens": Question(
        "How many tokens has the text that holds the facts? (0: none, or not counted)", "tokens of text", int
    ),
    "facts_change": Question("How often do the facts behind the answers change?", "facts change", FREQUENCIES),
    "behaviour_changes": Question(
        "How often do the form, the tone or the kind of messages change?",
        "form, tone or kind of messages change",
        FREQUENCIES,
    ),
    "examples": Question("How many good, checked examples do you have?", "good examples", int),
    "requests_a_day": Question("How many requests a day?", "requests a day", int),
    "latency": Question("How quickly must the answer come?", "latency", ("relaxed", "tight")),
    "own_machines": Question("Must the data stay on your own machines?", "data stay here", bool),
}


@dataclass(frozen=True)
class Decision:
    """A recommendation.

    Attributes:
        approach: one of `APPROACHES`.
        host: "own" if the data must stay on the user's own machines, otherwise "any".
        answers: question → answer.
        reasons: the reasons, one sentence each.
        next_step: what to do first.
        would_change: (question, other answer, approach that it would lead to): the nearest such answer for each question
            whose answers have an order, and all such answers for the others.
    """

    approach: str
    host: str
    answers: dict[str, Any]
    reasons: tuple[str, ...]
    next_step: str
    would_change: tuple[tuple[str, object, str], ...]

    @property
    def case(self) -> str:
        """The answers in one line of text, without those that nobody has changed."""
        given = {name: value for name, value in self.answers.items() if name == "gap" or value != DEFAULTS[name]}
        return "; ".join(f"{QUESTIONS[name].label}: {_answer_text(name, value)}" for name, value in given.items())

    @property
    def changes(self) -> tuple[str, ...]:
        """The entries of `would_change` in words, one sentence each."""
        return tuple(
            f"{_condition(name, value, self.answers[name])}: {approach}" for name, value, approach in self.would_change
        )

    @property
    def headline(self) -> str:
        """The recommendation in one line of text."""
        return f"Recommendation: {self.approach}{' (on your own machines)' if self.host == 'own' else ''}."

    @property
    def details(self) -> str:
        """Reasons, next step and what would change it, as HTML."""
        lists = {
            "Because": self.reasons,
            "Next": (self.next_step,),
            "What would change it": self.changes,
        }
        return "".join(
            f"<p>{heading}</p><ul>{''.join(f'<li>{escape(row)}</li>' for row in rows)}</ul>"
            for heading, rows in lists.items()
            if rows
        )

    def __str__(self) -> str:
        lines = [self.headline, f"  for {self.case}"]
        lines += [f"  because {reason}" for reason in self.reasons]
        lines += [f"  next: {self.next_step}"]
        lines += [f"  it would change {change}" for change in self.changes]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p><b>{escape(self.headline)}</b></p><p>{escape(self.case)}</p>{self.details}"


def decide(
    gap: str,
    prompt_reaches: float | None = None,
    facts_change: str = "rarely",
    behaviour_changes: str = "rarely",
    examples: int = 0,
    requests_a_day: int = 100,
    latency: str = "relaxed",
    own_machines: bool = False,
    larger_reaches: float | None = None,
    past_answers_tried: bool = False,
    text_tokens: int = 0,
    assumptions: costs.Assumptions | None = None,
) -> Decision:
    """Recommend what to try, with the reasons.

    Args:
        gap: what is missing: "knowledge" (the model lacks facts), "behaviour" (it knows, but acts wrongly), "both", or
            "form" (the content is right, but not in the form that a program reads).
        prompt_reaches: measured share of the goal, 0 to 1, that the best prompt reaches; None if nobody has measured it.
        facts_change: "rarely", "monthly", "weekly" or "daily".
        behaviour_changes: how often the form, the tone, or the kind of messages changes, in the same words.
        examples: number of good, checked examples.
        requests_a_day: requests per day, now or soon.
        latency: "relaxed" or "tight".
        own_machines: whether the data must stay on your own machines.
        larger_reaches: share of the goal that a larger model reaches with the same prompt; None if nobody has measured it.
        past_answers_tried: whether the prompt that was measured shows the most similar past answers.
        text_tokens: tokens of the text that holds the facts; 0 if there is none, or nobody has counted.
        assumptions: determine the volume at which a long prompt becomes expensive; the course's own if None.

    Raises:
        CourseError: an answer is invalid; the message lists the valid ones.
    """
    answers = {name: value for name, value in locals().items() if name in QUESTIONS}
    _check(answers)
    approach, reasons = _recommend(**answers, volume_limit=volume_threshold(assumptions, own_machines))
    if own_machines:
        reasons.append("the data must stay on your own machines: an open-weights model there, tuned there if it is tuned")
    return Decision(
        approach=approach,
        host="own" if own_machines else "any",
        answers=answers,
        reasons=tuple(reasons),
        next_step=_next_step(approach, answers),
        would_change=tuple(_changes(approach, answers, assumptions)),
    )


DEFAULTS: dict[str, Any] = {name: parameter.default for name, parameter in inspect.signature(decide).parameters.items()}


def volume_threshold(assumptions: costs.Assumptions | None = None, own_machines: bool = False) -> int | None:
    """Return the requests per day at which a long prompt becomes expensive; None if it never does.

    With a provider that charges per token, this is the volume at which a hosted fine-tune pays off. On your own machines, it
    is the volume that one GPU can handle with the long prompt, if that is known.
    """
    assumptions = assumptions or costs.Assumptions()
    if own_machines:
        try:
            threshold = assumptions.capacity(assumptions.message + assumptions.passages + assumptions.instructions)
        except CourseError:  # the throughput of a GPU is unknown: volume is then not a reason
            threshold = None
    else:
        threshold = assumptions.break_even("hosted")
    return None if threshold is None else max(1, math.ceil(threshold))


def _answer_text(name: str, value: Any) -> str:
    """An answer in words."""
    if name in SHARES:
        return "not measured" if value is None else f"{100 * value:g} %"
    if type(value).__name__ in ("bool", "bool_"):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"


def _condition(name: str, value: Any, current: Any) -> str:
    """The condition "if the answer were another one", in words."""
    if name in SHARES:
        limit = f"{100 * GOOD_ENOUGH:.0f} %"
        who = "the prompt" if name == "prompt_reaches" else "a larger model"
        return f"if {who} reached " + (f"{limit} or more" if value >= GOOD_ENOUGH else f"less than {limit}")
    if name in ("examples", "requests_a_day", "text_tokens"):
        counted = QUESTIONS[name].label
        if not current and name == "text_tokens":
            return f"with at most {value:,} {counted}"
        return f"with {value:,} {counted} or {'more' if value > current else 'fewer'}"
    if name == "own_machines":
        return "if the data had to stay on your own machines" if value else "if the data could go anywhere"
    if name == "gap":
        return f"if {value if value != 'both' else 'both knowledge and behaviour'} were missing"
    if name == "past_answers_tried":
        return "if similar past answers in the prompt weren't enough" if value else "without past answers in the prompt"
    if name == "latency":
        return f"with latency {value}"
    return f"if {QUESTIONS[name].label.replace(' change', ' changed')} {value}"


def _check(answers: dict[str, Any]) -> None:
    for name, (_, _, allowed) in QUESTIONS.items():
        value = answers[name]
        if isinstance(allowed, tuple):
            if value not in allowed:
                raise CourseError(f"{name}={value!r}: choose among {', '.join(map(repr, allowed))}")
        elif allowed is bool:
            if type(value).__name__ not in ("bool", "bool_"):  # NumPy's too
                raise CourseError(f"{name}={value!r}: True or False")
        elif name in SHARES:
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise CourseError(
                    f"{name}={value!r}: a share between 0 and 1 (0.7 for 70 %), or None if it was not measured"
                )
        elif not (_is_number(value) and value >= 0 and value == int(value)):
            raise CourseError(f"{name}={value!r}: a count, a whole number, zero or more")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _percent(share: float) -> str:
    """Rounded down: 84.96 % does not reach 85 %."""
    return f"{math.floor(100 * share + 1e-9)} %"


def _recommend(
    gap: str,
    prompt_reaches: float | None,
    facts_change: str,
    behaviour_changes: str,
    examples: int,
    requests_a_day: int,
    latency: str,
    own_machines: bool,
    larger_reaches: float | None,
    past_answers_tried: bool,
    text_tokens: int,
    volume_limit: int | None,
) -> tuple[str, list[str]]:
    """Approach and reasons."""
    if prompt_reaches is None:
        return "prompt", ["nobody has measured what a good prompt reaches, and a prompt costs an afternoon"]
    over_volume_limit, latency_is_tight = volume_limit is not None and requests_a_day >= volume_limit, latency == "tight"
    reasons, enough = [], prompt_reaches >= GOOD_ENOUGH
    if enough:
        reached = f"the prompt reaches {_percent(prompt_reaches)} of the messages"
        if not over_volume_limit and not latency_is_tight:
            return "prompt", [f"{reached}; the rest rarely pays for a second system"]
        volume = f"{requests_a_day:,} requests a day" + ", more than one GPU takes with a long prompt," * own_machines
        causes = " and ".join([volume] * over_volume_limit + ["tight latency"] * latency_is_tight)
        reasons.append(f"{reached}, but with {causes} the length of the prompt counts in each call")
    else:
        reasons.append(f"the prompt gets only {_percent(prompt_reaches)} right")
        if larger_reaches is not None and larger_reaches >= GOOD_ENOUGH and not (over_volume_limit or latency_is_tight):
            reasons.append(
                f"a larger model reaches {_percent(larger_reaches)} with it, and at this volume its price is no reason"
            )
            return "larger model", reasons
        if gap == "form":
            return "schema", [*reasons, "only the form is wrong, and a schema enforces it without any training"]
    too_few_examples, target_moves = examples < ENOUGH_EXAMPLES, behaviour_changes in TOO_OFTEN_TO_TRAIN
    can_train = not (too_few_examples or target_moves)
    has_knowledge, trains_both = gap in ("behaviour", "form"), gap == "both" and can_train and past_answers_tried
    short = 0 < text_tokens <= WHOLE_TEXT and not enough and not trains_both  # training needs passages that it can read
    looked_up = "whole text" if short else "rag"
    if not has_knowledge:
        reasons.append(
            f"what it lacks are facts, and all {text_tokens:,} tokens of them fit into a cached prompt: no search can miss"
            if short
            else "facts are looked up at the time of the question, in passages, so they may change"
            if trains_both
            else "what it lacks are facts: they are looked up at the time of the question, with a source to cite"
        )
        if enough:
            reasons.append("retrieval puts only what a question needs into its prompt, instead of everything into each")
        if facts_change != "rarely":
            reasons.append(f"the facts change {facts_change}, and facts trained in would go stale")
    if gap == "knowledge":
        return looked_up, reasons
    if too_few_examples:
        number = f"{examples:,} good examples are too few" if examples else "there are no good examples"
        shown_first = "show the best of them in the prompt, and collect more"
        advice = "collect them from checked answers" if enough or not examples else shown_first
        reasons.append(f"{number} to train on: {advice}")
    if target_moves:
        reasons.append("the target moves too often: a prompt changes in a minute, a trained model does not")
    if can_train and not enough and not past_answers_tried:
        reasons.append(
            "what it lacks is behaviour: the most similar past answers in the prompt may be enough, and take an hour"
        )
        return "past answers" if has_knowledge else looked_up, reasons
    if can_train:
        reasons.append("what it lacks is behaviour, which training changes; the prompt then needs no instructions")
        if latency_is_tight and not enough:
            reasons.append("latency is tight, and a prompt without instructions is read sooner")
        if behaviour_changes == "monthly":
            reasons.append("the target moves about monthly: plan a new training and a new measurement each time")
    without_training, trained = ("prompt", "fine-tune") if has_knowledge else (looked_up, "rag + fine-tune")
    return trained if can_train else without_training, reasons


def _next_step(approach: str, answers: dict[str, Any]) -> str:
    reached = answers["prompt_reaches"]
    if reached is None:
        return (
            "write 50 to 100 real questions with right answers, and measure a prompt with instructions and three examples, "
            "once fixed and once the most similar past answers"
        )
    if approach == "rag + fine-tune" and answers["past_answers_tried"]:
        return "train on examples that carry passages, because the model must learn to read them (lesson 02)"
    if reached >= GOOD_ENOUGH and approach == "fine-tune":
        return "shorten the prompt and let the host cache it, compute anew whether training pays, and only then train"
    return {
        "prompt": "keep the measured set, improve the prompt, and measure again when messages or volume change",
        "larger model": "compute what it costs a year, and measure again when volume or prices change",
        "schema": "send the record's schema with each request, limit the length of its texts, and measure again",
        "whole text": "put the text first, so that the host caches it, and count its tokens again as it grows",
        "past answers": "show the three most similar past answers before each message; measure messages unlike them apart",
        "rag": "build the index, and measure recall@k before you look at any answer",
        "fine-tune": "train an adapter (lesson 02), and measure it beside the prompt on messages that neither has seen",
        "rag + fine-tune": "have passages and similar past answers in the prompt, and measure; then train on examples "
        "that carry passages: it must learn to read",
    }[approach]


def _changes(
    approach: str, answers: dict[str, Any], assumptions: costs.Assumptions | None
) -> Iterator[tuple[str, object, str]]:
    """Other answers, one question at a time, that lead to another approach; only the nearest if answers have an order."""
    reached, larger = answers["prompt_reaches"], answers["larger_reaches"]
    volume_limit = volume_threshold(assumptions, answers["own_machines"])
    numbers: dict[str, Sequence[Any]] = {
        # A measured share can change only to the other side of the limit; an unmeasured one may turn out either way.
        "prompt_reaches": [BELOW_GOOD_ENOUGH if reached is None or reached >= GOOD_ENOUGH else GOOD_ENOUGH],
        "examples": [ENOUGH_EXAMPLES - 1 if answers["examples"] >= ENOUGH_EXAMPLES else ENOUGH_EXAMPLES],
        "requests_a_day": []
        if volume_limit is None
        else [volume_limit - 1 if answers["requests_a_day"] >= volume_limit else volume_limit],
        "own_machines": [not answers["own_machines"]],
        "past_answers_tried": [not answers["past_answers_tried"]],
        "larger_reaches": [BELOW_GOOD_ENOUGH if larger is not None and larger >= GOOD_ENOUGH else GOOD_ENOUGH],
        "text_tokens": [WHOLE_TEXT + 1 if 0 < answers["text_tokens"] <= WHOLE_TEXT else WHOLE_TEXT],
    }
    for name, (_, _, allowed) in QUESTIONS.items():
        others = numbers.get(name, allowed if isinstance(allowed, tuple) else ())
        if allowed is FREQUENCIES:
            others = sorted(FREQUENCIES, key=lambda often: abs(FREQUENCIES.index(often) - FREQUENCIES.index(answers[name])))
        for value in others:
            if value == answers[name]:
                continue
            changed = answers | {name: value}
            new_approach = _recommend(**changed, volume_limit=volume_threshold(assumptions, changed["own_machines"]))[0]
            if new_approach != approach:
                yield name, value, new_approach
                if name != "gap":
                    break
