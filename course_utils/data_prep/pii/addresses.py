"""Postal addresses in text: a street with a number, as about twenty countries write it, and what follows it.

An address starts at the flat, house name or street, and continues over commas and line ends as long as part of an address
follows: a floor, a postcode, a place. Without a street there is no address: a town or a country alone identifies nobody.
"""

from __future__ import annotations

import re

UP = r"[A-ZÀ-ÖØ-ÞĀ-ſƠ-ưẠ-Ỹ]"
CAP = rf"{UP}(?:[\w'’-]|\.(?=\w))*"
SMALL = r"(?:of|the|de|du|des|la|le|les|los|las|l'|d'|da|do|dos|das|di|del|della|dei|degli|el|van|den|der|het|'t|zum|zur|am|an|im|in|und|y|e|i|and|upon|on|bei|vor|aan|ten|sur|sous|lès|saint|st)"
NAME = rf"(?:{CAP}|\d{{1,3}}(?:st|nd|rd|th))(?:[ -](?:{SMALL}[ -])*{CAP}){{0,3}}"
NUMBER = r"\d{1,5}(?:[ ]?(?:bis|ter))?(?:[ ]?[a-zA-Z](?!\w|\.[ ]?\d))?(?:[-/–]\d{1,4}[a-zA-Z]?){0,2}(?:-(?:[A-Z]|I{1,3}|IV|bis|hs)(?!\w))?"
TYPES = (
    r"Street|Str|St|Road|Rd|Lane|Ln|Avenue|Ave|Av|Close|Cl|Drive|Dr|Way|Crescent|Cres|Court|Ct|Terrace|Ter|Gardens|Gdns|Grove|Hill|Place|Pl|"
    r"Square|Sq|Boulevard|Blvd|Parkway|Pkwy|Highway|Hwy|Row|Mews|Walk|Rise|View|Wynd|Quay|Green|Parade|Circle|Cir|Trail|Trl|Loop|Path|Pike|"
    r"Plaza|Point|Steps|Bank|Gate|Yard|Wharf|Alley|Bend|Ridge|Fields?|Meadows?|Vale|Croft|Drove|Estate|Heights|Hollow|Landing|Crossing|"
    r"Turnpike|Esplanade|Promenade|Broadway|Strand|Dene|Chase|Orchard|Paddock|Brae|Loan|Causeway|Mount|Common|Garth|Spur|Bridge|End|Corner|Side"
)
UNIT = (
    r"(?:Flat|Apt\.?|Apartment|Unit|Suite|Ste\.?|Room|Rm\.?|Floor|Block|House|Building|Bldg\.?|Studio|Villa|Door|Penthouse|Basement|Plot|Lot|Shop|Office|Level|"
    r"Wohnung|Whg\.?|Appt\.?|Bât(?:iment|\.)|Escalier|Tầng|Số|P\.|Phòng|Piso|Daire|Kat|lok\.|lgh|interno|int\.|scala)[ ]?#?[\w/.-]{1,6}"
)
# 14 Mill Lane; Flat 3, 9 Harbour View; 2210 Alder Creek Rd Apt 4B; 1640 N Halstead St #3F
ENGLISH = (
    rf"(?:\b{UNIT},?[ \n]+)?(?:\b(?:The )?{CAP}(?: {CAP})?(?: (?:House|Cottage|Lodge|Court|Farm|Barn|Forge|Mill|Manor|Hall|Villa|Towers?|Mansions|Building)),?[ \n]+)?"
    rf"(?:\b(?:Flat|Unit|Apt|Suite|Plot|House|No\.?)[ ])?\b{NUMBER},?[ ](?:[NSEW]{{1,2}}\.? )?(?:{NAME}[ ])(?:TYPES)\b\.?(?: (?:[NSEW]|NE|NW|SE|SW|North|South|East|West|Upper|Lower)\b)?(?:,? (?:{UNIT}|#[ ]?\w{{1,5}}))?"
)  # fmt: skip
PATTERNS = [
    ENGLISH.replace("TYPES", TYPES),
    # 9031 148 St; 350 5th Ave; 12877 76 Ave
    rf"\b\d{{2,5}}[ ](?:[NSEW]{{1,2}}\.? )?\d{{1,3}}(?:st|nd|rd|th)?[ ](?:Street|St|Avenue|Ave|Road|Rd|Drive|Dr)\b\.?(?:,? (?:{UNIT}|#[ ]?\w{{1,5}}))?",
    # 12 rue des Lilas; 8 bis avenue Foch; 48, boulevard de la Villette; 1180 Rue Saint-Viateur
    rf"\b{NUMBER},?[ ](?:[Rr]ue|[Aa]venue|[Aa]v\.?|[Bb]oulevard|[Bb]d\.?|[Pp]lace|[Qq]uai|[Cc]hemin|[Ii]mpasse|[Aa]llée|[Cc]ours|[Rr]oute|[Ss]quare|[Pp]assage|[Ff]aubourg)[ ](?:{SMALL}[ ]?)*(?:l'|d')?{NAME}",
    rf"\b(?:Rue|Avenue|Chemin|Boulevard|Place|Quai|Route|Chaussée)[ ](?:{SMALL}[ ])*(?:l'|d')?{NAME},?[ ]{NUMBER}",
    # Hauptstr. 12; Lindenallee 44; Am Mühlbach 3a; Nieuwstraat 88; Storgatan 18; Lange Leemstraat 62 bus 4
    rf"\b(?:{CAP}[ -](?:(?:de|den|der|van|het|von)[ ])*){{0,3}}(?!\w*(?:[Ss]tell|[Pp]ark|[Aa]rbeits|[Ss]itz|[Ll]iege|[Ss]piel|[Ss]teh|[Bb]au|[Ll]ager|[Zz]elt)platz\b){UP}[\w-]*(?:straße|strasse|str\.|[Ss]traße|[Ss]trasse|[Ss]tr\.|allee|weg|platz|gasse|ring|damm|ufer|markt|steig|chaussee|straat|boulevard|laan|gracht|plein|kade|dreef|singel|steeg|dijk|gatan|vägen|gränd|väg|gade|vej|gata|veien|katu|tie)[ ](?:[NOWZ]\.Z\.[ ])?{NUMBER}(?: bus \w+| m\. \d+| lgh \d+)?",
    rf"\b(?:{CAP}[ -]){{1,3}}(?:Straße|Strasse|Str\.|Allee|Weg|Platz|Gasse|Ring|Damm|Ufer)[ ]{NUMBER}",
    # Calle Betis 31, 2º izq.; C/ Mayor 5; Carrer de la Marina 88, bajos; Rua do Poço 15; Via dei Mille 27; Corso Garibaldi 112
    rf"(?:\b(?:[Cc]alle|Acceso|Pasaje|[Aa]venida|[Aa]vda\.?|[Pp]aseo|[Pp]laza|Pza\.?|Carrer|Camino|Ronda|Travessera|Rua|Praça|Travessa|Estrada|Alameda|[Aa]lej[ae]|[Pp]lac|[Oo]siedle|Av\.|Viale|Corso|Piazza|Vicolo|Strada|Piazzale|Odos|Plateia|Leoforos|Str\.|Strada|[Uu]lic[ay]|Ulitsa|Jalan|Jl\.)|C/)[ ]?"
    rf"(?:{SMALL}[ ])*{NAME},?[ ](?:n\.?º?[ ]?|nr\.?[ ]?|No:?[ ]?)?{NUMBER}(?:,? \d{{1,2}}[.ºª°]+ ?[\w.]{{0,4}}| bajos| m\. ?\d+)?",
    # "Ik woon op Oude Delft 164, 2611 HG Delft", "J'habite Grand Place 5"
    rf"(?:(?<=[Ww]oon op )|(?<=[Ww]oon aan )|(?<=[Ww]oon in )|(?<=[Ww]ohne in )|(?<=['’]habite )|(?<=[Vv]ivo en )|(?<=[Ll]ive at )|(?<=[Ll]ive in )){NAME}[ ]{NUMBER}",
    rf"\b(?:Laan|Plein|Kade|Hof)[ ](?:{SMALL}[ ])+{NAME}[ ]{NUMBER}",
    # ul. Długa 8/12; al. Niepodległości 141 m. 6; UL. POLNA 17/4
    rf"\b(?:[Uu][Ll]|[Aa][Ll]|[Oo][Ss]|[Pp][Ll])\.[ ]{NAME}[ ]{NUMBER}(?:[ ]?m\.?[ ]?\d+)?",
    # Atatürk Caddesi No: 12; Gül Sokak 5/3
    rf"\b(?:{CAP} )?{NAME}[ ](?:Caddesi|Cad\.|Sokak|Sokağı|Sok\.|Sk\.|Mahallesi|Mah\.|Bulvarı),?[ ](?:[Nn]o[:.]? ?)?{NUMBER}",
    # 215/8 Nguyễn Trãi, Phường 2; K82/11 Hải Phòng; Số 7, ngách 42/15
    rf"(?:\b(?:Tầng|Số)[ ]\d+,[ ])?\b(?:K|số |Số |kiệt )?\d{{1,4}}(?:/\d{{1,4}})*(?:,? (?:ngách|ngõ|hẻm|kiệt)[ ][\d/]+)*,?[ ]{NAME}(?=,? (?:Phường|Quận|P\.|Q\.|TP|Hà Nội|Đà Nẵng|Ba Đình|Thạch|Thanh|Huyện))",
    # 1400 Harbour Gate, Suite 900, Vancouver, BC V6E 4A2: recognised by the postcode after it
    rf"(?:\b{UNIT},?[ \n]+)?\b\d{{1,5}},?[ ]{NAME}(?=(?:,[ ]|\n)(?:{UNIT},?[ \n])?(?:{CAP}[ ,]+){{0,3}}(?:[A-Z]{{2}} \d{{5}}|[A-Z]\d[A-Z] \d[A-Z]\d|[A-Z]{{1,2}}\d{{1,2}}[A-Z]? \d[A-Z]{{2}}))",
    # Room 508, Building 3, 268 Wenhui Road
    rf"\b{UNIT},[ ]{UNIT},[ ]\d{{1,5}}[ ]{NAME}",
    # The Old Mill, Church Lane, Bibury GL7 5NW
    rf"\b(?:The )?{CAP}(?: {CAP})? (?:House|Cottage|Lodge|Court|Farm|Barn|Forge|Mill|Manor|Hall|Towers?|Rectory|Vicarage),[ \n]{CAP}(?: {CAP})? (?:TYPES),[ \n]{CAP}(?: {CAP})?,? [A-Z]{{1,2}}\d{{1,2}}[A-Z]? \d[A-Z]{{2}}".replace("TYPES", TYPES),
    r"\b(?:P\.?[ ]?O\.?[ ]?Box|Postfach|Postbus|(?:Case|Boîte) postale|B\.?P\.?|Apartado|Casella postale|skr\. poczt\.)[ ]\d{1,3}(?:[ ]?\d{2,3})?(?: \d\d(?!\d))?",
    # a flat without its street: "the neighbour in Flat 20A"; not "a flat 30 %" or "appartement 45 m²"
    r"\b(?<!\ba )(?<!\ban )(?:[Ff]lat|[Aa]partment|[Aa]pt\.?|[Aa]ppartement|[Aa]ppt\.?|[Aa]partamento|Wohnung|Whg\.?|[Mm]ieszkani[ea]|[Mm]ieszkaniu)[ ](?:(?:Nr|nr|no|number|n°|nº)\.?[ ])?\d{1,4}[a-zA-Z]?(?![\w.,]*\d| ?(?:[%€$£°]|m²|m2|sq|per|km|euros?|EUR|Zimmer|rooms?)|\w)",
]  # fmt: skip
# What may as well be a thing with a number ("Im Flex 15", "a 30 Day Pass", "via App 15") counts only with further evidence.
WEAK = [
    ENGLISH.replace("TYPES", "Park|Run|Pass"),
    rf"\b(?:Am|An der|Auf der|Im|In der|Zum|Zur|Unter den|Hinter dem|Hinter der|Vor dem|Beim|Bei der|Neben der)[ ](?:[a-zäöüß]+en[ ])?{NAME}[ ]{NUMBER}",
    rf"\b(?:Via|Largo)[ ](?:{SMALL}[ ])*{NAME},?[ ](?:n\.?º?[ ]?)?{NUMBER}",
]
# Korinthou 221, 262 21 Patras
BARE = rf"\b{NAME}[ ]{NUMBER}(?=(?:,[ ]|\n)(?:\d{{4,5}}|\d{{3}} \d{{2}}|\d{{2}}-\d{{3}})(?: [A-Z]{{2}})? {UP})"
# All begin with a word: elsewhere none of them is tried.
START = re.compile("".join((r"(?<!\w)(?=\w)(?:", "|".join(PATTERNS), f"|(?P<weak>{'|'.join(WEAK)})|(?P<bare>{BARE}))")))
CUE = re.compile(
    r"(?:\b(?:to|at|nach|an|bei|aan|naar|à) $|(?:ad+ress|anschrift|adres|direcci|indirizzo|wohn|umgezogen|umzug|\bzieh|liefer|schick|versand|\blive|\bmov|"
    r"\bsen[dt]|\bship|deliver|domicil|habit|livr|envo[iy]|vivo|enví|abit|sped|woon|bezorg|verzend)[^\n.!?]*\n?[^\n.!?]*$)",
    re.IGNORECASE,
)
POSTCODE = (
    r"(?:[A-Z]{1,2}\d{1,2}[A-Z]?[ ]?\d[A-Z]{2}|[A-Z]\d[A-Z\d][ ]?[A-Z\d]{4}|[A-Z]\d[A-Z][ ]?\d[A-Z]\d|(?:[A-Z]{1,2}-)?\d{5}(?:-\d{4})?|\d{2}-\d{3}|\d{3}[ ]\d{2}|"
    r"\d{4}[ ]?[A-Z]{2}|\d{4}-\d{3}|\d{4}|\d{6}|BT\d{1,2}[ ]\d[A-Z]{2})"
)
PLACE_NAME = rf"{CAP}(?:[ -](?:(?:{SMALL}|zu|bei|ob)[ -])*{CAP}){{0,3}}(?: \d{{1,2}}(?!\d))?"
# Parts that may follow the street, one at a time.
PART = re.compile(
    rf"(?:{UNIT}|#[ ]?\w{{1,5}}|\d{{1,2}}(?:st|nd|rd|th|e|er|ème|\.|º|ª|°)\.?[ ]?(?:floor|étage|[A-Za-z]{{1,4}}\.?)(?![\w])(?:[ ](?:links|rechts|mitte|left|right|gauche|droite))?|(?:bajos|izq\.|dcha\.)|"
    rf"(?:Phường|Quận|TP\.?|Huyện|Tỉnh)[ ]?[\w.]+(?:[ ]{UP}[\w]*){{0,3}}|"
    rf"{POSTCODE}[ ]{PLACE_NAME}(?:[ ][A-Z]{{2}}\b)?|{PLACE_NAME}[ ]{POSTCODE}(?![\w])|[A-Z]{{2}}[ ]{POSTCODE}(?![\w])|{POSTCODE}(?![\w])|Co\.[ ]{UP}\w+(?:[ ]{POSTCODE}(?![\w]))?|"
    rf"[A-Z]{{2}}(?![\w])|{PLACE_NAME})"
)
SEPARATOR = re.compile(r",[ ]?\n?|\n|[ ][-–][ ](?=\d{4,5}[ ])|[ ](?=[A-Z]{1,2}\d|\d{5}\b|[A-Z]{2} \d{5})")
HAS_POSTCODE = re.compile(rf"(?<!\w){POSTCODE}(?!\w)")
# Capitalised words that begin a new sentence, not another part of the address.
STOPS = re.compile(
    r"(?:I|I'm|I've|It|It's|My|The|This|That|Please|Pls|Order|And|But|Or|We|You|Your|He|She|They|Not|No|Yes|Thanks|Thank|Kind|Best|Regards|Tel|Phone|Mobile|Call|"
    r"Email|E-mail|Also|If|When|Where|Which|What|Why|How|Who|Can|Could|Do|Does|Did|Is|Are|Was|Were|Will|Would|Should|Have|Has|Had|For|From|To|At|On|In|As|After|Before|"
    r"Since|Because|So|Then|Now|Today|Tomorrow|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|Mr|Mrs|Ms|Dr|Hello|Hi|Dear|Sincerely|Yours|With|Send|Ship|Deliver|Buzzer|"
    r"Date|DOB|Born|Name|Account|Card|IBAN|Invoice|Customer|Delivery|Attn|TB)\b"
)


