"""Personal data: found, and gone from everything that is written."""

import re

import pytest
from data_prep.test_similarity import chat
from support import cpu_of

from course_utils.data_prep.pii import PII_KINDS, Redactor, find
from course_utils.errors import CourseError

FOUND = [
    ("NAME", "Kind regards,\nSelin Karagöz", "Selin Karagöz"),
    ("NAME", "My name is Olumide Fashola-Briggs and I am cross.", "Olumide Fashola-Briggs"),
    ("NAME", "I spoke to Mrs Okafor on Monday.", "Okafor"),
    ("NAME", "lamp is broken, thx, jana", "jana"),
    ("NAME", "My husband Tom signed for it.", "Tom"),
    ("NAME", "Please ask for Jan van der Berg at the desk.", "Jan van der Berg"),
    ("NAME", "Dear Tarnbrook, nothing came.\n\nJ. R. Whitcombe", "J. R. Whitcombe"),
    ("EMAIL", "他的电子邮件是johndoe@example.com。", "johndoe@example.com"),
    ("EMAIL", "写给老板@公司.com吧", "写给老板@公司.com吧"),
    ("EMAIL", "会议邀请john.doe@example.com和jane.roe@example.com。", "john.doe@example.com"),
    ("EMAIL", "log in as root@10.0.0.7 then", "root@10.0.0.7"),
    ("EMAIL", "邮箱wang.xm@example.com，谢谢", "wang.xm@example.com"),
    ("PHONE", "我叫王小明，手机号13812345678，住在北京市。", "13812345678"),
    ("PHONE", "电话+8613812345678，谢谢", "+8613812345678"),
    ("PHONE", "我的号码是138 1234 5678。", "138 1234 5678"),
    ("PHONE", "电话：１３８１２３４５６７８", "１３８１２３４５６７８"),
    ("PHONE", "電話は090-1234-5678です", "090-1234-5678"),
    ("PHONE", "전화 010-1234-5678입니다", "010-1234-5678"),
    ("PHONE", "座机010-62345678，", "010-62345678"),
    ("CARD", "我的卡号是501800000009，谢谢", "501800000009"),
    ("CARD", "用4539148803436467支付的", "4539148803436467"),
    ("NATIONAL_ID", "身份证号11010519491231002X。", "11010519491231002X"),
    ("NAME", "我是Selin Karagöz，请回复", "Selin Karagöz"),
    ("PHONE", "**My phone: 020 7946 0123** = the fastest way", "020 7946 0123"),
    ("IP", "signed in from 203.0.113.77", "203.0.113.77"),
    ("ADDRESS", "We live at 1929 Wall Street, New York, NY 10005", "1929 Wall Street, New York, NY 10005"),
    ("ADDRESS", "Kolpingring 5, 85560 Ebersberg", "Kolpingring 5, 85560 Ebersberg"),
    ("ADDRESS", "Send it to 14 Mill Lane, Leeds LS2 7EW. Thanks.", "14 Mill Lane, Leeds LS2 7EW"),
    ("ADDRESS", "Wohnort: Hauptstr. 12, 50667 Köln", "Hauptstr. 12, 50667 Köln"),
    ("ADDRESS", "at 12 rue des Lilas, 69003 Lyon please", "12 rue des Lilas, 69003 Lyon"),
    ("ADDRESS", "2210 Alder Creek Rd Apt 4B, Boise, ID 83702 is right", "2210 Alder Creek Rd Apt 4B, Boise, ID 83702"),
    ("ADDRESS", "ul. Długa 8/12, 00-238 Warszawa", "ul. Długa 8/12, 00-238 Warszawa"),
    ("PHONE", "Call me on +44 7700 900123.", "+44 7700 900123"),
    ("PHONE", "my mobile: 07700 900 123", "07700 900 123"),
    ("PHONE", "phone (202) 555-0143", "(202) 555-0143"),
    ("EMAIL", "write to selin.k+shop@mail.example.org, please", "selin.k+shop@mail.example.org"),
    ("CARD", "card 4539 1488 0343 6467 was charged", "4539 1488 0343 6467"),
    ("IBAN", "pay to DE89 3704 0044 0532 0130 00 today", "DE89 3704 0044 0532 0130 00"),
    ("CARD", "card 4539-1488-0343-6467 was charged", "4539-1488-0343-6467"),
    ("CARD", "card 4539.1488.0343.6467 was charged", "4539.1488.0343.6467"),
    ("CARD", "card 4539\u00a01488\u00a00343\u00a06467 was charged", "4539\u00a01488\u00a00343\u00a06467"),
    ("CARD", "card 4539–1488–0343–6467 was charged", "4539–1488–0343–6467"),
    ("IBAN", "pay to de89 3704 0044 0532 0130 00 today please", "de89 3704 0044 0532 0130 00"),
    ("IBAN", "paid on 18 April by transfer from FR7018682959737940021514854, thanks", "FR7018682959737940021514854"),
    ("IBAN", "pay to de89370400440532013000", "de89370400440532013000"),
    ("IBAN", "pay to GB29-NWBK-6016-1331-9268-19, then wait", "GB29-NWBK-6016-1331-9268-19"),
    (
        "IBAN",
        "pay to DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000 now",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
    ),
    ("PHONE", "Call 202-555-0143x459 now", "202-555-0143x459"),
    ("PHONE", "phone (202) 555-0143 ext. 459", "(202) 555-0143 ext. 459"),
    ("PHONE", "my number is +44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    ("PHONE", "reach me at (+49) 30 901820", "(+49) 30 901820"),
    ("PHONE", "tel +33.1.42.68.53.00", "+33.1.42.68.53.00"),
    ("PHONE", "Somebody call me: 416.555.0138.", "416.555.0138"),
    ("PHONE", "tel 01.42.68.53.00", "01.42.68.53.00"),
    ("PHONE", "call 0049 30 901820", "0049 30 901820"),
    ("IP", "login from 203.0.113.7 at night", "203.0.113.7"),
    ("IP", "from 2001:db8::1428:57ab again", "2001:db8::1428:57ab"),
    ("NATIONAL_ID", "my NI number is AB 12 34 56 C", "AB 12 34 56 C"),
    ("NATIONAL_ID", "my BSN, 111222333, is on it", "111222333"),
    ("NATIONAL_ID", "PESEL 44051401359", "44051401359"),
    ("NATIONAL_ID", "NHS number 943 476 5919 cannot be opened", "943 476 5919"),
    ("NATIONAL_ID", "NHS no: 9434765918, a digit is wrong", "9434765918"),
    ("NATIONAL_ID", "patient 943-476-5919 is there twice", "943-476-5919"),
    ("NATIONAL_ID", "485 777 3457 has the wrong address", "485 777 3457"),
    ("NATIONAL_ID", "the label of 4857773457 is blank", "4857773457"),
    ("NATIONAL_ID", "my passport number is 925665416, scan attached", "925665416"),
    ("NATIONAL_ID", "paspoort nr. NW1234567 klopt niet", "NW1234567"),
    ("BIRTH_DATE", "born 14.03.1986 in Bonn", "14.03.1986"),
    ("BIRTH_DATE", "DOB: March 14, 1986", "March 14, 1986"),
]


@pytest.mark.parametrize(("kind", "text", "value"), FOUND, ids=[f"{k} {v[:20]}" for k, _, v in FOUND])
def test_found(kind, text, value):
    assert (kind, value) in {(entity.kind, entity.text) for entity in find(text)}, find(text)


@pytest.mark.parametrize(
    "text",
    [
        "First store: 50000-5000=45000 pounds\n45000-9000=36000 pounds",
        "It can carry 11,600-4000-4800=<<11600-4000-4800=2800>>2800 pounds.",
        "The chance is $P(E) = 1033/2851$ here.",
        "The total number of flowers remaining in the garden is 20000-12000 = 8000.",
        "4: 3593290 - 3124600 = 468690\n468690 - 78115 * 6 = 468690 - 468690 = 0",
        "Subtract the scores to find the last score he needs to earn: 340 - 80 - 75 - 90 = 95 marks.",
        "83265 / 305 = 275.43397884615385",
        "Calculate 355909190063-746 step by step.",
        "During 5 hours, a spider can catch 9 flies.",
        "In 2020, Meezan Bank declared a dividend.",
        "uses: devcontainers/ci@v0.2",
        "The subnet mask is 255.255.255.0, the loopback 127.0.0.1; ping 8.8.8.8.",
        "Q: Is the sky blue?\nA: It is.\nStudent B:\nOK",
        "1. They are tolerated well. - False.",
        "Order TB-66238 of 14.03.2026 has tracking number 4539148803436468.",
        "Ticket 4857773457, asset 4857773457 and the printer 4857773457 are old.",
        "INC4857773457 was closed, and 4857773456 as well.",
        "The passport photos 20261 and the passport scanner 4857773 are here.",
        "The firmware is version 2.4.1.0 and the serial number 0071-33-9284.",
        "The Hanna Berg lamp is 120x80 cm and costs 1,499.00.",
        "Will you be open on Monday 14.03. or in May?",
        "My card ending 4242 was charged twice.",
        "Is it made in London or in Berlin, and who is at the door?",
        "Invoice 2026-11-0042 over 129.00 EUR, article 978-3-16-148410-0",
        "Please reply soon. Thank you very much in advance.",
        "The loss fell to 0.9235687435 after an epoch.",
        "It lies at 51.507351 -0.127758, on the river.",
        "It was published as 0-306-40615-2 and later as 978-0-306-40615-7.",
        "Build 10.0.19041.1234 and commit 9f86d081884c7d659a2feaa0c55ad015 are affected.",
        "The wars of 1914-1918 and 1939-1945 are compared.",
        "At 2024-01-15 10:30:00 the sum was 1 2 3 4 5 6 7 8 9 10.",
        "We flew to San Francisco and then to Los Angeles.",
        "San Francisco is larger than New Orleans.",
        "Protein-rich food is good for athletes.",
        "Eat Protein-rich and Sugar-free meals.",
        "The bathroom light went out at 12:30:45.",
        "订单号13812345678还没有到，快递单号是13912345678。",
        "2024年11月28日买的，价格13999元。",
    ],
)
def test_not_found(text):
    assert find(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Posted on December 6, 2013 Question: which one?",
        "It fell in the 1929 Wall Street crash.",
        "By 2020, Meezan Bank grew.",
    ],
)
def test_a_year_is_no_part_of_an_address(text):
    assert "ADDRESS" not in {entity.kind for entity in find(text)}


