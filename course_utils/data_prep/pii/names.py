"""Names of people in text, without a model: by lists of names, the words around them, and their position.

The given and family names of about eighty languages come from Faker, with some hundred frequent ones that it lacks. Which
words English text usually writes in lower case is taken from the vocabulary of the course's CPU model (`common_words.txt` has
the words whose lower-case form is the more frequent one). A run of capitalised words gets points for the words in it and for
what comes before and after it; with at least `THRESHOLD` points it is a name. What announces a name by itself is in
`announced`, the lists are in `words`.

In other languages in Latin script ordinary words have capital letters (German nouns) or are somebody's name in a list ("Tage",
"Beste"), so there a name needs a cue as well: a greeting, a title, "ich heiße", "Cordialement", or a surname after a given name.
"""

from __future__ import annotations

import functools
import re

from course_utils.data_prep.pii.announced import GERMAN, announced
from course_utils.data_prep.pii.words import (
    ARTICLES,
    BEGINS_NONE,
    CLOSES,
    CLOSING,
    CUT,
    DETERMINERS,
    GREETING,
    GREETS,
    INTRODUCES,
    KIN,
    LOCATIVE_PREPOSITIONS,
    MAKERS,
    PARTICLE,
    PARTICLES,
    PRODUCT_NOUNS,
    RUN,
    STRONG,
    TITLE,
    TITLES,
    TOKEN,
    WORD,
    WORDS,
    Token,
    common_words,
    ends,
    foreign_words,
    name_lists,
    ordinary_words,
    place_names,
    unmistakable_family_names,
)

Span = tuple[int, int]
THRESHOLD = 2.0
BRAND_AFTER = re.compile(
    r"\s*(?:['’]s\b|[→›]|& (?:Sons?|Co|Partners?|Söhne|Fils|Zonen|Hijos|Figli|Daughters?)\b|(?:[a-z0-9-]+ )?(?:lamp|chair|table|sofa|desk|shelf|bed|kettle|toaster|pan|pot|knife|knives|set|series|model|collection|range|brand|store|shop|"
    r"team|support|branch|street|road|station|hospital|bank|hotel|airport|court|park|line|service|app|website|plus|pro|gmbh|ltd|llc|inc|bv|s\.?a|plc|ag)\b|(?:T\d|Terminal|Airport|Lane|Road|Court|House|Estate|Towers?|Building|Heating|Plumb(?:ing|ers)|Lifts|Controls|Services|Repairs|Roofing|Cleaning|Security|Electrical|Hill|Grove|Close|Gardens)\b|®|™)"
)
PARTICLES_BEFORE = re.compile(rf"(?i:\b(?:{PARTICLE}) )*$")
# It makes a name of any capitalised word: "Mme de La Tour".
ADDRESSED = re.compile(
    r"\b(?:Mr|Mrs|Ms|Herrn?|Frau|Mme|Madame|Monsieur|Mlle)\.? (?:(?:Dr|Prof)\. )*" + PARTICLES_BEFORE.pattern
)
QUOTES = tuple("\"“”„'‘’«»")
FRENCH_VERB = re.compile(
    r"(?:[CDJLMNST]|Qu)['’][^\W\d_A-ZÀ-Þ]"
    r"|.+-(?:t-)?(?:je|tu|ils?|elles?|on|nous|vous|ce|l[ae]s?|lui|leur|moi|toi|y|en|ci|là)\.?$"
)
# A closing formula, and what stands behind it up to the end of the line, a comma or a number. The name is in a lookahead because
# it may be the formula's own end: "Merci d'avance".
SIGNED = re.compile(
    rf"(?<!\w)(?:{CLOSING}|please|pls|tia)"
    rf"(?=(?P<gap>[ ,.!:;\n]+)(?:(?:{TITLE})\.? )*(?P<name>(?:(?>(?:[^\W\d_]\.-?)++|{WORD}) ){{0,4}}{WORD})[ .!x:)]*(?:$|[,|(\d]))",
    re.IGNORECASE | re.MULTILINE,
)
# A greeting that begins a line or a sentence. Of a word in no list behind it ("Dear Tarnbrook,") nobody can say who it is.
SALUTES = re.compile(rf"(?:^|[\n.!?>])\s*(?:{GREETING}),? $", re.IGNORECASE)
PLACE_ENDINGS = frozenset(
    "platz ring straße strasse allee weg ufer haus schule park brücke halle center centrum zentrum".split()
)
CLOSED = re.compile(r"[ .!,x:)]*$|, [A-ZÀ-Þ]")  # the line ends, or the company follows
STREET_TYPES = frozenset(
    "street road lane avenue close drive way crescent court terrace gardens grove hill place square row mews walk rise view green park".split()
)
BUILDINGS = frozenset(
    "house court estate tower towers building cottage lodge lofts apartments residence residences mansions heating lifts controls services ascenseurs plomberie chauffage "
    "ward wing clinic gebouw mutuelle krankenkasse kruis verzekeringen assurances seguros ubezpieczenia électricité serrurerie aufzüge sanitär heizung elektro ascensores fontanería calefacción liften loodgieters".split()
)
IN_STREET_NAMES = tuple("straat gracht laan plein kade straße strasse gasse allee".split())
IN_STREETS = (*LOCATIVE_PREPOSITIONS, "for", "on", "along", "off", "down", "up")
DASHED = re.compile(r"\n[-–—~]+ ?$")  # "- Grace" as the last line
FOLLOWED = re.compile(rf"{WORD} ([A-ZÀ-ÖØ-Þ][^\W\d_]+)(?!\w)")
OWN_LINE = re.compile(rf"{WORD} ({WORD})[ .]*(?:$|\n)")
INITIALS = re.compile(r"(?!(?i:p\.s|n\.b|z\.b)\.)[^\W\d_]\.(?:-?[^\W\d_]\.)*|[A-ZÀ-Þ]")


