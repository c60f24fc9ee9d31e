# %% [markdown]
# # 03 · QLoRA: train a model that would not fit
#
# {{badges}}
#
# You have a model with 8 billion {{term:parameter|parameters}} and a graphics card with 12 GB. In 16-bit numbers the model
# alone takes 16 GB, so the run ends with *CUDA out of memory* before the first example. But {{term:LoRA}} never changes
# those {{term:weight|weights}}; it only reads them. Must something that is only read be kept in 16 bits? {{term:QLoRA}}
# keeps it in 4, and the same run fits.
#
# <!-- assumes: JSON, JSONL, token, layer, PEFT, margin, fine-tuning, merge -->

# %%
# INSTALL: qlora,trl

# %%
from course_utils import charts, drawings, evidence, hardware, memory, models, plans
from course_utils import quantization, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import warnings

import torch

show.quiet()
lesson = evidence.lesson_03
lesson.does_it_fit()

# %% [markdown]
# The bars are computed from the model's published shape (section 8 shows how) for one example of 1,024 tokens; the dashed
# lines are two common cards. Training *all* weights would take about seven times as much as LoRA and is far off to the right.
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
# about 45 minutes, and the exercises about as long again.
#
# {{timing}}

# %% [markdown]
# ## 1 · A base that is only read
#
# Think of a library that has to fit into an e-reader. Nobody will write in the books, so you may compress them, as long as
# the page you are reading can be restored quickly. Your own notes go into the margin, and they are not compressed.
#
# QLoRA does this with a model (Dettmers et al., 2023). The books are the weights of the base. They are
# stored in 4 bits each. Rounding numbers to a few possible values is called {{term:quantization}}. When a
# {{term:linear layer}} needs its {{term:weight matrix}}, it turns that one matrix back into 16-bit numbers, multiplies, and
# drops the copy. The notes are the adapter, whose numbers keep 16 or 32 bits.

# %%
drawings.four_bit_layer()

# %% [markdown]
# Three things follow from the picture, and the rest of the lesson is about them. The stored matrix shrinks to about a
# quarter (sections 3 and 4). Each product may take more time, because a matrix is restored first (section 7). And what a layer computes is slightly off,
# because a rounded weight is not the original (sections 6 and 7).
#
# We use the support desk of lesson 02: a customer's message comes in, one line of JSON goes out. On a CPU we train a small
# model on few and short messages, so that you do not wait long. Every line works the same on a large one. Two caveats
# about that small model: rounding hurts small models more than large ones, and our packaged copy of it had been stored in
# another 4-bit format before it came to you, so its 16 bits are not quite the original's.

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
# How do you train on a 4-bit base at work? With the libraries of lesson 02 and a few more lines. First we go through them one
# by one, on our small model; at the end of the section they stand together as one program for your own card. These lines say
# how the base is stored.

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
# The last line is the {{term:compute dtype}}. Take {{term:bfloat16}} on Ampere cards (RTX 30, A100) and later ones. A T4 has
# no bfloat16, so take {{term:float16}} there. PyTorch claims that a T4 supports bfloat16, but it only imitates it, slowly.
# `device.torch_dtype()` picks the right one for your machine; on many CPUs that is {{term:float32}}.

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
# `prepare_model_for_kbit_training` freezes the base, makes sure that {{term:gradient|gradients}} reach the first adapter,
# and turns everything that is *not* in 4 bits (the {{term:embedding}}, the output layer, and the norms, which are small layers
# that rescale) into float32. It also switches on {{term:gradient checkpointing}}, which throws intermediate results away and
# computes them again later. That saves memory and costs up to half as much time again, so on a CPU we
# leave it off.
#
# <details><summary><b>Only if you train in 4 bits on a CPU: a trap</b></summary>
#
# On some CPUs (those with AVX512-BF16) bitsandbytes 0.50 repacks a 4-bit layer in place the first time it is used for
# answering, for instance in an evaluation during training. A repacked layer no longer passes gradients. Nothing stops: the
# {{term:loss}} falls, no error appears, and every adapter but the last ones gets a wrong gradient.
# `quantization.guard(model)`, called right after loading, switches the repacking off. On a GPU there is no such problem.
# The lesson to keep: *a falling loss is no proof that everything trains.* If in doubt, compare the gradients of one {{term:step}}
# with those of a 16-bit base.
#
# </details>
#
# Now the adapter and the trainer, which you know from lesson 02.

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
# Before training, keep two answers of the 4-bit base, to compare.

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
# Why the loop over the parameters? TRL stores the adapter of a 4-bit base in bfloat16, which has only two or three
# correct digits. With `fp16=True`, on a T4, training stops with an error, because the loss scaling of float16 cannot handle
# bfloat16 gradients; and toward the end of a run small steps get lost (section 10 shows how many). An adapter is small, so 32
# bits cost almost nothing.
#
# Did it learn? Ask it twelve messages that it has not seen.

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
# The form comes first, as in lesson 02: a few dozen short examples on a rounded base are enough for most of it. That an answer is a *valid* record
# says that a program can read it, not that it is right: compare the fields with the right ones. They need more examples, and longer ones, since
# these messages were not picked by length. And twelve answers are far too few to compare anything. Section 7 measures properly.
#
# Save the adapter. It is an ordinary LoRA adapter, and nothing in its file says that the base had 4 bits.

