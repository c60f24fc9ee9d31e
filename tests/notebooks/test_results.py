"""The stored outputs of the six notebooks say what the course promises of them.

`course build` executes a source with the package as it is and stores what it prints, so a change of code shows here after
the next build. Each test says which change it would notice then.
"""

import re
from functools import cache

import nbformat
import pytest
from support import table_rows

from course_utils import costs, lessons


@cache
def notebook(lesson):
    return nbformat.read(lessons.learner_file(lessons.LESSONS[lesson].name), as_version=4)


def shown_by(cell):
    outputs = cell.get("outputs", [])
    texts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(map("".join, texts))


@cache
def printed(lesson):
    """What the notebook's cells printed or showed, as text."""
    return "\n".join(shown_by(cell) for cell in notebook(lesson).cells)


def revealed(lesson, code):
    """The measured value that a prediction was compared with."""
    cell = next(cell for cell in notebook(lesson).cells if cell.cell_type == "code" and code in cell.source)
    return float(re.search(r"easured: ([\d.,]+)", shown_by(cell))[1].replace(",", ""))


def rows(lesson, start):
    return table_rows(printed(lesson), start)


def number(cell):
    """19 of "19", 54 of "54 % (44-63)"."""
    return float(cell.split()[0].replace(",", ""))


@pytest.mark.parametrize(("lesson", "minutes"), {"01": 4, "02": 6, "03": 6, "04": 8, "05": 3, "06": 5}.items())
def test_it_runs_in_minutes_on_two_cores(lesson, minutes):
    """Notices what makes a lesson slow. The seconds are the build's."""
    assert notebook(lesson).metadata.course["seconds"] <= 60 * minutes


# -- 01 ---------------------------------------------------------------------------------------------------------------------


def test_live_training_teaches_reading_and_no_facts():
    """Notices data or a training that teach to recite instead of to read, or not to read at all."""
    assert revealed("01", "guess.reveal(round(100 * np.mean(facts_right)))") <= 10
    shares = {
        way: int(value)
        for way, value in re.findall(r"^(fine-tuned, a passage|a passage \(RAG\)) +(\d+) \(", printed("01"), re.M)
    }
    assert shares["fine-tuned, a passage"] >= shares["a passage (RAG)"] + 25


def test_a_schema_gives_the_form():
    """Notices a constrained decoding that lets something out which begins as no record."""
    constrained = re.findall(r"^with the schema  (.)", printed("01"), re.M)
    assert len(constrained) == 2 and set(constrained) == {"{"}


def test_every_price_is_shown_with_its_date_and_source():
    """Notices a price that was changed or dated anew without a build."""
    shown = {
        name for name in costs.PRICES | costs.FRONTIER if re.search(rf"^{re.escape(name)} .*20\d\d-", printed("01"), re.M)
    }
    assert {"gpt-6.2-sol", "claude-sonnet-5.5", "qwen3-8b"} <= shown
    for name in shown:
        price = costs.price_of(name)
        found = re.search(rf"^{re.escape(name)} .*{price.date}", printed("01"), re.M)
        assert found, f"{name}: run `course build 01 --rerun`"


# -- 02 ---------------------------------------------------------------------------------------------------------------------


def test_format_is_learned_from_nothing():
    """Notices a training after which the answers no longer keep the form."""
    first = re.findall(r"^your model +(\d+)", printed("02"), re.M)  # a wide table goes on in a second block
    on_validation, on_test = int(first[0]), int(first[-1])
    assert min(on_validation, on_test) >= 80


def test_the_loss_by_hand_is_the_librarys():
    """Notices a label mask, or a shift by one position, of the lesson's that differs from the library's."""
    by_hand, library = re.search(r"mean ([\d.]+); by transformers ([\d.]+)", printed("02")).groups()
    assert by_hand == library


def test_one_weight_moves_against_its_gradient():
    """Notices a step that is not Adam's, or a gradient that is none."""
    found = re.search(r"before (\S+), gradient (\S+), after (\S+)", printed("02"))
    before, gradient, after = map(float, found.groups())
    assert gradient != 0 and (after - before) * gradient < 0
    assert abs(after - before) == pytest.approx(3e-4, rel=0.1)


