"""A stand-in for a strong model's endpoint: chat completions with answers of the test's own, over real HTTP on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Replay:
    """A server that listens at `base_url` while its context lasts, and calls `answer` with each request's messages.

    Every `busy`-th request is refused with status 429, after which the client tries again. `log` holds the status of each.
    """

    def __init__(self, answer, busy):
        self.log, mutex = [], threading.Lock()
        log = self.log

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with mutex:
                    log.append(429 if (len(log) + 1) % busy == 0 else 200)
                    status = log[-1]
                if status == 429:
                    self.reply(429, {"error": {"message": "busy", "type": "server_error", "code": None}})
                    return
                message = {"role": "assistant", "content": answer(body["messages"])}
                choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
                frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "recorded"}
                self.reply(200, frame | {"choices": [choice]})

            def reply(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Retry-After-Ms": "50"}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
