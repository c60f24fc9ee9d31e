"""Takes a trained adapter to where it is served: merged, as a GGUF file, with a Modelfile for Ollama, or apart for vLLM.

    course export ticket-adapter --to ollama --out tickets

GGUF files of the architectures in `ARCHITECTURES` are written here, with llama.cpp's own library for the format. Its
converter, which takes a hundred more, is in no package that could stand beside that library; `--converter` runs it from a
clone. On 2026-11-30 both wrote the same tensors and tokens of SmolLM2-135M and Qwen2.5-Coder-0.5B, to the bit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import models
from course_utils.errors import CourseError
from course_utils.scoring import stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TYPES = {"bf16": 32, "f16": 1, "f32": 0, "q8_0": 7, "q4_0": 2}  # → general.file_type, llama.cpp's number for it
ARCHITECTURES = ("llama", "qwen2")
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py
# Starts of LoRA that change the base, to which vLLM then would add nothing (vllm/lora/peft_helper.py).
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")


class Export(NamedTuple):
    """What `export` has written: the folder, its files' sizes in bytes, what serves it, and what was not tried here."""

    folder: Path
    files: dict[str, int]
    command: str
    not_run: str

    def __str__(self) -> str:
        size = f"{sum(self.files.values()) / 1e6:,.1f} MB"
        text = f"{self.folder}: {', '.join(self.files)}; {size}\n  to serve it: {self.command}"
        return text + (f"\n  not run here: {self.not_run}" if self.not_run else "")


def export(
    adapter: str | Path,
    target: str,
    out: str | Path,
    base: str | None = None,
    number_format: str = "bf16",
    converter: str = "",
) -> Export:
    """Write what a server needs of an adapter into a new folder, which appears when it is complete.

    Args:
        adapter: PEFT's folder; for all targets but "vllm" a merged model's folder will do.
        target: "merged", "gguf", "ollama" or "vllm".
        out: a folder that does not exist yet.
        base: the model that the adapter was trained on; None for the one that its configuration names.
        number_format: one of `TYPES`, of a GGUF file's matrices.
        converter: llama.cpp's convert_hf_to_gguf.py, to write the GGUF file; "" for `write_gguf`.

    Raises:
        CourseError: the folder exists, no base is found, or the target cannot take this adapter.
    """
    folder = Path(out)
    if folder.exists():
        raise CourseError(f"{folder} exists; choose another folder with --out")
    draft, not_run = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp"), ""
    try:
        draft.mkdir(parents=True)
        if target == "vllm":
            command = _write_vllm(Path(adapter), draft, base, folder)
            not_run = "vLLM; once it runs, `course roundtrip --server vllm=URL` asks it"
        elif target == "merged":
            merge(adapter, draft, base)
            command = f"vllm serve {folder} --generation-config vllm"
        else:
            merged = Path(adapter)
            if not (merged / "config.json").exists():
                merge(adapter, merged := draft / "merged", base)
            convert(merged, draft / "model.gguf", number_format, converter)
            command = f"llama-server -m {folder / 'model.gguf'} --jinja"
            if target == "ollama":
                (draft / "Modelfile").write_text(modelfile(models.load_tokenizer(str(merged))), encoding="utf-8")
                command = f"ollama create {folder.name} -f {folder / 'Modelfile'} && ollama run {folder.name}"
                not_run = "Ollama; `course roundtrip` gives llama.cpp the prompts that the Modelfile makes"
            shutil.rmtree(draft / "merged", ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        raise CourseError(f"{folder} cannot be written: {error}; name another folder with --out") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Export(folder, {file.name: file.stat().st_size for file in sorted(folder.iterdir())}, command, not_run)


def read_adapter(adapter: str | Path, base: str | None = None) -> tuple[dict[str, Any], str, PreTrainedTokenizerBase]:
    """Return an adapter's configuration, its base (a folder, or a name on the hub), and its tokenizer, or else the base's.

    Raises:
        CourseError: it is no adapter's folder, or its base is not to be found.
    """
    file = Path(adapter) / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"{adapter} is no adapter's folder: cannot read {file.name} ({error})") from error
    name = base or str(config.get("base_model_name_or_path") or "")
    if not name or (Path(name).is_absolute() and not Path(name).is_dir()):
        raise CourseError(f"{file} says that the base is {name or 'nowhere'}, which isn't here: name it with --base")
    source = models.resolve(name)
    saved = (Path(adapter) / "tokenizer_config.json").exists()
    return config, source, models.load_tokenizer(str(adapter) if saved else source)


