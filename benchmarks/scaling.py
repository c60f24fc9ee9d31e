"""How time and memory of `training.fit` grow with sequence length, batch size and data size.

    python benchmarks/scaling.py

Each point is one short run on the packaged model; the exponent is the slope of log time against log size between the two
largest points: 1 is linear. The time for attention grows with the square of the length.
"""

from __future__ import annotations

import math
import statistics

from common import MemoryAdded, picture, write_results
from course_utils import charts, memory, models, training
from course_utils.batching import Encoded

import torch


class Ready(training.SFT):
    """SFT on examples that are already token ids."""

    def encode(self, tokenizer, example, max_length, where):
        """Return the example unchanged."""
        return example


def examples(count: int, length: int) -> list[Encoded]:
    """Examples of random tokens; the first half of each is the prompt."""
    token_ids = torch.randint(100, 40_000, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    return [Encoded(ids[: length // 2], [ids[length // 2 :]]) for ids in token_ids]


def measure(count: int, length: int, batch: int) -> dict:
    """Mean seconds per step, seconds of the whole run, and memory on top of the model."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(batch_size=batch, max_length=4096, micro_batch_tokens=1 << 20)  # the whole batch at once
    memory.release()
    with MemoryAdded() as added:
        history = training.fit(model, tokenizer, examples(count, length), objective=Ready(), settings=settings)
    steps = len(history.steps)
    return {"seconds_a_step": history.seconds / steps, "seconds": history.seconds, "mb": added.bytes / 1e6}


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope between the two largest sizes."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


if __name__ == "__main__":
    measure(4, 64, 4)  # warm up
    results: dict[str, dict] = {}
    for axis, sizes, run in (
        ("sequence length", [64, 128, 256, 512, 1024], lambda n: measure(4, n, 2)),
        ("batch size", [1, 2, 4, 8, 16], lambda n: measure(2 * n, 128, n)),
        ("examples", [8, 16, 32, 64], lambda n: measure(n, 96, 4)),
    ):
        points = [run(size) for size in sizes]
        times = [p["seconds" if axis == "examples" else "seconds_a_step"] for p in points]
        results[axis] = {"sizes": sizes, "points": points, "exponent": exponent(sizes, times),
                       "memory_exponent": exponent(sizes, [p["mb"] for p in points])}  # fmt: skip
        print(axis, results[axis], flush=True)
        charts.lines(
            {"relative time": (sizes, [t / times[0] for t in times]),
             "relative memory": (sizes, [p["mb"] / statistics.fmean(q["mb"] for q in points[:1]) for p in points]),
             "linear": (sizes, [s / sizes[0] for s in sizes])},
            f"Cost against {axis}", axis, "times the smallest", log_x=sizes,
        ).save(picture(f"scaling-{axis.replace(' ', '-')}"))  # fmt: skip
    write_results("scaling", results)