# %%
tuned.save_pretrained("tickets-qlora")
logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
recipe = {"loss": logged[-1], "seconds": used.seconds}
show.folder_sizes("tickets-qlora")

# %% [markdown]
# **The whole program for your own card.** It needs nothing from this course but `pip install trl peft bitsandbytes`. Each line of
# `train.jsonl` is a row as above:
# `{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}`. It is not run here,
# because the model needs a GPU, and a login on the {{term:hub}}; a test of the course runs it with a small one.
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
# And to use it, in a program of its own:
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
# Four bits can tell sixteen things apart, so a weight can only take one of sixteen values. Which sixteen? Look at what has
# to be stored. Here are the weights of one layer of our model, each divided by the largest among 64 neighbours.

# %%
dense, _ = models.load()
matrix = dense.model.layers[10].mlp.down_proj.weight.detach().float().cpu()
blocks = matrix.reshape(-1, 64)
nf4 = lesson.nf4_table()
charts.code_books(
    (blocks / blocks.abs().amax(1, keepdim=True))[:20_000].flatten().tolist(),
    {"NF4": nf4.tolist(), "even": [i / 7 for i in range(-7, 8)]},
    "Many small weights, few large ones: NF4 has its values where they are",
    "weight, divided by the largest among 64 neighbours",
)

# %% [markdown]
# Evenly spaced values (fifteen, so that zero is among them) are just as dense at the edges, where few weights are, as in the
# middle. NF4, *4-bit NormalFloat*, crowds its values where the weights are. The recipe assumes that weights follow a bell curve, the normal distribution, and takes the places
# that cut it into slices of about equal probability. These places are called quantiles. Two details: zero itself must be
# among the values, and the outermost are scaled to −1 and 1. The spikes at both ends of the histogram are the largest
# weights of each 64, which are 1 or −1 after the division.

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
# **By hand, on eight weights.** The largest in absolute value is 1.20, so that is the *scale* of this block. Divide by it,
# take the nearest of the sixteen values, and write down its number, the *code*. To get a weight back, look the code up and
# multiply by the scale.

# %%
eight = torch.tensor([0.30, -1.20, 0.09, 0.58, -0.21, 0.86, -0.52, 0.00])
lesson.by_hand(eight, nf4_values())

# %% [markdown]
# Follow the first row: 0.30 / 1.20 = 0.25; the nearest value is 0.246, which has the number 10; and 0.246 · 1.20 = 0.295.
# The weight −1.20 comes back exactly, because it is the scale itself, and so does zero. NF4's gaps widen outward, so a small weight can only be off by little, and a larger one by more.
#
# From now on the layer computes with the restored numbers, and nearly every one of them is a little wrong. Does the model
# survive that? No table of weights can say. Sections 6 and 7 measure it.
#
# **Your turn, before you see ours.** Write this for one block.

# %%
# EXERCISE: qlora-1

