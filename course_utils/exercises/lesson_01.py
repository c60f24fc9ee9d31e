"""Exercises of section 01, the decision framework."""

from __future__ import annotations

import math
from functools import lru_cache

from course_utils.exercises.definitions import Challenge, Exercise, Mistake


def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    """At how many requests a day does the fine-tuned system break even?

    Args:
        setup: US dollars paid once: data and training.
        upkeep_a_day: US dollars paid every day, however many requests come, e.g. for a
            machine and somebody's time.
        old_cost: US dollars for one request to the old system, e.g. a long prompt.
        new_cost: US dollars for one request to the fine-tuned model.
        days: how many days the system will run; spread the set-up evenly over them.

    Returns:
        Requests a day at which both cost the same, not rounded; None if the fine-tuned
        model never saves anything, since a request to it costs as much as before or more.
    """
    ### BEGIN SOLUTION
    saved = old_cost - new_cost
    if saved <= 0:
        return None
    return (setup / days + upkeep_a_day) / saved
    ### END SOLUTION


def _break_even_cases(random):
    def case(setup=None, upkeep=None, days=None, ratio=None):
        old = round(float(random.uniform(0.001, 0.01)), 5)
        return (
            round(float(random.uniform(50, 900)), 2) if setup is None else setup,
            round(float(random.uniform(2, 40)), 2) if upkeep is None else upkeep,
            old,
            old * (float(random.uniform(0.1, 0.8)) if ratio is None else ratio),
            int(random.integers(30, 400)) if days is None else days,
        )

    return [
        *(case() for _ in range(4)),
        case(upkeep=0.0),  # a hosted model: costs nothing without requests
        case(setup=0.0),
        case(days=1),
        case(ratio=1),
        case(ratio=float(random.uniform(1.2, 3))),
    ]


def _breaks_even(
    fixed=lambda setup, upkeep, days: setup / days + upkeep,
    by=lambda old, new: old - new,
    never=lambda requests: None,
    quotient=lambda fixed, saved: fixed / saved,
):
    def breaks_even(setup, upkeep_a_day, old_cost, new_cost, days):
        if old_cost == new_cost:
            return never(None)
        requests = quotient(fixed(setup, upkeep_a_day, days), by(old_cost, new_cost))
        return requests if old_cost > new_cost else never(requests)

    return breaks_even


_upkeep_forgotten = _breaks_even(fixed=lambda setup, upkeep, days: setup / days)
_setup_each_day = _breaks_even(fixed=lambda setup, upkeep, days: setup + upkeep)
_upkeep_once = _breaks_even(fixed=lambda setup, upkeep, days: (setup + upkeep) / days)
_requests_in_all = _breaks_even(fixed=lambda setup, upkeep, days: setup + upkeep * days)
_turned_round = _breaks_even(quotient=lambda fixed, saved: saved / fixed)
_by_the_old_cost = _breaks_even(by=lambda old, new: old)
_by_the_new_cost = _breaks_even(by=lambda old, new: new)
_negative_for_never = _breaks_even(never=lambda requests: requests)
_infinite_for_never = _breaks_even(never=lambda requests: math.inf)
_zero_for_never = _breaks_even(never=lambda requests: 0.0)
_rounded_up = _breaks_even(quotient=lambda fixed, saved: math.ceil(fixed / saved))


def recall_at(rankings, relevant, k):
    """How often is the right passage among the first k?

    Args:
        rankings: for each question the ids of the passages found, best first. There may be
            fewer than k, and a passage may appear twice, because two of its parts were
            found.
        relevant: for each question the id of the one passage that answers it.
        k: how many of those found go into the prompt.

    Returns:
        Share of the questions whose passage is among the first k, from 0 to 1, not rounded.
    """
    ### BEGIN SOLUTION
    hits = [right in found[:k] for found, right in zip(rankings, relevant)]
    return sum(hits) / len(hits)
    ### END SOLUTION


