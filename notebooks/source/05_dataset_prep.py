# %% [markdown]
# # 05 · Dataset preparation: from a messy export to a file you can train on
#
# {{badges}}
#
# By the end you will be able to
#
# - say what is wrong with a training file, line by line, before a host or a trainer does,
# - find copies, near-copies, refusals, cut-off answers and answers to other questions, and know what each rule misses,
# - take names, addresses, numbers and mail addresses out of it, and count what is left,
# - split it so that validation means something, and see whether the test set has leaked,
# - have a stronger model write examples without losing one or paying twice,
# - show by training twice that it was worth it.
#
# {{timing}}
#
# **How to read it.** Predict what a cell will print, run it, compare. Figures that circulate stand in the claims table at the
# end, beside what this machine computed.

# %%
# INSTALL: data

# %% [markdown]
# ## 1 · The export
#
# Data quality is the variable that matters most in fine-tuning, and the one with the fewest tools. Here is what a colleague hands
# you: nearly 2,000 lines "from the support desk, all chats, should be
# fine". Every fault in it was put there on purpose, people and
# numbers are invented, and a second file says what is wrong with each line, so that we can count what each step finds.

# %%
import base64
import json
import tempfile
import time
import warnings
from pathlib import Path

from course_utils import assets, claims, data_prep, data_report, evaluation, figures, hardware, memory, models, training, widgets
from course_utils.data_prep import formats, pii, quality, similarity, truth
from course_utils.data_prep.validation import validate
from course_utils.exercises import check, quiz  # noqa: F401 - the exercises at the end use check
from course_utils.generation import generate

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

warnings.filterwarnings("ignore", category=FutureWarning)  # between library versions; nothing a learner can act on
device = hardware.detect()
export = truth.load_raw_export()
lines = export.path.read_bytes().splitlines()
print("kind:", device.kind, "| tier:", device.tier, "|", len(lines), "lines")
for number in (2, 9, 30):
    print(f"line {number}:", lines[number - 1][:230].decode("utf-8", "replace"), "…")

# %% [markdown]
# The task is the course's own: a customer's message in, a triage record out. **Predict:** how many lines will a host refuse?

# %%
report = validate(export.path, "chat")
print(f"{report.rows:,} rows could be read, {report.bad_rows} have errors; OpenAI's job would say:\n  {report.api_message}\n")
for finding in report.findings[:6]:
    print(" ", finding)

# %% [markdown]
# A finding names line, field, code, what is wrong and what to do. Hosts check when the *job* runs, not when the file is uploaded,
# and stop at the first error; TRL checks less. What both miss costs more than what they refuse: answers that begin with a blank,
# conversations without an answer, tool calls whose arguments are no JSON, two different values under one key. Does the validator
# find them all, and only them? The rules of this lesson were made while looking at this very export (its card says so), so what
# they find in it is the best case; section 6 ends with rows that they were not made for.

# %%
found = truth.score_validation(export)
print(found)
assert found.recall.value == found.precision.value == 1

# %% [markdown]
# ## 2 · Shapes
#
# Eight shapes go around. `convert` turns one into another, and refuses rather than drop something: Alpaca has no room for a second
# turn, ShareGPT none for tool calls.

# %%
alpaca = {"instruction": "Triage this customer message.", "input": "Where is my kettle?", "output": '{"category": "delivery"}'}
print(json.dumps(data_prep.convert(alpaca, "messages")))
pair = {"prompt": "Where is my kettle?", "chosen": '{"category": "delivery"}', "rejected": "Please be patient."}
print(json.dumps(data_prep.convert(pair, "openai_preference"))[:150], "…")
print("shapes:", ", ".join(formats.SHAPES))

# %% [markdown]
# ## 3 · Read it
#
# Under a thousand rows, read every one: an afternoon, and the best spent one of the project. The widget shows a row and takes your
# verdict; without widgets, `plain` prints the same rows.

# %%
rows = export.rows()  # line → row, of the lines that are well formed
numbers, conversations = list(rows), list(rows.values())
review = widgets.review(conversations, labels=Path(tempfile.mkdtemp()) / "my_labels.jsonl")
print(review.plain(12, 3))
review

# %% [markdown]
# ## 4 · Rules
#
# What you saw while reading becomes rules. Each is cheap and blunt, and gives its reason; what it drops goes to a rejects file, to
# be read. **Predict:** which of the seven is hardest?

# %%
task = data_prep.load_task("support_tickets")
scores = truth.score_quality(export, task.schema)
for code, score in scores.items():
    print(f"{code:<16} {score}")

