# %% [markdown]
# # 03 · QLoRA: train a model that doesn't fit
#
# {{badges}}
#
# > `torch.OutOfMemoryError: CUDA out of memory.`
#
# | Llama-3.1-8B, LoRA of rank 16, examples of 1,024 tokens | memory of a training step | runs on |
# | --- | --- | --- |
# | eight examples at once, the defaults of transformers' `Trainer` | {{estimate:Llama-3.1-8B lora batch_size=8 length=1024:.0f}} GB | one H200 |
# | one at a time, eight accumulated before each update | {{estimate:Llama-3.1-8B lora length=1024 accumulation=8:.0f}} GB | a 32 or 40 GB card |
# | and {{term:gradient checkpointing}} | {{estimate:Llama-3.1-8B lora length=1024 accumulation=8 checkpointing:.0f}} GB | 24 GB |
# | and the base in 4 bits: QLoRA | {{estimate:Llama-3.1-8B qlora length=1024 accumulation=8 checkpointing embeddings=float32:.0f}} GB | 16 GB |
# | and the rest kept in 16 bits | {{estimate:Llama-3.1-8B qlora length=1024 accumulation=8 checkpointing:.0f}} GB | 12 GB |
#
# {{term:LoRA}} only reads the model's own {{term:weight|weights}} and never changes them, so {{term:QLoRA}} (Dettmers
# et al., 2023) can store the linear layers' weights in 4 bits instead of 16, and the model fits on a smaller card.
# But the first two changes, the second of which TRL makes by default, leave the model as it is and save four fifths. So
# **if a step fits with the base in 16 bits, start with LoRA; if not, with QLoRA.**
#
# By the end you'll be able to
#
# - train an {{term:adapter}} on a 4-bit base with the usual libraries, and save it,
# - say before a run how much memory it takes, and which setting to change if that is too much,
# - merge and serve the result without losing what it learned,
# - explain {{term:NF4}} and {{term:double quantization}}, and check your own version against bitsandbytes,
# - say what 4 bits cost in quality and time.
#
# You should know lesson 02. Reading takes about 40 minutes, the exercises as long again. {{timing}} If you only need a run
# to fit, read sections 1 and 2.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All clears all outputs
# before refilling them. To recover the recorded page, run `course restore 03` in a terminal.

# %%
# INSTALL: qlora,trl

# %%
import json
import warnings

import pandas as pd
import torch
from course_utils import charts, evidence, hardware, memory, models, plans, preflight, quantization, show
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz

device, plan = hardware.detect(), plans.plan("03")
task = load_task("support_tickets", list(plan.fields))
short = [chat for chat in task.train if len(chat[1]["content"]) <= plan.longest][: plan.examples]
for name, chats in {"train": short, "validation": task.validation[:12]}.items():
    with open(f"qlora-{name}.jsonl", "w") as file:
        for chat in chats:
            file.write(json.dumps({"prompt": chat[:-1], "completion": chat[-1:]}) + "\n")
learning_rate, tickets_a_step, answer_tokens = plan.learning_rate, plan.batch_size, plan.answer_tokens
place, dtype, on_cpu = device.place(), device.torch_dtype(), device.kind == "cpu"
print(f"{len(short)} tickets, {tickets_a_step} a step, learning rate {learning_rate}; computes in {dtype} on {device.name}")

# %% [markdown]
# The task is lesson 02's: a customer's message becomes a record. On a CPU you'll train the small model on a few short
# tickets, to see every part of a QLoRA run work.

# %% [markdown]
# ## 1 · The job: LoRA, and a few lines more
#
# A QLoRA run is lesson 02's program with the base loaded in 4 bits. The first cell below checks the data and the
# chat template. The second loads the model and the third trains it. Only the loading step and one short loop before
# `trainer.train()` are new.

# %%
preflight.check("qlora-train.jsonl", device.tier, evaluation="qlora-validation.jsonl", method="qlora", learning_rate=learning_rate)

# %%
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

base = models.fetch()     # its folder on this machine; at work a name on the hub
four_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",             # which sixteen values: section 4
    bnb_4bit_use_double_quant=True,        # their scales are rounded too: section 5
    bnb_4bit_compute_dtype=dtype,          # bfloat16; float16 on a T4, which only imitates bfloat16, slowly
)
tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bits, dtype=dtype, device_map={"": place})
quantization.guard(model)                  # for CPUs only: see the box
model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=not on_cpu)

# %% [markdown]
# `prepare_model_for_kbit_training` freezes the base, turns what isn't stored in 4 bits (the {{term:embedding}}, the output
# layer, the norms) into float32, and switches on gradient checkpointing, which discards intermediate results and
# recomputes them in the backward pass. The CPU run leaves checkpointing off to save time.
#
# <details><summary><b>Only if you train in 4 bits on a CPU: a trap</b></summary>
#
# On some CPUs (those with AVX512-BF16) bitsandbytes 0.50 repacks a 4-bit layer in place the first time it runs inference,
# such as an evaluation during training. A repacked layer no longer passes {{term:gradient|gradients}}. There's no error and
# the loss falls, but all adapters except the last ones get wrong gradients. `quantization.guard(model)`, called right after
# loading, switches the repacking off. GPUs don't have this problem.
#
# </details>

