"""What redaction may touch: text that somebody wrote. Pictures, addresses of pages, ids and JSON's structure stay."""

import base64
import json
import random
import re

import pytest
from data_prep.test_similarity import chat

from course_utils.data_prep.pii import Redactor, find
from course_utils.data_prep.pii.redaction import pseudonym

MODES = ("label", "mask", "pseudonym")
WHO = "I am Selin Karagöz, selin@example.org."


def pictures(count=200):
    """Random bytes as base64, with line breaks in every other one."""
    rng = random.Random(0)
    for index in range(count):
        data = base64.b64encode(rng.randbytes(600)).decode()
        yield "\r\n".join(data[i : i + 76] for i in range(0, len(data), 76)) if index % 2 else data


def test_nothing_is_found_in_a_picture():
    for data in pictures():
        for text in (f"data:image/png;base64,{data}", f"Look: {data}\nwhat is it?", data):
            assert find(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "https://shop.example/u/selin.karagoz@example.org?phone=+447700900123&card=4111111111111111",
        "http://192.168.10.12:8080/login",
        "https://en.example/wiki/Selin_(name)/+447700900123",
        "data:text/plain,selin@example.org",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "9b74c9897bac770ffc029102a200c5de4111111111111111",
    ],
)
def test_what_nobody_wrote_stays_in_a_text_and_what_stands_beside_it_goes(text):
    row = chat(f"See {text} please. {WHO}", "Dear Selin")
    done = Redactor().row(row)
    said = done.row["messages"][1]["content"]
    assert text in said
    assert "Selin Karagöz" not in said and not said.endswith("selin@example.org.")


def test_a_name_known_from_the_text_stays_within_an_address():
    row = chat(f"{WHO} My page: https://selin.example/Selin", "Dear Selin, https://selin.example/Selin is down.")
    done = Redactor().row(row)
    assert done.row["messages"][2]["content"] == "Dear [NAME], https://selin.example/Selin is down."


def test_parts_that_are_no_text_stay():
    parts = [
        {"type": "text", "text": WHO},
        {"type": "image_url", "image_url": {"url": "selin@example.org/4111111111111111.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "+44 7700 900123", "format": "wav"}},
    ]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Dear Selin"}],
           "images": ["selin@example.org.png"], "id": "4111111111111111", "user_id": "+447700900123"}  # fmt: skip
    done = Redactor().row(row)
    assert done.row["messages"][0]["content"][1:] == parts[1:]
    assert done.row["messages"][0]["content"][0]["text"] != WHO
    assert {key: done.row[key] for key in ("images", "id", "user_id")} == {
        key: row[key] for key in ("images", "id", "user_id")
    }


ARGUMENTS = [
    '{"mail": "selin@example.org", "selin@example.org": 1}',
    '{"card": 4111111111111111, "phone":  447700900123, "who": "Selin Karagöz"}',
    '{"text": "Kind regards,\\nSelin Karagöz\\n\\"Selin\\" \\u00fc +44 7700 900123", "list": ["selin@example.org", ["x"]]}',
    '{"order_id": "4111111111111111", "national_id": "selin@example.org"}',
    '["selin@example.org"]',
    '[{"order_id": "7"}, "selin@example.org"]',
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", ARGUMENTS)
def test_json_stays_json_with_its_keys_numbers_and_spacing(text, mode):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}
    messages = [{"role": "user", "content": WHO}, {"role": "assistant", "content": text, "tool_calls": [call]}]
    done = Redactor(mode).row({"messages": messages})
    message = done.row["messages"][1]
    for changed in (message["content"], message["tool_calls"][0]["function"]["arguments"]):
        assert without_values(changed) == without_values(text)  # all but the texts, byte for byte
        was, now = json.loads(text), json.loads(changed)
        if isinstance(was, dict):
            assert list(now) == list(was)
            assert [v for v in now.values() if isinstance(v, int)] == [v for v in was.values() if isinstance(v, int)]
            assert now.get("order_id") == was.get("order_id")
        assert "Karagöz" not in changed
        assert "selin@" not in changed.replace('"selin@example.org": 1', "")


def without_values(text):
    return re.sub(r'("(?:[^"\\]|\\.)*")(\s*:)?', lambda match: match.group() if match.group(2) else '""', text)


def test_arguments_as_an_object_are_redacted_in_their_texts():
    arguments = {
        "name": "Selin Karagöz",
        "role": "selin@example.org",
        "id": "4111111111111111",
        "n": [1, {"mail": "selin@example.org"}],
    }
    call = {"type": "function", "function": {"name": "selin", "arguments": arguments}}
    row = {"messages": [{"role": "user", "content": WHO}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    done = Redactor().row(row)
    function = done.row["messages"][1]["tool_calls"][0]["function"]
    assert function["name"] == "selin"
    assert function["arguments"] == {
        "name": "[NAME]",
        "role": "[EMAIL]",
        "id": "4111111111111111",
        "n": [1, {"mail": "[EMAIL]"}],
    }


def test_a_long_word_and_a_hyphened_name_are_still_text():
    assert [e.kind for e in find("Write to " + "a" * 50 + "@example.org now")] == ["EMAIL"]
    assert [e.text for e in find("My IBAN is DE89370400440532013000.")] == ["DE89370400440532013000"]


# One person, one name


def invented(kind, text):
    return pseudonym(kind, text, 0)


def test_a_person_keeps_one_pseudonym_however_the_name_is_written():
    said = [
        invented("NAME", text)
        for text in ("Selin Karagöz", "selin karagöz", "SELIN KARAGÖZ", "Selin Karagoz", "Selin Karagöz’s")
    ]
    assert {text.casefold().removesuffix("’s") for text in said} == {said[0].casefold()}
    assert said[1].islower() and said[2].isupper() and said[4].endswith("’s")
    first, last = said[0].split()
    assert invented("NAME", "Karagöz") == last
    assert invented("NAME", "Mr. Karagöz") == f"Mr. {last}"
    assert invented("NAME", "Anna-Selin").endswith(f"-{first}")
    assert not {"Li", "Wu"} & set(invented("NAME", "Li Wu").split())
    assert invented("PHONE", "+44 7700 900123") == invented("PHONE", "07700 900123")


def test_a_pseudonym_that_is_somebody_elses_name_is_not_changed_again():
    """Ten people whose pseudonyms are names of others of them."""
    people = ["Smith"]
    while len(people) < 10 and (name := invented("NAME", people[-1])) not in people:
        people.append(name)
    assert len(people) > 3
    text = "\n".join(f"I spoke to Mrs {name}." for name in people)
    found = [e.text for e in find(text)]
    done = Redactor("pseudonym").row(chat(text, text))
    for message in done.row["messages"][1:]:
        said = re.findall(r"Mrs (.+?)\.\n?", message["content"])
        assert len(found) > 3
        assert [now for now, was in zip(said, people) if was in found] == [invented("NAME", n) for n in people if n in found]


def test_the_value_of_a_key_for_names_is_a_name():
    row = chat("When will you tune the pipes?", '{"customer_name": "Quendolin Zett", "product_name": "Rose"}')
    row |= {
        "contact": {"name": "Oliver Brown", "email": "o.brown@gmail.com"},
        "meta": {"first_name": "Tamsin", "name": "v1"},
    }
    done = Redactor().row(row).row
    assert done["messages"][2]["content"] == '{"customer_name": "[NAME]", "product_name": "Rose"}'
    assert done["contact"] == {"name": "[NAME]", "email": "[EMAIL]"}
    assert done["meta"] == {"first_name": "[NAME]", "name": "v1"}
