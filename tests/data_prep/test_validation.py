"""Files that are wrong in every way we know, by hand and by chance: a line and a reason each, no exception, no hang."""

import base64
import json
import random
import tracemalloc
from pathlib import Path

import pytest
from data_prep import malformed
from support import cpu_below

from course_utils.data_prep.findings import CODES, ERROR
from course_utils.data_prep.validation import validate
from course_utils.errors import CourseError

HELD_OUT = Path(__file__).parent / "held_out"


def write(folder, data: bytes, name="file.jsonl"):
    path = folder / name
    path.write_bytes(data)
    return path


KINDS = [
    ("chat", "openai", malformed.good(), malformed.CHAT),
    ("preference", "openai", malformed.preference(), malformed.PREFERENCE),
    ("preference", "trl", {"prompt": "hi", "chosen": "ho", "rejected": "no"}, malformed.PREFERENCE_TRL),
    ("prompt_completion", "openai", {"prompt": "hi", "completion": "ho"}, malformed.COMPLETION),
]


@pytest.mark.parametrize(
    ("kind", "target", "good", "row", "code"),
    [
        pytest.param(kind, target, good, row, code, id=f"{kind} for {target}: {name}")
        for kind, target, good, cases in KINDS
        for name, row, code in cases
    ],
)
def test_the_wrong_row_among_good_ones_is_named_and_only_it(tmp_path, kind, target, good, row, code):
    lines = [malformed.line_of(good)] * 12
    lines[2] = malformed.line_of(row)
    with cpu_below(1):
        report = validate(write(tmp_path, b"\n".join(lines) + b"\n"), kind, target)
    assert {finding.line for finding in report.findings} == {3}, report
    assert code in {finding.code for finding in report.findings}, report
    assert all(finding.message and finding.fix and finding.code in CODES for finding in report.findings)
    if kind == "chat":
        assert report.ok == (CODES[code]["severity"] != ERROR)


TEN_IMAGES = malformed.changed(malformed.good(), ("messages", 1, "content"), [
    *[malformed.IMAGE] * 8, malformed.IMAGE | {"image_url": {"url": "HTTPS://a.example/a b.png", "detail": "high"}},
    malformed.IMAGE | {"image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}, {"type": "text", "text": "What are they?"}])  # fmt: skip  # noqa: E501


def test_a_preference_may_call_tools(tmp_path):
    row = malformed._calling()
    report = validate(write(tmp_path, 12 * (malformed.line_of(row) + b"\n")), "preference")
    assert not report.findings, report


@pytest.mark.parametrize(
    "row", [malformed.good(), malformed.tool_row(), TEN_IMAGES], ids=["plain", "with tools", "ten images"]
)
def test_nothing_is_wrong_with_good_rows(tmp_path, row):
    report = validate(write(tmp_path, malformed.line_of(row) + b"\n" + 11 * (malformed.line_of(row) + b"\n")))
    assert not report.findings
    assert (report.rows, report.ok, report.as_dict()["api_message"]) == (12, True, None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n\n", "blank_line"),
        (b"PK\x03\x04" + b"\0" * 100, "binary"),
        (b"\x1f\x8b\x08" + b"x" * 100, "binary"),
        (b"PAR1" + b"\0" * 100, "binary"),
        (b"\xef\xbb\xbf" + 12 * (malformed.line_of(malformed.good()) + b"\n"), "byte_order_mark"),
        (12 * (malformed.line_of(malformed.good()) + b"\r\n"), "line_ending"),
        (12 * (malformed.line_of(malformed.good()) + b"\r"), "line_ending"),
        ((12 * (malformed.text + "\n")).encode("utf-16"), "encoding"),
        ((12 * (malformed.text + "\n")).encode("utf-16-be"), "encoding"),
        ((12 * (malformed.text + "\n")).encode("utf-32"), "encoding"),
        (9 * (malformed.line_of(malformed.good()) + b"\n"), "too_few_rows"),
    ],
    ids=["empty", "blank", "zip", "gzip", "parquet", "bom", "crlf", "cr", "utf-16", "utf-16-be", "utf-32", "nine rows"],
)
def test_whole_files(tmp_path, data, code):
    report = validate(write(tmp_path, data), "chat")
    assert code in report.counts
    if code in ("byte_order_mark", "line_ending", "encoding"):
        assert report.rows == 12  # read all the same
        assert list(report.counts) == [code]


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        ([malformed.good()] * 7, "chat", "Training file has 7 example(s), but must have at least 10 examples"),
        (
            [*[malformed.good()] * 11, malformed.changed(malformed.good(), ("messages", 1, "role"), malformed.GONE)],
            "chat",
            "Invalid file format. Example 12, message 2 Discriminator 'role' is missing in value",
        ),
        ([{"text": "hi"}] * 10, "chat", "Unexpected file format, expected either prompt/completion pairs or chat messages."),
        (
            [malformed.changed(malformed.good(), ("messages", 1, "weight"), 1)] * 10,
            "chat",
            'Example 1 contains an extra "weight".',
        ),
        (
            [malformed.changed(malformed.good(), ("messages", 2, "content"), "a<|fim_suffix|>")] * 10,
            "chat",
            "Example 1 message contains an invalid token: <|fim_suffix|>.",
        ),
        (
            [malformed.good()] * 10,
            "preference",
            "is in the fine-tune-chat format, but the specified fine-tuning job is not using",
        ),
    ],
)
def test_the_hosts_own_words(tmp_path, lines, kind, words):
    data = b"\n".join(map(malformed.line_of, lines))
    report = validate(write(tmp_path, data), kind)
    assert not report.ok
    assert words in report.as_dict()["api_message"]


