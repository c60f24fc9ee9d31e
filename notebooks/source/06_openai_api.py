# %% [markdown]
# # 06 · The OpenAI API: a job that somebody else's machine runs
#
# {{badges}}
#
# You have a clean file of examples and no GPU. A *hosted* service takes the file, trains, and gives you a
# model that you call by its name. It takes five calls.
#
# But the best known of these services is closing: OpenAI takes no new customers for training, and from
# {{fact:prices:"gpt-4.1-mini".no_new_jobs:%B %Y}} no new jobs at all (sources in section 10). The calls outlive it, because other hosts use the
# same ones. In this lesson you make all of them, on a service that runs on this machine and really trains.
# You find out when a tuned model is worth its price, and take one with you when its host closes.

# %%
# INSTALL: server,data

# %%
from course_utils import evidence, show
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.exercises import check, quiz
from course_utils.openai_server import HOSTS, local_server
from course_utils.show import predict

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

from openai import OpenAI

lesson_06.before_and_after()

# %% [markdown]
# Those are three recorded jobs on this service, with records of five fields. Compare the first bar with the
# last two: the model before the job, after one {{term:epoch}} (one pass over the examples), and after three.
# Nobody told it what an answer should look like: the four words are "Triage this customer message." The
# second bar is the {{term:baseline}}, a program that reads nothing and always gives the most common answer.
#
# The jobs that you run are small; they show *how*. Where we say how *well*, the numbers come from recorded
# jobs with more rows (100 in the picture above, {{record:hosted:examples:d}} in most tables), tested on a hundred messages that no job
# was trained on. All results come from one small model: take the method from here, not the percentages.
#
# By the end you will be able to
#
# - upload a file, start a {{term:fine-tuning job}}, follow it and use its model, with the official client,
# - write training rows, also with tools and with replies that should not be learned, and say what a host
#   checks, and when,
# - read a job's curves, see when it has trained too long, and choose among its models,
# - say what a tuned model costs, and at what prompt length it becomes the cheaper one,
# - put preferences on top, and write a grader,
# - leave a host with everything that you can take.
#
# You should have called a language model's API from Python before. Reading takes about 75 minutes, and the exercises about
# an hour. Three jobs train: in sections 1, 4 and 6. Most of the running time goes there.
#
# {{timing}} The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All empties every
# output before it fills it again, and `course restore 06` in a terminal brings the recorded page back.

# %% [markdown]
# ## 1 · The job
#
# First you need a service. Two settings, an address and a key, decide where everything below happens. Here
# the address is this machine's own, so neither key nor message leaves it.

# %%
folder = mkdtemp()
server = local_server(folder, rows=4)           # what `course serve` starts in a terminal
client = OpenAI(base_url=server.base_url, api_key=server.api_key)
BASE = client.models.list().data[0].id
print("the model that can be trained here:", BASE)

# %% [markdown]
# To use OpenAI instead, write `client = OpenAI()`, keep your key in `OPENAI_API_KEY`, and name a model that
# is trained there in `BASE`. The calls below stay the same, except that OpenAI's reasoning models take
# `max_completion_tokens` instead of `max_tokens`, and no `temperature`. Three things belong to this service alone: the cells with
# `server` in them, the recorded tables and the last cells of section 9. (On Colab, keep the key under that
# name in the *secrets*, behind the key symbol on the left, and write
# `OpenAI(api_key=hardware.secret("OPENAI_API_KEY"))` after `from course_utils import hardware`.)
#
# Since OpenAI takes no new customers, you will more likely use a host of open models. Where some settings go,
# and what their numbers mean, differs from host to host. The end of this section has the whole job for one of
# them, and section 10 lists the differences for four.
#
# **The task.** A customer writes; the answer is a record with two fields. `category` is what the message is
# about, such as `delivery` or `defect`. `escalation` says whether somebody must act at once, and why; mostly
# it is `none`. The line printed below is one message with its record. It begins with a system message, under
# which the model learns to answer: **send the same system message, to the letter, whenever you ask the tuned
# model.**
#
# **Two files.** One line is one example: a conversation that ends as it should. We take fifty short messages,
# so that a laptop is done in a minute or two; later we ask about longer ones. At work, too, begin with 50 to
# 100, then double them and see whether the answers get better.
#
# The second file is the {{term:validation set}}. The service does not train on it, but measures how well the
# model does there. Always send one: OpenAI does not charge for it, and nothing else in the job tells you
# about messages that the model has not learned from.