@functools.lru_cache(maxsize=4096)
def foreignness(text: str) -> int:
    """Return how many more words of a text are ordinary ones of another language than of English."""
    english, other = ordinary_words("en_US"), 0
    for word in re.findall(WORD, text[:1].lower() + text[1:]):
        if word.islower() and len(word) > 1:
            # English too has short words of others ("per"), and the list of common words has fragments ("es").
            foreign = word in foreign_words() and (len(word) < 4 or word not in common_words())
            other += (foreign and word not in english) - (word in english and word not in foreign_words())
    return other


LONGEST_ACRONYM = 4
ROMAN = re.compile(r" (?:I{1,3}|I?V|VI{1,3}|IX|XI{0,2})$")
FEET = re.compile(r" \d{1,2}(?: \d/\d)?['’′]")
OF_A_COMPANY = re.compile(
    r",? (?:ltd|limited|gmbh|sarl|b\.?v\.|s\.[al]\.|inc\.?|llc|plc|ag|kg|sp\. z)(?!\w)|(?:['’]s)? (?:palsy|disease|syndrome|theorem|chorea|catheter)\b",
    re.IGNORECASE,
)
# "calle Ramón y Cajal", "gebouw Sint Jozef", "Pharmacie Martin"
OF_A_PLACE = re.compile(
    rf"\b(?i:{'|'.join(WORDS['place_nouns'])}) (?i:(?:de|du|la|el|des|van|sint|saint|santa|santo|san|św\.|doctor|dr\.?) )*$"
)
GERMAN_MONTHS = frozenset(
    "januar jänner februar märz april mai juni juli august september oktober november dezember".split()
)
AND_BEFORE, AND_AFTER = re.compile(r"(?<!\w)([A-ZÀ-Þ][\w'’-]+) & $"), re.compile(r" & ([A-ZÀ-Þ][\w'’-]+)")
MONTHS = frozenset("Jan Mar Apr May June July Jun Jul Aug April August".split())


def find_names(text: str, writer: str = "") -> list[Span]:
    """Return the names in a text as (start, end), in characters, end exclusive, in order and without overlaps.

    Args:
        text: any text.
        writer: "user" or "assistant" if one of them wrote it, see `announced`.
    """
    spans: list[Span] = []
    whole = foreignness(text)
    for run in RUN.finditer(text):
        line = text[text.rfind("\n", 0, run.start()) + 1 :].partition("\n")[0]
        spans += _in_run(text, run.start(), run.end(), (foreignness(line) or whole) > 0)
    spans = _longest([*announced(text, writer), *spans])
    signed = _signed(text, whole)
    spans = [*signed, *(span for span in spans if not _overlaps(*span, signed))]
    return sorted(span for span in _repeated(text, spans) if not _no_name(text, *span))


def _is_firm(text: str, start: int, end: int) -> bool:
    """Whether a word is a part of "Halden & Brook": what stands on the other side of the sign is no first name and no title."""
    beside = AND_BEFORE.search(text, max(0, start - 40), start) or AND_AFTER.match(text, end)
    return bool(beside) and not any(beside[1].lower() in words for words in (name_lists()[0], TITLES))  # type: ignore[index]


