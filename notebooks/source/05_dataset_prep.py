# %% [markdown]
# # 05 · Dataset preparation: from a messy export to a file you can train on
#
# {{badges}}
#
# A colleague hands you a file: *"all chats from the support desk, should be fine."* You could train on it right away.
# The model would learn whatever the file teaches: refusals, canned paragraphs, answers to other messages, and a
# form that hurried agents left empty. In this lesson you turn the file into one worth training on, count what
# each step finds, and see from training runs whether the work paid off.

# %%
# INSTALL: data

# %%
from course_utils import charts, data_prep, data_report, evidence, models, plans, show
from course_utils import training
from course_utils.data_prep import formats, judging, load_task, pii, quality, similarity, truth
from course_utils.data_prep.endpoint import client_for
from course_utils.data_prep.validation import validate
from course_utils.evidence import lesson_05
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import json

import numpy as np

lesson_05.before_and_after()

# %% [markdown]
# Compare the last two bars. In both runs the model, the settings and the number of examples are the same; only
# the rows differ. A small model, with 135 million numbers inside, reads a customer's message and writes a
# *record*. Two fields of the record count here: the *category* says what the message is about, and the
# *escalation* says whether somebody must act at once, and why. The first bar is a program that reads nothing
# and always gives the most common pair of values. Whatever is trained has to beat it.
#
# By the end you will be able to
#
# - say what is wrong with a training file, line by line, before a host or a trainer does,
# - find copies and rows that teach the wrong thing, and know what each rule misses,
# - take personal data out of the file, and count what is left,
# - split the file so that validation means something, and see whether the test has leaked into training,
# - look at rows the way the model will: in tokens, with the template, the mask and the balance of the labels,
# - find wrong labels that no rule can see, repair them, and say which ones stay hidden,
# - test a judge before you trust it,
# - show by training that the work was worth it.
#
# You should know Python and have called a language model's API before. Reading takes about 90 minutes, and the exercises about an hour.
#
# In a hurry? Read sections 1, 2, 4 to 7 and 9 first. If you have a file to clean today, read section 1 and take
# the script of section 9 (`course clean-script` in a terminal writes it).
#
# {{timing}} The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All empties every
# output before it fills it again, and `course restore 05` in a terminal brings the recorded page back.

# %% [markdown]
# ## 1 · The export, and ten lines that clean it
#
# Our support desk belongs to an invented shop, Tarnbrook. For each message, a model should learn to write a
# record of what the message is about. The file is an *export*: everything that the desk's program had stored,
# as {{term:JSONL}}, one conversation per line. A line that can be read is called a *row*.
#
# `{"messages": [{"role": "system", "content": "Triage this customer message."}, {"role": "user", "content": "where's my parcel"},`
# `{"role": "assistant", "content": "{\"category\": \"delivery\", \"escalation\": \"none\", …}"}]}`
#
# (Your own export holds what real people wrote. Before you open it, ask whoever answers for data protection
# whether it may be used for training, and who may read it before the names are out.)
#
# Every fault in this export was planted, and a second file, *the truth*, says what is wrong with each line. So
# we can count how many of the faults each step finds, which you cannot do at work.

# %%
plan = plans.plan("05")
export, task = truth.load_raw_export(), load_task("support_tickets")
lines = export.path.read_bytes().splitlines()
lesson_05.some_lines(lines, (2, 25, 5))

# %% [markdown]
# The first line is as it should be: a message, and a record that fits it. In the second, the agent, the person
# at the desk, left the form empty. The third answers with a paragraph that would fit any message. A model learns from
# all three alike.
#
# But first a program must be able to read the *file*, and not every line is even valid JSON.

# %%
guess = predict(f"Of {len(lines):,} lines, how many have an error in their form?", unit="lines")
guess

# %%
report = validate(export.path, "chat")
guess.reveal(report.bad_rows)

# %%
lesson_05.findings(report)

# %% [markdown]
# The last column says how to fix each kind of error; many take one line of code. Find them all beforehand:
# `course check-data export.jsonl` in a terminal lists them line by line. A *host*, a company that trains models
# for its customers, checks some of this at the upload and some when the training starts, and often names only
# one line. TRL, the library of *trainers* (programs that take rows and run the training) that most people use
# on their own machines, checks less.
#
# **The job.** At work you want the whole cleaning in one go, and then a look at what it did. The lines below do
# that, and the rest of the lesson uses their result. In them, a *schema* describes which fields a record has
# and which values are allowed, and `redaction` says how people's names and numbers are replaced (section 4).

# %%
from datasets import load_dataset

test_rows = [{"messages": conversation} for conversation in task.test]
prepared = data_prep.prepare(
    export.path,
    schema=task.schema,                    # what a right answer looks like
    language="en",                         # of all messages and answers
    drop=quality.RULES,                    # section 2; not on a file that you have not read
    test=test_rows,                        # must not be in the training data
    redaction="pseudonym", allow=[truth.OWN_ADDRESS],
)
prepared.write("tickets-ready", overwrite=True, private="tickets-private")
files = {"train": "tickets-ready/train.jsonl", "validation": "tickets-ready/validation.jsonl"}
data = load_dataset("json", data_files=files)

# %%
print("rows:", ", ".join(f"{len(part)} for {name}" for name, part in data.items()))
lesson_05.flow(prepared)

# %% [markdown]
# Two thirds of the lines are gone, and each of them is accounted for: `changes.jsonl` lists whatever was
# changed or flagged, and `rejects.jsonl` has every dropped line and the reason. The rejects contain what
# customers wrote, with their names, so they have a folder of their own: keep it where the export is.
#
# By default `prepare` drops what cannot be read, answers that say nothing (such as `-` or `N/A`) or break the schema, test
# messages, and copies (section 3).
# A row to which a rule of section 2 objects is only *flagged*, that is, listed for you
# to look at, unless `drop` names the rule. Here `drop` names all rules, because we have read this export. The
# rules were made while looking at it, so their result here is the best case. On a new file leave `drop` out at
# first.
#
# Row counts come up all through the lesson. Here are the main ones, each with what makes it differ:

# %%
reasons = quality.assess(list(export.rows().values()), language="en", schema=task.schema)
raw = data_prep.prepare(export.path, steps=["validate", "contamination"], test=test_rows)
lesson_05.ledger(export, report, prepared, raw, task, reasons)

# %% [markdown]
# The lesson uses three sets of rows: the *well-formed* ones, unchanged; the export *as it came*, with what
# `prepare` could repair; and the *prepared* ones. When a later number surprises you, look here first.
#
# Sections 2 to 5 explain these steps one by one.
#
# **For a chat file of your own** copy the lines below. You need its path, a schema of the right answer, and
# your test messages. `drop` is left out: first read what the rules flag, then name those that are right about
# your rows. `prepare` tells customers apart by the `name` in the user's message (letters, digits, underscores,
# hyphens) or by what you pass as `group`. Products with people's names, such as a car called Zoe, belong in
# `allow`; `last_word` says whether a label was replaced.
# ```python
# import json, os
# from course_utils import data_prep
#
# my_test_rows = [json.loads(line) for line in open("my-test.jsonl", encoding="utf-8")]
# secret = os.environ["PSEUDONYM_KEY"]      # made once with secrets.token_hex(16), kept apart
# schema = {"type": "object", "required": ["category"],
#           "properties": {"category": {"enum": ["delivery", "billing"]}}}
# prepared = data_prep.prepare(
#     "mine.jsonl", schema=schema, language="en", test=my_test_rows, redaction="pseudonym",
#     seed=secret,           # whoever has it can compute the pseudonym of a name
# )
# print(prepared.last_word())
# for line, changes in list(prepared.flagged.items())[:20]:
#     print(line, changes[0].reason)
# prepared.write("ready", private="private")
# ```
#
# **Other shapes.** Training rows come in about eight shapes, and `prepare` reads them all. Hosts and trainers
# take *messages*, as above. Older public data often have the shape of Stanford's Alpaca, with an instruction
# and an output. One function converts:

# %%
alpaca = {"instruction": "Triage this customer message.", "input": "My kettle leaks.",
          "output": '{"category": "defect"}'}
show.table({
    "Alpaca → messages": {"row": json.dumps(data_prep.convert(alpaca, "messages"))},
}, "A row, converted", of="from → to")

# %% [markdown]
# The texts stay as they are, in fields with other names. What has no room in the target shape, such as a second question and
# answer, `convert` refuses.
#
# **Your turn.** What does a program that checks a file look at? Write a small one.

# %%
# EXERCISE: data-1

# %% [markdown]
# ## 2 · Rules: what reading teaches you, written down
#
# If you have fewer than a thousand rows, read every one. It takes an afternoon, and no other afternoon of the
# project is better spent. What you notice becomes a rule: cheap, blunt, and always with its reason.
#
# Here are two complete rules. The first objects to messages that say nothing: "any news?" cannot be answered by anybody.

# %%
import re

GREETINGS = set("hi hello hey ok okay thanks thank you bye please yes no test anyone there".split())


def says_nothing(message):
    """Whether fewer than three different words or numbers are left without greetings."""
    words = re.findall(r"[^\W\d_]{2,}|\d{4,}", message.lower())
    return len(set(words) - GREETINGS) < 3


# %% [markdown]
# The second rule finds answers that belong to another message. When two people's tickets are swapped, each
# record is still perfectly valid, but it names an order number that this customer never wrote.

# %%
def foreign_numbers(message, answer):
    """Long numbers in the answer that are not in the message, however the message groups digits."""
    digits = re.sub(r"\D", "", message)
    return [number for number in re.findall(r"\d{5,}", answer) if number not in digits]


