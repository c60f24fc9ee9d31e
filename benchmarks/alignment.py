"""Every method of the alignment lesson with three seeds, on all pairs: who improves on SFT, by how much, at what price?

    python benchmarks/alignment.py [SEED ...]

The code is the lesson's own: its cells are run up to the comparison, with another seed and a larger plan, and then the one
that times the methods in turns.
"""

from __future__ import annotations

import multiprocessing
import sys

from common import RECORDS, write_record

from course_utils import evaluation, figures, training

PLAN = {
    "pairs": 160, "held_back": 160, "test": 106, "answers": 40, "longest": 60, "rollouts": 10, "prompts": 16,
    "few": 64, "piece": 200,
}  # fmt: skip
ROUNDS = 4
BETAS = (0.02, 1.0)  # beside the 0.1 of the lesson
MEASURES = ("judge", "rules", "format", "tokens", "kl")


def lesson(seed: int) -> dict:
    """What the lesson's methods did with a seed: for each what was seen of every pair and answer."""
    import matplotlib

    matplotlib.use("Agg")
    from course_utils.notebooks import builder

    space: dict = {"__name__": "lesson"}
    cells = [cell for cell in builder.learner_edition("04").cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in cells]
    for cell, tag in zip(cells, tags):
        if "sweep" in tag:
            break
        if "install" not in tag:
            exec(_changed(cell.source, seed), space)
    cost = next(cell.source for cell, tag in zip(cells, tags) if "cost" in tag)
    exec(cost.replace("ROUNDS, FEW = 3,", f"ROUNDS, FEW = {ROUNDS},"), space)
    for beta in BETAS:
        tuned, history = space["fit"](space["start"], space["mine"], training.DPO(beta=beta))
        space["look"](f"β = {beta}", tuned, history, pairs_too=False)
        tuned.unload()
        swept = space["seen"][f"β = {beta}"]
        swept["judge"] = space["judge"](space["asked"], swept["answers"])
    found = {}
    for name, seen in space["seen"].items():
        history = seen["history"]
        found[name] = {measure: [float(value) for value in seen[measure]] for measure in MEASURES} | {
            "seconds": history.seconds + history.reference_seconds + history.rollout_seconds,
            "tokens_trained": history.tokens,
            "memory_added_mb": (history.memory.measured or 0) / 1e6,
        }
        if "pairs" in seen:
            found[name]["right"] = [float(pair.prefers_chosen) for pair in seen["pairs"]]
    cost = {f"{method}{' shared' if share else ''}": taken for (method, share), taken in space["clock"].items()}
    ranked = {"implicit reward of DPO": _score(space["implicit"]), "judge": _score(space["judge_ranks"])}
    return {"seed": seed, "methods": found, "cost": cost, "ranks test pairs": ranked}


def _changed(source: str, seed: int) -> str:
    if "SEED = 0" not in source:
        return source
    start = source.index("PLAN = {")
    end = source.index("}[device.tier]") + len("}[device.tier]")
    return (source[:start] + f"PLAN = {PLAN!r}" + source[end:]).replace("SEED = 0", f"SEED = {seed}")


def _score(score) -> list[float]:
    return [score.value, score.low, score.high]


def gains(runs: list[dict]) -> dict:
    """Each method less SFT, pair by pair and message by message: a row for each seed, and all together."""
    table: dict = {}
    for name in runs[0]["methods"]:
        if name == "SFT":
            continue
        for measure in ("right", "judge", "rules"):
            if measure not in runs[0]["methods"][name]:
                continue
            apart = [[a - b for a, b in zip(run["methods"][name][measure], run["methods"]["SFT"][measure])] for run in runs]
            table.setdefault(name, {})[measure] = {
                "seeds": [_score(evaluation.mean(one)) for one in apart],
                "all": _score(evaluation.mean(sum(apart, []))),
            }
    return table


def prices(runs: list[dict]) -> dict:
    """Time of each method over SFT's, an example and a token, from rounds in turns."""
    table = {}
    for key in runs[0]["cost"]:
        pairs = [(mine, sft) for run in runs for mine, sft in zip(run["cost"][key], run["cost"]["SFT shared"])]
        table[key] = {
            "an example": _score(evaluation.mean([mine[0] / sft[0] for mine, sft in pairs])),
            "a token": _score(evaluation.mean([(mine[0] / mine[1]) / (sft[0] / sft[1]) for mine, sft in pairs])),
        }
    return table


if __name__ == "__main__":
    seeds = [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    runs = []
    for seed in seeds:
        # Each in a process of its own: what one leaves in memory is no part of the next.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            runs.append(pool.apply(lesson, (seed,)))
        print(seed, {name: {m: v["seeds"][-1] for m, v in one.items()} for name, one in gains(runs).items()}, flush=True)
    frontier = {
        "β = 0.1" if name == "DPO" else name: {
            m: _score(evaluation.mean(sum((run["methods"][name][m] for run in runs), []))) for m in ("kl", "judge")
        }
        for name in runs[0]["methods"]
    }
    results = {"seeds": seeds, "plan": PLAN, "gain over SFT": gains(runs), "time over SFT": prices(runs)}
    file = write_record("alignment", results | {"frontier": frontier, "runs": runs})
    figures.points(
        {name: ([means["kl"][0]], [means["judge"][0]]) for name, means in frontier.items()},
        "What the judge says, and how far each method went for it",
        "KL from the SFT model, nats an answer",
        "judge's reward",
    ).save(str(RECORDS / f"{file.stem}.png"))
