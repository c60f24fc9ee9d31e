"""Starting the service: in this process (`course serve`), or in one of its own beside a notebook (`local_server`)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import models
from course_utils.errors import CourseError
from course_utils.openai_server import preflight

if TYPE_CHECKING:
    from openai import OpenAI

    from course_utils.openai_server.chat import Chat

KEY_FILE = "key"
PREFIX, MARK = "fine-tuning-service-", "temporary"  # of folders that nobody named, and of those alone
START_SECONDS = 120
CONTEXT = 2048


@dataclass(frozen=True)
class Options:
    """How the service is to run.

    Attributes:
        folder: where it keeps everything: files, jobs, models, its key.
        model: base model as `models.load` takes it; None for the machine's tier.
        names: further names for it, so that code written for a hosted model runs unchanged.
        host, port: where to listen; loopback only, port 0 for any free one.
        key: API key; None for the one in the folder, made at the first start.
        context: the most tokens of prompt and answer together, and of a training example.
        rows: answers at once.
        refuse: answer requests for jobs as OpenAI answers new organisations.
        raw_results: result files as CSV instead of base64 of it.
        requests_per_minute: more answer 429; None for no limit.
        token_budget: tokens after which everything answers 429; None for no limit.
        max_file_bytes: largest upload; None for the hosted service's 512 MB.
        jobs: whether jobs are worked on.
        allow_host: names under which the service may be asked, beside those of loopback: a proxy's in front of it.
        temporary: whether the folder goes when the service ends.
    """

    folder: str
    model: str | None = None
    names: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    key: str | None = None
    context: int = CONTEXT
    rows: int = 16
    refuse: bool = False
    raw_results: bool = False
    requests_per_minute: int | None = None
    token_budget: int | None = None
    max_file_bytes: int | None = None
    jobs: bool = True
    allow_host: tuple[str, ...] = ()
    temporary: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't work."""
        preflight.check_options(self)


def base_name(model: str | None) -> str:
    """The name under which a model is offered: its last part in small letters, which an `ft:` id can hold."""
    from course_utils import hardware

    name = model or models.TIERS[hardware.detect().tier].name
    return Path(name).name.lower().replace(":", "-")


