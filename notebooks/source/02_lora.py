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
# A program can file this message only if it gets one JSON record and no chatter, and a small language model chats. In this
# lesson you'll train a model with 135 million parameters on solved tickets, on your own computer, until it writes the record.
# Training writes an *adapter*, a file of 20 MB, and leaves the model itself as it was.
#
# By the end you'll be able to
#
# - train a model on your own JSONL file and score it on messages it hasn't seen,
# - follow one training {{term:step}} from the text to a changed number,
# - write {{term:LoRA}} in fifteen lines and check it against the {{term:PEFT}} library,
# - work out what a run needs in memory, and choose its learning rate by measuring,
# - save, merge, switch and serve what you've trained.
#
# You should know Python and have called a language model's API; you needn't have trained anything. Reading takes about 40
# minutes. {{timing}} Know PyTorch? Take the program of section 2, read about the label mask in section 3, and go on with
# section 4.
#
# The outputs you see are recorded. Run the cells one at a time with Shift+Enter as you read, because Run All empties every
# output below before it fills them again. In a terminal, `course restore 02` brings the recorded page back.

# %%
# INSTALL: trl

# %%
import json

import jsonschema
import pandas as pd
import torch
from course_utils import charts, evidence, hardware, memory, models, plans, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz

device, plan = hardware.detect(), plans.plan("02")
task = load_task("support_tickets", list(plan.fields))
for name, chats in {"train": task.train[: plan.examples], "validation": task.validation, "test": task.test}.items():
    with open(f"{name}.jsonl", "w") as file:
        for chat in chats:
            file.write(json.dumps({"prompt": chat[:-1], "completion": chat[-1:]}) + "\n")
print(open("train.jsonl").readline())

# %% [markdown]
# You now have three files with a solved ticket on each line. The `prompt` is what your program will send, and the
# `completion` is the reply you want. You'll train on `train.jsonl`, make choices on `validation.jsonl`, and look at
# `test.jsonl` once, at the end. The training cell of section 2 reads any file in this form; to score yours, you also need a
# schema of your own record.

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
# Training is work, so try the cheap way first: ask the untrained model about a toaster, once as your program would and once
# with the rules and three solved tickets in the prompt.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

base = models.fetch()            # where the model is on this machine; at work, write its name on the hub instead
tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(base, dtype=device.torch_dtype()).to(device.place())


def write_replies(model, prompts):
    """Return the model's reply to each list of messages; at each place it takes the likeliest next token."""
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=plan.answer_tokens, do_sample=False)
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


tickets = [json.loads(line) for line in open("train.jsonl")]
question = [tickets[0]["prompt"][0], {"role": "user", "content": "any news on my toaster? TB-30718"}]
with_rules = add_rules(question, tickets[:3])
for name, prompt in {"plain": question, "with rules and examples": with_rules}.items():
    tokens = len(tokenizer.apply_chat_template(prompt, return_dict=True)["input_ids"])
    print(f"{name}, {tokens} tokens: {write_replies(model, [prompt])[0]}")

# %% [markdown]
# Here the long prompt gets you a record. Look at what it costs, because you'd pay for its tokens on every call, and at which
# fields are right. One reply tells you little, so the table in section 2 scores such a prompt on a hundred messages.
#
# Two other ways need no training either: a server can hold any model to the *form* by decoding under a schema (lesson 01),
# and a prompt can show the eight solved tickets most similar to the message. That table has both.

# %% [markdown]
# ## 2 · The whole job, in one program
#
# Take this program to work. It trains an adapter on `train.jsonl`, watches its loss on `validation.jsonl`, saves it, and
# answers the validation messages with it. It needs `pip install trl peft`; from this course it takes only the model, the
# settings that suit your machine, and the record's schema.
#
# Before you run it, write down a guess: of 66 replies, how many will be valid records, and how many right in every field?

# %%
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

data = load_dataset("json", data_files={"train": "train.jsonl", "validation": "validation.jsonl"})
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
settings = SFTConfig(
    output_dir="checkpoints", learning_rate=plan.learning_rate, num_train_epochs=1, warmup_steps=5,
    per_device_train_batch_size=plan.batch_size, gradient_checkpointing=False,
    eval_strategy="steps", eval_steps=0.5, eval_on_start=True, logging_steps=5, save_strategy="no", report_to="none",
    model_init_kwargs={"dtype": device.torch_dtype()}, use_cpu=device.kind == "cpu",
    bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
)
trainer = SFTTrainer(
    base, args=settings, peft_config=adapter, train_dataset=data["train"], eval_dataset=data["validation"].select(range(16))
)
trainer.train()
trainer.save_model("ticket-adapter")
tuned = trainer.model.eval()

