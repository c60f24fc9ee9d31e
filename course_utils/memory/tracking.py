"""Peak memory of a block of code, on CPU and GPU."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")
MB = 1e6
SAME_BYTES = 2_000_000  # processes whose resident memory has changed by less are not looked at more closely


@dataclass
class MemoryReport:
    """What `track` measured; filled when the block ends. All sizes in bytes.

    Attributes:
        label: what was measured.
        seconds: wall time of the block.
        process_start: resident memory of the process before the block.
        process_peak: highest resident memory during it.
        gpu_start: live tensors on the GPU before the block, None without one.
        gpu_allocated_peak: highest sum of live tensors on the GPU, None without one.
        gpu_reserved_peak: what PyTorch's allocator held for them, None without a GPU.
        gpu_in_use: memory in use on the whole card at the end (context and other processes included), or None.
        method: how the process's peak was found: "kernel" (exact, Linux) or "sampled" (every 10 ms).
    """

    label: str
    seconds: float = 0.0
    process_start: int = 0
    process_peak: int = 0
    gpu_start: int | None = None
    gpu_allocated_peak: int | None = None
    gpu_reserved_peak: int | None = None
    gpu_in_use: int | None = None
    method: str = "sampled"

    @property
    def process_increase(self) -> int:
        """By how much the block raised the process's resident memory at its highest."""
        return max(0, self.process_peak - self.process_start)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each measurement, for a table."""
        rows = [
            ("process before", f"{self.process_start / MB:,.0f} MB"),
            ("process peak", f"{self.process_peak / MB:,.0f} MB"),
            ("increase", f"{self.process_increase / MB:,.0f} MB"),
        ]
        on_gpu = {
            "GPU tensors, peak": self.gpu_allocated_peak,
            "GPU reserved, peak": self.gpu_reserved_peak,
            "GPU card in use": self.gpu_in_use,  # None while the block lasts
        }
        rows += [(name, f"{size / MB:,.0f} MB") for name, size in on_gpu.items() if size is not None]
        return [*rows, ("time", f"{self.seconds:.1f} s")]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join([f"memory: {self.label}", *(f"  {name:<{width}}  {value}" for name, value in self.rows())])


@contextmanager
def track(label: str = "block") -> Iterator[MemoryReport]:
    """Measure the peak memory of a `with` block; blocks may stand in one another.

    The report is complete when the block has ended, also when it ended with an error:

        with track("training") as report:
            ...
        print(report)
    """
    import torch

    release()
    report = MemoryReport(label, process_start=_resident())
    gpu = torch.cuda.is_available()
    for outer in _open:
        _raise_peaks(outer, gpu)  # the system keeps one highest value, which is forgotten now
    if gpu:
        report.gpu_start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    exact = _reset_kernel_peak()
    report.method = "kernel" if exact else "sampled"
    sampler = None if exact else _Sampler()
    _open.append(report)
    started = time.perf_counter()
    try:
        yield report
    finally:
        report.seconds = time.perf_counter() - started
        for reading in _open:
            _raise_peaks(reading, gpu)
        _open.remove(report)
        if sampler:
            report.process_peak = max(report.process_peak, sampler.stop())
        if gpu:
            free, total = torch.cuda.mem_get_info()
            report.gpu_in_use = total - free


_open: list[MemoryReport] = []  # of the blocks that are at work, the outermost first


def _raise_peaks(report: MemoryReport, gpu: bool) -> None:
    """Take over what the system knows as highest since it was last asked to forget."""
    report.process_peak = max(report.process_peak, report.process_start, _kernel_peak() if report.method == "kernel" else 0)
    if gpu:
        import torch

        torch.cuda.synchronize()
        report.gpu_allocated_peak = max(report.gpu_allocated_peak or 0, torch.cuda.max_memory_allocated())
        report.gpu_reserved_peak = max(report.gpu_reserved_peak or 0, torch.cuda.max_memory_reserved())


class ProcessesPeak:
    """Highest memory of this process's descendants together, and its own if wanted; a context.

    Sampled twice a second, so that a shorter peak can be missed. Pages that several processes share count once where the
    system tells (PSS, on Linux); elsewhere each process counts what it alone holds.

    Attributes:
        bytes: the peak; 0 before the first sample.
        parts: what each process held at the peak, as (name, bytes), the largest first.
    """

    def __init__(self, own: bool = True) -> None:
        self.bytes = 0
        self.parts: list[tuple[str, int]] = []
        self._own, self._stop, self._lap = own, threading.Event(), 0

    def lap(self) -> int:
        """The peak since this was last asked, 0 if nothing was sampled since."""
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

        me, last = psutil.Process(), (-SAME_BYTES, 0)
        while not self._stop.wait(0.5):
            processes = [*([me] if self._own else []), *me.children(recursive=True)]
            resident = sum(_of(process, lambda p: p.memory_info().rss, 0) for process in processes)
            if abs(resident - last[0]) > SAME_BYTES:  # else spared: what is shared costs the system a walk over all pages
                parts = [_of(process, _name_and_memory, ("?", 0)) for process in processes]
                last = resident, sum(size for _, size in parts)
                if last[1] > self.bytes:
                    self.bytes, self.parts = last[1], sorted(parts, key=lambda part: -part[1])
            self._lap = max(self._lap, last[1])


def _of(process: psutil.Process, read: Callable[[psutil.Process], T], otherwise: T) -> T:
    """What is read of a process, or something else if it has ended or is somebody else's."""
    import psutil

    try:
        return read(process)
    except psutil.Error:
        return otherwise


def _name_and_memory(process: psutil.Process) -> tuple[str, int]:
    memory = process.memory_full_info()
    return _module_or_file(process.cmdline()), getattr(memory, "pss", memory.uss)


def _module_or_file(command: list[str]) -> str:
    """What a process runs, in a word: the module after `-m`, or the program."""
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    return Path(command[0]).name if command else "?"


def _resident() -> int:
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return resident


def release() -> None:
    """Collect what nobody refers to any more, and give freed memory back: it would hide what a later block takes."""
    gc.collect()
    trim()


def trim() -> None:
    """Give freed memory back to the system; the C library keeps it otherwise."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc: memory given back late is all that is lost
        pass


def _reset_kernel_peak() -> bool:
    """Ask Linux to forget the process's highest resident size; False where it can't be asked."""
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
    """Reads the resident size every 10 ms in a thread; misses what lives shorter."""

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
