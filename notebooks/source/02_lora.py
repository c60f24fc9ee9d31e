# %% [markdown]
# # 02 · LoRA: teach a new behaviour
#
# {{badges}}
#
# A support desk gets messages like the one below. A program has to file each message, so it needs one line of
# JSON and nothing else. The small model of this lesson chats about the message instead. You will teach it to
# answer with the JSON, in a few minutes on a laptop. The model itself does not change: what it learns is kept
# in a separate file of 20 MB.

# %%
# INSTALL: trl

# %%
from course_utils import charts, evidence, hardware, memory, models, plans, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import numpy as np
import torch

evidence.lesson_02.before_and_after()

# %% [markdown]
# Both answers are recorded: before training, and after training on {{record:lora-seeds:plan.examples:d}} examples. By the end of section 3 you
# will count how often your own model is right.
#
# By the end you will be able to
#
# - follow one training {{term:step}} by hand, from a text to a changed number,
# - {{term:fine-tuning|fine-tune}} a model on your own examples with the usual libraries, and measure the
#   result,
# - write {{term:LoRA}} in fifteen lines and show that it computes what the {{term:PEFT}} library computes,
# - count what is trained and stored, and tell whether it fits on your GPU,
# - find a learning rate by measuring, and say which settings matter less,
# - save, switch and serve what you have trained.
#
# You should know Python and have called a language model's API before. You need not have trained anything. Reading takes
# about 75 minutes, and the exercises about as long again.
#
# {{timing}}

# %% [markdown]
# ## 1 · The task, and what the model does without training
#
# Each message to Tarnbrook, an invented shop, must become one record with four fields:
#
# | field | values | rule |
# | --- | --- | --- |
# | `category` | delivery, billing, returns, defect, account, question | what the message is mainly about |
# | `escalation` | none, danger, misuse, money, legal, deadline | why the message must jump the queue; usually `none` |
# | `product` | text or null | copied from the message, letter for letter |
# | `order_id` | `TB-` and five digits, or null | normalised: "tb 61180" becomes `TB-61180` |

# %%
device = hardware.detect()
plan = plans.plan("02")
task = load_task("support_tickets", list(plan.fields))
print(f"{device.name}: tier {device.tier}, weights in {device.dtype}")
print(f"{len(task.train)} training, {len(task.validation)} validation and "
      f"{len(task.test)} test messages")
message, record = task.validation[0][1]["content"], task.references("validation")[0]
show.answers([message], {"right answer": [task.write(record)]}, [record])

# %% [markdown]
# The data come in three sets. The model learns from the {{term:training set}}. The {{term:validation set}}
# tells us, while we work, whether what the model learns carries over to messages it has not seen. The
# {{term:test set}} is kept for the end. It was written separately, about products that the training set never
# mentions.
#
# If a prompt is enough, there is no reason to train. So first ask the model 25 validation messages: as they
# are, then with the rules above and three solved examples in the prompt.

# %%
model, tokenizer = models.load()
print(f"{model.config._name_or_path.split('/')[-1]}: {model.num_parameters():,} parameters")
prompts = task.prompts("validation")[:25]
prompted = evidence.lesson_02.with_rules(task, prompts)
print("the rules:", prompted[0][0]["content"])
tokens = [len(tokenizer.apply_chat_template(p[0])["input_ids"]) for p in (prompts, prompted)]
print(f"first prompt: {tokens[0]} tokens as it is, {tokens[1]} with rules and three examples")
guess = predict("With rules and examples, how many of 25 answers are valid?", unit="answers")
guess

# %%
answers_before = generate(model, tokenizer, prompts, max_new_tokens=plan.answer_tokens)
answers_prompted = generate(model, tokenizer, prompted, max_new_tokens=plan.answer_tokens)
scores_before = task.evaluate(answers_before, "validation")
scores_prompted = task.evaluate(answers_prompted, "validation")
guess.reveal(round(25 * scores_prompted.valid.value))

# %%
show.answers(
    [chat[-1]["content"] for chat in prompts[:2]],
    {"no rules": answers_before[:2], "rules and examples": answers_prompted[:2]},
    task.references("validation")[:2],
)

# %% [markdown]
# Without rules the model chats. With rules and examples its form is much better, but every call carries a far
# longer prompt. The tables in section 3 show how good the fields are.
#
# Lesson 01 compares other ways: a large model needs only the rules, and a server that constrains decoding to
# a schema guarantees the form for any model. Here we want a small model that answers fast, without a long
# prompt. That is a job for {{term:fine-tuning}}.

# %% [markdown]
# ## 2 · One training step, by hand
#
# What does "training" do, exactly? Every fine-tuning method in this course, from LoRA to
# {{term:reinforcement learning}}, repeats the loop below. You will go round it once, slowly.

# %%
show.drawing("training-step")

# %% [markdown]
# **From text to numbers.** A model sees a list of numbers, not a conversation. The {{term:chat template}}
# writes the conversation as one text with markers for who speaks, and the {{term:tokenizer}} cuts that text
# into {{term:token|tokens}}, each with a number.
#
# We want the model to learn to *answer*, not to write customers' messages. So each token gets a label: its
# own number if it is to be learned, −100 if not. Here is this {{term:label mask}} for the first training
# example, for the smallest model, which this section uses on every machine:

# %%
student, student_tokenizer = models.load(tier="cpu", dtype=torch.float32)