# %%
files = {"train": "qlora-train.jsonl", "validation": "qlora-validation.jsonl"}
train_rows, loss_rows = load_dataset("json", data_files=files, split=["train", "validation"])
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
settings = SFTConfig(
    output_dir="checkpoints", learning_rate=learning_rate, num_train_epochs=1, warmup_steps=3,
    per_device_train_batch_size=tickets_a_step, per_device_eval_batch_size=tickets_a_step,
    gradient_checkpointing=not on_cpu, eval_strategy="epoch", eval_on_start=True, logging_steps=4, save_strategy="no",
    report_to="none", use_cpu=on_cpu, bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16,
)
trainer = SFTTrainer(
    model, args=settings, peft_config=adapter, processing_class=tokenizer, train_dataset=train_rows, eval_dataset=loss_rows
)
for weight in trainer.model.parameters():
    if weight.requires_grad:
        weight.data = weight.data.float()  # TRL makes the adapter of a 4-bit base bfloat16
trainer.train()
trainer.save_model("tickets-qlora")
tuned = trainer.model.eval()

# %% [markdown]
# TRL converts a 4-bit base's adapter to bfloat16, and the loop converts it back to float32. Without the loop, many
# small updates late in a run are rounded away, because bfloat16 has only two or three correct digits (section 8), and
# on a T4 training stops with an error. The adapter is small, so float32 costs almost nothing.
#
# Now read some replies:

# %%
rows = [json.loads(line) for line in open("qlora-validation.jsonl")]
inputs = tokenizer.apply_chat_template(
    [row["prompt"] for row in rows[:4]], add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
).to(place)
output = tuned.generate(**inputs, max_new_tokens=answer_tokens, do_sample=False, repetition_penalty=1.0, use_cache=True)
replies = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
show.answers([row["prompt"][-1]["content"] for row in rows[:4]], {"QLoRA": replies},
             [json.loads(row["completion"][0]["content"]) for row in rows[:4]])

# %% [markdown]
# As in lesson 02, a few dozen tickets teach the form of a record but little of its content: most tokens are right (*mean
# token accuracy* in the log), few fields are. Here are recorded runs of
# a 0.5B model on 240 tickets (script: `benchmarks/laptop_tickets.py`):

# %%
evidence.lesson_03.recorded()

# %% [markdown]
# In the last column both methods far outperform the best prompt. QLoRA's one run can't be ranked against LoRA's three.
#
# On your own card, change `base`, leave out `quantization.guard`, and start from settings like these (*not run here*):
#
# ```python
# settings = SFTConfig(
#     output_dir="checkpoints", learning_rate=2e-4, num_train_epochs=2, warmup_steps=10,
#     per_device_train_batch_size=1, gradient_accumulation_steps=8, gradient_checkpointing=True,
#     per_device_eval_batch_size=1,  # the default, 8, can run out of memory at the first evaluation, before any save
#     max_length=1536,               # put your longest example here: TRL cuts longer ones at the end, by default at 1,024
#     bf16=True,                     # on a T4 fp16=True
#     eval_strategy="epoch", save_strategy="epoch", logging_steps=10,
# )
# ```
#
# To use the adapter later, load the base with `four_bits` as above, then `PeftModel.from_pretrained(model,
# "tickets-qlora")`. The adapter file doesn't record that its base was 4-bit.
#
# **For LoRA on a base in 16 bits**, load it with `dtype=torch.bfloat16` and without `quantization_config`, and leave out
# `prepare_model_for_kbit_training`, which on such a base silently makes every weight float32 and doubles its memory.

# %% [markdown]
# ## 2 · Out of memory: what now?
#
# Four things fill a card:
#
# - the **weights**: 2 bytes each in 16 bits, about half a byte in 4 bits;
# - **what is trained**, here the adapter: 16 bytes per number, 4 each for the number itself, its gradient and Adam's
#   two averages;
# - the **{{term:activation|activations}}**, which each layer keeps for the backward pass and which grow with tokens per step;
# - the **{{term:logits}}**, a score for every token of the {{term:vocabulary}} at every position.
#
# Take the logits as an example. Llama-3.1-8B's vocabulary has 128,256 tokens, so eight examples of 1,024 tokens have
# 8 · 1,024 · 128,256 scores of 4 bytes each, or 4.2 GB. The usual loop holds three such tables at once (scores,
# probabilities, gradient), so logits alone take 12.6 GB. From version 1.16 on, TRL computes them in pieces on a GPU,
# but the estimates below don't assume that.
#
# About twenty lines of code estimate all four from a model's `config.json`, plus an allowance for the card's own needs.
# You can skip the formula for a block's activations, which we found by counting the tensors that PyTorch saves for
# the backward pass. It stores no attention scores; `attn_implementation="eager"` does, and takes more.

