# %% [markdown]
# # 05 · Dataset preparation: from a messy export to a file you can train on
#
# {{badges}}
#
# A colleague hands you a file: *"all chats from the support desk, should be fine."* You could train on it right away. The
# model would learn what the file teaches: refusals, canned paragraphs, other people's answers, and a form that hurried
# agents left empty. In this lesson you turn the file into one worth training on, you count what each step finds, and at the
# end you train twice to see whether it was worth the work.
#
# <!-- assumes: JSON, JSONL, token -->

# %%
# INSTALL: data

# %%
from course_utils import charts, data_prep, data_report, drawings, evidence, models, plans, show
from course_utils import training, widgets
from course_utils.data_prep import formats, judging, load_task, pii, quality, similarity, truth
from course_utils.data_prep.endpoint import client_for
from course_utils.data_prep.validation import validate
from course_utils.evidence import lesson_05
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import json

import numpy as np

show.quiet()
lesson_05.before_and_after()

# %% [markdown]
# The model, the settings and the number of examples are the same in both; only the rows differ. It is a small model, with 135 million
# numbers inside, so that it trains on any computer. Of the record that it writes two fields count here: the *category* says what
# the message is about, the *escalation* whether somebody must act at once, and why. The first bar is the#
# By the end you will be able to
#
# - say what is wrong with a training file, line by line, before a host or a trainer does,
# - find copies and rows that teach the wrong thing, and know what each rule misses,
# - take personal data out of it, and count what is left,
# - split it so that validation means something, and see whether the test has leaked into training,
# - look at rows the way the model will: in tokens, with the template, the mask and the balance of the labels,
# - find wrong labels that no rule can see, and repair them,
# - test a judge before you trust it,
# - show by training that it was worth it.
#
# You should know Python and have called a language model's API before. Reading takes about 45 minutes, and the exercises
# about as long again.
#
# {{timing}}

# %% [markdown]
# ## 1 · The export, and ten lines that clean it
#
# The shop is invented and called Tarnbrook. A message comes in, and the answer is a record that says what it is about. One line of
# the file is one conversation:
#
# `{"messages": [{"role": "system", "content": "Triage this customer message."}, {"role": "user", "content": "where's my parcel"},`
# `{"role": "assistant", "content": "{\"category\": \"delivery\", \"escalation\": \"none\", …}"}]}`
#
# Every fault in the export was put there on purpose, and a second file says what is wrong with each line. So we can do what nobody
# can do at work: count how many of the faults each step finds. (Where the lesson needs a person, somebody played that part
# beforehand, and we say so.)

# %%
plan = plans.plan("05")
export, task = truth.load_raw_export(), load_task("support_tickets")
lines = export.path.read_bytes().splitlines()
lesson_05.some_lines(lines, (2, 25, 5))

# %% [markdown]
# The first line is as it should be: a message, and a record that fits it. In the second an agent has left the form as it opened, and
# the third has a paragraph that would fit any message. A model learns from all three alike. And before anything can judge the
# content, something must be able to read the *file*: not every line is even valid JSON.

# %%
guess = predict(f"Of {len(lines):,} lines, how many have an error in their form?", unit="lines")
guess

# %%
report = validate(export.path, "chat")
guess.reveal(report.bad_rows)

# %%
lesson_05.findings(report)

# %% [markdown]
# Each kind has its cure. A host that trains for you checks some of this when you upload and some when the job runs, and an error
# message often names only one line. TRL checks less. So know all of them beforehand: `course check-data export.jsonl` in a terminal
# prints the whole list, line by line.
#
# **The job.** At work you want the whole cleaning in one go, and then a look at what it did. These are the lines to copy.
# They run here, and the rest of the lesson uses their result.

# %%
from datasets import load_dataset

test_rows = [{"messages": conversation} for conversation in task.test]
prepared = data_prep.prepare(
    export.path,
    schema=task.schema,                    # what a right answer looks like
    language="en",                         # of all messages and answers
    drop=quality.RULES,                    # what section 2 explains
    test=test_rows,                        # must not be in the training data
    redaction="pseudonym", allow=[truth.OWN_ADDRESS],
)
prepared.write("tickets-ready", overwrite=True)
files = {"train": "tickets-ready/train.jsonl", "validation": "tickets-ready/validation.jsonl"}
data = load_dataset("json", data_files=files)

# %%
print("rows:", ", ".join(f"{len(part)} for {name}" for name, part in data.items()))
lesson_05.flow(prepared)

