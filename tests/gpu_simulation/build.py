"""Compiles `card.cpp` against the installed PyTorch, once for each version of either; kept in the course's cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path

from course_utils.models import packaged

from . import driver

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "card.cpp"
KEPT_SECONDS = 7 * 24 * 3600


def _torch() -> Path:
    return Path(importlib.util.find_spec("torch").origin).parent


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def why_not() -> str | None:
    """Return why there can be no simulated card here, or None."""
    if list((_torch() / "lib").glob("libtorch_cuda*")):
        return "this PyTorch is built with CUDA, whose kernels a simulated card cannot replace; it needs the CPU's build"
    if not (_torch() / "lib" / "libtorch_cpu.so").exists():
        return "the simulated card is written for Linux"
    if _compiler() is None:
        return "the simulated card needs a C++ compiler (Debian: g++)"
    return None


def library() -> Path:
    """Return the built card; compiling takes about twenty seconds."""
    from filelock import FileLock

    version = importlib.metadata.version("torch")
    digest = hashlib.sha256(SOURCE.read_bytes() + version.encode() + str(_torch()).encode()).hexdigest()[:16]
    folder = packaged.cache_folder() / "simulated-gpu"
    target = folder / f"{digest}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "build.lock"):
        if not target.exists():
            for old in folder.glob("*.so"):  # of another version; another checkout of the course may use it today
                if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                    old.unlink()
            include = _torch() / "include"
            command = [_compiler(), "-O1", "-std=c++20", "-shared", "-fPIC", "-w"]
            command += [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}", str(SOURCE)]
            command += [f"-L{_torch() / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{_torch() / 'lib'}"]
            built = target.with_suffix(".tmp")
            done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the simulated card does not compile:\n{done.stderr[-3000:]}")
            built.rename(target)
    return target


def environment(gpu: str, memory_bytes: int | None = None) -> dict[str, str]:
    """Return the environment of a process that is to see a card, and that of its children.

    Args:
        gpu: a key of `driver.CARDS`, or "2xt4" for two of them.
        memory_bytes: memory of each card; None for as much as the model has.
    """
    folders = [str(HERE / "startup"), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = os.environ | {driver.GPU: gpu, driver.LIBRARY: str(library()), "PYTHONPATH": os.pathsep.join(folders)}
    made.pop("CUDA_VISIBLE_DEVICES", None)
    return made if memory_bytes is None else made | {driver.BYTES: str(memory_bytes)}