message = "Kettle leaks at the base, order TB 40512. Please help."
print(foreign_numbers(message, '{"category": "defect", "order_id": "TB-40512"}'))
print(foreign_numbers(message, '{"category": "returns", "order_id": "TB-55318"}'))

# %% [markdown]
# The rule reports 55318, which is not in the message, and leaves 40512 alone. But how good are the two rules on
# the whole export? Two shares answer that, and they pull in opposite directions.
# {{term:precision and recall|Recall}} is the share
# of all faults that the rule finds. *Precision* is the share of the rows it accuses that really are faulty.

# %%
rows = export.rows()                                       # line → row, of the well-formed lines
conversations = list(rows.values())
found = {
    "low_information": {n for n, row in rows.items() if says_nothing(formats.prompt_of(row))},
    "other_answer": {
        n for n, row in rows.items()
        if foreign_numbers(formats.prompt_of(row), formats.answer_of(row))
    },
}
scores = {
    code: truth.DetectionScore.of({n for n in rows if code in export.faults(n)}, finds)
    for code, finds in found.items()
}
caption = "Our two rules against the planted truth"
lesson_05.found_and_missed(scores, lesson_05.RULE_NAMES, caption)

# %% [markdown]
# The brackets are a {{term:confidence interval|95 % interval}}: how far the share may be from its long-run
# value *on such an export*. With 70 faults, 71 % may be 60 or 81. On other data expect worse, since the rules
# were made for this export.
#
# Three or four lines each, and most of the faults are found. The first rule never accuses a good row here and misses some bad ones;
# the second misses none of the 70 here (the interval begins at 95 %) and now and then accuses wrongly.
#
# Usually you have to choose. If a rule *drops* rows, you need precision; if a person reads what it flags,
# recall. Before you trust a rule, also try it on messages from *production*, those that users of the finished
# product send. Our first rule has a weakness there:

# %%
terse = [text for text in export.production if says_nothing(text)]
print(f"{len(terse)} of {len(export.production)} messages from production would go,")
print("for example:", ", ".join(terse[:3]))

# %% [markdown]
# These customers have said all they need to say, and the rule would drop them. A desk that gets such messages
# must tell the rule which words are enough by themselves.
#
# The course's package has seven rules, with more cases in each. They object to this:

# %%
lesson_05.dropped_rows(conversations, reasons)

# %%
guess = predict("Which is hardest to find?", choices=["refusals", "cut off", "another language"])
guess

# %%
by_rule = truth.score_quality(export, reasons=reasons)
hardest = min(("refusal", "truncated", "language"), key=lambda code: by_rule[code].recall.value)
guess.reveal(lesson_05.RULE_NAMES[hardest])

# %%
lesson_05.found_and_missed(by_rule, lesson_05.RULE_NAMES, "The seven rules of the package")

# %% [markdown]
# Look at the recall. Wrong form, another language and canned answers are found almost completely, cut-off texts
# less often. What depends on wording is harder: there are endless polite ways to refuse, and a rule knows only
# those that somebody wrote down. A strict form is a second net: a polite sentence is not a record, so "wrong
# form" catches what "refusals" misses. Free-text answers need a judge instead (section 8).
#
# The takeaway: write a rule for what you have seen, measure both its shares on rows that you have read, and let
# it drop only what it hardly ever gets wrong.
#
# One kind of fault is not in the table: a record that is well formed and about the right message, but has the
# wrong category. No rule can see such records. There are forty of them in the export, and they are all still in
# your prepared file (section 7).

# %% [markdown]
# ## 3 · Copies
#
# Training lowers the {{term:loss}}, the measure of how surprised the model is by the right answer. A row that
# is in the file twice counts twice, and takes the place of a different example. Exact copies are easy to find.
# But customers write twice, mail programs add "Re:", and somebody corrects a typing error.
#
# How alike must two texts be to count as copies? The *Jaccard index* measures it: the number of pieces that are
# in both texts, divided by the number in at least one. Take single words as pieces:
#
# | what | words |
# | --- | --- |
# | text 1 | the kettle leaks at the base |
# | text 2 | my kettle leaks at the base |
# | in both | the, kettle, leaks, at, base: 5 |
# | in at least one | those and "my": 6 |
# | Jaccard index | 5 / 6 = 0.83 |
#
# "The" is in text 1 twice and counts once. The package also counts pairs of neighbouring words as pieces, because "not late" and
# "late, not" mean different things.
#
# **Your turn:** write the Jaccard index for pairs of neighbouring words.

# %%
# EXERCISE: data-2

# %% [markdown]
# For two thousand rows a program can compare every pair. A million rows have five hundred billion pairs, which
# is too many.
#
# {{term:MinHash}} (Broder, 1997) makes a short *signature* of each text, a list of numbers. Shuffle all pieces
# that there are, write down which piece of the text comes first, shuffle again, and so on. Two texts write down
# the same piece if the first of all their pieces is one that both have, and the probability of that is their
# Jaccard index. So the share of places in which two signatures agree estimates the index.
#
# Programs do not shuffle. They compute a *hash* of each piece, a number that looks random and is always the
# same for the same piece, and take the smallest. In the code, `shingles` gives the pieces of a text as numbers.

# %%
def minhash(pieces, shuffles):
    """For each shuffle (multiplier, offset) the smallest hash: the piece that comes first."""
    return np.array([((pieces * m + offset) >> np.uint64(32)).min() for m, offset in shuffles])


generator = np.random.default_rng(0)
numbers = generator.integers(0, 2**63, (128, 2), dtype=np.uint64)
shuffles = [(m | np.uint64(1), offset) for m, offset in numbers]
one, other = (similarity.shingles(text) for text in (
    "The kettle that I bought in March leaks at the base and has ruined our worktop.",
    "Hello again, the kettle that I bought in March leaks at its base and has ruined our worktop!",
))
same = np.mean(minhash(one, shuffles) == minhash(other, shuffles))
print(f"Jaccard index {similarity.jaccard(one, other):.2f}, estimated from 128 numbers {same:.2f}")

# %% [markdown]
# The estimate from 128 numbers is close to the index itself. Now the trick that avoids comparing all pairs: cut
# each signature into *bands* of a few numbers. Texts that agree in a whole band land in the same drawer, and
# only texts in one drawer are compared. This is locality-sensitive hashing (LSH), here with ten numbers:

# %%
show.drawing("banding")

# %% [markdown]
# <details><summary><b>How probably do two texts meet in a drawer? A formula and its curve</b></summary>
#
# With Jaccard index $J$ two texts
# agree in one band of $r$ numbers with probability $J^r$, and in at least one of $b$ bands with
# probability $1 - (1 - J^r)^b$. With the ten numbers above and $J = 0.6$: $0.6^2 = 0.36$, so all five bands differ with probability
# $0.64^5 = 0.11$, and the two meet with probability 0.89.
#
# </details>

# %%
lesson_05.meeting_curve()

# %% [markdown]
# With the package's 128 numbers in 32 bands of four the step from "seldom" to "always" is steeper: 5 % at $J = 0.2$, 56 % at 0.4,
# 99 % at 0.6. More numbers in a band move the step to the right, more bands move it to the left: place it just
# below what you call a copy. A pair that meets is then compared exactly. So bands accuse nobody wrongly and
# save nearly all comparisons, but miss about one in a hundred pairs at an index of 0.6.
#
# What is a copy, though? In this course, two rows whose messages have a Jaccard index of at least 0.6 without what nearly all rows
# share, of which neither says a number, a name or a sentence that the other leaves out, *and with the same answer*; one of the
# two goes. The same message with *different* answers is a *conflict*. If a message has
# only one right answer, at most one of the two is right, so a person should look.

# %%
copies = data_prep.deduplicate(conversations)
lesson_05.clusters(conversations, copies)

# %%
planted = [export.truth[number - 1]["cluster"] for number in rows]
pairs_found = truth.score_duplicates(conversations, planted)
show.table({"pairs of copies": {
    "there": pairs_found.recall.n,
    "recall": pairs_found.recall,
    "precision": pairs_found.precision,
}}, f"{len(conversations) - len(copies.kept)} rows of {len(conversations):,} are copies")

# %% [markdown]
# Nearly all pairs are found, and hardly anything else. These {{term:near-duplicate|near-copies}} keep most of their words.
# No method that counts words finds the same request in quite different words. For that, compare
# {{term:embedding|embeddings}}, lists of numbers that stand for what a text means, and expect more false
# alarms.

# %% [markdown]
# ## 4 · People
#
# A model can repeat to anybody what it was trained on. So {{term:PII}}, data that tell who a person is, have to
# go before training.
#
# Numbers with a *check digit* are the easy part: one or two of their digits are computed from the others, so
# that a typing error shows. A bank account number (IBAN) has a country, two check digits and the account. Move
# the first four characters to the end, write each letter as a number (A = 10, B = 11, …), and the remainder
# after division by 97 must be 1. DE89 3704 0044 0532 0130 00 becomes 370400440532013000 1314 89, and that
# number leaves the remainder 1. Here is a small finder:

# %%
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")


def is_iban(text):
    code = text.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in code[4:] + code[:4])
    return int(digits) % 97 == 1


for text in ("Refund to DE89 3704 0044 0532 0130 00 please", "Part DE89 3704 0044 0532 0130 01"):
    print(text, "→", [code for code in IBAN.findall(text) if is_iban(code)])

# %% [markdown]
# In the second text one digit is different, so the finder leaves the number alone, as it does with 96 of 97
# order numbers that look like an account. The package's finder has more cases.
#
# **Your turn:** write the check that card numbers have, called Luhn's. From the right, double every second
# digit, subtract 9 from whatever exceeds 9, and the sum of all digits must be divisible by 10.
# For 4539 1488 0343 6467 it is 80. One in ten random
# numbers passes this check, so a good finder looks at the words around the number too.

