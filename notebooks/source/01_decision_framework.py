# %% [markdown]
# # 01 · Prompt, retrieve or fine-tune: decide by measuring
#
# {{badges}}
#
# > *"White bits floating in my tea from the Pellwick. How many days between two descalings?"*
#
# A shop wants a program that answers such messages with a record its other programs can read: topic, product, and the
# fact in a few words. One colleague wants a better prompt. Another wants to give the model the catalogue. A third wants to
# {{term:fine-tuning|fine-tune}}, that is, train a model further on the shop's own examples. Here is what each idea
# would have achieved on the same hundred messages, with three small models:

# %%
# INSTALL: rag,server

# %%
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from course_utils import costs, evidence, plans, show
from course_utils.data_prep import load_catalogue
from course_utils.decision import decide
from course_utils.evidence import lesson_01
from course_utils.exercises import check, quiz
from course_utils.show import predict

lesson_01.picture()

# %% [markdown]
# With three fixed examples, none of these models gave a usable answer: none knows an invented shop.
# With similar past answers, many replies are usable, since every fact asked for here appears in one of them. Training
# alone achieves next to nothing, because one pass over the examples hardly teaches any facts. With a passage, each
# trained model is the best of its size, though not decisively. The untrained 1.5B (1.5 billion parameters) with past
# answers scores highest. We tested no large hosted model, so if you call one, run section 2's program on it before
# you plan any training. The line through each mark is its {{term:confidence interval|95 % interval}}, the range in
# which the true share plausibly lies.
#
# By the end you'll be able to
#
# - compare four ways to prompt a model on your own messages, on any host that speaks OpenAI's protocol,
# - tell from twenty wrong answers what is missing, and what to try,
# - measure a search before you blame the model, and know when the whole text belongs in the prompt,
# - train a model through an API, and say what training changed and what it didn't,
# - work out how many requests a day training needs to pay off, and put the decision on one page.
#
# You should have called a language model's API before, but needn't have trained anything. Reading takes about 60
# minutes, the exercises about 35. {{timing}} To decide today, read sections 1 to 3 and 5 to 7, and
# the first table of section 9, without running them.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter as you read, because Run All first clears every
# output. To recover the recorded page, run `course restore 01` in a terminal.

# %% [markdown]
# ## 1 · What is missing?
#
# A new colleague at the shop can fail a customer in two ways. Perhaps she doesn't know how long a lamp is guaranteed,
# so you hand her the manual. Or she knows, but files the answer under the wrong heading. Then she needs practice,
# not the manual.
#
# A model fails in the same two ways: either it lacks *knowledge*, or its *behaviour* is wrong. Retrieval is the
# manual, because a program finds the right page and puts it into the prompt. Fine-tuning is the practice. It takes
# time and changes habits, but facts learned that way go out of date. First, though, you'd simply tell her what
# you want, and before any practice you'd show her how similar customers were answered. So ask the questions in this
# order:

# %%
show.drawing("decision-tree")

# %% [markdown]
# Work through questions 1 to 5 before you train, because any of them may make training unnecessary:
#
# | approach | when | what it costs |
# | --- | --- | --- |
# | a larger or another model | the best prompt falls short on a small one | a higher price for each request |
# | a schema ({{term:structured output}}) | the content is right, but a program can't read it | nothing |
# | the whole text in the prompt | facts are missing, and the text is short | a much longer prompt, which hosts cache |
# | {{term:RAG}}: search, then answer | facts are missing, and the text is long or changes | an index, a longer prompt |
# | similar past answers in the prompt | somebody has answered such messages before | a longer prompt |
# | fine-tuning | the model has what it needs but still misbehaves | examples, one training run, then short prompts |
#
# `decide` is the same tree as a function. Suppose the behaviour is wrong and you get 500 requests a day. Your best
# prompt, which includes past answers, gets 60 % of the test messages right, a larger model gets 70 %, and you have
# 300 good examples:

# %%
decide("behaviour", prompt_reaches=0.6, larger_reaches=0.7, past_answers_tried=True, examples=300, requests_a_day=500)

# %% [markdown]
# The two limits, 85 % and 100 examples, are rules of thumb; section 7 replaces the first with a calculation, in which the
# number of requests decides.
#
# **Your turn.** In all exercises you may use Python's standard library, NumPy, PyTorch, pandas and SciPy, but no library
# that does the exercise for you. Check as often as you like. Here, somebody in a hurry has coded the middle of the
# tree.

# %%
# EXERCISE: frame-1

# %% [markdown]
# ## 2 · The job: measure four ways
#
# You need three files and a prompt, `instructions.txt`. `cases.jsonl` has messages, each with the right answer and, if
# you like, other wordings to accept (`accepted`).
# `answered.jsonl` has messages that were answered before, none of which are cases. `documents.jsonl` has the texts
# that contain the facts. At work you'd export all three; here the next cells write them for an invented shop.

