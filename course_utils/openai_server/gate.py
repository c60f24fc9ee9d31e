"""Access control: who may send requests, and how large. Every request passes here first."""

from __future__ import annotations

import hmac
import secrets
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from course_utils.openai_server.bodies import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 * 1024 * 1024
MAX_FILE = 512 * 1024 * 1024  # bytes of an upload; the hosted service's limit
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
KEYS_PAGE = "https://platform.openai.com/account/api-keys"


class Gate:
    """Lets a request through if it has the right address and the right key, and is not too large.

    It also adds a request id to every response. Requests may use the names of `hosts` in addition to loopback's.
    """

    def __init__(self, app: ASGIApp, key: str, hosts: Collection[str] = ()) -> None:
        self.app, self.key, self.hosts = app, key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", b"req_" + secrets.token_hex(16).encode())]
            await send(message)

        limited = limited_body(receive, MAX_FILE + MAX_JSON if scope["path"] == "/v1/files" else MAX_JSON)
        try:
            headers = dict(scope["headers"])
            self._check_host(headers.get(b"host"))
            if scope["path"] != "/health":
                self._check_key(headers.get(b"authorization", b"").decode("latin-1"))
            await self.app(scope, limited, send_with_id)
        except ApiError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send_with_id)
        except ClientDisconnect:
            line = f"{scope['method']} {scope['path']!r}: the client disconnected while sending"
            print(line, file=sys.stderr, flush=True)

    def _check_host(self, host: bytes | None) -> None:
        """Refuse a request whose Host header names neither loopback nor an allowed name; a browser always sends one.

        A web page can make its own name resolve to this machine (DNS rebinding); its visitor's browser then treats this
        server as the page's own. The browser still sends the name that it requested.
        """
        if host is None:
            return
        name = host.decode("latin-1").strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name.rstrip(".") not in (*LOOPBACK_NAMES, *(allowed.lower() for allowed in self.hosts)):
            message = (
                f"This server does not answer to the name {name[:80]!r}. If that name is meant to lead here, start the "
                f"server with: course serve --allow-host {name[:80]}"
            )
            raise ApiError(403, message, code="host_not_allowed")

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
                "auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            raise ApiError(401, message)
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            # as the hosted API shows it: only its beginning and its end
            shown = f"{key[:8]}{'*' * min(len(key) - 12, 40)}{key[-4:]}" if len(key) > 12 else "*" * len(key)
            message = f"Incorrect API key provided: {shown}. You can find your API key at {KEYS_PAGE}."
            raise ApiError(401, message, code="invalid_api_key")


def limited_body(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that refuses a body of more than `limit` bytes, once the client has sent four times as many or all.

    A client that is still sending would see a broken connection instead of the reason.
    """
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received <= limit:
            return message
        while message.get("more_body") and received < 4 * limit:
            message = await receive()
            received += len(message.get("body", b""))
        raise ApiError(413, f"The request is larger than the {limit:,} bytes allowed.", code="request_too_large")

    return receive_limited
