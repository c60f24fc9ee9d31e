"""Files as programs write them: no character is lost, no valid row is refused, and what is odd is told."""

import csv
import gzip
import io
import json
import re

import pytest

from course_utils import cli
from course_utils.data_prep import prepare, reading, validate
from course_utils.errors import CourseError

ROWS = [
    {"prompt": f"Où est le café n° {i} ? « Là »", "completion": f"Près de l'église, à côté du garçon {i}."}
    for i in range(12)
]


def table(rows, delimiter=",", **settings):
    file = io.StringIO()
    writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter, **settings)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def values(path):
    return [row.value for row in reading.read(path)]


def codes(path):
    return {finding.code for row in reading.read(path) for finding in row.findings}


# Encodings


@pytest.mark.parametrize("name", ["file.csv", "file.json", "file.tsv"])
@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-8"]
)
def test_no_character_is_lost_whatever_the_encoding(tmp_path, name, encoding):
    text = (
        json.dumps(ROWS, ensure_ascii=False) if name.endswith("json") else table(ROWS, "\t" if name.endswith("tsv") else ",")
    )
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    assert values(path) == ROWS
    told = codes(path)
    assert told == (set() if encoding == "utf-8" else {"byte_order_mark"} if encoding == "utf-8-sig" else {"encoding"})
    done = prepare(path, "prompt_completion", steps=["validate"])
    assert done.rows == ROWS


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("latin-1", "Windows-1252 or Latin-1"), ("cp1252", "Windows-1252 or Latin-1"), ("cp1251", "cp1251")],
)
def test_another_encoding_in_a_file_of_lines_is_told_once(tmp_path, encoding, name):
    path = tmp_path / "file.jsonl"
    rows = ROWS if name != "cp1251" else [
        {"prompt": f"Где находится моя посылка номер {i}?", "completion": "Она уже в пути, ожидайте завтра утром."}
        for i in range(12)
    ]  # fmt: skip
    rows = [{"prompt": "plain", "completion": "ASCII"}, *rows]
    path.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    assert values(path) == rows
    (finding,) = (finding for row in reading.read(path) for finding in row.findings)
    assert (finding.code, finding.line) == ("encoding", 2)
    assert name in str(finding) and "save the file as UTF-8" in str(finding) and "--fix" in str(finding)
    report = validate(path, target="trl")
    assert (report.ok, report.rows, report.errors) == (False, 13, 1)
    assert prepare(path, "prompt_completion", steps=["validate"]).rows == rows


def test_single_lines_in_another_encoding_are_named_one_by_one(tmp_path):
    path = tmp_path / "file.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    for number in (2, 5, 7):
        lines[number] = lines[number].decode().encode("latin-1")
    path.write_bytes(b"\n".join(lines))
    assert [row.line for row in reading.read(path) if row.value is None] == [3, 6, 8]
    assert codes(path) == {"not_utf8"}


def test_typographic_marks_of_windows(tmp_path):
    path = tmp_path / "file.csv"
    path.write_bytes("prompt,completion\n“Hi” – it’s 5 €…,ok\n".encode("cp1252"))
    assert values(path)[0]["prompt"] == "“Hi” – it’s 5 €…"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "¿Cuándo llegó la caja? Pagué 1\u00a0200 € el sábado."),
        ("cp1252", "Die Gebühr für März stimmt, aber „schÃ¶n“ und die Größe fällt für Käufer natürlich möglich größer aus."),
        ("cp1250", "Proszę wysłać książkę; już zapłaciłem, dziękuję."),
        ("cp1251", "Где находится моя посылка? Заказ номер 15 уже оплачен, ожидаю ответа."),
        ("cp1254", "Koltuğun ayağı kırık çıktı, değiştirir misiniz? Şimdiden teşekkürler."),
    ],
)
def test_letters_say_which_encoding_it_is(tmp_path, encoding, text):
    path = tmp_path / "file.csv"
    path.write_bytes(f"prompt,completion\n{text.replace(',', ';')},ok\n".encode(encoding))
    assert values(path)[0]["prompt"] == text.replace(",", ";")
    (note,) = prepare(path, "prompt_completion", steps=["validate"]).notes
    assert any(word in note for word in re.findall(r"\w{3,}", text) if not word.isascii()), note


def test_an_encoding_that_is_named_is_taken(tmp_path, capsys):
    path = tmp_path / "train.csv"
    path.write_bytes("prompt,completion\nKde je dům Žižky a kůň?,ok\n".encode("cp1250"))
    run = lambda encoding, *more: cli.main(["check-data", str(path), "--encoding", encoding, "--fix", str(tmp_path), *more])
    assert run("cp1250", "--dry-run") == 0
    assert cli.main(["check-data", str(path), "--encoding", "cp1250", "--fix", str(tmp_path / "out")]) == 0
    assert "dům Žižky a kůň" in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8")
    assert run("klingon") == 2 and "no encoding 'klingon'" in capsys.readouterr().err
    assert run("utf-8") == 2 and "train.csv is not in utf-8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["file.csv", "file.json"])
