"""What finds numbers: by their form, their check digits (python-stdnum, libphonenumber), and the words around them.

Names are found in `names`, and addresses in `addresses`.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

import phonenumbers
from stdnum import iban, isbn, luhn
from stdnum.gb import nhs
from stdnum.us import ssn

from course_utils.data_prep.similarity import WITHOUT_SPACES

REGIONS = tuple("US GB IE DE FR ES IT NL BE PL AT CH PT SE GR TR IN NG KE EG UA VN BR AU ZA".split())
EAST_ASIAN_REGIONS = ("CN", "TW", "HK", "JP", "KR", "TH")  # only within text of these countries
CHINESE_MOBILE = re.compile(r"1[3-9]\d{9}")  # written without separators
GAP = "\u3000"  # the ideographic space, which is no part of a word, a number or a name
ATTACHED = re.compile(rf"{WITHOUT_SPACES.pattern}|[\uac00-\ud7a3]")  # letters that stand beside a number without a space
NARROW = str.maketrans("０１２３４５６７８９＋－（）：", "0123456789+-():")
MONTHS = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|"
    r"januar|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|mars|avril|juin|juillet|août|septembre|octobre|novembre|décembre|enero|febrero|marzo|"
    r"stycznia|lutego|marca|kwietnia|maja|czerwca|lipca|sierpnia|września|października|listopada|grudnia|januari|februari|maart|mei|augustus|"
    r"janeiro|fevereiro|março|maio|junho|julho|setembro|outubro|novembro|dezembro|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|novembre|dicembre)"
)
DATE = re.compile(
    r"(?<![\w./-])(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]{1,2}\d{1,2}[-/. ]{1,2}(?:19|20)?\d{2}|"
    rf"\d{{1,2}}(?:st|nd|rd|th|\.)?(?: (?:of|de))?[ -]{MONTHS}\.?,?(?: de)?[ -](?:19|20)?\d{{2}}|{MONTHS}\.? \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)?\d{{2}})(?![\w/-])",
    re.IGNORECASE,
)
BORN = re.compile(
    r"\b(?:born|d\.?o\.?b\.?|f\.? ?nac\.?|birth(?: ?date|day)?s?|date of birth|bday|b-day|geboren|geb|née?|nacid[oa]|nacimiento|nac[ií]|nació|naissance|nat[oa]|geburtsdatum|urodz\w+|nasci(?:d[oa])?|geboortedatum|"
    r"birthdate|ur\.|urodzon[ya])(?!\w)",
    re.I,
)
NOT_BORN = re.compile(
    r"\b(?:order(?:ed)?|bought|purchased?|deliver(?:y|ed)?|invoice|paid|charged|appointment|due|party|present|gift|celebrat\w+|bestell\w*|gekauft|geliefert|rechnung|"
    r"termin|pedido|ped[ií]|compr[éóa]\w*|factura|entreg\w+|cita|command\w+|achet\w+|livr\w+|facture|ordin\w+|comprat\w+|consegn\w+|fattura|gekocht|geleverd|factuur)\b[^.]*$",
    re.I,
)
PHONE = re.compile(
    r"(?<![\w.@/#-])(?:\(?\+|00)?[\d(][\d ().\u00a0\u202f\u2011/\-–]{5,20}\d(?P<extension>[ ,]{0,2}(?:x|ext\.?|extension|durchwahl|poste)[ .:]{0,2}\d{1,6})?"
    r"(?![\w@]|[.,]\d)",
    re.IGNORECASE,
)
# Numbers in groups that are not phone numbers: decimals and coordinates, dates and years, versions, enumerations.
HOURS = re.compile(r"\d{1,2}[.:]\d\d\s*[-–]\s*\d{1,2}[.:]\d\d")  # "7.30-15.00"
NOT_PHONE_SHAPED = re.compile(
    r"\d+\.\d+(?:\s+[/–-]\s+\d+\.\d+)*|.*(?<![\d.])-?\d{1,3}\.\d{4,}.*|.*(?<!\d)(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}(?!\d).*|.*(?<!\d)\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d(?!\d).*|"
    r"(?:1\d{3}|20\d\d)(?:\W{1,3}(?:1\d{3}|20\d\d))+|[1-9]\d?(?:\.\d+){2,}|\d(?:\W{1,3}\d)+|[1-9]\d?(?:\W{1,3}\d{1,2})+"
)
AMERICAN = re.compile(r"\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}")
FRENCH = re.compile(r"0[1-9](?:[ .]\d\d){4}")
SEPARATOR = re.compile(r"(?<=\d)[^\w\s,;:+/](?=\d)|(?<=\d)[\u00a0\u202f\u2007\u2009](?=\d)")
SAME_WIDTH = {ord(mark): "-" for mark in ".\u00a0\u202f\u2007\u2009\u2011–—_"}
# A lookahead, so that a match that is not an IBAN, as in "on 18 April from DE89 …", does not consume the one after it.
IBAN = re.compile(
    r"(?<![^\W_])(?=([A-Za-z]{2}[ .\u00a0\u202f\u2011–-]?\d{2}(?:[ .\u00a0\u202f\u2011–-]?[A-Za-z0-9]){11,30}))"
)
CALL = re.compile(
    r"(?:电话|電話|手机|手機|携帯|拨打|撥打|致电|热线|传真|联系|聯絡|连絡|連絡|전화|연락|휴대폰|핸드폰|โทร|\b(?:phone|tel|telephone|téléphone|telefon|tél|mobile|mob|cell|cellphone|call|ring|text|whatsapp|sms|fax|handy|mobiel|landline|reach|line|contact|answer|number|dial|"
    r"voicemail|callback|(?<!-)[mtp]|ph|telefonnummer|mobil|rufen|anrufen|rückruf|erreich\w+|portable|joindre|(?:r?appell?e|chiama)\w+|cellulare|telefono|teléfono|móvil|celular|"
    r"ll[aá]m[ae]n?(?:me|nos)?|recado|nachrichten an|llamar\w*|bellen|belt|gebeld|terugbel\w*|(?:za)?dzwoni[ćę]\w*|bel|bereikbaar|nummer|numéro|número|numero|numer(?:em|u)?)\b)[^\n]{0,40}$",
    re.IGNORECASE,
)
OTHER_NUMBER_WORDS = re.compile(
    r"(?:订单|訂單|单号|單號|运单|编号|編號|流水号|身份证|身分證|卡号|卡號|注文|伝票|주문|송장)[^\W\d]{0,4}[\s:：]*$|\b(?:order|tracking|track|invoice|serial|s/n|sn|model|ref(?:erence)?|ticket|case|claim|receipt|batch|lot|article|item|sku|ean|barcode|isbn|policy|meter|"
    r"parcel|shipment|voucher|coupon|gift ?card|booking|reservation|confirmation|customer|account|contract|licen[cs]e|imei|iccid|version|v|firmware|build|parts?|teil|ersatzteil|pièce|część|części|sensor|geber|capteur|czujnik|"
    r"postcode|zip|room|gate|pin|code|id|amount|price|total|eur|usd|gbp|card|visa|mastercard|amex|iban|sort|routing|pesel|bsn|ssn|nir|dni|tax|vat|insurance|security|nhs|"
    r"(?:kunden|bestell|rechnungs|auftrags|sendungs|vertrags|serien|artikel|klant|order|factuur|bestel|pakket)nummer|bestellung|rechnung|auftrag|sendung|vertrag|commande|facture|"
    r"colis|client|contrat|suivi|série|pedido|factura|cliente|contrato|envío|seguimiento|serie|ordine|fattura|spedizione|contratto|bestelling|factuur|dossier|zaak|spraw[aęy]|expediente|vorgang|aktenzeichen|kenmerk|zgłoszeni[ae])"
    r"(?:\.|:|#| no\.?:?| nr\.?:?| number| num| code| is| was| nummer| num[eé]ro| número| n[°º]| n\.º| ist| lautet| est| es| è|,)*[ :#]*(?:[a-z]{1,3}[- ]?)?$",
    re.IGNORECASE,
)
AS_PHONE = re.compile(  # "0201/337908 als Rückrufnummer", "... as your contact number"
    r" (?:als|as|comme|como|come|jako) (?:\w+ ){0,2}?(?:rückruf|ruf|kontakt|contact|phone|call|telefon|tele?f|terugbel|numéro|número)\w*",
    re.IGNORECASE,
)
WEAK_CALL = re.compile(r"(?:number|nummer|num[eé]ro|número|numer(?:em|u)?|line|contact|reach|answer|t|p|m)\b", re.IGNORECASE)
COMMAND_OPTION = re.compile(
    r"(?:^|\s)--?[a-zA-Z][\w-]*[= ]$|\bip[46]:$"
)  # "-p 2222" of a command, "ip4:" of a mail server's record
VERSION = re.compile(
    r"\b(?:versi\w+|ver|v|firmware|software|app|update|release|build|os|ios|android|fw|patch|driver|mise à jour|aktualisier\w*|actualiz\w+|bijgewerkt|bijwerken)\b[^.\n]{0,25}$|[vV]$",
    re.IGNORECASE,
)
# What stands before and after a number in arithmetic: "45000-9000=36000", "P(E) = 1033/2851", "468690 - 78115 * 6".
CALCULATED_BEFORE = re.compile(r"(?:[\d)}%]\s*=|[\d)]\s*[*×÷^]|\d\s+\+\s)[\s$(]*$")
CALCULATED_AFTER = re.compile(r"[\s)]*(?:=\s*[\d(<$£€-]|[*×÷^]\s*[\d(]|\+\s+[\d(])")
LONGEST_CARD_GROUP = 6  # digits between the separators of a card number
NOBODYS_IPS = frozenset("8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9".split())  # public name servers
EMAIL = re.compile(
    r"(?<![\w.+%-])[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*@[\w](?:[\w-]*[\w])?(?:\.[\w](?:[\w-]*[\w])?)+",
    re.IGNORECASE,
)
# "jan (at) mail.example", "jan.boer [at] mail (dot) example": only in brackets, because "at" is a word.
AT = r"[ ]?[\[({<][ ]?(?:at|ät|@|arroba|a[ -]?t[ -]?sign)[ ]?[\])}>][ ]?"
DOT = r"[ ]?[\[({<][ ]?(?:dot|punkt|point|punto|punt|\.)[ ]?[\])}>][ ]?"
BRACKETED_EMAIL = re.compile(
    rf"(?<![\w.+%-])[\w+-]+(?:(?:\.|{DOT})[\w+-]+)*{AT}[\w-]+(?:(?:\.|{DOT})[\w-]+)*(?:\.|{DOT})[^\W\d_]{{2,}}(?!\w)",
    re.IGNORECASE,
)


Span = tuple[int, int]  # start and end in characters, end exclusive
Finder = Callable[[str], Iterable[Span]]


IDENTIFIED = re.compile(r"\d, (?:nhs|nir|bsn|dni|pesel|kvnr|(?:kranken)?versicher|vers\.-)", re.IGNORECASE)


def find_birth_dates(text: str) -> Iterator[Span]:
    """Yield the dates that have a word about birth nearby."""
    for match in DATE.finditer(text) if BORN.search(text) or IDENTIFIED.search(text) else ():
        before, after = text[max(0, match.start() - 60) : match.start()], text[match.end() : match.end() + 25]
        words = [*BORN.finditer(before)]
        since = before[words[-1].end() :] if words else ""
        near = (
            bool(words) and not NOT_BORN.search(since) and not DATE.search(since)
        )  # the first date after the word is meant
        if near or re.match(
            r"[ ,(]*(?:is |was )?(?:my |his |her )?(?:date of birth|birth|dob|bday|geboren|born|nhs\b|nir\b|bsn\b|dni\b|pesel\b|kvnr|(?:kranken)?versicher|vers\.-)",
            after,
            re.IGNORECASE,
        ):
            yield match.span()


def find_phones(text: str) -> Iterator[Span]:
    """Yield phone numbers that libphonenumber considers possible in international notation, or valid in a national one.

    In national notation it must look like a phone number or follow a word about phones, and must not follow a word about
    orders or parcels.
    """
    separate = separated(text)
    for match in PHONE.finditer(separate):
        start, end = match.span()
        if match.group().count("(") != match.group().count(")"):
            if not match.group().startswith("("):
                continue
            start += 1
        number_end = match.start("extension") if match["extension"] else end
        if _is_phone(text, separate[start:number_end], start, bool(match["extension"])):
            yield start, end


def _is_phone(text: str, number: str, start: int, extended: bool) -> bool:
    before, end = text[max(0, start - 50) : start], start + len(number)
    if number.startswith("("):
        number = number[1:].replace(")", "", 1) if number[1:2] == "+" else number
    if number.startswith(("+", "00")):
        number = re.sub(r"\(0\)", "", number)  # "+44 (0)20": the 0 is dialled at home only
    digits = re.sub(r"\D", "", number)
    if COMMAND_OPTION.search(before) or HOURS.fullmatch(number):
        return False
    if not 7 <= len(digits) <= 15 or re.fullmatch(
        r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}", number
    ):
        return False
    called = CALL.search(before) or AS_PHONE.match(text, end)
    other = OTHER_NUMBER_WORDS.search(before)
    coded = re.search(
        r"(?<!\w)(?!TEL|MOB|FAX|PH|(?:ON|AT|IS|TO|BY|ME|OR|AND|CALL|UNDER)\b)[A-Z]{2,4}[ :]{1,2}$", before
    )  # "WO 0020-118-904"
    if (not called or WEAK_CALL.match(before[called.start() :])) and (coded or re.fullmatch(r"\d{4}-\d{3}-\d{3}", number)):
        return False
    if NOT_PHONE_SHAPED.fullmatch(number) and not (
        FRENCH.fullmatch(number) or (called and re.fullmatch(r"\d{3}\.\d{4}|0?\d{1,2}(?:[ .-]\d\d){3,4}", number))
    ):
        return False
    local = number.startswith("+") or AMERICAN.fullmatch(number) or FRENCH.fullmatch(number)
    if not called and not local and _is_book(number, digits):
        return False
    if re.search(r"(?<!\w)(?=\w*\d)(?=\w*[A-Z])\w+ $", before):  # it is the end of a longer number with letters in it
        return False
    # In "tracking number", the word about phones ("number") is part of a phrase that is not about phones.
    phone = called and (not other or called.start() > other.start()) and not WEAK_CALL.match(before[called.start() :])
    if not phone and not number.startswith("+") and (other or is_calculated(text, start, end)):
        return False
    if number.startswith(("+", "00")):
        return _valid("+" + digits.removeprefix("00" if number.startswith("00") else ""), None)
    attached = ATTACHED.search(text)
    regions = (*REGIONS, *EAST_ASIAN_REGIONS) if attached else REGIONS
    mobile = bool(attached and CHINESE_MOBILE.fullmatch(digits))
    looks = bool(re.search(r"\d[ ().\-–/]+\d", number)) or digits.startswith("0") or mobile
    if not (called or looks or extended) or not any(_valid(digits, region) for region in regions):
        return False
    if called or extended:
        return True
    # Without a word about phones, the number must be written like a phone number, not like an amount, a size or a card.
    if re.fullmatch(r"\d{4}([ -]\d{4}){2,}", number) or len(digits) < 9:
        return False
    alone = (start == 0 or text[start - 1] == "\n") or text[:start].rstrip().endswith((",", ":", ".", "}", ")", "|", "/"))
    shaped = digits.startswith("0") or mobile or AMERICAN.fullmatch(number) or re.fullmatch(r"\d{2,3}( \d{2,3}){3}", number)
    return bool(shaped or alone)


def separated(text: str) -> str:
    """Return a text with gaps for the letters that Chinese, Japanese, Korean and Thai write beside a number without a space.

    All positions stay the same. Digits of double width become plain ones.
    """
    if text.isascii():
        return text
    return ATTACHED.sub(GAP, text).translate(NARROW)


def is_calculated(text: str, start: int, end: int) -> bool:
    """Return whether the number from start to end is an operand or a result."""
    return bool(CALCULATED_BEFORE.search(text[max(0, start - 20) : start]) or CALCULATED_AFTER.match(text, end))


def _is_book(number: str, digits: str) -> bool:
    # One number of ten digits in eleven is valid by chance; an ISBN is written with three hyphens or with none.
    as_phone = len(digits) == 10 and (re.fullmatch(r"0[67]\d{8}", number) or len(re.findall(r"\D", number)) in (1, 2))
    return len(digits) in (10, 13) and not as_phone and isbn.is_valid(digits)


@functools.lru_cache(maxsize=100_000)
def _valid(number: str, region: str | None) -> bool:
    try:
        parsed = phonenumbers.parse(number, region)
        # In international notation a possible number is enough: invented and new ranges are not in the tables.
        return phonenumbers.is_possible_number(parsed) and (
            region is None or phonenumbers.is_valid_number(parsed) or "555" in number
        )
    except phonenumbers.NumberParseException:
        return False


CARD_WORDS = re.compile(
    r"\b(?:card|visa|mastercard|amex|american express|credit|debit|maestro|cc|karte|carte|tarjeta|paid|charged)\b|卡|カード|카드",
    re.IGNORECASE,
)
SSN = re.compile(r"\b\d{3}(?P<separator>[- .]?)\d{2}(?P=separator)\d{4}\b")
SSN_WORDS = re.compile(r"\b(?:social|ssn|ss#|ss)\b", re.IGNORECASE)
# Visa, Mastercard, American Express, Diners, JCB, and Discover with UnionPay
CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"3(?:0[0-5]|[689]\d)\d{11,16}|(?:2131|1800)\d{11}|35\d{14,17}|6(?:011|4[4-9]\d|[25]\d\d)\d{12,15}"
)
MAESTRO = re.compile(r"(?:5[06-9]|6\d)\d{10,17}")
PARCEL = re.compile(
    r"\b(?:track(?:ing)?|parcel|shipment|consignment|serial|order|invoice|imei|reference|ref|barcode|ean|meter|gift ?card|voucher|booking|ticket)\b"
    r"(?: (?:number|no\.?|nr\.?|code|id))?[^.\n]{0,12}$",
    re.IGNORECASE,
)
IP_WORDS = re.compile(
    r"\b(?:(?:ip|login|logged|log|signed|sign|address|session|host|server)\b|(?:at|unter|via|über) $)", re.IGNORECASE
)
# 12 to 17 digits in the groups of a card, and up to 19 in any
CARD_SHAPES = (
    re.compile(r"\b(?!1\d{12}(?!\d))(?:4\d|5[0-5]|[136]\d)\d\d[- ]?\d{3,4}[- ]?\d{3,4}[- ]?\d{3,5}\b"),
    re.compile(r"(?<![\w-])[2456](?:[- ]?\d){11,18}(?![\w-])"),
)


def find_cards(text: str) -> Iterator[Span]:
    """Yield the card numbers, in any grouping, by their issuer, length and last digit (Luhn).

    One number in ten passes Luhn's check by chance. Maestro has nearly any length, so that a word must say what it is.
    """
    numbers = SEPARATOR.sub(lambda match: match.group().translate(SAME_WIDTH), separated(text))
    for match in (match for shape in CARD_SHAPES for match in shape.finditer(numbers)):
        start, end = match.span()
        before, groups = text[max(0, start - 70) : start], re.findall(r"\d+", match.group())
        digits, near = "".join(groups), before[-40:] + " " + text[end : end + 20]
        if not luhn.is_valid(digits) or (len(groups) > 1 and max(map(len, groups)) > LONGEST_CARD_GROUP):
            continue  # "355909190063-746" is a subtraction
        if not CARD.fullmatch(digits) and not (MAESTRO.fullmatch(digits) and CARD_WORDS.search(near)):
            continue
        parcel = PARCEL.search(before) and not CARD_WORDS.search(before[-25:])
        if not (parcel or re.search(r"\d[.,]$", before) or is_calculated(text, start, end)):
            yield start, end


IP = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?:/(?:[0-2]?\d|3[0-2]))?\b"
    r"|(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4})(?:%[0-9a-zA-Z]+)?(?:/(?:12[0-8]|1[01]\d|[1-9]?\d))?(?![\w:]|\.\d)"
)


def find_ips(text: str) -> Iterator[Span]:
    """Yield the internet addresses that may belong to somebody: no network, no loopback and no public name server."""
    for match in IP.finditer(text):
        try:
            address = ipaddress.ip_interface(match.group())
        except ValueError:
            continue
        is_network = address.network.num_addresses > 1 and address.ip == address.network.network_address
        nobodys = address.ip.is_loopback or address.ip.is_unspecified or str(address.ip) in NOBODYS_IPS
        if is_network or nobodys or match.group().startswith("255."):
            continue
        before = text[max(0, match.start() - 70) : match.start()]
        if re.search(r"\bip[46]:$", before) or (VERSION.search(before) and not re.search(r"\bip\b", before, re.IGNORECASE)):
            continue
        # Version numbers look the same, and internet addresses with only small parts are rare; "12:30:45" is a time.
        small = re.fullmatch(r"\d{1,2}(?:\.\d{1,2}){3}", match.group()) and not IP_WORDS.search(before)
        if not small and not (":" in match.group() and len(re.sub(r"[^0-9A-Fa-f]", "", match.group())) < 5):
            yield match.span()


def find_us_ssns(text: str) -> Iterator[Span]:
    """Yield the American social security numbers that are written as such, or behind a word that says so."""
    for match in SSN.finditer(text):
        before = text[max(0, match.start() - 70) : match.start()]
        shaped = match["separator"] in ("-", " ") and not PARCEL.search(before)
        if (shaped or SSN_WORDS.search(before)) and ssn.is_valid(re.sub(r"\D", "", match.group())):
            yield match.span()


def find_ibans(text: str) -> Iterator[Span]:
    """Yield the IBANs in upper or lower case and any grouping, by the country's length and the check digits (python-stdnum)."""
    for match in IBAN.finditer(text):
        positions = [i for i in range(*match.span(1)) if text[i].isalnum()]
        for length in range(len(positions), 14, -1):
            end = positions[length - 1] + 1
            if text[end : end + 1].isalnum():
                continue
            if iban.is_valid("".join(text[i] for i in positions[:length]).upper(), check_country=False):
                yield match.start(), end
                break


