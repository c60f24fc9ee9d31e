# %% [markdown]
# # 03 · QLoRA: train a model that would not fit
#
# {{badges}}
#
# You have a model with 8 billion {{term:parameter|parameters}} and a graphics card with 12 GB. In 16-bit
# numbers the model alone takes 16 GB, so the run ends with *CUDA out of memory* before the first example. But
# {{term:LoRA}} never changes the model's {{term:weight|weights}}; it only reads them. Do numbers that are
# only read need 16 bits? {{term:QLoRA}} stores each in 4, and the same run fits.

# %%
# INSTALL: qlora,trl

# %%
from course_utils import charts, evidence, hardware, memory, models, plans
from course_utils import quantization, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import warnings

import torch

lesson = evidence.lesson_03
lesson.does_it_fit()

# %% [markdown]
# Only QLoRA stays below the dashed lines, the memory of two common cards. The bars are computed from the
# model's published shape, for one example of 1,024 tokens (section 8).
#
# By the end you will be able to
#
# - load a model in 4 bits, train an {{term:adapter}} on it with the usual libraries, and use the result,
# - explain {{term:NF4}} and {{term:double quantization}}, and compute by hand how many bits a weight takes,
# - say before a run how much memory it needs, and what to change if that is too much,
# - judge from measurements what four bits cost in quality and in time,
# - deploy the result without losing what was learned.
#
# You should know lesson 02: LoRA trains two thin matrices beside each large one, which stays {{term:frozen}}. Reading takes
# about 60 minutes, and the exercises about as long again.
#
# {{timing}} The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All empties every
# output before it fills it again, and `course restore 03` in a terminal brings the recorded page back.

# %% [markdown]
# ## 1 · A base that is only read
#
# Think of a library that has to fit into an e-reader. Nobody will write in the books, so you may compress
# them, as long as the page you are reading can be restored quickly. Your own notes go into the margin,
# uncompressed.
#
# QLoRA (Dettmers et al., 2023) does this with a model. The books are the weights of the base, stored in 4
# bits each. (Rounding numbers to a few possible values is called {{term:quantization}}.) When a
# {{term:linear layer}} needs its {{term:weight matrix}}, it turns that one matrix back into 16-bit numbers,
# multiplies, and drops the copy. The notes are the adapter, whose numbers keep 16 or 32 bits.

# %%
show.drawing("four-bit-layer")

# %% [markdown]
# Look at the dashed box: the 16-bit copy of a matrix exists only for one product. Three things follow:
#
# - The stored matrix shrinks to about a quarter (sections 3 and 4).
# - What a layer computes is slightly off, because a rounded weight is not the original (sections 6 and 7).
# - Each product may take more time, because a matrix is restored first (section 7).
#
# We use the support desk of lesson 02: a customer's message comes in, and one line of JSON goes out. On a CPU
# we train a small model on a few short messages, to save time. Section 2 works the same on a large one. Sections
# 3, 6, 7 and 9 also load the model in 16 bits, to compare, and need the room for that.

# %%
device = hardware.detect()
plan = plans.plan("03")             # numbers of examples and settings that suit this machine
task = load_task("support_tickets", list(plan.fields))
examples = [chat for chat in task.train if len(chat[1]["content"]) <= plan.longest]
examples = examples[: plan.examples]
print(f"{device.name}: tier {device.tier}, computes in {device.dtype}; {len(examples)} examples")
show.table({message["role"]: {"text": message["content"]} for message in examples[0]},
           caption="The first example", of="role")

# %% [markdown]
# ## 2 · The job: lines that you will copy
#
# How do you train on a 4-bit base at work? With the libraries of lesson 02 and a few more lines. We go
# through these lines one by one, on our small model; the end of the section has the whole program for your
# own card. The first lines say how the base is stored.

# %%
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

four_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",                       # which sixteen values: section 3
    bnb_4bit_use_double_quant=True,                  # scales are quantized too: section 4
    bnb_4bit_compute_dtype=device.torch_dtype(),     # the format of the products: section 5
)

# %% [markdown]
# The last argument is the {{term:compute dtype}}. Use {{term:bfloat16}} on Ampere cards (RTX 30, A100) and
# later ones, and {{term:float16}} on a T4. (PyTorch claims that a T4 supports bfloat16, but it is only
# imitated there, slowly.) `device.torch_dtype()` picks the right format for your machine; on many CPUs that
# is {{term:float32}}.

# %%
source = models.fetch()                                   # a folder, or a name on the hub
base = AutoModelForCausalLM.from_pretrained(
    source, quantization_config=four_bits, dtype=device.torch_dtype(),
    device_map={"": device.kind},
)
quantization.guard(base)                                  # needed on CPUs only: see the box
tokenizer = AutoTokenizer.from_pretrained(source)
checkpointing = device.kind == "cuda"
base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=checkpointing)