def ids_and_labels(conversation):
    """Token ids of a conversation, and labels that leave out everything before the answer."""
    template = student_tokenizer.apply_chat_template
    ids = template(conversation, return_dict=True)["input_ids"]
    prompt = template(conversation[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids, [-100] * len(prompt) + ids[len(prompt) :]


ids, labels = ids_and_labels(task.train[0])
show.conversation(student_tokenizer, ids, labels)

# %% [markdown]
# Blue marks what the model learns: the answer, and the marker and line break that end it. Without the end
# marker you get a model that never stops talking.
#
# **How wrong is the model?** At each position the model gives every token in its {{term:vocabulary}} a raw score. These scores
# are the {{term:logits}}; the {{term:softmax}} turns them into probabilities that add up to one. Mind the
# shift by one: the scores at position 5 are about the token at position 6, because the model predicts what
# comes *next*. So look up each token's probability one position before it.

# %%
tokens = torch.tensor([ids], device=student.device)
with torch.no_grad():
    logits = student(tokens).logits[0]                     # (positions, vocabulary)
probability = logits.softmax(dim=-1)
right_next = probability[range(len(ids) - 1), ids[1:]]     # of each token, given those before it
loss_per_token = -right_next.log()

# %%
first = labels.count(-100)                                 # where the answer begins
show.table([
    {"next token": student_tokenizer.decode([ids[i]]).replace(" ", "␣"),
     "probability, %": 100 * right_next[i - 1].item(),
     "loss = −ln(probability)": loss_per_token[i - 1].item()}
    for i in range(first, first + 6)
], caption="The first six tokens of the right answer, before training")

# %% [markdown]
# Look for the smallest probabilities. The opening brace has almost no chance, because the model expects an
# answer to begin with a word. The model does expect colons and quotation marks, because it has seen JSON
# before. What surprises it is exactly what we want to teach: that there is a record at all, which fields it
# has, and which label fits.
#
# The last column is the {{term:loss}} of each token, minus the natural logarithm of its probability: 0 if the
# model was certain, 0.69 at 50 %, 4.6 at 1 %. Figures call the unit {{term:nat|nats}}. The loss of the
# example is the mean over the blue tokens. `transformers` computes the same number in one call:

# %%
by_hand = loss_per_token[first - 1 :].mean()
in_one_call = student(tokens, labels=torch.tensor([labels], device=student.device)).loss.item()
print(f"by hand {by_hand:.4f}, by transformers {in_one_call:.4f}")

# %% [markdown]
# **Which way is better?** A {{term:weight|weight}} is one of the model's numbers. For each weight,
# `backward()` computes the {{term:gradient}}: how the loss would change if that weight grew a little. The
# {{term:optimizer}}, here a form of {{term:Adam}} called AdamW, then moves each weight a small step against
# its gradient. The {{term:learning rate}} sets the size of the step.
#
# To save memory, only the last four of the model's 30 {{term:layer|layers}} learn here.

# %%
student.requires_grad_(False)
student.model.layers[-4:].requires_grad_(True)
learning = [p for p in student.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(learning, lr=3e-4)


def loss_of(conversation):
    """Mean loss on the answer of one example."""
    ids, labels = torch.tensor(ids_and_labels(conversation), device=student.device)
    return student(ids[None], labels=labels[None]).loss


# %% [markdown]
# Watch one of the 14 million weights that learn here, before and after a single step.

# %%
weights = student.model.layers[-1].mlp.down_proj.weight
before = weights[0, 0].item()
loss_of(task.train[0]).backward()
optimizer.step()
show.table([
    {"a weight": "before the step", "value": f"{before:+.6f}"},
    {"a weight": "its gradient", "value": f"{weights.grad[0, 0].item():+.6f}"},
    {"a weight": "after the step", "value": f"{weights[0, 0].item():+.6f}"},
])

# %% [markdown]
# Compare the first and last rows: the weight moved against the sign of its gradient, by about the learning
# rate of 0.0003. That the gradient has about this size too is chance: Adam's first step is nearly the same for every
# weight, however large or small its gradient.
#
# Training is a loop of such steps. The rest of this course makes the loop faster, smaller or safer.

# %%
losses = []
for step in range(16):
    optimizer.zero_grad()                     # forget the gradients of the last step
    loss = loss_of(task.train[step % 4])      # the model reads an example
    loss.backward()                           # a gradient for each weight that learns
    optimizer.step()                          # a small move against it
    losses.append(loss.item())
charts.loss_curve(losses, "Sixteen steps on four examples: the loss falls")

# %% [markdown]
# The curve begins lower than the loss by hand, since one step has been taken already. And the loss falls on four
# examples that the model sees again and again, which proves only that the loop works. Whether
# the model has learned the *task*, or four lines by heart, only unseen messages can tell (section 3).
#
# One pass over all examples is an {{term:epoch}}; these were four epochs over four examples.

# %% [markdown]
# **Your turn.** The function below runs, but returns a wrong number. The right one is the loss that you
# computed by hand.

# %%
# EXERCISE: lora-1

# %% [markdown]
# ## 3 · The job: training with TRL
#
# At work you will rarely write the loop yourself. You describe the data, the settings and the
# {{term:adapter}}, the small part that is trained (section 4 explains its `LoraConfig`). TRL's `SFTTrainer`
# does the rest: template, label mask, loss, backward, step. {{term:SFT}} means supervised fine-tuning:
# learning from examples of right answers. First see it work, with these settings:

# %%
plan.table()

# %%
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

def to_rows(chats):
    """Prompt and answer apart: then TRL takes the loss on the answer alone."""
    return Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])


student = learning = optimizer = weights = loss = None     # section 2 is over: free its memory
at_once = 1 if device.kind == "cpu" else plan.batch_size    # conversations in memory
settings = SFTConfig(
    output_dir="tickets", learning_rate=plan.learning_rate, num_train_epochs=1, warmup_steps=5,
    per_device_train_batch_size=at_once, gradient_accumulation_steps=plan.batch_size // at_once,
    per_device_eval_batch_size=at_once, use_cpu=device.kind == "cpu",
    bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
    gradient_checkpointing=False, logging_steps=5, eval_strategy="steps", eval_steps=0.25,
    save_strategy="no", report_to="none",
)
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

# %%
trainer = SFTTrainer(
    model, args=settings, peft_config=adapter, processing_class=tokenizer,
    train_dataset=to_rows(task.train[: plan.examples]),
    eval_dataset=to_rows(task.validation[::4]),
)
trainer.train()
tuned = trainer.model

# %% [markdown]
# In TRL's table, follow the two loss columns; the others do not matter here. (`eval_steps=0.25` in the settings means:
# measure the validation loss after each quarter of the run.) Some words are new:
#
# - A {{term:batch}} is a group of examples whose gradients are averaged before a step. On a CPU it has two, which
#   go through the model one after the other while their gradients are added up. This {{term:gradient accumulation}}
#   makes the same step with half the memory for intermediate results.
# - The {{term:warm-up}} raises the learning rate from zero over the first steps, because the optimizer does not know yet
#   how large the gradients are. Afterwards TRL lowers the rate in a straight line to zero.
# - {{term:gradient checkpointing|Gradient checkpointing}} saves memory and costs time. TRL uses it by default;
#   here there is memory enough without it.
#
# Did the model learn? Ask it the same 25 messages again, without rules in the prompt.

# %%
guess = predict("Of 25 answers, how many are now a valid record?", unit="answers")
guess

# %%
answers_after = generate(tuned, tokenizer, prompts, max_new_tokens=plan.answer_tokens)
scores_after = task.evaluate(answers_after, "validation")
guess.reveal(round(25 * scores_after.valid.value))

# %%
show.table({
    "untrained": scores_before.shares(),
    "untrained, rules and examples in the prompt": scores_prompted.shares(),
    f"trained on {plan.examples} examples": scores_after.shares(),
    "no model: always the most common value, of all 66": task.most_common("validation"),
}, "25 validation messages: share right, with its 95 % interval")

# %%
show.answers(
    [chat[-1]["content"] for chat in prompts[:2]],
    {"before": answers_before[:2], "after": answers_after[:2]},
    task.references("validation")[:2],
)

# %% [markdown]
# Look first at *valid record* and *order_id*: after eighty examples the model has the form, and the order
# number, which only has to be copied. (*Valid* means JSON with the four fields and nothing else, and only
# allowed values.)
#
# Category and escalation have to be understood. Compare them with the last row, the {{term:baseline}}: a
# program that always gives the most common value. As far as 25 messages can tell, the model is no better than
# this program, and whole records are rarely right. But the validation loss was still falling when the
# examples ran out, so train on more.
#
# For this we use the course's own loop, `training.fit`. It computes the same loss, but is faster on a CPU. At
# work, take `SFTTrainer`.
#
# <details><summary><b>On Colab: a run that survives "Runtime disconnected"</b></summary>
#
# A free runtime can end at any moment, and its disk is lost with it. Keep {{term:checkpoint|checkpoints}} on
# your Drive. After a disconnect, run the same cells again: training continues from the newest checkpoint.
#
# ```python
# import os
#
# from google.colab import drive
# from transformers.trainer_utils import get_last_checkpoint
#
# drive.mount("/content/drive")                    # Colab asks you for permission
# place = "/content/drive/MyDrive/tickets"
#
# os.makedirs(place, exist_ok=True)
#
# # TRL's trainer: put these lines after `settings = SFTConfig(…)`, before the trainer is built ...
# settings.output_dir, settings.save_strategy, settings.save_steps = place, "steps", 10
# # ... and start it with this line instead of `trainer.train()`. The first time there is no checkpoint: None.
# trainer.train(resume_from_checkpoint=get_last_checkpoint(place))
# ```
#
# The course's own loop does the same with two settings:
# `training.Settings(…, checkpoint_folder=place, checkpoint_every=10)`.
#
# </details>

# %%
more = task.train[plan.examples :][: plan.more_examples]
same_settings = training.Settings(
    learning_rate=plan.learning_rate, batch_size=plan.batch_size, warmup_steps=5, evaluate_every=24
)
history = training.fit(tuned, tokenizer, more, task.validation[::4], settings=same_settings)
history.plot("More examples: the validation loss falls further")

# %% [markdown]
# The validation loss ends below where it began, and that is what counts. Nothing is broken when both losses
# rise at first: the second run starts with a new optimizer, and the learning rate is back at its full height.
#
# Now the test set: 100 messages about products that the model was never trained on.

# %%
answers = generate(tuned, tokenizer, task.prompts(), max_new_tokens=plan.answer_tokens)
scores = task.evaluate(answers)
prompted = evidence.lesson_02.with_rules(task, task.prompts()[:50])
with tuned.disable_adapter():                              # the base, as it was before training
    answers_prompted = generate(tuned, tokenizer, prompted, max_new_tokens=plan.answer_tokens)

# %%
trained = f"trained on {plan.examples + plan.more_examples} examples"
show.table({
    trained: scores.shares(),
    "trained on 540 examples, recorded three times": evidence.lesson_02.recorded_scores(),
    "untrained, rules and examples in the prompt, first 50": task.evaluate(answers_prompted).shares(),
    "no model: always the most common value": task.most_common(),
}, "100 test messages: share right, with its 95 % interval", highlight=trained)

# %% [markdown]
# First compare your model with the rivals in the last two rows. In category, product and order number it is
# far ahead of both. `escalation` is another matter: always answering "none" is right for seven messages in
# ten, so a share near 70 % says little. For such a field, count hits, misses and false alarms:

# %%
evidence.lesson_02.alarms(scores.records, task.references())

# %% [markdown]
# Is that good enough? A person has to decide what it costs if a safety report waits in the queue, and what a
# false alarm costs. We would not let this field decide alone: it misses too many. What it needs most is more
# examples *of escalations* (lesson 05).
#
# Back to the table of scores. Its intervals are wide: with 100 messages, 80 % is compatible with anything
# from 71 to 87. Its last column is what a program needs, the whole record: all four fields together are right
# less often than any one of them.
#
# Here is the message from the top of the page, answered by *your* model, and the first message that it got
# wrong.

# %%
wrong = next(i for i, a in enumerate(answers) if a != task.write(task.references()[i]))
shown = [1, wrong]
show.answers(
    [task.prompts()[i][-1]["content"] for i in shown],
    {"your model": [answers[i] for i in shown]},
    [task.references()[i] for i in shown],
)

# %% [markdown]
# A test set wears out each time somebody looks at it, and we looked at this one while writing the lesson. A
# project that has to be sure would now need a new one.

# %% [markdown]
# ## 4 · LoRA: learn the difference, and make it thin
#
# **Why not simply train every weight?** It works, as section 6 shows, but it takes memory. For every weight
# that is trained, the computer keeps four numbers:
#
# | kept for each trained weight | bytes |
# | --- | --- |
# | the weight itself, in 32 bits (the {{term:master weights}}) | 4 |
# | its gradient | 4 |
# | Adam's running average of the gradient (the {{term:optimizer state}}) | 4 |
# | Adam's running average of its square (also optimizer state) | 4 |
# | **together** | **16** |
#
# A {{term:frozen}} weight, one that is not trained, takes only 2 bytes in {{term:bfloat16}}, a 16-bit number
# format with the range of a 32-bit number and about three digits. So before it reads the first example, a
# model of 7 billion weights takes 7 × 16 = 112 GB if all of it is trained, and 7 × 2 = 14 GB if it is frozen.
# LoRA freezes the model and trains something small beside it.
#
# **How can something small be enough?** The model already knows English, JSON and what a refund is about.
# What it lacks is a habit, which may need few changes, each applied in many places.

# %% [markdown]
# A {{term:linear layer}} multiplies its input $x$ by a {{term:weight matrix}} $W_0$. Training would replace $W_0$ by $W_0 +
# \Delta W$. LoRA (Hu et al., 2021) leaves $W_0$ alone and writes the *difference* as a product of two thin matrices, $\Delta W = \frac{\alpha}{r}BA$. So the layer's
# output $h$ is
#
# $$h = W_0 x + \frac{\alpha}{r} B A x$$
#
# $A$ has only $r$ rows and $B$ only $r$ columns. The {{term:rank}} $r$ is small, 16 for instance. $A$
# squeezes the input into $r$ numbers, and $B$ spreads them out again: each column of $B$ is one *direction*
# in which the output can be pushed, and the numbers from $A$ say how far. {{term:alpha|Alpha}}, written
# $\alpha$, sets how strongly the update counts.

# %%
show.drawing("lora")

# %% [markdown]
# An example to follow with a pencil: three inputs, two outputs, rank 1, $\alpha = 2$.

# %%
W0 = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
A = torch.tensor([[1.0, 2.0, 0.0]])                        # 1 × 3: three inputs become one number
B = torch.tensor([[0.5], [-1.0]])                          # 2 × 1: the number becomes two outputs
x, alpha, r = torch.tensor([1.0, 1.0, 1.0]), 2, 1
frozen, squeezed = W0 @ x, A @ x
spread = alpha / r * B @ squeezed
show.table([
    {"step": "frozen path, W₀x", "result": str(frozen.tolist())},
    {"step": "A squeezes: Ax", "result": str(squeezed.tolist())},
    {"step": "B spreads, α/r scales: (α/r)·B·(Ax)", "result": str(spread.tolist())},
    {"step": "output, the sum", "result": str((frozen + spread).tolist())},
])

# %% [markdown]
# Check the two middle rows: $Ax = 1·1 + 2·1 + 0·1 = 3$. $B$ turns this 3 into $(1.5, -3)$, and $\alpha/r = 2$
# doubles both to $(3, -6)$.
#
# **Your turn, before you see ours.** Write the {{term:forward pass}} for a whole batch.

# %%
# EXERCISE: lora-2

# %% [markdown]
# Here is a complete layer. $B$ starts at zero, so the adapted model starts as an exact copy of the original.
# The inputs of a batch are the *rows* of `x`, so `x @ A.T` computes $Ax$ for all of them at once. (`.T` swaps
# rows and columns.)

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


# %% [markdown]
# To adapt a model, freeze all of it with `model.requires_grad_(False)`. Then walk through it and put the new
# layer in place of the old one.

# %% tags=["lora-from-scratch"]
def inject(module, names, rank, alpha):
    """Replace the linear layers called `names`, at any depth."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name in names:
            setattr(module, name, LoRALinear(child, rank, alpha))
        else:
            inject(child, names, rank, alpha)


# %% [markdown]
# Is that all the PEFT library does? Adapt a block of the real model once with our class and once with PEFT,
# give both the same $A$, $B$ and input, and compare. (Each of the 30 blocks has seven linear layers: `q_proj`,
# `k_proj`, `v_proj` and `o_proj` in the {{term:attention}}, and the three below in the part after it, called the MLP.
# `"all-linear"` in section 3 adapted all 210 of them.)

# %%
import copy

from peft import inject_adapter_in_model

small, _ = models.load(tier="cpu", dtype=torch.float32)
block = small.model.layers[0].mlp.cpu().requires_grad_(False)
small = None                                               # keep the block alone
names = ["gate_proj", "up_proj", "down_proj"]
ours, theirs = copy.deepcopy(block), copy.deepcopy(block)
inject(ours, names, rank=8, alpha=16)
theirs = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=names), theirs)

# %%
for name in names:
    mine, peft = getattr(ours, name), getattr(theirs, name)
    torch.nn.init.normal_(mine.B, std=0.05)                # zero would hide a mistake in A
    peft.lora_A["default"].weight.data = mine.A.data.clone()
    peft.lora_B["default"].weight.data = mine.B.data.clone()
x = torch.randn(4, 16, block.gate_proj.in_features)
difference = (ours(x) - theirs(x)).abs().max().item()
print(f"largest output {ours(x).abs().max():.3f}, largest difference {difference:.1e}")

# %% [markdown]
# They agree: what difference there is, is the rounding of 32-bit numbers. LoRA is no more than these fifteen lines. PEFT adds
# saving, loading, switching and a hundred special cases, so from here on we use PEFT.

# %% [markdown]
# ## 5 · What is trained, what is stored, what fits
#
# With $d_{in}$ inputs and $d_{out}$ outputs, $A$ has $r · d_{in}$ numbers and $B$ has $d_{out} · r$. Together
# that is $r · (d_{in} + d_{out})$ instead of $d_{in} · d_{out}$. For a 4096 × 4096 matrix and rank 16 it is
# 131,072 instead of 16,777,216, less than one in a hundred.

# %%
guess = predict("Rank 16 on all layers of Mistral-7B trains how many parameters?", unit="million")
guess

# %%
names = ["SmolLM2-135M", "Mistral-7B-v0.1", "Llama-3.1-8B", "Llama-2-70B"]
counts = {name: memory.count_parameters(name, rank=16) for name in names}
guess.reveal(counts["Mistral-7B-v0.1"].trainable / 1e6)

# %% tags=["nbval-check-output"]
show.table({
    name: {
        "trained": count.trainable,
        "in all": count.total,
        "share, %": round(count.percent, 2),
        "file in 32 bits, MB": round(4 * count.trainable / 1e6),
        "file in 16 bits, MB": round(2 * count.trainable / 1e6),
    }
    for name, count in counts.items()
}, caption="Rank 16 on all linear layers but the output head", of="model")

# %% [markdown]
# Read down the shares: the larger the model, the smaller its share. A matrix grows with the product of its
# sides, an adapter only with their sum. PEFT saves adapters in 32 bits unless you convert them.
#
# And the memory? The figure shows what is kept for Llama-2-7B, with 6.74 billion
# {{term:parameter|parameters}}. {{term:QLoRA}}, the subject of lesson 03, also squeezes the frozen weights to
# 4 bits.

# %%
show.drawing("memory")

# %% [markdown]
# Here is the same arithmetic for other models. {{term:mixed precision|Mixed precision}} is the 16 bytes of
# section 4: 32-bit weights that are rounded to 16 bits for computing. "Pure bfloat16" keeps everything in 16
# bits: 8 bytes for each trained weight.

# %%
evidence.lesson_02.states_table()

# %% [markdown]
# These figures are lower bounds for plain Adam on one GPU: {{term:activation|activations}}, the intermediate
# results that `backward()` needs, come on top, and LoRA saves hardly any of them. To count everything for
# your own model and GPU, use `course estimate Llama-3.1-8B --method lora --gpu t4` in a terminal or the
# calculator of lesson 03.
#
# Now you can judge figures that you will meet elsewhere:

# %%
evidence.card("L1")

# %% [markdown]
# **Your turn.** Count what LoRA trains.

# %%
# EXERCISE: lora-3

# %% [markdown]
# ## 6 · Which knobs matter?
#
# Rank, alpha, {{term:target modules}}, learning rate: everybody has an opinion. The short answer: tune the
# learning rate first, adapt all linear layers, and leave the rest alone until you have a reason.
#
# We trained the same model on {{record:lora-sweep:examples:d}} examples, for 30 steps, and changed one setting at a time. Each point below
# is one run; three points are three runs on different samples of the examples (three {{term:seed|seeds}}).
# The runs are recorded (`benchmarks/lora_sweep.py`).
#
# These runs are *short*: the form is learned, but the labels are only beginning to be. They show what matters
# early and on a small model; the table at the end of the section sets large studies beside them.
#
# **Rank.** Does it help if the update may push in more directions? (Lower is better.)

# %%
evidence.lesson_02.setting_curve("rank")

# %% [markdown]
# Sixty-four times the parameters buy nothing here; rank 1, at the left, is if anything better. At this length
# of training the rank is not the bottleneck. A rank that is too small shows only when there is more to learn
# than it can hold.
#
# Why does LoRA divide by $r$? Alpha stays at 32, so a higher rank adds up more directions, but $\alpha/r$
# counts each of them less, and early updates have about the same size at every rank.

# %%
evidence.card("L8")

# %% [markdown]
# **Alpha.** LoRA multiplies the update by $\alpha/r$. Adam's steps have nearly the same size whatever the
# gradient, so with a larger alpha each step changes the output more.

# %%
evidence.lesson_02.setting_curve("alpha")

# %% [markdown]
# In these short runs a higher alpha means faster learning, at a price: at alpha 128 the model loses more of
# what it knew (its loss on everyday prose is 4.39, against 3.99 at alpha {{record:lora-sweep:base.alpha:d}}). Alpha and the learning rate do
# much the same job, so fix one and tune the other. Runs as short as ours cannot choose rank and alpha. We take
# rank 16 and alpha 32 from larger studies and everybody's habit, and measure the learning rate.
#
# **Learning rate.** {{term:full fine-tuning|Full fine-tuning}} of large models uses a rate of about 0.00002.
# Where is the best rate for LoRA?

# %%
evidence.lesson_02.setting_curve("learning rate")

# %% [markdown]
# The rate matters more than anything else here. At 0.00002 thirty steps of LoRA leave the loss almost where
# it was. At {{record:lora-sweep:base.learning_rate:g}} thirty steps are enough, and at 0.005 one of three runs already comes out clearly worse.
# Models of 7 billion weights need lower rates, around 0.0002: the best rate of LoRA is about ten times that
# of full fine-tuning (Schulman et al., 2025).
#
# **Which layers, and full fine-tuning beside it.** At *equal size*, is it better to adapt only the
# {{term:attention}} or all linear layers? And how far does LoRA fall short of full fine-tuning? The last two columns of the
# table show what is {{term:forgetting|forgotten}}: the loss on everyday prose, and the share of everyday questions
# (asked without the shop's system message) that the model answers with a JSON record.
#
# Three rows need a word:
#
# - {{term:dropout}} switches off a tenth of the adapter's inputs at random while training;
# - *DoRA* learns the length of each row of the matrix apart from its direction;
# - `modules_to_save` trains a whole matrix beside the adapters, here the {{term:embedding}}.

# %%
evidence.lesson_02.rivals()

# %% [markdown]
# What to take from the table:
#
# 1. At its best rate, full fine-tuning gets the two labels right more often than LoRA at rank {{record:lora-sweep:base.rank:d}} and alpha {{record:lora-sweep:base.alpha:d}}. (Always
#    giving the most common pair of labels is right for 16 of the 100 messages.) LoRA at
#    rank 1 reached the same loss as full fine-tuning, but its labels were not counted, so which method is better
#    stays open.
# 2. At equal size, attention alone reaches a loss similar to that of all layers, but forgets more: its loss on prose
#    is higher.
# 3. The three variants, run once each, show no large effect; a small one could not show.
# 4. Look at the last column. Every run with a loss below 0.25 answers nearly every everyday question with a record,
#    because no training example asked for anything else. If your model must still chat, mix ordinary conversations
#    into the training data, or switch the adapter off (section 7).

# %%
evidence.lesson_02.forgetting()

# %% [markdown]
# Look at the lower left, where both losses are low: full fine-tuning at 0.0001 is there. (Each line joins the
# learning rates of one method, from low to high. The horizontal axis is logarithmic.) At 0.0003 full fine-tuning has forgotten as much as LoRA at
# 0.002. So forgetting depends on the rate at least as much as on the method.
#
# "LoRA learns less and forgets less" was measured on models of 7 billion weights with long training (Biderman
# et al., 2024); our short runs of a small model do not show it. What LoRA certainly gives you is the
# untouched base, as soon as you switch the adapter off.
#
# **Was the update of full fine-tuning thin?** To test this, we took the change $\Delta W$ that *full*
# fine-tuning made and kept only its $r$ strongest directions in each matrix. How much of the gain in
# validation loss is left? As a control, we did the same with a model that had learned 40 messages with
# *shuffled* answers by heart, judged by its loss on those 40.

# %%
evidence.lesson_02.truncation_figure()

# %% [markdown]
# With sixteen directions per matrix both curves keep practically all of the gain. So sixteen directions in each of
# 210 matrices, five million numbers in all, were enough for both of our small data sets. With one direction the curves come
# apart: our task keeps 87 %, what was learned by heart 77 %. That fits the idea that a rule needs less room
# than a list of exceptions, but does not prove it. (Cutting a finished update down to one direction is harder than
# training inside one direction, where the optimizer can look for the best one. So rank 1 above lost nothing.)
#
# **Large studies beside ours.**
#
# | question | published, models of 1 to 70 billion weights | here, 135 million, 30 steps |
# | --- | --- | --- |
# | rank | matters once the data exceed what it can hold (Schulman et al.) | not the bottleneck |
# | which layers | all; attention alone is worse at equal size (Schulman et al.) | attention alone: a similar loss, more forgotten |
# | learning rate | about ten times that of full fine-tuning, fifteen in short runs (Schulman et al.) | twenty times on our coarse grid; between its neighbouring points, ten to fifty |
# | quality | equal to full fine-tuning on small and medium data sets (Schulman et al.), behind it with much data (Biderman et al.) | rank 16 is behind it in labels, rank 1 equal to it in loss |
# | forgetting | less than full fine-tuning (Biderman et al.) | not less |

# %%
evidence.card("L5")

# %% [markdown]
# **Now you.** Change the numbers in the next cell and run it again: ten steps from a fresh adapter, less than
# a minute each time. Your trained model is not touched.

# %%
rank, alpha, learning_rate = 16, 32, 2e-3

trial = training.trial(
    tuned, tokenizer, task.train[:40], task.validation[:8],
    LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"),
    training.Settings(learning_rate=learning_rate, batch_size=4, max_steps=10, warmup_steps=2),
)
print(f"validation loss after 10 steps: {trial.validation_losses[-1]:.2f}")

# %%
# EXERCISE: lora-4

# %% [markdown]
# ## 7 · From your file to a model that answers
#
# Your own data take the same path: a JSONL file with one conversation per line, then an adapter. The adapter
# can be {{term:merge|merged}} into the weights or kept apart.

# %%
show.drawing("merging")

# %% [markdown]
# First the file: your own data should look like this. Lesson 05 shows how to get there;
# `course check-data tickets.jsonl` tells you what is wrong with a file.

# %%
import json
from pathlib import Path

file = Path("tickets.jsonl")
file.write_text("\n".join(json.dumps({"messages": chat}) for chat in task.train))
print(file.read_text().splitlines()[0])

# %% [markdown]
# At work, this is the whole program. It needs only your file and `pip install trl peft` (tested with TRL 1.16 and
# transformers 5.24), nothing from this course. The course's tests run it on a CPU, as it stands. (On Colab run `!pip install --upgrade torchao` first: PEFT stops at the old version that
# is installed there.)
#
# ```python
# import torch
# from datasets import load_dataset
# from peft import LoraConfig
# from transformers import pipeline
# from trl import SFTConfig, SFTTrainer
#
#
# def split(row):
#     # The last message is the answer to learn. Given whole conversations, TRL would learn the questions too.
#     return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
#
#
# data = load_dataset("json", data_files="tickets.jsonl", split="train")
# data = data.map(split, remove_columns=["messages"]).train_test_split(test_size=0.1, seed=0)
#
# gpu = torch.cuda.is_available()
# old = gpu and torch.cuda.get_device_capability()[0] < 8      # a T4 is; it needs float16
# dtype = torch.float16 if old else torch.bfloat16
#
# trainer = SFTTrainer(
#     "HuggingFaceTB/SmolLM2-135M-Instruct",         # 7B and more: a tenth of the learning rate
#     args=SFTConfig(
#         output_dir="out", learning_rate=2e-3, num_train_epochs=2, warmup_steps=10,
#         per_device_train_batch_size=4, gradient_accumulation_steps=1,
#         max_length=1024,                           # longer conversations are cut at the end: the answer!
#         eval_strategy="epoch", model_init_kwargs={"dtype": dtype},
#         use_cpu=not gpu, bf16=not old, fp16=old, report_to="none",
#     ),
#     train_dataset=data["train"],
#     eval_dataset=data["test"],
#     peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
# )
# trainer.train()
# trainer.save_model("tickets-adapter")
#
# ask = pipeline("text-generation", model="tickets-adapter")
# for row in data["test"].select(range(min(5, len(data["test"])))):     # the same system message as in training
#     reply = ask(row["prompt"], max_new_tokens=100, do_sample=False)[0]["generated_text"][-1]
#     print(reply["content"], "| right:", row["completion"][0]["content"])
# ```
#
# Five answers read beside the right ones tell you more than a loss. For a score, take at least a hundred
# messages that are in neither part of the file, in a file `test.jsonl` of the same form, and add these lines:
#
# ```python
# import json
#
# held_out = [split(json.loads(line)) for line in open("test.jsonl")]
# fields_right, records_right, fields = 0, 0, 0
# for row in held_out:
#     right = json.loads(row["completion"][0]["content"])
#     text = ask(row["prompt"], max_new_tokens=100, do_sample=False)[0]["generated_text"][-1]["content"]
#     try:
#         record = json.loads(text)
#     except ValueError:                             # not JSON: no field is right
#         record = None
#     record = record if isinstance(record, dict) else {}
#     fields += len(right)
#     fields_right += sum(name in record and record[name] == value for name, value in right.items())
#     records_right += record == right
# print(f"{fields_right / fields:.0%} of the fields right, {records_right / len(held_out):.0%} of the records")
# ```
#
# Save the adapter you trained, load it onto a fresh base in 32 bits, and merge. (Merging in 16 bits would
# round the weights once more.) In 32 bits the merged model takes 538 MB; `merged.half()` or `.bfloat16()`
# before saving halves that.

# %%
from peft import PeftModel

tuned.save_pretrained("tickets-adapter")
tuned.cpu()                                                # on a GPU: room for 32 bits
fresh, _ = models.load(dtype=torch.float32)
merged = PeftModel.from_pretrained(fresh, "tickets-adapter").merge_and_unload()
merged.save_pretrained("tickets-merged", max_shard_size="1GB")   # each file passes through memory whole
tokenizer.save_pretrained("tickets-merged")
fresh = merged = None                                      # it is on the disk now
memory.release()
tuned.to(device.kind)
show.folder_sizes("tickets-adapter", "tickets-merged")

# %% [markdown]
# In a project of your own the merge is three lines:
#
# ```python
# model = AutoPeftModelForCausalLM.from_pretrained("tickets-adapter", dtype=torch.float32)       # from peft
# model.merge_and_unload().save_pretrained("tickets-merged")
# AutoTokenizer.from_pretrained("tickets-adapter").save_pretrained("tickets-merged")             # from transformers
# ```
#
# The adapter folder is what you keep, send and version. The merged folder is a model like any other, and any
# program loads it as one:

# %%
from transformers import pipeline

ask = pipeline("text-generation", model="tickets-merged", dtype=device.torch_dtype())
message, right = task.prompts()[2], task.references()[2]
reply = ask(message, max_new_tokens=plan.answer_tokens, do_sample=False)
reply = reply[0]["generated_text"][-1]["content"]
print(reply)
show.answers([message[-1]["content"]], {"merged model": [reply]}, [right])

# %% [markdown]
# One answer shows only that the merged model works. Other programs take the same folders. These commands are
# *not run here*, since they need a GPU, an installation or an account:
#
# ```bash
# vllm serve ./tickets-merged                                  # a server with OpenAI's interface
# vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --lora-modules tickets=./tickets-adapter   # many adapters
# python llama.cpp/convert_hf_to_gguf.py tickets-merged --outfile tickets-merged.gguf     # for llama.cpp and Ollama
# ollama create tickets -f Modelfile                           # Modelfile: FROM ./tickets-merged.gguf
# hf upload my-name/tickets-adapter tickets-adapter            # the hub
# ```
#
# Such a server is asked as any hosted model is, with the system message of the training:
#
# ```python
# client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
# client.chat.completions.create(model="tickets", temperature=0, messages=[
#     {"role": "system", "content": "Triage this customer message."}, {"role": "user", "content": "My kettle leaks."}])
# ```
#
# **Merged or apart?** Merging makes the two paths one matrix again. An adapter kept apart costs each layer
# two small matrix multiplications more.

# %%
merged = ask.model
latency = evidence.lesson_02.latency(merged, tuned, tokenizer)
again = generate(merged, tokenizer, task.prompts()[:25], max_new_tokens=plan.answer_tokens)
same = float(np.mean([a == b for a, b in zip(again, answers)]))
difference = evidence.lesson_02.merge_difference(tuned)
merged_time, apart_time = latency["merged"], latency["kept apart"]
print(f"merged: {merged_time.value:.2f} times the base's time (95 % interval {merged_time.low:.2f}-{merged_time.high:.2f}), "
      f"against {apart_time.value:.2f} times with the adapter kept apart")
print(f"outputs in float32: largest relative difference {difference:.0e}; in {device.dtype} "
      f"{100 * same:.0f} % of 25 answers stayed the same")

# %%
evidence.card("L6")

# %% [markdown]
# What do you gain by keeping adapters apart? One base in memory can have as many behaviours as you like.
# Train a second adapter on the same base, for code reviews in a house style, with two dozen short examples:

# %%
review = load_task("code_review")
tuned.add_adapter("review", adapter)
tuned.set_adapter("review")
short = sorted(review.train, key=lambda chat: len(chat[1]["content"]))[:24]
two_epochs = training.Settings(learning_rate=plan.learning_rate, batch_size=2, epochs=2)
run = training.fit(tuned, tokenizer, short, settings=two_epochs)

# %%
code, ticket = review.prompts()[1], task.prompts("validation")[1]
replies = {}
for name in ("default", "review"):
    tuned.set_adapter(name)                                # nothing is loaded: milliseconds
    replies[f"adapter “{name}”"] = generate(tuned, tokenizer, [ticket, code], max_new_tokens=60)
show.answers([ticket[-1]["content"], code[-1]["content"]], replies)

# %% [markdown]
# The base is the same; `set_adapter` only changes which thin matrices are used. But read the answers. The
# ticket adapter writes a record about *anything*, code included (point 4 of section 6). The review looks like
# one but is mostly nonsense: two dozen examples teach a 135M model how a review looks, not how to review.
#
# `set_adapter` switches the whole model. To choose an adapter per request, as a server must, use
# {{term:vLLM}} with `--enable-lora`. With all adapters off you have the base back:

# %%
with tuned.disable_adapter():
    reply = generate(tuned, tokenizer, ["Why is the sky blue?"], max_new_tokens=40)
tuned.set_adapter("default")
show.answers(["Why is the sky blue?"], {"the base, adapters switched off": reply})

# %% [markdown]
# **Your turn: the road between the two.** Merging can be undone, as long as you know exactly what was merged (PEFT's
# `merge_adapter` and `unmerge_adapter` do it). So a server can run at the full speed of merged weights and still change its
# behaviour, without loading the base again. In 16 bits each change rounds the weights once more, so load the
# base anew after many changes.

# %%
# EXERCISE: lora-5

# %% [markdown]
# ## 8 · Common mistakes, reproduced
#
# (To save time, this section asks test messages again. In a project, take validation messages for such experiments.)
#
# **The learning rate of full fine-tuning.** You saw it in section 6: at 0.00002 a short run learns next to nothing, and no
# message tells you.
#
# **A target module that does not exist.** PEFT stops with an error if *no* name matches. If only one of
# several names is misspelt, PEFT says nothing and trains fewer layers.

# %%
from peft import get_peft_model

typo = get_peft_model(merged, LoraConfig(r=16, target_modules=["q_proj", "vproj"]))
typo.print_trainable_parameters()
trained = [name for name, weight in typo.named_parameters() if weight.requires_grad]
print("adapted:", {name.split(".")[-4] for name in trained})
merged = typo.unload()                                     # without the adapter again

# %% [markdown]
# `vproj` was skipped without a warning. To catch such a slip, call `print_trainable_parameters()` and look at
# the names.
#
# **Another system message.** Does the model break if you leave out the system message that it was trained
# with?

# %%
without = [chat[1:] for chat in task.prompts()[:25]]
answers_without = generate(merged, tokenizer, without, max_new_tokens=plan.answer_tokens)
show.table({
    "as in training": task.evaluate(again).shares(),
    "without its system message": task.evaluate(answers_without).shares(),
}, caption="The first 25 test messages")

# %% [markdown]
# The two rows may differ by a message or two, which 25 messages cannot tell from chance: a model trained on
# one narrow task hardly reads its system message any more. The mistake does more harm where the prompt
# decides between tasks. Send the prompt that you trained with, and measure again when somebody changes it.
#
# **Merging twice.** A merged folder is a base like any other, so nothing stops you from putting the same adapter on it again.

# %%
twice = PeftModel.from_pretrained(merged, "tickets-adapter").merge_and_unload()   # changes `merged` too
answers_twice = generate(twice, tokenizer, task.prompts()[:25], max_new_tokens=plan.answer_tokens)
show.table({
    "merged once": task.evaluate(again).shares(),
    "merged twice": task.evaluate(answers_twice).shares(),
}, caption="The first 25 test messages")

# %% [markdown]
# Compare the two rows: the adapter's change was added a second time, without a warning, and the model is no
# longer the one that you tested. Give the merged folder a name that cannot be mistaken for the base's.
#
# **Both matrices at zero.** This looks like a clean start but is a dead end: the gradient of each matrix is a
# product with the other, so both are zero.

# %%
dead = LoRALinear(torch.nn.Linear(8, 8), rank=2, alpha=4)
dead.A.data.zero_()
dead(torch.randn(4, 8)).square().mean().backward()
print("largest gradient of A:", dead.A.grad.abs().max().item())
print("largest gradient of B:", dead.B.grad.abs().max().item())

# %% [markdown]
# **Too few examples, too often.** Train on eight examples again and again: the training loss falls as long as
# you like. What happens on the validation messages of section 3? (We take eight short examples, to be quick.)

# %%
eight = sorted(task.train, key=lambda chat: len(chat[1]["content"]))[:8]
many_epochs = training.Settings(
    learning_rate=plan.learning_rate, batch_size=4, epochs=10, evaluate_every=4, schedule="constant"
)
overfit = training.trial(tuned, tokenizer, eight, task.validation[::4], adapter, many_epochs)
overfit.plot("Eight examples, again and again")

# %% [markdown]
# The training loss goes to zero. The validation loss stops falling early, far above the 0.1 or so that section 3
# reached on the same messages with more examples. This is {{term:overfitting}}: the model stores the examples
# instead of the rule. (With longer training the validation loss often rises again.) The real cure is more examples.
#
# Only validation data can show overfitting, so always set some aside, and keep the weights from the lowest
# point. In `training.Settings` that is `early_stopping=2`. `SFTTrainer` needs the callback
# `EarlyStoppingCallback(2)`, `load_best_model_at_end=True`, `metric_for_best_model="eval_loss"` and the same
# strategy for saving as for evaluating.

# %% [markdown]
# ## 9 · What you can do now
#
# | you want to | do |
# | --- | --- |
# | start | rank 16, alpha 32, all linear layers; learning rate 2e-4 for a 7B model, up to 2e-3 for a very small one; then tune the rate first |
# | know whether it learned | validation loss while training; then, once, test scores with intervals, beside a baseline and a good prompt |
# | use less memory | gradient checkpointing, smaller batch, then QLoRA (lesson 03) |
# | serve one behaviour | merge |
# | serve many | one base, adapters apart |
# | find out what went wrong | count the trainable parameters, check that the loss falls in the first steps, read ten answers |
#
# **The claims of this lesson.** You have met four of them above. Open a row to see why.

# %%
evidence.summary("L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8")

# %% [markdown]
# **Quiz.** Click a choice to see why it is right or wrong.

# %%
quiz("02")

# %% [markdown]
# **Final exercises.** The first two go one step further, to conversations with more than one answer and to a
# server with many adapters. The last is about data of your own.

# %%
# EXERCISE: lora-6

# %%
# EXERCISE: lora-7

# %%
# EXERCISE: lora-8

# %% [markdown]
# {{words}}
#
# ## Further reading
#
# - Hu et al. (2021), *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685: you can now read its sections 4
#   and 7.
# - Schulman et al. (2025), *LoRA Without Regret*: large sweeps of the knobs of section 6.
# - Biderman et al. (2024), *LoRA Learns Less and Forgets Less*, arXiv 2405.09673: where thin updates stop being enough.
#
# Next, lesson 03 squeezes the frozen base into 4 bits.
