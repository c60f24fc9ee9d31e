"""Secrets in text: keys and tokens by the form that their issuers give them, and passwords by the words before them."""

from __future__ import annotations

import re
from collections.abc import Iterator

ISSUED = re.compile(
    r"""
    -----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY-----(?:[\sA-Za-z0-9+/=:,\\-]*?-----END\ [A-Z0-9 ]*PRIVATE\ KEY-----|[\sA-Za-z0-9+/=]*)
    | (?<![\w/+-])(?:
        sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{16,}              # OpenAI, Anthropic
      | (?:sk|rk|pk)_(?:live|test)_\w{10,} | whsec_\w{16,}    # Stripe
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,} | npm_[A-Za-z0-9]{30,} | hf_[A-Za-z0-9]{20,}
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?!\w) | AIza[\w-]{30,} | xox[abprs]-[\w-]{10,}
      | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*                    # JSON Web Tokens
    )
    | (?<=\bBearer\ )(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*
    """,
    re.VERBOSE,
)
NAME = (
    r"(?:pass(?:word|wort|wd|phrase|code|(?=\s*[=:]\S))|mot de passe|mdp|contraseña|wachtwoord|kennwort|pwd?|senha|hasło|hasłem|"
    r"(?:api|access|secret|private|auth)[ _-]?(?:key|token|schlüssel|sleutel|secret)|client[ _-]?secret|cl(?:é|e|ave) (?:d['’])?api|token|"
    r"(?:wi-?fi|wlan|router|netzwerk|network)[ _-]?(?:key|schlüssel|code)|(?:cl(?:é|ef|e)|chiave|clave) (?:de |du |del )?(?:wi-?fi|réseau|rete))"
)
FOR = r"(?:\s+(?:for|of|to|on|für|zu[mr]?|vo[nm]|de[rsl]?|du|d['’]\w+|pour|para|per|voor|van|i[mn]|beim|dans|en|na|w|do)\b(?:\s+[^\W\d_][\w'’-]*){0,4}?)?"  # "for the console"
KEY = re.compile(rf"(?:\w+[_-])?{NAME}", re.IGNORECASE)
NAMED = re.compile(
    rf"(?<![^\W_]){NAME}[\"']?(?:\s(?:wi-?fi|wlan|router|portail|portal|internet))?{FOR}(?:\s*[:=]|\s+(?:is|was|ist|war|lautet|lautete|est|était|es|era|è|é|to|było|to)\b:?)\s*[\"'`“„«‚‘(]*\s?(?P<value>[^\s<]{{6,}})",
    re.IGNORECASE,
)
# "Login: jan@mail.example / Segel88", "the key abc-9106234064a7e93b9515e7f1cb88371d"
AFTER_LOGIN = re.compile(
    r"\b(?:log-?in|logon|zugang(?:sdaten)?|zugriff|anmeldung|account|konto|identifiants?|connexion|acceso|logowanie|credentials)\b[^\n/|]{0,60}?\S+(?:@| ?[(\[]at[)\]] ?)\S+[ ]?[/|,;:][ ]?(?P<value>\S{6,})",
    re.IGNORECASE,
)
LONG_TOKEN = re.compile(
    r"\b(?:key|token|secret|schlüssel|clé|clef|clave|klucz|chiave|sleutel)\b(?:\s[^\W\d_]+){0,5}?[ :=]{1,3}(?P<value>(?=[\w.-]*\d)(?=[\w.-]*[a-zA-Z])[\w.-]{20,})",
    re.IGNORECASE,
)
# "Mijn wachtwoord sunflower828 werkt niet", "I log in with Tr0mbone#935 as password"
UNMARKED = re.compile(
    r"\b(?:pass(?:word|wort|code)|mot de passe|mdp|contraseña|wachtwoord|kennwort|hasło|hasłem|senha)\s+[\"'`“„«]?(?P<value>(?=\S*\d)(?=\S*[^\W\d_])[^\s\"'`”“»]{6,})"
    r"|\bwith\s+(?P<before>(?=\S*\d)\S{6,}) as (?:my |the )?password\b",
    re.IGNORECASE,
)
# "The entrance code is 7520"
DOOR_CODE = re.compile(
    r"\b(?:(?:entrance|entry|door|gate|alarm|key[ -]?safe|lock ?box)(?: code)?|(?:tür|haustür|eingangs|tor|alarm|zugangs|deur|toegangs|voordeur)[ -]?codes?|digicode|"
    r"code (?:de (?:la )?porte|d['’]entrée|d['’]accès)|código (?:de (?:la |el )?|del )(?:puerta|portal|entrada|acceso))"
    r"(?:[ :=]{1,2}|\s(?:is|ist|est|es|lautet|opens with|for \w+ is|now)[ :]{1,2}|\scode[ :]{1,2}){1,3}(?P<value>[*#]?(?:[A-Z]?\d{4,8}[A-Z]?|\d{1,4}[A-Z]\d{1,4})[#*]?)(?![\w-]|[.,:]\d)",
    re.IGNORECASE,
)
# Without one of these, nothing says that there is a secret; looking for them takes a hundredth of the time of the patterns.
SAYS_SECRET = (
    "pass mdp contrase wachtwoord kennwort pw senha hasł key token secret schlüssel sleutel clé clef clave chiave klucz api wifi "
    "wi-fi wlan router netzwerk network réseau rete"
).split()
SAYS_CODE = "code entrance entry door gate alarm safe lock código".split()
CLOSING = ".,;:)]}>\"'`»”“’"
SIGN = re.compile(r"[\d!#$%&*+=?@^~|§€£]|(?-i:[a-z][A-Z])")
# What stands in a secret's place, and what is read from elsewhere.
NO_SECRET = re.compile(
    r"[\[{<*]|%(?:\w\b|[(%])|\$(?:[({]|(?-i:[A-Z_]+$))|https?:|your|my[_-]|example|change|placeholder|dummy|x{3,}|os\.|process\.|env\b|.*[()\[\]{}<>]|[^@]+@[\w-]+(?:\.[\w-]+)+$|.*\*{3}|.*x{4}",
    re.IGNORECASE,
)