# %% [markdown]
# `prepare_model_for_kbit_training` does up to four things: it
#
# - freezes the base,
# - turns everything that is *not* in 4 bits (the {{term:embedding}}, the output layer, and the norms, which
#   are small layers that rescale) into float32,
# - and, unless you say otherwise, switches on {{term:gradient checkpointing}}, which throws intermediate results away
#   and computes them again later. That saves memory and costs up to half as much time again, so on a CPU we leave it off.
# - With checkpointing it also makes sure that {{term:gradient|gradients}} reach the first adapter.
#
# <details><summary><b>Only if you train in 4 bits on a CPU: a trap</b></summary>
#
# On some CPUs (those with AVX512-BF16) bitsandbytes 0.50 repacks a 4-bit layer in place the first time it is
# used for answering, as in an evaluation during training. A repacked layer no longer passes gradients. No
# error appears and the {{term:loss}} falls, but every adapter except the last ones gets a wrong gradient.
# `quantization.guard(model)`, called right after loading, switches the repacking off. GPUs do not have this
# problem.
#
# Remember: *a falling loss is no proof that everything trains.* If in doubt, compare the gradients of one
# {{term:step}} with those of a 16-bit base.
#
# </details>
#
# Next come the adapter and the trainer, which you know from lesson 02.

# %%
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
settings = SFTConfig(
    output_dir="tickets", learning_rate=plan.learning_rate, num_train_epochs=1, warmup_steps=3,
    per_device_train_batch_size=plan.batch_size, per_device_eval_batch_size=plan.batch_size,
    use_cpu=device.kind == "cpu",
    bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
    gradient_checkpointing=checkpointing, logging_steps=4, eval_strategy="epoch",
    save_strategy="no", report_to="none",
)


def to_rows(chats):
    return Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])


# %% [markdown]
# Before training, we keep two answers of the 4-bit base for comparison.

# %%
prompts, wanted = task.prompts("validation")[:12], task.references("validation")[:12]
untrained = generate(base, tokenizer, prompts[:2], max_new_tokens=plan.answer_tokens)

# %%
trainer = SFTTrainer(
    base, args=settings, peft_config=adapter, processing_class=tokenizer,
    train_dataset=to_rows(examples), eval_dataset=to_rows(task.validation[:12]),
)
for weight in trainer.model.parameters():
    if weight.requires_grad:
        weight.data = weight.data.float()      # TRL makes adapters of a 4-bit base bfloat16

with memory.track("recipe") as used:
    trainer.train()

# %% [markdown]
# Why the loop over the parameters? TRL stores the adapter of a 4-bit base in bfloat16, which has only two or
# three correct digits, so that small steps toward the end of a run get lost (section 10). On a T4, with
# `fp16=True`, training even stops with an error, because the loss scaling of float16 cannot handle bfloat16
# gradients. The loop gives the adapter 32 bits. An adapter is small, so they cost almost nothing.
#
# Did the model learn? Try it on twelve messages that it has not seen.

# %%
guess = predict("How many of 12 answers are now a valid record?", unit="answers")
guess

# %%
tuned = trainer.model
answers = generate(tuned, tokenizer, prompts, max_new_tokens=plan.answer_tokens)
valid = task.evaluate(answers, "validation").valid
guess.reveal(round(12 * valid.value))

# %%
show.answers([chat[-1]["content"] for chat in prompts[:2]],
             {"4-bit base, untrained": untrained, "QLoRA": answers[:2]}, wanted[:2])

# %% [markdown]
# Look at the field marks: a program can read a *valid* record, but its fields may still be wrong. The form
# comes first, as in lesson 02: a few dozen short examples are enough for most of it. Right fields need more
# examples, and longer ones, since these messages, unlike the training examples, were not picked by length.
# And twelve answers are far too few to compare anything (section 7 measures properly).
#
# Save the adapter. It is an ordinary LoRA adapter, and nothing in its file says that the base had 4 bits.

# %%
tuned.save_pretrained("tickets-qlora")
logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
recipe = {"loss": logged[-1], "seconds": used.seconds}
show.folder_sizes("tickets-qlora")

# %% [markdown]
# **The whole program for your own card.** All it needs is `pip install trl peft bitsandbytes`. Each line of
# `train.jsonl` is a row as above:
# `{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}`.
# It is not run here, because the model needs a GPU, and a login on the {{term:hub}} with its licence accepted there.
#
# ```python
# import torch
# from datasets import load_dataset
# from peft import LoraConfig, prepare_model_for_kbit_training
# from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
# from trl import SFTConfig, SFTTrainer
#
# name = "meta-llama/Llama-3.1-8B-Instruct"
# ampere = torch.cuda.get_device_capability()[0] >= 8                         # a T4 is older
# compute = torch.bfloat16 if ampere else torch.float16
# base = AutoModelForCausalLM.from_pretrained(
#     name, dtype=compute, device_map={"": 0},
#     quantization_config=BitsAndBytesConfig(
#         load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
#         bnb_4bit_compute_dtype=compute))
# base = prepare_model_for_kbit_training(base)                                # with checkpointing
# data = load_dataset("json", data_files="train.jsonl", split="train").train_test_split(0.1, seed=0)
# trainer = SFTTrainer(
#     base, processing_class=AutoTokenizer.from_pretrained(name),
#     train_dataset=data["train"], eval_dataset=data["test"],
#     peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
#     args=SFTConfig(
#         output_dir="run", num_train_epochs=2, learning_rate=2e-4, warmup_steps=10,
#         per_device_train_batch_size=1, per_device_eval_batch_size=1,
#         gradient_accumulation_steps=8,                                       # section 8
#         max_length=1024,               # longer rows are cut at the end: the answer!
#         optim="paged_adamw_8bit", bf16=ampere, fp16=not ampere,
#         eval_strategy="epoch", logging_steps=10, save_strategy="epoch"))
# for weight in trainer.model.parameters():
#     if weight.requires_grad:
#         weight.data = weight.data.float()
# trainer.train()
# trainer.save_model("my-adapter")
# ```
#
# To use the adapter, in a program of its own:
#
# ```python
# import torch
# from peft import AutoPeftModelForCausalLM
# from transformers import AutoTokenizer, BitsAndBytesConfig
#
# compute = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
# four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
#                                bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)
# model = AutoPeftModelForCausalLM.from_pretrained("my-adapter", quantization_config=four_bits,
#                                                  dtype=compute, device_map={"": 0})
# tokenizer = AutoTokenizer.from_pretrained("my-adapter")
# prompt = tokenizer.apply_chat_template([{"role": "user", "content": "..."}], return_dict=True,
#                                        add_generation_prompt=True, return_tensors="pt").to(model.device)
# answer = model.generate(**prompt, max_new_tokens=200, do_sample=False)
# print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
# ```
#
# That is the job. What do the lines about 4 bits actually do?

