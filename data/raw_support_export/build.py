"""Build `export.jsonl` and `truth.jsonl` from the marked-up rows under `source/`: `python data/raw_support_export/build.py`.

Every fault is put in here, so the truth file is right by construction. Numbers with check digits are drawn here or taken from
`source/numbers.json`, which Faker 40.50 wrote once (its numbers change with its version, and a birth date with today's date);
all else was written by hand. The same seed gives the same files, byte for byte.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

HERE = Path(__file__).parent
SYSTEM = "Triage this customer message."
MARK = re.compile(r"\{\{([A-Z]+):([^}]*)\}\}")
KINDS = {"DOB": "BIRTH_DATE", "ID": "NATIONAL_ID"}
rng = random.Random(20261125)


# Kind → numbers in the order in which they are used.
DRAWN = {
    kind: iter(numbers) for kind, numbers in json.loads((HERE / "source/numbers.json").read_text(encoding="utf-8")).items()
}


def luhn(digits: str) -> str:
    total = sum(d if i % 2 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(map(int, reversed(digits))))
    return digits + str(-total % 10)


def card(kind: str, rng: random.Random) -> str:
    start, length = {
        "visa": ("4", 16),
        "mastercard": (str(rng.randint(51, 55)), 16),
        "amex": (rng.choice(["34", "37"]), 15),
    }[kind]
    number = luhn(start + "".join(str(rng.randint(0, 9)) for _ in range(length - len(start) - 1)))
    groups = [number[:4], number[4:10], number[10:]] if kind == "amex" else [number[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice([" ".join(groups), "".join(groups), "-".join(groups)])


def iban(country: str, rng: random.Random) -> str:
    lengths = {"IE": ("AIBK", 14), "BE": ("", 12)}
    if f"iban_{country}" in DRAWN:
        value = next(DRAWN[f"iban_{country}"])
    else:
        bank, digits = lengths[country]
        body = bank + "".join(str(rng.randint(0, 9)) for _ in range(digits))
        numeric = int("".join(str(int(c, 36)) for c in body + country + "00"))
        value = f"{country}{98 - numeric % 97:02d}{body}"
    return rng.choice([value, " ".join(value[i : i + 4] for i in range(0, len(value), 4))])


def until_valid(draw, check) -> str:
    while not check(value := draw()):
        pass
    return value


def national_id(kind: str, rng: random.Random) -> str:
    import stdnum.de.idnr
    import stdnum.nl.bsn

    def digits(n):
        return "".join(str(rng.randint(0, 9)) for _ in range(n))

    if kind == "us_ssn":
        return f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"
    if kind == "uk_nino":
        value = f"{rng.choice('ABCEHJKLMPRSWXY')}{rng.choice('ABCEHJKLMPRSWXYZ')}{digits(6)}{rng.choice('ABCD')}".replace(
            "BG", "BA"
        )
        return rng.choice([value, f"{value[:2]} {value[2:4]} {value[4:6]} {value[6:8]} {value[8]}"])
    if kind == "de_steuer_id":
        return until_valid(lambda: str(rng.randint(1, 9)) + digits(10), stdnum.de.idnr.is_valid)
    if kind == "nl_bsn":
        return until_valid(lambda: digits(9), lambda v: stdnum.nl.bsn.is_valid(v) and v[0] != "0")
    if kind == "es_dni":
        number = rng.randint(10_000_000, 99_999_999)
        return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"
    number = next(DRAWN[kind])
    return number.replace(" ", rng.choice(["", " "])) if kind == "fr_nir" else number


def render(text: str, rng: random.Random, numbers: dict | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Text without marks, and what was marked: (kind, text). `numbers` keeps drawn numbers the same for near-duplicates."""
    pieces, found, position = [], [], 0
    for count, match in enumerate(MARK.finditer(text)):
        kind, value = match.groups()
        if kind in ("CARD", "IBAN", "ID"):
            draw = {"CARD": card, "IBAN": iban, "ID": national_id}[kind]
            key = (kind, value, count)
            value = numbers.setdefault(key, draw(value, rng)) if numbers is not None else draw(value, rng)
        found.append((KINDS.get(kind, kind), value))
        pieces += [text[position : match.start()], value]
        position = match.end()
    return "".join([*pieces, text[position:]]), found


