# %% [markdown]
# # 04 · Alignment: teach a model which answer is better
#
# {{badges}}
#
# A support desk has thousands of replies that its agents have sent. All are polite and short. Some say at once
# what happens next; others keep a customer waiting whose lamp is on fire. Some promise the right thing, others
# do not. A model that imitates the desk learns all of this. In this lesson you teach it the difference: you
# show it two replies to one message and say which is better. This is called
# {{term:alignment}} by preferences, and most models that you chat with have been through it.

# %%
# INSTALL: trl

# %%
from course_utils import evaluation, evidence, hardware, memory, models
from course_utils import plans, show, training
from course_utils.data_prep import load_preferences, load_task
from course_utils.evidence import house_style
from course_utils.exercises import check, quiz
from course_utils.generation import generate
from course_utils.show import predict

import random

import torch

lesson = evidence.lesson_04
lesson.before_and_after()

# %% [markdown]
# The marks under each card say which rules of the desk's house style the reply keeps; a program checks them. A
# reply can be friendly and still be the worse one. The answer after training keeps every rule, which is rare:
# about nine in ten answers still break at least one, and section 5 says which.
#
# By the end you will be able to
#
# - say what imitation cannot teach, and what a pair of replies adds,
# - compute a reply's {{term:log-probability}}, its gain and the {{term:DPO}} {{term:loss}} by hand, and write them in code,
# - train with `DPOTrainer` of TRL, the library most people use for this, and read its log,
# - find out with the simplest possible model whether your pairs teach a shortcut,
# - train on a score instead of pairs with {{term:GRPO}}, and see how a score is gamed,
# - choose between {{term:SFT}}, DPO, {{term:ORPO}} and {{term:reinforcement learning}}, knowing what each costs.
#
# You should know lesson 02: what a training {{term:step}} is, what an {{term:adapter}} of {{term:LoRA}} is, and how a model is
# fine-tuned on examples. Reading takes about 90 minutes (sections 8 and 9 can wait), and the exercises as long.
#
# {{timing}} The outputs below are recorded. Run the cells one by one with Shift+Enter as you read: Run All empties every
# output before it fills it again, and `course restore 04` in a terminal brings the recorded page back.

# %% [markdown]
# ## 1 · What imitation cannot teach
#
# Training on examples is called *supervised fine-tuning*, SFT for short. It makes every example more likely,
# the good ones and the bad ones, and has no way to say *not like this*. What does a model make of a desk's
# history?
#
# The data are pairs: each has a message, a reply and a better reply.

# %%
device = hardware.detect()
plan = plans.plan("04")
pairs = load_preferences("balanced")
pair = next(row for row in pairs.train if row["kind"] == "order" and row["case"] == "danger")
print(f"{device.name}: tier {device.tier}; {len(pairs.train)} pairs to train on, "
      f"{len(pairs.test)} to test with")
lesson.pair_card(pair)

# %% [markdown]
# In a {{term:preference pair}} the better reply is called {{term:chosen}} and the other one {{term:rejected}}.
# Here both have the same two sentences. The chosen one says first what to do, as a customer with sparks in the
# living room deserves.
#
# Our house style asks for this. A program marks every answer by five such rules:
#
# | mark | a reply gets ✓ if |
# | --- | --- |
# | step first | its first sentence says what happens next, whatever that is |
# | right step | it promises the step that this case calls for, and no other |
# | tone fits | it apologises to an upset customer, and to nobody else |
# | order is the customer's | it names the order number of the message, and no other number |
# | comes to an end | it stops, with a full stop, within 60 words |
#
# *Upset* is a customer who complains about us ("I am fed up"), not one whose product has broken. A step must be
# promised whole: for sparks, to unplug the product *and* to have it collected. A wrong step in the first sentence still
# counts as “step first”. Each pair is about one of the first four
# rules.

# %%
lesson.steps_table(pairs.train)

# %%
lesson.kinds_table(pairs.train)

# %% [markdown]
# Look at the apology row: the chosen reply is *better*, not perfect. It is right not to apologise, but it still
# keeps the customer waiting for the step. Real pairs are like that: whoever compared the replies said which is
# better, not that either is a model to copy.
#
# Now make the desk's history. Draw one reply at random from each pair, as if some agents were careful and
# others were not. Train on these replies as in lesson 02, and merge the adapter into the model.

# %%
from peft import LoraConfig, get_peft_model

model, tokenizer = models.load()
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
dice = random.Random(0)


def as_chat(row, key):
    """The message of a pair with one of its two replies."""
    return row["prompt"] + [{"role": "assistant", "content": row[key]}]


history = [as_chat(row, dice.choice(("chosen", "rejected"))) for row in pairs.train]
first = [house_style.judge(row, row[key])["step first"]
         for row in pairs.train for key in ("chosen", "rejected")]
print(f"{100 * sum(first) / len(first):.0f} % of all replies begin with the step, "
      f"{100 * sum(first[::2]) / len(first[::2]):.0f} % of the chosen ones")

# %%
imitation = get_peft_model(model, lora)
settings = training.Settings(learning_rate=3 * plan.learning_rate, batch_size=4, warmup_steps=3)
run = training.fit(imitation, tokenizer, history[: plan.more_examples], settings=settings)
start = imitation.merge_and_unload()
print(f"{model.num_parameters():,} weights, {plan.more_examples} replies, "
      f"learning rate {settings.learning_rate:g}")
print(run)

# %% [markdown]
# Ask this model some test messages. They are about other products and in other words than the training
# messages. But all *replies* are made from the same twenty-odd sentences, so this tests choosing, not writing.

# %%
asked = pairs.test[: plan.looked_at]
answers = {"imitates the desk": lesson.answers(start, tokenizer, asked, plan.answer_tokens)}
shown = lesson.different_cases(asked)                      # of different kinds
lesson.judged_cards([asked[i] for i in shown],
                    {name: [given[i] for i in shown] for name, given in answers.items()})

# %% [markdown]
# Read the sentences first, then the marks. After so few steps the model has learned how the desk sounds, but
# hardly what the desk promises to whom.
#
# Almost no answer says the step first, although some of the training replies do. Why? These answers are given
# at {{term:temperature}} 0: at each point the model writes the token that it finds most likely. A faithful
# imitator knows that most replies begin with a courtesy, and so its own mostly do. In this history the better
# way is not the more frequent one.
#
# We could throw the rejected replies away and train on the chosen ones. Remember this idea: it is simple, cheap
# and often hard to beat, and everything else is measured against it. But it wastes half of what we know: a pair
# tells us a *difference*, and imitation has no use for differences.

# %% [markdown]
# ## 2 · How likely does a model find a reply?
#
# A preference gives no grade; it says only that A is better than B. What can we train on, then? The model
# itself gives every text a probability. So we can ask how likely it finds A, and how likely B.
#
# A reply is a row of tokens. Its probability is the product of the probabilities of its tokens, each given those before it.
# This product is tiny, so we add up logarithms instead. The sum is the reply's log-probability. It is negative,
# and closer to zero means more likely. Its unit is the {{term:nat}}.
#
# Three steps compute this sum.
#
# **Mask.** Only the reply's tokens count, not the message's: we ask how likely the reply is, *given* the message. A mask says
# which is which, 1 for the reply and 0 for the rest.

# %% tags=["dpo-from-scratch"]
def ids_and_mask(row, key):
    """Token ids of message and reply, (1, tokens), and a mask that is 1 on the reply."""
    template = tokenizer.apply_chat_template
    ids = template(as_chat(row, key), return_dict=True)["input_ids"]
    prompt = template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    mask = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    return torch.tensor([ids]), torch.tensor([mask])


