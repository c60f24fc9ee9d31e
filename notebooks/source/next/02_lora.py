# %% [markdown]
# # 02 · LoRA: teach a model a new behaviour
#
# {{badges}}
#
# A support desk gets a message: *"The kettle I bought in May leaks, order 48213-B. I want my money back."* A program has to
# file it, so it needs one line of JSON and nothing else. The model you are about to load writes a polite letter instead.
# Telling it the rules in a prompt costs tokens on every call and works some of the time. In this lesson you train the
# behaviour into it, in a minute or two, by changing about one weight in thirty.

# %%
# INSTALL:

# %%
from course_utils import charts, drawings, evidence, hardware, memory, models, plans, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import numpy as np
import torch

evidence.lesson_02.before_and_after()

# %% [markdown]
# Those answers were recorded; by the end of section 3 you will have your own.
#
# By the end you will be able to
#
# - follow one training step by hand, from the text to the changed weight,
# - fine-tune a model on your own examples with ten lines of TRL and PEFT, and measure before and after,
# - write a LoRA layer in fifteen lines and show that it computes what the PEFT library computes,
# - count what an adapter trains and stores, and predict whether it fits on your card,
# - choose rank, alpha, target modules and learning rate from measurements instead of folklore,
# - save, merge, switch and serve adapters.
#
# You should know Python and have called a language model's API before. You need not have trained anything.
# Reading and doing takes about 45 minutes.
#
# {{timing}}

# %% [markdown]
# ## 1 · The task, and what the model does without training
#
# The shop is invented and called Tarnbrook. Customers write; the answer must be one record with four fields. Here is a
# message from the test set with the record that a good answer contains.

# %%
device = hardware.detect()
plan = plans.plan("02")
task = load_task("support_tickets", list(plan.fields))
print(f"{device.name}: tier {device.tier}, weights in {device.dtype}")
print(f"{len(task.train)} training, {len(task.validation)} validation and {len(task.test)} test examples")
show.answers([task.test[0][1]["content"]], {"right answer": [task.write(task.references()[0])]}, task.references()[:1])

# %% [markdown]
# Three sets with three jobs. The model learns from the **training** set. The **validation** set tells us, while we train,
# whether what it learns carries over to messages it has not seen. The **test** set is touched once, at the end. It was
# written separately and asks about products that the training set never mentions.
#
# Now load the model and ask it all 100 test messages.

# %%
model, tokenizer = models.load()
print(f"{model.config._name_or_path.split('/')[-1]}: {model.num_parameters():,} parameters")
guess = predict("How many of its 100 answers will be a valid record?", unit="answers")
guess

# %%
answers_before = generate(model, tokenizer, task.prompts(), max_new_tokens=24, batch_size=25)
scores_before = task.evaluate(answers_before)
guess.reveal(100 * scores_before.valid.value)

# %% [markdown]
# The model is helpful, fluent and of no use to a program. It does not lack knowledge: it knows what a refund is. It lacks
# *our behaviour*, and that is what fine-tuning is for.

# %% [markdown]
# ## 2 · One training step, by hand
#
# What does "training" do, exactly? Every fine-tuning method in this course, from LoRA to reinforcement learning, repeats
# the same five moves. You are going to make them once, slowly.

# %%
drawings.training_step()

# %% [markdown]
# **From text to tokens.** A model does not see a conversation. It sees a list of numbers. The {{term:chat template}} writes
# the conversation as one text with markers for who speaks, and the tokenizer cuts that text into {{term:token|tokens}}, each
# with a number. Here is the first training example. We want the model to learn to *answer*, not to write customers'
# messages, so we mark the tokens to learn from. This is the {{term:label mask}}: a label of −100 means "no loss here".

