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
# INSTALL: qlora

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
# The bars are computed from the model's published shape (section 8 shows how); the dashed lines are two common cards.
#
# By the end you will be able to
#
# - load a model in 4 bits, train an {{term:adapter}} on it with the usual libraries, and use the result,
# - explain {{term:NF4}} and {{term:double quantization}}, and compute by hand how many bits a weight takes,
# - say before a run how much memory it needs, and what to change if that is too much,
# - judge from measurements what four bits cost in quality and in time,
# - deploy the result without losing what was learned.
#
# You should know lesson 02: LoRA trains two thin matrices beside each large one, which stays {{term:frozen}}. Reading
# and doing takes about 45 minutes.
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
# quarter (sections 3 and 4). Each product takes a little more time (section 7). And what a layer computes is slightly off,
# because a rounded weight is not the original (sections 6 and 7).
#
# We use the support desk of lesson 02: a customer's message comes in, one line of JSON goes out. On a CPU we train a small
# model on few and short messages, so that you do not wait long. Every line works the same on a large one.

# %%
device = hardware.detect()
plan = plans.plan("03")
task = load_task("support_tickets", list(plan.fields))
examples = [chat for chat in task.train if len(chat[1]["content"]) <= plan.longest]
examples = examples[: plan.examples]
print(f"{device.name}: tier {device.tier}, computes in {device.dtype}; {len(examples)} examples")

# %% [markdown]
# ## 2 · The job: lines that you will copy
#
# How do you train on a 4-bit base at work? With the libraries of lesson 02 and a few more lines. The first ones say how the
# base is stored.

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
# The course's `hardware.detect` asks the card which generation it is.

# %%
source = models.resolve(models.TIERS[device.tier].name)   # a folder, or a name on the hub
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
# and turns everything that is *not* in 4 bits (the {{term:embedding}}, the small norm layers and the output layer) into
# {{term:float32}}. It also switches on {{term:gradient checkpointing}}, which throws intermediate results away and
# computes them again later. That saves memory and costs about a third more time, so on a CPU we leave it off.
#
# <details><summary><b>Only if you train in 4 bits on a CPU: a trap</b></summary>
#
# On some CPUs (those with AVX512-BF16) bitsandbytes 0.50 repacks a 4-bit layer in place the first time it is used for
# answering, for instance in an evaluation during training. A repacked layer no longer passes gradients. Nothing stops: the
# {{term:loss}} falls, no error appears, and every adapter but the last ones gets a wrong gradient.
# `quantization.guard(model)`, called right after loading, switches the repacking off. On a GPU there is no such problem.
# The lesson to keep: *a falling loss is no proof that everything trains.* If in doubt, compare the gradients of one step
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
to_rows = lambda chats: Dataset.from_list([{"prompt": c[:-1], "completion": c[-1:]} for c in chats])

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
# correct digits. A T4 cannot train such an adapter in float16 at all, and small steps can get lost (section 10 shows how
# many). An adapter is small, so 32 bits cost almost nothing.
#
# Did it learn? Ask twelve messages that it has not seen.

# %%
guess = predict("How many of 12 answers are now a valid record?", unit="answers")
guess

# %%
tuned = trainer.model
prompts, wanted = task.prompts("validation")[:12], task.references("validation")[:12]
answers = generate(tuned, tokenizer, prompts, max_new_tokens=plan.answer_tokens)
valid = task.evaluate(answers, "validation").valid
guess.reveal(round(12 * valid.value))

# %%
show.answers([chat[-1]["content"] for chat in prompts[:2]], {"QLoRA": answers[:2]}, wanted[:2])

# %% [markdown]
# The form comes first, as in lesson 02: even a few dozen examples on a rounded base are enough for most of it. The fields
# need more examples, and twelve answers are far too few to compare anything. Section 7 measures properly.
#
# Save the adapter. It is an ordinary LoRA adapter, and nothing in its file says that the base had 4 bits.

