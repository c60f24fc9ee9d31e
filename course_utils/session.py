"""Prepares a process for the course: what has to be set before torch is loaded, and what a notebook's kernel says of errors.

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

bitsandbytes: on import it says on stderr that an optional kernel, which it would fetch from the hub, is missing. The course
does not use that kernel, and PEFT imports bitsandbytes where it is installed.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import hardware, install

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

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
CARD_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "WORLD_SIZE")  # `accelerate launch` and torchrun set the last two
TORCHAO_FOR_PEFT = (0, 16)
NOISY_LOGGER = "bitsandbytes.backends.cpu.ops"
LONG_CELL_SECONDS = 1.0  # memory is given back after cells that took longer: collecting garbage takes a tenth of a second
RUN_ABOVE = "Run the cells above first: Run > Run All Above Selected Cell."


@dataclass
class Preparation:
    """What `prepare_process` has changed; `str()` says it in one line.

    Attributes:
        variables: environment variables that were set, with their values.
        hidden: package and version that this process no longer finds, "" if none.
        silenced: logger whose warnings are no longer shown, "" if none.
        too_late: whether torch was loaded before, so that its threads keep their waiting policy.
    """

    variables: dict[str, str] = field(default_factory=dict)
    hidden: str = ""
    silenced: str = ""
    too_late: bool = False

    def __str__(self) -> str:
        changes = [f"set {name}={value}" for name, value in self.variables.items()]
        changes += [f"hid {self.hidden}"] if self.hidden else []
        changes += [f"silenced {self.silenced}"] if self.silenced else []
        line = ", ".join(changes) or "nothing to prepare"
        late = "; torch was loaded before, so its threads wait as they did: restart the kernel to change that"
        return line + (late if self.too_late else "")


def prepare_process() -> Preparation:
    """Set what the module's docstring explains, for this process and those started from it, and return what was changed.

    Nothing is changed twice, and nothing that the user has set. Call it before torch is imported: threads of a torch that is
    loaded already keep their waiting policy.
    """
    preparation, torch_is_loaded = Preparation(), "torch" in sys.modules
    for names, value in (WAITING | CACHES).items():
        if not any(name in os.environ for name in names):
            preparation.variables[names[-1]] = value
    preparation.too_late = torch_is_loaded and bool(preparation.variables)
    # Once torch is loaded it may have counted the cards.
    if "ipykernel" in sys.modules and not torch_is_loaded and not any(name in os.environ for name in CARD_VARIABLES):
        preparation.variables["CUDA_VISIBLE_DEVICES"] = "0"
    os.environ.update(preparation.variables)
    preparation.hidden = _hide_refused_torchao()
    logger = logging.getLogger(NOISY_LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
        preparation.silenced = NOISY_LOGGER
    return preparation


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
    install.install_missing(extras)
    preparation = prepare_process()
    if preparation.too_late:
        print(preparation)
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


def _hide_refused_torchao() -> str:
    """Hide a torchao that PEFT refuses, unless it is imported already; return name and version, "" if none was hidden."""
    if "torchao" in sys.modules:
        return ""
    try:
        version = importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return ""
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if tuple(numbers) >= TORCHAO_FOR_PEFT:
        return ""
    sys.modules["torchao"] = None  # type: ignore[assignment]  # `find_spec` finds none, and an import says so
    return f"torchao {version}"


# -- what a kernel says of a name that no cell has made yet, as after a restart, and after an interrupt --------------------


def names_made(source: str) -> set[str]:
    """Return the names that a cell assigns, defines or imports at its top level; IPython's own lines are left out."""
    python = re.sub(r"(?m)^\s*[%!].*$", "", source)
    try:
        statements = ast.parse(python).body
    except SyntaxError:
        return set()
    made = set()
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            made.update((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            made.update(node.id for node in stored if isinstance(node.ctx, ast.Store))
    return made


def where_made(name: str, notebook: Mapping[str, Any]) -> str:
    """Return the heading above the first cell that makes a name; "" if no cell does, or if it stands above any heading."""
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#{1,3} (.+)$", source, re.MULTILINE)
            heading = found[-1] if found else heading
        elif cell["cell_type"] == "code" and name in names_made(source):
            return heading
    return ""


def explain_name_error(
    shell: InteractiveShell, kind: type, error: NameError, trace: Any, tb_offset: int | None = None
) -> None:
    """Show a NameError as IPython does, then say where the notebook makes the name."""
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    place = Path(os.environ.get("JPY_SESSION_NAME", ""))  # the notebook, by Jupyter's server
    try:
        heading = where_made(error.name or "", json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return
    if heading:
        print(f"`{error.name}` is made by a cell below the heading “{heading}”. {RUN_ABOVE}")


def report_interrupt(
    shell: InteractiveShell, kind: type, error: KeyboardInterrupt, trace: Any, tb_offset: int | None = None
) -> list[str]:
    """Show where the cell stood when it was interrupted, and that it can be run again; return what was shown.

    A hundred lines of the libraries' own calls would stand above it otherwise.
    """
    own = [frame for frame in traceback.extract_tb(trace) if "ipykernel_" in frame.filename]
    where = f" in line {own[-1].lineno}: {own[-1].line}" if own else ""
    shown = [f"KeyboardInterrupt{where}", "The cell was interrupted. Run it again to do all of it."]
    shell._showtraceback(kind, error, shown)
    return shown


def explain_errors(shell: InteractiveShell) -> None:
    """Have a kernel explain its NameErrors, and interrupts in a line; `kernel_startup` calls it."""

    def explain_either(shell: InteractiveShell, kind: type, error: Any, trace: Any, tb_offset: int | None = None) -> Any:
        explained = report_interrupt if isinstance(error, KeyboardInterrupt) else explain_name_error
        return explained(shell, kind, error, trace, tb_offset)

    shell.set_custom_exc((NameError, KeyboardInterrupt), explain_either)
