# %% [markdown]
# # 04 · Preferences: teach a model which answer is better
#
# {{badges}}
#
# > *"I can't write the perfect reply for you. But show me two, and I'll tell you which one I'd send."*
#
# A shop's help desk has five rules for replies. We trained a model of half a billion parameters in four ways on
# {{record:laptop-house-style:pairs:d}} pairs of replies, a better and a worse one, in three recorded runs each. The
# table shows how many of its replies to 100 new customers keep all five rules:
#
# | what it learned from | run 1 | run 2 | run 3 |
# | --- | --- | --- | --- |
# | past replies, better and worse ones mixed: the *start* | {{record:laptop-house-style:runs."seed 0 | start".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 1 | start".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 2 | start".right."all rules":.0%}} |
# | the start, then the better reply of each pair (SFT) | {{record:laptop-house-style:runs."seed 0 | SFT".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 1 | SFT".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 2 | SFT".right."all rules":.0%}} |
# | the start, then only those better replies that keep all rules (SFT) | {{record:laptop-house-style:runs."seed 0 | SFT, kept rules".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 1 | SFT, kept rules".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 2 | SFT, kept rules".right."all rules":.0%}} |
# | the start, then pairs (DPO) | {{record:laptop-house-style:runs."seed 0 | DPO".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 1 | DPO".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 2 | DPO".right."all rules":.0%}} |
# | the start, then pairs, while still imitating the better reply (DPO + SFT) | {{record:laptop-house-style:runs."seed 0 | DPO + SFT".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 1 | DPO + SFT".right."all rules":.0%}} | {{record:laptop-house-style:runs."seed 2 | DPO + SFT".right."all rules":.0%}} |
#
# In each run DPO + SFT, which learns from pairs *and* imitates the better reply, beat SFT on the better replies, though
# once by just one reply. Plain SFT on only the replies that keep every rule did about as well, but somebody has to pick
# those out. {{term:DPO}} alone, the usual way to train on choices between two answers, beat only the start on average.
# You'll run DPO on a 135M model, compute its {{term:loss}} by hand, and compare it with SFT.
#
# **If you have to choose by Friday:** if a person or a program can tell which replies are good, train on those with
# SFT. If people can only say which of two replies is better, try DPO + SFT, or {{term:ORPO}}, which does as well in
# section 7 and needs no start. Compare them with SFT on the better replies, and check each rule. The evidence is one
# model, three seeds, and pairs of which nearly half the better replies break a rule.
#
# By the end you'll be able to
#
# - turn a file of pairs into a trained model with `DPOTrainer`, and compare it with the cheap rival,
# - read the log: the correct first loss, and what it means if both rewards fall,
# - compute a reply's {{term:log-probability}}, its gain and the DPO loss, and check your result against the library,
# - use the stupidest possible model to find out what your pairs teach,
# - choose between {{term:SFT}}, DPO and its relatives, and recognise four mistakes.
#
# You should know lesson 02. Reading takes about 60 minutes, the exercises about 40. {{timing}} In a hurry,
# read sections 1, 2, 5 and 7 and the tables of section 9.
#
# The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All clears all outputs before
# refilling them. To recover the recorded page, run `course restore 04` in a terminal.

# %%
# INSTALL: trl

# %%
import json
import random
import re

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from course_utils import assets, charts, evidence, hardware, models, plans, preflight, show, training
from course_utils.data_prep import load_preferences, load_task
from course_utils.evidence import house_style
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.notebook import NotebookProgressCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

device, plan, data = hardware.detect(), plans.plan("04"), load_preferences("balanced")
place, dtype, on_cpu = device.place(), device.torch_dtype(), device.kind == "cpu"
with open("dpo-pairs.jsonl", "w") as file:
    for pair in data.train[: plan.examples]:
        replies = {key: [{"role": "assistant", "content": pair[key]}] for key in ("chosen", "rejected")}
        file.write(json.dumps({"prompt": pair["prompt"], **replies}) + "\n")
print(open("dpo-pairs.jsonl").readline())

# %% [markdown]
# ## 1 · Two replies, and which is better
#
# You've just written a file of pairs. In each, the customer's message is under `prompt`, the reply that somebody preferred
# under {{term:chosen}}, and the other one under {{term:rejected}}. Here is one as a card:

# %%
pair = next(row for row in data.train if row["kind"] == "order" and row["case"] == "danger")
evidence.lesson_04.pair_card(pair)

