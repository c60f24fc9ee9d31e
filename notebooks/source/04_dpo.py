# %% [markdown]
# # 04 · Alignment: SFT, DPO, ORPO and RLHF on the same pairs
#
# {{badges}}
#
# By the end you will be able to
#
# - write the losses of a reward model, DPO, ORPO and PPO, and hold each against the library,
# - run all of them on one model and the same preferences, and say what each did, from answers you have read,
# - say what each costs beside SFT, an example and a token, counted and measured,
# - recognise five ways in which preference training goes wrong,
# - take the same steps to work with TRL.
#
# {{timing}}
#
# **How to read it.** Predict what a cell will print, run it, compare. Figures that circulate stand in the claims table at the
# end, beside what this machine computed.

# %%
# INSTALL: trl

# %% [markdown]
# ## 1 · The machine, the model, the pairs

# %%
import json
import math
import os
import random
import re
import tempfile
import warnings

from course_utils import assets, claims, evaluation, figures, hardware, memory, models, training, widgets
from course_utils.data_prep import load_preferences, load_task
from course_utils.errors import CourseError
from course_utils.exercises import check, quiz  # noqa: F401 - the exercises at the end use check
from course_utils.generation import complete, generate
from course_utils.scoring import chat_token_ids

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # ORPO lives in trl.experimental, which says so on import

import datasets
import torch
import torch.nn.functional as F
import transformers
from IPython.utils.capture import capture_output
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
datasets.disable_progress_bars()
warnings.filterwarnings("ignore")  # between library versions; nothing a learner can act on
device = hardware.detect()
print("kind:", device.kind, "| tier:", device.tier, "| computes in:", device.dtype)

# %%
# Set-up by tier.
ALL = {"pairs": 220, "held_back": 220, "test": 106, "answers": 106, "longest": 80, "rollouts": 20, "prompts": 16, "few": 96, "piece": None}
PLAN = {
    # pairs: to learn from; held_back: the second reward model's; answers, longest: sampled after each method, in tokens;
    # rollouts of so many prompts: PPO's; few: pairs in section 9; piece: tokens at once in the reward models; rate: learning
    # rates, as a factor
    "cpu": {"pairs": 80, "held_back": 80, "test": 35, "answers": 16, "longest": 56, "rollouts": 5, "prompts": 8, "few": 32, "piece": 200, "rate": 1},
    "t4": ALL | {"rate": 0.4},
    "a100": ALL | {"rate": 0.2},
}[device.tier]
SEED = 0

base, tokenizer = models.load()
pairs = load_preferences()
print(f"{len(pairs.train)} pairs for training, {len(pairs.test)} for the test")

# %% [markdown]
# A support desk wants one house style: short, kind, concrete, no needless caveats, nothing invented. Nobody can write that down
# as a loss. But anyone can say which of two replies is the better one, and that is all that is needed. The rejected replies
# are wrong in five ways, each plausible:

# %%
for kind in ("verbose", "cold", "hedging", "off_format", "wrong"):
    row = next(row for row in pairs.train if row["kind"] == kind and len(row["rejected"]) < 420)
    print(f"CUSTOMER  {row['prompt'][1]['content']}\n  chosen    {row['chosen']}\n  rejected  {row['rejected']!r}\n            ({kind})\n")

# %% [markdown]
# **Predict:** could a model cheat by length alone, always preferring the shorter reply?

# %%
def longer_share(rows):
    return evaluation.proportion([len(row["chosen"].split()) > len(row["rejected"].split()) for row in rows])


for split in ("train", "test"):
    print(f"{split}: chosen is the longer one in {longer_share(getattr(pairs, split))} of the pairs")
assert 0.4 < longer_share(pairs.train).value < 0.5

# %% [markdown]
# It could not. A yardstick that needs no model: six rules of the house style, as code. A reply keeps all, some or none of them.

# %%
CAVEATS = re.compile(
    r"\b(?:may|might|could|depend\w*|possibl\w+|perhaps|cannot promise|subject to|in some cases|usually|unfortunately|please note|kindly|"
    r"as per|we regret|at this time|rest assured)\b", re.IGNORECASE)  # fmt: skip
STEP = re.compile(r"\b(?:today|tomorrow|tonight|minutes|hours|days|now|until|before)\b", re.IGNORECASE)
LETTER = re.compile(r"^(?:dear|hi|hello|hey|good \w+)\b|\b(?:regards|sincerely|best wishes)\b|[{}*#_•]|\n|^\s*[-\d]", re.IGNORECASE)
POLICY_NUMBERS = {"30", "5", "2", "3", "10"}


def style(message, reply):
    """The rules of the house style, each kept (True) or broken."""
    known, said = (set(re.findall(r"\w{4,}", text.lower())) for text in (message, reply))
    numbers = {who: set(re.findall(r"\d+", text)) for who, text in (("customer", message), ("desk", reply))}
    return {
        "plain prose": not LETTER.search(reply) and not re.search(r"\b[A-Z]{4,}\b", re.sub(r"TB-\d+", "", reply)),
        "15 to 45 words": 15 <= len(reply.split()) <= 45,
        "no caveats": not CAVEATS.search(reply),
        "a step with a time": bool(STEP.search(reply)),
        "heard the customer": len(known & said) >= 2,
        "no invented numbers": numbers["desk"] <= numbers["customer"] | POLICY_NUMBERS,
    }


def style_score(message, reply):
    """Share of the rules that are kept."""
    kept = style(message, reply).values()
    return sum(kept) / len(kept)


won = {row["id"]: style_score(row["prompt"][1]["content"], row["chosen"]) - style_score(row["prompt"][1]["content"], row["rejected"])
       for row in pairs.test}  # fmt: skip
for kind in ("verbose", "cold", "hedging", "off_format", "wrong"):
    judged = [won[row["id"]] for row in pairs.test if row["kind"] == kind]
    print(f"{kind:<11} rules favour chosen in {100 * sum(w > 0 for w in judged) / len(judged):3.0f} %, rejected in {100 * sum(w < 0 for w in judged) / len(judged):.0f} %")

# %% [markdown]
# The rules see four of the five kinds. A wrong fact in good style they miss half the time: that takes
# knowledge.
#
# ## 2 · Three roads

# %%
figures.alignment_diagram()

# %% [markdown]
# **RLHF** (Christiano et al., 2017; for language models Ziegler et al., 2019), in the form of Ouyang et al., 2022, goes in three
# stages: imitate, learn a reward from comparisons, then optimise that reward by reinforcement learning, on a leash. **DPO** (Rafailov et al., 2023) notices that the second and third
# stage have a common solution that can be trained directly. **ORPO** (Hong et al., 2024) does even the first stage in passing.
#
# ## 3 · The losses, from scratch
#
# **Bradley and Terry** (1952): each reply has a strength, on a log scale, and the probability that one beats the other is the sigmoid of the
# difference. A reward model is trained to make the observed choices likely.
#
# **DPO**: under the KL-constrained optimum, a reply's reward *is* β times the log-ratio of policy to reference, up to a term that
# both replies share. Put that into Bradley and Terry, and the reward model is gone.
#
# **ORPO**: imitate the chosen reply, and push its odds above those of the rejected one. No reference at all.

# %% tags=["from-scratch"]
def bradley_terry_loss(chosen, rejected):
    """From rewards of both replies, (pairs,) each."""
    return -F.logsigmoid(chosen - rejected).mean()


