# %% [markdown]
# # 06 · The OpenAI fine-tuning API, on a server that really trains
#
# {{badges}}
#
# By the end you will be able to
#
# - upload a training file, create a job, follow it, and use the model it leaves, with the official client,
# - read its curves, see overfitting, and choose a checkpoint by its loss and by its answers,
# - put preferences on top, and say what each costs at today's prices,
# - recognise the refusal that new organisations get, and point the same code at another host or at your own machine,
# - take the weights with you, and say what you give up when you can't.
#
# {{timing}}
#
# **What this is.** OpenAI is closing its fine-tuning service: no new organisations since May 2026, no new jobs for anyone
# from January 2027, and by all reports the models that were tuned there end in the same month. The API outlives it: other
# hosts keep it, and here it is served by this machine, without a key and without a network, by a service that really
# fine-tunes. The client below is OpenAI's own and does not know the difference.

# %%
# INSTALL: server,data

# %% [markdown]
# ## 1 · One cell to choose
#
# **The host is chosen here and nowhere else.** The calls below are the same for all; cells that look into our own server are
# left out elsewhere. What a host does in its own way is in the list that follows: read it before you send a job there.

# %%
import os

from course_utils.openai_server import HOSTS, local_server
from openai import OpenAI

HOST = os.environ.get("COURSE_HOST", "local")  # or "openai", "azure", "nebius", "crusoe"

if HOST == "local":
    server = local_server(rows=8)  # answers at once; fewer take less memory
    BASE_URL, API_KEY, BASE_MODEL = server.base_url, server.api_key, None
else:
    server = None
    BASE_URL = os.environ.get("OPENAI_BASE_URL", HOSTS[HOST].base_url)
    API_KEY = os.environ[HOSTS[HOST].key_variable]
    BASE_MODEL = HOSTS[HOST].base_model

client = OpenAI(base_url=BASE_URL, api_key=API_KEY)
BASE_MODEL = BASE_MODEL or client.models.list().data[0].id
print("host:", HOSTS[HOST].name, "| base model:", BASE_MODEL)

# %% [markdown]
# On the server runs what `course serve` starts in a terminal: files and jobs in a folder, training in a process of its own,
# answers from one base model in memory. Other hosts of the same API, what differs there, until when, and how far we know it:

# %%
for host in HOSTS.values():
    weights = "yours to download" if host.weights else "not given"
    print(f"{host.name}: {host.base_url or 'wherever you start it'}\n    works: {host.jobs}")
    print(f"    methods: {', '.join(host.methods)}; weights: {weights}")
    print(f"    base: {host.base_model}; what is tuned from it answers until: {host.ends}\n    dates: {host.dates}")
    print("".join(f"    - {difference}\n" for difference in host.differences), end="")
    print(f"    read: {host.checked}")

# %% [markdown]
# ## 2 · Two files
#
# Training and validation, a conversation a line. The system message names the task in a few words; what the answer looks
# like stands nowhere but in the examples. **Always send a validation file**: OpenAI does not charge for it, and its curve is
# the only evidence a job gives of how the model does on messages that it was not trained on.

# %%
import json
import tempfile
import time
import warnings
from pathlib import Path

from course_utils import claims, costs, data_prep, figures, hardware, models
from course_utils.data_prep.validation import validate
from course_utils.exercises import check, quiz  # noqa: F401 - the exercises at the end use check

warnings.filterwarnings("ignore", category=FutureWarning)  # between library versions; nothing a learner can act on
SEED = 0
device = hardware.detect()
PLAN = {
    "cpu": {"examples": 100, "validation": 16, "ask": 16, "pairs": 16},
    "t4": {"examples": 300, "validation": 40, "ask": 100, "pairs": 80},
    "a100": {"examples": 600, "validation": 60, "ask": 100, "pairs": 160},
}[device.tier]
OWN_CPU = server is not None and device.tier == "cpu"  # where some results below are known beforehand, and asserted
task = data_prep.load_task("support_tickets")
folder = Path(tempfile.mkdtemp())


def write(name, rows):
    """A JSONL file of these rows."""
    file = folder / name
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


