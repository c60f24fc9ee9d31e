"""What the kernel refuses an answer, and what it finds of the machine."""

import fcntl
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
from grading_fixtures import SHORT

from course_utils.grading import child, sandbox
from course_utils.grading.protocol import Died, value_of


@contextmanager
def a_sandbox():
    box = sandbox.Sandbox(sandbox.Isolation.BUBBLEWRAP, sandbox.NO_LIBRARIES, SHORT)
    try:
        yield box
    finally:
        box.close()


def first(cell, setup=""):
    return {"setup": setup, "cell": cell, "name": "f", "between": [], "kept": []}


def asked(cell, *calls, setup="", while_open=lambda: None):
    """What a cell's function `f` gives for each call's arguments, in a sandbox of its own."""
    with a_sandbox() as box, box.question() as question:
        ready = question.channel.ask(first(cell, setup), 20)["ready"]
        assert ready["defined"], ready
        replies = []
        for number, arguments in enumerate(calls):
            reply = question.channel.ask({"n": number, "args": list(arguments)}, 20)
            replies.append(value_of(reply, number))
        while_open()
        return replies


# Each statement makes one forbidden call and ends without an error if the kernel lets it.
FORBIDDEN = {
    "memfd_secret": "syscall(447, 0)",
    "memfd_create": "os.memfd_create('x')",
    "POSIX message queue": "syscall(240, b'/course', os.O_CREAT | os.O_RDWR, 0o600, None)",
    "SysV message queue": "syscall(68, 1234, 0o1666)",
    "SysV semaphores": "syscall(64, 1234, 1, 0o1666)",
    "SysV shared memory": "syscall(29, 1234, 4096, 0o1666)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "internet socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "netlink": "socket.socket(16, socket.SOCK_RAW, 0)",
    "kernel crypto": "socket.socket(38, socket.SOCK_SEQPACKET, 0)",
    "asking for a lock": "fcntl.fcntl(os.open('/grader/child.py', os.O_RDONLY), fcntl.F_GETLK, bytes(32))",
    "lock of the open file": "fcntl.fcntl(os.open('/grader/child.py', os.O_RDONLY), 36, bytes(32))",
    "lease": "fcntl.fcntl(os.open('/grader/child.py', os.O_RDONLY), 1024, fcntl.F_RDLCK)",
    "folder notices": "fcntl.fcntl(os.open('/usr', os.O_RDONLY), 1026, 1)",
    "inotify": "syscall(294, 0)",
    "fanotify": "syscall(300, 0, 0)",
    "keyring": "syscall(248, b'user', b'course', b'x', 1, -2)",
    "io_uring": "syscall(425, 1, ctypes.create_string_buffer(256))",
    "userfaultfd": "syscall(323, 0)",
    "bpf": "syscall(321, 0, ctypes.create_string_buffer(128), 128)",
    "perf events": "syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "page cache": "syscall(27, ctypes.c_void_p(0), 0, None)",
    "pidfd": "syscall(434, os.getpid(), 0)",
    "file handles": "syscall(303, -100, b'/usr', None, None, 0)",
    "new mount": "syscall(430, b'tmpfs', 0)",
    "fork": "os.fork()",
    "exec": "os.execv('/usr/bin/true', ['true'])",
    "name spaces": "syscall(272, 0)",
    "owner of a device": "os.chown('/dev/null', 65534, 65534)",
    "attribute of a device": "os.setxattr('/dev/null', 'user.x', b'1')",
}
# These seem to succeed, as libraries make them by the way, and do nothing.
WITHOUT_EFFECT = {
    "read lock": "fcntl.lockf(os.open('/grader/child.py', os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)",
    "whole-file lock": "fcntl.flock(os.open('/grader/child.py', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "mode of a device": "os.chmod('/dev/null', 0o600)",
    "times of a device": "os.utime('/dev/null', (1, 1))",
    "mode of a shared file": "os.chmod('/grader/child.py', 0o600)",
    "times of a shared file": "os.utime('/grader/child.py', (1, 1))",
    "waiting for a shared disk": "os.fsync(os.open('/grader/child.py', os.O_RDONLY))",
}
# What succeeds if it is not refused would be told by an errno that means "wrong arguments", as for mincore of nothing.
CELL = """
import ctypes, errno, fcntl, os, socket
libc = ctypes.CDLL(None, use_errno=True)
REFUSED = {errno.EPERM, errno.EROFS, errno.EACCES}
def syscall(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def f(statement):
    try:
        exec(statement, globals())
    except OSError as error:
        return errno.errorcode.get(error.errno, "?") if error.errno not in REFUSED else "refused"
    return "done"
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
def test_what_an_answer_has_no_business_with_is_refused():
    before = os.stat("/dev/null")
    replies = asked(CELL, *[[statement] for statement in FORBIDDEN.values()])
    assert {name: said for name, said in zip(FORBIDDEN, replies) if said != ("refused", None)} == {}
    after = os.stat("/dev/null")
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_mtime) == (
        stat.S_IMODE(before.st_mode), before.st_uid, before.st_mtime,
    )  # fmt: skip


def test_what_libraries_do_by_the_way_has_no_effect():
    """Neither on what other answers see, which is asked here while the answer still has the file open, nor afterwards."""
    files = [Path("/dev/null"), Path(child.__file__)]
    before = [file.stat() for file in files]

    def lock():
        with open(child.__file__) as file:  # raises if anybody has a lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    kept = [
        statement.replace("os.open(", "kept.append(os.open(").replace("RDONLY)", "RDONLY)) or kept[-1]")
        for statement in WITHOUT_EFFECT.values()
    ]
    replies = asked(f"kept = []\n{CELL}", *[[statement] for statement in kept], while_open=lock)
    assert {name: said for name, said in zip(WITHOUT_EFFECT, replies) if said != ("done", None)} == {}
    for file, was in zip(files, before):
        assert (file.stat().st_mode, file.stat().st_mtime, file.stat().st_uid) == (was.st_mode, was.st_mtime, was.st_uid)


@pytest.mark.parametrize(("work", "sleeps"), [("while True: pass", False), ("import time; time.sleep(60)", True)])
def test_the_server_tells_what_a_process_computes_and_whether_it_sleeps(work, sleeps):
    with a_sandbox() as box, box.question() as question:
        with pytest.raises(Died, match="timed out"):
            question.channel.ask(first(f"{work}\nf = 1"), 1)
        seconds, asleep = box.look()
        assert asleep == sleeps
        assert (seconds < 0.5) if sleeps else (seconds > 0.5)


HONEST = """
import array, asyncio, concurrent.futures, os, random, socket, sqlite3, tempfile, threading
def f(what):
    if what == "threads":
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return sum(pool.map(abs, range(-5, 0)))
    if what == "asyncio":
        async def later():
            await asyncio.sleep(0)
            return 7
        return asyncio.run(later())
    if what == "file":
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/x", "w") as handle:
                handle.write("text")
            return open(folder + "/x").read()
    if what == "sqlite":
        return sqlite3.connect(":memory:").execute("select 1 + 1").fetchone()[0]
    if what == "devices":
        with open("/dev/null", "wb") as null, open("/dev/urandom", "rb") as noise:
            return null.write(noise.read(8))
"""


def test_what_honest_answers_do_still_works():
    calls = {"threads": 15, "asyncio": 7, "file": "text", "sqlite": 2, "devices": 8}
    assert asked(HONEST, *[[what] for what in calls]) == [(value, None) for value in calls.values()]


PEEKING = """
import sys
def seen():
    frame, found = sys._getframe(), []
    while frame:
        found += [name for name, value in frame.f_locals.items() if "SEC" + "RET" in repr(value)]
        frame = frame.f_back
    return found
while_it_runs = seen()
def f():
    return while_it_runs + seen()
"""


def test_an_answer_does_not_see_the_text_of_the_solutions_it_builds_on():
    """Exercises that use an earlier one's function get it from the course; its text would be that exercise's answer."""
    assert asked(PEEKING, [], setup="def earlier():\n    return 'a'  # SECRET\n") == [([], None)]