# %% [markdown]
# ## 3 · Sixteen values for a weight
#
# Four bits can tell sixteen things apart, so a weight can take only one of sixteen values. Which sixteen?
# That depends on what has to be stored. Here are the weights of one layer of our model, each divided by the
# largest among 64 neighbours.

# %%
dense, _ = models.load()
matrix = dense.model.layers[10].mlp.down_proj.weight.detach().float().cpu()
blocks = matrix.reshape(-1, 64)
nf4 = lesson.nf4_table()
charts.histogram(
    {"weights": (blocks / blocks.abs().amax(1, keepdim=True))[:20_000].flatten().tolist()},
    "Many small weights, few large ones: NF4 has its values where they are",
    "weight, divided by the largest among 64 neighbours",
    ticks={"NF4": nf4.tolist(), "even": [i / 7 for i in range(-7, 8)]},
    bins=81,
)

# %% [markdown]
# Compare where the weights are with where the values are. Evenly spaced values (fifteen, so that zero is
# among them) are as dense at the edges, where few weights are, as in the middle. NF4, *4-bit NormalFloat*,
# crowds its values where the weights are. (The spikes at both ends are the largest weights of each 64, which
# the division turns into 1 or −1.)
#
# NF4 assumes that weights follow a bell curve, the normal distribution, and takes the places that cut this
# curve into slices of about equal probability, its quantiles. Two details: zero itself must be among the
# values, and the outermost are scaled to −1 and 1.