def _ranking_cases(random):
    ids = [f"P-{number:03}" for number in range(1, 73)]
    cases = []
    for k, low, high in ((3, 0, 3), (4, 5, 8), (1, 0, 4)) * 3:  # mostly hits, mostly misses, mixed
        # Positions of the relevant passage, counted from 0; None: not found. Each distinguishes two rules.
        positions = [0, 0, k - 1, k, k + 1, None, *random.integers(low, high, size=2 * int(random.integers(2, 12)))]
        rankings, relevant = [], []
        for position in positions:
            relevant_id, *ranking = (str(id) for id in random.choice(ids, size=k + 5, replace=False))
            if position is not None:
                ranking.insert(int(position), relevant_id)
            rankings.append(ranking)
            relevant.append(relevant_id)
        if k > 1:
            rankings[1][1] = relevant[1]  # twice among the first k
        # a duplicate before position k, and the relevant one just after it: the ranking is cut without removing duplicates
        for ranking in rankings[2:4] if k > 1 else ():
            rankings.append([*ranking[: k - 1], ranking[0], "P-100", *ranking[k:]])
            relevant.append("P-100")
        rankings.append(rankings[0][: k - 1])  # fewer than k; for k = 1 nothing at all
        relevant.append(relevant[0])
        order = random.permutation(len(rankings))
        cases.append(([rankings[i] for i in order], [relevant[i] for i in order], k))
    return cases


def _number_of_hits(rankings, relevant, k):
    return sum(relevant_id in ranking[:k] for ranking, relevant_id in zip(rankings, relevant))


def _of_those_found(rankings, relevant, k):
    return recall_at(rankings, relevant, k) / recall_at(rankings, relevant, None)


def _reciprocal_ranks(rankings, relevant, k):
    ranks = [
        1 / (ranking.index(relevant_id) + 1) if relevant_id in ranking[:k] else 0
        for ranking, relevant_id in zip(rankings, relevant)
    ]
    return sum(ranks) / len(ranks)


def _counted_twice(rankings, relevant, k):
    return sum(ranking[:k].count(relevant_id) for ranking, relevant_id in zip(rankings, relevant)) / len(rankings)


def _without_repeats(rankings, relevant, k):
    return recall_at([list(dict.fromkeys(ranking)) for ranking in rankings], relevant, k)


def diagnose(gap, reached, examples, moves):
    """What does the decision tree, in its plainest form, say to try first?

    Args:
        gap: what is missing: "knowledge", "behaviour" or "both".
        reached: the share of the goal that the best prompt reaches, from 0 to 1.
        examples: number of good examples at hand.
        moves: whether the target moves often, so that what was trained would soon be wrong.

    Returns:
        "prompt" if the best prompt reaches 0.85 or more, whatever the gap. Otherwise
        training is possible with at least 100 examples and a target that does not move, and
        the answer is,
        for knowledge: "rag";
        for behaviour: "fine-tune" if training is possible, else "prompt";
        for both: "rag + fine-tune" if training is possible, else "rag".
    """
    ### BEGIN SOLUTION
    trainable = examples >= 100 and not moves
    answer = "fine-tune" if trainable else "prompt"  # of a gap in behaviour
    if gap == "both":
        answer = "rag + fine-tune" if trainable else "rag"
    elif gap == "knowledge":
        answer = "rag"
    return answer if reached < 0.85 else "prompt"
    ### END SOLUTION


def _situation_cases(random):
    def low():
        return round(float(random.uniform(0.3, 0.84)), 2)

    def many():
        return int(random.integers(150, 3000))

    def trained():  # training is possible; reached is not rounded up, and 100 examples are enough
        nearly = round(float(random.uniform(0.8, 0.84)), 2)
        return [(low(), many(), False), (0.849, many(), False), (nearly, many(), False), (low(), 100, False)]

    def untrained():
        return [(low(), 99, False), (low(), many(), True), (low(), int(random.integers(0, 90)), True)]

    # Few are decided by `reached` or by a knowledge gap alone, and the others half and half, so that two clauses earn nothing.
    enough = [0.85, round(float(random.uniform(0.86, 0.89)), 2), round(float(random.uniform(0.91, 0.99)), 2)]
    gaps = [str(gap) for gap in random.permutation(["knowledge", "behaviour", "both"])]
    if gaps[2] == "behaviour":  # or a limit of 0.9 could not be told from asking about the gap first
        gaps = gaps[::-1]
    cases = [(gap, reached, many(), False) for gap, reached in zip(gaps, enough)]
    cases += [("knowledge", low(), many(), moves) for moves in (False, True)]
    cases += [("behaviour", *case) for case in (*trained(), *untrained(), (low(), int(random.integers(0, 90)), False))]
    cases += [("both", *case) for case in (*trained(), *untrained())]
    return [cases[i] for i in random.permutation(len(cases))]


