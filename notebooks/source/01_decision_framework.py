# %% [markdown]
# # 01 · Prompt, retrieve, fine-tune, or all three?
#
# {{badges}}
#
# *"How often should I descale my Corvane kettle?"* A shop wants a program that answers such messages, in a form that its
# other programs can read. One colleague says: write a better prompt. Another says: give the model our catalogue. A third says:
# {{term:fine-tuning|fine-tune}} it, that is, train the model further on examples of our own. Each of them has seen it work
# somewhere. This lesson gives you three questions that decide what to try first. Then it puts every answer to the test on
# this one task.
#
# <!-- assumes: JSON, JSONL -->

# %%
# INSTALL: rag,server

# %%
from course_utils import charts, drawings, evaluation, evidence, hardware, models, plans, show
from course_utils import training, widgets
from course_utils.data_prep import load_catalogue
from course_utils.decision import APPROACHES, decide
from course_utils.evidence import lesson_01
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.publishing.overview import overview
from course_utils.show import predict

import numpy as np

show.quiet()
lesson_01.picture()

# %% [markdown]
# That is where we are going. {{term:RAG}} ({{term:retrieval|retrieval}}-augmented generation) looks the facts up and puts
# them into the prompt: the model then knows more and still writes as it likes. Training makes it write what the program
# needs, and it still does not know the facts. An answer is *usable* if both are right: the fact, and the record around it (form, topic and product). Two of the five ways give more than half usable answers:
# training and retrieval together, and, without any training, retrieval with similar answered messages as examples. That one has
# a catch, which section 5 shows, and section 7 asks how much of the other carries over to products that it never saw. The line through each mark is the range in which the true share plausibly lies, its {{term:confidence interval|95 % interval}}.
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
# You should have called a language model's API before. You need not have trained anything. Reading takes about 30 minutes,
# and the exercises about as long again.
#
# {{timing}}

# %%
device = hardware.detect()
plan = plans.plan("01")
overview(device.tier)

# %% [markdown]
# The table shows the whole course. Each lesson is a notebook that runs from top to bottom. You are in the first, which tells
# you when the others are worth your time. If a cell fails, run `course doctor` in a terminal: it says what is missing.

# %% [markdown]
# ## 1 · Three questions decide
#
# A new colleague at the shop can fail a customer in two ways. Perhaps she does not know how long the guarantee of this lamp
# is: hand her the manual. Or she knows, but writes a page of pleasantries where the form has one line. The manual does not
# help against that; practice does. A model fails in the same two ways, for lack of *knowledge* or by its *behaviour*.
# Retrieval is the manual, opened at the right page for each question. Fine-tuning is the training course: it changes how she
# works, it costs time once, and whatever facts she learned by heart there go out of date.
#
# Before either, you would simply *tell* her what you want, and show her how similar customers were answered. So this is the order
# of the questions:

# %%
drawings.decision_tree()

# %% [markdown]
# | approach | when | what it costs | best for |
# | --- | --- | --- | --- |
# | prompt | always first: an afternoon to try, a minute to undo; with similar past answers as examples, if you have any | almost nothing to set up; every call carries instructions and examples | format hints, tone, persona, recurring questions |
# | RAG | facts are missing | an index to build and keep, longer prompts | facts that change, catalogues, rules, citations |
# | fine-tuning | it knows, but acts wrongly | examples and training once, then short prompts | format, style, the jargon of a field |
# | all together | both are missing, at scale | the most to set up | production |
#
# The same tree is a function. It also asks how often things change, how many requests come and where the data may go,
# and it gives its reasons. Here the model behaves wrongly, the best prompt gets 60 % of a set of test messages right, and there are 300 examples of good answers.

# %%
decide("behaviour", prompt_reaches=0.6, examples=300, requests_a_day=500)

# %% [markdown]
# Read the last list first: *what would change it*. A recommendation without that list is an opinion. Below is the function
# with a control for each question. Set it to a project that you are working on.