# %% [markdown]
# Both replies contain the same two sentences, but the chosen one first says what to do, which a customer with sparks
# in the living room needs. The desk's house style has five such rules, and a program checks them
# (`course_utils/evidence/house_style.py`):
#
# | rule | a reply keeps it if |
# | --- | --- |
# | step first | its first sentence has one of the desk's six next steps, whichever it is |
# | right step | it promises what this kind of message calls for, and nothing else |
# | tone fits | it apologises to an upset customer, and to nobody else |
# | order number right | it names the customer's order number, and no other number |
# | finishes | it ends with a full stop, within 60 words |
#
# Each pair is about one of the first four rules. A real desk's past replies mix good and bad, so we train the base
# model, as in lesson 02, on random replies from the pairs. We call that model the **start**.

# %%
untrained, tokenizer = models.load()
dice = random.Random(0)
history = [row["prompt"] + [{"role": "assistant", "content": row[dice.choice(("chosen", "rejected"))]}] for row in data.train]
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
imitating = get_peft_model(untrained, adapter)
print(training.fit(imitating, tokenizer, history[: plan.more_examples],
                   settings=training.Settings(learning_rate=plan.learning_rate, batch_size=4, warmup_steps=3)))
imitating.merge_and_unload().save_pretrained("dpo-start")
tokenizer.save_pretrained("dpo-start")
del untrained, imitating

# %% [markdown]
# ## 2 · The job, in one program
#
# This is the program to take to work; its comments say what to change there. It reads `dpo-pairs.jsonl`, in which a
# reply is a list with one message, loads a whole model (no adapter) from a folder or the hub, and trains a fresh
# adapter on top. With the adapter switched off, the model is what it was before, so it can be its own
# {{term:reference model}} without a second copy. `"sigmoid"` is DPO's own loss, and `"sft"` adds plain training on the
# chosen reply; section 5 shows what that's good for. First check the file, as in lesson 02. The check will call our
# rate a hundred times too high, because it assumes a larger model.

# %%
preflight.check("dpo-pairs.jsonl", "dpo-start", task="dpo", learning_rate=plan.learning_rate)

# %% tags=["program", "trl"]
# At work: dtype, on_cpu = torch.bfloat16, False
start, learning_rate = "dpo-start", plan.learning_rate                          # at work try 1e-4 for half a billion parameters
tokenizer = AutoTokenizer.from_pretrained(start)
pairs = load_dataset("json", data_files="dpo-pairs.jsonl", split="train")
adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
shared = {
    "output_dir": "checkpoints", "num_train_epochs": 1, "learning_rate": learning_rate, "warmup_steps": 2,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "gradient_checkpointing": False, "save_strategy": "no",                     # at work True, "epoch"
    "logging_steps": 1, "report_to": "none",
    "use_cpu": on_cpu, "bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16,
}
trainer = DPOTrainer(
    AutoModelForCausalLM.from_pretrained(start, dtype=dtype), processing_class=tokenizer, peft_config=adapter, train_dataset=pairs,
    args=DPOConfig(beta=0.1, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0], **shared),
)
trainer.train()
trainer.save_model("dpo-adapter")          # later: PeftModel.from_pretrained(the start, "dpo-adapter")
by_dpo = trainer.model.eval()

# %% [markdown]
# **The cheap rival** ignores the rejected replies and trains on the chosen ones, as in lesson 02, from the same
# start. Never report DPO without it, and at work give each method its own rate. Section 7's best were
# {{record:laptop-house-style:runs."seed 0 | SFT".rate:.0e}} for SFT and
# {{record:laptop-house-style:runs."seed 0 | DPO + SFT".rate:.0e}} for DPO + SFT.

# %% tags=["program", "trl"]
rival = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(start, dtype=dtype), args=SFTConfig(**shared),
    processing_class=tokenizer, peft_config=adapter,
    train_dataset=pairs.rename_column("chosen", "completion").remove_columns("rejected"),
)
rival.train()
by_sft = rival.model.eval()

# %% [markdown]
# ### Did the answers get better?
#
# Ask the start and both new models the same messages, about products absent from the pairs, at temperature 0. For your
# own pairs, write your own `judge`, and score the start before you train, because a rule that it already keeps can't
# show a gain. Before you look, guess:

# %%
guess = predict("What share of DPO + SFT's answers say the step first? Of the start's, fewer than half do.", unit="%")
guess

# %%
asked = data.test[: plan.asked]
prompts = [row["prompt"] for row in asked]