# %%
def ids_and_labels(conversation):
    """Token ids of a conversation, and labels that leave out everything before the answer."""
    template = tokenizer.apply_chat_template
    ids = template(conversation, return_dict=True)["input_ids"]
    prompt = template(conversation[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids, [-100] * len(prompt) + ids[len(prompt) :]


ids, labels = ids_and_labels(task.train[0])
show.conversation(tokenizer, ids, labels)

# %% [markdown]
# Only the answer and the marker that ends it are in blue. Forget that end marker and you get a model that never stops
# talking.
#
# **From tokens to a loss.** At each position the model gives every token in its vocabulary a raw score. These scores are
# the {{term:logits}}; the {{term:softmax}} turns them into probabilities that add up to one. We look up one number per
# position: the probability of the token that really comes next.
#
# To keep this section light we use the smallest model on every machine, in 32-bit numbers.

# %%
student, _ = models.load(tier="cpu", dtype=torch.float32)
tokens = torch.tensor([ids], device=student.device)
with torch.no_grad():
    logits = student(tokens).logits[0]                     # (positions, vocabulary)
probability = logits.softmax(dim=-1)
right_next = probability[range(len(ids) - 1), ids[1:]]     # of each token, given those before it
loss_per_token = -right_next.log()

# %%
first = labels.count(-100)                                 # where the answer begins
show.table([
    {"next token": repr(tokenizer.decode([ids[i]])), "probability, %": 100 * right_next[i - 1].item(),
     "loss = −ln(probability)": loss_per_token[i - 1].item()}
    for i in range(first, first + 6)
], caption="The first six tokens of the right answer, before training")

# %% [markdown]
# Read the table from the top. The model gives the opening brace almost no chance: to it, an answer begins with a word. What
# JSON itself dictates, a colon or a quotation mark, it expects, because it has seen JSON before. What surprises it is exactly
# what we want to teach: that there is a record at all, which fields it has, and which label fits.
#
# The {{term:loss}} of a token is minus the natural logarithm of its probability: 0 if the model was certain, 0.69 at 50 %,
# 4.6 at 1 %. The loss of the example is the mean over the blue tokens. `transformers` computes the same number in one call:

# %%
by_hand = loss_per_token[first - 1 :].mean()
in_one_call = student(tokens, labels=torch.tensor([labels], device=student.device)).loss
print(f"by hand {by_hand:.4f}, by transformers {in_one_call:.4f}")

# %% [markdown]
# **From the loss to a changed weight.** For each weight, `backward()` computes how the loss would change if the weight grew
# a little. That slope is its {{term:gradient}}. The {{term:optimizer}}, here AdamW, then moves each weight a small step
# against its slope. How small is the {{term:learning rate}}. To save memory we let only the last four of the model's 30
# layers learn.

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
# And here is the whole of training. Everything else in this course makes this loop faster, smaller or safer; nothing
# replaces it.

# %%
losses = []
for step in range(16):
    loss = loss_of(task.train[step % 4])      # the model reads an example
    loss.backward()                           # a gradient for each weight that learns
    optimizer.step()                          # a small move against it
    optimizer.zero_grad()                     # forget the gradient before the next example
    losses.append(loss.item())
charts.loss_curve(losses, "Sixteen steps on four examples: the loss falls")

# %% [markdown]
# One pass over all examples is an {{term:epoch}}; here there are four epochs over four examples. That the loss falls on
# examples the model has just seen proves only that the loop works. Whether it has learned the *task* or four lines by heart
# is a question for messages it has not seen, and we come back to it.

# %% [markdown]
# **Your turn.** Below is a loss function that somebody wrote in a hurry. It runs, it returns a number, and it is wrong in
# three ways. (The number it should return is the one you have just computed by hand.)

# %%
# EXERCISE: lora-6

# %% [markdown]
# ## 3 · The job: ten lines that you will copy
#
# At work nobody writes the loop. You describe the data, the adapter and the settings, and TRL's `SFTTrainer` does the rest:
# template, label mask, batches, loss, backward, step. (SFT stands for {{term:supervised fine-tuning|supervised fine-tuning}}: learning from
# examples of right answers.) What `LoraConfig` means is the subject of sections 4 and 5. First see it work.

# %%
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

to_rows = lambda chats: Dataset.from_list([{"prompt": c[:-1], "completion": c[-1:]} for c in chats])
settings = SFTConfig(
    output_dir="tickets", learning_rate=plan.learning_rate, num_train_epochs=1, warmup_steps=5,
    per_device_train_batch_size=plan.batch_size, use_cpu=device.kind == "cpu",
    bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
    logging_steps=5, eval_strategy="steps", eval_steps=0.5, save_strategy="no", report_to="none",
)
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

# %%
trainer = SFTTrainer(
    model, args=settings, peft_config=adapter, processing_class=tokenizer,
    train_dataset=to_rows(task.train[: plan.examples]),
    eval_dataset=to_rows(task.validation[:16]),
)
trainer.train()
tuned = trainer.model

# %% [markdown]
# Two words are new. A {{term:batch}} is the number of examples whose gradients are averaged before a step. The
# {{term:warm-up}} raises the learning rate from zero over the first steps, because the optimizer knows nothing yet about
# how large the slopes are. Gradient checkpointing trades time for memory; switch it on when your card is full.
#
# The course also has a loop of its own, `training.fit`. It takes the same examples and computes the same loss, and on a CPU
# it is two to three times faster (`benchmarks/records/`), so that later sections and lessons can train more in the time you
# have. At work, take `SFTTrainer`.
#
# Did it learn? Ask the same 100 test messages again.

# %%
guess = predict("Of 100 answers, how many are now a valid record?", unit="answers")
guess

# %%
answers_after = generate(tuned, tokenizer, task.prompts(), max_new_tokens=plan.answer_tokens, batch_size=25)
scores_after = task.evaluate(answers_after)
guess.reveal(100 * scores_after.valid.value)

# %%
messages = [chat[-1]["content"] for chat in task.prompts()[:2]]
show.answers(
    messages, {"before": answers_before[:2], "after": answers_after[:2]}, task.references()[:2],
)

# %% [markdown]
# The *format* is learned almost at once. The *content* of the fields takes longer. To see how good it is, compare with a
# program that always gives the most common value and needs no model at all.

# %%
show.table({
    "before training": {"valid record": scores_before.valid, **scores_before.exact},
    "after training": {"valid record": scores_after.valid, **scores_after.exact},
    "always the most common value": task.most_common(),
    "540 examples instead of 100, recorded": evidence.lesson_02.recorded_scores(),
}, caption="100 test messages; share right, with its 95 % interval", highlight="after training")

# %% [markdown]
# Read the intervals before you compare two numbers: with 100 test messages a score of 80 % could just as well be 71 or 87.
# The last row shows what more examples bring. How many are enough is a question for lesson 05.

# %% [markdown]
# ## 4 · Why not simply train every weight?
#
# It would work. In section 7 we do it and compare. The problem is memory. While a weight is trained, the computer keeps
# four things about it:
#
# | per trained weight | bytes |
# | --- | --- |
# | the weight itself, in 32 bits (the {{term:master weights}}) | 4 |
# | its gradient | 4 |
# | two running averages that Adam uses to choose the size of each step ({{term:optimizer state}}) | 8 |
# | **together** | **16** |
#
# A {{term:frozen}} weight needs only itself: 2 bytes in {{term:bfloat16}}, a 16-bit number format with the range of a 32-bit
# number and about three digits. So training a model with 7 billion weights takes 7 × 16 = 112 GB before the first example is
# read. Keeping it frozen takes 14 GB.

# %%
drawings.memory_parts()

# %% [markdown]
# LoRA freezes the model and trains something small beside it. QLoRA, the subject of lesson 03, also squeezes the frozen
# weights to 4 bits. The same arithmetic for other models, from their published shapes:

# %%
evidence.lesson_02.states_table()

# %% [markdown]
# Now you can judge figures that circulate. What you have just computed is a lower bound: {{term:activation|activations}}, the
# intermediate results that `backward()` needs, come on top.

# %%
evidence.card("L1")

# %%
evidence.card("L2")

# %% [markdown]
# Your own model and card: `course estimate Llama-3.1-8B --method lora --gpu t4` in a terminal, or the explorer of lesson 03.

# %% [markdown]
# ## 5 · LoRA: learn the difference, and make it thin
#
# A linear layer multiplies its input $x$ by a {{term:weight matrix}} $W_0$. Training would replace $W_0$ by $W_0 + \Delta W$.
# LoRA (Hu et al., 2021) leaves $W_0$ alone and writes the *difference* as a product of two thin matrices:
#
# $$h = W_0 x + \frac{\alpha}{r} B A x$$
#
# $A$ has only $r$ rows and $B$ only $r$ columns. The {{term:rank}} $r$ is small, 16 for instance. $A$ squeezes the input into $r$
# numbers, $B$ spreads them out again. {{term:alpha|$\alpha$}} sets how strongly the result counts.

# %%
drawings.lora()

# %% [markdown]
# An example to follow with a pencil: three inputs, two outputs, rank 1, $\alpha = 2$.

# %%
W0 = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
A = torch.tensor([[1.0, 2.0, 0.0]])                        # 1 × 3: three inputs become one number
B = torch.tensor([[0.5], [-1.0]])                          # 2 × 1: the number becomes two outputs
x, alpha, r = torch.tensor([1.0, 1.0, 1.0]), 2, 1
show.table({
    "frozen path, W₀x": {"first output": (W0 @ x)[0].item(), "second output": (W0 @ x)[1].item()},
    "A x, one number": {"first output": (A @ x)[0].item(), "second output": None},
    "adapter, (α/r)·B·(A x)": dict(zip(("first output", "second output"), (alpha / r * B @ (A @ x)).tolist())),
    "sum": dict(zip(("first output", "second output"), (W0 @ x + alpha / r * B @ (A @ x)).tolist())),
})

# %% [markdown]
# Check one line: $Ax = 1·1 + 2·1 + 0·1 = 3$. $B$ makes $(1.5, -3)$ of it, and $\alpha/r = 2$ doubles that to $(3, -6)$.
#
# **Your turn, before you see ours.** Write the forward pass for a whole batch.

# %%
# EXERCISE: lora-1

# %% [markdown]
# Here is a complete layer. $B$ starts at zero, so that the adapted model starts as an exact copy of the original and every
# change is learned.

# %% tags=["lora-from-scratch"]
class LoRALinear(torch.nn.Module):
    """A frozen linear layer with a trained update of rank r beside it."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        bound = base.in_features**-0.5
        self.A = torch.nn.Parameter(torch.empty(rank, base.in_features).uniform_(-bound, bound))
        self.B = torch.nn.Parameter(torch.zeros(base.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, x):
        return self.base(x) + self.scaling * (x @ self.A.T @ self.B.T)

    def merged(self):
        return self.base.weight + self.scaling * self.B @ self.A


# %% [markdown]
# To adapt a model, walk through it and put the new layer in place of the old one.

# %% tags=["lora-from-scratch"]
def inject(module, names, rank, alpha):
    """Replace the linear layers called `names`, at any depth."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name in names:
            setattr(module, name, LoRALinear(child, rank, alpha))
        else:
            inject(child, names, rank, alpha)


# %% [markdown]
# Is that all the PEFT library does? Take a block of the real model, adapt it once with our class and once with PEFT, give
# both the same $A$ and $B$ and the same input, and compare.

# %%
block = student.model.layers[0].mlp.cpu().requires_grad_(False)
differences = evidence.lesson_02.compare_with_peft(block, inject, rank=8, alpha=16)
show.table({name: {"largest difference": f"{gap:.0e}"} for name, gap in differences.items()}, of="ours against PEFT")

# %% [markdown]
# Equal up to the rounding of 32-bit numbers: outputs, gradients and merged weights. LoRA is no more than these fifteen
# lines; PEFT adds saving, loading, switching and a hundred special cases. From here on we use PEFT.

# %% [markdown]
# ## 6 · What is trained, what is stored
#
# $A$ has $r · d_{in}$ numbers and $B$ has $d_{out} · r$. Together that is $r · (d_{in} + d_{out})$ instead of
# $d_{in} · d_{out}$. For a 4096 × 4096 matrix and rank 16: 131,072 instead of 16,777,216, less than one in a hundred.

# %%
guess = predict("Rank 16 on all linear layers of Mistral-7B: how many million parameters are trained?", unit="million")
guess

# %%
counts = {name: memory.count_parameters(name, rank=16) for name in
          ("SmolLM2-135M", "Mistral-7B-v0.1", "Llama-3.1-8B", "Llama-2-70B")}
guess.reveal(counts["Mistral-7B-v0.1"].trainable / 1e6)

# %% tags=["nbval-check-output"]
show.table({
    name: {"trained": count.trainable, "in all": count.total, "share, %": round(count.percent, 2),
           "file in bfloat16, MB": round(2 * count.trainable / 1e6)} for name, count in counts.items()
}, caption="Rank 16 on all linear layers", of="model")

# %% [markdown]
# The larger the model, the smaller the share: a matrix grows with the product of its sides, an adapter only with their sum.
# No weights were loaded for this table. PyTorch's "meta" device builds models that have shapes and no numbers.

# %%
evidence.card("L3")

# %%
evidence.card("L4")

# %%
# EXERCISE: lora-2

# %% [markdown]
# ## 7 · Which knobs matter?
#
# Rank, alpha, target modules, learning rate: everybody has an opinion. We trained the same model on 120 examples
# with each setting changed alone, three times with three different samples, and took the loss on messages it had not seen.
# That took more than an hour, so what follows is recorded (`benchmarks/lora_sweep.py`), and at the end it is your turn.
#
# **Rank.** How many directions may the update have?

# %%
evidence.lesson_02.knob("rank")

# %% [markdown]
# Sixty-four times the parameters buy nothing here: the differences are smaller than those between seeds. A format and three
# short fields need little room. With more data and harder tasks the low ranks fall behind first (claim L8 says what is known).
#
# **Alpha.** It multiplies the update by $\alpha/r$. Adam makes steps of nearly fixed size whatever the slope, so a larger
# factor means that each step changes the output more.

# %%
evidence.lesson_02.knob("alpha")

# %% [markdown]
# At this rate and after only 30 steps, more alpha means faster learning; so does a higher rate. Leave alpha at a value such
# as 32 and tune the rate: two knobs that do nearly the same make a search twice as long.
#
# **Learning rate.** Full fine-tuning of large models uses about 0.00002. Where is the best rate for LoRA?

# %%
evidence.lesson_02.knob("learning rate")

# %% [markdown]
# A hundredfold difference in the rate is the difference between nothing learned and everything. At the rate of full
# fine-tuning, 0.00002, thirty steps of LoRA leave the loss where it was. At 0.005 the seeds begin to spread: one more step
# to the right and runs start to fail. For this small model 0.002 is good; models of 7 billion want about a tenth of that.
#
# **Target modules, variants, and the rival.** At *equal size*, is it better to adapt the attention or everything? And does
# LoRA reach what full fine-tuning reaches? The table also shows what is *forgotten*: the loss on everyday prose that has
# nothing to do with tickets, and the share of everyday questions ("Why is the sky blue?") that the model suddenly answers
# with a JSON record.

# %%
evidence.lesson_02.rivals()

# %% [markdown]
# Three things to take from the table. All layers and attention alone learn the task equally well at equal size, but
# attention alone disturbs the model more: its loss on prose is higher. The variants change little here. And the rival is
# strong: full fine-tuning of this small model learns as much as LoRA. Look at the last column too. Every run that learned the
# task well answers *every* everyday question with a record: it has learned "always answer with a record", because no training
# example ever asked for anything else. If your model must still chat, mix ordinary conversations into the training data.

# %%
evidence.lesson_02.forgetting()

# %% [markdown]
# Each line joins the learning rates of one method, from low to high. "LoRA learns less and forgets less" (Biderman et al., 2024)
# was measured on models of 7 billion parameters with long training. On this small model it does *not* show: at equal loss on
# the task, full fine-tuning has forgotten less prose than LoRA at its much higher rate. What you buy with LoRA is memory, and
# adapters that you can switch, not protection from forgetting.
#
# **Why is a thin update enough?** One can test it. Take the change $\Delta W$ that *full* fine-tuning made, keep only its $r$
# strongest directions in each matrix, and measure how much of the improvement is left. As a control, do the same with a
# model that had to memorise answers dealt out at random.

# %%
evidence.lesson_02.truncation_figure()

# %% [markdown]
# Sixteen directions per matrix keep practically the whole improvement. But look at the control before you call the task
# "simple": memorised random answers keep nearly as much. The reason is plain counting. Sixteen directions in each of 210
# matrices are five million numbers, more than enough for the few thousand tokens of these data sets. A thin update is enough
# because the *data* are small, not because the task has a special form.

# %%
evidence.card("L5")

# %%
evidence.card("L7")

# %%
evidence.card("L8")

# %% [markdown]
# **Now you.** Change the numbers in the next cell and run it again: ten steps from a fresh adapter, a few seconds each time.
# The model you trained above is not touched.

# %%
rank, alpha, learning_rate = 16, 32, 2e-3

trial = training.trial(
    tuned, tokenizer, task.train[:40], task.validation[:8], LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"),
    training.Settings(learning_rate=learning_rate, batch_size=4, max_steps=10, warmup_steps=2),
)
print(f"validation loss after 10 steps: {trial.validation_losses[-1]:.2f}")

# %%
# EXERCISE: lora-7

# %% [markdown]
# ## 8 · From your file to a model that answers
#
# The way of your own data: a JSONL file with one conversation per line, an adapter, and from there two roads. You can
# {{term:merge}} the adapter into the weights, or keep it apart.

# %%
drawings.merging()

# %% [markdown]
# First the file. This is what your own data should look like; lesson 05 is about getting there, and
# `course check-data tickets.jsonl` tells you what is wrong with a file.

# %%
import json
from pathlib import Path

file = Path("tickets.jsonl")
file.write_text("\n".join(json.dumps({"messages": chat}) for chat in task.train))
print(file.read_text().splitlines()[0])

# %% [markdown]
# `load_dataset("json", data_files="tickets.jsonl")` would give it to the trainer of section 3. Now save the adapter that you
# have trained, load it onto a fresh base, and merge.

# %%
from peft import PeftModel

tuned.save_pretrained("tickets-adapter")
fresh, _ = models.load()
merged = PeftModel.from_pretrained(fresh, "tickets-adapter").merge_and_unload()
merged.save_pretrained("tickets-merged")
tokenizer.save_pretrained("tickets-merged")
show.folder_sizes("tickets-adapter", "tickets-merged")

# %% [markdown]
# The adapter folder is what you keep, send and version. The merged folder is a model like any other; whatever loads models
# loads it:

# %%
from transformers import pipeline

ask = pipeline("text-generation", model="tickets-merged")
chat = task.prompts()[2]
print(ask(chat, max_new_tokens=plan.answer_tokens, do_sample=False)[0]["generated_text"][-1]["content"])

# %% [markdown]
# Other programs take the same folders. These commands are *not run here*, since they need a GPU, an installation or an
# account:
#
# ```bash
# vllm serve ./tickets-merged                                  # a server with OpenAI's interface
# vllm serve BASE --enable-lora --lora-modules tickets=./tickets-adapter      # one base, many adapters
# python llama.cpp/convert_hf_to_gguf.py tickets-merged        # one GGUF file, for Ollama and llama.cpp
# ollama create tickets -f Modelfile                           # Modelfile: FROM ./tickets-merged.gguf
# hf upload my-name/tickets-adapter tickets-adapter            # the hub
# ```
#
# **Merged or apart?** Merged, the two paths become one matrix again. Apart, each layer multiplies twice more.

# %%
latency = evidence.lesson_02.latency(
    {"base": models.load()[0], "merged": merged, "kept apart": tuned}, tokenizer,
)
again = generate(merged, tokenizer, task.prompts()[:8], max_new_tokens=plan.answer_tokens, batch_size=8)
same = float(np.mean([a == b for a, b in zip(again, answers_after)]))
evidence.card("L6", latency=latency, difference=evidence.lesson_02.merge_difference(tuned), same_answers=same)

# %% [markdown]
# What does keeping it apart buy? One base in memory, and as many behaviours as you like. Train a second adapter on the same
# base, which reviews code in a house style.

# %%
review = load_task("code_review")
tuned.add_adapter("review", adapter)
tuned.set_adapter("review")
short = sorted(review.train, key=lambda chat: len(chat[1]["content"]))[:40]
training.fit(tuned, tokenizer, short, settings=training.Settings(learning_rate=plan.learning_rate, batch_size=4, epochs=2))

# %%
code, ticket = review.prompts()[1], task.prompts()[0]
replies = {}
for name in ("default", "review"):
    tuned.set_adapter(name)                                # nothing is loaded: milliseconds
    replies[f"adapter “{name}”"] = generate(tuned, tokenizer, [ticket, code], max_new_tokens=60)
show.answers([ticket[-1]["content"], code[-1]["content"]], replies)

# %% [markdown]
# Same base, same memory, two behaviours. `set_adapter` changes which thin matrices are used.
#
# **Your turn: the merged weight.**

# %%
# EXERCISE: lora-3

# %% [markdown]
# ## 9 · Common mistakes, failing as they fail in real life
#
# **The learning rate of full fine-tuning.** You saw it in section 7: at 0.00002 the loss hardly moves. Nothing complains.
#
# **A target module that does not exist.** PEFT refuses if *no* name matches. If one of several is misspelt, it says nothing
# and trains less.

# %%
from peft import get_peft_model

typo = get_peft_model(fresh.__class__(fresh.config.__class__(num_hidden_layers=2)), LoraConfig(target_modules=["q_proj", "vproj"]))
typo.print_trainable_parameters()
print({name.split(".")[-3] for name, p in typo.named_parameters() if p.requires_grad})

# %% [markdown]
# Half of what you meant. `print_trainable_parameters()` and a look at the names is the cure.
#
# **Merging twice.** A merged folder is a base like any other, so nothing stops you from putting the same adapter on it again.

# %%
twice = PeftModel.from_pretrained(merged, "tickets-adapter").merge_and_unload()
scores_twice = task.evaluate(
    generate(twice, tokenizer, task.prompts(), max_new_tokens=plan.answer_tokens, batch_size=25)
)
show.table({
    "merged once": {"valid record": scores_after.valid, **scores_after.exact},
    "merged twice": {"valid record": scores_twice.valid, **scores_twice.exact},
}, caption="100 test messages")

# %% [markdown]
# Nothing complained. The adapter's change was added a second time, and the model is not the one that you tested. Keep the
# merged folder and the base apart, by name.
#
# **Both matrices at zero.** It looks like a clean start and is a dead end: the gradient of each is a product with the other.

# %%
dead = LoRALinear(torch.nn.Linear(8, 8), rank=2, alpha=4)
dead.A.data.zero_()
dead(torch.randn(4, 8)).square().mean().backward()
print("largest gradient of A:", dead.A.grad.abs().max().item(), "| of B:", dead.B.grad.abs().max().item())

# %% [markdown]
# **The curve ignored.** Eight examples, again and again. The training loss falls as long as you like. What happens to
# messages the model has not seen?

# %%
eight = sorted(task.train, key=lambda chat: len(chat[1]["content"]))[:8]
overfit = training.trial(
    tuned, tokenizer, eight, task.validation[:8], adapter,
    training.Settings(learning_rate=plan.learning_rate, batch_size=4, epochs=12, evaluate_every=3, schedule="constant"),
)
overfit.plot("Eight examples, again and again")

# %% [markdown]
# The training loss goes to zero, the validation loss turns up. That is {{term:overfitting}}: the model stores the examples
# instead of the rule. The cure is free. Always pass validation data, and stop at the lowest point
# (`early_stopping=2` in `training.Settings`, `EarlyStoppingCallback` with `SFTTrainer`).

# %% [markdown]
# ## 10 · What you can do now
#
# | you want to | do |
# | --- | --- |
# | start | rank 16, alpha 32, all linear layers, learning rate 2e-4 for a 7B model, up to 2e-3 for a very small one |
# | know whether it learned | validation loss while training, test scores with intervals once, and a baseline |
# | use less memory | gradient checkpointing, smaller batch, then QLoRA (lesson 03) |
# | serve one behaviour | merge |
# | serve many | one base, adapters apart |
# | find out what went wrong | count trainable parameters, read the first loss, read ten answers |
#
# **The claims of this lesson.**

# %%
evidence.summary()

# %% [markdown]
# **Quiz.** Each choice opens to say why it is right or wrong.

# %%
quiz("02")

# %% [markdown]
# **Exercises to finish.** The first two are short. The last needs several things from this lesson, on data of your own.

# %%
# EXERCISE: lora-4

# %%
# EXERCISE: lora-5

# %%
# EXERCISE: lora-8

# %% [markdown]
# {{words}}
#
# ## Read on
#
# - Hu et al. (2021), *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685: sections 4 and 7 are readable now.
# - Schulman et al. (2025), *LoRA Without Regret*: large sweeps of the knobs of section 7.
# - Biderman et al. (2024), *LoRA Learns Less and Forgets Less*, arXiv 2405.09673: where thin updates stop being enough.
#
# Next, lesson 03 squeezes the frozen base into 4 bits.
