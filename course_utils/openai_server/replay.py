"""A stand-in for a strong model's endpoint: chat completions that play back recorded answers.

A strong model can't run on a laptop without a network, but its recorded answers can be served there. Everything else is
real: HTTP on loopback, the openai client, token counts, errors, retries, idempotency keys and bills.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Troubles that the server can simulate: HTTP status, and seconds to wait before it is sent.
FAULTS = {"busy": (429, 0.0), "broken": (500, 0.0), "slow": (200, 0.3)}


class Replay:
    """A server on loopback that plays back recorded answers; a context manager that listens at `base_url`.

    Args:
        answer: function of messages that returns the recorded text, or None if nothing was recorded for them (error 404).
        model: name of the model in responses.
        trouble: (name in `FAULTS`, n) to simulate this fault at every n-th request that is not a repetition; None for none.
        seconds: time that an answer takes.

    Attributes:
        billed: idempotency key → output tokens, for each request that was answered and would be billed; a request without a
            key gets a unique one.
        log: keys of all requests received, in order, including repetitions and those that met with a fault.
    """

    def __init__(
        self,
        answer: Callable[[list[dict[str, Any]]], str | None],
        model: str = "recorded",
        trouble: tuple[str, int] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.answer, self.model, self.trouble, self.seconds = answer, model, trouble, seconds
        self.billed: dict[str, int] = {}
        self.log: list[str] = []
        self._mutex = threading.Lock()
        replay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                replay._handle(self)

            def do_GET(self) -> None:
                replay._send(self, 200, {"object": "list", "data": [{"id": replay.model, "object": "model"}]})

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Replay:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._mutex:
            key = handler.headers.get("Idempotency-Key") or f"request {len(self.log) + 1}"
            is_first = key not in self.log
            self.log.append(key)
            is_faulty = self.trouble and is_first and len(set(self.log)) % self.trouble[1] == 0
        if self.trouble and is_faulty:
            status, delay = FAULTS[self.trouble[0]]
            time.sleep(delay)
            if status != 200:
                headers = {"Retry-After": "0.05"} if status == 429 else {}
                error = {"message": f"a {self.trouble[0]} server", "type": "server_error", "code": None}
                self._send(handler, status, {"error": error}, headers)
                return
        time.sleep(self.seconds)
        text = self.answer(body["messages"])
        if text is None:
            error = {"message": "no answer was recorded for this", "type": "invalid_request_error", "code": None}
            self._send(handler, 404, {"error": error})
            return
        tokens_in = sum(len(str(m["content"])) for m in body["messages"]) // 4
        tokens_out = min(len(text) // 4, body.get("max_tokens") or 10**9)
        truncated = tokens_out < len(text) // 4
        with self._mutex:
            self.billed[key] = tokens_out  # once per key, however often the request is sent
        message = {"role": "assistant", "content": text[: 4 * tokens_out] if truncated else text, "refusal": None}
        reason = "length" if truncated else "stop"
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        answer = {
            "id": f"chatcmpl-{key[:12]}",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "usage": usage,
        }
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        self._send(handler, 200, {**answer, "choices": [choice]})

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