# %%
# EXERCISE: data-3

# %%
guess = predict(
    "What will be found least?", choices=["phone numbers", "names", "addresses", "card numbers"]
)
guess

# %%
texts = list(truth.marked_texts(export))
personal = truth.score_pii(texts, allow=[truth.OWN_ADDRESS])
least = min(personal, key=lambda kind: personal[kind].recall.value)
guess.reveal(lesson_05.PERSONAL[least])

# %%
lesson_05.found_and_missed(personal, lesson_05.PERSONAL, "Personal data in the export")

# %% [markdown]
# Numbers, addresses and dates are found almost completely, names less often. The finder has lists of names and
# looks at the words around them ("I'm Selin", "Kind regards, …"), but about one in sixteen slips through: a
# name in lower case in the middle of a chat has little that gives it away. And of what is taken for a name,
# about one in eleven is something else.
#
# So *redaction*, taking personal data out, makes leaks rarer, not impossible. Read a sample of what is left,
# and say in the data card (section 9) what you found.
#
# What do you write in place of a name? There are three ways:

# %%
text = "I'm Selin Karagöz, born 14.03.1986. Call +44 7700 900123, or write to selin@mail.example."
show.table({way: {"text": pii.Redactor(way).text(text)[0]} for way in pii.MODES}, of="way")

# %% [markdown]
# A *pseudonym* is an invented value of the same kind. Take pseudonyms, as the lines of section 1 do, if
# messages in production will have names in them: a model that has only ever seen `[NAME]` meets its first real
# name on its first day at work. Labels such as `[NAME]` are better where a person has to *see* that something
# was taken out.
#
# The same name gets the same pseudonym in all rows. Give `prepare` a secret `seed` of your own: with ours
# anybody could compute the pseudonym of a name. Legally, pseudonymised data are usually still personal data.
#
# How far does this carry? The shares above are for an export that the rules were made for. On a second set,
# written by somebody else about a bank, a clinic and a mobile operator, numbers with a check digit were all
# found, too. Names and addresses were found only about seven times in eight. Expect that of your data as well.

# %% [markdown]
# ## 5 · A split that you can believe
#
# Nine in ten rows become the {{term:training set}}; one in ten becomes the {{term:validation set}}, which tells you while
# you train whether the model learns the task or merely the rows. Should you choose the validation rows at
# random? Then one customer's first message may be in training and the second, in nearly the same words, in
# validation.

# %%
unique = [conversations[i] for i in copies.kept if not reasons[i]]
guess = predict("Split by chance: how many of 100 validation rows are known from training?")
guess

# %%
splits = lesson_05.two_splits(unique)
by_chance = splits.rows["by chance, row by row"]
guess.reveal(round(100 * by_chance["of these known from training"] / by_chance["validation rows"]))

# %%
splits

# %% [markdown]
# The last column counts the validation rows whose customer or near-copy is in training too: by chance about
# half of them, and this is *after* copies were removed. A low loss there would partly be a prize for
# memorising.
#
# `data_prep.split` keeps near-copies and each customer's rows together (a customer is the `name` in the user's
# message), and gives both parts the same shares of labels and templates. In your data a document, a patient or a
# repository may play that part.
#
# **Or by time?** If your rows have dates, and the world changes under the model, such as through new products,
# you can also train on everything before a day and validate on everything after it. That shows how the model
# will do *next* month. The question is harder, so the score is often lower. Customers who write on both sides
# of the day still have to be removed from one of them.
#
# **Your turn:** split so that no customer is on both sides.

# %%
# EXERCISE: data-4

# %% [markdown]
# **Is the {{term:test set}} still unseen?** The finished model is scored on the test set, once, and ours was
# written apart from it. But somebody may have tried its messages at the desk, and then the export contains them. Test messages
# among the training rows are called {{term:contamination}}.

# %%
hits = data_prep.contamination(conversations, test_rows)
leaked = sorted({hit.test for hit in hits})
print(f"{len(leaked)} of {len(test_rows)} test messages are in the export")
print("for example:", formats.prompt_of(test_rows[leaked[0]])[:90])

# %% [markdown]
# How much would the leak have raised the score? To find out, train a *classifier*, a program that sorts texts
# into categories, twice: on the prepared rows, and on the same rows with the leaked test messages. Ours is
# scikit-learn's *logistic regression* on words and pairs of words. It gives each word a number for each
# category, adds the numbers up, and turns the sums into probabilities.

# %%
lesson_05.a_leak(prepared.rows, task, leaked)

# %% [markdown]
# On the messages that leaked the score jumps; on the others it hardly moves. The reported number mixes both, so
# it is too high although nobody cheated. `prepare(test=…)` has removed the leaked messages.
#
# **Your turn:** find a leak that is only a part of a message.

# %%
# EXERCISE: data-5

# %% [markdown]
# One more comparison: do the training messages look like those in production? Users of the new chat window write "where parcel
# 51234", and the export is full of letters. Train a classifier to tell the two apart, and show it pairs of one
# message from each side. The share of pairs in which it knows which is which is called the *area under the
# curve*, AUC for short: 0.5 means that it cannot tell, 1 that it always can.

# %%
prompts = [formats.prompt_of(row) for row in prepared.rows]
apart = data_prep.distance(prompts, export.production)
chosen = data_prep.resample(prompts, apart.weights, 200)
nearer = data_prep.distance([prompts[i] for i in chosen], export.production)
show.table({
    "all prepared rows": {"area under the curve": apart.auc, "median words": apart.train.words},
    "the 200 most like production": {
        "area under the curve": nearer.auc, "median words": nearer.train.words
    },
    "production": {"area under the curve": None, "median words": apart.production.words},
}, "Training messages beside those from production")

# %% [markdown]
# The second row of the table is closer to production than the first, but still easy to tell apart from it. What
# the export does not have cannot be drawn from it: collect terse messages, or have some written (section 8).
#
# Ask three questions of every split: is anybody on both sides, is the test set among the training rows, and
# does the training set look like what the model will meet?

# %% [markdown]
# ## 6 · What the model will see
#
# So far you have looked at texts. The model sees tokens, with a {{term:chat template}} around them (the markers for who
# speaks), and learns only where the {{term:label mask}} lets it. Practitioners look at these things first, because mistakes
# here raise no error. Use the {{term:tokenizer}} of *the model that you will train*: another model cuts the same text into other
# tokens.

# %%
tokenizer = models.load_tokenizer()
lengths = lesson_05.token_lengths(prepared.rows, tokenizer)
print(f"{len(lengths)} rows with {sum(lengths):,} tokens: half have at most {np.median(lengths):.0f}, "
      f"99 of 100 at most {np.percentile(lengths, 99):.0f}, the longest {max(lengths)}")

# %%
lesson_05.cut_by_limit(lengths)

# %% [markdown]
# `max_length` is the largest number of tokens that a trainer keeps of a row. It cuts at the *end*, and the end
# is the answer. So too small a limit cuts off the end of the record and, with it, the token that says "stop
# here". No error is raised; from long messages the model just never learns how a record ends.
#
# TRL keeps 1,024 tokens unless you say otherwise (`SFTConfig(max_length=…)`; the whole row with `None`). That
# is far more than our longest row has, and far too little for long documents or chats. Choose a limit above the
# longest row if memory allows; otherwise drop the few longer rows, and say in the card how many.
#
# **Several turns.** In a chat with several answers, the *last* ones are cut off. You decide whether the model
# learns every answer or, if the earlier ones were poor, only the last. And a few talkative customers can make
# up most of what is learned, so count answers, not rows.
#
# What will training on these tokens cost? Each time through all rows is called an {{term:epoch}}.

# %%
lesson_05.cost_table(sum(lengths))

# %% [markdown]
# Data this small cost less to train on than to look at; the expensive part is your afternoon. (The last line
# assumes 175 tokens a second, which a slow laptop reaches.)
#
# Next, template and mask. The mask is made of *token labels*: what the model should say at each token, or −100
# where the loss ignores the token. Here is the code that makes them for one row. It raises an error if the
# prompt is not the beginning of the whole chat, or if the marker that ends the answer is missing.

