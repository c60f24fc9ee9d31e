# %% [markdown]
# # 06 · The fine-tuning API: our own model by the end of the month
#
# {{badges}}
#
# > *"Everybody has one. I want our own fine-tuned model by the end of the month."*
#
# A customer writes, and the model must answer with a record of two fields, `category` and `escalation`. The table gives
# the share of the same hundred invented messages for which both were right:
#
# | way of asking | SmolLM2, 135 million parameters | Qwen2.5-Coder, 0.5 billion |
# | --- | --- | --- |
# | told in the prompt what to write | {{record:laptop-service:runs."135M | told | 0".right."all fields":.0%}} | {{record:laptop-service:runs."0.5B | told | 0".right."all fields":.0%}} |
# | told, shown the eight most similar solved messages, and held to the form by a {{term:structured output|schema}} | {{record:laptop-service:runs."135M | told and 8 retrieved, form forced | 0".right."all fields":.0%}} | {{record:laptop-service:runs."0.5B | told and 8 retrieved, form forced | 0".right."all fields":.0%}} |
# | after a {{term:fine-tuning job|job}} on {{record:hosted:examples:d}} solved messages, with a four-word prompt; three jobs | {{record:laptop-service:runs."135M | tuned | 0".right."all fields":.0%}}, {{record:laptop-service:runs."135M | tuned | 1".right."all fields":.0%}}, {{record:laptop-service:runs."135M | tuned | 2".right."all fields":.0%}} | {{record:laptop-service:runs."0.5B | tuned | 0".right."all fields":.0%}}, {{record:laptop-service:runs."0.5B | tuned | 1".right."all fields":.0%}}, {{record:laptop-service:runs."0.5B | tuned | 2".right."all fields":.0%}} |
#
# Tuning wins on both of these small models, but even at best one record in six is wrong, and results vary between
# jobs. A job takes a handful of calls: upload a file, start, poll until it's done, call the new model by name, delete
# it. You don't need a GPU, because the host trains. Here the host is a service that really trains, on your own
# computer. You call it with OpenAI's own client, and at the end you run the model without the host.
#
# **Tell your boss today** that nobody can promise a better model without measuring the alternatives, and that with this
# lesson's prompts and prices, tuning saves less than 60 dollars in a million requests (section 8). The quickest alternative
# is to prompt a current small hosted model, which takes a day. We haven't tried that, so promise a measurement in
# week 1 and then a decision:
#
# | week | do | stop if |
# | --- | --- | --- |
# | 1 | ask who may send customers' messages where, and agree on what's good enough; collect 100 real messages with right answers; score a small hosted model with instructions, a schema and similar examples (section 4) | it's good enough: ship the prompt |
# | 2 | write 240 solved messages, partly from answers you already have, and tune an open model on them, at a host or with lesson 03's program; score it on the same hundred | it doesn't beat the prompt (section 4 says how to tell): collect more rows, or ship the prompt |
# | 3 | deploy it where it would answer customers, ask it the hundred again, download the weights (section 7) | it answers worse than in week 2, or costs more than the prompt and isn't better (section 8) |
# | 4 | put it behind a flag; run it beside the old system, unseen by customers; rehearse switching back, deleting it and moving to another host | it does worse than in week 2: your hundred messages weren't like the real ones |
#
# **Don't plan on OpenAI.** On {{fact:prices:"gpt-4.1-mini".no_new_customers:%d %B %Y}} it closed fine-tuning to
# organisations that had never tuned there, and on {{fact:hosts:openai.stages.idle:%d %B %Y}} to those that hadn't used
# a tuned model for 60 days. From {{fact:prices:"gpt-4.1-mini".no_new_jobs:%d %B %Y}} nobody can start a job. A tuned
# model shuts down with its base, and the last four bases shut down on {{fact:hosts:openai.ends:%d %B %Y}}. The calls
# are worth learning, because other hosts accept them.
#
# By the end you'll be able to
#
# - train, monitor and score a model through the API with one program, run here and set up, untested, for two hosts,
# - write rows with tools, and with replies that shouldn't be learned,
# - read a job's curve, choose a checkpoint, and understand a failure,
# - take an adapter with you, run it without the host and delete it there,
# - work out how many requests make a tuned model cheaper.
#
# You should have called a language model's API; you needn't have trained anything. Reading takes about 45 minutes, the
# exercises as long again. {{timing}} If you have to decide today, read this opening and sections 4 and 8.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter, because Run All clears every output first. To
# recover the recorded page, run `course restore 06` in a terminal.

# %%
# INSTALL: server,data

# %%
import base64
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import mkdtemp

import jsonschema
import pandas as pd
from course_utils import assets, charts, costs, facts, models, show, training
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.exercises import check, quiz
from course_utils.openai_server import HOSTS, local_server
from course_utils.openai_server.messages import flatten
from course_utils.show import predict
from openai import APIStatusError, OpenAI, PermissionDeniedError
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer

# %% [markdown]
# ## 1 · Three files
#
# The field `category` says what a message is about, and `escalation` says why somebody must act at once (mostly
# `none`). Each line of a file is a conversation that ends with the right record, and the first job needs three files:
#
# | file | rows here | at work | for |
# | --- | --- | --- | --- |
# | `hosted-train.jsonl` | 40 short messages, so a laptop finishes in a minute or two | 240; fewer suffice for a trial | the job |
# | `hosted-validation.jsonl` | 16 | 40 or more | the {{term:validation set}}: the host evaluates on it without training, and OpenAI doesn't charge for it |
# | `hosted-test.jsonl` | 8 | 100 or more | you, to score the answers |