# In a text without capitals: words of a street that mean nothing else, and words that no street goes on with
UNMISTAKABLE = re.compile(
    r"(?:straße|strasse|gasse|allee|weg|straat|laan|gracht|kade|plein)\b|\b(?:rue|calle|avenida|avenue|boulevard|impasse|ul\.|ulica|lane|road|street)\b",
    re.IGNORECASE,
)
BEGINS_CLAUSE = re.compile(
    r" (?:et|est|à|au|pour|qui|que|dans|avec|merci|svp|y|and|but|for|since|in)\b(?! \w+,? \d{4})", re.IGNORECASE
)
DIGIT = re.compile(r"\d")
REACH = 120  # characters from the beginning of an address to its first number, or to the next one
NUMBERS = re.compile(rf"\d(?:[^\d]{{0,{2 * REACH}}}\d)*")
DURING = re.compile(r"During \d")  # "-ring" ends German streets
DATE = re.compile(
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.? \d{1,2}, \d{4}"
)
YEAR = re.compile(r"(?:1[5-9]|20)\d\d\b")
AFTER_THE = re.compile(r"\b(?:the|my|your|our|a|this) $", re.IGNORECASE)
IN_YEAR = re.compile(r"\b(?:in|since|by|until|from|of|during|year) $", re.IGNORECASE)


