"""Losses and gradients on the same batch, in float32: TRL's trainers make the batch, their loss and ours are compared.

The token ids are taken from TRL's batch, since templates put a newline after the stop token which TRL scores and ours does
not; that ours is TRL's encoding but for this newline is asserted too.
"""

from dataclasses import replace

import pytest
from packaging.version import Version
from support import conversation, tiny_llama, with_lora

from benchmarks import objectives
from course_utils import training
from course_utils.batching import Encoded
from course_utils.scoring import completion_log_probabilities, sum_by_completion, token_log_probabilities
from course_utils.training.fused import fused
from course_utils.training.settings import FUSED

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

PROMPTS = ["Where is my parcel?", "Is it blue?", "The kettle leaks and the floor is wet, what now?"]
CHOSEN = ["On its way", "It is blue, yes", "Sorry! We send you a new one today"]
REJECTED = ["I do not know and I will not look", "No", "Mop it"]
PAIRS = [
    {
        "prompt": conversation(prompt)[:2],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED)
]
PAD = 0  # not the stop token, so that transformers' own search for the last token finds it


@pytest.fixture
def tokenizer():
    """A fresh one, since trainers change it."""
    from transformers import AutoTokenizer

    from course_utils import models

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD)
    return tokenizer


def arguments(kind, folder, **more):
    """A trainer's configuration: CPU, float32, all rows in one batch."""
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": 3, "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "report_to": "none", "max_length": 512,
    }  # fmt: skip
    return kind(**(settings | more))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert any(gradient.norm() > 0 for gradient in found.values())
    return found


def assert_equal(objective, model, encoded, theirs, theirs_gradients, rel=1e-5):
    for share_prompt in (True, False):
        for functions in ((), FUSED):
            with fused(model, functions):
                batch = objective.collate(encoded, PAD, share_prompt)
                loss = objective.loss(model, batch, objective.normalizers(encoded)).value
                ours = gradients(model, loss)
            assert loss.item() == pytest.approx(theirs.item(), rel=rel)
            assert ours.keys() == theirs_gradients.keys()
            for name, gradient in theirs_gradients.items():
                assert (gradient - ours[name]).norm() <= rel * gradient.norm() + 1e-9, name


def split(whole, start):
    return Encoded(whole[:start], [whole[start:]])


def without_newline(encoded, tokenizer):
    """TRL's completions end with the stop token and a newline; ours with the stop token."""
    return [replace(e, completions=[c[: c.index(tokenizer.eos_token_id) + 1] for c in e.completions]) for e in encoded]


def same_encoding(objective, tokenizer, rows, from_theirs):
    ours = [objective.encode(tokenizer, row, 512, "train") for row in rows]
    key = lambda e: (e.prompt, e.completions)
    assert sorted(map(key, ours)) == sorted(map(key, without_newline(from_theirs, tokenizer)))