# %% [markdown]
# Two thirds of the lines are gone, and each is accounted for: the folder also has `rejects.jsonl` with every dropped line
# and the reason, and `changes.jsonl` with whatever was changed or flagged. (Keep both where the export is. They have what customers
# wrote, unredacted.) By itself `prepare` drops only what is certain: what cannot be read, and copies. What the rules of section
# 2 object to is only flagged, unless `drop` names them. They were made while looking at this very export, so what they
# achieve here is the best case. On a file of your own, read the flagged rows first.
#
# Sections 2 to 5 open these steps one by one. Sections 6 to 8 add what no pipeline does for you.
#
# **For a file of your own** you need three things: its path, a schema of the right answer, and your test messages. Drop nothing by
# a rule before you have read what it flags. (Customers are told apart by the `name` in the user's message, or by what you give as `group`.)
#
# ```python
# schema = {"type": "object", "required": ["category"],
#           "properties": {"category": {"enum": ["delivery", "billing"]}}}
# prepared = data_prep.prepare(
#     "mine.jsonl", schema=schema, language="en", test=my_test_rows, redaction="pseudonym",
#     seed=20731,            # of your own, and secret: pseudonyms depend on it
# )
# print(prepared.last_word())
# for line, changes in list(prepared.flagged.items())[:20]:
#     print(line, changes[0].reason)
# ```
#
# **Other shapes.** Rows come in about eight shapes, and `prepare` reads them all. A list of *messages* is the one that hosts and
# trainers take. Rows for learning from preferences (lesson 04) have a prompt and two replies. To turn one shape into another:

# %%
alpaca = {"instruction": "Triage this customer message.", "input": "My kettle leaks.",
          "output": '{"category": "defect"}'}
pair = {"prompt": "Where is my kettle?", "chosen": '{"category": "delivery"}',
        "rejected": "Please be patient."}
show.table({
    "Alpaca → messages": {"row": json.dumps(data_prep.convert(alpaca, "messages"))},
    "pair → as OpenAI takes it": {"row": json.dumps(data_prep.convert(pair, "openai_preference"))},
}, "Two rows, converted", of="from → to")

# %% [markdown]
# Where the target has no room for something, such as a second turn in Alpaca's shape, `convert` refuses instead of dropping it.
#
# **Your turn.** What does a validator look at? Write a small one.

# %%
# EXERCISE: data-1

# %% [markdown]
# ## 2 · Rules: what reading teaches you, written down
#
# Under a thousand rows, read every one. It takes an afternoon, and no other afternoon of the project is better spent. What
# you notice while reading becomes a rule. A rule is cheap and blunt, and it should always give its reason.
#
# Here are two, whole. The first objects to messages that say nothing: "any news?" cannot be answered by anybody.

# %%
import re

GREETINGS = set("hi hello hey ok okay thanks thank you bye please yes no test anyone there".split())


def says_nothing(message):
    """Whether fewer than three different words or numbers are left without greetings."""
    words = re.findall(r"[^\W\d_]{2,}|\d{4,}", message.lower())
    return len(set(words) - GREETINGS) < 3


# %% [markdown]
# The second finds answers that belong to another message. Two people's tickets were swapped, and the record is perfectly
# valid. But it names an order number that the customer never wrote.

# %%
def foreign_numbers(message, answer):
    """Long numbers in the answer that are not in the message, however the message groups digits."""
    digits = re.sub(r"\D", "", message)
    return [number for number in re.findall(r"\d{5,}", answer) if number not in digits]


message = "Kettle leaks at the base, order TB 40512. Please help."
print(foreign_numbers(message, '{"category": "defect", "order_id": "TB-40512"}'))
print(foreign_numbers(message, '{"category": "returns", "order_id": "TB-55318"}'))

# %% [markdown]
# How good are they? Two numbers answer that, and they pull in opposite directions. {{term:precision and recall|Recall}} is the
# share of the faults that the rule finds. *Precision* is the share of its finds that are faults.

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
# (The brackets say how far the true share may be from the measured one: with 70 faults, 71 % may be 60 or 81 in the long run. This
# is a {{term:confidence interval|95 % interval}}. Where two of them overlap widely, do not conclude much.)
#
# Three or four lines each, and most of the faults are found. The first rule never accuses a good row here and misses some bad
# ones; the second misses nothing and now and then accuses wrongly. That is the usual choice. When a rule *drops* rows, you
# want precision. When a person reads what it flags, you want recall. Before you trust a rule, try it on messages from production
# as well. Ours has a weakness there:

# %%
terse = [text for text in export.production if says_nothing(text)]
print(f"{len(terse)} of {len(export.production)} messages from production would go, for example {terse[:3]}")

# %% [markdown]
# Those customers have said all they had to say. For a desk that gets such messages the rule needs a list of products. The package has
# seven rules, with more cases in each. This is what they object to in the export:

# %%
reasons = quality.assess(conversations, language="en", schema=task.schema)
lesson_05.dropped_rows(conversations, reasons)