ORDINARY = [
    "Der Vertrag läuft noch einen Monat, danach 12 Tage. Bei Fragen rufen Sie uns an.",
    "Hallo Vertriebs-Team,\n\nkönnen Sie das Konto öffnen?\n\nViele Grüße",
    "Schließen Sie das Fenster. Unter Konto → Rechte ist es offen.",
    "Unsere Buchhaltung braucht die Rechnung; mein Geburtsdatum ist ihr egal.",
    "Kunt u de factuur sturen?\n\nBedankt",
    "Choisissez Paramètres, puis le bouton est là.\n\nCordialement",
    "Choisissez Paramètres → Langue.",
    "How do I stop it?\n\nCheers",
    "Restarting Firefox did not help.",
]
CUED = [
    ("Ich heiße Sabine und warte seit Tagen auf die Rechnung.", "Sabine"),
    ("Hallo Frau Lindqvist,\n\ndie Rechnung ist bezahlt.", "Lindqvist"),
    ("Die Rechnung ist nicht da.\n\nViele Grüße\nMatthias", "Matthias"),
    ("Das hat mir Gerda Neumann am Telefon gesagt.", "Gerda Neumann"),
    ("Beste heer van der Meulen,\n\nde factuur is betaald.", "Meulen"),
    ("Je m'appelle Hortense, et la facture n'est pas là.", "Hortense"),
    ("La factura no está. Me llamo Virgilio Montenegro.", "Virgilio Montenegro"),
    ("Hi Amber,\n\nthe index was missing.", "Amber"),
]