def _no_name(text: str, start: int, end: int) -> bool:
    """Whether a short name is a month before a day ("Jan 28", "3 Jan"), or capitals that stand for something ("NA").

    Nor is what has a number as a thing has it: "EAN 40063", "Viola da Gamba 8'", "Cornet V", "gilt 30 Tage".
    """
    name, after = text[start:end], text[end : end + 10]
    if re.search(r"\d\. ?$", text[max(0, start - 4) : start]) and name.split()[0].lower() in GERMAN_MONTHS:
        return True  # "am 28. Juli den Anschluss"
    if " " not in name and _is_firm(text, start, end):
        return True
    titled = _ends_with_title(text[max(0, start - 60) : start])
    if OF_A_COMPANY.match(text, end) or (not titled and OF_A_PLACE.search(text[max(0, start - 40) : start])):
        return True
    if len(name.split()[-1]) == 1 and re.match(r"\.[VLA]\.", after):  # "Jansen B.V."
        return True
    numbered = ROMAN.search(name) and not name_lists()[0].intersection(name.lower().split()) - place_names()
    if numbered or FEET.match(after) or (len(name) <= LONGEST_ACRONYM and name.isupper() and re.match(r" ?\d", after)):
        return True
    if " " not in name and re.search(r"\w[ \u00a0]\d+[ \u00a0]$", text[max(0, start - 12) : start]):  # "gilt 30 Tage"
        return True
    if name in MONTHS and (re.match(r"\.?,? ?\d", text[end:]) or re.search(r"\d(?:st|nd|rd|th)?[ -]$", text[:start])):
        return True
    return len(name) < 3 and name.isupper() and name.isascii()


def _in_run(text: str, start: int, end: int, foreign: bool) -> list[Span]:
    """Names in a run of words that are separated by single spaces."""
    tokens = [(m.start() + start, m.end() + start, m.group()) for m in TOKEN.finditer(text[start:end])]
    spans, i = [], 0
    while i < len(tokens):
        if not _may_belong(tokens[i][2]):
            i += 1
            continue
        j = i
        while j < len(tokens) and (_may_belong(tokens[j][2]) or _joins(tokens, j)):
            j += 1
        spans += _best_part(text, tokens[i:j], foreign)
        i = j
    return spans


def _may_belong(token: str) -> bool:
    """Whether a token may be part of a name: it begins with a capital, and is not an adjective such as "Protein-rich".

    Nor is it French "Gardez-le" or "J'ai".
    """
    capital = token[0].isupper() or (len(token) > 2 and token[:2].lower() in ("d'", "d’", "o'", "o’") and token[2].isupper())
    if not capital or FRENCH_VERB.match(token):
        return False
    pieces = token.split("-")
    if len(pieces) > 1 and pieces[-1].rstrip(".").lower() in PLACE_ENDINGS:
        return False
    return not any(piece[:1].islower() and piece in common_words() and piece not in PARTICLES for piece in pieces[1:])


def _joins(tokens: list[Token], j: int) -> bool:
    """Whether a token is a particle inside a name, such as "van der" in "Jan van der Berg"."""
    if tokens[j][2].lower() not in PARTICLES or j == 0:
        return False
    following = next((t for t in tokens[j + 1 : j + 3] if t[2].lower() not in PARTICLES), None)
    return following is not None and _may_belong(following[2])


def _best_part(text: str, tokens: list[Token], foreign: bool) -> list[Span]:
    """The parts of a run that are names; common words and titles separate the parts."""
    parts: list[list[Token]] = []
    current: list[Token] = []
    for position, (start, end, token) in enumerate(tokens):
        plain = token.rstrip(".").lower()
        cuts = _is_common(text, token, start, position == 0 and not current, foreign) or plain in TITLES or plain in CUT
        cuts = cuts or (not current and token[0].isupper() and plain in BEGINS_NONE)
        if current and current[-1][2] in PARTICLES and current[0][2].lower() in name_lists()[0] and token[0].isupper():
            cuts = False  # "Amélie de la Tour"
        if cuts:
            parts.append(current)
            current = []
        else:
            current.append((start, end, token))
            # A full stop ends a sentence after a whole word, but not after an initial.
            if token.endswith(".") and len(plain) > 2:
                parts.append(current)
                current = []
    parts.append(current)
    spans = []
    for part in parts:
        while part and part[-1][2].lower() in PARTICLES:
            part = part[:-1]
        while part and part[0][2].lower() in PARTICLES and not part[0][2][0].isupper():
            part = part[1:]
        if not any(len(token.rstrip(".")) > 1 for _, _, token in part):  # "Q:" and "Student B" name nobody
            continue
        if _points(text, part) >= THRESHOLD and (not foreign or _has_cue(text, part)):
            start, end = part[0][0], part[-1][1]
            if part[-1][2].endswith(".") and len(part[-1][2]) > 2:
                end -= 1
            if _ends_with_title(text[max(0, start - 60) : start]):  # "Frau von Harrach"
                start = PARTICLES_BEFORE.search(text, max(0, start - 30), start).start()  # type: ignore[union-attr]
            spans.append((start, end))
    return spans


