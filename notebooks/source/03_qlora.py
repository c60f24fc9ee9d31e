# %% [markdown]
# # 03 · QLoRA: fine-tune a model that would not fit
#
# {{badges}}
#
# By the end you will be able to
#
# - write the 4-bit NormalFloat format and its double quantisation, and hold it against bitsandbytes, byte by byte,
# - say before a run how much memory it takes, on any card, and what to change if that is too much,
# - train an adapter on a 4-bit base and compare it with LoRA on quality, speed and memory,
# - find out whether every layer of a run really learns,
# - deploy the result without losing what was learned.
#
# {{timing}}
#
# **How to read it.** Predict what a cell will print, run it, compare. Figures that circulate stand in the claims table at the
# end, beside what this machine computed.

# %%
# INSTALL: qlora

# %% [markdown]
# ## 1 · The machine, the model, the task

# %%
import math
import tempfile
import warnings
from pydoc_data import topics

from course_utils import claims, evaluation, figures, hardware, memory, models, quantization, training, widgets
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz  # noqa: F401 - the exercises at the end use check
from course_utils.generation import generate

import bitsandbytes as bnb
import bitsandbytes.functional as bnbf
import torch
import transformers
from IPython.utils.capture import capture_output
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)  # between library versions; nothing a learner can act on
device = hardware.detect()
print("kind:", device.kind, "| tier:", device.tier, "| compute dtype:", device.dtype)

# %%
# Set-up by tier. A T4 has no bfloat16: it computes in float16, with adapters in float32 and loss scaling. Ampere and later
# compute in bfloat16.
FIELDS = ["category", "escalation", "product", "order_id"]
FIELDS_ALL = [*FIELDS, "summary"]
PLAN = {
    "cpu": {"fields": FIELDS, "examples": 320, "longest": 90, "answer": 56, "batch_size": 2, "learning_rate": 2e-3},
    "t4": {"fields": FIELDS_ALL, "examples": 842, "longest": 400, "answer": 96, "batch_size": 8, "learning_rate": 5e-4},
    "a100": {"fields": FIELDS_ALL, "examples": 842, "longest": 400, "answer": 96, "batch_size": 8, "learning_rate": 3e-4},
}[device.tier]
SEED = 0

base, tokenizer = models.load()
task = load_task("support_tickets", PLAN["fields"])
parameters = base.num_parameters()  # before anything is attached
print(f"{parameters:,} parameters in {base.dtype}; {len(task.train)} training and {len(task.test)} test messages")

# %% [markdown]
# Lesson 02 froze the base and trained two thin matrices beside it. What remains in memory is the frozen base: 16 GB for
# 8 billion parameters in 16 bits, more than a T4 has. It is only ever *read*. Must it be read in 16 bits?
#
# QLoRA (Dettmers et al., 2023, arXiv 2305.14314) keeps it in 4. Each matrix is *dequantised*, turned back into 16 bits, for
# the moment of its product, and gradients flow through to 16- or 32-bit adapters. Think of a library moved onto an e-reader:
# the books are compressed and read-only, your notes in the margin are not.

# %% [markdown]
# ## 2 · Four bits: which sixteen values?
#
# Four bits tell sixteen values apart. Weights are roughly normally distributed: many small ones, few large. So take values that
# lie close together where there are many weights: quantiles of the normal distribution, with an exact zero, scaled so that the
# outermost is 1. That is NF4, *4-bit NormalFloat*.

