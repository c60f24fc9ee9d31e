"""Personal data: found, and gone from everything that is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from data_prep.test_similarity import chat
from support import cpu_of

from course_utils.data_prep.pii import PII_KINDS, Redactor, find
from course_utils.errors import CourseError

# Invented texts, and what is personal in them: of each kind, in several languages, and what only looks like it.
MARKED = [json.loads(line) for line in Path(__file__).with_name("pii.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.filterwarnings("ignore:in .* script")
@pytest.mark.parametrize(("text", "pii"), [(row["text"], row["pii"]) for row in MARKED])
def test_found_and_masked_and_nothing_else(text, pii):
    masked, entities = Redactor().text(text)
    assert [[entity.kind, entity.text] for entity in entities] == pii
    for kind, value in pii:
        text = text.replace(value, f"[{kind}]", 1)
    assert masked == text


ADDRESSES = json.loads(Path(__file__).with_name("addresses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ADDRESSES["addresses"])
def test_addresses_in_four_languages_are_found(text):
    assert "ADDRESS" in {entity.kind for entity in find(text)}


@pytest.mark.parametrize("text", ADDRESSES["others"])
def test_a_product_a_date_or_a_page_with_a_number_is_no_address(text):
    assert "ADDRESS" not in {entity.kind for entity in find(text)}


def test_a_secret_in_the_arguments_of_a_call_goes():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"password": "Segel#boot", "n": 1}'}}
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]}
    assert (
        Redactor().row(row).row["messages"][1]["tool_calls"][0]["function"]["arguments"]
        == '{"password": "[SECRET]", "n": 1}'
    )


def test_a_question_before_says_what_a_number_is():
    assert [e.kind for e in find("14.03.1986", preceding="And what is your date of birth?")] == ["BIRTH_DATE"]
    assert find("14.03.1986", preceding="When did you order?") == []


@pytest.mark.parametrize(
    ("writer", "text", "name"),
    [
        ("assistant", "Dear Tarnbrook,\n\nThe lift needs a sensor.", "Tarnbrook"),
        ("assistant", "Hola, Xiaoquetzal: la llave cuesta 18 euros.", "Xiaoquetzal"),
        ("assistant", "Dear Mrs al-Qasimbrook,\n\nThank you for your message.", "al-Qasimbrook"),
        ("user", "I cannot log in.\n\nKind regards,\nThorvin Quellbrook", "Thorvin Quellbrook"),
        ("user", "No puedo entrar.\n\n- Xiaoquetzal", "Xiaoquetzal"),
        ("", "Dear Tarnbrook,\n\nThe lift needs a sensor.", None),  # a company, if a customer writes
        ("user", "Dear Tarnbrook,\n\nThe lift needs a sensor.", None),
        ("assistant", "Dear Tenant,\n\nThe lift is back.", None),
        ("assistant", "Sehr geehrte Mieterin,\n\nder Aufzug fährt.", None),
        ("assistant", "Hello, Wednesday is fine.", None),
        ("user", "It is broken.\n\nThanks in advance", None),
        ("user", "It is broken.\n\n- The manual says so", None),
    ],
)
def test_who_writes_says_what_an_unknown_name_is(writer, text, name):
    assert [entity.text for entity in find(text, writer=writer)] == ([name] if name else [])


def test_the_writer_of_a_field_is_known_from_the_role_or_the_fields_name():
    greeting = "Dear Tarnbrook,\n\nit is on its way."
    pairs = {"prompt": "Where?", "chosen": [{"role": "assistant", "content": greeting}], "rejected": "Nowhere."}
    assert [path for path, _ in Redactor().row(pairs).findings] == ["chosen[0].content"]
    assert [path for path, _ in Redactor().row({"question": "Where?", "answer": greeting}).findings] == ["answer"]
    assert not Redactor().row({"prompt": greeting}).findings


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("我叫王小明，住在北京市朝阳区建国路88号。", "Chinese"),
        ("こんにちは、山田です", "Japanese"),
        ("안녕하세요, 김민수입니다", "Korean"),
        ("สวัสดีค่ะ ฉันชื่อ สมชาย", "Thai"),
        ("اسمي محمد", "Arabic"),
        ("Меня зовут Иван, ул. Ленина 5", "Cyrillic"),
        ("我的iPhone 15 Pro Max坏了", "Chinese"),
        ("Grüße aus Köln, Łódź und Huế 🙂", ""),
        ("Find α + β where Δx = μ.", ""),
        ("The kettle is called 茶壶 in the manual that came with it.", ""),
    ],
)
def test_a_text_in_a_script_in_which_names_are_not_looked_for_says_so(text, script):
    assert Redactor().row(chat(text, "Thank you.")).script == script
    if script:
        with pytest.warns(UserWarning, match=f"{script}.*addresses.*not"):
            Redactor().text(text)


def test_an_unknown_mode_is_refused():
    with pytest.raises(CourseError, match="unknown mode"):
        Redactor("blur")


def test_what_is_found_does_not_hang_on_the_order_of_a_set():
    text = "Please handle.\n\nFrom: Grace Okafor <grace@proton.example>\n\nThe dock is dead.\nKind regards\nGrace Okafor"
    code = f"from course_utils.data_prep.pii import Redactor\nprint(Redactor('pseudonym', seed='k').text({text!r})[0])"
    results = set()
    for seed in "0123":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        results.add(done.stdout)
    assert len(results) == 1 and "Grace" not in results.pop()


def test_allowed_values_stay_also_within_what_is_found_and_from_a_generator():
    allow = ["Helio Fix 24", "Anna Öko", "Info@Tarnbrook.example"]
    assert find("Im Helio Fix 24 Tarif steht ein Preis", allow=allow) == []
    assert find("Ich bin Kundin des Anna Öko Vertrags", allow=allow) == []
    assert [entity.text for entity in find("Mein Anna Öko. Viele Grüße, Anna Bauer", allow=allow)] == ["Anna Bauer"]
    redactor = Redactor(allow=(value for value in allow))
    assert redactor.text("selin@example.org, info@tarnbrook.example")[0] == "[EMAIL], info@tarnbrook.example"
    line = "Write to info@tarnbrook.example about the kettle.\n"
    assert find(line * 200, allow=(value for value in allow)) == []


ROW = chat(
    "Hello, I am Selin Karagöz, write to selin@example.org or call +44 7700 900123.\n\nSelin",
    "Dear Selin, we write to selin@example.org.",
)


@pytest.mark.parametrize("mode", ["label", "mask", "pseudonym"])
def test_nothing_personal_is_left_and_the_rest_is(mode):
    done = Redactor(mode).row(ROW)
    text = str(done.row)
    for value in ("Selin", "Karagöz", "selin@example.org", "900123"):
        assert value not in text
    assert done.row["messages"][1]["content"].startswith("Hello, I am ")
    assert [m["role"] for m in done.row["messages"]] == ["system", "user", "assistant"]
    assert "Selin" in str(ROW)  # the row itself stays as it was
    fields = {field for field, _ in done.findings}
    assert fields == {"messages[1].content", "messages[2].content"}


def test_pseudonyms_are_the_same_in_all_rows_and_depend_on_the_seed():
    one, two = map(Redactor("pseudonym").row, (ROW, ROW))
    other = Redactor("pseudonym", seed="another").row(ROW)
    assert one.row == two.row
    assert one.row != other.row
    name = re.search(r"I am (\S+) (\S+),", one.row["messages"][1]["content"]).groups()
    assert one.row["messages"][2]["content"].startswith(f"Dear {name[0]},")


@pytest.mark.filterwarnings("ignore:in .* script")
def test_pseudonyms_are_of_the_same_kind():
    redactor = Redactor("pseudonym")
    for row in MARKED:
        changed, _ = redactor.text(row["text"])
        for kind, value in row["pii"]:
            assert value not in changed
            if kind in ("EMAIL", "CARD", "IBAN", "IP", "PHONE"):
                assert kind in {e.kind for e in find(changed)}, changed


def test_tools_roles_and_ids_are_left_alone():
    row = {"messages": [{"role": "user", "name": "c-1", "content": "hi"}, {"role": "assistant", "content": "ho"}],
           "tools": [{"type": "function", "function": {"name": "call_Tom", "description": "Mr Tom Baker"}}]}  # fmt: skip
    assert Redactor().row(row).row == row


def test_strange_texts():
    """They do no harm, neither to the call nor to what stands behind them."""
    for text in (
        "",
        " ",
        "\n\n",
        "@",
        "+",
        "((((",
        "1" * 5000,
        "A" * 5000,
        "Ünïcödé 🙂 " * 200,
        "\x00",
        "a.b" * 2000,
        "John " * 500,
    ):
        found = find(f"{text}\nwrite to selin@example.org")
        assert all(f"{text}\nwrite to selin@example.org"[e.start : e.end] == e.text for e in [*found, *find(text)])
        assert [e.text for e in found if e.kind == "EMAIL"] == ["selin@example.org"], text[:20]


def test_long_texts_are_looked_at_in_windows_and_in_time():
    """Twice the text takes about twice as long, also where every word might begin a name or an address."""
    line = "The kettle of order TB-12345 is late, says Selin Karagöz, +44 7700 900123, of 14 Mill Lane, Leeds LS2 7EW.\n"
    found = find(line * 400)
    assert len(found) == 3 * 400
    assert all((line * 400)[e.start : e.end] == e.text for e in found)
    for worst in ("Street ,", "Nguyễn )", "::Street ", "van der Aa ", "12 ", "thanks, Kazlauskaitė makes visits "):
        long = (worst * 20_000)[:48_000]
        half, whole = cpu_of(lambda text=long: find(text[:24_000])), cpu_of(lambda text=long: find(text))
        assert half < 2 and whole < 3 * half, (worst, half, whole)


def test_without_the_library_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    monkeypatch.delitem(sys.modules, "course_utils.data_prep.pii.recognizers", raising=False)
    import course_utils.data_prep.pii as package

    monkeypatch.delattr(package, "recognizers", raising=False)
    with pytest.raises(CourseError, match=r"pip install 'finetuning-course\[data\]'"):
        find("x")


def test_torch_is_not_loaded():
    code = (
        "import sys; from course_utils.data_prep.pii import find; assert find('a@b.example') and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_kind_is_marked_somewhere():
    assert {kind for row in MARKED for kind, _ in row["pii"]} == set(PII_KINDS)


@pytest.mark.parametrize(
    ("text", "fields", "left"),
    [
        ("mein drucker geht nicht. danke falk", {"patient": "Stark, Falk"}, "mein drucker geht nicht. danke [NAME]"),
        ("bonjour, ici thierry lefevre", {"patient": "Thierry Lefèvre"}, "bonjour, ici [NAME]"),
        ("schick es mir, danke falk", {"email": "falk.starkow@mail.example"}, "schick es mir, danke [NAME]"),
        ("it is broken, zendaya", {"metadata": {"first_name": "Zendaya"}}, "it is broken, [NAME]"),
        # A name that is also a word is one only where a name stands.
        ("Hope this helps. I am Hope.", {"customer": "Hope Marlowe"}, "Hope this helps. I am [NAME]."),
        (
            "Bill my insurer, the bill is wrong.\n\nBill",
            {"customer": "Bill Okonedo"},
            "Bill my insurer, the bill is wrong.\n\n[NAME]",
        ),
        ("Im Sommer ist es zu warm.", {"patient": "Rita Sommer"}, "Im Sommer ist es zu warm."),
        # Companies, logins and single words in fields that are not always a person's name nobody
        ("the kit of tarn brook broke", {"customer": "Tarn Brook Ltd", "user": "kit", "owner": "Kit"}, None),
    ],
)
def test_a_row_knows_who_it_is_about(text, fields, left):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Done."}]
    redacted = Redactor().row({"messages": messages, **fields}).row
    assert redacted["messages"][0]["content"] == (left or text)
    if "patient" in fields:
        assert redacted["patient"] == "[NAME]"


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("first_name", "harriet", "NAME"),
        ("Surname", "PEMBERTON", "NAME"),
        ("BirthDate", "12/03/1961", "BIRTH_DATE"),
        ("geboortedatum", "12-03-1961", "BIRTH_DATE"),
        ("password", "Sommer2024", "SECRET"),
        ("Username", "jhage", "HANDLE"),
        ("tenant_phone", "7700900123", "PHONE"),
        ("Postcode", "BS6 5QT", "ADDRESS"),
        ("Street", "14 Larch Close, up the hill", "ADDRESS"),
        ("national insurance", "AB 12 34 56 C", "NATIONAL_ID"),
        ("Kontonummer", "1234567", "ACCOUNT"),
        ("licencePlate", "K-AB 123", "VEHICLE"),
        # what isn't the value of such a field, or a field that only sounds like one
        ("password", "forgotten", None),
        ("phone", "not given", None),
        ("address", "unknown", None),
        ("device", "Bosch Serie 6", None),
        ("street_lamp", "lamp 4", None),
        ("phone_model", "Model 5000 XL 12345", None),
        ("birthdays_planned", "12", None),
        ("username", "none", None),
    ],
)
def test_a_column_says_what_its_values_are(field, value, kind):
    messages = [{"role": "user", "content": "It leaks."}, {"role": "assistant", "content": json.dumps({field: value})}]
    redacted = Redactor().row({"messages": messages, field: value, "metadata": {field: value}}).row
    expected = f"[{kind}]" if kind else value
    assert redacted[field] == redacted["metadata"][field] == expected
    assert json.loads(redacted["messages"][1]["content"]) == {field: expected}


def test_a_message_that_names_a_field_says_nothing_of_the_next_one():
    messages = [{"role": "user", "content": "Password"}, {"role": "assistant", "content": "At least 12 signs, please."}]
    assert Redactor().row({"messages": messages}).row["messages"] == messages


def test_an_allowed_name_stays_although_the_row_is_about_it():
    row = {
        "messages": [{"role": "user", "content": "hello falk"}, {"role": "assistant", "content": "Hi."}],
        "patient": "Falk",
    }
    assert Redactor(allow=["falk"]).row(row).row["messages"][0]["content"] == "hello falk"
    assert Redactor().row(row).row["messages"][0]["content"] == "hello [NAME]"