# %% [markdown]
# Almost all messages in other languages and answers that belong to another message are found. Refusals are not: politeness has no
# end of wordings, and a rule knows only those that someone wrote down. "any" counts rows that at least one rule drops. **Predict:**
# what happens to the refusals that the rule misses?

# %%
reasons = quality.assess(conversations, language="en", schema=task.schema)
missed = [i for i, n in enumerate(numbers) if "refusal" in export.faults(n) and "refusal" not in {r.code for r in reasons[i]}]
for index in missed[:3]:
    print("not taken for a refusal:", formats.answer_of(conversations[index]))
dropped = sum("answer_format" in {r.code for r in reasons[i]} for i in missed)
print(f"{len(missed)} refusals were missed by their rule; {dropped} of them are dropped by answer_format")

# %% [markdown]
# A task with a strict form has a second net: a polite sentence is no record. Rows without a strict form need a judge.

# %% [markdown]
# ### A model as judge
#
# Above a thousand rows nobody reads everything. A strong model with a rubric reads the rest, through any OpenAI-compatible endpoint:
# `judging.judge(rows, client, model)`. It has tastes of its own, so hold it against your own labels first. Cohen's kappa is agreement
# beyond chance: for twenty rows that you marked and a judge that differs on four,

# %%
mine = [True] * 12 + [False] * 8
judges = [True] * 10 + [False] * 2 + [True] * 2 + [False] * 6
agree = np.mean([a == b for a, b in zip(mine, judges)])
chance = np.mean(mine) * np.mean(judges) + (1 - np.mean(mine)) * (1 - np.mean(judges))
print(f"agreement {agree:.2f}, by chance {chance:.2f}, kappa {(agree - chance) / (1 - chance):.2f}; library: {quality.agreement(mine, judges):.2f}")

# %% [markdown]
# Below about 0.6 a judge should not decide alone.

# %% [markdown]
# ## 5 · Copies
#
# A copy counts double in the loss and teaches its phrasing instead of its point. Exact copies are easy. Near-copies need a measure:
# the **Jaccard index**, common pieces over all pieces, here of words and pairs of words. For millions of texts nobody compares all
# pairs. **MinHash** (Broder, 1997) makes a short signature: for many random orders of all pieces, the first that a text has. Two
# signatures agree in a place with exactly the probability of the Jaccard index.

# %%
def minhash(pieces, orders):
    """For each order (multiplier, offset) the smallest hash: the piece that comes first."""
    return np.array([((pieces * multiplier + offset) >> np.uint64(32)).min() for multiplier, offset in orders])


generator = np.random.default_rng(0)
orders = [(np.uint64(m | 1), np.uint64(o)) for m, o in generator.integers(0, 2**63, (128, 2), dtype=np.uint64)]
one = "The kettle that I bought in March leaks at the base and has ruined the worktop in our kitchen."
other = "Hello again, the kettle that I bought in March leaks at its base and has ruined the worktop in our kitchen!"
a, b = similarity.shingles(one), similarity.shingles(other)
estimate = np.mean(minhash(a, orders) == minhash(b, orders))
print(f"Jaccard index {similarity.jaccard(a, b):.3f}, estimated from two signatures of 128 numbers {estimate:.3f}")

# %%
pairs = [(similarity.jaccard(x, y), np.mean(minhash(x, orders) == minhash(y, orders)))
         for x, y in ((similarity.shingles(s), similarity.shingles(t)) for s, t in
                      ((" ".join(one.split()[:k]), " ".join(one.split()[18 - k :])) for k in range(6, 18)))]  # fmt: skip
error = np.sqrt(np.mean([(true - guessed) ** 2 for true, guessed in pairs]))
print(f"root mean square error over {len(pairs)} pairs {error:.3f}; theory: at most {0.5 / np.sqrt(128):.3f}")
assert error < 0.06

# %% [markdown]
# Signatures cut into bands and looked up by band find nearly all similar pairs without comparing all (locality-sensitive hashing).
# Up to 4,000 texts `deduplicate` is exact instead. Copies of one message *with the same answer* form a cluster, of which one row
# stays. The same message with another answer is no copy but a conflict: it stays and is told, as at most one of them is right.

# %%
copies = data_prep.deduplicate(conversations)
score = truth.score_duplicates(conversations, [export.truth[n - 1]["cluster"] for n in numbers])
print(f"{len(conversations) - len(copies.kept)} copies in {len(copies.clusters)} clusters; pairs: {score}")
cluster = next(c for c in copies.clusters if "near" in c.kinds.values())
for member in cluster.members:
    print(f"  {'kept' if member == cluster.kept else cluster.kinds[member]:<6}", formats.prompt_of(conversations[member])[:105].replace("\n", " "))
assert score.recall.value >= 0.97
assert score.precision.value >= 0.97