# %% tags=["nf4-from-scratch"]
def nf4_values():
    """Seven quantiles below zero, zero, eight above, scaled so that the largest is 1."""
    end = 0.9677083  # the outermost probability: 1 - (1/30 + 1/32) / 2, so that neither end is infinite
    above = torch.special.ndtri(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return (values / values.max()).float()

# %%
theirs = bnbf.get_4bit_type("nf4", device="cpu")
gap = (nf4_values() - theirs).abs().max().item()
print(" ".join(f"{value:+.3f}" for value in nf4_values()))
print(f"largest difference from bitsandbytes' table: {gap:.1e} (its numbers are typed in, rounded)")
assert gap < 2e-7

# %%
weight = base.model.layers[10].mlp.down_proj.weight.detach().float().cpu()
blocks = weight.reshape(-1, 64)
figures.histogram(
    blocks / blocks.abs().amax(1)[:, None],
    "Where one layer's weights lie, and the sixteen values of NF4", "weight, in units of the largest of its 64 neighbours",
    marks=nf4_values().tolist(),
)  # fmt: skip

# %% [markdown]
# The lines are the sixteen values. The spikes at both ends are no accident: of 64 neighbours, which share a scale, the largest
# is 1 or -1 by definition.
#
# ## 3 · Quantise, dequantise
#
# 64 neighbouring weights share one scale, their largest absolute value. Each weight becomes the number of the nearest of the
# sixteen values; two such numbers fit into a byte.

# %% tags=["nf4-from-scratch"]
def quantise(weight, values, block=64):
    """Codes, one for each weight, and one float32 scale for each block."""
    blocks = weight.float().reshape(-1, block)
    scales = blocks.abs().amax(1)
    scaled = blocks * (1 / scales.clamp(min=1e-38))[:, None]
    halfway = (values[1:] + values[:-1]) / 2
    return torch.bucketize(scaled, halfway).to(torch.uint8), scales


def dequantise_codes(codes, scales, values, like):
    """The weights that codes and scales stand for."""
    return (values[codes.long()] * scales[:, None]).reshape(like.shape).to(like.dtype)


def pack(codes):
    """Two codes a byte, the first in the upper half."""
    flat = codes.flatten()
    return flat[::2] << 4 | flat[1::2]

# %% [markdown]
# ### Is it what bitsandbytes stores?
#
# **Predict:** a million random weights and every linear layer of the real model. In how many bytes do the two differ?

# %%
def compare(weight):
    """Bytes and scales that differ, and weights that differ when dequantised."""
    packed, state = bnbf.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, scales = quantise(weight, theirs)
    back = dequantise_codes(codes, scales, theirs, weight)
    return torch.tensor([
        (pack(codes) != packed.flatten()).sum(), (scales != state.absmax).sum(), (back != bnbf.dequantize_4bit(packed, state)).sum(),
    ])  # fmt: skip


linears = {name: m.weight.detach().cpu() for name, m in base.named_modules() if name.endswith("_proj")}
if device.tier == "a100":  # 6.5 billion weights would take minutes; 70 layers show the same
    linears = dict(list(linears.items())[:70])
random_weights = torch.randn(1_000_000, generator=torch.Generator().manual_seed(SEED))
differ_random, differ_real = compare(random_weights), sum(compare(weight) for weight in linears.values())
print("random: bytes, scales, weights that differ:", differ_random.tolist())
print(f"{sum(w.numel() for w in linears.values()):,} real weights of {len(linears)} layers:", differ_real.tolist())
assert not differ_random.any()
assert not differ_real.any()

# %% [markdown]
# **Predict:** are all sixteen codes used equally often?

# %%
codes, _ = quantise(random_weights, theirs)
used = torch.bincount(codes.flatten().long(), minlength=16) / codes.numel()
figures.bars(
    {f"{value:+.2f}": 100 * share for value, share in zip(theirs.tolist(), used.tolist())},
    "How often each of the sixteen values is taken", "% of normally distributed weights",
)  # fmt: skip

# %% [markdown]
# Not equally: the quantiles are those of the normal distribution, but the largest of 64 weights, which is scaled to 1, lies
# further out than the outermost quantile. Everything is a little closer to zero than the values were made for.
#
# ## 4 · Quantise the scales too
#
# A float32 scale for 64 weights costs half a bit a weight, an eighth of what the codes take. *Double quantisation* stores the scales in
# 8 bits: their mean is taken off, 256 of them share one float32, and each becomes one of 256 values that are finer near zero.

# %% tags=["nf4-from-scratch"]
def eight_bit_values():
    """Zero, one, and seven decades on both sides, each with twice as many values as the one below it."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)
        values += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(values))


def double_quantise(scales, values, table=None):
    """8-bit codes of the scales, their own scales, and the mean that was taken off.

    `table`: bitsandbytes' CPU code looks codes up by the value rounded to so many steps.
    """
    mean = scales.mean()
    blocks = torch.nn.functional.pad(scales - mean, (0, -len(scales) % 256)).reshape(-1, 256)
    second = blocks.abs().amax(1)
    scaled = blocks / second[:, None]
    if table:
        scaled = ((scaled + 1) * 0.5 * table + 0.5).floor() / table * 2 - 1
    halfway = (values[1:] + values[:-1]) / 2
    return torch.bucketize(scaled, halfway).to(torch.uint8).flatten()[: len(scales)], second, mean

# %%
assert torch.equal(eight_bit_values(), bnbf.create_dynamic_map())
differ_table = differ_nearest = scales_seen = 0
for weight in [random_weights, *linears.values()]:
    packed, state = bnbf.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    _, scales = quantise(weight, theirs)
    codes, second, mean = double_quantise(scales, eight_bit_values(), table=65535)
    assert torch.equal(second, state.state2.absmax)
    assert torch.equal(mean, state.offset)
    differ_table += (codes != state.absmax).sum().item()
    differ_nearest += (double_quantise(scales, eight_bit_values())[0] != state.absmax).sum().item()
    scales_seen += len(scales)
print(f"{scales_seen:,} scales: {differ_table} codes differ with the table, {differ_nearest} from the exactly nearest")
assert differ_table == 0

# %% [markdown]
# The same bytes again, once we round as bitsandbytes' CPU code does: it looks the code up in a table of 65,536 entries, so that a
# scale that lies almost halfway between two codes can take the other one. That is harmless, and it took a bit-by-bit comparison
# to see it.
#
# **Predict:** how many bits does one weight take now?

# %% tags=["nbval-check-output"]
weight = linears["model.layers.10.mlp.down_proj"]
packed, state = bnbf.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
bits = 8 * (packed.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()) / weight.numel()
print(f"counted: {bits:.3f} bits a weight; by the formula 4 + 8/64 + 32/(64 x 256) = {4 + 8 / 64 + 32 / (64 * 256):.3f}")
print(f"without double quantisation: {4 + 32 / 64:.3f}")

# %%
ratios = {
    name: memory.estimate(name, "lora").weights / memory.estimate(name, "qlora").weights
    for name in ("Llama-2-7B", "Llama-3.1-8B", "Llama-3.1-70B", "SmolLM2-135M")
}
print({name: f"{ratio:.2f}x" for name, ratio in ratios.items()}, f"| linear layers alone: {16 / bits:.2f}x")
claims.check(
    "Q1",
    measured=f"linear layers {16 / bits:.2f}x; whole models: " + ", ".join(f"{name} {ratio:.1f}x" for name, ratio in ratios.items()),
    holds=all(ratio > 3.8 for ratio in ratios.values()),
    because="scales take their share, and embeddings and head stay in 16 bits: the larger the vocabulary beside the blocks, the less is won",
)

# %% [markdown]
# ### And the gradient?
#
# A 4-bit weight can't be multiplied as it is. In the forward pass each matrix is dequantised to 16 bits, used, and dropped;
# in the backward pass once more. The gradient then goes through the layer to whatever lies below, adapters included:

# %%
matrix = weight.float()
packed, state = bnbf.quantize_4bit(matrix, blocksize=64, quant_type="nf4")
x = torch.randn(4, matrix.shape[1], generator=torch.Generator().manual_seed(SEED), requires_grad=True)
bnb.matmul_4bit(x, packed, quant_state=state).square().sum().backward()
plain_x = x.detach().clone().requires_grad_()
(plain_x @ bnbf.dequantize_4bit(packed, state).T).square().sum().backward()
gap = ((x.grad - plain_x.grad).norm() / plain_x.grad.norm()).item()
print(f"gradient through the 4-bit layer against the dequantised matrix: relative difference {gap:.0e}")
assert gap < 1e-5

# %% [markdown]
# ## 5 · What does it cost in quality?
#
# Sixteen values can be chosen in other ways: FP4 (a tiny floating-point format, which spends two codes on zero), or evenly spaced
# integers from -7 to 7 (which leave one code unused). Three yardsticks: the error on normally distributed weights, on this
# model's own, and how much worse the model then predicts text: prose (the handbook that comes with every Python) and 40 customers'
# messages. **Predict** the order.

# %%
VALUES = {
    "NF4": theirs,
    "FP4": bnbf.get_4bit_type("fp4", device="cpu").sort().values,
    "INT4": torch.arange(-7, 8) / 7,
}


def replaced(weight, kind):
    """A weight as it comes back from 4 bits."""
    values = VALUES[kind.removesuffix(" + double")].to(weight.device)
    codes, scales = quantise(weight, values)
    if kind.endswith("double"):
        table = eight_bit_values().to(weight.device)
        codes8, second, mean = double_quantise(scales, table)
        scales = table[codes8.long()] * second.repeat_interleave(256)[: len(scales)] + mean
    return dequantise_codes(codes, scales, values, weight)


def relative_error(weights, kind):
    """Root mean square of the error over that of the weights."""
    lost = sum((replaced(w, kind).double() - w.double()).square().sum() for w in weights)
    return (lost / sum(w.double().square().sum() for w in weights)).sqrt().item()

# %%
TEXTS = {
    "prose": [text for _, text in sorted(topics.topics.items()) if 800 < len(text) < 6000][:16],
    "messages": [c[1]["content"] for c in task.validation[:40]],
}


def losses(model, texts):
    """Mean loss a token, for each text."""
    found = []
    for start in range(0, len(texts), 2):
        batch = tokenizer(texts[start : start + 2], return_tensors="pt", padding=True, truncation=True, max_length=256).to(model.device)
        with torch.no_grad():
            logs = torch.log_softmax(model(**batch).logits[:, :-1].float(), -1)
        logs = logs.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        real = batch["attention_mask"][:, 1:] * batch["attention_mask"][:, :-1]
        found += (-(logs * real).sum(1) / real.sum(1)).tolist()
    return found


before = {what: losses(base, texts) for what, texts in TEXTS.items()}
print("perplexity:", {what: round(math.exp(evaluation.mean(values).value), 1) for what, values in before.items()})

# %%
originals = {name: weight.clone() for name, weight in linears.items()}
errors, worse = {}, {what: {} for what in TEXTS}
for kind in ("NF4", "NF4 + double", "FP4", "INT4"):
    for name, weight in originals.items():
        base.get_submodule(name).weight.data.copy_(replaced(weight, kind))
    for what, texts in TEXTS.items():
        worse[what][kind] = evaluation.mean([b - a for a, b in zip(before[what], losses(base, texts))])
    errors[kind] = relative_error([random_weights], kind), relative_error(list(originals.values())[63:70], kind)
for name, weight in originals.items():
    base.get_submodule(name).weight.data.copy_(weight)
del originals
memory.release()
unquantised = str(base.dtype).removeprefix("torch.")
print(f"{'':<13} error, normal  error, real  perplexity of prose   nats a token above {unquantised}, 95 % interval over texts: prose, messages")
for kind, (normal, real) in errors.items():
    perplexity = math.exp(evaluation.mean(before["prose"]).value + worse["prose"][kind].value)
    spread = "   ".join(f"{w[kind].value:+.3f} [{w[kind].low:+.3f}, {w[kind].high:+.3f}]" for w in worse.values())
    print(f"{kind:<13} {normal:>13.4f}  {real:>11.4f}  {perplexity:>19.1f}   {spread}")

# %% [markdown]
# On weights and on prose NF4 loses least, and double quantisation costs nothing that can be seen. On the messages, bare and full of
# slips, which this model predicts badly to begin with, the order need not be the same: a smaller error of the weights is no promise
# for every text. Two more reservations on the CPU tier: the packaged model's weights had been stored in 4 bits before (another
# format, Q4_1), so "unquantised" is not untouched there; and 135M parameters suffer more from rounding than 7 billion.

# %%
prose = worse["prose"]
if device.tier == "cpu":  # larger models lose so little that the order is within the noise
    assert prose["NF4"].high < min(prose["FP4"].low, prose["INT4"].low)
assert abs(prose["NF4"].value - prose["NF4 + double"].value) < 0.05
figures.bars({kind: score.value for kind, score in prose.items()}, "What 4 bits cost on prose", f"nats a token above {unquantised}, lower is better")

# %% [markdown]
# ## 6 · Will it fit? Predict, run, compare
#
# A step holds weights, gradients, optimiser states, what the blocks keep for their backward pass, and the logits.
# `memory.estimate` adds them up from a model's configuration alone; no weights are loaded. **Predict** for Llama-3.1-8B, one
# sequence of 1,024 tokens, checkpointing: how many GB do full fine-tuning, LoRA and QLoRA take, and which fits on a T4?

# %%
SETTINGS = {"batch_size": 1, "length": 1024, "checkpointing": True}
for method in ("full", "lora", "qlora"):
    found = memory.estimate("Llama-3.1-8B", method, **SETTINGS)
    print(f"{method:<6} {found.total / 1e9:6.1f} GB, highest at: {found.phase}; {memory.advice(found, 'Llama-3.1-8B', 't4')}\n")

# %%
widgets.memory_bars("Llama-3.1-8B", **SETTINGS)

# %% [markdown]
# The same as something to play with, where your notebook can show widgets. Which matters more at length 4,096: the method or
# checkpointing?

# %%
widgets.memory_explorer()

# %%
for method in ("lora", "qlora"):
    at = {c: memory.estimate("Llama-3.1-8B", method, length=4096, checkpointing=c).total / 1e9 for c in (True, False)}
    print(f"{method:<6} 4,096 tokens: {at[True]:.0f} GB with checkpointing, {at[False]:.0f} GB without")

# %% [markdown]
# ### The table that circulates, recomputed
#
# Each row adds everything that a step holds at batch 1 and 1,024 tokens with checkpointing, and what a card needs beside tensors.
# A figure counts as right if the estimate is at most 15 % above it (it would still fit) and at most 25 % below.

# %%
TABLE = {("Llama-2-7B", "full"): 60, ("Llama-2-7B", "lora"): 17, ("Llama-2-7B", "qlora"): 6,
         ("Llama-2-70B", "full"): 600, ("Llama-2-70B", "lora"): 160, ("Llama-2-70B", "qlora"): 35}  # fmt: skip
needs = {key: memory.estimate(key[0], key[1], **SETTINGS).total / 1e9 for key in TABLE}
for (name, method), claimed in TABLE.items():
    gb = needs[name, method]
    print(f"{name:<12} {method:<6} claimed {claimed:>4} GB, estimated {gb:6.1f} GB ({100 * (gb / claimed - 1):+.0f} %)")
usual = memory.estimate("Llama-2-7B", "full", precision="amp", **SETTINGS).total / 1e9
wrong = [key for key, claimed in TABLE.items() if not 0.75 <= needs[key] / claimed <= 1.15]
claims.check(
    "L1",
    measured="; ".join(f"{n} {m}: {needs[n, m]:.0f} GB, claimed {c}" for (n, m), c in TABLE.items()),
    holds=not wrong,
    because=f"{', '.join(f'{n} {m} takes {needs[n, m]:.0f} GB' for n, m in wrong)}; and 'full' is in pure bfloat16: with float32 weights "
    f"and autocast, the usual default, 7B takes {usual:.0f} GB",
)

# %%
CARDS = {"RTX 3060": "rtx3060", "RTX 4090": "rtx4090", "A100 of 40 GB": "a100-40gb", "A100 of 80 GB": "a100"}
ROOM = 0.9  # the same tenth of a card as in lesson 02 stays free, here for what an estimate can't know


def on(card, name, method):
    """Whether a step at these settings fits on a card."""
    return memory.estimate(name, method, **SETTINGS).total <= ROOM * memory.GPUS[CARDS[card]]


claimed = [("RTX 4090", "Llama-2-7B", "lora"), ("RTX 3060", "Llama-2-7B", "qlora"),
           ("A100 of 80 GB", "Llama-2-70B", "qlora"), ("A100 of 80 GB", "Llama-3.1-70B", "qlora")]  # fmt: skip
beside = [("A100 of 40 GB", "Llama-2-70B", "qlora"), ("A100 of 40 GB", "Llama-3.1-70B", "qlora"),
          ("A100 of 80 GB", "Llama-2-7B", "full")]  # fmt: skip
assert [on(*case) for case in beside] == [False, False, True]  # which the verdict says in words
claims.check(
    "L2",
    measured=f"whole steps in {100 * ROOM:.0f} % of the card: " + "; ".join(
        f"{name} {method} on {card}: {'fits' if on(card, name, method) else 'does not fit'}"
        for card, name, method in claimed + beside
    ),
    holds=all(on(*case) for case in claimed),
    when="the A100 for 70B is the one with 80 GB, for Llama-2-70B as for Llama-3.1-70B; and 'full' needs no cluster at 7B: "
    "in pure bfloat16 one such card is enough",
    because="one of the pairs does not fit",
)

# %%
seventy = {method: memory.estimate("Llama-3.1-70B", method, **SETTINGS) for method in ("lora", "qlora")}
shape = memory.ARCHITECTURES["Llama-3.1-70B"]
tables = 2 * 2 * shape["vocab_size"] * shape["hidden_size"]  # embedding and head, which stay in 16 bits
weights, step = seventy["qlora"].weights / 1e9, seventy["qlora"].total / 1e9
claims.check(
    "Q3",
    measured=f"Llama-3.1-70B weights: {seventy['lora'].weights / 1e9:.0f} GB in 16 bits, {weights:.1f} GB with NF4; a QLoRA "
    f"step {step:.0f} GB",
    holds=step <= 36,
    because=f"the linear layers alone take {weights - tables / 1e9:.0f} GB. With embeddings, head, adapter and activations "
    f"it is {step:.0f} GB: more than an A100 of 40 GB has; one of 80 GB is enough",
)

# %%
count = memory.count_parameters("Llama-3.1-8B", 16, ["q_proj", "k_proj", "v_proj", "o_proj"])
half = memory.count_parameters("Llama-3.1-8B", 8)
print("q, k, v, o:", count, "| r=8 on all seven:", half)
claims.check(
    "Q4",
    measured=str(count),
    holds=(count.trainable, count.total) == (20_971_520, 8_051_249_152),
    because=f"keys and values of Llama-3.1 are shared by four heads, so k and v are 4096 to 1024. {half.trainable:,} belongs to r=8 on all seven "
    f"layers, and even then the total would be {half.total:,}",
)

# %% [markdown]
# ## 7 · Train on four bits
#
# LoRA and QLoRA, same data, same order, same adapter at the start. `models.load(quantization="nf4")` loads the base in 4
# bits with double quantisation; everything else stays as it was in lesson 02.

# %%
objective = training.SFT()
lengths = [len(objective.encode(tokenizer, example, 4096, "train")) for example in task.train]
chosen = [example for example, length in zip(task.train, lengths) if length <= PLAN["longest"]][: PLAN["examples"]]
settings = training.Settings(learning_rate=PLAN["learning_rate"], batch_size=PLAN["batch_size"], warmup_steps=10, seed=SEED)


def new_adapter(model):
    """The same fresh adapter on any base."""
    torch.manual_seed(SEED)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def train(model):
    """Train a fresh adapter; returns the model and its history."""
    tuned = new_adapter(model)
    history = training.fit(tuned, tokenizer, chosen, settings=settings)
    memory.release()
    return tuned, history


lora, lora_history = train(base)
print("LoRA: ", lora_history)

# %%
four_bit, _ = models.load(quantization="nf4")
layers = quantization.four_bit_layers(four_bit)
stored = sum(m.weight.numel() + sum(t.numel() * t.element_size() for t in (m.weight.quant_state.absmax, m.weight.quant_state.state2.absmax))
             for m in layers.values())  # fmt: skip
values = sum(m.in_features * m.out_features for m in layers.values())
print(f"{len(layers)} layers with {values:,} weights in {stored / 1e6:.1f} MB: {8 * stored / values:.3f} bits each")
qlora, qlora_history = train(four_bit)
print("QLoRA:", qlora_history)

# %%
figures.learning_curve({"LoRA": lora_history, "QLoRA": qlora_history}, "The same data on 16 and on 4 bits")

# %% [markdown]
# ### Speed
#
# Each product now begins with dequantising a matrix. **Predict:** how much longer does a step take, and does it matter how
# many tokens it has? A few steps of each with batches of four, in turns, so that a busy machine hurts both alike:

# %%
def timed(tuned):
    """Seconds and tokens of a step; at a learning rate that changes nothing."""
    few = training.Settings(learning_rate=1e-12, batch_size=4, max_steps=2, seed=SEED)
    with capture_output():
        history = training.fit(tuned, tokenizer, chosen[:8], settings=few)
    return history.seconds / 2, history.tokens // 2


pairs = [(timed(lora), timed(qlora)) for _ in range(6)][1:]
slower = evaluation.mean([q / p for (p, _), (q, _) in pairs])
print(f"QLoRA takes {slower.value:.2f} times as long as LoRA, 95 % interval [{slower.low:.2f}, {slower.high:.2f}]")

# %% [markdown]
# The two training runs above had batches of another size (they ran one after the other, which is less fair). Each matrix is
# dequantised once a pass, however many tokens go through it. If that is the cost, it is about as many milliseconds a step at
# both sizes, and a smaller share of a larger step:

# %%
number = len(lora_history.steps)
runs = lora_history.seconds, qlora_history.seconds
by_size = [  # tokens of a step, QLoRA's time over LoRA's, seconds more a step
    (lora_history.tokens // number, runs[1] / runs[0], (runs[1] - runs[0]) / number),
    (pairs[0][0][1], slower.value, evaluation.mean([q - p for (p, _), (q, _) in pairs]).value),
]
slowdowns = [f"{100 * (ratio - 1):+.0f} % at about {n} tokens a step ({1000 * more:+.0f} ms)" for n, ratio, more in by_size]
print("QLoRA's time beside LoRA's:", "; ".join(slowdowns))

# %% [markdown]
# If the milliseconds agree, that is the whole cost. If they grow with the step, something that grows with tokens is slower too.

# %%
inside = [f"about {n} tokens" for n, ratio, _ in by_size if 1.2 <= round(ratio, 2) <= 1.3]
depends = (
    "a matrix is dequantised once a pass, however many tokens go through it, so that the share depends on tokens a step, on "
    "kernels and card (Raschka, 2023, measured 39 % more time on one GPU)"
)
claims.check(
    "Q2",
    measured=f"time on this machine {'; '.join(slowdowns)}, 95 % interval of the latter "
    f"[{100 * (slower.low - 1):+.0f}, {100 * (slower.high - 1):+.0f}]",
    holds=bool(inside),
    when=f"a step has {' or '.join(inside)}, of the two sizes measured: {depends}",
    because=f"neither of the two sizes gave 20 to 30 %: {depends}",
)

# %% [markdown]
# ### Memory: predicted against measured

# %%
def frozen_megabytes(model):
    """Frozen weights; for 4-bit ones with their scales."""
    size = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    for module in quantization.four_bit_layers(model).values():
        state = module.weight.quant_state
        size += state.absmax.numel() + 4 * state.state2.absmax.numel()
    return size / 1e6


for name, tuned, history in (("LoRA", lora, lora_history), ("QLoRA", qlora, qlora_history)):
    print(f"{name:<6} frozen base {frozen_megabytes(tuned):,.0f} MB; {history.memory}")
embedding = four_bit.get_input_embeddings().weight
print(f"of QLoRA's base the embedding takes {embedding.numel() * embedding.element_size() / 1e6:,.0f} MB, as before")

# %% [markdown]
# The linear layers shrink. The embedding, which is large in a small model, does not. What a step adds is predicted to be
# about the same for both, since activations do not depend on how weights are stored. Where the line says *resident memory*
# (on a CPU), the measured figures can still differ: a run reuses room that earlier ones have freed, and only new room is
# counted.

# %% [markdown]
# ### After
#
# Both answer the 100 test messages of lesson 02, whose scores may be a little kind (see there). For that each adapter is
# merged into 16-bit weights, those of the base it was trained on: LoRA's into the original, QLoRA's into the *dequantised*
# 4-bit base. Section 9 measures how much that choice matters.

# %%
def dequantised(model):
    """A 16-bit copy of a 4-bit model, with the weights that its 4 bits stand for."""
    dense, _ = models.load()
    for name, module in quantization.four_bit_layers(model).items():
        name = name.removeprefix("base_model.model.").removesuffix(".base_layer")
        dense.get_submodule(name).weight.data.copy_(quantization.dense(module.weight, dense.dtype))
    return dense


def merged(tuned, onto):
    """`onto` with the adapter of `tuned` added to its weights."""
    with tempfile.TemporaryDirectory() as folder:
        tuned.save_pretrained(folder)
        return PeftModel.from_pretrained(onto, folder).merge_and_unload()


def score(model):
    """Answers to the test set, scored."""
    return task.evaluate(generate(model, tokenizer, task.prompts(), max_new_tokens=PLAN["answer"], batch_size=25))


lora_scores = score(lora.merge_and_unload())
names = [name.removeprefix("base_model.model.").removesuffix(".base_layer") for name in quantization.four_bit_layers(qlora)]
del lora, base, linears, weight  # no longer needed: room for what comes
memory.release()
qlora_merged = merged(qlora, dequantised(qlora))
qlora_scores = score(qlora_merged)
memory.release()


def main_scores(scores):
    return {"valid format": scores.valid} | {f"{field} right": scores.exact[field] for field in ("category", "escalation", "order_id")}


for name, scores in {"LoRA": lora_scores, "QLoRA": qlora_scores}.items():
    print(f"{name:<6}", "; ".join(f"{what} {value}" for what, value in main_scores(scores).items()))
figures.intervals({"LoRA": main_scores(lora_scores), "QLoRA": main_scores(qlora_scores)}, "100 test messages")

# %%
def right(scores, field):
    """1 for each test message whose field is right, else 0."""
    return [int(record is not None and record[field] == wanted[field]) for record, wanted in zip(scores.records, task.references())]


apart = qlora_scores.valid.value - lora_scores.valid.value
judged = {
    field: evaluation.mean([q - p for q, p in zip(right(qlora_scores, field), right(lora_scores, field))])
    for field in ("category", "escalation")
}
points = {f: f"{100 * s.value:+.0f} [{100 * s.low:+.0f}, {100 * s.high:+.0f}]" for f, s in judged.items()}
hidden = max(0, *(-100 * score.low for score in judged.values()))
assert apart >= -0.1
claims.check(
    "Q5",
    measured=f"valid format: QLoRA {qlora_scores.valid}, LoRA {lora_scores.valid}; QLoRA less LoRA, points: "
    + "; ".join(f"{field} {text}" for field, text in points.items()),
    holds=apart >= -0.03 and all(score.high >= 0 for score in judged.values()),
    when=f"'keeps' means no more than that {len(task.test)} messages show no loss on a simple behaviour. QLoRA was compared "
    "with LoRA on the unquantised base; full fine-tuning was not run. No difference found is not equality: a true loss of up "
    f"to {hidden:.0f} points would still fit these intervals. The base itself got worse by "
    f"{prose['NF4 + double'].value:.2f} nats a token of prose",
    because="QLoRA's answers were measurably worse than LoRA's on the same data; full fine-tuning was not run",
)

# %% [markdown]
# ## 8 · A detective story: same model, same seed, one difference
#
# Two colleagues train the same small 4-bit model on the same CPU. One evaluates once before training, one does not. Both see a
# loss that looks fine. **Predict:** do they compute the same gradients?

# %%
folder = tempfile.mkdtemp()
torch.manual_seed(SEED)
AutoModelForCausalLM.from_config(LlamaConfig(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)).save_pretrained(folder)  # fmt: skip


def colleague(evaluates_first, guarded=False):
    """Loss and gradients of the adapter at the first step."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32, device_map="cpu")
    if guarded:
        quantization.guard(model)
    torch.manual_seed(SEED)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    ids = torch.arange(3, 67).view(2, 32)
    if evaluates_first:
        with torch.no_grad():
            model.eval()(input_ids=ids)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        loss = model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
    gradients = {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, [str(warning.message) for warning in heard]


def together(gradients, part=""):
    """The gradients of all layers of a kind as one vector."""
    return torch.cat([gradient for name, gradient in gradients.items() if part in name])


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=0).item()

# %%
loss_a, gradient_a, _ = colleague(False)
loss_b, gradient_b, heard = colleague(True)
print(f"losses {loss_a:.4f} and {loss_b:.4f}")
for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
    a, b = together(gradient_a, part), together(gradient_b, part)
    print(f"{part:<10} cosine of the two gradients {cosine(a, b):+.3f}, length {(b.norm() / a.norm()).item():.2f} of what it should be")
print("said by PyTorch:", heard[0].split(". This behavior")[0] if heard else "nothing")

# %% [markdown]
# **What happened** (on CPUs with AVX512-BF16; elsewhere the two agree): an evaluation forward makes bitsandbytes repack each 4-bit
# matrix in place, for fast inference. The repacked product has no backward pass. What comes along the residual stream and through
# the adapters still arrives, what should come through the 4-bit matrices does not. So every layer but the last gets a gradient
# that points elsewhere. No exception, no NaN, a loss that looks right, and one warning that is easily lost in a log.
#
# `models.load(quantization=...)` and `training.fit` guard against it: one attribute of each layer, set before the first forward.

# %%
repacks = bool(bnbf.has_avx512bf16())
gradient_c = colleague(True, guarded=True)[1]
agreement = cosine(together(gradient_a), together(gradient_c))
print(f"this CPU repacks: {repacks}; with the guard the cosine of all gradients is {agreement:.6f}, without {cosine(together(gradient_a), together(gradient_b)):.3f}")
assert agreement > 0.999
assert not repacks or cosine(together(gradient_a), together(gradient_b)) < 0.97

# %% [markdown]
# The lesson outlives the bug: *a falling loss is no proof that everything trains.* Compare gradients once with a slow, simple
# version of the same step, as you just did.

# %% [markdown]
# ## 9 · Why a 4-bit base can't simply be merged
#
# Lesson 02 merged the adapter into the base for free. Into 4 bits? **Predict:** of one layer's weights, how many take
# another code when the update is added?

# %%
def rounded_again(name):
    """A layer's update, what is left of it once base plus update is rounded to 4 bits, which codes change, the scales."""
    module = qlora.base_model.model.get_submodule(name)
    old = quantization.dense(module.base_layer.weight, torch.float32)
    update = module.get_delta_weight("default").detach().float()
    nf4 = theirs.to(old.device)
    codes, scales = quantise(old + update, nf4)
    return update, dequantise_codes(codes, scales, nf4, old) - old, codes != quantise(old, nf4)[0], scales


update, left, changed, scales = rounded_again("model.layers.10.mlp.down_proj")
distance = scales.mean().item() * (theirs[1:] - theirs[:-1]).mean().item()
print(f"one layer: typical update {update.abs().mean().item():.1e}, typical distance between two values {distance:.1e}; "
      f"{100 * changed.float().mean().item():.2f} % of its codes change")

# %% [markdown]
# The weights of a dequantised base lie *on* the sixteen values, each times its block's scale. A weight that is moved by less
# than half the distance to the next value is rounded back to where it was. Over all layers, how much of the update survives?
# (What is left, projected on the update: 100 % if all of it arrives, 0 % if none.)

# %%
sums = {}
for name in names:
    update, left, changed, _ = rounded_again(name)
    found = changed.numel(), changed.sum(), update.square().sum(), (left * update).sum(), (left - update).square().sum()
    sums[name] = [float(value) for value in found]
del update, left, changed
total, moved, size, arrived, lost = map(sum, zip(*sums.values()))
share = {name: 100 * row[3] / row[2] for name, row in sums.items()}
print(f"{100 * moved / total:.2f} % of {total:,.0f} codes change; {100 * arrived / size:.1f} % of the update survives "
      f"(by layer {min(share.values()):.1f} to {max(share.values()):.1f} %, most in {max(share, key=share.get)})")
print(f"the error is {math.sqrt(lost / size):.2f} times the update; dropping it altogether would make 1.00")
if device.tier == "cpu":
    assert moved < 0.5 * total

# %% [markdown]
# What gets through takes two ways. The largest weight of a block sets its scale, so it arrives whole, and moves its 63
# neighbours with it, wherever they should go. And where a layer's update is large beside the distances, codes do change. The
# rest is dropped. PEFT's `merge_and_unload()` on a 4-bit model rounds in this way, with a warning. What is left of what was
# *learned*? The loss on answers to 40 validation messages, four ways:

# %%
def answer_loss(model):
    """Loss a token of the right answers to 40 validation messages."""
    examples = [objective.encode(tokenizer, example, 4096, "validation") for example in task.validation[:40]]
    sizes, total = objective.normalizers(examples), 0.0
    with torch.no_grad():
        for start in range(0, len(examples), 4):
            batch = objective.collate(examples[start : start + 4], tokenizer.pad_token_id)
            batch = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
            total += objective.loss(model.eval(), batch, sizes).value.item()
    return total


left = {"no adapter": answer_loss(models.load()[0])}
left["merged into the dequantised base"] = answer_loss(qlora_merged)
for name in names:
    weight = qlora_merged.get_submodule(name).weight.data
    weight.copy_(replaced(weight, "NF4"))
left["... and rounded to 4 bits again"] = answer_loss(qlora_merged)
del qlora_merged
memory.release()
left["merged into the original base"] = answer_loss(merged(qlora, models.load()[0]))
memory.release()
figures.bars(left, "Where to merge a QLoRA adapter", "loss on right answers, nats a token")

# %% [markdown]
# Three ways keep what was learned: serve the 4-bit base with the adapter beside it; merge into the *dequantised* base, which
# then takes 16 bits; or merge so and quantise again with a method that looks at activations (GPTQ, AWQ), and then **measure
# again**. Merging into the original weights is common; the adapter has learned on top of the rounded ones, so measure that
# too:

# %%
here, original = left["merged into the dequantised base"], left["merged into the original base"]
gain = left["no adapter"] - here
again = left["... and rounded to 4 bits again"]
print(f"dequantised base {here:.3f}, original base {original:.3f}: apart by {100 * abs(here - original) / gain:.1f} % of "
      f"what training gained; rounding again loses {100 * (again - here) / gain:.0f} % of it")
assert here < again
assert here < left["no adapter"]

# %% [markdown]
# ## 10 · Paged optimisers: a valve for peaks
#
# Batches differ in length, so memory comes in peaks. A *paged* optimiser keeps its states where the driver can move them to the
# CPU's memory when a peak needs the room. How much room is that? Fifty batches of four on a T4, Llama-3.1-8B, padded to lengths
# that are lognormal:

# %%
generator = torch.Generator().manual_seed(SEED)
drawn = (torch.randn(50, generator=generator) * 0.5 + 6.4).exp().clamp(64, 4096).int().tolist()
steps = [memory.estimate("Llama-3.1-8B", "qlora", batch_size=4, length=length, checkpointing=True) for length in drawn]
over = [step for step in steps if not step.fits("t4")]
states = steps[0].optimizer / 1e9
saved = [step for step in over if step.total - step.optimizer <= memory.GPUS["t4"]]
print(f"{len(over)} of 50 batches are over a T4's {memory.GPUS['t4'] / 1e9:.1f} GB; paging can move {states:.2f} GB and saves {len(saved)} of them")
assert over
figures.points(
    {"a step": (range(1, 51), [step.total / 1e9 for step in steps]), "T4": ((1, 50), [memory.GPUS["t4"] / 1e9] * 2)},
    "Memory of 50 steps of different length", "step", "GB",
)  # fmt: skip

# %% [markdown]
# With LoRA the optimiser's states are small, and so is what the valve lets off: sort by length, cap the length, or checkpoint
# first. Where paging matters is full fine-tuning, whose states weigh as much as the 16-bit weights even in 8 bits:

# %%
for method in ("qlora", "full"):
    one = memory.estimate("Llama-3.1-8B", method, optimizer="paged_adamw_8bit", **SETTINGS)
    print(f"{method:<6} states that can move: {one.optimizer / 1e9:5.2f} GB of {one.total / 1e9:5.1f} GB")

# %% [markdown]
# ## 11 · Settings for your card
#
# | | T4 (compute capability 7.5) | Ampere and later (8.0 and up) |
# | --- | --- | --- |
# | compute dtype (`bnb_4bit_compute_dtype`) | float16 | bfloat16 |
# | adapters | float32, with loss scaling | float32 |
# | attention | SDPA | SDPA or FlashAttention 2 |
# | 4-bit type, double quantisation | NF4, yes | NF4, yes |
# | checkpointing | yes | when a batch would not fit |
#
# `torch.cuda.is_bf16_supported()` says yes on a T4, by emulation, and everything becomes slow: ask for the compute capability.
# The default of `bnb_4bit_compute_dtype` is float32, which is slow on every GPU; a CPU without bfloat16 has nothing faster.

# %%
config = quantization.config("nf4", device.torch_dtype())
print({name: str(getattr(config, name)) for name in
       ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")})  # fmt: skip

# %% [markdown]
# By hand it is four calls, here on the detectives' small model, with the adapter that most tutorials use:

# %%
small = AutoModelForCausalLM.from_pretrained(
    folder, quantization_config=config, dtype=device.torch_dtype(), device_map={"": device.kind if device.kind == "cpu" else 0}
)
quantization.guard(small)
small = prepare_model_for_kbit_training(small)
small = get_peft_model(small, LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"))
print({str(p.dtype).removeprefix("torch."): name for name, p in small.named_parameters() if "layers.0" in name or "embed" in name})
small.print_trainable_parameters()

# %% [markdown]
# `prepare_model_for_kbit_training` freezes the base, turns on checkpointing, and turns *everything that is not in 4 bits* into
# float32. The course leaves it out: the adapter freezes the base anyhow, checkpointing is your choice, and float32 has its price:

# %%
for name in ("Llama-2-7B", "Llama-3.1-8B"):
    shapes = memory.build_without_weights(name)
    in_4_bits = sum(m.weight.numel() for part, m in shapes.named_modules() if part.endswith("_proj"))
    rest = shapes.num_parameters() - in_4_bits
    print(f"{name}: embeddings, head and norms from {2 * rest / 1e9:.1f} GB to {4 * rest / 1e9:.1f} GB")

# %% [markdown]
# **Use LoRA when the base fits in 16 bits, QLoRA when it would not.** What QLoRA saves is memory of weights; it saves neither
# activations nor time.

# %% [markdown]
# ## 12 · Common mistakes, live
#
# **Counting a 4-bit model's parameters by `numel`.** Two weights hide in each byte:

# %%
plain = sum(p.numel() for p in four_bit.parameters() if not p.requires_grad)
print(f"sum of numel: {plain:,}; real: {parameters:,}")
assert plain == parameters - values // 2

# %% [markdown]
# **Forgetting three arguments.** `load_in_4bit=True` alone does not give what the paper describes:

# %%
alone = BitsAndBytesConfig(load_in_4bit=True)
print(alone.bnb_4bit_quant_type, "| double quantisation:", alone.bnb_4bit_use_double_quant,
      "| compute dtype:", alone.bnb_4bit_compute_dtype)  # fmt: skip
assert (alone.bnb_4bit_quant_type, alone.bnb_4bit_use_double_quant, alone.bnb_4bit_compute_dtype) == ("fp4", False, torch.float32)

# %% [markdown]
# **Believing a rule of thumb.** "Two bytes a parameter, and a bit" leaves out what grows with your batch:

# %%
for batch, length in ((1, 512), (4, 2048)):
    found = memory.estimate("Llama-3.1-8B", "qlora", batch_size=batch, length=length)
    print(f"batch {batch} x {length}: {found.total / 1e9:5.1f} GB, of which the weights are {100 * found.weights / found.total:.0f} %")

# %% [markdown]
# ## 13 · Claims of this lesson

# %%
table = claims.table()
assert [claim.id for claim in table] == ["L1", "L2", "Q1", "Q2", "Q3", "Q4", "Q5"]
table

# %% [markdown]
# ## 14 · Quiz
#
# Each choice opens to say why it is right or wrong. `quiz("03").answer(1, "b")` says the same as text.

# %%
quiz("03")

# %% [markdown]
# ## 15 · Exercises
#
# Write the body, run the cell, run the check. It tells you what is wrong; after the third try it gives a hint.

# %%
# EXERCISE: qlora-1

# %%
# EXERCISE: qlora-2

# %%
# EXERCISE: qlora-3

# %%
# EXERCISE: qlora-4

# %%
# EXERCISE: qlora-5

# %% [markdown]
# ## What you have seen
#
# - NF4 is sixteen quantiles and a scale for 64 weights; a page of code stores the library's very bytes, 4.127 bits a weight.
# - The base in 4 bits loses a little. Whether answers after training do is claim Q5, with what 100 messages could hide.
# - Memory can be known before the run. Of the circulating figures, the 35 GB for a 70B QLoRA run is too low.
# - A loss that falls proves nothing about the gradients below.
#
# Next, lesson 04 teaches a model to prefer one answer to another.