def test_the_rate_has_a_best_place():
    """Notices a loop over rates in which nothing is decided: its lowest loss lies at an end."""
    losses = re.search(r"twelve steps from a fresh adapter: (.*)\.$", printed("02"), re.M)[1]
    values = [float(part.split(" at ")[0]) for part in losses.split(", ")]
    assert min(values) == values[2] < 0.5 * values[0]


def test_what_overfits_is_seen_to_overfit():
    """Notices a run of eight examples whose validation loss does not turn up: then the section shows nothing."""
    pattern = r"validation loss lowest at step \d+ with (\d+\.\d+), at the end (\d+\.\d+)"
    lowest, last = re.findall(pattern, printed("02"))[-1]
    assert float(last) > 1.02 * float(lowest)


# -- 03 ---------------------------------------------------------------------------------------------------------------------


def test_an_8b_model_fits_on_24_gb_without_four_bits():
    """Notices an estimate by which section 2's advice to owners of 24 GB would be wrong."""
    lora, qlora = map(int, re.search(r"24 GB \(RTX 3090, 4090\) +(\d+) +(\d+)", printed("03")).groups())
    assert lora >= 3000 and qlora > 1.5 * lora


def test_a_merge_in_four_bits_loses_most():
    """Notices a story that the build no longer tells: what section 3 says of the ways to merge."""
    bars = re.search(r"merging into 4 bits lost most.*", printed("03"))[0]
    start, beside, again, restored, original = (float(value) for value in re.findall(r": ([\d.]+)[;.]", bars))
    assert beside < 0.3 * start and again - beside > 0.5 * (start - beside)
    assert max(restored, original) < beside + 0.1 * (start - beside)


def test_four_bits_cost_accuracy_and_less_time_the_more_tokens():
    """Notices a base whose rounding no longer shows, or timings that section 7's sentence does not describe."""
    low, high = map(float, re.search(r"4 bits [\d.]+: \S+ \[(\S+), (\S+)\] nats", printed("03")).groups())
    assert 0 < low < high
    more = [int(value) for value in re.findall(r"^ *\d+ tokens: 4 bits take ([+-]\d+)% time", printed("03"), re.M)]
    assert len(more) == 4 and more[0] > more[-1]


# -- 04 ---------------------------------------------------------------------------------------------------------------------


def kept(rule, after, lines=1):
    """The shares of answers that keep a rule, from the first lines of lesson 04's tables that begin so after a text."""
    rest = printed("04").partition(after)[2]
    return [int(share) for line in re.findall(rf"^{rule} .*$", rest, re.M)[:lines] for share in re.findall(r"(\d+)%", line)]


def test_pairs_teach_the_step_first_live_and_the_control_does_not():
    """Notices a training, a mask or data after which DPO no longer learns what tells the pairs apart."""
    _, control, dpo = kept("step first", "Measured: ")
    assert dpo > control + 20


def test_without_sfts_part_replies_do_not_end():
    """Notices a rate at which section 5 shows nothing."""
    *_, alone, with_sft = kept("finishes", "reward of the chosen replies", lines=3)  # too wide a table for one line
    assert alone < 50 < with_sft


# -- 05 ---------------------------------------------------------------------------------------------------------------------


def shown(start):
    """The numbers of a line of lesson 05's tables as they are printed."""
    line = re.search(rf"^{re.escape(start)} .*", printed("05"), re.M)[0]
    return [int(value) for value in re.findall(r"-?\d+", line.removeprefix(start))]