# %% [markdown]
# ## 6 · People
#
# What a model was trained on it can say again. **Predict:** which is hardest to find: card numbers, phone numbers, names?

# %%
text = "I'm Selin Karagöz, born 14.03.1986, at 14 Mill Lane, Leeds LS2 7EW. Card 4539 1488 0343 6467 was charged twice for the Hanna Berg lamp; thx, selin"
for entity in pii.find(text):
    print(f"{entity.kind:<11} {entity.text}")
for mode in ("label", "mask", "pseudonym"):
    print(f"{mode:<10}", pii.Redactor(mode).text(text)[0])

# %% [markdown]
# Numbers with a check digit are told from order and tracking numbers by it (Presidio's recognisers, libphonenumber, python-stdnum).
# Names and addresses have no check digit: lists of names, the words around them, and patterns of twenty countries' addresses do what
# they can, without a model. Against the marked export:

# %%
found = truth.score_pii(truth.marked_texts(export), allow=[truth.OWN_ADDRESS])
for kind, score in found.items():
    print(f"{kind:<12} {score}")
figures.intervals(
    {"found of what is there": {k: s.recall for k, s in found.items()}, "right of what is found": {k: s.precision for k, s in found.items()}},
    "Personal data in the export",
)  # fmt: skip

# %%
shown = 0
for text, preceding, marked in truth.marked_texts(export):
    names = [e.text for e in pii.find(text, preceding=preceding) if e.kind == "NAME"]
    lost = [value for kind, value in marked if kind == "NAME" and not any(value in n or n in value for n in names)]
    if lost and shown < 4:
        at = text.find(lost[0])
        print(f"missed: {lost[0]!r} in …{text[max(0, at - 45) : at + len(lost[0]) + 15]!r}…".replace("\\n", " "))
        shown += 1

# %% [markdown]
# So redaction makes leaks rarer, not impossible: a name in lower case in the middle of a chat has little that gives it away. Read a
# sample of what is left, and prefer pseudonyms where production messages will have names: a model that only ever saw `[NAME]`
# meets its first real name in production.
#
# ### On rows that the rules were not made for
#
# A second set was written apart from the rules, in other worlds (a bank, a clinic, a mobile operator and more). It has malformed
# files, copies and personal data, and nothing for the rules of section 4. **Predict:** what loses most?

# %%
unseen = assets.root() / "tests" / "data_prep" / "held_out"  # in a checkout; an installed course comes without it


def lines_of(name):
    return [json.loads(line) for line in (unseen / name).read_text(encoding="utf-8").splitlines()] if unseen.is_dir() else []


def named(case):
    """Lines in which the validator sees an error, and those of which it says anything."""
    file = Path(tempfile.mkdtemp()) / "case.jsonl"
    file.write_bytes(base64.b64decode(case["base64"]) if "base64" in case else case["text"].encode("utf-8", "surrogatepass"))
    said = [finding for finding in validate(file, "chat").findings if finding.code != "too_few_rows"]
    return {finding.line for finding in said if finding.severity == "error"}, {finding.line for finding in said}


if cases := lines_of("malformed.jsonl"):
    wrong = evaluation.proportion([case["line"] in named(case)[1] for case in cases if case["line"]])
    right = evaluation.proportion([not named(case)[0] for case in cases if not case["line"]])
    print(f"malformed files, the wrong line named: {wrong} of {wrong.n}; unusual but right ones left alone: {right} of {right.n}")
else:
    print(f"The set is in the repository only: {assets.repository_url()}/tree/main/tests/data_prep/held_out")
    print("test_validation.py and test_raw_export.py beside it compute how much the rules find there.")

# %%
others = lines_of("rows.jsonl")
copy_of = {row["id"]: row["exact_duplicate_of"] or row["near_duplicate_of"] for row in others}


def first(row_id):
    """The row that a copy goes back to."""
    return first(copy_of[row_id]) if copy_of[row_id] else row_id


def marked(row):
    """Each message: its text, what was said before it, and the personal data in it."""
    said = ["", *(message["content"] for message in row["messages"])]
    personal = [[(p["kind"], p["text"]) for p in row["pii"] if p["message"] == i] for i in range(len(row["messages"]))]
    return zip(said[1:], said, personal)


if others:
    print(f"{'copies':<12} {truth.score_duplicates(others, [first(row['id']) for row in others])}")
    there = truth.score_pii(text for row in others if not copy_of[row["id"]] for text in marked(row))
    for kind, score in there.items():
        print(f"{kind:<12} {score}")
    print("recall at least 5 points below the export's:", ", ".join(k for k in there if there[k].recall.value <= found[k].recall.value - 0.05))