# Somebody's account on a computer, as commands name it: options, their arguments and paths may stand before it.
ACCOUNT_AFTER = re.compile(
    r"(?:^|[\s`$\"'(|;&])(?:ssh|scp|sftp|rsync|mosh|sshfs|ssh-copy-id)(?: +(?:-{1,2}\w[\w-]*(?:=\S+)?(?: +[\w~./:=@-]*[\d~./=][\w~./:=@-]*)?|[\w~.*-]*/[\w~./*-]*|\w+\.\w+))*+ +[\"']?$"
)
PATH_AFTER = re.compile(r":(?:[~/]|[\w.-]+/)")
NOT_MAIL = re.compile(r"(?:git|hg|svn)@.*|.*\.(?:service|socket|timer|mount)", re.IGNORECASE)


# Quotes, brackets and an option's or a field's name, which could be part of an address and hardly ever are.
BEFORE_MAIL = re.compile(
    r"(?:-{1,2}[a-zA-Z][\w-]*=|(?:e?mail|user|author|to|from|login|address|username)=)?(?:[^\w+](?=.))*", re.IGNORECASE
)


def find_emails(text: str) -> Iterator[Span]:
    """Yield the e-mail addresses, with any ending, and without the words that Chinese writes around them without a space.

    An account on a computer ("git@github.com", "ssh backup@db1.example", "backup@db1.example:/srv") is no address: nobody
    reads mail there, and without it a command is broken.
    """
    yield from (match.span() for match in BRACKETED_EMAIL.finditer(text))
    for match in EMAIL.finditer(text):
        start, end = match.span()
        local, _, domain = match.group().partition("@")
        attached = WITHOUT_SPACES.search(domain)
        if attached and "." in domain[: attached.start()]:
            end -= len(domain) - attached.start()
            domain = domain[: attached.start()]
        labels = domain.split(".")
        # "devcontainers/ci@v0.2" and "types/node@20.1.0" are versions; "root@10.0.0.7" has a number as its domain.
        if labels[-1].isdigit() and not (len(labels) == 4 and all(label.isdigit() for label in labels)):
            continue
        skipped = BEFORE_MAIL.match(local).end()  # type: ignore[union-attr]  # it matches always
        start, local = start + skipped, local[skipped:]
        line = text[text.rfind("\n", 0, start) + 1 : start][-120:]
        if NOT_MAIL.fullmatch(text, start, end) or PATH_AFTER.match(text, end) or ACCOUNT_AFTER.search(line):
            continue
        written = [*WITHOUT_SPACES.finditer(local)]
        if written and written[-1].end() < len(local):
            start += written[-1].end()
        yield start, end