# %%
def write_rows(name, rows, byte_order_mark=False):
    """Write one row of JSON a line, for Azure with the byte order mark that it wants; return the file."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    Path(name).write_text("\n".join(lines), encoding="utf-8-sig" if byte_order_mark else "utf-8")
    return Path(name)


def read_rows(name):
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in open(name, encoding="utf-8-sig")]


task = load_task("support_tickets", ["category", "escalation"])
short = {part: [chat for chat in chats if len(chat[1]["content"].split()) <= 25]
         for part, chats in {"train": task.train, "validation": task.validation}.items()}
for part, chats in {"train": short["train"][:40], "validation": short["validation"][:16], "test": task.test[:8]}.items():
    write_rows(f"hosted-{part}.jsonl", [{"messages": chat} for chat in chats])
for message in read_rows("hosted-train.jsonl")[0]["messages"]:
    print(message)

# %% [markdown]
# The answer is the record as {{term:JSON}}. The model learns to answer after this four-word system message, so
# **send the same four words whenever you ask the tuned model**.
#
# Before you send your files, run `course check-data hosted-train.jsonl` in a terminal; it applies the hosts' rules.
# OpenAI reads the rows only when the job runs, perhaps an hour after the upload. If a row is too long, OpenAI cuts off
# its end, which holds the answer.

# %% [markdown]
# ## 2 · The job, in one program
#
# Hosts differ in a few settings, which the program takes as parameters. We only run the first column; the others come
# from the hosts' pages and were **never run**.

# %%
folder = mkdtemp()
server = local_server(folder, rows=4)            # what `course serve` starts in a terminal
base = OpenAI(base_url=server.base_url, api_key=server.api_key).models.list().data[0].id
os.environ["LOCAL_API_KEY"] = server.api_key
hosts = {
    "this machine": {"base_url": server.base_url, "key": "LOCAL_API_KEY", "model": base,
                     "hyperparameters": {"n_epochs": "auto"}, "every": 1},
    "Nebius": {"base_url": HOSTS["nebius"].base_url, "key": "NEBIUS_API_KEY", "model": "meta-llama/Llama-3.1-8B-Instruct",
               "hyperparameters": {"n_epochs": 3, "lora": True, "learning_rate_multiplier": 2e-5}, "at_top": True},
    "Azure": {"base_url": HOSTS["azure"].base_url, "key": "AZURE_OPENAI_API_KEY", "model": "gpt-4.1-mini-2025-04-14",
              "hyperparameters": {"n_epochs": "auto"}},
}
pd.DataFrame({
    name: {**{setting: host[setting] for setting in ("base_url", "key", "model")}, "at_top": "at_top" in host, **host["hyperparameters"]}
    for name, host in hosts.items()
}).fillna("–")

# %% [markdown]
# Test a new host with ten rows, because even the {{term:hyperparameter|hyperparameters}} differ. OpenAI and Azure take them
# under `method`, Nebius only at the top level (`at_top`). At Nebius, `learning_rate_multiplier` is the learning rate
# itself (how far each step changes the model), so 1 would ruin the model; elsewhere, 1 means the host's default rate.
# For Azure, write the files with `byte_order_mark=True`. Always pass the key, as the program does, because
# a client without one sends your `OPENAI_API_KEY` to whatever host you name.

# %%
def wait(client, job, every=60, hours=24):
    """Return the job once it has ended, however it ended; print its states as they come."""
    deadline, seen = time.time() + 3600 * hours, None
    while True:
        if job.status != seen:
            print(" → " if seen else "", job.status, sep="", end="", flush=True)
        if job.status in ("succeeded", "failed", "cancelled"):
            print()
            return job
        if time.time() > deadline:
            raise TimeoutError(f"{job.id} is still {job.status} after {hours} hours: cancel it, or wait again")
        seen = job.status
        time.sleep(every)
        job = client.fine_tuning.jobs.retrieve(job.id)


def run_job(base_url, key, model, hyperparameters, at_top=False, every=60):
    """Upload both files, train, and return the client and the job that succeeded."""
    client, files = OpenAI(base_url=base_url, api_key=os.environ[key]), {}
    for part in ("train", "validation"):
        files[part] = client.files.create(file=open(f"hosted-{part}.jsonl", "rb"), purpose="fine-tune")
        if files[part].status == "pending":                                    # Azure reads a file for a while
            files[part] = client.files.wait_for_processing(files[part].id)
        if files[part].status == "error":
            raise RuntimeError(f"{part}: {files[part].status_details}")
    settings = {"hyperparameters": hyperparameters}
    job = client.fine_tuning.jobs.create(
        model=model, training_file=files["train"].id, validation_file=files["validation"].id, suffix="triage", seed=0,
        **(settings if at_top else {"method": {"type": "supervised", "supervised": settings}}),
    )
    print(f"{job.id}: files are {files['train'].status}")
    job = wait(client, job, every)
    if job.status != "succeeded":
        raise RuntimeError(f"{job.status}: {job.error}")
    return client, job


client, job = run_job(**hosts["this machine"])
chosen = job.method.supervised.hyperparameters
print(f"{job.finished_at - job.created_at} seconds for {job.trained_tokens:,} tokens; the new model is {job.fine_tuned_model}")
print(f"auto chose {chosen.n_epochs} epochs, {chosen.batch_size} rows a step, multiplier {chosen.learning_rate_multiplier}")

# %% [markdown]
# The new model's name consists of `ft:`, its base, the organisation, your suffix and an id. `create` returns at once, and
# the client has no function that waits for a job. A loop that waits for `succeeded` would never end if a job failed, so
# `wait` stops at any final state, and also at a deadline because some hosts have states of their own. If your program
# dies meanwhile, the job goes on, so don't start another; `wait(client, client.fine_tuning.jobs.retrieve("ftjob-…"))`
# picks it up.

# %%
show.drawing("hosted-job")

# %% [markdown]
# While it runs, a job writes events, and those of type `metrics` hold its losses:

# %%
events = client.fine_tuning.jobs.list_events(job.id, limit=100)
losses = pd.DataFrame([event.data for event in events if event.type == "metrics"]).sort_values("step")
by_epoch = losses.dropna(subset="full_valid_loss").set_index("step")["full_valid_loss"]
charts.loss_curve(list(losses["train_loss"]), "Does the loss fall on unseen rows too?", by_epoch.to_dict(), top=1)

# %% [markdown]
# The loss on unseen rows falls until the second {{term:epoch}} ends, at step 40, and hardly at all after that. The
# {{term:loss}} measures how surprised the model is by the right answer, on average per {{term:token}}; its unit is the
# nat, and 0 means no surprise. A step trains on two rows, so 40 rows make 20 steps an epoch. The pale line is each
# step's training loss, which jumps because some rows are harder than others; the bold line is its moving average. The
# validation points are `full_valid_loss`, measured on all 16 rows after each epoch, whereas `valid_loss` may use only
# a few. If the validation line turns upwards, take an earlier checkpoint (section 4).
#
# The job keeps the same numbers in a file:

# %%
content = client.files.content(job.result_files[0]).read()
table = content if b"," in content else base64.b64decode(content)          # Azure sends the CSV, OpenAI has sent base64 of it
pd.read_csv(io.BytesIO(table)).iloc[[0, 1, -1]]

# %% [markdown]
# `NaN` means that nothing was validated at that step. The accuracies are shares of tokens, most of which are braces
# and field names, but one wrong token spoils a record. So don't report them as your score.
#
# **Your turn.** In all exercises you may use Python's standard library, NumPy, PyTorch, pandas and SciPy, but no library
# that does the exercise for you.

# %%
# EXERCISE: api-1

# %% [markdown]
# ## 3 · What else may a row contain?
#
# Real logs contain replies that no model should learn, and replies that call one of your functions. This row has one
# of each:

# %%
find_order = {"type": "function", "function": {"name": "find_order", "parameters": {
    "type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}}}
call = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"order_id": "TB-40512"}'}}
row = {"tools": [find_order], "messages": [
    {"role": "user", "content": "Where is TB-40512?"},
    {"role": "assistant", "content": "No idea, sorry.", "weight": 0},
    {"role": "user", "content": "Could you look it up, please?"},
    {"role": "assistant", "tool_calls": [call]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"status": "on its way"}'},
    {"role": "assistant", "content": "Your parcel is on its way."},
]}
tokenizer = models.load_tokenizer()
encoded = training.SFT(turns="all").encode(tokenizer, flatten(row["messages"], row["tools"]), 1024, "row")    # as this service does
answers, weights = encoded.completions[0], encoded.token_values["weight"]
# A label of -100 means that the token is read but not learned.
labels = [-100] * len(encoded.prompt) + [token if weight else -100 for token, weight in zip(answers, weights)]
show.conversation(tokenizer, (encoded.prompt + answers)[-135:], labels[-135:])

# %% [markdown]
# This is the end of the row as the model reads it, with a special token where each message starts and ends. This model's
# template writes the function's result as a `user` message. The model learns the bold tokens: every assistant message
# unless its `weight` is 0. The bad reply has to stay in the text, because the next message responds to it. In a
# {{term:tool call}}, `arguments` is a *string* that contains JSON, and the result repeats
# the call's id. OpenAI supports `weight` too; Nebius's notebooks don't mention it.

# %%
# EXERCISE: api-2

# %% [markdown]
# ## 4 · Is it better than a prompt?
#
# The job used your rows, so a fair prompt gets them too, and shows the eight solved messages most similar to the new
# one. With `response_format` the model is {{term:constrained decoding|held to the form}}, because the server only
# allows tokens that still fit the schema. At temperature 0 it takes the likeliest token.

# %%
schema = {
    "type": "object", "required": ["category", "escalation"], "additionalProperties": False,
    "properties": {
        "category": {"type": "string", "enum": ["delivery", "billing", "returns", "defect", "account", "question"]},
        "escalation": {"type": "string", "enum": ["none", "danger", "misuse", "money", "legal", "deadline"]},
    },
}
form = {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": schema}}
short_answer = {"temperature": 0, "max_tokens": 24}


def read_record(reply):
    """Return the record in a reply, or None if it isn't a valid one."""
    try:
        record = json.loads(reply)
        jsonschema.validate(record, schema)
    except (ValueError, jsonschema.ValidationError):
        return None
    return record


