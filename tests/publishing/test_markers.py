"""Figures that the builder writes into sentences: from the newest record or a table of facts, or the build stops."""

import json

import pytest

from course_utils import assets, lessons, memory
from course_utils.errors import CourseError
from course_utils.publishing import builder, markers

RECORD = {
    "seeds": {"RAG, asked first": {"share": [0.5, 0.75, 1]}, "gpt-4.1": {"valid: json": 0.125}},
    "sizes": {"100000": {"rows": 100000}},
    "runs": [{"loss": 1.5}, {"loss": 2}],
    "right": [True, False],
    "complete": True,
    "lists": [[1, 2], [3]],
    "empty": [],
    "none": None,
}
FACTS = '["gpt-4.1-mini"]\ninput = 0.8\nname = "GPT-4.1 mini"\nsource = "made up"\ndate = 2026-11-24\n'


@pytest.fixture(autouse=True)
def _made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "made-up.toml").write_text(FACTS)
    write("made-up-2026-01-01", {"runs": "an older record"})
    write("made-up-2026-02-02", RECORD)


def write(name, record):
    (assets.root() / "benchmarks" / "records" / f"{name}.json").write_text(json.dumps(record))


def test_an_estimate_is_written_in_its_place(monkeypatch):
    monkeypatch.undo()  # the facts behind an estimate are the real ones
    total = memory.estimate("Llama-3.1-8B", "qlora", length=1024, checkpointing=True, embeddings="float32").total
    marker = "{{estimate:Llama-3.1-8B qlora length=1024 checkpointing embeddings=float32:.1f}}"
    assert markers.expand(f"about {marker} GB", "03_qlora") == f"about {total / 1e9:.1f} GB"


@pytest.mark.parametrize(
    ("marker", "written"),
    [
        ("{{record:made-up:seeds.RAG, asked first.share:.0%}}", "75%"),  # the mean
        ("{{record:made-up:seeds.RAG,\nasked first.share.2:.0%}}", "100%"),
        ('{{record:made-up:seeds."gpt-4.1"."valid: json":.1%}}', "12.5%"),
        ("{{record:made-up:runs.1.loss:.2f}}", "2.00"),
        ("{{record:made-up:sizes.100000.rows:,}}", "100,000"),
        ("{{record:made-up:right:.2f}}", "0.50"),
        ('{{fact:made-up:"gpt-4.1-mini".input:.2f}}', "0.80"),
        ('{{fact:made-up:"gpt-4.1-mini".name:}}', "GPT-4.1 mini"),
        ('{{fact:made-up:"gpt-4.1-mini".date:}}', "2026-11-24"),
        ('{{fact:made-up:"gpt-4.1-mini".date:%d %B %Y}}', "24 November 2026"),
    ],
)
def test_a_figure_is_written_in_its_place(marker, written):
    assert markers.expand(f"about {marker}, {marker}", "02_lora") == f"about {written}, {written}"


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("{{record:made-up:seeds.FAG:}}", "there is no 'FAG' in a table of 'RAG, asked first', 'gpt-4.1'"),
        ("{{record:made-up:runs.2.loss:}}", "there is no '2' in a list of 2"),
        ("{{record:made-up:runs.first:}}", "there is no 'first' in a list of 2"),
        ("{{record:made-up:runs.0.loss.mean:}}", "there is no 'mean' in 1.5"),
        ("{{record:made-up:runs.0:}}", "there is a table of 'loss', neither"),
        ("{{record:made-up:lists:.1f}}", "there is a list of 2, neither"),
        ("{{record:made-up:empty:.1f}}", "there is a list of 0, neither"),
        ("{{record:made-up:complete:}}", "there is True, neither"),
        ("{{record:made-up:none:}}", "there is None, neither"),
        ("{{record:made-up:runs.0.loss:d}}", "1.5 cannot be written as 'd'"),
        ('{{fact:made-up:"gpt-4.1-mini".name:.0%}}', "'GPT-4.1 mini' cannot be written as '.0%'"),
        ('{{fact:made-up:"gpt-4.1-mini".date:.0%}}', "cannot be written as '.0%'"),
        ("{{fact:made-up:gpt-4.1-mini.input:}}", "there is no 'gpt-4' in a table of 'gpt-4.1-mini'"),
        ("{{estimate:Llama-3.1-8B qlora lenght=1024:.1f}}", "lenght"),
        ("{{estimate:Llama-3.1-8B:qlora}}", ": write {{record:NAME:PATH:FORMAT}}"),
        ("{{record:nobody:runs:}}", "no results named 'nobody'"),
        ("{{fact:nobody:runs:}}", "data/nobody.toml is missing"),
        ("{{record:made-up:runs.0.loss}}", ": write {{record:NAME:PATH:FORMAT}}"),
        ("{{record:made-up:runs..loss:}}", ": write {{record:NAME:PATH:FORMAT}}"),
        ("{{fact:made-up}", ": write {{record:"),
    ],
)
def test_a_marker_that_finds_no_figure_stops_the_build(marker, message):
    with pytest.raises(CourseError) as stopped:
        builder.instructor_edition("02", f"# %% [markdown]\n# about {marker}\n")
    said = str(stopped.value)
    assert said.startswith("02_lora: ") and marker in said and message in said


def test_a_new_record_makes_a_notebook_stale(monkeypatch):
    source = "# %% [markdown]\n# Loss {{record:made-up:runs.0.loss:.1f}}.\n"
    stored = assets.root() / "02_lora.ipynb"
    monkeypatch.setattr(builder, "learner_file", lambda name: stored)
    notebook = builder.learner_edition("02", source)
    assert notebook.cells[0].source == "Loss 1.5."
    builder.write(notebook, stored)
    assert not builder.is_stale("02", source)
    write("made-up-2026-03-03", RECORD | {"seeds": {}})
    assert not builder.is_stale("02", source)  # the same figure
    write("made-up-2026-04-04", RECORD | {"runs": [{"loss": 1.4}]})
    assert builder.is_stale("02", source) and builder.refresh("02", source)
    assert "Loss 1.4." in stored.read_text() and not builder.is_stale("02", source)


def test_every_lessons_markers_find_their_figures(monkeypatch):
    monkeypatch.undo()
    for name in lessons.NOTEBOOKS:
        assert "{{" not in "".join(c.source for c in builder.instructor_edition(name).cells if c.cell_type == "markdown")