# %%
def write_rows(name, rows):
    """A JSONL file: one row, one line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    Path(name).write_text("\n".join(lines), encoding="utf-8")
    return Path(name)


task = load_task("support_tickets", list(lesson_06.FIELDS))
rows = lesson_06.short_rows(task.train, 50)
train_file = write_rows("train.jsonl", rows)
held_out_file = write_rows("validation.jsonl", lesson_06.short_rows(task.validation, 16))
print(train_file.read_text(encoding="utf-8").splitlines()[0])

# %% [markdown]
# The answer is a record in {{term:JSON}} with two fields. Now the two uploads.

# %%
train = client.files.create(file=train_file.open("rb"), purpose="fine-tune")
held_out = client.files.create(file=held_out_file.open("rb"), purpose="fine-tune")
print(train.id, train.bytes, "bytes,", train.status)

# %% [markdown]
# `processed` means only that the file has arrived, and perhaps that its lines can be read. What is in them is checked
# when the job runs, which on a busy host can be an hour later. (Azure takes a while to read the file: there call
# `client.files.wait_for_processing(train.id)` before you create the job.) So check your file before you send it: lesson 05's
# `course check-data train.jsonl` knows the hosts' rules, and counts the tokens of each row. A row that is too
# long is cut, and what is cut is the answer.
#
# **The job** names the model to start from, the two files, and a suffix for the new model's name. The
# {{term:hyperparameter|hyperparameters}}, which say how long and how fast to train, may be left to the host.
# Read the curves, and adjust afterwards.

# %%
job = client.fine_tuning.jobs.create(
    model=BASE, training_file=train.id, validation_file=held_out.id, suffix="triage", seed=0,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
    metadata={"lesson": "06", "data": "50 short messages"},
)
print(job.id, job.status)

# %% [markdown]
# Older examples put `hyperparameters` at the top level, which is deprecated at OpenAI but the only place at
# Nebius.
#
# The call returns at once, and the job goes on without you. The client has no function that waits, so
# everybody writes a loop. First look at what can happen to a job:

# %%
show.drawing("hosted-job")

# %% [markdown]
# A loop that waits for `succeeded` never ends when the job fails or is cancelled, and some hosts add final
# states of their own. So name the states in which a job is *not* over, and stop at any other.

# %%
WAITING = ("validating_files", "queued", "pending", "running", "pausing", "paused", "resuming")


def wait(job, hours=24, every=1):
    """Look every so often until the job is over, however it ends; returns it and its events."""
    shown, deadline = "", time.time() + 3600 * hours
    while job.status in WAITING:
        if time.time() > deadline:
            raise TimeoutError(f"{job.id} is still {job.status} after {hours} hours")
        if job.status != shown:
            shown = job.status
            print(shown, end=" → ")
        time.sleep(every)
        job = client.fine_tuning.jobs.retrieve(job.id)
    print(job.status)
    return job, list(client.fine_tuning.jobs.list_events(job.id, limit=100))


# %%
job, events = wait(job)
if job.status != "succeeded":
    raise RuntimeError(f"{job.status}: {job.error}")
print(job.finished_at - job.created_at, "seconds, and the new model is", job.fine_tuned_model)

# %% [markdown]
# The new model's name is `ft:`, the base, the organisation, your suffix and an id. At a real host look every
# minute, with `every=60`. The deadline is there for a paused job, which waits until somebody resumes it.
#
# Everything that happened is in the events. Here is one with the numbers of a step, and then all of them as a
# curve:

# %%
measured = [event.data for event in events if event.type == "metrics"]
one = next(data for data in measured if "valid_loss" in data)
print({name: round(number, 3) for name, number in one.items()})

# %%
lesson_06.curve(events, "What the job learned, on rows it saw and on rows it did not see", top=1)

# %% [markdown]
# The {{term:loss}} is how surprised the model is by the right answer, on average per token: the lower, the
# better. Compare the training line with the validation line. As long as both fall, the model is learning the
# task. A gap between the two is normal. Trouble starts when the validation line stops falling while the
# training line goes on: then the model is learning these fifty examples by heart (section 4).
#
# The pale line is `train_loss`, the loss on the rows of each step. It jumps, since some rows are harder than
# others; the bold line is its running mean. "Validation" is the loss on the other file, which the event above
# gives twice. Go by `full_valid_loss`, measured on all rows at the end of an epoch; `valid_loss` may be
# measured on a few rows only, as OpenAI does at every step. Here both use all rows.
#
# What did "auto" choose?

# %%
chosen = job.method.supervised.hyperparameters
print(f"{chosen.n_epochs} epochs, {chosen.batch_size} rows per step, multiplier "
      f"{chosen.learning_rate_multiplier}; {job.trained_tokens:,} tokens trained")

# %% [markdown]
# A {{term:batch}} is the rows that share a step. A host charges for "tokens trained", the file's tokens times
# the epochs. The {{term:learning-rate multiplier}} scales the size of a step. What a multiplier of 1 means is
# the host's secret, so a value does not carry over to the next host.
#
# **Use the model** by its name, without a word about the format. For comparison, we ask the base two of the
# same messages.

# %%
def ask(model, messages, **more):
    """One answer at temperature 0: the likeliest token each time."""
    made = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=40, **more
    )
    return made.choices[0].message


def ask_all(model, conversations):
    """The texts of several answers, four requests at a time."""
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda messages: ask(model, messages), conversations)
        return [message.content for message in made]


guess = predict("Of eight answers of the new model, how many are valid records?", unit="answers")
guess

# %%
from collections import Counter

import jsonschema


def count_right(answers, wanted):
    """How many answers are valid records, and how many values of each field are right."""
    right = Counter()
    for text, reference in zip(answers, wanted):
        try:
            record = json.loads(text)
            jsonschema.validate(record, task.schema)      # the fields, and their allowed values
        except (json.JSONDecodeError, jsonschema.ValidationError):
            continue
        right += Counter(["valid", *(f for f in reference if record[f] == reference[f])])
    return dict(right)


# %%
prompts, wanted = task.prompts()[:8], task.references()[:8]
after = ask_all(job.fine_tuned_model, prompts)
before = ask_all(BASE, prompts[:2])
counted = count_right(after, wanted)
guess.reveal(counted.get("valid", 0))

# %%
print("of 8 answers:", counted)
show.answers([prompt[-1]["content"] for prompt in prompts[:2]],
             {"base": before, job.fine_tuned_model: after[:2]}, wanted[:2])

# %% [markdown]
# Look at the counts: a valid record can still have a wrong category or escalation. If danger comes out as
# `none`, the program that reads the record will let the message wait. `count_right` is the whole evaluation.
# At work, keep a hundred messages or more for it, and put an interval around each share, as in section 3.
# Eight answers are too few to compare anything.
#
# {{term:temperature|Temperature}} 0 takes the likeliest token each time; for records, 0 to 0.2 is usual. On a
# large host answers may still differ now and then.
#
# That is the whole job: two uploads, one job, a loop, and a model's name.
#
# <details><summary><b>The same job at a host of open models (written from the host's own notebooks; not run by us)</b></summary>
#
# ```python
# import os
#
# nebius = OpenAI(base_url="https://api.tokenfactory.nebius.com/v1/", api_key=os.environ["NEBIUS_API_KEY"])
# sent = {name: nebius.files.create(file=Path(f"{name}.jsonl").open("rb"), purpose="fine-tune").id
#         for name in ("train", "validation")}
# there = nebius.fine_tuning.jobs.create(
#     model="meta-llama/Llama-3.1-8B-Instruct", training_file=sent["train"], validation_file=sent["validation"],
#     hyperparameters={                         # at the top level, not under `method`
#         "n_epochs": 3, "lora": True,
#         "learning_rate_multiplier": 2e-5,     # here the learning rate itself: 1 would ruin the model. This is
#     },                                        # the host's example; with few rows LoRA may need 1e-4
# )
# while there.status in WAITING:
#     time.sleep(60)
#     there = nebius.fine_tuning.jobs.retrieve(there.id)
# if there.status != "succeeded":
#     raise RuntimeError(f"{there.status}: {there.error}")
#
# # The weights are files of the checkpoints. This is what section 9 takes home.
# for checkpoint in nebius.fine_tuning.jobs.checkpoints.list(there.id):
#     place = Path("adapters") / checkpoint.id
#     place.mkdir(parents=True, exist_ok=True)
#     for file_id in checkpoint.result_files:
#         name = nebius.files.retrieve(file_id).filename
#         nebius.files.content(file_id).write_to_file(place / Path(name).name)
# ```
#
# Before a tuned model answers at this host, it needs a deployment, which you pay for separately (section 8).
#
# </details>
#
# **Your turn.** Somebody looked at a job's events every few seconds. What happened?

# %%
# EXERCISE: api-1

# %% [markdown]
# ## 2 · What a row may contain
#
# Fifty question-and-answer pairs are the simplest file. Real logs have longer conversations, some of the replies in them are
# bad, and some replies are calls of your own functions. How do you write those down?
#
# **A reply that should not be learned.** The first reply below is useless, but without it the customer's second
# message makes no sense. `weight: 0` keeps it in the text and takes it out of the loss.

# %%
chat = [
    {"role": "system", "content": "You help customers of Tarnbrook."},
    {"role": "user", "content": "Is the kettle free of BPA?"},
    {"role": "assistant", "content": "No idea, sorry.", "weight": 0},
    {"role": "user", "content": "Could you look it up, please?"},
    {"role": "assistant", "content": "I did: yes, it is free of BPA.", "weight": 1},
]
lesson_06.learned(chat)

# %% [markdown]
# The last column shows that the model only reads the bad reply. By default every assistant message is
# learned, even a bad one. A `weight` must be 0 or 1, and only assistant messages may have one.
#
# **A function that the model may call.** This is a {{term:tool call}}. The row declares the function under `tools`, and the
# assistant's message carries the call. Mind two details: `arguments` is a *string* that contains JSON, and
# the result names its call in `tool_call_id`.

# %%
order_id = {"type": "string", "pattern": r"^TB-\d{5}$"}
find_order = {"type": "function", "function": {"name": "find_order", "parameters": {
    "type": "object", "properties": {"order_id": order_id}, "required": ["order_id"]}}}
call = {"id": "call_1", "type": "function",
        "function": {"name": "find_order", "arguments": json.dumps({"order_id": "TB-40512"})}}
with_tool = {"tools": [find_order], "messages": [
    {"role": "user", "content": "Where is TB-40512?"},
    {"role": "assistant", "tool_calls": [call]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"status": "on its way"}'},
    {"role": "assistant", "content": "Your parcel is on its way."},
]}
lesson_06.learned(with_tool["messages"])

# %% [markdown]
# The model learns from this row when to call, and what to say once it has the result. An untrained model can
# be made to call as well, with `tool_choice="required"`:

# %%
question = [{"role": "user", "content": "Please look at my order TB-77206."}]
forced = ask(BASE, question, tools=[find_order], tool_choice="required")
print(forced.tool_calls[0].function.name, forced.tool_calls[0].function.arguments)

# %% [markdown]
# The call has the right form; this service allows no other. At OpenAI you need `"strict": True` in the
# function for that, and `"additionalProperties": False` in every object of its schema. For tuned models its guide also
# rules out some keywords, `pattern` among them: leave those out there. The order number is
# right as well, but no form guarantees that: compare it with the message before you act on it.
#
# **Your turn:** make training rows of conversations that customers rated with a thumb up or down.

# %%
# EXERCISE: api-2

# %% [markdown]
# ## 3 · Tell, force, or train?
#
# There are three ways to get records. You can *tell* the model the format in the prompt. You can *force* the
# format: in {{term:structured output}} the server lets the model choose only tokens that the schema allows
# ({{term:constrained decoding}}). Or you can *train* the model, as above. Which one do you need? Our model is
# so small that it hardly follows instructions; "tell" should do better with a large model, which we have not
# run.
#
# Forcing is one more argument and needs no training, but the host must support it for your model. Without
# `"strict": True`, OpenAI treats the schema as a suggestion.

# %%
form = {"type": "json_schema", "json_schema": {
    "name": "ticket", "strict": True, "schema": task.schema}}
guess = predict("The base, form forced: is its first record right?", choices=["yes", "no"])
guess

# %%
given = ask(BASE, prompts[0], response_format=form).content
guess.reveal("yes" if json.loads(given) == wanted[0] else "no")

# %%
show.answers([prompts[0][-1]["content"]], {"base, form forced": [given]}, wanted[:1])

# %% [markdown]
# The record is valid on the first try. But the schema says which categories exist, not which one fits this
# message. One record proves nothing, so here are recorded models, asked the same hundred test messages.
# "Tuned" ones have learned {{record:hosted:examples:d}} rows. In brackets are {{term:confidence interval|95 % intervals}}, the range
# in which the share would probably lie with very many messages:

# %%
lesson_06.recorded(
    ["base, not told", "base, told the form", "base, told and 8 examples", "base, form forced",
     "tuned, not told", "tuned, form forced"],
    "Three ways to get a record", baseline=True,
)

# %% [markdown]
# Look at "valid records" first, the share of answers that a program can read. Form can be shown by examples,
# forced or learned, but only forcing *guarantees* it, as long as the answer is not cut off or refused.
#
# The other columns are the share that is right. Content cannot be forced: with its form forced, the base is
# valid every time but has both fields right in {{record:hosted:runs.0.scores."base, form forced".both.0:.0%}} of the messages. Eight examples in the prompt bring this small base
# only to about the score of the last row, which reads nothing. So here the content had to be trained. A large
# model should do better with examples; measure it before you train (lesson 01).
#
# Where a program reads the answers, force the form as well: then only cut-off answers and refusals are left
# to catch.

# %%
evidence.card("O1")

# %% [markdown]
# The card judges a claim that circulates. Open it to see on what it was measured, and when.

# %% [markdown]
# ## 4 · How long should it train?
#
# "Auto" chose three epochs. Why not ten? Let us make the mistake that the validation file is there for:
# twelve examples, six epochs, large steps. The danger is {{term:overfitting}}, learning the examples by heart
# instead of the task.
#
# First we switch the service off and on again, which gives back the memory that answering took. Files, jobs
# and models are on the service's disk, so you lose nothing.

# %%
server.stop()
server = local_server(folder, rows=4)
client = OpenAI(base_url=server.base_url, api_key=server.api_key)
print("still there:", [model.id for model in client.models.list() if model.id.startswith("ft:")])

# %%
few_file = write_rows("few.jsonl", rows[:12])
few = client.files.create(file=few_file.open("rb"), purpose="fine-tune")
hungry = {"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 4}
greedy = client.fine_tuning.jobs.create(
    model=BASE, training_file=few.id, validation_file=held_out.id, suffix="greedy", seed=0,
    method={"type": "supervised", "supervised": {"hyperparameters": hungry}},
)
guess = predict("After which of the six epochs is the validation loss lowest?")
guess

# %%
greedy, greedy_events = wait(greedy)
losses = lesson_06.epochs(greedy_events)
lowest = min(losses, key=lambda step: losses[step]["validation loss"])
guess.reveal(list(losses).index(lowest) + 1)

# %%
lesson_06.curve(greedy_events, "Twelve examples, six epochs: one line goes to zero", top=1)

# %%
lesson_06.epochs_table(greedy_events)

# %% [markdown]
# Read the table from top to bottom. The training loss, the mean over an epoch's steps, goes toward zero: the
# twelve answers are almost learned by heart. The validation loss, measured at the epoch's end, stops falling
# before the job ends, while you go on paying. The unit is the {{term:nat}}: the loss is a natural logarithm. Where
# both lines of the figure jump up in an early epoch, a large step went wrong; that is no overfitting.
#
# Does the validation loss really rise at the end? Sixteen messages cannot say: a single epoch up or down may
# be chance, and the API gives you no interval. So here is a recorded job with ten epochs and {{record:hosted:validation:d}} validation
# messages:

# %%
lesson_06.recorded_turn()

# %% [markdown]
# In this run you see what overfitting looks like: the training line goes to zero, while the validation line
# turns round and stays above its lowest point. One run is an example, not a law, so the card below does not decide.

# %%
evidence.card("O3")

# %% [markdown]
# **Every epoch makes a model.** The service keeps the last three, each a {{term:checkpoint}} with a name that you can use like the job's
# own.

# %%
lesson_06.checkpoints_table(client.fine_tuning.jobs.checkpoints.list(greedy.id))

# %% [markdown]
# Which one do you take? If answers can be scored, score them, because the loss counts every token, also those
# that nobody cares about. Use messages kept for this choice and not those that you will report on, the
# {{term:test set}}.
#
# If all you have is the curve, take the lowest validation loss. If that model is no longer there, run a
# shorter job, and look again: its last model is not quite the same, because many trainers take smaller steps
# toward the end of a job.
#
# The table below scores checkpoints of a recorded job. It breaks the rule about the test set, because our
# records have no other messages:

# %%
lesson_06.recorded([f"tuned, epoch {n}" for n in (1, 2, 3)], "Three checkpoints of the same job")

# %% [markdown]
# The first checkpoint is probably worse. The other two are too close for a hundred messages to tell them
# apart, so the next job could be an epoch shorter, and cheaper. Score its model too, because it will not be
# this second checkpoint. Two models are best compared message by message: count the messages that only the
# first got right, and those that only the second did.
#
# **Your turn:** choose a checkpoint. No answers have been scored, and some checkpoints were not validated.

# %%
# EXERCISE: api-3

# %% [markdown]
# ## 5 · When something goes wrong
#
# What does a failed job look like? Not like an exception: `create` succeeds, and minutes later the job is over. Seven
# examples are too few for OpenAI, and for this service.

# %%
seven_file = write_rows("seven.jsonl", rows[:7])
seven = client.files.create(file=seven_file.open("rb"), purpose="fine-tune")
failed, _ = wait(client.fine_tuning.jobs.create(model=BASE, training_file=seven.id))
print(failed.status, "|", failed.error.code, "|", failed.error.message)

# %% [markdown]
# Whether a job has failed is in `job.status`; the reason is in `job.error.code`, once there is a `job.error`.
# Do not test `job.error` alone: OpenAI's service has sent an empty one with healthy jobs, and Python counts
# it as true.
#
# Other mistakes fail at once. These three are the usual ones: a file with the wrong ending, a model's name with a letter too
# many, and a wrong key.

# %%
from openai import APIStatusError

stranger = OpenAI(base_url=server.base_url, api_key="sk-of-another-account-0000")
attempts = {
    "wrong ending": lambda: client.files.create(file=("t.json", b"{}"), purpose="fine-tune"),
    "mistyped name": lambda: ask(job.fine_tuned_model + "x", prompts[0]),
    "wrong key": stranger.models.list,
}
for name, attempt in attempts.items():
    try:
        attempt()
    except APIStatusError as error:
        print(f"{name}: {error.status_code} {error.code} - {error.body['message'][:90]}")

# %% [markdown]
# A program should look at `error.code`, since messages change. The first error has no code; there the status,
# 400, is all you get. The client does not retry these three, because they would fail again. It does retry a
# busy host (429) and a broken one (500 and more), twice.
#
# **Stop, pause, go on.** A job that you started by mistake costs money until you cancel it. Some hosts can
# also pause and resume a job. The next cell does all three before the job has taken a step.

# %%
jobs = client.fine_tuning.jobs
again = jobs.create(model=BASE, training_file=train.id, metadata={"lesson": "06"})
jobs.pause(again.id)
jobs.resume(again.id)
jobs.cancel(again.id)

lesson_06.events_table(jobs.list_events(again.id))

# %% [markdown]
# Its whole story is in its events. And these are all jobs so far:

# %%
lesson_06.jobs_table(jobs.list(limit=10))

# %% [markdown]
# In half a year the column "metadata" tells your team which data a model was trained on, so write something
# into it. A cancelled job leaves no model, only the checkpoints that it had.
#
# **The result file.** Each job that succeeded leaves a table, one row per step:

# %%
lesson_06.results_table(client, job)

# %% [markdown]
# `train_loss` and `valid_loss` are the two curves. The two accuracies are the share of tokens for which the
# model's first choice was right, given that everything before was right. That is not the share of right
# records: a record has many tokens, most of them braces and field names, and one wrong token spoils it. Empty
# cells were not measured.
#
# **Your turn.** The service sends this file as OpenAI did, and Azure sends it in another way. Read both.

# %%
# EXERCISE: api-4

# %% [markdown]
# ## 6 · Preferences on top
#
# Sometimes nobody can write the right answer, but anybody can say which of two is better. {{term:DPO}}, direct preference
# optimization, learns from such pairs (lesson 04 shows how). A hosted DPO job has another `type`, another
# shape of row, and another model to start from: the one you have just trained.
#
# Our pairs use a mistake that we know: an agent in a hurry leaves the form as it opened, "question" and
# "none". The right record is preferred to that form.

# %%
later = lesson_06.short_rows(task.train, 90)[50:]
pairs = lesson_06.pairs([row["messages"] for row in later[:30]], 12)
print(json.dumps(pairs[0], indent=1))

# %% [markdown]
# `input` holds the conversation, and the two outputs are lists with one assistant message each.

# %%
pairs_file = write_rows("pairs.jsonl", pairs)
uploaded = client.files.create(file=pairs_file.open("rb"), purpose="fine-tune")
defaults = {"beta": 0.1, "n_epochs": 2, "batch_size": 4}   # the multiplier is left to the host
preferred, pair_events = wait(client.fine_tuning.jobs.create(
    model=job.fine_tuned_model, training_file=uploaded.id, suffix="preferred", seed=0,
    method={"type": "dpo", "dpo": {"hyperparameters": defaults}},
))
first = lesson_06.metrics(pair_events)[0]
auto = preferred.method.dpo.hyperparameters.learning_rate_multiplier
print(f"first logged loss: {first['train_loss']:.3f}; multiplier chosen by the host: {auto}")
lesson_06.pair_curve(pair_events, "The loss of a DPO job starts at ln 2")

# %% [markdown]
# Do not compare this curve with the one of section 1: that loss was per token, this one is *per pair*. It
# asks whether the model prefers the better answer more than it did at the start. Before the first step
# nothing has changed, so the difference is 0, and the loss is
#
# $$-\log\sigma(0) = -\log\tfrac{1}{2} = \ln 2 = 0.693$$
#
# for every pair, every model and every data set. $\sigma$ turns a difference into a probability, and 0 into
# one half. `beta` says how much a change counts: 0.1 is usual. If your first logged loss is far from 0.693,
# the host compares with another model than the one it started to train, or it logs a mean over several steps.
#
# Did it help? A falling loss does not say so. Ask both models the same eight messages:

# %%
print("before:", counted)
print("after: ", count_right(ask_all(preferred.fine_tuned_model, prompts), wanted))

# %% [markdown]
# Eight messages are a first look. The recorded jobs had sixty pairs and a hundred test messages. Their tuned
# model is from another run and differs a little from that of section 3.

# %%
lesson_06.preferences()

# %% [markdown]
# After each of the first three jobs the model is much worse. The column on “none” says how. (A program that always
# says “none” has 70 % of the escalations right. The tuned model is not far above that; after these jobs it is below.)
#
# - "none" is the right escalation for most messages, and after the first job the model hardly ever says it:
#   its sixty pairs all punish one and the same record, "question" and "none", and the easiest way to comply
#   is to stop saying these words.
# - For the second job the tuned model answered {{record:host-preferences:examples:d}} new messages, and its mistakes became pairs.
# - For the third, "none" was preferred as often as rejected; that saved most of the escalations, and a third
#   of the right records is lost all the same.
#
# The loss reports on the pairs; only answers report on the model.
#
# Was it the pairs or the training? Look at the rows “steps a tenth as large”: the same pairs, with a
# `learning_rate_multiplier` of 0.1. The model is nearly what it was before. With so small
# steps little changes at all: that shows that the dose matters, and does not clear the pairs. Small steps for ten times
# as long were not tried. And the small steps did no good either, as far as these messages can show; with the balanced
# pairs they were not tried.
#
# What to learn from it:
#
# - A default can ruin a good model; ours did. Keep the model that you start from. Try three multipliers, each
#   a third of the one before, and compare *answers* with those of the kept model. A larger `beta`, which we
#   have not tried, ties the model closer to its start.
# - Look at what all your pairs have in common. The model will.
# - **Where the right answer is known, as here, write it into a row and train on it.** Preferences are for
#   what people can judge but cannot write. Lesson 04 has a case in which they help.
#
# **Your turn.** A colleague's pair maker has bugs. Some make the job fail at once; the others are worse.

# %%
# EXERCISE: api-5

# %% [markdown]
# ## 7 · A grader instead of answers
#
# The third method, {{term:reinforcement learning|reinforcement}} fine-tuning, needs no answer to imitate,
# only something to check an answer by. The model answers each message several times, a *grader* gives every
# answer a number, the {{term:reward}}, and answers that got more than the others become more likely.
#
# OpenAI offered it for one small reasoning model, o4-mini, which Azure
# still lists for it. **This service does not run it**: it
# only checks the request, and runs simple graders. Write a grader all the same: whatever you train with
# rewards needs one (lesson 04 does).
#
# A grader is a small piece of JSON. `string_check` compares two texts, `text_similarity` says how alike they are, `score_model` asks
# another model, `python` calls a function of yours, and `multi` puts several together. The double braces are filled in for every answer:
# `sample` is what the model wrote, `item` is the row of your file.

# %%
def equal(field):
    return {"type": "string_check", "name": field, "operation": "eq",
            "input": "{{sample.output_json." + field + "}}", "reference": "{{item." + field + "}}"}


grader = {"type": "multi", "name": "ticket",
          "calculate_output": "0.7 * category + 0.3 * escalation",
          "graders": {"category": equal("category"), "escalation": equal("escalation")}}
graders = client.fine_tuning.alpha.graders
tried = {"right": {"category": "delivery", "escalation": "none"},
         "wrong category": {"category": "billing", "escalation": "none"}}
for name, record in tried.items():
    result = graders.run(grader=grader, model_sample=json.dumps(record), item=tried["right"])
    print(f"{name}: reward {result.reward:.1f}, parts {json.dumps(result.sub_rewards)}")

# %% [markdown]
# By hand: in the second answer the category is wrong and the escalation right, so its reward is
# $0.7 \cdot 0 + 0.3 \cdot 1 = 0.3$. Partial credit matters: without it, a model that never gets a whole record
# right would get 0 for every answer, and from equal rewards there is nothing to learn.
#
# Now the request itself. Each row ends with the question, and has the fields of `item` beside the messages.
# The service checks the form of the request, and then declines. For `sample.output_json` OpenAI's guide wants a
# `response_format` beside the grader, such as the `form` of section 3. The API's specification has no such field, but the
# client passes it on. And a real job needs a validation file of its own.

# %%
to_grade = [{"messages": row["messages"][:-1], **json.loads(row["messages"][-1]["content"])}
            for row in rows]
graded = client.files.create(file=write_rows("graded.jsonl", to_grade).open("rb"),
                             purpose="fine-tune")
for operation in ("eq", "equals"):
    grader["graders"]["category"]["operation"] = operation
    try:
        client.fine_tuning.jobs.create(
            model=BASE, training_file=graded.id, validation_file=graded.id,
            method={"type": "reinforcement", "reinforcement": {
                "grader": grader, "hyperparameters": {"reasoning_effort": "low"}}},
        )
    except APIStatusError as error:
        print(f"{operation}: {error.code}: {error.body['message'][:150]}")

# %% [markdown]
# The first request is valid and declined; the second has a mistake, and the message says which.
#
# A model gives you what you reward, to the letter: pay for valid JSON alone, and one record that is always
# valid gets full marks. Lesson 04 shows that happening.
#
# **Your turn:** write the grader as a function.

# %%
# EXERCISE: api-6

# %% [markdown]
# ## 8 · What it costs, and when a longer prompt is cheaper
#
# The usual argument for a tuned model goes: it needs no instructions, the prompt is shorter, so it is
# cheaper. Is it? Each token of the shorter prompt costs more: at OpenAI twice as much for the small models,
# half as much again for the large ones. So the answer depends on what you compare: the same model with a
# longer prompt, a small model of today with one, or an open model, whose tokens cost no more when it is
# tuned.
#
# For the task of this lesson `gpt-4.1-mini` untuned is cheaper than `gpt-4.1-mini` tuned as long as its
# prompt has fewer than about 180 tokens, and a small model of today stays cheaper than that for much longer.
# These are the last published prices of a service that is ending; put in your host's.
#
# You pay twice: once for training, and then for every request. For training a host charges the file's tokens
# times the epochs. (Tinker is a host of open models with calls of its own.)

# %%
lesson_06.training_table(rows, 3)

# %% [markdown]
# Fifty rows cost cents, as the column "this job" shows. Five thousand rows of 500 tokens, three epochs, at
# the highest of these prices would be 188 dollars, still a small part of the cost of having a person collect
# them.
#
# Count tokens with the host's {{term:tokenizer}}: that of our small model counts a tenth more in the words of
# these messages (and each adds marks of its own to every message).
#
# **Your turn:** write the bill of a job.

# %%
# EXERCISE: api-7

# %% [markdown]
# Now the requests. **By hand**, with round numbers, for a million of them: the tuned model's prompt has 60 tokens and its
# answer 14, and a million tokens cost {{fact:prices:"gpt-4.1-mini".input:.2f}} dollars to read and {{fact:prices:"gpt-4.1-mini".output:.2f}} to write.
#
# | model | prompt | answer | together |
# | --- | --- | --- | --- |
# | tuned, short prompt | 60 · 0.80 = 48 | 14 · 3.20 = 45 | 93 dollars |
# | untuned, prompt of 160 tokens | 160 · 0.40 = 64 | 14 · 1.60 = 22 | 86 dollars |
#
# Here the long prompt is cheaper. From what length $P$ on does it cost more? Where $0.40 \cdot P + 22 = 93$:
# at about 180 tokens.
#
# In general, with prices $t$ for tuned and $u$ for untuned, a short prompt of $S$ tokens and an answer of $A$
# tokens:
#
# $$P = \frac{S\,t_{in} + A\,(t_{out} - u_{out})}{u_{in}}$$
#
# The easy case is a host of open models that charges no more for a tuned model's tokens than for the base's:
# then $P = S$, and every instruction that you leave out is saved. But most such hosts want a deployment by the
# hour, and then the table further down decides.
#
# Now with real counts, the means over the test messages for our three prompts:

# %%
sizes = lesson_06.prompt_sizes(task.test, rows[:8])
answer_tokens = lesson_06.mean_answer(rows)
lesson_06.price_table(sizes, answer_tokens)

# %%
lesson_06.price_figure(sizes, answer_tokens)

# %% [markdown]
# Start with the flat line, the tuned model with its short prompt. The same model untuned crosses it at about
# 180 tokens, so instructions alone are cheaper, and instructions with eight examples are more than twice as
# expensive.
#
# The lowest line is `gpt-6-luna`, a small model of today at OpenAI. Its line stays below the tuned one up to
# almost 900 tokens, and again from a little over 1,024 on: there {{term:prompt caching}} starts, and the part
# of a prompt that never changes costs a tenth or a quarter of its price. That part must come first, have
# 1,024 tokens by itself, and be sent again within minutes. At `gpt-6-luna` the request that puts it into the
# cache pays a quarter more for it (OpenAI's page, read on 2026-11-28).
#
# The lowest line holds for `reasoning_effort="none"`. Left alone, the model thinks first; reasoning tokens
# are billed as output, and a few hundred of them reverse the order.
#
# The figure compares prices only. Whether the cheaper model is right as often, your test messages must say.
# So before you train, work out what today's small model costs with instructions, with examples and with
# caching. If it is right often enough, stop there.
#
# **Hosts that charge by the hour.** At other hosts a tuned model's token costs no more than the base's, but
# the model has to be kept ready, and you pay for every hour of that, used or not. Azure is one of them, apart
# from a trial tier that ends after a day. By hand: {{fact:prices:azure-hosting.hour:.2f}} dollars an hour are $1.70 \cdot 730 = 1{,}241$
# dollars a month. Spread over 100,000 requests, that is 12.41 dollars for each thousand, more than two
# hundred times what their tokens cost.

# %%
lesson_06.hosting_table(sizes, answer_tokens)

# %% [markdown]
# Compare the column of hours with the next one: with little traffic the hour is the whole bill. Here a short
# prompt pays for the hour from seven to eight million requests a month on if it replaces eight examples, and
# from about thirty million on if it replaces instructions alone. The same sum holds for a deployment at a
# host of open models and for a GPU of your own; put in the price of *your* hour.
#
# **Your turn.** The figure leaves the training out. When has a job paid for itself?

# %%
# EXERCISE: api-8

# %% [markdown]
# ## 9 · Leaving a host
#
# A hosted model lives as long as its host likes. This is how the end begins: a second service, told to answer
# as OpenAI has answered since May 2026, takes the upload and refuses the job.

# %%
from openai import PermissionDeniedError

with local_server(refuse=True) as closing:
    there = closing.client()
    file = there.files.create(file=train_file.open("rb"), purpose="fine-tune")
    try:
        there.fine_tuning.jobs.create(model=there.models.list().data[0].id, training_file=file.id)
    except PermissionDeniedError as error:
        print(error.status_code, error.code, "\n" + error.body["message"][:130], "…")
left = lesson_06.days_left(HOSTS["openai"])
print(left, "days left for models tuned at OpenAI, by the dates of section 10")

# %% [markdown]
# A program should look for the code: `training_not_available` means that no second try will help. The days
# are counted to the date that third parties report of OpenAI's notice (section 10); a negative number means
# that those models are gone.
#
# What can you take with you?
#
# | you take | how | good for | what it does not give you |
# | --- | --- | --- | --- |
# | **the files** | `client.files.content(id)` for every training and validation file | training anywhere else | the model itself, and the host's secret settings |
# | **a prompt again** | the best training rows as examples: {{term:few-shot}} | leaving today; a strong small model of today may be enough | you pay for the examples in each request |
# | **its answers** | ask it a few hundred unlabelled messages while it still answers, and train another model on them: {{term:distillation}} | a model whose labels are lost; a test set to compare with | it also copies the mistakes |
# | **the {{term:weight|weights}}** | from hosts with open models: download the {{term:adapter}}, the small file that training made | the same model, on your own machine | closed models: not offered |
#
# The first three work at any host that still answers, as far as its terms allow it. Afterwards delete what
# you leave there, with `client.files.delete` and `client.models.delete`; your contract says how long copies
# are kept.
#
# **Files and answers**, on our service:

# %%
exported = client.files.content(job.training_file).read().decode("utf-8").splitlines()
copied = []
unlabelled = [row["messages"][:2] for row in later[32:]]
for asked, said in zip(unlabelled, ask_all(job.fine_tuned_model, unlabelled)):
    copied.append({"messages": [*asked, {"role": "assistant", "content": said}]})
write_rows("distilled.jsonl", copied)
print(len(exported), "rows exported,", len(copied), "written from answers, for example:")
print(json.dumps(copied[0]["messages"][1:], ensure_ascii=False))

# %% [markdown]
# With a few hundred such rows you train the next model. How much is lost on the way? The first row below is
# the old model, the second learned from its answers to 240 messages, the third from people's answers to the
# same messages. The last was not trained:

# %%
lesson_06.recorded(
    ["tuned, not told", "distilled from its answers", "trained on people's answers to the same",
     "base, told and 8 examples"], "Three ways out",
)

# %% [markdown]
# Compare the first three rows. Their intervals overlap so widely that a hundred messages cannot tell the
# models apart: a loss of a few points may be there and not be seen. All three have the same base; a real move
# changes the base as well, so score the new model. The last row is the price of leaving today with this base.
#
# **The weights, live.** Our service trains an open model, so the adapter (of {{term:LoRA}}, lesson 02) is a
# folder. Copy it, keep the last answers to compare, and switch the service off. From Nebius and Crusoe you
# download files of this kind (section 1 has the loop).

# %%
import shutil

mine = shutil.copytree(server.adapter_folder(job.fine_tuned_model), "tickets", dirs_exist_ok=True)
theirs = ask_all(job.fine_tuned_model, prompts)
server.stop()
show.folder_sizes(mine)

# %% [markdown]
# The host is gone. What is left is a small folder, in the format of {{term:PEFT}}, the library of lessons 02 to 04. Put it on
# the same base, and ask the same eight questions.

# %%
from course_utils import models
from course_utils.generation import generate
from peft import PeftModel

base, tokenizer = models.load()
own = PeftModel.from_pretrained(base, mine)
answers = generate(own, tokenizer, prompts, max_new_tokens=40)
same = sum(a.strip() == b.strip() for a, b in zip(answers, theirs))
print("the same to the letter:", same, "of 8")

# %%
right = [count_right([text], [record]).get("category", 0) for text, record in zip(theirs, wanted)]
best = right.index(max(right))                             # one with the right category, if any
show.answers([prompts[best][-1]["content"]],
             {"the host": theirs[best : best + 1], "your machine": answers[best : best + 1]},
             wanted[best : best + 1])

# %% [markdown]
# The same folder on the same base gives the same answers. One may differ now and then where two tokens are
# almost equally likely, because the two programs add up in another order.
#
# From here on the model is yours. `own.merge_and_unload()` writes the adapter into the base, as in lesson 02,
# and {{term:vLLM}} or Ollama (after a conversion) serve it under the same API. With a GPU, and *not run
# here*:
#
# ```bash
# vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --lora-modules tickets=./tickets
# ```
#
# ```python
# client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")       # and model="tickets" in every request
# ```
#
# In your code only the address, the key and the model's name change. Ask your test messages again all the
# same: another server may use another {{term:chat template}} than the one the model was trained with.

# %% [markdown]
# ## 10 · Hosted or your own?
#
# | point | hosted | your own |
# | --- | --- | --- |
# | to begin | a key | a GPU, or patience; updates and monitoring |
# | weights | a name; files only at hosts with open models | a folder |
# | methods | what the API offers: one to three | whatever you can program (lessons 02 to 04) |
# | data | leave for the host; read its contract | stay |
# | you pay | per token trained, then per token, and at some hosts per hour | for the machine, busy or not |
# | it ends | on the host's date | when you say so |
# | best for | a first try, the strongest models; few requests, if you do not pay by the hour | data that must stay, many requests, models that must last |
#
# Is that as clear-cut as it is usually told?

# %%
evidence.card("O2")

# %% [markdown]
# No host gives you everything, so decide by what you cannot do without. Here are the hosts of this API, and
# until when their models answer. Other end dates are in the fold. Dates change: before you rely on one, check
# the source in the last column.

# %%
lesson_06.hosts_table(HOSTS)

# %%
show.folded("Other end dates, and how the calls differ", lesson_06.differences_table(HOSTS))

# %% [markdown]
# We have read these hosts' pages but not run a job there. The calls are the same as far as the pages say, but
# the hosts' habits differ: run a job of ten rows at a new host before you trust it with a thousand. Together
# and Fireworks take the same rows, but with calls of their own.
#
# <details><summary><b>Your own data: from lesson 05's folder to a score for each field</b></summary>
#
# Lesson 05's script leaves a folder `mine-ready` with three files: two are uploaded, the third is the test.
# `wait`, `ask_all`, `folder` and `BASE` are those of section 1. Section 9 switched the service off, so the first
# lines start it again. If your records are longer than 40 tokens, raise `max_tokens` in `ask`.
#
# Compare the tuned model with the last row of the table, which always gives the most common value of the
# training file. Where the tuned model is not above that row, in the *same* column and by more than the
# intervals, it has learned the form of the records and nothing about your messages.
#
# ```python
# import json
# from collections import Counter
# from course_utils import evaluation, show
#
# server = local_server(folder, rows=4)
# client = OpenAI(base_url=server.base_url, api_key=server.api_key)
# paths = {part: f"mine-ready/{part}.jsonl" for part in ("train", "validation", "test")}
# sent = {part: client.files.create(file=open(paths[part], "rb"), purpose="fine-tune").id for part in ("train", "validation")}
# job = client.fine_tuning.jobs.create(model=BASE, training_file=sent["train"], validation_file=sent["validation"],
#                                      suffix="mine", seed=0, method={"type": "supervised"})
# job, events = wait(job)
# if job.status != "succeeded":
#     raise RuntimeError(f"{job.status}: {job.error}")
#
# def record(text):
#     """The record in an answer; an empty one if there is none."""
#     try:
#         found = json.loads(text)
#     except json.JSONDecodeError:
#         return {}
#     return found if isinstance(found, dict) else {}
#
# chats = {part: [json.loads(line)["messages"] for line in open(paths[part], encoding="utf-8")] for part in paths}
# wanted = {part: [record(chat[-1]["content"]) for chat in chats[part]] for part in chats}
# questions = [chat[:-1] for chat in chats["test"]]
# answers = {name: list(map(record, ask_all(model, questions)))
#            for name, model in (("tuned", job.fine_tuned_model), ("not trained", BASE))}
# fields = list(wanted["train"][0])
# usual = {field: Counter(str(one.get(field)) for one in wanted["train"]).most_common(1)[0][0] for field in fields}
# answers["no model: always the most common value"] = [usual] * len(questions)
# right = lambda given, field: [str(a.get(field)) == str(b.get(field)) if a else False for a, b in zip(given, wanted["test"])]
# show.table({name: {field: evaluation.proportion(right(given, field)) for field in fields} for name, given in answers.items()},
#            f"{len(questions)} messages of the test file, % right", "who answers")
# ```
#
# </details>
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | train without a GPU | two files, `jobs.create` with `method`, a loop over the waiting states, the model's name |
# | know whether it worked | the validation curve first, then scored answers on messages kept for it |
# | know when to stop | validation loss up two epochs running, on enough messages: take the checkpoint before, or fewer epochs |
# | keep a bad reply out of the loss | `weight: 0`; it stays in the text |
# | guarantee a form | `response_format` with a schema; training does not guarantee anything |
# | save money | first the sum: a small model of today, with instructions, examples and caching |
# | read a failure | `job.status`, `job.error.code`, then the last events; `error.code` for a refused call |
# | be ready to leave | files and a test set at home, a base whose weights you may keep, the calls you know |
#
# **Common mistakes**
#
# | mistake | what you see |
# | --- | --- |
# | waiting for `succeeded` | a program that never ends (section 1) |
# | no validation file | a training loss that always falls (section 4) |
# | the last checkpoint, unseen | a validation loss well above its lowest (section 4) |
# | reading `processed` as "valid" | a failed job an hour later (section 5) |
# | another system message than in training | perhaps some points fewer; 25 messages in lesson 02 could not show it |
# | comparing a DPO loss with a supervised one | a gap that means nothing: the units differ (section 6) |
# | large steps on pairs that all punish one word | the model stops saying it, under a loss that looks fine (section 6) |
# | a reward for the form | one constant, valid record (lesson 04) |
# | "no instructions, so it is cheaper" | often a higher bill, always a higher one by the hour with few requests (section 8) |
# | a model without its files at home | nothing to move when the date comes (section 9) |

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("06")

# %% [markdown]
# **The last exercise is a challenge.** It takes dates, prices, rows and epochs together, and your plan is really carried out.

# %%
# EXERCISE: api-9

# %% [markdown]
# {{words}}
#
# ## Read on
#
# - OpenAI, [*Model optimization*](https://developers.openai.com/api/docs/guides/model-optimization) and
#   [*Graders*](https://developers.openai.com/api/docs/guides/graders): the host's own guides, as long as they are there.
# - OpenAI, [*Deprecations*](https://developers.openai.com/api/docs/deprecations): what ends when.
# - Hinton, Vinyals and Dean (2015), *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531: where learning from another
#   model's answers comes from.
# - Rafailov et al. (2023), *Direct Preference Optimization*, arXiv 2305.18290.
# - Biderman et al. (2024), *LoRA Learns Less and Forgets Less*, arXiv 2405.09673: what an adapter can and cannot take in.
#
# That was the last lesson. Lesson 01 says which of the tools to reach for first.