def score_replies(client, model, prompts, solutions, **options):
    """Ask a model and return one row a message: its reply, what is right in it, and its tokens."""
    patient = client.with_options(max_retries=8)           # a host that is busy once loses no reply

    def ask(messages):
        return patient.chat.completions.create(model=model, messages=messages, **options)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(ask, prompts))
    replies = [answer.choices[0].message.content or "" for answer in made]
    records = [read_record(reply) for reply in replies]
    return pd.DataFrame([
        {"reply": reply, "valid": record is not None,
         **{field: record is not None and record.get(field) == value for field, value in solution.items()},
         "all fields": record == solution, "tokens in": answer.usage.prompt_tokens, "tokens out": answer.usage.completion_tokens}
        for reply, record, solution, answer in zip(replies, records, solutions, made)
    ])


# %%
guess = predict("In how many of eight replies will the trained model have both fields right?", unit="replies")
guess

# %%
chats = [row["messages"] for row in read_rows("hosted-test.jsonl")]
prompts, solutions = [chat[:-1] for chat in chats], [json.loads(chat[-1]["content"]) for chat in chats]
solved = [row["messages"] for row in read_rows("hosted-train.jsonl")]
texts = {"asked": [chat[1]["content"] for chat in chats], "solved": [chat[1]["content"] for chat in solved]}
words = TfidfVectorizer(sublinear_tf=True).fit(texts["solved"])         # two texts are alike if they share rare words
likeness = words.transform(texts["asked"]) @ words.transform(texts["solved"]).T
instructions = {"role": "system", "content": lesson_06.INSTRUCTIONS}
told = [[instructions, prompt[-1]] for prompt in prompts]
shown = []
for prompt, order in zip(prompts, likeness.toarray().argsort()):
    examples = [message for number in order[-8:] for message in solved[number][1:]]       # the most similar last
    shown.append([instructions, *examples, prompt[-1]])