# %%
ids, mask = ids_and_mask(pair, "chosen")
show.conversation(tokenizer, ids[0], ids[0].where(mask[0] == 1, -100))


# %% [markdown]
# Blue marks what counts: the reply. The mask is right only if the ids of the message alone are the beginning of
# the ids of message and reply, as they are here. A template that adds something in between, or a
# {{term:tokenizer}} (it cuts text into tokens) that joins the end of the message to the start of the reply,
# shifts the mask, and no error appears. So look at the colours once for every new model.
#
# **Shift.** The model's scores, called {{term:logits}}, predict what comes *next*: those at position 5 are
# about token 6. To line them up, drop the last position from the logits and the first one from the tokens.
#
# **Sum.** Look up each token's log-probability, cross out those that the mask excludes, and add up the rest.
# `log_softmax` turns the model's
# scores for all tokens into their log-probabilities; `gather(2, …)` then picks, at each position, that of one token.

# %% tags=["dpo-from-scratch"]
def reply_log_probability(model, ids, mask):
    """Log-probability of the masked tokens, (rows), in nats."""
    logits = model(input_ids=ids.to(model.device)).logits[:, :-1].float()  # shift
    next_tokens = ids[:, 1:].to(model.device)
    logs = logits.log_softmax(-1)                             # of every token in the vocabulary
    logs = logs.gather(2, next_tokens[..., None])[..., 0]     # of the token that did come next
    return (logs * mask[:, 1:].to(model.device)).sum(1)       # mask, sum


# %%
with torch.no_grad():
    found = {key: reply_log_probability(start, *ids_and_mask(pair, key)).item()
             for key in ("chosen", "rejected")}
show.table({
    key: {"tokens": int(ids_and_mask(pair, key)[1].sum()), "log-probability, nats": value,
          "per token": value / int(ids_and_mask(pair, key)[1].sum())}
    for key, value in found.items()
}, caption="What the imitating model thinks of the pair above")

# %% [markdown]
# Compare the two sums: they are close. The replies have the same words, so only their *order* can make a
# difference. The model may well find one order more likely, because the desk used it more often; which order is
# *better*, nobody has told it.
#
# In general, a log-probability says little about which reply is *better*. A longer reply usually has a lower
# sum, because each token adds a negative term. And a reply is likely because its words are common, or because
# the desk has often sent it. Neither is a merit.
#
# **Your turn.** Here is the same computation as somebody else wrote it.

# %%
# EXERCISE: align-1

# %% [markdown]
# ## 3 · From a gain to a loss
#
# The log-probability itself says little, but its *change* says a lot. Before training, record each reply's
# log-probability. A copy of the model in this state is called the {{term:reference model}}. After some
# training, look again.
#
# Suppose that the chosen reply had −31 at first and has −29.5 now, and that the rejected one went from −27 to −29. The
# rejected reply is still the more likely one, but the model has moved the right way.

# %%
lesson.gain_table(before=(-31.0, -27.0), now=(-29.5, -29.0), beta=0.1)

# %% [markdown]
# Follow the rows. The *gain* is the log-probability now minus that of the reference: −29.5 − (−31) = +1.5 for chosen, and −2 for
# rejected. DPO multiplies each gain by a small
# number $\beta$ ({{term:beta}}), here 0.1, and calls the result the {{term:implicit reward}}. The difference of the two
# {{term:reward|rewards}} is the {{term:margin}}: 0.15 + 0.20 = 0.35.
#
# Now we only need a loss that is small when the margin is large. Squash the margin to a number between 0 and 1
# with the S-shaped function $\sigma(m) = 1/(1+e^{-m})$. Read this number as the probability that a person
# prefers the chosen reply: one half at $m = 0$, nearly 1 when $m$ is large. The loss is minus the logarithm of
# this probability, as for every yes-or-no question:
#
# $$\text{gain}(y) = \log\pi(y|x) - \log\pi_{\text{ref}}(y|x)$$
#
# $$\text{loss} = -\log \sigma\big(\beta\,[\,\text{gain}(y_c) - \text{gain}(y_r)\,]\big)$$
#
# where $\pi$ is the model in training, called the {{term:policy}}, $\pi_{\text{ref}}$ the reference, $x$ the message, and $y_c$,
# $y_r$ the chosen and the rejected reply. For our pair it is $-\log\sigma(0.35) = 0.53$.
#
# Before the first step all gains are zero, and the loss is $-\log\sigma(0) = \log 2 = 0.69$. Remember this
# number. If a run of plain DPO logs another first loss, check the reference: most often it is not the model
# that you are training. But 0.69 does not prove the reference right: one that is wrong in the same way as the
# model, or moves along with it, also begins there.

# %%
guess = predict("You double β before the first step. What is the first loss now?",
                choices=("0.35", "0.69", "1.39"))
guess