CAPITALISED = re.compile(
    r"(?<=\d[ \d])[A-Z][a-z]\b|\b[A-Z][a-z]?\d[\da-z]? \d[A-Z]?[a-z]{1,2}\b", re.IGNORECASE
)  # in postcodes


def _upper(letter: str) -> str:
    """The capital, if it is one letter: that of "ß" is two, and positions must stay."""
    return letter.upper() if len(letter.upper()) == 1 else letter


def find_addresses(text: str) -> list[tuple[int, int]]:
    """Return the addresses in a text as (start, end) in characters, end exclusive, in order and without overlaps."""
    hurried = not any(map(str.isupper, text))  # "stuur het naar lindelaan 12, 4811 dj breda"
    if hurried:
        text = CAPITALISED.sub(lambda word: word.group().upper(), re.sub(r"\b\w", lambda m: _upper(m.group()), text))
    spans, position = [], 0
    # Every address has a number, and its first one is at most REACH from its beginning.
    while number := DIGIT.search(text, position):
        position = max(position, number.start() - REACH)
        numbers = NUMBERS.match(text, number.start()) or number
        match = START.search(text, position, numbers.end() + REACH)
        if not match:
            position = numbers.end()
            continue
        start, end = match.span()
        end = _extend(text, end)
        if hurried and (before := re.match(r"(?:[^\W\d]+ )+(?=[^\W\d]{6,} \d)", match.group())):
            start += before.end()  # any word may be the street's; its name is the one with the ending
        if hurried and (after := BEGINS_CLAUSE.search(text, start, end)):
            end = after.start()
        if (
            _is_date_or_time(text, match)
            or (hurried and not HAS_POSTCODE.search(text, start, end) and not _is_street(text, start, end))
            or (match.lastgroup and not _has_evidence(text, match, end))
        ):
            position = match.start() + 1
            continue
        spans.append((start, end))
        position = max(end, position + 1)
    return spans


