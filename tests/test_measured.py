"""The release's figures (`benchmarks/release.py`): read from the dated records, and the README shows the newest."""

import importlib
import json
import re

import pytest

from course_utils import assets


@pytest.fixture(scope="module")
def release():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(assets.path("benchmarks")))
        yield importlib.import_module("release")


def test_every_figure_is_found_in_its_record_with_a_day_and_a_machine(release):
    """Notices a benchmark whose record has another form than the release expects."""
    # `make test` runs this test, so that its own record may not be there yet
    rows = [row for row in release.gather()["figures"] if row["value"] is not None or row["record"] != "make-test"]
    missing = [f"{row['area']}: {row['figure']}" for row in rows if row["value"] is None]
    assert not missing
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and row["machine"] for row in rows)


def test_a_figure_over_seeds_has_the_lowest_and_the_highest(release):
    assert release.over_seeds([0.2, 0.4, 0.3]) == pytest.approx((30, 20, 40))
    assert release.written([30.0, 20.0, 40.0]) == "30 (20 to 40)" and release.written([20.0, 20.0, 20.0]) == "20"


def test_the_newest_record_before_a_day_is_found(release, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "RECORDS", tmp_path)
    for day in ("2026-01-02", "2026-03-04"):
        (tmp_path / f"speed-sft-{day}.json").write_text(json.dumps({"day": day}))
    (tmp_path / "speed-sft-2026-09-09.png").touch()
    (tmp_path / "speed-sft-extra-2026-09-09.json").write_text("{}")
    assert release.newest("speed-sft")[1] == "2026-03-04" and release.newest("speed-sft", "2026-03-04")[1] == "2026-01-02"
    assert release.newest("speed-dpo") is None


def test_the_table_has_the_release_before_beside_the_newest(release, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "RECORDS", tmp_path)
    for day, value in (("2026-01-02", 1.5), ("2026-03-04", [2.5, 2.0, 3.0])):
        row = {"area": "speed", "figure": "times", "value": value, "date": day, "machine": "two cores", "brief": True}
        (tmp_path / f"release-{day}.json").write_text(json.dumps({"figures": [row]}))
    assert "| times | 2.50 (2 to 3) | 2026-03-04 | 1.50 | 2026-01-02 |" in release.table()
    assert "| speed: times | 2.50 (2 to 3) | 2026-03-04, two cores |" in release.readme_table()


def test_the_readme_shows_the_newest_release_record(release):
    text = assets.path("README.md").read_text(encoding="utf-8")
    shown = text.split(release.BEGIN)[1].split(release.END)[0].strip()
    assert shown == release.readme_table()