training_file = write("train.jsonl", [{"messages": m} for m in task.train[: PLAN["examples"]]])
validation_file = write("validation.jsonl", [{"messages": m} for m in task.validation[: PLAN["validation"]]])
print(training_file.read_text(encoding="utf-8").splitlines()[0])

# %% [markdown]
# A host validates when the *job* runs, minutes after you went away. Do it before: lesson 05's validator knows the hosts'
# rules, and with the tokenizer it counts what you will pay for.

# %%
tokenizer = models.load_tokenizer(tier=device.tier)
report = validate(training_file, "chat", tokenizer=tokenizer)
print(report)
EPOCHS = 3
for name in costs.PRICES:
    print(f"{name:<14} {EPOCHS} epochs of {report.tokens:,} tokens: ${costs.training_cost(report.tokens, EPOCHS, name):.2f}   "
          f"(prices of {costs.price_of(name).date}, {costs.price_of(name).source})")
print(f"OpenAI's gpt-4.1 and gpt-4o answer until {HOSTS['openai'].ends}, tuned or not (whose word that is: section 1)")

# %%
upload = client.files.create(file=training_file.open("rb"), purpose="fine-tune")
held_out = client.files.create(file=validation_file.open("rb"), purpose="fine-tune")
print(upload.id, upload.filename, upload.bytes, "bytes,", upload.status)

# %% [markdown]
# `processed` means stored, not checked.
#
# ## 3 · A job
#
# "auto" first: the host chooses batch size and learning rate, and says afterwards what it chose. And one refusal to be ready for.

# %%
from openai import PermissionDeniedError


def submit_job(client, **asked):
    """A job, or None with the reason where the host takes none from this organisation."""
    try:
        return client.fine_tuning.jobs.create(**asked)
    except PermissionDeniedError as error:
        if error.code != "training_not_available":
            raise
        print("refused:", error.body["message"])
        print(HOSTS["openai"].dates)
        return None


job = submit_job(client, model=BASE_MODEL, training_file=upload.id, validation_file=held_out.id, suffix="triage", seed=SEED,
                 method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS}}})
assert job, "this host takes no job from you: choose another in section 1 (local needs no key)"
print(job.id, job.status, "|", job.method.supervised.hyperparameters)

# %% [markdown]
# The client has no function that waits. A loop that waits for `succeeded` waits for ever when a job fails, and hosts have ends of
# their own: so name the states in which a job is *not* over. **Predict** how the two curves will run.

# %%
from IPython.display import HTML, display

WAITING = ("validating_files", "queued", "running", "paused")


def curve(events, title):
    """Losses of a job's metrics events as a figure."""
    rows = sorted((e.data for e in events if e.type == "metrics"), key=lambda data: data["step"])
    lines = {"training": ([r["step"] for r in rows], [r["train_loss"] for r in rows])}
    if held := [r for r in rows if "full_valid_loss" in r]:
        lines["validation"] = [r["step"] for r in held], [r["full_valid_loss"] for r in held]
    return figures.lines(lines, title, "step", "loss, nats a token")


def follow(job, title):
    """Show a job's news as they come, its curve while it runs; returns the job once it is over, and its events."""
    seen, view, drawn = set(), display(HTML(""), display_id=True), 0.0
    while True:
        job = client.fine_tuning.jobs.retrieve(job.id)
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
        for event in reversed(events):
            if event.id not in seen and event.type != "metrics":
                print(event.message)
            seen.add(event.id)
        over = job.status not in WAITING
        if over or time.time() - drawn > 10:
            drawn = time.time()
            if sum(e.type == "metrics" for e in events) > 1:
                view.update(HTML(curve(events, title)._repr_html_()))
        if over:
            return job, events
        time.sleep(1)


job, events = follow(job, f"A job of {EPOCHS} epochs")
print(job.status, "|", job.error.message if job.error and job.error.code else "no error", "|", job.trained_tokens, "tokens trained")
print("auto was:", job.method.supervised.hyperparameters)
assert job.status == "succeeded"

