"""Prepares a process for the course: installs what a notebook host lacks, and sets what must be set before torch is loaded.

Installing: the versions of all installed packages are pip's constraints: pip may add packages but replace none. Plain pip
would take the newest TRL, which pulls newer versions of packages that the kernel has already loaded.

Importing the package changes nothing of the process. What the course needs is set by `prepare_process`, which is called by a
lesson's first cell (`start_lesson`), the command `course`, the service's server and workers, pytest and the benchmarks.
Nothing that the user has set is changed.

How long threads wait: torch splits a matrix product among threads of GNU OpenMP (Linux) or LLVM OpenMP (macOS, Windows). A
thread that waits for the others spins at first, since being woken by the system takes longer than most waits: GNU's for
milliseconds, LLVM's for a fifth of a second. On an idle machine that costs only power; next to any other computation, the
spinning thread holds the core that the thread it waits for needs. Both libraries read their variables once, when they are
loaded, and processes started from here inherit them. If you only import the package, you keep the libraries' defaults.

One graphics card: with several in sight (Kaggle's "T4 x2"), transformers' `Trainer` wraps the model in
`torch.nn.DataParallel`, which TRL's trainers refuse. So a notebook sees the first card only; scripts and the service may use
them all.

torchao: from PEFT 0.18.1 on, making an adapter ends in an ImportError where an older torchao is installed, even if it
quantizes nothing. Colab and Kaggle ship 0.10.0 (August 2026; unslothai/notebooks, pull request 258). In this process it is
made to look as if it were not installed.

Memory: after training, the C library keeps hundreds of megabytes of freed memory, which the next cell's server or copy of
the model then lacks. So a notebook gives it back after each cell that took a while or deletes something. On a CPU,
oneDNN and PyTorch's bridge to it keep what they prepare for a matrix product of each shape, by default of a thousand
shapes. When SmolLM2 trains on batches of many lengths, that is 14 MB a length. Kept for 128 shapes, which is more than a
step needs, it is 0.22 GB less after 20 steps, and the steps take no longer.

Kernels: from 5.25 on, transformers replaces layers of a model that it loads onto a card by compiled ones, which it fetches
from the hub at that moment; without a network it loads nothing. The lessons show and measure what is installed.

bitsandbytes: on import it says on stderr that an optional kernel, which it would fetch from the hub, is missing. The course
does not use that kernel, and PEFT imports bitsandbytes where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import assets, hardware
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
    from packaging.requirements import Requirement

# Chosen with benchmarks/waiting.py on two cores (record of 2026-11-26). On an idle machine, training with 1,000 rounds takes
# 1.1 to 1.2 times as long as with the best policy, and without spinning 1.4 to 1.8 times. Next to one busy process, 1,000
# rounds take 1.5 to 1.9 times as long as the best policy, no spinning 1.1 to 1.2 times, and GNU's default three times. A
# single thread is never far off on two cores, but leaves the others idle on a machine with more.
SPIN_COUNT = "1000"  # rounds of GNU's waiting loop, a few tens of microseconds
BLOCK_TIME = "1"  # milliseconds, LLVM's
# Each library's waiting policy is left alone if one of its variables is set; the last is the one to set.
WAITING = {("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"): SPIN_COUNT, ("OMP_WAIT_POLICY", "KMP_BLOCKTIME"): BLOCK_TIME}
PREPARED_PRODUCTS = "128"  # kept by oneDNN, and by PyTorch's bridge; with none, training takes four times as long
CACHES = {("ONEDNN_PRIMITIVE_CACHE_CAPACITY",): PREPARED_PRODUCTS, ("LRU_CACHE_CAPACITY",): PREPARED_PRODUCTS}
KERNELS = {("USE_HUB_KERNELS",): "0"}
CARD_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "WORLD_SIZE")  # `accelerate launch` and torchrun set the last two
TORCHAO_FOR_PEFT = (0, 16)
NOISY_LOGGER = "bitsandbytes.backends.cpu.ops"
LONG_CELL_SECONDS = 1.0  # memory is given back after cells that took longer: collecting garbage takes a tenth of a second


def prepare_process() -> dict[str, str]:
    """Set what the module's docstring explains, for this process and those started from it.

    Nothing is changed twice, and nothing that the user has set. Call it before torch is imported: threads of a torch that is
    loaded already keep their waiting policy.

    Returns:
        The environment variables that were set, with their values.
    """
    variables = {
        names[-1]: value
        for names, value in (WAITING | CACHES | KERNELS).items()
        if not any(name in os.environ for name in names)
    }
    # Once torch is loaded it may have counted the cards.
    if "ipykernel" in sys.modules and "torch" not in sys.modules and not any(name in os.environ for name in CARD_VARIABLES):
        variables["CUDA_VISIBLE_DEVICES"] = "0"
    os.environ.update(variables)
    _hide_refused_torchao()
    logger = logging.getLogger(NOISY_LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return variables


def start_lesson(extras: str = "") -> None:
    """Install what the lesson needs and this machine lacks, prepare the process, and silence the libraries' progress bars.

    Prints what is being installed, if anything, and whether torch was loaded too early; otherwise nothing.

    Args:
        extras: the course's extras that the lesson needs, separated by commas.

    Raises:
        CourseError: something could not be installed, or is older than the lesson needs.
    """
    if hardware.in_notebook():
        from IPython.core.getipython import get_ipython
        from IPython.display import clear_output

        if shell := get_ipython():
            _release_after_long_cells(shell)
        clear_output()  # what `%pip` printed in the line above: in Jupyter, always a note that a restart may be needed
    install_missing(extras)
    torch_is_loaded = "torch" in sys.modules
    if prepare_process() and torch_is_loaded:
        print("torch was loaded before, so its threads wait as they did: restart the kernel to change that")
    silence_libraries()


def _release_after_long_cells(shell: InteractiveShell) -> None:
    """Have a notebook's kernel give freed memory back after long cells and such as delete; a second call changes nothing."""
    if getattr(shell, "course_releases_memory", False):
        return
    shell.course_releases_memory = True  # type: ignore[attr-defined]
    started = time.monotonic()

    def note_start(*_: object) -> None:
        nonlocal started
        started = time.monotonic()

    def release(result: ExecutionResult) -> None:
        code = getattr(result.info, "raw_cell", None) or ""
        deletes = re.search(r"^del ", code, re.MULTILINE)
        if deletes or time.monotonic() - started > LONG_CELL_SECONDS:
            from course_utils import memory

            memory.release()

    shell.events.register("pre_run_cell", note_start)
    shell.events.register("post_run_cell", release)