# %%
from transformers import LlamaConfig


def step_memory(config, tokens, four_bit=False, checkpointing=True, rank=16):
    """Return the parts of the peak memory of a training step with LoRA, in GB (10^9 bytes)."""
    assert not getattr(config, "num_local_experts", 0) and not getattr(config, "num_experts", 0), "not for mixtures of experts"
    d, f, layers, vocab = config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    q, kv = head * config.num_attention_heads, head * config.num_key_value_heads
    in_linear_layers = layers * (2 * d * q + 2 * d * kv + 3 * d * f)
    others = vocab * d * (1 if config.tie_word_embeddings else 2) + (2 * layers + 1) * d
    width = 4 if four_bit else 2                       # bytes of what isn't in 4 bits, after prepare_model_for_kbit_training
    trained = layers * rank * (7 * d + 2 * q + 2 * kv + 3 * f)
    inputs = 5 * d + f + (0 if four_bit else q)        # to a block's seven linear layers; PEFT keeps them, in 16 bits
    kept = tokens * (2 * inputs + 8 * d + 4 * q + 4 * kv + 3 * width * f)    # and two norms, attention, the gated product
    way_back = kept + tokens * (12 * d + 4 * f) + 2 * d * f * four_bit                 # through one block
    logits = 3 * 4 * vocab * tokens + 2 * vocab * d * four_bit       # and a 16-bit copy of a float32 output layer
    parts = {
        "weights": in_linear_layers * (4.127 / 8 if four_bit else 2) + others * width,
        "what is trained": 16 * trained,
        "activations and logits": layers * (tokens * width * d if checkpointing else kept) + max(way_back, logits),
    }
    parts["the card's own needs"] = 0.5e9 + 0.05 * parts["activations and logits"]     # a rule, not a measurement
    return {name: size / 1e9 for name, size in parts.items()}


llama = LlamaConfig(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=8)         # or AutoConfig.from_pretrained(NAME)
ladder = {
    "eight examples at once": step_memory(llama, 8 * 1024, checkpointing=False),
    "one at a time": step_memory(llama, 1024, checkpointing=False),
    "+ checkpointing": step_memory(llama, 1024),
    "+ 4 bits": step_memory(llama, 1024, four_bit=True),
}
charts.bars(ladder, "By this estimate, Llama-3.1-8B fits on 24 GB in 16 bits", "GB",
            {"24 GB card": memory.gpu_memory("rtx4090") / 1e9})

# %% [markdown]
# The smaller batch shrinks both activations and logits. Checkpointing shrinks only the activations, and 4 bits only
# the weights, which make up less than a fifth of the first bar. Float32 embeddings undo part of what 4 bits save, and
# a 16-bit copy of the float32 output layer adds to the last bar's second-largest part. With checkpointing, TRL's default,
# eight examples at once take {{estimate:Llama-3.1-8B lora batch_size=8 length=1024 checkpointing:.0f}} GB.
#
# The dashed line is at 25.3 because a card's gigabytes are 2³⁰ bytes each and ours are 10⁹, and PyTorch doesn't see
# quite the whole card. If the card also drives your screen, subtract what `nvidia-smi` shows in use.
#
# The course's own estimator covers more cases, such as full fine-tuning and several cards:

# %%
print(memory.estimate("Llama-3.1-8B", "qlora", length=1024, accumulation=8, checkpointing=True, embeddings="float32"))
print(f"the twenty lines: {sum(ladder['+ 4 bits'].values()):.2f} GB")

# %% [markdown]
# We haven't checked the estimator on a real GPU, whose libraries need memory of their own. It came within
# {{record:estimates:summary.unseen.formula.worst:.1f}} % of PyTorch's own count for small models on a CPU
# (`benchmarks/estimates.py`), and within {{record:estimates-card:worst_percent:.2f}} % of the sum of all tensors of a
# step with 1.7B and 8B models, run without a GPU (`benchmarks/gpu_memory.py`). Leave a gigabyte or two free, and read
# `torch.cuda.max_memory_reserved()` after a step with your longest example.
#
# Now reverse the question: how many tokens fit into one step on each card, with 1.5 GB to spare? QLoRA's embeddings
# are float32 here; keeping them in 16 bits (see the next table) leaves more room:

# %%
def most_tokens(config, card, **options):
    """Return the largest number of tokens of a step that fits on a card, in steps of 256."""
    room = memory.gpu_memory(card) / 1e9 - 1.5
    return max((n for n in range(256, 65_536, 256) if sum(step_memory(config, n, **options).values()) <= room), default=0)


