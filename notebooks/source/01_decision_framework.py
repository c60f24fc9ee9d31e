# %% [markdown]
# # 01 · Prompt, retrieve, fine-tune, or all three?
#
# {{badges}}
#
# *"How often should I descale my Corvane kettle?"* A shop wants a program that answers such messages, in a
# form that its other programs can read. One colleague says: write a better prompt. Another says: give the
# model our catalogue. A third says: {{term:fine-tuning|fine-tune}} the model, that is, train it further on
# examples of our own. This lesson gives you three questions that decide what to try first. Then it tests
# every answer on this one task.

# %%
# INSTALL: rag,server

# %%
from course_utils import charts, evaluation, evidence, models, plans, show
from course_utils import training
from course_utils.data_prep import load_catalogue
from course_utils.decision import APPROACHES, decide
from course_utils.evidence import lesson_01
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import numpy as np

plan = plans.plan("01")
lesson_01.picture()

# %% [markdown]
# The figure shows where we are going. {{term:RAG}} ({{term:retrieval|retrieval}}-augmented generation) looks the
# facts up and puts them into the prompt: the model then knows more, but still writes as it likes. A trained
# model writes what the program needs, but does not know the facts.
#
# Look at the marks for *usable*: answers in which both the fact and the record around it (form, topic and
# product) are right. Two of the five ways give more than half usable answers: training with retrieval, and,
# without any training, retrieval with similar answered messages as examples. Section 7 tests how much of the
# first carries over to products that the model never saw; section 5 shows a catch in the second. The line
# through each mark is its {{term:confidence interval|95 % interval}}, the range in which the true share plausibly
# lies.
#
# By the end you will be able to
#
# - decide with three questions what to try first, and say what would change the decision,
# - sort wrong answers by what caused them, and name the tool for each cause,
# - give a prompt its best form, and measure it before anybody trains anything,
# - measure a search before you judge answers, and know when the whole text belongs in the prompt,
# - tell what training changes in a model and what it does not, even when the facts change,
# - compute the number of requests a day from which fine-tuning pays, and find the cheapest plan that is good enough.
#
# You should have called a language model's API before, but need not have trained anything. Reading takes
# about 60 minutes, and the exercises about as long again. The lesson also tells you when the other five are
# worth your time. If a cell fails, run `course doctor` in a terminal: it says what is missing.
#
# {{timing}} The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All empties every
# output before it fills it again, and `course restore 01` in a terminal brings the recorded page back.

# %% [markdown]
# ## 1 · Three questions decide
#
# A new colleague at the shop can fail a customer in two ways. Perhaps she does not know how long the
# guarantee of this lamp is: hand her the manual. Or she knows, but writes a page of pleasantries where the
# form has one line: the manual does not help, practice does.
#
# A model fails in the same two ways: for lack of *knowledge*, or by its *behaviour*. Retrieval is the manual,
# opened at the right page. Fine-tuning is the training course: it costs time once and changes how she works,
# but facts learned there go out of date.
#
# Before either, you would simply *tell* her what you want and show her how similar customers were answered.
# That gives the order of the questions:

# %%
show.drawing("decision-tree")

# %% [markdown]
# | approach | when | what it costs | best for |
# | --- | --- | --- | --- |
# | prompt | always first: an afternoon to try, a minute to undo; with similar past answers as examples, if you have any | almost nothing to set up; every call carries instructions and examples | format hints, tone, persona, recurring questions |
# | RAG | facts are missing | an index to build and keep, longer prompts | facts that change, catalogues, rules, citations |
# | fine-tuning | the model knows, but acts wrongly | examples and training once, then short prompts | format, style, the jargon of a field |
# | all together | both are missing, at scale | the most to set up | many requests, changing facts, a fixed form |
#
# The helper `decide` is the same tree as a function. It also asks how often things change, how many requests
# come and where the data may go. Suppose that the model behaves wrongly, the best prompt gets 60 % of the
# test messages right, and there are 300 good examples.

# %%
decide("behaviour", prompt_reaches=0.6, examples=300, requests_a_day=500)

# %% [markdown]
# Read the last list first: *what would change it*. A recommendation without that list is an opinion. In the
# next cell, set the same function to a project of your own.

# %%
show.calculator("decision")

# %% [markdown]
# The two limits in the tree, 85 % of the test messages right and 100 examples, are common rules of thumb. Section 6
# looks at the second; section 8 replaces the first by a sum for your own project.
#
# **Your turn.** In all exercises you may use Python's standard library, NumPy, PyTorch, pandas and SciPy, but
# no library that does the exercise for you. Check as often as you like. In this one, somebody wrote the tree
# as a function, in a hurry.

# %%
# EXERCISE: frame-1

# %% [markdown]
# ## 2 · Four companies: you decide
#
# It is easy to nod at a tree, so decide these four cases before you reveal the helper's answer. The companies
# are invented.
#
# **Support triage.** A telephone company sorts 30,000 messages a day into 14 queues. The best prompt,
# with rules but without past messages, sorts 72 % of them right. Nothing is missing from the messages, and the queues have been the same for years. People
# have sorted 2,400 messages with care. A customer waits while the sorting runs.

