"""What machine is this, and what can it do?

Detects GPU, CPU, memory, notebook host and the number format that is actually fast here. Knows nothing about models.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch

GB = 1e9


@dataclass(frozen=True)
class Device:
    """One machine as the course sees it.

    Attributes:
        name: the maker's name for it, e.g. "Tesla T4".
        kind: "cuda", "mps" or "cpu", as for `torch.device`.
        tier: a row of `data/tiers.toml`, such as "t4"; selects the model.
        memory_bytes: memory that the model must fit into: the GPU's, or the RAM this process may use.
        compute_capability: (major, minor) of an NVIDIA GPU, else None.
        dtype: "bfloat16", "float16" or "float32"; the format to keep frozen weights in and to compute in.
        environment: "colab", "kaggle", "binder", "jupyterlab" or "plain".
        cores: CPU cores this process may use.
    """

    name: str
    kind: str
    tier: str
    memory_bytes: int
    compute_capability: tuple[int, int] | None
    dtype: str
    environment: str
    cores: int

    def torch_dtype(self) -> torch.dtype:
        """The `torch.dtype` that `dtype` names."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def place(self) -> str:
        """Return the name under which `torch.device` knows this process's own device: "cuda:0", "mps" or "cpu"."""
        return f"cuda:{own_card()}" if self.kind == "cuda" else self.kind

    def __str__(self) -> str:
        capability = f", compute capability {'.'.join(map(str, self.compute_capability))}" if self.compute_capability else ""
        return (
            f"{self.name} ({self.kind}{capability}, {self.memory_bytes / GB:.1f} GB, {self.cores} CPU cores), "
            f"tier {self.tier}, {self.dtype}, in {self.environment}"
        )


TIER = "COURSE_TIER"  # environment variable that chooses another tier than the machine's own


def detect() -> Device:
    """Examine this machine, which takes as long as `import torch`; the tier is the one that COURSE_TIER names, if it is set.

    Raises:
        CourseError: COURSE_TIER names no tier.
    """
    device, chosen = _detected(), os.environ.get(TIER)
    if not chosen:
        return device
    from course_utils import facts  # as in `gpu_tier`

    if chosen not in (tiers := facts.table("tiers")):
        raise CourseError(f"{TIER} is {chosen!r}; the tiers are {', '.join(tiers)}")
    return replace(device, tier=chosen)


def _detected() -> Device:
    import torch

    cores = usable_cores()
    environment = detect_environment()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(own_card())
        capability = (properties.major, properties.minor)
        return Device(
            name=properties.name,
            kind="cuda",
            tier=gpu_tier(capability, properties.total_memory),
            memory_bytes=properties.total_memory,
            compute_capability=capability,
            dtype=gpu_dtype(capability),
            environment=environment,
            cores=cores,
        )
    if torch.backends.mps.is_available():  # pragma: no cover - Apple only
        # float32: half precision on MPS depends on the macOS version, and the CPU tier's model is small.
        return Device(f"Apple {platform.machine()}", "mps", "cpu", usable_memory(), None, "float32", environment, cores)
    dtype = "bfloat16" if cpu_has_fast_bfloat16() else "float32"
    return Device(cpu_name(), "cpu", "cpu", usable_memory(), None, dtype, environment, cores)


def own_card() -> int:
    """Return the index of the NVIDIA card that belongs to this process.

    It is the first one, except in the processes of `accelerate launch` and `torchrun`, which say so in LOCAL_RANK.
    """
    import torch

    rank = os.environ.get("LOCAL_RANK", "")
    return int(rank) % max(1, torch.cuda.device_count()) if rank.isdigit() else 0


def gpu_dtype(capability: tuple[int, int]) -> str:
    """Return the number format for a GPU: bfloat16 from compute capability 8.0 (Ampere), else float16.

    `torch.cuda.is_bf16_supported()` returns True on a T4 (7.5) because it counts emulation, which is several times slower.
    """
    return "bfloat16" if capability >= (8, 0) else "float16"


def gpu_tier(capability: tuple[int, int], memory_bytes: float) -> str:
    """Return the tier of a GPU: the last one in `data/tiers.toml` whose needs it meets.

    Args:
        capability: its compute capability.
        memory_bytes: the size of its memory.
    """
    from course_utils import facts  # whose `python -m` would find itself loaded: `import course_utils` loads this module

    fitting = [
        name
        for name, row in facts.table("tiers").items()
        if memory_bytes >= row.get("gpu_memory", math.inf) and capability >= tuple(row.get("gpu_capability", (0, 0)))
    ]
    return fitting[-1]


def cpu_has_fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 faster than float32: Arm with BF16, Intel with AMX, AMD with AVX512-BF16.

    Intel with AVX512-BF16 alone does not count; virtual machines that hide AMX look like that. There, oneDNN's products of
    512 rows were measured to take 1.7 times as long as in float32, and a training job 1.6 times; on AMD they take half.
    """
    lines = _cpu_lines()  # none on macOS and Windows: float32 always works, if perhaps more slowly
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    amd = any(line.startswith("vendor_id") and "AMD" in line for line in lines)
    return "amx_bf16" in flags or "bf16" in flags or (amd and "avx512_bf16" in flags)


def cpu_name() -> str:
    """Return the processor's name, as far as the operating system reports it."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_lines() -> list[str]:
    """What Linux says of the processors; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def usable_cores() -> int:
    """Return the number of cores that this process may use, by affinity and container quota; not the machine's total."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_words("/sys/fs/cgroup/cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def usable_memory() -> int:
    """Return the bytes of RAM that this process may use.

    They are the container's limit (Binder gives 2 GB) or the machine's total.
    """
    import psutil

    total: int = psutil.virtual_memory().total
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        words = _read_words(file)
        if words and words[0].isdigit():
            total = min(total, int(words[0]))
    return total


def detect_environment() -> str:
    """Return where the code runs, judged by variables that the hosts set; nothing is imported and no network is used."""
    if "COLAB_RELEASE_TAG" in os.environ or "COLAB_GPU" in os.environ:
        return "colab"
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    if "BINDER_SERVICE_HOST" in os.environ or "BINDER_REF_URL" in os.environ:
        return "binder"
    return "jupyterlab" if in_notebook() else "plain"


def in_notebook() -> bool:
    """Return whether this code runs in an IPython kernel whose front end displays HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and shell.__class__.__name__ in ("ZMQInteractiveShell", "Shell")


def _read_words(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