cards = {"12 GB (RTX 3060)": "rtx3060", "16 GB (T4)": "t4", "24 GB (RTX 3090, 4090)": "rtx4090", "40 GB (A100)": "a100-40gb"}
pd.DataFrame({
    method: {card: most_tokens(llama, key, four_bit=method == "QLoRA") for card, key in cards.items()}
    for method in ("LoRA", "QLoRA")
})

# %% [markdown]
# By this estimate Llama-3.1-8B doesn't need QLoRA on 24 GB for examples of up to 3,000 tokens, with a batch of 1 and
# checkpointing, and with the loss in pieces (next table) for even longer ones. The numbers are tokens per step
# (examples times length), and 0 means that not even 256 fit. A larger vocabulary leaves room for fewer tokens, so try
# your own model's `AutoConfig`.
#
# Change the settings in this order, and stop as soon as the run fits. Sizes are for examples of 1,024 tokens:
#
# | change | Llama-3.1-8B then takes | what it costs you |
# | --- | --- | --- |
# | `per_device_train_batch_size=1`, `gradient_accumulation_steps=8` | {{estimate:Llama-3.1-8B lora length=1024 accumulation=8:.0f}} GB instead of {{estimate:Llama-3.1-8B lora batch_size=8 length=1024:.0f}} | nothing in the result; many small steps are slower on a GPU |
# | `gradient_checkpointing=True` | {{estimate:Llama-3.1-8B lora length=1024 accumulation=8 checkpointing:.0f}} GB | up to half as much time again |
# | the loss in pieces: automatic on a GPU from TRL 1.16; before that, `use_liger_kernel=True` | about 1.2 GB less, not subtracted in the rows below | nothing |
# | the base in 4 bits | {{estimate:Llama-3.1-8B qlora length=1024 accumulation=8 checkpointing embeddings=float32:.1f}} GB | some time; accuracy: section 7 |
# | 16 bits for what isn't in 4 (below) | {{estimate:Llama-3.1-8B qlora length=1024 accumulation=8 checkpointing:.1f}} GB | quality not measured |
# | `optim="paged_adamw_8bit"` | {{estimate:Llama-3.1-8B qlora length=1024 accumulation=8 checkpointing optimizer=paged_adamw_8bit:.1f}} GB | little; *paged* lets the states move to the computer's memory at a peak |
#
# **What isn't in 4 bits.** `prepare_model_for_kbit_training` converts the embedding, the output layer and the norms
# to float32, so the values that the blocks pass on become float32 too. To keep 16 bits, leave that line out but keep
# `gradient_checkpointing=True` in the settings; without TRL, also call `model.enable_input_require_grads()`.
#
# **`paged_adamw_8bit`** does two things. *8bit* keeps Adam's two averages in one byte each instead of four. *Paged* lets
# the driver move them to the computer's memory while the card is full, which slows down any step that needs them
# back. LoRA's averages are small, so this row saves little. In full fine-tuning they take more room than the weights.
#
# **Your turn, a challenge.** Try plans with `memory.estimate`; `help(memory.estimate)` lists its options.

# %%
# EXERCISE: qlora-1

# %% [markdown]
# With a batch of 1 the longest example decides how much memory a run takes, so look at your own data's lengths first.

# %%
# EXERCISE: qlora-2

# %% [markdown]
# Now estimate your own model on your own card. The calculator assumes no accumulation, so LoRA and QLoRA hold no
# gradients at the fullest moment:

# %%
show.calculator("memory", model="Llama-3.1-8B", gpu="rtx4090")

# %% [markdown]
# ## 3 · Merge it, serve it
#
# In lesson 02 we {{term:merge|merged}} an adapter into its base at no cost. With a 4-bit base, one of three ways to
# merge lost most of what our adapter had learned. Measure the loss on the twelve reference answers, first without the
# adapter, then with the adapter unmerged:

# %%
def answer_loss(model):
    """Return the mean over the validation file of the loss per token on the right answer."""
    losses, template = [], tokenizer.apply_chat_template
    for row in rows:
        prompt = template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = torch.tensor([template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]], device=model.device)
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    return sum(losses) / len(losses)


def load_four_bit():
    """Return the base in 4 bits, as section 1 loaded it."""
    loaded = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bits, dtype=dtype, device_map={"": place})
    quantization.guard(loaded)
    return loaded.eval()


del trainer, model, tuned                                   # make room
four_bit = load_four_bit()
losses = {"no adapter": answer_loss(four_bit)}
beside = PeftModel.from_pretrained(four_bit, "tickets-qlora")
losses["adapter beside the 4-bit base"] = answer_loss(beside)

# %% [markdown]
# Now do the obvious thing and call `merge_and_unload()` on this model, so that base and adapter become one 4-bit model.
# Save one layer's change for later.