# %%
widgets.decision_helper()

# %% [markdown]
# The two limits in it, 85 % and 100 examples, are rules of thumb that circulate. Section 6 tests the second. In place of the first,
# section 8 puts a sum that you can do for your own project.
#
# **Your turn.** Somebody wrote the tree as a function, in a hurry.
# Here and in all lessons: an answer may use what Python brings and the general tools NumPy, PyTorch, pandas and SciPy, but no library that does
# the exercise for you. Checking it is free; try as often as you like.

# %%
# EXERCISE: frame-1

# %% [markdown]
# ## 2 · Four companies: you decide
#
# A tree is easy to nod at. Here are four cases; decide each before you run the next cell. The companies are invented, the
# kinds of situation are common.
#
# **Support triage.** A telephone company sorts 30,000 messages a day into 14 queues. The best prompt sorts 72 % of them right.
# Nothing is missing from the messages, and the queues have been the same for years. There are 2,400 messages that people have
# sorted with care. A customer waits while the sorting runs.

# %%
triage = predict("What would you try for the 14 queues?", choices=APPROACHES)
triage

# %%
decision = decide(
    "behaviour", prompt_reaches=0.72, examples=2400, requests_a_day=30_000, latency="tight"
)
triage.reveal(decision.approach, source="the helper")

# %% [markdown]
# Fine-tuning. The model can read the messages, but it sorts them by its own idea of the queues, not by the company's. The
# examples are there, and the target stays put. Try two cheaper ways on the same examples first, though: show the model the most
# similar sorted messages (section 4), and train an ordinary text classifier, since a queue is only one of fourteen labels.
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
# RAG, and no training yet. Forty examples are too few to train on, so the best of them go into the prompt, and some essays
# will remain for now. With a hundred good examples the helper would say "rag + fine-tune". Because nothing may leave the
# building, it would have to be an {{term:open-weight model}}, one that you can download and run yourself.
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
# RAG. The 500 answers are tempting, but what they teach was true last week. Keep them all the same: their questions are a
# good test of the search.
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
# Keep the prompt. Voice *is* behaviour, and 300 examples would be enough. But only seven texts a day need an editor's hand.
# Whether that justifies a second system depends on what one correction costs; section 8 shows how to compute it.
#
# Four cases, three different answers. Four things decided: what is missing, how far the prompt gets, how many good examples there
# are, and how often the target moves. The first of these is the hardest to know, and the next section is about it.

# %% [markdown]
# ## 3 · Look at twenty wrong answers
#
# The tree asks what is missing. How do you find out? Not by thinking about it. An answer is the end of a chain: there has to
# be a source, the right passage has to be found, the model has to use it well, and the answer has to have the right format.
# Take twenty wrong answers and ask of each where the chain broke first. It takes an hour, and it is hard to spend an hour
# better in such a project.

# %%
drawings.error_chain()

# %% [markdown]
# Take one by hand. A customer asks which number the key to the drawer of the Thackle desk has. The passage about the Thackle
# desk was shown, so neither knowledge nor retrieval failed. The model writes "The key to the drawer of the Thackle desk is
# number 315." The fact is right (what it adds after that is invented). But the program wanted a record, and these are sentences.
# The cause is the *format*, and for that there is a cure without any training.
#
# As code, the chain is a few lines.

# %%
def cause(shown, needed, content_right):
    """Why an answer is wrong: the first link that broke. Passages are given by their titles."""
    if shown is None:
        return "knowledge"
    if shown != needed:
        return "retrieval"
    return "format" if content_right else "behaviour"


# %% [markdown]
# Now you. These are real answers of the small model that this lesson uses. For some it had only instructions and three examples, for others also a passage that a search had found. We picked them so that every
# cause occurs; the counts in your own project will differ. "Right" is the fact that the record should have held. Sort at least ten.

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
# Where you and the function disagree, compare "passage shown" with "passage needed" once more: an answer that sounds wrong may
# have had no chance to be right. Now count the causes.