@pytest.mark.parametrize("text", ORDINARY)
def test_words_that_other_languages_write_with_a_capital_are_no_names(text):
    assert find(text) == []


@pytest.mark.parametrize(("text", "name"), CUED)
def test_a_greeting_a_title_or_a_surname_makes_a_word_of_another_language_a_name(text, name):
    assert [name in entity.text for entity in find(text)] == [True], find(text)


SECRETS = [
    ("Use ghp_" + "aB3dE6gH9k" * 3 + "mN2pQ5 for the clone.", "ghp_" + "aB3dE6gH9k" * 3 + "mN2pQ5"),
    ("Our key sk-proj-" + "Zx9Yw8Vu7T" * 4 + " leaked", "sk-proj-" + "Zx9Yw8Vu7T" * 4),
    ("denied for AKIAQ4W8E2R6T1Y5U3I7 since May", "AKIAQ4W8E2R6T1Y5U3I7"),
    ("the bot xoxb-123456789012-abcdefGHIJ is silent", "xoxb-123456789012-abcdefGHIJ"),
    ("hf_" + "QwErTyUiOp" * 3 + " fails", "hf_" + "QwErTyUiOp" * 3),
    ("curl -H 'Authorization: Bearer mF_9.B5f-4.1JqM2xY7' x", "mF_9.B5f-4.1JqM2xY7"),
    ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP ok",
     "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP"),
    ("Look:\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK=\n-----END RSA PRIVATE KEY-----\n?",
     "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK=\n-----END RSA PRIVATE KEY-----"),
    ("My password is Segel#boot, please.", "Segel#boot"),
    ("Das Passwort lautet Kranich77!.", "Kranich77!"),
    ("Le mot de passe est « Rivage88 »", "Rivage88"),
    ("Mi contraseña es Camino_31.", "Camino_31"),
    ("wachtwoord: fiets.1984", "fiets.1984"),
    ('export API_KEY="q8w7e6r5t4"', "q8w7e6r5t4"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SECRETS)