# %%
linear = beside.base_model.model.model.layers[10].mlp.down_proj
update, stored = linear.get_delta_weight("default").detach(), quantization.dense(linear.base_layer.weight, torch.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    losses["merged, 4 bits again"] = answer_loss(beside.merge_and_unload())
print("PEFT warns:", caught[0].message)

# %% [markdown]
# The other ways end in 16 bits: restore the 4-bit base with `dequantize()` and merge, or merge into the original weights.

# %%
del beside, four_bit, linear
merged = PeftModel.from_pretrained(load_four_bit().dequantize(), "tickets-qlora").merge_and_unload()
losses["merged into the restored base"] = answer_loss(merged)
merged.save_pretrained("tickets-qlora-merged")
tokenizer.save_pretrained("tickets-qlora-merged")

del merged
original = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(place)
original = PeftModel.from_pretrained(original, "tickets-qlora").merge_and_unload()
losses["merged into the original base"] = answer_loss(original)
del original
charts.bars(losses, "Here, merging into 4 bits lost most of what was learned", "loss on answers (nats per token)", decimals=2,
            highlight=[name for name in losses if "into" in name or "beside" in name])

# %% [markdown]
# Why was so much lost? Look at the layer whose change you kept:

# %%
import bitsandbytes.functional as bnb


def nf4_codes(weight):
    """Return the number, 0 to 15, of the value that NF4 takes for each weight, and the scale of each block of 64."""
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15]), state.absmax


(codes, scales), (new_codes, new_scales) = nf4_codes(stored), nf4_codes(stored + update)
gap = scales.mean() * bnb.get_4bit_type("nf4", device="cpu").sort().values.diff().mean()
print(f"a typical change {update.abs().mean():.5f}, a typical distance between neighbouring values {gap:.5f}")
print(f"{(new_codes != codes).float().mean():.2%} of the weights get another value,",
      f"{(new_scales != scales).float().mean():.0%} of the scales move")

# %% [markdown]
# A stored weight is exactly one of the sixteen values, so rounding undoes any change smaller than half the distance
# to the next value. Here a typical change is dozens of times smaller than a typical distance, and only the moved
# scales preserve a little of it.
#
# Here both merges into 16 bits kept what was learned. Use whichever gets the lower loss. An 8B model needs about 17
# GB for this; to use the computer's memory, pass `device_map={"": "cpu"}` to `from_pretrained`.
#
# To make the merged model small again, use a format made for serving. Then **measure again**, since this rounds the
# weights once more. These commands are *not run here*:
#
# ```bash
# vllm serve ./tickets-qlora-merged                                             # in 16 bits, as it is
# python llama.cpp/convert_hf_to_gguf.py tickets-qlora-merged --outfile f16.gguf
# llama-quantize f16.gguf q4.gguf Q4_K_M                                  # 4 bits for llama.cpp and Ollama
# vllm serve BASE --quantization bitsandbytes --enable-lora --lora-modules tickets=./tickets-qlora    # not merged at all
# ```

# %% [markdown]
# ## 4 · How can sixteen values hold a weight?
#
# Four bits have sixteen combinations, so each weight becomes one of sixteen values. The best sixteen depend on the
# weights. Here are one layer's weights, each divided by the largest absolute value in its block of 64:

# %%
from safetensors import safe_open

small = models.fetch(models.PACKAGED.name)                     # the CPU's model, on every machine
with safe_open(f"{small}/model.safetensors", "pt") as file:
    matrix = file.get_tensor("model.layers.10.mlp.down_proj.weight").float()
    attention = file.get_tensor("model.layers.3.self_attn.q_proj.weight").float()
blocks = matrix.reshape(-1, 64)
charts.histogram(
    {"weights": (blocks / blocks.abs().amax(1, keepdim=True))[:20_000].flatten().tolist()},
    "Weights crowd around zero; NF4 has more values there than an even grid",
    "weight, divided by the largest among 64 neighbours",
    ticks={"NF4": bnb.get_4bit_type("nf4", device="cpu").tolist(), "even": torch.linspace(-1, 1, 16).tolist()}, bins=81,
)

# %% [markdown]
# Fewer than a fifth of the weights lie beyond ±0.5, yet half of the evenly spaced values do, and only six of NF4's
# sixteen. The bars at ±1 are the blocks' largest weights. NF4, *4-bit NormalFloat*, assumes that weights follow a
# bell curve, and takes its values at equal slices of probability on each side of zero, the *quantiles*. Zero must be
# stored exactly, which leaves fifteen values: seven below and eight above.

# %% tags=["nf4-from-scratch"]
def nf4_values():
    """Return NF4's sixteen values, from -1 to 1."""
    end = 1 - (1 / 30 + 1 / 32) / 2          # bitsandbytes' constant: not 1, whose quantile is infinite
    quantile = torch.special.ndtri           # of the normal distribution
    above = quantile(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    below = -quantile(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1), above]).sort().values
    return (values / values.max()).float()


nf4 = nf4_values()
difference = (nf4 - bnb.get_4bit_type("nf4", device="cpu")).abs().max()
print(f"largest difference from bitsandbytes' table: {difference:.0e}")