def dpo_pair_loss(policy, reference, beta):
    """From log-probabilities of whole replies, (pairs, 2): chosen, rejected."""
    rewards = beta * (policy - reference)
    return bradley_terry_loss(rewards[:, 0], rewards[:, 1])


def orpo_loss(mean_logs, imitation, beta):
    """From mean log-probabilities of the replies' tokens, (pairs, 2), and the SFT loss on chosen."""
    log_odds = mean_logs - torch.log(-torch.expm1(mean_logs))
    return imitation + beta * bradley_terry_loss(log_odds[:, 0], log_odds[:, 1])

# %% [markdown]
# **PPO** (Schulman et al., 2017) needs two more pieces. *Advantages*: how much better did it go, from each token on, than the
# value head had expected? And the *clipped objective*: a token whose probability has already moved by more than ε gets no
# further push in that direction.

# %% tags=["from-scratch"]
def gae(rewards, values, discount=1.0, trace=0.95):
    """Generalised advantage estimation over one answer, from the last token to the first."""
    found, after, following = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values)):
        after = reward + discount * following - value + discount * trace * after
        following = value
        found.append(after)
    return found[::-1]


def clipped_loss(ratio, advantage, clip=0.2):
    """Loss of each token; ratio: its new probability over its old one."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)

# %% [markdown]
# ### Are they the library's?
#
# TRL's trainers make the batch and compute their loss; ours gets the same tokens. A tiny random model in float32 will do, since a
# formula does not know how large the model is. TRL has had no PPO since version 1.16, so that PPO's pieces stand against
# the definitions in float64: the advantage as a sum over all later errors, the objective token by token.

# %% tags=["trl"]
def conversational(row):
    """A pair as TRL takes it."""
    return {"prompt": row["prompt"], **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")}}

# %%
def tiny(kind=LlamaForCausalLM, seed=0):
    torch.manual_seed(seed)
    return kind(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                            num_key_value_heads=2, num_labels=1, pad_token_id=0, eos_token_id=tokenizer.eos_token_id))  # fmt: skip


def trl_batch(trainer_class, config_class, model, rows, **more):
    """A TRL trainer on a few rows, and its first batch."""
    known = {name: more.pop(name) for name in ("ref_model",) if name in more}
    arguments = config_class(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(rows), use_cpu=True, bf16=False, report_to="none",
                             gradient_checkpointing=False, remove_unused_columns=config_class is not ORPOConfig, **more)  # fmt: skip
    with capture_output():
        trainer = trainer_class(model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, **known)
        return trainer, next(iter(trainer.get_train_dataloader()))


def token_logs(model, ids, mask):
    """Log-probability of each token but the first, (rows, length - 1)."""
    logs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return logs.gather(2, ids[:, 1:, None])[..., 0]


def gap_of_each(few):
    """Loss from scratch less TRL's, on TRL's batch."""
    n, found = len(few), {}
    trainer, batch = trl_batch(RewardTrainer, RewardConfig, tiny(LlamaForSequenceClassification), few)
    rewards = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    found["Bradley-Terry"] = bradley_terry_loss(rewards[:n], rewards[n:]) - trainer.compute_loss(trainer.model, dict(batch))

    reference = tiny(seed=1)
    trainer, batch = trl_batch(DPOTrainer, DPOConfig, tiny(), few, ref_model=reference, beta=0.3)
    policy, frozen = ((token_logs(m, batch["input_ids"], batch["attention_mask"]) * batch["completion_mask"][:, 1:]).sum(1).view(2, n).T
                      for m in (trainer.model, reference))  # fmt: skip
    found["DPO"] = dpo_pair_loss(policy, frozen, 0.3) - trainer.compute_loss(trainer.model, dict(batch))

    trainer, batch = trl_batch(ORPOTrainer, ORPOConfig, tiny(), few, beta=0.3)
    logs = {k: token_logs(trainer.model, batch[f"{k}_input_ids"], batch[f"{k}_attention_mask"]) for k in ("chosen", "rejected")}
    reply = {k: batch[f"{k}_labels"][:, 1:] != -100 for k in logs}
    means = torch.stack([(logs[k] * reply[k]).sum(1) / reply[k].sum(1) for k in logs], 1)
    everything = batch["chosen_attention_mask"][:, 1:].bool()  # TRL, as the authors' code, imitates the prompt too
    found["ORPO"] = orpo_loss(means, -logs["chosen"][everything].mean(), 0.3) - trainer.get_batch_loss_metrics(trainer.model, batch)[0]
    return found


pad, tokenizer.pad_token = tokenizer.pad_token, "<|endoftext|>"  # not the stop token, which transformers would take for padding
try:
    with torch.no_grad():
        gaps = gap_of_each([conversational(row) for row in sorted(pairs.validation, key=lambda row: len(str(row)))[:2]])
finally:
    tokenizer.pad_token = pad
memory.release()

# %%
dice = random.Random(SEED)
paid, expected = ([dice.gauss(0, 1) for _ in range(40)] for _ in range(2))
errors = [r + 0.9 * v_next - v for r, v, v_next in zip(paid, expected, [*expected[1:], 0.0])]
by_definition = [sum((0.9 * 0.95) ** (k - t) * errors[k] for k in range(t, 40)) for t in range(40)]
gaps["GAE"] = max(abs(a - b) for a, b in zip(gae(paid, expected, discount=0.9), by_definition))
ratio, gain = torch.rand(200, dtype=torch.float64) * 2, torch.randn(200, dtype=torch.float64)
token_by_token = [-min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratio.tolist(), gain.tolist())]
gaps["clipped objective"] = (clipped_loss(ratio, gain) - torch.tensor(token_by_token, dtype=torch.float64)).abs().max()
for name, gap in gaps.items():
    print(f"{name:<18} largest difference {abs(float(gap)):.1e}")
assert all(abs(float(gap)) < 1e-4 for gap in gaps.values())

# %% [markdown]
# The same numbers. From here on `training.fit` does the dull part: the same losses (its tests hold it against TRL too; ORPO
# imitates the reply only, as in the paper), the prompt computed once for both replies, the reference's log-probabilities taken
# before the first step.

# %% [markdown]
# ## 4 · SFT: imitate the desk as it is
#
# The demonstrations are what a desk really has: replies of all its agents, the good and the bad ones. One reply of each pair,
# drawn at random. Other pairs are held back, for a second reward model that no method sees in training.

# %%
objective = training.DPO()
size = {row["id"]: len(objective.encode(tokenizer, row, 4096, row["id"])) for row in [*pairs.train, *pairs.test]}
def shorter(rows, count):
    """The shorter pairs of each kind, in random order: the shortest of all would leave out the verbose ones."""
    kinds = sorted({row["kind"] for row in rows})
    taken = [row for kind in kinds
             for row in sorted((r for r in rows if r["kind"] == kind), key=lambda r: size[r["id"]])[: count // len(kinds)]]  # fmt: skip
    random.Random(SEED).shuffle(taken)
    return taken


train_pairs = shorter(pairs.train, PLAN["pairs"] + PLAN["held_back"])
mine, held_back = train_pairs[: PLAN["pairs"]], train_pairs[PLAN["pairs"] :]
test = shorter(pairs.test, PLAN["test"])
asked = [row["prompt"] for row in test[: PLAN["answers"]]]
messages = [prompt[1]["content"] for prompt in asked]
print(f"{len(mine)} pairs to learn from ({sum(size[row['id']] for row in mine):,} tokens), {len(held_back)} held back; {len(test)} test pairs")


def with_adapter(model):
    """The same fresh LoRA adapter on any model."""
    torch.manual_seed(SEED)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def fit(model, rows, objective, **changes):
    """Train a fresh adapter on a model; returns the model with it, and the history."""
    settings = {"learning_rate": 3e-4, "batch_size": 4, "warmup_steps": 3, "seed": SEED} | changes
    settings["learning_rate"] *= PLAN["rate"]
    tuned = with_adapter(model)
    history = training.fit(tuned, tokenizer, rows, None, objective, training.Settings(**settings))
    memory.release()
    return tuned, history

# %% [markdown]
# What is looked at after each method: does the model find the chosen reply of a test pair likelier, a token, than the rejected
# one; and the answers that it samples itself, by the rules now and by the held-out reward model later.

# %%
seen = {}


def look(name, model, history=None, reference=None, pairs_too=True):
    """Note what a model does; the held-out reward model comes later."""
    found = {"history": history}
    if pairs_too:
        found["pairs"] = evaluation.likelihoods(model, tokenizer, test)
    ids = complete(model, tokenizer, [chat_token_ids(tokenizer, p, add_generation_prompt=True) for p in asked], PLAN["longest"], 1.0, seed=SEED,
                   batch_size=PLAN["answers"])  # fmt: skip
    found["answers"] = [tokenizer.decode(answer, skip_special_tokens=True) for answer in ids]
    found["tokens"] = [len(answer) for answer in ids]
    found["format"] = [style(m, a)["plain prose"] and i[-1] == tokenizer.eos_token_id for m, a, i in zip(messages, found["answers"], ids)]
    found["rules"] = [style_score(m, a) for m, a in zip(messages, found["answers"])]
    # the reference of all of them is the SFT model: the base of every adapter but ORPO's
    found["kl"] = evaluation.log_ratios(model, tokenizer, asked, ids, reference) if name != "SFT" else [0.0] * len(ids)
    seen[name] = found
    text = f"preferred right {evaluation.proportion([p.prefers_chosen for p in found['pairs']])}; " if pairs_too else ""
    print(f"{name}: {text}rules {evaluation.mean(found['rules'])}; format {evaluation.proportion(found['format'])}; "
          f"{evaluation.mean(found['tokens']).value:.0f} tokens; KL {evaluation.mean(found['kl']).value:.1f} nats an answer")  # fmt: skip


dice = random.Random(SEED)
demonstrations = [row["prompt"] + [{"role": "assistant", "content": row[dice.choice(("chosen", "rejected"))]}] for row in mine]
tuned, sft_history = fit(base, demonstrations, training.SFT(), learning_rate=1e-3)
print(sft_history)
start = tuned.merge_and_unload()  # where everything else begins, and the reference of everything else
look("SFT", start, sft_history)

# %% [markdown]
# It imitates all of the desk, the bad habits too. If it finds chosen replies likelier already, that is no merit: one style may be
# easier to predict than five.
#
# ## 5 · DPO
#
# A new adapter on the SFT model, which stays the reference. **Predict:** the loss before the first step?

# %% tags=["dpo"]
dpo, dpo_history = fit(start, mine, training.DPO(beta=0.1))
print(dpo_history)
print(f"loss at the first step {dpo_history.losses[0]:.4f}, ln 2 = {math.log(2):.4f}")
look("DPO", dpo, dpo_history)
dpo.unload()
assert abs(dpo_history.losses[0] - math.log(2)) < 0.02

# %%
ours = dpo_history.settings
print(f"{'':<22}{'in the wild':>12}{'here':>10}{'here / wild':>13}")
for what, wild, here in (
    ("β", 0.1, training.DPO().beta),
    ("learning rate", 5e-7, ours.learning_rate),
    ("epochs", 1, ours.epochs),
    ("pairs in a batch", 2, ours.batch_size),
    ("accumulated batches", 8, ours.gradient_accumulation_steps),
    ("pairs in a step", 2 * 8, ours.batch_size * ours.gradient_accumulation_steps),
):
    print(f"{what:<22}{wild:>12g}{here:>10g}{here / wild:>13g}")
print(f"steps here: {len(dpo_history.steps)}")

# %% [markdown]
# The settings of the first column circulate. They are those of full fine-tuning on tens of thousands of pairs, with many more steps
# to come far in. An adapter takes a higher rate (lesson 02), and so few steps need one. β can stay: it says how dear the way is, not
# how long a step.

# %%
dpo_history.plot_metrics(["reward_chosen", "reward_rejected"], "DPO: implicit rewards, β x log-ratio", "nats x β")

# %% [markdown]
# Both curves are measured from the reference. What DPO raises is the *distance*; where the two go is nobody's promise (section 9).
# The log-ratios are rewards in their own right: do they rank pairs that were never trained on?

# %%
moved = [(p.chosen - s.chosen) - (p.rejected - s.rejected) for p, s in zip(seen["DPO"]["pairs"], seen["SFT"]["pairs"])]
implicit = evaluation.proportion([m > 0 for m in moved])
print(f"DPO's implicit reward ranks {implicit} of {len(moved)} test pairs")
claims.check(
    "A4",
    measured=f"trained without one, DPO's own log-ratios rank {implicit} of the test pairs",
    holds=implicit.low > 0.5,
    because="its implicit reward did not rank held-out pairs better than a coin",
)

# %% [markdown]
# ## 6 · RLHF: a reward model, then PPO
#
# Stage two: the SFT model's body with one output in place of the vocabulary's, trained by Bradley and Terry on the same pairs.

# %% tags=["reward"]
folder = tempfile.mkdtemp()
start.save_pretrained(folder)
tokenizer.save_pretrained(folder)


def reward_model(rows, seed):
    """Train a reward model; returns it, its history, and a function from answers to rewards."""
    body, _ = models.load_reward(folder, seed=seed)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(body, config)
    settings = training.Settings(learning_rate=5e-4 * PLAN["rate"], batch_size=4, warmup_steps=3, seed=seed, micro_batch_tokens=PLAN["piece"])
    history = training.fit(model, tokenizer, rows, None, training.Reward(centre=0.01), settings)
    return model, history, lambda prompts, answers: training.reward_scores(model, tokenizer, prompts, answers)


def ranks(reward, rows):
    """Share of pairs that a reward ranks right."""
    chosen, rejected = (reward([row["prompt"] for row in rows], [row[key] for row in rows]) for key in ("chosen", "rejected"))
    return evaluation.proportion([c > r for c, r in zip(chosen, rejected)])


reward_body, reward_history, reward = reward_model(mine, SEED)
print(reward_history)
print(f"ranks {ranks(reward, test)} of the test pairs")

# %% [markdown]
# Stage three: the policy answers, the reward model scores, PPO makes what scored well likelier. The KL penalty charges every nat
# that the policy moves away from the reference. An answer that is cut off gets -3, whatever it says, so that the policy learns to
# come to an end. Once with the penalty, once without. **Predict:** which one gets the higher reward, and which one would you
# rather ship?

# %% tags=["ppo"]
ppo_histories = {}
for name, kl in (("PPO", 0.1), ("PPO without KL", 0.0)):
    objective = training.PPO(reward=reward, kl_coefficient=kl, max_new_tokens=40, missing_eos_reward=-3.0)
    policy, history = fit(start, [row["prompt"] for row in mine], objective, learning_rate=1e-3, batch_size=PLAN["prompts"],
                          max_steps=2 * PLAN["rollouts"], schedule="constant")  # fmt: skip
    print(f"{name}: {history.seconds:.0f} s of training, {history.rollout_seconds:.0f} s of answering")
    look(name, policy, history, pairs_too=kl > 0)
    policy.unload()
    ppo_histories[name] = history
for name in ("SFT", *ppo_histories):
    seen[name]["reward"] = reward(asked, seen[name]["answers"])
    print(f"{name}: the reward model gives {evaluation.mean(seen[name]['reward']).value:+.2f}")

# %%
rounds = range(1, PLAN["rollouts"] + 1)
figures.lines({name: (rounds, history.metric("kl")) for name, history in ppo_histories.items()},
              "How far the policy is from the reference", "rollout", "nats an answer")  # fmt: skip

# %%
body = sum(p.numel() for name, p in reward_body.named_parameters() if "lora_" not in name)
objective = reward_body = reward = policy = None  # no longer needed: room for what comes
memory.release()

# %% [markdown]
# ## 7 · ORPO, and a control that is often forgotten
#
# ORPO starts from the *base* model and sees the pairs only. The control is plain SFT once more, on the chosen replies: whoever has
# pairs has good examples too. It is the cheapest method of all, and every other one has to beat it.

# %% tags=["orpo"]
fresh, _ = models.load()
orpo, orpo_history = fit(fresh, mine, training.ORPO(beta=0.5), learning_rate=1e-3)
print(orpo_history)
look("ORPO", orpo, orpo_history, reference=start)
del orpo, fresh
memory.release()

# %%
chosen_only = [row["prompt"] + [{"role": "assistant", "content": row["chosen"]}] for row in mine]
control, control_history = fit(start, chosen_only, training.SFT(), learning_rate=5e-4)
look("SFT on chosen", control, control_history)
control.unload()
memory.release()

# %% [markdown]
# ## 8 · Side by side
#
# **The same messages, answered by every model** (sampled, not picked). Read them before you look at the figures. The smaller a
# model, the more nonsense it writes, at temperature 1 all the more; what preferences change first is the form: length, caveats, a
# next step.

# %%
print(f"{start.num_parameters() / 1e6:,.0f} million parameters, trained on {PLAN['pairs']} pairs")
widgets.side_by_side(messages[:4], {name: found["answers"][:4] for name, found in seen.items()})

# %% [markdown]
# Now a second, **held-out reward model** (`judge` in the code), trained on pairs that nothing else has seen. A method that has only
# learned to please its own reward model will please this one less. Both come from one body and one kind of pairs, so they share
# blind spots: reading stays necessary. (In lesson 05 a judge is a strong model with a rubric, which this one is not.)

# %%
judge_body, judge_history, judge = reward_model(held_back, SEED + 1)
judge_ranks = ranks(judge, test)
print(f"the held-out reward model ranks {judge_ranks} of the test pairs")
for found in seen.values():
    found["judge"] = judge(asked, found["answers"])


def better(name, what, than="SFT"):
    """Mean difference from another model, message by message (pair by pair), with its interval."""
    if what == "pairs":
        ours, theirs = ([p.prefers_chosen for p in seen[who]["pairs"]] for who in (name, than))
    else:
        ours, theirs = seen[name][what], seen[than][what]
    return evaluation.mean([a - b for a, b in zip(ours, theirs)])


def shown(score, scale=1, digits=1):
    return f"{scale * score.value:+.{digits}f} [{scale * score.low:+.{digits}f}, {scale * score.high:+.{digits}f}]"


print(f"{'against SFT':<16}{'pairs right, points':>24}{'held-out reward':>24}{'rules, points':>24}")
for name in seen:
    if name != "SFT":
        right = shown(better(name, "pairs"), 100, 0) if "pairs" in seen[name] else ""
        print(f"{name:<16}{right:>24}{shown(better(name, 'judge')):>24}{shown(better(name, 'rules'), 100, 0):>24}")

# %%
print(f"{'':<16}{'held-out reward':>15}{'rules':>8}{'format':>8}{'tokens':>8}{'KL':>7}{'seconds':>9}{'+ memory':>10}{'trained on':>16}")
for name, found in seen.items():
    history = found["history"]
    seconds = history.seconds + history.reference_seconds + history.rollout_seconds
    means = {what: evaluation.mean(found[what]).value for what in ("judge", "rules", "format", "tokens", "kl")}
    print(f"{name:<16}{means['judge']:>15.2f}{100 * means['rules']:>6.0f} %{100 * means['format']:>6.0f} %{means['tokens']:>8.0f}{means['kl']:>7.1f}"
          f"{seconds:>9.0f}{(history.memory.measured or 0) / 1e6:>7.0f} MB{history.tokens:>9,} tokens")  # fmt: skip

# %% [markdown]
# *Seconds* are training, answering and the reference pass; *memory* is what the run added to the process, which a run that finds
# room left by an earlier one may show as little or nothing. RLHF needed its reward model besides. Each method ran once, at a
# learning rate that was tried on a few values, and ORPO had no SFT before it: an order within the intervals is no order.
#
# ### The price of reward: KL
#
# What counts is not how much reward a method gets, but how much *at this distance* from where it began: what lies far out was paid
# for with things that no reward model sees.

# %% tags=["sweep"]
def kl_reward(points, title):
    """The trade-off of KL and reward: name → (KL, held-out reward), one or several of each."""
    return figures.lines(points, title, "KL from the SFT model, nats an answer", "held-out reward")


kl_reward({name: tuple([evaluation.mean(found[what]).value] for what in ("kl", "judge")) for name, found in seen.items()},
          f"This run: {len(asked)} answers of each")  # fmt: skip

# %% [markdown]
# One run on few answers. The same methods with several seeds, on more pairs, and DPO with several values of β, are in a record that
# came with the course (`benchmarks/alignment.py`). **Predict** where small and large β lie.

# %%
record = json.loads(assets.benchmark_results("alignment").read_text(encoding="utf-8"))
print(f"recorded {record['date']} on {record['machine']}, seeds {record['seeds']}, {record['plan']['pairs']} pairs")


def of_seeds(name, what):
    """A method's mean answer in the record: over all seeds, in the lowest, in the highest."""
    means = [sum(values) / len(values) for values in (run["methods"][name][what] for run in record["runs"])]
    return sum(means) / len(means), min(means), max(means)


