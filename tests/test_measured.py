"""The release's figures (`benchmarks/release.py`) are read from the dated records, and README and docs show the newest."""

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


def test_the_table_has_the_release_before_beside_the_newest(release, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "RECORDS", tmp_path)
    for day, value in (("2026-01-02", 1.5), ("2026-03-04", [2.5, 2.0, 3.0])):
        row = {"area": "speed", "figure": "times", "value": value, "date": day, "machine": "two cores"}
        (tmp_path / f"release-{day}.json").write_text(json.dumps({"figures": [row]}))
    assert "| times | 2.50 (2 to 3) | 2026-03-04 | 1.50 | 2026-01-02 |" in release.table()


def test_readme_and_docs_show_the_newest_records(release):
    shown = assets.path("README.md").read_text(encoding="utf-8").split(release.BEGIN)[1].split(release.END)[0].strip()
    assert shown == release.lessons_table()
    assert assets.path("docs/measured.md").read_text(encoding="utf-8") == release.measured_page()


def test_links_to_colab_appear_once_the_course_has_an_address(release, monkeypatch):
    assert "colab" not in release.lessons_table()
    monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/somebody/finetuning-course")
    assert "/somebody/finetuning-course/blob/main/notebooks/02_lora.ipynb)" in release.lessons_table()