def test_secrets_are_found_and_masked(text, value):
    assert ("SECRET", value) in {(entity.kind, entity.text) for entity in find(text)}, find(text)
    assert Redactor().text(text)[0] == text.replace(value, "[SECRET]")
    assert value not in Redactor("pseudonym").text(text)[0]


@pytest.mark.parametrize(
    "text",
    ["My password is wrong!", "The password is case-sensitive and expires.", "Das Passwort ist abgelaufen!",
     "password: ********", "API key: <YOUR_KEY_1>", "password={{user.pw1}}", "token = os.environ['T0KEN']",
     "The context is 128 tokens; token: 128,000",
     "Is the password in 1Password?", "sk-learn-estimators-for-beginners are easy", "password = getpass(prompt1)"],
)  # fmt: skip
def test_talk_of_secrets_is_no_secret(text):
    assert [entity for entity in find(text) if entity.kind == "SECRET"] == []


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


def test_allowed_values_stay():
    assert find("write to info@tarnbrook.example", allow=["Info@Tarnbrook.example"]) == []


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


def test_allowed_values_may_come_from_a_generator():
    redactor = Redactor(allow=(value for value in ["info@tarnbrook.example"]))
    assert redactor.text("selin@example.org, info@tarnbrook.example")[0] == "[EMAIL], info@tarnbrook.example"
    line = "Write to info@tarnbrook.example about the kettle.\n"
    assert find(line * 200, allow=(value for value in ["info@tarnbrook.example"])) == []


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
    for kind, text, value in FOUND:
        if kind in ("EMAIL", "CARD", "IBAN", "IP", "PHONE"):
            changed, _ = redactor.text(text)
            assert value not in changed
            assert kind in {e.kind for e in find(changed)}, changed


def test_tools_roles_and_ids_are_left_alone():
    row = {"messages": [{"role": "user", "name": "c-1", "content": "hi"}, {"role": "assistant", "content": "ho"}],
           "tools": [{"type": "function", "function": {"name": "call_Tom", "description": "Mr Tom Baker"}}]}  # fmt: skip
    assert Redactor().row(row).row == row


def test_arguments_of_calls_are_redacted():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"mail": "selin@example.org"}'}}
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]}
    assert "selin@" not in str(Redactor().row(row).row)


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
    for worst in ("Street ,", "Nguyễn )", "::Street ", "van der Aa ", "12 "):
        long = (worst * 20_000)[:48_000]
        half, whole = cpu_of(lambda text=long: find(text[:24_000])), cpu_of(lambda text=long: find(text))
        assert half < 2 and whole < 3 * half, (worst, half, whole)


def test_without_the_library_one_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.delitem(sys.modules, "course_utils.data_prep.pii.recognizers", raising=False)
    import course_utils.data_prep.pii as package

    monkeypatch.delattr(package, "recognizers", raising=False)
    with pytest.raises(CourseError, match=r"pip install 'finetuning-course\[data\]'"):
        find("x")


def test_torch_is_not_loaded_and_not_lost():
    import subprocess
    import sys

    code = (
        "import sys; from course_utils.data_prep.pii import find; assert find('mail a@b.example'); "
        "assert 'torch' not in sys.modules, 'loaded'; import transformers, torch; "
        "assert transformers.utils.is_torch_available(); transformers.AutoModelForCausalLM.from_config"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_kind_has_a_place():
    from course_utils.data_prep.pii.recognizers import ENTITIES
    from course_utils.data_prep.pii.redaction import PRECEDENCE

    assert {*ENTITIES.values(), "NAME", "ADDRESS", "SECRET"} == set(PII_KINDS) == set(PRECEDENCE)


@pytest.mark.parametrize(
    "text",
    ["card 4000000000000000006", "Visa 4917 6100 0000 0000 003", "mastercard 2223003122003222", "maestro 501800000009",
     "my JCB 2131 0000 0000 001", "6759649826438453 is my card"],
)  # fmt: skip
def test_cards_of_every_issuer_and_length_are_found(text):
    assert [entity.kind for entity in find(text)] == ["CARD"]


@pytest.mark.parametrize(
    "text",
    ["x <- NA", "df[is.na(df)] <- NA", "Let's meet on Jan 28.", "It was 3 Jan 2024", "NYC, GA", "The ROC AUC was 0.93",
     "ROC AUC", "I love NYC.", "Set x <- NA when it fails in GA",
     "order 501800000009 of May"],
)  # fmt: skip
def test_code_dates_and_abbreviations_are_no_names(text):
    assert list(find(text)) == []