def _diagnosed(
    enough=lambda reached, gap: reached >= 0.85,
    trainable=lambda examples, moves: examples >= 100 and not moves,
    knowledge=lambda possible: "rag",
    behaviour=lambda possible: "fine-tune" if possible else "prompt",
    both=lambda possible: "rag + fine-tune" if possible else "rag",
):
    """A variant of the solution with one part replaced."""

    def diagnosed(gap, reached, examples, moves):
        if enough(reached, gap):
            return "prompt"
        return {"knowledge": knowledge, "behaviour": behaviour, "both": both}[gap](trainable(examples, moves))

    return diagnosed


_knowledge_trained = _diagnosed(knowledge=lambda possible: "fine-tune" if possible else "rag")
_facts_always_trained = _diagnosed(knowledge=lambda possible: "fine-tune")
_prompt_not_asked = _diagnosed(enough=lambda reached, gap: False)
_rag_before_prompt = _diagnosed(enough=lambda reached, gap: reached >= 0.85 and gap == "behaviour")
_more_than_85 = _diagnosed(enough=lambda reached, gap: reached > 0.85)
_from_90 = _diagnosed(enough=lambda reached, gap: reached >= 0.9)
_more_than_100 = _diagnosed(trainable=lambda examples, moves: examples > 100 and not moves)
_moving_ignored = _diagnosed(trainable=lambda examples, moves: examples >= 100)
_examples_ignored = _diagnosed(trainable=lambda examples, moves: not moves)
_one_is_enough = _diagnosed(trainable=lambda examples, moves: examples >= 100 or not moves)
_rag_forgotten = _diagnosed(both=lambda possible: "fine-tune" if possible else "rag")
_both_falls_back_to_prompt = _diagnosed(both=lambda possible: "rag + fine-tune" if possible else "prompt")
_both_without_condition = _diagnosed(both=lambda possible: "rag + fine-tune")


# The pilot of an invented company, for the challenge: shares of right answers, measured on its own messages.
FOUND = {1: 0.85, 3: 0.93, 10: 0.97, "all": 1.0}
READS = {
    "claude-opus-5.5": 0.98, "claude-sonnet-5.5": 0.97, "gpt-6.2-sol": 0.97, "gemini-3.8-flash": 0.95, "claude-haiku-5.5": 0.88,
    "gpt-6-luna": 0.87, "qwen3-8b": 0.96,
}  # fmt: skip
FORM, FORM_WITH_SCHEMA = 0.95, 0.99  # answers that keep the form; the same with structured output
LONG = 0.97  # what a very long prompt leaves of the reading
REQUESTS, DAYS, WAGE, TARGET = 20_000, 365, 80, 0.88
TOKENS = {"message": 50, "answer": 25, "instructions": 300, "passage": 80, "all": 6000}
EXAMPLES = 1000
HOURS = {"prompt": 8, "index": 16, "tuning": 40}


def my_plan():
    """The cheapest plan that meets the target.

    Returns:
        dict with "model" (a name of the pilot), "passages" (1, 3, 10 or "all") and "schema"
        (True or False).
    """
    ### BEGIN SOLUTION
    return {"model": "qwen3-8b", "passages": 3, "schema": True}
    ### END SOLUTION


def _plain_value(value):
    """A scalar of NumPy or torch as Python's own; anything else as it is."""
    return value.item() if math.prod(getattr(value, "shape", (2,))) == 1 else value


def _checked_plan(value):
    """A plan as plain values; ValueError says what is wrong with it."""
    from course_utils import costs

    if not isinstance(value, dict) or set(value) != {"model", "passages", "schema"}:
        raise ValueError("my_plan returns a dict with exactly these keys: model, passages, schema.")
    model, passages, schema = (_plain_value(value[name]) for name in ("model", "passages", "schema"))
    if isinstance(model, str) and model in costs.NO_NEW_JOBS:
        raise ValueError(f"{model} takes no new tuning jobs from {costs.NO_NEW_JOBS[model][0]} on: plan without it.")
    if not isinstance(model, str) or model not in READS:
        raise ValueError(f"model must be one of those in the pilot: {', '.join(READS)}.")
    if isinstance(passages, bool) or not isinstance(passages, int | float | str) or passages not in FOUND:
        raise ValueError('passages must be 1, 3, 10 or "all".')
    if not isinstance(schema, bool):
        raise ValueError("schema must be True or False.")
    return model, passages, schema