# %%
lesson_01.causes_table(wrong)

# %% [markdown]
# So "should we fine-tune?" is the wrong question to start with: some of these answers need a better search, one needs only a schema, and
# some a trained model. In your own twenty, fix the link that broke most often, measure again, and sort again: an answer that had the wrong passage may also have the wrong
# format, and you only see that once the passage is right.
#
# The next three sections take the branches of the tree one by one, all on the same task.

# %% [markdown]
# ## 4 · Branch one: a better prompt
#
# How far does asking get you? To find out we need a task and a measure. The shop is invented and called Tarnbrook, so no model
# can know its catalogue. A customer asks for a fact, and the answer must be a record with topic, product and fact. We score
# *the fact* and *the record* (form, topic and product). A wrong record is a matter of behaviour; a wrong fact can come from
# missing knowledge, from the search, or from reading badly. An answer that is right on both sides is *usable*.

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
# {{term:parameter|Parameters}} are the numbers that a model consists of. This one is tiny, so that it runs on any computer.
# It speaks for itself and not for large models; where the question is about those, section 7 cites what others have measured.
#
# What can a better prompt fix: the format, the judgement about what goes in each field, or the facts? We compare four prompts:
#
# 1. the message alone ({{term:zero-shot}});
# 2. instructions, then the message;
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
# That figure was recorded with this model and all 100 questions. Now watch a few answers come in live. Eight messages show you
# *what* goes wrong; to say how often, you need a hundred.

# %%
names = ["message alone", "instructions and three examples", "retrieved examples"]
show.table({
    f"{number}, {message['role']}": {"text": message["content"]}
    for number, message in enumerate(prompts["instructions and three examples"][0], 1)
}, caption="The third prompt, for the first message", of="message")

# %% [markdown]
# The fourth has the same instructions, and its three examples are chosen anew for each message. Now the answers.

# %%
answers = {name: ask(prompts[name], few)[0] for name in names}
show.answers(
    [q["question"] for q in few[:3]],
    {name: answers[name][:3] for name in names},
    [catalogue.record(q) for q in few[:3]],
)

# %% [markdown]
# For this small model, examples bring the *form* into half of the answers, where instructions alone bring it into none. Fixed examples improve neither the judgement nor
# the facts. Retrieved examples can bring all three, because an answered message about the same thing holds topic, product
# *and* fact. So a file of good past answers is a small knowledge base. Note its limit: it knows only what somebody has asked
# before. In our file every fact has been asked for in other words, which is the best case for it; the table in section 7 says
# how far it gets.
#
# **The form for free.** There is a way to make sure of the form. A model writes one {{term:token}} at a time (a piece of a
# word), and before each it has a score for every token it knows. {{term:constrained decoding|Constrained decoding}} crosses out
# all tokens after which the answer could no longer become a valid record, and takes the best of the rest. Imagine it at
# three places of our record:
#
# | so far | what the model might like best | what is allowed |
# | --- | --- | --- |
# | (nothing) | `The` | `{` |
# | `{"topic": "` | `kettle` | `product`, `delivery`, `returns`, `payment`, `account`, `service` |
# | `{"topic": "product", "product": ` | `Corvane` | any text in quotation marks, or `null` |
#
# Hosts call this {{term:structured output}}: you send a schema with the request. Here are the prompts with three examples
# again, this time under the shop's schema.

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
# The schema guarantees the form, unless an answer reaches the limit of tokens before its end. Do not expect much of it in
# the other two columns: a grammar knows which topics exist, not which one is right. But if valid JSON is *all* you want, a schema gives it to you without
# any training (limit the length of its texts, so that an answer ends before its tokens do).
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
# Twenty messages cannot tell. With a true share well below the limit, or well above it, you could have seen the same 17. With a
# hundred messages the range is less than half as wide. So the first thing to build is not a model but a set of a hundred real
# messages with right answers.
#
# **The job.** This program measures a prompt on such a set, with any model behind an OpenAI-compatible address. It needs
# nothing from this course, and it prints the wrong answers for you to sort. (It is not run here, because it needs a key; a
# test of the course runs it.)
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
#     text = reply.choices[0].message.content
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