def kept(replies):
    """Return the share of replies that keep each rule, the share that keep all five, and the share of distinct replies."""
    marks = pd.DataFrame([house_style.judge(row, reply) for row, reply in zip(asked, replies)])
    return pd.concat([marks.mean(), pd.Series({"all five": marks.all(axis=1).mean(), "different replies": len(set(replies)) / len(replies)})])


with by_dpo.disable_adapter():
    answers = {"the start": generate(by_dpo, tokenizer, prompts, plan.answer_tokens)}
answers["SFT on chosen"] = generate(by_sft, tokenizer, prompts, plan.answer_tokens)
answers["DPO + SFT"] = generate(by_dpo, tokenizer, prompts, plan.answer_tokens)
del rival, by_sft
guess.reveal(round(100 * kept(answers["DPO + SFT"])["step first"]))

# %%
pd.DataFrame({name: kept(replies) for name, replies in answers.items()}).map("{:.0%}".format)

# %% [markdown]
# In this short run DPO + SFT puts the step first more often than the start, and SFT less often. A
# single reply counts for four points, and no other rule clearly changes. *Different replies* would drop if every
# customer got the same text. Read some answers:

# %%
evidence.lesson_04.judged_cards(asked[1:3], {name: replies[1:3] for name, replies in answers.items()})

# %% [markdown]
# Few replies promise the right step, so "all five" stays low. In this one run a model with 135 million parameters
# didn't learn what each kind of message calls for.
#
# ### What the log says
#
# TRL logs two *rewards*, which section 4 explains: how much likelier each reply has become, times β.

# %%
log = pd.DataFrame(trainer.state.log_history).dropna(subset="loss").set_index("step")
smooth = log[["rewards/chosen", "rewards/rejected"]].rolling(4, min_periods=1).mean()
print(f"first loss {log['loss'].iloc[0]:.3f}")
charts.lines({name: (list(smooth.index), list(smooth[name])) for name in smooth}, "Does the gap between the two rewards open?",
             "step", "reward (mean of four steps)")

# %% [markdown]
# At the first step both rewards are zero, because the model is still its own reference, and the loss is DPO's $\ln 2 =
# 0.693$ plus SFT's first loss, roughly where the rival's log begins. If yours differs, check the reference (section
# 8) and dropout. In such a short run the lines wander from batch to batch: both may fall first, and the gap opens, closes and
# reopens. The
# log only describes *training* pairs; to see whether the model writes better, read its answers.

# %% [markdown]
# ## 3 · How likely is a reply, according to the model?
#
# The model gives every text a probability, so we can ask how likely each reply is. A reply's probability is the
# product of its tokens' probabilities, each given what precedes it. That product is tiny, so we add logarithms. The
# sum is the reply's log-probability, in {{term:nat|nats}}. It's negative, and the closer to zero, the likelier the
# reply. Three steps compute it:
#
# - **Mask.** Only the reply's tokens count, because we want its probability *given* the message.
# - **Shift.** The scores ({{term:logits}}) at position 5 are about token 6. Drop the last position of the scores and the first token.
# - **Sum.** Look up each token's log-probability, and add up those that the mask keeps.

# %% tags=["dpo-from-scratch"]
def ids_and_mask(row, key):
    """Return the token ids of message and reply, (1, tokens), and a mask that is 1 on the reply."""
    template = tokenizer.apply_chat_template
    ids = template(row["prompt"] + row[key], return_dict=True)["input_ids"]
    prompt = template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[:len(prompt)] == prompt, "the template puts something between message and reply"
    mask = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    return torch.tensor([ids]), torch.tensor([mask])


def reply_log_probability(model, ids, mask):
    """Return the log-probability of the masked tokens, (rows), in nats."""
    logits = model(input_ids=ids.to(model.device)).logits[:, :-1].float()       # shift
    next_tokens = ids[:, 1:].to(model.device)
    logs = logits.log_softmax(-1)                                               # of every token of the vocabulary
    logs = logs.gather(2, next_tokens[..., None])[..., 0]                       # of the token that did come next
    return (logs * mask[:, 1:].to(model.device)).sum(1)                         # mask and sum


def both_replies(model, row):
    """Return the log-probabilities of a pair's replies, (1, 2): chosen, rejected."""
    return torch.stack([reply_log_probability(model, *ids_and_mask(row, key)) for key in ("chosen", "rejected")], dim=1)


ids, mask = ids_and_mask(pairs[0], "chosen")
show.conversation(tokenizer, ids[0], ids[0].where(mask[0] == 1, -100))

# %% [markdown]
# Only the marked tokens count. The mask is right only if the ids of message plus reply begin with those of the message
# alone. Some templates add something in between, so the function checks this.