# %%
def write_rows(name, rows):
    """Write one row of JSON a line."""
    Path(name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


plan, catalogue = plans.plan("01"), load_catalogue()

# %%
few = catalogue.questions[:: len(catalogue.questions) // plan.looked_at][: plan.looked_at]
write_rows("cases.jsonl", [
    {"question": q["question"], "answer": catalogue.record(q), "accepted": q["accepted"]} for q in few
])
write_rows("answered.jsonl", [
    {"question": row["question"], "answer": json.dumps(catalogue.record(row), ensure_ascii=False)}
    for row in catalogue.training
])
write_rows("documents.jsonl", [{"title": p["title"], "text": p["text"]} for p in catalogue.versions[1]])
Path("instructions.txt").write_text(catalogue.prompt("", instructions=True)[0]["content"], encoding="utf-8")
print(Path("instructions.txt").read_text(), "\n\n", Path("cases.jsonl").read_text().splitlines()[0], sep="")

# %% [markdown]
# Next you need a model that you can call. The course's service runs on your own machine and speaks OpenAI's protocol, so
# you need no key. To use a host, change the next cell. For a reasoning model, or for answers longer than 48 tokens,
# change the call in `measure` too, because a truncated reply is scored as wrong. The prices below are for qwen3-8b,
# not for the small model that you call here.

# %%
from course_utils.openai_server import local_server
from openai import OpenAI

server = local_server()                       # what `course serve` starts in a terminal
client = OpenAI(base_url=server.base_url, api_key=server.api_key)   # OpenAI(), or another host's address and key
MODEL = client.models.list().data[0].id       # at a host, the name of a model
price = costs.price_of("qwen3-8b")   # dollars per million tokens; your host: costs.TokenPrice(2, 10, date="", source="")
print(f"{MODEL}; computed with ${price.input} for input and ${price.output} for output")

# %% [markdown]
# The program that measures all four ways has two halves. The first builds the prompts. It finds similar messages by the
# words they share, giving rare words more weight (*TF-IDF*); section 5 compares this search with a search by
# meaning.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer


def read_rows(name):
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in open(name, encoding="utf-8")]


def make_search(texts):
    """Return a function that finds the `count` texts most like a question: their indices, best first."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    known = vectorizer.fit_transform(texts)
    return lambda question, count: (known @ vectorizer.transform([question]).T).toarray().ravel().argsort()[::-1][:count]


cases, answered, documents = (read_rows(f"{name}.jsonl") for name in ("cases", "answered", "documents"))
instructions, fixed = open("instructions.txt", encoding="utf-8").read(), answered[:: max(1, len(answered) // 3)][:3]
find_answered = make_search([row["question"] for row in answered])
find_document = make_search([f"{row['title']}. {row['text']}" for row in documents])


def messages(question, examples, passage=False):
    """Return the conversation to send: instructions, solved examples, and the question, perhaps after a passage."""
    turns = [{"role": "system", "content": instructions}]
    for row in examples:
        turns += [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    found = [documents[number] for number in find_document(question, 1)] if passage else []
    shown = "".join(f"Passage: {row['title']}. {row['text']}\n\nCustomer: " for row in found)
    return [*turns, {"role": "user", "content": shown + question}]


def similar(question):
    """Return the three most similar messages answered before, the nearest last."""
    return [answered[number] for number in reversed(find_answered(question, 3))]


ways = {
    "three fixed examples": lambda question: messages(question, fixed),
    "similar past answers": lambda question: messages(question, similar(question)),
    "a passage (RAG)": lambda question: messages(question, fixed, passage=True),
    "a passage and past answers": lambda question: messages(question, similar(question), passage=True),
}
for turn in ways["a passage and past answers"](cases[0]["question"])[1:]:
    print(f"[{turn['role']}] {turn['content']}")

# %% [markdown]
# The second half runs the prompts and scores them. An answer is right, or *usable*, only if it's a record with the
# right topic, product and fact.

# %%
from scipy.stats import binomtest


def contains(text, fact):
    """Return True if a text contains a fact as a whole: not "6 days" in "16 days", nor "10" in "10:30"."""
    return re.search(rf"(?<!\w)(?<!\d[.,:–-]){re.escape(str(fact))}(?![.,:–-]?\d|\w)", text, re.IGNORECASE) is not None


FREE = "answer"     # the field of the record that may be put in other words


def is_right(reply, case):
    """Return True if a reply is the expected record, or contains the expected text."""
    expected = case["answer"]
    if isinstance(expected, str):
        return any(contains(reply, words) for words in [expected, *case.get("accepted", [])])
    try:
        record = dict(json.loads(reply))
    except (ValueError, TypeError):                     # no record at all
        return False
    given, others = str(record.pop(FREE, "")), {name: value for name, value in expected.items() if name != FREE}
    free = FREE not in expected or contains(given, expected[FREE]) or given in case.get("accepted", [])
    return record == others and free


for case in cases:                                      # the right answers must pass
    assert is_right(case["answer"] if isinstance(case["answer"], str) else json.dumps(case["answer"]), case), case


def measure(way, model=MODEL, **options):               # options: a schema as `response_format`, for example
    """Return one row a case: the reply, whether it is right, and the tokens in and out."""
    def ask(case):
        made = client.chat.completions.create(      # reasoning models: max_completion_tokens, and no temperature
            model=model, messages=way(case["question"]), temperature=0, max_tokens=48, **options)
        reply = made.choices[0].message.content or ""
        return {"question": case["question"], "reply": reply, "right": is_right(reply, case),
                "in": made.usage.prompt_tokens, "out": made.usage.completion_tokens}

    with ThreadPoolExecutor(8) as pool:
        return pd.DataFrame(pool.map(ask, cases))


def compare(one, other):
    """Return how much more often the other is right on the same cases, with a 95 % interval (Agresti and Min, 2005)."""
    wins, losses, n = (other & ~one).sum() + 0.5, (one & ~other).sum() + 0.5, len(one) + 2
    middle, half = (wins - losses) / n, 1.96 * np.sqrt(wins + losses - (wins - losses) ** 2 / n) / n
    return other.mean() - one.mean(), max(-1, middle - half), min(1, middle + half)


def report(results):
    """Return a table: share right, how much better than the first way on the same cases, tokens, dollars."""
    table, first = {}, next(iter(results))
    for name, rows in results.items():
        interval = binomtest(int(rows["right"].sum()), len(rows)).proportion_ci(method="wilson")
        gain, low, high = compare(results[first]["right"], rows["right"])
        dollars = (price.input * rows["in"].mean() + price.output * rows["out"].mean()) / 1000
        table[name] = {
            "right, %": f"{100 * rows['right'].mean():.0f} ({100 * interval.low:.0f} to {100 * interval.high:.0f})",
            "more than the first, points": f"{100 * gain:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})" if name != first else "",
            "tokens in": round(rows["in"].mean()), "$ per 1,000 requests": f"{dollars:.3f}",
        }
    return pd.DataFrame(table).T


results = {name: measure(way) for name, way in ways.items()}
report(results)

# %% [markdown]
# A passage with past answers got the most cases right, but with only a dozen cases the 95 % intervals in brackets are
# too wide to separate the best ways. The second column compares each way with the first on the same cases, so it
# doesn't matter that some are harder than others. For your own decision, put your best prompt first in `ways`,
# because everything is compared with it.
#
# Read some replies before you believe any number:

# %%
names = list(results)
show.answers([case["question"] for case in cases[:3]], {name: list(results[name]["reply"][:3]) for name in names},
             [case["answer"] for case in cases[:3]])

# %% [markdown]
# **On your own data**, skip the cell that writes the shop's files and bring four files with the same names and fields. Put
# your own `TASK` into section 6, then run the imports and sections 2, 6, 7 and 8. Sections 3, 5 and 9 also need the
# right passage for each question. If an `answer` is plain text, write only the fact, because a reply has to contain
# it or one of `accepted`. In a record, `FREE` names the field that may be worded differently. In `answered.jsonl`,
# write records as text too.
#
# The next table covers a hundred cases, for the small model that you've just used and two larger ones built for code
# (script: `benchmarks/laptop_questions.py`). Without a passage, the two larger models see eight past answers, not
# three. With a passage, the search is section 5's dense one, and each past answer comes with its own passage too.
# *Tokens in* are the 0.5B's, and a dash means that we didn't run it.

# %%
lesson_01.rivals()

# %% [markdown]
# Given a passage, the 0.5B gets the fact for {{record:laptop-questions:runs."0.5B | RAG | 0".right.knowledge:.0%}} of
# the messages, but only {{record:laptop-questions:runs."0.5B | RAG | 0".right.both:.0%}} of its answers are usable. A
# schema would change little, because {{record:laptop-questions:runs."0.5B | RAG | 0".right.valid:.0%}} are already
# valid records. Most name the wrong topic or product, which is a behaviour problem. Similar past answers show how to
# fill in the other fields, and often contain the fact too, but they go out of date. If your customers ask new
# questions, read the row *to other questions*, for which we left out every past answer to the same question.
#
# **If your answers are free text**, `is_right` won't work, so people let a model judge. Check that judge first, here
# on thirty replies marked by hand with the question: would you send this to the customer?

# %%
from sklearn.metrics import cohen_kappa_score

judged = [json.loads(line) for line in open(lesson_01.data_file("judged"), encoding="utf-8")]


def judge(row):
    """Return True if the model would send a reply."""
    question = f"Customer: {row['question']}\nRight answer: {row['expected']}\nReply: {row['reply']}\n"
    made = client.chat.completions.create(model=MODEL, temperature=0, max_tokens=2, messages=[
        {"role": "user", "content": question + "Would you send this reply to the customer? Answer yes or no."}])
    return (made.choices[0].message.content or "").lower().lstrip("* \n").startswith("yes")


by_hand = [row["right"] for row in judged]
with ThreadPoolExecutor(8) as pool:
    verdicts = {"by hand": by_hand, "the fact occurs in it": [contains(row["reply"], row["expected"]) for row in judged],
                "the small model as a judge": list(pool.map(judge, judged))}
pd.DataFrame([
    {"says yes": sum(said), "as by hand": sum(a == b for a, b in zip(said, by_hand)),
     "kappa": round(cohen_kappa_score(said, by_hand), 2) + 0} for said in verdicts.values()
], index=verdicts)

# %% [markdown]
# Here the model is useless as a judge, so mark some replies by hand before you trust one. Kappa is the agreement beyond
# chance: 0 is no better than chance, and 1 is perfect. Go by kappa, because a judge that always says yes would agree
# on 20 of these 30. Checking for the fact agrees on 26, but it accepts *"The customer should wait for 33 months"*,
# although 33 months is a guarantee, and rejects *"at 14:20 on Thursday"* for *Thursday at 14:20*. To test your host's
# model as a judge, put its name into `judge`.

# %% [markdown]
# ## 3 · Read twenty wrong answers
#
# You can't answer the tree's third question from a score. Every answer depends on a chain: a source has to exist, the
# search has to find the right passage, the model has to read it, and the form and the other fields have to be right.
# Take twenty wrong answers and find the first link that broke in each.

# %%
show.drawing("error-chain")

# %% [markdown]
# For example, a customer asks for the number of the Thackle desk's drawer key. The model was shown the right passage
# but writes *"The key to the drawer of the Thackle desk is number 315. The key is no longer produced."* The
# form broke first, so the first thing to try is a schema.

# %%
def cause(row):
    """Return the first link of the chain that broke. Passages are given by their titles."""
    if row["shown"] is None:
        return "no source"
    if row["shown"] != row["needed"]:
        return "not found"
    if not contains(row["reply"], row["expected"]["answer"]):
        return "misread"
    try:
        json.loads(row["reply"])
    except ValueError:
        return "wrong form"
    return "wrong judgement"


cures = {
    "no source": "show the facts: search, or the whole text",
    "not found": "search better: another index, more passages",
    "misread": "a larger model; then training with passages",
    "wrong form": "a schema",
    "wrong judgement": "similar past answers; then fine-tuning",
}

# %% [markdown]
# Now sort these ten yourself. We picked them to show every cause, so their counts mean nothing. At work, sort twenty of
# your own by hand; `results["a passage (RAG)"].query("not right")` lists questions and replies.

# %%
wrong = [json.loads(line) for line in open(lesson_01.data_file("wrong_answers"), encoding="utf-8")]
sorting = show.sort([
    {"model": row["model"], "customer": row["question"], "passage shown": row["shown"] or "none", "passage needed": row["needed"],
     "answer": row["reply"].replace("\n", " ")[:150], "right": json.dumps(row["expected"], ensure_ascii=False)} for row in wrong
], list(cures))
sorting

# %%
sorting.reveal([cause(row) for row in wrong])

# %% [markdown]
# Training isn't the first thing to try for any of these. A misread passage calls for a larger model, or for training on
# examples with passages, which teaches reading (section 6). Where its judgement was wrong, the 0.5B had the fact, but
# the wrong topic and no product. Fix the link that breaks most often, measure, and sort again.

# %% [markdown]
# ## 4 · A better prompt
#
# **Similar past answers.** An answered message about the same thing contains topic, product *and* fact, so a file of
# good answers is a small knowledge base. It only covers what somebody has asked before. Ours is the best case,
# because every fact has been asked for in other words.
#
# **The form for free.** Before each {{term:token}} (a piece of a word) that it writes, a model scores every possible
# one. {{term:constrained decoding|Constrained decoding}} crosses out the tokens that would make a valid record
# impossible, and takes the best of the rest:
#
# | so far | what the model might write unforced | what is allowed |
# | --- | --- | --- |
# | (nothing) | `The` | `{` |
# | `{"topic": "` | `kettle` | `product`, `delivery`, `returns`, `payment`, `account`, `service` |
# | `{"topic": "product", "product": ` | `Corvane` | any text in quotation marks, or `null` |
#
# You send the schema with the request. Here are two cases, instructions only, first without a schema:

# %%
from course_utils.data_prep.catalogue import SCHEMA

form = {"type": "json_schema", "json_schema": {"name": "record", "schema": SCHEMA, "strict": True}}
for name, options in {"free": {}, "with the schema": {"response_format": form}}.items():
    for case in cases[:2]:
        made = client.chat.completions.create(
            model=MODEL, messages=messages(case["question"], []), temperature=0, max_tokens=48, **options
        )
        print(f"{name:16}", made.choices[0].message.content.replace("\n", " ")[:90])

# %% [markdown]
# With the schema the form is right but the content isn't, because a schema can neither pick the topic nor supply the
# fact. If valid JSON is all you need, you have it now. In your own schema, give every text a `maxLength` if your host
# accepts that; otherwise a small model may never close its quotation marks.
#
# **Are you measuring enough?** Suppose your prompt got 17 of 20 messages right: 85 %. Is that enough?

# %%
for right, cases_asked in ((17, 20), (85, 100)):
    interval = binomtest(right, cases_asked).proportion_ci(method="wilson")
    print(f"{right} of {cases_asked}: the true share is plausibly between {100 * interval.low:.0f} and {100 * interval.high:.0f} %")

# %% [markdown]
# With twenty messages the interval is too wide for this, and with a hundred it's still wide. So first collect a hundred
# or more real messages with right answers.

# %% [markdown]
# ## 5 · Look the facts up
#
# Before you judge any answers, test the search alone, because no model can read a passage that wasn't found.
# The share of questions with the right passage in the top $k$ is the {{term:precision and recall|recall}} at $k$.
#
# A keyword search works as long as customers use the shop's vocabulary. Some don't: *"my hobbin has gone dull and
# just chews the privet. how much do you lot ask for sharpening"*. The passage says that *blades are ground at our
# workshop*. A *dense* search goes by meaning. It turns question and passage into lists of numbers
# ({{term:embedding|embeddings}}) that lie close together when the meanings do.

# %%
guess = predict("For how many of 100 questions does TF-IDF find the right passage first?")
guess

# %%
from course_utils.retrieval import Retriever

asked, titles = [q["question"] for q in catalogue.questions], [row["title"] for row in documents]
title_of = {p["id"]: p["title"] for p in catalogue.versions[1]}
needed = [title_of[q["passage"]] for q in catalogue.questions]
dense = Retriever(catalogue.versions[1], "dense")
found = {
    "TF-IDF": [[titles[n] for n in find_document(question, 3)] for question in asked],
    "dense": [[hit.passage["title"] for hit in hits] for hits in dense.search_all(asked, 3)],
}
recall = pd.DataFrame({
    f"right passage among the first {k}": {
        name: sum(right in first[:k] for right, first in zip(needed, rows)) for name, rows in found.items()
    } for k in (1, 3)
})
guess.reveal(int(recall.iloc[0, 0]))

# %%
recall

# %% [markdown]
# TF-IDF misses one question in five and the dense search one in seven.

# %%
# EXERCISE: frame-2

# %% [markdown]
# **The rival that needs no index.** The whole catalogue, some 5,300 tokens, fits into the prompt. Every call would
# carry all of it, but hosts save their work on the start of a prompt, and bill a repeated start at a fraction of
# the price ({{term:prompt caching}}). In dollars per 1,000 requests:

# %%
fixed_tokens, passage_tokens = results["three fixed examples"]["in"].mean(), results["a passage (RAG)"]["in"].mean()
all_tokens = fixed_tokens + sum(len(row["text"]) for row in documents) / 4        # about four characters a token
prices = {}
for name in ("gpt-6.2-sol", "claude-sonnet-5.5", "qwen3-8b"):
    cached = all_tokens - 50 if costs.price_of(name).cache_from <= all_tokens else 0      # all but the message
    prices[name] = {
        "one passage": 1000 * costs.request_cost(passage_tokens, 25, name),
        "whole catalogue, cached": 1000 * costs.request_cost(all_tokens, 25, name, cached),
        "whole catalogue, not cached": 1000 * costs.request_cost(all_tokens, 25, name),
    }
pd.DataFrame(prices).T.map("${:.2f}".format)

# %% [markdown]
# With the two large models, the cached catalogue costs less than one passage while the cache is warm, because a
# 430-token prompt is too short for their caches and is billed in full. The catalogue also needs no index, and there's
# no search to go wrong. But a small model may not manage to *read* so much text, and we tested no large one, so measure
# both with yours. Other drawbacks:
#
# - Requests must come every few minutes, or the cache goes cold and you pay full price. Some hosts also charge for filling
#   it, which the table leaves out.
# - A longer text costs more, and it must fit the {{term:context window}}.
# - The models of 2023 found facts in the middle of a long prompt less reliably than at its ends (Liu et al., arXiv 2307.03172).

# %% [markdown]
# ## 6 · Train the behaviour
#
# If the facts are in the prompt and the answers still aren't what you need, training is worth a try. First choose a model
# to start from:
#
# - Take an **instruct model**, not a base model, because it already answers in turns and stops.
# - Take the **smallest that reads well enough**. For example, run section 2's program with your best prompt on three sizes.
# - Check that its **licence** allows commercial use. Apache 2.0 and MIT do; others forbid some uses.
# - Prefer a model that doesn't write out its **thoughts**, or lets you switch that off.
# - Check that **your host** can tune the model, and how long it promises to serve it.
#
# The examples are a hundred answered messages without instructions, up to half of them with a passage, as in the recorded
# runs, so that we can ask one model both ways. At work give every row its passage, so that the model learns to *read*
# (`EVERY`); rows without one teach it to guess.

# %%
TASK = "Answer this customer of the shop Tarnbrook."
EVERY = 2                                     # a passage with every second example, as in the recorded runs; at work 1


def plain(question, passage=""):
    """Return the conversation for a trained model: no instructions, no examples."""
    shown = f"Passage: {passage}\n\nCustomer: {question}" if passage else question
    return [{"role": "system", "content": TASK}, {"role": "user", "content": shown}]


def find_fact(answer):
    """Return what an answer has to get across: its text, or a record's field `FREE`."""
    if isinstance(answer, str) and answer.startswith("{"):
        answer = json.loads(answer)
    return answer if isinstance(answer, str) else answer.get(FREE, "")


training_rows = []
for number, row in enumerate(answered[:: max(1, len(answered) // plan.examples)][: plan.examples]):
    fact = find_fact(row["answer"])
    passages = [documents[found]["text"] for found in find_document(row["question"], 3)]
    passage = next((text for text in passages if contains(text, fact)), "") if (number + 1) % EVERY == 0 else ""   # with the fact
    training_rows.append({"messages": [*plain(row["question"], passage), {"role": "assistant", "content": row["answer"]}]})
write_rows("shop-train.jsonl", training_rows)
for turn in training_rows[-1]["messages"]:
    print(f"[{turn['role']}] {turn['content']}")

# %% [markdown]
# Training through an API is an upload, a call, and a loop that waits. The service trains a {{term:LoRA}} {{term:adapter}}, a
# small set of numbers beside the model's own; lesson 02 looks inside it, and lesson 06 covers the differences between hosts.

# %%
uploaded = client.files.create(file=open("shop-train.jsonl", "rb"), purpose="fine-tune")
# passes over the examples, examples per step, and how large a step is beside the usual one
settings = {"n_epochs": 1, "batch_size": plan.batch_size, "learning_rate_multiplier": 2.0}
job = client.fine_tuning.jobs.create(
    model=MODEL, training_file=uploaded.id, suffix="shop", seed=0,
    method={"type": "supervised", "supervised": {"hyperparameters": settings}},
)
while job.status in ("validating_files", "queued", "running"):
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
if job.status != "succeeded":
    raise RuntimeError(f"{job.status}: {job.error}")
print(f"{job.trained_tokens:,} tokens in {job.finished_at - job.created_at} seconds: {job.fine_tuned_model}")

# %% [markdown]
# Run section 2's program with the trained model's name, like any other:

# %%
guess = predict("Without a passage, what share of its facts will be right?", unit="%")
guess

# %%
def with_passage(question):
    """Return a trained model's conversation with the passage that the search finds."""
    row = documents[find_document(question, 1)[0]]
    return plain(question, row["text"])


results["fine-tuned"] = measure(plain, job.fine_tuned_model)
results["fine-tuned, a passage"] = measure(with_passage, job.fine_tuned_model)
facts_right = [contains(reply, find_fact(case["answer"])) for reply, case in zip(results["fine-tuned"]["reply"], cases)]
guess.reveal(round(100 * np.mean(facts_right)))

# %%
report(results)

# %%
show.answers([case["question"] for case in cases[:3]],
             {name: list(results[name]["reply"][:3]) for name in ("fine-tuned", "fine-tuned, a passage")},
             [case["answer"] for case in cases[:3]])

# %% [markdown]
# On these three messages the fine-tuned model gets topic and product right without a passage, but makes up the fact,
# because it has only learned what an answer looks like. With a passage it does best on our dozen cases. Does it also
# beat each model's best prompt on the recorded hundred?

# %%
for size, rival in (("135M", "a passage and past answers"), ("0.5B", "similar past answers")):
    trained, prompted = (np.mean(lesson_01.right(size, way), axis=0) for way in ("fine-tuned, a passage", rival))   # over seeds
    gain, half = (trained - prompted).mean(), 1.96 * (trained - prompted).std(ddof=1) / np.sqrt(len(trained))
    print(f"{size}: {100 * gain:+.0f} points over {rival} ({100 * (gain - half):+.0f} to {100 * (gain + half):+.0f})")

# %% [markdown]
# Both intervals include zero (and the 0.5B was trained once), so training may be slightly worse or clearly better. If
# your customers repeat themselves, try past answers first; with the small model, add a passage. Training shortens the
# 0.5B's prompt from {{record:laptop-questions:runs."0.5B | past answers | 0".prompt_tokens:.0f}} tokens to
# {{record:laptop-questions:runs."0.5B | fine-tuned | 0".systems."fine-tuned + RAG".prompt_tokens:.0f}}, and helps most
# where no past answer fits: in section 2's table, compare the last row with *to other questions*.
#
# To see if you have enough examples, train on a quarter, a half and all of them. As long as the score on other
# messages keeps rising, more will probably help.
#
# **Then a supplier changes the catalogue.** RAG gets a new index. But given many passes, a model can also learn the
# facts by heart. Which approach survives the change?

# %%
lesson_01.changes_figure()

# %% [markdown]
# After the change the model that learned by heart gets none of the facts right, and nothing in its answers gives that
# away. The model trained to read gets as many right as before.
#
# ## 7 · What it costs
#
# You pay for each training run once, and for the prompt on every call, so training pays off above a certain number of
# requests a day, the *break-even*.
#
# Work out one request by hand. A large model costs {{fact:prices:"gpt-6.2-sol".input:g}} dollars for a million tokens
# of input and {{fact:prices:"gpt-6.2-sol".output:g}} for output. A prompt of 400 tokens and an answer of 25 cost
#
# $$400 · \frac{2}{10^6} + 25 · \frac{10}{10^6} = 0.00105 \text{ dollars.}$$
#
# With the small fine-tuned model, at {{fact:prices:qwen3-8b.input:g}} and {{fact:prices:qwen3-8b.output:.2f}} dollars and
# with a prompt of 140 tokens, a request costs 0.00004 dollars, so each saves a tenth of a cent. Training takes 40 hours of
# work on examples and tests, which costs 3,200 dollars at 80 dollars an hour. It takes about three million requests to save
# that, or some 9,000 a day for a year. The picture repeats this calculation with the tokens you've just measured and
# 8 more hours for a second run within the year, at these prices per million tokens:

# %%
pd.DataFrame({
    name: {"input, $": costs.price_of(name).input, "from the cache, $": costs.price_of(name).cached_input,
           "output, $": costs.price_of(name).output, "read": costs.price_of(name).date, "source": costs.price_of(name).source}
    for name in ("gpt-6.2-sol", "claude-sonnet-5.5", "qwen3-8b")
}).T

# %%
def most_right(names):
    """Return the way with the most right answers; of several, the one with the shortest prompt."""
    return max(names, key=lambda name: (results[name]["right"].mean(), -results[name]["in"].mean()))


prompt_name = most_right([name for name in results if not name.startswith("fine-tuned")])     # the best ways without training
trained_name = most_right([name for name in results if name.startswith("fine-tuned")])        # and with it
tokens = {name: round(rows["in"].mean()) for name, rows in results.items()}
chosen = costs.Assumptions(
    message=tokens["fine-tuned"], passages=tokens[trained_name] - tokens["fine-tuned"], examples=len(training_rows),
    instructions=max(0, tokens[prompt_name] - tokens[trained_name]), completion=round(results[prompt_name]["out"].mean()),
)
ways_to_run = chosen.ways()
lesson_01.cost_figure(chosen)

# %% [markdown]
# Both break-evens assume equally good answers, and we measured neither of the two priced models. So if a small model
# with a long prompt is good enough, keep it. The picture spreads the upfront cost over a year, 24 hours of work on
# prompt, search and tests, and 48 more for training; both its axes are logarithmic.
#
# Change one assumption at a time. Start with the model you're comparing against and the hours of work.

# %%
show.calculator("costs", **vars(chosen))

# %% [markdown]
# **Your prompt reaches 87 %. Is the rest worth training for?** Suppose the fine-tuned small model makes half as many
# errors as the large one with your prompt. Our tuned 0.5B didn't even beat the untrained 1.5B (section 2's table), so
# put in your own share. Training then
# pays off if an error costs you at least this much. Where the table says $0.00, the cheaper requests alone pay for
# it:

# %%
def price_of_an_error(requests_a_day, errors=0.13, removed=0.5, against="prompted"):
    """Return the dollars that one error must cost so that training pays for the errors that it removes."""
    more = ways_to_run["hosted"].total(requests_a_day, 365) - ways_to_run[against].total(requests_a_day, 365)
    return max(0, more / (365 * requests_a_day * errors * removed))


volumes = (10, 100, 1000, 10_000, 100_000)
pd.DataFrame({"an error must cost": {f"{volume:,} requests a day": f"${price_of_an_error(volume):.2f}" for volume in volumes}})

# %%
# EXERCISE: frame-3

# %% [markdown]
# ## 8 · The decision on one page
#
# The folded cell puts your results into a memo. First replace the lines under *your project's own*. `larger_reaches` is
# the shop's, from the 1.5B on the recorded hundred.

# %%
from IPython.display import Markdown

# your project's own
requests_a_day = 2_000
larger_reaches = lesson_01.score("1.5B", "similar past answers").value       # the shop's; None if you haven't measured one


# %% tags=["folded"]
def pays(against):
    """Return in words from how many requests a day on training pays."""
    volume = chosen.break_even("hosted", against)
    return "never" if volume is None else f"from {volume:,.0f} requests a day on"


reached, trained_reaches = (float(results[name]["right"].mean()) for name in (prompt_name, trained_name))
gain, low, high = compare(results[prompt_name]["right"], results[trained_name]["right"])
dearer = price_of_an_error(requests_a_day, 1 - reached, gain / (1 - reached), "prompted small") if gain > 0 else None
worth = "" if dearer is None else f"If the difference holds, training pays where an error costs more than ${dearer:.2f}."
volumes = [chosen.break_even("hosted", against) for against in ("prompted small", "prompted")]
if all(volume is None or requests_a_day < volume for volume in volumes):
    worth = f"At this volume shorter prompts don't pay for training; better answers could. {worth}"
larger = "" if larger_reaches is None else f" A larger model reaches {100 * larger_reaches:.0f} %, measured apart."
table = report({name: results[name] for name in (prompt_name, trained_name)})
if max(reached, trained_reaches) < 0.85:
    verdict = "Neither way is good enough. Next: put a larger model, or the one that you would deploy, into section 2."
elif low > 0 and len(cases) >= 100:
    verdict = f"Training helps: *{trained_name}* beats *{prompt_name}*. Next: compare what an error and a request cost."
else:
    verdict = f"Keep *{prompt_name}*, because {len(cases)} messages don't show that training beats it. Next: " + (
        "the same comparison on a hundred." if len(cases) < 100 else "read what it gets wrong, as in section 3.")
memo = f"""### Customers' questions: what we do next

**Decision.** {verdict}

**Measured** on {len(cases)} messages with {MODEL}, % right: {prompt_name} {table.loc[prompt_name, "right, %"]}; {trained_name}
{table.loc[trained_name, "right, %"]}; a difference of {100 * gain:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f}).{larger}

**Cost.** {requests_a_day:,} requests a day. ${table.loc[prompt_name, "$ per 1,000 requests"]} per 1,000 with the prompt,
${table.loc[trained_name, "$ per 1,000 requests"]} with {trained_name}, for a model at ${price.input} and ${price.output} per million tokens in and out.
Against {chosen.small} with the long prompt training pays {pays("prompted small")},
against {chosen.frontier} {pays("prompted")}. {worth}

**Not known yet.** {"Whether the difference holds on a hundred messages. " if len(cases) < 100 else ""}{"" if larger_reaches else
"What a larger model reaches."}"""
Path("decision.md").write_text(memo, encoding="utf-8")
Markdown(memo)

# %% [markdown]
# **Your turn, the challenge:** make the same decision with prices, for a company with its own measurements.

# %%
# EXERCISE: frame-4

# %% [markdown]
# ## 9 · How far to trust this, and two mistakes
#
# | | |
# | --- | --- |
# | messages | 100 invented ones about an invented shop, so no model can know the answers; only a dozen are asked live |
# | models | 135 million, 0.5 and 1.5 billion parameters; the larger two were made for code, and no frontier model was tested |
# | runs | three training runs of the small model, differing only in chance, one of the 0.5B; the 1.5B wasn't trained |
# | what training saw | 160 examples (100 live): the same facts in other words, each with the right passage or none |
# | search | one question in five misses its passage live, one in seven in the recorded table |
# | would change the answer | facts that a model knows already; thousands of pages; messages that nobody asked before |
#
# **Deciding by ten questions.** On all 100 questions the small model gets
# {{record:framework:seeds."RAG: retrieved examples".knowledge.0:.0%}} of the facts with a passage and past answers, and
# {{record:framework:seeds."prompt: retrieved examples".knowledge.0:.0%}} with past answers alone. How often would ten
# questions, drawn at random for a meeting, have shown the opposite or a tie?

# %%
more, less = (np.array(lesson_01.right("135M", way, lesson_01.FACT)[0])
              for way in ("a passage and past answers", "similar past answers"))
draws = np.random.default_rng(0).integers(0, 100, (1000, 10))
print(f"in {100 * np.mean(less[draws].sum(axis=1) >= more[draws].sum(axis=1)):.0f} % of 1,000 meetings")

# %% [markdown]
# **Test questions written from the text.** If you write questions with the passage open, you borrow its words.

# %%
far = np.array([q["paraphrase"] for q in catalogue.questions])
hits = {name: np.array([right == first[0] for right, first in zip(needed, rows)]) for name, rows in found.items()}
pd.DataFrame({
    name: {"in the shop's words": f"{100 * hit[~far].mean():.0f} %", "in the customer's own": f"{100 * hit[far].mean():.0f} %"}
    for name, hit in hits.items()
}).T

# %% [markdown]
# Both searches are nearly perfect in the shop's words and miss many questions in the customer's, so test with real
# messages.
#
# ## 10 · What you can do now
#
# | you see | do |
# | --- | --- |
# | nobody has measured anything | collect a hundred real messages with right answers; run section 2's program |
# | a prompt that reaches about 85 % | keep it; compute what the rest is worth |
# | a larger model that reaches it, at a price that you can pay | take that model |
# | right content, wrong form | a schema |
# | passages misread | a larger model, or training on examples with passages |
# | facts missing, text short | the whole text in a cached prompt; measure one passage too |
# | facts missing, text long or changing | RAG; recall before answers |
# | right facts, wrong judgement | similar past answers; then fine-tuning with 100 examples or more |
# | facts missing, and wrong judgement too | RAG with similar past answers; then training on examples *with* passages |
# | facts that change | look them up, never train them in |

# %%
quiz("01")

# %% [markdown]
# {{words}}
#
# **Further reading.** Ovadia et al. (2023), arXiv 2312.05934, compare training with looking up on 7B models. Li et al.
# (2024), arXiv 2407.16833, show when the whole text wins. Zhao et al. (2024), arXiv 2405.00732, from a vendor, compare 310
# small trained models with one large prompted one. Next, lesson 02 looks inside the adapter you've trained.