def checked(pattern: str, module: str, words: str = "", strong: bool = False) -> Finder:
    """Return a finder of national ids whose check digits a module of python-stdnum can verify.

    Unless the check is strong, the text must also name the id by one of the words.
    """
    numbers, naming = re.compile(pattern, re.IGNORECASE), re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    check = importlib.import_module(f"stdnum.{module}")

    def find(text: str) -> Iterator[Span]:
        if strong or naming.search(text):
            yield from (m.span() for m in numbers.finditer(text) if check.is_valid(re.sub(r"\W", "", m.group())))

    return find


def labelled(*patterns: re.Pattern[str]) -> Finder:
    """Return a finder of what the named groups of some patterns match, whose other parts say what it is."""

    def find(text: str) -> Iterator[Span]:
        for match in (match for pattern in patterns for match in pattern.finditer(text)):
            yield from (match.span(name) for name, value in match.groupdict().items() if value)

    return find


NINO = re.compile(
    r"\b(?P<nino>(?!bg|gb|nk|kn|nt|tn|zz)[a-ceghj-pr-tw-z][a-ceghj-npr-tw-z] ?\d{2} ?\d{2} ?\d{2} ?[a-d])\b", re.IGNORECASE
)
NHS = re.compile(r"(?<![\w.+/-])\d{3}[ -]?\d{3}[ -]?\d{4}(?![\w-]|[.,]\d)")
NHS_NAMED = re.compile(r"\bnhs(?:[ -]?(?:no|nr|num|number|id))?\b[ .:#]*(?:is |was )?$", re.IGNORECASE)
PATIENT = re.compile(r"\b(?:nhs|patients?|pt|pat|mrn|hospital (?:no|number))\b[^\n\d]{0,25}$", re.IGNORECASE)
# The first digits that have been issued: England and Wales have 4, 6 and 7, and Northern Ireland 32 to 39.
NHS_ISSUED = re.compile(r"[467]|3[2-9]")
# What stands before other numbers of ten digits, besides `OTHER_NUMBER_WORDS`: a desk's own, and those of its devices.
DESK_NUMBER = re.compile(
    r"\b(?:asset|bleep|change|device|error|extension|ext|incident|inc|job|log|pc|po|printer|problem|request|req|ritm|service|sr|tag|task|"
    r"user|wo)\b[^\w\n]{0,3}(?:\w{1,6}[ .:#]{1,2})?$",
    re.IGNORECASE,
)


