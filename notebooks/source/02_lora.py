# %% [markdown]
# # 02 · LoRA: teach a model a new behaviour
#
# {{badges}}
#
# > **A customer writes:** strimmer went bang and threw a bit of metal past my ear. still got both ears. order number is
# > tb 61180, over to you
#
# | the model's answer before training | after training on {{record:lora-seeds:plan.examples:d}} tickets |
# | --- | --- |
# | {{record:lora-seeds:untrained.1:}} | `{{record:lora-seeds:runs.0.answers.1:}}` |
# | ✗ not a record | ✓ all four fields right |
#
# Your program needs the record, but a small language model chats. In this lesson you'll train a model with 135 million
# parameters to write the record, on your own computer. Without a GPU the model reads 80 solved tickets once, in about a
# minute. That's enough to learn a record's form but not its content, so your model's reply to this message will
# probably be worse. Training writes an *adapter*, a file of 20 MB, and leaves the model itself as it was.
#
# By the end you'll be able to
#
# - train a model on your own JSONL file and score it on messages it hasn't seen,
# - follow one training {{term:step}} from text to an updated weight,
# - write {{term:LoRA}} in twenty lines and check it against the {{term:PEFT}} library,
# - estimate a run's memory, and choose its learning rate by measuring,
# - save, merge and serve what you've trained, and recognise five mistakes.
#
# You should know Python and have called a language model's API; you need no training experience. Reading takes about 40
# minutes, the exercises as long again. {{timing}} If you know PyTorch, you need only the label mask from section 3. If
# you only want to use LoRA, skip sections 3 and 4 and their exercises. Run every cell in either case.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter, because Run All first clears all outputs. To
# recover the recorded page, run `course restore 02` in a terminal.

# %%
# INSTALL: trl

# %%
import json

import jsonschema
import pandas as pd
import torch
from course_utils import assets, charts, evidence, hardware, memory, models, plans, preflight, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz

device, plan = hardware.detect(), plans.plan("02")
task = load_task("support_tickets", list(plan.fields))
for name, chats in {"train": task.train[: plan.examples], "validation": task.validation[:40], "test": task.test}.items():
    with open(f"{name}.jsonl", "w", encoding="utf-8") as file:
        for chat in chats:
            file.write(json.dumps({"prompt": chat[:-1], "completion": chat[-1:]}) + "\n")
learning_rate, tickets_a_step, answer_tokens = plan.learning_rate, plan.batch_size, plan.answer_tokens
place, dtype, on_cpu = device.place(), device.torch_dtype(), device.kind == "cpu"
print(f"{plan.examples} tickets, {tickets_a_step} a step, learning rate {learning_rate}, at most {answer_tokens} tokens an answer;",
      f"{dtype} on {device.name}")
print(open("train.jsonl", encoding="utf-8").readline())

# %% [markdown]
# You now have three files with a solved ticket on each line. Your program will send the `prompt`, and the `completion` is
# the reply you want. You'll train on `train.jsonl`, make choices on `validation.jsonl`, and score your model on
# `test.jsonl` once, at the end. The settings printed above suit your machine.

# %% [markdown]
# ## 1 · Would a good prompt be enough?
#
# The tickets come from Tarnbrook, a shop we invented. Each one becomes a record with four fields:
#
# | field | values | rule |
# | --- | --- | --- |
# | `category` | delivery, billing, returns, defect, account, question | what the message is mainly about |
# | `escalation` | none, danger, misuse, money, legal, deadline | why it must jump the queue; usually `none` |
# | `product` | text or null | copied from the message, letter for letter |
# | `order_id` | `TB-` and five digits, or null | normalised: "tb 61180" becomes `TB-61180` |
#
# Training takes work, so first ask the untrained model about a toaster, once as your program would and once with the
# rules and three solved tickets in the prompt.

# %% tags=["program"]
from transformers import AutoModelForCausalLM, AutoTokenizer

base = models.fetch()     # its folder on this machine; at work a name on the hub, "HuggingFaceTB/SmolLM2-135M-Instruct"
tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(place)


def write_replies(model, prompts):
    """Return the model's reply to each list of messages, taking the likeliest token at each place."""
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=answer_tokens, do_sample=False, repetition_penalty=1.0, use_cache=True,
        logits_to_keep=[-1],        # scores of the last token; 1 means the same, but copies a matrix for each prompt on a CPU
    )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)


# %%
rules = """Triage this customer message. Answer with one JSON object on one line and nothing else. Its fields, in this order:
category: delivery, billing, returns, defect, account or question.
escalation: danger, misuse, money, legal or deadline if the message must jump the queue, else none. Mostly none.
product: the product, copied letter for letter from the message, or null.
order_id: the order number as TB- and five digits, or null."""