# %% [markdown]
# Compare the two curves. Where validation stops following training down, the model begins to learn the examples instead of
# the task: there is the sign to watch for.
#
# ## 4 · Use it
#
# By its name, temperature 0.2, and **no word about the format**. Beside it the base, asked the same way, and asked with everything
# that a prompt can say.

# %%
from concurrent.futures import ThreadPoolExecutor

schema = json.dumps(task.schema["properties"], ensure_ascii=False)
INSTRUCTIONS = (
    "Triage this customer message. Answer with one JSON object on one line and nothing else, no explanation, no Markdown. "
    f"Its fields, all required, and the values they may have: {schema}. Copy the order number from the message or write null."
)
prompts = task.prompts()[: PLAN["ask"]]


def ask(model, instructions=None, temperature=0.2, **more):
    """Answers to the test messages, many at once, and the tokens of all requests."""
    def one(prompt):
        messages = [{"role": "system", "content": instructions}, *prompt[1:]] if instructions else prompt
        made = client.chat.completions.create(
            model=model, messages=messages, temperature=temperature, max_tokens=110, seed=SEED, **more)
        return made.choices[0].message.content, made.usage.prompt_tokens
    with ThreadPoolExecutor(16) as pool:
        answers, tokens = zip(*pool.map(one, prompts))
    return list(answers), sum(tokens) / len(tokens)


results = {}
for name, model, instructions in (
    ("base, no instructions", BASE_MODEL, None),
    ("base, long prompt", BASE_MODEL, INSTRUCTIONS),
    ("tuned, no instructions", job.fine_tuned_model, None),
):
    answers, tokens = ask(model, instructions)
    results[name] = task.evaluate(answers), tokens
    print(f"{name:<23} valid {results[name][0].valid}   {tokens:.0f} prompt tokens   {answers[0][:90]!r}")

# %%
tuned, plain, before = (results[name] for name in ("tuned, no instructions", "base, no instructions", "base, long prompt"))
if OWN_CPU:
    assert plain[0].valid.value < 0.1 < 0.8 < tuned[0].valid.value and before[0].valid.value < 0.8
follows = before[0].valid.high >= tuned[0].valid.low
print(f"Told the format, this base keeps it in {before[0].valid} of its answers: "
      + ("not measurably less" if follows else "less") + " than the tuned model, which was not told")

# %%
written = round(sum(len(tokenizer(text)["input_ids"]) for text in answers) / len(answers))  # the tuned model's, asked last
for name in ("gpt-4.1-mini", "gpt-4o-mini"):
    long, short = (1000 * costs.request_cost(round(n), written, name) for n in (before[1], tuned[1]))
    print(f"{name}: 1,000 requests ${long:.2f} with the long prompt, ${short:.2f} without (the fine-tuned model's price)")
print(f"for answers of {written} tokens; OpenAI's tuned models answer until {HOSTS['openai'].ends}")

# %% [markdown]
# The long prompt is paid for with every request. What the service can do without any training is *force* a form: constrained
# decoding allows only tokens that the schema allows.

# %%
form = json.loads(json.dumps(task.schema))
form["properties"]["summary"]["maxLength"] = 50  # texts without an end would fill the answer, and cut the JSON off
form["properties"]["product"]["maxLength"] = 20
forced, tokens = ask(BASE_MODEL, response_format={"type": "json_schema", "json_schema": {"name": "ticket", "schema": form}})
results["base, form forced"] = task.evaluate(forced), tokens
for name, (scores, _) in results.items():
    print(f"{name:<23} valid {scores.valid}   enumerations right {scores.enumerations}")

# %% [markdown]
# Forced answers have the form. The grammar knows which values a field may have, not which one is right: compare the last
# column with the tuned model's. Form can be forced, content must be learned or told.
#
# ## 5 · Checkpoints, and a curve that turns
#
# The last three epochs each leave a model. **Predict:** is the first one's format as good as the last one's? Its content?

# %%
losses, right = {}, {}
for checkpoint in reversed(client.fine_tuning.jobs.checkpoints.list(job.id).data):
    step, scores = checkpoint.step_number, task.evaluate(ask(checkpoint.fine_tuned_model_checkpoint, temperature=0)[0])
    losses[step], right[step] = checkpoint.metrics.full_valid_loss, scores.enumerations
    print(f"step {step:>3}: validation loss {losses[step]:.2f}   valid {scores.valid}   enumerations right {right[step]}")
