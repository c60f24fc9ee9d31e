"""What do forty wrong labels cost, and what does finding them bring back?

    python benchmarks/label_noise.py [SEED ...]
    python benchmarks/label_noise.py --try        a few rows, a few steps; nothing is written

The prepared export of lesson 05 has forty wrong categories that no rule sees. The same model is trained on the same number
of examples: with them, with the first sixty suspects read and corrected, and with all forty corrected, which is the most
that could be won. The same again with three times as many wrong labels, since forty are few, and there also with the
suspects dropped unread. Each seed draws other examples, another start of the adapter and other additional wrong labels.
Scores are those on the hand-written test set.
"""

from __future__ import annotations

import argparse
import json
import random

import common
import wrong_labels
from course_utils import data_prep, memory, models, training
from course_utils.data_prep import formats, quality, truth
from course_utils.generation import generate

import torch
from peft import LoraConfig, get_peft_model

FIELDS = ["category", "escalation"]
LONGEST = 40  # words in a message
EXAMPLES, BATCH, LEARNING_RATE = 300, 4, 2e-3
READ = 60  # suspects that a person reads
MORE = 3  # times as many wrong labels


def prepared_rows() -> tuple[list[dict], dict[int, str]]:
    """Rows that the rules leave for training, and the right category of each that has a wrong one."""
    export, task = truth.load_raw_export(), data_prep.load_task("support_tickets")
    test = [{"messages": conversation} for conversation in task.test]
    prepared = data_prep.prepare(
        export.path, drop=quality.RULES, language="en", test=test, schema=task.schema, allow=[truth.OWN_ADDRESS]
    )
    return prepared.rows, truth.right_categories(export, prepared.lines)


def with_more_noise(rows: list[dict], right: dict[int, str], seed: int) -> tuple[list[dict], dict[int, str]]:
    """The same rows with `MORE` times as many wrong categories."""
    rng = random.Random(seed)
    labels = sorted({wrong_labels.label_of(row, "category") for row in rows})
    fine = [index for index in range(len(rows)) if index not in right]
    new = {}
    right = dict(right)
    for index in rng.sample(fine, (MORE - 1) * len(right)):
        right[index] = wrong_labels.label_of(rows[index], "category")
        new[index] = rng.choice([label for label in labels if label != right[index]])
    return wrong_labels.repaired(rows, "category", new), right


def treatments(rows: list[dict], right: dict[int, str], read: int, seed: int) -> tuple[dict[str, list[dict]], dict]:
    """Training sets by what was done about the labels, and what the check found."""
    suspects = wrong_labels.check_labels(rows, "category", seed=seed).suspects[:read]
    found = [index for index in suspects if index in right]
    sets = {
        "as they are": rows,
        f"first {read} suspects dropped": wrong_labels.repaired(rows, "category", dict.fromkeys(suspects)),
        f"first {read} suspects read": wrong_labels.repaired(rows, "category", {index: right[index] for index in found}),
        "all labels right": wrong_labels.repaired(rows, "category", dict(right)),
    }
    return sets, {"wrong": len(right), "read": len(suspects), "found": len(found)}


def one_run(rows: list[dict], seed: int, examples: int, asked: int) -> dict:
    """Train a new adapter and test it; shares with their intervals, and the answers."""
    conversations = common.for_training(rows, FIELDS, LONGEST)
    order: list = []
    rng = random.Random(seed)
    while len(order) < examples:
        order += rng.sample(conversations, len(conversations))
    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=LEARNING_RATE, batch_size=BATCH, warmup_steps=10, seed=seed)
    history = training.fit(tuned, tokenizer, order[:examples], settings=settings)
    task = data_prep.load_task("support_tickets", FIELDS)
    answers = generate(tuned, tokenizer, task.prompts()[:asked], max_new_tokens=24, batch_size=25)
    scores = task.evaluate(answers)
    memory.release()
    named = {"valid": scores.valid, **scores.exact, "both": scores.enumerations}
    return {
        "seed": seed,
        "scores": {name: [score.value, score.low, score.high] for name, score in named.items()},
        "training_loss_last_quarter": sum(history.losses[-len(history.losses) // 4 :]) / (len(history.losses) // 4 or 1),
        "answers": answers,
    }


def small_classifier(rows: list[dict]) -> float:
    """Share of the test categories that TF-IDF and logistic regression get right after training on these rows."""
    task = data_prep.load_task("support_tickets")
    texts = [formats.prompt_of(row) for row in rows]
    fitted = wrong_labels.classifier().fit(texts, [wrong_labels.label_of(row, "category") for row in rows])
    wanted = [reference["category"] for reference in task.references()]
    return float((fitted.predict([c[1]["content"] for c in task.test]) == wanted).mean())


def main() -> None:
    """All treatments at both amounts of noise, seed by seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--try", action="store_true", dest="trying", help="a few steps; nothing is written")
    options = parser.parse_args()
    examples, asked = (8, 2) if options.trying else (EXAMPLES, 100)
    rows, right = prepared_rows()
    runs: dict[str, list[dict]] = {}
    checks: dict[str, list[dict]] = {}
    for seed in options.seeds[: 1 if options.trying else None]:
        noises = {"forty wrong": (rows, right), "three times as many": with_more_noise(rows, right, seed)}
        for noise, (noisy, truth_of) in noises.items():
            read = READ * (MORE if noise != "forty wrong" else 1)
            sets, check = treatments(noisy, truth_of, read, seed)
            checks.setdefault(noise, []).append({"seed": seed, **check})
            print(noise, seed, check, flush=True)
            for name, kept in sets.items():
                if "dropped" in name and noise == "forty wrong":
                    continue
                run = {**one_run(kept, seed, examples, asked), "small_classifier": small_classifier(kept)}
                runs.setdefault(f"{noise} | {name}", []).append(run)
                shown = {key: round(value[0], 3) for key, value in run["scores"].items()}
                print(f"{noise} | {name}", seed, shown, run["small_classifier"], flush=True)
    if not options.trying:
        results = {"examples": EXAMPLES, "longest message, words": LONGEST, "seeds": options.seeds}
        common.write_results("label-noise", results | {"checks": checks, "runs": runs})
    else:
        print(json.dumps({name: [run["scores"]["valid"][0] for run in seeds] for name, seeds in runs.items()}, indent=1))


if __name__ == "__main__":
    main()
