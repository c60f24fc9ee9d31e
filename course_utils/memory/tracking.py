"""Peak memory of a block of code, on CPU and GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    import psutil
    import torch

T = TypeVar("T")
UNCHANGED_BYTES = 2_000_000  # if resident memory has changed by less, processes are not examined again


@dataclass
class MemoryReport:
    """The measurements of `track`, complete when the block has ended. All sizes in bytes.

    Attributes:
        process_start, process_peak: resident memory of the process before the block, and the highest during it.
        gpu_start, gpu_peak: live tensors on the GPU before the block, and their highest sum; None without a GPU.
        sampled: whether the process's peak was looked for every 10 ms; else the kernel told it (Linux).
    """

    process_start: int = 0
    process_peak: int = 0
    gpu_start: int | None = None
    gpu_peak: int | None = None
    sampled: bool = False

    @property
    def process_increase(self) -> int:
        """By how many bytes the block raised the process's resident memory at its peak."""
        return max(0, self.process_peak - self.process_start)

    @property
    def gpu_increase(self) -> int:
        """By how many bytes the block raised the sum of live tensors on the GPU at its peak; 0 without a GPU."""
        return max(0, (self.gpu_peak or 0) - (self.gpu_start or 0))


@contextmanager
def track() -> Iterator[MemoryReport]:
    """Measure the peak memory of a `with` block; blocks may be nested.

    The report is complete when the block has ended, even with an error:

        with track() as report:
            ...
        print(report.process_increase)
    """
    import torch

    release()
    gpu = torch.cuda.is_available()
    for outer in _open_reports:
        _update_peaks(outer, gpu)  # the system keeps a single peak value, which is reset now
    report = MemoryReport(process_start=_resident())
    if gpu:
        report.gpu_start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    report.sampled = not _reset_kernel_peak()
    sampler = _Sampler() if report.sampled else None
    _open_reports.append(report)
    try:
        yield report
    finally:
        for open_report in _open_reports:
            _update_peaks(open_report, gpu)
        _open_reports.remove(report)
        if sampler:
            report.process_peak = max(report.process_peak, sampler.stop())


_open_reports: list[MemoryReport] = []  # of the open blocks, the outermost first


def _update_peaks(report: MemoryReport, gpu: bool) -> None:
    """Update a report with the system's peak values since they were last reset."""
    report.process_peak = max(report.process_peak, report.process_start, 0 if report.sampled else _kernel_peak())
    if gpu:
        import torch

        torch.cuda.synchronize()
        report.gpu_peak = max(report.gpu_peak or 0, torch.cuda.max_memory_allocated())


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


def _resident() -> int:
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return resident


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that this process can still allocate on a device, in bytes; None for the CPU.

    What PyTorch's allocator has reserved and does not use counts as free, as the process gets it back first.
    """
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def release() -> None:
    """Collect garbage and give freed memory back to the system.

    Otherwise a later block could reuse it without being measured.
    """
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


def _reset_kernel_peak() -> bool:
    """Reset Linux's record of the process's peak resident size; False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _kernel_peak() > 0
    except OSError:
        return False


def _kernel_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class _Sampler:
    """Reads the resident size every 10 ms in a thread; misses shorter peaks."""

    def __init__(self) -> None:
        self.peak = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, _resident())

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return max(self.peak, _resident())
