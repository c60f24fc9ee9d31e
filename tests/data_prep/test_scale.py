"""The same rows come out of datatrove's pipelines with two local workers as of the functions in memory."""

import json

import pytest

from course_utils.data_prep import prepare, truth
from course_utils.data_prep.deduplication import deduplicate
from course_utils.data_prep.pii import Redactor
from course_utils.data_prep.pipeline import rows_of, without_customers
from course_utils.errors import CourseError

pytest.importorskip("datatrove")


@pytest.mark.slow
def test_two_workers_give_what_memory_gives(tmp_path):
    from datatrove.executor import LocalPipelineExecutor

    from course_utils.data_prep.scale import stages

    lines = truth.load_raw_export().path.read_bytes().splitlines(keepends=True)[:700]
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"part{number}.jsonl").write_bytes(b"".join(lines[number * 140 : (number + 1) * 140]))
    (tmp_path / "whole.jsonl").write_bytes(b"".join(lines))

    rows = prepare(tmp_path / "whole.jsonl", steps=["validate"]).rows
    kept = [rows[i] for i in deduplicate(rows, method="minhash").kept]
    redactor = Redactor(allow=[truth.OWN_ADDRESS])
    expected = [without_customers(redactor.row(row).row) for row in kept]

    out = tmp_path / "out"
    for name, pipeline in stages(source, out, tmp_path / "work", allow=[truth.OWN_ADDRESS]).items():
        tasks, workers = (1, 1) if name == "choose" else (3, 2)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=str(tmp_path / "logs" / name)).run()
    found = [row for file in sorted(out.glob("*.jsonl")) for row in rows_of(file)]
    assert len(list(out.glob("*.jsonl"))) == 5
    assert found == expected
    rejects = [json.loads(line) for file in sorted((tmp_path / "work/rejects").glob("*")) for line in file.open()]
    assert rejects and len(rows) + len(rejects) == 700
    assert all(entry["reason"] and entry["text"] is not None for entry in rejects)


def test_a_folder_without_files(tmp_path):
    from course_utils.data_prep.scale import stages

    with pytest.raises(CourseError, match="no files that end in"):
        stages(tmp_path, tmp_path / "out", tmp_path / "work")