def test_the_scripts_rows_beat_the_export_and_rows_by_hand_win_in_the_end():
    """Notices a script that drops what is good, keeps what is bad or breaks labels, and a story that no longer holds."""
    raw, prepared, unread, read = (
        shown(name)[0]
        for name in (
            "the export as it came, without the leak", "the script's rows",
            "the same, the top 60 dropped unread", "the same, the top 60 read",
        )
    )  # fmt: skip
    assert raw + 15 <= prepared <= read and unread >= prepared - 3
    hundred = shown("100 rows labelled to the guide, mean of five draws")[0]
    assert hundred < prepared - 10
    by_hand, both = re.search(
        r"labelled to the guide: (.*?); these and the script's: (.*?); (?:and|line) ", printed("05")
    ).groups()
    alone, mixed = ({int(n): float(share) for share, n in re.findall(r"([\d.]+) at (\d+)", t)} for t in (by_hand, both))
    assert alone[300] < read < alone[400] + 2 and all(mixed[size] > alone[size] for size in alone)


def test_what_the_rules_find():
    """Notices a rule that drops rows that are fine, or misses what it was made for."""
    for why, least in {"form left as it opened": 270, "says nothing": 45, "in the test set": 24}.items():
        dropped, planted, _ = shown(why)
        assert least <= planted == dropped, why
    dropped, planted, there = shown("another ticket's number")
    assert planted == there and dropped - planted <= 8  # what was cut off lost its number


def test_copies_and_leaks_flatter():
    """Notices a split or a leak that no longer shows."""
    assert min(shown("trained with it")[0], 100) >= shown("trained without the leak")[0] + 15
    assert shown("trained with it")[-1] > shown("trained without the leak")[-1]
    lines = re.findall(r"^with copies +(\d.*)", printed("05"), re.M)  # a wide table goes on in a second block
    _, known, by_chance, by_customer = map(int, re.findall(r"\d+", " ".join(lines)))
    assert known > 50 and by_chance >= by_customer + 7


def test_wrong_labels_are_found_and_habits_are_not():
    """Notices a check of labels that ranks worse, and a habit that it finds."""
    assert int(re.search(r"Reading sixty rows finds (\d+) of 40 wrong labels", printed("05"))[1]) >= 30
    found = [shown(f"“returns” filed as “billing”: {name}")[:2] for name in ("one in eight", "one in three", "all")]
    shares = [first / wrong for wrong, first in found]
    assert shares == sorted(shares)[::-1] and shares[-1] < 0.05 < 0.4 < shares[0]


def test_templates_do_to_rows_what_the_lesson_says():
    """Notices a template of TRL's that changed, or a mask that lets something else be learned."""
    assert re.search(r"^a plain row: '<think>\\n\\n</think>\\n\\n\{", printed("05"), re.M)
    assert re.search(r"^a plain row, asked not to think: '\{", printed("05"), re.M)
    assert "the call is learned" in printed("05") and "the call is LOST" in printed("05")


# -- 06 ---------------------------------------------------------------------------------------------------------------------


def test_the_first_job_succeeds_and_its_model_has_the_form():
    """Notices a worker that trains on something else than the file, and a server that answers with the base instead."""
    assert re.search(
        r"→ running → succeeded\n\d+ seconds for [\d,]+ tokens; the new model is ft:\S+:triage:\w+", printed("06")
    )
    assert re.search(r"auto chose 3 epochs, \d+ rows a step", printed("06"))
    row = r"^(\S.*?) +8 +(\d+)% +\d+% +\d+% +\d+%"  # messages, four shares
    valid = {way: int(share) for way, share in re.findall(row, printed("06"), re.M)}
    assert valid["trained on 40 rows"] >= 75 and valid["instructions, form forced"] >= 90


def test_the_training_loss_falls_and_so_does_the_validation_loss():
    """Notices a job that learns nothing, and a validation that isn't made."""
    first, last = re.search(r"unseen rows too\. training loss from ([\d.]+) to ([\d.]+)", printed("06")).groups()
    assert float(last) < 0.3 * float(first)
    assert len(re.findall(r"step \d+: validation loss [\d.]+, both right \d+%", printed("06"))) == 3


def test_training_does_not_pay_by_the_token():
    """Notices prices with which the lesson's conclusion would be another one."""
    found = re.findall(r"\$([\d.]+) saved in a million requests; .* after ([\d,]+) million", printed("06"))
    assert len(found) == 2 and all(float(saved) > 0 and int(requests.replace(",", "")) > 20 for saved, requests in found)