results = {
    "instructions": score_replies(client, base, told, solutions, **short_answer),
    "instructions, form forced": score_replies(client, base, told, solutions, **short_answer, response_format=form),
    "8 similar, form forced": score_replies(client, base, shown, solutions, **short_answer, response_format=form),
    "trained on 40 rows": score_replies(client, job.fine_tuned_model, prompts, solutions, **short_answer),
}
print(lesson_06.INSTRUCTIONS)
guess.reveal(int(results["trained on 40 rows"]["all fields"].sum()))

# %%
pd.DataFrame({
    way: {"messages": len(rows), **rows.select_dtypes(bool).mean().map("{:.0%}".format), "tokens in": round(rows["tokens in"].mean())}
    for way, rows in results.items()
}).T

# %%
ways = ("instructions", "8 similar, form forced", "trained on 40 rows")
show.answers([prompt[-1]["content"] for prompt in prompts[:2]], {way: list(results[way]["reply"][:2]) for way in ways}, solutions[:2])

# %% [markdown]
# After the job every reply is a valid record, although its prompt is the shortest, but most are still wrong. Eight
# messages are too few for a decision, and they're longer than the training rows. So here are results on a hundred,
# for a larger model too. The recorded jobs had {{record:hosted:examples:d}} rows as short as ours (scripts:
# `benchmarks/hosted.py`, `benchmarks/laptop_service.py`):

# %%
lesson_06.rivals()

# %% [markdown]
# On both models training gets more records right than any prompt that we recorded, even the one with examples from
# the same solved messages. A schema is enough for the *form*, but it can't choose the category. The last row gives
# every message the most common answer, so your model should beat it in every column. None of the small model's
# prompts does, nor do the 0.5B's without examples, because they get fewer escalations right.
#
# **Is the difference real?** Both ways answered the same hundred messages, so count those that only one of them got right:

# %%
runs = assets.read_record("laptop-service")["runs"]
tuned, prompted = (runs[f"0.5B | {way} | 0"]["right"]["all fields"] for way in ("tuned", "told and 8 retrieved, form forced"))
only = [sum(a > b for a, b in zip(*pair)) for pair in ((tuned, prompted), (prompted, tuned))]
print(f"0.5B: only the tuned model right {only[0]}, only the prompted one {only[1]}, p = {binomtest(only[0], sum(only)).pvalue:.4f}")

# %% [markdown]
# If neither were better, each of these messages would be a coin toss, and p is the chance of a split at least this
# lopsided. If p is below 0.05, treat the two models as different. Training again can still change the score, as each
# model's three jobs at the top show.
#
# For week 1, put your hundred messages into `shown`, their records into `solutions`, your fields into `schema` and your
# instructions into the prompt, and score OpenAI's current small model like this (*not run here*). Try one message
# first, because the messages go to OpenAI and hosts accept different schemas. Reasoning models take no temperature
# and have another name for the token limit:
#
# ```python
# rows = score_replies(OpenAI(), "gpt-6-luna", shown, solutions, response_format=form, max_completion_tokens=100,
#                      reasoning_effort="none")
# rows.select_dtypes(bool).mean()
# ```
#
# <details><summary><b>Your own files, for example those of lesson 05's script</b></summary>
#
# The code replaces the lesson's files, `schema`, `job` and `results`, so rerun from section 1 before you read on. Compare
# the scores with the last row's and your prompt's.
#
# ```python
# from collections import Counter
#
# for part in ("train", "validation", "test"):              # hosts take messages, and nothing else in a row
#     rows = [{"messages": row["prompt"] + row["completion"]} for row in read_rows(f"mine-ready/{part}.jsonl")]
#     write_rows(f"hosted-{part}.jsonl", rows)
# chats = {part: [row["messages"] for row in read_rows(f"hosted-{part}.jsonl")] for part in ("train", "test")}
# records = {part: [json.loads(chat[-1]["content"]) for chat in chats[part]] for part in chats}
# prompts, solutions, fields = [chat[:-1] for chat in chats["test"]], records["test"], list(records["train"][0])
# schema = {"type": "object", "required": fields, "additionalProperties": False,
#           "properties": {field: {"type": ["string", "number", "boolean", "null"]} for field in fields}}
# form["json_schema"]["schema"] = schema
#
# client, job = run_job(**hosts["this machine"])
# usual = {field: Counter(json.dumps(record[field]) for record in records["train"]).most_common(1)[0][0] for field in fields}
# given = [{field: json.dumps(solution[field]) == usual[field] for field in fields} for solution in solutions]
# given = [right | {"all fields": all(right.values())} for right in given]
# results = {
#     "trained": score_replies(client, job.fine_tuned_model, prompts, solutions, temperature=0, max_tokens=200),
#     "always the most common value": pd.DataFrame(given),
# }
# pd.DataFrame({way: rows.select_dtypes(bool).mean() for way, rows in results.items()}).T
# ```
#
# </details>

