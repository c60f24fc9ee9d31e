"""Loads the model and the tokenizer for a tier or a name.

The same cells run on all tiers. The CPU tier's model comes from a package on the index (`packaged`), is converted once and
then needs no network; the others' models come from the Hugging Face hub in the usual way. `hardware` detects the machine;
this module does not care what is done with the model.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils import facts, hardware
from course_utils import quantization as four_bit
from course_utils.errors import CourseError
from course_utils.models import attention, packaged

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    Model: TypeAlias = PreTrainedModel | PeftModel  # a model to train or to generate with, with or without an adapter


@dataclass(frozen=True)
class ModelChoice:
    """The model of a tier: its name, its licence, and a note on it."""

    name: str
    licence: str
    note: str


TIERS = {name: ModelChoice(row["model"], row["licence"], row["note"]) for name, row in facts.table("tiers").items()}
PACKAGED = packaged.MODELS["SmolLM2-135M-Instruct"]  # the CPU tier's


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


def tier_of(name: str) -> str | None:
    """Return the tier whose model this is, by its name, with or without its owner, or by its folder."""
    for tier, choice in TIERS.items():
        short = choice.name.rpartition("/")[2]
        folder = packaged.MODELS[short].folder() if short in packaged.MODELS else None
        if name in (tier, choice.name, short, str(folder)) or name.rpartition("/")[2] == short:
            return tier
    return None


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
        return str(packaged.prepare(PACKAGED))
    if Path(name).is_dir():
        return name
    if name in packaged.MODELS and not hub_model_ready(name) and packaged.MODELS[name].is_ready():
        return str(packaged.MODELS[name].folder())  # somebody has asked for it by name: `fetch_from_index`
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


def fetch_from_index(name: str, report: Callable[[str], None] = print) -> Path:
    """Return the folder of a model that packages of the Python index hold; fetches and converts it if it is not complete.

    From then on `load` takes it from there, unless the hub's own is on this machine.

    Args:
        name: a model's name with or without its owner.
        report: called with a line of text before each slow step.

    Raises:
        CourseError: no package of the index holds such a model, or for the reasons of `packaged.prepare`.
    """
    model = next((model for model in packaged.MODELS.values() if name in (model.name, model.short_name)), None)
    if model is None:
        raise CourseError(f"no package of the index holds {name!r}; there are {', '.join(packaged.MODELS)}")
    return packaged.prepare(model, report)


def is_ready(name: str) -> bool:
    """Return whether a model's weights are on this machine, from the hub or from the index; nothing is fetched."""
    return (name in packaged.MODELS and packaged.MODELS[name].is_ready()) or hub_model_ready(name)


def _from_pretrained(source: str, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load from this machine without any network access, not even to check for updates; otherwise from the hub."""
    import transformers

    def read(**options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        # transformers 5.25 replaces layers by compiled ones from the hub unless it is told not to (`session`)
        options |= settings | {"use_kernels": False}
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
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
    if name in packaged.MODELS:
        size = f"{packaged.MODELS[name].download_bytes / 1e9:.1f} GB"
        return (
            f"cannot load {name} from the Hugging Face hub ({str(error).splitlines()[0]}). If you can reach a package index "
            f"only: `course fetch {name} --from-index` takes {size} from there, made by somebody unknown, its hashes checked"
        )
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