# %% [markdown]
# How good are NF4's sixteen values, compared with two others? *FP4* is a tiny floating-point format, *INT4* has evenly
# spaced values. Here is our function, for a whole matrix with 64 weights to a block. `[:, None]` makes a column of the scales, so that
# each multiplies its own row.

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
# NF4 has the smallest error, on this matrix as on perfectly normal weights. `bucketize` finds the nearest value by asking
# between which two halfway points a weight lies; that saves the table of all distances.

# %% [markdown]
# ## 4 · Scales, and scales of scales
#
# Why 64 weights to a block, and not one scale for the whole matrix? Because of outliers. If one weight in a matrix is
# ten times larger than the others, a common scale would push all others into the two or three values around zero. With
# blocks it spoils only its 63 neighbours. But each block needs a scale, and a float32 scale has 32 bits, half a bit for each
# of its 64 weights. That is an eighth of what the codes take.
#
# Double quantization treats the scales as it treats the weights. Their mean is subtracted, 256 of them share one float32
# scale of their own, and each becomes one of 256 values, a code of 8 bits.

# %% [markdown]
# **Your turn:** how many bits is that per weight, for any size of block and group?

# %%
# EXERCISE: qlora-2

# %%
drawings.four_bit_storage()

# %%
guess = predict("A matrix has 4096 × 4096 weights. How many MB does it take in NF4?", unit="MB")
guess

# %%
bits = 4 + 8 / 64 + 32 / (64 * 256)
guess.reveal(4096 * 4096 * bits / 8 / 1e6, "MB; in bfloat16 it takes 33.6 MB", source="computed")

# %% [markdown]
# You may skip the next two cells. They are the code of double quantization: how 256 values are chosen (finer near zero, over seven
# powers of ten), and how the scales get their codes.

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
# Does the library store anything else? Quantize some real layers and a quarter of a million random weights with both, and
# count the bytes that differ.

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
# The same bytes, codes and scales alike, on this CPU. These forty lines are all there is to storing NF4. On a GPU bitsandbytes has
# kernels for the same format, which take a fraction of the time.
#
# How many bits does our model really take per weight? We count them, and then judge a claim that you will meet everywhere.

# %%
print(f"{lesson.stored_bits(base):.3f} bits per weight in the linear layers of our model")

# %%
evidence.card("Q1")

# %% [markdown]
# The card's point matters when you plan: the smaller the model and the larger its {{term:vocabulary}}, the less you gain,
# because the embedding is not quantized.
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
# The answer is that nobody asks for the gradient of the codes. In the {{term:forward pass}} the layer computes $\tilde{W} x$
# with the restored matrix $\tilde W$, plus what the adapter adds:
#
# $$h = \tilde{W} x + \frac{\alpha}{r} B A x$$
#
# For the layers before this one, $\tilde{W}$ is a fixed table of numbers. Take the eight restored weights of section 3 as its only row,
# and suppose that the gradient at the output is 2: when the output rises by a tiny step, the loss rises by two such steps. The
# second input is multiplied by −1.20, so its gradient is 2 · (−1.20) = −2.40, and that of the first is 2 · 0.295 = 0.59. In
# general the gradient at the input is $\tilde{W}^\top g$, where $g$ is the one at the output (and the adapter adds
# $\frac{\alpha}{r} A^\top B^\top g$). No gradient of the weights is needed. $A$ and $B$ get theirs as in lesson 02.
#
# One thing has to be prevented. Ordinarily PyTorch keeps what a product needs on the way back, and that would be the restored
# matrix, in every layer: all the memory that was saved. So we write this product ourselves, with a {{term:backward pass}} that
# restores the matrix a second time. PyTorch's `autograd.Function` is a pair of functions, one for each direction; `ctx` carries things from
# the first to the second.

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
# Compare it with the real thing, a `Linear4bit` of bitsandbytes with PEFT's adapter, same $A$ and $B$, same input (and both
# without double quantization, which ours leaves out).

# %%
lesson.compare_with_peft(FourBitLoRA, matrix)

# %% [markdown]
# Equal, or no further apart than the rounding of 32-bit numbers. The last row is the one that this section is about: the layer hands the same gradient
# down as the library's, although a block of its weights has only sixteen values.
#
# In bitsandbytes the copy $\tilde W$ has the compute dtype, and it too lives for one product. So the extra memory is that of
# the largest single matrix, not of the model. The default of `bnb_4bit_compute_dtype`, by the way, is float32, which is slow
# on a GPU. That is why the recipe sets it.
#
# **Your turn.** Somebody wrote a function that measures the error of 4 bits. It has three bugs.