# %% [markdown]
# ### How long should it train?
#
# A host keeps copies of the model, its {{term:checkpoint|checkpoints}}, from each of the last epochs. Here each has
# its own name, so you can score them, on the validation rows rather than the test:

# %%
held_out = [row["messages"] for row in read_rows("hosted-validation.jsonl")]
asked, right = [chat[:-1] for chat in held_out], [json.loads(chat[-1]["content"]) for chat in held_out]
for one in client.fine_tuning.jobs.checkpoints.list(job.id):          # the newest first
    scored = score_replies(client, one.fine_tuned_model_checkpoint, asked, right, **short_answer)
    print(f"step {one.step_number}: validation loss {one.metrics.full_valid_loss:.3f}, both right {scored['all fields'].mean():.0%}")

# %% [markdown]
# Sixteen rows can't separate the last two checkpoints, so here's a recorded job of the small model on
# {{record:hosted:examples:d}} rows, scored on the hundred test messages. We don't choose by these scores, which come
# from a different run than the table above and differ a little:

# %%
run = assets.read_record("hosted")["runs"][0]
pd.DataFrame({
    f"epoch {number}": {
        "training loss": f"{trained:.3f}", "validation loss": f"{held:.3f}",
        **{f"{name} right": f"{run['scores'][f'tuned, epoch {number}'][name][0]:.0%}" for name in ("category", "both")},
    } for number, (trained, held) in enumerate(zip(run["curve"]["trained"], run["curve"]["held"]), 1)
}).T

# %% [markdown]
# After the second epoch the validation loss rises, while the training loss keeps falling. That's
# {{term:overfitting}}, because the model begins to learn the rows by heart. The third epoch cost a third of the bill
# but didn't raise the score. This is one job, so look at your own curve:
#
# - Start with `"auto"`, and always pass a validation file, because the training loss falls regardless.
# - If answers can be scored, score the checkpoints as above, on more than sixteen validation rows.
# - If they can't, take the lowest validation loss. If that checkpoint is gone, run a job with fewer epochs.

# %%
# EXERCISE: api-3

# %% [markdown]
# ## 5 · When it goes wrong
#
# Seven rows are too few for OpenAI and for this service, yet `create` succeeds and the job fails later. Other
# mistakes fail at once. The `closed host` error imitates OpenAI's answer to customers who may no longer train, as one
# reported it on 26 May 2026 (github.com/ed-donner/llm_engineering, issue 3258).

# %%
file = client.files.create(file=write_rows("hosted-seven.jsonl", read_rows("hosted-train.jsonl")[:7]).open("rb"), purpose="fine-tune")
failed = wait(client, client.fine_tuning.jobs.create(model=base, training_file=file.id), every=1)
print(f"{failed.status}: {failed.error.code}, {failed.error.message}")
mistake = client.fine_tuning.jobs.create(model=base, training_file=job.training_file)
print(client.fine_tuning.jobs.cancel(mistake.id).status)

# %%
stranger, closed = OpenAI(base_url=server.base_url, api_key="sk-of-another-account-0000"), local_server(refuse=True)
os.environ["CLOSED_API_KEY"] = closed.api_key
attempts = {
    "wrong ending": lambda: client.files.create(file=("rows.json", b"{}"), purpose="fine-tune"),
    "mistyped name": lambda: client.chat.completions.create(model=job.fine_tuned_model + "x", messages=prompts[0]),
    "wrong key": stranger.models.list,
    "closed host": lambda: run_job(**hosts["this machine"] | {"base_url": closed.base_url, "key": "CLOSED_API_KEY"}),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except APIStatusError as error:
        print(f"{name}: {error.status_code} {error.code}, {error.message[:105]}")
closed.stop()

# %% [markdown]
# Make your program rely on `job.status`, `job.error.code` and `error.code`, since messages change. OpenAI has sent empty
# error objects with healthy jobs, and Python treats such an object as true, so test `job.error and job.error.code`. The
# client itself retries twice if a host is busy (429) or broken (500 and up). Don't retry `training_not_available`. A job
# started by mistake costs money until you call `jobs.cancel`.

# %% [markdown]
# ## 6 · When nobody can write the right answer
#
# Sometimes people can only say which of two answers is better. {{term:DPO}} learns from such pairs (lesson 04), and a host
# that offers it expects a different row format and `method`. This job starts from the model you've just trained. We built
# in a mistake: all its pairs reject the same record.

# %%
pairs = [
    {"input": {"messages": chat[:-1]}, "preferred_output": [chat[-1]],
     "non_preferred_output": [{"role": "assistant", "content": '{"category": "question", "escalation": "none"}'}]}
    for chat in short["train"][40:90] if '"question"' not in chat[-1]["content"]
][:12]
file = client.files.create(file=write_rows("hosted-pairs.jsonl", pairs).open("rb"), purpose="fine-tune")
preferred = wait(client, client.fine_tuning.jobs.create(
    model=job.fine_tuned_model, training_file=file.id, suffix="preferred", seed=0,
    method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 1, "batch_size": 4}}},
), every=1)
metrics = [event.data for event in client.fine_tuning.jobs.list_events(preferred.id) if event.type == "metrics"]
results["after pairs"] = score_replies(client, preferred.fine_tuned_model, prompts, solutions, **short_answer)
print(f"loss of the first step {metrics[-1]['train_loss']:.3f}, of the last {metrics[0]['train_loss']:.3f}")