# %%
tuned.save_pretrained("tickets-qlora")
logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
recipe = {"loss": logged[-1], "seconds": used.seconds, "MB": used.process_increase / 1e6}
show.folder_sizes("tickets-qlora")

# %% [markdown]
# That is the job. On your own card, put the name of a larger model into `source`, take a {{term:learning rate}} of 2e-4,
# and it is the same program. What do the lines about 4 bits actually do?

# %% [markdown]
# ## 3 · Sixteen values for a weight
#
# Four bits can tell sixteen things apart, so a weight can only take one of sixteen values. Which sixteen? Look at what has
# to be stored. Here are the weights of one layer of our model, each divided by the largest of its 64 neighbours.

# %%
dense, _ = models.load()
matrix = dense.model.layers[10].mlp.down_proj.weight.detach().float().cpu()
blocks = matrix.reshape(-1, 64)
nf4 = lesson.nf4_table()
charts.code_books(
    (blocks / blocks.abs().amax(1, keepdim=True)).flatten().tolist(),
    {"NF4": nf4.tolist(), "even": [i / 7 for i in range(-7, 8)]},
    "Many small weights, few large ones: NF4 has its values where they are",
    "weight, divided by the largest of its 64 neighbours",
)

# %% [markdown]
# Evenly spaced values waste half of their number on places where hardly any weight lies. NF4, *4-bit NormalFloat*, crowds
# its values near zero. The recipe assumes that weights follow a bell curve, the normal distribution, and takes the places
# that cut it into slices of about equal probability. These places are called quantiles. Two details: zero itself must be
# among the values, and the outermost are scaled to −1 and 1. (The spikes at both ends of the histogram are the largest
# weights of each 64, which are 1 or −1 after the division.)

# %% tags=["nf4-from-scratch"]
def nf4_values():
    """Seven quantiles below zero, zero, and eight above, scaled so that the largest is 1."""
    end = 1 - (1 / 30 + 1 / 32) / 2          # not 1: the last quantile would be infinite
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
# The weight −1.20 comes back exactly, because the largest of a block always does, and so does zero. Small weights are off
# by little in absolute terms: that is what the crowding near zero buys.
#
# From now on the layer computes with the restored numbers. Look at the last row, which adds the column up, as a product with
# eight ones would. The errors have different signs and largely cancel. A real layer adds up hundreds of them in every product.
# That is why a 4-bit model still works, although nearly every weight is wrong.
#
# **Your turn, before you see ours.** Write this for one block.

# %%
# EXERCISE: qlora-1

# %% [markdown]
# How good are NF4's sixteen values, compared with two others? *FP4* is a tiny floating-point format, *INT4* has evenly
# spaced values. Here is our function, for a whole matrix with 64 weights to a block:

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
# NF4 brings the weights back closest, on this matrix as on perfectly normal ones. `bucketize` finds the nearest value by
# asking between which two halfway points a weight lies; that saves the table of all distances.

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

# %%
drawings.four_bit_storage()

# %%
guess = predict("A matrix has 4096 × 4096 weights. How many MB does it take in NF4?", unit="MB")
guess

# %%
bits = 4 + 8 / 64 + 32 / (64 * 256)
guess.reveal(4096 * 4096 * bits / 8 / 1e6, "MB; in bfloat16 it takes 33.6 MB")

# %% [markdown]
# Here is double quantization in code. The 256 values are finer near zero, over seven powers of ten.

