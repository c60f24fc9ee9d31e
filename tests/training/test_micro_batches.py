"""On a card with its own memory, what goes through the model at once is what the predicted memory leaves room for.

The card is made up: a CPU on which so many bytes are said to be free, and the default is a GPU's.
"""

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import memory, training
from course_utils.training import footprint

DATA = [conversation(f"Message number {i}", f"Answer {i % 8} " + "word " * 40) for i in range(16)]


@pytest.fixture(autouse=True)
def only_tensors(monkeypatch):
    """Count no libraries: they take as much of a CPU's process as a hundred of these models."""
    monkeypatch.setattr(footprint, "CPU_LIBRARIES_BYTES", 0)


@pytest.fixture
def collated(monkeypatch):
    """Of each micro-batch that is made: the tokens that it may have, and its rows."""
    made, original = [], footprint.MicroBatches.collate

    def collate(self, examples):
        made.append((self.max_tokens, len(examples)))
        return original(self, examples)

    monkeypatch.setattr(footprint.MicroBatches, "collate", collate)
    return made


def run(monkeypatch, tokenizer, free, data=DATA, model=None, objective=None, **settings):
    monkeypatch.setattr(memory, "free_bytes", lambda device: free, raising=False)
    monkeypatch.setattr(footprint, "default_micro_batch_tokens", lambda device: 8192)
    settings = training.Settings(**{"learning_rate": 5e-3, "batch_size": 16, "max_steps": 3} | settings)
    return training.fit(model or with_lora(tiny_llama()), tokenizer, data, objective=objective, settings=settings)


def test_what_goes_through_the_model_at_once_fits_and_changes_nothing_else(monkeypatch, tokenizer):
    whole = run(monkeypatch, tokenizer, None)
    assert whole.memory.rows == 16
    free = int(whole.memory.predicted * 0.6)
    cut = run(monkeypatch, tokenizer, free)
    assert cut.memory.predicted < free
    assert 2 <= cut.memory.rows < 16
    assert run(monkeypatch, tokenizer, whole.memory.predicted * 2).memory.rows == 16  # and not smaller than it has to be
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    assert not cut.notes


def test_a_number_in_the_settings_is_kept(monkeypatch, tokenizer):
    with pytest.warns(UserWarning, match="hardly fit"):
        history = run(monkeypatch, tokenizer, 1_000_000, micro_batch_tokens=4096)
    assert history.memory.rows == 16


def test_what_cannot_fit_is_said_before_the_run(monkeypatch, tokenizer):
    with pytest.warns(UserWarning, match=r"hardly fit into the 0\.0 GB that are free: memory on top of the model"):
        history = run(monkeypatch, tokenizer, 1_000_000)
    assert history.memory.rows == 1
    assert len(history.losses) == 3  # a prediction is no proof


def test_a_run_that_cannot_be_predicted_begins_with_care(monkeypatch, tokenizer, collated):
    model = with_lora(tiny_llama(), dropout=0.1)
    history = run(monkeypatch, tokenizer, 10**12, DATA[:4], model, max_steps=1)
    assert history.memory.predicted is None
    assert {tokens for tokens, _ in collated} == {2048}


def test_a_resumed_run_adds_in_the_same_order(monkeypatch, tokenizer, tmp_path, collated):
    """It may find more memory free than when it began; bit for bit, the weights depend on how batches are cut."""
    free = int(run(monkeypatch, tokenizer, None).memory.predicted * 0.6)

    class Stopped(Exception):
        pass

    def stop(step, total, history):
        if step == 2:
            raise Stopped

    settings = training.Settings(
        learning_rate=5e-3, batch_size=16, max_steps=3, checkpoint_folder=tmp_path, checkpoint_every=1
    )
    monkeypatch.setattr(memory, "free_bytes", lambda device: free, raising=False)
    collated.clear()
    with pytest.raises(Stopped):
        training.fit(with_lora(tiny_llama()), tokenizer, DATA, settings=settings, on_step=stop)
    first = max(rows for _, rows in collated)
    collated.clear()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    with pytest.warns(UserWarning, match="resumed"):
        training.fit(with_lora(tiny_llama()), tokenizer, DATA, settings=settings)
    assert 1 < first < 16
    assert max(rows for _, rows in collated) == first