# %% [markdown]
# **By hand, on eight weights.** The largest absolute value, 1.20, becomes this block's *scale*. Divide each weight by
# it, take the nearest of the sixteen values, and keep that value's number, the *code*. To get a weight back, look up
# its code and multiply by the scale.

# %%
eight = torch.tensor([0.30, -1.20, 0.09, 0.58, -0.21, 0.86, -0.52, 0.00])
codes = [10, 0, 8, 12, 5, 14, 3, 7]                           # found by looking at nf4
pd.DataFrame({
    "weight": eight, "divided": eight / 1.20, "code": codes, "its value": nf4[codes], "restored": nf4[codes] * 1.20,
    "off by": nf4[codes] * 1.20 - eight,
}).round(3)

# %% [markdown]
# Follow the first row: 0.30 / 1.20 = 0.25. The nearest value is 0.246, which has number 10, and 0.246 · 1.20 = 0.295. The
# weight −1.20 comes back exactly because its absolute value is the scale, and 0.00 because NF4 has a zero.
# NF4's values lie further apart towards the edges, so larger weights such as 0.58 can be off by more.
#
# **Your turn, before you see ours.** Quantize one block.

# %%
# EXERCISE: qlora-3

# %% [markdown]
# Here is the same for a whole matrix. `bucketize` finds the nearest value by locating a weight between two midpoints.

# %% tags=["nf4-from-scratch"]
def quantize(weight, values, block=64):
    """Return one code per weight, shape (blocks, block), and one float32 scale per block."""
    blocks = weight.float().reshape(-1, block)
    scales = blocks.abs().amax(dim=1)
    halfway = (values[1:] + values[:-1]) / 2
    return torch.bucketize(blocks * (1 / scales.clamp(min=1e-38))[:, None], halfway).to(torch.uint8), scales


def dequantize(codes, scales, values):
    """Return the weights that codes and scales stand for, one row per block."""
    return values.to(codes.device)[codes.long()] * scales[:, None]


def pack(codes):
    """Return two 4-bit codes in each byte, the first in the upper half."""
    flat = codes.flatten()
    return flat[::2] << 4 | flat[1::2]


# %%
weights = {"this matrix": matrix, "attention": attention,
           "random": torch.randn(512, 512, generator=torch.Generator().manual_seed(0))}
table = {}
for name, weight in weights.items():
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes, scales = quantize(weight, nf4)
    errors = {
        kind: (dequantize(*quantize(weight, values), values).reshape(weight.shape) - weight).norm() / weight.norm()
        for kind, values in {"NF4": nf4, "evenly spaced": torch.linspace(-1, 1, 16)}.items()
    }
    table[name] = {
        "bytes that differ from bitsandbytes": int((pack(codes) != packed.flatten()).sum()),
        "scales that differ": int((scales != state.absmax).sum()),
        **{f"error, {kind}": f"{100 * error:.1f} %" for kind, error in errors.items()},
    }
pd.DataFrame(table).T

# %% [markdown]
# Every byte matches bitsandbytes'. The error (the length of the error vector divided by that of the weights) is
# smaller with NF4 than with even spacing, but still about a tenth. Section 7 measures what that costs.
#
# ## 5 · How many bits does a weight take?
#
# Each block of 64 has its own scale because of outliers. If a whole matrix shared one scale, a weight ten times
# larger than the rest would push all the others into the two or three values around zero. In a block it only spoils
# its 63 neighbours. But a scale in float32 takes 32 bits, which is half a bit for each of the 64 weights.
#
# Double quantization rounds these scales too. It subtracts the scales' mean, turns each into an 8-bit code, and gives
# every 256 of them one float32 scale.
#
# **Your turn:** how many bits does a weight take, for blocks of any size and any number of scales that share one float32?

# %%
# EXERCISE: qlora-4

# %%
show.drawing("four-bit-storage")

# %% [markdown]
# For blocks of 64 and groups of 256 it's 4 + 8/64 + 32/(64 · 256) = 4.127 bits, the number in section 2's twenty lines.
# Count what a 4-bit model really holds:

# %%
four_bit = load_four_bit()
linears = list(quantization.four_bit_layers(four_bit).values())
held = sum(layer.weight.numel() + layer.weight.quant_state.absmax.numel()
           + 4 * layer.weight.quant_state.state2.absmax.numel() for layer in linears)             # bytes
in_linears = sum(layer.in_features * layer.out_features for layer in linears)
rest = four_bit.num_parameters() - in_linears
print(f"{8 * held / in_linears:.3f} bits a weight in the linear layers:",
      f"{held / 1e6:.0f} MB instead of {2 * in_linears / 1e6:.0f} MB")
print(f"the rest stays in 16 bits: {2 * rest / 1e6:.0f} MB")

# %% [markdown]
# So 4 bits don't make a model four times smaller. The scales take some room and the embedding stays in 16 bits, so
# the larger the {{term:vocabulary}} and the smaller the model, the less you gain. Llama-3.1-8B becomes 2.8 times
# smaller, but only 2.1 times once `prepare_model_for_kbit_training` has made its embeddings float32.