# %% [markdown]
# ## 5 · Branch two: look the facts up
#
# Some of the twenty errors say that facts are missing. Before you look at a single answer with RAG, measure the search alone:
# if the right passage is not found, no model can read it.
#
# **How does a search find a passage?** By words or by meaning. {{term:BM25}} adds up the words that question and passage
# share, and a rare word counts more. A word that $n$ of the $N$ passages contain counts
#
# $$\ln\Big(1 + \frac{N - n + 0.5}{n + 0.5}\Big).$$
#
# The catalogue has 72 passages. "Hobbin" is in one of them and counts $\ln(1 + 71.5 / 1.5) = 3.9$. A word that is in forty of
# them counts $\ln(1 + 32.5 / 40.5) = 0.6$. BM25 also counts how often the word appears and how long the passage is. That works
# well as long as customers use the shop's words. This one does not: *"my hobbin has gone dull and just chews the privet. how
# much do you lot ask for sharpening"*. The right passage says that *blades are ground at our workshop*. It shares the rare word
# and little else, and another passage with many of the small words comes out ahead: "How a return travels". A *dense* search
# turns both texts into lists of numbers ({{term:embedding|embeddings}}) that lie close together when the meanings do. It finds
# the hedge trimmer.

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
# This share is called {{term:precision and recall|recall}}: of all right passages, how many were found? Dense search finds more here, mostly for the questions in customers' own words, as section 9 shows; mixing
# both adds nothing. Recall is a limit for everything that comes after it: where the search fails,
# the answer is wrong whatever you do to the model.
#
# **Is a second look worth it?** {{term:reranking|Reranking}} puts the first hits into a better order with a slower model. It
# cannot find what is not among them. Compare the two marks of the dense search: between "first" and "among the first three"
# lie a few points, and that is the most that a reranker of three hits could gain here. So we go without. With thousands of
# similar passages that gap can be wide, so measure it before you decide.

# %%
# EXERCISE: frame-2

# %% [markdown]
# **Now the answers.** A fair test of RAG asks for the fact alone, which is easiest; for the whole record, which is what the
# program needs, with three fixed examples; for the record under the schema; and with the retrieved examples of section 4, each
# with its passage.

# %%
lesson_01.rivals_figure(
    ["RAG, asked for the fact alone", "RAG, asked for the record",
     "RAG, record, structured output", "RAG, retrieved examples",
     "RAG, examples about other facts"],
    "The same passages, asked for in five ways",
)

# %% [markdown]
# Asked for the fact alone, the small model gives about a third of the facts correctly. Asked for fact and form at once, it
# loses half of those, and the schema brings the form but no facts. Retrieved examples look like the solution, until you read the
# last row. In our file somebody has asked for every fact before, so that one of the three examples often *contains* the fact. The
# last row leaves such examples out. Now we see what they teach about form and reading alone: something, but not enough.
#
# The right passage was there for 85 of 100 questions, so most of what is wrong was *misread*. Expect a larger model to misread less.
# But the order in which answers get lost is worth remembering at any size: not found, found and misread, too much asked at
# once.
#
# **The rival that needs no index.** The whole catalogue is short. Why search, if everything fits into the prompt? The objection
# is that every call pays for it. But hosts keep what they computed for the beginning of a prompt, and bill the same beginning
# at a fraction of the price the next time ({{term:prompt caching}}). A beginning must have a minimum length for that. The
# fixed part of a prompt with one passage is too short; with the catalogue it is long enough.

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
# With the most expensive models the whole catalogue costs less than the usual RAG prompt, with the others about the same. It
# needs no index, and no search can miss. But look at the last column, which gives RAG its best form too. Fill the fixed part of
# its prompt with further examples until the cache takes it, and the *longer* prompt is the cheapest of all. So compute with the
# rules of your provider's cache before you decide by length. What are the other drawbacks of the whole text?
#
# - Requests must come every few minutes, or the cache is cold and the full price is due.
# - Ten times the text costs ten times as much, and it must fit the {{term:context window}}, the longest input that a model takes.
# - Models find facts in the middle of a long prompt less reliably than at its ends (Liu et al., 2023, arXiv 2307.03172).
#
# It takes an hour to try, so if your text is short, try it first.

