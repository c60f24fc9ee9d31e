"""Who is let in, how much may be sent, and how often; every request passes here before anything else looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import secrets
import sys
import time
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn, Protocol

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from course_utils.openai_server import errors
from course_utils.openai_server.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 * 1024 * 1024
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SILENT_SECONDS = 60.0  # without a byte of a body, after which nothing more is expected
REFUSED_SECONDS = 5.0  # for the rest of a body that was refused
HERE = ("127.0.0.1", "::1", "testclient")  # addresses of clients on this machine


class Rules(Protocol):
    """What the gate goes by: see `Service`."""

    key: str
    hosts: tuple[str, ...]
    requests_per_minute: int | None
    max_file: int


class Gate:
    """What every request passes: from this machine, with the key, not too many, not too large; and its id."""

    def __init__(self, app: ASGIApp, service: Rules) -> None:
        self.app, self.service = app, service
        self.times: deque[float] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = f"{1000 * (time.perf_counter() - started):.0f}".encode()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", b"req_" + secrets.token_hex(16).encode()),
                    (b"openai-organization", b"local"),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", took),
                ]
            await send(message)

        body = Body(receive, self._limit(scope))
        try:
            self._check(scope)
            await body.check(dict(scope["headers"]).get(b"content-length"))
            await self.app(scope, body, send_with_headers)
        except ApiError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send_with_headers)
        except ClientDisconnect:
            print(
                f"{scope['method']} {scope['path']!r}: the client went away while it was sending",
                file=sys.stderr,
                flush=True,
            )

    def _limit(self, scope: Scope) -> int:
        return self.service.max_file + MAX_JSON if scope["path"] == "/v1/files" else MAX_JSON

    def _check(self, scope: Scope) -> None:
        client = scope.get("client")
        if client and client[0] not in HERE:
            raise ApiError(403, "This server answers to its own machine only.", code="not_local")
        headers = dict(scope["headers"])
        check_host(headers.get(b"host"), self.service.hosts)
        if scope["path"] == "/health":
            return
        given = headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise errors.no_key()
        if not hmac.compare_digest(key.strip().encode(), self.service.key.encode()):
            raise errors.wrong_key(key.strip())
        self._count()

    def _count(self) -> None:
        limit = self.service.requests_per_minute
        if limit is None:
            return
        now = time.monotonic()
        while self.times and now - self.times[0] >= 60:
            self.times.popleft()
        if len(self.times) >= limit:
            raise errors.too_fast(limit, math.ceil(60 - (now - self.times[0])))
        self.times.append(now)


def check_host(given: bytes | None, allowed: Collection[str]) -> None:
    """Refuse a request that was meant for another name.

    A page elsewhere can have its own name resolve to this machine (DNS rebinding), and its visitor's browser then takes what
    answers here for the page's own. The browser still says which name it asked for.

    Args:
        given: the header Host; None where there is none, which no browser leaves out.
        allowed: names beside those of loopback.

    Raises:
        ApiError: it names neither loopback nor one of these.
    """
    if given is None:
        return
    name = given.decode("latin-1").strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name.rstrip(".") in (*LOOPBACK_NAMES, *(each.lower() for each in allowed)):
        return
    message = (
        f"This server does not answer to the name {name[:80]!r}. If the name is meant to lead here, start the server with "
        f"it: course serve --allow-host {name[:80]}"
    )
    raise ApiError(403, message, code="host_not_allowed")


class Body:
    """A request's body as it comes in, counted; what is too large is read to its end and thrown away.

    A client that is still sending would see a broken connection, and not the reason.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.seen = receive, limit, 0
        self.whole = False

    async def check(self, length: bytes | None) -> None:
        """Refuse by what the request says of its length."""
        if length is not None and (not length.isdigit() or int(length) > self.limit):
            await self._refuse()

    async def __call__(self) -> Message:
        """The next message, as ASGI has it."""
        if self.whole:  # what comes now is that the client is gone, and that may take its time
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), SILENT_SECONDS)
        except TimeoutError:
            reason = f"Nothing more of the request came for {SILENT_SECONDS:.0f} seconds."
            raise ApiError(408, reason, code="request_timeout") from None
        if message["type"] == "http.request":
            self.whole = not message.get("more_body")
            self.seen += len(message.get("body", b""))
            if self.seen > self.limit:
                await self._refuse(message)
        return message

    async def _refuse(self, message: Message | None = None) -> NoReturn:
        most = self.seen + 4 * self.limit
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_SECONDS) as patience:
                while message is None or (message.get("more_body") and self.seen < most):
                    message = await self.receive()
                    self.seen += len(message.get("body", b""))
                    patience.reschedule(asyncio.get_running_loop().time() + REFUSED_SECONDS)
        raise ApiError(413, f"The request is larger than the {self.limit:,} bytes allowed.", code="request_too_large")