# %%
guess = predict("Which is hardest to find?", choices=["refusals", "cut off", "another language"])
guess

# %%
by_rule = truth.score_quality(export, task.schema)
hardest = min(("refusal", "truncated", "language"), key=lambda code: by_rule[code].recall.value)
guess.reveal(lesson_05.RULE_NAMES[hardest])

# %%
lesson_05.found_and_missed(by_rule, lesson_05.RULE_NAMES, "The seven rules of the package")

# %% [markdown]
# Wrong form, another language and canned answers are found almost completely, cut-off texts less often. What depends on wording is
# harder, since there are endless polite ways to refuse, and a rule knows only those that somebody wrote down. A task with a strict
# form has a second net: a polite sentence is not a record, so "wrong form" catches what "refusals" misses. A task without
# one needs a judge (section 8).
#
# One kind of fault is not in the table: a record that is well formed, about the right message, and has the wrong category.
# No rule can see it. There are forty of them in the export, and they are all still in your prepared file. Section 7 looks
# for them.

# %% [markdown]
# ## 3 · Copies
#
# A copy counts double in the {{term:loss}}, the measure of how surprised the model is by the right answer, and it takes the place of
# a different example. Exact copies are easy to find. But customers write twice, systems add "Re:", and somebody corrects a typing error. How
# alike must two texts be? The *Jaccard index* is the share of pieces that they have in common: pieces in both, divided by
# pieces in either. Take single words as pieces:
#
# | what | words |
# | --- | --- |
# | text 1 | the kettle leaks at the base |
# | text 2 | my kettle leaks at the base |
# | in both | the, kettle, leaks, at, base: 5 |
# | in either | those and "my": 6 |
# | Jaccard index | 5 / 6 = 0.83 |
#
# (A set has "the" only once.) The package also counts pairs of neighbouring words, because "not late" and "late, not"
# differ.
#
# **Your turn:** write it for pairs of neighbouring words.

# %%
# EXERCISE: data-2

# %% [markdown]
# For two thousand rows you can compare every pair. A million rows have five hundred billion pairs, and nobody compares
# those. {{term:MinHash}} (Broder, 1997) makes a short signature of each text: shuffle all possible pieces, and write down
# which piece of the text comes first; repeat with another shuffle, and so on. Two texts agree in one place of their
# signatures with a probability that equals their Jaccard index. So the share of places that agree estimates it. (Instead of
# shuffling, programs compute a hash, which comes close to it.)

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
# Now the trick that avoids comparing all pairs. Cut each signature into *bands*. Texts that agree in a whole band land in
# the same drawer, and only texts in one drawer are compared. This is called locality-sensitive hashing (LSH). Here it is
# with ten numbers:

# %%
drawings.banding()

# %% [markdown]
# <details><summary><b>How probably do two texts meet?</b></summary>
#
# Two texts with Jaccard index $J$ agree in one band of $r$ numbers with probability $J^r$, and in at least one of $b$ bands
# with probability $1 - (1 - J^r)^b$. With the ten numbers above and $J = 0.6$: $0.6^2 = 0.36$, so all five bands differ with
# probability $0.64^5 = 0.11$, and the two meet with probability 0.89. With the package's 128 numbers in 32 bands of four the step from
# "never" to "always" is steeper: 5 % at $J = 0.2$, 56 % at 0.4, 99 % at 0.6.
#
# </details>
#
# A pair that meets is then compared exactly. So bands save nearly all comparisons, accuse nobody wrongly, and miss a few pairs that
# are only half alike. (With as few rows as here the package compares every pair.)
#
# What is a copy, though? In this course: messages with a Jaccard index of at least 0.6 *and the same answer*. That is one example
# twice, and one of the two goes. The same message with *different* answers is a conflict. If a message has only one right answer,
# at most one of the two is right, so a person should look.

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
# Nearly all pairs are found, and nearly nothing else. These {{term:near-duplicate|near-copies}} keep most of their words. A
# paraphrase with other words is beyond any method that counts words. To find those, compare {{term:embedding|embeddings}}, vectors
# that stand for what a text means, and accept more false alarms.

# %% [markdown]
# ## 4 · People
#
# What a model was trained on, it can say again, to anybody. So {{term:PII}}, data that tells who a person is, has to go
# before training. Numbers with a *check digit* are the easy part. A bank account number (IBAN) is a country, two check
# digits and the account. Move the first four characters to the end, write each letter as a number (A = 10, B = 11, …), and
# the remainder after division by 97 must be 1. DE89 3704 0044 0532 0130 00 becomes 370400440532013000 1314 89, since D is 13
# and E is 14, and that number leaves the remainder 1. Here is a small finder:

# %%
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")


