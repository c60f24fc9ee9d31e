"""What the routes of the service work with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils.openai_server import errors
from course_utils.openai_server.jobs import Jobs, Runner
from course_utils.openai_server.store import Store

if TYPE_CHECKING:
    from course_utils.openai_server.serving import Loader

MAX_FILE = 512 * 1024 * 1024  # bytes; the hosted service's limit


@dataclass
class Service:
    """What the routes work with.

    Attributes:
        store, jobs, runner: see there.
        chat: called once, when the first chat comes: loads the model.
        base: the name under which the base model is offered.
        names: other names for it: stand-ins for hosted models.
        key: the API key.
        hosts: names by which requests may address the server, beside loopback's.
        base64_results: give result files as the hosted service did, as base64 of the CSV.
        requests_per_minute: more than this answer 429; None for no limit.
        token_budget: tokens, trained and answered together, after which everything answers 429; None for no limit.
        max_file: largest upload in bytes.
        started: when the base model came to be, for the list of models.
    """

    store: Store
    jobs: Jobs
    runner: Runner
    chat: Loader
    base: str
    key: str
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    base64_results: bool = True
    requests_per_minute: int | None = None
    token_budget: int | None = None
    max_file: int = MAX_FILE
    started: int = field(default_factory=lambda: int(time.time()))
    answered_tokens: int = 0

    def spent(self) -> int:
        """Tokens that were trained on and answered with."""
        trained = sum(job["trained_tokens"] or 0 for job in self.store.all("job"))
        return trained + self.answered_tokens

    def check_budget(self) -> None:
        """Raise ApiError if nothing is left."""
        if self.token_budget is not None and self.spent() >= self.token_budget:
            raise errors.no_money()
