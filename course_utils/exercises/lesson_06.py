"""Exercises of section 06, the hosted fine-tuning API."""

from __future__ import annotations

import base64

from course_utils.exercises.definitions import Exercise, Mistake

WAITING = ("validating_files", "queued", "running", "paused")


def polls_until_over(statuses):
    """How often must you ask until a job is over?

    Args:
        statuses: what a job's status was, poll after poll. It waits or works while it is "validating_files", "queued",
            "running" or "paused"; anything else is its end, also a word that you have never seen.

    Returns:
        (number of polls up to and with the first end, that status); (number of all polls, None) if it is not over.
    """
    ### BEGIN SOLUTION
    for number, status in enumerate(statuses, 1):
        if status not in ("validating_files", "queued", "running", "paused"):
            return number, status
    return len(statuses), None
    ### END SOLUTION


def _status_cases(random):
    ends = ["succeeded", "failed", "cancelled", "expired", "blocked_by_policy"]

    def work(paused):
        polls = [*["validating_files"] * int(random.integers(1, 5)), *["queued"] * int(random.integers(1, 9))]
        polls += ["running"] * int(random.integers(2, 60))
        if paused:
            polls.insert(int(random.integers(len(polls) // 2, len(polls))), "paused")
        return polls

    def after():  # statuses reported after the end
        return [ends[int(index)] for index in random.integers(len(ends), size=int(random.integers(1, 5)))]

    cases = [([*work(random.random() < 0.5), end, *after()],) for end in [*ends, "succeeded", "succeeded", *ends[1:]]]
    cases += [([*work(True), "succeeded"],), (work(False),), (work(True),)]
    word = "".join(random.choice(list("abcdefghij"), size=6))
    return [*cases, (["failed", *after()],), ([*work(False), f"ended_{word}", *after()],)]


def _polls(ends=None, waits=WAITING, first=1, on_none=None):
    def polls(statuses):
        for number, status in enumerate(statuses, first):
            if (status in ends) if ends else (status not in waits):
                return number, status
        return len(statuses), on_none(statuses) if on_none else None

    return polls


_only_success = _polls(ends=("succeeded",))
_known_ends = _polls(ends=("succeeded", "failed", "cancelled"))
_pause_ends = _polls(waits=("validating_files", "queued", "running"))
_from_zero = _polls(first=0)
_last_as_end = _polls(on_none=lambda statuses: statuses[-1])


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


def best_checkpoint(checkpoints):
    """Which checkpoint do you deploy?

    Args:
        checkpoints: dictionaries with "name", "step" and "train_loss", and most with "full_valid_loss": one that was not
            validated lacks it, or has None there.

    Returns:
        The name of the one with the lowest full validation loss, the earliest of equals; None if none was validated.
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
        data: bytes: the CSV itself, or base64 of it. It has a header with at least step, train_loss and valid_loss, in any
            order. valid_loss is empty where it was not measured; step and train_loss never are.

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


def model_parts(name):
    """What does a fine-tuned model's name say?

    Args:
        name: "ft:BASE:ORGANISATION:SUFFIX:ID", and for a checkpoint ":ckpt-step-N" after it. The suffix may be empty.

    Returns:
        (base, suffix, step): the suffix "" if there is none, the step an int, or None for the finished model.
    """
    ### BEGIN SOLUTION
    parts = name.split(":")
    step = int(parts[5].rpartition("-")[2]) if len(parts) > 5 else None
    return parts[1], parts[3], step
    ### END SOLUTION


def _name_cases(random):
    def letters():
        return "".join(random.choice(list("abcdefgh23456789"), size=8))

    base, suffix = "smollm2-135m-instruct", f"triage-{letters()}"
    return [
        (f"ft:{base}:local:{suffix}:{letters()}",),
        (f"ft:gpt-4.1-mini-2025-04-14:acme::{letters()}",),
        (f"ft:{base}:local:{suffix}:{letters()}:ckpt-step-{int(random.integers(10, 99_999))}",),
        (f"ft:{base}:local::{letters()}:ckpt-step-{int(random.integers(10, 99_999))}",),
    ]


def _empty_dropped(name):
    parts = [part for part in name.split(":") if part]
    checkpoint = parts[-1].startswith("ckpt")
    return parts[1], parts[3], int(parts[-1].rpartition("-")[2]) if checkpoint else None


def _step_as_text(name):
    parts = name.split(":")
    return parts[1], parts[3], parts[5].rpartition("-")[2] if len(parts) > 5 else None


def _from_the_end(name):
    parts = name.split(":")
    return parts[1], parts[-2], int(parts[5].rpartition("-")[2]) if len(parts) > 5 else None


def _organisation(name):
    parts = name.split(":")
    return parts[1], parts[2], int(parts[5].rpartition("-")[2]) if len(parts) > 5 else None


EXERCISES = (
    Exercise(
        id="api-1",
        title="Wait for a job",
        statement="The official client has no function that waits for a job. A loop that waits for `succeeded` waits for ever when the job fails, and hosts have ends of their own. Write the test that such a loop needs.",
        solution=polls_until_over,
        cases=_status_cases,
        points=2,
        objectives=(1,),
        mistakes=(
            Mistake(
                _only_success,
                "Only `succeeded` ends your loop: a job that fails or is cancelled would be waited for until the end of time.",
            ),
            Mistake(
                _known_ends,
                "An end that you don't know is an end too: list the states in which a job still waits or works, and stop at anything else.",
            ),
            Mistake(_pause_ends, "A paused job is not over; it goes on when it is resumed."),
            Mistake(_from_zero, "Polls are counted from 1: the first answer took one poll."),
            Mistake(_last_as_end, "While the job is not over there is no end to report: the second value is None then."),
        ),
        hint="Loop with `enumerate(statuses, 1)` and return as soon as a status is *not* one of the four.",
    ),
    Exercise(
        id="api-2",
        title="What a job costs",
        statement="Hosts charge for each token that is trained on.",
        solution=job_cost,
        cases=_cost_cases,
        points=1,
        objectives=(3,),
        mistakes=(
            Mistake(_once, "Every epoch is paid: the file's tokens count once for each pass."),
            Mistake(_validation_too, "Tokens of the validation file are free."),
            Mistake(_per_thousand, "The price is for a million tokens."),
            Mistake(_less_validation, "The two files are apart: nothing is taken off the training file."),
        ),
        hint="tokens trained on = tokens of the training file × epochs.",
    ),
    Exercise(
        id="api-3",
        title="Choose a checkpoint",
        statement="A job leaves its last three checkpoints, and each is a model. The last is not always the best.",
        solution=best_checkpoint,
        cases=_checkpoint_cases,
        points=2,
        objectives=(2,),
        mistakes=(
            Mistake(
                _newest,
                "You take the last one. After the validation loss has turned, more epochs no longer pay; the last one is not the one to take unseen.",
            ),
            Mistake(
                _lowest_training,
                "Training loss falls as long as you train; it does not say what the model does on messages it has not seen.",
            ),
            Mistake(_highest, "Of losses the lowest is the best."),
            Mistake(_missing_is_zero, "A loss that was not measured is not zero: leave such checkpoints out."),
            Mistake(
                _zero_is_missing,
                "A loss of 0.0 was measured, and is the lowest there is; only a missing one, or None, is left out.",
            ),
            Mistake(_latest_of_equals, "Of equals take the earliest: it has moved least from the base."),
        ),
        hint="Leave out what has no `full_valid_loss`, then `min(..., key=...)` with a pair of loss and step.",
    ),
    Exercise(
        id="api-4",
        title="Read a result file",
        statement="OpenAI's result files were base64 of the CSV, Azure's are the CSV itself, with other columns. Read both.",
        solution=result_rows,
        cases=_result_cases,
        points=2,
        objectives=(2,),
        mistakes=(
            Mistake(
                _never_decoded,
                "Some hosts send base64 of the CSV. A CSV with several columns has commas, base64 has none: that tells them apart.",
            ),
            Mistake(_empty_is_zero, "An empty valid_loss was not measured: None, not zero, which would be a perfect loss."),
            Mistake(_rows_dropped, "A step without a validation loss still has a training loss: keep its row."),
            Mistake(_columns_by_place, "Columns stand in another order with another host: find them by the header's names."),
        ),
        hint="`csv.DictReader` finds columns by name; `base64.b64decode` first if there is no comma in the bytes.",
    ),
    Exercise(
        id="api-5",
        title="Read a model's name",
        statement="The name of a fine-tuned model tells its base, who made it, and for checkpoints the step.",
        solution=model_parts,
        cases=_name_cases,
        points=1,
        objectives=(1,),
        mistakes=(
            Mistake(
                _empty_dropped,
                "An empty suffix still has its place between two colons: `split(':')` keeps it, and so must you.",
            ),
            Mistake(_step_as_text, "The step is a number: `int(...)`."),
            Mistake(
                _from_the_end,
                "A checkpoint's name has one part more, so places counted from the end move: count from the front.",
            ),
            Mistake(_organisation, "The third part is the organisation; the suffix is the fourth."),
        ),
        hint="`name.split(':')` gives five parts, or six for a checkpoint.",
    ),
)