def is_iban(text):
    code = text.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in code[4:] + code[:4])
    return int(digits) % 97 == 1


for text in ("Refund to DE89 3704 0044 0532 0130 00 please", "Part DE89 3704 0044 0532 0130 01"):
    print(text, "→", [code for code in IBAN.findall(text) if is_iban(code)])

# %% [markdown]
# (Small means: it misses an account that is written in small letters or followed by a word in capitals. The package's has more
# cases.) One digit differs in the second text, and it is no account. That is what a check digit buys: of 97 order numbers that look like
# an account, 96 are left alone.
#
# **Your turn,** with the check that card numbers have. It is called Luhn's: from the right, double every second digit, take 9
# off whatever exceeds 9, and the sum of all must be divisible by 10. For 4539 1488 0343 6467 it is 80. Only nine in ten random
# numbers fail this check, so a good finder looks at the words around the number too.

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
# Names have no check digit. Lists of names and the words around them do what they can ("I'm Selin", "Kind regards, …"), and
# about one in sixteen slips through: a name in lower case in the middle of a chat has little that gives it away. And of what is
# taken for a name, about one in eleven is something else. So redaction makes leaks rarer, not impossible. Read a sample of what is
# left, and say so in the data card.
#
# What do you write instead? There are three ways:

# %%
text = "I'm Selin Karagöz, born 14.03.1986. Call +44 7700 900123, or write to selin@mail.example."
show.table({way: {"text": pii.Redactor(way).text(text)[0]} for way in pii.MODES}, of="way")

# %% [markdown]
# Take pseudonyms if messages in production will have names in them: a model that has only ever seen `[NAME]` meets its
# first real name on the first day. The same person gets the same pseudonym in all rows. (The ten lines of section 1 use
# them. Give `prepare` a secret `seed` of your own: with ours anybody could compute the pseudonym of a name and compare. And
# legally, pseudonymised data are still personal data.) Labels are better where a person has to *see* that something was
# taken out.
#
# The figures above are for an export that the rules were made for. On a second set, written by somebody else about a bank,
# a clinic and a mobile operator, numbers with a check digit were all found, too. Names and addresses, which rest on lists
# and on habits of writing, were found only about seven times in eight.

# %% [markdown]
# ## 5 · A split that you can believe
#
# Nine in ten rows become the {{term:training set}}; one in ten becomes the {{term:validation set}}, which tells you while
# you train whether the model learns the task or the rows. Should you split at random? Then one customer's first message may be in
# training and the second in validation.

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
# This is *after* copies were removed. A validation loss measured on the first split would partly praise memory.
# `data_prep.split` keeps customers (here the `name` in the user's message) and near-copies together and meets the ten per cent as
# closely as it can. Whatever
# belongs together in your data plays the customer's part: a document, a patient, a repository.
#
# **Your turn:** split so that no customer is on both sides.

# %%
# EXERCISE: data-4

# %% [markdown]
# **Is the {{term:test set}} still unseen?** It was written by hand. But an export contains whatever passed through the
# desk, and somebody may have tried the test messages there. This is {{term:contamination}}.

# %%
hits = data_prep.contamination(conversations, test_rows)
leaked = sorted({hit.test for hit in hits})
print(f"{len(leaked)} of {len(test_rows)} test messages are in the export")
print("for example:", formats.prompt_of(test_rows[leaked[0]])[:90])

# %% [markdown]
# How much would the leak have raised the score? A small classifier learns the categories from the prepared rows (scikit-learn's
# logistic regression on words and pairs of words, which trains in a second). Then it learns them
# from the same rows and the test messages that leaked.

# %%
lesson_05.a_leak(prepared.rows, task, leaked)

# %% [markdown]
# On the messages that leaked the score jumps; on the others it hardly moves. The reported number mixes both, and nobody had
# to cheat for that. `prepare(test=…)` removed them.
#
# **Your turn:** find a leak that is only a part of a message.

# %%
# EXERCISE: data-5

# %% [markdown]
# A last question about sides: do the training messages look like those in production? Users of the new chat window write
# "where parcel 51234", and the export is full of letters. Train a classifier to tell the two apart. Its *area under the
# curve* is the probability that it puts a production message before one from the export: 0.5 would mean that it cannot
# tell, 1 that it always can.

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
# Choosing rows by the classifier's odds brings the set closer to production, but it is still easy to tell apart. What the export does
# not have cannot be drawn from it. The cure is to collect terse messages, or to write some (section 9).

# %% [markdown]
# ## 6 · What the model will see
#
# So far you have looked at texts. The model sees tokens, with a {{term:chat template}} around them (the markers for who
# speaks), and learns only where the {{term:label mask}} lets it. Practitioners look at these things first, because mistakes
# here make no noise. Use the {{term:tokenizer}} of *the model that you will train*.

