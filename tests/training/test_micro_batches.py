"""Where memory runs out, a step is computed anew in smaller micro-batches, and nothing else changes.

The card is made up: a CPU that refuses to compute the loss of more than so many tokens, and whose default is a GPU's.
"""

import weakref
from types import SimpleNamespace

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import training
from course_utils.errors import OutOfMemory
from course_utils.training import trainer

DATA = [conversation(f"Message number {i}", f"Answer {i % 8} " + "word " * (20 + i)) for i in range(16)]
PAIRS = [{"prompt": f"Question {i}", "chosen": "Yes " * 20, "rejected": "No " * (10 + i)} for i in range(8)]


@pytest.fixture
def card(monkeypatch):
    """It takes `tokens` at once, and notes the sizes of what it has `computed` and what it has `refused`."""
    import torch

    card = SimpleNamespace(tokens=10**9, computed=[], refused=[])
    original = trainer.Trainer._collate

    def collate(self, examples):
        batch = original(self, examples)
        if batch["input_ids"].numel() > card.tokens:
            assert not [reference for reference in card.refused if reference()], "what was refused is still in memory"
            card.refused.append(weakref.ref(batch["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        card.computed.append(tuple(batch["input_ids"].shape))
        return batch

    monkeypatch.setattr(trainer.Trainer, "_collate", collate)
    monkeypatch.setattr(trainer, "default_micro_batch_tokens", lambda device: 8192)
    return card


def run(tokenizer, data=DATA, validation=None, objective=None, **settings):
    settings = training.Settings(**{"learning_rate": 5e-3, "batch_size": 16, "max_steps": 3} | settings)
    return training.fit(with_lora(tiny_llama()), tokenizer, data, validation, objective, settings)


@pytest.mark.parametrize(
    ("data", "objective"), [(DATA, training.SFT()), (PAIRS, training.DPO())], ids=["sft", "dpo: reference too"]
)
def test_what_goes_through_the_model_at_once_fits_and_changes_nothing_else(card, tokenizer, data, objective):
    """The longest micro-batch comes last, when the step has gradients already: they must not count twice."""
    whole = run(tokenizer, data, data[:6], objective)
    most = max(rows * length for rows, length in card.computed)
    card.computed.clear()
    card.tokens = int(0.6 * most)
    with pytest.warns(UserWarning, match="memory ran out with"):
        cut = run(tokenizer, data, data[:6], objective)
    assert max(rows * length for rows, length in card.computed) <= card.tokens
    assert len(card.refused) == 1  # and not tried again in each step
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    assert cut.grad_norms == pytest.approx(whole.grad_norms, rel=1e-3)
    assert cut.validation_losses == pytest.approx(whole.validation_losses, rel=1e-5)
    assert cut.tokens == whole.tokens


def test_a_number_in_the_settings_is_kept(card, tokenizer):
    card.tokens = 100
    with pytest.raises(OutOfMemory, match=r"with \d,\d+ tokens at once; lower Settings\(micro_batch_tokens=4096\)"):
        run(tokenizer, micro_batch_tokens=4096)
    assert len(card.refused) == 1


def test_an_example_that_is_too_long_by_itself_is_said(card, tokenizer):
    card.tokens = 10
    with pytest.warns(UserWarning), pytest.raises(OutOfMemory, match="lower Settings\\(max_length=1024\\)"):
        run(tokenizer)


def test_a_resumed_run_adds_in_the_same_order(card, tokenizer, tmp_path):
    """It may find more memory than when it began; bit for bit, the weights depend on how batches are cut."""

    class Stopped(Exception):
        pass

    def stop(step, total, history):
        if step == 2:
            raise Stopped

    settings = training.Settings(batch_size=16, max_steps=3, checkpoint_folder=tmp_path, checkpoint_every=1)
    card.tokens = 800
    with pytest.warns(UserWarning, match="ran out"), pytest.raises(Stopped):
        training.fit(with_lora(tiny_llama()), tokenizer, DATA, settings=settings, on_step=stop)
    first = max(rows for rows, _ in card.computed)
    card.computed.clear()
    card.tokens = 10**9
    with pytest.warns(UserWarning, match="resumed"):
        training.fit(with_lora(tiny_llama()), tokenizer, DATA, settings=settings)
    assert 1 < first < 16
    assert max(rows for rows, _ in card.computed) == first
