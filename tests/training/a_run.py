"""A small training run as a process of its own, to be killed, resumed and launched several times at once.

    python a_run.py OUT [name=value of Settings ...]

Writes OUT/adapter (PEFT's files), OUT/seen.json (examples in the order they were trained on, this process's) and OUT/done.
"""

import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
warnings.filterwarnings("ignore", category=FutureWarning)

from support import conversation, tiny_llama, with_lora  # noqa: E402

from course_utils import models, training  # noqa: E402

DATA = [conversation(f"Message number {i} about {'things ' * (i % 5)}", f"Answer {i}") for i in range(13)]


class Watched(training.SFT):
    """SFT that notes which examples went through with gradient."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "seen", [])

    def loss(self, model, batch, totals):
        import torch

        if torch.is_grad_enabled():
            completion, labels = batch["completion"], batch["label"]
            self.seen.append([labels[completion == number].tolist() for number in range(batch["sequences"])])
        return super().loss(model, batch, totals)


def main(out: Path, **settings) -> None:
    """Train and write the results."""
    import os

    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    model = with_lora(tiny_llama(), dropout=0.1 if settings.pop("dropout", True) else 0.0, random_b=False)
    objective = Watched()
    history = training.fit(model, tokenizer, DATA, DATA[:3], objective, training.Settings(**settings))
    rank = os.environ.get("RANK", "0")
    (out / f"seen-{rank}.json").write_text(json.dumps(objective.seen))
    if rank == "0":
        model.save_pretrained(out / "adapter")
        (out / "history.json").write_text(json.dumps(history.as_dict()))
        (out / "done").touch()


if __name__ == "__main__":
    pairs = dict(argument.split("=", 1) for argument in sys.argv[2:])
    main(
        Path(sys.argv[1]),
        **{name: value if name == "checkpoint_folder" else json.loads(value) for name, value in pairs.items()},
    )
