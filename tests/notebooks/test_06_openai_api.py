"""Lesson 06: the functions that its cells define, and all its cells on a tiny model."""

import codecs
import json
import re
from datetime import date
from types import SimpleNamespace

import pytest
from support import lesson_code

from course_utils.lessons import source_file


@pytest.fixture(scope="module")
def lesson():
    return lesson_code("06", constants=("schema",))


def test_files_have_names_of_their_own():
    """Another lesson's files lie in the same folder."""
    written = re.findall(r'write_rows\(f?"([^"]+)"', source_file("06_openai_api").read_text(encoding="utf-8"))
    assert len(written) == 4 and all(name.startswith("hosted-") for name in written)


@pytest.mark.parametrize("mark", [False, True])
def test_rows_are_read_as_they_were_written(lesson, mark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"messages": [{"role": "user", "content": "Zoë’s kettle"}]}, {"messages": []}]
    file = lesson["write_rows"]("rows.jsonl", rows, byte_order_mark=mark)
    assert file.read_bytes().startswith(codecs.BOM_UTF8) == mark
    assert lesson["read_rows"](file) == rows and "Zoë" in file.read_text(encoding="utf-8")


def jobs(*statuses):
    """A client whose job goes through these statuses, one a look, and stays in the last."""
    left = list(statuses)
    looked = lambda id: SimpleNamespace(id=id, status=left.pop(0) if len(left) > 1 else left[0])
    return SimpleNamespace(fine_tuning=SimpleNamespace(jobs=SimpleNamespace(retrieve=looked)))


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_waiting_ends_however_the_job_ends(lesson, end, capsys):
    started = SimpleNamespace(id="ftjob-1", status="validating_files")
    job = lesson["wait"](jobs("queued", "running", "running", "a state of the host's own", end), started, every=0)
    assert job.status == end
    assert capsys.readouterr().out == f"validating_files → queued → running → a state of the host's own → {end}\n"


def test_waiting_has_a_limit(lesson):
    with pytest.raises(TimeoutError, match="ftjob-1 is still paused"):
        lesson["wait"](jobs("paused"), SimpleNamespace(id="ftjob-1", status="paused"), every=0, hours=0)


@pytest.mark.parametrize(
    ("reply", "valid"),
    [
        ('{"category": "billing", "escalation": "none"}', True),
        ('{"category": "Billing", "escalation": "none"}', False),
        ('{"category": "billing"}', False),
        ('{"category": "billing", "escalation": "none", "more": 1}', False),
        ("Sure!", False),
        ("[]", False),
    ],
)
def test_a_record_is_valid_or_none(lesson, reply, valid):
    assert lesson["read_record"](reply) == (json.loads(reply) if valid else None)


def test_replies_are_scored_field_by_field(lesson):
    replies = iter(['{"category": "billing", "escalation": "none"}', '{"category": "billing", "escalation": "money"}', None])
    usage = SimpleNamespace(prompt_tokens=40, completion_tokens=9)

    def create(messages, **_):
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=messages))], usage=usage)

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    client.with_options = lambda max_retries: client
    solution = {"category": "billing", "escalation": "money"}
    rows = lesson["score_replies"](client, "model", list(replies), [solution] * 3)
    right = {"valid": 2, "category": 2, "escalation": 1, "all fields": 1}
    assert rows.select_dtypes(bool).sum().to_dict() == right
    assert rows["tokens in"].tolist() == [40] * 3 and rows["reply"].iloc[2] == ""


@pytest.mark.parametrize(("shutdown", "days"), [("2027-01-14", 13), ("2026-12-31", -1), (None, None)])
def test_days_are_counted_to_the_date_that_the_api_gives(lesson, shutdown, days):
    assert lesson["days_left"](SimpleNamespace(shutdown_date=shutdown), date(2027, 1, 1)) == days
    assert lesson["days_left"](SimpleNamespace(), date(2027, 1, 1)) is None  # an older client


def test_a_month_costs_its_tokens_and_its_hours(lesson):
    lesson |= {"tokens_in": {"way": 60.0}, "tokens_out": 15.0}
    price = SimpleNamespace(input=0.05, output=0.22)
    assert lesson["dollars_a_month"](1_000_000, price, "way") == pytest.approx(6.30)
    assert lesson["dollars_a_month"](0, price, "way", hourly=1.7) == pytest.approx(1241)