# %% [markdown]
# The loss starts near $\ln 2 = 0.693$, as in every DPO job, and falls. Eight messages can't show whether the answers
# improve, so here's what sixty pairs did to two models tuned as in section 4, with different seeds, on the hundred
# messages (script: `benchmarks/hosted.py`):
#
# | sixty pairs | both fields right | escalation right | both, other seed | escalation, other seed |
# | --- | --- | --- | --- | --- |
# | before any pairs | {{record:host-preferences:runs.0.models."tuned, before any pairs".scores.both.0:.0%}} | {{record:host-preferences:runs.0.models."tuned, before any pairs".scores.escalation.0:.0%}} | {{record:host-preferences:runs.1.models."tuned, before any pairs".scores.both.0:.0%}} | {{record:host-preferences:runs.1.models."tuned, before any pairs".scores.escalation.0:.0%}} |
# | pairs that all reject one record, as above | {{record:host-preferences:runs.0.models."pairs that punish one record".scores.both.0:.0%}} | {{record:host-preferences:runs.0.models."pairs that punish one record".scores.escalation.0:.0%}} | {{record:host-preferences:runs.1.models."pairs that punish one record".scores.both.0:.0%}} | {{record:host-preferences:runs.1.models."pairs that punish one record".scores.escalation.0:.0%}} |
# | pairs that reject the model's own mistakes | {{record:host-preferences:runs.0.models."pairs of its own mistakes".scores.both.0:.0%}} | {{record:host-preferences:runs.0.models."pairs of its own mistakes".scores.escalation.0:.0%}} | {{record:host-preferences:runs.1.models."pairs of its own mistakes".scores.both.0:.0%}} | {{record:host-preferences:runs.1.models."pairs of its own mistakes".scores.escalation.0:.0%}} |
# | as many pairs for "none" as against it | {{record:host-preferences:runs.0.models."as many for “none” as against it".scores.both.0:.0%}} | {{record:host-preferences:runs.0.models."as many for “none” as against it".scores.escalation.0:.0%}} | {{record:host-preferences:runs.1.models."as many for “none” as against it".scores.both.0:.0%}} | {{record:host-preferences:runs.1.models."as many for “none” as against it".scores.escalation.0:.0%}} |
# | pairs that all reject one record, with `"learning_rate_multiplier": 0.1` | {{record:host-preferences:runs.0.models."pairs that punish one record, steps a tenth as large".scores.both.0:.0%}} | {{record:host-preferences:runs.0.models."pairs that punish one record, steps a tenth as large".scores.escalation.0:.0%}} | {{record:host-preferences:runs.1.models."pairs that punish one record, steps a tenth as large".scores.both.0:.0%}} | {{record:host-preferences:runs.1.models."pairs that punish one record, steps a tenth as large".scores.escalation.0:.0%}} |
#
# **No kind of pairs improved on the starting model.** With pairs that all reject one record, most escalations are
# wrong at the usual rate; at a tenth of that rate, whole records suffer least. If you know the right answer, put it
# in a row and train on that.
#
# **Reinforcement fine-tuning** needs a *grader* instead, a program or a model that gives each answer a score. OpenAI
# offered it for one reasoning model, o4-mini, which Azure still lists. With open models you run the training yourself,
# as in the [notebook on learning from a score](further/04_reinforcement.ipynb), which also shows how a score is gamed.

# %% [markdown]
# ## 7 · Deploy, first answer, delete
#
# At OpenAI and on the local service a new model answers at once. The other hosts in this table need one more step:

# %%
lesson_06.hosts_table()

# %%
show.folded("What differs in the program, and other dates", lesson_06.differences_table())

# %% [markdown]
# Read a date at its source before you rely on it.
#
# <details><summary><b>The whole procedure at Nebius</b>, from its documentation; we've never run it</summary>
#
# ```python
# import requests
#
# nebius, job = run_job(**hosts["Nebius"])
# checkpoint = max(nebius.fine_tuning.jobs.checkpoints.list(job.id), key=lambda one: one.step_number)   # or as in section 4
# address, headers = "https://api.tokenfactory.nebius.com/v0/models", {"Authorization": f"Bearer {nebius.api_key}"}
# made = requests.post(address, headers=headers, timeout=30, json={
#     "name": "triage", "base_model": "meta-llama/Meta-Llama-3.1-8B-Instruct", "source": f"{job.id}:{checkpoint.id}"}).json()
# for _ in range(60):
#     status = requests.get(f"{address}/{made['name']}", headers=headers, timeout=30).json()["status"]
#     if status != "validating":
#         break
#     time.sleep(10)
# assert status == "active", status
# rows = score_replies(nebius, made["name"], prompts, solutions, **short_answer)
# Path("nebius-adapter").mkdir(exist_ok=True)
# for file_id in checkpoint.result_files:
#     name = Path(nebius.files.retrieve(file_id).filename).name
#     nebius.files.content(file_id).write_to_file(Path("nebius-adapter") / name)
# ```
#
# </details>
#
# Whatever the host, send your test messages before any customer's, because another server may use a different
# {{term:chat template}}.
#
# W&B serves an {{term:adapter}} that you've trained elsewhere, for example with lesson 03's program on
# `OpenPipe/Qwen3-14B-Instruct`. Its base must be one that W&B serves, and its rank, which sets its size (lesson 02),
# at most 16. Upload the folder as an artifact, whose address becomes the model's name.
#
# On Azure you deploy with a `PUT` to the management API, for which you need another token. A standard deployment is
# billed by the hour and by the token. A developer-tier one is billed only by the token and deleted after 24 hours,
# which is enough for your test.
#
# **Know the closing date.** In OpenAI's list of models it's the field `shutdown_date`, so a daily check can warn you:

