"""What the clients' scripts share: where the service is, and a step that is tried and noted."""

import atexit
import json
import os
from collections.abc import Callable

URL, KEY, MODEL, BASE, ROWS = (os.environ[name] for name in ("URL", "KEY", "MODEL", "BASE", "ROWS"))
CITY = "Madrid"
QUESTION = f"What is the weather like in {CITY}?"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather now.", "parameters": WEATHER}}
found: dict[str, str] = {}
atexit.register(lambda: print(json.dumps(found)))


def step(name: str) -> Callable[[Callable[[], object]], None]:
    """Try a function; whatever it raises is what the step came to."""

    def tried(function: Callable[[], object]) -> None:
        try:
            function()
            found[name] = "works"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:300]}"

    return tried