# Before the triage system went live the desk answered deliveries and returns with these.
MACROS = {
    "delivery": [
        "Thank you for contacting Tarnbrook. Most parcels arrive within three to five working days. Please allow until then before you write again.",
        "Dear customer, you can follow your parcel at any time with the tracking link in your dispatch e-mail. The Tarnbrook team",
        "Hello! We are sorry to hear that. We have passed your message on to our delivery partner, who will be in touch with you shortly.",
    ],
    "returns": [
        "Thank you for contacting Tarnbrook. You can return most items within 30 days. Please use the returns portal in your account to print a label.",
        "Dear customer, once your parcel has reached our warehouse the refund takes up to 14 days. The Tarnbrook team",
        "Hello! To start a return, please reply with your order number and a photo of the item in its packaging.",
    ],
}


DEFAULT = {
    "category": "question",
    "escalation": "none",
    "product": None,
    "order_id": None,
    "summary": "Customer contacts the support desk",
}


class Example:
    """A row on its way into the file."""

    def __init__(self, origin: str, customer: str | None, message: str, answer: str, faults=(), numbers=None, cluster=None):
        self.origin, self.customer, self.faults, self.cluster = origin, customer, list(faults), cluster
        self.message, self.pii_message = render(message, rng, numbers)
        self.answer, self.pii_answer = render(answer, rng, numbers)
        self.line: bytes | None = None  # set where the line is not simply the row
        self.marked, self.numbers, self.marked_answer = message, numbers, answer

    def row(self) -> dict:
        user = {"role": "user", "content": self.message, **({"name": self.customer} if self.customer else {})}
        return {"messages": [{"role": "system", "content": SYSTEM}, user, {"role": "assistant", "content": self.answer}]}

    def bytes(self) -> bytes:
        return self.line if self.line is not None else json.dumps(self.row(), ensure_ascii=False).encode()


def load(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / "source" / name).read_text(encoding="utf-8").splitlines()]


def record_text(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False)


def cut(text: str, share: float) -> str:
    """The beginning of a text, never in the middle of a mark."""
    return re.sub(r"(?:\{\{[^}]*\}?|\{)$", "", text[: int(len(text) * share)]).rstrip()


def typo(text: str, rng: random.Random) -> str:
    """One slip of the fingers in a word that is not marked."""
    words = text.split(" ")
    places = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha()]
    if places:
        i = rng.choice(places)
        w, k = words[i], rng.randrange(1, len(words[i]) - 2)
        words[i] = rng.choice([w[:k] + w[k + 1] + w[k] + w[k + 2 :], w[:k] + w[k + 1 :], w[:k] + w[k] + w[k:]])
    return " ".join(words)


def nearly(text: str, rng: random.Random) -> str:
    """The same message sent again with small edits."""
    edits = [
        lambda t: typo(typo(t, rng), rng),
        lambda t: rng.choice(["Hello, ", "hi again, ", "Hello once more. ", "Second try: "]) + t,
        lambda t: t + rng.choice([" Please answer.", " Thanks.", " Waiting for your reply.", " Anyone there?"]),
        lambda t: typo(t, rng).replace(" and ", " & ", 1),
        lambda t: typo(t, rng).rstrip(".!") + rng.choice(["!!", "!", "."]),
    ]
    for edit in rng.sample(edits, 2):
        text = edit(text)
    return text


def dressed(text: str, rng: random.Random) -> str:
    """The same words, other case, spacing or punctuation."""
    how = rng.randrange(4)
    if how == 0:
        return text.replace(" ", "  ", 3) + "\n"
    if how == 1:
        return text.replace(",", "").replace("!", ".")
    if how == 2:
        return "  " + text.replace(". ", ".  ").replace("'", "’")
    return text.rstrip(".!?") + "!!!"


