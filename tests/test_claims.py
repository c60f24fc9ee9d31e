"""Claims rest on the newest records, each lesson shows its own, and the page of all of them is that of the table."""

import json
import re
from datetime import date

import pytest

from course_utils import assets, evidence, facts, lessons
from course_utils.errors import CourseError

CLAIMS = facts.table("claims")
KEYS = ["claim", "source", "date", "lesson", "verdict", "finding", "scope", "record", "measured"]


@pytest.mark.parametrize("id", CLAIMS)
def test_a_claim_is_whole_and_rests_on_the_newest_records(id):
    """A record that was made anew fails here, until somebody has read the finding again and changed `measured`."""
    row = CLAIMS[id]
    assert list(row) == KEYS and all(row.values())
    assert row["verdict"] in evidence.TONE_OF and row["lesson"] in lessons.LESSONS
    recorded = [name for name in row["record"] if name.endswith(".json")]
    for name in recorded:
        assert assets.benchmark_results(name[: -len("-2026-01-01.json")]).name == name
    days = [json.loads(assets.path(f"benchmarks/records/{name}").read_text())["date"] for name in recorded]
    others = [name for name in row["record"] if name not in recorded]
    for name in others:
        assert name in ("arithmetic", "documentation") or assets.path(f"notebooks/{name}").exists()
    assert row["measured"] == date.fromisoformat(max(days)) if not others else type(row["measured"]) is date


@pytest.mark.parametrize("lesson", lessons.LESSONS)
def test_a_lesson_shows_claims_of_its_own(lesson):
    """The others are on the page of all claims."""
    text = lessons.source_file(lessons.LESSONS[lesson].name).read_text(encoding="utf-8")
    shown = " ".join(re.findall(r"evidence\.(?:card|summary)\(([^)]*)\)", text))
    assert set(re.findall(r"\w+", shown)) <= {id for id, row in CLAIMS.items() if row["lesson"] == lesson}


def test_the_page_of_all_claims_is_written_from_the_table():
    """Else: make readme."""
    assert (assets.root() / "docs/claims.md").read_text(encoding="utf-8") == evidence.claims_page()


def test_a_card_shows_claim_verdict_and_what_it_rests_on(monkeypatch):
    row = dict(CLAIMS["L4"]) | {"finding": "1 < 2"}
    monkeypatch.setattr(facts, "table", lambda name: {"L4": row})
    html = evidence.card("L4")._repr_html_()
    assert row["claim"] in html and "does not hold" in html and "arithmetic (2026-11-27)" in html and "1 &lt; 2" in html
    assert repr(evidence.card("L4")) == f"Claim L4: {row['claim']}\n  does not hold. 1 < 2"


def test_a_claim_that_there_is_not_is_refused():
    with pytest.raises(CourseError, match=r"no claim 'X1'; the claims are D1, "):
        evidence.card("X1")
