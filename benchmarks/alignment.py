"""Every method of the alignment lesson with three seeds: which improve on SFT, by how much, and at what price?

    python benchmarks/alignment.py [SEED ...]     # quality, then prices
    python benchmarks/alignment.py prices

The code is the lesson's own. For quality, its cells are run up to the comparison, with other seeds and a larger plan. For
prices, the cell that times the methods in turns is run with more rounds, and each method also runs in a process of its own
to measure its memory; the cost of a step does not depend on what a model has learned, so the base and the reward model are
used untrained.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys

from common import picture, write_results
from course_utils import charts, evaluation, training

PLAN = {
    "pairs": 160, "held_back": 160, "test": 106, "answers": 40, "longest": 60, "rollouts": 10, "prompts": 16,
    "few": 64, "piece": 200, "rate": 1,
}  # fmt: skip
ROUNDS, MEMORY_RUNS, EXAMPLES = 6, 2, 4
BETAS = (0.02, 1.0)  # besides the lesson's 0.1
# Name → (method, whether both replies share the prompt).
METHODS = {
    "SFT": ("SFT", True),
    "DPO": ("DPO", False),
    "DPO, prompt shared": ("DPO", True),
    "ORPO": ("ORPO", False),
    "PPO": ("PPO", True),
}
MEASURES = ("judge", "rules", "format", "tokens", "kl")


def cells() -> list:
    """The lesson's code cells with their tags, except the one that installs the course."""
    from course_utils.publishing import builder

    code = [cell for cell in builder.learner_edition("04").cells if cell.cell_type == "code"]
    tagged = [(cell.source, cell.metadata.get("tags", [])) for cell in code]
    return [(source, tags) for source, tags in tagged if "install" not in tags]


def lesson(seed: int) -> dict:
    """The results of the lesson's methods with a seed: for each method the measures of every pair and answer."""
    import matplotlib

    matplotlib.use("Agg")
    space: dict = {"__name__": "lesson"}
    for source, tags in cells():
        if "sweep" in tags:
            break
        exec(_with_plan_and_seed(source, seed), space)
    for beta in BETAS:
        tuned, history = space["fit"](space["start"], space["mine"], training.DPO(beta=beta))
        space["look"](f"β = {beta}", tuned, history, pairs_too=False)
        tuned.unload()
        sweep_run = space["seen"][f"β = {beta}"]
        sweep_run["judge"] = space["judge"](space["asked"], sweep_run["answers"])
    methods = {}
    for name, seen in space["seen"].items():
        history = seen["history"]
        methods[name] = {measure: [float(value) for value in seen[measure]] for measure in MEASURES} | {
            "seconds": history.seconds + history.reference_seconds + history.rollout_seconds,
            "tokens_trained": history.tokens,
            "memory_added_mb": (history.memory.measured or 0) / 1e6,
        }
        if "pairs" in seen:
            methods[name]["right"] = [float(pair.prefers_chosen) for pair in seen["pairs"]]
    ranked = {"implicit reward of DPO": _score(space["implicit"]), "judge": _score(space["judge_ranks"])}
    return {"seed": seed, "methods": methods, "ranks test pairs": ranked}


def _with_plan_and_seed(source: str, seed: int) -> str:
    if "SEED = 0" not in source:
        return source
    start = source.index("PLAN = {")
    end = source.index("}[TIER]") + len("}[TIER]")
    return (source[:start] + f"PLAN = {PLAN!r}" + source[end:]).replace("SEED = 0", f"SEED = {seed}")


def _score(score) -> list[float]:
    return [score.value, score.low, score.high]


def gains(runs: list[dict]) -> dict:
    """Difference of each method from SFT, pair by pair and message by message: for each seed, and for all together."""
    table: dict = {}
    for name in runs[0]["methods"]:
        if name == "SFT":
            continue
        for measure in ("right", "judge", "rules"):
            if measure not in runs[0]["methods"][name]:
                continue
            differences = [
                [a - b for a, b in zip(run["methods"][name][measure], run["methods"]["SFT"][measure])] for run in runs
            ]
            table.setdefault(name, {})[measure] = {
                "seeds": [_score(evaluation.mean(seed_differences)) for seed_differences in differences],
                "all": _score(evaluation.mean(list(itertools.chain(*differences)))),
            }
    return table


