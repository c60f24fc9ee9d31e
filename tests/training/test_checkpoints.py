"""Resumed runs end with the very bytes of uninterrupted ones; damage is noticed; trouble with the drive costs no run."""

import errno
import json
import os
import shutil
import subprocess
import sys

import kill
import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import training
from course_utils.errors import CourseError
from course_utils.training import checkpoints as room
from course_utils.training import trainer

DATA = [conversation(f"Message number {i} about {'things ' * (i % 5)}", f"Answer {i % 3}") for i in range(13)]
PAIRS = [{"prompt": f"Question {i}", "chosen": f"Yes, number {i}", "rejected": "No"} for i in range(7)]


def run(tokenizer, folder, data=DATA, objective=None, validation=None, **settings):
    defaults = {"learning_rate": 5e-3, "batch_size": 4, "epochs": 3, "checkpoint_every": 2, "checkpoint_folder": folder}
    model = with_lora(tiny_llama(), random_b=False, dropout=0.2)
    history = training.fit(model, tokenizer, data, validation, objective, training.Settings(**(defaults | settings)))
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, history


class Stopped(Exception):
    """Stands for whatever ends a process."""


def stop_after(monkeypatch, steps):
    """Let the run die in the step after `steps`."""
    original = trainer.Trainer._one_step

    def dying(self, *arguments):
        if self.step == steps:
            raise Stopped
        original(self, *arguments)

    monkeypatch.setattr(trainer.Trainer, "_one_step", dying)


@pytest.fixture(scope="module")
def whole(packaged, tmp_path_factory):
    """Weights and checkpoints of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return run(packaged[1], folder)[0], folder


@pytest.fixture
def ended(whole, tmp_path):
    """The weights, and a copy of the checkpoints that may be damaged."""
    return whole[0], shutil.copytree(whole[1], tmp_path / "checkpoints")


def same(first, second):
    return bool(first) and first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("objective", "data", "validation", "steps"),
    [(training.SFT(), DATA, DATA[:3], 3), (training.DPO(), PAIRS, PAIRS[:2], 4)],
    ids=["sft", "dpo"],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tokenizer, tmp_path, monkeypatch, objective, data, validation, steps):
    """Bit for bit: weights, losses and metrics, with dropout, in the middle of an epoch and between two saves."""
    more = {"batch_size": 2, "evaluate_every": 2}
    whole, history = run(tokenizer, None, data, objective, validation, **more)
    with monkeypatch.context() as patched:
        stop_after(patched, steps)
        with pytest.raises(Stopped):
            run(tokenizer, tmp_path, data, objective, validation, **more)
    with pytest.warns(UserWarning, match=f"resumed after step {steps // 2 * 2}"):
        resumed, again = run(tokenizer, tmp_path, data, objective, validation, **more)
    assert same(whole, resumed)
    assert history.losses == again.losses
    assert history.validation_losses == again.validation_losses
    assert json.dumps(history.metrics) == json.dumps(again.metrics)
    assert again.tokens == history.tokens


def test_a_run_that_has_ended_is_not_run_again(tokenizer, ended):
    first, folder = ended
    with pytest.warns(UserWarning, match="resumed after step 12"):
        second, history = run(tokenizer, folder)
    assert same(first, second)
    assert len(history.losses) == 12
    assert sorted(checkpoint.name for checkpoint in folder.iterdir()) == [
        "checkpoint-000010",
        "checkpoint-000012",
    ]  # the last two


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", "truncated"),
        ("weights.safetensors", "flipped"),
        ("state.pt", "flipped"),
        ("record.json", "truncated"),
        ("record.json", "missing"),
        ("manifest.json", "missing"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tokenizer, ended, name, damage):
    whole, folder = ended
    newest = max(folder.glob("checkpoint-*"))
    file = newest / name
    if damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged .* falling back to the one before"):
        resumed, history = run(tokenizer, folder)
    assert any("resumed after step 10" in note for note in history.notes)
    assert same(whole, resumed)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, "settings"),
        ({"data": DATA[:12]}, "data"),
        ({"objective": training.DPO(), "data": PAIRS}, "objective"),
    ],
)
def test_checkpoints_of_another_run_are_refused(tokenizer, whole, change, named):
    with pytest.raises(CourseError, match=rf"holds checkpoints of another run \(its .*{named}.*choose another"):
        run(tokenizer, whole[1], **change)


def test_a_full_drive_costs_the_checkpoint_and_not_the_run(tokenizer, whole, tmp_path, monkeypatch):
    """As a mounted drive over its quota: writing begins and fails."""
    undisturbed, _ = whole
    write, calls = room.to_disk, []

    def full(path):
        calls.append(path)
        if len(calls) > 8:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        write(path)

    monkeypatch.setattr(room, "to_disk", full)
    with pytest.warns(UserWarning, match="could not be written .*Disk quota exceeded.*training goes on"):
        weights, history = run(tokenizer, tmp_path)
    assert same(undisturbed, weights)
    assert any("could not be written" in note for note in history.notes)
    assert not list(tmp_path.glob(".partial-*"))
    monkeypatch.undo()
    assert same(undisturbed, run(tokenizer, tmp_path)[0])  # and what was whole before is still used


@pytest.mark.slow
def test_a_disk_that_is_really_full(tokenizer, tmp_path):
    """A file system with room for one checkpoint and a half, in a namespace of its own."""
    script = (
        f"mount -t tmpfs -o size=160k tmpfs {tmp_path} && "
        f"{sys.executable} {kill.SCRIPT} {{out}} batch_size=2 epochs=2 checkpoint_every=2 checkpoint_folder={tmp_path}"
    )
    out = tmp_path.with_name(f"{tmp_path.name}-out")
    out.mkdir()
    done = subprocess.run(["unshare", "-m", "sh", "-c", script.format(out=out)], capture_output=True, text=True)
    if "ermission" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("needs the right to mount")
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stderr
    assert (out / "done").exists()
    shutil.rmtree(out)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(tmp_path):
    """Short form of `make soak`'s twenty kills: one during a save, one at a random moment."""
    whole = kill.uninterrupted(tmp_path)
    assert set(whole) == {"adapter_config.json", "adapter_model.safetensors"}
    files, during_save, resumed = kill.killed(tmp_path, times=2, seed=0)
    assert resumed == 2
    assert during_save >= 1
    assert files == whole


def test_a_run_on_two_cards_resumes_on_one(monkeypatch):
    """Each process computes on one card and keeps that card's state alone; older checkpoints have the states of all."""
    import torch

    cards = [torch.full((16,), 1, dtype=torch.uint8), torch.full((16,), 2, dtype=torch.uint8)]

    def set_state(state, device=None):
        cards[0] = state

    def set_all(states):
        for index, state in enumerate(states):
            cards[index] = state  # IndexError where the card is missing, as in torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(cards))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: cards[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all)
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_state)
    states = room.random_states()
    older = states | {"cuda": list(cards)}
    for saved in (states, older):
        cards[:] = [torch.zeros(16, dtype=torch.uint8)]
        room.restore_random_states(saved)
        assert cards[0].tolist() == [1] * 16