def _has_cue(text: str, part: list[Token]) -> bool:
    """Whether more than capital letters and lists says that a part of a text in another language is a name."""
    given_names, family_names = name_lists()
    words = [token.rstrip(".").lower() for _, _, token in part]
    before, after = text[max(0, part[0][0] - 60) : part[0][0]], text[part[-1][1] :].partition("\n")[0]
    tail = before.lower().rstrip(" ,:")
    if ends(tail, (*STRONG, *KIN, *GREETS)) or _ends_with_title(before):
        return True
    if ends(tail, DETERMINERS):  # "Der Link zum Zurücksetzen"
        return False
    known = [word for word in words if (word in given_names or word in family_names) and word not in foreign_words()]
    if words[0] in given_names and ends(before.lower().rstrip(" ,.!:;\n"), CLOSES) and CLOSED.match(after):
        return True
    own_line = before.endswith("\n") and not after.strip(" .!,x:)")
    german = GERMAN.search(before.rpartition("\n")[2] + after)
    if not german and given_names.intersection(known) and before.endswith(" ") and not _starts_sentence(text, part[0][0]):
        return True  # other languages write nouns in lower case
    if known and (own_line or ends(before.lower().rstrip(" ,.!:;\n"), CLOSES)) and not after.strip(" .!,x:)"):
        return True
    if len(words) > 1 and not text[part[-1][1] :].strip(" .!,x:)\n") and _starts_sentence(text, part[0][0]):
        return words[-1] not in foreign_words()  # the last words of the text
    last = (
        words[-1] not in foreign_words()
        or words[-1] in family_names
        or words[-2:-1] == [*PARTICLES.intersection(words[-2:-1])]
    )
    listed = words[-1] in family_names and words[-1] not in foreign_words() and not _starts_sentence(text, part[0][0])
    return len(words) > 1 and words[0] in given_names and (listed or (words[0] in known and last))


def _may_be_family(word: str) -> bool:
    return word not in CUT and (word in name_lists()[1] or word not in common_words())


def _is_common(text: str, token: str, start: int, first: bool, foreign: bool) -> bool:
    # "I'm" and "Tom's" are judged by what is before the apostrophe
    word = re.sub(r"['’](?:s|re|ll|ve|d|m|t)$", "", token.rstrip(".").lower())
    given_names, family_names = name_lists()
    if ADDRESSED.search(text[max(0, start - 30) : start]):
        return False
    is_name = word in given_names or word in family_names
    again = word.endswith("ing") and word.removeprefix("re") in common_words()  # "Restarting"
    last = word.rpartition("-")[2]
    compound = (
        last != word and last in common_words() and last not in given_names and last not in family_names
    )  # "Support-Team"
    if compound or word in common_words() or again or (foreign and word in foreign_words()):
        if not is_name or token.isupper():
            return True
        # "Rose" and "Grant" are names only inside a sentence, where a common word would have no capital letter.
        own_line = OWN_LINE.match(text, start)
        closed = ends(text[max(0, start - 60) : start].lower().rstrip(" ,.!:;\n"), CLOSES)
        followed = own_line and own_line[1][0].isupper() and _may_be_family(own_line[1].lower())
        signs = text[:start].endswith("\n") and (closed or followed)
        signs = signs or bool(DASHED.search(text[max(0, start - 4) : start]) and not text[start + len(token) :].strip(" ."))
        family = FOLLOWED.match(text, start)  # "Will Blackwood, my boss"
        full_name = family and family[1].lower() in unmistakable_family_names()
        return first and _starts_sentence(text, start) and not ((signs or full_name) and word in given_names)
    return word == "i"