def find_secrets(text: str, key: str = "") -> Iterator[tuple[int, int]]:
    """Yield the secrets in a text as (start, end) in characters, end exclusive, in order and without overlaps.

    Args:
        text: any text.
        key: what the text is called, if it is a value in JSON: "password".
    """
    if KEY.fullmatch(key) and looks_secret(text):
        yield 0, len(text)
        return
    spans, lower = [match.span() for match in ISSUED.finditer(text)], text.lower()
    if any(word in lower for word in SAYS_CODE):
        spans += [match.span("value") for match in DOOR_CODE.finditer(text)]
    forms = [AFTER_LOGIN] if "@" in text or "at]" in lower or "at)" in lower else []
    if any(word in lower for word in SAYS_SECRET):
        forms += [NAMED, LONG_TOKEN, UNMARKED]
    for match in (match for form in forms for match in form.finditer(text)):
        group = "before" if match.groupdict().get("before") else "value"
        value = match[group].rstrip(CLOSING)
        if looks_secret(value) and not ("token" in match.group().lower() and not re.search(r"[^\W\d_]", value)):
            spans.append((match.start(group), match.start(group) + len(value)))
    end = 0
    for start, until in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= end:
            yield start, until
            end = until


def looks_secret(value: str) -> bool:
    """Return whether a value may be a password: no space, 6 characters or more, a digit, a sign or a capital inside, and no placeholder."""
    value = value.strip()
    inner = value.rstrip("!?.")  # "The password is wrong!" has no sign in its word
    return len(value) >= 6 and not re.search(r"\s", value) and bool(SIGN.search(inner)) and not NO_SECRET.match(value)