# %%
# EXERCISE: qlora-4

# %% [markdown]
# ## 6 · What do four bits cost before any training?
#
# Quantize a model and use it as it is: how much worse does it predict text? This is also the question if
# you only want to *run* a model on a small card. Besides 4 bits there is an 8-bit format, `load_in_8bit=True`. We load the
# same model in four formats, one after the other, and let each predict a few passages of everyday prose.

# %%
del base, tuned, trainer                               # sections 2 to 5 are done: make room
memory.release()
formats = lesson.formats()
lesson.formats_table(formats)

# %% [markdown]
# How to read it. The second column of numbers is the loss per token, in {{term:nat|nats}} (the unit of the natural logarithm): lower means
# that the model finds real text less surprising. In brackets are {{term:confidence interval|95 % intervals}}, the range in which the true difference
# probably lies. The 8-bit interval is narrow and includes zero: no loss that matters. Four bits cost something that you can measure. Do not carry this number
# over to your model: ours is small, and its "16 bits" had been rounded once before. The last column compares FP4 with NF4 passage by
# passage.
#
# And the speed? Generating token by token means reading all weights for each token. So smaller weights can even be quicker, if the program
# has a fast routine for them, and they are slower if it has to restore each matrix first. That is why servers such as
# {{term:vLLM}} prefer formats made for serving (section 9). Time the program that you will use; another one says little about it.

# %% [markdown]
# ## 7 · Does it learn as well, and how much slower is it?
#
# Training can repair part of the damage, because the adapter learns *on top of* the rounded base. So the fair question is
# not how good the 4-bit base is but how good the model is after training. We train two fresh adapters on the same examples
# in the same order, one on a 16-bit base and one on a 4-bit base, with the course's own loop, `training.fit`.

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
# The first and the last row train QLoRA on the same examples with two programs. The order of the examples and the random
# start of the adapter differ, and the programs may differ in more than we know. Card Q5 below says how far another {{term:seed}} alone
# moves a loss. So never compare two methods by two single runs with different seeds. The last two rows share both, and differ only in the base. On a CPU `fit` is quicker; at work, take the recipe. (The recipe's seconds include its validation, those of `fit` do not.)
#
# Which measure can tell LoRA from QLoRA? Not the share of right fields. `escalation` is "none" for seven messages in ten,
# so a model that always says "none" is right 70 % of the time, and two models can both be near that for no good reason.
# The loss on the right answer uses every token of every message. So take it message by message, on 24 messages this time, and
# compare in pairs.

# %%
losses = {name: lesson.answer_losses(model, tokenizer, held_out)
          for name, model in adapted.items()}
evidence.card("Q5", lora=losses["LoRA"], qlora=losses["QLoRA"], before=before)

# %% [markdown]
# Look at the interval first, then at how much of LoRA's gain QLoRA reached. With the table's twelve messages even the sign may flip: that is how little such a difference says. The 4-bit base starts further behind (section
# 6), and its adapter has to make up for that too. How much is left at the end depends on the size of the model, on the
# data and on the number of steps. So only your own {{term:validation set}} can say what four bits cost *you*, and now you
# know with which measure to ask.
#
# **Time.** Each matrix is restored once in the forward pass and once on the way back (and once more with checkpointing),
# however many tokens go through it. We time a forward and a backward pass of the libraries' own layers, alternating LoRA and QLoRA (on a CPU by the processor's time, which other programs hardly change). `fit` replaces some of these layers by faster ones, so its seconds above show less of the difference.

# %%
guess = predict("How much longer does a QLoRA step of four examples take here?", unit="%")
guess

# %%
pace = lesson.pace(adapted, tokenizer, examples)
*_, four_examples = pace.values()
guess.reveal(round(100 * (four_examples.value - 1)), "% longer")

# %%
evidence.card("Q2", pace=pace)

