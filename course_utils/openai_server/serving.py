"""Starts the service: in this process (`course serve`), or in a process of its own next to a notebook (`local_server`)."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.openai_server.options import Options, check_model

if TYPE_CHECKING:
    from openai import OpenAI


START_SECONDS = 120


def serve(options: Options, ready: Callable[[str, str], None] | None = None) -> None:
    """Run the service until it is interrupted; from then on SIGTERM ends this process, with exit status 0.

    Args:
        options: see `Options`.
        ready: called with the base URL and the key once the port is open.

    Raises:
        CourseError: another server uses the folder, the port is taken, or the extra `server` is not installed.
    """
    _check_extra()
    import uvicorn
    from filelock import FileLock, Timeout

    from course_utils.openai_server.app import Service, build
    from course_utils.openai_server.store import Store

    # Shapes vary with the rows and columns of the batch; the limit that `models.load` sets is for one training run.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")
    folder = Path(options.folder).expanduser().resolve()
    check_model(options.model)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / "server.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise CourseError(f"another server is using {folder}; stop it, or choose another --folder") from None
    except OSError as error:
        raise CourseError(f"cannot write to {folder} ({error.strerror}); choose another --folder") from error
    with lock, contextlib.ExitStack() as afterwards:
        if options.temporary:
            afterwards.callback(shutil.rmtree, folder, ignore_errors=True)
        store = Store(folder)
        store.check()
        store.tidy()
        incoming = folder / "incoming"  # for uploads while they arrive
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(mode=0o700)
        tempfile.tempdir = str(incoming)
        key = options.key or _read_or_create_key(folder)
        listening_socket = afterwards.enter_context(_open_socket(options))
        service = Service(options, store)
        afterwards.callback(service.close)
        # The keep-alive timeout must not be shorter than the client's, or a request may meet a closing connection.
        config = uvicorn.Config(
            build(service, key), log_level="warning", access_log=False, timeout_keep_alive=75, timeout_graceful_shutdown=5
        )
        # uvicorn raises the signal that stopped it again, which would end the process before the folder is tidied.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if ready:  # who waits for it may end at once, and the service with it: the handler is there already
            ready(f"http://127.0.0.1:{listening_socket.getsockname()[1]}/v1", key)
        uvicorn.Server(config).run(sockets=[listening_socket])


def _check_extra() -> None:
    from importlib.util import find_spec

    packages = ("fastapi", "uvicorn", "openai", "python_multipart", "llguidance")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise CourseError(f"the local server needs {', '.join(missing)}: pip install 'finetuning-course[server]'")


def _open_socket(options: Options) -> socket.socket:
    # The protocol is given because only then does asyncio disable Nagle's algorithm, which would delay bodies by 40 ms.
    listening_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening_socket.bind(("127.0.0.1", options.port))
        listening_socket.listen(128)  # clients that connect before requests can be read have to wait
    except OSError as error:  # in use, or not allowed
        listening_socket.close()
        message = f"cannot listen on 127.0.0.1:{options.port} ({error.strerror}); choose another --port"
        raise CourseError(message) from error
    return listening_socket


def _read_or_create_key(folder: Path) -> str:
    """The folder's API key, created once and readable only by its owner."""
    file = folder / "key"
    with contextlib.suppress(OSError):
        if key := file.read_text(encoding="ascii").strip():
            return key
    key = f"sk-local-{secrets.token_urlsafe(24)}"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as target:
        target.write(key)
    return key


class LocalServer:
    """The service in a process of its own; a context manager that stops it at the end.

    Attributes:
        base_url, api_key: arguments for an OpenAI client.
        folder: folder for everything that it stores.
        process: the server process.
    """

    def __init__(self, options: Options, process: subprocess.Popen[bytes], base_url: str, api_key: str) -> None:
        self.options, self.process, self.base_url, self.api_key = options, process, base_url, api_key
        self.folder = Path(options.folder)

    def client(self, **options: Any) -> OpenAI:
        """Return an official client for this server; further arguments are those of `openai.OpenAI`."""
        from openai import OpenAI

        return OpenAI(base_url=self.base_url, api_key=self.api_key, **options)

    def adapter_folder(self, name: str) -> Path:
        """Return the folder with the weights of a fine-tuned model, in PEFT's format.

        Raises:
            CourseError: there is no such model.
        """
        from course_utils.openai_server.store import Store

        store = Store(self.folder)
        model = store.get("model", name)
        if model is None:
            raise CourseError(f"{name} is not a fine-tuned model of this server; client.models.list() lists them")
        return store.model_folder(model["_folder"])

    def stop(self) -> None:
        """Stop the server; its folder is kept unless it is temporary."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()  # it stops when its input closes, also if this process is killed
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.options.temporary:  # in case the server could not do it itself
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def local_server(folder: str | Path | None = None, **options: Any) -> LocalServer:
    """Start the service on a free port of this machine, in a process that ends with this one.

    Args:
        folder: folder for everything it stores; on a folder used before, the server resumes where the last one stopped. None
            for a temporary folder, which is deleted when the service ends.
        options: further fields of `Options`.

    Raises:
        CourseError: the server did not start; the message quotes its last line of output.
    """
    _check_extra()
    Options(folder="", **options)  # refuses invalid options before anything is created
    if folder is None:
        folder, options["temporary"] = tempfile.mkdtemp(prefix="fine-tuning-service-"), True
    resolved = Options(folder=str(folder), **options)
    Path(resolved.folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    log = Path(resolved.folder) / "server.log"
    command = [sys.executable, "-m", "course_utils.openai_server", json.dumps(vars(resolved))]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as errors:
        log_start = errors.tell()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    if not line:
        process.wait()
        error_lines = log.read_bytes()[log_start:].decode("utf-8", "replace").strip().splitlines() or ["no message"]
        if resolved.temporary:
            shutil.rmtree(resolved.folder, ignore_errors=True)
        raise CourseError(f"the local server did not start: {error_lines[-1]}")
    address = json.loads(line)
    server = LocalServer(resolved, process, address["base_url"], address["key"])
    atexit.register(server.stop)
    return server
