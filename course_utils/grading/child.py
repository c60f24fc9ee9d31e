"""Runs inside the sandbox: a server that imports libraries once and forks a fresh process for every question.

The server itself never runs an answer. For each question the grader passes it a socket, which it hands to a new process
with its own namespaces (user, processes, mounts, network, IPC) and its own scratch folders. That process runs the lesson's
imports and one answer cell, then receives arguments call by call and sends back values. The expected values are never in
the sandbox.

Whether a call changed its arguments is seen in the answer's own process, so that an answer that reaches into this file's
frames can hide it. That stays open; it forges no value, because values are compared outside.

The course is not installed in the sandbox: this file imports only the standard library and the files that `sandbox` puts
beside it.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

# Where there is no sandbox, one of the files lies in another folder of the course; in a sandbox all are together.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "exercises"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import running
import values
from confine import confine
from libraries import foreign

del sys.path[1]

NAME_SPACES = 0x10000000 | 0x20000000 | 0x00020000 | 0x40000000 | 0x08000000  # user, pid, mount, net, ipc
STANDARD = ("collections", "dataclasses", "decimal", "fractions", "itertools", "random", "re", "statistics", "typing")
SCRATCH = ("/tmp", "/dev/shm")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")  # the host's own device nodes, bound by bubblewrap
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the grader until it closes the connection.

    The first command-line argument is the descriptor or the address of the socket to serve, the second has the options as
    JSON.
    """
    options = json.loads(sys.argv[2])
    if sys.argv[1].isdigit():
        control = socket.socket(fileno=int(sys.argv[1]))
    else:
        control = socket.socket(socket.AF_UNIX)
        control.connect(sys.argv[1])
    control.set_inheritable(False)
    sys.path += options["paths"]
    _limit(options)
    if sys.platform == "linux":
        _libc.prctl(36, 1, 0, 0, 0)  # adopt orphaned processes, so that they can be killed and waited for
    _preload(options["preload"])
    own_namespaces = options["own_namespaces"] and _can_separate(options["shown"])
    if options["scratch"] and not own_namespaces:  # the question's process will share this process's namespaces and user
        # With the default handler, the kernel protects a container's first process from the question's signals.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _libc.prctl(4, 0, 0, 0, 0)  # not dumpable, so that the question cannot open this process's memory in /proc
    control.send(json.dumps({"ready": True, "own_namespaces": own_namespaces}).encode())
    question_pid = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not data:  # the grader is gone
            _end(question_pid, own_namespaces)
            os._exit(0)
        reply: dict[str, Any]
        match json.loads(data)["do"]:
            case "start":
                try:
                    question_pid = _start(descriptors[0], control, own_namespaces, options)
                    reply = {"started": question_pid}
                except OSError as error:
                    reply = {"failed": str(error)}
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
            case "look":  # how much processor time the question's process has used, and whether it sleeps
                reply = {"seen": None if question_pid is None else _look(question_pid)}
            case "end":
                reply = {"ended": _end(question_pid, own_namespaces)}
                question_pid = None
        control.send(json.dumps(reply).encode())


def _preload(modules: list[str]) -> None:
    """Load what answers import, and what a library loads at its first use, so that no answer's time is spent on it."""
    for module in (*STANDARD, *modules):
        with contextlib.suppress(ImportError):  # not on this machine
            importlib.import_module(module)
    _seed()
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy.linalg.norm(numpy.ones((2, 2)) @ numpy.ones((2, 2)))
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(1)  # only one thread survives a fork
        torch.nn.functional.log_softmax(torch.ones(2, 2) @ torch.ones(2, 2), dim=-1).sum().item()


def _limit(options: dict[str, Any]) -> None:
    for name, limit in options["resources"].items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, ValueError, OSError):
            if options["own_namespaces"]:  # a sandbox must enforce its limits; without a sandbox the submissions are trusted
                raise


def _can_separate(shown: list[str]) -> bool:
    """Whether a process in here may create its own namespaces; some hosts allow only one level."""
    pid = os.fork()
    if pid == 0:
        try:
            _separate(shown)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _call(result: int, call: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


def _separate(shown: list[str]) -> None:
    """Enter new namespaces with empty scratch folders; folders of `shown` that lie inside a scratch folder stay visible."""
    user, group = os.getuid(), os.getgid()
    _call(_libc.unshare(NAME_SPACES), "unshare")
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)
    _mount(None, "/", PRIVATE | RECURSIVE)
    visible_scratch = {path: os.open(path, os.O_PATH) for path in shown if path.startswith(tuple(f"{s}/" for s in SCRATCH))}
    for folder in SCRATCH:
        _mount("tmpfs", folder, NO_SETUID | NO_DEVICES, "size=64m,nr_inodes=4096,mode=700")
    for path, descriptor in visible_scratch.items():
        os.makedirs(path)
        _mount(f"/proc/self/fd/{descriptor}", path, BIND | RECURSIVE)  # stays read-only, and hidden at its old place
        os.close(descriptor)
    for name in DEVICES:
        # An answer runs as the grader's user, who may be root, and could otherwise change the mode, owner and times of the
        # host's device node.
        if os.path.exists(f"/dev/{name}"):
            inherited_flags = os.statvfs(f"/dev/{name}").f_flag & (NO_SETUID | NO_DEVICES | NO_EXECUTION)
            _mount(None, f"/dev/{name}", REMOUNT | BIND | READ_ONLY | inherited_flags)
    locked_flags = READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXECUTION
    if os.path.exists("/dev/pts"):
        _mount("tmpfs", "/dev/pts", locked_flags, "size=4k,mode=500")
    # The server and other sandboxed processes must not even be visible.
    _mount("tmpfs", "/proc", locked_flags, "size=4k,mode=500")