# %% [markdown]
# ## 6 · Branch three: train the behaviour
#
# What is left when the facts are there and the answers are still not what you need? Then you show the model how it is done, in
# examples, and change the model. We have other wordings of the same questions, with the right record for each: 100 as they
# are, and 60 more with the passage before them, so that the model learns to *read*. There are no instructions in them: what
# a good answer looks like is shown, not told. The facts of the test do occur in this training; section 7 checks whether that is why
# the model answers well. One example:

# %%
alone, with_passage = lesson_01.training_examples(catalogue)
example = with_passage[-1]
show.answers([example[1]["content"]], {"answer to learn": [example[2]["content"]]}, longest=600)

# %% [markdown]
# We train a {{term:LoRA}} {{term:adapter}}, a small set of numbers beside the model's own. Lesson 02 opens it and explains the
# settings. Here it is enough to know that the model sees each of the 160 examples once, four at a time, and that this takes a minute or two. (It changes the model in place: to repeat section 4 afterwards, restart the kernel.)

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
# The {{term:loss}} says how surprised the model was by the right answers, just before it learned from them: the lower, the
# better. It falls fast at first and then stays level. Only questions that were not among the examples can tell whether that
# helps.

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
# Form, topic and product are mostly right, although nobody told the model what a record is. And the fact? Compare it with the
# right one. The model has learned that an answer looks like "26 days", and makes up something that looks so. Many people expect training to teach
# facts; it may be the most expensive misunderstanding about fine-tuning. One pass taught this model what answers look like, not what is true.
#
# **What does it save?** The instructions and examples no longer travel with each call. Whether that saves money is the first
# claim that we check. From here on each card shows a claim that circulates and what we found; open its folds for the evidence.

# %%
evidence.card("D2", tokens=tokens)

# %% [markdown]
# So the saving depends on whether the tokens were paid in full. Look up the caching rule of your host before you count it.
#
# **How few examples are enough?** The tree asks for a hundred. The next figure was recorded with {{term:training set|training
# sets}} of three sizes, all trained for the same number of {{term:step|steps}} and tested on facts that none of them contains.
# Each was trained three times, with different {{term:seed|seeds}}, the numbers from which the random choices of a run start.

# %%
lesson_01.sizes_figure()

# %% [markdown]
# Look at the valid form first: two dozen examples teach the form. The other two marks are the point. On its own examples the smallest set is perfect, on others it is not. Learning the examples instead of the rule is called
# {{term:overfitting}}. With more examples the two marks come closer, partly because the larger sets no longer know their own examples by heart (each
# was seen less often). The intervals on others overlap: among the sizes that we tried, none is a threshold.

# %%
evidence.card("D4")

# %% [markdown]
# So how many do *you* need? Train on a quarter, a half and all of your examples, and watch the share that is right on others. As
# long as it still rises, more examples will probably help.

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
# That is the table of all rivals, recorded on all 100 questions. Your live figure above came from one run and fewer questions, so it
# differs from the table's. Read the column "usable" from the top. One row without any training comes close to the best, *RAG, retrieved examples*. Are the two different? Intervals that meet do not answer that, because
# both systems had the same easy and hard questions. So compare them question by question.

# %%
lesson_01.differences()