stored_as = {"β = 0.1": "DPO"}
recorded = {name: {what: of_seeds(stored_as.get(name, name), what) for what in ("kl", "judge")} for name in record["frontier"]}
betas = sorted((name for name in recorded if name.startswith("β")), key=lambda name: recorded[name]["kl"][0])
swept = {f"DPO, {', '.join(betas)}": tuple([recorded[name][what][0] for name in betas] for what in ("kl", "judge"))}
others = {name: tuple([means[what][0]] for what in ("kl", "judge")) for name, means in recorded.items() if name not in betas}
kl_reward(swept | others, f"The record: {len(record['seeds'])} seeds, {record['plan']['pairs']} pairs")

# %%
for name, means in recorded.items():
    (kl, near, far), (gain, least, most) = means["kl"], means["judge"]
    print(f"{name:<15} KL {kl:5.1f} ({near:.1f} to {far:.1f})   held-out reward {gain:+.2f} ({least:+.2f} to {most:+.2f})")

# %% [markdown]
# In brackets: the seed with the lowest mean and the one with the highest. An interval over the answers of all seeds together would
# be narrower, and would speak of these very models; how far another training run may land from them, only the seeds can say.
#
# A small β lets the policy run far, a large one keeps it near. The slope of the curve is what each further nat buys. At the same β
# DPO ended elsewhere in this run than in the record. **Predict:** why?

