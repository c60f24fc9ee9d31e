"""Runs inside the sandbox: a server that imports torch once and forks a fresh process for every question.

The server itself runs no answer. It gets a socket for each question from the grader, hands it to a new process in name spaces
of its own (user, processes, mounts, network, IPC) with scratch folders of its own, and forgets it. In that process stand the
course's imports and one answer cell; it gets arguments and sends values. What is right is not known here.

There is no course in the sandbox: this file imports the standard library and `coding.py` beside it.
"""

import ast
import ctypes
import json
import os
import platform
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import coding

NAME_SPACES = 0x10000000 | 0x20000000 | 0x00020000 | 0x40000000 | 0x08000000  # user, pid, mount, net, ipc
SCRATCH = ("/tmp", "/dev/shm")
# What an answer has no business with: new processes and programs, name spaces, other processes' memory, and memory that its
# limit does not count (shmget, memfd_create).
REFUSED = {
    "x86_64": (
        0xC000003E,
        56,
        435,
        (57, 58, 59, 322, 272, 308, 165, 166, 155, 161, 101, 310, 311, 321, 323, 425, 250, 248, 298, 29, 319),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        (221, 281, 97, 268, 40, 39, 41, 51, 117, 270, 271, 280, 282, 425, 219, 217, 241, 194, 279),
    ),
}  # machine: (audit's number for it, clone, clone3, all others)
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the socket whose number or address is the first argument; the second holds the options as JSON."""
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
        _libc.prctl(36, 1, 0, 0, 0)  # orphans come to this process, which then can end and wait for them
    if options["heavy"]:
        import numpy  # noqa: F401
        import torch

        torch.set_num_threads(1)  # a fork keeps one thread only
    spaces = options["spaces"] and _can_separate()
    if options["scratch"] and not spaces:  # the question's process will share our name spaces, and our user
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a container's first process we then get none of its signals
        _libc.prctl(4, 0, 0, 0, 0)  # not dumpable: our memory in /proc is not its own to open
    control.send(json.dumps({"ready": True, "spaces": spaces}).encode())
    running = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not data:  # the grader is gone
            _end(running, spaces)
            os._exit(0)
        message = json.loads(data)
        said: dict[str, Any]
        if message["do"] == "start":
            try:
                running = _start(descriptors[0], control, spaces, options)
                said = {"started": running}
            except OSError as error:
                said = {"failed": str(error)}
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        else:
            said = {"ended": _end(running, spaces)}
            running = None
        control.send(json.dumps(said).encode())


def _limit(options: dict[str, Any]) -> None:
    for name, most in options["resources"].items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, ValueError, OSError):
            if options["spaces"]:  # a sandbox without limits is none; without one the submissions are trusted
                raise


def _can_separate() -> bool:
    """Whether a process in here may have name spaces of its own; some hosts allow one level only."""
    pid = os.fork()
    if pid == 0:
        try:
            _separate()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _call(found: int, what: str) -> None:
    if found != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _separate() -> None:
    user, group = os.getuid(), os.getgid()
    _call(_libc.unshare(NAME_SPACES), "unshare")
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)
    _call(_libc.mount(b"none", b"/", None, 0x40000 | 0x4000, None), "mount /")
    for folder in SCRATCH:
        _call(_libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0x2 | 0x4, b"size=64m,nr_inodes=4096,mode=700"), folder)
    # The server and other sandboxed processes must not even be seen.
    _call(_libc.mount(b"tmpfs", b"/proc", b"tmpfs", 0x1 | 0x2 | 0x4 | 0x8, b"size=4k,mode=500"), "/proc")


def _start(channel: int, control: socket.socket, spaces: bool, options: dict[str, Any]) -> int:
    """Fork the question's process; returns its number as seen from here."""
    if not spaces:
        pid = os.fork()
        if pid == 0:
            control.close()
            _answer(channel, options)
        return pid
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            control.close()
            os.close(reading)
            _separate()
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                _answer(channel, options)
            os.write(writing, b"%d" % pid)
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    while part := os.read(reading, 64):
        said += part
    os.close(reading)
    os.waitpid(between, 0)
    if not said:
        raise OSError("no name spaces for the question's process")
    return int(said)