# %% tags=["dpo-from-scratch"]
def dpo_loss(now, reference, beta=0.1):
    """Loss from log-probabilities of whole replies, each (pairs, 2): chosen, rejected."""
    rewards = beta * (now - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    return -torch.nn.functional.logsigmoid(margin).mean()


# %%
same = torch.tensor([[-31.0, -27.0]])
guess.reveal(f"{dpo_loss(same, same, beta=0.2).item():.2f}", "", source="computed")

# %% [markdown]
# Twice zero is zero, so β does not matter yet. Later it does: with a large β a small gain already makes the
# loss small, so training stops pushing early and the policy stays near the reference. With a small β training
# pushes further. Some tutorials say the reverse.

# %% [markdown]
# <details><summary><b>Why this loss? Four lines from reinforcement learning to DPO</b></summary>
#
# Suppose that somebody could give each reply a reward $r(x, y)$. We would want a policy with high rewards that stays
# near the reference, so that it does not forget how to write. How far it is away is measured by the
# {{term:KL divergence|Kullback-Leibler divergence, KL}}:
#
# $$\max_\pi \; \mathbb{E}_{y\sim\pi}\big[r(x,y)\big] - \beta\,\mathrm{KL}\big(\pi \,\|\, \pi_{\text{ref}}\big)$$
#
# This problem has a known solution. Take the reference, and make each reply more likely the higher its reward is ($Z$ makes the
# probabilities add up to one):
#
# $$\pi^*(y|x) = \tfrac{1}{Z(x)}\,\pi_{\text{ref}}(y|x)\; e^{\,r(x,y)/\beta}$$
#
# Solve that for the reward. It is the gain over the reference, times $\beta$, plus a term that does not depend on the reply:
#
# $$r(x,y) = \beta \log\frac{\pi^*(y|x)}{\pi_{\text{ref}}(y|x)} + \beta\log Z(x)$$
#
# People prefer $y_c$ to $y_r$ with probability $\sigma(r_c - r_r)$, the model of Bradley and Terry (1952). In the difference
# $Z$ cancels, and what is left is the loss above:
#
# $$P(y_c \succ y_r) = \sigma\Big(\beta\log\frac{\pi^*(y_c|x)}{\pi_{\text{ref}}(y_c|x)} -
# \beta\log\frac{\pi^*(y_r|x)}{\pi_{\text{ref}}(y_r|x)}\Big)$$
#
# So DPO (Rafailov et al., 2023) looks for the same policy as reinforcement learning, but without rewards. This
# holds if people choose as Bradley and Terry say and the pairs cover the replies that matter.
#
# </details>
#
# **A few steps, on one pair.** We train a fresh adapter. With the adapter switched off the model is the
# reference, so no second copy is needed. As for any loss, `backward()` computes the slopes, called
# {{term:gradient|gradients}}, and the {{term:optimizer}} moves the {{term:weight|weights}}.

# %% tags=["dpo-from-scratch"]
def both(model, row):
    """Log-probabilities of a pair's replies, (1, 2)."""
    return torch.stack([reply_log_probability(model, *ids_and_mask(row, key))
                        for key in ("chosen", "rejected")], dim=1)


policy = get_peft_model(start, lora)
optimizer = torch.optim.AdamW([w for w in policy.parameters() if w.requires_grad], lr=5e-4)
with torch.no_grad(), policy.disable_adapter():
    reference = both(policy, pair)
losses = []
for _ in range(4):
    loss = dpo_loss(both(policy, pair), reference)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

# %%
with torch.no_grad():
    now = both(policy, pair)
start = policy.unload()
print("loss, step by step:", ", ".join(f"{loss:.3f}" for loss in losses))
lesson.gain_table(reference[0].tolist(), now[0].tolist())

# %% [markdown]
# The first loss is 0.693, as promised, and then the loss falls. Look at both gains: training pulls them
# *apart*, but nothing in the loss says that the chosen reply must become more likely. Section 7 comes back to
# this.
#
# One pair, learned by heart, proves nothing about other messages. On a batch, these functions agree with TRL's
# loss to five digits.

# %%
# EXERCISE: align-2

# %% [markdown]
# ## 4 · The job: `DPOTrainer`
#
# At work you do this with a few lines of TRL. The data are rows with a prompt, a chosen and a rejected reply,
# each a list of messages. Before training, record how likely the model finds the replies of some test pairs.

# %%
from datasets import Dataset
from trl import DPOConfig, DPOTrainer


def to_row(row):
    """A pair as TRL takes it."""
    reply = {key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")}
    return {"prompt": row["prompt"]} | reply


held_out = pairs.test[: plan.asked]
before = evaluation.likelihoods(start, tokenizer, held_out)

# %% [markdown]
# The trainer gets the model that has imitated the desk and a fresh adapter, which TRL switches off to ask the
# reference. A fresh adapter changes nothing yet, so before the first step policy and reference agree.

# %% tags=["trl"]
settings = DPOConfig(
    output_dir="house-style", beta=0.1, learning_rate=plan.learning_rate, num_train_epochs=1,
    per_device_train_batch_size=2, gradient_accumulation_steps=2, warmup_steps=2,
    logging_steps=1, lr_scheduler_type="linear",
    use_cpu=device.kind == "cpu", bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
    gradient_checkpointing=False, save_strategy="no", report_to="none",
)
trainer = DPOTrainer(
    model=start, args=settings, processing_class=tokenizer, peft_config=lora,
    train_dataset=Dataset.from_list([to_row(row) for row in pairs.train[: plan.examples]]),
)
trainer.train()
tuned = trainer.model
print(f"{plan.examples} pairs, learning rate {plan.learning_rate:g}")
lesson.log_table(trainer.state.log_history)

# %%
lesson.reading_the_log(trainer.state.log_history)

# %% [markdown]
# Look first at the beginning, then at the margin. The loss starts at 0.69 and the rewards (gains times β) at
# zero. They stay there for a second step, because the {{term:warm-up}} begins with a {{term:learning rate}} of
# zero. In a healthy run the margin then grows. At best `rewards/chosen` rises; often it stays near zero or
# falls, and `rewards/rejected` falls faster.
#
# From this log alone you could not say that anything was learned: some pairs are harder than others, so in
# twelve steps of four pairs the loss jumps above and below 0.69. Here is the same picture of a longer run,
# recorded with {{record:preferences:plan.pairs:d}} pairs.

# %%
lesson.recorded_log()

# %% [markdown]
# The margin opens and stays open, which is what you hope to see. Both rewards fell on the way. This is common,
# and section 7 says when it is too much. But both pictures show *training* pairs. To find out whether the model
# has become better, ask it messages that it has not seen.
#
# **The control.** The rival from section 1 is plain SFT on the chosen replies alone. It gets the same messages
# and starts from the same model, with three times DPO's learning rate, because imitation usually needs a higher
# one.

# %%
tuned.add_adapter("control", lora)
tuned.set_adapter("control")
chosen_only = [as_chat(row, "chosen") for row in pairs.train[: plan.examples]]
settings = training.Settings(learning_rate=3 * plan.learning_rate, batch_size=4, warmup_steps=2)
training.fit(tuned, tokenizer, chosen_only, settings=settings)
gained = {}
for name, title in {"control": "SFT on chosen", "default": "DPO"}.items():
    tuned.set_adapter(name)
    gained[title] = lesson.ranked(before, evaluation.likelihoods(tuned, tokenizer, held_out))
    answers[title] = lesson.answers(tuned, tokenizer, asked, plan.answer_tokens)
show.table({name: {"test pairs ranked right": score} for name, score in gained.items()},
           caption="In how many test pairs has the chosen reply gained more than the rejected one?")

# %%
lesson.judged_cards([asked[i] for i in shown],
                    {name: [given[i] for i in shown] for name, given in answers.items()})

# %%
lesson.answers_table(asked, answers, "imitates the desk")

# %% [markdown]
# Read DPO's row rule by rule. DPO has gained one rule, the step that comes first. It names the order number less
# often, and so may the control: eight answers cannot separate the two. In the longer runs of section 5 only DPO
# loses the number. The last column cannot say whether its answers are better than the start's. Brackets are
# {{term:confidence interval|95 % intervals}}: with eight answers, 75 % may be 41 or 93 in the long run. Eight
# answers are a first look, and section 5 compares the methods message by message.
#
# Then read DPO's cards again, beside the messages. The table counts how many of its answers begin with a step;
# single cards may be exceptions. But which step an answer promises hardly depends on the message: DPO has
# learned *that* a step comes first, and hardly *which*. The table of test pairs ranked right may look good
# all the same. **Ranking is not writing**: a model can raise every chosen reply above its rejected one, and
# then write a third reply that is worse than both. So read the cards, and count the rules that the answers
# keep; section 5 does so for longer runs.
#
# **The whole program for your own pairs.** It needs nothing from this course, only `pip install trl peft` (on Colab `torchao` as
# well, as in lesson 02). `pairs.jsonl` has
# `prompt`, `chosen` and `rejected` on each line, all three lists of messages, and a `group`: the customer, the conversation, or whatever
# must not be in both halves of the split. One line of it:
#
# `{"group": "customer 17", "prompt": [{"role": "user", "content": "…"}],`
# `"chosen": [{"role": "assistant", "content": "…"}], "rejected": [{"role": "assistant", "content": "…"}]}`
#
# `sft-adapter` is an adapter that you trained by SFT and saved with its tokenizer.
#
# ```python
# import csv, gc, json, random
#
# import torch
# from datasets import load_dataset
# from peft import AutoPeftModelForCausalLM, LoraConfig
# from transformers import AutoModelForCausalLM, AutoTokenizer
# from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
#
# device = "cuda" if torch.cuda.is_available() else "cpu"
# bf16 = device == "cuda" and torch.cuda.get_device_capability()[0] >= 8      # a T4 only imitates bfloat16, slowly
# dtype = torch.bfloat16 if bf16 else torch.float32
#
# # 1. The start, which is also the reference: the SFT model, merged, saved, and loaded from there, so that
# #    the new adapter remembers that it belongs to the merged model. (Without an adapter of your own, load an
# #    instruct model and its tokenizer here, and save them as "sft-merged".)
# model = AutoPeftModelForCausalLM.from_pretrained("sft-adapter", dtype=dtype)
# tokenizer = AutoTokenizer.from_pretrained("sft-adapter")
# model.merge_and_unload().save_pretrained("sft-merged")
# tokenizer.save_pretrained("sft-merged")
# model = AutoModelForCausalLM.from_pretrained("sft-merged", dtype=dtype).to(device)
#
# # 2. Every tenth group is held out, with all of its pairs.
# pairs = load_dataset("json", data_files="pairs.jsonl", split="train")
# held_out = set(sorted(set(pairs["group"]))[::10])
# train = pairs.filter(lambda row: row["group"] not in held_out).remove_columns("group").shuffle(seed=0)
# test = pairs.filter(lambda row: row["group"] in held_out)
# test_groups = test["group"]
# test = test.remove_columns("group")
#
#
# def sample(model, row, **how):
#     """Token ids of the prompt and an answer, (1, tokens), and where the answer begins."""
#     model.eval()
#     inputs = tokenizer.apply_chat_template(
#         row["prompt"], add_generation_prompt=True, return_dict=True, return_tensors="pt").to(model.device)
#     return model.generate(**inputs, max_new_tokens=200, **how), inputs["input_ids"].shape[1]
#
#
# def answers_of(model, title):
#     """Answers to all held-out prompts at temperature 0; the first five are printed."""
#     found = []
#     for row in test:
#         ids, start = sample(model, row, do_sample=False)
#         found.append(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
#         if len(found) <= 5:
#             print(f"[{title}] {row['prompt'][-1]['content']}\n  → {found[-1]}\n")
#     return found
#
#
# def distance(model, rows):
#     """KL from the start, nats per token: log-probability now less that with the adapter off, of answers sampled now."""
#     gone, tokens = 0.0, 0
#     for row in rows:
#         ids, start = sample(model, row, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
#
#         def log_probability():
#             with torch.no_grad():
#                 logs = model(ids).logits[0, start - 1 : -1].float().log_softmax(-1)
#             return logs.gather(1, ids[0, start:, None]).sum().item()
#
#         gone += log_probability()
#         with model.disable_adapter():
#             gone -= log_probability()
#         tokens += ids.shape[1] - start
#     return gone / tokens
#
#
# # 3. Train a fresh adapter. Before you do, find out what the pairs teach (section 6). The learning rate is a place to
# #    start for some hundred pairs, between ours and TRL's example; with many thousands begin at 5e-6. Try three.
# def fresh_adapter():
#     return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
#
#
# answers_of(model, "before")
# trainer = DPOTrainer(
#     model, processing_class=tokenizer, train_dataset=train, eval_dataset=test, peft_config=fresh_adapter(),
#     args=DPOConfig(
#         # loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0],    # if answers lose what both replies had (section 5)
#         output_dir="out", beta=0.1, learning_rate=5e-5, num_train_epochs=1, warmup_steps=len(train) // 80,
#         per_device_train_batch_size=2, gradient_accumulation_steps=4, max_length=1024, bf16=bf16,
#         logging_steps=1, eval_strategy="steps", eval_steps=0.2, save_strategy="no", report_to="none"))
# trainer.train()
# print("first loss:", trainer.state.log_history[0]["loss"])        # plain DPO: 0.69, or look at the reference
#
# # 4. Read the answers before you believe the log, then keep the adapter.
# by_dpo = answers_of(trainer.model, "after")
# print("KL from the start, nats per token:", distance(trainer.model, test.select(range(min(25, len(test))))))
# trainer.save_model("dpo-adapter")
# tokenizer.save_pretrained("dpo-adapter")
# del trainer, model                                                # room for the control
# gc.collect()
# torch.cuda.empty_cache()
#
# # 5. The control: SFT on the chosen replies, from the same start, with three times the learning rate.
# control = SFTTrainer(
#     AutoModelForCausalLM.from_pretrained("sft-merged", dtype=dtype).to(device), processing_class=tokenizer,
#     train_dataset=train.rename_column("chosen", "completion").remove_columns("rejected"), peft_config=fresh_adapter(),
#     args=SFTConfig(
#         output_dir="out", learning_rate=1.5e-4, num_train_epochs=1, warmup_steps=len(train) // 80, bf16=bf16,
#         per_device_train_batch_size=2, gradient_accumulation_steps=4, max_length=1024, save_strategy="no",
#         report_to="none"))
# control.train()
# by_control = answers_of(control.model, "control")
#
# # 6. A sheet for somebody who does not know which answer is whose: into "better" goes a, b or tie.
# dice, whose = random.Random(0), []
# with open("blind.csv", "w", newline="", encoding="utf-8-sig") as file:       # with the mark that Excel looks for
#     sheet = csv.writer(file)
#     sheet.writerow(["id", "message", "a", "b", "better"])
#     for number, (row, group, dpo, sft) in enumerate(zip(test, test_groups, by_dpo, by_control)):
#         whose.append([group, dice.choice("ab")])
#         pair = (dpo, sft) if whose[-1][1] == "a" else (sft, dpo)
#         sheet.writerow([number, row["prompt"][-1]["content"], *pair, ""])
# with open("whose.json", "w") as file:
#     json.dump(whose, file)                                        # by id: the group, and the letter that is DPO's
# ```
#
# When the sheet is filled in, this counts:
#
# ```python
# import csv, io, json, random, statistics
# from pathlib import Path
#
# text = Path("blind.csv").read_text(encoding="utf-8-sig")
# separator = ";" if text.startswith("id;") else ","                # a spreadsheet may have saved the one or the other
# whose, wins = json.load(open("whose.json")), {}                   # wins: group → its answers: 1, 0, or a half
# for row in csv.DictReader(io.StringIO(text), delimiter=separator):
#     (group, dpo), mark = whose[int(row["id"])], row["better"].strip().lower()
#     if mark not in ("a", "b", "tie"):
#         print(f"not marked, so not counted: {row['message'][:60]!r} has {mark!r}")
#         continue
#     wins.setdefault(group, []).append(0.5 if mark == "tie" else float(mark == dpo))
# groups = list(wins.values())                                      # drawn whole: their answers are alike
# draws = sorted(statistics.mean(sum(random.choices(groups, k=len(groups)), [])) for _ in range(2000))
# share = statistics.mean(sum(groups, []))
# print(f"DPO wins {share:.0%} (95 % interval {draws[50]:.0%} to {draws[1949]:.0%}); at 50 % it is a tie")
# ```
#
# This program's share is called the *win rate*. The first program's *KL* is the model's distance from its
# start; section 5 explains it. Compared answers tell you more than any curve, if there are enough of them: thirty
# leave about 18 points to either side, two hundred about 7. The program holds out a tenth of the groups, so with
# few pairs hold out more.
#
# <details><summary><b>Settings seen in the wild</b></summary>
#
# TRL's own example (`trl/scripts/dpo.py`) takes a learning rate of 5e-7 for {{term:full fine-tuning}} and 5e-6 for LoRA, and 1,000
# {{term:step|steps}} of 16 pairs. Our model is small and our runs have a few dozen steps, so we go higher
# still. The program above starts in between, at a rate that we have not tried.
#
# Leave β alone at first: it prices the distance from the reference, and the learning rate sets the size of the
# steps. With long replies check `max_length`: it cuts off the end of a reply, perhaps the very part that the
# pair is about.
#
# </details>

# %%
# EXERCISE: align-3

# %% [markdown]
# ## 5 · Does it beat the cheap rival?
#
# SFT on the chosen replies uses one half of each pair. What was the other half worth? The figure shows longer,
# recorded runs. The methods started from the same model, learned from the same {{record:preferences:plan.pairs:d}} pairs, and answered the
# same {{record:preferences:plan.test:d}} test messages at temperature 0. All of this, the desk's SFT included, was done three times, each time with
# another {{term:seed}}. Besides SFT and DPO the figure has two variants, explained further down. How often do the
# answers keep each rule?

# %%
lesson.compared_figure()

# %% [markdown]
# In short: DPO taught the order of the sentences, lost the order number, and did not beat SFT on the chosen replies.
# Compare DPO's marks with the start and with the control:
#
# - **The step first: ahead of both.** DPO says it first in nearly every answer, with every seed. The control,
#   whose replies begin with the step in more than half of the cases, does so in about one of three. For this
#   rule the rejected halves were worth a lot. (Section 7 shows that part of this need not come from the labels.)
# - **The order number: behind both.** DPO names it in fewer answers than the start did and than the control.
# - **The right step: not learned,** and behind the control, whose answers promise the right thing more often.
# - **The tone: better than at the start,** and level with the control.
#
# So for answers that keep all the rules it comes to the same, and both are poor. Each method in this section
# had one learning rate; we tuned neither DPO's nor SFT's.
#
# How can DPO lose the number? In most pairs both replies name it, and in the others the chosen one does: no pair
# speaks against naming it. Look at
# such a pair that DPO ranks right, and at what DPO writes:

# %%
lesson.ranked_and_lost()

# %% [markdown]
# DPO writes a third reply, which was in no pair: two promises, and no number. In the chosen reply the step
# comes first, then the courtesy with the number; in the rejected one the courtesy comes first. The loss
# compares only these two, so it is satisfied. Why the number is lost we have not tested. Perhaps what pushes
# down replies that *begin* with a courtesy pushes down the courtesy itself, and with it the number.
#
# **Two cheap things to try.** A larger β keeps the model nearer to its start; in the figure this is β = 1. Or
# add the SFT loss on the chosen reply to DPO's loss, here with equal weight. In TRL this is
# `loss_type=["sigmoid", "sft"]` with `loss_weights=[1.0, 1.0]` (Pang et al., 2024, arXiv 2404.19733), in the
# figure “DPO + SFT”. With either, the step still comes first, and in the mean more answers name the order. The
# ranges overlap, so three seeds do not prove it. What must not be lost should be in the pairs.
#
# So what exactly has DPO learned? Look at the test pairs by kind.
# A method has ranked a pair right if the chosen reply has *gained* more
# than the rejected one.

# %%
lesson.kinds_learned()

# %% [markdown]
# **DPO learned the easy difference and hardly the hard one.** The first row is learned, and needs no reading of
# the message: one rule about how a reply begins fits all its pairs. The next two, the promise and the apology,
# do need the message. There DPO ranks pairs right hardly more often than a coin, and so does the
# {{term:reward model}} (section 9), which does nothing but rank.
#
# In the second row, compare DPO with the control: SFT on the chosen replies, which is never told that a reply
# is worse, ranks what the desk promises *better* than DPO, with every seed. The control also had three times
# the learning rate, and we have not separated the two effects.
#
# In the last row DPO, which leaves the order number out of its answers, ranks the pairs about this number
# right. (They need the message too, but only to see whether it has the same number. And they are few.) A preference pulls at what tells the pairs apart most easily, and nothing in the loss protects the
# rest. So measure the rest too, kind by kind.
#
# Is DPO then better or worse than the control? Score each answer by the rules (the share of the five that it
# keeps, halved if its step is wrong), and count the messages where a method's answer scores higher than the
# control's.

# %%
lesson.against_control()

# %% [markdown]
# By the rules plain DPO is no better than SFT on the chosen replies and perhaps worse, and with the SFT term it is perhaps better. The last
# column asks a reward model that was trained on these very pairs. It likes all three better. But the table
# before shows what this judge can see: how a reply begins and whose number it names, and little else. A judge
# that shares the blind spots of the model that it judges proves little. So decide *before* you train which
# measure counts, or you will find one that says what you hoped.
#
# So were the pairs worth it? For one rule, yes; for the others, no: on this task a small model and 120 pairs do
# not take you past SFT. In general, preferences help where the chosen reply is better in one respect and
# otherwise not much of an example: where both replies come from your own model, or where people can say which
# reply is better but could not have written it. Where the chosen replies are nearly perfect, SFT
# on them is hard to beat.
#
# **How far did the models move?** A model that moves far from its start may lose what nobody measured. The
# usual measure of distance is the KL divergence: sample answers from the trained model, and see how much more
# likely that model finds them than the start does. The KL is the last column; the others are the shares of the
# figure.

# %%
lesson.compared()

# %% [markdown]
# DPO with β = 1, DPO with the SFT term and SFT on the chosen replies have gone about equally far,
# but only the first two say the step first. So distance alone does not make the difference. And DPO at β = 0.1
# has gone more than twice as far as at β = 1, for the same share of answers with the step first. For long
# replies compare the KL per token, as the program in section 4 does.
#
# **What do the other names stand for?**
#
# | method | idea | take it when |
# | --- | --- | --- |
# | SFT on chosen | imitate the good replies | always first |
# | DPO | pull the gains of the two replies apart | you have pairs; the usual choice |
# | DPO + SFT (2404.19733) | the same, and make the chosen reply likelier as well | answers lose what both replies of a pair had |
# | ORPO (2403.07691) | SFT on chosen, plus a penalty that shrinks as chosen's odds pull ahead; no reference | you have no SFT model yet and want one stage |
# | {{term:KTO}} (2402.01306) | single replies marked good or bad, no pairs | you have thumbs up and down |
# | IPO (2310.12036) | a margin to reach; going further is punished | your labels are nearly free of noise and DPO runs away |
# | SimPO (2405.14734) | mean log-probability per token, a target margin, no reference | replies differ much in length |
#
# The numbers in brackets are arXiv's. In TRL 1.16 KTO is `KTOTrainer`, ORPO is in `trl.experimental.orpo`,
# SimPO is a `loss_type` of `trl.experimental.cpo`, and IPO is `DPOConfig(loss_type="ipo")`. IPO's margin there
# is per token: β = 0.1 asks for five nats per token.

# %%
show.folded("All methods, all measures, and the second judge", lesson.methods_table())

# %% [markdown]
# In the fold: ORPO promises the right step least often. (It started from the untrained model, so its KL from the
# imitating model is not comparable with the others'.) GRPO (section 8) had no pairs: in this record its reward was the rules themselves, so its row is marked
# by what it was trained on. “Promises its favourite step” is the share of answers with the step that the model
# promises most often, whatever the message: about half for most methods. Which step that is changes with the
# seed, and “right step” with it, so do not rank methods by one run.
#
# <details><summary><b>For the next exercise: ORPO's odds, by hand</b></summary>
#
# The odds of a probability $p$ are $p/(1-p)$. Suppose that the chosen reply's two tokens have the
# probabilities 0.9 and 0.4. Their geometric mean is $\sqrt{0.36} = 0.6$, so the odds are 1.5. Let the rejected reply's have 0.5 and
# 0.32: mean 0.4, odds 0.67. The odds ratio is 2.25, its logarithm 0.81, and ORPO's penalty $-\log\sigma(0.81) = 0.37$. So average
# the logarithms, not the probabilities.
#
# </details>

# %%
# EXERCISE: align-4

# %% [markdown]
# ## 6 · Where pairs come from, and the trap in them
#
# You could now train on any file of pairs. Should you? An earlier edition of this course had other pairs: a
# chosen reply in house style against one that was verbose, cold, hedging, badly formatted or wrong. DPO ranked
# nine in ten of the test pairs right, which looked like a success. Here are two of these pairs.

# %%
older = load_preferences("confounded")
lesson.pair_card(next(r for r in older.test if r["kind"] == "cold"))

# %%
lesson.pair_card(next(r for r in older.test if r["kind"] == "verbose" and len(r["rejected"]) < 420))

# %%
guess = predict("A rule looks only at length: it prefers the reply nearer to 32 words. "
                "How many of the older test pairs does it rank right?", unit="%")
guess

# %%
table = lesson.shortcut_table({"older pairs": older, "our pairs": pairs}, recorded_on="our pairs")
guess.reveal(round(100 * table.rows["length, one number"]["older pairs"].value))

# %%
table

# %% [markdown]
# Look at the older pairs. One number, the length, ranks them about as well as DPO did. So do single words, and
# so, nearly, does the form (punctuation and layout). DPO's high score therefore does not show that it had
# learned house style: a feeling for the right length would have been enough.
#
# > **Test your preference data with the stupidest model first.** Fit a length rule, a bag of words (which words
# > a text has and how often, but not their order) and a rule for the first words on your training pairs. If one
# > of these ranks the test pairs right, it is what your pairs teach and what your accuracy measures.
#
# For your own pairs this is the whole test, on the split of section 4's program. It needs
# `pip install datasets scikit-learn`. A share clearly below 50 % means that test replies occur in the training
# half the other way round: put such pairs into one group.
#
# ```python
# import re
#
# import scipy.sparse
# from datasets import load_dataset
# from sklearn.feature_extraction.text import CountVectorizer
# from sklearn.linear_model import LogisticRegression
#
# pairs = load_dataset("json", data_files="pairs.jsonl", split="train")
# held_out = set(sorted(set(pairs["group"]))[::10])
# train = pairs.filter(lambda row: row["group"] not in held_out)
# test = pairs.filter(lambda row: row["group"] in held_out)
#
#
# def texts(rows, key):
#     return [reply[-1]["content"] for reply in rows[key]]
#
#
# def right(scores):
#     """Share of pairs whose chosen reply scores higher; what a rule cannot tell apart is half right."""
#     return sum(0.5 if abs(score) < 1e-6 else float(score > 0) for score in scores) / len(scores)
#
#
# def lengths(rows):
#     return [(len(c.split()), len(r.split())) for c, r in zip(texts(rows, "chosen"), texts(rows, "rejected"))]
#
#
# def by_length(pairs, aim):
#     """The reply whose number of words is nearer to `aim`."""
#     return [abs(rejected - aim) - abs(chosen - aim) for chosen, rejected in pairs]
#
#
# def by_words(first=None):
#     """Which words a reply has, or has among its first ones."""
#     bag = CountVectorizer(analyzer=lambda text: re.findall(r"\w+", text.lower())[:first])
#     bag.fit(texts(train, "chosen") + texts(train, "rejected"))
#     known, new = (bag.transform(texts(rows, "chosen")) - bag.transform(texts(rows, "rejected")) for rows in (train, test))
#     rule = LogisticRegression(fit_intercept=False, max_iter=1000, tol=1e-8)
#     rule.fit(scipy.sparse.vstack([known, -known]), [1] * len(train) + [0] * len(train))
#     return rule.decision_function(new).round(3)
#
#
# known = lengths(train)
# aim = max(range(1, 500), key=lambda words: right(by_length(known, words)))
# print(f"nearer to {aim} words: {right(by_length(lengths(test), aim)):.0%}")
# print(f"single words: {right(by_words()):.0%}, the first three words: {right(by_words(first=3)):.0%}")
# ```
#
# How do you make pairs without such a shortcut? Two pairs in five of ours have the same two sentences in another order, so length,
# words and form are equal. The others come as twins.

# %%
show.drawing("twins")

# %% [markdown]
# Every reply of the twins is chosen for one message and rejected for another. A rule that looks only at its
# length, words or form is right once and wrong once: hence the 50s in the table.
#
# The first three words are not at 50: they rank the two pairs in five whose chosen reply begins with the step,
# and toss a coin for the others. Now compare the trained models of section 5 with that row. DPO is hardly ahead
# of it, and with the SFT term it is a little further: **by this test most of what DPO has learned from our
# pairs is how a reply begins.** Here the beginning is no accident but the very thing we wanted to teach. No
# program can make this judgement for you: *has the simple rule found what I mean, or only something that goes
# along with it?*
#
# You will rarely have twins, but you can always balance: as many short chosen replies
# as long ones, the same writer for both.
#
# **Where pairs come from.**
#
# | source | good | watch out for |
# | --- | --- | --- |
# | people compare two answers | what you want in the end | expensive; they like length and confidence; let two people judge the same pairs |
# | a strong model compares ({{term:LLM as a judge}}) | cheap, fast | likes its own style and the first position; swap the order and keep the pairs on which it agrees with itself |
# | edits: before and after a colleague's correction | real and specific | the edit is often longer: check for the shortcut |
# | own samples, ranked by rules or a judge | the pairs are about what your model really does | needs a model that is sometimes right |
#
# **One round with the model's own answers.** The last row of this table is easy to try. Let the model that DPO
# has trained answer each message four times at random, score the answers by the rules, and make a pair of the
# best and the worst, if their scores differ. Such pairs are
# called *on-policy*.

# %%
few = pairs.train[-plan.looked_at:]
tuned.set_adapter("default")                               # what DPOTrainer has trained
samples = [generate(tuned, tokenizer, [row["prompt"] for row in few], plan.answer_tokens,
                    temperature=1.0, seed=seed) for seed in range(4)]
own = []
for row, *texts in zip(few, *samples):
    ranked = sorted(texts, key=lambda text: house_style.score(row, text))
    if house_style.score(row, ranked[0]) < house_style.score(row, ranked[-1]):
        own.append(row | {"chosen": ranked[-1], "rejected": ranked[0]})
print(f"{len(own)} pairs from {len(few)} messages")
settings = training.Settings(learning_rate=plan.learning_rate, batch_size=4)
print(training.fit(tuned, tokenizer, own, objective=training.DPO(), settings=settings))
lesson.pair_card(own[0])

# %% [markdown]
# Read the chosen reply: the best of four poor answers is a poor one. A message whose four answers are equally
# good gives no pair: there is nothing to learn from it. The adapter from before went on learning, with the
# model after the first round as reference. Expect nothing of two steps; what matters is the loop.
#
# In practice you repeat the loop: sample, rank, train, and sample again from the new model. Studies found such
# online rounds better than one fixed file of pairs (Xu et al., 2024; Tang et al., 2024). With TRL, merge
# `dpo-adapter` into `round-2-start`, as step 1 of the program merges the first adapter, keep the same groups
# aside, and give the new pairs and the new adapter files of their own.
#
# With this you can do DPO at work. If you are in a hurry, do the exercise, read section 7 on what goes wrong,
# and go to the end. Sections 8 and 9 are about relatives of DPO that learn from a score; you can come back for
# them.

# %%
# EXERCISE: align-5

# %% [markdown]
# ## 7 · Mistakes to recognize
#
# **The wrong reference.** Suppose that you merge the SFT adapter in memory and then train without a new adapter.
# As the reference, TRL 1.16 then loads the {{term:checkpoint}} that the model's configuration names: the base
# *before* SFT. A loop of your own that switches all adapters off, the SFT adapter among them, makes the same
# mistake. No error appears, but the first line of the log shows the mistake.

# %%
del trainer, tuned, start, policy, optimizer, model, imitation  # the pairs are done
memory.release()
adapted = get_peft_model(models.load()[0], lora)
training.fit(adapted, tokenizer, history[:8], settings=training.Settings(2e-3, batch_size=4))
lesson.first_losses(adapted, tokenizer, pairs.train[:6])

# %% [markdown]
# The first row is 0.69. The second is not, although the model is the same: its gains are measured from the
# base, and training would hold it near the base. If you merge the SFT adapter and give the trainer a fresh one,
# as in section 4, this cannot happen. Otherwise save the merged model and load it from there, or pass it as
# `ref_model`.
#
# **The chosen reply becomes less likely too.** The loss asks only for a distance between two replies. Replies
# to one message are alike, so what pushes one down can pull the other along. Here is a toy policy: three
# possible replies, of which chosen and rejected have most features in common.

# %%
lesson.both_fall()

# %% [markdown]
# The curves of chosen and rejected both fall, and the loss is satisfied. The probability went to the third
# reply, which nobody asked for, like the two promises without a number in section 5. If `logps/chosen` falls
# fast in your log, lower the learning rate, raise β, or add SFT on the chosen replies (section 5).
#
# **Annotators who contradict each other.** Suppose that every pair occurs twice, the second time the other way
# round. You would expect a training accuracy of a half. Why can it be worse?

# %%
lesson.contradiction()

# %% [markdown]
# Look at “counted as right”. A training log measures each pair just *before* the model learns from it. In this
# toy the two labels take turns, so the step before has always taught the opposite, and from the second step on
# the pair is wrong every time. It can happen in shuffled data too: see the last row of the next table.
#
# An accuracy that stays well below a half has two usual causes: pairs that occur both ways round, or a wrong
# sign in a loss that you wrote yourself. Labels that are wrong at random, without their opposite in the same
# file, do not cause it.
#
# **A learning rate that is too high.** The share of training pairs ranked right looks as good as ever, so it does not warn you. What
# does?

# %%
lesson.failures_table()

# %% [markdown]
# The KL, in the last column, does: it is many times that of the healthy run. The model is somewhere else
# entirely, and almost no answer says the step first any more. In this run the loss, above 0.69, warns as well:
# accuracy counts how many pairs are wrong, the loss how far. But a ruined model can also have a low loss on its
# training pairs. So watch the KL, and read answers after every run.
#
# The last row is the annotators who contradict each other: its accuracy is far below a half, as in the toy. Its
# answers begin with the step more often than the start's, although its labels cancel: training on pairs changes
# the replies, whatever the labels say. So part of DPO's gain by that measure may not come from the labels; one
# such run cannot say how much.

# %% [markdown]
# ## 8 · Learning from a score: GRPO
#
# If a program can score answers, why make pairs of them at all? Use the scores directly: this is reinforcement
# learning. The model writes, gets a reward, and does more often what was rewarded. Many reasoning models are
# trained today with GRPO (Shao et al., 2024), whose idea fits in one picture.

# %%
show.drawing("grpo-group")

# %% [markdown]
# Was a reward of 0.8 good? That depends on the message: for an easy one it may be poor. So GRPO lets the model answer the same
# message several times and compares the answers *with each other*. Answers above the group's mean become more
# likely, those below it less. An answer's distance from the mean, in standard deviations of the group (torch's
# `std`, which divides by n − 1), is called its {{term:advantage}}.

# %%
lesson.group_table([1.0, 0.3, 0.3, 0.8])

# %% [markdown]
# If all four answers had the same reward, all advantages would be zero and the group would teach nothing.
#
# Here is all of it in code. `now` and `old` are log-probabilities of each token, at present and when the answers were sampled.
# Their *ratio* says how much the policy has moved since. It is clipped, so that moving a token further with the
# same batch of answers gains nothing more. The term `away` keeps the policy near the reference; it is an
# estimate of the KL divergence that is never negative. `[:, None]` adds a dimension, so that the advantage of
# an answer applies to each of its tokens.

# %% tags=["grpo-from-scratch"]
def group_advantages(rewards):
    """Rewards of (messages, answers), as distances from the group's mean in its spread."""
    spread = rewards.std(dim=1, keepdim=True)
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 1e-4)


def grpo_loss(now, old, reference, advantages, mask, clip=0.2, beta=0.04):
    """Loss from log-probabilities of tokens, (answers, tokens), and an advantage per answer."""
    ratio, advantage = (now - old).exp(), advantages[:, None]
    better = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    away = (reference - now).exp() - (reference - now) - 1
    per_answer = ((beta * away - better) * mask).sum(1) / mask.sum(1)
    return per_answer.mean()


# %% [markdown]
# We checked this against TRL 1.16 with `loss_type="grpo"` and `use_bias_correction_kl=False`, without which the
# KL term is multiplied by the ratio. TRL's default, `"dapo"`, averages over all tokens of the batch instead of
# over each answer.
#
# For the trainer we take a task with a very simple check, the triage of lesson 02. The reward is 1 if the
# answer is a valid JSON record and 0 if not. Such a check is called a *verifiable reward*: there is no model
# behind it to flatter.

# %% tags=["trl"]
del adapted
memory.release()
from trl import GRPOConfig, GRPOTrainer

triage = load_task("support_tickets", ["category"])
solved = [{"role": "system", "content": "Triage this customer message."},
          {"role": "user", "content": "My kettle leaks."},
          {"role": "assistant", "content": '{"category": "defect"}'}]


# %%
def is_valid(answer):
    return evaluation.parse_record(answer, triage.schema) is not None


def valid_json(completions, **_):
    """The reward: 1 for a valid record, else 0."""
    return [float(is_valid(completion[0]["content"])) for completion in completions]


# %% [markdown]
# Four answers to each of three messages per step, for five steps. No pairs and no right answers are needed, only messages.
# Watch the reward, not the loss. This short run leaves out the KL term (`beta=0`) and makes one update with
# each batch of answers, so every ratio is still 1 and nothing is clipped. Then the logged loss says nothing: it
# is minus the mean of the advantages, weighted by length, and a group's advantages add up to zero.

# %% tags=["trl"]
short = sorted(triage.train, key=lambda chat: len(chat[1]["content"]))[:48]
settings = GRPOConfig(
    output_dir="triage", max_steps=5, learning_rate=3e-4, beta=0.0, temperature=1.0,
    per_device_train_batch_size=4, gradient_accumulation_steps=3, num_generations=4,
    max_completion_length=16, lr_scheduler_type="constant", logging_steps=1,
    use_cpu=device.kind == "cpu", bf16=device.dtype == "bfloat16", fp16=device.dtype == "float16",
    gradient_checkpointing=False, save_strategy="no", report_to="none",
)
trainer = GRPOTrainer(
    models.load()[0], reward_funcs=valid_json, args=settings, peft_config=lora,
    train_dataset=Dataset.from_list([{"prompt": solved + chat[1:2]} for chat in short]),
    processing_class=tokenizer,
)
outcome = trainer.train()

# %%
log = [row["reward"] for row in trainer.state.log_history if "reward" in row]
print("share of valid answers, step by step:", ", ".join(f"{100 * share:.0f} %" for share in log))
guess = predict("24 messages, one sampled answer each. How many different answers after training?",
                unit="answers")
guess

# %%
brief = [i for i, chat in enumerate(triage.test) if len(chat[1]["content"]) < 200][:24]
messages = [solved + triage.test[i][1:2] for i in brief]
right = [triage.references()[i]["category"] for i in brief]
sample = {"max_new_tokens": 16, "temperature": 1.0, "batch_size": 24}
after = generate(trainer.model, tokenizer, messages, **sample)
with trainer.model.disable_adapter():
    untrained = generate(trainer.model, tokenizer, messages, **sample)
guess.reveal(len(set(after)))

# %%
lesson.collapse_table(untrained, after, is_valid, right)

# %% [markdown]
# The check asked for JSON, and valid JSON became more frequent. Did the records become *truer*? Look at
# “category right” and “right among the valid”: 24 answers can show that more are valid, but not that more are
# right. Why should they be? The same record for every message gets the full reward, and the most frequent
# record is the solved example of the prompt, which the model copies. The safest way to please this check is to
# stop reading the messages.
#
# **A verifiable reward verifies what it verifies.** Ours verifies the form. Where the right answer is known, as
# in mathematics or for code with tests, reward the answer. And when the score rises, count the different
# answers and read them.
#
# GRPO cannot invent. If no answer of a group is ever right, all advantages are zero. That is why the prompt has
# a solved example.

# %% [markdown]
# ## 9 · Reward models and PPO, in pictures
#
# What if no program can score an answer? Then you can train a model to score it. This is the classical way,
# {{term:RLHF}} (Ouyang et al., 2022). DPO does not need this extra model.

# %%
show.drawing("alignment-roads")

# %% [markdown]
# **The reward model** is a language model whose output layer has a single number: the score of the reply before it. It
# is trained on pairs with the loss that you know, $-\log\sigma(r_c - r_r)$. In DPO the gains took the place of
# $r$; here $r$ comes from a model of its own. All that section 6 said about shortcuts holds for this model too:
# if it has learned to look at length, it will reward length.
#
# **{{term:PPO}}** (Schulman et al., 2017) then trains the policy to get high scores. An answer that the policy
# writes for this purpose is called a {{term:rollout}}. Its reward comes only at the end. How should the credit
# be spread over the tokens?

# %%
show.drawing("ppo-rollout")

# %% [markdown]
# Read the picture from the top. Every token is charged for how far it has moved from the reference (or gets a
# credit, if it has become less likely). This is the KL penalty. The last token gets the reward.
#
# A second network, the {{term:value model}}, has guessed before each token how well the answer would end. The
# advantage says how much better the answer went than that guess, so a token that led to a good end against
# expectation becomes more likely. GRPO replaces the guess by the mean of a group, and so needs no value model.
#
# What the penalty does was measured with several seeds:

# %%
evidence.card("A5")

# %% [markdown]
# The card says only that the penalty keeps the policy near, not that near is good. Without the penalty a policy
# drifts to whatever the reward model overrates. This is called reward hacking; you have seen its smallest form
# in section 8. Do not compare the card's figures with section 5's: these runs had the older pairs, another rate
# and more steps.
#
# <details><summary><b>For the next exercise: PPO's advantages, by hand</b></summary>
#
# Let $V_t$ be the value model's guess before token $t$, and $r_t$ the reward that comes with the token. The one-step error is $\delta_t = r_t + \gamma V_{t+1} - V_t$:
# what came, plus what is still
# expected, less what had been expected. The advantage also includes later errors, discounted: $A_t = \delta_t + \gamma\lambda A_{t+1}$. Here
# $\gamma$ discounts what comes later (usually 1 for text) and $\lambda$ says how far a surprise is passed back (often 0.95). In the
# picture the last token has 1.48 + 0 − 1.3 = 0.18, and the one before it −0.01 + 1.3 − 1.2 + 0.95 · 0.18 = 0.26. After the last token
# of a finished answer the value is 0. For an answer that was cut off, take the value model's estimate instead.
#
# </details>

# %% [markdown]
# ## 10 · What it costs, which one when, and what you can do now
#
# Claims about costs differ by a factor of two and more, because people count differently: per example or per token, with the
# prompt computed once for both replies or twice. The table counts both ways.

# %%
lesson.costs_table()

# %% [markdown]
# A 2 means twice SFT's time. A pair has two replies, so any method on pairs costs more per *example* than SFT.
# Per *token*, DPO adds the reference's {{term:forward pass}}, and ORPO adds nothing. PPO is slow because it
# writes its answers token by token. The last two columns count only models with weights of their own: with
# LoRA, the reference is the same model with the adapter off.
#
# <details><summary><b>Where DPO's factor comes from</b></summary>
#
# Count a forward pass as 1. With LoRA the {{term:backward pass}} costs about another 1, because the gradients of {{term:frozen}} weights are
# never computed; in full fine-tuning it costs 2. So a token costs SFT 1 + 1 = 2, and DPO 1 + 1 + 1 = 3 with the reference's pass:
# 1.5 times as much. In full fine-tuning it is 4 to 3. A pair has two replies, and without sharing the prompt it has twice the
# tokens. Passes are an estimate: measured times also depend on the shape of the batches, and a pass that keeps nothing for the
# gradients is a cheaper one.
# You can compute the reference once before training (`precompute_ref_log_probs=True`), which pays if there are several
# {{term:epoch|epochs}}.
#
# </details>

# %% [markdown]
# If you report a cost, say which way you counted.
#
# **Which one, when?** Begin with SFT on your best replies, and measure. If you can say which of two answers is better, but not
# write the better one, take DPO, with pairs made from your own model's answers. If a program can check an answer, take GRPO. If
# feedback never stops and a team looks after it, there is a case for a reward model and PPO.
#
# **What you can do now**
#
# | you want to | do |
# | --- | --- |
# | start | SFT on your best replies; that is also the control for everything else |
# | trust your pairs | length rule, bag of words and first words on the test pairs; your model's accuracy kind by kind |
# | train | `DPOTrainer` on the merged SFT model with a fresh adapter, β 0.1, one epoch; with an SFT term if answers lose what nobody compared |
# | know that it is set up right | first logged loss 0.69 (plain DPO, `logging_steps=1`) |
# | know that it works | win rate on {{term:held-out}} messages at temperature 0, beside the control, with its interval |
# | keep it sane | KL from the start, `logps/chosen`, the number of different answers |
# | go further | own samples, ranked, and another round; GRPO where a program can check |
#
# **The claims of this lesson.** You have met A5 in section 9. Open a row to see why.

# %%
evidence.summary("A1", "A2", "A3", "A4", "A5")

# %% [markdown]
# In A2, ORPO saves the reference and a training stage, not the second reply. A4 says that DPO ranks the pairs
# about as well as a reward model does, not that either ranks them well: section 5 has the kinds of pairs one by
# one, and SFT on the chosen replies is not far behind.

# %% [markdown]
# **Quiz.** Each choice opens to say why it is right or wrong.

# %%
quiz("04")

# %% [markdown]
# **A challenge.** A policy that trains in a second, a budget of KL, and a win rate to reach.

# %%
# EXERCISE: align-8

# %% [markdown]
# {{words}}
#
# ## Read on
#
# - Rafailov et al. (2023), *Direct Preference Optimization*, arXiv 2305.18290: you can now read its sections 3 and 4.
# - Ouyang et al. (2022), *Training language models to follow instructions with human feedback*, arXiv 2203.02155.
# - Shao et al. (2024), *DeepSeekMath*, arXiv 2402.03300: section 4 introduces GRPO.
# - Xu et al. (2024), *Is DPO Superior to PPO for LLM Alignment?*, arXiv 2404.10719, and Tang et al. (2024), *Understanding the
#   performance gap between online and offline alignment algorithms*, arXiv 2405.08448: when online beats offline.
#
# Next, lesson 05 makes the data that all of this depends on.