# %%
tokenizer = models.load_tokenizer()
lesson_05.lengths_table(prepared.rows, tokenizer)

# %% [markdown]
# Read the lower half. `max_length` is the most tokens that a trainer keeps of a row. It cuts at the *end*, and the end is the answer.
# So a limit that is too small cuts off the end of the record and, with it, the token that says "stop here". No error is raised; from
# long messages the model just never learns how a record ends. Choose the limit above the longest row if memory allows, or drop
# the few rows that are longer. And what will it cost?

# %%
lengths = lesson_05.token_lengths(prepared.rows, tokenizer)
lesson_05.cost_table(sum(lengths))

# %% [markdown]
# Next, template and mask. The mask is made of *token labels*: what the model should say at each token, or −100 where the loss looks
# away. Look at one row token by token, and let the code insist on what must be true.

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

# %%
lesson_05.masks(prepared.rows, tokenizer, 4)

# %% [markdown]
# In these rows, and in ten or twenty of yours, the model should learn exactly the answer, and the marker that ends it. If your table has
# a "no" here, stop: the model would learn to write customers' messages, or never learn to stop. (This course's trainer masks the
# message by itself. TRL's `SFTTrainer` does so if the rows have columns `prompt` and `completion`. For rows with `messages`, as ours,
# it learns every token unless you set `assistant_only_loss=True`, which needs a chat template that marks the answers.)
#
# **Packing.** Rows of a {{term:batch}} must have the same length, so short ones are filled up ({{term:padding}}), and the
# GPU computes the filling for nothing. Packing puts several rows into one sequence instead. It needs a mask that keeps them
# from reading each other; TRL's `packing=True` takes care of that where FlashAttention is installed.

# %% tags=["folded"]
lesson_05.packing_table(lengths)

# %% [markdown]
# Nearly all of the waste goes if rows of similar length share a batch. It costs only some of the randomness of the batches
# (`train_sampling_strategy="group_by_length"` in TRL, `bucket=8` in this course's trainer). Packing does nearly as well. What it adds
# is that all sequences are nearly full, so that a GPU has the same load in each step.
#
# **Balance.** What does the model see most often?

# %%
lesson_05.balance(prepared.rows)

# %% [markdown]
# Seven of ten records say that nothing is urgent. A model that has learned only *that* is right for seven messages in ten
# and useless to the desk. So accuracy is the wrong measure for this field: it cannot tell a model that catches nobody from
# one that works. Section 10 counts the urgent messages that were caught. If a value you care about has only a few dozen
# rows, collect more of that kind before anything else. (How many turns do the conversations have? Here always one. With
# several, decide whether the model should learn every answer or only the last.)

# %% [markdown]
# ## 7 · Wrong labels, which no rule can see
#
# Forty rows have a wrong category. The record is valid, and it is about the right message. How could a program know?
#
# Because *most* labels are right. A classifier that learns from all rows what a "delivery" sounds like will be surprised by
# a message about a refund with that label. There is one catch: a classifier that has seen this very row may have learned
# its wrong label by heart. So each row must be judged by a classifier that was trained *without* it.
#
# 1. Cut the rows into five parts.
# 2. Train on four of them, and predict the fifth. Do this five times, so that every row is predicted once, *out of fold*.
# 3. Look up the probability of the label that the row has. Sort.
#
# Three rows to follow by hand. The columns are what a classifier says that did not see the row:
#
# | message | its label | delivery | billing | returns | probability of its label |
# | --- | --- | --- | --- | --- | --- |
# | "where is my parcel" | delivery | 0.90 | 0.04 | 0.06 | 0.90 |
# | "charged twice for the lamp" | delivery | 0.08 | 0.85 | 0.07 | 0.08: look at this one |
# | "it came late, I send it back" | returns | 0.45 | 0.10 | 0.45 | 0.45: unclear, and perhaps right |
#
# This is where *confident learning* begins (Northcutt et al., 2021), which adds thresholds and counts; the library cleanlab offers it
# in full. With scikit-learn the ranking takes four lines:

# %%
from sklearn.model_selection import cross_val_predict
from course_utils.data_prep import label_noise

labels = [label_noise.label_of(row, "category") for row in prepared.rows]
seen = [label_noise.evidence_in(row, "category") for row in prepared.rows]
classifier = label_noise.classifier()                      # logistic regression on words
probability = cross_val_predict(classifier, seen, labels, cv=5, method="predict_proba")
own = probability[np.arange(len(labels)), np.searchsorted(np.unique(labels), labels)]
print(f"probability of a row's own label: median {np.median(own):.2f}, lowest {own.min():.3f}")