def test_two_encodings_in_one_file_are_refused(tmp_path, name):
    path = tmp_path / name
    text = json.dumps(ROWS, ensure_ascii=False) if name.endswith("json") else table(ROWS)
    path.write_bytes(text.encode().replace("église".encode(), "église".encode("latin-1"), 1))
    assert codes(path) == {"not_utf8"}
    assert values(path) == [None]


@pytest.mark.parametrize("name", ["file.csv", "file.json", "file.jsonl"])
def test_no_replacement_character_that_was_not_there(tmp_path, name):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) if name == "file.jsonl" else table(ROWS)
    text = json.dumps(ROWS, ensure_ascii=False) if name == "file.json" else text
    for data in (
        text.encode("utf-16")[:-1],
        text.encode("utf-16-le").replace(b"\xe9\x00", b"\x00\xd8", 1),
        text.encode("shift_jis", "ignore") + b"\x81",
    ):
        path = tmp_path / name
        path.write_bytes(data)
        said = [row.value for row in reading.read(path)]
        assert "\ufffd" not in str(said)
        assert said == [v for v in said if v is not None] or codes(path) & {"not_utf8", "encoding", "not_json"}


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_every_valid_row_of_a_table_is_read(tmp_path, delimiter, quoting):
    """Quotes within quotes, line breaks, other delimiters: the first rows have none of them, and mislead a sniffer."""
    rows = [{"prompt": f"Ticket {i}, please; really", "completion": f"Done\t{i} | yes"} for i in range(1000)]
    for i in range(300, 375):
        rows[i] = {"prompt": f'She said "no, {i}"\nand left; "bye"', "completion": '{"category": "x", "n": ' + str(i) + "}"}
    path = tmp_path / "file.csv"
    path.write_text(table(rows, delimiter, quoting=quoting), newline="")
    assert values(path) == rows
    assert codes(path) == set()


def test_a_quote_in_the_middle_escaped_quotes_and_spaces_after_commas(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text('prompt,completion\n5" pipe,a "b" c\n')
    assert values(path) == [{"prompt": '5" pipe', "completion": 'a "b" c'}]
    path.write_text('prompt,completion\n"a \\"b\\", c",d\n"e",f\n')
    assert values(path)[0] == {"prompt": 'a "b", c', "completion": "d"}
    path.write_text('prompt, completion\n"a, b", "c, d"\n"e", "f"\n')
    assert values(path) == [{"prompt": "a, b", "completion": "c, d"}, {"prompt": "e", "completion": "f"}]


def test_excels_first_line_names_the_delimiter(tmp_path):
    path = tmp_path / "file.csv"
    path.write_bytes("sep=;\r\nprompt;completion\r\na,b;c\r\n\r\n".encode("utf-8-sig"))
    assert [v for v in values(path) if v] == [{"prompt": "a,b", "completion": "c"}]


# Wrappers and packings


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.mark.parametrize(
    "wrapped",
    [{"data": [CHAT] * 3}, {"data": {"train": [CHAT] * 3}},
     {"rows": [{"row_idx": i, "row": CHAT} for i in range(3)], "features": []}, {"version": 1, "examples": [CHAT] * 3}],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_rows_within_an_object(tmp_path, wrapped, indent):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(wrapped, indent=indent))
    assert values(path) == [CHAT] * 3
    assert "wrapped" in codes(path)


def test_two_lists_within_an_object_are_a_question(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"train": [CHAT] * 3, "test": [CHAT] * 2}))
    with pytest.raises(CourseError, match=r"train \(3 rows\).*test \(2 rows\)"):
        values(path)


COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}


@pytest.mark.parametrize(
    "columns",
    [COLUMNS, {key: {str(i): cell for i, cell in enumerate(cells)} for key, cells in COLUMNS.items()},
     {"train": COLUMNS}],
    ids=["lists", "pandas", "within an object"],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_columns_of_one_object_are_read_as_rows(tmp_path, columns, indent):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(columns, indent=indent))
    assert values(path) == ROWS
    assert codes(path) == {"wrapped"}
    report = validate(path, target="trl")
    assert (report.ok, report.rows, report.kind) == (True, 12, "prompt_completion")
    assert "column" in str(report)


def test_columns_of_conversations_and_of_renamed_fields_are_read_as_rows(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"messages": [CHAT["messages"]] * 3, "source": ["a", None, "b"]}))
    assert values(path) == [{**CHAT, "source": "a"}, CHAT, {**CHAT, "source": "b"}]
    path.write_text(json.dumps({"question": ["a", "b"], "answer": ["c", "d"]}))
    assert [row.value for row in reading.read(path, {"question": "prompt", "answer": "completion"})] == [
        {"prompt": "a", "completion": "c"},
        {"prompt": "b", "completion": "d"},
    ]


@pytest.mark.parametrize(
    "row",
    [CHAT, {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
     {"prompt": CHAT["messages"][:1], "chosen": CHAT["messages"][1:], "rejected": CHAT["messages"][1:]},
     {"prompt": [], "completion": []}, {"messages": ["Hi", "Hello"]},
     {"messages": [["user", "Hi"], ["assistant", "Hello"]]}, {"messages": dict(zip("01", CHAT["messages"]))},
     {"conversations": [{"from": "human", "value": "Hi"}]}],
)  # fmt: skip
def test_a_single_row_made_of_lists_is_not_taken_for_columns(tmp_path, row):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(row))
    assert values(path) == [row]