# %%
with torch.no_grad():
    now = both_replies(by_dpo, pairs[0])
    with by_dpo.disable_adapter():
        before = both_replies(by_dpo, pairs[0])
table = pd.DataFrame({"before": before[0].tolist(), "now": now[0].tolist()}, index=["chosen", "rejected"])
table.assign(gain=table["now"] - table["before"]).round(3)

# %% [markdown]
# The first two columns don't say which reply is *better*, because a longer reply usually has a lower sum, and
# everyday wording a higher one. The last column shows what training changed, the *gain* of each reply since the
# start.

# %%
# EXERCISE: align-1

# %% [markdown]
# ## 4 · From a gain to a loss
#
# DPO's loss compares the two gains. **By hand:** suppose that the chosen reply went from −31 to −29.5, a gain of 1.5, and
# the rejected one from −27 to −29, a gain of −2. DPO multiplies each gain by a small number {{term:beta|β}}, here 0.1, and
# calls the result the {{term:implicit reward}}: 0.15 and −0.2. Their difference is the {{term:margin}}, 0.35. DPO assumes,
# with Bradley and Terry (1952), that a person prefers the chosen reply with probability $\sigma(m) = 1/(1+e^{-m})$, here
# 0.59; the loss is minus its logarithm, 0.53:
#
# $$\text{loss} = -\log \sigma\big(\beta\,[\,\text{gain}(y_c) - \text{gain}(y_r)\,]\big), \qquad
# \text{gain}(y) = \log\pi(y|x) - \log\pi_{\text{ref}}(y|x)$$
#
# Here $\pi$ is the model in training (the {{term:policy}}), $\pi_{\text{ref}}$ the reference, $x$ the message, and $y_c$,
# $y_r$ are the replies. Before the first step both gains are zero, so the loss is $-\log \tfrac12 = 0.69$ whatever
# the data. Later, the chosen reply's log-probability may even fall, as long as the rejected one's falls further.

# %% tags=["dpo-from-scratch"]
def dpo_loss(now, reference, beta=0.1):
    """Return the loss from log-probabilities of whole replies, each (pairs, 2): chosen, rejected."""
    rewards = beta * (now - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    return -torch.nn.functional.logsigmoid(margin).mean()


print(f"by hand: {dpo_loss(torch.tensor([[-29.5, -29.0]]), torch.tensor([[-31.0, -27.0]])):.3f}")
some = pairs.select(range(8))
exact = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)    # without TRL's rounding to 16 bits
if on_cpu:
    exact.float()                                                                   # the small model fits in 32 bits
with torch.no_grad():
    now = torch.cat([both_replies(exact, row) for row in some])
    with exact.disable_adapter():
        before = torch.cat([both_replies(exact, row) for row in some])
chosen_tokens = sum(ids_and_mask(row, "chosen")[1].sum() for row in some)
parts = dpo_loss(now, before), -now[:, 0].sum().cpu() / chosen_tokens            # the second is SFT's loss
trainer.remove_callback(NotebookProgressCallback)                                   # whose table has fourteen columns
by_trl = trainer.evaluate(trainer.train_dataset.select(range(8)))["eval_loss"]      # the same eight, already tokenized
print(f"eight pairs, after training: {parts[0]:.4f} + {parts[1]:.4f} = {sum(parts):.4f}, TRL says {by_trl:.4f}")

# %% [markdown]
# In 32 bits, as on a CPU here, your loss and TRL's are the same number. A small β lets the model drift further; a
# large one keeps it closer (section 8).
#
# <details><summary><b>Why this loss? Four lines from reinforcement learning to DPO</b></summary>
#
# Suppose that somebody could give each reply a reward $r(x, y)$. We'd want a policy that scores high but stays near the
# reference, where nearness is measured by the {{term:KL divergence|Kullback-Leibler divergence, KL}}:
# $\max_\pi \; \mathbb{E}_{y\sim\pi}\big[r(x,y)\big] - \beta\,\mathrm{KL}\big(\pi \,\|\, \pi_{\text{ref}}\big)$. The best
# policy makes replies likelier as their reward rises:
# $\pi^*(y|x) = \tfrac{1}{Z(x)}\,\pi_{\text{ref}}(y|x)\; e^{\,r(x,y)/\beta}$, where $Z$ makes the probabilities add up to
# one. Solve that for the reward: $r(x,y) = \beta \log\frac{\pi^*(y|x)}{\pi_{\text{ref}}(y|x)} + \beta\log Z(x)$, the gain
# times β plus a term independent of the reply. Bradley and Terry say that people prefer $y_c$ with probability
# $\sigma(r_c - r_r)$, and $Z$ cancels in the difference. Put the model in training in the place of $\pi^*$, and take minus
# the logarithm of the probability of the choices that people made: that's the loss above. So DPO (Rafailov et al., 2023)
# looks for the same policy as reinforcement learning would, with the same β, if people choose as Bradley and Terry say and
# the pairs cover the replies that matter.
#
# </details>