class Loader:
    """The model and its engine, loaded when the first chat comes: a server that only trains needs no memory for them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loaded: Chat | None = None
        self._mutex = threading.Lock()

    async def get(self) -> Chat:
        """The chat; loads the model if it is the first time.

        Raises:
            ApiError: it could not be loaded.
        """
        if self.loaded is not None:
            return self.loaded
        return await asyncio.to_thread(self._load)

    def _load(self) -> Chat:
        from course_utils.openai_server.chat import Chat
        from course_utils.openai_server.engine import Engine
        from course_utils.openai_server.errors import ApiError

        with self._mutex:
            loaded = self.loaded
            if loaded is None:
                try:
                    engine = Engine(lambda: models.load(self.options.model), self.options.rows)
                except Exception as error:
                    raise ApiError(500, f"The model could not be loaded: {error}", type="server_error") from error
                loaded = self.loaded = Chat(engine, self.options.context)
        return loaded

    def close(self) -> None:
        """Stop the engine."""
        with self._mutex:
            if self.loaded:
                self.loaded.engine.close()


def serve(options: Options, ready: Callable[[str, str], None] | None = None) -> None:
    """Run the service until it is interrupted.

    Args:
        options: see there.
        ready: called with the address and the key once the port is open.

    Raises:
        CourseError: the folder is another server's, the port is taken, or the extra `server` is not installed.
    """
    _needs_extra()
    import uvicorn
    from filelock import FileLock, Timeout

    from course_utils.openai_server.app import build
    from course_utils.openai_server.jobs import Jobs, Runner
    from course_utils.openai_server.service import MAX_FILE, Service
    from course_utils.openai_server.store import Store

    # Shapes vary with the rows and columns of the batch; the default of `models.load` is for one training run.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")
    folder = Path(options.folder).expanduser().resolve()
    preflight.check_model(options.model)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / "server.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise CourseError(f"another server works in {folder}; stop it, or choose another --folder") from None
    except OSError as error:
        raise CourseError(f"cannot write to {folder} ({error.strerror}); choose another --folder") from error
    with lock, _removed_afterwards(folder if options.temporary else None):
        store = Store(folder)
        store.check()
        store.tidy()
        tempfile.tempdir = str(_emptied(folder / "incoming"))  # where uploads lie while they come in
        base, key = base_name(options.model), options.key or _key(folder)
        listening = _listen(options)
        loader = Loader(options)
        runner = Runner(store, options.model, options.context, keep_going=options.jobs)
        service = Service(
            store=store,
            jobs=Jobs(store, base, options.names, options.refuse),
            runner=runner,
            chat=loader,
            base=base,
            key=key,
            names=options.names,
            hosts=(options.host, *options.allow_host),
            base64_results=not options.raw_results,
            requests_per_minute=options.requests_per_minute,
            token_budget=options.token_budget,
            max_file=options.max_file_bytes or MAX_FILE,
        )
        # No limit on keep-alive below the client's, or a request may meet a closing connection.
        config = uvicorn.Config(
            build(service), log_level="warning", access_log=False, timeout_keep_alive=75, timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        if ready:
            ready(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", key)
        try:
            with _ended_by_a_signal():
                server.run(sockets=[listening])
        finally:
            runner.close()
            loader.close()
            listening.close()


def _needs_extra() -> None:
    from importlib.util import find_spec

    missing = [
        name for name in ("fastapi", "uvicorn", "openai", "python_multipart", "llguidance") if find_spec(name) is None
    ]
    if missing:
        raise CourseError(f"the local server needs {', '.join(missing)}: pip install 'finetuning-course[server]'")


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # The protocol is named: only then does asyncio switch Nagle's algorithm off, without which a body comes 40 ms late.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
        listening.listen(128)  # who connects before the first request can be read waits
    except OSError as error:  # in use, or not allowed
        listening.close()
        raise CourseError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}); choose another --port"
        ) from error
    return listening


def _key(folder: Path) -> str:
    """The folder's key, made once; readable by its owner only."""
    file = folder / KEY_FILE
    with contextlib.suppress(OSError):
        if key := file.read_text(encoding="ascii").strip():
            return key
    key = f"sk-local-{secrets.token_urlsafe(24)}"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as target:
        target.write(key)
    return key


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """SIGTERM ends the block and not the process.

    uvicorn sends itself again the signal that ended it, and then nothing that comes after it would run.
    """
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _removed_afterwards(folder: Path | None) -> Iterator[None]:
    try:
        yield
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove temporary folders of servers that were killed and so could not do it themselves.

    A server holds a lock in its folder for as long as it lives. Where there is none yet, one may be starting.
    """
    from filelock import FileLock, Timeout

    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            mine = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
            lock = folder / "server.lock"
            if mine and not folder.is_symlink() and (folder / MARK).exists() and lock.exists():
                with FileLock(lock, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


class LocalServer:
    """The service in a process of its own; a context manager.

    Attributes:
        base_url, api_key: what an OpenAI client is to be given.
        folder: where it keeps everything.
        process: the process.
    """

    def __init__(self, options: Options, process: subprocess.Popen[bytes], base_url: str, api_key: str) -> None:
        self.options, self.process, self.base_url, self.api_key = options, process, base_url, api_key
        self.folder = Path(options.folder)

    def client(self, **options: Any) -> OpenAI:
        """An official client that talks to this server; options are `openai.OpenAI`'s."""
        from openai import OpenAI

        return OpenAI(base_url=self.base_url, api_key=self.api_key, **options)

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the serving process; one that trains is not counted."""
        import psutil

        resident: int = psutil.Process(self.process.pid).memory_info().rss
        return resident

    def adapter_folder(self, name: str) -> Path:
        """Where the weights of a fine-tuned model lie, as PEFT writes them.

        Raises:
            CourseError: there is no such model.
        """
        from course_utils.openai_server.store import Store

        store = Store(self.folder)
        model = store.get("model", name)
        if model is None:
            raise CourseError(f"{name} is no fine-tuned model of this server; client.models.list() has their names")
        return store.model_folder(model["_folder"])

    def stop(self) -> None:
        """End it; what it keeps stays in its folder."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()  # it takes this for the end, also if this process is killed
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.options.temporary:  # if it could not do it itself
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End it as a power cut would."""
        atexit.unregister(self.stop)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"LocalServer(base_url={self.base_url!r}, folder={str(self.folder)!r})"


def local_server(folder: str | Path | None = None, **options: Any) -> LocalServer:
    """Start the service on a free port of this machine, in a process that ends with this one.

    Args:
        folder: where it keeps everything. Started again on the same folder it goes on where it stopped. None for a temporary
            one, which goes when the service ends.
        options: further fields of `Options`.

    Raises:
        CourseError: it did not start, and what it said.
    """
    _needs_extra()
    Options(folder="", **options)  # what can't work is said before anything is made
    if folder is None:
        sweep()
        options["temporary"] = True
        folder = tempfile.mkdtemp(prefix=PREFIX)
        (Path(folder) / MARK).touch()
    chosen = Options(folder=str(folder), **options)
    Path(chosen.folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    log = Path(chosen.folder) / "server.log"
    command = [sys.executable, "-m", "course_utils.openai_server", json.dumps(vars(chosen))]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as errors:
        begin = errors.tell()
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
        said = log.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines() or ["no message"]
        if chosen.temporary:
            shutil.rmtree(chosen.folder, ignore_errors=True)
        raise CourseError(f"the local server did not start: {said[-1]}")
    found = json.loads(line)
    server = LocalServer(chosen, process, found["base_url"], found["key"])
    atexit.register(server.stop)
    return server


def main(arguments: list[str]) -> int:
    """What `local_server` runs: options as JSON, the address as JSON on its output, the end when its input closes."""
    given = json.loads(arguments[0])
    options = Options(**{**given, "names": tuple(given["names"]), "allow_host": tuple(given["allow_host"])})

    def ready(base_url: str, key: str) -> None:
        print(json.dumps({"base_url": base_url, "key": key}), flush=True)
        threading.Thread(target=_end_with_the_parent, daemon=True).start()

    try:
        serve(options, ready)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _end_with_the_parent() -> None:
    import signal

    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15)
    os._exit(1)