# %% [markdown]
# Others' measurements differ by far more than the ten points of the claim, so do not plan with "20 to 30 %": time ten
# steps of each on your own card. What can be said in general is when to use which. **Use LoRA if a training step fits with
# the base in 16 bits, and QLoRA if it does not.** QLoRA saves memory for weights. It saves no time, and its
# {{term:activation|activations}} are as large as LoRA's.

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
# By hand, for Llama-3.1-8B and one example of 1,024 tokens: the vocabulary has 128,256 tokens, so the logits are
# 1,024 · 128,256 numbers of 4 bytes, 0.53 GB. The usual loop keeps three such tables at the worst moment (the scores, their
# probabilities and the gradient): 1.6 GB. For a
# {{term:batch}} of eight it is 12.6 GB, which is most of a 16 GB card for scores alone.
#
# `memory.estimate` adds all of this up from a model's published shape. It needs neither the weights nor a GPU, and you can
# ask it before you rent one.

# %%
print(memory.estimate("Llama-3.1-8B", "qlora", batch_size=1, length=1024, checkpointing=True))

# %% [markdown]
# Memory peaks when the logits are computed. In a step of one example there are no gradients yet at that moment, so a trained number takes 12
# bytes; with accumulation, gradients of earlier examples are there too, and it takes 16. Now suppose that
# you started with LoRA, eight examples of 1,024 tokens at once and no checkpointing, and it did not fit.

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
# Surprising, if you think of memory as weights. At eight examples at once most of it is activations and logits, and 4 bits do
# nothing about those. Checkpointing alone would have saved nearly as much as the smaller batch. Both shrink the same activations, so after the first the second has less
# left to save: compare the two columns. So pull the levers in this order: first those that leave the result as it is (one
# example at a time with {{term:gradient accumulation}}, which adds up the gradients of eight small steps before the
# {{term:optimizer}} moves; then checkpointing), then those that touch the model (4 bits), and last those that touch the
# data (length).
#
# Three notes. To keep the embeddings in 16 bits, leave `prepare_model_for_kbit_training` out and call
# `model.enable_input_require_grads()` instead; the adapter freezes the base anyway. `memory.estimate` and the controls below
# count them in 16 bits; the first figure of this lesson and "4-bit base" in the table count the recipe's float32, 2.1 GB more.
# TRL's newer versions compute the loss in pieces, so that on a GPU their logits take less than this estimate
# (elsewhere, the option `use_liger_kernel=True` of the trainer does it). And the line is
# the memory that a T4 really reports, 15.8 GB, not the number in its name.
#
# **Now your model and your card.** Change `model_name`, `card` and the two numbers above and run the cells again, or use the
# controls here.

# %%
lesson.explorer(model_name)

# %% [markdown]
# **When memory spikes.** Batches differ in length, so some steps need more than others. A {{term:paged optimizer}} keeps
# its states where the driver can move them to the computer's own memory while a peak lasts. How much room can that make?

# %%
lesson.paging()

# %% [markdown]
# With an adapter the states are a small part, and so is what paging can move. In {{term:full fine-tuning}} they are the largest part. Paging is for short
# spikes, though: states that had to travel in every step would slow each of them down.
#
# Now you can judge two more claims.

# %%
evidence.card("Q3")

# %%
evidence.card("Q4")

# %% [markdown]
# The first makes the mistake of this whole section: it counts the weights that shrink and leaves out the rest. The second
# teaches a habit: `print_trainable_parameters()` takes a second, and a number copied from a tutorial may belong to other settings.
#
# **Your turn: a challenge.** Try plans with `memory.estimate` as above; its options are `method`, `batch_size`, `accumulation`,
# `length`, `checkpointing` and `optimizer`. It counts embeddings in bfloat16; in float32 they take 2.1 GB more.

# %%
# EXERCISE: qlora-5

# %% [markdown]
# ## 9 · From the adapter to a model that answers
#
# Lesson 02 {{term:merge|merged}} the adapter into the base for free. Can you do that with four bits? Here are the ways to
# deploy what you trained in section 2. First the one that changes nothing: the 4-bit base with the adapter beside it.

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
# Keep one layer's update for later. Then do what looks natural: call `merge_and_unload()` on the 4-bit model, so that base
# and adapter become one 4-bit model again.

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
# Where did it go? Look at the layer that we kept.

