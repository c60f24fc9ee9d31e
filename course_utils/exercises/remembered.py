"""Results of runs that take long, kept on disk, so that grading a class again does not train again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, wraps
from threading import Lock

from course_utils import __version__
from course_utils.files import write_whole

# One run at a time: grading marks in several threads, and neither transformers' loading (it builds models without weights by a
# setting of the whole process) nor torch's random numbers are a thread's own.
RUNNING = Lock()


def remembered(name: str, **conditions: object) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Decorator: the same keyword arguments are computed once on this machine.

    Files lie in `challenges/` of the course's cache, which only the user can write: answers run elsewhere (`grading.sandbox`). A
    cache that cannot be read or written costs time and nothing else.

    Args:
        name: of the files, e.g. the exercise's id.
        conditions: what the result depends on beside the arguments and the versions of torch and the course; JSON values.
    """

    def decorate(function: Callable[..., float]) -> Callable[..., float]:
        @lru_cache(maxsize=1024)
        def result(key: str) -> float:
            from course_utils.models import cache_folder

            arguments = json.loads(key)
            everything = {"arguments": arguments, "conditions": conditions, "versions": _versions()}
            digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
            file = cache_folder() / "challenges" / f"{name}-{digest}.json"
            with RUNNING:  # whoever waited finds the result of the same run
                with suppress(OSError, ValueError, KeyError, TypeError):
                    return float(json.loads(file.read_text(encoding="utf-8"))["result"])
                value = float(function(**arguments))
                with suppress(OSError):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(file, json.dumps({"result": value, **everything}).encode())
            return value

        @wraps(function)
        def remembering(**arguments: object) -> float:
            return result(json.dumps(arguments, sort_keys=True))

        return remembering

    return decorate


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"course": __version__, "torch": version("torch")}