# %%
schema = task.schema             # of a record: its fields, and their allowed values


def grade(reply, solution):
    """Return True or False for the reply's form, for each field, and for the whole record."""
    try:
        record = json.loads(reply)
        jsonschema.validate(record, schema)
    except (ValueError, jsonschema.ValidationError):          # no JSON, or not the form: nothing is right
        record = {}
    fields = {name: name in record and record[name] == value for name, value in solution.items()}
    return {"valid": bool(record), **fields, "all fields": record == solution}


def score(model, rows):
    """Return the grades of a model's replies to some rows, a line for each."""
    prompts, solutions = [row["prompt"] for row in rows], [json.loads(row["completion"][0]["content"]) for row in rows]
    replies = [reply for i in range(0, len(prompts), 25) for reply in write_replies(model, prompts[i : i + 25])]
    return pd.DataFrame(map(grade, replies, solutions)).assign(reply=replies)


validation = score(tuned, list(data["validation"]))
validation.drop(columns="reply").mean()

# %% [markdown]
# In TRL's table, follow the two loss columns: section 3 shows what a loss is, and both should fall. Then look at the scores.
# *Valid* counts records in the right form with allowed values. Product and order number have to be copied, while category and
# escalation have to be understood.
#
# Read five replies beside the right ones, because a mean hides how a model fails:

# %%
show.answers(
    [row["prompt"][-1]["content"] for row in data["validation"].select(range(5))],
    {"trained": list(validation["reply"][:5])},
    task.references("validation")[:5],
)

# %% [markdown]
# **Is that better than a prompt?** Here are all rivals on the same hundred test messages, recorded with three samples of the
# training tickets ([`laptop_tickets.py`](https://github.com/OWNER/finetuning-course/blob/main/benchmarks/laptop_tickets.py)). Beside the small model stand two that people
# deploy, {{term:Qwen2.5-Coder}} with 0.5 and 1.5 billion parameters.

# %%
evidence.lesson_02.rivals_table()

# %% [markdown]
# TEXT: what the record says (0.5B: 8 retrieved 31 %, LoRA 240 45 %, 540 58 %; 1.5B to come; majority row). Decide: if values only
# have to be copied, a larger model and a prompt; if the answer depends on your rules, train.
#
# `escalation` deserves a second look. A program that always says "none" is right for seven messages in ten, and the 0.5B stays
# below that until it has seen 540 tickets. Count the cases you care about instead:

# %%
solutions = task.references("validation")
records = [json.loads(reply) if valid else {} for reply, valid in zip(validation["reply"], validation["valid"])]
pd.crosstab(
    pd.Series([solution["escalation"] != "none" for solution in solutions], name="urgent"),
    pd.Series([record.get("escalation", "none") != "none" for record in records], name="escalated"),
)

# %% [markdown]
# A missed danger and a false alarm don't cost the same, and only a person can say what each costs. Until the row `urgent = True` is
# good enough, don't let this field decide alone, and add urgent tickets to `train.jsonl` (lesson 05).
#
# When you swap in your own files, these are the settings to look at:
#
# | setting | what it does | what to change |
# | --- | --- | --- |
# | `learning_rate` | sets the size of each step | about 2e-4 for 7B models; section 6 finds it by measuring |
# | `per_device_train_batch_size` | averages this many tickets for a step | raise it if memory allows |
# | `num_train_epochs` | how often the file is read | watch the validation loss when you raise it (section 8) |
# | `warmup_steps` | raises the rate from zero over the first steps; afterwards TRL lowers it to zero in a straight line | leave it |
# | `gradient_checkpointing` | saves memory and costs time | leave out the line if memory is short: TRL has it on |
# | `bf16`, `fp16`, `dtype` | the number format: bfloat16 where the machine is quick at it, float16 on a T4, else 32 bits | – |
#
# {{drive}}

# %% [markdown]
# ## 3 · What happens in one training step?
#
# `trainer.train()` took a few dozen steps. Take one yourself now, on one ticket and without the trainer. If you've written a
# PyTorch training loop, read only about the label mask and the shift by one.

