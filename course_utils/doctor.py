"""What this machine is, what will and will not work on it, and one line of advice for each problem."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, hardware, memory, models

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

GB = 1e9
# Notebook hosts with fewer than this much RAM stop the kernel in the larger lessons.
COMFORTABLE_BYTES = 2 * GB


@dataclass
class Diagnosis:
    """What `examine` found.

    Attributes:
        device: the machine, see `hardware.Device`.
        versions: package → installed version, None where it is missing.
        stale: packages whose imported version is not the installed one.
        disk_free_bytes: room where the model cache lies.
        model_ready: whether the CPU model is on this machine, whole.
        fits: (model, what for, bytes of weights and adapter states, whether the machine holds them).
        advice: one line for each problem; empty when all is well.
    """

    device: hardware.Device
    python: str
    versions: dict[str, str | None] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    disk_free_bytes: int = 0
    model_ready: bool = False
    fits: list[tuple[str, str, int, bool]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("model", "method", "bytes", "fits")
        return {**vars(self), "device": self.device.as_dict(), "fits": [dict(zip(names, row)) for row in self.fits]}

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {found or 'missing'}" for name, found in self.versions.items())
        tier = models.TIERS[self.device.tier]
        lines = [
            f"device    {self.device}",
            f"python    {self.python}",
            f"packages  {shown}",
            f"model     {models.PACKAGED.name}: {'ready' if self.model_ready else 'not fetched yet'}",
            f"lessons   with {tier.name} ({tier.licence}; {tier.note})",
            f"disk      {self.disk_free_bytes / GB:.1f} GB free for the model cache",
            "fits      weights and adapter states only; activations come on top",
        ]
        for name, method, size, fits in self.fits:
            lines.append(f"          {'yes' if fits else 'no ':3}  {name}, {method}: {size / GB:.1f} GB")
        lines += [f"advice    {text}" for text in self.advice] or ["advice    none needed"]
        return "\n".join(lines)


def examine() -> Diagnosis:
    """Look at machine, packages, disk and model. Changes nothing."""
    device = hardware.detect()
    found = Diagnosis(device, f"{platform.python_version()} ({sys.executable})")
    for name, specifier in _requirements():
        has: str | None = None
        try:
            has = version(name)
        except PackageNotFoundError:
            pass
        found.versions[name] = has
        if has is None or not specifier.contains(has, prereleases=True):
            found.advice.append(
                f"{name} is {has or 'missing'}, the course needs {specifier}: pip install '{name}{specifier}'"
            )
        elif _differs(_imported_version(name), has):
            found.stale.append(name)
            found.advice.append(f"{name} was imported before it was upgraded: restart the kernel (Runtime > Restart)")
    cache = models.cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    found.disk_free_bytes = shutil.disk_usage(existing).free
    found.model_ready = models.packaged_model_ready()
    if not found.model_ready:
        found.advice.append("the CPU model is not on this machine yet: run `course fetch` once, while online")
        if found.disk_free_bytes < models.SPACE_NEEDED:
            found.advice.append(f"too little disk space for the CPU model in {cache}: set COURSE_CACHE to another disk")
    found.fits = _fits(device)
    if device.memory_bytes < COMFORTABLE_BYTES:
        found.advice.append(f"{device.memory_bytes / GB:.1f} GB of memory: close other notebooks before a lesson")
    if device.compute_capability is not None and device.compute_capability < (7, 0):
        found.advice.append(f"{device.name} is older than current PyTorch builds support: use the CPU, or another GPU")
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        found.advice.append("there is an NVIDIA driver, but this PyTorch is a CPU build: install a CUDA build of torch")
    return found


def _fits(device: hardware.Device) -> list[tuple[str, str, int, bool]]:
    """LoRA r=16 on all linear layers of each tier's architecture: 2 bytes a frozen weight, 16 an adapter parameter."""
    rows = []
    for name in ("SmolLM2-135M", "SmolLM2-1.7B", "Qwen2.5-7B"):
        count = memory.count_parameters(name, 16)
        size = (4 if device.dtype == "float32" else 2) * count.base + 16 * count.trainable
        # A tenth of the memory is never the model's: contexts, the allocator's slack, the system.
        rows.append((name, "LoRA r=16", size, size < 0.9 * device.memory_bytes))
    return rows


def _requirements() -> Iterator[tuple[str, SpecifierSet]]:
    from packaging.requirements import Requirement

    for text in requires(assets.DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, requirement.specifier


def _differs(imported: str | None, installed: str) -> bool:
    """Whether the process runs another version than is installed; "2.9.0+cu128" is what torch 2.9.0 calls itself."""
    from packaging.version import InvalidVersion, Version

    try:
        return imported is not None and Version(Version(imported).public) != Version(Version(installed).public)
    except InvalidVersion:
        return imported != installed


def _imported_version(name: str) -> str | None:
    """Version of a package as the running process has it, None if not imported or if it does not tell."""
    module = sys.modules.get(name.replace("-", "_"))
    told = vars(module).get("__version__") if module else None  # not getattr: some packages make it up with a warning
    return str(told) if told and Path(getattr(module, "__file__", "") or "").exists() else None