def find_nhs_numbers(text: str) -> Iterator[Span]:
    """Yield NHS numbers: ten digits after "NHS number", or with a right check digit and no word that says otherwise.

    One number of ten digits in eleven has a right check digit, so without a word about patients its first digit must have been
    issued as well, and no word about phones, tickets or devices may come before it.
    """
    for match in NHS.finditer(text):
        before, digits = text[max(0, match.start() - 50) : match.start()], re.sub(r"\D", "", match.group())
        if NHS_NAMED.search(before):  # somebody's number even if a digit is mistyped
            yield match.span()
        elif nhs.is_valid(digits) and not is_calculated(text, *match.span()):
            called = CALL.search(before)
            phone = called is not None and not WEAK_CALL.match(before[called.start() :])
            other = phone or any(words.search(before) for words in (OTHER_NUMBER_WORDS, DESK_NUMBER, PARCEL))
            if PATIENT.search(before) or (not other and NHS_ISSUED.match(digits) and "-" not in match.group()):
                yield match.span()


# "Mon passeport porte le numéro HK5027264": a passport's number may stand later in the sentence.
PASSPORT = re.compile(
    r"\b(?:passport|paspoort|reisepass|passeport|pasaporte|passaporto|paszport)\b[^.\n\d]{0,28}?\b(?-i:(?P<number>[A-Z]{1,3}\d{6,8}))(?![\w-])",
    re.IGNORECASE,
)
# Its letters are no vowels, and digits may be few: "Personalausweis-Nr. LT8CKJHTV"
GERMAN_CARD = re.compile(
    r"\b(?i:(?:personal)?ausweis)(?i:s?-? ?(?:nummer|nr\.?)?)(?i: (?:ist|lautet))?[ :]{1,2}(?P<number>(?=[A-Z\d]*\d)[CFGHJKLMNPRTVWXYZ\d]{9})(?!\w)"
)
ACCOUNT = re.compile(
    r"\b(?:sort code[ :]{1,2}(?:is )?(?P<sort>\d\d-\d\d-\d\d)(?:\D{0,25}?(?P<uk>\d{8})\b)?"
    r"|(?:kontonummer|kto(?:\.|-)? ?nr\.?|rekeningnummer|número de cuenta|numéro de compte|numer konta|numero di conto)[ :]{1,2}(?:(?:ist|is|es|est|to)[ :]{1,2})?"
    r"(?P<other>\d[\d ]{5,11}\d)(?![\d-]))",
    re.IGNORECASE,
)
NUMBER_SIGN = r"(?:[ -]?(?:number|nummer|numer|no|nr|numéro|numero|número|n°|nº|#))?[ .:#]{1,3}(?:(?:is|was|ist|lautet|est|es|to)[ :]{1,2})?"
DOCUMENT = re.compile(
    r"\b(?:passport|paspoort|reisepass|passeport|pasaporte|passaporto|paszport|(?:personal)?ausweis|dowód osobisty|dowodu|identity card|id card|carte d['’]identité|"
    r"identiteitskaart|carta d['’]identità|driv(?:ing|er['’]?s) licen[cs]e|führerschein|permis(?: de conduire)?|prawo jazdy|rijbewijs|carnet de conducir|"
    r"(?:renten|sozial)versicherungs|(?:kranken)?versicherten|(?:kranken)?versichertennummer|vers\.?-?|kvnr|nie|cnh|dni|nif|mrn|"
    r"(?:hospital|patient|medical record)['’]?s? (?:number|no)|pati[ëe]nt(?:en)?nummer|numéro de patient|número de paciente|num?e?r pacjenta)"
    rf"{NUMBER_SIGN}(?P<number>(?=(?:[A-Z]*\d){{4}})[A-Z\d]{{7,18}}|[A-Z] \d{{3}} \d{{3}} \d{{3}}|\d{{3}}(?:-\d{{2}}){{2}}|[XYZ]?[- ]?\d[\d.]{{6,9}}-?[A-Z]|\d{{3}} \d{{3}} \d{{3}}|[A-Z]{{2,3}} ?\d{{6}}|\d{{2}} ?\d{{6}} ?[A-Z] ?\d{{3}})(?![\w-])",
    re.IGNORECASE,
)
# Number plates of Germany, Britain, France, Italy, Poland, Spain and the Netherlands
PLATE = r"[A-ZÄÖÜ]{1,3}[- ][A-Z]{1,2} \d{1,4}[EH]?|[A-Z]{2}\d{2} ?[A-Z]{3}|[A-Z]{2}[- ]?\d{3}[- ]?[A-Z]{2}|[A-Z]{2,3} [A-Z\d]{4,5}|\d{4} ?[A-Z]{3}|[A-Z\d]{1,3}-[A-Z\d]{2,3}-[A-Z\d]{1,3}"
VEHICLE = re.compile(
    r"(?i:\b(?:(?:licen[cs]e |number |registration )?plates?|registration(?: number)?|reg|kennzeichen|immatriculation|plaque|tablica|rejestracyjn[aey]|rejestracj[aęi]|immatriculée?|matriculad[oa]|matrícula|targa|kenteken)"
    rf"(?: (?:de|of|van|on|vom|du|mojego|meines|meinem)(?: \w+){{1,2}})?(?: is| was| ist| est| es| to)?[ :]{{1,2}})(?P<plate>{PLATE})(?![\w-])"
    r"|(?i:\b(?:vin|fin|(?:chassis|fahrgestell|vehicle|podwozia|châssis)[ -]?(?:identification )?(?:number|nummer|no\.?|nr\.?)?)(?: is| was| ist| est)?[ :]{1,2})"
    r"(?P<vin>(?=\w*\d{4})[A-HJ-NPR-Z\d]{11,18})(?!\w)"
)
PARKED = re.compile(
    r"\b(?:park|skoda|volkswagen|fahrzeug|vehicle|véhicule|voertuig|strafzettel|falsch eingetippt|geparkt|stand|stood|car\b|van\b|wagen|auto\b|voiture|samochód)",
    re.IGNORECASE,
)
UNMISTAKABLE_PLATE = re.compile(
    r"(?<![\w-])(?:[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} \d{1,4}[EH]?|[A-Z]{2}\d{2} [A-Z]{3}|[A-Z]{2}-\d{3}-[A-Z]{2})(?![\w-])"
)
HANDLE = re.compile(
    r"\b(?:(?:instagram|insta|twitter|telegram|tiktok|snapchat|discord|mastodon|bluesky|threads|signal|skype|handle|username|benutzername|pseudo)\b[^\n@]{0,25}?(?P<handle>@[\w.-]*\w)"
    r"|(?:user ?name|usuario|benutzername|gebruikersnaam|nom d['’]utilisateur|identifiant|nazwa użytkownika|login)(?: [^\W\d]+){0,3}?(?: is| es| ist| est| to|:)[ :]{1,2}"
    r"(?P<account>@?(?=[\w.-]*[\d._-]\w)[\w.-]{3,}\w)(?![\w@])"
    r"|(?:instagram|insta|twitter|telegram|tiktok|snapchat|discord|forum|facebook|reddit|whatsapp)\b[^\n@.]{0,12}?\b(?:as|als|comme|como|jako|come) (?P<named>@?(?=[\w.-]*[\d_])[\w.-]{3,}\w)(?![\w@])"
    r"|(?:i (?:always )?log ?in|(?:je )?me connecte|melde mich|loguję się|inicio sesión|entro|log in|logeer|ik log)(?: [^\W\d]+){0,3}?:? (?:as |avec |als |con |met |jako )?(?P<login>@?(?=[\w.-]*[\d._-]\w)[\w.-]{4,}\w)(?![\w@])"
    r"|(?:i['’]m|i am|je suis|ich bin|ik ben|soy|jestem|sono) (?P<self>@?(?=[\w.-]*[\d_])[\w.-]{3,}\w) (?:on|in|im|auf|sur|op|en|na|su) (?:\w+['’]?s?['’]? ){0,2}(?:instagram|insta|twitter|telegram|tiktok|discord|\w*forum\w*|foro|facebook|reddit)\b)",
    re.IGNORECASE,
)