def plan_quality(model, passages, schema):
    """Share of right answers, by the pilot: found, read, in the right form."""
    reads = READS[model] * (LONG if passages == "all" else 1)
    return FOUND[passages] * reads * (FORM_WITH_SCHEMA if schema else FORM)


def plan_dollars(model, passages, schema):
    """Dollars a day, at the course's prices: work and training spread over a year, and all requests."""
    from course_utils import costs

    tuned = model in costs.PRICES
    fixed = (0 if tuned else TOKENS["instructions"]) + (TOKENS["all"] if passages == "all" else 0)
    prompt_tokens = fixed + TOKENS["message"] + (0 if passages == "all" else passages * TOKENS["passage"])
    cached = fixed if fixed >= costs.price_of(model).cache_from else 0
    hours = HOURS["prompt"] + (0 if passages == "all" else HOURS["index"]) + (HOURS["tuning"] if tuned else 0)
    training = costs.training_cost(EXAMPLES * (prompt_tokens + TOKENS["answer"]), 2, model) if tuned else 0
    return (hours * WAGE + training) / DAYS + REQUESTS * costs.request_cost(prompt_tokens, TOKENS["answer"], model, cached)


@lru_cache(maxsize=1)
def cheapest():
    """Dollars a day of the cheapest plan that meets the target, over all plans."""
    plans = [(m, p, s) for m in READS for p in FOUND for s in (True, False)]
    return min(plan_dollars(*plan) for plan in plans if plan_quality(*plan) >= TARGET)


def _run_plan(value):
    plan = _checked_plan(value)
    return plan_dollars(*plan) if plan_quality(*plan) >= TARGET else math.inf


MISSES = "The plan misses the target. Which of the three shares is smallest: found, read, or form?"
NO_SCHEMA = (
    "The plan misses the target or costs more than it has to. It also leaves the form to chance, although a schema costs "
    "nothing."
)
TOO_LARGE_A_MODEL = (
    "The plan is good enough but far too expensive, mostly because the model is so large. Which one reads as well for less?"
)
TOO_MANY_PASSAGES = (
    "It is good enough, but each request carries more text than it needs. How many passages does the target need?"
)


def _advise_plan(value, result):
    """What is typically wrong with a plan that misses the bar."""
    model, passages, schema = _checked_plan(value)
    if not schema:
        return NO_SCHEMA
    if not math.isfinite(result):
        return f"It is right in {100 * plan_quality(model, passages, schema):.1f} % of the cases. {MISSES}"
    if plan_dollars(model, 1, True) > 2 * cheapest():
        return TOO_LARGE_A_MODEL
    return TOO_MANY_PASSAGES