# %%
show.drawing("training-step")

# %% [markdown]
# ### Which tokens count? The label mask
#
# The {{term:chat template}} writes the conversation as one text, and the {{term:tokenizer}} cuts it into {{term:token|tokens}},
# each with a number. You want a model that answers customers and doesn't imitate them. So each token also gets a label: its own
# number inside the answer, and −100 before it, because PyTorch's loss skips −100. This {{term:label mask}} is what TRL made from
# `prompt` and `completion`. (This section uses the small model in 32 bits on every machine.)

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
# Only the blue tokens count. The last ones are the end marker and a line break: a model that isn't trained on the end marker
# never stops talking.
#
# ### How wrong is the model? The loss, and the shift by one
#
# At each position the model scores every token of its {{term:vocabulary}}, and {{term:softmax}} turns these
# {{term:logits|scores}} into probabilities. A token's {{term:loss}} is minus the natural logarithm of its probability: a token
# that got 20 % costs −ln 0.20 = 1.61, one that got 1 % costs 4.6, and a certain one costs nothing. Mind the index: the model
# predicts what comes *next*, so the scores for the token at position i are in row i − 1.

# %%
with torch.no_grad():
    logits = student(ids[None]).logits[0]                     # (positions, vocabulary)
first = int((labels != -100).nonzero()[0])                    # where the answer begins
log_probability = logits.log_softmax(dim=-1)
losses = torch.stack([-log_probability[i - 1, ids[i]] for i in range(first, len(ids))])
print(pd.DataFrame({
    "token": [student_tokenizer.decode(id) for id in ids[first:]], "probability, %": 100 * (-losses).exp(), "loss": losses
}).to_string(index=False))
print(f"mean {losses.mean():.4f}; by transformers {student(ids[None], labels=labels[None]).loss:.4f}")

# %% [markdown]
# The opening brace is the biggest surprise, because the untrained model expects a word there. Colons and quotation marks cost
# little, since the model has seen plenty of JSON. Field names and labels cost most, and those are what you want to teach. Training lowers the mean over the answer's tokens.
#
# ### Which way is down? One weight moves
#
# For each {{term:weight}}, `backward()` computes the {{term:gradient}}: how the loss would change if that weight grew a little.
# The {{term:optimizer}} then moves every weight a small step the other way. Only the last four of the model's 30 layers learn
# here, to save memory.

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
# The weight moved against its gradient, by 0.0003, the learning rate. That's AdamW: it divides each gradient by its own recent
# size, so on the first step nearly every weight moves that far, whether its gradient is large or small.
#
# Training repeats this. `SFTTrainer` does so for every batch, and it leaves the model's own weights alone and moves an adapter
# instead, which you'll build next.
#
# **Your turn.** This loss runs, and is wrong.

# %%
# EXERCISE: lora-1

# %% [markdown]
# ## 4 · LoRA: learn the difference, and make it thin
#
# **Why not train every weight?** It works, but for each weight that is trained the computer keeps four numbers of 4 bytes: the
# weight, its gradient, and Adam's two running averages. A {{term:frozen}} weight takes 2 bytes in {{term:bfloat16}}. So a model of
# 7 billion weights takes 7 × 16 = 112 GB before it reads the first ticket if all of it is trained, and 7 × 2 = 14 GB if it's
# frozen. LoRA freezes it and trains something small beside it.
#
# **How can something small be enough?** The model already knows English, JSON and what a refund is about. It lacks only a
# habit, and a habit may need few changes, each applied in many places.
#
# A {{term:linear layer}} multiplies its input $x$ by a matrix $W_0$. Training would replace $W_0$ with $W_0 + \Delta W$. LoRA (Hu et
# al., 2021) leaves $W_0$ alone and writes the difference as a product of two thin matrices, so that the layer's output is
#
# $$h = W_0 x + \frac{\alpha}{r} B A x$$
#
# $A$ has only $r$ rows and $B$ only $r$ columns; this {{term:rank}} is small, 16 for instance. $A$ squeezes the input into $r$
# numbers, and $B$ spreads them out again. {{term:alpha|Alpha}}, $\alpha$, sets how strongly the update counts.

# %%
show.drawing("lora")