def add_rules(prompt, examples):
    """Return the prompt with the rules as its system message, and solved tickets as earlier turns."""
    turns = [message for ticket in examples for message in [ticket["prompt"][-1], *ticket["completion"]]]
    return [{"role": "system", "content": rules}, *turns, prompt[-1]]


tickets = [json.loads(line) for line in open("train.jsonl", encoding="utf-8")]
question = [tickets[0]["prompt"][0], {"role": "user", "content": "any news on my toaster? TB-30718"}]
with_rules = add_rules(question, tickets[:3])
for name, prompt in {"plain": question, "with rules and examples": with_rules}.items():
    tokens = len(tokenizer.apply_chat_template(prompt, return_dict=True)["input_ids"])
    print(f"{name}, {tokens} tokens: {write_replies(model, [prompt])[0]}")

# %% [markdown]
# Without rules and examples the model just chats. With them it writes a record, though with the wrong escalation, and
# you'd pay for the longer prompt on every call. One reply tells you little, so section 2 scores such prompts, with
# fuller rules, on a hundred messages. It also scores two other ways without training: *decoding under a schema*,
# which only lets the model write tokens that fit, and putting the eight most similar solved tickets in the prompt.

# %% [markdown]
# ## 2 · The whole job, in one program
#
# This is the program to take to work. It trains an adapter on `train.jsonl`, measures the loss (one number for how
# wrong the model still is) on a quarter of `validation.jsonl`, saves the adapter, and scores its replies to all of
# `validation.jsonl`. In a terminal, `course train-script` writes it as one file, `train_adapter.py`, which runs without
# this course and says what to install. `python train_adapter.py` trains and scores; `python train_adapter.py test.jsonl`
# scores the saved adapter on the test file.
#
# First check the files and the model's template (in a terminal, with `course preflight`), because this catches some
# faults early, such as truncated answers, an end marker never learned, or test rows in the training file.

# %%
preflight.check("train.jsonl", device.tier, evaluation="validation.jsonl", learning_rate=learning_rate)

# %% [markdown]
# A note is no reason to stop (section 8 explains `end-is-padding`). Before you run the program, write down how many
# of 40 replies you expect to be valid records, and how many to be right in every field.

# %% tags=["program"]
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

files = {"train": "train.jsonl", "validation": "validation.jsonl"}
train_rows, loss_rows = load_dataset("json", data_files=files, split=["train", "validation[:25%]"])
model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)     # a fresh copy, untrained
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
settings = SFTConfig(
    output_dir="checkpoints", learning_rate=learning_rate, num_train_epochs=1, warmup_steps=5,
    per_device_train_batch_size=tickets_a_step, per_device_eval_batch_size=tickets_a_step, gradient_checkpointing=False,
    eval_strategy="steps", eval_steps=0.5, eval_on_start=True, logging_steps=5, save_strategy="no", report_to="none",
    use_cpu=on_cpu, bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16,
)
trainer = SFTTrainer(model, args=settings, peft_config=adapter, train_dataset=train_rows, eval_dataset=loss_rows)
trainer.train()
trainer.save_model("ticket-adapter")
tuned = trainer.model.eval()

# %% tags=["program"]
schema = {
    "type": "object", "required": ["category", "escalation", "product", "order_id"], "additionalProperties": False,
    "properties": {
        "category": {"enum": ["delivery", "billing", "returns", "defect", "account", "question"]},
        "escalation": {"enum": ["none", "danger", "misuse", "money", "legal", "deadline"]},
        "product": {"type": ["string", "null"]},
        "order_id": {"type": ["string", "null"], "pattern": "^TB-[0-9]{5}$"},
    },
}


def read_rows(file):
    """Return the rows of a JSONL file, and the record that each asks for."""
    rows = [json.loads(line) for line in open(file, encoding="utf-8")]
    return rows, [json.loads(row["completion"][0]["content"]) for row in rows]


def grade(reply, solution):
    """Return True or False for the reply's form, for each field, and for the whole record."""
    try:
        record = json.loads(reply)
        jsonschema.validate(record, schema)
    except (ValueError, jsonschema.ValidationError):          # no JSON, or not the form: nothing is right
        record = {}
    fields = {name: name in record and record[name] == value for name, value in solution.items()}
    return {"valid": bool(record), **fields, "all fields": record == solution}


def grade_replies(model, file):
    """Return a model's replies to the rows of a file, and the grades of each."""
    rows, solutions = read_rows(file)
    prompts = [row["prompt"] for row in rows]
    replies = [reply for i in range(0, len(prompts), 20) for reply in write_replies(model, prompts[i : i + 20])]
    return pd.DataFrame(map(grade, replies, solutions)).assign(reply=replies)