# %% [markdown]
# ## 6 · How does a gradient get through?
#
# A code can be 10 or 11 but nothing in between, so a gradient can't nudge it. It doesn't have to, because only the
# adapter is trained. A layer restores its matrix, $\tilde W$, in 16 bits, multiplies with it, and adds the adapter's
# share:
#
# $$h = \tilde{W} x + \frac{\alpha}{r} B A x$$

# %%
show.drawing("four-bit-layer")

# %% [markdown]
# On the way back, $\tilde W$ is just a table of fixed numbers. Take section 4's eight restored weights as its only row,
# and a gradient of 2 at the output. The first input was multiplied by 0.295, so its gradient is 2 · 0.295 = 0.59;
# the second by −1.20, so its gradient is −2.40. In general a gradient $g$ at the output becomes $\tilde{W}^\top g$ at
# the input, plus the adapter's part, and the weights need no gradient.
#
# Ordinary autograd would keep every restored matrix for the {{term:backward pass}}, which would undo the saving.
# So we write the product by hand, and restore the matrix again on the way back.

# %% tags=["qlora-from-scratch"]
class FourBitProduct(torch.autograd.Function):
    """x @ W.T, for a W that is restored when it's needed and not kept."""

    @staticmethod
    def forward(ctx, x, restore):
        ctx.restore = restore
        return x @ restore().T

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.restore(), None       # for x; nobody needs one for the weights


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
# Compare this with bitsandbytes' own layer and PEFT's adapter. Both get the same $A$, $B$ and input, without double
# quantization.

# %% tags=["folded"]
import bitsandbytes

ours = FourBitLoRA(matrix, rank=8, alpha=16)
options = {"quant_type": "nf4", "compress_statistics": False}
linear = bitsandbytes.nn.Linear4bit(matrix.shape[1], matrix.shape[0], bias=False, compute_dtype=torch.float32, **options)
linear.weight = bitsandbytes.nn.Params4bit(matrix.clone(), requires_grad=False, **options)
box = torch.nn.ModuleDict({"layer": linear}).to("cpu")
quantization.guard(box)
theirs = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=["layer"]), box)["layer"]
torch.nn.init.normal_(ours.B, std=0.05)                       # at zero, a mistake in A would not show
theirs.lora_A["default"].weight.data, theirs.lora_B["default"].weight.data = ours.A.data.clone(), ours.B.data.clone()

x = torch.randn(16, matrix.shape[1])
inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
outputs = ours(inputs[0]), theirs(inputs[1])
for output in outputs:
    output.square().mean().backward()
pairs = {
    "output": outputs, "gradient of A": (ours.A.grad, theirs.lora_A["default"].weight.grad),
    "gradient of B": (ours.B.grad, theirs.lora_B["default"].weight.grad), "gradient of the input": [x.grad for x in inputs],
}
for name, (mine, library) in pairs.items():
    print(f"{name:22} {(mine - library).abs().max() / library.abs().max():.0e}")

# %% [markdown]
# Relative to the largest value, the differences are just float32 rounding.
#
# **Your turn.** Somebody wrote a function that measures the error of 4 bits. Fix its three bugs.

# %%
# EXERCISE: qlora-5

# %% [markdown]
# ## 7 · What do four bits cost?
#
# **Before training.** Have the same model predict a few passages of everyday prose in 16 bits and in 4:

# %%
passages = evidence.lesson_03.passages()[:6]


def text_losses(model):
    """Return the mean loss per token of each passage."""
    losses = []
    for text in passages:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    return torch.tensor(losses)


sixteen_bit = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(place).eval()
before, after = text_losses(sixteen_bit), text_losses(four_bit)
extra = after - before
margin = 2.57 * extra.std() / len(extra) ** 0.5                # 95 % of Student's t with five degrees of freedom
print(f"16 bits {before.mean():.3f}, 4 bits {after.mean():.3f}: {extra.mean():+.3f}",
      f"[{extra.mean() - margin:+.3f}, {extra.mean() + margin:+.3f}] nats a token")

# %% [markdown]
# This model's loss rises by a fifth of a {{term:nat}} a token. On a CPU you get the packaged model, which was
# previously stored in another 4-bit format, so its 16 bits aren't quite the original's.
#
# **After training**, we have too few runs to tell QLoRA and LoRA apart. Section 1 has runs of the 0.5B model; here
# are three {{term:seed|seeds}} of the small one:

# %%
evidence.card("Q5")

# %% [markdown]
# **Time.** With many tokens in a step, each matrix is restored going forward, going back, and once more with
# checkpointing. (For a few hundred or fewer, bitsandbytes 0.50 has GPU kernels that restore nothing going forward.) Time
# one layer in 16 and in 4 bits:

# %%
import time