def main() -> None:
    base = [row for name in ("a", "b", "c", "d") for row in load(f"base_{name}.jsonl")]
    places = {(f"base_{name}.jsonl", i + 1): k for k, (name, i) in enumerate((n, i) for n in "abcd" for i in range(200))}
    near = load("near_duplicates.jsonl")
    has_near = {places[tuple(_split(row["of"]))] for row in near if tuple(_split(row["of"])) in places}
    free = [k for k in range(len(base)) if k not in has_near]
    rng.shuffle(free)
    take = lambda n: [free.pop() for _ in range(n)]
    answers, labels, cut_messages, cut_answers, malformed = take(70), take(40), take(30), take(30), take(len(MALFORMED) * 2)
    examples: list[Example] = []
    of: dict[int, Example] = {}
    for k, row in enumerate(base):
        record, message, faults = dict(row["record"]), row["message"], []
        if k in answers:
            others = [r["record"] for r in base if r["record"]["order_id"] != record["order_id"] and r["record"]["order_id"]]
            record, faults = rng.choice(others), ["other_answer"]
        elif k in labels:
            wrong = [
                c for c in ("delivery", "billing", "returns", "defect", "account", "question") if c != record["category"]
            ]
            record["category"], faults = rng.choice(wrong), ["wrong_label"]
        answer = record_text(record)
        if k in cut_messages:
            message, faults = (
                cut(message, rng.uniform(0.35, 0.6)) + rng.choice(["…", "...", "…", " [truncated]"]),
                ["truncated"],
            )
        if k in cut_answers:
            answer, faults = cut(answer, rng.uniform(0.4, 0.8)), ["truncated"]
        examples.append(Example("base", row["customer"], message, answer, faults, numbers={}))
        of[k] = examples[-1]
    pool = [of[k] for k in free]
    bad: dict[tuple[str, int], Example] = {}
    for name, fault in (
        ("refusals", "refusal"),
        ("prose", "answer_format"),
        ("foreign", "language"),
        ("low_information", "low_information"),
    ):
        for number, row in enumerate(load(f"{name}.jsonl"), 1):
            answer = row["answer"] if "answer" in row else row["record"]
            answer = record_text(answer.get("record", answer)) if isinstance(answer, dict) else answer
            examples.append(Example(name, row["customer"], row["message"], answer, [fault], numbers={}))
            bad[f"{name}.jsonl", number] = examples[-1]
    clusters = 0

    def copy_of(original: Example, message: str, fault: str, answer: str | None = None) -> None:
        nonlocal clusters
        if original.cluster is None:
            clusters += 1
            original.cluster = clusters
        copy = Example(original.origin, original.customer, message, answer or original.marked_answer, [*original.faults, fault],
                       original.numbers, original.cluster)  # fmt: skip
        examples.append(copy)

    rng.shuffle(pool)
    for original in pool[:100]:
        for _ in range(1 + (rng.random() < 0.2)):
            copy_of(original, original.marked, "exact_duplicate")
    for original in pool[100:160]:
        copy_of(original, dressed(original.marked, rng), "normalised_duplicate")
    long = [e for e in pool[160:] if len(e.marked.split()) >= 15]
    for original in long[:90]:
        copy_of(original, nearly(original.marked, rng), "near_duplicate")
    for row in near:
        key = tuple(_split(row["of"]))
        original = of[places[key]] if key in places else bad[key]
        copy_of(original, row["message"], "near_duplicate")
    test = [
        json.loads(line)
        for line in (HERE.parent / "support_tickets" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for index, row in enumerate(rng.sample([r for r in test if len(r["message"].split()) >= 12], 24)):
        message = row["message"] if index % 2 else nearly(row["message"], rng)
        examples.append(Example("test", None, message, record_text(row["record"]), ["test_set"], numbers={}))
    for k, (fault, make) in zip(malformed, MALFORMED * 2):
        of[k].faults = [fault]
        of[k].line = make(of[k].row())
    tickets = [
        json.loads(line)
        for line in (HERE.parent / "support_tickets" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    # Short ones: two of them name a person, which was looked for by eye.
    short = [r for r in tickets if r["record"]["category"] in MACROS and len(r["message"].split()) <= 20]
    for number, row in enumerate(short):
        message = re.sub(r"\b(Öztürk|Nguyen)\b", r"{{NAME:\1}}", row["message"])
        macro = rng.choice(MACROS[row["record"]["category"]])
        examples.append(
            Example("macro", f"c-{6000 + number}", message, macro, ["answer_format", "canned_answer"], numbers={})
        )
    # And where an agent was in a hurry, the form's default record was left as it stood.
    named = re.compile("Hauptstraße|Okafor|Albrecht|Marek|Nguyệt|Adeyemi|Aurélie|Wójcik|Marcin|Linh|Heike")
    hurried = [
        r for r in tickets
        if r["record"]["category"] in ("billing", "defect", "account") and len(r["message"].split()) <= 20 and not named.search(r["message"])
    ]  # fmt: skip
    for number, row in enumerate(hurried):
        examples.append(
            Example("default", f"c-{7000 + number}", row["message"], record_text(DEFAULT), ["canned_answer"], numbers={})
        )
    rng.shuffle(examples)
    write(examples)


def _split(where: str) -> tuple[str, int]:
    name, number = where.split(":")
    return name, int(number)


def _dump(row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _message(row: dict, index: int, **changes) -> dict:
    row["messages"][index] |= changes
    return row


def _without(row: dict, index: int, key: str) -> dict:
    del row["messages"][index][key]
    return row


def _call(arguments: str) -> dict:
    return {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": arguments}}


def _user(row):
    return row["messages"][1]["content"]


def _answer(row):
    return row["messages"][2]["content"]


TOOLS = [
    {
        "type": "function",
        "function": {"name": "find_order", "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}},
    }
]
# (what it is in the truth file, how a good row becomes it). Those that begin with "fixable_" lose nothing when mended.
MALFORMED = [
    ("not_json", lambda r: _dump(r)[:-1]),
    ("not_json", lambda r: _dump(r) + b","),
    ("not_json", lambda r: str(r).encode()),
    ("not_json", lambda r: _dump(r)[: len(_dump(r)) // 2]),
    ("not_json", lambda r: _dump(r).replace(b'"messages":', b"messages:", 1)),
    ("not_json", lambda r: _dump(r).replace(b"}]}", b"},]}")),
    ("not_json", lambda r: _dump(r) + b" // checked"),
    ("not_json", lambda r: _dump(r).replace(b'"role"', b"\xe2\x80\x9crole\xe2\x80\x9d", 1)),
    ("several_objects", lambda r: _dump(r) + b" " + _dump(r)),
    ("not_object", lambda r: _dump(r["messages"])),
    ("not_utf8", lambda r: _dump(_message(r, 1, content=_user(r) + " café")).replace("café".encode(), "café".encode("latin-1"))),
    ("duplicate_key", lambda r: _dump(r)[:-1] + b', "messages": []}'),
    ("not_finite", lambda r: _dump(r)[:-1] + b', "score": NaN}'),
    ("lone_surrogate", lambda r: _dump(_message(r, 1, content=_user(r) + "@@")).replace(b"@@", rb"\ud83d")),
    ("control_character", lambda r: _dump(_message(r, 1, content=_user(r) + " \u0007\u0000"))),
    ("unknown_shape", lambda r: _dump({"ticket": _user(r), "label": _answer(r)})),
    ("wrong_kind", lambda r: _dump({"prompt": _user(r), "chosen": _answer(r), "rejected": "I don't know."})),
    ("field_type", lambda r: _dump({"messages": {"0": r["messages"][1], "1": r["messages"][2]}})),
    ("messages_empty", lambda r: _dump({"messages": []})),
    ("prompt_missing", lambda r: _dump({"messages": [r["messages"][0], r["messages"][2]]})),
    ("no_assistant", lambda r: _dump({"messages": r["messages"][:2]})),
    ("nothing_trained", lambda r: _dump(_message(r, 2, weight=0))),
    ("role_missing", lambda r: _dump(_without(r, 1, "role"))),
    ("role_name", lambda r: _dump(_message(r, 1, role="customer"))),
    ("role_name", lambda r: _dump(_message(r, 2, role="bot"))),
    ("content_missing", lambda r: _dump(_without(r, 1, "content"))),
    ("content_missing", lambda r: _dump(_message(r, 2, content=None))),
    ("content_type", lambda r: _dump(_message(r, 2, content=json.loads(_answer(r))))),
    ("content_empty", lambda r: _dump(_message(r, 2, content="  "))),
    ("content_part", lambda r: _dump(_message(r, 1, content=[{"type": "txt", "text": _user(r)}]))),
    ("special_token", lambda r: _dump(_message(r, 2, content=_answer(r) + "<|im_end|>"))),
    ("name_invalid", lambda r: _dump(_message(r, 1, name="customer no. 7"))),
    ("weight_invalid", lambda r: _dump(_message(r, 2, weight=0.5))),
    ("tool_calls_role", lambda r: _dump(_message(r, 1, tool_calls=[_call("{}")]) | {"tools": TOOLS})),
    ("arguments_not_json", lambda r: _dump({"messages": [*r["messages"][:2], {"role": "assistant", "tool_calls": [_call("{order: 1}")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "shipped"}, r["messages"][2]], "tools": TOOLS})),
    ("tool_unknown", lambda r: _dump({"messages": [*r["messages"][:2], {"role": "assistant", "tool_calls": [_call("{}")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "shipped"}, r["messages"][2]]})),
    ("tool_answer_unknown", lambda r: _dump({"messages": [*r["messages"][:2], {"role": "tool", "tool_call_id": "call_9", "content": "?"}, r["messages"][2]]})),
    ("fixable_other_shape", lambda r: _dump({"conversations": [{"from": "system", "value": SYSTEM}, {"from": "human", "value": _user(r)}, {"from": "gpt", "value": _answer(r)}]})),
    ("fixable_other_shape", lambda r: _dump({"instruction": SYSTEM, "input": _user(r), "output": _answer(r)})),
    ("fixable_other_shape", lambda r: _dump({"prompt": _user(r), "completion": _answer(r)})),
    ("fixable_extra_key", lambda r: _dump(r | {"ticket_id": 4711})),
    ("fixable_weight_role", lambda r: _dump(_message(r, 1, weight=1))),
    ("fixable_edge_whitespace", lambda r: _dump(_message(r, 2, content=" " + _answer(r)))),
    ("fixable_blank_line", lambda r: b"   "),
]  # fmt: skip


def write(examples: list[Example]) -> None:
    """Both files. The export starts with a byte order mark and changes its line ends in the middle, as pasted exports do."""
    lines, truth = [], []
    for number, example in enumerate(examples, 1):
        end = b"\r\n" if 400 <= number < 600 else b"\n"
        lines.append(example.bytes() + end)
        faults = list(example.faults)
        if number == 1:
            faults.append("fixable_byte_order_mark")
        if number == 400:
            faults.append("fixable_line_ending")
        readable = example.line is None
        pii = [("messages[1].content", *p) for p in example.pii_message] + [
            ("messages[2].content", *p) for p in example.pii_answer
        ]
        truth.append(
            {
                "line": number,
                "origin": example.origin,
                "customer": example.customer,
                "faults": faults,
                "cluster": example.cluster if readable else None,
                "pii": [{"field": f, "kind": k, "text": t} for f, k, t in pii] if readable else [],
            }
        )
    (HERE / "export.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    (HERE / "truth.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in truth), encoding="utf-8")


if __name__ == "__main__":
    main()