def nudge(model, scale=0.05):
    """Move the adapter away from where it does nothing, so that policy and reference differ."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def test_sft(tokenizer, tmp_path):
    data = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    trainer = trl.SFTTrainer(
        model=with_lora(tiny_llama()),
        args=arguments(trl.SFTConfig, tmp_path),
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"]):
        start = int((labels[mask == 1] != -100).nonzero()[0])
        encoded.append(split(ids[mask == 1].tolist(), start))
    same_encoding(training.SFT(), tokenizer, [row["prompt"] + row["chosen"] for row in PAIRS], encoded)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    assert_equal(training.SFT(), trainer.model, encoded, theirs, gradients(trainer.model, theirs))


@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_dpo(tokenizer, tmp_path, sft_weight):
    import torch

    model = with_lora(tiny_llama())
    with_sft = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_weight]} if sft_weight else {}
    trainer = trl.DPOTrainer(
        model=model,
        args=arguments(trl.DPOConfig, tmp_path, beta=0.3, **with_sft),
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = []
    half = len(batch["input_ids"]) // 2
    for i in range(half):
        both = []
        for row in (i, half + i):
            ids = batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()
            start = len(ids) - int(batch["completion_mask"][row].sum())
            both.append((ids[:start], ids[start:]))
        assert both[0][0] == both[1][0]
        encoded.append(Encoded(both[0][0], [both[0][1], both[1][1]]))
    objective = training.DPO(beta=0.3, sft_weight=sft_weight)
    same_encoding(objective, tokenizer, PAIRS, encoded)
    # The reference is the policy as it is now; then the policy moves.
    with torch.no_grad():
        made = objectives.ORPO().collate(encoded, PAD)
        reference = sum_by_completion(token_log_probabilities(model, made), made).view(-1, 2)
        encoded = [replace(e, reference_log_probabilities=tuple(r)) for e, r in zip(encoded, reference.tolist())]
    nudge(model)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    assert abs(theirs.item() - 0.6931) > 1e-3
    assert_equal(objective, model, encoded, theirs, gradients(model, theirs))


def test_orpo(tokenizer, tmp_path):
    orpo = pytest.importorskip("trl.experimental.orpo")
    model = with_lora(tiny_llama())
    trainer = orpo.ORPOTrainer(
        model=model,
        args=arguments(orpo.ORPOConfig, tmp_path, beta=0.4, remove_unused_columns=False),
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = []
    for i in range(3):
        both = []
        for kind in ("chosen", "rejected"):
            ids = batch[f"{kind}_input_ids"][i][batch[f"{kind}_attention_mask"][i] == 1].tolist()
            scored = int((batch[f"{kind}_labels"][i] != -100).sum())
            both.append((ids[:-scored], ids[-scored:]))
        assert both[0][0] == both[1][0]
        encoded.append(Encoded(both[0][0], [both[0][1], both[1][1]]))
    theirs, _ = trainer.get_batch_loss_metrics(model, batch)
    objective = objectives.ORPO(beta=0.4, score_prompt=True)
    assert_equal(objective, model, encoded, theirs, gradients(model, theirs))
    # The formula of the paper scores the completion alone, which is another loss.
    other = objectives.ORPO(beta=0.4)
    loss = other.loss(model, other.collate(encoded, PAD), other.normalizers(encoded)).value
    assert abs(loss.item() - theirs.item()) > 1e-3


@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_reward(tokenizer, tmp_path, centre):
    import torch
    from transformers import LlamaForSequenceClassification

    config = tiny_llama().config
    config.num_labels, config.pad_token_id = 1, PAD
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    trainer = trl.RewardTrainer(
        model=model,
        args=arguments(trl.RewardConfig, tmp_path, center_rewards_coefficient=centre or None),
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    lists = [ids[mask == 1].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]
    encoded = []
    for chosen, rejected in zip(lists[:3], lists[3:]):
        start = next(i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b)
        encoded.append(Encoded(chosen[:start], [chosen[start:], rejected[start:]]))
    theirs = trainer.compute_loss(model, dict(batch))
    assert_equal(objectives.Reward(centre=centre), model, encoded, theirs, gradients(model, theirs))


@pytest.mark.skipif(Version(trl.__version__) < Version("1.0"), reason="before 1.0 TRL's KTO batch is another one")
@pytest.mark.parametrize(("scale", "is_positive"), [(-0.05, True), (0.05, False)], ids=["positive", "clamped at zero"])
def test_kto(tokenizer, tmp_path, scale, is_positive):
    """The batch goes through ours in micro-batches of two and one, whose divergence must be that of all three."""
    import torch

    data = [
        {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
        for row, key in zip(PAIRS, ("chosen", "rejected", "chosen"))
    ]
    model = with_lora(tiny_llama())
    trainer = trl.KTOTrainer(
        model=model,
        args=arguments(
            trl.KTOConfig, tmp_path, beta=0.3, desirable_weight=1.5, undesirable_weight=0.7,
            train_sampling_strategy="sequential",
        ),
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    encoded = []
    for i in range(len(data)):
        prompt_and_completion = []
        for prefix in ("", "KL_"):
            ids = batch[f"{prefix}input_ids"][i][batch[f"{prefix}attention_mask"][i] == 1].tolist()
            start = len(ids) - int(batch[f"{prefix}completion_mask"][i].sum())
            prompt_and_completion.append((ids[:start], ids[start:]))
        (prompt, completion), (same_prompt, mismatched) = prompt_and_completion
        assert prompt == same_prompt
        label = {"desirable": float(batch["label"][i])}
        encoded.append(Encoded(prompt, [completion, mismatched], example_values=label))
    objective = objectives.KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    ours = objective.prepare([objective.encode(tokenizer, row, 512, "train") for row in data])
    key = lambda e: (e.prompt, e.completions, e.example_values)
    assert list(map(key, ours)) == list(map(key, without_newline(encoded, tokenizer)))

    make_batch = lambda examples: objective.collate(examples, PAD)
    # The reference is the policy as it is now, with its adapter; then the policy moves.
    reference = completion_log_probabilities(model, [encoded], make_batch)
    encoded = [replace(e, reference_log_probabilities=reference[id(e)]) for e in encoded]
    nudge(model, scale)
    theirs = trainer.compute_loss(model, dict(batch))
    totals, cut = objective.normalizers(encoded), [encoded[:2], encoded[2:]]
    with torch.no_grad():
        parts = [objective.statistics(model, make_batch(part), totals) for part in cut]
    divergence = sum(float(part["kl"]) for part in parts)
    assert abs(divergence) > 0.01 and (divergence > 0) == is_positive
    totals = {**totals, "kl": divergence}
    loss = sum(objective.loss(model, make_batch(part), totals).value for part in cut)
    found = gradients(model, loss)
    expected = gradients(model, theirs)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, gradient in expected.items():
        assert (gradient - found[name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name