def silence_libraries() -> None:
    """Switch off the libraries' bars for loading, saving and converting, and their notices about coming versions.

    Training keeps its own progress, and warnings that a learner can act on still appear.
    """
    # Read when `datasets` is imported; nobody who has set it otherwise is overruled.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if not are_progress_bars_disabled():
        disable_progress_bars()  # not by its variable, after which nobody can switch them on for a download
    transformers_logging.set_verbosity_error()
    # By the level of this one `TrainingArguments` decides between a table of the losses and lines of raw numbers.
    logging.getLogger("transformers.training_args").setLevel(logging.WARNING)


def _hide_refused_torchao() -> None:
    """Hide a torchao that PEFT refuses, unless it is imported already."""
    version = None if "torchao" in sys.modules else installed_version("torchao")
    numbers = [int(part) for part in (version or "").split("+")[0].split(".")[:2] if part.isdigit()]
    if version and tuple(numbers) < TORCHAO_FOR_PEFT:
        sys.modules["torchao"] = None  # type: ignore[assignment]  # `find_spec` finds none, and an import says so


# -- installing -------------------------------------------------------------------------------------------------------------


def requirements(extras: str = "") -> list[Requirement]:
    """Return what the course requires on this machine, with the given extras (separated by commas).

    Raises:
        CourseError: the course is importable but not installed, or has no such extra.
    """
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata(assets.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise CourseError(f"{assets.DISTRIBUTION} is not installed; run `pip install -e .` in the repository") from error
    names = [name.strip() for name in extras.split(",") if name.strip()]
    if unknown := set(names) - set(metadata.get_all("Provides-Extra") or ()):
        raise CourseError(f"the course has no extra {', '.join(sorted(unknown))}; see [project.optional-dependencies]")
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": name}) for name in names or [""])]


def installed_version(name: str) -> str | None:
    """Return the version of a package that pip has installed, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def constraints() -> list[str]:
    """Return `name==version` for each installed package, once.

    Where a package is there twice (Colab: Ubuntu's and pip's), the first on the path is the one that is imported.
    """
    pins: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            pins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={distribution.version}")
    return list(pins.values())


def install_missing(extras: str = "") -> list[str]:
    """Install those requirements of the course that this machine lacks, and return them; prints nothing if there are none.

    Args:
        extras: the course's extras that are needed too, separated by commas.

    Raises:
        CourseError: a package is older than required, which would have to be replaced, or pip failed. Nothing is replaced.
    """
    missing, outdated = [], []
    for requirement in requirements(extras):
        version = installed_version(requirement.name)
        requirement.marker = None
        if version is None:
            missing.append(str(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            outdated.append((str(requirement), version))
    if outdated:
        found = ", ".join(f"{asked}, and {version} is installed" for asked, version in outdated)
        upgrades = " ".join(f"'{asked}'" for asked, _ in outdated)
        raise CourseError(f"this lesson needs {found}. Run `%pip install {upgrades}`, then restart the kernel")
    if not missing:
        return []
    print(f"Installing what this lesson needs and this machine lacks: {', '.join(missing)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(file), *missing]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    importlib.invalidate_caches()
    if done.returncode:
        raise CourseError(
            f"pip could not install {', '.join(missing)}. It says:\n{done.stderr.strip()[-2000:]}\n"
            "If it cannot reach the package index, connect this machine to the internet (Kaggle: Settings, Internet on). "
            "Then run this cell again"
        )
    return missing
