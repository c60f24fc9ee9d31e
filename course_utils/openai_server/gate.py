"""Access control: who may send requests, and how large. Every request passes here first."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import sys
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn, Protocol

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from course_utils.openai_server import errors
from course_utils.openai_server.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 * 1024 * 1024
MAX_FILE = 512 * 1024 * 1024  # bytes of an upload; the hosted service's limit
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SILENT_SECONDS = 60.0  # without a byte of a body before it is given up
REFUSED_SECONDS = 5.0  # to wait for the rest of a refused body
LOCAL_CLIENTS = ("127.0.0.1", "::1", "testclient")  # addresses of clients on this machine


class GateSettings(Protocol):
    """The settings that the gate uses; `Service` explains them."""

    key: str
    hosts: tuple[str, ...]


class Gate:
    """Lets a request through if it has the right address and the right key, and is not too large.

    It also adds the request id and the hosted API's other headers to every response.
    """

    def __init__(self, app: ASGIApp, service: GateSettings) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                milliseconds = f"{1000 * (time.perf_counter() - started):.0f}".encode()
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", b"req_" + secrets.token_hex(16).encode()),
                    (b"openai-organization", b"local"),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", milliseconds),
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
                f"{scope['method']} {scope['path']!r}: the client disconnected while sending",
                file=sys.stderr,
                flush=True,
            )

    def _limit(self, scope: Scope) -> int:
        return MAX_FILE + MAX_JSON if scope["path"] == "/v1/files" else MAX_JSON

    def _check(self, scope: Scope) -> None:
        client = scope.get("client")
        if client and client[0] not in LOCAL_CLIENTS:
            raise ApiError(403, "This server answers requests from its own machine only.", code="not_local")
        headers = dict(scope["headers"])
        check_host(headers.get(b"host"), self.service.hosts)
        if scope["path"] == "/health":
            return
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise errors.no_key()
        if not hmac.compare_digest(key.strip().encode(), self.service.key.encode()):
            raise errors.wrong_key(key.strip())


def check_host(host: bytes | None, allowed: Collection[str]) -> None:
    """Refuse a request that is addressed to another host name.

    A web page can make its own name resolve to this machine (DNS rebinding); its visitor's browser then treats this server
    as the page's own. The browser still sends the name that it requested.

    Args:
        host: the Host header; None if it is missing, which never happens with a browser.
        allowed: names allowed in addition to loopback's.

    Raises:
        ApiError: the header names neither loopback nor an allowed name.
    """
    if host is None:
        return
    name = host.decode("latin-1").strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name.rstrip(".") in (*LOOPBACK_NAMES, *(allowed_name.lower() for allowed_name in allowed)):
        return
    message = (
        f"This server does not answer to the name {name[:80]!r}. If that name is meant to lead here, start the server with: "
        f"course serve --allow-host {name[:80]}"
    )
    raise ApiError(403, message, code="host_not_allowed")


class Body:
    """The body of a request, counted as it arrives; if it is too large, the rest is read and discarded.

    Otherwise a client that is still sending would see a broken connection instead of the reason.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.received = receive, limit, 0
        self.complete = False

    async def check(self, length: bytes | None) -> None:
        """Refuse the request if its Content-Length is invalid or too large.

        Raises:
            ApiError: it is.
        """
        if length is not None and (not length.isdigit() or int(length) > self.limit):
            await self._refuse()

    async def __call__(self) -> Message:
        """Return the next ASGI message."""
        if self.complete:  # the next message is the disconnect, which may take any time
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), SILENT_SECONDS)
        except TimeoutError:
            reason = f"No more of the request arrived for {SILENT_SECONDS:.0f} seconds."
            raise ApiError(408, reason, code="request_timeout") from None
        if message["type"] == "http.request":
            self.complete = not message.get("more_body")
            self.received += len(message.get("body", b""))
            if self.received > self.limit:
                await self._refuse(message)
        return message

    async def _refuse(self, message: Message | None = None) -> NoReturn:
        limit = self.received + 4 * self.limit
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_SECONDS) as deadline:
                while message is None or (message.get("more_body") and self.received < limit):
                    message = await self.receive()
                    self.received += len(message.get("body", b""))
                    deadline.reschedule(asyncio.get_running_loop().time() + REFUSED_SECONDS)
        raise ApiError(413, f"The request is larger than the {self.limit:,} bytes allowed.", code="request_too_large")
