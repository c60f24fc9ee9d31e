"""README's figure: three models on the same hundred tickets, each prompted as well as we know how, and trained on 240.

python benchmarks/laptop_figure.py        reads the newest record laptop-tickets, writes pictures/three-models.png
"""

from __future__ import annotations

from pathlib import Path

from common import RECORDS
from course_utils import charts, evaluation
from course_utils.evaluation import Score
from laptop_runs import MODELS, recorded_runs
from laptop_tickets import NAME, SEEDS

PICTURE = RECORDS.parents[1] / "pictures" / "three-models.png"
WAYS = {"rules and 8 similar tickets in the prompt": "rules + 8 retrieved", "trained on 240 tickets": "LoRA, 240"}
MEASURE = "all fields"


def score(size: str, way: str) -> Score:
    """Share of the hundred records that are wholly right, over the seeds that are recorded."""
    runs = recorded_runs(NAME)
    names = [f"{size} | {way} | {seed}" for seed in SEEDS]
    return evaluation.over_seeds([runs[name]["right"][MEASURE] for name in names if name in runs])


def draw(file: Path = PICTURE) -> None:
    """Write the figure."""
    rows = {
        MODELS[size].rpartition("/")[2].removesuffix("-Instruct"): {label: score(size, way) for label, way in WAYS.items()}
        for size in MODELS
    }
    charts.shares(rows, "Records with all four fields right, of 100 test messages").save(str(file))
    print(f"written to {file.name}:", {name: {k: str(v) for k, v in row.items()} for name, row in rows.items()})


if __name__ == "__main__":
    draw()