# %% [markdown]
# (`evidence_in` gives the classifier the message and the rest of the record, without the label. The summary helps, because
# here it was written apart from the label.) The package's function does the same and returns the list to read:

# %%
checked = data_prep.check_labels(prepared.rows, "category")
lesson_05.suspects(prepared.rows, checked)

# %% [markdown]
# A suspect is not yet guilty. Somebody has to read it. Here are the six rows whole: is the category right? (What looks like
# somebody's card number or name is a pseudonym.)

# %%
widgets.review([prepared.rows[i] for i in checked.suspects[:6]])

# %%
guess = predict("Somebody reads the first 60 of these. How many of the 40 wrong labels are there?")
guess

# %%
first = checked.suspects[:60]
score = truth.score_labels(export, prepared.lines, first)
guess.reveal(round(score.recall.value * score.recall.n))

# %%
lesson_05.label_noise_table(export, prepared.lines, checked)

# %% [markdown]
# Nearly all of the first twenty are wrong. Reading one row in ten finds most of the wrong labels. To find nearly all of
# them you read about one in five, mostly false alarms: rows that are unusual, and right. The last line is the paper's own
# rule, which accuses a row only if another label reaches the probability that is usual for that label. Here the list is better:
# take as many rows from its top, and more of them are wrong. What the rule offers is a place to stop. The list leaves that to you.
# And take all of this as the best case: in this export a category was replaced by any other one, while the summary stayed right.
# Real annotators confuse neighbours, such as billing and returns, and their summary agrees with the mistake.
#
# Now repair them. Here "a person" is the truth file: it corrects what is wrong among the first sixty, and leaves the false
# alarms as they are. The folder from section 1 gets the repaired rows.

# %%
corrections = lesson_05.decisions(export, prepared.lines, first)
unrepaired = prepared.rows
prepared.rows = data_prep.repaired(unrepaired, "category", corrections)
prepared.write("tickets-ready", overwrite=True)
data = load_dataset("json", data_files=files)
print(f"{len(corrections)} labels corrected")

# %% [markdown]
# What is it worth? First for a small classifier, which trains in a second. The export as it came is the first row, without the test
# messages that had leaked into it.

# %%
raw = data_prep.prepare(export.path, steps=["validate", "contamination"], test=test_rows)
lesson_05.repair_table({
    "the export as it came": raw.rows, "prepared": unrepaired,
    "prepared, 60 suspects dropped": data_prep.repaired(unrepaired, "category", dict.fromkeys(first)),
    "prepared, 60 suspects read": prepared.rows,
}, task)

# %% [markdown]
# The large step is the one from the export to the prepared rows. Repairing the labels adds a few points at most, and with 100
# test messages the intervals overlap: forty wrong labels in six hundred are too few for a certain answer. So the language model was
# trained beforehand, three times each, also with three times as many wrong labels:

# %%
lesson_05.recorded_repair()

# %% [markdown]
# With three times as many wrong labels the gain is clear: the ranges do not overlap. (In this table they run from the worst to the
# best run.) With forty wrong labels every run gained as well, but three runs on the same hundred messages are no proof. Reading the
# suspects, dropping them unread and correcting every single row came out alike. What you need not do is read everything.
#
# There is another reason to look for wrong labels: the *test set* may have them too. A wrong label there
# punishes the better model. Run the same check on it, and read every suspect.
#
# **Your turn.** Somebody wrote the paper's rule from memory. It runs, and it is wrong.

# %%
# EXERCISE: data-6

# %% [markdown]
# ## 8 · A judge, and whether to trust it
#
# Above a thousand rows nobody reads everything. A common way out is an {{term:LLM as a judge|LLM as a judge}}: a model
# reads each row with a *rubric*, the text that says what is good, and gives a verdict. This is ours.

# %%
print(judging.ONE_WORD_RUBRIC)

# %% [markdown]
# A judge is an instrument, so calibrate it first. Fifty rows were read beforehand: keep, or not. (The reader was the language-model
# assistant that wrote this lesson, standing in for you. Thirty of the rows are fine, fourteen have a wrong category and six an
# answer that belongs elsewhere.) How often should judge and reader agree? Agreement alone is misleading: whoever keeps everything
# agrees on sixty per cent of these rows. *Cohen's kappa* takes out the agreement that chance would give: 0 is chance, 1 is perfect.
#
# $$\kappa = \frac{\text{agreement} - \text{chance}}{1 - \text{chance}}$$
#
# Where does chance come from? If the judge keeps 60 % and you keep 60 %, then tossing coins of that kind you agree on
# $0.6 · 0.6 + 0.4 · 0.4 = 52$ %. With 80 % agreement kappa is $(0.80 - 0.52)/(1 - 0.52) = 0.58$. Below about 0.6 a judge should not
# decide alone. (That is a habit, not a law.) And kappa depends on how many rows are bad. Two in five are here; among rows that have
# been prepared it may be one in fifteen, and then the same judge has a much lower kappa, and most of what it rejects is good. So draw
# the fifty from the rows that it will judge.
#
# The only language model here that fits on a laptop is our small one. It answers "yes" or "no", and we read how probable
# each is.