# %%
# EXERCISE: align-2

# %% [markdown]
# ## 5 · What the SFT term is for
#
# Training may make both replies less likely. How does that affect the answers? Train twice on the same pairs, each
# time at a third of the rate above, once without the SFT term and once with it. `training.fit` is the course's own
# loop, which saves you a minute here.

# %%
for name, objective in {"DPO alone": training.DPO(beta=0.1), "DPO + SFT": training.DPO(beta=0.1, sft_weight=1.0)}.items():
    torch.manual_seed(0)
    model = get_peft_model(models.load(start)[0], adapter)
    settings = training.Settings(learning_rate=learning_rate / 3, batch_size=4, warmup_steps=2)
    history = training.fit(model, tokenizer, data.train[: plan.examples], objective=objective, settings=settings)
    print(f"{name}: reward of the chosen replies in the last steps {np.mean(history.metric('reward_chosen')[-4:]):.2f}")
    answers[f"{name}, a third of the rate"] = generate(model.eval(), tokenizer, prompts, plan.answer_tokens)
    del model
compared = ["the start", *list(answers)[-2:]]
pd.DataFrame({name: kept(answers[name]) for name in compared}).map("{:.0%}".format)

# %%
evidence.lesson_04.judged_cards(asked[:1], {name: answers[name][:1] for name in list(answers)[-2:]})

# %% [markdown]
# Here DPO alone puts the step first in every answer, as two in five pairs teach, but few of its replies end properly
# any more. The one above runs on until it's cut off. No pair contrasts endings. The log gives a hint of this, because
# the reward of the chosen replies is far below zero (divide it by β to get nats). Even the *good* replies are less
# likely than before, yet the loss keeps falling as long as the rejected ones fall further. The SFT term pulls the
# model towards whole good replies (Pang et al., 2024, arXiv 2404.19733), here at the cost of some first steps. Other
# things can break: in the recorded runs below, DPO's replies end properly but lose the order number.
#
# ### Ranking two replies isn't writing one
#
# One run on so few pairs proves little, so we ran each method with three {{term:seed|seeds}} on
# {{record:preferences:plan.pairs:d}} pairs (`benchmarks/preferences.py`). What did the pairs teach? Count the test
# pairs whose chosen reply gained more than the rejected one, grouped by how the two differ:

# %%
runs = [run["methods"] for run in assets.read_record("preferences")["runs"]]
kinds = [row["kind"] for row in data.test[: len(runs[0]["DPO"]["right"])]]
meaning = {"order": "which sentence comes first", "step": "what is promised", "tone": "an apology or none", "item": "whose order it is"}
ranked = pd.DataFrame({name: np.mean([run[name]["right"] for run in runs], axis=0) for name in ("SFT on chosen", "DPO", "DPO + SFT")})
number = np.mean(evidence.lesson_04.per_seed("DPO", "order number right"))
print(f"DPO's own answers name the right order number in {number:.0%}")
by_kind = ranked.groupby([meaning[kind] for kind in kinds])
by_kind.mean().map("{:.0%}".format).assign(pairs=by_kind.size())

# %% [markdown]
# In all six pairs about it DPO gives the reply with the customer's own order number the larger gain (last row), yet
# its own answers mostly break that rule. So **judge the answers, not the share of pairs ranked right.** When the two
# replies promise different things, DPO ranks them hardly better than chance, while SFT and DPO + SFT get seven pairs
# in ten right. Whether DPO beats its cheap rival, this small model can't tell. Section 7 asks a larger one.

# %%
# EXERCISE: align-3

# %% [markdown]
# ## 6 · What do your pairs teach?
#
# An earlier edition of this course had a file of pairs in which each chosen reply was in house style, and each rejected
# one was verbose, cold, hedging or wrong. DPO ranked nine in ten of its test pairs right (`benchmarks/preferences.py`),
# which looked like success. Now rank the same pairs by three rules that barely read a reply:

# %% tags=["shortcuts", "folded"]
def texts(rows, key):
    """Return the text of each pair's chosen or rejected reply, which in a file like ours is a list with one message."""
    return [row[key] if isinstance(row[key], str) else row[key][-1]["content"] for row in rows]


def share_right(scores):
    """Return the share of pairs whose chosen reply scores higher; a tie counts half."""
    return np.mean([0.5 if abs(score) < 1e-6 else float(score > 0) for score in scores])


def length_scores(rows, target):
    """Return for each pair how much nearer the chosen reply is to a number of words."""
    words = [(len(chosen.split()), len(rejected.split())) for chosen, rejected in zip(texts(rows, "chosen"), texts(rows, "rejected"))]
    return [abs(rejected - target) - abs(chosen - target) for chosen, rejected in words]


def word_scores(train, test, first=None):
    """Return for each test pair how a bag of words, fitted to the training pairs, scores chosen minus rejected."""
    bag = CountVectorizer(analyzer=lambda text: re.findall(r"\w+", text.lower())[:first])
    bag.fit(texts(train, "chosen") + texts(train, "rejected"))
    known, new = (bag.transform(texts(rows, "chosen")) - bag.transform(texts(rows, "rejected")) for rows in (train, test))
    rule = LogisticRegression(fit_intercept=False, max_iter=1000)
    rule.fit(scipy.sparse.vstack([known, -known]), [1] * len(train) + [0] * len(train))
    return rule.decision_function(new).round(3)


found = {}
for name, rows in {"earlier pairs": load_preferences("confounded"), "our pairs": data}.items():
    target = max(range(1, 200), key=lambda words: share_right(length_scores(rows.train, words)))
    found[name] = {
        "nearer to one length": share_right(length_scores(rows.test, target)),
        "a bag of words": share_right(word_scores(rows.train, rows.test)),
        "the first three words": share_right(word_scores(rows.train, rows.test, first=3)),
    }
pd.DataFrame(found).map("{:.0%}".format)

# %% [markdown]
# Length alone ranks the earlier pairs about as well as DPO did. So DPO's 90 % doesn't show that it had learned a
# house style. **Before you train on pairs, rank them with the stupidest model you have.** If that model does well,
# your accuracy may measure nothing more.
#
# In two fifths of the pairs, our replies have the same sentences in a different order. The other three fifths come as
# twins:

# %%
show.drawing("twins")

# %% [markdown]
# Each of the twins' replies is chosen for one message and rejected for the other, so a rule that doesn't read the
# message is right once and wrong once. From the other pairs it can learn how a good reply begins, so it gets all of
# those two fifths right and half of the rest, or 70 %.

# %%
# EXERCISE: align-4

# %% [markdown]
# ## 7 · A model that people use, and pairs of its own answers
#
# Does DPO beat the cheap rival? We recorded runs with a model of half a billion parameters that people deploy,
# Qwen2.5-Coder-0.5B-Instruct, on all of the lesson's pairs and 100 test messages. The measure, fixed before training,
# is the share of answers that keep **all five rules**. Each method runs at the best of the rates that we tried on
# {{record:laptop-house-style:validation:d}} other messages (`benchmarks/laptop_house_style.py`).
#
# "SFT, kept rules" is a control that only somebody with a rule book can have, because it trains only on chosen
# replies that keep all five. ORPO adds a term to SFT's loss that raises the odds of the chosen reply over the
# rejected one's, so it needs no reference. Like its control, "SFT, one stage", it starts from the untrained model.

# %% tags=["folded"]
house = assets.read_record("laptop-house-style")["runs"]
methods = ["SFT", "SFT, kept rules", "DPO", "DPO + SFT", "SFT, one stage", "ORPO"]
best = {name: house[f"seed 0 | {name}"] for name in methods}
right = pd.DataFrame({name: pd.DataFrame(evidence.lesson_04.with_todays_names(run["right"])).mean() for name, run in best.items()}).T
right.insert(0, "best rate", [f"{run['rate']:g}" for run in best.values()])
print(f"{np.mean([all(house_style.judge(row, row['chosen']).values()) for row in data.train]):.0%} of the chosen replies keep all five rules")
right.map(lambda value: value if isinstance(value, str) else f"{value:.0%}")

# %% [markdown]
# In this run SFT and ORPO promise the right step most often. DPO alone puts a step first in every reply, but promises
# the right one in only two of five; DPO + SFT, at a higher rate, in two of three. We ran each method with two more
# seeds, which change the start, the order of the pairs and the adapter.