def _starts_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'“(*-•")
    return not before or before[-1] in ".!?\n:;…"


def _points(text: str, part: list[Token]) -> float:
    given_names, family_names = name_lists()
    places = place_names()
    words = [re.sub(r"['’]s$", "", token.rstrip(".").lower()) for _, _, token in part]
    start, end = part[0][0], part[-1][1]
    before, after = text[max(0, start - 60) : start], text[end : end + 40]
    whole, titled = " ".join(words), _ends_with_title(before)
    points = 0.0
    for i, (word, (_, _, token)) in enumerate(zip(words, part)):
        pieces = [word, *word.split("-")]
        known = any(piece in given_names or (piece in family_names and len(words) > 1) for piece in pieces)
        if not known and len(word) > 1 and len(token) <= LONGEST_ACRONYM and token.isupper():
            points -= 0.5  # "NYC" and "AUC" stand for something
        elif len(word) == 1:
            points += 0.4
        elif word in PARTICLES:
            points += 0.2
        elif any(p in given_names for p in pieces):
            points += 2.0 if word not in common_words() else 0.9
        elif any(p in family_names for p in pieces):
            points += 1.3 if word not in common_words() else 0.5
        elif word in common_words() and words[i - 1 : i] != [*PARTICLES.intersection(words[i - 1 : i])]:
            points -= 0.5 if titled else 1.0
        else:
            points += 0.8 if word not in places or titled else 0.0  # "Herr von Thun"
    if len(words) > 1 and words[0] in WORDS["place_prefixes"] and not ends(before.lower().rstrip(" ,:"), (*STRONG, *KIN)):
        points -= 3.0
    cued = titled or ends(before.lower().rstrip(" ,:"), (*STRONG, *KIN, *GREETS, *CLOSES))
    last_word = before.rstrip().rpartition(" ")[2].lower()
    product = len(words) > 1 and MAKERS.intersection(words[:3]) and not titled
    if product or (not cued and before.endswith(" ") and last_word in {*MAKERS, *PRODUCT_NOUNS}):
        points -= 6.0
    elif len(words) == 1 and words[0] in MAKERS and not cued:
        points -= 2.0
    elif (
        len(words) > 1 and words[0] in places and ends(before.lower().rstrip(" "), LOCATIVE_PREPOSITIONS)
        and not any(word in given_names or word in family_names for word in words[1:])
    ):  # fmt: skip
        points -= 2.0  # "Lyon Part-Dieu"
    elif words[-1] in STREET_TYPES and (
        (len(words) > 1 and ends(before.lower().rstrip(" "), IN_STREETS)) or re.search(r"[A-Z]\w+ $", before)
    ):
        points -= 3.0  # "in Kirkstall Lane"
    elif (len(words) > 1 and words[-1] in BUILDINGS and not cued) or (
        words[-1].endswith(IN_STREET_NAMES) and words[-1] not in family_names and not titled
    ):
        points -= 3.0
    elif whole in places and not titled and not (cued and words[0] in given_names):
        points -= 1.0 if words[0] in given_names else 2.0
    if len(words) > 1:
        points += 0.4
    if words[0] in given_names and SALUTES.search(before) and after.startswith((",", "!", "\n", " -", " –")):
        points += 1.2  # "Hi Mark,"
    points += _context(
        text, before, after, start, end, len(words), any(w in given_names or w in family_names for w in words)
    )
    return points


def _context(text: str, before: str, after: str, start: int, end: int, words: int, known: bool) -> float:
    points = 0.0
    alone = (not before or before[-1] == "\n") and (not after or after[0] == "\n" or after[:2] in (",\n", ".\n"))
    lowered = before.lower()
    tail = lowered.rstrip(" ,:")
    if ends(tail, STRONG) or _ends_with_title(before):
        points += 2.0
    elif (ends(tail, KIN) or ends(tail.removesuffix("s"), KIN)) and (known or "," not in lowered[-2:] or after[:1] == ","):
        points += 1.6
    elif ends(lowered.rstrip(" ,.!:;\n"), CLOSES) and CLOSED.match(text[end:].partition("\n")[0]):
        points += 1.5
    elif ends(tail, INTRODUCES) and (known or words > 1 or not tail.endswith("from")):
        points += 0.7
    elif ends(lowered.rstrip(" ,"), GREETS):
        points += 0.9
    if alone and start > 0:
        points += 1.0 if words <= 4 else -1.0
    if start > 20 and not text[end:].strip(" .!,x\n:)"):  # the last words of the text
        points += 1.2 if _starts_sentence(text, start) or before.rstrip(" ").endswith((",", "\n")) else 0.5
    if (lowered.endswith(" ") and ends(lowered.rstrip(" "), ARTICLES)) or (
        before.endswith(QUOTES) and after.startswith(QUOTES)
    ):
        points -= 2.0
    if words == 1 and lowered.endswith(" ") and ends(lowered.rstrip(" "), LOCATIVE_PREPOSITIONS):
        points -= 0.8
    if BRAND_AFTER.match(after) and not after.startswith(("'s", "’s")):
        points -= 2.0
    return points