# %% tags=["program"]
rows, solutions = read_rows("validation.jsonl")
scores = grade_replies(tuned, "validation.jsonl")
most_common = pd.DataFrame(solutions).apply(lambda field: field.value_counts(normalize=True, dropna=False).iloc[0])
shares = pd.DataFrame({"your model": scores.drop(columns="reply").mean(), "always the most common value": most_common}).T
shares[["valid", *schema["required"], "all fields"]].map("{:.0%}".format, na_action="ignore").fillna("–")

# %% [markdown]
# After 80 tickets on a CPU, nearly all replies are valid and nearly all order numbers are right, but fewer than one
# reply in five is right in every field. The product is right about half the time. For the category the model somewhat
# beats always giving the most common value; for the escalation it hardly does. You can't see this in the trainer's
# table, where the loss fell steeply and the *mean token accuracy* (the share of the answer's tokens predicted
# correctly) ended at 95 %, because most of an answer's tokens are form, such as braces and field names. So score
# whole replies, and read five to see how the model fails:

# %%
show.answers([row["prompt"][-1]["content"] for row in rows[:5]], {"trained": list(scores["reply"][:5])}, solutions[:5])

# %% [markdown]
# **Is that better than a prompt?** The next table shows how many of the same hundred test messages got a record that's
# right in all four fields. We recorded it (script: `benchmarks/laptop_tickets.py`) for the small model and for
# Qwen2.5-Coder with 0.5 and 1.5 billion parameters. *Tokens* is the length of the prompt. *Seeds* is the number of runs
# per model, in the order of the columns. Each run used different tickets, and a dash means no run. *Base in 4 bits* is
# lesson 03's method. Replace "all fields" with a field's name to see that field alone.

# %%
evidence.lesson_02.rivals_table("all fields")

# %% [markdown]
# **For the 0.5B, 80 tickets are worth more in training than in its prompt.** Training on them gets about four records
# in ten entirely right; showing the eight most similar gets about a quarter. After 240 tickets about six in ten are
# right, and even the small model beats its own best prompt.
#
# **Before you pay for more tickets, train on yours more than once.** Unless a row says otherwise, the model read each
# ticket once, two per step, so 240 tickets also meant three times as many steps as 80. Reading the first seed's 80
# tickets three times takes the small model from
# {{record:laptop-tickets:runs."135M | LoRA, 80 | 0".right."all fields":.0%}} to
# {{record:laptop-tickets:runs."135M | LoRA, 80, 3 passes | 0".right."all fields":.0%}} and the 0.5B from
# {{record:laptop-tickets:runs."0.5B | LoRA, 80 | 0".right."all fields":.0%}} to
# {{record:laptop-tickets:runs."0.5B | LoRA, 80, 3 passes | 0".right."all fields":.0%}}. Six passes look better still
# for the small model but not for the 0.5B, though each is a single run. Our program makes one pass because each takes
# a laptop a minute. Raise `num_train_epochs`, and stop when validation replies no longer improve. The table's
# intervals only reflect which test messages were sampled, not which tickets the model was trained on.
#
# With models this small, a few hundred solved tickets helped more as training data than as examples in the prompt. If
# you have fewer, compare both on your own messages. We didn't measure a hosted model: measure yours and add a row. A
# trained model also needs only a short prompt, 30 tokens in section 1. No row is good enough to file tickets
# unattended, because even the best is right on only 72 of 100.

# %% [markdown]
# Did your model notice the urgent messages (row `True`)? It missed those in the columns "none" and "no record":

# %%
urgent = pd.Series([solution["escalation"] != "none" for solution in solutions], name="urgent")
said = [json.loads(reply)["escalation"] if valid else "no record" for reply, valid in zip(scores["reply"], scores["valid"])]
pd.crosstab(urgent, pd.Series(said, name="the model's escalation"))

# %% [markdown]
# After 80 tickets, most urgent messages get "none". A missed danger costs more than a false alarm, so decide how many of
# each you can live with. Until the model stays within those limits, have a person read every message, and add urgent
# tickets to `train.jsonl` (lesson 05).
#
# When you put in your own files, change the schema (the script also reads one from `schema.json`) and look at these
# settings:
#
# | setting | what it does | what to change |
# | --- | --- | --- |
# | `answer_tokens` | cuts longer replies; they count as no record | the tokens of your longest answer, and a few more |
# | `learning_rate` | sets the size of each step | about 2e-4 for 7B models; section 6 finds it by measuring |
# | `per_device_train_batch_size` | averages this many tickets for a step | a larger batch is faster on a GPU but means fewer steps, so measure the rate |
# | `num_train_epochs` | how often the file is read | 3 or more for a small file, while validation replies improve (section 8) |
# | `warmup_steps` | raises the rate from zero over the first steps; afterwards TRL lowers it to zero in a straight line | leave it |
# | `max_length` | 1,024 tokens unless you set it; TRL cuts off the end of longer rows, which is the answer | at least the tokens of your longest row |
# | `gradient_checkpointing` | saves memory and costs time | remove it if memory is short: TRL defaults to on |
# | `bf16`, `fp16`, `dtype` | the number format: bfloat16 where that's fast, float16 on a T4, else 32 bits | – |
#
# <details><summary><b>On Colab: a run that survives "Runtime disconnected"</b></summary>
#
# A free runtime can end at any moment, and its disk is lost with it. Keep {{term:checkpoint|checkpoints}} on your Drive.
# After a disconnect, run the same cells again: training continues from the newest checkpoint.
#
# ```python
# import os
#
# from google.colab import drive
# from transformers.trainer_utils import get_last_checkpoint
#
# drive.mount("/content/drive")                    # Colab asks you for permission
# folder = "/content/drive/MyDrive/tickets"
#
# os.makedirs(folder, exist_ok=True)
#
# # put these lines after `settings = SFTConfig(…)` ...
# settings.output_dir, settings.save_strategy, settings.save_steps = folder, "steps", 10
# # ... and start training with this line; the first time there is no checkpoint, None
# trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
# ```
#
# In the course's own loop (section 6), write `training.Settings(…, checkpoint_folder=folder, checkpoint_every=10)`.
#
# </details>

