# %% [markdown]
# # 05 · Dataset preparation: 20,000 tickets and two weeks
#
# {{badges}}
#
# > *"Here's every chat of the support desk, as CSV. Train something on it by the end of next week?"*
#
# | the same small model trained on {{record:data-quality:examples:d}} examples, three runs | category and escalation both right, of 100 test messages |
# | --- | --- |
# | drawn from the export as it came ({{record:data-quality:rows.raw:,}} rows of at most 32 words) | {{record:data-quality:runs.raw.0.test.both.0:.0%}} to {{record:data-quality:runs.raw.1.test.both.0:.0%}} |
# | what preparation left ({{record:data-quality:rows.cleaned:d}} short rows) | {{record:data-quality:runs.cleaned.0.test.both.0:.0%}} to {{record:data-quality:runs.cleaned.2.test.both.0:.0%}} |
# | {{record:data-quality:rows.hundred:d}} rows that a language model wrote and labelled to the test's guide, each seen three times | {{record:data-quality:runs."a hundred good".1.test.both.0:.0%}} to {{record:data-quality:runs."a hundred good".0.test.both.0:.0%}} |
#
# Preparing the export nearly doubles the score, but a hundred carefully labelled rows do as well as 300 prepared
# ones. Expect less from your own hundred, because ours are more like the test than yours will be. Section 8 has a
# day-by-day plan that divides your two weeks between labelling and preparing.
#
# By the end you'll be able to
#
# - turn a messy table into three files to train, validate and test on, with one script that stops when the export is
#   broken,
# - find copies, leaks and wrong labels, and say what the script misses,
# - see which tokens of a row are learned, and what a template adds or loses,
# - plan your two weeks: how many rows to read, how many to label, and when to stop.
#
# You should know pandas and have met scikit-learn; you needn't have trained a language model. Reading takes about 50
# minutes without the script's code, the exercises as long again. {{timing}} If you have a file to clean today, take the
# script of section 2 (`course clean-script` in a terminal writes it) and read sections 3 and 8.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All clears all outputs
# before refilling them. To recover the recorded page, run `course restore 05` in a terminal.

# %%
# INSTALL: data,trl

# %%
import json

import numpy as np
import pandas as pd
from course_utils import assets, charts, models, show
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_05
from course_utils.exercises import check, quiz
from course_utils.show import predict

pd.set_option("display.max_colwidth", 400, "display.width", 200)

# %% [markdown]
# ## 1 · The export
#
# The support desk belongs to Tarnbrook, a shop we invented. From each customer's message a model should write two
# fields, the `category` and the `escalation`. The second says why somebody must act at once; it's mostly `none`. Here
# are four of the 1,882 rows that the desk's program stored:

# %%
lesson_05.write_export("tickets.csv")
pd.read_csv("tickets.csv", dtype=str).fillna("–").iloc[[1, 3, 675, 700]]

# %% [markdown]
# The first row is fine. In the second an agent wrote a reply instead of filling in the form, and the third still has
# the form's default, "question, none". The fourth is in Dutch and contains a name and an e-mail address. We planted
# every fault in this export and kept the answer key, so here, unlike at work, you can count what each step finds.
# Before you open your own export, ask your data protection officer whether it may be used for training, and who may
# read it while it still contains names.

# %%
guess = predict("Of the 1,882 rows, how many will the script keep?", unit="rows")
guess

# %% [markdown]
# ## 2 · The job, in one script
#
# The next cells are the program to take to work. It uses pandas for the table, datasketch for copies, scikit-learn for
# split and labels, and this course's package for personal data. Each step takes the table and returns it with a
# one-line report. Instead of dropping a row, a step writes the reason into the column `why`, and it *stops* if the
# export probably isn't what you think it is. Most steps are folded, so open their code if a report surprises you.
# Only the settings, which you'll change, and the code that sections 4 and 6 explain are shown.
#
# **Settings.** Change these for your own table. `STOP` holds the limits at which the script stops (section 3).

# %% tags=["program"]
import csv
import hashlib
import html
import io
import json
import os
import re
import secrets
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

ID, TEXT, WHO = "ticket", "message", "customer"           # columns of your export
LABELS = {                                                # columns to learn → their values
    "category": ["delivery", "billing", "returns", "defect", "account", "question"],
    "escalation": ["none", "danger", "misuse", "money", "legal", "deadline"],
}
RENAME = {"category": {"Bill": "billing"}}                # other spellings of the values
NOTE = "note"                                             # what people write anew for each ticket, or None
NUMBER = "order_id"                                       # what people copy from the message, or None
SYSTEM = "Triage this customer message."                  # the system message of every row
TEST = "test.csv"                                         # your test messages with labels, never trained on
DROP = "drop"                                             # what a reader writes in place of a label: out with this row
MAJORITY = 0.75                                           # this share of a message's copies outvotes the others' labels
ALLOW = ["info@tarnbrook.example"]                        # looks personal and isn't
NOBODY = "- 0 unknown anonymous anonym k.a. n/a none nan unbekannt inconnu".split()       # in WHO, these are no customer
GREETINGS = set("hi hello hey ok okay thanks thank you bye please yes no test anyone there "
                "hallo moin guten tag danke vielen dank bitte ja nein mit freundlichen grüßen".split())
NUMBERS = {}                                              # of your own, to take out: {r"\bTB[- ]?\d{5}\b": "[ORDER]"}
SEED = 0                                                  # another one deals customers and folds anew
STOP = {"unusable": 0.5, "redacted": 0.01, "one_customer": 0.2, "smallest_part": 0.05, "kappa": 0.1}


def stop_unless(fine, message):
    """End the run where going on would hide what is wrong."""
    if not fine:
        raise ValueError(message)

# %% [markdown]
# **Step 1, corrections,** enters labels that a person has written. **Step 2, unusable rows,** has five rules, which
# we found by reading a hundred tickets. The rule "form left as it opened" needs a column that people write anew for
# each ticket. If the same note appears in many rows, nearly always with the same labels, nobody filled in the form.

# %% tags=["program", "folded"]
def read_table(file, columns=()):
    """Return a CSV file with these columns as texts, whatever its encoding and separator; say which bytes were guessed."""
    stop_unless(Path(file).exists(), f"there is no {file}")
    data = Path(file).read_bytes()
    stop_unless(data[:2] != b"PK", f"{file} is a workbook or an archive. Save its table as CSV")
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "surrogateescape")
    strange = re.findall("[\udc80-\udcff]", text)
    if len(strange) > sum(not letter.isascii() for letter in text) / 2:
        text = data.decode("cp1252", "replace")
        print(f"{file} isn't UTF-8 and was read as Windows-1252. If letters look strange, save it as UTF-8")
    elif strange:
        text = re.sub("[\udc80-\udcff]", lambda byte: bytes([ord(byte[0]) - 0xDC00]).decode("cp1252", "replace"), text)
        print(f"{file}: {len(strange)} bytes are not UTF-8 and were read as Windows-1252. Look for strange letters")
    first, _, rest = text.partition("\n")
    told = first.strip('\r" ').lower().startswith("sep=")                          # Excel's own first line
    separator = first.strip('\r" ')[4:] if told else max(",;\t|", key=first.count)
    header, *lines = csv.reader(io.StringIO(rest if told else text), delimiter=separator)
    long = [row for row, cells in enumerate(lines, 2) if any(map(str.strip, cells[len(header):]))]
    stop_unless(not long, f"{file}: {len(long)} rows have more cells than the header, the first is row {(*long, 0)[0]}. "
                          f"Put texts that hold {separator!r} in quotes")
    table = pd.read_csv(io.StringIO(rest if told else text), dtype=str, sep=separator, keep_default_na=False, na_values=[""],
                        index_col=False)                   # or a separator at the end of each line shifts the columns
    table = table.drop(columns=[name for name in table if name.startswith("Unnamed: ") and table[name].isna().all()])
    missing = set(columns) - set(table)
    stop_unless(not missing, f"{file} has no column {missing}, but {list(table)}. Rename them, or change the settings")
    return table.assign(**{ID: table[ID].str.strip()}) if ID in table else table


