"""Runs inside the sandbox: a server that imports torch once and forks a fresh process for every question.

The server itself runs no answer. It gets a socket for each question from the grader, hands it to a new process in name
spaces of its own (user, processes, mounts, network, IPC) with scratch folders of its own, and forgets it. In that process
stand the course's imports and one answer cell; it gets arguments, call by call, and sends values. What is right is not known
here.

There is no course in the sandbox: this file imports the standard library, and three files beside it.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import coding
import running
from confine import confine

NAME_SPACES = 0x10000000 | 0x20000000 | 0x00020000 | 0x40000000 | 0x08000000  # user, pid, mount, net, ipc
SCRATCH = ("/tmp", "/dev/shm")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")  # the machine's own nodes, lent by bubblewrap
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 0x1000, 0x4000, 0x40000
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
    spaces = options["spaces"] and _can_separate(options["shown"])
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


def _can_separate(shown: list[str]) -> bool:
    """Whether a process in here may have name spaces of its own; some hosts allow one level only."""
    pid = os.fork()
    if pid == 0:
        try:
            _separate(shown)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _call(found: int, what: str) -> None:
    if found != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _separate(shown: list[str]) -> None:
    """Go into name spaces of one's own, with empty scratch folders; of `shown`, what lies in these stays to be seen."""
    user, group = os.getuid(), os.getgid()
    _call(_libc.unshare(NAME_SPACES), "unshare")
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)
    _mount(None, "/", PRIVATE | RECURSIVE)
    within = {place: os.open(place, os.O_PATH) for place in shown if place.startswith(tuple(f"{s}/" for s in SCRATCH))}
    for folder in SCRATCH:
        _mount("tmpfs", folder, NO_SETUID | NO_DEVICES, "size=64m,nr_inodes=4096,mode=700")
    for place, descriptor in within.items():
        os.makedirs(place)
        _mount(f"/proc/self/fd/{descriptor}", place, BIND | RECURSIVE)  # stays read-only, and covered where it was
        os.close(descriptor)
    for name in DEVICES:
        # An answer could change mode, owner and times of the machine's node: its user is the grader's, who may be root.
        if os.path.exists(f"/dev/{name}"):
            kept = os.statvfs(f"/dev/{name}").f_flag & (NO_SETUID | NO_DEVICES | NO_EXECUTION)
            _mount(None, f"/dev/{name}", REMOUNT | BIND | READ_ONLY | kept)
    closed = READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXECUTION
    if os.path.exists("/dev/pts"):
        _mount("tmpfs", "/dev/pts", closed, "size=4k,mode=500")
    # The server and other sandboxed processes must not even be seen.
    _mount("tmpfs", "/proc", closed, "size=4k,mode=500")


def _mount(source: str | None, target: str, flags: int, options: str = "") -> None:
    given = None if source is None else source.encode()
    _call(
        _libc.mount(given, target.encode(), b"tmpfs" if source == "tmpfs" else None, flags, options.encode() or None), target
    )


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
            _separate(options["shown"])
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
        sealed = confine()
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

    def others() -> dict[str, list[str]]:
        send({"others": True})
        return receive()

    question = receive()
    _seed()
    ran = running.run(question.pop("setup"), question["cell"], question["name"], others, _describe)
    function: Any = ran.names.get(question["name"])
    send({"ready": {"notes": ran.notes, "error": ran.error, "defined": callable(function)}})
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


def _seed() -> None:
    """The same answer gives the same values at every grading, whatever chance it takes. The cases have another seed."""
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
