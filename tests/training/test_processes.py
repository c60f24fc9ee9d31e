"""Accumulation and several processes give the batch they stand for, and every example its turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_llama, with_lora

from course_utils import training

SCRIPT = Path(__file__).with_name("a_run.py")
TEN = {"learning_rate": 5e-3, "max_steps": 8, "seed": 1}


@pytest.mark.parametrize("objective", [training.SFT(), training.DPO()], ids=lambda objective: objective.name)
def test_accumulation_of_4_batches_of_2_equals_a_batch_of_8(packaged, objective):
    texts = [f"Answer number {i} " + "and more " * (i % 4) for i in range(21)]
    rows = [{"prompt": f"Question {i}", "chosen": text, "rejected": "No."} for i, text in enumerate(texts)]
    if objective.name == "sft":
        rows = [[{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["chosen"]}] for r in rows]
    found = []
    for settings in ({"batch_size": 8}, {"batch_size": 2, "gradient_accumulation_steps": 4}):
        model = with_lora(tiny_llama(), random_b=False)
        history = training.fit(model, packaged[1], rows, objective=objective, settings=training.Settings(**TEN, **settings))
        found.append((history, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}))
    (one, weights), (other, accumulated) = found
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    assert one.grad_norms == pytest.approx(other.grad_norms, rel=1e-3)
    for name, weight in weights.items():
        assert (weight - accumulated[name]).abs().max() < 2e-4, name  # Adam blows up rounding where gradients are near 0


def launch(folder, processes, *settings):
    folder.mkdir()
    command = [sys.executable, str(SCRIPT)]
    if processes > 1:
        # --multi_gpu is what starts processes; on a CPU they talk through gloo (`--cpu` would want MPI).
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", f"--num_processes={processes}"]
        command = [sys.executable, *launcher, "--mixed_precision=no", "--dynamo_backend=no", str(SCRIPT)]
    done = subprocess.run([*command, str(folder), "dropout=false", *settings], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(file.read_text()) for file in sorted(folder.glob("seen-*.json"))]
    return json.loads((folder / "history.json").read_text()), seen, folder / "adapter" / "adapter_model.safetensors"


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    """13 examples in batches of 2 x 2 and of 4: the last batch has one example, so one process has nothing to do."""
    from safetensors.torch import load_file

    more = ["epochs=2", "learning_rate=0.005", "evaluate_every=3"]
    one, seen_by_one, adapter_one = launch(tmp_path / "one", 1, "batch_size=4", *more)
    two, seen_by_two, adapter_two = launch(tmp_path / "two", 2, "batch_size=2", *more)
    assert len(seen_by_two) == 2
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-5)
    assert one["validation_losses"] == pytest.approx(two["validation_losses"], rel=1e-5)
    assert (one["tokens"], one["scored_tokens"]) == (two["tokens"], two["scored_tokens"])
    first, second = load_file(adapter_one), load_file(adapter_two)
    assert first and first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().max() < 2e-4, name

    def completions(processes):
        return sorted(tuple(ids) for process in processes for piece in process for ids in piece)

    once = completions(seen_by_one)
    assert len(once) == 2 * len(set(once)) == 2 * 13  # each once an epoch
    twice = completions(seen_by_two)
    # One process had nothing of the 13th example; it went through there too, and counted nothing.
    assert len(twice) == len(once) + 2
    assert set(twice) == set(once)
