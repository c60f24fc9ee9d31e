"""Checks before the service opens its port, so that mistakes are reported to whoever starts it and not to a client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import models
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from course_utils.openai_server.serving import Options

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MINIMUM = {"rows": 1, "context": 16, "requests_per_minute": 1, "token_budget": 0, "max_file_bytes": 1}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")


def check_options(options: Options) -> None:
    """Refuse an address that other machines can reach, and numbers with which no request could be answered.

    Raises:
        CourseError: an option is invalid; the message gives its value and the allowed ones.
    """
    if options.host not in LOOPBACK:
        raise CourseError(
            f"--host {options.host}: the service trains and answers for anyone who has the key, so it listens on this "
            f"machine only ({', '.join(LOOPBACK)}); to reach it from elsewhere, use an SSH tunnel (ssh -L)"
        )
    if not 0 <= options.port <= 65535:
        raise CourseError(f"--port {options.port}: ports are 1 to 65535; 0 takes any free one")
    for name, minimum in MINIMUM.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise CourseError(f"--{name.replace('_', '-')} {value}: it must be {minimum} or more")


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
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        adapter = " (it holds an adapter: merge it into its base first)" if (source / "adapter_config.json").exists() else ""
        raise CourseError(f"--model {name}: the folder has no config.json, so it does not hold a model{adapter}") from None
    except (OSError, ValueError) as error:
        raise CourseError(f"--model {name}: its config.json can't be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CourseError(f"--model {name}: its config.json names no model_type, so it is not a transformers model")
    if not any((source / file).exists() for file in TOKENIZER_FILES):
        raise CourseError(
            f"--model {name}: the folder has no tokenizer ({', '.join(TOKENIZER_FILES)}); save it there as well"
        )
    if not any(next(source.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise CourseError(f"--model {name}: the folder has no weights ({', '.join(WEIGHT_FILES)})")