# %%
triage = predict("What would you try for the 14 queues?", choices=APPROACHES)
triage

# %%
decision = decide(
    "behaviour", prompt_reaches=0.72, examples=2400, requests_a_day=30_000, latency="tight"
)
triage.reveal(decision.approach, source="the helper")

# %% [markdown]
# Fine-tuning. The model can read the messages, but sorts them by its own idea of the queues. There are enough
# examples, and the queues do not change. But first try two cheaper ways with the same examples: show the
# model the most similar sorted messages (section 4), and train an ordinary text classifier, since a queue is
# only one of fourteen labels.
#
# **Contract clauses.** A law firm checks contracts against its own handbook, which changes every month or so. Answers must
# cite the page. The best prompt gets 55 % right: the model lacks the handbook, and it writes essays where a finding was asked
# for. There are 40 good examples and 150 contracts a day, and nothing may leave the building.

# %%
clauses = predict("What would you try for the contracts?", choices=APPROACHES)
clauses

# %%
decision = decide(
    "both", prompt_reaches=0.55, facts_change="monthly", examples=40,
    requests_a_day=150, own_machines=True,
)
clauses.reveal(decision.approach, source="the helper")

# %% [markdown]
# RAG, and no training yet. Forty examples are too few to train on, so the best of them go into the prompt.
# With a hundred good examples the helper would say "rag + fine-tune". Nothing may leave the building, so the
# model must be an {{term:open-weight model}}, one that you can download and run yourself.
#
# **Internal search.** A hospital's staff ask 3,000 questions a day about duty rosters and rules that change daily. The prompt
# alone gets 35 % right. Answers in plain sentences are fine. There are 500 old questions with checked answers, and somebody
# suggests training on them.

# %%
search = predict("What would you try for the rosters?", choices=APPROACHES)
search

# %%
decision = decide(
    "knowledge", prompt_reaches=0.35, facts_change="daily", examples=500, requests_a_day=3000
)
search.reveal(decision.approach, source="the helper")

# %% [markdown]
# RAG. A model trained on the 500 answers would know only what was true last week. But keep them: their
# questions are a good test of the search.
#
# **Brand voice.** A maker of outdoor gear wants product texts that sound like its own. Editors accept 88 % of what the best
# prompt writes without touching it. There are 300 accepted texts, and 60 new ones a day.

# %%
voice = predict("What would you try for the product texts?", choices=APPROACHES)
voice

# %%
decision = decide("behaviour", prompt_reaches=0.88, examples=300, requests_a_day=60)
voice.reveal(decision.approach, source="the helper")

# %% [markdown]
# Keep the prompt. Voice *is* behaviour, and 300 examples would be enough. But only seven of the 60 texts a
# day need an editor's hand. Whether that justifies training depends on the cost of a correction; section 8
# shows the sum.
#
# Four cases, three different answers. Four things decided: what is missing, how far the prompt gets, how many
# good examples there are, and how often the target moves. What is missing is the hardest to know; the next
# section is about that.

# %% [markdown]
# ## 3 · Look at twenty wrong answers
#
# The tree asks what is missing. To find out, look at wrong answers. Every answer is the end of a chain: there
# has to be a source, the right passage has to be found, the model has to use it well, and the answer has to
# have the right format. Take twenty wrong answers and ask of each where the chain broke first. It is an hour
# well spent.

# %%
show.drawing("error-chain")

# %% [markdown]
# Here is one by hand. A customer asks for the number of the key to the drawer of the Thackle desk. The model
# was shown the right passage, so neither knowledge nor retrieval failed. It writes "The key to the drawer of
# the Thackle desk is number 315." The fact is right, but the program wanted a record, not a sentence. So the
# cause is the *format*, and the first thing to try is a schema (section 4).
#
# The chain as code. Where the message itself holds all that a right answer needs, as in the triage of section 2,
# `needed` is `None`, and a wrong answer can only be a matter of format or behaviour.

# %%
def cause(shown, needed, content_right):
    """Why an answer is wrong: the first link that broke. Passages are given by their titles."""
    if needed and shown is None:
        return "knowledge"
    if needed and shown != needed:
        return "retrieval"
    return "format" if content_right else "behaviour"


# %% [markdown]
# Now you: sort at least ten. These are real answers of this lesson's small model, which had instructions and
# three examples, sometimes also a passage that a search had found. "Right" is the fact that the record should
# have held. We picked them so that every cause occurs; your own counts will differ.

# %%
wrong = lesson_01.wrong_answers()
sorting = show.sort([
    {"customer": w.question, "passage shown": w.shown or "none", "passage needed": w.needed,
     "answer": w.answer.replace("\n", " ")[:150], "right": str(w.record["answer"])}
    for w in wrong
], lesson_01.CAUSES)
sorting

# %%
sorting.reveal([cause(w.shown, w.needed, w.content_right) for w in wrong])

# %% [markdown]
# Where you and the function disagree, compare "passage shown" with "passage needed" again: without the right
# passage, the model had no chance. Now count the causes.

