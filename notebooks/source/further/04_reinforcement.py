# %% [markdown]
# # 04, further · Learning from a score: GRPO, and how a score is gamed
#
# {{badges}}
#
# > *"I don't need people to compare answers. I've got a program that checks them. Can't the model learn from that?"*
#
# It can, and without any pairs. The model writes several answers to a message, the program scores them, and the
# better ones become likelier. That's {{term:GRPO}}, which is how many reasoning models are trained today. But the
# model learns only what the program checks. In a minute you'll watch a score climb to its maximum, and then find out
# that the model gives nearly everybody the same answer.
#
# By the end you'll be able to
#
# - compute GRPO's {{term:advantage|advantages}} and its loss by hand,
# - train with `GRPOTrainer` on a reward that you write yourself,
# - find out from the answers whether a reward is being gamed,
# - say what a {{term:reward model}} and {{term:PPO}} add, and what they cost.
#
# You should know lessons 02 and 04. Reading takes about 15 minutes, the two exercises 20 more. {{timing}} The outputs below are
# recorded; if you've lost them, `course restore further/04` in a terminal brings them back.

# %%
# INSTALL: trl

# %%
import json
from collections import Counter

import pandas as pd
import torch
from course_utils import assets, charts, evaluation, hardware, models, plans, show, training
from course_utils.data_prep import load_task
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

device, plan = hardware.detect(), plans.plan("further/04")
dtype, on_cpu = device.torch_dtype(), device.kind == "cpu"
task = load_task("support_tickets", list(plan.fields))
short = [chat for chat in task.train if len(chat[1]["content"]) <= plan.longest]
solved, scored = short[: plan.examples], short[plan.examples : plan.examples + plan.more_examples]
asked = [chat for chat in task.test if len(chat[1]["content"]) <= plan.longest][: plan.asked]
print(f"{len(solved)} solved tickets to start with, {len(scored)} messages to be scored on, {len(asked)} to test with")
solved[0][1:]

# %% [markdown]
# The task is the first field of lesson 02's tickets, the category. A few solved tickets are enough to start with, because the model
# only has to write a record most of the time, and the right one now and then. GRPO can't invent anything. If none of
# the answers to a message is ever right, there's nothing to make likelier.

# %%
base, tokenizer = models.load()
lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
imitating = get_peft_model(base, LoraConfig(**lora))
print(training.fit(imitating, tokenizer, solved, settings=training.Settings(learning_rate=1e-3, batch_size=4, warmup_steps=3)))
imitating.merge_and_unload().save_pretrained("rl-start")
files = tokenizer.save_pretrained("rl-start")
del base, imitating        # everything below loads the folder

# %% [markdown]
# ## 1 · The idea: compare an answer with its group
#
# Is a {{term:reward}} of 0.8 good? That depends on the message, because for an easy one it may be poor. GRPO (Shao et
# al., 2024) therefore has the model answer each message several times and compares the answers *with each other*.

# %%
show.drawing("grpo-group")

# %% [markdown]
# An answer's advantage is its reward's distance from the group's mean, divided by the group's standard deviation. If
# it's positive, the answer becomes likelier, token by token; if it's negative, less likely. If all answers in a group
# get the same reward, every advantage is 0 and the group teaches nothing.
#
# Here is the whole method in code. `now` and `old` are the log-probabilities of each {{term:token}}, now and when the
# answer was written. Their *ratio* tells you how far the model has moved since. It's clipped, so moving a token
# further with the same answers gains nothing. The last term, which is optional, keeps the model near a
# {{term:reference model|reference}}; it estimates the {{term:KL divergence}} and is never negative.

# %% tags=["grpo-from-scratch"]
def group_advantages(rewards):
    """Return the distance of rewards, (messages, answers), from the mean of their message, in its standard deviations."""
    spread = rewards.std(dim=1, keepdim=True)
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 1e-4)


def grpo_loss(now, old, reference, advantages, mask, clip=0.2, beta=0.04):
    """Return the loss from log-probabilities of tokens, each (answers, tokens), and one advantage for each answer."""
    ratio, advantage = (now - old).exp(), advantages[:, None]              # the answer's advantage counts for each of its tokens
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    kl = (reference - now).exp() - (reference - now) - 1
    per_answer = ((beta * kl - gain) * mask).sum(1) / mask.sum(1)
    return per_answer.mean()


print(group_advantages(torch.tensor([[1.0, 0.3, 0.3, 0.8], [1.0, 1.0, 1.0, 1.0]])))

