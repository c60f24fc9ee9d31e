"""Exercises of section 06, the hosted fine-tuning API."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from course_utils import costs
from course_utils.exercises.comparing import plain_number, short
from course_utils.exercises.definitions import Challenge, Exercise, Mistake


def new_messages(polls):
    """What happened in a job, in order, from many looks at its events?

    Args:
        polls: what each look gave, one after another: the newest events, newest first, as
            dictionaries with "id", "type" and "message". A look repeats much of what
            earlier ones gave, and leaves out what is too old for its page.

    Returns:
        The messages of all events in the order in which they happened, each event once,
        without those of type "metrics".
    """
    ### BEGIN SOLUTION
    seen, messages = set(), []
    for poll in polls:
        for event in reversed(poll):
            if event["id"] not in seen and event["type"] != "metrics":
                messages.append(event["message"])
            seen.add(event["id"])
    return messages
    ### END SOLUTION


def _poll_cases(random):
    def case(extra):
        happened = ["Created fine-tuning job", "Validating training file", "Files validated, moving job to queued state"]
        happened += ["Fine-tuning job started"]
        for step in range(1, int(random.integers(4, 9))):
            happened.append(f"Step {step}: training loss={random.random():.3f}")
            if random.random() < 0.4:
                happened.append(f"Checkpoint created at step {step}")
            if random.random() < 0.4:  # another event in the same words
                happened.append("The process of the job ended with signal 9; it will be started again")
        if happened.count(happened[-1]) < 2:
            happened += ["The process of the job ended with signal 9; it will be started again"] * 2
        happened += ["The job has successfully completed"] * extra
        letters = "".join(random.choice(list("abcdefgh"), size=4))
        order = [int(n) for n in random.permutation(900)[: len(happened)]]  # ids say nothing of the order
        events = [
            {"id": f"ftevent-{letters}{n}", "type": "metrics" if text.startswith("Step") else "message", "message": text}
            for n, text in zip(order, happened)
        ]
        polls, until, page = [], 1, int(random.integers(5, 8))
        while True:
            polls.append(events[max(0, until - page) : until][::-1])
            if until == len(events):
                break
            until = min(len(events), until + int(random.integers(0, 4)))
        return (polls,)

    return [*(case(n % 2) for n in range(7)), ([],)]


def _polled(key="id", metrics=False, oldest_first=True, repeat=False):
    def messages(polls):
        seen, collected = set(), []
        for poll in polls:
            for event in reversed(poll) if oldest_first else poll:
                if (repeat or event[key] not in seen) and (metrics or event["type"] != "metrics"):
                    collected.append(event["message"])
                seen.add(event[key])
        return collected

    return messages


_newest_event_first = _polled(oldest_first=False)
_events_repeated = _polled(repeat=True)
_by_words = _polled(key="message")
_metrics_too = _polled(metrics=True)


def _last_look_only(polls):
    return _polled()(polls[-1:])


def _turned_at_the_end(polls):
    return _newest_event_first(polls)[::-1]


def _sorted_by_id(polls):
    events = {event["id"]: event for poll in polls for event in poll if event["type"] != "metrics"}
    return [events[id]["message"] for id in sorted(events)]


def with_weights(messages, thumbs):
    """Mark which replies of a conversation the model should learn.

    Args:
        messages: list of dictionaries with "role" and "content"; messages itself is not
            changed.
        thumbs: number of a message in the list, counted from 0 → "up" or "down"; many
            messages have neither.

    Returns:
        A copy in which every assistant message has a "weight": 0 with a thumb down, else 1.
        Other messages have none. None if
        nothing would be left to learn: a host refuses such a row.
    """
    ### BEGIN SOLUTION
    weighted = []
    for number, message in enumerate(messages):
        message = dict(message)
        if message["role"] == "assistant":
            message["weight"] = 0 if thumbs.get(number) == "down" else 1
        weighted.append(message)
    return weighted if any(message.get("weight") for message in weighted) else None
    ### END SOLUTION


def _weight_cases(random):
    cases = []
    for kind in (0, 1, 2, 3) * 3:
        messages, thumbs = [{"role": "system", "content": "You help."}], {}
        for turn in range(int(random.integers(2, 4))):
            word = "".join(random.choice(list("abcdefgh"), size=5))
            messages += [{"role": "user", "content": f"{word}?"}, {"role": "assistant", "content": f"{word}!"}]
            number = len(messages) - 1
            if kind == 3 or (kind == 1 and turn == 0):
                thumbs[number] = "down"
            elif kind == 2 or random.random() < 0.3:
                thumbs[number] = "up" if random.random() < 0.5 else "down" if turn == 0 else "up"
            if random.random() < 0.4:
                thumbs[number - 1] = "down"  # somebody's thumb on the customer's own message
        if kind != 3 and all(thumbs.get(n) == "down" for n, m in enumerate(messages) if m["role"] == "assistant"):
            del thumbs[len(messages) - 1]
        if kind == 1:
            messages.append({"role": "user", "content": "thanks"})
        cases.append((messages, thumbs))
    return cases


def _weights(rule, roles=("assistant",), refuse=True, drop=False):
    def weigh(messages, thumbs):
        weighted = []
        for number, message in enumerate(messages):
            message = dict(message)
            if message["role"] in roles:
                weight = rule(thumbs.get(number))
                if drop and not weight:
                    continue
                if not drop:
                    message["weight"] = weight
            weighted.append(message)
        learned = any(m["role"] == "assistant" and m.get("weight", 1) for m in weighted)
        return weighted if learned or not refuse else None

    return weigh


_everybody_weighs = _weights(lambda thumb: int(thumb != "down"), roles=("assistant", "user"))
_only_liked = _weights(lambda thumb: int(thumb == "up"))
_dropped = _weights(lambda thumb: int(thumb != "down"), drop=True)
_never_none = _weights(lambda thumb: int(thumb != "down"), refuse=False)
_turned_weights = _weights(lambda thumb: int(thumb == "down"))


def _in_place(messages, thumbs):
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            message["weight"] = int(thumbs.get(number) != "down")
    return messages if any(message.get("weight") for message in messages) else None


def best_checkpoint(checkpoints):
    """Which checkpoint do you deploy?

    Args:
        checkpoints: dictionaries with "name", "step" and "train_loss", and most with
            "full_valid_loss": one that was not validated lacks it, or has None there.

    Returns:
        The name of the one with the lowest full validation loss, the earliest of equals;
        None if none was validated.
    """
    ### BEGIN SOLUTION
    validated = [c for c in checkpoints if c.get("full_valid_loss") is not None]
    if not validated:
        return None
    return min(validated, key=lambda c: (c["full_valid_loss"], c["step"]))["name"]
    ### END SOLUTION


def _checkpoint_cases(random):
    def case(losses):
        steps = [10 * (i + 1 + int(random.integers(3))) for i in range(0, 4 * len(losses), 4)]
        rows = []
        for step, loss in zip(steps, losses):
            row = {"name": f"ckpt-step-{step}-{int(random.integers(100, 999))}", "step": step}
            row["train_loss"] = 1 / step + 0.001 * float(random.random())
            if loss != "none":
                row["full_valid_loss"] = loss
            rows.append(row)
        return (rows[::-1],)  # newest first, as the API lists them

    def losses(lows, missing=(), last=False):
        """Losses of three to seven checkpoints; the lowest is not the last one, or with `last` it is."""
        low, number = 0.3 + 0.1 * float(random.random()), int(random.integers(3 + len(missing), 8))
        values = [low + 0.1 + 0.4 * float(random.random()) for _ in range(number)]
        indexes = [int(index) for index in random.permutation(number - 1)]
        for index in [number - 1] if last else indexes[:lows]:
            values[index] = low
        for index, missing_value in zip([*indexes[lows:-1], number - 1] if not last else indexes, missing):
            values[index] = missing_value
        return values

    cases = [case(losses(1)) for _ in range(3)] + [case(losses(2)) for _ in range(3)]
    cases += [case(losses(1, missing)) for missing in (("none",), (None,), ("none", None), (None, "none"))]
    cases += [case([*losses(1)[:-1], "none"]), case(losses(1, last=True)), case(losses(1, ("none",), last=True))]
    perfect = losses(1)  # a loss of 0 was measured
    perfect[perfect.index(min(perfect))] = 0.0
    return [*cases, case(perfect), case(["none", None])]


def _pick(key, keep=lambda c: c.get("full_valid_loss") is not None, lowest=True):
    def pick(checkpoints):
        candidates = [c for c in checkpoints if keep(c)]
        return (min if lowest else max)(candidates, key=key)["name"] if candidates else None

    return pick


_newest = _pick(lambda c: -c["step"])
_lowest_training = _pick(lambda c: c["train_loss"], keep=lambda c: True)
_highest = _pick(lambda c: (c["full_valid_loss"], -c["step"]), lowest=False)
_missing_is_zero = _pick(lambda c: (c.get("full_valid_loss") or 0, c["step"]), keep=lambda c: True)
_zero_is_missing = _pick(lambda c: (c["full_valid_loss"], c["step"]), keep=lambda c: c.get("full_valid_loss"))
_latest_of_equals = _pick(lambda c: (c["full_valid_loss"], -c["step"]))


def result_rows(data):
    """Read a result file, whichever host wrote it.

    Args:
        data: bytes: the CSV itself, or base64 of it. It has a header with at least step,
            train_loss and valid_loss, in any order. valid_loss is empty where it was not
            measured; step and train_loss never are.

    Returns:
        List of (step, train_loss, valid_loss) as int, float, and float or None.
    """
    ### BEGIN SOLUTION
    import csv
    import io
    from base64 import b64decode

    if b"," not in data:  # base64 has no commas
        data = b64decode(data)
    rows = csv.DictReader(io.StringIO(data.decode("utf-8")))
    return [
        (int(row["step"]), float(row["train_loss"]), float(row["valid_loss"]) if row["valid_loss"] else None) for row in rows
    ]
    ### END SOLUTION


def _result_cases(random):
    cases = []
    for coded in (True, False):
        for columns in (("step", "train_loss", "train_accuracy", "valid_loss"), ("valid_loss", "step", "train_loss")):
            lines = [",".join(columns)]
            for step in range(1, int(random.integers(4, 7))):
                row = {"step": step, "train_loss": f"{2 / step + random.random():.5f}", "train_accuracy": "0.5"}
                row["valid_loss"] = f"{2 / step:.5f}" if step % 2 == 0 else ""
                lines.append(",".join(str(row[name]) for name in columns))
            data = ("\n".join(lines) + "\n").encode()
            cases.append((base64.b64encode(data) if coded else data,))
    return cases


def _read(decode=True, empty=None, skip=False, by_position=False):
    def read(data):
        import csv
        import io

        if decode and b"," not in data:
            data = base64.b64decode(data)
        lines = list(csv.reader(io.StringIO(data.decode())))
        header = lines[0] if not by_position else ["step", "train_loss", "train_accuracy", "valid_loss"][: len(lines[0])]
        rows = [dict(zip(header, line)) for line in lines[1:]]
        result = []
        for row in rows:
            text = row.get("valid_loss", "")
            if text == "" and skip:
                continue
            train = row["train_loss"]
            result.append((int(row["step"]), float(train) if train else empty, float(text) if text else empty))
        return result

    return read


_never_decoded = _read(decode=False)
_empty_is_zero = _read(empty=0.0)
_rows_dropped = _read(skip=True)
_columns_by_place = _read(by_position=True)


def preference_rows(logs):
    """Pairs for DPO from what people preferred.

    Args:
        logs: dictionaries with "messages" (the conversation up to the customer's message)
            and "shown": at least two dictionaries with "text" and "votes".

    Returns:
        For each log whose most and least voted answers differ in votes, a row as the API
        takes it: "input" with its "messages", "preferred_output" and
        "non_preferred_output", each a list of one assistant message.
    """

    ### BEGIN SOLUTION
    def output(answer):
        return [{"role": "assistant", "content": answer["text"]}]

    pairs = []
    for entry in logs:
        best = max(entry["shown"], key=lambda answer: answer["votes"])
        worst = min(entry["shown"], key=lambda answer: answer["votes"])
        if best["votes"] > worst["votes"]:
            outputs = {"preferred_output": output(best), "non_preferred_output": output(worst)}
            pairs.append({"input": {"messages": entry["messages"]}, **outputs})
    return pairs
    ### END SOLUTION


def _log_cases(random):
    def log(tie):
        word = "".join(random.choice(list("abcdefgh"), size=6))
        votes = [int(v) for v in random.permutation(9)[: int(random.integers(2, 5))]]
        if tie:
            votes = [votes[0]] * len(votes)
        shown = [{"text": f"{word} {n}", "votes": v} for n, v in enumerate(votes)]
        return {"messages": [{"role": "user", "content": word}], "shown": shown}

    return [([log(n == place) for n in range(int(random.integers(3, 6)))],) for place in (0, 1, 2, 0, 1, 2)]


def _paired(best=max, worst=min, ties=False, wrap=True, lists=True):
    def rows(logs):
        pairs = []
        for log in logs:
            a = best(log["shown"], key=lambda answer: answer["votes"])
            b = worst(log["shown"], key=lambda answer: answer["votes"])
            if not ties and a["votes"] == b["votes"]:
                continue
            outputs = [{"role": "assistant", "content": answer["text"]} for answer in (a, b)]
            preferred, other = ([output] if lists else output for output in outputs)
            messages = {"messages": log["messages"]} if wrap else log["messages"]
            pairs.append({"input": messages, "preferred_output": preferred, "non_preferred_output": other})
        return pairs

    return rows


def _sorted_last(answers, key):
    return sorted(answers, key=key)[-1]


_as_found = _paired(best=min, worst=_sorted_last, ties=True, wrap=False, lists=False)
_turned_round = _paired(best=min, worst=max)
_ties_kept = _paired(ties=True)
_input_bare = _paired(wrap=False)
_outputs_bare = _paired(lists=False)


def grade(sample, item):
    """The reward of an answer, as a Python grader of the API computes it.

    Args:
        sample: {"output_text": the model's answer}.
        item: {"reference": {"category": ..., "escalation": ...}}, the right record.

    Returns:
        0.0 unless the whole answer is one JSON object with exactly these two fields.
        Otherwise 0.2 for the form, 0.5 more for the right category and 0.3 more for the
        right escalation.
    """
    ### BEGIN SOLUTION
    import json

    try:
        record = json.loads(sample["output_text"])
    except ValueError:
        return 0.0
    right = item["reference"]
    if not isinstance(record, dict) or record.keys() != right.keys():
        return 0.0
    return 0.2 + 0.5 * (record["category"] == right["category"]) + 0.3 * (record["escalation"] == right["escalation"])
    ### END SOLUTION


CATEGORIES = ("delivery", "billing", "returns", "defect", "account", "question")
ESCALATIONS = ("none", "danger", "misuse", "money", "legal", "deadline")


def _grade_cases(random):
    import json

    def draw(values, but=None):
        return str(random.choice([value for value in values if value != but]))

    cases = []
    forms = ("plain", "fenced", "extra", "missing", "list", "prose", "capital", "number")
    for same_category, same_escalation, form in [
        *((c, e, "plain") for c in (0, 1) for e in (0, 1) for _ in range(4)),
        *((1, 1, form) for form in forms[1:]),
        (1, 0, "capital"), (0, 1, "extra"),
    ]:  # fmt: skip
        right = {"category": draw(CATEGORIES), "escalation": draw(ESCALATIONS)}
        record: dict[str, Any] = {
            "category": right["category"] if same_category else draw(CATEGORIES, right["category"]),
            "escalation": right["escalation"] if same_escalation else draw(ESCALATIONS, right["escalation"]),
        }
        if form == "extra":
            record["summary"] = "sure"
        elif form == "missing":
            del record["escalation"]
        elif form == "capital":
            record["category"] = record["category"].capitalize()
        elif form == "number":
            record["escalation"] = int(random.integers(9))
        text = json.dumps([record] if form == "list" else record, indent=int(random.integers(3)) or None)
        text = f"```json\n{text}\n```" if form == "fenced" else f"Here you are: {text}" if form == "prose" else text
        cases.append(({"output_text": text}, {"reference": right}))
    return cases


def _graded(parse=None, keys=lambda record, right: record.keys() == right.keys(), form=0.2, category=0.5, escalation=0.3,
            same=lambda a, b: a == b):  # fmt: skip
    def reward(sample, item):
        import json

        try:
            record = (parse or json.loads)(sample["output_text"])
        except ValueError:
            return 0.0
        right = item["reference"]
        if not isinstance(record, dict) or not keys(record, right):
            return 0.0
        return (
            form
            + category * same(record.get("category"), right["category"])
            + escalation * same(record.get("escalation"), right["escalation"])
        )

    return reward


def _object_in(text):
    import json

    return json.loads(text[text.index("{") : text.rindex("}") + 1])


_found_in_prose = _graded(parse=_object_in)
_more_fields = _graded(keys=lambda record, right: record.keys() >= right.keys())
_any_fields = _graded(keys=lambda record, right: True)
_form_is_all = _graded(form=1.0, category=0.0, escalation=0.0)
_no_form = _graded(form=0.0)
_turned_shares = _graded(category=0.3, escalation=0.5)
_case_forgiven = _graded(same=lambda a, b: str(a).lower() == str(b).lower())


def job_cost(train_tokens, validation_tokens, epochs, price):
    """What does a job cost?

    Args:
        train_tokens, validation_tokens: tokens of the two files.
        epochs: passes over the training file.
        price: US dollars for a million tokens trained on; validation is free.

    Returns:
        US dollars.
    """
    ### BEGIN SOLUTION
    return train_tokens * epochs * price / 1e6
    ### END SOLUTION


def _cost_cases(random):
    return [
        (int(random.integers(10_000, 900_000)), int(random.integers(1000, 90_000)), int(random.integers(2, 9)), float(price))
        for price in (3.0, 5.0, 25.0)
    ]


def _once(train, validation, epochs, price):
    return train * price / 1e6


def _validation_too(train, validation, epochs, price):
    return (train + validation) * epochs * price / 1e6


def _per_thousand(train, validation, epochs, price):
    return train * epochs * price / 1e3


def _less_validation(train, validation, epochs, price):
    return (train - validation) * epochs * price / 1e6


def requests_until_paid(training, short, long, answer, tuned, untuned):
    """After how many requests has a fine-tuned model paid for its training?

    Args:
        training: dollars for the training job.
        short, long: tokens of a prompt for the tuned and the untuned model.
        answer: tokens of an answer, the same for both.
        tuned, untuned: prices of the two, each (input, output) in dollars per million
            tokens.

    Returns:
        The smallest whole number of requests after which training and answers of the tuned
        model have cost less than the answers of the untuned one; None if that never
        happens. An int.
    """
    ### BEGIN SOLUTION
    import math

    prompted = (long * untuned[0] + answer * untuned[1]) / 1e6
    tuned_request = (short * tuned[0] + answer * tuned[1]) / 1e6
    if tuned_request >= prompted:
        return None
    return math.floor(training / (prompted - tuned_request)) + 1
    ### END SOLUTION


def _paid_cases(random):
    cases = []
    while len(cases) < 13:
        short, answer = int(random.integers(30, 120)), int(random.integers(10, 90))
        untuned = (round(float(random.uniform(0.1, 0.6)), 2), round(float(random.uniform(0.8, 2.5)), 2))
        tuned = (round(2 * untuned[0], 2), round(2 * untuned[1], 2))
        long = int(random.integers(200, 3000))
        saved = (long * untuned[0] + answer * untuned[1] - short * tuned[0] - answer * tuned[1]) / 1e6
        training = round(float(random.uniform(0.2, 9)), 3)
        apart = [abs(training / saved - f) for f in (round(training / saved),)] if saved > 0 else [1.0]
        if (saved < -5e-6 or saved > 2e-5) and min(apart) > 1e-3 and (saved > 0 or sum(c[2] < 400 for c in cases) < 2):
            cases.append((training, short, long, answer, tuned, untuned))
    # Long answers at the tuned price: no prompt that is saved makes up for them. And two requests that cost the same.
    short, answer = int(random.integers(30, 120)), int(random.integers(10, 60))
    even = (round(float(random.uniform(1, 3)), 2), short, 2 * short + 4 * answer, answer, (1.0, 4.0), (0.5, 2.0))
    tie = (2.0, 60, 360, 10, (1.0, 4.0), (0.5, 2.0))  # after 20,000 requests both have cost the same, and not less
    return [*cases, tie, (1.5, 60, int(random.integers(300, 400)), 400, (0.8, 3.2), (0.4, 1.6)), even]


def _paid(scale=1e6, answers=True, own_prices=True, never=True, training=True, add=1):
    def requests(cost, short, long, answer, tuned, untuned):
        import math

        answer = answer if answers else 0
        price = untuned if own_prices else tuned
        saved = (long * price[0] + answer * price[1] - short * tuned[0] - answer * tuned[1]) / scale
        if saved <= 0:
            return None if never else math.floor((cost if training else 0) / saved if saved else 0) + add
        return math.floor((cost if training else 0) / saved) + add

    return requests


_per_thousand_tokens = _paid(scale=1e3)
_answers_left_out = _paid(answers=False)
_one_price = _paid(own_prices=False)
_below_zero = _paid(never=False)
_training_free = _paid(training=False)
_rounded_down = _paid(add=0)


def _less_or_as_much(cost, short, long, answer, tuned, untuned):
    import math

    saved = (long * untuned[0] + answer * untuned[1] - short * tuned[0] - answer * tuned[1]) / 1e6
    return math.ceil(cost / saved) if saved > 0 else None


# Wrong categories on 608 messages, measured 2026-11-27. One row per message, the form that was left open out of the way, all
# 400 of them: 0.25 with 9 passes, 0.28 with 5. Everything as it came: 0.52 with 5 passes.
CHALLENGE_BAR, CHALLENGE_HALF = 0.27, 0.36
JOBS, BUDGET, FIRST, LAST = 12, 1.0, "2027-01-01", "2027-12-01"
LEFT_OPEN = '{"category": "question", "escalation": "none"}'


def twelve_jobs(rows, prices):
    """Which model, which rows and how many passes do you take for twelve jobs that cost one
    dollar together?

    Args:
        rows: list of (message, answer, tokens): both texts, and the tokens that the host
            counts for the row.
        prices: model → {"training": dollars per million tokens, "no new jobs from": a date
            such as "2027-01-06", or None}.

    Returns:
        (name of the model, epochs, list of row numbers), for a job like this on the first
        day of each month of 2027. Epochs are a whole number from 1 to 50.
    """
    ### BEGIN SOLUTION
    left_open = '{"category": "question", "escalation": "none"}'
    chosen = {}
    for number, (message, *_) in enumerate(rows):
        if message not in chosen or rows[chosen[message]][1] == left_open:
            chosen[message] = number
    lasting = [name for name in prices if not prices[name]["no new jobs from"]]
    model = min(lasting, key=lambda name: prices[name]["training"])
    tokens = sum(rows[number][2] for number in chosen.values())
    epochs = int(1.0 / (12 * tokens * prices[model]["training"] / 1e6))
    return model, min(50, epochs), sorted(chosen.values())
    ### END SOLUTION


@cache
def _dollar_rows() -> tuple[tuple[str, str, int], ...]:
    """400 messages; 160 of them once more with the form left open, 140 once more as they are; in random order."""
    import numpy as np

    from course_utils.data_prep import load_task

    random = np.random.default_rng(6)
    good = [(c[1]["content"], c[2]["content"]) for c in load_task("support_tickets", ["category", "escalation"]).train[:400]]
    filled = [i for i, (_, answer) in enumerate(good) if answer != LEFT_OPEN]
    rows = [*good, *((good[i][0], LEFT_OPEN) for i in random.permutation(filled)[:160])]
    rows += [good[i] for i in random.permutation(len(good))[:140]]
    # Tokens as a host would count them, estimated: characters by 4.3, and 22 for the instruction, the answer and the roles.
    return tuple((*rows[i], round(len(rows[i][0]) / 4.3) + 22) for i in random.permutation(len(rows)))


def _dollar_prices() -> dict[str, dict[str, Any]]:
    closes = {name: everybody.isoformat() for name, (everybody, _) in costs.NO_NEW_JOBS.items()}
    return {name: {"training": price.training, "no new jobs from": closes.get(name)} for name, price in costs.PRICES.items()}


def _run_dollar(value: Any) -> float:
    """Share of wrong categories of a small classifier after such a job; ValueError says what is wrong with the plan."""
    rows, prices = _dollar_rows(), _dollar_prices()
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise ValueError("Return three things: the model's name, the number of epochs, and a list of row numbers.")
    model, epochs, numbers = value[0], plain_number(value[1]), value[2]
    numbers = numbers.tolist() if hasattr(numbers, "tolist") else numbers  # an array, as NumPy, PyTorch or pandas have it
    epochs = int(epochs) if isinstance(epochs, float) and epochs.is_integer() else epochs
    if model not in prices:
        raise ValueError(f"The model must be one of {', '.join(prices)}; found {short(model)[:40]}.")
    closes = prices[str(model)]["no new jobs from"]
    if closes and closes <= LAST:
        raise ValueError(f"{model} takes no new jobs from {closes} on, and the last of your jobs is on {LAST}.")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or not 1 <= epochs <= 50:
        raise ValueError(f"Epochs are a whole number from 1 to 50; found {short(epochs)[:40]}.")
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        raise ValueError("The rows are a list of numbers.")
    chosen = [plain_number(number) for number in numbers]
    for number in chosen:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(rows):
            raise ValueError(f"Row numbers go from 0 to {len(rows) - 1}; found {short(number)[:40]}.")
    if len(set(chosen)) != len(chosen):
        raise ValueError("A row number occurs twice.")
    if len(chosen) < 10:
        raise ValueError(f"A job takes at least 10 rows; you chose {len(chosen)}.")
    dollars = JOBS * sum(rows[n][2] for n in chosen) * epochs * prices[str(model)]["training"] / 1e6
    if dollars > BUDGET:
        raise ValueError(f"Twelve such jobs cost ${dollars:.2f}; you have ${BUDGET:.2f}.")
    return _wrong_after(tuple(chosen), epochs)


@cache
def _wrong_after(chosen: tuple[int, ...], epochs: int) -> float:
    import json

    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    from course_utils.data_prep import load_task

    def category(answer: str) -> str:
        return str(json.loads(answer)["category"])

    task, rows = load_task("support_tickets", ["category", "escalation"]), _dollar_rows()
    held_out = [*task.validation, *task.test, *task.train[400:]]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    texts = words.fit_transform([rows[n][0] for n in chosen])
    labels = np.array([category(rows[n][1]) for n in chosen])
    model = SGDClassifier(loss="log_loss", alpha=1e-5, learning_rate="constant", eta0=0.5, random_state=0)
    random = np.random.default_rng(0)
    for _ in range(epochs):
        order = random.permutation(len(labels))
        model.partial_fit(texts[order], labels[order], classes=np.array(sorted(CATEGORIES)))
    predicted = model.predict(words.transform([conversation[1]["content"] for conversation in held_out]))
    return float(np.mean(predicted != np.array([category(conversation[2]["content"]) for conversation in held_out])))


PAID_TWICE = "Some messages are in your rows more than once. You pay for each copy in every epoch and every job."
LEFT_OPEN_ROWS = (
    "Some messages are in your rows with the form left open, although another row has it filled in. The model learns both."
)
TOO_FEW_ROWS = "You train on few rows. A row seen often does not replace a different one."
MONEY_LEFT = "You have money left. More passes over these rows, or more rows, would use it."
MISSING_CATEGORY = (
    "At least one category has no row among yours, so no answer with it can be right: count your rows of each."
)
OTHER_ROWS = "The dollar is spent. Other rows, or fewer passes over more of them, would teach more for it."


def _advise_dollar(value: Any, result: float) -> str:
    """What is typically wrong with a plan that misses the bar."""
    rows = _dollar_rows()
    messages = [rows[int(n)][0] for n in value[2]]
    answers: dict[str, set[str]] = {}
    for message, answer, _ in rows:
        answers.setdefault(message, set()).add(answer)
    if any(rows[int(n)][1] == LEFT_OPEN and len(answers[rows[int(n)][0]]) > 1 for n in value[2]):
        return LEFT_OPEN_ROWS
    if len(set(messages)) < len(messages):
        return PAID_TWICE
    if len({json.loads(rows[int(n)][1])["category"] for n in value[2]}) < len(CATEGORIES):
        return MISSING_CATEGORY
    if len(messages) < 300:
        return TOO_FEW_ROWS
    one_pass = JOBS * sum(rows[int(n)][2] for n in value[2]) * _dollar_prices()[value[0]]["training"] / 1e6
    return MONEY_LEFT if one_pass * (int(value[1]) + 1) <= BUDGET else OTHER_ROWS


def _last_model(prices: Mapping[str, Any]) -> str:
    return next(name for name in prices if not prices[name]["no new jobs from"])


def _as_it_came(rows, prices):
    return _last_model(prices), 4, list(range(len(rows)))


def _well_known_model(rows, prices):
    return "gpt-4.1-mini", 3, list(range(100))


def _without_left_open(rows, prices):
    answers: dict[str, set[str]] = {}
    for message, answer, _ in rows:
        answers.setdefault(message, set()).add(answer)
    chosen = [n for n, (message, answer, _) in enumerate(rows) if answer != LEFT_OPEN or len(answers[message]) == 1]
    return _last_model(prices), 4, chosen


def _one_pass(rows, prices):
    return _last_model(prices), 1, twelve_jobs(rows, prices)[2]


def _shortest_hundred(rows, prices):
    numbers = sorted(twelve_jobs(rows, prices)[2], key=lambda n: rows[n][2])[:100]
    return _last_model(prices), 40, numbers


EXERCISES = (
    Exercise(
        id="api-1",
        title="What has happened?",
        statement="`list_events` gives the newest events first, and a page of them at a time. Somebody looked every few seconds and kept what came. Put the job's messages together: in order, each event once.",
        solution=new_messages,
        cases=_poll_cases,
        points=3,
        mistakes=(
            Mistake(_newest_event_first, "Within a look the newest event comes first; what happened first has to be written first."),
            Mistake(_events_repeated, "Looks overlap: remember which events you have written already."),
            Mistake(_by_words, "Two different events can say the same. What tells them apart is their id."),
            Mistake(_metrics_too, "Events of type \"metrics\" are the curve; asked for are the others."),
            Mistake(_last_look_only, "The last look has only the newest events; older ones have fallen off its page."),
            Mistake(_turned_at_the_end, "Turning the whole list at the end mixes the looks up: turn each look, and keep their order."),
            Mistake(_sorted_by_id, "Ids are random letters and say nothing about the order."),
        ),
        hint="A set of ids you have seen; within each look, go from its end to its beginning.",
    ),
    Exercise(
        id="api-2",
        title="Learn this reply, not that one",
        statement="Customers gave thumbs to the replies in a long chat. Make a training row of it with `weight`: the model reads every message, and learns only the replies nobody disliked.",
        solution=with_weights,
        cases=_weight_cases,
        points=3,
        keeps=("messages",),
        mistakes=(
            Mistake(_everybody_weighs, "Only assistant messages take a weight. A host refuses the row that has one elsewhere."),
            Mistake(_only_liked, "A reply without a thumb is learned too; only a thumb down takes it out."),
            Mistake(_dropped, "The disliked reply has to stay: the customer's next message answers it. Weight 0 keeps it in the text and out of the loss."),
            Mistake(_never_none, "Where every reply has a thumb down, nothing is left to learn, and a host refuses the row. Return None."),
            Mistake(_turned_weights, "0 is for what should not be learned; yours is the other way round."),
            Mistake(_in_place, "Your function changes the messages that it was given. Copy each of them first."),
        ),
        hint="Go through the messages with their numbers, and copy each before you touch it. At the end ask whether any weight is 1.",
    ),
    Exercise(
        id="api-3",
        title="Choose a checkpoint",
        statement="A job keeps its last three checkpoints, and each is a model. Nobody has scored their answers yet, so the validation loss has to decide.",
        solution=best_checkpoint,
        cases=_checkpoint_cases,
        points=3,
        mistakes=(
            Mistake(_newest, "You take the last one. After the validation loss has turned, more epochs no longer pay; the last one is not the one to take unseen."),
            Mistake(_lowest_training, "Training loss falls as long as you train; it does not say what the model does on messages that it has not seen."),
            Mistake(_highest, "The lower a loss, the better."),
            Mistake(_missing_is_zero, "A loss that was not measured is not zero: leave such checkpoints out."),
            Mistake(_zero_is_missing, "A loss of 0.0 was measured, and is the lowest there is; only a missing one, or None, is left out."),
            Mistake(_latest_of_equals, "Of equal losses the earliest counts: it has moved least from the base."),
        ),
        hint="Two steps: which of them were measured at all? And among those, which is the smallest pair of loss and step?",
    ),
    Exercise(
        id="api-4",
        title="Read a result file",
        statement="The result file above had been decoded for you. OpenAI's were base64 of a CSV file, Azure's are the CSV itself, with other columns. Read both.",
        solution=result_rows,
        cases=_result_cases,
        points=3,
        mistakes=(
            Mistake(_never_decoded, "Some hosts send base64 of the CSV. A CSV with several columns has commas, and base64 has none: that tells them apart."),
            Mistake(_empty_is_zero, "An empty valid_loss was not measured: None, not zero, which would be a perfect loss."),
            Mistake(_rows_dropped, "A step without a validation loss still has a training loss: keep its row."),
            Mistake(_columns_by_place, "Another host has its columns in another order: find them by the names in the header."),
        ),
        hint="Look for a comma in the bytes. Then let the csv module find columns by the names in the first line.",
    ),
    Exercise(
        id="api-5",
        title="Bugs in a pair maker",
        statement="""Somebody turned the votes of ten colleagues into pairs for DPO. The job fails at once. Once it no longer fails, it trains on the wrong thing. There are **four** bugs. Write it right.

```python
def preference_rows(logs):
    rows = []
    for log in logs:
        ranked = sorted(log["shown"], key=lambda answer: answer["votes"])
        rows.append({
            "input": log["messages"],
            "preferred_output": {"role": "assistant", "content": ranked[0]["text"]},
            "non_preferred_output": {"role": "assistant", "content": ranked[-1]["text"]},
        })
    return rows
```""",
        solution=preference_rows,
        cases=_log_cases,
        points=4,
        mistakes=(
            Mistake(_as_found, "These are the rows of the function as it was given; nothing is repaired yet."),
            Mistake(_turned_round, "Sorted by votes, the first has the fewest: your model would learn to prefer what people disliked. Nothing fails, and the loss falls."),
            Mistake(_ties_kept, "Where the best and the worst have as many votes, nobody preferred anything. Leave the log out."),
            Mistake(_input_bare, "`input` is an object: its messages are under \"messages\", so that tools can stand beside them."),
            Mistake(_outputs_bare, "Both outputs are lists, of one assistant message each."),
        ),
        hint="Compare with the row shown above, bracket by bracket. Then ask which end of a sorted list has the most votes, and what a tie means.",
    ),
    Exercise(
        id="api-6",
        title="A grader that looks at the content, not the form",
        statement="Write the body of a Python grader, as you would send it in `source`. It should pay a little for the form, most for the content, and nothing for text around the record.",
        solution=grade,
        cases=_grade_cases,
        points=4,
        tolerance=1e-9,
        mistakes=(
            Mistake(_found_in_prose, "You look for the object inside other text. A program that reads the answer could not use it, so it earns nothing."),
            Mistake(_more_fields, "A record with a field too many earns nothing: exactly these two."),
            Mistake(_any_fields, "A record that lacks a field, or has another one, earns nothing."),
            Mistake(_form_is_all, "You pay in full for the form. Reinforcement would find the one record that is always valid, and never read a message again."),
            Mistake(_no_form, "The form alone earns 0.2, also where both fields are wrong: early in training it is all there is to climb."),
            Mistake(_turned_shares, "The category earns 0.5 and the escalation 0.3."),
            Mistake(_case_forgiven, "\"Delivery\" is not among the values that the program behind knows: compare letter by letter."),
        ),
        hint="Parse the whole text in a try. Check that it is a dictionary and has the same keys as the reference. Then add up.",
    ),
    Exercise(
        id="api-7",
        title="What a job costs",
        statement="A host has the two files, and its price list says what a million trained tokens cost. What will be on the bill?",
        solution=job_cost,
        cases=_cost_cases,
        points=1,
        mistakes=(
            Mistake(_once, "Every epoch is paid: the file's tokens count once for each pass."),
            Mistake(_validation_too, "Tokens of the validation file are free."),
            Mistake(_per_thousand, "The price is for a million tokens."),
            Mistake(_less_validation, "The two files are apart: nothing is taken off the training file."),
        ),
        hint="How many tokens does the job train on altogether?",
    ),
    Exercise(
        id="api-8",
        title="Paid for",
        statement="The figure compares single requests. Now count the training in: from which request on has the tuned model cost less altogether?",
        solution=requests_until_paid,
        cases=_paid_cases,
        points=3,
        whole=True,
        mistakes=(
            Mistake(_per_thousand_tokens, "Prices are for a million tokens."),
            Mistake(_answers_left_out, "The tuned model's answers cost more too: count the tokens of the answer with each one's own price."),
            Mistake(_one_price, "You take one model's prices for both. That comparison is the usual mistake of this sum."),
            Mistake(_below_zero, "Where a request saves nothing, no number of them pays for the training: None."),
            Mistake(_training_free, "The training has to be earned back first."),
            Mistake(_rounded_down, "After that many requests the two have not yet crossed; it takes one more."),
            Mistake(_less_or_as_much, "Where the division comes out even, both have cost the same after that many requests; asked for is when it is less."),
        ),
        hint="What does one request save? Training divided by that is where the two lines meet; the answer is the next whole number.",
    ),
    Exercise(
        id="api-9",
        title="Challenge: one dollar for a year",
        statement=f"""You may spend **one dollar** on twelve training jobs in 2027, one on the first day of each month. Choose the model, the number of epochs and the rows. The marker adds up your cost with the prices of this lesson and refuses what is over a dollar, or what a host does not take. Then it trains a small classifier on your rows, with as many passes as you chose. The classifier stands in for the hosted model and is the same whichever you choose, so the model decides the price and not the skill.

Your mark depends on the share of wrong categories on 608 messages that are not among the rows: at most {100 * CHALLENGE_BAR:.0f} % earns all points, at most {100 * CHALLENGE_HALF:.0f} % half of them. Taking everything as it came, with as many passes as a dollar buys, leaves more than half of them wrong. Read the rows first, for instance with `print(rows[:20])` in the function while you write it: they are not clean.""",
        solution=twelve_jobs,
        cases=lambda random: [([list(row) for row in _dollar_rows()], _dollar_prices())],
        needs=("numpy", "sklearn"),
        points=5,
        mistakes=(
            Mistake(_well_known_model, "gpt-4.1-mini takes no new jobs from 2027-01-06 on, and the last of your jobs is on 2027-12-01."),
            Mistake(_as_it_came, LEFT_OPEN_ROWS),
            Mistake(_without_left_open, PAID_TWICE),
            Mistake(_one_pass, MONEY_LEFT),
            Mistake(_shortest_hundred, TOO_FEW_ROWS),
        ),
        hint="First the model: which of them takes a job in December? Then one row per message, and of two answers to a message the one that somebody filled in. The rest of the dollar goes into passes.",
        challenge=Challenge(_run_dollar, bar=CHALLENGE_BAR, half=CHALLENGE_HALF, advise=_advise_dollar, measure="share of wrong categories"),
    ),
)  # fmt: skip