# %% [markdown]
# ## 3 · What happens in one training step?
#
# `trainer.train()` took a few dozen steps. Take one yourself now, on one ticket and without the trainer.

# %%
show.drawing("training-step")

# %% [markdown]
# ### Which tokens count? The label mask
#
# The {{term:chat template}} writes the conversation as one text, and the {{term:tokenizer}} cuts it into
# {{term:token|tokens}}, each with a number. You want a model that answers customers instead of imitating them, so
# each token also gets a label. Inside the answer that's its own number; before the answer it's −100, which PyTorch's
# loss skips. TRL made this {{term:label mask}} from `prompt` and `completion`. This section uses the small model in
# 32 bits on every machine.

# %%
student, student_tokenizer = models.load(tier="cpu", dtype=torch.float32)
student.cpu()


def encode(ticket):
    """Return a ticket's token ids, and its labels: -100 before the answer."""
    template = student_tokenizer.apply_chat_template
    prompt = template(ticket["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = template(ticket["prompt"] + ticket["completion"], return_dict=True)["input_ids"]
    return torch.tensor(ids), torch.tensor([-100] * len(prompt) + ids[len(prompt):])


ids, labels = encode(tickets[0])
show.conversation(student_tokenizer, ids.tolist(), labels.tolist())

# %% [markdown]
# Only the blue tokens have a loss. The end marker is one of them, because a model that isn't trained on it may not
# stop.
#
# ### How wrong is the model? The loss, and the shift by one
#
# At each position the model scores every token of its {{term:vocabulary}}, and {{term:softmax}} turns these
# {{term:logits|scores}} into probabilities. A token's {{term:loss}} is minus the natural logarithm of its probability: a
# token that got 20 % costs −ln 0.20 = 1.61, and a token that got 100 % costs 0. The unit is the *nat*. Each row of
# scores predicts the *next* token, so the scores for the token at position i are in row i − 1.

# %%
with torch.no_grad():
    logits = student(ids[None]).logits[0]                     # (positions, vocabulary)
first = int((labels != -100).nonzero()[0])                    # where the answer begins
log_probability = logits.log_softmax(dim=-1)
losses = torch.stack([-log_probability[i - 1, ids[i]] for i in range(first, len(ids))])
print(pd.DataFrame({
    "token": [student_tokenizer.decode(id) for id in ids[first:]], "probability, %": 100 * (-losses).exp(), "loss": losses
}).head(14).to_string(index=False, float_format="{:.2f}".format))
print(f"mean {losses.mean():.4f}; by transformers {student(ids[None], labels=labels[None]).loss:.4f}")

# %% [markdown]
# The opening brace costs most, followed by the beginnings of field names and values, which are what you want to
# teach. Colons and quotation marks cost little, probably because the model has seen plenty of JSON. Training lowers
# the mean over all the answer's tokens.
#
# ### Which way is down? One weight moves
#
# For each {{term:weight}}, `backward()` computes the {{term:gradient}}: how the loss would change if that weight grew a
# little. The {{term:optimizer}} then moves each trained weight a small step the other way. Here we train only the last
# four of the model's 30 layers, to save memory.

# %%
student.requires_grad_(False)
student.model.layers[-4:].requires_grad_(True)
optimizer = torch.optim.AdamW([weight for weight in student.parameters() if weight.requires_grad], lr=3e-4)
weights = student.model.layers[-1].mlp.down_proj.weight

before = weights[0, 0].item()
student(ids[None], labels=labels[None]).loss.backward()
optimizer.step()
print(f"before {before:+.6f}, gradient {weights.grad[0, 0]:+.6f}, after {weights[0, 0]:+.6f}")

# %% [markdown]
# The weight moved against its gradient, by 0.0003. That's the learning rate, because AdamW divides each gradient by its
# own recent size. So on the first step nearly every trained weight moves that far, however large its gradient is.
#
# `SFTTrainer` repeats such a step for every batch, but leaves the model's own weights alone and updates an adapter, which
# you'll build next.
#
# **Your turn.** Fix a loss that runs but is wrong.

# %%
# EXERCISE: lora-1

# %% [markdown]
# ## 4 · LoRA: learn the difference, and make it thin
#
# **Why not train every weight?** For each trained weight the computer keeps four numbers of 4 bytes: the weight, its
# gradient, and Adam's two running averages. A {{term:frozen}} weight takes 2 bytes in {{term:bfloat16}}. So a model of 7
# billion weights takes 7 × 16 = 112 GB if all of them are trained, and 7 × 2 = 14 GB if they're frozen. LoRA freezes them
# and trains something small beside them.
#
# **How can something small be enough?** The model has already learned English and JSON, so our format and labels may need
# only a simple change to each layer. To check, we trained all weights and then replaced each matrix's change with the
# nearest one that two thin matrices of 16 columns and rows can write. The validation loss stayed the same, 0.14 (means
# of three seeds, `benchmarks/lora_sweep.py`).
#
# A {{term:linear layer}} multiplies its input $x$ by a matrix $W_0$. Training would replace $W_0$ with $W_0 + \Delta W$.
# LoRA (Hu et al., 2021) leaves $W_0$ alone and writes the difference $\Delta W$ as $\frac{\alpha}{r} B A$, a product of
# two thin matrices and a factor. The layer's output is then
#
# $$h = W_0 x + \frac{\alpha}{r} B A x$$
#
# $A$ has only $r$ rows and $B$ only $r$ columns; $r$ is the {{term:rank}} and is small, for instance 16. $A$ squeezes the
# input into $r$ numbers, and $B$ spreads them out again. {{term:alpha|Alpha}}, $\alpha$, sets how much weight the
# update gets.

# %%
show.drawing("lora")

# %% [markdown]
# Work through an example by hand: three inputs, two outputs, rank 1, $\alpha = 2$.

# %%
W0 = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
A = torch.tensor([[1.0, 2.0, 0.0]])                        # 1 × 3: three inputs become one number
B = torch.tensor([[0.5], [-1.0]])                          # 2 × 1: the number becomes two outputs
x, alpha, r = torch.tensor([1.0, 1.0, 1.0]), 2, 1
print("frozen path ", (W0 @ x).tolist())
print("A squeezes  ", (A @ x).tolist())
print("B spreads   ", (alpha / r * B @ (A @ x)).tolist())
print("their sum   ", (W0 @ x + alpha / r * B @ (A @ x)).tolist())

# %% [markdown]
# $Ax = 1·1 + 2·1 + 0·1 = 3$. $B$ turns this 3 into $(1.5, -3)$, and $\alpha/r = 2$ doubles both.
#
# **Your turn, before you see ours.** Write the {{term:forward pass}} for a whole batch.

# %%
# EXERCISE: lora-2

# %% [markdown]
# Here is a complete layer, and a function that swaps it in for a model's linear layers. $B$ starts at zero, so the
# adapted model begins as an exact copy of the original. Because a batch's inputs are the *rows* of `x`, `x @ A.T` computes
# $Ax$ for all of them.

# %% tags=["lora-from-scratch"]
class LoRALinear(torch.nn.Module):
    """A frozen linear layer with a trained update of rank r beside it."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        bound, W0 = base.in_features**-0.5, base.weight    # A and B: on W0's device, in its format
        self.A = torch.nn.Parameter(W0.new_empty(rank, base.in_features).uniform_(-bound, bound))
        self.B = torch.nn.Parameter(W0.new_zeros(base.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, x):
        return self.base(x) + self.scaling * (x @ self.A.T @ self.B.T)

    def merged(self):
        return self.base.weight + self.scaling * self.B @ self.A


def inject(module, names, rank, alpha):
    """Replace the linear layers called `names`, at any depth, of a frozen model."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name in names:
            setattr(module, name, LoRALinear(child, rank, alpha))
        else:
            inject(child, names, rank, alpha)

# %% [markdown]
# Does the PEFT library compute the same thing? Adapt a block of the real model once with our class and once with PEFT, give
# both copies the same $A$, $B$ and input, and compare. Each number is the largest difference relative to the largest
# value, so 0e+00 means exact agreement.

# %%
import copy

from peft import inject_adapter_in_model

names = ["gate_proj", "up_proj", "down_proj"]
block = student.model.layers[0].mlp.requires_grad_(False)
ours, theirs = copy.deepcopy(block), copy.deepcopy(block)
inject(ours, names, rank=8, alpha=16)
theirs = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=names), theirs)
layers = {name: (getattr(ours, name), getattr(theirs, name)) for name in names}
for mine, peft in layers.values():
    torch.nn.init.normal_(mine.B, std=0.05)                # at zero, a mistake in A would not show
    peft.lora_A["default"].weight.data, peft.lora_B["default"].weight.data = mine.A.data.clone(), mine.B.data.clone()

