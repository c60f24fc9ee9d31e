"""Grading on many machines: a Dask cluster does the marking; this machine reads the inbox and writes the results.

Only plain values are sent: sources of cells one way, marks the other. So the machines need not share a file system. Each
worker needs the same version of the course and a sandbox of its own, which is checked at the start and with each submission.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from dataclasses import asdict
from pathlib import Path

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.grading.intake import LearnerAnswer
from course_utils.grading.marking import Mark, Marker, grading_fingerprint
from course_utils.grading.protocol import Limits
from course_utils.grading.sandbox import Isolation, require

SECONDS = 30  # timeout for connecting to the scheduler
LOOK_SECONDS = 30  # between looks at whether there is a worker yet

_markers: dict[str, Marker] = {}  # on a worker, by the task for which each was made
_lock = threading.Lock()


class DaskCluster:
    """Marks answers on a Dask cluster. It is used like a `Marker`, by as many threads as there are `slots`.

    Attributes:
        isolation: the kind of sandbox that every worker has.
        slots: number of submissions that can be in progress at once, with some to spare so that no worker waits for the
            network.
    """

    def __init__(self, address: str, allow_unsandboxed: bool) -> None:
        """Connect to a cluster, and check every worker.

        Args:
            address: address of the Dask scheduler, such as "tcp://10.0.0.5:8786".
            allow_unsandboxed: whether a worker that has no sandbox may grade without one.

        Raises:
            CourseError: Dask is not installed, no scheduler answers, there are no workers, or a worker cannot grade or
                differs from this machine.
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
            reports = self._client.run(_examine, allow_unsandboxed, on_error="return")
            if not reports:
                raise CourseError(f"the Dask scheduler at {address} has no workers; start some: dask worker {address}")
            for worker, report in reports.items():
                if isinstance(report, BaseException):
                    raise CourseError(f"the worker {worker} cannot grade: {report}")
                _check_version(f"the worker {worker}", report[0], grading_fingerprint())
            isolations = {isolation for _, isolation in reports.values()}
            if len(isolations) > 1:
                raise CourseError(
                    f"the workers have different sandboxes ({', '.join(sorted(isolations))}); give them all the same one"
                )
            self.isolation = Isolation(isolations.pop())
            self.slots = 2 * sum(self._client.nthreads().values())
        except BaseException:
            self._client.close()
            raise

    def prepare(self, section_of: dict[str, str], seed: int, limits: Limits, hidden: tuple[Path, ...]) -> None:
        """Set what will be marked, with the arguments of `Marker`."""
        self._task = {
            "section_of": section_of,
            "seed": seed,
            "isolation": self.isolation.value,  # the task's repr is its name on the workers, so it holds plain values
            "limits": asdict(limits),
            "hidden": [str(folder.resolve()) for folder in hidden],
            "fingerprint": grading_fingerprint(),
        }

    def mark(self, answers: dict[str, LearnerAnswer]) -> dict[str, Mark]:
        """Mark answers like `Marker.mark`, on any free worker.

        If that worker dies, another one takes over.

        Raises:
            CourseError: the scheduler is gone, or it has had no worker for some time.
        """
        from distributed import TimeoutError

        try:
            future, idle = self._client.submit(_mark, self._task, answers, pure=False, retries=1), 0
            while True:
                try:
                    return future.result(timeout=LOOK_SECONDS)
                except TimeoutError:  # a worker that was killed may be back by the next look
                    idle = 0 if self._client.nthreads() else idle + 1
                    if idle == 2:
                        raise CourseError(
                            f"the Dask cluster has had no worker for {LOOK_SECONDS} s; start some and run the same command "
                            "again: finished results are kept"
                        ) from None
        except CourseError:
            raise
        except Exception as error:
            if self._client.status == "running":
                raise
            raise CourseError(
                "the Dask scheduler is gone; restart it and run the same command again: finished results are kept"
            ) from error

    def close(self) -> None:
        """Let the workers close their sandboxes, and disconnect."""
        with contextlib.suppress(Exception):  # if the scheduler is gone, its workers end too
            if self._task:
                self._client.run(_close, repr(self._task), on_error="ignore")
        with contextlib.suppress(Exception):
            self._client.close()


def _examine(allow_unsandboxed: bool) -> tuple[str, Isolation]:
    return grading_fingerprint(), require(allow_unsandboxed)


def _check_version(worker: str, fingerprint: str, wanted: str) -> None:
    if fingerprint != wanted:
        raise CourseError(
            f"{worker} has another version of the course, Python, numpy or torch than this machine, "
            "and marks may depend on it; install the same version and restart it"
        )


def _mark(task: dict, answers: dict[str, LearnerAnswer]) -> dict[str, Mark]:
    this_worker = f"the worker on {platform.node()}, which joined later,"
    _check_version(this_worker, grading_fingerprint(), task["fingerprint"])
    key = repr(task)
    with _lock:
        marker = _markers.get(key)
        if marker is None:
            isolation = Isolation(task["isolation"])
            if require(isolation is Isolation.NONE) is not isolation:
                raise CourseError(f"{this_worker} has another sandbox than {isolation}; give it the same one and restart it")
            for other in _markers.values():  # of gradings that may have been killed; a running one starts new sandboxes
                other.close()
            limits, hidden = Limits(**task["limits"]), tuple(map(Path, task["hidden"]))
            marker = _markers[key] = Marker(task["section_of"], task["seed"], isolation, limits, hidden)
    return marker.mark(answers)


def _close(key: str) -> None:
    with _lock:
        marker = _markers.pop(key, None)  # only this one: other gradings may be running on the same cluster
    if marker:
        marker.close()