# %% [markdown]
# What rests on a standard carries over, a form or a check digit; what rests on lists of names and on habits of writing does so least.
# Even this set is not quite unseen: after the first measurement one rule was added on its account (its README says which).

# %% [markdown]
# ## 7 · Two sides that have nothing in common
#
# 90 % for training, 10 % for validation, by chance? **Predict:** of the validation rows, how many have a near-copy in training, or
# come from a customer who is there too?

# %%
def torn(train, held_out):
    """Validation rows with a near-copy or their own customer among the training rows."""
    close = {(i, j) for i, j, _ in similarity.similar_pairs([formats.prompt_of(row) for row in good], 0.5)}
    customers = [next((m.get("name") for m in row["messages"] if m["role"] == "user"), None) for row in good]
    inside = {customers[i] for i in train} - {None}
    return sum(customers[j] in inside or any((min(i, j), max(i, j)) in close for i in train) for j in held_out)


good = [row for row, why in zip(conversations, reasons) if not why]
shuffled = np.random.default_rng(0).permutation(len(good))
by_chance = shuffled[len(good) // 10 :].tolist(), shuffled[: len(good) // 10].tolist()
together = data_prep.split(good, 0.1, group=lambda row: row["messages"][1].get("name"), seed=0)
for name, (train, held_out) in {"by chance": by_chance, "what belongs together": together}.items():
    print(f"{name:<22} {len(train)} + {len(held_out)} rows; torn apart: {torn(train, held_out)} of {len(held_out)}")
assert torn(*together) == 0
assert torn(*by_chance) > 0

# %% [markdown]
# A validation loss measured on the first split praises memory. The same goes for the test set: is it still unseen?

# %%
test_rows = [{"messages": conversation} for conversation in task.test]
hits = data_prep.contamination(conversations, test_rows)
print(f"{len({hit.test for hit in hits})} of {len(test_rows)} test messages stand in the export, {sum(h.kind == 'phrase' for h in hits)} of the hits by a phrase alone")
print("for example:", formats.prompt_of(conversations[hits[0].train])[:90], "|", hits[0].evidence)

# %% [markdown]
# ## 8 · Does it look like production?
#
# Users of the new chat window write "where parcel 51234", the export is full of letters. A classifier that must tell export from
# production says how far they are apart: an area under the curve of 0.5 would mean not at all.

# %%
prompts = [formats.prompt_of(row) for row in good]
apart = data_prep.distance(prompts, export.production)
print(f"area under the curve {apart.auc:.3f}")
for (what, mine), (_, theirs) in zip(apart.train.rows(), apart.production.rows()):
    print(f"  {what:<30} export {mine:6.2f}   production {theirs:6.2f}")
for whose, words in zip(("export", "production"), apart.topics):
    print(f"  words that tell {whose:<14}", ", ".join(words))
chosen = data_prep.resample(prompts, apart.weights, 200)
nearer = data_prep.distance([prompts[i] for i in chosen], export.production)
print(f"the 200 rows drawn by the classifier's odds: area {nearer.auc:.3f}, median {nearer.train.words:.0f} words")
figures.histograms(
    {"export": [len(p.split()) for p in prompts], "200 drawn": [len(prompts[i].split()) for i in chosen],
     "production": [len(p.split()) for p in export.production]}, "Length of a prompt", "words",
)  # fmt: skip

# %% [markdown]
# Resampling brings the set nearer, not there: what the export does not have can't be drawn from it. Collect terse messages, or write
# some.

# %% [markdown]
# ## 9 · Have a stronger model write some
#
# Topics times a meta-prompt, answers as JSON, each checked: the approach behind the Phi models' textbooks. A strong model can't run
# here, so a server on loopback plays back what one answered to this very prompt, and is busy now and then, as they are. The client
# is the real one; with a key, `client_for()` goes to the real service.

# %%
from course_utils.data_prep.endpoint import Price, client_for
from course_utils.data_prep.synthesis import Plan, as_chat, synthesise
from course_utils.openai_server import Replay

recorded = [json.loads(line) for line in (assets.path("data/synthetic_tickets") / "recorded.jsonl").read_text(encoding="utf-8").splitlines()]
topics = tuple(dict.fromkeys(entry["topic"] for entry in recorded))
example = {"type": "object", "required": ["message", "record"], "properties": {"message": {"type": "string"}, "record": task.schema}}
schema = {"type": "object", "required": ["examples"], "properties": {"examples": {"type": "array", "minItems": 8, "items": example}}}
plan = Plan(topics, "Topic: {topic}. Write 8 different customer messages and the triage record of each, as JSON.", schema,
            requests_per_topic=4, model="recorded", price=Price(2.0, 8.0), max_tokens=1500)  # fmt: skip
waiting = {topic: [json.dumps({"examples": e["examples"]}) for e in recorded if e["topic"] == topic] for topic in topics}


def strong_model(messages):
    topic = messages[-1]["content"].removeprefix("Topic: ").split(".")[0]
    return waiting[topic].pop(0) if waiting[topic] else None


ledger = Path(tempfile.mkdtemp()) / "ledger.jsonl"
with Replay(strong_model, trouble=("busy", 5)) as server:
    made = synthesise(plan, client_for(server.base_url, "no key needed"), ledger, budget=0.10)
    print("budget of 10 cents:", made)
    made = synthesise(plan, client_for(server.base_url, "no key needed"), ledger, budget=2.00)
    print("budget of 2 dollars:", made)
    print(f"the server got {len(server.log)} requests and billed {len(server.billed)}")
for topic, _, reason in made.rejected:
    print("rejected:", topic, "|", reason[:90])
assert len(server.billed) == len(plan.requests())

# %% [markdown]
# The ledger has every request before it is sent and every answer when it comes: a run that is killed goes on where it was, and pays
# for nothing twice. Each example says which model wrote it, to which request.
#
# Now the trap. **Predict:** hold out 80 of these examples as a test set. Is that a test?

# %%
synthetic = as_chat(made.examples, "Triage this customer message.")
elsewhere = [{"messages": c} for c in task.validation]
kin = data_prep.kinship(synthetic[80:], synthetic[:80], elsewhere)
own = data_prep.kinship(synthetic[80:], test_rows, elsewhere)
print(f"word triples that the training set knows already: its own held-out part {kin.test:.1%}, hand-written validation set {kin.baseline:.1%}, hand-written test set {own.test:.1%}")
print("one generator?", kin.suspicious, "for its own part,", own.suspicious, "for the hand-written test set")
assert kin.suspicious and not own.suspicious

# %% [markdown]
# ## 10 · All of it in one call
#
# `prepare` takes the steps in order, with a reason for everything dropped, changed or flagged. By itself it drops only what is
# certain: what can't be read or trained on, and copies. What rules find is flagged, to be looked at, because on data that they were not
# made for they err far more often than here; `drop` says which of them we trust on this export. `course check-data FILE --fix FOLDER`
# (with `--drop refusal,language` and so on) is the same as a command, and writes a report that needs no network.

# %%
began = time.perf_counter()
prepared = data_prep.prepare(
    export.path, drop=quality.RULES, language="en", test=test_rows, production=export.production, schema=task.schema, allow=[truth.OWN_ADDRESS]
)
folder = Path(tempfile.mkdtemp())
files = prepared.write(folder) + [data_report.write_html(prepared, folder / "report.html", export.production)]
print(f"{prepared.counts[0][1]:,} lines in, {len(prepared.train)} + {len(prepared.validation)} rows out, in {time.perf_counter() - began:.0f} s")
print("written:", ", ".join(f"{f.name} ({f.stat().st_size / 1e3:.0f} kB)" for f in files))
data_report.flow(prepared)

# %%
final = validate(folder / "train.jsonl", "chat")
left = {line for line in prepared.lines if export.faults(line) & set(quality.RULES)}
print(f"the file that comes out: {final.errors} errors; of {len(prepared.lines)} rows {len(left)} still have a fault that a rule should have found,")
print(f"and {sum('wrong_label' in export.faults(n) for n in prepared.lines)} have a wrong label, which no rule can see")
assert final.ok

# %% [markdown]
# ### Mining production
#
# The best rows are already there: what customers wrote, and what an expert says should have been answered. The steps are those of
# this lesson:
#
# 1. take transcripts, and have experts mark them: the right answer, or "nothing to learn here";
# 2. write each marked one as a chat row (below, and section 2);
# 3. clean: sections 4 to 6, or `prepare`;
# 4. stop at 500 to 1,000 good examples, a rule of thumb that section 13 looks at;
# 5. hold 10 % out, with what belongs together on one side (section 7).

# %%
transcripts = {  # as a help desk keeps them: who said what
    "t1": [("customer", "kettle TB-40512 leaks at the base"), ("agent", "Oh dear! A new one is on its way :)")],
    "t2": [("customer", "hi"), ("agent", "Hello?"), ("customer", "wrong number, sorry")],
    "t3": [("customer", "where is parcel TB-77310"), ("agent", "With the courier.")],
}
nothing = {"product": None, "order_id": None, "escalation": "none"}
marks = {  # an expert's: the record that should have been written, None where there is nothing to learn
    "t1": nothing | {"category": "defect", "product": "kettle", "order_id": "TB-40512", "summary": "Kettle leaks at the base"},
    "t2": None,
    "t3": nothing | {"category": "delivery", "order_id": "TB-77310", "summary": "Customer asks where the parcel is"},
}
mined = [
    {"messages": [{"role": "system", "content": "Triage this customer message."}, {"role": "user", "content": turns[0][1]},
                  {"role": "assistant", "content": json.dumps(marks[name])}]}
    for name, turns in transcripts.items() if marks[name]
]  # fmt: skip
assert all(evaluation.parse_record(formats.answer_of(row), task.schema) for row in mined)
print(json.dumps(mined[0]))
yielded = len(prepared.rows) / prepared.counts[0][1]
print(f"of this export {yielded:.0%} of the lines were good rows; at that yield 500 to 1,000 take {500 / yielded:,.0f} to {1000 / yielded:,.0f} lines")

# %% [markdown]
# ## 11 · Was it worth it? Train twice
#
# The same model, the same number of examples, the same settings; one run on the rows as they came (only what a trainer can't read
# is left out), one on the prepared rows. Both draw as many: this compares what rows are worth, not how many there are. Short
# messages and two fields of the record keep it quick. The test set was written by hand and is not in the prepared rows.

# %%
FIELDS = ["category", "escalation"]
PLAN = {
    "cpu": {"longest": 32, "examples": 300, "batch_size": 2, "learning_rate": 2e-3},
    "t4": {"longest": 200, "examples": 540, "batch_size": 8, "learning_rate": 5e-4},
    "a100": {"longest": 200, "examples": 540, "batch_size": 8, "learning_rate": 3e-4},
}[device.tier]
SEED = 0
short = data_prep.load_task("support_tickets", FIELDS)
readable = data_prep.prepare(export.path, steps=["validate"]).rows
sets = {
    "as it came": truth.for_training(readable, FIELDS, PLAN["longest"]),
    "prepared": truth.for_training([prepared.rows[i] for i in prepared.train], FIELDS, PLAN["longest"]),
}
print({name: len(rows) for name, rows in sets.items()}, "rows to draw from;", PLAN["examples"], "are drawn for each run")


def train(rows, examples=PLAN["examples"]):
    """A fresh adapter, trained on so many examples; all rows before any comes again."""
    order = []
    while len(order) < examples:
        order += [rows[i] for i in np.random.default_rng(SEED + len(order)).permutation(len(rows))]
    model, tokenizer = models.load()
    torch.manual_seed(SEED)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=PLAN["learning_rate"], batch_size=PLAN["batch_size"], warmup_steps=10, seed=SEED)
    history = training.fit(tuned, tokenizer, order[:examples], settings=settings)
    memory.release()
    return tuned, tokenizer, history


