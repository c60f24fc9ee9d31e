"""Models of true size without their weights, and notes on what a training step took, where operations are skipped.

`sitecustomize` loads this file in every process whose environment has COURSE_SIMULATED_GPU_SKIP_FROM, and calls the
function of `AFTER` once a module is loaded. Files of weights are sparse: a header that says what is in them, and holes that
take no room on the disk and read as zeros. So all code that saves and loads models is the libraries' own.

Memory is decided by the longest examples, so only these are trained on and answered: the worst batches that any order of the
examples can bring, in minutes.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STEPS = "COURSE_SIMULATED_GPU_STEPS"  # a file; each training run appends a line of JSON
SMALLEST_HOLE = 1 << 20
ANSWER = 4  # tokens that are generated; for all others there is memory from the second token on
BATCHES = 3  # of the longest examples, in each run; the first step makes the optimizer's state
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8", "int8": "I8", "int64": "I64", "bool": "BOOL"}


def write_sparse(tensors: Mapping[str, torch.Tensor], file: str | os.PathLike[str], metadata: dict | None = None) -> None:
    """Write a safetensors file as `safetensors.torch.save_file` does, with holes for large tensors and for those on meta."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end, small = 0, []
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        kind = NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        if 0 < size < SMALLEST_HOLE and tensor.device.type != "meta":
            small.append((end, tensor))
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(file).open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for start, tensor in small:
            import torch

            opened.seek(8 + len(text) + start)
            opened.write(bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
        opened.truncate(8 + len(text) + end)


def _save_sparse(module: types.ModuleType) -> None:
    module.save_file = write_sparse  # type: ignore[attr-defined]


def _note(**values: object) -> None:
    if os.environ.get(STEPS):
        with Path(os.environ[STEPS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "process": " ".join(sys.orig_argv[1:])[:60], **values}) + "\n")


def _longest(rows: Any, count: int) -> list[int]:
    """The places of the longest rows, in their order."""

    def size(i: int) -> int:
        row = rows[i]
        return len(row["input_ids"]) if isinstance(row, Mapping) and "input_ids" in row else len(str(row))

    return sorted(sorted(range(len(rows)), key=size)[-count:])


def _fit_longest(module: types.ModuleType) -> None:
    """The course's loop on the longest examples, and the peak."""
    train = module.Trainer.train

    def train_longest(self: Any, rows: Any, validation: Any) -> Any:
        import torch

        count = BATCHES * self.settings.batch_size
        adapted = "qlora" if module.quantization.four_bit_layers(self.model) else "lora"
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        history = train(self, [rows[i] for i in _longest(rows, count)], validation)
        _note(
            loop="course",
            method=adapted if hasattr(self.model, "peft_config") else "full",
            examples=self.latest[0],
            tokens=self.latest[1],
            counted=torch.cuda.max_memory_allocated() - start,
        )
        return history

    module.Trainer.train = train_longest


def _answer_longest(module: types.ModuleType) -> None:
    complete = module.complete

    def complete_longest(model: Any, tokenizer: Any, prompts: Any, max_new_tokens: int, *more: Any, **options: Any) -> Any:
        batch_size = more[2] if len(more) > 2 else options.get("batch_size", 25)
        chosen = _longest([{"input_ids": ids} for ids in prompts], batch_size)
        answers = complete(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, *more, **options)
        return [answers[0]] * len(prompts)  # all are the same: no number has been computed

    module.complete = complete_longest


def _answer_shortly(module: types.ModuleType) -> None:
    """Generate the first tokens, and hold the memory of the cache of all others meanwhile."""
    generate = module.GenerationMixin.generate

    def generate_shortly(self: Any, *args: Any, **options: Any) -> Any:
        import torch

        more = (options.get("max_new_tokens") or 0) - ANSWER
        if more <= 0 or options.get("return_dict_in_generate"):
            return generate(self, *args, **options)
        options |= {name: ANSWER for name in ("max_new_tokens", "min_new_tokens") if name in options}
        config, held = self.config, []
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_layer = 2 * config.num_key_value_heads * width * self.dtype.itemsize
        layers = config.num_hidden_layers + 1  # one layer's cache is there twice while it grows

        def hold(_: Any, args: Any, inputs: Mapping[str, Any]) -> None:
            ids = inputs["input_ids"] if "input_ids" in inputs else args[0]
            if ids is not None and ids.shape[1] == 1 and not held:
                held.append(torch.empty(len(ids) * more * layers * per_layer, dtype=torch.uint8, device=ids.device))

        hook = self.register_forward_pre_hook(hold, with_kwargs=True)
        try:
            found = generate(self, *args, **options)
        finally:
            hook.remove()
        return torch.cat([found, found.new_zeros(len(found), more)], dim=1)

    module.GenerationMixin.generate = generate_shortly


def _train_longest(module: types.ModuleType) -> None:
    """Transformers' trainer, on which TRL's stand, on the longest examples."""
    initialize = module.Trainer.__init__

    def with_longest(self: Any, *args: Any, **options: Any) -> None:
        settings, rows = options.get("args"), options.get("train_dataset")
        if rows is not None and settings is not None:
            count = BATCHES * settings.per_device_train_batch_size * settings.gradient_accumulation_steps
            options["train_dataset"] = rows.select(_longest(rows, count))
        initialize(self, *args, **options)

    module.Trainer.__init__ = with_longest


AFTER: dict[str, Callable[[types.ModuleType], None]] = {
    "safetensors.torch": _save_sparse,
    "transformers.generation.utils": _answer_shortly,
    "course_utils.generation": _answer_longest,
    "course_utils.training.trainer": _fit_longest,
    "transformers.trainer": _train_longest,
}