# %%
lesson_01.causes_table(wrong)

# %% [markdown]
# Read the last column: some of these answers need a better search, one needs only a schema, and some a
# trained model. So "should we fine-tune?" is the wrong question to start with.
#
# In your own twenty, fix the link that broke most often, then measure and sort again: a wrong format may only
# show once the passage is right.

# %% [markdown]
# ## 4 · Branch one: a better prompt
#
# How far does a better prompt get you? To find out we need a task and a measure. Our shop, Tarnbrook, is
# invented, so no model can know its catalogue. A customer asks for a fact, and the answer must be a record
# with topic, product and fact.
#
# We score *the fact* and *the record* (form, topic and product). A wrong record is a matter of behaviour; a
# wrong fact can come from missing knowledge, from the search, or from reading badly. An answer with both
# right is *usable*. In free text a fact counts as right if it appears there word for word, so an answer that names
# the right price and a wrong one beside it also counts.

# %%
catalogue = load_catalogue()
questions = catalogue.questions
model, tokenizer = models.load()
print(f"{len(questions)} questions about {len(catalogue.versions[1])} passages; "
      f"a model of {model.num_parameters() / 1e6:,.0f} million parameters")
few = questions[:: len(questions) // plan.looked_at][: plan.looked_at]


def ask(prompts, asked, model=model):
    """The model's answers, and how good they are."""
    answers = generate(model, tokenizer, prompts, max_new_tokens=plan.answer_tokens)
    return answers, catalogue.evaluate(answers, asked)


# %% [markdown]
# {{term:parameter|Parameters}} are the numbers that a model consists of. This model is tiny, so that it runs
# on any computer. Its results do not speak for large models; for those, section 7 cites what others have
# measured.
#
# What can a better prompt fix: the format, the judgement about what goes in each field, or the facts? We compare four prompts:
#
# 1. the message alone;
# 2. instructions, then the message ({{term:zero-shot}});
# 3. instructions with three fixed examples ({{term:few-shot}});
# 4. instructions with three *retrieved* examples: of 300 answered messages, the three that are most like the new one.

# %%
prompts = {
    name: lesson_01.prompts(key, catalogue, few)
    for name, key in list(lesson_01.SYSTEMS.items())[:5] if "structured" not in key
}
guess = predict("With three fixed examples, how many of 100 answers are a valid record?")
guess

# %%
guess.reveal(100 * lesson_01.score("instructions and three examples", "valid form").value)

# %% [markdown]
# That figure was recorded with this model on all 100 questions. Now a few answers live: eight messages show
# *what* goes wrong; to say how often, you need a hundred. First, the third prompt.

# %%
names = ["message alone", "instructions and three examples", "retrieved examples"]
show.table({
    f"{number}, {message['role']}": {"text": message["content"]}
    for number, message in enumerate(prompts["instructions and three examples"][0], 1)
}, caption="The third prompt, for the first message", of="message")

# %% [markdown]
# The fourth prompt has the same instructions, but its three examples are chosen anew for each message. Now
# the answers.

# %%
answers = {name: ask(prompts[name], few)[0] for name in names}
show.answers(
    [q["question"] for q in few[:3]],
    {name: answers[name][:3] for name in names},
    [catalogue.record(q) for q in few[:3]],
)

# %% [markdown]
# Compare the answers on each card. Fixed examples give about half of this small model's answers the right
# *form*; instructions alone give it to none. But fixed examples improve neither the judgement nor the facts.
# Retrieved examples can improve all three, because an answered message about the same thing holds topic,
# product *and* fact.
#
# So a file of good past answers is a small knowledge base, limited to what somebody has asked before. Ours is
# the best case: every fact has already been asked for in another wording. Section 7 says how far that gets.
#
# **The form for free.** The form can be enforced. A model writes one {{term:token}} (a piece of a word) at a
# time, and before each it scores every token it knows. {{term:constrained decoding|Constrained decoding}}
# crosses out all tokens after which the answer could no longer become a valid record, and takes the best of
# the rest. Here are three places of our record:
#
# | so far | what the model might like best | what is allowed |
# | --- | --- | --- |
# | (nothing) | `The` | `{` |
# | `{"topic": "` | `kettle` | `product`, `delivery`, `returns`, `payment`, `account`, `service` |
# | `{"topic": "product", "product": ` | `Corvane` | any text in quotation marks, or `null` |
#
# Hosts call this {{term:structured output}}: you send a schema with the request. Here are the prompts with
# three examples again, now with a schema for the shop's record.

# %%
from course_utils.data_prep.catalogue import SCHEMA
from course_utils.openai_server.constrained import generate_in_schema

with_examples = prompts["instructions and three examples"]
forced = generate_in_schema(model, tokenizer, with_examples, SCHEMA, plan.answer_tokens + 16)
quality = {"free": catalogue.evaluate(answers["instructions and three examples"], few),
           "under the schema": catalogue.evaluate(forced, few)}
show.table({
    name: {"valid form": q.valid, "right record": q.behaviour, "right fact": q.knowledge}
    for name, q in quality.items()
}, caption=f"{len(few)} messages", of="decoding")

# %% [markdown]
# Look at the first column: the schema guarantees the form, unless an answer reaches its token limit. (Ours sets no
# limit to the length of a text, so some recorded answers run on until they are cut off or too long for a fact. In
# your own schema set one.) Expect little in the other two columns: a schema knows which topics
# exist, not which one is right. But if valid JSON is *all* you want, you get it without any training.
#
# **Do you measure enough?** Suppose your prompt got 17 of 20 messages right, which is 85 %. Has it reached the limit of the
# tree?

# %%
guess = predict("How low could its true share well be, in %?")
guess

# %%
twenty, hundred = (evaluation.proportion([1] * right + [0] * (n - right))
                   for right, n in ((17, 20), (85, 100)))
guess.reveal(round(100 * twenty.low), source="computed")

# %%
show.table({"17 of 20": {"share": twenty}, "85 of 100": {"share": hundred}}, of="right answers")

# %% [markdown]
# Twenty messages cannot tell: the range in brackets reaches from well below the limit to well above it. With
# a hundred messages it is less than half as wide. So the first thing to build is not a model but a set of a
# hundred real messages with right answers.
#
# **The job.** This program measures a prompt on such a set, with any model behind an OpenAI-compatible
# address, and prints the wrong answers for you to sort. It needs nothing from this course, but it needs a
# key, so it is not run here.
#
# ```python
# import json, re
# from math import sqrt
# from openai import OpenAI
#
# client = OpenAI()                    # OPENAI_API_KEY; OPENAI_BASE_URL for another host
# instructions = open("prompt.txt").read()
# cases = [json.loads(line) for line in open("cases.jsonl")]      # {"question": ..., "answer": ...}
# right = 0
# for case in cases:
#     reply = client.chat.completions.create(model="gpt-6-luna", messages=[
#         {"role": "system", "content": instructions}, {"role": "user", "content": case["question"]}])
#     text = reply.choices[0].message.content or ""
#     fact = re.escape(case["answer"])                            # the next line: not 6 days in 16, not 5 in 1.5
#     hit = re.search(rf"(?<![\w.,]){fact}(?![.,]?\d|\w)", text, re.IGNORECASE)
#     right += hit is not None
#     if not hit:
#         print(case["question"], "->", text)                     # the wrong ones, to sort
# n, p, z = len(cases), right / len(cases), 1.96
# middle, half = p + z*z / (2*n), z * sqrt(p * (1-p) / n + z*z / (4*n*n))
# low, high = ((middle + sign * half) / (1 + z*z / n) for sign in (-1, 1))
# print(f"{100*p:.0f} % right; 95 % interval {100*low:.0f} to {100*high:.0f} %")
# ```
#
# A hit means only that the text occurs: "not 19 days" counts as well. So read twenty hits too. If your answers are
# records, replace the line with `re.search` by `json.loads` within a `try`, and compare field by field.
#
# <details><summary><b>Similar past answers as examples, for the same program</b></summary>
#
# Put these lines before the loop, and `messages=messages(case["question"])` into the call. The past messages must not be
# among the cases.
#
# ```python
# from sklearn.feature_extraction.text import TfidfVectorizer
#
# past = [json.loads(line) for line in open("answered.jsonl")]    # {"question": ..., "answer": ...}
# words = TfidfVectorizer(sublinear_tf=True).fit(row["question"] for row in past)
# known = words.transform(row["question"] for row in past)
#
# def messages(question, count=3):
#     alike = (known @ words.transform([question]).T).toarray().ravel()
#     turns = [{"role": "system", "content": instructions}]
#     for number in alike.argsort()[::-1][:count]:                # the most similar first
#         turns += [{"role": "user", "content": past[number]["question"]},
#                   {"role": "assistant", "content": past[number]["answer"]}]
#     return [*turns, {"role": "user", "content": question}]
# ```
#
# </details>

# %% [markdown]
# ## 5 · Branch two: look the facts up
#
# Some of the twenty wrong answers lacked the facts. Before you judge a single answer with RAG, measure the
# search alone: no model can read a passage that was not found.
#
# **How does a search find a passage?** By words or by meaning. {{term:BM25}} adds up the words that question
# and passage share, and a rare word counts more. A word that $n$ of the $N$ passages contain counts
#
# $$\ln\Big(1 + \frac{N - n + 0.5}{n + 0.5}\Big).$$
#
# The catalogue has 72 passages. "Hobbin" is in one of them and counts $\ln(1 + 71.5 / 1.5) = 3.9$. A word that is in forty of
# them counts $\ln(1 + 32.5 / 40.5) = 0.6$. BM25 also considers how often the word appears and how long the
# passage is.
#
# That works as long as customers use the shop's words. This customer does not: *"my hobbin has gone dull and
# just chews the privet. how much do you lot ask for sharpening"*. The right passage says that *blades are
# ground at our workshop*. It shares the rare word and little else, so "How a return travels", with many of
# the small words, comes out ahead.
#
# A *dense* search goes by meaning: it turns both texts into lists of numbers ({{term:embedding|embeddings}})
# that lie close together when the meanings do. It finds the right passage, the hedge trimmer's.

# %%
guess = predict("For how many of 100 questions is the first hit of BM25 the right passage?")
guess

# %%
from course_utils.retrieval import Retriever, recalled

asked, wanted = [q["question"] for q in questions], [q["passage"] for q in questions]
hits = {}
for method in ("bm25", "dense", "hybrid"):
    index = Retriever(catalogue.versions[1], method)
    hits[method] = {f"among the first {k}": recalled(index, asked, wanted, k) for k in (1, 3)}
guess.reveal(sum(hits["bm25"]["among the first 1"]))

# %%
charts.shares({
    method: {k: evaluation.proportion(found) for k, found in row.items()}
    for method, row in hits.items()
}, "How often is the right passage found?")

# %% [markdown]
# Compare the marks for the first hit: dense search finds more, mostly for questions in customers' own words
# (section 9); mixing it with BM25 (*hybrid*) adds nothing. This share is called
# {{term:precision and recall|recall}}: of all right passages, how many were found? It limits everything that
# follows: where the search fails, the answer is wrong unless the fact reaches the model in another way.
#
# **Is a second look worth it?** {{term:reranking|Reranking}} puts the first hits into a better order with a
# slower model. It cannot add a passage, so the most that a reranker of three hits could gain here is the gap
# between the two marks of the dense search: a few points. We go without. In practice a reranker gets twenty to
# fifty hits, and with thousands of similar passages the gap can be wide. Measure it before you decide.

# %%
# EXERCISE: frame-2

# %% [markdown]
# **Now the answers.** A fair test of RAG asks in five ways:
#
# - for the fact alone, which is easiest;
# - for the record that the program needs, with three fixed examples;
# - for the record under the schema;
# - for the record with the retrieved examples of section 4, each with its passage, which may be the needed one;
# - the same, without examples about the fact that is asked for.

# %%
lesson_01.rivals_figure(
    ["RAG, asked for the fact alone", "RAG, asked for the record",
     "RAG, record, structured output", "RAG, retrieved examples",
     "RAG, examples about other facts"],
    "The same search, asked for in five ways",
)

# %% [markdown]
# Read the right facts from the top. Asked for the fact alone, the small model gets about a third right. Asked
# for fact and form at once, it loses half of those, and the schema helps only the form.
#
# Retrieved examples look like the solution, until you read the last row. In our file somebody has asked for
# every fact before, so one of the three examples often *contains* the fact. The last row leaves such examples
# out. The others teach only form and reading: something, but not enough.
#
# The search had the right passage for 85 of 100 questions, so most wrong facts were *misread*. Expect a larger
# model to misread less. But the order in which answers get lost is worth remembering at any size: not found,
# found and misread, too much asked at once.
#
# **The rival that needs no index.** The whole catalogue is short. Why search, if everything fits into the
# prompt? Every call would pay for the whole text. But hosts keep what they computed for the beginning of a
# prompt, and bill the same beginning at a fraction of the price the next time ({{term:prompt caching}}). The
# beginning must have a minimum length: the fixed part of a prompt with one passage is too short, the
# catalogue is long enough.

# %%
guess = predict("With a large model, 1,000 requests: which is cheaper?",
                choices=("one retrieved passage", "the whole catalogue, cached"))
guess

# %%
tokens = lesson_01.token_counts(tokenizer, catalogue)
dollars = lesson_01.knowledge_costs(tokens)["gpt-6.2-sol"]
rag, whole = dollars["RAG, asked for the record"], dollars["whole catalogue in the prompt"]
guess.reveal("the whole catalogue, cached" if whole < rag else "one retrieved passage",
             source="at the prices of section 8")

# %%
lesson_01.knowledge_costs_table(tokens)

# %% [markdown]
# Compare the first two columns of prices: with the most expensive models the cached catalogue costs less than
# the usual RAG prompt, with the others about the same. It needs no index, and no search can miss.
#
# But the last column gives RAG its best form too: with further examples in its fixed part, until the cache
# takes it, the *longer* prompt is the cheapest of all. So check your provider's cache rules before you decide
# by length.
#
# The whole text has other drawbacks:
#
# - Requests must come every few minutes, or the cache is cold and the full price is due.
# - Ten times the text costs ten times as much, and it must fit the {{term:context window}}, the longest input that a model takes.
# - Models find facts in the middle of a long prompt less reliably than at its ends (Liu et al., 2023, arXiv 2307.03172).
#
# Still, if your text is short, try the whole text first: it takes an hour.

# %% [markdown]
# ## 6 · Branch three: train the behaviour
#
# What if the facts are there and the answers are still not what you need? Then you train the model on
# examples of good answers. Ours are other wordings of the same questions, each with the right record: 100 as
# they are, and 60 more with the passage before them, so that the model learns to *read*. They contain no
# instructions: a good answer is shown, not described. The facts of the test do occur in them; section 7
# checks whether that is why the model answers well. One example:

# %%
alone, with_passage = lesson_01.training_examples(catalogue)
example = with_passage[-1]
show.answers([example[1]["content"]], {"answer to learn": [example[2]["content"]]}, longest=600)

# %% [markdown]
# We train a {{term:LoRA}} {{term:adapter}}, a small set of numbers beside the model's own. Lesson 02 explains
# it. The model sees each of the {{record:framework:examples:d}} examples once, four at a time, which takes a minute or two. (Training
# changes the model in place: to repeat section 4 afterwards, restart the kernel.)

# %%
from peft import LoraConfig, get_peft_model

tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
settings = training.Settings(
    learning_rate=plan.learning_rate, batch_size=plan.batch_size, warmup_steps=5
)
history = training.fit(tuned, tokenizer, [*alone, *with_passage], settings=settings)
tuned.merge_adapter()                     # folded into the model, so that answering costs no more
history.plot("One pass over 160 examples")

# %% [markdown]
# The {{term:loss}} says how surprised the model was by the right answers, just before it learned from them:
# the lower, the better. It falls fast at first and then stays level. Only new questions can tell whether the
# answers get better.

# %%
guess = predict("Asked without any instruction: what share of the answers is a valid record?", unit="%")
guess

# %%
some = questions[:: len(questions) // plan.asked][: plan.asked]
trained, quality_alone = ask(lesson_01.prompts("fine-tuned", catalogue, some), some, tuned)
guess.reveal(100 * quality_alone.valid.value)

# %%
show.answers(
    [q["question"] for q in some[:2]],
    {"fine-tuned, no instructions": trained[:2]},
    [catalogue.record(q) for q in some[:2]],
)

# %% [markdown]
# Form, topic and product are mostly right, although nobody told the model what a record is. Now compare the
# fact with the right one. The model has learned that an answer looks like "26 days", and makes up something
# similar: one pass taught it what answers look like, not what is true. To expect facts from training may be
# the most expensive misunderstanding about fine-tuning.
#
# **What does training save?** The instructions and examples no longer travel with each call. Does that save
# money? The cards from here on show claims that circulate, and what we found; their folds say on what it was
# measured, and when.

# %%
evidence.card("D2")

# %% [markdown]
# So the saving depends on whether the tokens were paid in full. Look up your host's caching rule first.
#
# **How few examples are enough?** The tree asks for a hundred. The next figure compares
# {{term:training set|training sets}} of three sizes, all trained for the same number of {{term:step|steps}}
# and tested on facts that none of them contains. Each was trained with three {{term:seed|seeds}}, the numbers
# from which the random choices of a run start.

# %%
lesson_01.sizes_figure()

# %% [markdown]
# Look at the valid form first: two dozen examples teach it. Then look at the other two marks, the right
# records: the smallest set is perfect on its own examples, but not on others. Learning the examples instead
# of the rule is called {{term:overfitting}}.
#
# With more examples the two marks come closer, partly because each was seen less often and is no longer known
# by heart. Our three sizes cannot say where a threshold lies, or whether there is one.

# %%
evidence.card("D4")

# %% [markdown]
# So how many do *you* need? Train on a quarter, a half and all of your examples, and test on others. As long
# as the share of right answers rises, more examples will probably help.

# %% [markdown]
# ## 7 · Both together, and what happens when facts change
#
# RAG alone lacks the behaviour, training alone lacks the facts. So give the trained model the passage.

# %%
guess = predict("Facts right with RAG and training together, in %? (RAG alone: about a third)")
guess

# %%
both, quality_both = ask(lesson_01.prompts("fine-tuned + RAG", catalogue, some), some, tuned)
guess.reveal(100 * quality_both.knowledge.value)

# %%
lesson_01.rivals(tokens)

# %% [markdown]
# Read the column "usable" from the top. One row without any training, *RAG, retrieved examples*, comes close
# to the best. Are the two different? Overlapping intervals do not answer that, because both systems had the
# same easy and hard questions. So compare them question by question.
#
# (Your live figure above came from one run and fewer questions, so it differs.)

# %%
lesson_01.differences()

# %% [markdown]
# The first row settles nothing: its interval includes zero. (The prompt could choose its examples from 300 answered
# messages, the training saw {{record:framework:examples:d}}.) So where customers repeat themselves, a file of
# good answers may be enough: if it is good enough on your task, stop there. It has two limits. A question
# that nobody has asked before gets only the next row of the large table, *RAG, examples about other facts*.
# And the examples go out of date with the facts in them.
#
# The second row is clear: with the *same* passages, the model that was trained to read gets twice as many
# facts right. So training did help with facts: it taught the model to use what it is given.
#
# Is that reading, or memory? The model was trained on other wordings of the same questions. Alone it knows no
# fact, so it has not learned the answers, but it may have got used to these products and passages. The last
# row of the large table is the test: there, each question goes to a model trained without the product asked
# about and its passages. The last three rows of the small table compare this model with others:
#
# - It gets far more facts right than the untrained model with the same passages, and far more usable answers
#   than the untrained model with examples about other facts. So it has learned to read.
# - It gets fewer usable answers than the model trained on these products, so part of that model's result was
#   familiarity.
#
# For products that come into the shop tomorrow, expect the last row of the large table.
#
# The *whole catalogue* is too much for a model of this size. With a large model, try it before you train
# anything.
#
# **Then a supplier changes the catalogue.** RAG gets a new index. But what about a model that has learned the facts by heart?
# One pass over the examples did not teach facts; many passes do:

# %%
lesson_01.passes_table()

# %% [markdown]
# Compare the first two columns: facts *can* be trained in by repetition, but the model knows them best in the
# words in which it learned them. Now 38 of these facts change.

# %%
lesson_01.changes_figure()

# %% [markdown]
# Compare the two marks in each row. What was learned by heart is wrong from the day of the change, and
# nothing in the answer shows that. The model that was trained to *read* does as well as before, with values
# that did not exist when it was trained. Reading is a behaviour, and behaviour lasts.

# %%
evidence.card("D5")

# %% [markdown]
# Measure this in your own project: after an update, how many answers are right, and how many are stale?

# %%
# EXERCISE: frame-3

# %% [markdown]
# **And larger models?** Ours is about fifty times smaller than a model of 7 billion parameters. Here is what
# others have measured, beside our figures.

# %%
lesson_01.published()

# %% [markdown]
# Do our results point the same way? Row by row:
#
# 1. Only once our model is trained to read; untrained, it reads so badly that facts learned by heart overtake
#    RAG, unless past answers stand in the prompt.
# 2. This is no test: no model knows our shop.
# 3. Yes, as this section showed.
# 4. In part: what was trained in goes out of date. How hard it is to replace, we did not test. (This share is the
#    mean of three runs; the table of passes shows one.)
#
# In the last row do not expect much of so small a model, which was never meant to read thousands of tokens.
# Where the table says "not tested here", trust the source as far as you trust its author: one of them sells
# fine-tuning.
#
# Do you have a large model of your own? Before you start the notebook, set `COURSE_FRONTIER` to its name,
# `OPENAI_API_KEY` and, if it is not OpenAI's, `OPENAI_BASE_URL`. On Colab, enter them as *secrets* instead
# (the key symbol on the left), and let this notebook read them. The next cell then sends your model forty
# requests with invented content.

# %% tags=["frontier"]
lesson_01.frontier(catalogue)

# %% [markdown]
# Without such a model, go on: the rest of the lesson does not need one.

# %% [markdown]
# ## 8 · What it costs
#
# You pay for training once, for prompts on every call. So there is a number of requests a day from which
# training pays, the *break-even*.
#
# First one request, by hand. A large model costs {{fact:prices:"gpt-6.2-sol".input:g}} dollars for a million tokens of input and {{fact:prices:"gpt-6.2-sol".output:g}} for output. A
# prompt of 400 tokens and an answer of 25 cost
#
# $$400 · \frac{2}{10^6} + 25 · \frac{10}{10^6} = 0.00105 \text{ dollars.}$$
#
# With the small fine-tuned model, at {{fact:prices:qwen3-8b.input:g}} and {{fact:prices:qwen3-8b.output:.2f}} dollars and with a prompt of 140 tokens, a request costs
# 0.00004 dollars. So each request saves a tenth of a cent.
#
# On the other side are 40 hours of work on examples and tests. At 80 dollars an hour these cost 3,200
# dollars, as much as three million requests save: some 9,000 a day for a year. The picture does this sum with
# the exact numbers of this lesson, the form below it with yours. Both also count a second training within the year, which adds
# eight hours. (Its tokens are those of our small model's {{term:tokenizer}}; other models cut text a little otherwise.)

# %%
chosen = lesson_01.assumptions(tokens)
lesson_01.cost_figure(chosen)

# %%
show.calculator("costs", **vars(chosen))

# %% [markdown]
# The picture's title gives the break-even against the large model. Look at the small model with the long prompt too: if
# it is good enough for your task, it stays the cheapest far beyond the break-even. You pay for a GPU of your
# own around the clock, whether requests come or not, so it wins only at volumes that few of us have.
#
# Change one assumption in the form at a time and watch the break-even move. Two matter most: the model that you compare
# with, and the hours of work. The price of the training run itself hardly shows. These are the prices behind
# the figure, per token.

# %%
lesson_01.prices()

# %% [markdown]
# Look at the column "new tuning jobs" before you plan with a price: four of the five tunable models stop taking jobs. A GPU of
# your own is rented by the hour:

# %%
lesson_01.gpu_prices()

# %% [markdown]
# Each price has its date, because prices change fast: check them again before you decide.
#
# **How many times cheaper is the fine-tuned model, and how much of that is due to fine-tuning?** A
# {{term:frontier model}} is one of the largest of its day. Part of the saving against it comes only from the
# smaller model, which you could prompt as well.

# %%
lesson_01.factors_table(chosen)

# %%
evidence.card("D1")

# %% [markdown]
# Against the largest models the factor is large. Against the smallest models of the same vendors it almost vanishes: try one of those, with your best prompt, before you train
# anything.
#
# **Your prompt reaches 87 %. Is it worth fine-tuning for the rest?** That depends on what one error costs you. Suppose that
# the small model, fine-tuned, makes half as many errors as the large one with your prompt. (Nothing here shows that it
# does. It may make more: measure it on your task.)

# %%
guess = predict("At 1,000 requests a day, what must one error cost before it pays?", unit="dollars")
guess

# %%
guess.reveal(round(lesson_01.price_of_an_error(chosen)[1000], 2), source="computed")

# %%
evidence.card("D3")

# %% [markdown]
# So at 85 %, stop and compute. The same prompt to the same large model is good enough at ten requests a day
# and a waste of money at a hundred thousand. There, replace the model: by a small one with the same prompt if
# that is good enough, else by a fine-tuned one.
#
# Now compute a break-even yourself.

# %%
# EXERCISE: frame-4

# %% [markdown]
# **Now the whole decision.** Find the cheapest plan that is good enough. The check answers at once, so try as
# many plans as you like.

# %%
# EXERCISE: frame-5

# %% [markdown]
# ## 9 · Common mistakes, shown failing
#
# **Deciding by ten questions.** On all 100 questions the dense search finds clearly more than BM25. Suppose
# that somebody shows only ten of them in a meeting. We draw ten at random, a thousand times. How often does
# BM25 look at least as good?

# %%
bm25, dense = (np.array(hits[name]["among the first 1"]) for name in ("bm25", "dense"))
draws = np.random.default_rng(0).integers(0, len(questions), (1000, 10))
fooled = np.mean(bm25[draws].sum(axis=1) >= dense[draws].sum(axis=1))
print(f"all {len(questions)}: {bm25.sum()} against {dense.sum()}; "
      f"with ten, BM25 looks at least as good in {100 * fooled:.0f} % of the draws")

# %% [markdown]
# In that share of the meetings the worse search would have won or tied, and nothing would have looked wrong.
#
# **Testing the search with the catalogue's own words.** If you write test questions with the passage open beside you, you write
# the passage's words.

# %%
plain = np.array([not q["paraphrase"] for q in questions])
show.table({
    name: {"question in the shop's words": evaluation.proportion(found[plain]),
           "in the customer's own": evaluation.proportion(found[~plain])}
    for name, found in (("bm25", bm25), ("dense", dense))
}, caption="Right passage first", of="search")

# %% [markdown]
# The first column cannot tell the two searches apart. In the second, dense search is clearly ahead: those
# questions were written without looking at the passage. Take your own test questions from your inbox.
#
# **Trusting an answer because it has a source.** We look for each answer, word for word, in the passage that was shown:

# %%
from course_utils.retrieval import cite

index = Retriever(catalogue.versions[1], "dense")
found = index.search_all([q["question"] for q in some], 1)
texts = [(evaluation.parse_record(text, SCHEMA) or {"answer": text})["answer"] for text in both]
has_source = [cite(text, hit) is not None for text, hit in zip(texts, found)]
right = [knows for _, _, knows in quality_both.rows]
print(f"{sum(has_source)} of {len(some)} answers are in their passage, word for word; "
      f"{sum(s and not r for s, r in zip(has_source, right))} of these are wrong")

# %% [markdown]
# A wrong answer with a source is a value from the right passage that belongs to something else, or a value from a wrong
# passage. A citation is a place to look, not a proof.
#
# **Testing with the training questions.** In section 7, after many passes, the model knew far more facts in
# the trained wordings than in others. A test that repeats the training questions measures only the trained
# wordings.

# %% [markdown]
# ## 10 · What you can do now
#
# | you see | do |
# | --- | --- |
# | nobody has measured anything | a hundred real messages with right answers; then the program of section 4 |
# | a prompt that reaches about 85 % | keep it for now; compute what the rest is worth |
# | wrong form only | structured output |
# | facts missing, text short | the whole text in a cached prompt; measure |
# | facts missing, text long or changing | RAG; measure recall before answers |
# | facts there, used wrongly | good past answers as retrieved examples, then fine-tuning with 100 or more |
# | both | RAG, then training on examples *with* passages |
# | facts that change | never trained in; always looked up |
# | "it looked better in the demo" | a hundred messages and an interval |
#
# **The claims of this lesson**, with their verdicts. Open a row to see why.

# %%
evidence.summary("D1", "D2", "D3", "D4", "D5")

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("01")

# %% [markdown]
# **Your own case.** Here is the helper once more. This time it also quotes the measurements behind its
# reasons.

# %%
show.calculator("decision", evidence=lesson_01.sentences(chosen), assumptions=chosen)

# %% [markdown]
# Whatever it recommends, begin with twenty wrong answers. The last exercise turns section 3 into a program that sorts them.

# %%
# EXERCISE: frame-6

# %% [markdown]
# {{words}}
#
# ## Further reading
#
# - Li et al. (2024), *Retrieval Augmented Generation or Long-Context LLMs?*, arXiv 2407.16833: when the whole text wins.
# - Ovadia et al. (2023), *Fine-Tuning or Retrieval?*, arXiv 2312.05934: facts by training, facts by looking up.
# - Zhao et al. (2024), *LoRA Land*, arXiv 2405.00732: many small trained models beside one large prompted one.
#
# Next, lesson 02 opens the adapter that you have trained.
