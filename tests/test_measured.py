"""The release's figures (`benchmarks/release.py`) are read from the dated records, and README and docs show the newest."""

import importlib

import pytest

from course_utils import assets


@pytest.fixture(scope="module")
def release():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(assets.path("benchmarks")))
        yield importlib.import_module("release")


def test_readme_and_docs_show_the_newest_records(release):
    shown = assets.path("README.md").read_text(encoding="utf-8").split(release.BEGIN)[1].split(release.END)[0].strip()
    assert shown == release.lessons_table()
    assert assets.path("docs/measured.md").read_text(encoding="utf-8") == release.measured_page()


def test_links_to_colab_appear_once_the_course_has_an_address(release, monkeypatch):
    assert "colab" not in release.lessons_table()
    monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/somebody/finetuning-course")
    assert "/somebody/finetuning-course/blob/main/notebooks/02_lora.ipynb)" in release.lessons_table()