# %%
marks = {name: np.array([house[f"seed {seed} | {name}"]["right"]["all rules"] for seed in range(3)]) for name in ["start", *methods]}
for one, rival in [("DPO + SFT", "SFT"), ("DPO + SFT", "SFT, kept rules"), ("ORPO", "SFT, one stage"), ("ORPO", "DPO + SFT")]:
    by_seed, gains = ((marks[one] - marks[rival]).mean(axis=axis) for axis in (1, 0))            # gains: one number for each message
    half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    print(f"{one} minus {rival}: {gains.mean():+.0%}, 95 % interval over messages {gains.mean() - half:+.0%} to {gains.mean() + half:+.0%};",
          "seeds", ", ".join(f"{gain:+.0%}" for gain in by_seed))
pd.DataFrame({name: runs.mean(axis=1) for name, runs in marks.items()}, index=["seed 0", "seed 1", "seed 2"]).T.map("{:.0%}".format)

# %% [markdown]
# With each seed DPO + SFT and ORPO keep all five rules more often than SFT from the same model, though once by a
# single reply. The interval reflects only which messages were asked, and the three seeds are so far apart that we
# can't say how large the gain is. Pairs may pay off here because nearly half of the chosen replies break some rule,
# and SFT imitates those too. If somebody picks out the replies that keep all the rules, plain SFT on them does about
# as well as DPO + SFT over three seeds, at the one rate tried. ORPO needs no first stage. DPO alone has the lowest
# mean of the six methods, although we tried four rates.
#
# ### Pairs of the model's own answers
#
# So far both replies came with the file. More often you have neither, so your model answers each message several
# times, and a person or program chooses. Such pairs are called *on-policy*. In another recorded task the same model
# answers each message six times in at most 30 words, and a program checks six rules. A pair is an answer that keeps
# all of them and one that doesn't; SFT gets only the better one (`benchmarks/laptop_preferences.py`). The untrained
# model writes the first round's answers, the SFT model the second's:

# %% tags=["folded"]
own = assets.read_record("laptop-preferences")["runs"]
rounds = {"untrained": "before", "SFT": "seed 0 | SFT", "DPO": "seed 0 | DPO", "second round: SFT": "seed 0 | SFT, round 2, rate 5e-05",
          "second round: DPO": "seed 0 | DPO, round 2, rate 2e-05"}
pd.Series({label: np.mean(own[name]["right"]["all rules"]) for label, name in rounds.items()}).map("{:.0%}".format).to_frame("all six rules")

# %% [markdown]
# SFT on the better answers, also called *rejection-sampling fine-tuning*, improved in both rounds. DPO ended its first
# round below the untrained model. In the second it began as the first round's SFT model and ended below it. This is
# another task and one seed.

# %% [markdown]
# ## 8 · Mistakes and how to recognise them
#
# **The wrong reference.** Suppose you train an adapter with SFT, merge it in memory and go on without a fresh one. As
# the reference, TRL 1.16 then loads the model named in the configuration, the base *before* SFT. There's no error,
# but the first rewards aren't 0, and DPO's part of the first loss isn't 0.693:

# %%
base = models.load()[0]
with torch.no_grad():
    wrong = torch.cat([both_replies(base, row) for row in some])
print(f"first loss with the right reference {dpo_loss(before, before):.3f}, with the base {dpo_loss(before, wrong):.3f}")

# %% [markdown]
# Save the merged model and load that, as sections 1 and 2 did, or pass a copy as `ref_model`.
#
# **The rewards fall far.** If `rewards/chosen` falls far, as with DPO alone in section 5, read some answers at once;
# then add SFT's loss, lower the learning rate, or raise β.
#
# **A rate that is too high.** The answers show the damage, and so does the KL from the start: how many nats likelier,
# on average, the model finds its own answers than the start does.

# %%
evidence.lesson_04.failures_table()

# %% [markdown]
# The run at the high rate ranks even more pairs right than the first DPO run, but its KL is about forty times as large
# and few of its answers put the step first. A β of 1 instead of 0.1 keeps the model closer to the start, and the step
# still comes first.
#
# **Another system message.** The model has learned to reply to the `prompt` of the pairs, so send the same system message
# when you ask.

# %% [markdown]
# ## 9 · Which method, and when?

# %%
show.drawing("alignment-roads")

# %% [markdown]
# Here is each method on both models, as far as we ran it, with its time per training example relative to SFT's where
# we measured that (a pair is one example):