# %%
from sklearn.metrics import roc_auc_score

by_hand, keep, _ = lesson_05.read_by_hand(export)
model, tokenizer = models.load()
marks = judging.judge_here(by_hand, model, tokenizer)
area = roc_auc_score(keep, marks)
print(f"probability of “yes”: {min(marks):.2f} to {max(marks):.2f}; area under the curve {area:.2f}")

# %%
judges = {"the 135M model with the rubric": [mark > 0.5 for mark in marks]}
judges |= lesson_05.other_judges(export, prepared.rows, prepared.lines)
lesson_05.judges_table(keep, judges)

# %% [markdown]
# The small model says "no" to every row, so its kappa is that of chance. Nor is the limit of 0.5 to blame: an area under the curve
# near 0.5 says that good rows hardly get a higher probability than bad ones. The two judges that are no
# language models do better, and together they reach more than 0.8. But with fifty rows the interval around it goes
# down to about 0.7, and these are the two faults that they were made for, so expect less on your task. The lesson is that *a judge's name says nothing, its kappa on
# rows of yours does*. Large judges are far better: GPT-4 agreed with people on
# 85 % of the pairs of replies in one study, where people agreed with each other on 81 % (Zheng et al., 2023, arXiv
# 2306.05685; ties left out). But even they have biases that no rubric asked for. Two are easy to measure: position and length. Show each pair twice, in both orders, and pad good replies with a paragraph that says nothing.

# %%
lesson_05.bias_table(model, tokenizer)

# %% [markdown]
# The small judge takes whatever is shown first. If you had asked in one order only, with the better reply always first, it
# would have looked perfect. So ask in both orders and count a verdict only if they agree. If padding wins more than half of
# the time, say "length does not count" in the rubric, and measure again. With a strong judge the calls are the same:
# `judging.judge(rows, client_for(), "gpt-…")` goes to any OpenAI-compatible endpoint and `judging.agreement_with_labels(verdicts, keep)`
# computes the table's figures.

# %% [markdown]
# ## 9 · More rows, and where they go
#
# **Have a stronger model write some.** What the export lacks, terse messages or rare categories, a large model can write:
# topics times a request, answers as JSON, each checked against the schema. This {{term:synthetic data}} is the approach
# behind the Phi models' "textbooks". No strong model runs here, so a server on this machine plays back answers that an assistant wrote
# beforehand in a strong model's place, two kinds of mistakes among them. It is busy now and then, as such servers are.

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
# A request is written to the ledger before it is sent, its answer as soon as it arrives. So a run that is interrupted continues where
# it was and pays for no answer twice that has arrived, and the budget is kept: a request is sent only if its longest possible answer
# still fits. Each example says where it comes from:

# %%
print(made.examples[0]["provenance"])

# %% [markdown]
# That belongs in the data card, so that nobody takes these rows for real messages later.
#
#
# Now the trap. Hold out 80 of these examples as a test set. Is that a test?

# %%
synthetic = as_chat(made.examples, "Triage this customer message.")
lesson_05.kinship_table(synthetic, task)

# %% [markdown]
# A writer repeats its turns of phrase. Its {{term:held-out}} rows have said much of this before, and the hand-written test
# set has not. A score on the first flatters:

# %%
evidence.card("P3")

# %% [markdown]
# **In and out of the field's tools.** `datasets` is the usual container. The folder from section 1 is already in it; from
# there everything is one call:

# %%
data["train"].to_parquet("tickets-ready/train.parquet")
data_report.write_html(prepared, "tickets-ready/report.html")
print(data)

# %% [markdown]
# A data set without a card is a file that nobody dares to use in a year. On the {{term:hub}} the card is the `README.md`,
# with a header that programs read. This is the least that belongs in it. *Pushing is not run here, since it needs an
# account.*
#
# ```python
# CARD = """# Tickets of Tarnbrook
# **What.** Messages to a support desk and the record of each. **From where.** Export of 2026-11, 1,970 lines.
# **Prepared.** Rules and counts: see `report.html`. Personal data replaced by pseudonyms; about one name in
# sixteen may be left, on other data one in eight. **Split.** By customer. **Known faults.** Labels checked out
# of fold, 60 rows read. **Written by models.** No row. **Not for.** Anything that decides about people."""
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
# | [distilabel](https://github.com/argilla-io/distilabel) | pipelines in which models write and judge data | synthesis has several steps, or several models |
# | [Argilla](https://github.com/argilla-io/argilla) | a web page where several people mark rows | more than one person labels, and you want their agreement |
# | [cleanlab](https://github.com/cleanlab/cleanlab) | confident learning in full, also for pictures and tags | section 7 paid off |
# | [Presidio](https://github.com/microsoft/presidio) | finds personal data with a language model for names | names must not slip through |
#
# **Mining production.** The best rows are already there: what customers really wrote, and what an expert says should have
# been answered. Take transcripts, let experts mark them ("the right record", or "nothing to learn here"), write each as a
# row, and run the ten lines of section 1. Of this export about one line in three was left, so five hundred good rows need
# some sixteen hundred lines.

