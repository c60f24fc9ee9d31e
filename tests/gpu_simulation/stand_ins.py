"""Small models of random weights under the names of the GPU tiers' models, laid out as the hub's cache is.

    python -m tests.gpu_simulation.stand_ins FOLDER      then HF_HOME=FOLDER and HF_HUB_OFFLINE=1

Everything that code may depend on is the real model's: architecture, number of blocks, biases, tied weights, grouped heads,
a vocabulary larger than the tokenizer's, generation settings, chat template. Only the widths are small. The tokenizer is the
packaged model's, whose special tokens have the same names.

With `--true-size float16` the widths are the real models' too, and the weights, in that format, are holes in sparse files
(`true_size`): 15 GB that take no room.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .true_size import write_sparse

WIDTH = 64
HEAD = 16
# In the tokenizer of the packaged model: 0 is <|endoftext|>, 2 is <|im_end|>, 1 is <|im_start|>.
END_OF_TEXT, START, END = 0, 1, 2
# As in the models' generation_config.json; Qwen's repetition penalty is in force wherever nobody says otherwise.
GENERATION = {
    "t4": {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END},
    "a100": {
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": [END, END_OF_TEXT],
        "pad_token_id": END_OF_TEXT,
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
    },
}


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

    tokenizer = transformers.AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    for tier in ("t4", "a100"):
        name = models.TIERS[tier].name
        real = dict(ARCHITECTURES[name.split("/")[1].removesuffix("-Instruct")])
        heads = WIDTH // HEAD
        small = {
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_attention_heads": heads,
            "num_key_value_heads": heads if real["num_key_value_heads"] == real["num_attention_heads"] else heads // 2,
            "vocab_size": len(tokenizer) + (real["vocab_size"] - 151_665 if tier == "a100" else 0),
        }
        config = transformers.AutoConfig.for_model(
            **real
            | ({} if true_size else small)
            | {
                "max_position_embeddings": 8192,
                **{key: GENERATION[tier][key] for key in ("bos_token_id", "pad_token_id")},
                "eos_token_id": END,
            }
        )
        target = folder / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
        torch.manual_seed(0)
        with torch.device("meta" if true_size else "cpu"):
            dtype = getattr(torch, true_size or "bfloat16")
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.generation_config = transformers.GenerationConfig(**GENERATION[tier])
        if true_size:
            # token 0, which is what logits of zero give, ends no answer: all are as long as they may be
            model.generation_config.eos_token_id = END
            target.mkdir(parents=True)
            model.config.save_pretrained(target)
            model.generation_config.save_pretrained(target)
            tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
            weights = {name: weight for name, weight in model.state_dict().items() if name not in tied}
            write_sparse(weights, target / "model.safetensors", {"format": "pt"})
        else:
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        if tier == "a100":
            _as_qwen(target)
        references = target.parents[1] / "refs"
        references.mkdir(exist_ok=True)
        (references / "main").write_text("0" * 40)


def _as_qwen(folder: Path) -> None:
    """Qwen2.5's chat template, which TRL carries, and its padding token."""
    import trl

    template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--true-size", metavar="FORMAT", choices=("float16", "bfloat16"))
    options = parser.parse_args()
    make(options.folder, options.true_size)
