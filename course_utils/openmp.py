"""How long the threads of a matrix product on a CPU spin while they wait for each other.

torch splits a product among threads of GNU OpenMP (Linux) or LLVM OpenMP (macOS, Windows). A thread that waits for the
others spins at first, since being woken by the system takes longer than most waits. GNU threads spin for milliseconds by
default, LLVM threads for a fifth of a second. On an otherwise idle machine that costs only power; next to any other
computation, the spinning thread holds the core that the thread it waits for needs, and training takes several times as long
(measured by `benchmarks/waiting.py`, with dated results in `benchmarks/records/`). Both libraries read their environment
variables once, when they are loaded: `import course_utils` must come before `import torch`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# Chosen with benchmarks/waiting.py on two cores (record of 2026-11-26). On an idle machine, training with 1,000 rounds takes
# 1.1 to 1.2 times as long as with the best policy, and without spinning 1.4 to 1.8 times. Next to one busy process, 1,000
# rounds take 1.5 to 1.9 times as long as the best policy, no spinning 1.1 to 1.2 times, and GNU's default three times. A
# single thread is never far off on two cores, but leaves the others idle on a machine with more.
SPIN_COUNT = "1000"  # rounds of GNU's waiting loop, a few tens of microseconds
BLOCK_TIME = "1"  # milliseconds, LLVM's
# A user who has set one of these has made the choice, so nothing is changed.
GNU_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LLVM_VARIABLES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def wait_briefly(environment: MutableMapping[str, str] | None = None) -> bool:
    """Make waiting threads give up their core soon, in this process and in those started from it.

    Args:
        environment: variables to set; `os.environ` if None. Variables that are set already stay as they are.

    Returns:
        Whether it can take effect in this process: False if torch was loaded before.
    """
    environment = os.environ if environment is None else environment
    for variables, value in ((GNU_VARIABLES, SPIN_COUNT), (LLVM_VARIABLES, BLOCK_TIME)):
        if not any(variable in environment for variable in variables):
            environment[variables[1]] = value
    return "torch" not in sys.modules
