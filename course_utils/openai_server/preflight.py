"""What is looked at before the service opens its port: a mistake is told to whoever starts it and not to a client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import models
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from course_utils.openai_server.serving import Options

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST = {"rows": 1, "context": 16, "requests_per_minute": 1, "token_budget": 0, "max_file_bytes": 1}
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def check_options(options: Options) -> None:
    """Refuse an address that others can reach, and numbers with which nothing would ever be answered.

    Raises:
        CourseError: the option, its value, and what it may be.
    """
    if options.host not in LOOPBACK:
        raise CourseError(
            f"--host {options.host}: the service trains and answers for whoever has the key, and listens on this machine "
            f"only ({', '.join(LOOPBACK)}); from elsewhere use an SSH tunnel (ssh -L)"
        )
    if not 0 <= options.port <= 65535:
        raise CourseError(f"--port {options.port}: ports are 1 to 65535, and 0 is any free one")
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise CourseError(f"--{name.replace('_', '-')} {value}: it must be {least} or more")


def check_model(name: str | None) -> None:
    """Refuse a base model that could not be loaded when the first chat or job comes; loads nothing.

    Raises:
        CourseError: there is no such model, or its folder lacks something.
    """
    if name is None or name == models.PACKAGED.name:
        return  # the tier's own; fetched when it is first needed, with what it says then
    source = Path(models.resolve(name))
    if not source.is_dir():
        models.configuration(name)  # asks the hub, or the copy of it here
        return
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        adapter = " (it holds an adapter: merge it into its base first)" if (source / "adapter_config.json").exists() else ""
        raise CourseError(f"--model {name}: the folder has no config.json, so it holds no model{adapter}") from None
    except (OSError, ValueError) as error:
        raise CourseError(f"--model {name}: its config.json can't be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CourseError(f"--model {name}: its config.json names no model_type, so it is no model of transformers")
    if not any((source / file).exists() for file in TOKENIZERS):
        raise CourseError(f"--model {name}: the folder has no tokenizer ({', '.join(TOKENIZERS)}); save it there as well")
    if not any(next(source.glob(pattern), None) for pattern in WEIGHTS):
        raise CourseError(f"--model {name}: the folder has no weights ({', '.join(WEIGHTS)})")
