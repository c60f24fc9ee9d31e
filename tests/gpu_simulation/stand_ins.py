"""Small models of random weights under the names of the GPU tiers' models, laid out as the hub's cache is.

    python -m tests.gpu_simulation.stand_ins FOLDER      then HF_HOME=FOLDER and HF_HUB_OFFLINE=1

Everything that code may depend on is the real model's: architecture, number of blocks, tied weights, grouped heads, factors,
special tokens, what the generation settings contain, what the chat template makes of texts. Only the widths are small, and
the words of the vocabulary are the packaged model's.

With `--true-size float16` the widths are the real models' too, and the weights, in that format, are holes in sparse files
(`true_size`): 15 GB that take no room.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .true_size import write_sparse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDTH = 64
HEAD = 16
# What Granite's template writes for texts, without tools and documents.
GRANITE_TEMPLATE = (
    "{% for message in messages %}"
    r"{{ '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content + '<|end_of_text|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)


def make(folder: Path, true_size: str | None = None) -> None:
    """Write the models of both tiers into FOLDER/hub.

    Args:
        folder: where.
        true_size: None for small models; the number format, "float16" or "bfloat16", of models as large as the real ones.
    """
    import torch
    import transformers

    from course_utils import models
    from course_utils.memory.shape import ARCHITECTURES

    for tier in ("t4", "a100"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
        if tier == "a100":
            _as_granite(tokenizer)
        token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        name = models.TIERS[tier].name
        real = dict(ARCHITECTURES[name.split("/")[1].removesuffix("-Instruct")])
        heads = WIDTH // HEAD
        small = {
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_attention_heads": heads,
            "num_key_value_heads": heads if real["num_key_value_heads"] == real["num_attention_heads"] else heads // 2,
            "vocab_size": len(tokenizer),
        }
        if tier == "a100":
            small["initializer_range"] = 0.3  # of smaller random weights, those of the embedding decide: it repeats a marker
        config = transformers.AutoConfig.for_model(
            **real | ({} if true_size else small) | {"max_position_embeddings": 8192} | token_ids
        )
        target = folder / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
        torch.manual_seed(0)
        with torch.device("meta" if true_size else "cpu"):
            dtype = getattr(torch, true_size or "bfloat16")
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        # token 0, which is what logits of zero give, ends no answer: those of models of true size are as long as they may be
        model.generation_config = transformers.GenerationConfig(**token_ids)
        if true_size:
            target.mkdir(parents=True)
            model.config.save_pretrained(target)
            model.generation_config.save_pretrained(target)
            tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
            weights = {name: weight for name, weight in model.state_dict().items() if name not in tied}
            write_sparse(weights, target / "model.safetensors", {"format": "pt"})
        else:
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        references = target.parents[1] / "refs"
        references.mkdir(exist_ok=True)
        (references / "main").write_text("0" * 40)


def _as_granite(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer Granite's markers and template: one token ends a message and begins a text, another one pads."""
    markers = ["<|start_of_role|>", "<|end_of_role|>"]
    tokenizer.add_special_tokens(
        {
            "bos_token": "<|end_of_text|>",
            "eos_token": "<|end_of_text|>",
            "pad_token": "<|pad|>",
            "extra_special_tokens": markers,
        }
    )
    tokenizer.chat_template = GRANITE_TEMPLATE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--true-size", metavar="FORMAT", choices=("float16", "bfloat16"))
    options = parser.parse_args()
    make(options.folder, options.true_size)