def _ends_with_title(text: str) -> bool:
    """Whether the last word is a title; in "heer van de Graaf", particles are between it and the name."""
    words = text.rstrip(" ,:").split()
    while words and words[-1].lower() in PARTICLES:
        words.pop()
    return bool(words) and words[-1].lower().rstrip(".").strip('("') in TITLES


def _signed(text: str, foreign: int) -> list[Span]:
    """Names behind a closing formula that are in lower case or have initials: "mvg, jan de boer", "Best, K. Smith"."""
    given_names, family_names = name_lists()
    spans: list[Span] = []
    for match in SIGNED.finditer(text):
        words, start = match["name"].split(" "), match.start("name")
        initials = next((i for i, word in enumerate(words) if not INITIALS.fullmatch(word)), len(words))
        rest = [word for word in words[initials:] if word.lower() not in PARTICLES]
        last = rest[-1].lower() if rest else ""
        known = last in family_names or last in given_names
        if len(last) < 2 or last in CUT or ends(last, CLOSES):
            continue
        if initials:
            spelt_out = all(word[0].isupper() for word in [words[0], *rest]) and last not in common_words()
            known = known and words[0].islower() == last.islower()
            signs = len(rest) <= 2 and (known or (spelt_out and words[0].endswith(".")))
        else:
            lists = [common_words(), *([foreign_words()] if foreign > 0 else [])]
            ordinary = all(any(word in words_of for words_of in lists) for word in (words[0], last))
            known = known or (foreign <= 0 and last not in common_words())
            inner = common_words().intersection({*words[1:-1]} - PARTICLES) or (
                words[0] in common_words() and last not in family_names
            )
            signs = known and len(rest) <= 3 and match["name"].islower() and words[0] in given_names and not ordinary
            signs = signs and not inner  # "Please bill my insurer, not me."
            if len(words) == 1:  # only the last word; in other languages than English only behind a comma or on its own line
                is_last = not text[match.end("name") :].strip(" .!x:)\n") and (foreign <= 0 or match["gap"] != " ")
                signs = signs and is_last and last not in place_names()
        if signs and not _overlaps(start, match.end("name"), spans):
            spans.append((start, match.end("name")))
    return spans


def _longest(spans: list[Span]) -> list[Span]:
    """The spans without those that overlap with a longer one."""
    longest = sorted(set(spans), key=lambda span: (span[0] - span[1], span))
    return [span for i, span in enumerate(longest) if not _overlaps(*span, longest[:i])]


def _overlaps(start: int, end: int, spans: list[Span]) -> bool:
    return any(start < other_end and other_start < end for other_start, other_end in spans)


def parts_of(name: str) -> list[str]:
    """A name and its words by which the person is called elsewhere, the longest first; not those that are ordinary words."""
    parts = [name]
    for part in sorted(set(name.split()) - {name}, key=lambda part: (-len(part), part)):
        # Behind "mvg, jan de boer", any "boer" may be a farmer.
        plain = part.islower() and (part not in name_lists()[0] or part in foreign_words())
        if not plain and part.lower() not in PARTICLES:
            parts.append(part)
    return [part for part in parts if len(part) > 2 and part.lower().rstrip(".") not in common_words()]


def _repeated(text: str, spans: list[Span]) -> list[Span]:
    """The spans, and every other occurrence of these names or of parts of them."""
    all_spans = list(spans)
    for start, end in spans:
        for part in parts_of(text[start:end]):
            at = text.find(part)
            while at >= 0:
                until = at + len(part)
                whole = not (text[at - 1 : at].isalnum() or text[until : until + 1].isalnum())
                if whole and not _overlaps(at, until, all_spans):
                    all_spans.append((at, until))
                at = text.find(part, until)
    return all_spans