EXERCISES = (
    Exercise(
        id="frame-1",
        title="Three bugs in a decision",
        statement="""This function should implement a simplified version of this section's tree. It runs, and it has **three** bugs. Find them and fix the function.

```python
def diagnose(gap, reached, examples, moves):
    if reached >= 85: return "prompt"
    possible = examples >= 100 or not moves
    trained = {"knowledge": "fine-tune", "behaviour": "fine-tune", "both": "rag + fine-tune"}
    untrained = {"knowledge": "rag", "behaviour": "prompt", "both": "rag"}
    return trained[gap] if possible else untrained[gap]
```""",
        solution=diagnose,
        cases=_situation_cases,
        points=3,
        mistakes=(
            Mistake(
                _knowledge_trained,
                "You fine-tune for a knowledge gap once there are enough examples. Facts change, and retrieval keeps up, "
                "so return \"rag\" whatever the examples.",
            ),
            Mistake(
                _facts_always_trained,
                "You fine-tune for a knowledge gap. Facts are looked up when the question comes, so return \"rag\".",
            ),
            Mistake(
                _prompt_not_asked,
                "What the prompt reaches never changes your answer. Test it first, and compare `reached` with 0.85, not "
                "with 85, because it is a share.",
            ),
            Mistake(
                _rag_before_prompt,
                "With a knowledge gap or both gaps, you go on even if the prompt is good enough. Test `reached` first, "
                "whatever the gap.",
            ),
            Mistake(_more_than_85, "0.85 itself is enough: the rule says 85 % or more."),
            Mistake(_from_90, "The limit here is the lower end of 85 to 90 %: 0.85."),
            Mistake(_more_than_100, "100 examples are enough: the rule says at least 100."),
            Mistake(
                _moving_ignored,
                "`moves` never changes your answer, but a model trained for a moving target is soon wrong.",
            ),
            Mistake(_examples_ignored, "`examples` never changes your answer, but training needs at least 100 of them."),
            Mistake(
                _one_is_enough,
                "Training needs both enough examples and a target that does not move. Your function accepts either.",
            ),
            Mistake(
                _rag_forgotten,
                "With both gaps, fine-tuning is added to retrieval and does not replace it: \"rag + fine-tune\".",
            ),
            Mistake(_both_falls_back_to_prompt, "With both gaps, if training is not possible, retrieval still closes the knowledge gap: \"rag\"."),
            Mistake(_both_without_condition, "With both gaps training has the same condition as for behaviour alone: at least 100 examples and a target that does not move."),
        ),
        hint=(
            "Call the function with a prompt that reaches 0.9, with a moving target, and with a knowledge gap and 500 "
            "examples. Which answers contradict the tree?"
        ),
    ),
    Exercise(
        id="frame-2",
        title="Is the right passage among the first?",
        statement="Before you judge answers with retrieval, judge the retrieval: compute recall at k.",
        solution=recall_at,
        cases=_ranking_cases,
        points=2,
        mistakes=(
            Mistake(lambda rankings, relevant, k: recall_at(rankings, relevant, k) / k, "This is precision, hits over passages shown. Each question has one right passage, so recall is hits over questions."),
            Mistake(lambda rankings, relevant, k: recall_at(rankings, relevant, k + 1), "One place too many is looked at: the first k are `found[:k]`."),
            Mistake(lambda rankings, relevant, k: recall_at(rankings, relevant, k - 1), "One place too few is looked at: a passage in place k, counted from 1, is a hit."),
            Mistake(lambda rankings, relevant, k: recall_at(rankings, relevant, 1), "Only the first place is looked at; a hit is any of the first k."),
            Mistake(lambda rankings, relevant, k: recall_at(rankings, relevant, None), "The whole ranking is looked at; only the first k go into the prompt."),
            Mistake(_number_of_hits, "That is the number of hits; divide it by the number of questions."),
            Mistake(lambda rankings, relevant, k: 1 - recall_at(rankings, relevant, k), "This is the share of misses; recall is the share of hits."),
            Mistake(
                lambda rankings, relevant, k: 100 * recall_at(rankings, relevant, k),
                "This is a percentage; return a share from 0 to 1.",
            ),
            Mistake(lambda rankings, relevant, k: round(recall_at(rankings, relevant, k), 2), "The share is rounded to two places; return it as it is."),
            Mistake(lambda rankings, relevant, k: round(recall_at(rankings, relevant, k), 3), "The share is rounded to three places; return it as it is."),
            Mistake(_of_those_found, "You divide by the questions whose passage was found at all; recall counts every question."),
            Mistake(_reciprocal_ranks, "This is the mean reciprocal rank, which gives less for a later place. In recall each hit among the first k counts 1."),
            Mistake(
                _counted_twice,
                "You count a passage twice if it appears twice among the first k. That is still one question answered.",
            ),
            Mistake(
                _without_repeats,
                "You remove repeated passages before you cut to k, but the first k places go into the prompt as they are.",
            ),
            Mistake(lambda rankings, relevant, k: recall_at([ranking[-k:] for ranking in rankings], relevant, None), "These are the last k; the best come first."),
        ),
        hint="What is a hit for one question? Recall is the share of the questions that have one.",
        tolerance=1e-9,
    ),
    Exercise(
        id="frame-3",
        title="Where fine-tuning breaks even",
        statement=(
            "Compute the number of requests a day at which a fine-tuned model breaks even with the long prompt that "
            "it replaces."
        ),
        solution=break_even,
        cases=_break_even_cases,
        points=3,
        mistakes=(
            Mistake(
                _upkeep_forgotten,
                "The upkeep is missing. You pay it every day, so each day's requests must earn it back too.",
            ),
            Mistake(_setup_each_day, "The whole set-up is charged to every day; it is paid once, so spread it: setup / days."),
            Mistake(_upkeep_once, "The upkeep is spread over the days; it is a price for one day already."),
            Mistake(_requests_in_all, "That is the number of requests over the whole time; return requests a day."),
            Mistake(_turned_round, "The division is the other way round: fixed costs of a day over what one request saves."),
            Mistake(_by_the_old_cost, "You divide by what an old request costs. A new one costs something too: divide by the difference."),
            Mistake(
                _by_the_new_cost,
                "You divide by what a new request costs. The fixed costs are earned back by the difference between old "
                "and new.",
            ),
            Mistake(_negative_for_never, "Where a new request costs more, no number of requests will do: return None, not a negative number."),
            Mistake(_infinite_for_never, "Where nothing is saved the convention here is None, not infinity."),
            Mistake(
                _zero_for_never,
                "0 would mean that fine-tuning pays from the first request. If nothing is saved it never pays, so return "
                "None.",
            ),
            Mistake(_rounded_up, "The number is not rounded here: it is the point at which both cost the same."),
        ),
        hint="What does a day cost before the first request, and what does each request save?",
        tolerance=1e-9,
    ),
    Exercise(
        id="frame-4",
        title="Challenge: the cheapest plan that meets the target",
        statement=f"""An invented company gets {REQUESTS:,} requests a day and needs {100 * TARGET:.0f} % of the answers right. A pilot on its own messages
measured three shares. Multiply them to get the share of right answers.

- *Found*: {", ".join(f"{100 * share:.0f} % with {name} passage{'' if name == 1 else 's'}" for name, share in FOUND.items() if name != "all")}; with `"all"`,
  {100 * FOUND["all"]:.0f} %, because the whole text of {TOKENS["all"]:,} tokens is in the prompt
  (but so long a prompt cuts the next share to {100 * LONG:.0f} % of its value).
- *Read*: {", ".join(f"{model} {100 * share:.0f} %" for model, share in READS.items() if model != "qwen3-8b")}; qwen3-8b, fine-tuned,
  {100 * READS["qwen3-8b"]:.0f} %. Only the fine-tuned model needs no instructions.
- *Form*: {100 * FORM:.0f} %, with a schema {100 * FORM_WITH_SCHEMA:.0f} %.

A message has {TOKENS["message"]} tokens, an answer {TOKENS["answer"]}, the instructions {TOKENS["instructions"]}, a passage {TOKENS["passage"]}. Work costs ${WAGE} an hour: {HOURS["prompt"]} hours for any plan,
{HOURS["index"]} more for an index (not needed for `"all"`), {HOURS["tuning"]} more for tuning, with two passes over {EXAMPLES:,} examples. Spread the cost of work and training
over a year. Prices are those of `course_utils.costs`, per million tokens; a beginning that all prompts share is cached
if it has at least `costs.price_of(model).cache_from` tokens. Do the computing in another cell
(`from course_utils import costs`), and let `my_plan` return the plan you found.

Find the cheapest plan that meets the target. You get full marks within 5 % of the best price and half marks within 50 %.""",
        solution=my_plan,
        cases=lambda random: [()],
        points=4,
        mistakes=(
            Mistake(lambda: {"model": "claude-opus-5.5", "passages": 3, "schema": True}, TOO_LARGE_A_MODEL),
            Mistake(lambda: {"model": "gpt-6-luna", "passages": 3, "schema": True}, MISSES),
            Mistake(lambda: {"model": "qwen3-8b", "passages": 3, "schema": False}, NO_SCHEMA),
            Mistake(lambda: {"model": "qwen3-8b", "passages": 10, "schema": True}, TOO_MANY_PASSAGES),
        ),
        hint=(
            "First multiply the shares to see which pairs of model and passages reach the target with a schema. Then "
            "price only those."
        ),
        challenge=Challenge(
            _run_plan, bar=round(1.05 * cheapest(), 2), half=round(1.5 * cheapest(), 2), advise=_advise_plan, measure="dollars a day"
        ),
    ),
)  # fmt: skip