# %% [markdown]
# With a pencil: three inputs, two outputs, rank 1, $\alpha = 2$.

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
# Here is a complete layer, and a function that puts it in place of the linear layers of a model. $B$ starts at zero, so the
# adapted model starts as an exact copy of the original. A batch's inputs are the *rows* of `x`, so `x @ A.T` computes $Ax$ for all.

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
    """Replace the linear layers called `names`, at any depth."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name in names:
            setattr(module, name, LoRALinear(child, rank, alpha))
        else:
            inject(child, names, rank, alpha)

# %% [markdown]
# Is that all the PEFT library does? Adapt a block of the real model once with our class and once with PEFT, give both the same
# $A$, $B$ and input, and compare outputs, gradients and merged weights.

# %%
import copy

from peft import inject_adapter_in_model

names = ["gate_proj", "up_proj", "down_proj"]
block = student.model.layers[0].mlp.requires_grad_(False)
ours, theirs = copy.deepcopy(block), copy.deepcopy(block)
inject(ours, names, rank=8, alpha=16)
theirs = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=names), theirs)
for name in names:
    mine, peft = getattr(ours, name), getattr(theirs, name)
    torch.nn.init.normal_(mine.B, std=0.05)                # at zero, a mistake in A would not show
    peft.lora_A["default"].weight.data, peft.lora_B["default"].weight.data = mine.A.data.clone(), mine.B.data.clone()

x = torch.randn(4, 16, block.gate_proj.in_features)
for output in (ours(x), theirs(x)):
    output.square().mean().backward()
peft = theirs.down_proj
weights = peft.base_layer.weight + peft.get_delta_weight("default")
print(f"largest difference: outputs {(ours(x) - theirs(x)).abs().max():.0e}, "
      f"gradients of A {(ours.down_proj.A.grad - peft.lora_A['default'].weight.grad).abs().max():.0e}, "
      f"merged weights {(ours.down_proj.merged() - weights).abs().max():.0e}")
student = optimizer = weights = logits = block = ours = theirs = None     # free their memory
memory.release()

# %% [markdown]
# LoRA is no more than these fifteen lines. PEFT adds saving, loading, switching and a hundred special cases, so from here on you
# use PEFT.

# %% [markdown]
# ## 5 · What is trained, what is stored, what fits
#
# With $d_{in}$ inputs and $d_{out}$ outputs, $A$ has $r · d_{in}$ numbers and $B$ has $d_{out} · r$. For a 4096 × 4096 matrix and
# rank 16 that's 131,072 numbers instead of 16,777,216. Count your own adapter, then compare it with larger models:

# %%
mine = sum(weight.numel() for name, weight in tuned.named_parameters() if "lora_" in name)
print(f"your adapter: {mine:,} numbers")
pd.DataFrame({
    name: {"trained": count.trainable, "in all": count.total, "share, %": round(count.percent, 2),
           "file in 32 bits, MB": round(4 * count.trainable / 1e6)}
    for name in ("SmolLM2-135M", "Qwen2.5-Coder-0.5B", "Mistral-7B-v0.1", "Llama-3.1-8B", "Llama-2-70B")
    for count in [memory.count_parameters(name, rank=16)]
}).T

# %% [markdown]
# The larger the model, the smaller its adapter's share, because a matrix grows with the product of its sides and an adapter only
# with their sum. Now the memory. The table counts weights, gradients and optimizer states, the least that training needs;
# {{term:activation|activations}} come on top. {{term:QLoRA}}, the subject of lesson 03, also squeezes the frozen weights to 4 bits.

# %%
evidence.lesson_02.states_table()

# %% [markdown]
# To count everything for your model and card, use `course estimate Llama-3.1-8B --method lora --gpu t4` in a terminal. One
# figure that circulates is worth knowing better:

# %%
evidence.card("L1")

# %% [markdown]
# ## 6 · Which settings matter?
#
# | decision | do | why |
# | --- | --- | --- |
# | learning rate | measure it: three or four rates, a factor of 2 to 3 apart | it decides whether anything is learned |
# | which layers | all linear layers | attention alone, at equal size, forgot more in our runs; large studies find it also learns less |
# | rank | 16; more only when much data stops helping | rank 1 to 64 learn the same in short runs |
# | alpha | 2 × rank, and leave it | it does the same job as the rate |
# | epochs | as many as the validation loss falls | section 8 shows what too many do |
# | dropout | 0, or 0.05 to 0.1 on small sets | no effect that our runs could show |
#
# **Find the rate by measuring.** Start a fresh adapter at each rate, train ten steps, and look at the validation loss:

# %%
rates = [plan.learning_rate * factor for factor in (0.1, 0.3, 1, 3)]
measured = {}
for rate in rates:
    short = training.Settings(learning_rate=rate, batch_size=4, max_steps=10, warmup_steps=2)
    run = training.trial(tuned, tokenizer, task.train[-40:], task.validation[:8], adapter, short)
    measured[rate] = run.validation_losses[-1]
charts.lines({"ten steps from a fresh adapter": (rates, [[loss] for loss in measured.values()])},
             "Which rate learns most in ten steps?", "learning rate", "validation loss (nats per token)", log_x=rates)

# %% [markdown]
# (`training.trial` lends the model a fresh adapter for one run of the course's own loop, which computes the same loss as
# `SFTTrainer` and is up to three times as fast on a CPU. At work, take `SFTTrainer`.)
#
# Take the rate at the bottom of the curve, or the next lower one if your run is much longer than ten steps. The best rate of LoRA
# is about ten times that of full fine-tuning (Schulman et al., 2025), and it falls as models grow: 2e-3 suits this one, 4e-4 the
# 0.5B (recorded), and about 2e-4 a 7B.
#
# **Rank and layers** have been recorded, three {{term:seed|seeds}} each, on {{record:lora-sweep:examples:d}} tickets:

# %%
evidence.lesson_02.setting_curve("rank")

# %% [markdown]
# In runs this short, sixty-four times the parameters buy nothing. A rank that's too small shows only when there is more to learn
# than it can hold: more tokens in the data than numbers in the adapter, as a rule of thumb (Schulman et al., 2025).

# %%
evidence.lesson_02.rivals()

# %% [markdown]
# TEXT on the table: what LoRA and full fine-tuning reach, 0.5B's full/LoRA/QLoRA from laptop-tickets; forgetting (records for
# everyday questions): mix ordinary conversations in, or switch the adapter off.
#
# **Challenge.**

# %%
# EXERCISE: lora-4

# %% [markdown]
# ## 7 · Save it, merge it, serve it
#
# `ticket-adapter` is what you keep, send and version. {{term:merge|Merging}} adds the two paths up to one matrix per layer, and the
# result is a model like any other.

# %%
show.drawing("merging")

# %%
from peft import PeftModel

fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)     # 16 bits would round the weights once more
merged = PeftModel.from_pretrained(fresh, "ticket-adapter").merge_and_unload().to(device.torch_dtype())
merged.save_pretrained("tickets-merged")
tokenizer.save_pretrained("tickets-merged")
show.folder_sizes("ticket-adapter", "tickets-merged")

# %% [markdown]
# Any program loads the merged folder. Ask it the message from the top of the page, and score it on the first 25 test messages
# beside the model with its adapter apart:

# %%
test = [json.loads(line) for line in open("test.jsonl")]
apart, together = score(tuned, test[:25]), score(merged.to(device.place()), test[:25])
print(together["reply"][1])
print(f"{(apart['reply'] == together['reply']).sum()} of 25 replies are the same, letter for letter")

# %%
evidence.card("L6")

# %% [markdown]
# Other programs take the same folders. These commands are *not run here*:
#
# ```bash
# vllm serve ./tickets-merged                                            # a server with OpenAI's interface
# vllm serve BASE --enable-lora --lora-modules tickets=./ticket-adapter  # one base, many adapters
# python llama.cpp/convert_hf_to_gguf.py tickets-merged                  # for llama.cpp and Ollama
# ```
#
# **Apart, one base serves many.** Train a second adapter on the same base, for code reviews in a house style, and switch:

# %%
review = load_task("code_review")
tuned.add_adapter("review", adapter)
tuned.set_adapter("review")
short_reviews = sorted(review.train, key=lambda chat: len(chat[1]["content"]))[:24]
training.fit(tuned, tokenizer, short_reviews,
             settings=training.Settings(learning_rate=plan.learning_rate, batch_size=2, epochs=2))

# %%
prompts = [task.prompts("validation")[1], review.prompts()[1]]
replies = {}
for name in ("default", "review"):
    tuned.set_adapter(name)                                # nothing is loaded: milliseconds
    replies[f"adapter “{name}”"] = [write_replies(tuned, [prompt])[0] for prompt in prompts]
with tuned.disable_adapter():
    replies["no adapter"] = [write_replies(tuned, [prompt])[0] for prompt in prompts]
tuned.set_adapter("default")
show.answers([prompt[-1]["content"] for prompt in prompts], replies)

# %% [markdown]
# The base is the same each time. The ticket adapter writes a record about anything, code included, because nothing in its training
# asked for something else. The review *looks* like one: two dozen examples teach how a review looks, not how to review.

# %% [markdown]
# ## 8 · Mistakes as they look when they happen to you
#
# **A target module that doesn't exist.** PEFT stops if *no* name matches. If one of several is misspelt, it says nothing:

# %%
from peft import get_peft_model

typo = get_peft_model(merged, LoraConfig(r=16, target_modules=["q_proj", "vproj"]))
print("adapted:", {name.split(".")[-4] for name, weight in typo.named_parameters() if weight.requires_grad})
merged = typo.unload()

# %% [markdown]
# Look at `print_trainable_parameters()` and at the names before a long run. The same silence meets you with a
# {{term:mixture of experts}}: `"all-linear"` leaves the experts of gpt-oss and Qwen3.5-MoE without adapters, because they aren't
# linear layers there (transformers 5.24, PEFT 0.21).
#
# **The end marker masked.** SmolLM2's tokenizer pads with its end marker. Code that masks labels by the padding's id then masks
# the end of every answer too, and the model never stops. (TRL masks by position.)
#
# **An adapter that won't train on.** `PeftModel.from_pretrained(base, "ticket-adapter")` loads it frozen: the loss stands still.
# To continue training, pass `is_trainable=True`.
#
# **Merging twice.** A merged folder is a base like any other, so nothing keeps you from putting the same adapter on it again:

# %%
twice = PeftModel.from_pretrained(merged, "ticket-adapter").merge_and_unload()          # changes `merged` too
twice_scores = score(twice, test[:25])
pd.DataFrame({"merged once": together.drop(columns="reply").mean(), "merged twice": twice_scores.drop(columns="reply").mean()}).T

# %% [markdown]
# **Too few examples, too often.** Train on eight tickets again and again: the training loss falls as long as you like.

# %%
eight = sorted(task.train, key=lambda chat: len(chat[1]["content"]))[:8]
often = training.Settings(learning_rate=plan.learning_rate, batch_size=4, epochs=10, evaluate_every=4, schedule="constant")
training.trial(tuned, tokenizer, eight, task.validation[:16], adapter, often).plot("Eight tickets, again and again")

# %% [markdown]
# The validation loss stops falling early. This is {{term:overfitting}}: the model stores the tickets instead of the rule. Keep the
# weights from the lowest point (`early_stopping` in `training.Settings`; `EarlyStoppingCallback` and
# `load_best_model_at_end=True` with `SFTTrainer`), and find more examples.

# %% [markdown]
# ## 9 · The test, and what you can do now
#
# All choices are made, so look at the test set, once: a hundred messages about products that training never mentions.

# %%
final = score(tuned, test).drop(columns="reply").mean()
evidence.lesson_02.beside_rivals(final)

# %% [markdown]
# > **How far to trust these numbers.** On a hundred test messages a share of 80 % is compatible with anything from 71 to 87. The recorded
# > rows are means of three seeds; yours is one run. The messages are invented, more articulate than a real inbox, and 30 % of them
# > urgent. The test set has been looked at while this lesson was written, so its scores may be a little kind.
#
# | you want to | do |
# | --- | --- |
# | start | rank 16, alpha 32, all linear layers; the rate by measuring |
# | know whether it learned | validation loss while training; then, once, test scores beside a baseline and a good prompt |
# | use less memory | gradient checkpointing, a smaller batch, then QLoRA (lesson 03) |
# | serve one behaviour | merge |
# | serve many | one base, adapters apart |
# | find out what went wrong | count the trainable parameters, watch the loss of the first steps, read ten replies |

# %%
quiz("02")

# %%
# EXERCISE: lora-6

# %%
# EXERCISE: lora-8

# %% [markdown]
# **Read next.** Hu et al. (2021), *LoRA*, arXiv 2106.09685, sections 4 and 7. Schulman et al. (2025), *LoRA Without Regret*: large
# sweeps of section 6. Biderman et al. (2024), *LoRA Learns Less and Forgets Less*, arXiv 2405.09673: where thin updates stop being
# enough. Then lesson 03, which squeezes the frozen base into 4 bits.