# %%
lesson.update_after_rounding(update, stored, quantize, dequantize)

# %% [markdown]
# The restored weights are exactly on the sixteen values. The update moves each of them a little, and nearly every move is smaller than half the way to the next value, so rounding puts the weight back where it was. The little that arrives does so
# because the largest weight of a block moves, and with it the scale of all others. You pay for the training, and
# the rounding throws a large part of it away. PEFT warns of this, as you saw, in words that sound harmless.
# How much is lost depends on how large the updates are beside those distances. After twenty steps they are
# small. Your share will differ.
#
# The two ways that work end in 16 bits: restore the base with `dequantize()` and merge, or merge into the original weights. Do it on the CPU if the card is
# too small for 16 bits: an 8B model needs about 17 GB of the computer's memory for it.

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
# The blue bars keep what was learned. The *restored* base is the one that you trained on, so take it unless you have measured the other. Merging into the *original*
# weights is what most people do. It is not exact: the adapter has learned on top of the rounded weights, partly to make up for their errors.
#
# In your own project, without this course:
#
# ```python
# import torch
# from peft import PeftModel
# from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
#
# four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
# base = AutoModelForCausalLM.from_pretrained(name, quantization_config=four_bits, dtype=torch.bfloat16)
# merged = PeftModel.from_pretrained(base.dequantize(), "my-adapter").merge_and_unload()
# merged.save_pretrained("my-model")
# AutoTokenizer.from_pretrained("my-adapter").save_pretrained("my-model")
# ```
#
# With the 16-bit folder you can do anything. If the model must be small again for serving, quantize it with a method that
# looks at real activations while it rounds, such as AWQ or GPTQ, or write a {{term:GGUF}} file, the format of Ollama and
# llama.cpp, and **measure again afterwards**. These commands are *not run here*, since they need other programs or a GPU:
#
# ```bash
# python llama.cpp/convert_hf_to_gguf.py tickets-merged --outfile tickets-f16.gguf
# llama-quantize tickets-f16.gguf tickets-q4.gguf Q4_K_M          # Q4_K_M: one of its 4-bit formats
# vllm serve ./tickets-merged                                     # or in 16 bits, unchanged
# vllm serve BASE --quantization bitsandbytes --enable-lora --lora-modules tickets=./tickets-qlora
# ```
#
# The last line serves what needs no merging at all: a 4-bit base with the adapter beside it. For AWQ and GPTQ, start from the
# examples of the library `llmcompressor`.

# %% [markdown]
# ## 10 · Mistakes to recognize, and what you can do now
#
# **Leaving out three arguments.** `load_in_4bit=True` alone gives something other than the recipe, and nothing complains.

# %%
lesson.defaults()

# %% [markdown]
# FP4 instead of NF4, 4.5 bits instead of 4.13, and products in float32, which are slow on a GPU. The result is larger,
# slower and less accurate, and the loss still falls.
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
# At the learning rate of full fine-tuning most weights stay exactly where they were: the step is smaller than half the
# distance to the next 16-bit number. The run looks alive, because a few small weights do move. An adapter's numbers are smaller
# and its learning rate is higher, so at first all of them move. But the rate decays, and in a step of the last tenth half of $A$ stands still ($B$, which starts at zero, does not show here). This is why trained weights get 32 bits ({{term:master weights}}), and one reason why the recipe puts the adapter back into
# float32. Frozen weights take no steps, so none can get lost;
# what rounding does to them is what sections 6 and 7 measure.
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | train a model that does not fit | NF4, double quantization, compute dtype bfloat16 (T4: float16), adapter in float32 |
# | choose between LoRA and QLoRA | LoRA if a step fits with the base in 16 bits, else QLoRA |
# | get out of *out of memory* | batch of one with accumulation, checkpointing, 4 bits, then length |
# | know memory before a run | `course estimate Llama-3.1-8B --method qlora --gpu t4` |
# | know what 4 bits cost you | loss per message, paired, on your validation set |
# | deploy | adapter beside the 4-bit base, or merged into 16 bits; never rounded again unmeasured |
#
# **The claims of this lesson.**

# %%
evidence.summary()

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