# %%
batch, steps = dpo_history.settings.batch_size, len(dpo_history.steps)
longer_run = math.ceil(record["plan"]["pairs"] / batch)
rate = dpo_history.settings.learning_rate / PLAN["rate"]  # the record's: the CPU tier's
here, there = ({name: found[name]["kl"] for name in ("DPO", "PPO")} for found in (seen, recorded | {"DPO": recorded["β = 0.1"]}))
here = {name: evaluation.mean(values).value for name, values in here.items()}
print(f"this run:   DPO KL {here['DPO']:4.1f} after {steps} steps at {dpo_history.settings.learning_rate:g}; "
      f"PPO {here['PPO']:4.1f} after {PLAN['rollouts']} rollouts")  # fmt: skip
print(f"the record: DPO KL {there['DPO'][0]:4.1f} after {longer_run} steps at {rate:g}; "
      f"PPO {there['PPO'][0]:4.1f} after {record['plan']['rollouts']} rollouts")  # fmt: skip
margins = dpo_history.metric("margin")
quarters = [evaluation.mean(margins[i * steps // 4 : (i + 1) * steps // 4]).value for i in range(4)]
print("DPO's margin in this run, quarter by quarter:", " ".join(f"{margin:.2f}" for margin in quarters))

# %% [markdown]
# The two plans differ in pairs, and so in steps (on a GPU in the model too). DPO looks at written pairs only, and moves on as long
# as their margin grows; β weighs against that, in full only where training has come to rest. PPO is charged for each nat of its
# own answers, rollout by rollout. So which of the two ends nearer to SFT is a matter of the plan, not of the method.
#
# And who beats SFT, pair by pair and answer by answer?

# %%
def with_seeds(gain, scale=1, digits=1):
    """Mean gain over SFT, with the lowest and the highest of the seeds."""
    means = [scale * seed[0] for seed in gain["seeds"]]
    return f"{scale * gain['all'][0]:+.{digits}f} ({min(means):+.{digits}f} to {max(means):+.{digits}f})"


print(f"{'record, against SFT':<20}{'pairs right, points':>24}{'held-out reward':>24}{'rules, points':>24}")
gains = {name: gain for name, gain in record["gain over SFT"].items() if name not in betas}
for name, gain in gains.items():
    right = with_seeds(gain["right"], 100, 0) if "right" in gain else ""
    print(f"{name:<20}{right:>24}{with_seeds(gain['judge']):>24}{with_seeds(gain['rules'], 100, 0):>24}")
assert all(seed[0] > 0 for gain in gains.values() for what in ("judge", "rules") for seed in gain[what]["seeds"])

# %% [markdown]
# By the held-out reward model and by the rules, all of them, with every seed. One figure stays where it was: PPO hardly moves the
# likelihood of *written* pairs. It only ever sees answers of its own, and makes the better ones likelier; what somebody else wrote
# is not among them. DPO and ORPO train on just such texts.

# %%
live = {name: evaluation.mean(seen[name]["kl"]) for name in ("PPO", "PPO without KL")}
with_kl, without = (recorded[name]["kl"] for name in live)
claims.check(
    "A5",
    measured=f"PPO with the penalty {with_kl[0]:.1f} nats an answer in the record ({with_kl[1]:.1f} to {with_kl[2]:.1f}, "
    f"seed by seed), without {without[0]:.1f} ({without[1]:.1f} to {without[2]:.1f}); after this run's {PLAN['rollouts']} rollouts "
    f"{live['PPO'].value:.1f} and {live['PPO without KL'].value:.1f}; DPO, whose β is the same penalty, in the record "
    f"{recorded[betas[0]]['kl'][0]:.1f} at {betas[0]} and {recorded[betas[-1]]['kl'][0]:.1f} at {betas[-1]}",
    holds=with_kl[2] < without[1] and recorded[betas[0]]["kl"][2] < recorded[betas[-1]]["kl"][1],
    because="with some seeds the runs did not end apart",
)

# %% [markdown]
# ## 9 · A gallery of failures
#
# **A learning rate that is too high.** DPO again, on fewer pairs and in larger steps. **Predict:** does the loss give it away? Do
# the rules?

# %% tags=["gallery"]
broken, hot = fit(start, mine[: PLAN["few"]], training.DPO(), learning_rate=5e-3, max_steps=8)
with capture_output():
    look("too high a rate", broken, hot, pairs_too=False)
broken.unload()
hot_seen = seen.pop("too high a rate")
distance = {name: evaluation.mean(found["kl"]).value for name, found in (("DPO", seen["DPO"]), ("too high", hot_seen))}
taken, now = len(hot.losses), evaluation.mean(hot.losses[-4:]).value
calm = evaluation.mean(dpo_history.losses[taken - 4 : taken]).value
times = hot.settings.learning_rate / dpo_history.settings.learning_rate
print(f"{times:.0f} times the rate: loss {hot.losses[0]:.3f} → {now:.3f} in {taken} steps; section 5 had {calm:.3f} then, "
      f"{evaluation.mean(dpo_history.losses[-4:]).value:.3f} at its end")  # fmt: skip
length = evaluation.mean(hot_seen["tokens"]).value
print(f"KL {distance['too high']:.0f} nats an answer, {distance['too high'] / length:.1f} a token; in section 5 it was {distance['DPO']:.1f} an answer")
print("answers:", *(repr(answer[:150]) for answer in hot_seen["answers"][:2]), sep="\n  ")
print(f"and the rules? {evaluation.mean(hot_seen['rules'])}; before {evaluation.mean(seen['SFT']['rules'])}")
if device.tier == "cpu":
    assert distance["too high"] > 3 * max(distance["DPO"], 3)
    assert now < math.log(2)

# %% [markdown]
# A loss that falls, as it does in a healthy run: it does not give this one away. The rules look for form and for a few of the
# customer's words, and may hardly mind. On the CPU tier the answers still pick up what was asked, but garbled: no automatic check
# replaces reading. The KL tells.

# %% [markdown]
# **The chosen reply can become less likely too.** The loss asks for a distance between the two replies. Pushing both down, rejected
# faster, makes one as well. **Predict:** did that happen here, and in section 5?

# %%
last = {
    run: {side: evaluation.mean(history.metric(f"reward_{side}")[-4:]).value / training.DPO().beta for side in ("chosen", "rejected")}
    for run, history in (("the rate too high", hot), ("section 5", dpo_history))
}
for run, sides in last.items():
    print(f"{run:<18} log-probability against the reference, last steps: chosen {sides['chosen']:+.1f} nats, rejected {sides['rejected']:+.1f}")
print("chosen became less likely in:", ", ".join(run for run, sides in last.items() if sides["chosen"] < 0) or "neither")
if device.tier == "cpu":
    assert last["the rate too high"]["rejected"] < last["the rate too high"]["chosen"] < 0

# %% [markdown]
# **Length hacking.** Suppose that whoever collected the pairs liked detail: chosen is always the longer reply. Nothing in the loss
# says that length was not the point.

# %%
longer = sorted((row for row in pairs.train if row["kind"] == "cold"), key=lambda row: size[row["id"]])[:28]
assert all(len(row["chosen"].split()) > len(row["rejected"].split()) for row in longer)
wordy, wordy_history = fit(start, longer, training.DPO(), learning_rate=6e-4)
with capture_output():
    look("longer", wordy, wordy_history, pairs_too=False)
wordy.unload()
more = better("longer", "tokens")
seen.pop("longer")
print(f"tokens more in each answer, cut off at {PLAN['longest']}: {shown(more)}")
assert more.value > 0

# %% [markdown]
# **Reward hacking.** A manager wants replies that speak to the customer, and measures it: how often is *you* or *your* in a reply?
# PPO takes the manager at their word, with no KL penalty to hold it back. **Predict** an answer.

# %%
ADDRESS = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)


def addressed(_, answers):
    return [float(len(ADDRESS.findall(answer))) for answer in answers]


proxy = training.PPO(reward=addressed, kl_coefficient=0.0, max_new_tokens=32)
hacked, hacked_history = fit(start, [row["prompt"] for row in mine], proxy, learning_rate=3e-3, batch_size=8, max_steps=12, schedule="constant")
with capture_output():
    look("hacked", hacked, hacked_history, pairs_too=False)
hacked.unload()
seen["hacked"]["judge"] = judge(asked, seen["hacked"]["answers"])
counts = {"SFT": seen["SFT"]["answers"], "hacked": seen["hacked"]["answers"]} | {key: [row[key] for row in pairs.train] for key in ("chosen", "rejected")}
counts = {name: evaluation.mean(addressed(None, answers)).value for name, answers in counts.items()}
print("'you' and 'your' in a reply:", {name: round(count, 1) for name, count in counts.items()})
print(f"held-out reward against SFT {shown(better('hacked', 'judge'))}, rules, points {shown(better('hacked', 'rules'), 100, 0)}")
print("answers:", *(repr(answer[:180]) for answer in seen.pop("hacked")["answers"][:3]), sep="\n  ")
assert counts["hacked"] > max(counts["chosen"], counts["SFT"])

# %% [markdown]
# The measure rose; see what the held-out reward model and the rules say of what it stood for. The reward model of section 6 is a
# better measure, and so harder to hack, not impossible: it too has only seen answers near the reference. That is what the KL
# penalty is for.

# %% [markdown]
# **Preferences that contradict each other.** Every pair twice, the second time the other way round, as two annotators who disagree
# would leave it. **Predict** the margin.

# %%
some = mine[:10]
turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in some]
undecided, undecided_history = fit(start, [*some, *turned], training.DPO(), learning_rate=6e-4, batch_size=8, epochs=2)
undecided.unload()
margins = evaluation.mean(undecided_history.metric("margin"))
right = evaluation.mean(undecided_history.metric("accuracy")[1:])  # at the first step nothing is told apart
print(f"all steps: margin {shown(margins, digits=2)}, right {100 * right.value:.0f} %, loss {undecided_history.losses[-1]:.3f} (ln 2 = {math.log(2):.3f})")
assert margins.value < 0.1
assert right.value < 0.65

# %% [markdown]
# ## 10 · What does it cost?
#
# Count passes first. A forward pass of a token through the frozen body is 1; with LoRA the backward pass is about 1 more (the
# gradients of the activations; those of the frozen weights are never taken), in full fine-tuning 2 more.

# %%
def passes(method, full=False, epochs=2):
    """Passes of the body that each token of a reply and its prompt goes through."""
    step = 3 if full else 2  # forward and backward
    return {
        "SFT": step,
        "DPO": step + 1,  # and the reference's forward pass
        "ORPO": step,
        "reward model": step,
        # answered, looked back at by policy and by reference, scored by the reward model, trained on
        "PPO": 1 + 1 + 1 + 1 + epochs * step,
    }[method]


counted = {}
for full in (False, True):
    print("full fine-tuning" if full else "LoRA")
    for method in ("DPO", "ORPO", "PPO"):
        a_token = passes(method, full) / passes("SFT", full)
        an_example = a_token * (1 if method == "PPO" else 2)  # two replies, each with the prompt
        counted[method, full] = a_token, an_example
        print(f"  {method:<5} {a_token:.2f} x SFT a token, {an_example:.2f} x an example")

# %% [markdown]
# Now the clock: the same prompts, in turns, so that a busy machine hurts all alike, with the prompt written twice, as everyone
# counts. (`fit` lets both replies share it; how much that saves is in the record below.)

# %% tags=["cost"]
FEW = sorted(mine, key=lambda row: size[row["id"]])[len(mine) // 2 :][:3]  # of middle length
timed = with_adapter(start)


def cost(method, share):
    """Seconds an example, and its tokens; at a learning rate that changes nothing."""
    data = [row["prompt"] + [{"role": "assistant", "content": row["chosen"]}] for row in FEW] if method == "SFT" else FEW
    objective = {"SFT": training.SFT(), "DPO": training.DPO(), "ORPO": training.ORPO(),
                 "PPO": training.PPO(reward=judge, max_new_tokens=36)}[method]  # fmt: skip
    if method == "PPO":
        data = [row["prompt"] for row in FEW]
    steps = objective.epochs if method == "PPO" else 1
    settings = training.Settings(learning_rate=1e-12, batch_size=len(FEW), max_steps=steps, share_prompt=share, micro_batch_tokens=4096)
    with capture_output():
        history = training.fit(timed, tokenizer, data, None, objective, settings)
    seconds = history.seconds + history.reference_seconds + history.rollout_seconds
    tokens = history.tokens / steps
    if method in ("DPO", "ORPO") and not share:  # `fit` counts a pair's prompt once
        tokens += sum(len(objective.encode(tokenizer, row, 4096, row["id"]).prompt) for row in FEW)
    return seconds / len(FEW), tokens / len(FEW)


ROUNDS, METHODS = 3, [("SFT", True), ("DPO", False), ("ORPO", False), ("PPO", True)]
clock = {key: [] for key in METHODS}
for turn in range(ROUNDS + 1):
    for key in METHODS:
        taken = cost(*key)
        if turn:  # the first round warms up
            clock[key].append(taken)
timed.unload()
ratio = {key: evaluation.mean([s / b for (s, _), (b, _) in zip(clock[key], clock["SFT", True])]) for key in METHODS[1:]}
a_token = {key: evaluation.mean([(s / t) / (b / c) for (s, t), (b, c) in zip(clock[key], clock["SFT", True])]) for key in METHODS[1:]}
for (method, share), score in ratio.items():
    how = "prompt written twice" if method != "PPO" else "answers it makes itself"
    tokens, one = clock[method, share][0][1] / clock["SFT", True][0][1], a_token[method, share]
    per_token = f"with {tokens:.2f} x the tokens: {one.value:.2f} x a token [{one.low:.2f}, {one.high:.2f}]"
    print(f"{method:<5} {how:<24} {score.value:.2f} x SFT an example [{score.low:.2f}, {score.high:.2f}]  {per_token}")

# %% [markdown]
# A *token* is one that goes through the body; written twice, a prompt's tokens count twice. PPO answers token by token, which keeps
# the machine waiting for memory instead of computing, so it takes longer than its count says.

# %%
priced = json.loads(assets.benchmark_results("method-prices").read_text(encoding="utf-8"))
print(f"recorded {priced['date']} on {priced['machine']}, {priced['rounds']} rounds; memory that a step of {priced['examples']} examples adds, {priced['memory runs']} runs")
for name, row in priced["over SFT"].items():
    times, mega = row["an example"], row["memory added, MB"]
    print(f"{name:<20} {times[0]:.2f} x SFT an example [{times[1]:.2f}, {times[2]:.2f}], {row['a token'][0]:.2f} x a token "
          f"[{row['a token'][1]:.2f}, {row['a token'][2]:.2f}]; memory {mega[0]:,.0f} MB [{mega[1]:,.0f}, {mega[2]:,.0f}]")  # fmt: skip

# %% [markdown]
# Is DPO 1.5 to 2 times as dear as SFT? **Predict:** by which of these ways to count?

# %%
shared = priced["over SFT"]["DPO, prompt shared"]["an example"]
took = {name: history.seconds + history.reference_seconds for name, history in (("SFT", sft_history), ("DPO", dpo_history))}
ways = {
    "an example, prompt shared as in `fit` (the record)": shared[0],
    "sections 4 and 5 of this run, once each": took["DPO"] / took["SFT"],
    "an example, prompt written twice": ratio["DPO", False].value,
    "a token by the clock": a_token["DPO", False].value,
    "a token by count, LoRA": counted["DPO", False][0],
    "a token by count, full fine-tuning": counted["DPO", True][0],
    "an example by count, LoRA": counted["DPO", False][1],
    "an example by count, full fine-tuning": counted["DPO", True][1],
}
inside = [f"{way} ({value:.2f} x)" for way, value in ways.items() if 1.5 <= value <= 2]
outside = [f"{way} ({value:.2f} x)" for way, value in ways.items() if not 1.5 <= value <= 2]
print("in the range:", *inside, sep="\n  ")
print("outside:", *outside, sep="\n  ")

# %%
bodies = {
    "SFT": start.num_parameters(), "DPO": start.num_parameters(), "ORPO": start.num_parameters(),
    "PPO": start.num_parameters() + body,
}  # fmt: skip
roles = ("policy", "reference", "reward", "value")
print("weights of bodies in memory, with LoRA:", {name: f"{count / bodies['SFT']:.1f} x" for name, count in bodies.items()})
times = {key: f"{score.value:.1f} x [{score.low:.1f}, {score.high:.1f}]" for key, score in ratio.items()}
claims.check(
    "A1",
    measured=f"an example with a shared prompt, as `fit` trains, {shared[0]:.2f} x [{shared[1]:.2f}, {shared[2]:.2f}] in the record; "
    f"with the prompt written twice {times['DPO', False]} here",
    holds=1.5 <= shared[0] <= 2,
    when=f"it means: {'; '.join(inside)}. It is wrong for: {'; '.join(outside)}",
    because=f"with a shared prompt an example costs {shared[0]:.2f} x; in the range are: {'; '.join(inside) or 'none of the ways to count'}",
)
claims.check(
    "A2",
    measured=f"an example {times['ORPO', False]}; a token {a_token['ORPO', False].value:.2f} x; no reference was loaded or asked",
    holds=ratio["ORPO", False].value <= 1.3,
    because="it needs no reference, but a pair has two replies: about as much as SFT a token, more an example",
)
claims.check(
    "A3",
    measured=f"PPO {times['PPO', True]} an example, {passes('PPO') / passes('SFT'):.1f} by count, before the reward model's own training and with "
    f"{PLAN['rollouts']} rollouts where SFT had one epoch; roles: {', '.join(roles)}; bodies in memory with LoRA: {bodies['PPO'] / bodies['SFT']:.0f}",
    holds=3 <= ratio["PPO", True].value <= 10 and len(roles) == 3,
    because=f"there are {len(roles)} roles ({', '.join(roles)}); with LoRA they share {bodies['PPO'] / bodies['SFT']:.0f} bodies. The cost alone is "
    f"{'inside' if 3 <= ratio['PPO', True].value <= 10 else 'outside'} the range",
)

# %% [markdown]
# ### Which one, when?
#
# All of it in one table. *Compute* is the time of an example beside SFT's, as measured in this section.

# %%
by_clock = {method: f"{ratio[method, share].value:.1f} x" for method, share in METHODS[1:]}
rows = [
    ("method", "complexity", "compute", "when"),
    ("SFT", "low: one model, one loss", "1 x", "always first: the baseline, and where DPO and RLHF start"),
    ("DPO", "medium: pairs, a reference's log-probabilities", f"{shared[0]:.1f} to {by_clock['DPO']}", "there are pairs; the usual choice"),
    ("ORPO", "low: pairs, one loss, no reference", by_clock["ORPO"], "SFT and preference in one step"),
    ("RLHF", "high: reward model, sampling, value head, KL", f"{by_clock['PPO']} + reward model", "at large scale, feedback that never stops"),
]
for method, complexity, compute, when in rows:
    print(f"{method:<8}{complexity:<48}{compute:<22}{when}")

# %% [markdown]
# DPO's lower figure is with a prompt that both replies share (the record). Its higher one, and ORPO's, have the prompt written twice.

# %% [markdown]
# ## 11 · The same with TRL
#
# At work you will use TRL, in today's arguments (many tutorials still show `tokenizer=`, `max_prompt_length=`, `beta=` in the
# trainer: all gone). Data sets are lists of dicts with messages, the adapter goes in as `peft_config`.

# %% tags=["trl"]
def arguments(config, steps, **more):
    """What every trainer is told here: a few steps, this machine's number format, reports to nobody."""
    settings = {
        "output_dir": tempfile.mkdtemp(), "max_steps": steps, "per_device_train_batch_size": 2, "learning_rate": 2e-4, "logging_steps": 1,
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "gradient_checkpointing": False,
        "use_cpu": device.kind == "cpu", "bf16": device.dtype == "bfloat16", "fp16": device.dtype == "float16",
    }  # fmt: skip
    return config(**settings | more)


def trl_trainer(method, model, rows, steps=2, **more):
    """One of TRL's trainers on preference pairs."""
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    data = datasets.Dataset.from_list([conversational(row) for row in rows])
    if method == "SFT":
        data = data.map(lambda row: {"prompt": row["prompt"], "completion": row["chosen"]}, remove_columns=["chosen", "rejected"])
        return SFTTrainer(model=model, args=arguments(SFTConfig, steps, **more), train_dataset=data, processing_class=tokenizer, peft_config=lora)
    if method == "DPO":  # with peft_config the reference is the model with its adapter switched off
        args = arguments(DPOConfig, steps, **{"beta": 0.1, **more})
        return DPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    if method == "ORPO":
        args = arguments(ORPOConfig, steps, **{"beta": 0.5, "max_length": 512, **more})
        return ORPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return RewardTrainer(model=model, args=arguments(RewardConfig, steps, **more), train_dataset=data, processing_class=tokenizer, peft_config=lora)

# %%
judge_body = judge = objective = tuned = timed = None  # no longer needed: room for what comes
memory.release()
shortest = sorted(mine, key=lambda row: size[row["id"]])[:6]
for method in ("SFT", "DPO", "ORPO", "Reward"):
    model = models.load_reward()[0] if method == "Reward" else models.load()[0]
    with capture_output():
        trainer = trl_trainer(method, model, shortest)
        trainer.train()
    print(f"TRL {method:<7} losses", " ".join(f"{entry['loss']:.3f}" for entry in trainer.state.log_history if "loss" in entry))
    del trainer, model
    memory.release()

# %% [markdown]
# TRL's PPO is gone since version 1.16 (2026-09). What took its place is the subject of the next section.
#
# ## 12 · Where the field is now
#
# *As of November 2026.* DPO and its variants (IPO, 2023, arXiv 2310.12036; KTO, 2024, arXiv 2402.01306, for thumbs up and down
# without pairs; SimPO, 2024, arXiv 2405.14734, without a reference) remain the workhorse for style and preference in open models.
# Two things have moved since 2023:
#
# - **Online often beats offline** where answers can be scored (Xu et al., 2024, arXiv 2404.10719; Tang et al., 2024, arXiv 2405.08448):
#   pairs drawn from the policy itself (online DPO, 2024, arXiv 2402.04792), or rewards without a value model (RLOO, 2024, arXiv
#   2402.14740; GRPO, in DeepSeekMath, 2024, arXiv 2402.03300).
# - **Verifiable rewards** (Tülu 3, 2024, arXiv 2411.15124; DeepSeek-R1, 2025, arXiv 2501.12948): for mathematics, code and formats a
#   program checks the answer, so that there is no reward model to fool. This is how reasoning models are trained, mostly by GRPO and
#   its repairs (DAPO, 2025, arXiv 2503.14476; Dr. GRPO, 2025, arXiv 2503.20783).
#
# PPO with a learnt reward is what this lesson shows to be dear and delicate; it lives on where feedback is continuous and the team
# is large.
#
# GRPO in one line: answer each prompt several times, and call an answer good by how far it is above its siblings' mean, in units of
# their spread. No value head is needed; the reward may be a model or, as here, a program: 1 if the whole answer is the JSON record
# that was asked for, else 0.

# %% tags=["trl"]
def grpo_trainer(model, prompts, steps, reward, **more):
    """TRL's GRPO: prompts only, and a function that says what an answer is worth."""
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_generations": 4, "max_completion_length": 16, "beta": 0.0, "temperature": 1.0, "learning_rate": 3e-4}
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    data = datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    return GRPOTrainer(model=model, args=arguments(GRPOConfig, steps, **settings | more), reward_funcs=reward, train_dataset=data,
                       processing_class=tokenizer, peft_config=lora)  # fmt: skip

# %%
triage = load_task("support_tickets", ["category"])
EXAMPLE = [{"role": "system", "content": "Triage this customer message."}, {"role": "user", "content": "My kettle leaks."},
           {"role": "assistant", "content": '{"category": "defect"}'}]  # fmt: skip


def is_valid(answer):
    return evaluation.parse_record(answer, triage.schema) is not None


def valid_json(completions, **_):
    """A verifiable reward: what a parser says."""
    return [float(is_valid(completion[0]["content"])) for completion in completions]


# %%
by_length = sorted(triage.train, key=lambda c: len(c[1]["content"]))[:64]
held = [EXAMPLE + c[1:2] for c in sorted(triage.test, key=lambda c: len(c[1]["content"]))[:40]]
model, _ = models.load()
answered = generate(model, tokenizer, held, max_new_tokens=16, temperature=1.0, batch_size=40)
before = evaluation.proportion([is_valid(answer) for answer in answered])
with capture_output():
    trainer = grpo_trainer(model, [EXAMPLE + c[1:2] for c in by_length], steps=5, reward=valid_json)
    trainer.train()
answered = generate(trainer.model, tokenizer, held, max_new_tokens=16, temperature=1.0, batch_size=40)
after = evaluation.proportion([is_valid(answer) for answer in answered])
checked = trainer.state.global_step * trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
print(f"{checked} answers were checked in training")
print("share of valid answers, step by step:", " ".join(f"{entry['reward']:.2f}" for entry in trainer.state.log_history if "reward" in entry))
print(f"held-out messages, valid JSON: before {before}, after {after}")
assert after.value > before.value or before.low > 0.8

# %% [markdown]
# No pairs, no reward model, no demonstrations to train on: a check and the answers counted above. What GRPO can't do is invent: if
# none of the siblings is ever right, all differences are zero, and nothing is learned. Hence the example in the prompt.
# **Predict:** a program can't be flattered. Can it be hacked?

# %%
wanted = {c[1]["content"]: row["record"]["category"] for c, row in zip(triage.test, triage.rows["test"])}
records = [evaluation.parse_record(answer, triage.schema) for answer in answered]
correct = [record is not None and record["category"] == wanted[prompt[-1]["content"]] for prompt, record in zip(held, records)]
print(f"different answers: {len(set(answered))} of {len(answered)}; the most frequent: {max(set(answered), key=answered.count)}")
print(f"category right: {evaluation.proportion(correct)}")
del trainer, model

# %% [markdown]
# The check asked for JSON and got JSON; it never asked whether the record is *true*. A verifiable reward verifies what it verifies.
#
# ## 13 · Common mistakes, live
#
# **Chosen and rejected are the same**, or a pair's prompts differ, or the "reference" is the base that the adapter was put into. Each
# is named before anything trains:

# %%
def message_of(rows, objective=None):
    """What training says of broken data."""
    tuned = with_adapter(start)
    try:
        training.fit(tuned, tokenizer, rows, None, objective or training.DPO(), training.Settings(max_steps=1))
        return "trained"
    except CourseError as error:
        return str(error)
    finally:
        tuned.unload()


whole = {key: mine[0]["prompt"] + [{"role": "assistant", "content": mine[0][key]}] for key in ("chosen", "rejected")}
print("1.", message_of([mine[0], {**mine[1], "rejected": mine[1]["chosen"]}]))
print("2.", message_of([mine[0], {**whole, "rejected": mine[1]["prompt"] + whole["rejected"][2:]}]))
print("3.", message_of(mine[:4], training.DPO(reference=start)))

# %% [markdown]
# **Comparing losses of different methods.** DPO begins at 0.69, ORPO at what imitation costs, PPO's can be negative. None of them says
# anything about another; held-out preferences and read answers do.
#
# ## 14 · Claims of this lesson

# %%
table = claims.table()
assert [claim.id for claim in table] == ["A1", "A2", "A3", "A4", "A5"]
table

# %% [markdown]
# ## 15 · Quiz
#
# Each choice opens to say why it is right or wrong. `quiz("04").answer(1, "b")` says the same as text.

# %%
quiz("04")

# %% [markdown]
# ## 16 · Exercises
#
# Write the body, run the cell, run the check. It tells you what is wrong; after the third try it gives a hint.

# %%
# EXERCISE: align-1

# %%
# EXERCISE: align-2

# %%
# EXERCISE: align-3

# %%
# EXERCISE: align-4

# %%
# EXERCISE: align-5

# %% [markdown]
# ## What you have seen
#
# - Four losses of a few lines each, and PPO's advantages, equal to the library's or to their definition.
# - The same pairs through every method: preference training moved the model; plain SFT on the chosen replies was a rival that
#   must be beaten before anything dearer is bought.
# - By count a token costs DPO one and a half times SFT (with LoRA; one and a third in full fine-tuning), and an example, with its
#   two replies, twice that; less where both share the prompt.
# - A reward without a leash gets hacked; a loss that falls does not say how far a model has run from where it began. The KL does.
#
# Next, lesson 05 makes the data that all of this depends on.
