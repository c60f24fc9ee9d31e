"""Several processes give the batch they stand for, and every example its turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("a_run.py")


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