print(f"lowest validation loss: step {min(losses, key=losses.get)}; most answers with all enumerations right: "
      f"step {max(right, key=lambda step: right[step].value)}, of {len(prompts)} answers each")

# %% [markdown]
# Now the mistake that a validation file is for: few examples, many epochs, a high rate.

# %%
FEW, MANY = 12, 6  # examples, epochs
few = client.files.create(file=write("few.jsonl", [{"messages": m} for m in task.train[:FEW]]), purpose="fine-tune")
hungry = {"n_epochs": MANY, "batch_size": 4, "learning_rate_multiplier": 4}
greedy = submit_job(client, model=BASE_MODEL, training_file=few.id, validation_file=held_out.id, suffix="greedy", seed=SEED,
                    method={"type": "supervised", "supervised": {"hyperparameters": hungry}})
greedy, greedy_events = follow(greedy, f"{FEW} examples, {MANY} epochs")

# %%
rows = sorted((e.data for e in greedy_events if e.type == "metrics"), key=lambda data: data["step"])
held = {r["step"]: r["full_valid_loss"] for r in rows if "full_valid_loss" in r}
trained = {r["step"]: r["train_loss"] for r in rows}
best, last = min(held, key=held.get), max(held)
print(f"validation loss is lowest at step {best}: {held[best]:.2f}; at the end {held[last]:.2f}, "
      f"while training loss went from {trained[best]:.3f} to {trained[last]:.3f}")
if OWN_CPU:
    assert best < last and trained[last] < trained[best]

# %% [markdown]
# Every curve has a lowest point. Does this one *turn*: does it rise in at least two epochs running, and by how much?

# %%
after_best = [held[step] for step in sorted(held) if step >= best]
turned = len(after_best) > 2 and after_best == sorted(after_best) and trained[last] < trained[best]
rise = held[last] / held[best] - 1
print("validation loss, epoch by epoch:", ", ".join(f"{held[step]:.3f}" for step in sorted(held)))
print(f"it {'turned' if turned else 'did not rise in two epochs running'}: it ends {100 * rise:.1f} % above its lowest, "
      f"in the mean over {PLAN['validation']} messages")

# %% [markdown]
# The API gives that mean, and no message's own loss: no interval can be had, so look at the size of the rise and whether it
# goes on.
#
# Only the last three epochs are kept, and the job's own model is the last. The usual rule takes the checkpoint with the
# lowest validation loss; were the best epoch no longer among them, you would run again with that many epochs. **Predict:**
# does the checkpoint with the lower loss also answer better?

# %%
kept = {c.step_number: c for c in client.fine_tuning.jobs.checkpoints.list(greedy.id)}
chosen = min(kept.values(), key=lambda c: c.metrics.full_valid_loss)
print("kept:", sorted(kept), "| chosen: step", chosen.step_number)
outcome = {}
for name, model in (("the chosen one", chosen.fine_tuned_model_checkpoint), ("the job's model", greedy.fine_tuned_model)):
    outcome[name] = task.evaluate(ask(model, temperature=0)[0])
    print(f"{name:<16} valid {outcome[name].valid}   enumerations right {outcome[name].enumerations}")
count = [round(scores.enumerations.value * scores.enumerations.n) for scores in outcome.values()]
print(f"all enumerations right in {count[0]} of {len(prompts)} answers at the lowest loss kept, in {count[1]} at the end: "
      + ("fewer, as the rule expects" if count[1] < count[0] else "not fewer, whatever the loss did"))

# %% [markdown]
# The two need not agree. The loss is a mean over every token of the reference answers, the summary's wording included, and
# counts how sure the model is; the last column counts answers. Where its intervals overlap, it does not tell neighbours
# apart either.
#
# So the turn of the curve says when further epochs stop paying. Which checkpoint to deploy is better asked of the answers,
# if they can be scored: many of them, and on messages kept for this choice, not on the test that you report (here, for
# brevity, it is the test). Without such a score, the lowest validation loss is the rule.
#
# ## 6 · Preferences on top
#
# A job can start from a fine-tuned model, and `dpo` takes pairs: a better and a worse answer to the same message. The cheapest pairs
# are the model's own mistakes: ask it about messages it has not seen, and set the right record against each wrong answer.

