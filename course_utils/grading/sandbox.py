"""Runs answers in a sandbox of bubblewrap or Docker, with a server inside that forks a process for every question.

The sandbox has its own users, processes, network and mounts. It sees the system's libraries, the interpreter and the
packages that answers may use, all read-only, and of the course only five files that contain no answers; no home, no inbox,
no results, no environment. Each question's process is isolated once more (`child`), so that no answer finds anything
another one left.

A Docker container sees the same folders of this machine, read-only, on top of an image that contains only links, so that
answers run with the same versions as the course and nothing has to be built or downloaded. Docker allows no namespaces
inside, so a container is used for one question only, and the answer shares it with the server; bubblewrap is several times
faster.

In both, answers may make the same system calls, and the same channels between answers remain open (`confine`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.exercises import libraries, values
from course_utils.grading.places import emptied_folders, package_folders, shown, shown_folders, to_cover
from course_utils.grading.protocol import Channel, Died, Limits

START_SECONDS = 120  # torch from a cold disk
SPARE_BYTES = 256_000_000  # a container's memory beyond the answer's limit, for what that limit does not count
ROOT_FOLDERS = ("/lib", "/lib64", "/lib32", "/bin", "/sbin")  # beside /usr; mostly links into it
IMAGE = "finetuning-course-links"  # name of the Docker image; see _layout
# All of the course that a sandbox sees.
INSIDE = tuple(Path(__file__).parent / name for name in ("child.py", "confine.py", "running.py"))
INSIDE += (Path(libraries.__file__), Path(values.__file__))
# Modules that a sandbox can import before it runs answers: imports take seconds on a busy machine, and no answer is to pay
# for them. Each tuple contains the one before it.
NO_LIBRARIES: tuple[str, ...] = ()
TENSOR_LIBRARIES = ("numpy", "torch")
ALL_LIBRARIES = (
    *TENSOR_LIBRARIES, "pandas", "scipy.special", "scipy.stats", "scipy.signal", "scipy.optimize", "scipy.spatial.distance",
    "sympy", "networkx", "matplotlib.pyplot", "tqdm.auto", "sortedcontainers",
)  # fmt: skip
CONTAINER = "finetuning-course-grading-"
# Set in the environment of every sandbox process, so that leftover processes can be found. If the grader's own environment
# has the variable, its value is a prefix of theirs, which tells its sandboxes from those of another grading on the machine.
ENVIRONMENT_MARKER = "COURSE_GRADING"


class Isolation(StrEnum):
    """What separates an answer from the machine that grades; the values are those that the result files contain."""

    BUBBLEWRAP = "bubblewrap"
    DOCKER = "docker"
    NONE = "none"


class LibrariesNotLoaded(Exception):
    """The answer needs modules that this sandbox has not imported; the answer has not run yet."""


class SandboxLost(Exception):
    """The sandbox itself failed, not the answer; the caller starts another sandbox."""


def require(allow_unsandboxed: bool) -> Isolation:
    """Return the best isolation that this machine has: bubblewrap, else Docker, else none if that is allowed.

    Args:
        allow_unsandboxed: whether answers may run without any isolation if this machine has neither.

    Raises:
        CourseError: this machine has neither, and answers may not run without; or it is no POSIX system.
    """
    if os.name != "posix":
        raise CourseError("grading needs Linux for its sandbox: grade in WSL, in a virtual machine or on a server")
    problems = []
    for isolation, examine in ((Isolation.BUBBLEWRAP, bubblewrap_problem), (Isolation.DOCKER, docker_problem)):
        problem = examine()
        if not problem:
            return isolation
        problems.append(problem)
    if allow_unsandboxed:
        return Isolation.NONE
    raise CourseError(
        f"{'; '.join(problems)}; and grading runs other people's code. Install bubblewrap (Debian, Ubuntu: apt install "
        "bubblewrap), grade on a Linux machine that has it, or pass --trust if you know everyone who wrote these submissions"
    )


def bubblewrap_problem() -> str:
    """Return why bubblewrap cannot be used on this machine; "" if it can."""
    if not shutil.which("bwrap"):
        return "bubblewrap (the command bwrap) is not installed"
    trial = subprocess.run([*_bwrap(), "/usr/bin/true"], capture_output=True, text=True, check=False)
    return "" if trial.returncode == 0 else f"bubblewrap does not work here ({trial.stderr.strip()[:200]})"


def docker_problem() -> str:
    """Return why Docker cannot be used on this machine; "" if it can."""
    if not shutil.which("docker"):
        return "Docker is not installed"
    if sys.platform != "linux":
        return "Docker on this system cannot show this machine's Python to a container"
    try:
        if _ask_docker("image", "inspect", _image()):
            problem = _ask_docker("import", "-", _image(), input_bytes=_layout())
            if problem:
                return problem
        return _ask_docker(*_docker(f"finetuning-course-trial-{uuid.uuid4().hex}", 2**30)[1:], _image(), "/usr/bin/true")
    except subprocess.TimeoutExpired:
        return f"Docker does not answer within {START_SECONDS} s"


def _ask_docker(*arguments: str, input_bytes: bytes = b"") -> str:
    """Docker's error message, or ""."""
    completed = subprocess.run(
        ["docker", *arguments], input=input_bytes, capture_output=True, check=False, timeout=START_SECONDS
    )
    return (
        f"Docker does not work here ({completed.stderr.decode(errors='replace').strip()[:200]})"
        if completed.returncode
        else ""
    )