x = torch.randn(4, 16, block.gate_proj.in_features)
outputs = ours(x), theirs(x)
for output in outputs:
    output.square().mean().backward()


def difference(ours, theirs):
    return f"{((ours - theirs).abs().max() / theirs.abs().max()).item():.0e}"


print("outputs", difference(*outputs))
pd.DataFrame({name: {
    "gradient of A": difference(mine.A.grad, peft.lora_A["default"].weight.grad),
    "gradient of B": difference(mine.B.grad, peft.lora_B["default"].weight.grad),
    "merged weight": difference(mine.merged(), peft.base_layer.weight + peft.get_delta_weight("default")),
} for name, (mine, peft) in layers.items()}).T

# %%
del student, optimizer, weights        # half a gigabyte that you don't need any more

# %% [markdown]
# Here our layers and PEFT's agree to the last digit; a machine that adds in another order shows differences of about
# 1e-07. PEFT adds saving, loading, switching and many special cases, and on a 16-bit model it keeps $A$ and $B$ in 32
# bits.

# %% [markdown]
# ## 5 · What is trained, what is stored, what fits
#
# $A$ has $r$ rows and one column for each input; $B$ has one row for each output and $r$ columns. For a 4096 × 4096 matrix
# and rank 16 that's 131,072 numbers instead of 16,777,216. Write a function that counts them for a whole model:

# %%
# EXERCISE: lora-3

# %% [markdown]
# Now count your own adapter, and compare it with those of larger models:

# %%
mine = sum(weight.numel() for name, weight in tuned.named_parameters() if "lora_" in name)
print(f"your adapter: {mine:,} numbers")
counts = {name: memory.count_parameters(name, rank=16)
          for name in ("SmolLM2-135M", "Qwen2.5-Coder-0.5B", "Mistral-7B-v0.1", "Llama-3.1-8B", "Llama-2-70B")}
pd.DataFrame([
    {"model": name, "trained": f"{count.trainable:,}", "share of all": f"{count.percent:.2f} %",
     "file in 32 bits": f"{4 * count.trainable / 1e6:.0f} MB"}
    for name, count in counts.items()
])

# %% [markdown]
# At the same rank larger models have relatively smaller adapters, because a matrix grows with the product of its sides
# and an adapter only with their sum. The next table adds up the memory for weights, gradients and optimizer states, but
# not for {{term:activation|activations}}. *Full, mixed precision* trains every weight, at 16 bytes each, as in
# section 4. {{term:QLoRA}}, the subject of lesson 03, stores the frozen weights in 4 bits.

# %%
evidence.lesson_02.states_table()

# %% [markdown]
# LoRA cuts Llama-3.1-8B from 128.5 GB to 16.7, nearly all of which is frozen weights. To include activations, run
# `course estimate Llama-3.1-8B --method lora --gpu t4` in a terminal, with your own model and card.

# %% [markdown]
# ## 6 · Which settings matter?
#
# | decision | do | why |
# | --- | --- | --- |
# | learning rate | measure it: three or four rates, a factor of 3 apart | too low, and the model learns little; too high, and the loss rises again |
# | which layers | all linear layers | an equally large adapter on attention alone raised the loss on everyday text most; large studies find it also learns less |
# | rank | 16; raise it if more data no longer lowers the loss | a convention: in our short runs the validation loss at ranks 1, 16 and 64 was about equal |
# | alpha | 2 × rank, and leave it | it does nearly the same job as the rate |
# | epochs | stop when validation replies stop getting better | section 8 shows what too many do |
#
# **Find the rate by measuring.** At each rate, train a fresh adapter for a few steps, and look at the validation loss:

# %%
chats = [ticket["prompt"] + ticket["completion"] for ticket in tickets]
rates = [learning_rate * factor for factor in (0.1, 0.3, 1, 3)]
losses = {}
for rate in rates:
    short = training.Settings(learning_rate=rate, batch_size=tickets_a_step, max_steps=12, warmup_steps=2)
    losses[rate] = training.trial(tuned, tokenizer, chats, task.validation[:5], adapter, short).validation_losses[-1]
charts.lines({"twelve steps from a fresh adapter": (rates, [[loss] for loss in losses.values()])},
             "Which rate learns most in twelve steps?", "learning rate", "validation loss (nats per token)", log_x=rates)

