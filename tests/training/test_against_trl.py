"""Losses and gradients on the same batch, in float32: TRL's trainers make the batch, their loss and ours are compared.

The token ids are taken from TRL's batch, since templates put a newline after the stop token which TRL scores and ours does
not; that ours is TRL's encoding but for this newline is asserted too.
"""

from dataclasses import replace

import pytest
from support import PAIRS, nudge, tiny_llama, trl_arguments, trl_tokenizer, with_lora

from benchmarks import objectives
from course_utils import training
from course_utils.batching import Encoded
from course_utils.scoring import sum_by_completion, token_log_probabilities
from course_utils.training.fused import fused
from course_utils.training.settings import FUSED

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
PAD = 0  # "<|endoftext|>"


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


def test_sft(tmp_path):
    tokenizer = trl_tokenizer()
    data = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    trainer = trl.SFTTrainer(
        model=with_lora(tiny_llama()),
        args=trl_arguments(trl.SFTConfig, tmp_path),
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
def test_dpo(tmp_path, sft_weight):
    import torch

    tokenizer = trl_tokenizer()
    model = with_lora(tiny_llama())
    with_sft = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_weight]} if sft_weight else {}
    trainer = trl.DPOTrainer(
        model=model,
        args=trl_arguments(trl.DPOConfig, tmp_path, beta=0.3, **with_sft),
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


def test_orpo(tmp_path):
    tokenizer = trl_tokenizer()
    orpo = pytest.importorskip("trl.experimental.orpo")
    model = with_lora(tiny_llama())
    trainer = orpo.ORPOTrainer(
        model=model,
        args=trl_arguments(orpo.ORPOConfig, tmp_path, beta=0.4, remove_unused_columns=False),
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