def _layout() -> bytes:
    """The image's only content: the links in this machine's root, so that /lib cannot reveal what is hidden in /usr/lib."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in map(Path, ROOT_FOLDERS):
            if folder.is_symlink():
                link = tarfile.TarInfo(str(folder).lstrip("/"))
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(folder)
                archive.addfile(link)
    return buffer.getvalue()


def _image() -> str:
    return f"{IMAGE}:{hashlib.sha256(_layout()).hexdigest()[:12]}"


def _docker(name: str, memory: int) -> list[str]:
    command = [
        *("docker", "run", "--rm", "--pull", "never", "--name", name, "--network", "none", "--ipc", "private"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"),
        *("--user", "65534:65534", "--hostname", "sandbox", "--pids-limit", "64", "--log-driver", "none"),
        *("--memory", str(memory), "--memory-swap", str(memory)),
        *("--tmpfs", "/tmp:rw,nosuid,nodev,size=64m,nr_inodes=4096,mode=1777", "--shm-size", "64m", "--workdir", "/tmp"),
    ]
    for path in ("/usr", *ROOT_FOLDERS, "/etc/ld.so.cache"):
        if Path(path).exists() and not Path(path).is_symlink():
            command += ["--volume", f"{path}:{path}:ro"]
    return command


def _bwrap() -> list[str]:
    command = [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
        *("--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr"),
    ]
    for folder in map(Path, ROOT_FOLDERS):
        if folder.is_symlink():
            command += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    if Path("/etc/ld.so.cache").exists():
        command += ["--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    return command


def _mounts(hidden: tuple[Path, ...]) -> list[tuple[str, bool]]:
    """(path, whether it is shown, or else empty), a folder before what lies in it."""
    shown_or_empty = dict.fromkeys(emptied_folders(), False) | dict.fromkeys(shown(), True)
    return sorted((shown_or_empty | dict.fromkeys(map(str, to_cover(hidden)), False)).items())


class Sandbox:
    """One sandbox with its server, used by one thread.

    Attributes:
        preloaded: the modules that the server imported when it started.
        own_namespaces: whether every question gets its own namespaces; if not, the sandbox can run only one question.
        fresh: whether no question has run in it yet.
    """

    def __init__(
        self, isolation: Isolation, preload: tuple[str, ...], limits: Limits, hidden: tuple[Path, ...] = ()
    ) -> None:
        """Start the sandbox and its server.

        Args:
            isolation: what `require` returned.
            preload: modules to import before the first question: one of the constants above.
            limits: the limits for every question.
            hidden: folders that must stay invisible even if they lie inside a visible folder.

        Raises:
            SandboxLost: the sandbox does not start; the text says why.
        """
        self.isolation, self.preloaded, self.limits = isolation, preload, limits
        self.fresh, self._started_at = True, time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        if isolation is Isolation.DOCKER:
            self._start_container(preload, hidden)
        else:
            self._control, inner = socket.socketpair()
            try:
                self._process = self._popen(
                    self._command(inner.fileno(), preload, hidden), pass_fds=[inner.fileno()], env=_environment()
                )
            finally:
                inner.close()
        try:
            self.own_namespaces = bool(self._receive(START_SECONDS).get("own_namespaces"))
        except SandboxLost:
            self.close()
            raise

    @contextmanager
    def question(self) -> Iterator[QuestionProcess]:
        """Start a new process for a question; it ends with the context.

        Raises:
            SandboxLost: the server cannot start a process.
        """
        self.fresh = False
        grader_end, sandbox_end = socket.socketpair()
        with closing(Channel(grader_end, self.limits, self.look)) as channel:
            with sandbox_end:
                reply = self._ask("start", [sandbox_end.fileno()])
            if "started" not in reply:
                raise SandboxLost(f"no process for a question: {reply.get('failed', 'the sandbox starts no process')}")
            try:
                sealed = bool(channel.first(30).get("hello"))  # sent before any line of the answer has run
            except Died as error:
                raise SandboxLost(f"no process for a question: {error}") from error
            process = QuestionProcess(channel, sealed)
            try:
                yield process
            finally:
                channel.close()
                number, status = self._ask("end")["ended"] or (0, 0)
                process.ended = number, status

    def look(self) -> tuple[float, bool] | None:
        """Return the processor time that the question's process has used, and whether it sleeps; None if nobody can tell."""
        usage = self._ask("look")["seen"]
        return usage and (usage[0], usage[1])

    @property
    def usable(self) -> bool:
        """Whether another question may run in this sandbox."""
        return self._process.poll() is None and (self.fresh or self.own_namespaces or self.isolation is Isolation.NONE)

    def close(self) -> None:
        """End the server and everything that it started."""
        self._control.close()
        try:
            self._process.wait(0.5 if self.isolation is Isolation.BUBBLEWRAP else 5)
        except subprocess.TimeoutExpired:
            if self.isolation is Isolation.DOCKER:
                self._remove_container()
            else:
                self._process.kill()
                self._process.wait()
        self._errors.close()

    def _remove_container(self) -> None:
        """Remove the container by name: killing the client process that we started would not end it."""
        subprocess.run(["docker", "rm", "--force", self._container], capture_output=True, check=False)
        self._process.kill()
        self._process.wait()

    def _popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors, start_new_session=True, **options
        )

    def _start_container(self, preload: tuple[str, ...], hidden: tuple[Path, ...]) -> None:
        self._container = f"{CONTAINER}{uuid.uuid4().hex}"
        # Docker cannot pass on an open socket, so the server connects back. The listening socket accepts one connection and
        # lies in a folder that no other user of this machine may enter; the container gets the folder inside it. It is not
        # in TMPDIR, whose path may be too long for a socket.
        with tempfile.TemporaryDirectory(dir="/tmp") as outside, socket.socket(socket.AF_UNIX) as door:
            folder = Path(outside, "in")
            folder.mkdir()
            folder.chmod(0o755)
            door.bind(f"{folder}/door")
            os.chmod(f"{folder}/door", 0o666)
            door.listen(1)
            memory = self.limits.memory_bytes + SPARE_BYTES
            command = [*_docker(self._container, memory), "--volume", f"{folder}:/door"]
            for path, is_shown in _mounts(hidden):  # the owner of the empty ones is root, and the answer is not
                command += ["--volume", f"{path}:{path}:ro"] if is_shown else ["--tmpfs", f"{path}:mode=755,size=64k"]
            for file in INSIDE:
                command += ["--volume", f"{file}:/grader/{file.name}:ro"]
            for variable, value in _environment().items():
                command += ["--env", f"{variable}={value}"]
            self._process = self._popen(
                [*command, _image(), *self._program("/grader", "/door/door", preload, sandboxed=True)]
            )
            while True:
                door.settimeout(1)
                try:
                    self._control, _ = door.accept()
                    break
                except TimeoutError as error:
                    if self._process.poll() is not None or time.monotonic() - self._started_at > START_SECONDS:
                        self._remove_container()
                        last_words = self._last_words()
                        self._errors.close()
                        raise SandboxLost(f"the container does not start: {last_words}") from error

    def _program(self, folder: str, control: int | str, preload: tuple[str, ...], sandboxed: bool) -> list[str]:
        options: dict[str, Any] = {
            "preload": preload,
            "paths": package_folders(),
            "shown": shown_folders(),
            "own_namespaces": sandboxed,
            "scratch": sandboxed,
            "reply_bytes": self.limits.reply_bytes,
            "resources": {
                "RLIMIT_AS": self.limits.memory_bytes,
                "RLIMIT_FSIZE": self.limits.file_bytes,
                "RLIMIT_CORE": 0,
                "RLIMIT_NOFILE": 256,
                "RLIMIT_MEMLOCK": 0,
                "RLIMIT_MSGQUEUE": 0,
                "RLIMIT_SIGPENDING": 64,
            },
        }
        if self.isolation is Isolation.BUBBLEWRAP:
            # Elsewhere this limit would count every process of the user; a container has its own limit.
            options["resources"]["RLIMIT_NPROC"] = 64
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        # Not -I, which would ignore PYTHONHASHSEED; the environment is set by us anyway.
        return [python, "-s", "-S", "-P", "-B", f"{folder}/child.py", str(control), json.dumps(options)]

    def _command(self, descriptor: int, preload: tuple[str, ...], hidden: tuple[Path, ...]) -> list[str]:
        if self.isolation is not Isolation.BUBBLEWRAP:
            return self._program(str(Path(__file__).parent), descriptor, preload, sandboxed=False)
        command = [*_bwrap(), "--proc", "/proc", "--dev", "/dev"]
        for scratch in ("/tmp", "/dev/shm"):  # before the folders that may lie inside, such as a virtual environment in /tmp
            command += ["--size", "1000000", "--tmpfs", scratch]
        mounts = _mounts(hidden)
        for path, is_shown in mounts:
            command += ["--ro-bind", path, path] if is_shown else ["--tmpfs", path]
        for path in [path for path, is_shown in mounts if not is_shown]:
            command += ["--remount-ro", path]
        for file in INSIDE:
            command += ["--ro-bind", str(file), f"/grader/{file.name}"]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
        for name, value in _environment().items():
            command += ["--setenv", name, value]
        return [*command, "--", *self._program("/grader", descriptor, preload, sandboxed=True)]

    def _ask(self, request: str, descriptors: Sequence[int] = ()) -> dict:
        # The two sides take turns and each message is one short write, so it arrives whole. SOCK_SEQPACKET would guarantee
        # that, but macOS does not have it.
        try:
            socket.send_fds(self._control, [json.dumps({"do": request}).encode()], descriptors)
        except OSError as error:
            raise SandboxLost(f"the sandbox has ended: {self._last_words()}") from error
        return self._receive(30)

    def _receive(self, seconds: float) -> dict:
        self._control.settimeout(seconds)
        try:
            data = self._control.recv(65536)
        except OSError as error:
            raise SandboxLost(f"the sandbox does not answer: {self._last_words()}") from error
        if not data:
            raise SandboxLost(f"the sandbox has ended: {self._last_words()}")
        return json.loads(data)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read(20_000).decode(errors="replace").strip()[-400:] or "no output"


@dataclass
class QuestionProcess:
    """The process of a question.

    Attributes:
        channel: the connection to it.
        sealed: whether it is kept from starting processes, programs and namespaces.
        ended: after its end, (signal or 0, exit status); before that, None.
    """

    channel: Channel
    sealed: bool
    ended: tuple[int, int] | None = None


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # sets in the same order at every grading
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        ENVIRONMENT_MARKER: f"{os.environ.get(ENVIRONMENT_MARKER, '')}{uuid.uuid4().hex}",
    }