# %% [markdown]
# Start from the rate at the lowest point, which here is the one that section 2 used. At work, use more than one run
# and more than five validation messages, because this search is rough. In full runs on 80 tickets, judged by 66
# validation replies, 1e-3 slightly beats 2e-3 for this 135M; on so few, both will do. `training.trial` briefly attaches a fresh adapter to the
# loaded model; with `SFTTrainer`, reload the model for each rate and set `max_steps`. The best rate varies by model.
# The recorded runs used 4e-4 for the 0.5B (`benchmarks/laptop_tickets.py`), and 2e-4 is usual for a 7B. LoRA's rate
# is about ten times that of full fine-tuning (Schulman et al., 2025).
#
# Comparing **ranks and layers** takes more runs than a notebook has time for, so we recorded them (script:
# `benchmarks/lora_sweep.py`), with three {{term:seed|seeds}} each, on {{record:lora-sweep:examples:d}} tickets read
# once. *Both labels right* refers to a test message's category and escalation, *prose loss* to the loss on everyday
# text:

# %%
evidence.lesson_02.rivals()

# %% [markdown]
# **Full fine-tuning got more labels right than rank 16.** Its weights and optimizer states need 2.2 GB instead of 0.3
# (section 5), which you can afford at this size. LoRA saves more on larger models.
#
# A higher rank didn't lower the validation loss here, perhaps partly because all ranks shared one rate, so measure
# the rate again when you change the rank. We use 16 to leave room, because the rank limits you roughly once the data
# have more tokens than the adapter has numbers (Schulman et al., 2025).
#
# Every run raised the prose loss, attention alone the most and full fine-tuning the least. The last column gives the
# share of everyday questions now answered with a record. If your model has to chat as well as write records, mix
# ordinary conversations into the training file, or switch the adapter off (section 7).
#
# **Challenge.** Choose the settings for forty steps of your own.

# %%
# EXERCISE: lora-4

# %% [markdown]
# ## 7 · Save it, merge it, serve it
#
# `ticket-adapter` is what you keep, send and version. {{term:merge|Merging}} combines the two paths into one matrix per
# layer, and the result is an ordinary model.

# %%
show.drawing("merging")

# %%
from peft import PeftModel

fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)     # merge in 32 bits, round once
adapted = PeftModel.from_pretrained(fresh, "ticket-adapter")
adapted.print_trainable_parameters()
merged = adapted.merge_and_unload().to(dtype)
merged.save_pretrained("tickets-merged")
tokenizer.save_pretrained("tickets-merged")
show.folder_sizes("ticket-adapter", "tickets-merged")

# %% [markdown]
# The merged folder loads like any model; section 8 explains the 0 trainable parameters. In a terminal,
# `course export ticket-adapter --to gguf` writes a file for llama.cpp. With `--to ollama` you get a Modelfile as well, and
# with `--to vllm` a folder with the adapter.
#
# Each export can change answers, for example through a different template, a missing stop word or rounded weights. To check,
# run `course roundtrip ticket-adapter`, which sends the test messages through every stage and compares prompts and
# answers. Run it last, because it uses the test messages. We recorded the next table with adapters that section 2's
# program trained on the 135M and the 0.5B (`benchmarks/roundtrip.py`). Its first three columns count messages out of 100,
# and the last is the difference from PEFT's score with its 95 % interval. We didn't run vLLM, and *ollama* means llama.cpp
# with the Modelfile's prompts:

# %%
runs = assets.read_record("roundtrip")["runs"]
pd.DataFrame([{
    "model": model, "stage": stage["name"], "same prompts": stage["same_prompts"], "answers that end": stage["ended"],
    "same answers": stage["same"], "all fields right": f"{stage['score']['value']:.0%}",
    "minus peft, 95 %": "" if stage["name"] == "peft" else "{value:+.0%}, {low:+.0%} to {high:+.0%}".format(**stage["difference"]),
} for model, run in runs.items() for stage in run["stages"] if not stage["skipped"]]).set_index(["model", "stage"])

# %% [markdown]
# Merging and 8 bits (`q8_0`) change no score by more than chance would, but 4 bits (`q4_0`) drop the 0.5B from
# {{record:roundtrip:runs."0.5B".stages.0.score.value:.0%}} to {{record:roundtrip:runs."0.5B".stages.3.score.value:.0%}}. The
# prompts were the same and every answer ended, so the cause is probably rounding. `q4_0` is the simplest 4-bit
# format, and we haven't measured the others, so measure yours before you serve it.
#
# **One base can serve many adapters.** An adapter that isn't merged can be switched off, or replaced
# (`model.load_adapter(folder, "review")`, then `model.set_adapter("review")`), and the base stays as it was. Ask
# something that has nothing to do with tickets:

# %%
everyday = [{"role": "user", "content": "Name three things to do on a rainy day."}]
print("adapter on: ", write_replies(tuned, [everyday])[0])
with tuned.disable_adapter():
    print("adapter off:", write_replies(tuned, [everyday])[0])