# %%
unseen = task.train[PLAN["examples"] : PLAN["examples"] + 3 * PLAN["pairs"]]


def answer(conversation):
    """The tuned model's answer to a message, at temperature 1."""
    made = client.chat.completions.create(
        model=job.fine_tuned_model, messages=conversation[:-1], temperature=1, seed=SEED, max_tokens=110)
    return made.choices[0].message.content


with ThreadPoolExecutor(16) as pool:
    given = list(pool.map(answer, unseen))
pairs = [
    {"input": {"messages": c[:-1], "tools": [], "parallel_tool_calls": True},
     "preferred_output": [c[-1]], "non_preferred_output": [{"role": "assistant", "content": text}]}
    for c, text in zip(unseen, given) if text.strip() and text != c[-1]["content"]
][: PLAN["pairs"]]  # fmt: skip
print(len(pairs), "pairs, one of them:", json.dumps(pairs[0]["non_preferred_output"][0]["content"])[:120])

# %%
pair_file = client.files.create(file=write("pairs.jsonl", pairs), purpose="fine-tune")
preferred = submit_job(client, model=job.fine_tuned_model, training_file=pair_file.id, suffix="preferred", seed=SEED,
                       method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 2, "batch_size": 4}}})
preferred, dpo_events = follow(preferred, "DPO on top")
losses = [e.data["train_loss"] for e in sorted((e for e in dpo_events if e.type == "metrics"), key=lambda e: e.data["step"])]
print(f"loss at the first step {losses[0]:.3f} (ln 2 is 0.693: policy and reference are the same), at the last {losses[-1]:.3f}")
if OWN_CPU:
    assert abs(losses[0] - 0.6931) < 0.05 and losses[-1] < losses[0]

# %%
after = task.evaluate(ask(preferred.fine_tuned_model)[0])
for name, done, scores in (("supervised", job, tuned[0]), ("and DPO", preferred, after)):
    tokens = done.trained_tokens or 0
    print(f"{name:<11} valid {scores.valid}   enumerations right {scores.enumerations}   {tokens:,} tokens trained: "
          f"${costs.training_cost(tokens):.2f} at gpt-4.1-mini's price")

# %% [markdown]
# So few pairs can do harm as well as good; the intervals say how much of either these answers can show. (DPO's price
# assumes that a host counts as this server does: a pair's prompt once, with both answers.) Lesson 04 has the methods and
# what they need; the point here is that a hosted job takes them, and that it starts from what you have.
#
# ## 7 · The result file
#
# Every job leaves one. OpenAI's has been base64 of a CSV, Azure's is the CSV itself; reading both costs one line.

# %%
import base64

data = client.files.content(job.result_files[0]).read()
table = (data if b"," in data else base64.b64decode(data)).decode().splitlines()
print("\n".join(table[:4]), "\n…\n" + table[-1])

# %% [markdown]
# ## 8 · Refused
#
# What an organisation without the right to train gets, here from a second server that was told to answer so. (It is a stand-in: the
# words are those that users of the real service reported.) Uploads still work; the job does not. `submit_job` above knows what to say.

# %%
with local_server(refuse=True) as strict:
    other = strict.client()
    file = other.files.create(file=training_file.open("rb"), purpose="fine-tune")
    refused = submit_job(other, model=other.models.list().data[0].id, training_file=file.id)
assert refused is None

# %% [markdown]
# ## 9 · Take it with you
#
# Of a model at OpenAI or Azure you have its name. Of ours you have the weights: an adapter as PEFT writes it. Load it
# without the server, and compare answers.