def _end(pid: int | None, spaces: bool) -> list[int] | None:
    """Kill the process and all it has started; [signal or 0, exit status], or None if there was none."""
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGKILL) if spaces else os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # none is left
        pass
    return [os.WTERMSIG(status), 0] if os.WIFSIGNALED(status) else [0, os.WEXITSTATUS(status)]


def _drop_rights() -> None:
    _libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _call(_libc.capset(header, nothing), "capset")


def _refuse_processes() -> bool:
    """No process, no program and no name space from here on (threads may be); whether this machine can do that."""
    if sys.platform != "linux" or platform.machine() not in REFUSED:
        return False
    audit, clone, clone3, others = REFUSED[platform.machine()]
    allow, refuse, missing, kill = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
    load, equal, set_, above, give = 0x20, 0x15, 0x45, 0x35, 0x06
    lines = [
        (load, 0, 0, 4),
        (equal, 1, 0, audit),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        (above, 0, 1, 0x40000000),
        (give, 0, 0, kill),
    ]
    for number in others:
        lines += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    lines += [(equal, 0, 1, clone3), (give, 0, 0, missing)]  # then the C library takes clone for its threads
    lines += [(equal, 0, 3, clone), (load, 0, 0, 16), (set_, 1, 0, 0x10000), (give, 0, 0, refuse), (give, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    filter_ = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(program))
    _libc.prctl(38, 1, 0, 0, 0)
    return _libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0) == 0


def _answer(channel: int, options: dict[str, Any]) -> NoReturn:
    """The question's process; never returns."""
    try:
        os.setsid()  # a group is no part of a name space: kill(0) would reach the server
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        if channel != 3:
            os.dup2(channel, 3)
        os.closerange(4, 4096)
        if options["scratch"]:
            os.chdir("/tmp")
        if options["spaces"]:
            _drop_rights()
        sealed = _refuse_processes()
        _serve_question(3, sealed, options["reply_bytes"])
    finally:
        os._exit(0)


def _serve_question(
    descriptor: int,
    sealed: bool,
    most: int,
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
    question = receive()
    _seed(question["seed"])
    space, notes, error = _run_cell(question["setup"], question["cell"])
    function: Any = space.get(question["name"])
    send({"ready": {"notes": notes, "error": error, "defined": callable(function)}})
    encode, describe = coding.encode, _describe
    while True:
        call = receive()
        arguments = [coding.decode(part) for part in call["args"]]
        try:
            reply = {"n": call["n"], "ok": encode(function(*arguments))}
        except BaseException as raised:
            reply = {"n": call["n"], "err": describe(raised)}
        try:
            text = dumps(reply)
        except BaseException as raised:
            reply, text = {"n": call["n"], "err": describe(raised)}, ""
        if len(text) > most:
            reply = {"n": call["n"], "err": f"ValueError: the value returned is larger than {most:,} bytes"}
        send(reply)


def _seed(seed: int) -> None:
    """The same answer gives the same values at every grading, whatever chance it takes."""
    import random

    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _run_cell(setup: str, cell: str) -> tuple[dict[str, Any], list[str], str]:
    """(names, notes, error): an error leaves the names defined above it."""
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    notes, error = [], ""
    try:
        exec(setup, space)
        code, dropped = _compiled(cell)
        if dropped:
            notes.append(f"{dropped} line(s) for IPython only were left out")
        exec(code, space)
    except BaseException as raised:
        error = _describe(raised)
    return space, notes, error


def _compiled(cell: str) -> tuple[CodeType, int]:
    """Code of the cell; lines that only IPython reads (%magic, !command, name?) are left out if it is not Python."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(cell, "<answer>", "exec", dont_inherit=True), 0
    except SyntaxError as error:
        magic = re.compile(r"\s*(%%?[A-Za-z]|!\S|\?{1,2}\w)|\s*[\w.]+\?{1,2}\s*$|\s*\w+\s*=\s*(%[A-Za-z]|!\S)")
        kept = ["" if magic.match(line) else line for line in cell.splitlines()]
        dropped = sum(bool(line.strip()) for line in cell.splitlines()) - sum(bool(line.strip()) for line in kept)
        try:
            return compile("\n".join(kept), "<answer>", "exec", dont_inherit=True), dropped
        except SyntaxError:
            try:
                compile(cell, "<answer>", "exec", flags, dont_inherit=True)
            except SyntaxError:
                raise error from None
            raise SyntaxError("await at the top of a cell needs a notebook; leave it out of the answer cell") from None


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