# %%
def days_left(model, today):
    """Return the days until a model is switched off, or None if its host has announced no date."""
    shutdown = getattr(model, "shutdown_date", None)
    return (date.fromisoformat(shutdown) - today).days if shutdown else None


print(base, "on this machine:", days_left(client.models.retrieve(base), date.today()))
print("a model tuned from gpt-4.1-mini at OpenAI, by the table's date:", (HOSTS["openai"].ends - date.today()).days, "days")

# %% [markdown]
# Whatever the host, save four things before that day:
#
# | keep | how | good for |
# | --- | --- | --- |
# | the files | `client.files.content(id)` | training anywhere else |
# | the test set with its scores | yours already | knowing whether the next model is as good |
# | the model's answers to a few hundred messages | ask while it's still hosted | {{term:distillation}}: in our record a model of the same size, trained on them, got {{record:hosted:runs.0.scores."distilled from its answers".both.0:.0%}}, the old one {{record:hosted:runs.0.scores."tuned, not told".both.0:.0%}} |
# | the {{term:weight|weights}} | from hosts of open models, as files | the same model, on your machine |
#
# Here the adapter is a folder. Copy it, then delete from the host whatever shouldn't stay there:

# %%
import shutil

adapter = shutil.copytree(server.adapter_folder(job.fine_tuned_model), "hosted-adapter", dirs_exist_ok=True)
print("deleted:", client.models.delete(job.fine_tuned_model).deleted, client.files.delete(job.training_file).deleted)
try:
    client.chat.completions.create(model=job.fine_tuned_model, messages=prompts[0])
except APIStatusError as error:
    print(error.status_code, error.code)
server.stop()
show.folder_sizes(adapter)

# %% [markdown]
# The cell deletes one model and one file. At a host, also delete the validation file, the pairs, the result files and
# the model tuned on pairs, and ask whether checkpoints go too, which OpenAI doesn't document. The host is now gone,
# so load the folder onto the same base on your own machine, with the library {{term:PEFT}}, and ask again:

# %%
from course_utils.generation import generate
from peft import PeftModel

own, _ = models.load()
own = PeftModel.from_pretrained(own, adapter)
replies = generate(own, tokenizer, prompts, max_new_tokens=24)
both = [(mine.strip(), theirs.strip()) for mine, theirs in zip(replies, results["trained on 40 rows"]["reply"])]
print(f"the same to the letter: {sum(mine == theirs for mine, theirs in both)} of {len(both)}")
for mine, theirs in both:
    if mine != theirs:
        print(f"here {mine}\nat the host {theirs}")

# %% [markdown]
# In our runs, at most one answer differed, and we don't know why. If one of yours differs in its braces or begins with
# a sentence before the record, look for a different template. Serving the
# adapter takes a GPU and one line, which is *not run here*: `vllm serve BASE --enable-lora --lora-modules
# triage=./hosted-adapter`. After that only `base_url` and `model` change in your program.
#
# **Behind a feature flag**, switch `base_url`, key, `model` and system message together, because the tuned model
# needs its four words and the old setup its long instructions. If the call fails or `read_record` returns `None`,
# fall back. Log which model answered, so that you can compare the two afterwards.
#
# | question | somebody else's host | your own machine |
# | --- | --- | --- |
# | what do you need to start? | a key, and a card to charge | a GPU or a slow evening, and somebody who keeps it running |
# | who has the weights? | the host; at hosts of open models you get a copy | you |
# | which methods are there? | the one to three it offers | whatever you can program (lessons 02 to 04) |
# | where do the data go? | to the host, under its contract | nowhere |
# | what do you pay? | tokens trained, tokens used, at some hosts hours | the machine, busy or idle |
# | when does it end? | on the host's date | on yours |
# | what is it best for? | a first try, few requests, the strongest models | data that may not leave, many requests, models that must last |

# %% [markdown]
# ## 8 · The bill
#
# You pay for the job once: the file's tokens times the epochs times the price. Yours would have cost this much at
# OpenAI (last row: at Tinker, another host):

# %%
pd.DataFrame({
    name: {"$ for a million tokens": price.training, "your job, $": f"{job.trained_tokens * price.training / 1e6:.3f}",
           "100 times the rows, $": f"{100 * job.trained_tokens * price.training / 1e6:.2f}", "read": price.date}
    for name, price in costs.PRICES.items()
}).T

