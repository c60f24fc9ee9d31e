"""What `check-data --fix` writes, where, and what it says of it: no file is lost, and the last line tells the truth."""

import json

import pytest
from data_prep.test_pipeline import rows, write
from data_prep.test_similarity import chat

from course_utils import cli
from course_utils.data_prep import prepare, validate, validation
from course_utils.data_prep.deduplication import COPIES
from course_utils.data_prep.findings import CODES, WORDS
from course_utils.data_prep.pipeline import DOUBTFUL


def course(*arguments):
    """`course check-data` with one process."""
    return cli.main(["check-data", *map(str, arguments), "--workers", "1"])


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl", "rejects.jsonl"])
def test_the_file_that_is_cleaned_is_never_written_over(tmp_path, name, capsys):
    path = write(tmp_path, rows(12), name)
    before = path.read_bytes()
    for options in ([], ["--overwrite"]):
        assert course(path, "--fix", tmp_path, *options) == 2
        assert f"{path} is the file that is being cleaned" in capsys.readouterr().err
        assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_link_to_the_file_that_is_cleaned_is_it_too(tmp_path):
    path = write(tmp_path, rows(12))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").symlink_to(path)
    assert course(path, "--fix", tmp_path / "out", "--overwrite") == 2
    assert (tmp_path / "out" / "train.jsonl").is_symlink()


def test_a_file_that_is_there_is_written_over_only_on_request(tmp_path, capsys):
    path, out = write(tmp_path, rows(12)), tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert course(path, "--fix", out) == 2
    assert "report.html exists already; name another folder, or use --overwrite" in capsys.readouterr().err
    assert (out / "report.html").read_text() == "mine"
    assert [file.name for file in out.iterdir()] == ["report.html"]
    assert course(path, "--fix", out, "--overwrite") == 0
    assert (out / "report.html").read_text() != "mine"


def test_only_rows_that_changed_are_counted_and_each_once(tmp_path):
    same = {"messages": [{"role": "user", "content": "One\u2028two, by Selin Karagöz, Olumide Fashola, selin@example.org"},
                         {"role": "assistant", "content": " Fine. "}]}  # fmt: skip
    done = prepare(write(tmp_path, [same] * 5), steps=("validate", "redact"))
    counts = {code: rows for _, action, code, rows in done.table()}
    assert "invisible_character" not in counts  # a line separator stays
    assert counts == {"edge_whitespace": 5, "name": 5, "email": 5}
    assert sum(change.code == "name" for change in done.changes) == 10


def test_few_rows_left_are_the_last_word_and_an_exit_status_of_their_own(tmp_path, capsys):
    path = write(tmp_path, [*rows(4), *[b"no row"] * 96])
    assert course(path, "--fix", tmp_path / "out") == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert "only 4 of 100 lines (4 %) are left: 96 that can't be read as JSON" in last
    assert "rejects.jsonl" in last
    assert course(path, "--fix", tmp_path / "again", "--dry-run") == 3
    assert "rejects.jsonl" not in capsys.readouterr().out  # which a dry run does not write
    assert course(path, "--fix", tmp_path / "again", "--json") == 3
    assert json.loads(capsys.readouterr().out)["share_left"] == 0.04
    path = write(tmp_path, [*rows(9), b"no row"], "most.jsonl")
    assert course(path, "--fix", tmp_path / "most") == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == "9 of 10 lines (90 %) are left: 1 that can't be read as JSON"


def test_codes_that_are_no_words_are_told_in_words(tmp_path, capsys, monkeypatch):
    assert {code for code in CODES if "words" not in CODES[code]} == set()
    assert {code for code in (*DOUBTFUL, *(f"{kind}_duplicate" for kind in COPIES)) if code not in WORDS} == set()
    path = write(tmp_path, [*rows(12), chat("When does the parcel come?", " Tomorrow. ")])
    monkeypatch.setattr(validation, "MAX_FINDINGS", 0)
    assert course(path) == 0
    assert "and 1 with spaces at an edge" in capsys.readouterr().out
    copies = [*rows(12), *rows(2), b"no row"]
    assert course(write(tmp_path, copies, "copies.jsonl"), "--fix", tmp_path / "out") == 0
    last, page = capsys.readouterr().out.splitlines()[-1], (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "2 exact copies" in last and "_" not in last
    assert "2 exact copies" in page


def test_what_the_user_says_after_the_last_answer_is_cut_and_told(tmp_path, capsys):
    thanks = chat("When does the parcel come?", "Tomorrow.")
    thanks["messages"] += [{"role": "user", "content": "Thanks!"}, {"role": "user", "content": "Bye"}]
    path = write(tmp_path, [*rows(12), thanks])
    assert course(path, "--fix", tmp_path / "out", "--validation", "0.1") == 0
    told = capsys.readouterr().out
    assert "what the user says after the last answer was cut" in told and "rows: 1" in told
    written = "".join((tmp_path / "out" / f"{part}.jsonl").read_text() for part in ("train", "validation"))
    assert "Tomorrow." in written and "Thanks!" not in written and "Bye" not in written
    assert "with a message after the last answer" not in str(validate(tmp_path / "out" / "train.jsonl"))


def test_the_shapes_that_were_found_are_told(tmp_path, capsys):
    turns = {"conversations": [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "Here."}]}
    path = write(tmp_path, [*rows(9), turns, {"x": 1}])
    assert course(path) == 1
    out = capsys.readouterr().out
    assert "messages 9, sharegpt 1 (--fix converts), no known shape 1" in out
    course(path, "--fix", tmp_path / "out")
    assert "messages 9, sharegpt 1, no known shape 1" in capsys.readouterr().out


def test_many_findings_of_one_code_are_one_line_with_examples(tmp_path, capsys):
    path = tmp_path / "export.jsonl"
    path.write_text("".join(f'{{"id": {n}}}\n' for n in range(30)))
    assert cli.main(["check-data", str(path)]) == 1
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "[unknown_shape]" in line]
    assert "line 1" in told and "30 in all, as in line 2, 3" in told


@pytest.mark.parametrize(
    ("skip", "told"), [([], "rejects.jsonl and report.html quote"), (["--skip", "redact"], "still in all files")]
)
def test_the_last_word_says_where_personal_data_is(tmp_path, capsys, skip, told):
    path = write(tmp_path, [*rows(20), b"not json"])
    cli.main(["check-data", str(path), "--fix", str(tmp_path / "out"), *skip])
    assert told in capsys.readouterr().out
