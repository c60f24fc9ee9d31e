"""The options of the service, checked before it opens its port: mistakes are reported to who starts it, not to a client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from course_utils import models
from course_utils.errors import CourseError

MINIMUM = {"rows": 1, "context": 16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")


@dataclass(frozen=True)
class Options:
    """Options of the service.

    Attributes:
        folder: folder for everything it stores: files, jobs, models, its key.
        model: base model as `models.load` takes it; None for the machine's tier.
        names: other names for the model, so that code written for a hosted model runs unchanged.
        port: where to listen on this machine, which others can't reach; 0 for any free one.
        key: API key; None for the one in the folder, which is created at the first start.
        context: maximum number of tokens in prompt and answer together, and in a training example.
        rows: maximum number of answers generated at once.
        refuse: refuse new jobs as OpenAI refuses them to new organisations.
        jobs: whether to run jobs; if not, they stay in their state.
        allow_host: host names that requests may use in addition to loopback's, such as that of a proxy.
        temporary: whether to delete the folder when the service ends.
    """

    folder: str
    model: str | None = None
    names: tuple[str, ...] = ()
    port: int = 0
    key: str | None = None
    context: int = 2048
    rows: int = 16
    refuse: bool = False
    jobs: bool = True
    allow_host: tuple[str, ...] = ()
    temporary: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers with which no request could be answered."""
        if not 0 <= self.port <= 65535:
            raise CourseError(f"--port {self.port}: ports are 1 to 65535; 0 takes any free one")
        for name, minimum in MINIMUM.items():
            if (value := getattr(self, name)) < minimum:
                raise CourseError(f"--{name} {value}: it must be {minimum} or more")


def check_model(name: str | None) -> None:
    """Refuse a base model that could not be loaded for the first chat or job; nothing is loaded here.

    Raises:
        CourseError: there is no such model, or its folder is incomplete.
    """
    if name is None or name == models.PACKAGED.name:
        return  # the tier's own model: fetched on first use, which reports its own errors
    source = Path(models.resolve(name))
    if not source.is_dir():
        models.configuration(name)  # from the hub, or its local cache
        return
    try:
        has_type = "model_type" in json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        adapter = "; it holds an adapter: merge it into its base first" if (source / "adapter_config.json").exists() else ""
        raise CourseError(f"--model {name}: the folder has no config.json that can be read ({error}){adapter}") from error
    if not has_type:
        raise CourseError(f"--model {name}: its config.json names no model_type, so it is not a transformers model")
    for what, files in (("tokenizer", TOKENIZER_FILES), ("weights", WEIGHT_FILES)):
        if not any(next(source.glob(pattern), None) for pattern in files):
            raise CourseError(f"--model {name}: the folder has no {what} ({', '.join(files)}); save them there as well")


def base_name(model: str | None) -> str:
    """Return the name under which a model is offered.

    It is the last part of the model's name, in lower case, without colons (for `ft:` ids).
    """
    from course_utils import hardware

    name = model or models.TIERS[hardware.detect().tier].name
    return Path(name).name.lower().replace(":", "-")