# %% tags=["nf4-from-scratch"]
def eight_bit_values():
    """Zero, one, and seven decades on both sides, each with twice as many values as the last."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)
        values += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(values))


# %% tags=["nf4-from-scratch"]
def quantize_scales(scales, table=None):
    """8-bit codes of the scales, the scales of these, and the mean that was subtracted."""
    values, mean = eight_bit_values(), scales.mean()
    padded = torch.nn.functional.pad(scales - mean, (0, -len(scales) % 256)).reshape(-1, 256)
    second = padded.abs().amax(dim=1)
    scaled = padded / second[:, None]
    if table:                                # bitsandbytes rounds to so many steps first
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
guess = predict("How many bytes differ from bitsandbytes?", choices=("none", "some", "most"))
guess

# %%
weights = {
    "attention, q_proj": dense.model.layers[3].self_attn.q_proj.weight,
    "feed-forward, up_proj": dense.model.layers[3].mlp.up_proj.weight,
    "this matrix": matrix,
    "random": torch.randn(512, 512),
}
compared = lesson.compare_with_bitsandbytes(quantize, pack, weights, quantize_scales)
differ = sum(row["bytes of codes that differ"] for row in compared.rows.values())
guess.reveal("some" if differ else "none")

# %%
compared

# %% [markdown]
# The same bytes, codes and scales alike. These forty lines are all there is to NF4. bitsandbytes does the same on a GPU, in
# a fraction of the time.
#
# What does our model really hold? Count it, with the claim that you will meet everywhere.

# %%
print(f"{lesson.stored_bits(base):.3f} bits per weight in the linear layers of our model")

# %%
evidence.card("Q1")

# %% [markdown]
# The card's point matters when you plan: the smaller the model and the larger its {{term:vocabulary}}, the less you gain,
# because the embedding is not quantized.
#
# **Your turn:** bits per weight for any block size, then the way back from bytes to weights.

# %%
# EXERCISE: qlora-2

# %%
# EXERCISE: qlora-5

# %% [markdown]
# ## 5 · A 4-bit layer that passes gradients
#
# Four-bit codes cannot be trained: a code of 10 has no slope, it can only jump to 9 or 11. So how can a
# gradient get through such a layer at all?
#
# The answer is that nobody asks for the slope of the codes. In the {{term:forward pass}} the layer computes $\tilde{W} x$
# with the restored matrix $\tilde W$, plus what the adapter adds:
#
# $$h = \tilde{W} x + \frac{\alpha}{r} B A x$$
#
# For the layers below, $\tilde{W}$ is a fixed table of numbers. If the loss would rise by $g$ when the output rises a
# little, it rises by $\tilde{W}^\top g$ when the input does. A small example, with the eight weights of section 3 as a
# row: if the slope at the output is 2, the slope at the second input is 2 · (−1.20) = −2.40, and at the first it is 2 ·
# 0.295 = 0.59. No gradient of the weights is needed. $A$ and $B$ get theirs as in lesson 02.

# %% tags=["qlora-from-scratch"]
class FourBitLoRA(torch.nn.Module):
    """A weight kept in 4 bits, and a trained update of rank r beside it."""

    def __init__(self, weight, rank, alpha):
        super().__init__()
        self.shape, self.scaling = weight.shape, alpha / rank
        self.codes, self.scales = quantize(weight, nf4)
        bound = weight.shape[1] ** -0.5
        self.A = torch.nn.Parameter(torch.empty(rank, weight.shape[1]).uniform_(-bound, bound))
        self.B = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, x):
        W = dequantize(self.codes, self.scales, nf4).reshape(self.shape)   # for this product
        return x @ W.T + self.scaling * (x @ self.A.T @ self.B.T)


# %% [markdown]
# Compare it with the real thing, a `Linear4bit` of bitsandbytes with PEFT's adapter, same $A$ and $B$, same input.

# %%
lesson.compare_with_peft(FourBitLoRA, matrix)

# %% [markdown]
# Equal, at most up to the rounding of 32-bit numbers. The last row is the one that this section is about: the gradient
# that is handed down is right although the weight has only sixteen values.
#
# The copy $\tilde W$ has the compute dtype and lives for one product. So the extra memory is that of the largest single
# matrix, not of the model. The default of `bnb_4bit_compute_dtype`, by the way, is float32, which is slow on a
# GPU. That is why the recipe sets it.
#
# **Your turn.** Somebody wrote a function that measures the error of 4 bits. It has three bugs.

# %%
# EXERCISE: qlora-6

# %% [markdown]
# ## 6 · What do four bits cost before any training?
#
# Quantize a model and use it as it is: how much worse does it predict text, and is it slower? This is also the question if
# you only want to *run* a model on a small card. Besides 4 bits there is an 8-bit format, `load_in_8bit=True`. We load the
# same model in four formats, one after the other, let each predict a few passages of everyday prose, and time how it writes.

# %%
formats = lesson.formats()
lesson.formats_table(formats)

# %% [markdown]
# How to read it. The second column of numbers is the loss per token: lower means that the model finds real text less
# surprising. Eight bits change next to nothing. Four bits cost something that you can measure. From the errors of section
# 3 you would expect NF4 to cost less than FP4; on so few passages the intervals of the two overlap. Two reservations
# belong to this table. This is a very small model, and small models suffer more from rounding than large ones. And the
# packaged CPU model had been stored in another 4-bit format before it came to you, so its "16 bits" are not untouched.
#
# The time is that of *this* machine, with one answer at a time. Whoever writes one token after the other spends most of
# the time on reading weights from memory. So smaller weights can even be quicker, if the program has a fast routine for
# them, and they are slower if it has to restore each matrix first. That is why servers such as {{term:vLLM}} prefer
# formats made for serving (section 9), and why the time of one program says little about another.

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
# Compare the rows in pairs. The first and the last do the same with two programs: both train QLoRA on the same examples.
# They shuffle differently, and TRL's loss also counts the line break that the template writes after the answer, so a small
# difference between them means nothing. On a CPU `fit` is much quicker; at work, take the recipe. The last two differ only in the base. ("Memory
# added" on a CPU is what the process grew by, and room that earlier cells have freed is used again without being counted.)
#
# Which measure can tell LoRA from QLoRA? Not the share of right fields. `escalation` is "none" for seven messages in ten,
# so a model that always says "none" is right 70 % of the time, and two models can both be near that for no good reason.
# The loss on the right answer uses every token of every message. So take it message by message, and compare in pairs.

# %%
losses = {name: lesson.answer_losses(model, tokenizer, held_out)
          for name, model in adapted.items()}
evidence.card("Q5", lora=losses["LoRA"], qlora=losses["QLoRA"], before=before)

# %% [markdown]
# Look at the interval first, then at how much of LoRA's gain QLoRA reached. The 4-bit base starts further behind (section
# 6), and its adapter has to make up for that too. How much is left at the end depends on the size of the model, on the
# data and on the number of steps. So only your own {{term:validation set}} can say what four bits cost *you*, and now you
# know with which measure to ask.
#
# **Time.** Each matrix is restored once in the forward pass and once on the way back, however many tokens go through it.

# %%
guess = predict("How much longer does a QLoRA step of four examples take here?", unit="%")
guess

# %%
pace = lesson.pace(adapted, tokenizer, examples)
large = list(pace.values())[-1]
guess.reveal(round(100 * (large.value - 1)), "% longer")

# %%
evidence.card("Q2", pace=pace)

# %% [markdown]
# Others' measurements differ by far more than the ten points of the claim, so do not plan with "20 to 30 %": time ten
# steps of each on your own card. What can be said in general is when to use which. **Use LoRA if the base fits in 16 bits,
# and QLoRA if it would not.** QLoRA saves memory of weights. It saves neither time nor {{term:activation|activations}}.

# %% [markdown]
# ## 8 · Out of memory: what now?
#
# *torch.OutOfMemoryError: CUDA out of memory.* What fills the card? Four things. The weights. What is trained, with its
# gradients and {{term:optimizer state|optimizer states}}, 16 bytes per number. The activations, which the
# {{term:backward pass}} needs, and which grow with the number of tokens in a step. And the {{term:logits}}, one score for each token of
# the vocabulary at each position.
#
# By hand, for Llama-3.1-8B and one example of 1,024 tokens: the vocabulary has 128,256 tokens, so the logits are
# 1,024 · 128,256 numbers of 4 bytes, 0.53 GB. The usual loop keeps three such tables at the worst moment: 1.6 GB. For a
# {{term:batch}} of eight it is 12.6 GB, and the card is full before the weights are loaded.
#
# `memory.estimate` adds all of this up from a model's published shape. It needs neither the weights nor a GPU, and you can
# ask it before you rent one.

# %%
which = predict("LoRA on an 8B model, batch of 8: which lever saves the most memory?",
                choices=("one example at a time", "4-bit base", "8-bit optimizer"))
which

# %%
model_name, card = "Llama-3.1-8B", "t4"
batch_size, length = 8, 1024
lesson.levers(model_name, card, batch_size, length)

# %%
table = lesson.prices(model_name, batch_size, length)
saved = {name: row["saves, GB"] for name, row in table.rows.items()}
best = max(which.choices, key=saved.get)
which.reveal(best)

# %%
table

# %% [markdown]
# Surprising, if one thinks of memory as weights. At eight examples at once most of it is activations and logits, and 4
# bits do nothing about those. So pull the levers in this order: first those that change nothing in the result (one example
# at a time with {{term:gradient accumulation}}, which adds up the gradients of eight small steps before the
# {{term:optimizer}} moves; then checkpointing), then those that touch the model (4 bits), and last those that touch the
# data (length).
#
# Three notes. To keep the embeddings in 16 bits, leave `prepare_model_for_kbit_training` out and call
# `model.enable_input_require_grads()` instead; the adapter freezes the base anyway. TRL's newer versions compute the loss in
# pieces, so that on a GPU their logits take less than this estimate. And the line is the memory that a T4 really reports,
# 15.8 GB, not the number in its name.
#
# **Now your model and your card.** Change `model_name`, `card` and the two numbers above and run the cells again, or use the
# controls here.

# %%
lesson.explorer(model_name)

# %% [markdown]
# **When memory has peaks.** Batches differ in length, so some steps need more than others. A {{term:paged optimizer}} keeps
# its states where the driver can move them to the computer's own memory while a peak lasts. How much room can that make?

# %%
lesson.paging()

# %% [markdown]
# With an adapter the states are a small part, and so is what paging can move. In {{term:full fine-tuning}} they are the
# largest part. That is where paging pays.
#
# Now you can judge two more claims.

# %%
evidence.card("Q3")

# %%
evidence.card("Q4")

# %% [markdown]
# The first is the mistake of this whole section: counting the weights that shrink and leaving out the rest. The second is
# worth knowing as a habit. `print_trainable_parameters()` takes a second, and a number copied from a tutorial may belong to
# another model.
#
# **Your turn: a challenge.** It needs nothing but thinking and the estimator, which answers at once.

# %%
# EXERCISE: qlora-7

# %% [markdown]
# ## 9 · From the adapter to a model that answers
#
# Lesson 02 {{term:merge|merged}} the adapter into the base for free. Can you do that with four bits? Here are the ways to
# deploy what you trained in section 2. First the one that changes nothing: the 4-bit base with the adapter beside it.

# %%
del adapted, frozen, dense, base, tuned, trainer         # make room: sections 2 to 7 are done
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
    rounded = beside.merge_and_unload()
print("PEFT warns:", *{str(warning.message) for warning in warned})
ways["merged, 4 bits again"] = mean_loss(rounded)
lost = lesson.lost(ways, *ways)                      # of the way from the first to the second
guess.reveal(round(lost), "% of the gain lost")

# %% [markdown]
# Where did it go? Look at the layer that we kept.

# %%
lesson.survival(update, stored, quantize, dequantize)

# %% [markdown]
# The restored weights lie exactly on the sixteen values. The update moves each of them a little, and most moves are
# smaller than half the way to the next value, so rounding puts the weight back where it was. You pay for the training, and
# the rounding throws a large part of it away. PEFT warns of this, as you saw, in words that sound harmless.
# How much is lost depends on how large the updates are beside the distances, so on your run it will be another share.
#
# The two ways that work end in 16 bits: restore the base with `dequantize()` and merge, or merge into the original weights.

# %%
def merge(base):
    """The adapter, added to the weights of a 16-bit base."""
    return PeftModel.from_pretrained(base, "tickets-qlora").merge_and_unload()


ways["merged, original base, 16 bits"] = mean_loss(merge(models.load()[0]))
merged = merge(models.load(quantization="nf4")[0].dequantize())
ways["merged, restored base, 16 bits"] = mean_loss(merged)
merged.save_pretrained("tickets-merged")
tokenizer.save_pretrained("tickets-merged")
lesson.merge_figure(ways)

# %% [markdown]
# The three blue bars keep what was learned. Merging into the *original* weights is what most people do, and it is a gamble
# that usually goes well: the adapter has learned on top of the rounded weights, partly to make up for their errors. So
# measure it, as you just did.
#
# From the 16-bit folder every road is open. If the model must be small again for serving, quantize it with a method that
# looks at real activations while it rounds, such as AWQ or GPTQ, or write a {{term:GGUF}} file, and **measure again
# afterwards**. These commands are *not run here*, since they need other programs or a GPU:
#
# ```bash
# python llama.cpp/convert_hf_to_gguf.py tickets-merged --outfile tickets-f16.gguf
# llama-quantize tickets-f16.gguf tickets-q4.gguf Q4_K_M          # 4 bits, for Ollama and llama.cpp
# vllm serve ./tickets-merged                                     # or 16 bits as it is
# vllm serve BASE --quantization bitsandbytes --enable-lora --lora-modules tickets=./tickets-qlora
# ```
#
# The last line serves what needs no merging at all: a 4-bit base with the adapter beside it. For AWQ and GPTQ, start from the
# examples of the library `llmcompressor`.

# %% [markdown]
# ## 10 · Mistakes to recognize, and what you can do now
#
# **Leaving out three arguments.** `load_in_4bit=True` alone gives something else than the recipe, and nothing complains.

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
print(f"counted with numel: {counted:,}; really: {models.load()[0].num_parameters():,}")

# %% [markdown]
# Whoever computes "percent trained" from this gets a number that is too high. PEFT's `print_trainable_parameters()` knows.
#
# **Training in pure bfloat16.** It is tempting to save memory by keeping trained weights in 16 bits too. {{term:Adam}}
# changes a weight by about the learning rate in each step. Can bfloat16 store a change that small?

# %%
lesson.rounded_steps(matrix)

# %% [markdown]
# At the learning rate of full fine-tuning most weights stay exactly where they were: the step is smaller than half the
# distance to the next 16-bit number. The run looks alive, because a few small weights do move. This is why trained weights
# get 32 bits ({{term:master weights}}), and why the recipe puts the adapter back into float32. Frozen weights do not move
# anyway, so they can be rounded to 4 bits.
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | train a model that does not fit | NF4, double quantization, compute dtype bfloat16 (T4: float16), adapter in float32 |
# | choose between LoRA and QLoRA | LoRA if the base fits in 16 bits, else QLoRA |
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
# **One more exercise,** on data of your own: how long may your examples be?

# %%
# EXERCISE: qlora-8

# %% [markdown]
# {{words}}
#
# ## Read on
#
# - Dettmers et al. (2023), *QLoRA: Efficient Finetuning of Quantized LLMs*, arXiv 2305.14314: sections 2 and 3 are readable now.
# - Huang et al. (2024), *How Good Are Low-bit Quantized LLaMA3 Models?*, arXiv 2404.14047: where four bits stop being free.
# - Lin et al. (2023), *AWQ: Activation-aware Weight Quantization*, arXiv 2306.00978: rounding for serving.
#
# Next, lesson 04 teaches a model to prefer one answer to another.