def _is_street(text: str, start: int, end: int) -> bool:
    """Whether a match in a text without capitals is an address for certain, or stands behind a word that says so."""
    return bool(UNMISTAKABLE.search(text, start, end) or CUE.search(text[max(0, start - 60) : start]))


def _has_evidence(text: str, match: re.Match, end: int) -> bool:
    """Whether words before a weak match, or what follows it up to `end`, say that it is an address."""
    before, after = text[max(0, match.start() - 60) : match.start()], text[end : end + 1]
    if AFTER_THE.search(before) or CUE.search(before) or re.search(r"\d[a-z]$", match.group()):
        return not AFTER_THE.search(before)
    if match["bare"]:
        return (not before or before.endswith(("\n", ": ", ", "))) and after in "\n,.;)!?"
    return bool((before.endswith("\n") and after in "\n") or HAS_POSTCODE.search(text, match.end(), end))


def _extend(text: str, end: int) -> int:
    """The end of an address, extended by the parts that follow: at most six, and after a postcode only a place or a country."""
    closed = bool(HAS_POSTCODE.search(text, max(0, end - 9), end))
    for _ in range(6):
        separator = SEPARATOR.match(text, end)
        if not separator:
            break
        part = PART.match(text, separator.end())
        if not part or STOPS.match(text, part.start()):
            break
        # A name on its own line after the postcode is a signature, not a place.
        if closed and (separator.group().startswith("\n") or not re.fullmatch(PLACE_NAME, part.group())):
            break
        after = text[part.end() : part.end() + 1]
        words = part.group().split()
        plain = re.fullmatch(PLACE_NAME, part.group()) is not None
        if plain and not closed and after not in (",", ".", "\n", "", ")", ";", "!", "?", " "):
            break
        # "…, London and then" has a place, "…, Please forgive me" has not: one capitalised word in running text may be either.
        if plain and after == " " and len(words) == 1 and not HAS_POSTCODE.match(text, part.end() + 1):
            following = text[part.end() + 1 : part.end() + 12]
            if not re.match(
                r"(?:and|but|not|which|where|is|was|as|by|for|with|has|can|if|so|in|on|-|–|\(|\d|[A-Z]{2}\b)", following
            ):
                break
        end = part.end()
        if text[end - 1 : end] == "." and len(words[-1]) > 3:
            end -= 1
        closed = closed or bool(HAS_POSTCODE.search(part.group()))
    return end


def _is_date_or_time(text: str, match: re.Match) -> bool:
    """Whether the number is part of a date or a length of time.

    "3 May Street" may be an address; "3 May Way", "9 Monday Drive", "During 5 hours" and "December 6, 2013" are not. Nor is what
    follows a year: "In 2020, Meezan Bank", "the 1929 Wall Street crash".
    """
    before = text[max(0, match.start() - 10) : match.start()]
    if DURING.match(match.group()) or DATE.search(text, match.start(), match.end() + 6):
        return True
    if YEAR.match(match.group()) and (AFTER_THE.search(before) or ("," in match.group()[:5] and IN_YEAR.search(before))):
        return True
    return bool(
        re.match(
            r"\d{1,2}(?:st|nd|rd|th)?,? (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\b(?! (?:Street|Road|Lane|Avenue))",
            match.group(),
        )
    )