def ask(tuned, tokenizer, conversations):
    return generate(tuned, tokenizer, [c[:2] for c in conversations], max_new_tokens=24, batch_size=25)


# %%
answers, histories = {}, {}
for name, rows in sets.items():
    tuned = None  # room for the next one
    tuned, tokenizer, histories[name] = train(rows)
    answers[name] = ask(tuned, tokenizer, short.test)
results = {name: short.evaluate(given) for name, given in answers.items()}


def main_scores(scores):
    return {"valid format": scores.valid} | {f"{field} right": scores.exact[field] for field in FIELDS}


for name, scores in results.items():
    print(f"{name:<11}", "; ".join(f"{what} {value}" for what, value in main_scores(scores).items()))
figures.intervals({name: main_scores(scores) for name, scores in results.items()}, "100 test messages, the same budget")

# %%
def both_right(scores):
    """1 for each test message with both fields right, else 0."""
    return [float(record == wanted) for record, wanted in zip(scores.records, short.references())]


default = {"category": "question", "escalation": "none"}
for name, scores in results.items():
    print(f"{name:<11} both fields right {evaluation.mean(both_right(scores))}; left at the form's default: {sum(r == default for r in scores.records)} of 100")
print("right answer is the default:", sum(w == default for w in short.references()), "of 100")
gain = evaluation.mean([p - r for p, r in zip(both_right(results["prepared"]), both_right(results["as it came"]))])
print(f"prepared less raw, points: {100 * gain.value:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]")
wrong = next(i for i, (r, p) in enumerate(zip(both_right(results["as it came"]), both_right(results["prepared"]))) if p > r)
print("for example:", short.test[wrong][1]["content"][:100], "\n  as it came:", answers["as it came"][wrong], "\n  prepared:  ", answers["prepared"][wrong])
assert gain.value > 0

