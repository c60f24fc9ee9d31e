"""What a machine has installed beside the course and would stop it, although nobody uses it."""

from __future__ import annotations

import importlib.metadata
import sys

# From PEFT 0.18.1 on the first adapter that is made ends in an ImportError where an older torchao is installed, also if no
# weight is quantized by it. Colab and Kaggle ship 0.10.0 (August 2026; unslothai/notebooks, pull request 258).
TORCHAO_WITH_PEFT = (0, 16)


def hide_refused_torchao() -> None:
    """Let a torchao that PEFT refuses look as if it were not installed, in this process; nothing on the machine changes.

    A torchao that somebody has imported already is left alone.
    """
    if "torchao" in sys.modules:
        return
    try:
        version = importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if tuple(numbers) < TORCHAO_WITH_PEFT:
        sys.modules["torchao"] = None  # type: ignore[assignment]  # `find_spec` finds none, and an import says so