def _mount(source: str | None, target: str, flags: int, options: str = "") -> None:
    source_bytes = None if source is None else source.encode()
    _call(
        _libc.mount(source_bytes, target.encode(), b"tmpfs" if source == "tmpfs" else None, flags, options.encode() or None),
        target,
    )


def _start(channel: int, control: socket.socket, own_namespaces: bool, options: dict[str, Any]) -> int:
    """Fork the question's process; returns its pid as seen from here."""
    if not own_namespaces:
        pid = os.fork()
        if pid == 0:
            control.close()
            _answer(channel, options)
        return pid
    reading, writing = os.pipe()
    intermediate_pid = os.fork()
    if intermediate_pid == 0:
        try:
            control.close()
            os.close(reading)
            _separate(options["shown"])
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                _answer(channel, options)
            os.write(writing, b"%d" % pid)
        finally:
            os._exit(0)
    os.close(writing)
    pid_text = b""
    while part := os.read(reading, 64):
        pid_text += part
    os.close(reading)
    os.waitpid(intermediate_pid, 0)
    if not pid_text:
        raise OSError("no namespaces for the question's process")
    return int(pid_text)


def _look(pid: int) -> tuple[float, bool] | None:
    """Processor time that a process has used, in seconds, and whether it sleeps; None if this system does not say.

    It sleeps if all its threads wait for something other than processor and disk: then a busy machine does not delay it.
    """
    try:
        seconds = time.clock_gettime((~pid << 3) | 2)  # Linux's number for the clock of another process
        states = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as file:
                states.append(file.read().rpartition(")")[2].split()[0])
    except (OSError, IndexError):
        return None
    return seconds, not {"R", "D"} & set(states)


def _end(pid: int | None, own_namespaces: bool) -> list[int] | None:
    """Kill the process and everything it started; [signal or 0, exit status], or None if there was no process."""
    if pid is None:
        return None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL) if own_namespaces else os.killpg(pid, signal.SIGKILL)
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None
    with contextlib.suppress(ChildProcessError):  # none is left
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [os.WTERMSIG(status), 0] if os.WIFSIGNALED(status) else [0, os.WEXITSTATUS(status)]


def _answer(channel: int, options: dict[str, Any]) -> NoReturn:
    """The question's process; never returns."""
    try:
        os.setsid()  # namespaces do not separate process groups: kill(0) would reach the server
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        if channel != 3:
            os.dup2(channel, 3)
        os.closerange(4, 4096)
        if options["scratch"]:
            os.chdir("/tmp")
        if options["own_namespaces"]:
            _libc.prctl(38, 1, 0, 0, 0)  # no new privileges
            header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
            _call(_libc.capset(header, nothing), "capset")
        sealed = confine()
        _serve_question(3, sealed, options["reply_bytes"])
    finally:
        os._exit(0)


def _serve_question(
    descriptor: int,
    sealed: bool,
    max_bytes: int,
    read: Callable[[int, int], bytes] = os.read,
    write: Callable[[int, bytes], int] = os.write,
    dumps: Callable[[Any], str] = json.dumps,
    loads: Callable[[bytes], Any] = json.loads,
) -> NoReturn:
    buffer = b""

    def receive() -> Any:
        nonlocal buffer
        while b"\n" not in buffer:
            part = read(descriptor, 1 << 20)
            if not part:
                os._exit(0)
            buffer += part
        line, _, buffer = buffer.partition(b"\n")
        return loads(line)

    def send(message: Any) -> None:
        data = dumps(message).encode() + b"\n"
        while data:
            data = data[write(descriptor, data) :]

    send({"hello": sealed})

    def others() -> dict[str, list[str]]:
        send({"others": True})
        return receive()

    question = receive()
    _seed()
    cell, name, between = question["cell"], question["name"], question["between"]
    # Nothing here keeps the setup: it may hold solutions of earlier exercises, and an answer can look into this frame.
    names, notes, error = running.run(question.pop("setup"), cell, name, between, others, _describe)
    function: Any = names.get(name)
    library = foreign(function) if callable(function) else ""
    send({"ready": {"notes": notes, "error": error, "defined": callable(function), "library": library}})
    encode, describe = values.encode, _describe
    while True:
        call = receive()
        arguments = [values.decode(part) for part in call["args"]]
        try:
            reply = {"n": call["n"], "ok": encode(function(*arguments))}
            reply["changed"] = any(encode(arguments[place]) != call["args"][place] for place in question["kept"])
        except BaseException as raised:
            reply = {"n": call["n"], "err": describe(raised)}
        try:
            text = dumps(reply)
        except BaseException as raised:
            reply, text = {"n": call["n"], "err": describe(raised)}, ""
        if len(text) > max_bytes:
            reply = {"n": call["n"], "err": f"ValueError: the returned value is larger than {max_bytes:,} bytes"}
        send(reply)


def _seed() -> None:
    """Seed the random generators, so that an answer that uses them gives the same values at every grading.

    The cases have another seed.
    """
    import random

    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        text = "(an error whose text cannot be shown)"
    if isinstance(error, SyntaxError) and error.lineno:
        text = f"{error.msg} (line {error.lineno}: {(error.text or '').strip()[:80]})"
    return f"{type(error).__name__}: {text}"[:300]


if __name__ == "__main__":
    main()