def prepare(rows):
    """Return rows with labels spelled as in LABELS, and who counts as a person."""
    labels = {name: rows[name].str.strip().replace(RENAME.get(name, {})) for name in LABELS}
    person = rows[WHO].str.split().str.join(" ").str.lower()
    person = person.mask(person.isin(["", *NOBODY])).fillna("alone " + rows[ID])
    return rows.assign(**labels, person=person, why="")


def apply_corrections(rows, files="corrections*.csv"):
    """1. Enter what somebody wrote into the column "right": a label, or DROP; in any number of rounds."""
    rows = prepare(rows).assign(read=False, dropped=False, **{f"{name} read": False for name in LABELS})
    found = sorted(Path().glob(files), key=lambda one: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", one.name)])
    if not found:
        return rows, f"nobody has read any row: there is no {files}"
    lines = pd.concat([read_table(one, [ID, "field", "right"]) for one in found]).dropna(subset="right")
    corrected, unknown = 0, Counter()
    for name, values in LABELS.items():
        right = lines[lines["field"] == name].drop_duplicates(ID, keep="last").set_index(ID)["right"].str.strip()
        right = right.replace(RENAME.get(name, {})).mask(right.str.lower() == DROP, DROP)
        unknown.update(right[~right.isin([*values, DROP])])
        right = rows[ID].map(right)
        corrected += (right.isin(values) & (right != rows[name])).sum()
        entered = right.isin(values)
        rows = rows.assign(read=rows["read"] | entered, dropped=rows["dropped"] | (right == DROP),
                           **{f"{name} read": entered, name: right.where(entered, rows[name])})
    report = f"{rows['read'].sum()} rows read, {corrected} labels corrected, {rows['dropped'].sum()} rows to drop"
    elsewhere = sorted(set(lines[ID][lines["field"].isin(LABELS)].fillna("")) - set(rows[ID]))
    misfits = {"not in LABELS": dict(unknown), "no such field": set(lines["field"].dropna()) - {*LABELS, "field"},
               f"{len(elsewhere)} tickets are not in the table": elsewhere[:5]}
    report += "".join(f"; {what}: {found}" for what, found in misfits.items() if found)
    stop_unless(lines.empty or (rows["read"] | rows["dropped"]).any(), f"{report}. Are {files} this export's, in LABELS' words?")
    return rows, report


CLUTTER = r"(?im)</?[a-z][^<>]*>|^(?:from|sent|van|verzonden|von|gesendet) ?:|^-- ?$|confidential|vertrouwelijk|vertraulich"


def says_nothing(message):
    """Return True if fewer than three different words or numbers are left without greetings."""
    words = re.findall(r"[\u0e00-\u0e7f\u3040-\u9fff]|[^\W\d_]{2,}|\d{4,}", message.lower())      # one letter of Chinese is a word
    return len(set(words) - GREETINGS) < 3


def flag_unusable(rows):
    """2. Write into `why` what makes a row useless; labels that a person has entered need no form."""
    rows, messages = prepare(rows), rows[TEXT].fillna("")
    known = pd.DataFrame({name: rows[name].isin(values) for name, values in LABELS.items()})
    copied = rows[NUMBER].fillna("") if NUMBER else [""] * len(rows)
    notes = rows[known.all(axis=1)].fillna({NOTE: ""}).groupby(NOTE)[list(LABELS)] if NOTE else {}
    opened = [note for note, labels in notes if len(labels) >= max(8, len(rows) // 250)
              and labels.value_counts(normalize=True).iloc[0] > 0.9]
    opened = opened if len(opened) <= 3 else []             # a form opens in one way, and people choose among many texts
    reasons = {
        "no message": messages.str.strip() == "",
        "": pd.DataFrame({name: rows.get(f"{name} read", False) for name in LABELS}, index=rows.index).all(axis=1),
        "unknown label": ~known.all(axis=1),
        "form left as it opened": rows[NOTE].fillna("").isin(opened) if NOTE else messages.isna(),
        "another ticket's number": [re.sub(r"\D", "", number) not in re.sub(r"\D", "", message)
                                    for number, message in zip(copied, messages)],
        "says nothing": messages.map(says_nothing),
    }
    rows["why"] = np.select(list(reasons.values()), list(reasons), "")
    unknown = Counter(value for name in LABELS for value in rows[name][~known[name]].fillna("no label")).most_common()
    report = f"{len(rows)} rows: {dict(Counter(rows['why'][rows['why'] != '']))}. Not in LABELS: {dict(unknown[:9])}"
    report += f" and {len(unknown) - 9} others, in {sum(count for _, count in unknown[9:])} rows" if unknown[9:] else ""
    report += f". Left as it opened: {opened}" if opened else ""
    clutter = messages.str.contains(CLUTTER).sum()
    report += f". {clutter} rows hold HTML or an e-mail's head or footer, which stays in" if clutter else ""
    stop_unless((rows["why"] != "").mean() <= STOP["unusable"], report)
    return rows, report

# %% [markdown]
# **Step 3, copies,** uses {{term:MinHash}} (section 4). If near-copies have different labels, a majority of three
# quarters wins. Without one, they wait in `contradictions.csv` until you enter the right label once.

# %% tags=["program"]
def pieces_of(text):
    """Return a text's words and pairs of neighbouring words."""
    words = re.findall(r"\w+", text.lower())
    return {*words, *map(" ".join, zip(words, words[1:]))}


def jaccard_index(one, other):
    """Return the pieces that two sets share, divided by those in at least one."""
    return len(one & other) / max(1, len(one | other))

# %% tags=["program", "folded"]
from datasketch import MinHash, MinHashLSH


def only_names(text, pieces):
    """Return True if the pieces hold at most three of the text's words, and none in lower case: a signature at most."""
    words = [word for word in re.findall(r"\w+", text) if word.lower() in pieces]
    return len(words) <= 3 and not any(map(str.islower, words))


def join_quoted(places, pieces, rest, numbers):
    """Return the places, with one for a text of ten words or more and all that hold it whole: forwards, quotations."""
    counts, rarest = Counter(piece for own in rest for piece in own), {}
    for place, own in enumerate(rest):
        if len(pieces[place]) >= 20:
            rarest.setdefault(min(own, key=lambda piece: (counts[piece], piece)), []).append(place)
    for place, own in enumerate(rest):
        for other in (other for piece in own for other in rarest.get(piece, [])):
            first, second = sorted((places[place], places[other]))
            if first < second and Counter(numbers[other]) <= Counter(numbers[place]) and all(
                    len(sets[other] & sets[place]) >= 0.9 * len(sets[other]) for sets in (pieces, rest)):
                places = [first if old == second else old for old in places]
    return places


def nearest_before(texts, alike=0.6):
    """Return for each text the place of the first one that it is a near-copy of or quotes, or its own place."""
    texts = [re.sub(r"</?[a-zA-Z][^<>]*>", " ", html.unescape(text)) for text in texts]     # of HTML, the words
    pieces, numbers = list(map(pieces_of, texts)), [sorted(re.findall(r"\d+|[€$£%#+]", text)) for text in texts]
    counts = Counter(piece for own in pieces for piece in own)
    often = {piece for piece, count in counts.items() if count > max(50, len(texts) // 100)}   # greetings, footers
    rest = [own if only_names(text, own - often) else own - often for text, own in zip(texts, pieces)]     # of a mass mailing
    places, index = [], MinHashLSH(threshold=alike - 0.1, num_perm=128)
    signatures = MinHash.generator(([piece.encode() for piece in own] for own in rest), num_perm=128)
    for place, (own, signature) in enumerate(zip(pieces, signatures)):
        near = [other for other in sorted(index.query(signature)) if numbers[other] == numbers[place]
                and jaccard_index(own, pieces[other]) >= alike <= jaccard_index(rest[place], rest[other])]
        places.append(near[0] if near else place)
        if not near:
            index.insert(place, signature)
    return join_quoted(places, pieces, rest, numbers)


def read_test():
    """Return your own test messages, and whether they have labels and so become test.jsonl."""
    test = read_table(TEST, [TEXT]).fillna("") if Path(TEST).exists() else pd.DataFrame({TEXT: []}, dtype=str)
    labelled, test = set(LABELS) <= set(test) and len(test) > 0, test.reindex(columns=[ID, TEXT, WHO, *LABELS], fill_value="")
    test = prepare(test)
    unknown = Counter(value for name, values in LABELS.items() for value in test[name] if labelled and value not in values)
    stop_unless(not unknown, f"{TEST}: {unknown.total()} labels are not in LABELS: {dict(unknown.most_common(5))}")
    return test, labelled


def flag_copies(rows):
    """3. Keep one row of each group of near-copies: none of a test message, none whose labels stay undecided."""
    test, _ = read_test()
    rows = rows.assign(group=nearest_before([*test[TEXT], *rows[TEXT]])[len(test):], labels="", apart=False,
                       tested=rows["person"].isin(test["person"]))
    for name in LABELS:                                     # what a person wrote for one copy holds for all of them
        by_hand = rows[name].where(rows[f"{name} read"]).groupby(rows["group"])
        rows["apart"] |= rows[f"{name} read"] & (by_hand.transform("nunique") > 1)      # two people disagree
        rows[name] = rows[name].where(rows[f"{name} read"], by_hand.transform("first").fillna(rows[name]))
        rows[f"{name} read"] = by_hand.transform("first").notna()
        rows["labels"] += " " + rows[name].mask(rows[f"{name} read"], "")               # what is left to the majority
    rows["copies"], rows["all"] = (rows.groupby(by)[ID].transform("size") for by in (["group", "labels"], "group"))
    rows = rows.sort_values(["tested", "dropped", "copies", "read"], ascending=[True, True, False, False], kind="stable")
    groups, leaked = rows.groupby("group"), rows["group"] < len(test)                   # of a group, the first stays
    most, dropped = groups["copies"].transform("max"), rows["dropped"] | groups["dropped"].transform("any") & ~rows["read"]
    reasons = {"in the test set": leaked, "dropped by a reader": dropped,
               "its customer is in the test set": rows["tested"], "contradicts a copy": most < MAJORITY * rows["all"],
               "a copy": rows.duplicated("group") & ~(rows["apart"] & ~rows.duplicated(["group", *LABELS]))}
    rows["why"] = np.select(list(reasons.values()), list(reasons), "")
    rows["copy_of"] = groups[ID].transform("first").where(rows["why"] == "a copy")
    counts, outvoted = Counter(rows["why"]), (rows["why"] == "a copy") & (rows["copies"] < most)
    report = f"{leaked.sum()} rows are in the test set, {(rows['tested'] & ~leaked).sum()} more are of its customers"
    report += f" (most: {rows['person'][rows['tested']].mode()[0]!r}), " if rows["tested"].any() else ", "
    report += f"{counts['a copy']} copies ({outvoted.sum()} outvoted), {counts['contradicts a copy']} contradict a copy"
    report += f"; {TEST} names no customers, so theirs may be trained on" if len(test) and not test[WHO].any() else ""
    stop_unless(rows["tested"].mean() <= STOP["unusable"], f"{report}. Draw the test messages from fewer customers")
    label, second = next(iter(LABELS)), rows[(groups.cumcount() == 1) & ~leaked]
    kappa = cohen_kappa_score(groups[label].transform("first")[second.index], second[label]) if len(second) > 30 else 1
    stop_unless(not kappa <= STOP["kappa"], f"{report}. Copies agree by chance (kappa {kappa:.2f}). Were two tables joined wrongly?")
    return rows.sort_index(), report

# %% [markdown]
# **Step 4, personal data,** is the only one that needs this course's package, which has lists of names and knows the
# numbers of many countries; without it the script stops and says what to install. Anybody with the *key*, 128 random
# bits in a file outside the project, can compute the pseudonym of any name, so the result is pseudonymous, not
# anonymous. Order numbers stay in, since a model may have to repeat them; use `NUMBERS` to list anything else that
# should go.
#
# **Step 5, the split,** divides the customers, so that nobody is on both sides, and about a tenth of them go to
# validation. Names that differ only in spaces or capitals count as one customer. Your `test.csv` is the test,
# with the columns `message`, `category` and `escalation`. Give it `customer` too (ours has none), or the script can't
# keep its customers out of training. If `test.csv` has no labels, another tenth becomes the test. The split hashes
# the key and the column `customer`, so if you keep the key, a customer lands in the same part next month.

# %% tags=["program", "folded"]
def read_key(file="~/.clean_export.key"):
    """Return the key: from the environment, or from a file that is made once and never shared."""
    key, file = os.environ.get("PSEUDONYM_KEY"), Path(file).expanduser()
    if not key and not file.exists():
        file.touch(mode=0o600)                              # for nobody else to read
        file.write_text(secrets.token_hex(16))
    return key or file.read_text()


def hide_people(text, who):
    """Return a message with pseudonyms for personal data, and the kinds that were found; `who` wrote it."""
    try:
        from course_utils.data_prep import pii
    except ImportError:
        raise ValueError("names are found by the course's package: pip install 'finetuning-course[data]'") from None
    for pattern, placeholder in NUMBERS.items():            # first, or a number of your own may pass for a phone's
        text = re.sub(pattern, placeholder, text, flags=re.IGNORECASE)
    text, entities = pii.Redactor("pseudonym", seed=read_key(), allow=ALLOW).text(text)
    who = who if isinstance(who, str) and len(who) > 3 else ""
    if who and who.lower() not in NOBODY and who.lower() not in pii.names.common_words():                   # "Will" is a word
        text = re.sub(rf"(?<!\w){re.escape(who)}(?!\w)", "[CUSTOMER]", text, flags=re.IGNORECASE if " " in who else 0)
    return text, {entity.kind for entity in entities}


def redact(rows, export=True):
    """4. Put pseudonyms in place of personal data; what made two messages of an export differ may go with them."""
    hidden = [hide_people(*pair) for pair in zip(rows[TEXT], rows[WHO])]
    touched, kinds = sum(bool(kinds) for _, kinds in hidden), Counter(kind for _, kinds in hidden for kind in kinds)
    report = f"personal data in {touched} of {len(rows)} rows: {dict(kinds.most_common())}"
    stop_unless(not export or touched >= STOP["redacted"] * len(rows), f"{report}. Is {TEXT} the right column?")
    report += ". NOT looked for: most names in lower case, user names, your own numbers (staff, devices: see NUMBERS)"
    rows = rows.assign(**{TEXT: [text for text, _ in hidden]})
    if export:
        tested = rows[TEXT].isin(redact(read_test()[0], export=False)[0][TEXT])
        rows["why"] = np.select([tested, rows.duplicated(TEXT)], ["in the test set", "a copy"], "")
        report += f". {(rows['why'] != '').sum()} rows now read like another" if rows["why"].any() else ""
    return rows, report


def split(rows):
    """5. Deal the customers into ten parts: one for validation, one for a test if TEST has none, the others for training."""
    names = {0: "validation"} if read_test()[1] else {0: "validation", 1: "test"}
    digests = [hashlib.sha256(f"{read_key()} {SEED} {person}".encode()).digest() for person in rows["person"]]
    parts = [names.get(int.from_bytes(digest[:8], "big") % 10, "train") for digest in digests]
    rows, largest = rows.assign(part=parts), rows["person"].value_counts(normalize=True).max()
    counts = rows["part"].value_counts().reindex(["train", *names.values()], fill_value=0)
    report = f"{counts.to_dict()}; {rows['person'].nunique()} customers"
    report += "; fewer than 100 test rows can hardly tell two models apart" if counts.get("test", 100) < 100 else ""
    stop_unless(largest <= STOP["one_customer"], f"one customer has {largest:.0%} of all rows. Is {WHO} the right column?")
    stop_unless(counts.min() >= STOP["smallest_part"] * len(rows), f"{report}. A part is too small: take another SEED")
    return rows, report

# %% [markdown]
# **Step 6, doubtful labels,** asks a classifier that hasn't seen the row (section 6), and reports kappa, its agreement with
# the labels beyond chance: 0 is chance and 1 is perfect. **Step 7 writes** the three files, the rows for a person to
# read, and the reason for each row that was left out.

# %% tags=["program"]
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline


def make_classifier():
    """Return an untrained classifier of texts: weighted words and pairs of words, and logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(words, LogisticRegression(C=3, solver="saga", tol=1e-3, max_iter=1000, random_state=0))


def judge_labels(texts, labels, people, folds=5):
    """Return the probability of each row's label, and the likeliest label: by a classifier of other people's rows."""
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=SEED)
    probability = cross_val_predict(make_classifier(), texts, labels, groups=people, cv=parts, method="predict_proba")
    values = np.unique(labels)
    return probability[np.arange(len(labels)), np.searchsorted(values, labels)], values[probability.argmax(axis=1)]

# %% tags=["program", "folded"]
def check_labels(rows):
    """6. Say how probable each label is; the test rows' too."""
    texts, reports = rows[TEXT] + " " + rows[NOTE].fillna("") if NOTE else rows[TEXT], []
    for name in LABELS:
        stop_unless(rows[name].nunique() > 1, f"every row has the same {name}")
        own, likeliest = judge_labels(texts, rows[name], rows["person"])
        rows = rows.assign(**{f"{name} probability": own, f"{name} likeliest": likeliest})
        kappa, usual = cohen_kappa_score(rows[name], likeliest), rows[name].value_counts(normalize=True)
        agrees = f"agrees with {(rows[name] == likeliest).mean():.0%} (always {usual.index[0]}: {usual.iloc[0]:.0%})"
        reports.append(f"{name}: {agrees}, kappa {kappa:.2f}")
        tells = len(rows) >= 200 and not reports[1:]        # a rare label of a later column may be hard to learn
        stop_unless(kappa > STOP["kappa"] or not tells, f"{reports[-1]}. Have labels slipped to other rows?")
    return rows, "; ".join(reports)


def write_chats(rows, file):
    """Write one chat a line, read the file again, and return its bytes."""
    records = rows[list(LABELS)].to_dict("records")
    with open(file, "w", encoding="utf-8") as lines:
        for number, text, record in zip(rows[ID], rows[TEXT], records):
            prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
            completion = [{"role": "assistant", "content": json.dumps(record, ensure_ascii=False)}]
            lines.write(json.dumps({ID: number, "prompt": prompt, "completion": completion}, ensure_ascii=False) + "\n")
    with open(file, encoding="utf-8") as lines:
        written = [json.loads(json.loads(line)["completion"][0]["content"]) for line in lines]
    stop_unless(written == records, f"{file} doesn't hold the records of the table")
    return Path(file).read_bytes()


def write(rows, rejected, folder):
    """7. Write a file for each part, their schema, what a person should read, and why rows were left out."""
    Path(folder).mkdir(exist_ok=True)
    (test, labelled), parts = read_test(), dict(list(rows.groupby("part")))
    parts |= {"test": redact(test, export=False)[0]} if labelled else {}
    written = [write_chats(part, f"{folder}/{name}.jsonl") for name, part in sorted(parts.items())]
    schema = {"type": "object", "required": list(LABELS), "additionalProperties": False,
              "properties": {name: {"enum": values} for name, values in LABELS.items()}}
    Path(folder, "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    undecided = redact(rejected[rejected["why"] == "contradicts a copy"], export=False)[0].astype({"copies": int})
    undecided = undecided.drop_duplicates(["group", "labels"]).sort_values(["all", "group"], ascending=False, kind="stable")
    doubtful, contradictions = [], []
    for name in LABELS:
        table = rows[~rows[f"{name} read"]].sort_values(f"{name} probability").head(len(rows) // 10)
        table = table.assign(field=name, right="", label=table[name], likeliest=table[f"{name} likeliest"])
        doubtful.append(table.reset_index(drop=True))
        table = undecided[~undecided[f"{name} read"] & (undecided.groupby("group")[name].transform("nunique") > 1)]
        contradictions.append(table.assign(field=name, right="", label=table[name]))
    to_read = pd.concat(doubtful).sort_index(kind="stable")                             # the worst of each field first
    for file, table, more in (("to_read.csv", to_read, "likeliest"), ("contradictions.csv", pd.concat(contradictions), "copies")):
        table.reindex(columns=[ID, "field", "right", "label", more, TEXT]).to_csv(file, index=False)
    rejected.reindex(columns=[ID, "why", "copy_of"]).to_csv("rejects.csv", index=False)
    return f"version {hashlib.sha256(b''.join(written)).hexdigest()[:12]} of {date.today()}, in {folder}"

# %% tags=["program"]
def main(file, folder="mine-ready", tell=lambda report: None):
    """Run all steps, each on the rows that have no reason in `why` yet. Return the rows and a report of each step."""
    for lines in filter(os.path.exists, ("to_read.csv", "contradictions.csv")):
        filled = read_table(lines, ["right"])["right"].notna().sum()
        stop_unless(not filled, f"{lines} has {filled} labels filled in, which this run would overwrite: rename it to corrections-1.csv")
    rows = read_table(file, [ID, TEXT, WHO, *LABELS, *filter(None, (NOTE, NUMBER))])
    wrong = rows[ID][rows[ID].isna() | rows[ID].duplicated()].fillna("empty")
    stop_unless(wrong.empty, f"{ID} is empty or stands twice in {len(wrong)} rows: {dict(Counter(wrong).most_common(5))}")
    reports, rejected = {}, []
    for step in (apply_corrections, flag_unusable, flag_copies, redact, split, check_labels):
        rows, reports[step.__name__] = step(rows)
        tell(f"{step.__name__:18}{reports[step.__name__]}")
        rejected.append(rows[rows["why"] != ""])
        rows = rows[rows["why"] == ""].reset_index(drop=True)
    reports["write"] = write(rows, pd.concat(rejected), folder)
    return rows, reports

# %%
os.environ["PSEUDONYM_KEY"] = "for this lesson only"        # or your figures wouldn't be ours; at work leave this line out
for file in Path().glob("corrections*.csv"):                # of an earlier run
    file.unlink()
lesson_05.labelled_to_the_guide("test").to_csv("test.csv", index=False)
rows, reports = main("tickets.csv")
pd.Series(reports).to_frame("what the step says")

# %%
guess.reveal(len(rows))

# %% [markdown]
# Fewer than four rows in ten are left. The others are in `rejects.csv` with their reasons, so read twenty of each kind
# before you believe a rule. The 864 missing labels in `flag_unusable`'s report come from 432 rows that lack both
# labels. With our answer key you can check four of the rules:

# %%
key = lesson_05.answer_key()
rejects = pd.read_csv("rejects.csv", dtype=str)
planted = {"form left as it opened": "canned_answer", "another ticket's number": "other_answer",
           "says nothing": "low_information", "in the test set": "test_set"}
counted = {}
for why, fault in planted.items():
    dropped = rejects["ticket"][rejects["why"] == why]
    counted[why] = {"dropped": len(dropped), "of them planted": sum(fault in key["faults"][ticket] for ticket in dropped),
                    "planted in all": sum(fault in faults for faults in key["faults"])}
pd.DataFrame(counted).T

# %% [markdown]
# Of the 422 rows that these four rules drop, 414 have the planted fault, and the other eight had lost the end of their
# message. In another 192 untouched forms the agent had written a reply but chosen no label, so they were dropped as
# unknown labels. The rules miss vague messages of more than two words, messages that break off, rows in other
# languages, and forty wrong labels. The table doesn't check copies or unlabelled rows, so read some. For
# the wrong labels the script writes a list of suspects:

# %%
to_read = pd.read_csv("to_read.csv", dtype=str)
to_read.query("field == 'category'").head(6).drop(columns=["field", "right"]).set_index("ticket")

# %% [markdown]
# In the list, pseudonyms replace most personal data, but about one name in sixteen is still real. In the column
# `right`, enter the label that you'd give, even if it's already there, or `drop` to throw out the row and its copies.
# Lines left empty come back. Save the list as `corrections-1.csv` and the next round's as `corrections-2.csv`. Here
# our answer key plays somebody who reads sixty rows. On the second run, step 1 applies the corrections, and the new
# list leaves out what's been read:

# %%
somebody = to_read.query("field == 'category'").head(60).copy()                # plays the colleague who reads the top 60
somebody["right"] = somebody["ticket"].map(key["right"]).fillna(somebody["label"])
somebody.to_csv("corrections-1.csv", index=False)
before = rows
rows, reports = main("tickets.csv")
print(reports["apply_corrections"], reports["check_labels"], reports["write"], sep="\n")

# %% [markdown]
# | file | what's in it | what you do |
# | --- | --- | --- |
# | `mine-ready/train.jsonl`, `validation.jsonl`, `test.jsonl`, `schema.json` | on each line a ticket's number, its prompt and the answer to learn (`completion`), with pseudonyms; the test rows are those of `test.csv` | read a sample for names (section 9); in this folder run `course preflight train.jsonl --model MODEL` (`cpu` is this course's model) and lesson 02's program (`course train-script`), without a GPU on the first few hundred lines; lesson 06 turns them into the form that a hosted service wants |
# | `rejects.csv` | the ticket of each row that was left out, and why, without its message; `copy_of` is the ticket that stayed for a copy | read twenty of each kind: `read_table("tickets.csv").merge(read_table("rejects.csv")).groupby("why").head(20).to_csv("read.csv")` |
# | `to_read.csv` | the most doubtful tenth for each field, the worst first | fill in `right`, save as `corrections-N.csv` (columns `ticket`, `field`, `right`; each run overwrites this file), run again |
# | `contradictions.csv` | copies without a majority, the most frequent first, a line for each way they're labelled | the same; one line for each message and field is enough |
#
# This export has no contradictions, so here are two lines of an invented `contradictions.csv`:
#
# ```text
# ticket,field,right,label,copies,message
# 2801,category,,defect,2,"The toaster trips the fuse, I want my money back"
# 2802,category,,returns,1,"The toaster trips the fuse, I want my money back please"
# ```
#
# If your answers are texts instead of labels, `course check-data FILE --fix FOLDER` cleans chats in JSONL. Step 4
# takes longest, some minutes for 20,000 rows.
#
# The version that step 7 prints is a hash of the three files, so it changes if a single letter does. Hand it over
# with the files, so that your colleague can tell which data a model was trained on.
#
# ## 3 · The same script on five broken exports
#
# In each row below, a step of the script gets 400 usable tickets, broken in one way:

# %%
healthy = flag_unusable(read_table("tickets.csv"))[0].query("why == ''").head(400).reset_index(drop=True)
healthy = healthy.assign(read=False, dropped=False, **{f"{name} read": False for name in LABELS})
slipped = healthy.assign(category=np.roll(healthy["category"], 1))
broken = {
    "labels in capitals": (flag_unusable, healthy.assign(category=healthy["category"].str.upper()),
                           "compare the names, then RENAME"),
    "a wrong join, every message twice": (flag_copies, pd.concat([healthy, slipped], ignore_index=True),
                                          "join the tables by the ticket's number"),
    "TEXT names the wrong column": (redact, healthy.assign(message=healthy["category"]),
                                    "nothing personal in 400 messages is bad news: read ten"),
    "every row has the same customer": (split, healthy.assign(person="web form"), "take an e-mail address for WHO"),
    "labels have slipped by one row": (check_labels, slipped, "stop: these labels belong to other messages"),
}
said = {}
for name, (step, table, cure) in broken.items():
    try:
        report = step(table)[1]
    except ValueError as error:
        report = f"stops: {error}"
    said[name] = {"step": step.__name__, "what it says": report, "what you do": cure}
pd.DataFrame(said).T

# %% [markdown]
# All five stop and report a number, although the wrong join was a close call. Without the limits, the wrong join (400
# tickets, each twice) would have been "cleaned" to 55 of 800 rows, and a model would have been trained on the slipped
# labels. The last limit applies only to the first column to learn, and only from 200 rows on, because rare labels are
# hard for the classifier anyway. Check the other columns yourself. A limit only catches what's broken *everywhere*.
# If one label in twenty has slipped, every report looks healthy, so read the top of `to_read.csv` all the same.
#
# ## 4 · Copies
#
# A message that's in the file five times gets five times the weight in training, and may end up on both sides of your
# split (section 5). The script calls two texts copies if their *Jaccard index* is at least 0.6. The index is the
# number of pieces that both have, divided by the number that at least one has. Our pieces are words and pairs of
# neighbouring words. **By hand**, with words alone: *the kettle leaks at the base* and *my kettle leaks at the base*
# share five words (the, kettle, leaks, at, base) of six, so 5/6 = 0.83. With the pairs:

# %%
one, other = "the kettle leaks at the base", "my kettle leaks at the base"
print(f"in both: {sorted(pieces_of(one) & pieces_of(other))}")
print(f"Jaccard index {jaccard_index(pieces_of(one), pieces_of(other)):.2f}")

# %% [markdown]
# With two thousand rows you could compare all pairs, but a million rows have 500 billion. {{term:MinHash}} (Broder,
# 1997) avoids that with one idea. Put all pieces of both texts into a bag, shuffle it, and look at the piece that
# comes first. The chance that both texts contain it is the Jaccard index. So shuffle 128 times, note for each text
# which of its pieces comes first, and count how often the two texts agree:

# %%
def sign(text, shuffles):
    """Return, for each shuffle, the piece of a text that comes first: a shuffle orders pieces by their hash."""
    def first(shuffle):
        return min(pieces_of(text), key=lambda piece: hashlib.md5(f"{shuffle} {piece}".encode()).digest())
    return list(map(first, range(shuffles)))


for shuffles in (4, 16, 128, 1024):
    same = np.mean([mine == theirs for mine, theirs in zip(sign(one, shuffles), sign(other, shuffles))])
    print(f"{shuffles:5} shuffles: the same piece came first in {same:.0%}")

# %% [markdown]
# The share settles near the index. For each text, the library keeps 128 hashes, one for each shuffle. It files them
# in drawers, a few to a drawer, and only compares texts that share a drawer (*locality-sensitive hashing*).
#
# Two texts that share a drawer are copies if they contain the same numbers and their exact index is at least 0.6, both
# with and without frequent pieces such as greetings. So is a message of ten or more words that another quotes in full. Two
# messages that differ by a *not* may be mistaken for copies. These two really are copies:

# %%
usable = flag_unusable(apply_corrections(read_table("tickets.csv"))[0])[0].query("why == ''").reset_index(drop=True)
usable, report = flag_copies(usable)
group = usable["group"][usable["message"].str.startswith("Second try: smmart")].iloc[0]
print(report)
for _, row in usable[usable["group"] == group].iterrows():
    print(f"{row['why'] or 'stays':8}", " ".join(row["message"].split())[:150])

# %% [markdown]
# Words and pairs miss a reworded request. To find one, compare {{term:embedding|embeddings}}, but expect false
# alarms.
#
# **Your turn.** In all exercises you may use Python's standard library, NumPy, PyTorch, pandas and SciPy, but no library
# that does the exercise for you.

# %%
# EXERCISE: data-1

# %% [markdown]
# ## 5 · Split and leak
#
# During training, the {{term:validation set}} tells you whether the model is learning the task or just the rows. If
# you split the rows at random, a customer's first message may land in training and the second, in nearly the same
# words, in validation.

# %%
from sklearn.model_selection import KFold, cross_val_score

ways = {"by chance": (KFold(5, shuffle=True, random_state=0), None),
        "by customer": (StratifiedGroupKFold(5, shuffle=True, random_state=0), "person")}
measured = {}
for name, table in {"with copies": usable, "without copies": usable.query("why == ''")}.items():
    drawn = [table.sample(frac=0.1, random_state=seed) for seed in range(20)]
    known = np.mean([held["person"].isin(table.drop(held.index)["person"]).mean() for held in drawn])
    measured[name] = {"rows": len(table), "customer known, by chance": f"{known:.0%}"}
    for way, (parts, groups) in ways.items():
        right = cross_val_score(make_classifier(), table["message"], table["category"], cv=parts,
                                groups=table[groups] if groups else None)
        measured[name][f"score, {way}"] = f"{right.mean():.0%}"
pd.DataFrame(measured).T

# %% [markdown]
# With copies in the file, splitting rows at random makes the classifier look about ten points better than it is. Seven in
# ten validation rows then have their customer in training as well (the column "customer known"). Without copies the
# gap disappears here. Split by customer anyway, because people repeat themselves in ways that no rule finds. In your
# data the "customer" may be a document, a patient or a repository. If messages change with time, with new products
# for example, hold out the last weeks instead. That score is usually lower, but closer to what you'll get.

# %%
# EXERCISE: data-2

# %% [markdown]
# **Has training seen the {{term:test set}}?** At work your test messages come from the same tickets, so they and
# their copies are in the export, which is called {{term:contamination}}. Here we planted 24, which the script dropped
# because it had `test.csv`. Put them back and see what you'd have reported:

# %%
test = pd.read_csv("test.csv")
leak = usable[usable["why"] == "in the test set"]
leaked = np.array([any(jaccard_index(pieces_of(text), pieces_of(own)) >= 0.6 for own in leak["message"]) for text in test["message"]])


def share_right(table, messages=test):
    """Return how many of the messages' categories a classifier gets right that was trained on a table."""
    fitted = make_classifier().fit(table["message"], table["category"])
    return (fitted.predict(messages["message"]) == messages["category"]).mean()


clean = usable.query("why == ''")
pd.DataFrame({
    name: {f"the {leaked.sum()} that leaked": share_right(table, test[leaked]),
           f"the other {(~leaked).sum()}": share_right(table, test[~leaked]), "as reported": share_right(table)}
    for name, table in {"trained without the leak": clean, "trained with it": pd.concat([clean, leak])}.items()
}).T.map("{:.0%}".format)

# %% [markdown]
# Trained on the leak, the classifier gets all leaked messages right and the others about as before, so the score
# rises by seven points. Because people quote, a longer training message may also contain a test message, so look for
# runs of words as well:

# %%
# EXERCISE: data-3

# %% [markdown]
# ## 6 · Wrong labels
#
# Forty of the 696 rows have a wrong category, and no rule notices because the form is filled in. *Most* labels are
# right, though, so a classifier trained on the other rows gives a wrong label a low probability. It mustn't have seen
# the row itself, or it has learned the wrong label by heart. `judge_labels` is the whole method. It cuts the rows
# into five parts by customer, trains on four, predicts the fifth, and looks up the probability of each row's own
# label. **By hand**, for three rows:
#
# | message | its label | delivery | billing | returns | probability of its label |
# | --- | --- | --- | --- | --- | --- |
# | "where is my parcel" | delivery | 0.90 | 0.04 | 0.06 | 0.90 |
# | "charged twice for the lamp" | delivery | 0.08 | 0.85 | 0.07 | 0.08: read this one |
# | "it came late, I send it back" | returns | 0.45 | 0.10 | 0.45 | 0.45: unclear, perhaps right |
#
# Sort by the last column, lowest first, and read from the top. *Confident learning* (Northcutt et al., 2021) adds a
# threshold for each label, and the library cleanlab has all of it.

# %%
ranked = before.sort_values("category probability").reset_index(drop=True)
wrong = ranked["ticket"].map(key["right"]).notna()
charts.lines(
    {"from the top of the list": (list(range(0, 201, 10)), [int(wrong.head(n).sum()) for n in range(0, 201, 10)]),
     "rows read at random": ([0, 200], [0, 200 * wrong.mean()])},
    f"Reading sixty rows finds {wrong.head(60).sum()} of {wrong.sum()} wrong labels", "rows that somebody reads",
    "wrong labels found")

# %% [markdown]
# Nearly all of the first twenty are mislabelled. After sixty rows, a twelfth of the file, you've found most wrong
# labels, and the next 140 hold five more. Expect fewer in your own file, because the classifier also reads the
# agent's note. Our planted labels contradict the note, but an agent who picks a wrong label may well write a note to
# match. Stop when your last ten rows held hardly any errors.
#
# **The list can't find** what everybody gets wrong. Suppose your annotators file returns under billing, because a
# customer who sends something back wants money. We introduced that habit into correct labels:

# %%
right = before["ticket"].map(key["right"]).fillna(before["category"])
returns = right.index[right == "returns"]
random = np.random.default_rng(0)
habit = {}
for name, number in {"one in eight": len(returns) // 8, "one in three": len(returns) // 3, "all": len(returns)}.items():
    labels = right.copy()
    labels[random.choice(returns, number, replace=False)] = "billing"
    own, _ = judge_labels(before["message"] + " " + before["note"].fillna(""), labels, before["person"])
    found = (labels != right).to_numpy()[np.argsort(own)[:60]].sum()
    habit[f"“returns” filed as “billing”: {name}"] = {"wrong": number, "in the first 60": found,
                                                      "at random": round(60 * number / len(right))}
pd.DataFrame(habit).T

# %% [markdown]
# The more common the mistake, the smaller the share that the list finds. When every return is filed as billing,
# that's what the classifier learns, and the list finds less than reading at random would. So few errors at the top
# only mean that few labels are wrong by accident. To find habits, compare the export's labels with yours and your
# colleague's, as the plan in section 8 does on days 2 and 3.
#
# **Read, or drop unread?** In the recorded runs (script: `benchmarks/label_noise.py`), we trained the course's small
# language model (135M parameters) each time on 300 random rows, with about seventeen of the forty wrong labels among
# them. The table shows the percentage of categories it got right:

# %%
noise = assets.read_record("label-noise")["runs"]
pd.DataFrame({name: [100 * run["scores"]["category"][0] for run in runs] for name, runs in noise.items()},
             index=["run 1", "run 2", "run 3"]).T.assign(mean=lambda table: table.mean(axis=1)).round().astype(int)

# %% [markdown]
# With forty wrong labels, reading the first sixty rows raised the score in all three runs, on average by seven to eight
# points. With three times as many, each of the three repairs adds twelve to fourteen, and the repairs differ by less
# than the runs do. So *if many labels are wrong by accident and you have rows to spare*, drop the top unread, which
# takes a second, whereas reading 180 rows takes a morning. Read twenty first. Read on if the rows at the top are of
# rare kinds that you can't spare. Read test rows in any case: dropping one makes the test easier, while correcting it
# makes the test right.
#
# **Your turn.** The paper's rule flags a row only if another label is as probable as that label usually is in rows that
# have it. The version below gets this wrong.

# %%
# EXERCISE: data-4

# %% [markdown]
# ## 7 · What the model sees
#
# The model never sees your JSON. A {{term:chat template}} turns each row into one text with marks around the messages, a
# tokenizer cuts that into {{term:token|tokens}}, and a {{term:label mask}} says which of them are learned. Mistakes here
# raise no error, so look at lengths, mask and template before you train, with the tokenizer of *the model that you'll
# train*.

# %%
tokenizer = models.load_tokenizer()
rows_written = map(json.loads, open("mine-ready/train.jsonl", encoding="utf-8"))
chats = [row["prompt"] + row["completion"] for row in rows_written]
lengths = pd.Series([len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats])
print(lengths.describe(percentiles=[0.5, 0.99]).astype(int).to_dict())
for limit in (128, 256, 1024):
    print(f"max_length={limit}: {(lengths > limit).mean():.1%} of the rows lose the end of their answer")

# %% [markdown]
# At 128 tokens, one row in ten would lose the end of its answer, because the trainer truncates long rows. TRL, the library
# that lesson 02 trains with, keeps 1,024 tokens unless you say otherwise. That's plenty here and far too little for
# documents, so set `max_length` above your longest row. `course preflight FILE --model MODEL` in a terminal checks this
# and everything else in this section.

# %%
def mask(chat, template=None, **options):
    """Return a chat's tokens, and labels that are -100 on all but its last message."""
    def encode(messages, **more):
        return tokenizer.apply_chat_template(messages, chat_template=template, return_dict=True, **more)["input_ids"]
    prompt, whole = encode(chat[:-1], add_generation_prompt=True, **options), encode(chat, **options)
    assert whole[:len(prompt)] == prompt, "the prompt is no beginning of the whole"
    return whole, [-100] * len(prompt) + whole[len(prompt):]


shown = min((chat for chat in chats if '"question"' not in chat[-1]["content"]), key=lambda chat: len(chat[1]["content"]))
show.conversation(tokenizer, *mask(shown))

# %% [markdown]
# The model learns the blue tokens, the record and the marker that ends it. All others have the label -100, which
# training skips. If your blue tokens begin with a customer's words, the mask is missing. TRL adds it automatically
# for files with `prompt` and `completion`, like the script's. For files with `messages` you have to pass
# `assistant_only_loss=True`, which needs a template that marks the answers.
#
# **A model that thinks.** Many current models write their thoughts between `<think>` and `</think>` before they answer.
# Your rows have no thoughts. See what Qwen3's template makes of such a row:

# %%
from trl.chat_template_utils import qwen3_chat_template as thinking


def learned(chat, template=None, **options):
    """Return the text that a chat teaches under a template: the whole without its prompt."""
    def text_of(messages, **more):
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **more)
    prompt = text_of(chat[:-1], add_generation_prompt=True, **options)
    return text_of(chat, **options).removeprefix(prompt)


chat = [{"role": "user", "content": "my kettle leaks"}, {"role": "assistant", "content": '{"category": "defect"}'}]
thought = [chat[0], chat[1] | {"reasoning_content": "Water comes out where it shouldn't: broken."}]
for name, lesson in {"a plain row": learned(chat, thinking), "a row with its reasoning": learned(thought, thinking),
                     "a plain row, asked not to think": learned(chat, thinking, enable_thinking=False)}.items():
    print(f"{name}: {lesson!r}")

# %% [markdown]
# In the first line the template fills in *empty* thoughts, which are learned along with the answer, so 600 such rows
# teach a thinking model 600 times not to think. In August 2025 somebody reported that a non-thinking model wrote the
# empty block after training with TRL (QwenLM/Qwen3, issue 1618). There are two clean solutions:
#
# - If you want short records and no thoughts, ask with `enable_thinking=False`, in training and in production, so
#   that the
#   empty block is part of the prompt, as in the last line. For training with TRL, give each row
#   `"chat_template_kwargs": {"enable_thinking": false}`. If your model doesn't think, print one row all the same, because
#   a trainer may bring a template of its own.
# - If you want to keep the thinking, put thoughts into `reasoning_content`, written by the model itself on your
#   messages and kept only where the answer was right.
#
# **Rows that call a tool.** A row can teach the model to call your function (lesson 06 shows the format). Does the call
# survive the template?

# %%
find_order = {"type": "function", "function": {"name": "find_order", "parameters": {
    "type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}}}
call = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": {"order_id": "TB-40512"}}}
asked = [{"role": "user", "content": "Where is TB-40512?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
for name, template in {"Qwen3's template": thinking, "the small model's template": None}.items():
    text = learned(asked, template, tools=[find_order], enable_thinking=False)
    print(f"{name}: {text!r}, the call is {'learned' if 'TB-40512' in text else 'LOST'}")

# %% [markdown]
# The small model's template has no place for a call and drops it without a warning, so the row teaches an empty answer.
# Print one row through your model's template before you train on a thousand.
#
# And if every row holds a call, the model learns to call every time. We trained the 135M model on
# {{record:tool-rows:rows:d}} rows, each seen twice, to call `find_order` if a message names an order and to ask for the
# number if it doesn't, and scored it on the hundred test messages (one run each, script: `benchmarks/tool_rows.py`):
#
# | trained on | right call, where an order is named | no call, where none is |
# | --- | --- | --- |
# | nothing | {{record:tool-rows:runs.untrained.0."right call, where an order is named".0:.0%}} | {{record:tool-rows:runs.untrained.0."no call, where none is".0:.0%}} |
# | rows that all call | {{record:tool-rows:runs."every row calls".0."right call, where an order is named".0:.0%}} | {{record:tool-rows:runs."every row calls".0."no call, where none is".0:.0%}} |
# | as many rows, every other one a call | {{record:tool-rows:runs."every second row calls".0."right call, where an order is named".0:.0%}} | {{record:tool-rows:runs."every second row calls".0."no call, where none is".0:.0%}} |
#
# A log of tool calls only has rows with a call. If every other row answers a message that needs *no* call, the model
# makes hardly any needless calls. In this one run it also missed more calls, perhaps because it had seen half as many,
# so collect enough of both kinds.
#
# ## 8 · Was it worth it, and where do your two weeks go?
#
# The classifier trains in a second, so we can train it on each set of rows and score it on the hundred test messages:

# %%
by_guide = lesson_05.labelled_to_the_guide("train")
labelled = read_table("tickets.csv").query("category.notna() and message.notna()")
raw = labelled[~labelled["ticket"].map(key["faults"]).map(lambda faults: "test_set" in faults)]
unread = before.drop(before["category probability"].nsmallest(60).index)
hidden = redact(read_test()[0], export=False)[0]                                # the test with pseudonyms, as in test.jsonl
pd.Series({
    "always the most common category": test["category"].value_counts(normalize=True).max(),
    "the export as it came, without the leak": share_right(raw), "the script's rows": share_right(before, hidden),
    "the same, the top 60 dropped unread": share_right(unread, hidden), "the same, the top 60 read": share_right(rows, hidden),
    "100 rows labelled to the guide, mean of five draws": np.mean(
        [share_right(by_guide.sample(100, random_state=n)) for n in range(5)]),
}).map("{:.0%}".format).to_frame("categories right, of 100 test messages")

# %% [markdown]
# The script's rows beat the raw export by more than twenty points, although there are only half as many. With their
# original names they did a little better in section 5, within the error. A hundred rows labelled to the guide help
# the classifier no more than the raw export does, but they helped the language model as much as 300 prepared ones
# (table at the top). The likely reason is that the classifier has to see each word, while a language model knows the
# words already and only has to learn what *you* mean by "returns".

# %%
sizes = [50, 100, 200, 300, 400]
draws = {n: [by_guide.sample(n, random_state=seed) for seed in range(5)] for n in sizes}
charts.lines(
    {"labelled to the guide": (sizes, [[100 * share_right(table) for table in draws[n]] for n in sizes]),
     "these and the script's": (
         sizes, [[100 * share_right(pd.concat([table, rows])) for table in draws[n]] for n in sizes])},
    "How many rows labelled to the guide match the script's 700?", "rows labelled to the guide", "categories right, %",
    levels={"the script's rows alone, 60 of them read": 100 * share_right(rows)})

# %% [markdown]
# Some 300 to 400 rows labelled to the guide match the script's 700, and from 200 on, the two together beat either
# alone. Each point is one draw, and the lines are means of five. Here are the language model's recorded runs, as the
# percentage of messages with both fields right. Each saw {{record:data-quality:examples:d}} examples of at most 32
# words, and "cleaned" rows come from `data_prep.prepare`, which takes the same steps on chats (script:
# `benchmarks/data_quality.py`):

# %%
prepared = assets.read_record("data-quality")
prepared["runs"] = {name: runs for name, runs in prepared["runs"].items() if "repeated" not in name}
pd.DataFrame({name: [100 * run["test"]["both"][0] for run in runs] for name, runs in prepared["runs"].items()},
             index=["run 1", "run 2", "run 3"]).T.assign(mean=lambda table: table.mean(axis=1)).round().astype(int)

# %% [markdown]
# No other set did better than the hundred. The "mediocre" rows were labelled by keywords, which get
# {{record:data-quality:"labels wrong by keyword":.0%}} of records wrong, and the "synthetic" ones by a large model. So
# first label a hundred rows to a guide, and check every later row against it. Then run the script, because its rows
# add what your hundred lack: rare kinds of tickets and a more realistic mixture (we haven't measured both together on
# the language model). Stop cleaning once you've read the list, which in section 6 did as well as correcting every
# label. Here's a plan:
#
# | days | read | do | stop when |
# | --- | --- | --- | --- |
# | 1 | 100 tickets, drawn at random | write down what a right answer is, with an example for each label, and list what's wrong with the export | ten tickets in a row tell you nothing new |
# | 2 and 3 | 200 more | label 100 for training and 100 for the test; a colleague labels 50 of these 200 too, without seeing your labels; compare both people's labels with the export's | you two agree on each field (kappa 0.6 or more); if not, the guide has a gap |
# | 4 | wrong answers to validation messages, once you've trained | save the test as `test.csv` and your hundred's labels as `corrections-0.csv`, a line for each ticket and field; run this lesson's script on the hundred alone (ten of them become the validation set); score the best prompt, then train (lessons 01 and 02) | it's good enough: ship it, you're done |
# | 5 to 7 | 20 of the rows that each rule drops | run the script on 2,000 tickets that include your hundred, then on all | each rule drops at most one good row in 20; if not, change it |
# | 8 and 9 | the top of `to_read.csv` for each field, then of `contradictions.csv` | write the right label or `drop` (or drop the top unread, section 6), and run it again | your last ten rows held hardly any errors |
# | 10 | 20 wrong answers | train on both kinds of rows, which we haven't measured; score once | you know which to ship: the new model if it clearly wins where the two differ (lesson 06, section 4), or else the one trained on the hundred |

# %% [markdown]
# **If a large model writes rows for you**, send it your guide and a list of topics, and check each answer against your
# labels. {{term:synthetic data|Synthetic rows}} fill a gap that you can name, such as terse messages, but they make a
# bad test, because the writer repeats its own phrases.
#
# **If a model judges your rows** ({{term:LLM as a judge}}), check it on your own rows. A model of 1.5 billion
# parameters, shown twelve solved rows, ranked the forty wrong labels about as well as section 6's classifier. Among
# the first sixty of 467 rows it found
# {{record:laptop-judge:runs."1.5B | planted, best form | 1".found_in_first.alone.60:d}} to
# {{record:laptop-judge:runs."1.5B | planted, best form | 0".found_in_first.alone.60:d}} with three draws of examples;
# the classifier found {{record:laptop-judge:runs."no model | rules and classifier | 0".planted.found_in_first.60:d}}.
# On fifty rows with all kinds of faults, marked by hand, it agreed with us a little less, with a kappa of
# {{record:laptop-judge:runs."1.5B | hand labels, best form | 1".agreement."as it says".kappa.0:.2f}} to
# {{record:laptop-judge:runs."1.5B | hand labels, best form | 2".agreement."as it says".kappa.0:.2f}} against the
# classifier's
# {{record:laptop-judge:runs."no model | rules and classifier | 0".by_hand."the classifier of section 7".kappa.0:.2f}}.
#
# ## 9 · How far to trust this, and what you can do now
#
# | | |
# | --- | --- |
# | messages | 100 for the test, so a share is accurate to about nine points either way; classifier and model saw the same ones |
# | runs | three for each recorded row, one for the tool rows |
# | the export | invented, its faults planted, its rules written while looking at it |
# | who wrote it | language models wrote the export, the rows labelled to the guide, and the test |
# | personal data | on this export one name in sixteen is missed, on messages from other shops one in eight (`tests/evidence/test_lesson_05.py`) |
# | escalation | the classifier agrees with 78% of the labels, "always none" with 69%, so its list for that field is weak |
# | would change the answer | a larger model, which needs fewer rows; labels that are wrong by habit |
#
# | you want to | do |
# | --- | --- |
# | know whether an export can be used | run the script on 2,000 rows; read each report and twenty rejects of each kind |
# | protect people | use pseudonyms with a secret key, read a sample, and warn your colleague in writing that names remain |
# | believe your validation score | remove copies first, then split by customer |
# | believe your test score | put `test.csv`, with its customers, beside the script |
# | find wrong labels | sort by the probability that a classifier of other customers' rows gives each label; drop or read, see section 6 |
# | lose no answers | set `max_length` above the longest row |
# | keep a model thinking | use rows with thoughts; score with thinking on and off |
# | have calls only where they're right | add as many rows without a call; collect enough of both |
#
# Three mistakes, and how you'd notice them:
#
# - The validation score is excellent, and customers complain. The same customers, or their copies, are on both sides
#   (section 5).
# - The tuned model starts every answer with `<think></think>`. The template put that into your rows (section 7).
# - Records of long messages end in the middle. `max_length` cut the answers without a warning (section 7).

# %%
quiz("05")

# %% [markdown]
# **The challenge** gives you the export once more, and trains the classifier on the rows that you choose.

# %%
# EXERCISE: data-5

# %% [markdown]
# {{words}}
#
# **Read next.** Northcutt, Jiang and Chuang (2021), *Confident Learning*, arXiv 1911.00068; Northcutt, Athalye and Mueller
# (2021), arXiv 2103.14749, who found wrong labels in the tests of ten well-known benchmarks. Lee et al. (2021),
# *Deduplicating Training Data Makes Language Models Better*, arXiv 2107.06499. Zhou et al. (2023), *LIMA: Less Is More for
# Alignment*, arXiv 2305.11206. For millions of documents, [datatrove](https://github.com/huggingface/datatrove); where
# several people label, [Argilla](https://github.com/argilla-io/argilla). Next, lesson 06 sends such files to a host.
