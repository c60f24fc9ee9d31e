import pytest

from course_utils import claims
from course_utils.errors import CourseError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(claims, "_checked", {})


def test_verdicts_are_kept_in_the_order_of_their_ids():
    assert claims.set_verdict("L6", claims.HOLDS, "1.00").verdict == "holds"
    claims.set_verdict("L3", claims.FAILS, "80 MB")
    table = claims.table()
    assert [claim.id for claim in table] == ["L3", "L6"]
    assert "80 MB" in repr(table) and "<b>does not hold</b>" in table._repr_html_()


def test_a_later_verdict_replaces_the_earlier():
    claims.set_verdict("L6", claims.HOLDS, "a")
    claims.set_verdict("L6", claims.HOLDS, "b")
    assert [claim.measured for claim in claims.table()] == ["b"]


def test_claim_and_verdict_must_exist():
    with pytest.raises(CourseError, match="unknown verdict 'holds when'"):
        claims.set_verdict("L1", "holds when", "x")
    with pytest.raises(CourseError, match="unknown claim 'Z9'"):
        claims.set_verdict("Z9", claims.HOLDS, "x")


def test_measured_text_is_escaped():
    claims.set_verdict("L1", claims.HOLDS, "<script>")
    assert "<script>" not in claims.table()._repr_html_()
