"""Prompt, retrieve, fine-tune, or both? The rule of thumb of lesson 01 as a function that gives its reasons.

Prompting comes first, retrieval closes gaps in knowledge, fine-tuning closes gaps in behaviour, and they combine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from course_utils import costs
from course_utils.errors import CourseError

APPROACHES = ("prompt", "rag", "fine-tune", "rag + fine-tune")
GOOD_ENOUGH = 0.85  # share of the goal from which the rest rarely pays
ENOUGH_EXAMPLES = 100
QUESTIONS = {
    "gap": ("What is missing?", ("knowledge", "behaviour", "both")),
    "prompt_reaches": ("How much of the goal does your best prompt reach?", float),
    "facts_change": ("How often do the facts behind the answers change?", ("rarely", "monthly", "daily")),
    "behaviour_changes": (
        "How often do the form, the tone or the kind of messages change?",
        ("rarely", "monthly", "daily"),
    ),
    "examples": ("How many good, checked examples do you have?", int),
    "requests_a_day": ("How many requests a day?", int),
    "latency": ("How quickly must the answer come?", ("relaxed", "tight")),
    "own_machines": ("Must the data stay on your own machines?", bool),
}


@dataclass(frozen=True)
class Decision:
    """A recommendation.

    Attributes:
        approach: "prompt", "rag", "fine-tune" or "rag + fine-tune".
        host: "own" where the data must stay on one's own machines, else "any".
        answers: what was asked and answered.
        reasons: why, a sentence each.
        next_step: what to do first.
        would_change: (question, other answer, the approach that it would lead to), the nearest such answer of each question.
        evidence: sentences with figures from the caller's own measurements that bear on this recommendation.
    """

    approach: str
    host: str
    answers: dict
    reasons: tuple[str, ...]
    next_step: str
    would_change: tuple[tuple[str, object, str], ...]
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Recommendation: {self.approach} (where: {'your own machines' if self.host == 'own' else 'anywhere'})"]
        lines += [f"  because {reason}" for reason in self.reasons]
        lines += [f"  next: {self.next_step}"]
        lines += [f"  measured: {sentence}" for sentence in self.evidence]
        lines += [f"  {name} = {value} would make it: {approach}" for name, value, approach in self.would_change]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        items = lambda rows: "".join(f"<li>{escape(row)}</li>" for row in rows)  # noqa: E731
        where = "your own machines" if self.host == "own" else "anywhere"
        changes = [f"{name} = {value}: {approach}" for name, value, approach in self.would_change]
        return (
            f"<p><b>Recommendation: {escape(self.approach)}</b> (where: {where})</p>"
            f"<p>Because</p><ul>{items(self.reasons)}</ul><p>Next: {escape(self.next_step)}</p>"
            + (f"<p>Measured in this notebook</p><ul>{items(self.evidence)}</ul>" if self.evidence else "")
            + (f"<p>What would change it</p><ul>{items(changes)}</ul>" if changes else "")
        )


def decide(
    gap: str,
    prompt_reaches: float | None = None,
    facts_change: str = "rarely",
    behaviour_changes: str = "rarely",
    examples: int = 0,
    requests_a_day: int = 100,
    latency: str = "relaxed",
    own_machines: bool = False,
    evidence: Mapping[str, str] | None = None,
) -> Decision:
    """What to try, with reasons.

    Args:
        gap: what is missing: "knowledge" (it lacks facts), "behaviour" (it knows, but acts wrongly) or "both".
        prompt_reaches: share of the goal, 0 to 1, that the best prompt reaches, measured; None if nobody has measured.
        facts_change: "rarely", "monthly" or "daily".
        behaviour_changes: the same for the form, the tone, or the kind of messages.
        examples: good, checked examples at hand.
        requests_a_day: now, or soon.
        latency: "relaxed" or "tight".
        own_machines: the data must stay on your own machines.
        evidence: sentences with your own figures, by "knowledge", "behaviour", "both", "stale", "tokens" or "volume"; those
            that bear on the recommendation come back with it.

    Raises:
        CourseError: an answer that is none, with those that are.
    """
    answers = {
        "gap": gap,
        "prompt_reaches": prompt_reaches,
        "facts_change": facts_change,
        "behaviour_changes": behaviour_changes,
        "examples": examples,
        "requests_a_day": requests_a_day,
        "latency": latency,
        "own_machines": own_machines,
    }
    _check(answers)
    approach, reasons, bearing = _recommend(**answers)
    if own_machines:
        reasons.append("the data must stay on your own machines: an open-weights model there, tuned there if it is tuned")
    evidence = evidence or {}
    return Decision(
        approach=approach,
        host="own" if own_machines else "any",
        answers=answers,
        reasons=tuple(reasons),
        next_step=_next_step(approach, answers),
        would_change=tuple(_changes(approach, answers)),
        evidence=tuple(evidence[key] for key in bearing if key in evidence),
    )


def volume_threshold() -> int:
    """Requests a day from which a long prompt is dear: where a hosted fine-tune pays under `costs.Assumptions()`."""
    found = costs.Assumptions().break_even("hosted")
    return round(found) if found is not None else 10**9


def _check(answers: dict) -> None:
    for name, (_, allowed) in QUESTIONS.items():
        value = answers[name]
        if isinstance(allowed, tuple):
            if value not in allowed:
                raise CourseError(f"{name}={value!r}: choose among {', '.join(map(repr, allowed))}")
        elif allowed is bool:
            if not isinstance(value, bool):
                raise CourseError(f"{name}={value!r}: True or False")
        elif name == "prompt_reaches":
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise CourseError(
                    f"{name}={value!r}: a share between 0 and 1 (0.7 for 70 %), or None if it was not measured"
                )
        elif not (_is_number(value) and value >= 0):
            raise CourseError(f"{name}={value!r}: a count, zero or more")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _recommend(
    gap, prompt_reaches, facts_change, behaviour_changes, examples, requests_a_day, latency, own_machines
) -> tuple[str, list[str], list[str]]:
    """Approach, reasons, and what evidence bears on it."""
    if prompt_reaches is None:
        return "prompt", ["nobody has measured what a good prompt reaches, and a prompt costs an afternoon"], ["tokens"]
    busy, tight = requests_a_day >= volume_threshold(), latency == "tight"
    reasons, bearing = [], []
    if prompt_reaches >= GOOD_ENOUGH:
        reached = f"the prompt reaches {100 * prompt_reaches:.0f} % of the goal"
        if not busy and not tight:
            return "prompt", [f"{reached}; the rest rarely pays for a second system"], ["tokens"]
        why = f"{requests_a_day:,} requests a day" if busy else "tight latency"
        reasons.append(f"{reached}, but with {why} what a long prompt costs in each call counts")
        bearing += ["tokens", "volume"]
    else:
        reasons.append(f"the prompt reaches only {100 * prompt_reaches:.0f} % of the goal")
    knows = gap == "behaviour"
    if not knows:
        reasons.append("what it lacks are facts: they are looked up at the time of the question, with a source to cite")
        bearing.append("knowledge")
        if facts_change != "rarely":
            reasons.append(f"the facts change {facts_change}: facts trained in would go stale")
            bearing.append("stale")
    if gap == "knowledge":
        return "rag", reasons, bearing
    fit = True
    if examples < ENOUGH_EXAMPLES:
        fit = False
        reasons.append(
            f"{examples} good examples are too few to train on: show the best of them in the prompt, and collect more"
        )
    if behaviour_changes == "daily":
        fit = False
        reasons.append("the target moves too often: a prompt changes in a minute, a trained model does not")
    if fit:
        reasons.append("what it lacks is behaviour: training holds it whatever the customer writes, without instructions")
        bearing.append("behaviour")
        if behaviour_changes == "monthly":
            reasons.append("the target moves about monthly: plan a new training and a new measurement each time")
    if gap == "both" and fit:
        bearing.append("both")
    return (
        {
            (True, True): "fine-tune",
            (True, False): "prompt",
            (False, True): "rag + fine-tune",
            (False, False): "rag",
        }[knows, fit],
        reasons,
        bearing,
    )


def _next_step(approach: str, answers: dict) -> str:
    if answers["prompt_reaches"] is None:
        return "write 50 to 100 real questions with right answers, and measure a prompt with instructions and three examples"
    return {
        "prompt": "keep the measured set, improve the prompt, and measure again when messages or volume change",
        "rag": "build the index, and measure recall@k before you look at any answer",
        "fine-tune": "split the examples, train a LoRA, and compare it with the prompt on the same held-out messages",
        "rag + fine-tune": "build retrieval first; then train on examples that carry passages: it must learn to read",
    }[approach]


def _changes(approach: str, answers: dict):
    """The nearest other answer to each question that leads elsewhere."""
    threshold = volume_threshold()
    others = {
        "prompt_reaches": [0.5, GOOD_ENOUGH, None],
        "examples": [0, ENOUGH_EXAMPLES],
        "requests_a_day": [0, threshold],
        "own_machines": [],
    }
    for name, (_, allowed) in QUESTIONS.items():
        for value in others.get(name, allowed if isinstance(allowed, tuple) else ()):
            if value == answers[name]:
                continue
            found = _recommend(**answers | {name: value})[0]
            if found != approach:
                yield name, value, found
                break
