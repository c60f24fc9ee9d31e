"""What processes take of the memory, and how freed memory is given back."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")
UNCHANGED_BYTES = 2_000_000  # if resident memory has changed by less, processes are not examined again


class ProcessesPeak:
    """Measures the peak memory of all processes that this one has started, together; a context manager.

    The memory is sampled twice a second, so that a shorter peak can be missed. Pages that several processes share count once
    where the system reports it (PSS, on Linux); elsewhere only the private pages of each process count.

    Args:
        own: whether to include this process.

    Attributes:
        bytes: the peak; 0 before the first sample.
        parts: memory of each process at the peak, as (name, bytes), the largest first.
    """

    def __init__(self, own: bool = True) -> None:
        self.bytes = 0
        self.parts: list[tuple[str, int]] = []
        self._include_self, self._stop, self._lap = own, threading.Event(), 0

    def lap(self) -> int:
        """Return the peak since the last call, in bytes; 0 if nothing was sampled since then."""
        self._lap, lap = 0, self._lap
        return lap

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        this_process, previous = psutil.Process(), (-UNCHANGED_BYTES, 0)
        while not self._stop.wait(0.5):
            processes = [*([this_process] if self._include_self else []), *this_process.children(recursive=True)]
            resident = sum(_read_process(process, lambda p: p.memory_info().rss, 0) for process in processes)
            if abs(resident - previous[0]) > UNCHANGED_BYTES:  # otherwise skipped: PSS takes a walk over all pages
                parts = [_read_process(process, _name_and_memory, ("?", 0)) for process in processes]
                previous = resident, sum(size for _, size in parts)
                if previous[1] > self.bytes:
                    self.bytes, self.parts = previous[1], sorted(parts, key=lambda part: -part[1])
            self._lap = max(self._lap, previous[1])


def _read_process(process: psutil.Process, read: Callable[[psutil.Process], T], fallback: T) -> T:
    """Read something of a process; returns the fallback if it has ended or belongs to somebody else."""
    import psutil

    try:
        return read(process)
    except psutil.Error:
        return fallback


def _name_and_memory(process: psutil.Process) -> tuple[str, int]:
    memory = process.memory_full_info()
    return _module_or_file(process.cmdline()), getattr(memory, "pss", memory.uss)


def _module_or_file(command: list[str]) -> str:
    """A short name of what a process runs: the module after `-m`, or the program."""
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    return Path(command[0]).name if command else "?"


def release() -> None:
    """Collect garbage and give freed memory back to the system and to the GPU's other processes."""
    gc.collect()
    trim()


def trim() -> None:
    """Give freed memory, which libraries would keep, back to the system and to the GPU's other processes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc: memory is only given back later
        pass
