"""Names that are announced: "i. A. Emre Winter", "habe ich mit Dörte gesprochen", "regards from liam hunter".

Most cues need no list, so that a name which no list has is found too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from course_utils.data_prep.pii.words import (
    BEGINS_NONE,
    CLOSING,
    CUT,
    GREETING,
    KIN,
    MAKERS,
    PARTICLE,
    PARTICLES,
    RUN,
    TITLE,
    TITLES,
    TOKEN,
    WORD,
    WORDS,
    Token,
    alternatives,
    common_words,
    foreign_words,
    name_lists,
    place_names,
    trusted_given_names,
)

# "Mijn gegevens: ", "Kontaktperson: ", and in any case
DETAILS = (
    r"(?:mijn gegevens|moje dane|mi identidad|pour mon dossier|zu meiner person|meine daten|mis datos|mes coordonnées|my (?:identity|details)|"
    r"osob[aęy] kontaktow[aąeę]|(?:kontakt|contact ?)person|contactpersoon|emergency contact|persona de contacto|personne à (?:prévenir|contacter)) ?:? "
)
# "Mijn meisjesnaam is", "mi apellido anterior era"
SURNAMED = (
    r"(?:(?:maiden|birth|last|family) name|surname|geburtsname|mädchenname|nachname|familienname|meisjesnaam|achternaam|nom de (?:jeune fille|famille|naissance)|"
    r"apellidos?(?: de soltera| anterior)?|nazwisko(?: panieńskie)?|cognome)(?: (?:was|is|ist|war|lautet|était|est|es|era|to|è)|:) "
)
NOTED = r"(?:[Nn]oteer|[Nn]oter|[Nn]otez|[Aa]punten? a) (?=[A-ZÀ-Þ][\w'’-]+ [A-ZÀ-Þ])"
# What announces a name without a list, where a name begins (in a lookahead), and what must follow it.
ANYBODY = re.compile(
    # one \b for all that begin with a word: the rest is then tried at words only
    r"(?:^|[\n.,!?] ?|\b(?:[Bb]onjour|[Bb]onsoir|[Cc]her|[Mm]erci|de|à|par|avec|que|et|chez) )M\. (?=[^\W\d_]{2})|(?:^|\n)>? ?(?:From|De|Von|Van|Od|Da) ?: (?=[A-ZÀ-Þ])"
    r"|\((?:mother|father|maman|papa|mère|père|moeder|vader|madre|padre|Mutter|Vater|mama|tata)(?: of| de| van| von)?,? (?=[A-ZÀ-Þ])|(?:^|[\n.!?] )(?=(?!(?:She|He|It|Who|Elle|Il|Ella|Él|Hij|Zij|Ze|Er|Sie|Ona|On|Ten|Kto|Quien|Qui) )[A-ZÀ-Þ][\w'’-]+ (?:nació|is geboren|est née?|urodził|was born))"
    r"|(?<=[\n:>,] )(?=[^\W\d_][\w. '’-]+ <0{6,}>)|\b(?:(?=(?:[A-Z]\. ?)+[A-ZÀ-Þ][\w'’-]+ (?:from|aus|van|de|du|vom) (?:your|the|our|Ihre[mr]|uw|het|votre|vos|su)\b)|i\. ?[AV]\. |(?:It was|Es war|C'était|C'est|To był|To była) (?=[\w'’-]+ (?:who|der|die|qui|który|która)\b)"
    r"|(?:signed|written|confirmed|reported) by |(?:a nombre de|au nom de|op naam van|na nazwisko|auf den Namen) |(?:signée?|rempli|écrit|validé) par |(?:unterschrieben|ausgefüllt|erstellt|bestätigt|bearbeitet) von "
    r"|(?:[Ff]rag(?:en|t|e)?(?: Sie)? nach|[Pp]regunt\w+ por|[Vv]raagt? naar|[Aa]sk for|[Dd]emandez) (?=[A-ZÀ-Þ][\w'’-]+ [A-ZÀ-Þ])|(?:podpisała?|napisała?|wypełniła?) |(?:schrieb|schreef|napisała?) (?=[^<\n]{2,40} <)"
    r"|(?:läuft auf|lautet auf|avisado a|avisé a|prévenu|informé) (?=[A-ZÀ-Þ][\w'’-]+ [A-ZÀ-Þ])|(?:firmado|escrito) por "
    rf"|(?i:{DETAILS})(?=[A-ZÀ-Þ][\w'’-]+ [A-ZÀ-Þ])|(?i:{SURNAMED})(?=(?:(?:{PARTICLE}) )*[A-ZÀ-Þ])|{NOTED})"
)
SOMEBODY = re.compile(
    r"\b(?:(?:mit|with) (?=[^.,\n]{2,30} (?:gesprochen|telefoniert|geschrieben|geredet|vereinbart|verabredet|gemailt|abgemacht)\b)"
    r"|(?:[Ff]rag(?:en|t|e)?(?: Sie)? nach|[Pp]regunt\w+ por|[Vv]raagt? naar|[Aa]sk for|[Dd]emandez|con|avec|met|llama\w*|habl\w+ con|parlé à|läuft auf|gesproken met) (?=[A-ZÀ-Þ])"
    r"|(?=[A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ][\w'’-]+){0,2},? (?:aus (?:der|dem)|vom|van (?:de|het)|del? (?:equipo|la oficina)|du (?:service|bureau)|from (?:the|your|our|flat|upstairs|downstairs|next door)|(?:van|von) (?:beneden|boven|hiernaast|unten|oben|nebenan)|del piso|(?:de|à) l['’]étage|d['’]en (?:haut|bas))\b)"
    r"|(?:una? tal|niejak[ai]|een zekere|eine? gewisser?|une? certaine?) (?=[A-ZÀ-Þ])"
    r"|von (?=(?:(?:von|van|zu|de|der|la|den) )*[^ .,;!?\n]+(?: [A-ZÄÖÜ][^ .,;!?\n(]+)?(?:[.,;!?\n]| \(| (?:ist|war|und|hat|aus)\b)))"
)
GREETED = re.compile(
    r"(?:^|[\n.!?] ?)(?:(?:Many )?[Tt]hanks for (?:writing|your \w+)|Thank you for (?:writing|your \w+)|(?:Vielen|Herzlichen|Besten) Dank|Merci beaucoup|Muchas gracias),? (?=\w+[.!\n])"
    r"|\b(?:wishes|regards|cheers|love),? (?=\w+ (?:from|at|of) [A-Z])",
    re.IGNORECASE,
)
TOLD = re.compile(
    r"\b[Tt]ell (?=\w+ (?:that|to|I|we)\b)|\b[Aa]sk (?=\w+ to\b)"
    r"|(?:^|[\n.!?] )(?=\w+ (?:(?:told|promised|phoned|rang|emailed|called|assured) (?:me|us)|from (?:flat|number|apartment|house|no\.?|0+))\b)"
    r"|\b(?:recomend|atend)(?:ó|aron|ieron) (?=[A-ZÀ-Þ][\w'’-]+[.,;!?])"
)
TOLD_ABROAD = re.compile(r"(?:^|[\n.!?] )(?=\w+ (?:hat (?:mir|uns)|m['’]a|nous a|me ha|nos ha|heeft (?:mij|me|ons)) )")
# In a text without a capital: "dr. hinrichsen", "geachte dokter de kok," "bonjour rose,"
HURRIED = re.compile(
    rf"\b(?:(?P<titled>(?:{alternatives(TITLES - {'don', 'sir', 'pan', 'pana', 'panu', 'ing', 'nurse'})})\.?)|^(?:{GREETING}))"
    rf" (?P<who>(?:(?:{PARTICLE}) )*(?P<last>{WORD}))(?=(?(titled)|,))"
)
# Behind these, in German, a noun stands with an article, and a given name without.
IN_GERMAN = re.compile(
    r"\b(?:hat|hatte|haben|wird|soll|kann|darf|muss|und|für|an|dass|weil|wenn|ob|laut|bei|mit|von|wie|war|ist) (?=[^\W\d_]+(?:[.,;!?]| [a-zäöü]))"
)
GENITIVE = re.compile(r"(?<!\w)(?=[A-ZÄÖÜ][^\W\d_]+s [A-ZÄÖÜ][a-zäöüß])")  # "Rainers Führerschein"
GERMAN = re.compile(
    r"\b(?:(?:und|ist|nicht|ich|für|wir|der|das|ein|eine|mit|auf|den|dem|hat)\b|[Dd](?:ie|er|as|en|em) [A-ZÄÖÜ])"
)
# Behind these, also a word that is in no list is a name: "mijn naam is sjoerd beaumont-roux"
NAME_IS = r"(?:my name is|mein name ist|mijn naam is|je m['’]appelle|me llamo|mi nombre es|mi chiamo|nazywam się|ich heiße|ik heet) "
LOWER_FROM = re.compile(
    rf"\b(?:(?P<sure>{NAME_IS})|(?P<strong>{DETAILS}|{SURNAMED}|(?:(?:regards|greetings|wishes|love) from|gr(?:u|ü)(?:ß|ss)e? (?:auch )?(?:von|an)|pozdrowienia od|saludos de|groetjes van) |"
    rf"(?:mein|meine|meinem|meiner|meinen|mon|ma|mi|mijn) (?:{'|'.join(kin for kin in WORDS['foreign_kin'] if ' ' not in kin)}) )"
    rf"|(?P<met>(?:my|our|(?-i:the)|her|his) (?:{alternatives(KIN)})s?|(?:spoke|spoken|talked|speak) to|ask for|name is|names?:?|name['’]s|(?:it['’]?s|this is|it is)(?= \w+ (?:again|here|once more)\b)),? "
    rf"|(?:mein|meine|mon|ma|mi|mijn|moja|mój|moją|my|our)(?: \w+)? (?:{'|'.join(kin for kin in KIN if ' ' not in kin)})(?:,? | \()"
    r"|(?:i am|i['’]?m|it['’]?s|it is|this is),? "
    r"|(?:c['’]est(?: encore)?|hier (?:ist|is)(?: nochmal| wieder| weer)?|soy(?: otra vez)?|tu znowu|ik ben|ich bin(?: es,)?|je suis|jestem) )",
    re.IGNORECASE,
)


LOWER_NAME = re.compile(rf"(?P<particles>(?:(?:{PARTICLE}) )*)(?P<first>{WORD})(?: (?P<second>{WORD}))?")
# Parts of words that make a department of a signature: "Patientenservice", "Obsługa klienta"
UNIT = (
    r"(?:serv[ei]|team|support|desk|dienst|abteil|büro|bureau|office|cent[er]r|zentr|admin|verwalt|betreu|zespół|obsług|dział|rece[pn]|rezep|empfang|"
    r"accueil|secr|sekr|leitung|manag|direc|equip|équip|atenc|market|vertrieb|verkauf|sales|billing|factur|buchh|station|klini|clini|praxis|hospit|"
    r"pharm|apo?the|librar|biblio|museum|shop|store|gmbh|verein|schul|school|univers|colleg|rathaus|gemeinde|council|help|hotline|info|online|bank)"
)
# Whoever answers greets a person, and whoever asks signs as one: there a name may be in no list.
_WRITTEN = (
    rf"(?P<name>(?:(?:al|el|van|de|der|den|von|da|di|le|la)[- ])*[A-ZÀ-Þ](?:{WORD}|[^\W\d_]+)(?: [A-ZÀ-Þ]{WORD}){{0,2}})"
)
BY_POSITION = {
    "assistant": re.compile(rf"^\s*(?i:{GREETING}),? (?i:(?:{TITLE})\.? )?{_WRITTEN}(?=[,!:.]?\s*\n|[,!:] )"),
    "any": re.compile(  # "Wolfram, patient service" as the last line
        # "MIETER: ANJALI VON THUN", "Kontoinhaber Ollerenshaw, Marek", "Account holder KOCH, Carmen"
        rf"\b(?:(?i:tenant|mieter(?:in)?|huurder|locataire|inquilin[oa]|inschrijving|\w*selbstauskunft)\s?:|(?i:kontoinhaber(?:in)?|account[ -]?holder|(?:rekening|kaart)houder|titulaire(?: du compte)?|titular)(?: (?i:is|ist|est|es))?\s?:?) "
        rf"(?P<labelled>[A-ZÀ-Þ]{WORD}(?:(?: (?i:{PARTICLE}))*,? [A-ZÀ-Þ]{WORD}){{0,3}})"
        rf"|(?<!--)\n(?P<signer>[A-ZÀ-Þ]{WORD}(?: [A-ZÀ-Þ]{WORD})?), (?:(?:[a-zß-ÿ]\w+ ?){{1,3}}|(?i:[\w ]*{UNIT}[\w ]*))\.?$|\n(?:Ihr|Uw|Votre|Su|Your)\w* (?:\w+ ?){{1,3}}, (?P<ours>[A-ZÀ-Þ]{WORD})\.?$"
        rf"|\n(?P<listed>[A-ZÀ-Þ]{WORD}(?: [A-ZÀ-Þ]{WORD})?, [A-ZÀ-Þ]{WORD})\n(?i:dob|geb|né|born|ur\.|f\. ?nac|nacid)|\n> ?(?P<quoted>[A-ZÀ-Þ]{WORD})$"
    ),
    "user": re.compile(rf"(?:\b(?i:{CLOSING})[ ,.!:]*\n+[-–— ]*|\n+[-–—]+ ?){_WRITTEN}[ .!,)]*$"),
}
# "Kind regards,\nGeertje Terpstra\nPatient service"
CLOSED = re.compile(
    rf"\b(?i:{CLOSING})[ ,.!:]*\n+(?P<name>(?:[A-ZÀ-Þ](?:\. ?| ))*[A-ZÀ-Þ]{WORD}(?:(?: (?:{PARTICLE}))* [A-ZÀ-Þ]{WORD}){{0,2}})(?=[ ,.!]*(?:\n|$)| \()"
)
# "Cheers, LAYLA VAN DER MEER", "MfG, D. Young": behind a formula also words that mean something else
SIGNATURE = re.compile(
    rf"\b(?i:{CLOSING})[ ,.!:]*(?:<br ?/?>)?[ \n]+(?:<br ?/?>\s*)*"
    rf"(?!N\.B|P\.S|Z\.B)(?P<name>(?:(?:[A-ZÀ-Þ]\.[ -]?)+|(?P<first>[A-ZÀ-Þ]{WORD}) )(?:(?i:{PARTICLE}) )*[A-ZÀ-Þ]{WORD}(?:(?: (?i:{PARTICLE}))* [A-ZÀ-Þ]{WORD})?)(?=[ .!]*(?:[\n\r<]|$))"
)
REACH = 300  # characters at the end in which the name of a user stands


@functools.cache
def _forms() -> tuple[frozenset[str], frozenset[str], list[tuple[re.Pattern[str], frozenset[str] | None]]]:
    """All names, the words that are ordinary ones, and what announces a name with the words that it may begin with (None: any)."""
    known, trusted = name_lists()[0] | name_lists()[1], trusted_given_names()
    ordinary = common_words() | foreign_words() | place_names() | MAKERS
    genitives = frozenset(f"{name}s" for name in trusted) - ordinary
    forms = [
        (ANYBODY, None),
        (GREETED, known),
        (TOLD, name_lists()[0]),
        (TOLD_ABROAD, name_lists()[0] - foreign_words()),
        (SOMEBODY, (known - ordinary) | (name_lists()[0] & place_names() - common_words() - foreign_words())),
        (IN_GERMAN, trusted),
        (GENITIVE, genitives),
    ]
    return known, ordinary, forms


def _placed(text: str, place: str) -> Iterator[re.Match[str]]:
    """What stands where a name does."""
    if place == "any":
        yield from CLOSED.finditer(text)
        for signed in SIGNATURE.finditer(text):
            words = signed["name"].lower().split()
            several = signed["name"].count(".") > 1 and words[-1] in _forms()[1]  # "Thanks, N.B. Delivery"
            if signed["first"].lower() in name_lists()[0] if signed["first"] else not several:
                yield signed
    if place in BY_POSITION:
        yield from BY_POSITION[place].finditer(text, max(0, len(text) - REACH) if place == "user" else 0)


def announced(text: str, writer: str = "") -> list[tuple[int, int]]:
    """Names behind words that announce one: "i. A. Emre Winter", "habe ich mit Dörte gesprochen", "regards from liam hunter".

    Args:
        text: any text.
        writer: "user" or "assistant" if one of them wrote it: a name in no list is known by its place in the message.
    """
    spans = []
    known_names, ordinary, forms = _forms()
    for form, firsts in forms if GERMAN.search(text) else forms[:5]:
        for cue in form.finditer(text):
            run = RUN.match(text, cue.end())
            tokens: list[Token] = []
            found = list(TOKEN.finditer(run.group())) if run else []
            for token, following in zip(found, [*found[1:], None]):
                word = token.group().rstrip(".").lower()
                known = word in known_names
                belongs = word in PARTICLES or (
                    token.group()[0].isupper()
                    and (known or word not in ordinary or (tokens and len(tokens[-1][2].rstrip(".")) == 1))
                    and form is not GENITIVE
                )
                if not tokens and firsts is not None:
                    # "Haruki Tanaka van beneden": no list has all given names
                    paired = (
                        form is SOMEBODY
                        and following
                        and not token.group().endswith(".")
                        and following.group().lower() in firsts
                        and word not in ordinary
                    )
                    belongs = word in PARTICLES or (token.group()[0].isupper() and (word in firsts or bool(paired)))
                if not belongs or word in CUT or word in TITLES or (word in BEGINS_NONE and token.group()[0].isupper()):
                    break
                tokens.append((cue.end() + token.start(), cue.end() + token.end(), token.group()))
                if token.group().endswith(".") and len(word) > 2:
                    break
            while tokens and tokens[-1][2].rstrip(".").lower() in PARTICLES:
                tokens.pop()
            if tokens and not (len(tokens) == 1 and re.search(r"i\. ?[AV]\. $", cue.group())):  # "i. A. Einkauf"
                spans.append((cue.end(), tokens[-1][1] - tokens[-1][2].endswith(".")))
    for place in dict.fromkeys(("any", writer)):
        for placed in _placed(text, place):
            group = "name" if placed.re is SIGNATURE else placed.lastgroup or "name"
            words = [word.lower().strip(",.") for word in placed[group].split() if word.lower() not in PARTICLES]
            if not words:  # "Kind regards,\nDe La"
                continue
            given = placed.re is SIGNATURE or (words[0] in name_lists()[0] and place == "any")
            alone = place == "any" and len(words) == 1 and group in ("name", "quoted") and not given and writer != "user"
            alone = alone and (writer != "assistant" or bool(re.search(UNIT, words[0])))
            no_name = any(word in CUT or word in TITLES or word in BEGINS_NONE for word in words)
            if not (no_name or alone or (not given and any(word in ordinary for word in words))):
                spans.append(placed.span(group))
    if not any(map(str.isupper, text)):
        for cue in HURRIED.finditer(text):
            named = cue["last"] in known_names or (cue["titled"] and cue["last"] not in ordinary)
            if named and cue["last"] not in CUT:
                spans.append(cue.span("who"))
    for cue in LOWER_FROM.finditer(text):
        written = LOWER_NAME.match(text, cue.end())
        if not written or not (written["first"].islower() or cue["met"]):
            continue
        first, second, sure = written["first"].lower(), written["second"] or "", cue["sure"] or cue["strong"]
        excluded = CUT if sure else common_words() if cue["met"] else ordinary  # "c'est la clé"
        # Behind "my name is" and a particle, a word that is in no list is a name too.
        unlisted = (cue["sure"] or (written["particles"] and (sure or cue["met"]))) and first not in ordinary
        named = first in (name_lists()[0] if cue["met"] else known_names) or unlisted
        if len(first) > 2 and first not in PARTICLES and named and first not in excluded:
            further = len(second) > 4 and second not in ordinary and first not in common_words()
            family = further or known_names.intersection([second, *second.split("-")])
            pair = family and second.islower() == written["first"].islower()
            spans.append((cue.end(), written.end("second" if pair else "first")))
    return spans