# %%
if server is not None:
    from course_utils.generation import generate
    from peft import PeftModel

    adapter = server.adapter_folder(job.fine_tuned_model)
    size = sum(file.stat().st_size for file in adapter.iterdir())
    outside = PeftModel.from_pretrained(models.load(tier=device.tier)[0], adapter)
    mine = generate(outside, tokenizer, prompts[:8], max_new_tokens=110, batch_size=8)
    theirs = ask(job.fine_tuned_model, temperature=0)[0]
    same = sum(a == b for a, b in zip(mine, theirs))
    print(f"adapter of {size / 1e6:.1f} MB; {same} of 8 answers are the same to the letter")
    print(mine[0])
    assert same >= 1

# %% [markdown]
# The two computed in another order, and rounded on the way: where two tokens are nearly equal, one answer may take the
# other.
#
# ## 10 · Four models, one base
#
# The base and three fine-tuned models, asked at once. The server holds one base, and each row of its batch goes through its own
# adapter, or through none.

# %%
if server is not None:
    import urllib.request

    names = [BASE_MODEL, job.fine_tuned_model, chosen.fine_tuned_model_checkpoint, preferred.fine_tuned_model]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda name: client.chat.completions.create(
            model=name, messages=prompts[0], temperature=0, max_tokens=110).choices[0].message.content, names))
    for name, reply in zip(names, replies):
        print(f"{name[-32:]:<33} {reply[:100]!r}")
    with urllib.request.urlopen(server.base_url.removesuffix("v1") + "health") as found:
        state = json.load(found)
    print(f"{state['adapters']} adapters in memory, {state['adapter_bytes'] / 1e6:.0f} MB; the whole serving process {server.memory_bytes / 1e6:.0f} MB")

# %% [markdown]
# ## 11 · Hosted or your own
#
# What does our own server take by the API? Ask a second one, which takes jobs and leaves them where they are.

# %%
started = time.time()
with local_server(jobs=False) as spare:
    start_seconds = time.time() - started
    address, methods = spare.client().base_url.host, []
    for method in ("supervised", "dpo", "reinforcement"):
        try:
            file = spare.client().files.create(file=training_file.open("rb"), purpose="fine-tune")
            base = spare.client().models.list().data[0].id
            spare.client().fine_tuning.jobs.create(model=base, training_file=file.id, method={"type": method})
            methods.append(method)
        except Exception as error:
            print(f"{method}: {error}")
assert tuple(methods) == HOSTS["local"].methods

# %% [markdown]
# No more than the other hosts take. What sets your own machine apart is what runs without the API. Each row of the table
# comes from something that ran, here or in an earlier lesson, or from the list of hosts in section 1.

# %%
# Method: the lesson that ran it.
RAN = {"SFT": "02", "QLoRA": "03", "DPO": "04", "ORPO": "04", "a reward model": "04", "PPO": "04"}
hosted = [host for host in HOSTS.values() if host.base_url]
most = max((host.methods for host in hosted), key=len)
closed, giving = ([host.name for host in hosted if host.weights == given] for given in (False, True))
print("No weights from:", ", ".join(closed), "| weights from:", ", ".join(giving), "| at most by the API:", ", ".join(most))

# %%
own_weights, own_cost = "a folder, as PEFT writes it", "your machine while it trains"
if server is not None:
    own_weights = f"a folder of {size / 1e6:.1f} MB, used in section 9"
    own_cost = f"{job.finished_at - job.created_at} s of this machine"
rows = [
    ("set-up", "a key and the calls above",
     f"the same calls after a start of {start_seconds:.1f} s; GPU and updates are yours"),
    ("weights", f"a name, {job.fine_tuned_model[:24]}…; files from {' and '.join(giving)}", own_weights),
    ("techniques", f"{', '.join(most)} at most", f"{', '.join(RAN)} (lessons 02 to 04); by the API {', '.join(methods)}"),
    ("privacy", f"{upload.bytes:,} bytes of customers' messages leave", f"they go to {address}"),
    ("cost", f"${costs.training_cost(report.tokens, EPOCHS):.2f} for this job (gpt-4.1-mini), then every token",
     f"{own_cost}, then its time"),
    ("best for", "no GPU, no operations, the strongest bases, while the service lasts",
     "data that must stay, volume, methods, models that must live"),
]
display(HTML("<table><tr><th></th><th>hosted</th><th>your own</th></tr>" + "".join(
    f"<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>" for a, b, c in rows) + "</table>"))