# Below a date of birth in a signature: "geb. 02-05-1979\nK8140824"
BELOW_BIRTH_DATE = re.compile(
    r"\b(?:dob|born|geb|geboren|née?|né\(e\)|ur|nac|nacid[oa])\b[^\n]{0,30}\d\n(?P<number>(?-i:[A-Z]{0,3})\d{6,10})(?=\s*(?:\n|$))",
    re.IGNORECASE,
)


def find_vehicles(text: str) -> Iterator[Span]:
    """Yield number plates and chassis numbers behind a word that says so, and plates in a text about a parked car."""
    if not any(map(str.isupper, text)) and len(text.upper()) == len(text):
        text = text.upper()
    for match in VEHICLE.finditer(text):
        yield match.span("plate" if match["plate"] else "vin")
    if PARKED.search(text):
        yield from (match.span() for match in UNMISTAKABLE_PLATE.finditer(text))


DIGIT = re.compile(r"\d")
LONG_NUMBER = re.compile(r"\d(?:[ ./-]?[\dA-Za-z]){6,}")
LONG_NUMBER_ANYHOW = re.compile(r"\d(?:[\W_]?\d){11,}")
LETTERED = re.compile(r"[A-Za-z]{2}[\W_]?\d{2}")


# (kind or name of a national id, cheap pattern, finder): where the pattern does not match, the finder can find nothing.
FINDERS: tuple[tuple[str, re.Pattern[str], Finder], ...] = (
    ("CARD", LONG_NUMBER_ANYHOW, find_cards),
    ("IBAN", LETTERED, find_ibans),
    ("IP", re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:"), find_ips),
    ("US_SSN", re.compile(r"\d{3}[\W_]?\d{2}[\W_]?\d{4}"), find_us_ssns),
    ("UK_NINO", re.compile(r"[A-Za-z]{2}(?:\s?\d{2}){3}"), labelled(NINO)),
    ("DE_TAX_ID", LONG_NUMBER, checked(
        r"(?<![\w.-])[1-9]\d([ .\u00a0\u202f/]?)\d{3}\1\d{3}\1\d{3}(?![\w-])", "iso7064.mod_11_10", r"steuer\w*|idnr\w*|tax\w*|tin|bzst")),
    ("ES_NIF", re.compile(r"\d{7}-?[A-Za-z]"), checked(r"\b\d{8}-?[A-Z]\b", "es.nif", "dni|nif|identidad|spanish|id")),
    ("IT_FISCAL_CODE", re.compile(r"[A-Za-z]{6}[\dL-Vl-v]{2}[A-Za-z][\dL-Vl-v]{2}"), checked(
        r"\b[A-Z]{6}[\dL-V]{2}[A-Z][\dL-V]{2}[A-Z][\dL-V]{3}[A-Z]\b", "it.codicefiscale", strong=True)),
    ("PL_PESEL", re.compile(r"\d{11}"), checked(r"(?<!\d)\d{11}(?!\d)", "pl.pesel", "pesel")),
    ("EMAIL", re.compile(rf"@|{AT}", re.IGNORECASE), find_emails),
    ("NL_BSN", LONG_NUMBER, checked(
        r"(?<![\w.-])\d(?:[ .]?\d){7,8}(?![\w-])", "nl.bsn", "bsn|burgerservicenummer|sofi|dutch|citizen service")),
    ("UK_NHS", LONG_NUMBER, find_nhs_numbers),
    ("DOCUMENT", re.compile(r"\d\D{0,2}\d|ausweis", re.IGNORECASE), labelled(BELOW_BIRTH_DATE, PASSPORT, GERMAN_CARD, DOCUMENT)),
    ("ACCOUNT", LONG_NUMBER, labelled(ACCOUNT)),
    ("VEHICLE", DIGIT, find_vehicles),
    ("HANDLE", re.compile(r"@|\d|_"), labelled(HANDLE)),
    ("FR_NIR", LONG_NUMBER, checked(
        r"(?<!\w)[1-478][ .]?\d{2}[ .]?\d{2}[ .]?(?:\d{2}|2[AB])[ .]?\d{3}[ .]?\d{3}[ .]?\d{2}(?!\w)", "fr.nir", strong=True)),
    ("CN_RIC", LONG_NUMBER, checked(r"(?<!\w)\d{17}[\dX](?!\w)", "cn.ric", strong=True)),
    ("BIRTH_DATE", DIGIT, find_birth_dates),
    ("PHONE", re.compile(r"\d(?:[^\w,;]{0,3}\d){6,}"), find_phones),
)  # fmt: skip
