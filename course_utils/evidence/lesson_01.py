"""What lesson 01 draws beside its own run: recorded ways to ask three models, facts that changed, and what a year costs.

The CPU tier's model was asked in every way by `benchmarks/framework.py`, the two larger ones by
`benchmarks/laptop_questions.py`, all on the same hundred questions. What is trained was trained with three seeds, the largest
model with one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, costs, evaluation
from course_utils.evidence import MODELS
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from course_utils.charts import Figure
    from course_utils.evaluation import Score

FACT, RECORD, FORM, BOTH = "right fact", "right record", "valid form", "usable"
SIDES = {FACT: "knowledge", RECORD: "behaviour", FORM: "valid", BOTH: "both"}
# A way as the lesson calls it → as the two benchmarks do.
WAYS = {
    "three fixed examples": ("prompt: few-shot", "prompt alone"),
    "similar past answers": ("prompt: retrieved examples", "past answers"),
    "a passage (RAG)": ("RAG: few-shot", "RAG"),
    "a passage and past answers": ("RAG: retrieved examples", "RAG + past answers"),
    "a passage and past answers to other questions": (
        "RAG: retrieved examples of other facts",
        "RAG + past answers to other questions",
    ),
    "the whole catalogue": ("whole catalogue", "whole catalogue"),
    "fine-tuned": ("fine-tuned", "fine-tuned"),
    "fine-tuned, a passage": ("fine-tuned + RAG", "fine-tuned + RAG"),
    "fine-tuned, a passage about a product it never saw": ("fine-tuned + RAG, unseen products", ""),
}
SHOWN = (
    "three fixed examples",
    "similar past answers",
    "a passage (RAG)",
    "a passage and past answers",
    "fine-tuned",
    "fine-tuned, a passage",
)


def data_file(name: str) -> Path:
    """Return the path of a file of the shop: "judged" or "wrong_answers"."""
    return assets.path(f"data/catalogue/{name}.jsonl")


# -- the recorded ways --------------------------------------------------------------------------------------------------------


def right(model: str, way: str, kind: str = BOTH) -> list[list[float]]:
    """Return for each seed whether each question was answered rightly; empty if the way was not recorded for the model.

    Args:
        model: "135M", "0.5B" or "1.5B".
        way: a key of `WAYS`.
        kind: "right fact", "right record", "valid form" or "usable", which is the first two at once.
    """
    small, large = WAYS[way]
    if model == "135M":
        rows = assets.read_record("framework")["seeds"][small]
        if kind == BOTH:
            return [[a * b for a, b in zip(*pair)] for pair in zip(rows["knowledge"], rows["behaviour"])]
        return rows[SIDES[kind]]
    runs, name = assets.read_record("laptop-questions")["runs"], "fine-tuned" if large.startswith("fine-tuned") else large
    seeds = [runs[key] for key in (f"{model} | {name} | {seed}" for seed in range(3)) if key in runs]
    return [(run["systems"][large] if "systems" in run else run)["right"][SIDES[kind]] for run in seeds]


def score(model: str, way: str, kind: str = BOTH) -> Score | None:
    """Return the share of the hundred questions with its 95 % interval, over the seeds; None if it was not recorded."""
    rows = right(model, way, kind)
    return evaluation.over_seeds(rows) if rows else None


def picture() -> Figure:
    """Draw the usable answers of five ways to ask three models."""
    rows = {way: {MODELS[model]: score(model, way) for model in MODELS if score(model, way)} for way in SHOWN}
    return charts.shares(rows, "Usable answers to the same hundred messages")


def rivals() -> Table:
    """Show for all ways the usable answers of each model, and tokens and seconds a request of the 0.5B."""
    runs, rows = assets.read_record("laptop-questions")["runs"], dict[str, dict[str, Any]]()
    for way, (_, large) in WAYS.items():
        run = runs.get(f"0.5B | {large} | 0") or runs.get("0.5B | fine-tuned | 0", {})
        tokens = run.get("systems", {}).get(large, run).get("prompt_tokens")
        rows[way] = {f"{name}, usable": score(model, way) for model, name in MODELS.items()}
        rows[way] |= {"fact right, 0.5B": score("0.5B", way, FACT), "tokens in": tokens and round(tokens)}
    date = assets.read_record("laptop-questions")["date"]
    return Table(rows, f"100 questions, recorded {date} and {assets.read_record('framework')['date']}", "way", "")


# -- facts that change --------------------------------------------------------------------------------------------------------


def changes_figure() -> Figure:
    """Draw facts before and after the catalogue changed: learned by heart, and read from a passage."""
    from course_utils.data_prep import load_catalogue

    results = assets.read_record("framework")
    changed = [number for number, q in enumerate(load_catalogue().questions) if q["answer_v2"] is not None]
    read_before = [[row[i] for i in changed] for row in results["seeds"]["fine-tuned + RAG"]["knowledge"]]
    read_after = results["after_update"]["RAG + fine-tuned, version 2"]
    answers = {
        "learned by heart": (results["drilled"]["version 1"], results["drilled"]["version 2"]),
        "trained to read, with a new index": (read_before, read_after),
    }
    whens = ("before the change", "after it")
    rows = {name: {when: evaluation.over_seeds(a) for when, a in zip(whens, both)} for name, both in answers.items()}
    return charts.shares(rows, f"{len(changed)} facts before and after they changed: what was learned by heart is lost")


# -- money --------------------------------------------------------------------------------------------------------------------

LINES = ("frontier model, long prompt", "small model, long prompt", "fine-tuned, hosted", "fine-tuned, rented GPU")


def cost_figure(chosen: costs.Assumptions) -> Figure:
    """Draw dollars a day over requests a day, everything included, with the volumes from which fine-tuning pays."""
    ways, days = chosen.ways(), chosen.days
    names = dict(zip(costs.WAYS, LINES))
    xs = [10 ** (power / 4) for power in range(4, 29)]
    lines = {names[name]: (xs, [way.total(n, days) / days for n in xs]) for name, way in ways.items()}
    marks, pays = {}, []
    for rival in ("prompted", "prompted small"):
        crossing = chosen.break_even("hosted", rival)
        pays.append("never" if crossing is None else f"from {_round(crossing):,} requests a day")
        if crossing is not None and xs[0] <= crossing <= xs[-1]:
            marks[f"{_round(crossing):,} a day"] = (crossing, ways["hosted"].total(crossing, days) / days)
    title = (
        f"If equally right, fine-tuning pays against {chosen.frontier} {pays[0]}, against the prompted small model {pays[1]}"
    )
    return charts.lines(lines, title, "requests a day", "dollars a day", log_x=(10, 1e3, 1e5, 1e7), log_y=True, marks=marks)


def _round(number: float) -> int:
    """To two digits: the assumptions bear no more."""
    return int(float(f"{number:.2g}"))
