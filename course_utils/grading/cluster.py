"""Grading on many machines: a Dask cluster marks, the machine that was asked reads the inbox and writes the results.

Only plain values travel: sources of cells there, marks back. So no file system needs to be shared. Each worker needs
the course in the same version and a sandbox of its own, which is looked at before the first answer and with each one.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from dataclasses import asdict
from pathlib import Path

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.grading.marker import Marker, definitions
from course_utils.grading.marking import Answer, Mark
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import require

SECONDS = 30  # for the scheduler to answer

_markers: dict[str, Marker] = {}  # on a worker, by what they were made from
_lock = threading.Lock()


class Cluster:
    """Marks answers on a Dask cluster; used like a `Marker`, by as many threads as there are `slots`.

    Attributes:
        isolation: what there is on every worker.
        slots: answers that can be worked on at once, with some to spare so that no worker waits for the network.
    """

    def __init__(self, address: str, trust: bool) -> None:
        """Connect, and look at every worker.

        Args:
            address: of the Dask scheduler, e.g. "tcp://10.0.0.5:8786".
            trust: whether a worker may grade without a sandbox.

        Raises:
            CourseError: no Dask, no scheduler there, no workers, or workers that cannot grade or differ from this machine.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise CourseError(f"Dask is not installed: pip install '{assets.DISTRIBUTION}[scale]'") from error
        self._task: dict = {}
        try:
            self._client = Client(address, timeout=SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise CourseError(f"no Dask scheduler answers at {address}: {error}") from error
        try:
            found = self._client.run(_examine, trust, on_error="return")
            if not found:
                raise CourseError(f"the Dask scheduler at {address} has no workers; start some: dask worker {address}")
            for worker, said in found.items():
                if isinstance(said, BaseException):
                    raise CourseError(f"the worker {worker} cannot grade: {said}")
                if said[0] != definitions():
                    raise CourseError(
                        f"the worker {worker} has another version of the course, Python, numpy or torch than this machine, "
                        "and marks may depend on it; install the same and start it again"
                    )
            kinds = {isolation for _, isolation in found.values()}
            if len(kinds) > 1:
                raise CourseError(f"the workers differ in their sandboxes ({', '.join(sorted(kinds))}); give all the same")
            self.isolation = kinds.pop()
            self.slots = 2 * sum(self._client.nthreads().values())
        except BaseException:
            self._client.close()
            raise

    def prepare(self, wanted: dict[str, str], seed: int, limits: Limits, hidden: tuple[Path, ...]) -> None:
        """Say what will be marked; see `Marker`."""
        self._task = {
            "wanted": wanted,
            "seed": seed,
            "isolation": self.isolation,
            "limits": asdict(limits),
            "hidden": [str(folder.resolve()) for folder in hidden],
            "definitions": definitions(),
        }

    def mark(self, answers: dict[str, Answer]) -> dict[str, Mark]:
        """As `Marker.mark`, on whichever worker is free; one that dies is replaced by another, if there is one."""
        try:
            return self._client.submit(_mark, self._task, answers, pure=False, retries=1).result()
        except CourseError:
            raise
        except Exception as error:
            if self._client.status == "running":
                raise
            raise CourseError("the Dask scheduler is gone; start it and call again: what has been graded is kept") from error

    def close(self) -> None:
        """Let the workers end their sandboxes, and go."""
        with contextlib.suppress(Exception):  # of a scheduler that has gone; its workers end with it
            if self._task:
                self._client.run(_close, repr(self._task), on_error="ignore")
        with contextlib.suppress(Exception):
            self._client.close()


def _examine(trust: bool) -> tuple[str, str]:
    return definitions(), require(trust)


def _mark(task: dict, answers: dict[str, Answer]) -> dict[str, Mark]:
    here = f"the worker on {platform.node()}, which came later,"
    if task["definitions"] != definitions():
        raise CourseError(
            f"{here} has another version of the course, Python, numpy or torch; install the same, start it again"
        )
    key = repr(task)
    with _lock:
        marker = _markers.get(key)
        if marker is None:
            if require(task["isolation"] == "none") != task["isolation"]:
                raise CourseError(f"{here} has another sandbox than {task['isolation']}; give it the same, start it again")
            for other in _markers.values():  # of gradings that may have been killed; one at work starts others
                other.close()
            hidden = tuple(map(Path, task["hidden"]))
            marker = Marker(task["wanted"], task["seed"], task["isolation"], Limits(**task["limits"]), hidden)
            _markers[key] = marker
    return marker.mark(answers)


def _close(key: str) -> None:
    with _lock:
        marker = _markers.pop(key, None)  # others may be at work on the same cluster
    if marker:
        marker.close()