# %% [markdown]
# The first row matches the drawing. A test of this course compares both functions with TRL's trainer
# (`loss_type="grpo"`, and `use_bias_correction_kl=False`, without which newer versions multiply the KL term by the
# ratio). TRL's default loss, `"dapo"`, averages over all tokens of the batch instead of over each answer.
#
# ### Two programs score the same answers
#
# Both programs below are *verifiable rewards*, because they only check, and there's no model behind them to flatter.
# The first asks for what a server needs, a valid record. The second compares the category with the solved ticket's.

# %%
def read_record(answer):
    """Return the record in an answer, or None if it isn't a valid one."""
    return evaluation.parse_record(answer, task.schema)


def valid_record(completions, **_):
    """Return for each answer 1.0 if it's a valid record, else 0.0."""
    return [float(read_record(answer[0]["content"]) is not None) for answer in completions]


def right_category(completions, category, **_):
    """Return for each answer 1.0 if it's a valid record with the right category, else 0.0."""
    records = [read_record(answer[0]["content"]) or {} for answer in completions]
    return [float(record.get("category") == right) for record, right in zip(records, category)]


rows = [{"prompt": chat[:-1], "category": json.loads(chat[-1]["content"])["category"]} for chat in scored]
start = AutoModelForCausalLM.from_pretrained("rl-start", dtype=dtype).to(device.place())
group = generate(start, tokenizer, [rows[0]["prompt"]] * 6, plan.answer_tokens, temperature=1.0)
del start
answers = [[{"role": "assistant", "content": answer}] for answer in group]
form, content = torch.tensor([valid_record(answers)]), torch.tensor([right_category(answers, [rows[0]["category"]] * 6)])
print(rows[0]["prompt"][-1]["content"], "→", rows[0]["category"])
pd.DataFrame({"answer": group, "valid": form[0], "its advantage": group_advantages(form)[0].numpy().round(2),
              "right": content[0], "its advantage ": group_advantages(content)[0].numpy().round(2)})

# %% [markdown]
# A valid record with the wrong category gets the first program's full reward and nothing from the second. So the two
# push the same answers in different directions. The first makes any valid record likelier, whatever the message says.
# A category that isn't on the list makes a record invalid.
#
# Before you go on, take the small number out of the advantages, and count the groups that teach nothing:

# %%
# EXERCISE: reinforce-1

# %% [markdown]
# ## 2 · The job: `GRPOTrainer`
#
# The trainer needs messages, a scoring function, and the usual adapter. It passes other columns of a row, here the
# `category`, to the function. As in lesson 04, switching the adapter off gives you the starting model.

# %% tags=["program", "trl"]
def train_on(reward):
    """Return the start with a fresh adapter, trained by GRPO on a reward, and the trainer's log."""
    settings = GRPOConfig(
        output_dir="checkpoints", learning_rate=plan.learning_rate, lr_scheduler_type="constant", num_train_epochs=1,
        num_generations=6, per_device_train_batch_size=6, gradient_accumulation_steps=2,     # a step: 2 messages, 6 answers each
        max_completion_length=plan.answer_tokens, temperature=1.0, beta=0.0, logging_steps=1, save_strategy="no", report_to="none",
        use_cpu=on_cpu, bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16, gradient_checkpointing=False,
    )
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained("rl-start", dtype=dtype), reward_funcs=reward, args=settings,
        peft_config=LoraConfig(**lora), train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )
    trainer.train()
    return trainer.model.eval(), [row["reward"] for row in trainer.state.log_history if "reward" in row]


by_form, form_rewards = train_on(valid_record)
print("reward, step by step:", *(f"{reward:.2f}" for reward in form_rewards))

# %% [markdown]
# Watch the reward, not the loss. This run makes one update with each batch of answers and leaves out the KL term
# (`beta=0`, TRL's default), so every ratio is 1 and nothing is clipped. The logged loss is then minus the mean of the
# advantages over all tokens, which is near zero whether or not the model learns.
#
# | setting | what it does | what to change |
# | --- | --- | --- |
# | `num_generations` | the size of a group | more, if most groups have equal rewards |
# | `temperature` | how different the answers of a group are | leave it at 1: at 0 all would be the same |
# | `beta` | how strongly the model is held near its start | 0.04, the paper's, if answers lose what no reward checks |
# | `learning_rate` | the size of a step | three or four, measured; lower for larger models (lesson 02, section 6) |
#
# ## 3 · The score rises. Is the model better?
#
# The reward asked for a valid record. Write down a guess before you look:

# %%
guess = predict(f"{len(asked)} new messages, each answered at temperature 0. How many different answers does this model give?", unit="answers")
guess

# %%
right = [json.loads(chat[-1]["content"])["category"] for chat in asked]


def answer_all(model):
    """Return the answers to the test messages at temperature 0."""
    return generate(model, tokenizer, [chat[:-1] for chat in asked], plan.answer_tokens)


def measure(answers):
    """Return what the reward can show of some answers, and what it can't."""
    records = [read_record(answer) or {} for answer in answers]
    hits = evaluation.proportion([record.get("category") == category for record, category in zip(records, right)])
    (commonest, count), *_ = Counter(answers).most_common(1)
    return {"valid": f"{sum(map(bool, records)) / len(records):.0%}", "category right": str(hits),
            "different answers": len(set(answers)), "most frequent": f"{commonest} {count / len(answers):.0%}"}


with by_form.disable_adapter():                    # the start, which the adapter left as it was
    results = {"the start": answer_all(by_form)}
results["valid record"] = answer_all(by_form)
guess.reveal(len(set(results["valid record"])))

# %%
pd.DataFrame({name: measure(answers) for name, answers in results.items()}).T

# %% [markdown]
# The reward rose, but the last column shows that the model learned to write the same record for nearly every message.
# That record is valid, so it earns the full reward, and reading the message would earn no more. The reward began
# lower than the start's "valid" because it's for answers at temperature 1, whereas the table shows temperature 0.
#
# **Your turn.** Call `train_on(right_category)` in a new cell, and `measure(answer_all(…))` on the model that it returns. Is it better?
# With such a start and so few steps it may not be, which is why section 4 uses recorded runs.
#
# ## 4 · A reward for the content
#
# Does a reward for right content do better? Such a run takes longer than a notebook should, so we recorded it on a
# model of 0.5 billion parameters, with all four fields of lesson 02 (script: `benchmarks/laptop_rewards.py`). The
# start imitated {{record:laptop-rewards:solved:d}} solved tickets. From there, each reward got
# {{record:laptop-rewards:steps:d}} steps, each with {{record:laptop-rewards:"messages a step":d}} messages and
# {{record:laptop-rewards:"answers to each":d}} answers to each message:
#
# - *right fields* pays the share of fields that are right, and half a point more if all four are;
# - *valid and short* pays 1 for a valid record, less {{record:laptop-rewards:penalty:.2f}} for each token, as somebody might ask
#   who pays by the token;
# - the cheap rival goes on with {{term:SFT}} on the right answers to the same messages.
#
# We ran *right fields* and its rival three times, each from its own start, and *valid and short* once. Shares are
# means over the runs, on lesson 02's hundred test messages:

# %%
runs = assets.read_record("laptop-rewards")["runs"]
ways = {"the start": "start", "valid and short": "form", "right fields": "content", "SFT on the right answers": "SFT on the same messages"}
fields = ["category", "escalation", "product", "order_id"]


def recorded_hits(way):
    """Return 1 or 0 for each test message, one table a run."""
    return [pd.DataFrame(runs[f"seed {seed} | {way}"]["right"]) for seed in range(3) if f"seed {seed} | {way}" in runs]


rows, starts = {}, recorded_hits("start")
for name, way in ways.items():
    hits = recorded_hits(way)
    gains = sum(after[fields] - before[fields] for after, before in zip(hits, starts)).mean(axis=1) / len(hits)
    rows[name] = {
        **{column: f"{100 * sum(run[column].mean() for run in hits) / len(hits):.0f} %" for column in ["valid", *fields]},
        "all fields, run by run": " ".join(f"{run['all fields'].sum():.0f}" for run in hits),
        "more fields right than the start": "" if way == "start" else str(evaluation.mean(list(gains))),
    }
pd.DataFrame(rows).T

# %%
teaching = {name: runs[f"seed 0 | {ways[name]}"]["curve"]["groups"] for name in ("right fields", "valid and short")}
charts.lines({name: (range(1, len(groups) + 1), groups) for name, groups in teaching.items()},
             "Once all answers are alike, a reward teaches nothing", "step", "groups, of six, whose rewards differ")

# %%
print("valid and short, four different messages:", *runs["seed 0 | form"]["answers"][:4], sep="\n")