@pytest.mark.parametrize("name", ["file.json", "file.jsonl"])
@pytest.mark.parametrize("separator", ["\n", "", "\n\n"])
def test_objects_over_several_lines_one_after_the_other(tmp_path, name, separator):
    path = tmp_path / name
    path.write_text(separator.join(json.dumps(CHAT, indent=1) for _ in range(3)))
    assert values(path) == [CHAT] * 3
    path.write_text(json.dumps(CHAT, indent=1))
    assert values(path) == [CHAT]


@pytest.mark.parametrize("name", ["file.jsonl.gz", "file.json.gz", "file.csv.gz"])
def test_gzip(tmp_path, name):
    path = tmp_path / name
    text = {"jsonl": "\n".join(map(json.dumps, ROWS)), "json": json.dumps(ROWS)}.get(name.split(".")[1], table(ROWS))
    path.write_bytes(gzip.compress(text.encode()))
    assert values(path) == ROWS
    assert validate(path, target="trl").ok
    path.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(CourseError, match="cut off"):
        values(path)


def test_standard_input(tmp_path, monkeypatch, capsys):
    for text in ("\n".join(map(json.dumps, ROWS)), json.dumps(ROWS), table(ROWS)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        assert cli.main(["check-data", "-", "--target", "trl"]) == 0
        assert "12 prompt_completion rows" in capsys.readouterr().out


def test_nulls_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    messages = [{"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho", "tool_calls": None, "name": None}]  # fmt: skip
    pq.write_table(pa.Table.from_pylist([{"messages": messages, "tools": None}] * 10), tmp_path / "file.parquet")
    assert validate(tmp_path / "file.parquet", target="openai").counts.keys() <= {"file_name"}


def test_a_list_in_a_file_of_lines(tmp_path):
    path = tmp_path / "file.jsonl"
    for text in (
        json.dumps([CHAT] * 3),
        json.dumps([CHAT] * 3, indent=1),
        "[\n" + ",\n".join([json.dumps(CHAT)] * 3) + "\n]",
    ):
        path.write_text(text)
        assert values(path) == [CHAT] * 3
        assert codes(path) == {"several_lines"}


@pytest.mark.parametrize("name", ["file.json", "file.jsonl"])
@pytest.mark.parametrize("first", ['{"messages": [', "{", "[", '{"a": 1} {"b": 2}'])
def test_a_broken_first_line_costs_that_line_alone(tmp_path, name, first):
    path = tmp_path / name
    path.write_text("\n".join([first, *[json.dumps(CHAT)] * 3]))
    assert [value for value in values(path) if value and "messages" in value] == [CHAT] * 3
    assert codes(path)


def test_two_columns_of_one_name_refuse_every_row(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("prompt,completion,prompt\na,b,c\nd,e,f\n")
    assert [f.code for row in reading.read(path) for f in row.findings] == ["duplicate_key"] * 2
    with pytest.raises(CourseError, match="nothing is left"):
        prepare(path, "prompt_completion")


def test_a_number_that_is_none(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps([{**CHAT, "score": float("nan")}] * 12))
    assert {str(f.field or f.code) for f in validate(path).findings} >= {"not_finite"}
    assert "score: null" in str(validate(path))


@pytest.mark.parametrize("big", [2**53 + 1, 2**63, -(2**70)])
def test_large_integers_stay_what_they_are(tmp_path, big):
    path = tmp_path / "file.jsonl"
    path.write_text("\n".join(json.dumps({**CHAT, "id": big}) for _ in range(3)))
    assert prepare(path, target="trl", steps=["validate"]).rows[0]["id"] == big


# Columns under other names


def test_columns_are_renamed_on_request(tmp_path, capsys):
    path, out = tmp_path / "file.csv", tmp_path / "out"
    path.write_text(table(ROWS).replace("prompt,completion", "question,answer", 1))
    command = ["check-data", str(path), "--map", "question=prompt", "--map", "answer=completion"]
    assert cli.main([*command, "--target", "trl"]) == 0
    assert "12 prompt_completion rows" in capsys.readouterr().out
    assert cli.main([*command, "--fix", str(out), "--redact", "none"]) == 0
    assert json.loads((out / "train.jsonl").read_text().splitlines()[0]) == ROWS[0]


@pytest.mark.parametrize(
    ("maps", "words"),
    [(["frage=prompt"], "there is no field 'frage' to rename; the fields are question, answer"), (["question"], "OLD=NEW"),
     (["question=answer"], "'answer' exists already")],
)  # fmt: skip
def test_a_column_that_cannot_be_renamed_is_named(tmp_path, capsys, maps, words):
    path = tmp_path / "file.csv"
    path.write_text(table(ROWS).replace("prompt,completion", "question,answer", 1))
    assert cli.main(["check-data", str(path), *[a for m in maps for a in ("--map", m)]]) == 2
    assert words in capsys.readouterr().err