# %% [markdown]
# The job costs next to nothing, so look at the requests. **By hand**, for a million requests: today's small model,
# `gpt-6-luna`, costs {{fact:prices:gpt-6-luna.input:.2f}} dollars for a million tokens read and
# {{fact:prices:gpt-6-luna.output:.2f}} for a million written. At 170 tokens a prompt and 15 an answer, you pay 170
# and 15 times as much. An adapter on a 14-billion-parameter model at W&B (not measured here) needs only 60 prompt tokens,
# at {{fact:prices:qwen3-14b-adapter.input:.2f}} and {{fact:prices:qwen3-14b-adapter.output:.2f}} dollars. The first
# line below has both totals. If its answers are as good, the adapter saves the difference. The figure uses your
# measured tokens, on logarithmic axes:

# %%
prices = {"luna": costs.price_of("gpt-6-luna"), "adapter": costs.ADAPTERS["qwen3-14b-adapter"], "azure": costs.UNTUNED["gpt-4.1-mini"]}
hour = facts.table("prices")["azure-hosting"]["hour"]
print("a million requests by hand:", ", ".join(
    f"{way} {tokens * prices[way].input + 15 * prices[way].output:.2f} dollars" for way, tokens in {"luna": 170, "adapter": 60}.items()))
tokens_in = {way: results[way]["tokens in"].mean() for way in results}
tokens_out = results["trained on 40 rows"]["tokens out"].mean()


def dollars_a_month(requests, price, way, hourly=0):
    """Return what so many requests a month cost, and the 730 hours of a model that is kept ready."""
    return requests * (tokens_in[way] * price.input + tokens_out * price.output) / 1e6 + 730 * hourly


options = {
    "gpt-6-luna, instructions": (prices["luna"], "instructions"),
    "gpt-6-luna, 8 examples": (prices["luna"], "8 similar, form forced"),
    "adapter, by the token": (prices["adapter"], "trained on 40 rows"),
    "on Azure, by the hour": (prices["azure"], "trained on 40 rows", hour),
}
volumes = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
monthly = pd.DataFrame({name: [dollars_a_month(n, *option) for n in volumes] for name, option in options.items()}, index=volumes)
charts.lines({name: (volumes, list(column)) for name, column in monthly.items()},
             "A long prompt costs most per request, but an hourly model costs most while requests are few", "requests a month", "dollars a month",
             log_x=volumes, log_y=True)

# %%
for way in ("gpt-6-luna, instructions", "gpt-6-luna, 8 examples"):
    saved = (monthly[way] - monthly["adapter, by the token"])[1_000_000]
    print(f"{way}: ${saved:.2f} saved in a million requests; 40 hours at $80 come back after {40 * 80 / saved:,.0f} million")
monthly.map("${:,.2f}".format)

# %% [markdown]
# **With prompts as short as these, 40 hours of work at 80 dollars pay for themselves only after more than 50 million
# requests.** A prompt of several thousand tokens may change that, so put your number into `tokens_in`, and use your
# host's price for cached input, which is far lower. Azure's hourly model never beats `gpt-6-luna` with instructions
# on price, and with eight examples only at 100 million, because its base also costs more per token. So train for
# better answers, or because data and model must stay with you.
#
# The price of an hour, {{fact:prices:azure-hosting.hour:.2f}} dollars, is an example in Azure's documentation of
# {{fact:prices:azure-hosting.date:%d %B %Y}}; we read the other prices between
# {{fact:prices:"gpt-4.1-mini".untuned.date:%B}} and {{fact:prices:qwen3-14b-adapter.date:%B %Y}}
# (`data/prices.toml`). `gpt-6-luna` costs this much with `reasoning_effort="none"`; if it thinks first, its thoughts
# are billed as output. Count tokens with your host's tokenizer, because ours belongs to the small model.

# %%
# EXERCISE: api-4

# %% [markdown]
# ## 9 · How far to trust this, and what you can do now
#
# | | |
# | --- | --- |
# | messages | 100 invented ones, longer than the training rows; 8 live |
# | runs | section 4 has three jobs for each model; prompts with examples were asked once |
# | hosts | read from each host's page on its date; we had no accounts |
# | not found | Nebius's price for an adapter, a call that deletes one there, Crusoe's events |
# | would change the answer | a current hosted model with your prompt; messages of another kind; a host that charges more for tuned tokens, as OpenAI does |
#
# | you want to | do |
# | --- | --- |
# | know whether to train | score the best prompt (schema, similar examples) on a hundred messages; then one job |
# | know whether it worked | check the validation curve, then compare scored answers with the prompt's |
# | train elsewhere | run the program with another host's settings, first on ten rows |
# | keep a bad reply out | set `weight: 0` |
# | guarantee a form | use `response_format` with a schema, trained or not |
# | be ready to leave | keep files, test set and weights at home |
#
# You'll recognise three mistakes by their symptoms:
#
# - The program waits for ever, because it waits for `succeeded` and the job failed an hour ago (section 2).
# - The upload is `processed`, and an hour later the job is `failed`, because OpenAI reads the rows only then (section 5).
# - The answers get worse at the new host, perhaps because the system message differs from the training rows' (section 1).

# %%
quiz("06")

# %% [markdown]
# In **the challenge** you plan twelve jobs for a dollar, and the marker trains a small classifier following your
# plan.

# %%
# EXERCISE: api-5

# %% [markdown]
# {{words}}
#
# **Read next.** OpenAI, [*Deprecations*](https://developers.openai.com/api/docs/deprecations), on what ends when.
# Hinton et al. (2015), *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531. Rafailov et al. (2023),
# *Direct Preference Optimization*, arXiv 2305.18290.