# %% [markdown]
# The first row settles nothing: its interval includes zero. But you know where the facts of the retrieved examples come from. Where
# customers repeat themselves, a file of good answers is worth having, and if it is good enough on your task, stop there. It has two limits: a question that nobody has asked before gets the row below it in the large table, and the examples go out of date
# together with the facts in them.
#
# The second row is clear: with the *same* passages, the model that was trained to read gets twice as many facts. So training did improve knowledge, in a roundabout way: it taught the model to use what it is given, with a short prompt.
#
# Is that reading, or is it memory? After all, the model was trained on other wordings of the same questions. Alone it knows no fact, so it
# has not learned the answers. But it may have got used to these products and passages. The last row of the table is the test: each question goes to a
# model that was trained without the product that is asked about, and without its passages. Compare it with three rows. It gets far more facts than the untrained model with the same passages, and far more
# usable answers than examples about other facts do: the model has learned to read. It gets fewer than the row above it, so a part of that row was familiarity.
# For products that come into the shop tomorrow, expect the last row.
#
# The *whole catalogue* is too much for a model of this size. With a large one it deserves an honest look before you train
# anything.
#
# **Then a supplier changes the catalogue.** RAG gets a new index. But what about a model that has learned the facts by heart?
# One pass did not teach them. Many passes do:

# %%
lesson_01.passes_table()

# %% [markdown]
# Facts *can* be trained in by repetition, and they are known best in the words in which they were learned. Now 38 of these
# facts change.

# %%
lesson_01.changes_figure()

# %% [markdown]
# From the day of the change, what was learned by heart is wrong, and nothing in the answer shows that it is old. The model that was trained to *read* gives values that did not exist when it was trained. Reading is a behaviour, and
# behaviour lasts.

# %%
evidence.card("D5")

# %% [markdown]
# In your own project you will want to measure this: after an update, how many answers are right, and how many are stale?

# %%
# EXERCISE: frame-3

# %% [markdown]
# **And larger models?** Ours is about fifty times smaller than a model of 7 billion parameters. This is what others have measured
# on larger ones, beside our figures.

# %%
lesson_01.published()

# %% [markdown]
# Does the direction agree? In the first row only once our model has been trained to read: untrained, it reads so badly that facts learned by heart
# overtake RAG. The second row cannot disagree with a shop that no model knows. The third, on models trained to read, is the direction of this section. The fourth agrees:
# what was trained in is hard to replace. Its share is the mean of three runs; that in the table of passes came from one. In the last row do not expect much of ours, since so small a model was never meant to read thousands of
# tokens. Where the table says "not tested here", trust the source as far as you trust its author: one of them sells fine-tuning.
#
# Do you have a large model of your own? Set `COURSE_FRONTIER` to its name, `OPENAI_API_KEY` and, if it is not OpenAI's,
# `OPENAI_BASE_URL`, before you start the notebook. On Colab, give the names and values as *secrets* instead (the key symbol on
# the left), and let this notebook read them. Then the next cell sends your model forty requests with invented content.

# %% tags=["frontier"]
lesson_01.frontier(catalogue)

# %% [markdown]
# Without a model of your own the cell only says so. The rest of the lesson does not need it.

# %% [markdown]
# ## 8 · What it costs
#
# Training costs once, prompts cost on every call. So there is a number of requests a day from which training pays, the
# *break-even*. First one request, by hand. A large model costs 2 dollars for a million tokens of input and 10 for output (the
# dates are in the table below). A prompt of 400 tokens and an answer of 25 cost
#
# $$400 · \frac{2}{10^6} + 25 · \frac{10}{10^6} = 0.00105 \text{ dollars.}$$
#
# The small fine-tuned model, at 0.195 and 0.60 dollars with a prompt of 140 tokens, costs 0.00004. So each request saves a tenth
# of a cent. On the other side are 40 hours of somebody's work on examples and tests. At 80 dollars an hour these cost 3,200
# dollars, as much as is saved by three million requests: some 9,000 a day for a year. The form does this sum with the exact numbers of this lesson, and with yours.