# %% [markdown]
# ## 8 · Mistakes and how to recognise them
#
# **A target module that doesn't exist.** PEFT raises an error if *no* name matches. If one of several is misspelt,
# you get no warning:

# %%
from peft import get_peft_model

typo = get_peft_model(merged.cpu(), LoraConfig(r=16, target_modules=["q_proj", "vproj"]))
print("adapted:", {name.split(".")[-4] for name, weight in typo.named_parameters() if weight.requires_grad})
merged = typo.unload()

# %% [markdown]
# Only `q_proj` was adapted. Before a long run, call `print_trainable_parameters()`, and print the adapted names as this
# cell does. PEFT gives no warning for {{term:mixture of experts|mixture-of-experts models}} either: `"all-linear"` skips
# the experts of gpt-oss and Qwen3.5-MoE, because experts aren't linear layers there. Section 2's check reports this
# as `experts-without-adapters`; the names in brackets below are its codes too.
#
# **An adapter that stays frozen.** In section 7, PEFT printed that 0 parameters of the loaded adapter are trainable, because
# `from_pretrained` loads it for inference. If you train it, you get an error or, with gradient checkpointing, a loss that
# never moves. Pass `is_trainable=True`.
#
# **The end marker masked.** SmolLM2's tokenizer pads with its end marker. TRL masks by position, but code that masks
# labels by the padding's id also masks the end of every answer, so the model may never stop (`end-is-padding`).
#
# **The answer cut off.** A row longer than `max_length` loses its end. The loss still falls, but only on what's left
# of the answer. A row without any answer left teaches nothing. Raise `max_length` (`answer-cut`, `nothing-to-learn`).
#
# **Too few examples, too often.** Train on the eight tickets with the shortest messages, six times over:

# %%
often = training.Settings(learning_rate=learning_rate, batch_size=4, epochs=6, evaluate_every=4, schedule="constant")
shortest = sorted(chats, key=lambda chat: len(chat[1]["content"]))[:8]
training.trial(tuned, tokenizer, shortest, task.validation[:8], adapter, often).plot("Eight tickets are learned by heart")

# %% [markdown]
# The training loss falls to nearly zero, while the validation loss bottoms out and then rises slightly. That's
# {{term:overfitting}}, though slight and measured on few messages. Beyond the lowest point the loss falls only on
# tickets the model has read, and after six passes it knows those eight by heart. Keep the weights from that point,
# which is cheap to find, or, where you can, choose by the replies. `SFTTrainer` needs `load_best_model_at_end=True`,
# and `save_strategy` and `save_steps` that match the evaluation's.

# %% [markdown]
# ## 9 · The test
#
# You've made all your choices, so now score the test set once. It holds a hundred messages about products absent from
# training. The second is the one at the top of this page.

# %%
final = grade_replies(merged.to(place), "test.jsonl")
print(final["reply"][1])
evidence.lesson_02.beside_rivals(final.drop(columns="reply").mean())

# %% [markdown]
# After 80 tickets on a CPU, the strimmer reply has the right form but the wrong escalation and product. The reply at
# the top comes from the same base after {{record:lora-seeds:plan.examples:d}} tickets. `escalation` is right less
# often than if you always said "none", which the recorded 135M beats only after 540 tickets. The rows below yours
# show that more tickets help, and so does the 0.5B. Your row is one run, with different tickets and a different rate,
# so it can be ten or more points away from the recorded one.
#
# > **How far to trust these numbers.** With a hundred test messages, your row's intervals are about as wide as the recorded
# > ones. A recorded row comes from one to three runs (*seeds*), and the best rows' intervals overlap between models.
# > The messages
# > are invented and more articulate than those in a real inbox, and 30 % of them are urgent. We looked at the test set while
# > we wrote this lesson, so its scores may be optimistic.
#
# ## What you can do now
#
# | you want to | do |
# | --- | --- |
# | start | use rank 16, alpha 32, all linear layers; measure the rate |
# | know whether it learned | watch the validation loss; then, once, compare test scores with a baseline and a prompt |
# | use less memory | gradient checkpointing, a smaller batch, then QLoRA (lesson 03) |
# | serve one behaviour, or many | for one, merge it; for many, keep separate adapters on one base |
# | find out what went wrong | count the trainable parameters, watch the loss of the first steps, read ten replies |

# %%
quiz("02")

# %% [markdown]
# **Now your own data.** The last exercise turns a file of messages and records into rows for section 2's program.

# %%
# EXERCISE: lora-5

# %% [markdown]
# **Read next.** Begin with Hu et al. (2021), *LoRA*, arXiv 2106.09685, sections 4 and 7. Schulman et al. (2025), *LoRA
# Without Regret*, sweep section 6's settings at scale. Biderman et al. (2024), *LoRA Learns Less and Forgets Less*, arXiv
# 2405.09673, show where thin updates stop being enough. Then go on to lesson 03.

# %% [markdown]
# {{words}}