# %% tags=["nf4-from-scratch"]
def nf4_values():
    """Seven quantiles below zero, zero, and eight above, scaled so that the largest is 1."""
    end = 1 - (1 / 30 + 1 / 32) / 2          # mean of half a 15th, half a 16th: as bitsandbytes
    quantile = torch.special.ndtri           # of the normal distribution
    above = quantile(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    below = -quantile(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return (values / values.max()).float()


# %% [markdown]
# **By hand, on eight weights.** The largest in absolute value is 1.20, so that is the *scale* of this block.
# Divide each weight by it, take the nearest of the sixteen values, and write down the number of that value,
# the *code*. To get a weight back, look up its code and multiply the value by the scale.

# %%
eight = torch.tensor([0.30, -1.20, 0.09, 0.58, -0.21, 0.86, -0.52, 0.00])
lesson.by_hand(eight, nf4_values())

# %% [markdown]
# Follow the first row: 0.30 / 1.20 = 0.25; the nearest value is 0.246, which has the number 10; and
# 0.246 · 1.20 = 0.295. The weight −1.20 comes back exactly, because it is the scale itself, and so does zero.
# The gaps between NF4's values widen outward, so small weights can be off only by little, large ones by more.
#
# The layer computes with these restored numbers, and nearly all of them are a little wrong. Does the model
# survive that? A table of weights cannot tell; sections 6 and 7 measure it.
#
# **Your turn, before you see ours.** Write a function that quantizes one block.

# %%
# EXERCISE: qlora-1

# %% [markdown]
# Here is our function, for a whole matrix with 64 weights to a block. `[:, None]` makes a column of the
# scales, so that each multiplies its own row; `bucketize` finds the nearest value by asking between which two
# halfway points a weight lies. With it we compare NF4 with two other sets of values, FP4 and INT4.

# %% tags=["nf4-from-scratch"]
def quantize(weight, values, block=64):
    """Codes, one per weight, and one float32 scale per block."""
    blocks = weight.float().reshape(-1, block)
    scales = blocks.abs().amax(dim=1)
    scaled = blocks * (1 / scales.clamp(min=1e-38))[:, None]
    halfway = (values[1:] + values[:-1]) / 2
    return torch.bucketize(scaled, halfway).to(torch.uint8), scales


def dequantize(codes, scales, values):
    """The weights that codes and scales stand for, one row per block."""
    return values[codes.long()] * scales[:, None]


# %%
lesson.code_book_errors(matrix, quantize, dequantize)

# %% [markdown]
# NF4 has the smallest error, on this matrix as on perfectly normal weights.

# %% [markdown]
# ## 4 · Scales, and scales of scales
#
# Why 64 weights to a block, and not one scale for the whole matrix? Because of outliers. If one weight is ten
# times larger than the others, a common scale would push all others into the two or three values around zero.
# With blocks, the outlier spoils only its 63 neighbours.
#
# But each block needs a scale. A float32 scale has 32 bits, half a bit for each of its 64 weights: an eighth
# of what the codes take.
#
# Double quantization reduces this by treating the scales as it treats the weights. Their mean is subtracted,
# every 256 scales share one float32 scale of their own, and each becomes one of 256 values, a code of 8 bits.

# %% [markdown]
# **Your turn:** how many bits does a weight take then, for any size of block and of group (the scales that share one)?

# %%
# EXERCISE: qlora-2

# %%
show.drawing("four-bit-storage")

# %%
guess = predict("A matrix has 4096 × 4096 weights. How many MB does it take in NF4?", unit="MB")
guess

# %%
bits = 4 + 8 / 64 + 32 / (64 * 256)
guess.reveal(4096 * 4096 * bits / 8 / 1e6, "MB; in bfloat16 it takes 33.6 MB", source="computed")

# %% [markdown]
# You may skip the next two cells: they choose the 256 values (finer near zero, over seven powers of ten), give the
# scales their codes, and pack two 4-bit codes into a byte. By hand: the codes 10 and 0 become 10 · 16 + 0 = 160, in
# Python `10 << 4 | 0`. Back: `160 >> 4` is 10, and `160 & 15` is 0.

# %% tags=["nf4-from-scratch", "folded"]
def eight_bit_values():
    """Zero, one, and seven decades on both sides, each with twice as many values as the last."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)
        values += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(values))


# %% tags=["nf4-from-scratch", "folded"]
def quantize_scales(scales, table=None):
    """8-bit codes of the scales, the scales of these, and the mean that was subtracted."""
    values, mean = eight_bit_values(), scales.mean()
    padded = torch.nn.functional.pad(scales - mean, (0, -len(scales) % 256)).reshape(-1, 256)
    second = padded.abs().amax(dim=1)
    scaled = padded / second.clamp(min=1e-38)[:, None]
    if table:                                # bitsandbytes rounds to `table` steps first
        scaled = ((scaled + 1) * 0.5 * table + 0.5).floor() / table * 2 - 1
    halfway = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(scaled, halfway).to(torch.uint8)
    return codes.flatten()[: len(scales)], second, mean


def pack(codes):
    """Two 4-bit codes in each byte, the first in the upper half."""
    flat = codes.flatten()
    return flat[::2] << 4 | flat[1::2]


# %% [markdown]
# Does bitsandbytes store the same bytes? We quantize some real layers and a quarter of a million random
# weights with its code and with ours, and count the bytes that differ.

# %%
guess = predict("How many bytes differ from bitsandbytes?", choices=("none", "some"))
guess

# %%
weights = {
    "attention, q_proj": dense.model.layers[3].self_attn.q_proj.weight,
    "feed-forward, up_proj": dense.model.layers[3].mlp.up_proj.weight,
    "this matrix": matrix,
    "random": torch.randn(512, 512, generator=torch.Generator().manual_seed(0)),
}
compared = lesson.compare_with_bitsandbytes(quantize, pack, weights, quantize_scales)
counts = [row[f"{what} that differ"] for row in compared.rows.values()
          for what in ("bytes of codes", "8-bit scales")]
guess.reveal("some" if any(counts) else "none")

# %%
compared

# %% [markdown]
# Codes and scales are the same bytes on this CPU: these forty lines are all there is to storing NF4.
#
# Last, we count the bits that our model takes per weight, and judge a claim.

# %%
print(f"{lesson.stored_bits(base):.3f} bits per weight in the linear layers of our model")

# %%
evidence.card("Q1")

# %% [markdown]
# Remember this when you plan: the embedding is not quantized, so the smaller the model and the larger its
# {{term:vocabulary}}, the less you gain.
#
# **Your turn:** the way back, from bytes to weights.

# %%
# EXERCISE: qlora-3

# %% [markdown]
# ## 5 · A 4-bit layer that passes gradients
#
# Four-bit codes cannot be trained: a code is 10 or 11, and there is nothing in between to move to. So how can a gradient get
# through such a layer at all?
#
# It can because nobody needs the gradient of the codes. In the {{term:forward pass}} the layer computes
# $\tilde{W} x$ with the restored matrix $\tilde W$, plus what the adapter adds:
#
# $$h = \tilde{W} x + \frac{\alpha}{r} B A x$$
#
# For the layers before this one, $\tilde{W}$ is a fixed table of numbers. Take the eight restored weights of
# section 3 as its only row, and suppose that the gradient at the output is 2: when the output rises by a tiny
# step, the loss rises by two such steps. The first input is multiplied by 0.295, so its gradient is
# 2 · 0.295 = 0.59; the second by −1.20, so its gradient is 2 · (−1.20) = −2.40.
#
# In general the gradient at the input is $\tilde{W}^\top g$, where $g$ is the gradient at the output (and the
# adapter adds $\frac{\alpha}{r} A^\top B^\top g$). No gradient of the weights is needed. $A$ and $B$ get
# their gradients as in lesson 02.
#
# One thing has to be prevented. PyTorch ordinarily keeps what a product needs on the way back. Here that
# would be the restored matrix of every layer: all the saved memory would be gone. So we write this product
# ourselves, with a {{term:backward pass}} that restores the matrix a second time. PyTorch's
# `autograd.Function` is a pair of functions, one for each direction; `ctx` carries things from the first to
# the second.

# %% tags=["qlora-from-scratch"]
class FourBitProduct(torch.autograd.Function):
    """x @ W.T, for a W that is restored when it is needed and not kept."""

    @staticmethod
    def forward(ctx, x, restore):
        ctx.restore = restore
        return x @ restore().T

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.restore(), None       # for x; nobody needs one for the weights


# %% [markdown]
# The layer stores bytes and scales, and has the trained matrices beside them.

# %% tags=["qlora-from-scratch"]
class FourBitLoRA(torch.nn.Module):
    """A weight kept in 4 bits, and a trained update of rank r beside it."""

    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.shape, self.scaling = weight.shape, alpha / rank
        codes, scales = quantize(weight, nf4)
        self.packed, self.scales = torch.nn.Buffer(pack(codes)), torch.nn.Buffer(scales)
        bound = weight.shape[1] ** -0.5
        self.A = torch.nn.Parameter(torch.empty(rank, weight.shape[1]).uniform_(-bound, bound))
        self.B = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))

    def restore(self):
        codes = torch.stack([self.packed >> 4, self.packed & 15], dim=1).reshape(-1, 64)
        return dequantize(codes, self.scales, nf4).reshape(self.shape)

    def forward(self, x):
        return FourBitProduct.apply(x, self.restore) + self.scaling * (x @ self.A.T @ self.B.T)


# %% [markdown]
# Compare our layer with the real thing, a `Linear4bit` of bitsandbytes with PEFT's adapter. Both get the same
# $A$, $B$ and input, and both are without double quantization.

# %%
lesson.compare_with_peft(FourBitLoRA, matrix)

# %% [markdown]
# Look at the last row: our layer hands down the same gradient as the library's, although a block of its
# weights has only sixteen values. All rows are equal up to the rounding of 32-bit numbers.
#
# In bitsandbytes too the copy $\tilde W$ lives for one product, so the extra memory is that of the largest
# single matrix, not of the model. The copy has the compute dtype; by default `bnb_4bit_compute_dtype` is
# float32, which is slow on a GPU.
#
# **Your turn.** Somebody wrote a function that measures the error of 4 bits. It has three bugs.

# %%
# EXERCISE: qlora-4

# %% [markdown]
# ## 6 · What do four bits cost before any training?
#
# Quantize a model and use it as it is, perhaps just to *run* it on a small card: how much worse does it
# predict text? We load the same model in four formats, among them an 8-bit one (`load_in_8bit=True`), and let
# each predict a few passages of everyday prose. Our packaged copy had once been stored in another 4-bit format
# (Q4_1), so its "16 bits" are not quite the original's, and what you see below is the cost of rounding *again*.

# %%
del base, tuned, trainer                               # sections 2 to 5 are done: make room
memory.release()
formats = lesson.formats()
lesson.formats_table(formats)

# %% [markdown]
# Look at the extra loss against 16 bits. Loss per token is in {{term:nat|nats}} (the unit of the natural
# logarithm); lower means that the model finds real text less surprising. In brackets are
# {{term:confidence interval|95 % intervals}}, the range in which the true difference probably lies.
#
# The 8-bit interval is narrow and includes zero: no loss that matters. Four bits have a measurable cost. Do
# not carry this cost over to your model: rounding hurts small models like ours more than large ones.
#
# And the speed? Generating text means reading all weights for each token. Smaller weights can even be faster
# if the program has a fast routine for them, and are slower if it restores each matrix first. That is why
# servers such as {{term:vLLM}} prefer formats made for serving (section 9).

# %% [markdown]
# ## 7 · Does it learn as well, and how much slower is it?
#
# Training can repair part of the damage, because the adapter learns *on top of* the rounded base. So what
# counts is how good the model is after training. We train two fresh adapters on the same examples in the same
# order, one on a 16-bit base and one on a 4-bit base, with the course's own loop, `training.fit`.

# %%
same = training.Settings(
    learning_rate=plan.learning_rate, batch_size=plan.batch_size, warmup_steps=3, seed=0
)
four_bit, _ = models.load(quantization="nf4")
held_out = task.validation[:24]
before = lesson.answer_losses(dense, tokenizer, held_out)
adapted, runs = {}, {}
for name, frozen in {"LoRA": dense, "QLoRA": four_bit}.items():
    torch.manual_seed(0)                               # the same adapter to begin with
    adapted[name] = get_peft_model(frozen, adapter)
    runs[name] = training.fit(adapted[name], tokenizer, examples, held_out[:12], settings=same)
lesson.runs_table(recipe, runs)

# %% [markdown]
# Compare the last two rows. They share the order of the examples and the random start of the adapter, and
# differ only in the base.
#
# The first row is the recipe of section 2, on the same examples. Order, random start and perhaps more differ
# there. Another {{term:seed}} alone moves a loss (card Q5 says how far), so never compare two methods by two
# single runs with different seeds. The recipe's seconds include its validation, those of `fit` do not. On a
# CPU `fit` is faster; at work, use the recipe.
#
# Which measure can tell LoRA from QLoRA? Not the share of right fields: `escalation` is "none" for seven
# messages in ten, so a model that always says "none" is right 70 % of the time. The loss on the right answer
# uses every token of every message. So we compare this loss message by message, in pairs, on 24 messages.

# %%
losses = {name: lesson.answer_losses(model, tokenizer, held_out)
          for name, model in adapted.items()}
lesson.paired_losses({"before training": before} | losses)

# %% [markdown]
# Look at the interval first, then at how much of LoRA's gain QLoRA reached. A difference this small says
# little: with the table's twelve messages even its sign may flip. We ran it with three seeds, too:

# %%
evidence.card("Q5")

# %% [markdown]
#
# The 4-bit base starts further behind (section 6), and its adapter has to make up for that too. How much
# damage is left at the end depends on the model's size, the data and the number of steps. So only your own
# {{term:validation set}} can say what four bits cost *you*, measured by this paired loss. If LoRA on 16 bits does not fit
# on your card, rent a larger one for this single run, or compare on a smaller model of the same family, which is an
# indication and no proof.
#
# <details><summary><b>The paired loss for your own project, without this course</b></summary>
#
# ```python
# import numpy as np
# import torch
#
# def loss_of_answers(model, tokenizer, rows):
#     """Mean loss over the tokens of each right answer; rows as in section 2."""
#     losses, template = [], tokenizer.apply_chat_template
#     model.eval()
#     for row in rows:
#         prompt = template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
#         whole = template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
#         ids = torch.tensor([whole], device=model.device)
#         labels = ids.clone()
#         labels[:, : len(prompt)] = -100                      # the loss is taken on the answer alone
#         with torch.no_grad():
#             losses.append(model(input_ids=ids, labels=labels).loss.item())
#     return np.array(losses)
#
# # Both trained on the same rows; the same held-out rows for both.
# difference = loss_of_answers(qlora, tokenizer, held_out) - loss_of_answers(lora, tokenizer, held_out)
# half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
# print(f"4 bits cost {difference.mean():+.3f}, 95 % interval {difference.mean() - half:+.3f} to {difference.mean() + half:+.3f}")
# ```
#
# </details>
#
# **Time.** Each matrix is restored once in the forward pass and once on the way back (and once more with
# checkpointing), however many tokens go through it. We time both passes of the libraries' own layers,
# alternating LoRA and QLoRA. (`fit` replaces some of these layers by faster ones, so its seconds above are no
# measure of the libraries.)

# %%
guess = predict("How much longer does a QLoRA step of four examples take here?", unit="%")
guess

# %%
pace = lesson.pace(adapted, tokenizer, examples)
*_, four_examples = pace.values()
guess.reveal(round(100 * (four_examples.value - 1)), "% longer")

# %%
lesson.pace_table(pace)

# %%
evidence.card("Q2")

# %% [markdown]
# Others' measurements differ by far more than the claim's ten points. So do not plan with "20 to 30 %": time
# ten steps of each on your own card.
#
# **Use LoRA if a training step fits with the base in 16 bits, and QLoRA if it does not.** QLoRA saves memory
# for weights, but no time, and its {{term:activation|activations}} are as large as LoRA's.

# %% [markdown]
# ## 8 · Out of memory: what now?
#
# *torch.OutOfMemoryError: CUDA out of memory.* What fills the card? Four things:
#
# 1. the weights;
# 2. what is trained, with its gradients and {{term:optimizer state|optimizer states}}: up to 16 bytes for each trained number (4 each for the number, its
#    gradient, and two states);
# 3. the activations, which the {{term:backward pass}} needs, and which grow with the number of tokens in a step;
# 4. the {{term:logits}}, one score for each token of the vocabulary at each position.
#
# By hand, the logits of Llama-3.1-8B for one example of 1,024 tokens: the vocabulary has 128,256 tokens, so
# they are 1,024 · 128,256 numbers of 4 bytes, 0.53 GB. The usual loop keeps three such tables at the worst
# moment (the scores, their probabilities and the gradient): 1.6 GB. For a {{term:batch}} of eight that is
# 12.6 GB, most of a 16 GB card for scores alone.
#
# `memory.estimate` adds all of this up from a model's published shape. It needs neither the weights nor a
# GPU, so you can use it before you rent one.

# %%
print(memory.estimate("Llama-3.1-8B", "qlora", batch_size=1, length=1024, checkpointing=True))

# %% [markdown]
# Memory peaks when the logits are computed. In a step of one example there are no gradients yet at that
# moment, so a trained number takes 12 bytes. With accumulation, gradients of earlier examples are there too,
# and it takes 16.
#
# Now suppose that you started with LoRA, eight examples of 1,024 tokens at once and no checkpointing, and the
# run did not fit.

# %%
which = predict("LoRA on an 8B model, batch of 8: which of these alone saves the most memory?",
                choices=("one example at a time", "4-bit base", "8-bit optimizer"))
which

# %%
model_name, card = "Llama-3.1-8B", "t4"
batch_size, length = 8, 1024
table = lesson.prices(model_name, batch_size, length)
saved = {name: row["alone saves, GB"] for name, row in table.rows.items()}
which.reveal(max(which.choices, key=saved.get), source="estimated")

# %%
table

# %%
lesson.levers(model_name, card, batch_size, length)

# %% [markdown]
# Look at the column *alone saves*: the smaller batch saves most, and checkpointing alone nearly as much. With
# eight examples at once most of the memory is activations and logits, and 4 bits do nothing about those. Then
# compare the columns: the smaller batch and checkpointing shrink the same activations, so the second has less
# left to save.
#
# Pull the levers in this order:
#
# 1. those that leave the result as it is: one example at a time with {{term:gradient accumulation}}, which
#    adds up the gradients of eight small steps before the {{term:optimizer}} moves; then checkpointing;
# 2. those that touch the model: 4 bits, and with them embeddings in 16 bits (the first note below);
# 3. those that touch the data (length).
#
# Three notes:
#
# - **Embeddings.** The recipe of section 2 keeps them in float32, which takes 2.1 GB more for this model; the
#   first figure of the lesson and "4-bit base" in the table include that. `memory.estimate` counts 16 bits unless
#   you give it `embeddings="float32"` (`course estimate` in a terminal: `--embeddings float32`); the controls
#   below count 16 bits. On a GPU a little more comes on top that no estimate here counts: mixed precision makes a
#   16-bit copy of the output layer, 1 GB for this model. So leave room, and read
#   `torch.cuda.max_memory_allocated()` after the first steps. To keep 16 bits in a run, replace the line with `prepare_model_for_kbit_training` by
#   `base.enable_input_require_grads()`, and give `SFTConfig` the option `gradient_checkpointing=True`. PEFT
#   freezes the base by itself. Some versions of TRL call `prepare_model_for_kbit_training` themselves; to see whether
#   yours does, print `base.get_input_embeddings().weight.dtype` once the trainer is built.
# - **Logits.** Newer versions of TRL (1.16, for one) compute the loss in pieces on a GPU, so their logits take
#   less than this estimate. With an older one, `pip install liger-kernel` and `use_liger_kernel=True` do the
#   same, on a GPU.
# - **GB.** Here a GB is $10^9$ bytes. Cards are sold in units 7 % larger and keep a part for themselves, so the
#   line of the T4, a "16 GB" card, is at the 15.8 GB that it reports.
#
# **Now your model and your card.** Change `model_name`, `card` and the two numbers above and run the cells again, or use the
# controls here.

# %%
show.calculator("memory", model=model_name)

# %% [markdown]
# **When memory spikes.** Batches differ in length, so some steps need more than others. A {{term:paged optimizer}} keeps
# its states where the driver can move them to the computer's own memory while a peak lasts. How much room can that make?

# %%
lesson.paging()

# %% [markdown]
# With an adapter the states are a small part of the step, so paging can move little. In
# {{term:full fine-tuning}} they are the largest. Even then paging is for short spikes: states that had to
# travel in every step would slow each of them down.
#
# Now you can judge two more claims.

# %%
evidence.card("Q3")

# %%
evidence.card("Q4")

# %% [markdown]
# The first claim makes the mistake of this whole section: it counts the weights that shrink and leaves out
# the rest. The second teaches a habit: run `print_trainable_parameters()`, because a number copied from a
# tutorial may belong to other settings.
#
# **Your turn: a challenge.** Try plans with `memory.estimate` as above; its options are `method`,
# `batch_size`, `accumulation`, `length`, `checkpointing`, `optimizer` and, for a 4-bit base, `embeddings`.

# %%
# EXERCISE: qlora-5

# %% [markdown]
# ## 9 · From the adapter to a model that answers
#
# Lesson 02 {{term:merge|merged}} the adapter into the base for free. Does that work with four bits? The first
# way to deploy changes nothing: the 4-bit base with the adapter of section 2 beside it.

# %%
del adapted, frozen, dense, four_bit                     # make room: section 7 is done
memory.release()
check_on, ways = task.validation[:12], {}


def mean_loss(model):
    """Mean loss on the right answers to a few held-out messages."""
    return float(torch.tensor(lesson.answer_losses(model, tokenizer, check_on)).mean())


four_bit, _ = models.load(quantization="nf4")
ways["4-bit base, no adapter"] = mean_loss(four_bit)
beside = PeftModel.from_pretrained(four_bit, "tickets-qlora")
ways["4-bit base, adapter beside it"] = mean_loss(beside)

# %% [markdown]
# Now do what looks natural: call `merge_and_unload()` on the 4-bit model, so that base and adapter become one
# 4-bit model again. (First we keep one layer's update for later.)

# %%
linear = beside.base_model.model.model.layers[10].mlp.down_proj
update = linear.get_delta_weight("default").detach()
stored = quantization.dense(linear.base_layer.weight, torch.float32)
guess = predict("How much of the gain is lost by merging into 4 bits?", unit="%")
guess

# %%
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    ways["merged, 4 bits again"] = mean_loss(beside.merge_and_unload())
print("PEFT warns:", *{str(warning.message) for warning in warned})
guess.reveal(round(lesson.gain_lost_percent(ways)), "% of the gain lost")

# %% [markdown]
# Where did the gain go? Look at the layer whose update we kept.

# %%
lesson.update_after_rounding(update, stored, quantize, dequantize)

# %% [markdown]
# Compare the first two rows. The restored weights are exactly on the sixteen values, and nearly every update
# is smaller than half the way to the next value, so rounding puts the weight back where it was. The little
# that arrives does so because the largest weight of a block moves, and with it the scale of all others.
#
# In this run rounding threw away most of the training that you paid for; PEFT's warning sounds too harmless. How
# much is lost depends on how large the updates are beside those distances. After twenty steps the updates are
# small; your share will differ.
#
# The two ways that work end in 16 bits: restore the base with `dequantize()` and merge, or merge into the
# original weights. If the card is too small for that, merge on the CPU: an 8B model needs about 17 GB of the
# computer's memory.

# %%
def merge(base):
    """The adapter, added to the weights of a 16-bit base."""
    return PeftModel.from_pretrained(base, "tickets-qlora").merge_and_unload()


del beside, four_bit, linear
memory.release()
ways["merged, original base, 16 bits"] = mean_loss(merge(models.load()[0]))
merged = merge(models.load(quantization="nf4")[0].dequantize())
ways["merged, restored base, 16 bits"] = mean_loss(merged)
merged.save_pretrained("tickets-merged")
tokenizer.save_pretrained("tickets-merged")
del merged
merged = AutoModelForCausalLM.from_pretrained("tickets-merged", dtype=device.torch_dtype())
ways["the same, from its saved folder"] = mean_loss(merged.to(device.kind))
lesson.merge_figure(ways)

# %% [markdown]
# The blue bars keep what was learned. Most people merge into the *original* weights. That is not exact: the
# adapter learned on top of the rounded weights, partly to make up for their errors. The *restored* base is
# the one that you trained on, so use it unless you have measured the other.
#
# In your own project, without this course:
#
# ```python
# import torch
# from peft import PeftModel
# from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
#
# name = "meta-llama/Llama-3.1-8B-Instruct"
# four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
# base = AutoModelForCausalLM.from_pretrained(
#     name, quantization_config=four_bits, dtype=torch.bfloat16, device_map={"": "cpu"})   # {"": 0}: the card
# merged = PeftModel.from_pretrained(base.dequantize(), "my-adapter").merge_and_unload()
# merged.save_pretrained("my-model")
# AutoTokenizer.from_pretrained("my-adapter").save_pretrained("my-model")
# ```
#
# If the model must be small again for serving, quantize the 16-bit folder with a method that looks at real
# activations while it rounds, such as AWQ or GPTQ, or write a {{term:GGUF}} file, the format of Ollama and
# llama.cpp. Either way, **measure again afterwards**. These commands are *not run here*, since they need
# other programs or a GPU:
#
# ```bash
# python llama.cpp/convert_hf_to_gguf.py my-model --outfile my-f16.gguf
# llama-quantize my-f16.gguf my-q4.gguf Q4_K_M                    # Q4_K_M: one of its 4-bit formats
# vllm serve ./my-model                                           # or in 16 bits, unchanged
# vllm serve meta-llama/Llama-3.1-8B-Instruct --quantization bitsandbytes --enable-lora --lora-modules mine=./my-adapter
# ```
#
# The last command needs no merging: it serves a 4-bit base with the adapter beside it. For AWQ and GPTQ, start from the
# examples of the library `llmcompressor`.

# %% [markdown]
# ## 10 · Mistakes to recognize, and what you can do now
#
# **Leaving out three arguments.** `load_in_4bit=True` alone does not give you the recipe, and often no message says so.

# %%
lesson.defaults()

# %% [markdown]
# By default you get FP4 instead of NF4, 4.5 bits instead of 4.13, and products in float32, which are slow on
# a GPU. The result is larger, slower and less accurate, and the loss still falls.
#
# **Counting parameters with `numel`.** Two weights share a byte, so the usual one-liner reports too few:

# %%
four_bit, _ = models.load(quantization="nf4")
counted = sum(weight.numel() for weight in four_bit.parameters())
print(f"counted with numel: {counted:,}; really: {merged.num_parameters():,}")

# %% [markdown]
# A "percentage trained" computed from this is too high. PEFT's `print_trainable_parameters()` counts correctly.
#
# **Training in pure bfloat16.** It is tempting to save memory by keeping trained weights in 16 bits too. {{term:Adam}}
# changes a weight by about the {{term:learning rate}} in each step. Can bfloat16 store a change that small?

# %%
lesson.rounded_steps(matrix)

# %% [markdown]
# Look at the bfloat16 column. In full fine-tuning most weights stay exactly where they were: the step is
# smaller than half the distance to the next 16-bit number. The run looks alive, because a few small weights
# do move. An adapter's numbers are smaller and its learning rate is higher, so at first all of them move. But
# the rate decays, and in a step from the last tenth of the run half of $A$ stands still ($B$, which starts at
# zero, is not shown).
#
# This is why trained weights get 32 bits ({{term:master weights}}), and one reason why the recipe puts the
# adapter back into float32. Frozen weights take no steps, so none can get lost.
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | train a model that does not fit | NF4, double quantization, compute dtype bfloat16 (T4: float16), adapter in float32 |
# | choose between LoRA and QLoRA | LoRA if a step fits with the base in 16 bits, else QLoRA |
# | get out of *out of memory* | batch of one with accumulation, checkpointing, 4 bits, then length |
# | know memory before a run | `course estimate Llama-3.1-8B --method qlora --length 1024 --checkpointing --embeddings float32 --gpu t4` |
# | know what 4 bits cost you | loss per message, paired, on your validation set (lines in section 7) |
# | deploy | adapter beside the 4-bit base, or merged into 16 bits; never rounded again without measuring |
#
# **The claims of this lesson.**

# %%
evidence.summary("Q1", "Q2", "Q3", "Q4", "Q5")

# %% [markdown]
# **Quiz.** Each choice opens to say why it is right or wrong.

# %%
quiz("03")

# %% [markdown]
# **One more exercise,** on data of your own: how long can your examples be?

# %%
# EXERCISE: qlora-6

# %% [markdown]
# {{words}}
#
# ## Further reading
#
# - Dettmers et al. (2023), *QLoRA: Efficient Finetuning of Quantized LLMs*, arXiv 2305.14314: you can now read its sections 2 and 3.
# - Huang et al. (2024), *How Good Are Low-bit Quantized LLaMA3 Models?*, arXiv 2404.14047: where four bits stop being free.
# - Lin et al. (2023), *AWQ: Activation-aware Weight Quantization*, arXiv 2306.00978: rounding for serving.
#
# Next, lesson 04 teaches a model to prefer one answer to another.