# %% [markdown]
# ## 10 · Was it worth it? Train twice
#
# The same model, the same settings and the same number of examples: once drawn from the export as it came (only what a
# trainer cannot read and the leaked test messages are left out), once from the training rows that you have prepared and repaired.
# Two fields of the record and short messages keep it quick.

# %%
from peft import LoraConfig, get_peft_model
from transformers import set_seed

short = load_task("support_tickets", list(plan.fields))
sets = {"as it came": raw.rows, "prepared and repaired": [prepared.rows[i] for i in prepared.train]}
sets = {name: truth.for_training(r, plan.fields, plan.longest) for name, r in sets.items()}
settings = training.Settings(
    learning_rate=plan.learning_rate, batch_size=plan.batch_size, warmup_steps=5, bucket=8
)


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
    answers = generate(tuned, tokenizer, short.prompts(), max_new_tokens=plan.answer_tokens)
    results[name] = short.evaluate(answers)
    tuned = None

# %%
last = {name: float(np.mean(history.losses[-8:])) for name, history in histories.items()}
guess.reveal(min(last, key=last.get))

# %% tags=["folded"]
charts.bars(last, "Mean training loss of the last eight steps", "average loss per token", decimals=2)

# %% [markdown]
# A training loss says how well a run fits *its own* rows. The export mixes rows that repeat one answer, which are easy to predict,
# with prose, which is hard. So the losses of different data do differ, and what they show is how hard the data are to
# predict, not how good they are. Only messages that nobody trained on can tell which model is better:

# %%
lesson_05.comparison(results, short)

# %%
difference = lesson_05.gain(*results.values(), short.references())
print(f"both fields right, prepared minus raw: {100 * difference.value:+.0f} points, "
      f"95 % interval {100 * difference.low:+.0f} to {100 * difference.high:+.0f}")

# %% [markdown]
# Read the last row first. Whoever always gives the most common pair has the form perfect, gets some records right, and
# catches no escalation. So the short run shows that prepared rows are better than raw ones, and not that it beats a program which
# reads nothing. Two dozen steps are too few for that. The recorded runs are longer, and there are three of each.

# %%
lesson_05.recorded_table()

# %% [markdown]
# Agents in a hurry left the form at "question, none", and a model that learns from the export learns that too. It cannot know that this
# was an accident. What preparing improves is the category. All runs saw 300 examples, so this compares the quality of rows and not
# their number. Urgent messages are still mostly missed, since few rows show them, and
# a hundred curated rows did a little better than all that were prepared. The next lines are about this lesson's claims; open a row to see why.

# %%
evidence.summary("P1", "P2", "P4", "P5")

# %% [markdown]
# The size table of P5 circulates in this form. Use it to plan, not as a law:
#
# | what is to be learned | examples | note |
# | --- | --- | --- |
# | a new output format | 100 to 500 | — |
# | a style, a tone | 500 to 2,000 | inputs as varied as in production |
# | the terms and conventions of a field | 2,000 to 10,000 | — |
# | much new knowledge | 10,000 to 50,000 | look facts up instead (lesson 01) |
#
# **Mistakes that show.** Two that everybody makes once. The first is a file made with `print`, the second a space before
# each answer.

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
# | clean it | `prepare`, first without `drop`; read what is flagged; then with the rules that you trust |
# | get rid of copies | message and answer together; look at conflicts |
# | protect people | check digits first, pseudonyms, a sample read by eye, what is left in the card |
# | believe your validation loss | split by customer and near-copy; search for the test set in the training data |
# | lose no answers | lengths in tokens, `max_length` above the longest, the mask checked on ten rows |
# | find wrong labels | out-of-fold probability of the given label; read the first tenth; the test set too |
# | use a judge | kappa on fifty of your rows, both orders, padding; below 0.6 it does not decide |
# | show that it helped | train twice, as many examples each, beside the most common answer |

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("05")

# %% [markdown]
# **Final exercises.** The first is a challenge: your rows are really trained on. The second is about data of your own.

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
