"""The state and settings that the service's routes share."""

from __future__ import annotations

import asyncio
import threading
import time

from course_utils import models
from course_utils.openai_server.engine import Engine
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.jobs import Jobs, Runner
from course_utils.openai_server.options import Options, base_name
from course_utils.openai_server.store import Store


class Service:
    """The state and settings that the routes share.

    Args:
        options: see `Options`.
        store: the documents and files in the options' folder.

    Attributes:
        bases: names under which the base model is offered, its own first.
        jobs, runner: see these classes.
        started: creation time of the base model in the list of models.
        loaded: the engine, once it was needed: a server that only trains needs no memory for it.
    """

    def __init__(self, options: Options, store: Store) -> None:
        self.options, self.store = options, store
        self.bases = (base_name(options.model), *options.names)
        self.jobs = Jobs(store, self.bases, options.refuse)
        self.runner = Runner(store, options.model, options.context, options.jobs)
        self.started = int(time.time())
        self.loaded: Engine | None = None
        self._mutex = threading.Lock()

    async def engine(self) -> Engine:
        """Return the engine; the first call loads the model.

        Raises:
            ApiError: the model could not be loaded.
        """
        if self.loaded is not None:
            return self.loaded
        return await asyncio.to_thread(self._load)

    def _load(self) -> Engine:
        with self._mutex:
            if self.loaded is not None:
                return self.loaded
            try:
                engine = self.loaded = Engine(lambda: models.load(self.options.model), self.options.rows)
            except Exception as error:
                raise ApiError(500, f"The model could not be loaded: {error}", type="server_error") from error
            return engine

    def close(self) -> None:
        """Stop the jobs' processes and the engine."""
        self.runner.close()
        with self._mutex:
            if self.loaded:
                self.loaded.close()