# %%
def token_labels(chat):
    """Token ids of a chat, and labels that are -100 on all but its last answer."""
    template = tokenizer.apply_chat_template
    prompt = template(chat[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = template(chat, return_dict=True)["input_ids"]
    end = max(i for i, t in enumerate(whole) if t == tokenizer.eos_token_id) + 1
    if whole[:len(prompt)] != prompt or end <= len(prompt):
        raise ValueError("the prompt is no prefix, or the answer has no end token")
    return whole[:end], [-100] * len(prompt) + whole[len(prompt):end]


chat = [{key: m[key] for key in ("role", "content")} for m in prepared.rows[0]["messages"]]
show.conversation(tokenizer, *token_labels(chat))

# %% [markdown]
# This row is in order: the model learns what is coloured, the answer and the marker that ends it, and nothing
# else. Now look at ten rows, as a trainer would cut them with `max_length=160`. What will the model learn from them?

# %%
guess = predict("Of these ten rows, how many lose the end of their answer?", unit="rows")
guess

# %%
ten = lesson_05.ten_rows(prepared.rows, tokenizer)
bad = lesson_05.row_without_end(ten, tokenizer, max_length=160)
guess.reveal(1, "row", source=f"number {bad}")

# %%
lesson_05.masks(ten, tokenizer, max_length=160)

# %% [markdown]
# Look at row 7. This customer's message alone is longer than the limit. No token of the answer is left, so the
# row costs computing time and teaches nothing. If a trainer takes it alone, the loss is a mean over no tokens,
# which PyTorch calls `nan`.
#
# Row 7 is the longest row of the whole file, which we put there on purpose: without it, the first nine rows of
# the file all look fine. So always include your longest row.
#
# In each row the model should learn exactly the answer, from the first brace to the marker that ends it. If the
# learned part begins with a customer's words, the mask is missing, and the model would learn to write
# customers' messages. If it does not end with the marker, the model never learns to stop.
#
# This course's trainer masks the message by itself. TRL's `SFTTrainer` does so if the rows have columns
# `prompt` and `completion`. For rows with `messages`, like ours, it trains on every token unless you set
# `assistant_only_loss=True`, which needs a chat template that marks the answers.
#
# <details><summary><b>Packing: what filling up short rows costs, and how to avoid it</b></summary>
#
# A trainer takes several rows at once, a {{term:batch}}. They must have the same length, so short ones are filled up
# ({{term:padding}}), and the GPU computes the filling for nothing. Nearly all of this waste disappears if rows
# of similar length share a batch, at the cost of some of the batches' randomness
# (`train_sampling_strategy="group_by_length"` in TRL, `bucket=8` in this course's trainer).
#
# Packing, which puts several rows into one sequence, does nearly as well. It needs a mask that keeps the rows
# from reading each other; TRL's `packing=True` takes care of that on GPUs where the library FlashAttention is
# installed.
#
# </details>

# %% tags=["folded"]
lesson_05.packing_table(lengths)

# %% [markdown]
# **Balance.** Which values does the model see most often?

# %%
lesson_05.balance(prepared.rows)

# %% [markdown]
# Seven of ten records say that nothing is urgent. A model that has learned only *that* is right for seven messages in ten and
# useless to the desk. So accuracy is the wrong measure for this field: it cannot tell a model that catches
# nobody from one that works. Section 10 therefore counts the urgent messages that the short runs caught. Of the
# recorded runs only the accuracy was kept; compare it with the 70 % that "none" alone gets.
#
# If a value you care about has only a few dozen rows, collect more of that kind before anything else.

# %% [markdown]
# ## 7 · Wrong labels, which no rule can see
#
# Forty rows have a wrong category. The record is valid, and it is about the right message. How could a program know?
#
# Because *most* labels are right. A classifier that learns from all rows what a "delivery" sounds like will be
# surprised by that label on a message about a refund. But a classifier that has seen this very row may have
# learned its wrong label by heart, so each row must be judged by a classifier that was trained *without* it.
#
# 1. Cut the rows into five parts, called *folds*, and keep all rows of one customer in the same fold. Somebody who writes
#    twice about one thing uses nearly the same words, so in different folds one wrong label would vouch for the other.
# 2. Train on four folds, and predict the fifth. Do this five times, so that every row is predicted once, *out of fold*.
# 3. Look up the probability of the label that the row has. Sort the rows by it, the least probable first.
#
# Here are three rows to follow by hand. The probabilities come from a classifier that did not see the row:
#
# | message | its label | delivery | billing | returns | probability of its label |
# | --- | --- | --- | --- | --- | --- |
# | "where is my parcel" | delivery | 0.90 | 0.04 | 0.06 | 0.90 |
# | "charged twice for the lamp" | delivery | 0.08 | 0.85 | 0.07 | 0.08: look at this one |
# | "it came late, I send it back" | returns | 0.45 | 0.10 | 0.45 | 0.45: unclear, and perhaps right |
#
# *Confident learning* (Northcutt et al., 2021) begins with these probabilities too. It sets a threshold for each
# label, estimates from them how many labels are wrong, and ranks last; the library cleanlab offers it in full. With scikit-learn the ranking takes a few lines. `StratifiedGroupKFold`
# makes the folds: "stratified" means that each has about the same share of every label, "group" that no
# customer's rows are in two.

# %%
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from course_utils.data_prep import label_noise

labels = [label_noise.label_of(row, "category") for row in prepared.rows]
seen = [label_noise.evidence_in(row, "category") for row in prepared.rows]
customers = [name or f"alone {i}" for i, name in enumerate(prepared.owners)]
folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
classifier = label_noise.classifier()                      # logistic regression on words
probability = cross_val_predict(
    classifier, seen, labels, groups=customers, cv=folds, method="predict_proba"
)
own = probability[np.arange(len(labels)), np.searchsorted(np.unique(labels), labels)]
print(f"probability of a row's own label: median {np.median(own):.2f}, lowest {own.min():.3f}")

# %% [markdown]
# The classifier is seldom sure, as the median shows. So a low probability alone accuses nobody; what counts is
# the order.
#
# `evidence_in` gives the classifier the message and the record without the label. The record's summary, written
# apart from the label here, helps; with a message alone, fewer wrong labels will be found.
#
# The package's function does all this and returns the *suspects*, the rows for which another label is more probable:

# %%
checked = data_prep.check_labels(prepared.rows, "category", group=prepared.owners)
lesson_05.suspects(prepared.rows, checked)

# %% [markdown]
# A suspect is not yet guilty: somebody has to read the row. Here are the first six. Is the category right?
# What looks like
# somebody's card number or name is a pseudonym.

# %%
show.review([prepared.rows[i] for i in checked.suspects[:6]])

# %%
guess = predict("Somebody reads the first 60 of these. How many of the 40 wrong labels are there?")
guess

# %%
first = checked.suspects[:60]
score = truth.score_labels(export, prepared.lines, first)
guess.reveal(round(score.recall.value * score.recall.n))

# %%
lesson_05.suspects_curve(export, prepared.lines, checked)

# %% [markdown]
# Nearly all of the first twenty are wrong. Reading one row in ten finds most of the wrong labels. To find nearly all of them you
# read about one in seven. From there on the list goes on to one in five, and hardly anything but false alarms comes: rows that are
# unusual, and right. Stop where the curve bends: when there was hardly a wrong label among the last ten rows
# that you read.
#
# The diamond is one of the paper's rules, the *confident joint*, which accuses a row only if another label reaches the probability that is
# usual for that label. Here the list is better: take as many rows from its top, and more of them are wrong. But
# the rule tells you where it would stop, and here that is too early: most of the wrong labels come after it.
#
# **What this cannot find.** In this export a category was replaced by *any* other one, by accident and not by
# habit. Real annotators, the people who give the labels, confuse neighbours: a customer who sends something
# back wants money, so one annotator files returns under billing. Let us put that mistake into labels that are
# all right, and read sixty rows again.
#
# The first row of the table is a control: forty accidents again, but drawn anew and averaged over two draws. So
# its number differs from that of the curve above.

# %%
lesson_05.kinds_of_mistakes(export, prepared.lines, prepared.rows, prepared.owners)

# %% [markdown]
# Compare the last two columns: the method finds only what disagrees with the majority. The more often the same
# mistake is made, the more it *is* the majority: the classifier learns it like any other label, and where
# everybody makes it, at most one of the wrong labels comes up, fewer than in sixty rows picked at random. No
# score warns you: the classifier disagrees with fewer labels than it did with the forty accidents. So a short
# list of suspects says only that few labels are wrong *by accident*.
#
# To find a shared mistake you need another pair of eyes. Let two people label the same fifty rows apart, count
# how often they agree and which two labels they confuse, and write down, with an example, where the line
# between the two is.
#
# Now repair what was found. Here the truth file plays the person who reads: it corrects what is wrong among the
# first sixty, and leaves the false alarms alone. The repaired rows go into the folder from section 1.

# %%
corrections = lesson_05.decisions(export, prepared.lines, first)
unrepaired = prepared.rows
prepared.rows = data_prep.repaired(unrepaired, "category", corrections)
prepared.write("tickets-ready", overwrite=True, private="tickets-private")
data = load_dataset("json", data_files=files)
print(f"{len(corrections)} labels corrected")

# %% [markdown]
# What is the repair worth? First for a small classifier, which trains in a second. In the table's first row it
# learns from the export as it came, without the leaked test messages, and can use only the rows whose answer is
# a record with a category.

# %%
lesson_05.repair_table({
    "the export as it came": raw.rows, "prepared": unrepaired,
    "prepared, 60 suspects dropped": data_prep.repaired(
        unrepaired, "category", dict.fromkeys(first)
    ),
    "prepared, 60 suspects read": prepared.rows,
}, task)

# %% [markdown]
# The large step is the one from the export to the prepared rows. Repairing the labels adds a few points at most, and with 100
# test messages the intervals overlap: forty wrong labels in six hundred are too few for a certain answer.
#
# So the language model was trained beforehand, three times on each set of rows, also with three times as many
# wrong labels. (The folds in these runs were not grouped by customer.)

# %%
lesson_05.recorded_repair()

# %% [markdown]
# With three times as many wrong labels the gain is large: the worst run after the repair beats the best one before it.
# There, reading the suspects, dropping them unread and correcting every single row came out alike. So you need
# not read everything: read the top of the list. Dropping the top unread also costs good rows, those that are
# unusual and right. With forty wrong labels each of the three runs gained too, compared run by run, though the
# ranges overlap (dropping was not tried).
#
# The brackets go from the worst to the best of three runs. They are no confidence intervals, and all runs were
# asked the same hundred messages. Do not compare this table with the one in section 10: here messages of up to
# {{record:label-noise:"longest message, words":d}} words are trained on, four in a batch, and there up to 32 words, two in a batch. So rows that nobody
# repaired give 68 % of the categories here and 73 % there.
#
# The *test set* may have wrong labels too. They count right answers as wrong, and so punish the better model.
# Run the same check on the test set, and read every suspect.
#
# **Your turn.** Somebody wrote the paper's rule from memory. It runs, and it is wrong.

# %%
# EXERCISE: data-6

# %% [markdown]
# ## 8 · A model that judges, and a model that writes
#
# Beyond a thousand rows nobody reads everything, and of some kinds you have hardly any rows. A large model can
# read and write for you, if you check its work. First the reading.
# An {{term:LLM as a judge|LLM as a judge}} is a model that reads each row with a *rubric*, the text
# that says what is good, and gives a verdict. This is our rubric.

# %%
print(judging.ONE_WORD_RUBRIC)

# %% [markdown]
# A judge is an instrument, so compare it with something you know before you use it. Fifty rows were read beforehand: keep, or not.
# The reader was not a person but the language-model assistant that wrote this lesson, standing in for you.
# Thirty of the rows are fine, fourteen have a wrong category and six an answer that belongs elsewhere.
#
# Agreement alone is misleading: whoever keeps everything agrees on sixty per cent of these rows. *Cohen's
# kappa* takes out the agreement that chance would give: 0 is chance, 1 is perfect.
#
# $$\kappa = \frac{\text{agreement} - \text{chance}}{1 - \text{chance}}$$
#
# How much agreement is chance? If the judge and you each keep 60 % of the rows at random, you agree on
# $0.6 · 0.6 + 0.4 · 0.4 = 52$ % of them. If in fact you agree on 80 %, kappa is
# $(0.80 - 0.52)/(1 - 0.52) = 0.58$. By habit rather than law, a judge below about 0.6 should not decide alone.
#
# Kappa also depends on how many rows are bad: two in five here, perhaps one in fifteen among prepared rows.
# There the same judge has a much lower kappa, and most of what it rejects is good. Fifty rows drawn
# from those would hold three bad ones, too few to measure anything. So at work mark 25 rows that the judge rejects and
# 25 that it keeps, both drawn at random, and say of each pile how many verdicts are right.
#
# The only judge that runs on any computer is our small model. It answers "yes" or "no", and we read how probable each is.

# %%
from sklearn.metrics import roc_auc_score

by_hand, keep, _ = lesson_05.read_by_hand(export)
model, tokenizer = models.load()
marks = judging.judge_here(by_hand, model, tokenizer)
area = roc_auc_score(keep, marks)
print(f"probability of “yes”: {min(marks):.2f} to {max(marks):.2f}")
print(f"area under the curve: {area:.2f}")

# %%
judges = {"this model with the rubric": [mark > 0.5 for mark in marks]}
judges |= lesson_05.other_judges(export, prepared.rows, prepared.lines)
lesson_05.judges_table(keep, judges)

# %% [markdown]
# **What a weak judge shows.** The small model says "no" to every row, so its kappa is that of chance. The limit
# of 0.5 is not to blame: the area under the curve, here the probability that a good row gets a higher mark than
# a bad one, is near that of a coin. So on these fifty rows the judge cannot be told from chance, although each
# verdict looks like an opinion. That says nothing about large models.
#
# The rules and the classifier do better, and together they reach more than 0.8. But
# with fifty rows the interval around it goes down to about 0.7, and these are the two faults that they were made for, so expect
# less on your task.
#
# **What a strong judge reaches** we cannot measure on this machine, but others have: Zheng et al. (June 2023, arXiv 2306.05685)
# showed people and GPT-4 the same pairs of replies to open questions. GPT-4 agreed with the people on 85 % of
# the pairs, and people with each other on 81 %, if ties are left out. With ties, and with verdicts that change
# with the order, it is 66 % and 63 %. So in general chat one model of 2023 agreed with people as well as people
# did with each other. Whether yours does on your rows, you have to measure: *a judge's name says nothing; what
# counts is its kappa on your own rows*.
#
# Even strong judges have preferences that no rubric asked for. Two are easy to measure: for the reply shown
# first, and for the longer reply. Show each pair in both orders, and pad good replies with a paragraph that
# says nothing.
#
# How to read the table: the first three columns count single verdicts, two for each pair. A judge that always
# takes the first reply has 100 % in the second column, and so 50 % in the first. The last column adds up each
# reply's probability over both orders, so that the place cancels out, and counts the pairs in which the longer
# reply has more.

# %%
lesson_05.bias_table(model, tokenizer)

# %% [markdown]
# The small judge takes whatever is shown first. With the better reply always first, it would have looked
# perfect. So ask in both orders, and count a verdict only if both give the same. The padded reply is the worse
# one, so a good judge never prefers it. If yours often does, say "length does not count" in the rubric, and measure again.
#
# With a strong judge, `judging.judge(rows, client_for(), "gpt-…")` asks any OpenAI-compatible service, and
# `judging.agreement_with_labels(verdicts, keep)` computes the figures of the first table.
#
# **A model that writes.** A large model can write what the export lacks, such as terse messages or rare
# categories. For such {{term:synthetic data}} you list topics, send the same request for each, and check every
# answer against the schema.
#
# No strong model runs here: a server on this machine plays back answers that an assistant wrote beforehand, two
# kinds of mistakes among them. Now and then it is busy, as such servers are.

# %%
from course_utils.data_prep.synthesis import as_chat, synthesise
from course_utils.openai_server import Replay

synthesis_plan, strong_model, ledger = lesson_05.recorded_writer()
with Replay(strong_model, trouble=("busy", 5)) as server:
    client = client_for(server.base_url, "no key needed")
    made = synthesise(synthesis_plan, client, ledger, budget=0.10)
    print("budget of 10 cents:", made)
    made = synthesise(synthesis_plan, client, ledger, budget=2.00)
    print("budget of 2 dollars:", made)

# %% [markdown]
# A request is written to a file, the *ledger*, before it is sent, and its answer as soon as it arrives. So an
# interrupted run goes on where it was and pays for no answer twice. A request is sent only if the budget covers
# its longest possible answer. Each example says where it comes from:

# %%
print(made.examples[0]["provenance"])

# %% [markdown]
# This origin belongs in the data card, so that nobody takes these rows for real messages later.
#
# Now the trap. Hold out 80 of these examples as a test set. Is that a fair test?

# %%
synthetic = as_chat(made.examples, "Triage this customer message.")
lesson_05.kinship_table(synthetic, task)

# %% [markdown]
# A writer repeats its turns of phrase. A quarter of all groups of three words in its {{term:held-out}} rows, those that were kept
# out of training, are in the training rows as well; in the course's test set, written apart by another model in another world of products, hardly any are. So a score on
# the writer's own rows flatters. How much was measured beforehand:

# %%
evidence.card("P3")

# %% [markdown]
# The writer's test set overstates what the model can do. Use synthetic rows to fill a gap that you can name,
# and measure on rows that your customers wrote.

# %% [markdown]
# ## 9 · Your own export, in one script
#
# The lines of section 1 take chats. At work the export is often a table, as CSV or JSONL: one row for each
# message, its label, and who wrote it. Here are the steps that every such file needs, for you to read and
# change. The rules of section 2 and the look at tokens of section 6 depend on your data: they are not in it.
# The tools are pandas for the table, scikit-learn for copies, split and labels, `datasets` and `huggingface_hub`
# for the result. Only the personal data are taken out by the course's package, which adds lists of names to
# Presidio's recognisers.
#
# Each step is a function that takes the table and returns it with one line of report. It drops nothing by
# itself: it writes the reason into the column `why`, and the script lists those rows. And it *stops* where the
# export is probably not what you think it is.
#
# Why this order?
#
# | step | why here |
# | --- | --- |
# | 1 usable rows | the later steps trust that each row has a message and a label that exists |
# | 2, 3 decisions, copies | before the split, or copies end up on both sides |
# | 4 redact | before anybody reads a row; after the copies, only because it is the slowest step and a third fewer rows are left |
# | 5 split | by customer, while the table still knows who the customer is |
# | 6, 7 labels | after the copies are gone, because a copy vouches for its own wrong label; on the test rows as well |
# | 8 write | last, because the version is computed from what is written |
#
# Each run leaves these files. Those with text have been redacted.
#
# | file | what is in it | what you do with it |
# | --- | --- | --- |
# | `rejects.csv` | the number of each row that was left out, and the reason | count the reasons |
# | `copies.csv` | each group of near-copies, with the row that stayed | read some large groups: are they copies? |
# | `conflicts.csv` | near-copies with different labels | fill in the column "right" with a label, or with "both" where each row's own label is right; save the lines as `decided.csv`, run again |
# | `to_read.csv` | the tenth of the rows with the least probable labels that nobody has read | fill in "right" for every row that you read, add these lines to `read.csv`, run again |
# | `mine-ready` | training, validation and test rows, with their card | train; score on the test rows once |
#
# Row numbers hold for *this* export only: with another one, begin with new files.

# %%
import hashlib
import io
import os
import re
import secrets
from collections import Counter
from datetime import date
from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard

# %%
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

# %%
TEXT, LABEL, WHO = "message", "category", "customer"       # the columns of your export
LABELS = ["delivery", "billing", "returns", "defect", "account", "question"]
RENAME = {}                                  # such as {"Bill": "billing"}
ASKED = "Triage this customer message."      # the system message of every row
ALLOW = []                                   # no personal data, though they look so
NUMBERS = {}                                 # of your own, such as {r"\bTB-\d{5}\b": "[ORDER]"}
NOBODY = ["", "-", "unknown", "anonymous", "n/a", "none", "nan"]   # in WHO, these are no customer
SEED = 0                                     # another one deals customers and folds anew
STOP = {"unusable": 0.2, "contradict": 0.05, "redacted": 0.01, "one_customer": 0.2,
        "smallest_part": 0.05, "kappa": 0.1}


def stop_unless(fine, message):
    """End the run where going on would only hide what is wrong."""
    if not fine:
        raise ValueError(message)

# %% [markdown]
# The six numbers in `STOP` are shares of the rows. Three are upper limits: for unusable rows, for
# contradictions and for one customer's rows. Three are lower limits: for rows with personal data, for the
# smallest part and for the kappa (section 8) between the classifier of step 7 and the labels. Change one only if
# you can say why your export is different.

# %%
def opened(file):
    """The export as a table of texts, whatever its encoding and its separator."""
    if str(file).endswith(".jsonl"):
        return pd.read_json(file, lines=True, dtype=False)   # str makes "None" of null in places
    data = Path(file).read_bytes()
    wide = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else []   # Excel's "Unicode text"
    for encoding in (*wide, "utf-8-sig", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    header = text.partition("\n")[0]
    return pd.read_csv(io.StringIO(text), dtype=str, sep=max(",;\t|", key=header.count),
                       keep_default_na=False, na_values=[""])   # "None" and "NA" are texts


# %%
def usable(rows):
    """1. Only rows with a message and a known label; "row" is the place in the export."""
    label = rows[LABEL].map(str, na_action="ignore").str.strip().replace(RENAME)
    who = rows[WHO].mask(rows[WHO].map(lambda who: str(who).strip().lower()).isin(NOBODY))
    person = who.fillna(rows[TEXT])                        # a message without a name stands alone
    rows = rows.assign(row=range(1, len(rows) + 1), person=person, **{LABEL: label, WHO: who})
    empty = rows[TEXT].fillna("").str.strip() == ""
    unknown = ~empty & ~label.isin(LABELS)
    named = label[unknown].fillna("no label").value_counts().head(12).to_dict()
    report = f"{len(rows)} rows: {empty.sum()} empty, {unknown.sum()} unknown labels {named or ''}"
    stop_unless((empty | unknown).mean() <= STOP["unusable"], f"{report}. Compare LABELS, or RENAME")
    return rows.assign(why=np.select([empty, unknown], ["no message", "unknown label"], "")), report


# %%
def corrected(rows, file="read.csv"):
    """6. What somebody wrote into the column "right" of a file: a label, or "both"."""
    if not Path(file).exists():
        return rows.assign(read=False, both=False), f"nobody has read any: there is no {file} yet"
    lines = opened(file)
    lines["row"] = pd.to_numeric(lines["row"], errors="coerce")   # a second header is no number
    lines["right"] = lines["right"].str.strip().replace(RENAME)
    known = lines[lines["right"].isin([*LABELS, "both"])].drop_duplicates("row", keep="last")
    stop_unless(lines["right"].isna().all() or known["row"].isin(rows["row"]).any(),
                f"no line of {file} fits. Are its labels in LABELS, its rows of this export?")
    right = rows["row"].map(known.set_index("row")["right"])
    label = right.where(right.isin(LABELS), rows[LABEL])
    other = sorted(set(lines["right"].dropna()) - {*LABELS, "both", ""})
    report = f"{(label != rows[LABEL]).sum()} labels corrected; ignored: {other or 'nothing'}"
    return rows.assign(read=right.notna(), both=right == "both", **{LABEL: label}), report


# %%
def decided(rows):
    """2. The same for copies with different labels, before one of them is chosen."""
    return corrected(rows, "decided.csv")

# %% [markdown]
# Step 3 builds a table with one line per message and one column per piece, with a 1 where the message has the piece, and
# leaves out the pieces that many messages have, such as a greeting or an instruction: they make different messages look
# alike. A thousand lines at a time are multiplied with the whole table, which says how many pieces two messages share, and
# the Jaccard index of section 3 follows from that. Twenty thousand rows take a few seconds.
#
# If A is like B and B like C, C still stays unless it is like A: each copy is compared with the row that stays. Copies with
# different labels contradict each other, and no program knows which is right. So none of them goes into the
# training file until you have decided.

# %%
def without_copies(rows, alike=0.6):
    """3. One row of each group of near-copies, none of a group with different labels."""
    texts = rows[TEXT].str.lower().str.split().str.join(" ")
    number, unique = pd.factorize(texts)                   # equal texts have the same number
    pieces = CountVectorizer(ngram_range=(1, 2), binary=True).fit_transform(unique)
    often = np.asarray(pieces.sum(axis=0)).ravel() > max(50, len(unique) // 100)
    pieces, stays = pieces[:, ~often], np.arange(len(unique))
    size = pieces.getnnz(axis=1)
    marks = np.array([" ".join(re.findall(r"\d+|[€$£%#+]", text)) for text in unique], dtype=object)
    for start in range(0, len(unique), 1000):              # a thousand at a time: little memory
        both = (pieces[start:start + 1000] @ pieces.T).tocoo()   # pieces in both messages
        i, j = both.row + start, both.col
        near = (i < j) & (both.data >= alike * (size[i] + size[j] - both.data))
        for one, other in sorted(zip(i[near], j[near])):
            if stays[one] == one and stays[other] == other and marks[one] == marks[other]:
                stays[other] = one                         # the row that stays for it
    group = pd.Series(stays[number], index=rows.index)
    differs = rows["both"] if "both" in rows else np.zeros(len(rows), bool)   # decided: both stay
    conflict = (rows.groupby(group)[LABEL].transform("nunique") > 1) & ~differs
    copies = group.duplicated() & ~conflict & ~differs
    report = f"{copies.sum()} copies, {conflict.sum()} rows contradict a copy"
    stop_unless(conflict.mean() <= STOP["contradict"], f"{report}. Were two tables joined wrongly? "
                'If not, raise STOP["contradict"] for a run, and decide in its conflicts.csv')
    why = np.select([conflict, copies], ["contradicts a copy", "a copy"], "")
    return rows.assign(group=group, why=why), report

# %% [markdown]
# Step 4 needs a *key*: whoever has it can compute the pseudonym of any name and compare. So the key is 128
# random bits in a file outside the project, made at the first run. Keep that file: with the same key, the same
# person has the same pseudonym in next month's export too.

# %%
def secret_key(file="~/.clean_export.key"):
    """From the environment, or from a file that is made once and never shared."""
    if key := os.environ.get("PSEUDONYM_KEY"):
        return key
    file = Path(file).expanduser()
    if not file.exists():
        file.touch(mode=0o600)                             # for nobody else to read
        file.write_text(secrets.token_hex(16))
    return file.read_text()


# %%
def safe(text, who):
    """A message with pseudonyms for personal data, and what was found; `who` wrote it."""
    redactor = pii.Redactor("pseudonym", seed=secret_key(), allow=ALLOW)
    text, found = redactor.text(text)
    if isinstance(who, str) and len(who) > 3:
        how = re.IGNORECASE if " " in who else 0           # "will" is no name, "will smith" is one
        text = re.sub(rf"(?<!\w){re.escape(who)}(?!\w)", "[CUSTOMER]", text, flags=how)
    for pattern, placeholder in NUMBERS.items():
        text = re.sub(pattern, placeholder, text, flags=re.IGNORECASE)
    return text, found


# %%
def redact(rows):
    """4. Personal data become pseudonyms."""
    texts, found = zip(*map(safe, rows[TEXT], rows[WHO]))
    kinds = Counter(entity.kind for entities in found for entity in entities)
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "nothing"
    touched = sum(map(bool, found))
    report = f"{counts} found in {touched} of {len(rows)} rows"
    stop_unless(touched >= STOP["redacted"] * len(rows), f"{report}. Is TEXT the right column?")
    return rows.assign(**{TEXT: texts}), report

# %% [markdown]
# If step 4 takes a product for a person (a lamp called Lena), write the product into `ALLOW`.
#
# *Order numbers stay in*, because a model may have to repeat them. But whoever has the shop's database finds
# the customer behind each. So the result is pseudonymous, not anonymous, and the card says so. If your model
# does not need such numbers, list them at the top:
# `NUMBERS = {r"\bTB[- ]?\d{5}\b": "[ORDER]"}`.
#
# Step 5 deals the customers into ten parts, one of them for validation and one for a test set. The part comes
# from a hash of three things: the key, the number `SEED` and the customer's name. So nobody moves when you decide a conflict, or in next month's
# export. The price is that a part is only about a tenth, and with few customers not even that: then the step
# stops. If one customer's messages are not alike, you can name a column of tickets as `WHO`. Or change `SEED`
# until the parts are large enough, *before* you have seen a score. A test of a few dozen rows says little: with
# fewer than a thousand rows in all, collect more before you trust one.

# %%
def part_of(customer):
    """Of ten parts one for validation and one for the test."""
    digest = hashlib.sha256(f"{secret_key()} {SEED} {customer}".encode()).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest[:8], "big") % 10, "train")


# %%
def split(rows):
    """5. A customer is in one part only."""
    largest = rows["person"].value_counts(normalize=True).max()
    stop_unless(largest <= STOP["one_customer"], f"one customer has {largest:.0%} of all rows")
    rows = rows.assign(part=rows["person"].map(part_of))
    parts = {part: int((rows["part"] == part).sum()) for part in ("train", "validation", "test")}
    report = ", ".join(f"{n} {part}" for part, n in parts.items()) + f"; {rows['person'].nunique()} customers"
    stop_unless(min(parts.values()) >= STOP["smallest_part"] * len(rows),
                f"{report}. A part is too small: take another SEED, or a finer WHO")
    return rows, report

# %% [markdown]
# Steps 6 and 7 belong together: step 7 finds the doubtful labels, and in the next run step 6 enters what you
# corrected. `read.csv` keeps the lines of all rounds. With fewer than 200 rows the classifier knows too little: then
# step 7 reports, and stops nothing.

# %%
def doubtful(rows):
    """7. How probable each row's label is, out of fold; the test rows included."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=SEED)
    out = cross_val_predict(make_pipeline(words, LogisticRegression(C=3)), rows[TEXT], rows[LABEL],
                            groups=rows["person"], cv=folds, method="predict_proba")
    names = np.unique(rows[LABEL])
    own = out[np.arange(len(rows)), np.searchsorted(names, rows[LABEL])]
    rows = rows.assign(own=own, says=names[out.argmax(axis=1)])
    commonest = rows[LABEL].value_counts(normalize=True).max()
    agrees = (rows["says"] == rows[LABEL]).mean()
    beyond = cohen_kappa_score(rows[LABEL], rows["says"])      # kappa: 0 is chance, 1 perfect
    report = f"agrees with {agrees:.0%} of the labels; guessing {commonest:.0%}; kappa {beyond:.2f}"
    if len(rows) < 200:
        return rows, f"{report}; too few rows to tell"
    stop_unless(beyond > STOP["kappa"], f"{report}. Have labels slipped to other rows?")
    return rows, report

# %% [markdown]
# Step 8 writes one file for each part and computes the *version*: a *hash* of everything written. Change one letter in one row, and
# the version is another. With the date it tells you next year which data a model was trained on.

# %%
def write(rows, folder):
    """8. One file for each part, as chat rows without customers, and the version of the whole."""
    version, parts = hashlib.sha256(), {}
    Path(folder).mkdir(exist_ok=True)
    for name, some in rows.groupby("part"):
        said = [(("system", ASKED), ("user", text), ("assistant", json.dumps({LABEL: label})))
                for text, label in zip(some[TEXT], some[LABEL])]
        chats = [{"messages": [{"role": r, "content": c} for r, c in turns]} for turns in said]
        parts[name] = Dataset.from_list(chats)
        parts[name].to_json(f"{folder}/{name}.jsonl", force_ascii=False)
        version.update(Path(folder, f"{name}.jsonl").read_bytes())
    return DatasetDict(parts), f"{version.hexdigest()[:12]} of {date.today()}"

# %% [markdown]
# The files for a person stay where the export is, outside the folder that you hand on. What was left out is written
# right after step 4, so that you can read it even if a later step stops.

# %%
def left_out(rows, rejected):
    """What was left out and why; what copies or contradicts."""
    rejected[["row", "why"]].to_csv("rejects.csv", index=False)
    rejected = rejected.assign(right="", group=rejected["group"].astype("Int64"))
    conflict, copy = (rejected["why"] == why for why in ("contradicts a copy", "a copy"))
    rejected[TEXT] = [safe(text, who)[0] if alike else text
                      for text, who, alike in zip(rejected[TEXT], rejected[WHO], conflict | copy)]
    columns = ["group", "row", "right", LABEL, TEXT]
    rejected[conflict].sort_values(columns[:2])[columns].to_csv("conflicts.csv", index=False)
    kept = rows[rows["group"].isin(rejected.loc[copy, "group"])].assign(why="this one stayed")
    groups = pd.concat([rejected[copy], kept]).sort_values(["group", "row"])
    groups[["group", "row", "why", TEXT]].to_csv("copies.csv", index=False)


# %%
def to_read(rows):
    """The most doubtful tenth of what nobody has read."""
    tenth = rows[~rows["read"]].sort_values("own").head(len(rows) // 10).assign(right="")
    tenth[["row", "right", LABEL, "says", TEXT]].to_csv("to_read.csv", index=False)

# %% [markdown]
# Last come the function that runs all steps and the *data card*, a text that says what the data are and what
# was done to them.

# %%
def card(file, reports):
    """The reports, and which numbers are still in the texts."""
    lines = [f"- **{name}**: {report}" for name, report in reports.items()]
    lines.append("- **Pseudonymous, not anonymous**: a key exists, and some names may be left.")
    lines.append(f"- Numbers of our own taken out: {', '.join(NUMBERS.values()) or 'none'}.")
    return DatasetCard(f"---\nlicense: other\n---\n# {Path(file).name}\n\n" + "\n".join(lines) + "\n")


# %%
def all_steps(rows):
    """The steps in order. What is left out is in its files before a later step can stop."""
    reports, rejected = {}, []
    try:
        for step in (usable, decided, without_copies, redact, split, corrected, doubtful):
            rows, reports[step.__name__] = step(rows)
            rejected.append(rows[rows["why"] != ""])
            rows = rows[rows["why"] == ""].reset_index(drop=True)
            if step is redact:
                left_out(rows, pd.concat(rejected))
    except ValueError as error:
        before = "\n".join(map(": ".join, reports.items()))
        raise ValueError(f"{error}\nThe reports until then:\n{before}") from error
    return rows, reports


# %%
def main(file, folder="mine-ready"):
    """All steps, the files for a person, and the data with their card."""
    rows = opened(file)
    missing = {TEXT, LABEL, WHO} - set(rows)
    stop_unless(not missing, f"{file} has no column {missing}, but {list(rows)}. Change the top")
    rows, reports = all_steps(rows)
    to_read(rows)
    data, reports["version"] = write(rows, folder)
    card(file, reports).save(f"{folder}/README.md")
    return data, reports


# %% [markdown]
# We run it on the 964 rows of the export to which no rule objected, saved as a spreadsheet of three columns. So that the first step
# has something to say, two messages in that spreadsheet were emptied and three labels misspelt.

# %%
os.environ["PSEUDONYM_KEY"] = "for this lesson only"       # or your figures would not be ours
lesson_05.spreadsheet("mine.csv", conversations, reasons)
data, reports = main("mine.csv")
show.table({step: {"report": report} for step, report in reports.items()}, "A healthy run", "step")

# %% [markdown]
# Healthy reports look like this: a few unusable rows whose reason you can see; copies in a number that the
# desk's people can explain; personal data in about as many messages as you found by reading; about one row in
# ten each for validation and test; and a classifier that agrees with far more labels than guessing does. No
# report shows rows made from templates. Such rows have kin on both sides of the split, so a good score is worth
# less (section 5 counts them).
#
# Why were rows left out?

# %%
rejects = pd.read_csv("rejects.csv")["why"].value_counts()
show.table({why: {"rows": int(n)} for why, n in rejects.items()}, "What rejects.csv says", "why")

# %% [markdown]
# Now the same steps on broken exports. Each is broken in a way that happens at every company. To be quick we
# take the first 400 lines of the spreadsheet, 395 of them usable:

# %%
lesson_05.gone_wrong((usable, without_copies, redact, split, doubtful), "mine.csv")

# %% [markdown]
# All five runs stop, each with a number and a question. Without these limits some would have ended in an error
# deep inside scikit-learn. The others would have written a file that looks like any other, but with rows
# missing, text from the wrong column, or the labels of other rows.
#
# But a limit catches only what is broken *everywhere*: in an export where one label in twenty has slipped, every report looks healthy.
# So read the reports all the same, and `to_read.csv` after them.
#
# These functions as one file, to take with you:

# %%
top = {"TEXT": TEXT, "LABEL": LABEL, "WHO": WHO, "LABELS": LABELS, "RENAME": RENAME, "ASKED": ASKED}
top |= {"ALLOW": ALLOW, "NUMBERS": NUMBERS, "NOBODY": NOBODY, "SEED": SEED, "STOP": STOP}
steps = (stop_unless, opened, usable, corrected, decided, without_copies, secret_key, safe, redact)
steps += (part_of, split, doubtful, write, left_out, to_read, card, all_steps, main)
print(lesson_05.take_away("clean_export.py", top, steps))

# %%
del os.environ["PSEUDONYM_KEY"]              # the lesson's key; your own runs make one that nobody knows
print(validate("mine-ready/train.jsonl", "chat"))

# %% [markdown]
# The last line says that the form of the written file is right. A host may check more, so upload the file and see.
# TRL's trainer, given such rows, also learns what the customers write, unless you set `assistant_only_loss=True`
# or split each row into prompt and answer, as lesson 02 does.
#
# **Your own file.** Change the settings at the top of `clean_export.py`, and run it on a few hundred rows
# first. Without this notebook, `course clean-script` in a terminal writes the same script. No program finds
# numbers that only your company has, such as contract numbers: list them in `NUMBERS`.
#
# If your answers are free text, or records made from several columns, use `prepare` of section 1 instead. The
# lines below write such rows, with pseudonyms, and put the script's test customers into a file of their own. Then call
# `prepare("mine.jsonl", …, test=…)` with the rows of the second file, without `redaction`. If the records have
# labels only, many messages rightly share one: leave `canned_answer` out of `drop`.
#
# ```python
# import hashlib, json
# from clean_export import ASKED, RENAME, TEXT, WHO, opened, part_of, safe, secret_key
#
# written = {name: open(f"{name}.jsonl", "w", encoding="utf-8") for name in ("mine", "mine-test")}
# for row in opened("mine.csv").fillna("").to_dict("records"):
#     if not row[TEXT].strip():
#         continue
#     customer = row[WHO] or row[TEXT]
#     who = hashlib.sha256(f"{secret_key()} {customer}".encode()).hexdigest()[:16]
#     values = {column: row[column].strip() for column in ("category", "product")}
#     answer = {column: RENAME.get(value, value) or None for column, value in values.items()}
#     chat = [{"role": "system", "content": ASKED},
#             {"role": "user", "content": safe(row[TEXT], row[WHO])[0], "name": who},
#             {"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)}]
#     name = "mine-test" if part_of(customer) == "test" else "mine"
#     written[name].write(json.dumps({"messages": chat}, ensure_ascii=False) + "\n")
# for file in written.values():
#     file.close()
# ```
#
# The script's card has the reports and the version. Add by hand what no program knows: where the rows come
# from, what is still wrong with them, and what they must not be used for.
#
# **In and out of the field's tools.** The folder from section 1 is in `datasets` already; from there everything is one call:

# %%
data = load_dataset("json", data_files=files)
data["train"].to_parquet("tickets-ready/train.parquet")
data_report.write_html(prepared, "tickets-ready/report.html")
version = lesson_05.version_of(files.values())
print("version", version)

# %% [markdown]
# Without such a card nobody dares to use a data set in a year. On the {{term:hub}}, the website where models
# and data sets are shared, the card is the `README.md`, with a header that programs read. This is the least
# that the card should say.
# *Publishing is not run here, since it needs an account.*
#
# ```python
# CARD = f"""# Tickets of Tarnbrook
# **Version.** {version}. **What.** Messages to a support desk and the record of each.
# **From where.** Export of 2026-11, 1,970 lines. **Prepared.** Rules and counts: see `report.html`. Personal data
# replaced by pseudonyms; about one name in sixteen may be left, on other data one in eight. **Split.** By customer.
# **Known faults.** Labels checked out of fold, 60 rows read; mistakes that many annotators share were not looked
# for. **Written by models.** Every row: the shop is invented. **Not for.** Anything that decides about people."""
#
# data.push_to_hub("my-name/tickets", private=True)
# from huggingface_hub import DatasetCard
# card = DatasetCard.load("my-name/tickets")           # it lists the files by now
# card.data.license, card.data.language, card.text = "other", "en", CARD
# card.push_to_hub("my-name/tickets")
# ```
#
# When is it time for larger tools?
#
# | tool | what it does | go there when |
# | --- | --- | --- |
# | [datatrove](https://github.com/huggingface/datatrove) | reads and filters on many machines, and finds copies with MinHash as above | you have millions of documents |
# | [distilabel](https://github.com/argilla-io/distilabel) | chains of steps in which models write and judge data | writing needs several steps, or several models |
# | [Argilla](https://github.com/argilla-io/argilla) | a web page where several people mark rows | more than one person labels, and you want to know how often they agree |
# | [cleanlab](https://github.com/cleanlab/cleanlab) | confident learning in full, also for pictures and tags | section 7 paid off |
# | [Presidio](https://github.com/microsoft/presidio) | finds personal data; this course uses its recognisers and adds names and addresses by rules; it can use a model for names instead | you need more kinds of data, or other languages; no such model finds every name |
#
# **Rows from production.** The best rows are already there: what customers really wrote. Let experts mark
# transcripts ("the right record", or "nothing to learn here"), write each as a row, and run the lines of
# section 1. Of this export, whose faults were planted, about one line in three was left. Count yours on a few
# hundred lines before you promise a number.

# %% [markdown]
# ## 10 · Was it worth it? Train twice
#
# Train the same model with the same settings on the same number of examples: once on rows drawn from the export
# as it came (without the leaked test messages and what a trainer cannot read), and once on rows drawn from what you have
# prepared and repaired. What is trained is an {{term:adapter}}, a small addition to the model that lesson 02 explains (`r=16` is
# its size). Two fields and short messages keep it quick; the settings are in `plan`.

# %%
from peft import LoraConfig, get_peft_model
from transformers import set_seed

short = load_task("support_tickets", list(plan.fields))
sets = {"as it came": raw.rows, "prepared and repaired": [prepared.rows[i] for i in prepared.train]}
sets = {name: truth.for_training(r, plan.fields, plan.longest) for name, r in sets.items()}
settings = training.Settings(
    learning_rate=plan.learning_rate, batch_size=plan.batch_size, warmup_steps=5, bucket=8
)

# %%
def train(rows):
    """A fresh adapter on a fresh model, trained on a random sample of the rows."""
    set_seed(0)
    sample = np.random.default_rng(0).permutation(len(rows))[: plan.examples]
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(models.load()[0], adapter)
    history = training.fit(tuned, tokenizer, [rows[i] for i in sample], settings=settings)
    return tuned, history


# %%
guess = predict("Which run ends with the lower training loss?", choices=list(sets))
guess

# %%
results, histories = {}, {}
model = None                                               # the judge: make room
for name, chats in sets.items():
    tuned, histories[name] = train(chats)
    tuned = tuned.merge_and_unload()                       # answers faster than with an adapter
    answers = generate(tuned, tokenizer, short.prompts(), max_new_tokens=plan.answer_tokens)
    results[name] = short.evaluate(answers)
    tuned = None

# %%
last = {name: float(np.mean(history.losses[-8:])) for name, history in histories.items()}
guess.reveal(min(last, key=last.get))

# %% tags=["folded"]
title = "Mean training loss of the last eight steps"
charts.bars(last, title, "average loss per token", decimals=2)

# %% [markdown]
# A training loss says only how well a run fits *its own* rows. The export mixes rows that repeat one answer,
# which are easy to predict, with prose, which is hard. So the two losses show how hard the data are to predict,
# not how good they are. Only messages that nobody trained on can tell which model is better:

# %%
lesson_05.comparison(results, short)

# %%
difference = lesson_05.gain(*results.values(), short.references())
print(f"both fields right, prepared minus raw: {100 * difference.value:+.0f} points, "
      f"95 % interval {100 * difference.low:+.0f} to {100 * difference.high:+.0f}")

# %% [markdown]
# Read the last row of the table first. Always answering with the most common pair yields perfectly valid records, some of them right, and
# catches no escalation. The last column has part of the reason for the weak first run: agents in a hurry left
# the form at "question, none", and a model that learns from the export gives that to most messages. The
# prepared run, whose rows have no such forms left, gives it to fewer.
#
# So take these runs as a rehearsal. They point the way that you hope for, but each was made once (the interval
# counts the test messages and not the luck of a run), and they do not show that either model beats a program
# that reads nothing.
#
# The evidence comes from recorded runs, longer and three of each. They take messages of at most 32 words, which
# leaves {{record:data-quality:rows.raw:,}} rows of the export and {{record:data-quality:rows.cleaned:d}} of the prepared ones for training. The labels of the prepared rows
# were not repaired, and the leaked test messages were left in the export. Both make the gain look smaller than
# it is.

# %%
lesson_05.recorded_table()

# %% [markdown]
# Compare the first two rows: what preparing improves is the category. The escalation hardly rises above what
# "none" alone gets, although three rows in ten are urgent: these divide into five reasons, and {{record:data-quality:examples:d}} examples
# teach them badly. A hundred curated rows (from the training set of lesson 02, written to a guide and audited) did
# about as well as all that were prepared; a difference of 5 points on a hundred messages says no more than that.
#
# So the work paid, and a small set whose rows are all right is a good beginning. One thing to keep in mind: the
# export, the curated rows and the test messages were all written by language models, in the same month and to the same
# guide. Real messages are less alike, so expect less.
#
# These runs also judge three of five claims that you will meet elsewhere, P3 of section 8 among them; two could
# not be tested here. Open a row to see why. All runs saw {{record:data-quality:examples:d}} examples, some more than once where there were
# fewer rows. So "under a condition" means: at equally long training, on this export.

# %%
evidence.summary("P1", "P2", "P3", "P4", "P5")

# %% [markdown]
# The size table that the last claim is about circulates in this form. Use it to plan, not as a law:
#
# | what is to be learned | examples | note |
# | --- | --- | --- |
# | a new output format | 100 to 500 | — |
# | a style, a tone | 500 to 2,000 | inputs as varied as in production |
# | the terms and conventions of a field | 2,000 to 10,000 | — |
# | much new knowledge | 10,000 to 50,000 | look facts up instead (lesson 01) |
#
# **Common mistakes.** Two that everybody makes once are a file written with `print` and a space before each
# answer.

# %%
from pathlib import Path

some = [json.loads(line) for line in Path(files["train"]).read_text().splitlines()[:12]]
broken = Path("tickets-by-hand.jsonl")
broken.write_text("\n".join(str(row) for row in some))
print(validate(broken, "chat").findings[0])
for row in some:
    row["messages"][-1]["content"] = " " + formats.answer_of(row)
broken.write_text("\n".join(json.dumps(row) for row in some))
print(validate(broken, "chat").findings[0])

# %% [markdown]
# A Python dictionary with single quotes is not JSON. And a leading space changes the first token of every answer, so the
# model learns to begin with another token than it would by itself.
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | know whether a file can be trained on | `course check-data FILE`; read every error, not the first |
# | clean it | `prepare`, or `clean_export.py` for a table; read what is flagged before you drop it |
# | get rid of copies | message and answer together; look at conflicts |
# | protect people | check digits first, pseudonyms, a sample read by eye, what is left in the card |
# | believe your validation loss | split by customer and near-copy, or by time where the world changes; search for the test set |
# | lose no answers | lengths in tokens, `max_length` above the longest, the mask checked on ten rows and the longest |
# | find wrong labels | out-of-fold probability of the given label, folds by customer; read the first tenth; the test set too |
# | find labels that everybody gets wrong | two people label fifty rows apart; no program sees it |
# | use a judge | kappa on fifty of your rows, both orders, padding; below 0.6 it does not decide |
# | show that it helped | train twice, as many examples each, beside the most common answer |

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("05")

# %% [markdown]
# **Final exercises.** The first is a challenge, in which a model is really trained on your rows. The second is
# about data of your own.

# %%
# EXERCISE: data-7

# %%
# EXERCISE: data-8

# %% [markdown]
# {{words}}
#
# ## Read on
#
# - Northcutt, Jiang and Chuang (2021), *Confident Learning*, arXiv 1911.00068; and Northcutt, Athalye and Mueller (2021), arXiv
#   2103.14749, who found wrong labels in the test sets of ten well-known benchmarks.
# - Lee et al. (2021), [*Deduplicating Training Data Makes Language Models Better*](https://arxiv.org/abs/2107.06499).
# - Zheng et al. (2023), *Judging LLM-as-a-Judge*, arXiv 2306.05685: biases for place and length, measured.
# - Zhou et al. (2023), [*LIMA: Less Is More for Alignment*](https://arxiv.org/abs/2305.11206): a thousand careful examples.
#
# Next, lesson 06 sends such a file to a host.