in_16_bits = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=dtype, device=place).requires_grad_(False)
in_4_bits = bitsandbytes.nn.Linear4bit(matrix.shape[1], matrix.shape[0], bias=False, compute_dtype=dtype, quant_type="nf4")
in_4_bits.weight = bitsandbytes.nn.Params4bit(matrix.clone(), requires_grad=False, quant_type="nf4")
timed = torch.nn.ModuleList([in_16_bits, in_4_bits]).to(place)
quantization.guard(timed)


def pass_seconds(layer, tokens, times=20):
    """Return the seconds of some forward and backward passes; on a CPU those of the processor."""
    clock = time.process_time if on_cpu else time.perf_counter
    x = torch.randn(tokens, matrix.shape[1], dtype=dtype, device=place)
    start = clock()
    for _ in range(times):
        layer(x.requires_grad_()).sum().backward()
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - start


for tokens in (32, 128, 512, 2048):
    turns = [[pass_seconds(layer, tokens) for layer in timed] for _ in range(4)][1:]        # taking turns; the first warms up
    more = torch.tensor([four / sixteen - 1 for sixteen, four in turns]).median()
    print(f"{tokens:5} tokens: 4 bits take {more:+.0%} time")

# %% [markdown]
# For this layer, restoring matters less as the number of tokens grows. On GPUs the cost varies, and published figures
# range from no slowdown to two thirds more time (28 % on an RTX 4090), so time ten steps of each on your own card:

# %%
evidence.lesson_03.published_pace()

# %% [markdown]
# ## 8 · Mistakes and how to recognise them
#
# **Three arguments left out.** `BitsAndBytesConfig(load_in_4bit=True)` runs on its own and the loss falls, but you get
# FP4 instead of NF4, 4.5 bits a weight instead of 4.13, and a compute dtype of float32, slow on a GPU without autocast:

# %%
alone = BitsAndBytesConfig(load_in_4bit=True)
print(alone.bnb_4bit_quant_type, alone.bnb_4bit_use_double_quant, alone.bnb_4bit_compute_dtype)

# %% [markdown]
# **Parameters counted with `numel`.** Two weights share a byte, so the usual one-liner counts them as one, and the share of
# trained parameters comes out too high. PEFT's `print_trainable_parameters()` counts correctly:

# %%
print(f"{sum(weight.numel() for weight in four_bit.parameters()):,}, and really {sixteen_bit.num_parameters():,}")
get_peft_model(four_bit, adapter).print_trainable_parameters()

# %% [markdown]
# **An adapter in bfloat16.** Towards the end of a run the {{term:learning rate}} is small. Can bfloat16 store such a
# small step?

# %%
A = torch.empty(16, 4096).uniform_(-(4096**-0.5), 4096**-0.5)           # as PEFT starts the A of a layer with 4,096 inputs
for format in (torch.bfloat16, torch.float32):
    weight = A.to(format)
    moved = (weight.float() - 2e-5).to(format)                          # Adam moves a weight by about the learning rate
    print(f"{format}: {(moved == weight).float().mean():.0%} of the numbers stay where they were")

# %% [markdown]
# In bfloat16 such a step changes only half of the numbers in $A$, which is why section 1 makes the adapter float32.
#
# **Experts without adapters.** In {{term:mixture of experts|mixture-of-experts models}} most weights sit in the
# experts, and with transformers 5.24 and PEFT 0.21 these can be skipped in silence: `load_in_4bit` leaves those of
# Qwen3-MoE and Qwen3.5-MoE in bfloat16, `prepare_model_for_kbit_training` then makes them float32, and
# `target_modules="all-linear"` gives those of gpt-oss and Qwen3.5-MoE no adapter. `course preflight` with the base's
# name as `--model` says so (`experts-not-quantized`, `experts-become-float32`, `experts-without-adapters`).
#
# ## What you can do now
#
# | you want to | do |
# | --- | --- |
# | fix an *out of memory* error | go down section 2's table of changes |
# | choose between LoRA and QLoRA | LoRA if a step fits with the base in 16 bits, else QLoRA |
# | train on a 4-bit base | NF4, double quantization, compute dtype bfloat16 (T4: float16), adapter in float32 |
# | know the memory before a run | use section 2's twenty lines or `course estimate` |
# | deploy | keep the adapter beside the 4-bit base, or merge into 16 bits; if you round again, measure again |
#
# > **How far to trust these numbers.** We computed memory from published shapes and never checked it on a real GPU.
# > Your run tested a 135M model, which suffers more from rounding than a large one, on twelve messages. A recorded row
# > comes from one to three runs of one model on a hundred test messages.

# %%
quiz("03")

# %% [markdown]
# **Read next.** Dettmers et al. (2023), *QLoRA*, arXiv 2305.14314; you can now read sections 2 and 3. Huang et al.
# (2024), *How Good Are Low-bit Quantized LLaMA3 Models?*, arXiv 2404.14047, shows where four bits stop being free. Then
# read lesson 04, which teaches a model to prefer one answer to another.

# %% [markdown]
# {{words}}