def merge(adapter: str | Path, folder: Path, base: str | None = None) -> None:
    """Add an adapter to its base in 32 bits, round once to the base's number format, and save it with its tokenizer.

    It needs four bytes of memory for each weight. The base is read in 16 or 32 bits also if the adapter was trained over a
    copy in 4 bits (lesson 03).

    Raises:
        CourseError: no base is found, or the adapter does not fit it.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, source, tokenizer = read_adapter(adapter, base)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CourseError(f"cannot merge {adapter} into {source}: {str(error).splitlines()[0]}") from error
    # what else a base recommends, such as Qwen2.5's repetition penalty, servers would follow
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    merged.generation_config = type(merged.generation_config)(eos_token_id=sorted(stop_token_ids(merged, tokenizer)), **ids)
    merged.to(models.configuration(source).dtype or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# -- GGUF -------------------------------------------------------------------------------------------------------------------


def convert(folder: Path, file: Path, number_format: str = "bf16", converter: str = "") -> None:
    """Write a merged model as a GGUF file, with llama.cpp's converter if one is named, else with `write_gguf`.

    Raises:
        CourseError: one of them fails.
    """
    draft = file.with_name(f".{file.name}")
    if converter:
        command = [sys.executable, converter, str(folder), "--outfile", str(draft), "--outtype", number_format]
        process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if process.returncode or not draft.exists():
            raise CourseError(f"{converter} failed; the last lines were:\n{process.stderr.strip()[-600:]}")
    else:
        write_gguf(folder, draft, number_format)
    draft.replace(file)


def write_gguf(folder: Path, file: Path, number_format: str = "bf16") -> None:
    """Write a model's folder as a GGUF file, tokenizer and template included.

    Vectors stay in 32 bits. With q4_0, embedding and head get 8 bits, as llama.cpp keeps them above the rest.

    Args:
        folder: config.json, safetensors and tokenizer of a model of one of `ARCHITECTURES` with a byte-level tokenizer.
        file: the file to write.
        number_format: one of `TYPES`, of the matrices.

    Raises:
        CourseError: the model is none of these, and llama.cpp's converter is needed.
    """
    import gguf
    from safetensors import safe_open

    config = models.configuration(str(folder))
    kind = config.model_type
    plain = kind in ARCHITECTURES and config.rope_parameters.get("rope_type", "default") == "default"
    if not plain or (kind == "llama" and (config.attention_bias or config.mlp_bias)):
        raise _needs_converter(f"models of type {kind} with these positions and biases")
    writer = gguf.GGUFWriter(file, kind, use_temp_file=True)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, value in {
        "name": folder.name, "file_type": TYPES[number_format], "quantization_version": gguf.GGML_QUANT_VERSION,
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads, "head_count_kv": config.num_key_value_heads, "key_length": width,
        "value_length": width, "rope_dimension_count": width, "rope_freq_base": config.rope_parameters["rope_theta"],
        "layer_norm_rms_eps": config.rms_norm_eps, "vocab_size": config.vocab_size,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    _write_tokenizer(writer, models.load_tokenizer(str(folder)), config.vocab_size)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(part, "pt") as tensors:
            stored_names = set(tensors.keys()) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
            for name in sorted(stored_names):
                owner, _, ending = name.rpartition(".")
                stored, data = names.get_name(owner), tensors.get_tensor(name).float().numpy()
                if stored is None:
                    raise _needs_converter(f"the weight {name}")
                if kind == "llama" and (layer := stored.rpartition(".")[2]) in heads:
                    # llama.cpp pairs row i with i + 1, not with the one half a head further on
                    data = data.reshape(heads[layer], 2, -1, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
                large = stored in ("token_embd", "output") and number_format == "q4_0"
                chosen = "F32" if data.ndim == 1 else "Q8_0" if large else number_format.upper()
                kind_of_number = gguf.GGMLQuantizationType[chosen]
                if data.shape[-1] % gguf.GGML_QUANT_SIZES[kind_of_number][0]:
                    raise CourseError(f"{chosen} cannot cut rows of {data.shape[-1]} numbers ({name}): take --type bf16")
                writer.add_tensor(f"{stored}.{ending}", gguf.quantize(data, kind_of_number), raw_dtype=kind_of_number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _needs_converter(what: str) -> CourseError:
    way = "clone github.com/ggml-org/llama.cpp and name its convert_hf_to_gguf.py with --converter"
    return CourseError(f"course export cannot write {what} as GGUF: {way}")


def _write_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Write vocabulary, merges, special tokens and template; llama.cpp has names for the ways to cut a text into words."""
    import gguf

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    cuts = json.dumps(state["pre_tokenizer"])
    words = {"smollm": '"ByteLevel"' in cuts and '"Split"' not in cuts, "qwen2": r"|\\p{N}|" in cuts}
    if state["model"]["type"] != "BPE" or "ByteLevel" not in cuts or not any(words.values()):
        raise _needs_converter("a tokenizer that cuts words in another way than SmolLM2's and Qwen2's")
    by_id, added = {number: token for token, number in tokenizer.get_vocab().items()}, tokenizer.added_tokens_decoder
    special = {n: gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED for n, token in added.items()}
    unused = {n: gguf.TokenType.UNUSED for n in range(rows) if n not in by_id}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(next(name for name, fits in words.items() if fits))
    writer.add_token_list([by_id.get(n, f"[PAD{n}]") for n in range(rows)])
    writer.add_token_types([(special | unused).get(n, gguf.TokenType.NORMAL) for n in range(rows)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]])
    for name in ("bos", "eos", "pad", "unk"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(adds_start(tokenizer))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def adds_start(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer puts its start token before a text."""
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


# -- Ollama -----------------------------------------------------------------------------------------------------------------


class Marks(NamedTuple):
    """What a chat template writes before a message, by role, and after it; and the system message that it adds, or None."""

    opening: dict[str, str]
    closing: str
    default_system: str | None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text up to where the answer begins."""
        if self.default_system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        parts = [self.opening[m["role"]] + m["content"] + self.closing for m in messages]
        return "".join([*parts, self.opening["assistant"]])


def read_marks(tokenizer: PreTrainedTokenizerBase) -> Marks:
    """Find what a chat template writes around messages, from conversations that it renders.

    Raises:
        CourseError: the template does more than that, such as trimming texts, or writing the date.
    """
    words = {"system": "Zqsystem", "user": "Zquser", "assistant": "Zqassistant"}

    def chat(roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": words[role]} for role in roles.split()]

    def rendered(roles: str, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(chat(roles), tokenize=False, add_generation_prompt=prompt)).removeprefix(
            start
        )

    start = str(tokenizer.bos_token) if adds_start(tokenizer) else ""  # which a server adds, too
    try:
        before, _, rest = rendered("system user assistant user", False).partition(words["system"])
        closing = rest.rpartition(words["user"])[2]
        between, after_user = (
            rest.partition(words["user"])[0],
            rest.partition(words["user"])[2].partition(words["assistant"])[0],
        )
        cut = (before, between.removeprefix(closing), after_user.removeprefix(closing))
        opening, alone = dict(zip(words, cut)), rendered("user", False)
        default = None
        if not alone.startswith(opening["user"]):
            default = alone.removeprefix(before).partition(closing + opening["user"])[0]
        marks = Marks(opening, closing, default)
        for roles in ("user", "system user", "system user assistant user", "user assistant user"):
            if marks.render(chat(roles)) != rendered(roles, True):
                raise ValueError(f"it renders {roles} in another way")
    except Exception as error:  # templates raise what they like, jinja2's errors among it
        raise CourseError(
            f"the chat template does more than put marks around messages ({error}), so no Modelfile is written for it: "
            "`--to gguf` puts the template into the file, where `llama-server --jinja` reads it"
        ) from error
    return marks


def modelfile(tokenizer: PreTrainedTokenizerBase, gguf_file: str = "./model.gguf") -> str:
    """Return a Modelfile: template (in Go's language), stop word and system message as in training, and greedy sampling.

    Ollama's own defaults are temperature 0.8, a repetition penalty of 1.1, and a context of 4,096 tokens on small cards.

    Raises:
        CourseError: the template does more than put marks around messages.
    """
    opening, closing, default = read_marks(tokenizer)
    branches = [f'if eq .Role "{role}" }}}}{opening[role]}{{{{ .Content }}}}{closing}' for role in opening]
    template = "{{ range .Messages }}{{ " + "{{ else ".join(branches) + "{{ end }}{{ end }}" + opening["assistant"]
    lines = [f"FROM {gguf_file}", f'TEMPLATE """{template}"""', *([] if default is None else [f'SYSTEM """{default}"""'])]
    lines += [f'PARAMETER stop "{closing.strip() or tokenizer.eos_token}"', "PARAMETER temperature 0"]
    return "\n".join([*lines, "PARAMETER repeat_penalty 1", "PARAMETER num_ctx 8192", ""])


# -- vLLM -------------------------------------------------------------------------------------------------------------------


def _write_vllm(adapter: Path, folder: Path, base: str | None, final: Path) -> str:
    """Copy the adapter as vLLM takes it; the command that serves it."""
    config, source, tokenizer = read_adapter(adapter, base)
    rank, start = config["r"], config.get("init_lora_weights")
    faults = {
        f"a rank of {rank}": rank > VLLM_RANKS[-1],
        "DoRA": config.get("use_dora"),
        "whole modules beside it (modules_to_save)": config.get("modules_to_save"),
        f"trained biases ({config.get('bias')})": config.get("bias", "none") != "none",
        f"a start that changed the base ({start})": isinstance(start, str) and start.lower() in CHANGE_THE_BASE,
    }
    if refused := [fault for fault, found in faults.items() if found]:
        raise CourseError(f"vLLM takes no adapter with {', '.join(refused)}: merge it, with --to merged")
    config["base_model_name_or_path"] = source
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shutil.copy2(adapter / "adapter_model.safetensors", folder)
    tokenizer.save_pretrained(folder)
    rank = next(allowed for allowed in VLLM_RANKS if allowed >= rank)
    # Without the last option the base's generation_config.json would set the sampling of whoever names none.
    options = f"--enable-lora --max-lora-rank {rank} --lora-modules {final.name}={final} --generation-config vllm"
    return f"vllm serve {source} {options} --chat-template {final / 'chat_template.jinja'}"