def held_out():
    for line in (HELD_OUT / "malformed.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        data = base64.b64decode(case["base64"]) if "base64" in case else case["text"].encode("utf-8", "surrogatepass")
        yield pytest.param(data, case["line"], id=case["name"])


@pytest.mark.parametrize(("data", "line"), list(held_out()))
def test_files_that_the_rules_were_not_made_for(tmp_path, data, line):
    """Written by another hand that did not know the rules; 30 of the 120 are unusual and right."""
    report = validate(write(tmp_path, data), "chat")
    wrong = [finding for finding in report.findings if finding.code != "too_few_rows"]
    if line:
        assert line in {finding.line for finding in wrong}, report
    else:
        assert not [finding for finding in wrong if finding.severity == ERROR], report


def damage(row: dict, rng: random.Random) -> bytes:
    """A row with bytes or values changed by chance."""
    if rng.random() < 0.5:
        data = bytearray(malformed.line_of(row))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            how = rng.randrange(3)
            if how == 0:
                data[at] = rng.randrange(256)
            elif how == 1:
                del data[at : at + rng.randint(1, 30)]
            else:
                data[at:at] = rng.choice([b'"', b"{", b"]", b",", b"\\", b"\xff", b"\0", b"null", b"\xe2\x80\xa8", b"NaN"])
            if not data:
                break
        return bytes(data).replace(b"\n", b" ")
    strange = [
        None,
        True,
        0,
        -1,
        1e400,
        "",
        " ",
        "\ud800",
        [],
        {},
        [[]],
        {"role": "user"},
        "a" * 70,
        ["x"],
        {"type": "text"},
        "user",
        "tool",
    ]
    places, stack = [], [(row, ())]
    while stack:
        item, path = stack.pop()
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in inner:
            places.append((item, key))
            stack.append((value, (*path, key)))
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(places)
        if isinstance(holder, list) and key >= len(holder):
            continue
        how = rng.randrange(3)
        if how == 0:
            holder[key] = rng.choice(strange)
        elif how == 1 and isinstance(holder, dict):
            holder.pop(key, None)
        elif isinstance(holder, dict):
            holder[rng.choice(["weight", "name", "role", "content", "tool_calls", "tool_call_id", "x"])] = rng.choice(
                strange
            )
    return json.dumps(row).encode("utf-8", "surrogatepass")


def test_damage_by_chance(tmp_path):
    """400 files. What JSON or the client's own types refuse must be an error here; nothing may raise or hang."""
    oracle = pydantic_oracle()
    rng, wrong, by_json = random.Random(5), 0, 0
    for number in range(400):
        row = rng.choice([malformed.good, malformed.tool_row])()
        data = damage(row, rng)
        path = write(tmp_path, data + b"\n" + 11 * (malformed.line_of(malformed.good()) + b"\n"))
        with cpu_below(1):
            report = validate(path, "chat")
        assert all(f.code in CODES and f.message and f.line in (0, 1) for f in report.findings), (number, data, report)
        errors = [finding for finding in report.findings if finding.line == 1 and finding.severity == ERROR]
        try:
            value = json.loads(data.decode("utf-8"))
        except ValueError:
            by_json += bool(data.strip())
            assert errors if data.strip() else "blank_line" in report.counts, (number, data)
            continue
        refused = oracle(value)
        wrong += refused
        assert errors or not refused, (number, data)
    assert by_json > 100
    assert wrong > 80  # the test would say nothing if the damage did none


def pydantic_oracle():
    """Whether openai's own types refuse a row's messages; strict, and with what pydantic leaves lazy written out."""
    from openai.types.chat import ChatCompletionMessageParam
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(list[ChatCompletionMessageParam])

    def refuses(row) -> bool:
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
            return True
        try:
            # Contents given as iterables are validated when they are walked through.
            for message in adapter.validate_python(row["messages"], strict=True):
                for value in message.values():
                    if not isinstance(value, str | dict | list | None | int | float):
                        list(value)
        except ValidationError:
            return True
        return False

    return refuses


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten times the rows, the same peak."""
    peaks = []
    for rows in (600, 6_000):
        path = write(tmp_path, rows * (malformed.line_of(malformed.good()) + b"\n"))
        tracemalloc.start()
        assert validate(path, "chat").rows == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_a_million_findings_are_counted_and_a_thousand_kept(tmp_path):
    path = write(tmp_path, 3_000 * b"{}\n")
    report = validate(path, "chat")
    assert report.counts["unknown_shape"] == report.errors == report.bad_rows == 3_000
    assert len(report.findings) == 1_000


@pytest.mark.parametrize(
    ("path", "words"),
    [("none.jsonl", "there is no file"), ("data.txt", "only files that end in"), (".", "is a folder")],
)
def test_files_that_cannot_be_read(tmp_path, path, words):  # an unknown kind or target: `test_pipeline`, by the command
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(CourseError, match=words):
        validate(tmp_path / path)


@pytest.mark.parametrize(
    ("name", "data", "rows", "counts"),
    [
        ("cut.json", b'[{"prompt": "a", "completion": "b"}, {"prompt": "c"', 1, {"not_json": 1}),
        ("bad.json", b'[{"prompt": "a", "completion": "b"}, {"prompt" "c"}]', 1, {"not_json": 1}),
        ("object.json", b'{"prompt": "a", "completion": "b"}', 1, {}),  # one row, and no list around it
        ("ragged.csv", b"prompt,completion\na,b,c\nd\n", 0, {"not_object": 2}),
        ("quote.csv", b'prompt,completion\n"a,b\n', 0, {"not_object": 1}),
        ("double.csv", b"prompt,prompt\na,b\n", 1, {"duplicate_key": 1, "field_missing": 1}),
        ("none.parquet", b"PAR1 not really", 0, {"binary": 1}),
        ("empty.csv", b"", 0, {"empty_file": 1}),
        ("empty.json", b"", 0, {"empty_file": 1}),
        ("empty.parquet", b"", 0, {"binary": 1}),
    ],
)
def test_broken_other_files(tmp_path, name, data, rows, counts):
    report = validate(write(tmp_path, data, name), "prompt_completion", "trl")
    assert (report.rows, dict(report.counts), report.errors) == (rows, counts, sum(counts.values())), report


def test_tokens_are_counted(tmp_path, packaged):
    tokenizer, row = packaged[1], malformed.good()
    path = write(tmp_path, 12 * (malformed.line_of(row) + b"\n"))
    expected = len(tokenizer.apply_chat_template(row["messages"], return_dict=False))
    count = lambda **limit: validate(path, "chat", tokenizer=tokenizer, **limit)
    assert count().tokens == 12 * expected
    assert count(max_tokens=expected - 1).counts["too_many_tokens"] == 12
    assert count(max_tokens=expected).ok
