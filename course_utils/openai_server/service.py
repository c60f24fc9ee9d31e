"""The state and settings that the service's routes share."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils import models
from course_utils.openai_server import errors
from course_utils.openai_server.jobs import Jobs, Runner
from course_utils.openai_server.options import Options
from course_utils.openai_server.store import Store

if TYPE_CHECKING:
    from course_utils.openai_server.completions import Chat


class Loader:
    """Loads the model and its engine at the first chat request: a server that only trains needs no memory for them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loaded: Chat | None = None
        self._mutex = threading.Lock()

    async def get(self) -> Chat:
        """Return the chat; the first call loads the model.

        Raises:
            ApiError: the model could not be loaded.
        """
        if self.loaded is not None:
            return self.loaded
        return await asyncio.to_thread(self._load)

    def _load(self) -> Chat:
        from course_utils.openai_server.completions import Chat
        from course_utils.openai_server.engine import Engine

        with self._mutex:
            loaded = self.loaded
            if loaded is None:
                try:
                    engine = Engine(lambda: models.load(self.options.model), self.options.rows)
                except Exception as error:
                    raise errors.ApiError(500, f"The model could not be loaded: {error}", type="server_error") from error
                loaded = self.loaded = Chat(engine, self.options.context)
        return loaded

    def close(self) -> None:
        """Stop the engine."""
        with self._mutex:
            if self.loaded:
                self.loaded.engine.close()


@dataclass
class Service:
    """The state and settings that the routes share.

    Attributes:
        store, jobs, runner: see these classes.
        chat: loads the model for the first chat request.
        base: name under which the base model is offered.
        names: other names for it, so that it can stand in for hosted models.
        key: the API key.
        hosts: host names that requests may use, in addition to loopback's.
        started: creation time of the base model in the list of models.
    """

    store: Store
    jobs: Jobs
    runner: Runner
    chat: Loader
    base: str
    key: str
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    started: int = field(default_factory=lambda: int(time.time()))