# %%
rows, prices = {}, assets.read_record("method-prices")["over SFT"]
house = assets.read_record("laptop-house-style")["runs"]
for method in ("SFT on chosen", "SFT, kept rules", "DPO", "DPO + SFT", "ORPO", "KTO", "IPO", "SimPO"):
    small = "–" if method == "SFT, kept rules" else f"{np.mean(evidence.lesson_04.per_seed(method, 'all five')):.0%}"
    rows[method] = {"all five rules, 135M": small}
    runs = [house.get(f"seed {seed} | {method.removesuffix(' on chosen')}") for seed in range(3)]
    rows[method]["all five rules, 0.5B"] = f"{np.mean([run['right']['all rules'] for run in runs]):.0%}" if all(runs) else "–"
    rows[method]["time"] = f"{prices[method]['an example'][0]:.1f}" if method in prices else "1" if method.startswith("SFT") else "–"
pd.DataFrame(rows).T

# %% [markdown]
# Figures are means of three seeds. On the small model no method stands out. On the
# 0.5B model SFT on hand-picked replies, ORPO and DPO + SFT lead; all three imitate better replies. IPO and SimPO are
# variants of DPO's loss: of the methods that learn from pairs alone, IPO matches SFT, and DPO and SimPO fall below
# it. ORPO began from the untrained model, the rest from the start.
#
# | method | what it needs | use it when |
# | --- | --- | --- |
# | SFT on the chosen replies | good replies | first, always: it's the control |
# | SFT on your model's better answers, in rounds | a program, or a person, who chooses | you have no pairs, and your model's answers are cheap |
# | DPO + SFT (2404.19733) | pairs, and a start that can already write | people compared replies that you were given |
# | DPO (2305.18290) | the same | here only as a control: few right steps (section 7) |
# | ORPO (2403.07691) | pairs, and no start | you have pairs but no trained model: one stage, no clear difference from DPO + SFT in section 7 (`trl.experimental.orpo`) |
# | {{term:KTO}} (2402.01306) | thumbs up and down | each reply was judged alone, so there are no pairs |
# | {{term:GRPO}} (2402.03300) | a score for each reply, from a program or a reward model | a program can check a reply |
#
# In {{term:RLHF}} (Ouyang et al., 2022) a {{term:reward model}} first learns from the pairs, with the same loss but its
# own scores in place of β times the gain. Then {{term:PPO}} trains the policy to write answers that score well, while a
# KL penalty keeps it near its start. DPO needs no reward model and generates no answers during training, so its loss
# can't tell you what the model would now write. [The next notebook](further/04_reinforcement.ipynb) trains with GRPO
# and shows a score being gamed.

# %% [markdown]
# ## How far to trust this, and what you can do now
#
# | | |
# | --- | --- |
# | messages | 24 live, 60 and 100 in recorded runs, all invented; the rules look for the desk's own phrases |
# | models | 135M for the methods, 0.5B for section 7 |
# | seeds | three for the methods; one for pairs of a model's own answers and for broken runs |
# | rates | in section 7 one to four of each method, with one seed; elsewhere one |
# | would change the answer | a larger model, thousands of pairs from people |
#
# | you want to | do |
# | --- | --- |
# | begin | use SFT on your best replies, the control for everything else |
# | trust your pairs | `course check-data pairs.jsonl --target trl --fix FOLDER` removes copies and contradictions; rank the test pairs by length, a bag of words and the first words; near 50 % is good news, unless the shortcut is what you want |
# | train | `DPOTrainer` with `loss_type=["sigmoid", "sft"]` on the saved SFT model, a fresh adapter, β 0.1, one epoch, three rates (around 3e-4 here, 1e-4 for 0.5B; for larger models, which we didn't try, the check suggests 1e-5) |
# | know that it's set up right | first rewards 0; first loss 0.69, plus SFT's if you add it |
# | know that it works | compare its answers to unseen messages with the control's, by a measure set beforehand |
# | keep it sane | watch the KL from the start and `rewards/chosen`, and read answers |

# %%
quiz("04")

# %% [markdown]
# **The challenge.** Train a tiny policy to a given win rate within a budget of KL.

# %%
# EXERCISE: align-5

# %% [markdown]
# {{words}}
#
# **Read next.** Rafailov et al. (2023), *Direct Preference Optimization*, arXiv 2305.18290; you can now read its sections 3
# and 4. Ouyang et al. (2022), *Training language models to follow instructions with human feedback*, arXiv 2203.02155. Tang
# et al. (2024), *Understanding the performance gap between online and offline alignment algorithms*, arXiv 2405.08448. Next,
# lesson 05 makes the data that all of this depends on.