for row in rows:
    print(" | ".join(row))

# %% [markdown]
# ## 12 · Claims

# %%
claims.check(
    "O1",
    measured=f"without a word about the format: valid {tuned[0].valid} after training, {plain[0].valid} before; told it in "
    f"a prompt of {before[1]:.0f} tokens, the base reaches {before[0].valid}",
    holds=tuned[0].valid.low > plain[0].valid.high and tuned[0].valid.high >= before[0].valid.value,
    when="the format is learned from examples"
    + ("; this base keeps it when it is told, too: then training saves the tokens" if follows else "")
    + "; what a call must guarantee needs constrained decoding besides",
    because="the tuned model keeps the format not clearly more often than before, or less often than the base that is told",
)
claims.check(
    "O2",
    measured=f"by the API {', '.join(most)} at most, by our own code {', '.join(RAN)}; no weights from "
    f"{' and '.join(closed)}, a folder from our own server; {upload.bytes:,} bytes of messages leave for all but {address}",
    holds=all(len(host.methods) < len(RAN) for host in hosted) and len(closed) > 0,
    when=f"the host gives no weights ({' and '.join(giving)} give them); more methods come with code of your own, not with "
    "this API",
    because="the hosts in the list take as many methods, or give the weights",
)
claims.check(
    "O3",
    measured=f"{FEW} examples, {MANY} epochs: validation loss {held[best]:.2f} at step {best}, {held[last]:.2f} at step "
    f"{last} ({100 * rise:+.0f} %, a mean over {PLAN['validation']} messages, without an interval); training loss "
    f"{trained[best]:.3f}, {trained[last]:.3f}; answers with all enumerations right: {count[0]} of {len(prompts)} at the "
    f"lowest loss kept, {count[1]} at the end",
    holds=turned,
    when=f"it rises in several epochs running, here in {len(after_best) - 1}. It shows that more of them do not pay, not "
    f"that the answers got worse: here they did{'' if count[1] < count[0] else ' not'}",
    because="the validation loss did not rise in two epochs running after its lowest",
)
claims.table()

# %% [markdown]
# ## 13 · Mistakes that show

# %%
from openai import APIStatusError, NotFoundError

try:
    client.files.create(file=("tickets.json", training_file.read_bytes()), purpose="fine-tune")
except APIStatusError as error:
    print("1. the file's name:", error.body["message"])

# %%
seven = client.files.create(file=write("seven.jsonl", [{"messages": m} for m in task.train[:7]]), purpose="fine-tune")
failed, _ = follow(client.fine_tuning.jobs.create(model=BASE_MODEL, training_file=seven.id), "none")
print("2. found when the job ran:", failed.error.code, "-", failed.error.message)

# %%
try:
    client.chat.completions.create(model=job.fine_tuned_model + "x", messages=prompts[0])
except NotFoundError as error:
    print("3. a name mistyped:", error.code, "-", error.body["message"])

# %% [markdown]
# Of an error the client's text shows the status only; what a program needs is in `error.code`, what a person needs in `error.body`.

# %%
if server is not None:
    server.stop()

# %% [markdown]
# ## 14 · Quiz
#
# Each choice opens to say why it is right or wrong. `quiz("06").answer(1, "b")` says the same as text.

# %%
quiz("06")

# %% [markdown]
# ## 15 · Exercises
#
# Each checks itself and knows the typical mistakes.

# %%
# EXERCISE: api-1

# %%
# EXERCISE: api-2

# %%
# EXERCISE: api-3

# %%
# EXERCISE: api-4

# %%
# EXERCISE: api-5

# %% [markdown]
# ## What you have seen
#
# - The calls outlive the service: what was written for one host trains on your own machine, and elsewhere with the
#   differences listed.
# - Form can be forced; content is learned or told. Training takes the instructions out of every prompt.
# - A validation curve that turns says when further epochs stop paying. Which checkpoint answers best, only answers say.
# - A hosted model lives as long as its host says. Keep the training files; keep the weights where you can get them.
#
# That was the last lesson. Lesson 01 says which of the tools to take first.