# %% [markdown]
# The export taught what it contains: hurried agents left the form at "question, none", and so does the model. It can't know that
# this was an accident. **Predict:** would the training losses have shown it?

# %%
figures.learning_curve(histories, "Training loss, the same number of examples")

# %% [markdown]
# Whichever curve ends lower, it says how well a run fits its own rows, the wrong ones included. Only a test set that nobody trained on
# tells which model is better.

# %% [markdown]
# ## 12 · A leak, made on purpose
#
# **Predict:** we go on training the prepared model for a moment on 24 of the 100 test
# messages, the ones that stood in the export. What happens to its score on those 24, and on the other 76?

# %%
leaked = sorted({hit.test for hit in hits})[:24]
settings = training.Settings(learning_rate=PLAN["learning_rate"] / 2, batch_size=4, max_steps=24, seed=SEED)
training.fit(tuned, tokenizer, [short.test[i] for i in leaked], settings=settings)
after = short.evaluate(ask(tuned, tokenizer, short.test))


def share_right(scores, indices):
    """Share of these messages with both fields right."""
    return evaluation.proportion([both_right(scores)[i] == 1 for i in indices])


others = [i for i in range(len(short.test)) if i not in leaked]
for name, indices in {"the 24 that leaked": leaked, "the other 76": others, "all 100, as reported": range(100)}.items():
    print(f"{name:<21} before {share_right(results['prepared'], indices)}   after {share_right(after, indices)}")