# %% [markdown]
# **The reward for right fields makes more fields right, but no more records.** Escalations, products and order
# numbers improved on average, partly because more records are valid, but categories got worse in every run, and whole
# records went from 18, 15 and 25 to 16, 21 and 21. A reward only says "more like this one", so GRPO reinforces what
# the model already gets right now and then.
#
# **The reward for short, valid records was gamed within fifteen steps.** Every message gets the same valid record.
# Nearly half of the order numbers are "right" because so many messages have none. The chart shows how you'd notice.
# Once nearly all groups have equal rewards, there's nothing left to learn, although not one whole record is right.
#
# **A solved ticket teaches more than a score.** SFT on the right answers to the same messages gets far more of
# everything right, so use SFT wherever you have right answers. GRPO is for tasks where you can only check answers.
# Its good results come from large runs, with thousands of steps and models that are right often enough to begin with
# (Shao et al., 2024).
#
# ## 5 · How you see that a score is gamed
#
# A reward gets gamed when it's easier to satisfy the program than to do the work. A record that's always the same is
# valid, an answer that hedges is never wrong, and code that knows the test passes it. If the model ever writes such
# an answer, training finds it, because finding rewarded answers is its job. The reward won't show you that, so look
# here:
#
# | look at | how | gamed if |
# | --- | --- | --- |
# | the answers | `Counter(answers).most_common(3)`, and read twenty of them | they no longer depend on the message |
# | the work itself | score it on messages without rewards, beside the start | the reward rose and this score didn't |
# | the groups | the share whose rewards differ (your exercise) | it falls to 0 while the work isn't done |
#
# The remedy is a better program, which rewards what you want and not what's easy to check. If that's impossible, stop
# early, and hold the model near its start with `beta`, which may slow the gaming down.
#
# ## 6 · If no program can score: a reward model, and PPO
#
# Then train a model to score. The reward model is a language model whose output layer has a single number. It learns
# from pairs with the loss that you know from lesson 04, $-\log\sigma(r_c - r_r)$, where $r_c$ and $r_r$ are its
# scores of the {{term:chosen}} and the {{term:rejected}} reply. It can also learn any shortcut that ranks those
# pairs. For example, if length does, it'll reward length.
#
# PPO (Schulman et al., 2017) trains the {{term:policy}}, the model that answers, to score high. An answer written for this purpose is a
# {{term:rollout}}. Its reward comes only at the end, so how should it be spread over the tokens?

# %%
show.drawing("ppo-rollout")

# %% [markdown]
# Read the picture from the top. Each token pays for having become likelier than under the reference, or gets credit
# for having become less likely, which is the KL penalty. The last token also gets the reward. Before each token, a
# second network, the {{term:value model}}, has guessed how well the answer would end, and the token's advantage says
# how much better it went than that. GRPO uses the group's mean instead of a guess, which saves a network of the
# model's size.
#
# <details><summary><b>PPO's advantages, by hand</b></summary>
#
# Let $V_t$ be the value model's guess before token $t$, and $r_t$ the reward that comes with the token. The one-step error is
# $\delta_t = r_t + \gamma V_{t+1} - V_t$: what came, plus what is still expected, less what had been expected. The advantage adds
# the later errors, discounted: $A_t = \delta_t + \gamma\lambda A_{t+1}$. Here $\gamma$ discounts what comes later (usually 1 for text), and
# $\lambda$ says how far a surprise is passed back (often 0.95). In the picture the last token has 1.48 + 0 − 1.3 = 0.18, and the one before
# it −0.01 + 1.3 − 1.2 + 0.95 · 0.18 = 0.26. After the last token of a finished answer the value is 0. For an answer that was cut
# off, take the value model's guess.
#
# </details>

# %%
# EXERCISE: reinforce-2

# %% [markdown]
# ## What you can do now
#
# | you want to | do |
# | --- | --- |
# | choose a method | with right answers, SFT first; with a program that checks content, GRPO; with people who compare, DPO |
# | start | use a model that's sometimes right; if every reward in a group is 0, solve some tickets for it first |
# | write a reward | check what you want, not what's easy to check; run it on twenty answers and read them |
# | know that it works | count right answers on messages without rewards; compare with the start and SFT; give an interval |
# | see that it's gamed | count different answers and read the most frequent ones |

# %%
quiz("further-04")

# %% [markdown]
# **Read next.** Shao et al. (2024), *DeepSeekMath*, arXiv 2402.03300: section 4 introduces GRPO. Yu et al. (2025), *DAPO*, arXiv
# 2503.14476: what TRL's default loss changes, and why. Gao et al. (2022), *Scaling Laws for Reward Model Overoptimization*, arXiv
# 2210.10760: how far a score can be trusted. Then lesson 05, which makes the data that all of this needs.

# %% [markdown]
# {{words}}
