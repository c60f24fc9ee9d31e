"""How long the threads of a CPU product spin while they wait for each other.

torch splits a product among threads of GNU OpenMP (Linux) or LLVM's (macOS, Windows). A thread that waits for the others
spins at first, since being woken by the system takes longer than most waits. GNU's spin for milliseconds by default, LLVM's
for a fifth of a second. Alone on a machine that costs only power; beside anything else that computes, the spinning thread
holds the core that the one it waits for needs, and training takes several times as long (`benchmarks/waiting.py` measures
it; its dated results are in `benchmarks/records/`). Both libraries read their variables once, when they are loaded:
`import course_utils` must come before `import torch`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# Chosen by benchmarks/waiting.py on two cores (record of 2026-11-26). Alone, 1,000 rounds take 1.1 to 1.2 times as long as
# the best policy, and no spinning at all 1.4 to 1.8 times. Beside one busy process 1,000 rounds take 1.5 to 1.9 times as
# long as the best, no spinning 1.1 to 1.2 times, and GNU's default three times. One thread is never far off on two cores,
# but leaves all others idle where there are more.
SPIN_COUNT = "1000"  # rounds of GNU's waiting loop, some tens of microseconds
BLOCK_TIME = "1"  # milliseconds, LLVM's
# Who has set one of these has decided.
GNU_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LLVM_VARIABLES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def wait_briefly(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let threads that wait give up their core soon, here and in every process started from here.

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