inflated = share_right(after, leaked).value - share_right(results["prepared"], leaked).value
real = share_right(after, others).value - share_right(results["prepared"], others).value
print(f"gain on the leaked messages {100 * inflated:+.0f} points, on the others {100 * real:+.0f}")
assert inflated > real

# %% [markdown]
# Two dozen hand-written examples more may teach the model something, which the other messages show; the rest of the gain on the
# leaked ones is memory, and the reported score mixes both. Nobody cheats on purpose; a test set in an export is enough.

# %% [markdown]
# ## 13 · A hundred good rows, and other claims
#
# What needs several seeds and larger sets was run beforehand by `benchmarks/data_quality.py`. Its record is part of the course;
# recorded figures are marked as such. Each of its runs trains on the same number of examples, drawn from its rows: a set of a
# hundred comes round several times, of a thousand a part is seen. So it compares quality at one budget. Whether more rows make up
# for worse ones, given more steps, was not tested.

# %%
record = json.loads(assets.benchmark_results("data-quality").read_text(encoding="utf-8"))


def recorded_mean(run, what="both", side="test"):
    """Mean over seeds, with the lowest and the highest."""
    values = [seed[side][what][0] for seed in record["runs"][run]]
    return np.mean(values), min(values), max(values)


print(f"recorded {record['date']}, {len(record['seeds'])} seeds, {record['examples']} examples a run; rows to draw from: {record['rows']}")
for run in record["runs"]:
    valid, both = recorded_mean(run, "valid"), recorded_mean(run)
    print(f"  {run:<34} valid {valid[0]:.0%} ({valid[1]:.0%} to {valid[2]:.0%})   both fields right {both[0]:.0%} ({both[1]:.0%} to {both[2]:.0%})")
print("in brackets: the seed with the lowest share and the one with the highest")

# %%
hundred, mediocre = recorded_mean("a hundred good"), recorded_mean("mediocre")
claims.check(
    "P1",
    measured=f"recorded, both fields right after {record['examples']} examples: drawn from {record['rows']['hundred']} curated rows {hundred[0]:.0%}, from "
    f"{record['rows']['mediocre']:,} rows labelled by keywords {mediocre[0]:.0%}",
    holds=hundred[1] > mediocre[2],
    when=f"both train on equally many examples (quantity itself was not tested: each run saw {record['examples']}), and labels are wrong as often as "
    f"here ({record['labels wrong by keyword']:.0%} of those by keyword)",
    because="at the same number of examples the wrong labels did no harm beyond the spread of the seeds",
)
distinct, copied = recorded_mean("cleaned"), recorded_mean("cleaned, 60 rows repeated")
claims.check(
    "P2",
    measured=f"recorded, both fields right after {record['examples']} examples: of {record['rows']['cleaned']} different rows {distinct[0]:.0%} "
    f"({distinct[1]:.0%} to {distinct[2]:.0%}, seed by seed), of {record['rows']['duplicated']} rows again and again {copied[0]:.0%} "
    f"({copied[1]:.0%} to {copied[2]:.0%})",
    holds=distinct[1] > copied[2],
    when="it is read as: copies take the place of different rows, and the lost variety costs answers (that is what was measured; whether a "
    "model clings to phrasings that it saw again and again was not)",
    because="at this number of examples few rows repeated did about as well as many different ones; phrasings were not measured",
)
own, real = recorded_mean("synthetic", side="its own test"), recorded_mean("synthetic")
claims.check(
    "P3",
    measured=f"recorded, both fields right: trained on synthetic rows, {own[0]:.0%} on held-out rows of the same generator, {real[0]:.0%} on the hand-written test set",
    holds=own[1] > real[2],
    because="the two scores did not differ beyond the spread of the seeds",
)
raw, clean = recorded_mean("raw"), recorded_mean("cleaned")
claims.check(
    "P4",
    measured=f"recorded, both fields right after {record['examples']} examples: drawn from {record['rows']['cleaned']} prepared rows {clean[0]:.0%}, from "
    f"{record['rows']['raw']:,} rows as they came {raw[0]:.0%}; live, after {PLAN['examples']}: "
    f"{np.mean(both_right(results['prepared'])):.0%} against {np.mean(both_right(results['as it came'])):.0%}",
    holds=clean[1] > raw[2],
    when="both train on equally many examples (quantity itself was not tested), and what is scraped is as dirty as this",
    because="the dirt was too rare to matter at this number of examples",
)