# %%
chosen = lesson_01.assumptions(tokens)
widgets.cost_form(chosen, lesson_01.cost_figure)

# %% [markdown]
# The message is in the title, and the title compares with the large model. Look at the line of the small model with the long
# prompt too: if that one is good enough for your task, it stays the cheapest far beyond. Change one assumption at a time and watch it move. Two of them matter most: the model that you
# compare with, and the hours that people work. The price of the training run itself hardly shows. Note the line of a GPU of
# your own: you pay for it around the clock, whether requests come or not, so that it wins only at volumes that few of us have.
#
# These are the prices behind it, per token.

# %%
lesson_01.prices()

# %% [markdown]
# Look at the column "new tuning jobs" before you plan with a price: four of the five tunable models stop taking jobs. A GPU of
# your own is rented by the hour:

# %%
lesson_01.gpu_prices()

# %% [markdown]
# Prices go out of date faster than anything else in this lesson, so each has its date. Check them again before you decide.
#
# **How many times cheaper is the fine-tuned model, and how much of that is due to fine-tuning?** A {{term:frontier model}} is one
# of the largest of its day. Part of the factor comes only from the smaller model, which you could prompt as well.

# %%
evidence.card("D1", assumptions=chosen)

# %% [markdown]
# Against the largest models the factor is large. Against the smallest models of the same vendors it almost vanishes: try one of those, with your best prompt, before you train
# anything.
#
# **Your prompt reaches 87 %. Is it worth fine-tuning for the rest?** That depends on what one error costs you. Suppose that
# training removes half of the errors.

# %%
guess = predict("At 1,000 requests a day, what must one error cost before it pays?", unit="dollars")
guess

# %%
guess.reveal(round(lesson_01.price_of_an_error(chosen)[1000], 2), source="computed")

# %%
evidence.card("D3", assumptions=chosen)

# %% [markdown]
# So 85 % is only where to stop and compute. The same prompt to the same large model is good enough at ten requests a day and a
# waste of money at a hundred thousand. There, replace it: by a small model with the same prompt if that is good enough, else by a
# fine-tuned one.
# Now compute a break-even yourself.

# %%
# EXERCISE: frame-4

# %% [markdown]
# **Now the whole decision.** You have everything that you need to find the cheapest plan that is good enough. The check answers
# at once, so try as many plans as you like.

# %%
# EXERCISE: frame-5

# %% [markdown]
# ## 9 · Common mistakes, shown failing
#
# **Deciding by ten questions.** On all 100 questions the dense search finds clearly more than BM25. Suppose that somebody shows
# ten questions in a meeting. We draw ten at random, a thousand times. How often does BM25 look at least as good?

# %%
bm25, dense = (np.array(hits[name]["among the first 1"]) for name in ("bm25", "dense"))
draws = np.random.default_rng(0).integers(0, len(questions), (1000, 10))
fooled = np.mean(bm25[draws].sum(axis=1) >= dense[draws].sum(axis=1))
print(f"all {len(questions)}: {bm25.sum()} against {dense.sum()}; "
      f"with ten, BM25 looks at least as good in {100 * fooled:.0f} % of the draws")

# %% [markdown]
# In that share of the meetings the worse search would have won or tied. Nothing looks wrong in such a meeting: there are ten
# real questions on the screen.
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
# By the first column you could not tell the two apart. The second column has questions written without looking at the passage, as customers
# write them. Take your own test questions from your inbox.
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
# **Testing with the training questions.** You have seen it in section 7: after many passes the model knew far more facts in the
# trained wordings than in others. A test that repeats the training questions measures the first column of that table.

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
evidence.summary()

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("01")

# %% [markdown]
# **Your own case.** Here is the helper once more. This time it quotes what this lesson measured, so that you see on what each
# of its reasons rests.

# %%
widgets.decision_helper(lesson_01.sentences(chosen), chosen)

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