def timing(examples: int = EXAMPLES) -> dict:
    """The lesson up to `cost`, which times a step of a method, with `examples` examples and the untrained base."""
    import matplotlib

    matplotlib.use("Agg")
    space: dict = {"__name__": "lesson"}
    for source, tags in cells():
        if "dpo" in tags:
            break
        if "look(" not in source:
            exec(source, space)
    space["start"] = space["base"]
    definitions = next(source for source, tags in cells() if "cost" in tags).split("\nROUNDS, METHODS =")[0]
    enlarged = definitions.replace("[:3]  # of middle length", f"[:{examples}]")
    assert enlarged != definitions
    exec(enlarged, space)
    space["judge"] = None
    return space


def add_judge(space: dict) -> None:
    """Give PPO an untrained reward model."""
    from course_utils import models

    body, tokenizer = models.load_reward(tier="cpu")
    space["judge"] = lambda prompts, answers: training.reward_scores(body, tokenizer, prompts, answers)


def prices() -> dict:
    """Time of each method relative to SFT's, per example and per token, from alternating rounds after a warm-up round."""
    space = timing()
    add_judge(space)
    turns = [{name: space["cost"](*method) for name, method in METHODS.items()} for _ in range(ROUNDS + 1)][1:]
    table = {}
    for name in METHODS:
        pairs = [(turn[name], turn["SFT"]) for turn in turns]
        table[name] = {
            "an example": _score(evaluation.mean([own[0] / sft[0] for own, sft in pairs])),
            "a token": _score(evaluation.mean([(own[0] / own[1]) / (sft[0] / sft[1]) for own, sft in pairs])),
            "tokens an example": turns[0][name][1],
            "seconds an example": [turn[name][0] for turn in turns],
        }
    return table


def memory_added(method: str, share: bool) -> float:
    """Megabytes that a step of a method adds to a process with only the base; for PPO including the reward model."""
    from course_utils import memory

    space = timing()
    with memory.track("a step") as report:
        if method == "PPO":
            add_judge(space)
        space["cost"](method, share)
    return report.process_increase / 1e6


def _in_own_process(function, *arguments):
    """Run in a process of its own, so that memory left over from one run does not count in the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


if __name__ == "__main__":
    prices_only = sys.argv[1:] == ["prices"]
    seeds = [] if prices_only else [int(text) for text in sys.argv[1:]] or [0, 1, 2]
    runs = []
    for seed in seeds:
        runs.append(_in_own_process(lesson, seed))
        print(seed, {name: {m: v["seeds"][-1] for m, v in one.items()} for name, one in gains(runs).items()}, flush=True)
    if runs:
        frontier = {
            "β = 0.1" if name == "DPO" else name: {
                measure: _score(evaluation.mean([value for run in runs for value in run["methods"][name][measure]]))
                for measure in ("kl", "judge")
            }
            for name in runs[0]["methods"]
        }
        results = {"seeds": seeds, "plan": PLAN, "gain over SFT": gains(runs)}
        file = write_results("alignment", results | {"frontier": frontier, "runs": runs})
        charts.lines(
            {name: ([means["kl"][0]], [means["judge"][0]]) for name, means in frontier.items()},
            "What the judge says, and how far each method went for it",
            "KL from the SFT model, nats per answer",
            "judge's reward",
        ).save(picture(file.stem))
    table = _in_own_process(prices)
    for name, method in METHODS.items():
        added = [_in_own_process(memory_added, *method) for _ in range(MEMORY_RUNS)]
        table[name]["memory added, MB"] = _score(evaluation.mean(added))
    print({name: {what: row[what] for what in ("an example", "a token", "memory added, MB")} for name, row in table.items()})
    write_results("method-prices", {"rounds": ROUNDS, "examples": EXAMPLES, "memory runs": MEMORY_RUNS, "over SFT": table})