# %% [markdown]
# How many examples does it take? This table circulates:
#
# | what is to be learned | examples | |
# | --- | --- | --- |
# | a new output format | 100 to 500 | |
# | a style, a tone | 500 to 2,000 | inputs as diverse as life |
# | a vocabulary, conventions | 2,000 to 10,000 | |
# | much new knowledge | 10,000 to 50,000 | consider retrieval (lesson 01) |
#
# It is experience, not experiment. What can be measured here is its first row, a format: in this lesson's live run, and in the record
# of lesson 01, where a very small set was trained on several times over.

# %%
other = json.loads(assets.benchmark_results("framework").read_text(encoding="utf-8"))
sizes = other["sizes"]  # number of examples → what came of them
fewest = min(sizes, key=int)
with_few = [np.mean(seed) for seed in sizes[fewest]["valid"]]  # of each seed
least = f"{np.mean(with_few):.0%} ({min(with_few):.0%} to {max(with_few):.0%}, seed by seed)"
print(f"lesson 01, recorded {other['date']}: {fewest} examples, valid form on {least} of its test questions")
claims.check(
    "P5",
    measured=f"format: valid on {results['prepared'].valid} of the test set after {PLAN['examples']} examples; in the record of lesson 01, another format, "
    f"after {fewest} examples on {least}; style, conventions and knowledge were not measured",
    holds=results["prepared"].valid.value >= 0.9,
    when="read as orders of magnitude, and measured for its first row alone: "
    + ("a format can take less than the row's low end" if min(with_few) >= 0.9 else f"{fewest} examples were too few for every seed to learn a format")
    + "; for knowledge lesson 01 measures what retrieval does instead",
    because=f"the format was not learned from {PLAN['examples']} examples",
)
claims.table()

# %% [markdown]
# ## 14 · Mistakes that show
#
# Three that everyone makes once; each fails in front of you.

# %%
broken = Path(tempfile.mkdtemp()) / "by_hand.jsonl"
broken.write_text("\n".join(str(row) for row in conversations[:12]))  # print() is no JSON
print("1.", validate(broken, "chat").findings[0])

# %%
spaced = [{"messages": [*row["messages"][:2], {"role": "assistant", "content": " " + formats.answer_of(row)}]} for row in conversations[:12]]
broken.write_text("\n".join(json.dumps(row) for row in spaced))
print("2.", validate(broken, "chat").findings[0])

# %%
print(f"3. split by chance: {torn(*by_chance)} of {len(by_chance[1])} validation rows have their like in training")

# %% [markdown]
# ## 15 · Quiz
#
# Each choice opens to say why it is right or wrong. `quiz("05").answer(1, "b")` says the same as text.

# %%
quiz("05")

# %% [markdown]
# ## 16 · Exercises
#
# Each checks itself and knows the typical mistakes.

# %%
# EXERCISE: data-1

# %%
# EXERCISE: data-2

# %%
# EXERCISE: data-3

# %%
# EXERCISE: data-4

# %%
# EXERCISE: data-5

# %% [markdown]
# ## What you have seen
#
# - Each step was held against a truth: what it finds, what it misses, and how it does on rows that it was not made for.
# - Rules cost little and see form; what only a reader sees, a wrong label above all, stays in the file.
# - A validation set that shares customers or copies with training, a test set from the generator of the training data, and a test set
#   in the export all praise a model that did not earn it.
# - At the same number of examples prepared rows taught more than rows as they came. Whether more rows would have made up for it was
#   not tested here.
#
# Next, lesson 06 sends such a file to a host.
