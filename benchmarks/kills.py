"""Twenty SIGKILLs, half of them while a checkpoint is being written: does the run end with exactly the same bytes?

    python benchmarks/kills.py [RUNS] [KILLS]

RUNS runs are killed KILLS times each (4 x 5 by default); tests/training/kill.py does the killing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
import kill

if __name__ == "__main__":
    runs, kills = [int(text) for text in sys.argv[1:]] or (4, 5)
    with tempfile.TemporaryDirectory() as folder:
        whole = kill.uninterrupted(Path(folder))
        results = []
        for seed in range(runs):
            files, during_save, resumed = kill.killed(Path(folder), kills, seed)
            results.append(
                {"kills": kills, "alive_when_killed": resumed, "during_save": during_save, "same": files == whole}
            )
            print(results[-1], flush=True)
    write_results("kills", {"runs": results, "same_bytes": sum(r["same"] for r in results), "of": runs})
