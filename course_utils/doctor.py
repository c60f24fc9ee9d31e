"""Describes this machine: what it is, what will and will not work on it, and one line of advice for each problem."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from course_utils import assets, hardware, memory, models, session
from course_utils.hardware import GB
from course_utils.models import packaged

# Notebook hosts with less RAM than this kill the kernel in the larger lessons.
COMFORTABLE_BYTES = 2 * GB


@dataclass
class Diagnosis:
    """The result of `examine`.

    Attributes:
        device: the machine, see `hardware.Device`.
        versions: package → installed version, None if it is missing.
        disk_free_bytes: free space on the disk of the model cache.
        model_ready: whether the complete CPU model is on this machine.
        tier_model_ready: whether the weights of the tier's own model are.
        fits: (model, method, bytes of weights and adapter states, whether they fit into the machine's memory).
        advice: one line for each problem; empty if there are none.
    """

    device: hardware.Device
    python: str
    versions: dict[str, str | None] = field(default_factory=dict)
    disk_free_bytes: int = 0
    model_ready: bool = False
    tier_model_ready: bool = False
    fits: list[tuple[str, str, int, bool]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values that can be written as JSON."""
        names = ("model", "method", "bytes", "fits")
        return asdict(self) | {"fits": [dict(zip(names, row)) for row in self.fits]}

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {installed_version or 'missing'}" for name, installed_version in self.versions.items())
        tier = models.TIERS[self.device.tier]
        lines = [
            f"device    {self.device}",
            f"python    {self.python}",
            f"packages  {packages}",
            f"model     {models.PACKAGED.name}: {'ready' if self.model_ready else 'not fetched yet'}",
            f"lessons   with {tier.name} ({tier.licence}; {tier.note})"
            f"{'' if self.tier_model_ready else ', not fetched yet'}",
            *([f"run all   {_recorded_run_all()}"] if self.device.tier == "laptop" else []),
            f"disk      {self.disk_free_bytes / GB:.1f} GB free for the model cache",
            "fits      weights and adapter states only; activations come on top",
        ]
        for name, method, size, fits in self.fits:
            lines.append(f"          {'yes' if fits else 'no ':3}  {name}, {method}: {size / GB:.1f} GB")
        lines += [f"advice    {text}" for text in self.advice] or ["advice    none needed"]
        return "\n".join(lines)


def examine() -> Diagnosis:
    """Examine machine, packages, disk and model, without changing anything."""
    device = hardware.detect()
    diagnosis = Diagnosis(device, f"{platform.python_version()} ({sys.executable})")
    for requirement in session.requirements():
        name, specifier = requirement.name, requirement.specifier
        installed = diagnosis.versions[name] = session.installed_version(name)
        if installed is None or not specifier.contains(installed, prereleases=True):
            diagnosis.advice.append(
                f"{name} is {installed or 'missing'}, the course needs {specifier}: pip install '{name}{specifier}'"
            )
    cache = packaged.cache_folder()
    diagnosis.disk_free_bytes = _free_on_disk_of(cache)
    diagnosis.model_ready = models.PACKAGED.is_ready()
    diagnosis.tier_model_ready = diagnosis.model_ready if device.tier == "cpu" else _tier_model_ready(device, diagnosis)
    if not diagnosis.model_ready and device.tier == "cpu":  # on a GPU's tier only lesson 02 uses it, and fetches it then
        diagnosis.advice.append("the CPU model is not on this machine yet: run `course fetch` once, while online")
        if diagnosis.disk_free_bytes < models.PACKAGED.space_needed:
            diagnosis.advice.append(f"too little disk space for the CPU model in {cache}: set COURSE_CACHE to another disk")
    diagnosis.fits = _fits(device)
    if device.memory_bytes < COMFORTABLE_BYTES:
        diagnosis.advice.append(f"{device.memory_bytes / GB:.1f} GB of memory: close other notebooks before a lesson")
    if device.tier == "laptop" and device.memory_bytes < (needed := _recorded_peak()):
        diagnosis.advice.append(
            f"{device.memory_bytes / GB:.1f} GB of memory, and the longest lesson took {needed / GB:.1f} GB on this tier: "
            "leave COURSE_TIER out"
        )
    if device.compute_capability is not None and device.compute_capability < (7, 0):
        diagnosis.advice.append(f"{device.name} is older than current PyTorch builds support: use the CPU, or another GPU")
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        diagnosis.advice.append("there is an NVIDIA driver, but this PyTorch is a CPU build: install a CUDA build of torch")
    return diagnosis


def _recorded_run_all() -> str:
    """How long the lessons took on the laptop tier, where that was recorded."""
    record = assets.read_record("laptop-lessons")
    minutes = sorted(run["run_seconds"] / 60 for run in record["runs"].values())
    return (
        f"{minutes[0]:.0f} to {minutes[-1]:.0f} minutes a lesson, {sum(minutes):.0f} in all, and up to "
        f"{_recorded_peak() / GB:.1f} GB of memory, on {record['machine']} ({record['date']})"
    )


def _recorded_peak() -> int:
    return max(run["peak_bytes"] for run in assets.read_record("laptop-lessons")["runs"].values())


def _tier_model_ready(device: hardware.Device, diagnosis: Diagnosis) -> bool:
    """Whether the weights of a GPU tier's model are in the hub's cache; advises where there is no room for them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    name = models.TIERS[device.tier].name
    if models.is_ready(name):
        return True
    needed = 2 * memory.count_parameters(name, 16).base
    if (free := _free_on_disk_of(Path(HF_HUB_CACHE))) < 1.1 * needed:
        diagnosis.advice.append(
            f"{name} needs {needed / GB:.1f} GB of disk, and {free / GB:.1f} GB are free in {HF_HUB_CACHE}: set HF_HOME to "
            "a folder on another disk"
        )
    return False


def _free_on_disk_of(folder: Path) -> int:
    """Free bytes on the disk where a folder is or would be."""
    return shutil.disk_usage(next(part for part in (folder, *folder.parents) if part.exists())).free


def _fits(device: hardware.Device) -> list[tuple[str, str, int, bool]]:
    """LoRA r=16 on all linear layers of each tier's architecture: 2 bytes per frozen weight, 16 per adapter parameter."""
    rows = []
    for name in (choice.name.rpartition("/")[2].removesuffix("-Instruct") for choice in models.TIERS.values()):
        count = memory.count_parameters(name, 16)
        size = (4 if device.dtype == "float32" else 2) * count.base + 16 * count.trainable
        # A tenth of the memory is not available to the model: contexts, the allocator's slack, the system.
        rows.append((name, "LoRA r=16", size, size < 0.9 * device.memory_bytes))
    return rows
