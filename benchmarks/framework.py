"""Lesson 01's comparison for three seeds, on all 100 questions, and facts learned by heart in ever more passes.

Writes a dated record and a figure. Each list in the record holds one list of 0 and 1 a seed, in the order of the questions.
"""

from __future__ import annotations

import random
import time

from common import RECORDS, write_record
from course_utils import evaluation, figures, memory, models, training
from course_utils.data_prep import load_catalogue
from course_utils.generation import generate
from course_utils.retrieval import Retriever

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

SEEDS = (0, 1, 2)
# Sizes of a training set: (facts, wordings of each). All are trained for as many steps, and tested on facts outside them.
SIZES = {24: (24, 1), 70: (70, 1), 210: (70, 3)}
STEPS = 60
DRILL_EPOCHS = 3
SWEEP = (1, 3, 6)
LEARNING_RATE, BATCH_SIZE = 2e-3, 4

catalogue = load_catalogue()
questions = catalogue.questions
changed = [question for question in questions if question["answer_v2"] is not None]
wordings: dict[str, list[dict]] = {}
for row in catalogue.training:
    wordings.setdefault(row["question_id"], []).append(row)
model, tokenizer = models.load(tier="cpu")


def quality(prompts, asked=questions, version: int = 1):
    """Scores of greedy answers, and the seconds that one took."""
    started = time.perf_counter()
    answers = generate(model, tokenizer, prompts, max_new_tokens=40)
    return catalogue.evaluate(answers, asked, version), (time.perf_counter() - started) / len(prompts), answers


def rows(found) -> dict:
    """0 and 1 for each question on each side."""
    sides = zip(*found.rows)
    return {side: [int(value) for value in values] for side, values in zip(("valid", "behaviour", "knowledge"), sides)}


def plain(asked):
    """Prompts without instructions and passages."""
    return [catalogue.prompt(question["question"]) for question in asked]


def tune(examples, epochs: float, seed: int, start=None, **more) -> tuple[float, dict]:
    """Train a new adapter on the untouched base and merge it; from `start`'s weights if given.

    The base is loaded anew each time: taking a merged adapter out again does not restore 16-bit weights to the last digit.

    Returns:
        Seconds of training, and the adapter's weights.
    """
    global model
    model = None
    memory.release()
    model = models.load(tier="cpu")[0]
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    if start is not None:
        set_peft_model_state_dict(model, start)
    options = {"learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE, "epochs": epochs, "warmup_steps": 5, "seed": seed}
    started = time.perf_counter()
    training.fit(model, tokenizer, examples, settings=training.Settings(**options | more))
    seconds = time.perf_counter() - started
    weights = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
    model.merge_adapter()
    return seconds, weights


def main() -> None:
    """All systems, seed by seed."""
    index = {v: Retriever(catalogue.versions[v], "dense") for v in (1, 2)}

    def pages(asked, version: int = 1):
        return [[h.passage for h in hits] for hits in index[version].search_all([q["question"] for q in asked], 1)]

    systems: dict[str, dict] = {}

    def note(name: str, found, seconds: float) -> None:
        held = systems.setdefault(name, {"valid": [], "behaviour": [], "knowledge": [], "seconds": []})
        for side, values in rows(found).items():
            held[side].append(values)
        held["seconds"].append(seconds)
        print(f"{name:<28} knowledge {found.knowledge} behaviour {found.behaviour} both {found.both}", flush=True)

    note("prompt: zero-shot", *quality(plain(questions))[:2])
    told = [catalogue.prompt(q["question"], instructions=True) for q in questions]
    note("prompt: instructions", *quality(told)[:2])
    note("prompt: few-shot", *quality([catalogue.prompt(q["question"], few_shot=True) for q in questions])[:2])
    reading = [catalogue.prompt_for_fact(q["question"], p[0]) for q, p in zip(questions, pages(questions))]
    note("RAG", *quality(reading)[:2])
    shown = [catalogue.prompt(q["question"], p, few_shot=True) for q, p in zip(questions, pages(questions))]
    note("RAG: few-shot", *quality(shown)[:2])

    passage = {p["id"]: p for p in catalogue.versions[1]}
    of = {q["id"]: q for q in questions}
    lessons = [catalogue.example(w[0]) for w in wordings.values()]
    read = [id for number, id in enumerate(wordings) if number % 5 < 3]
    lessons += [catalogue.example(wordings[id][2], [passage[of[id]["passage"]]]) for id in read]
    drill = [catalogue.example(row) for q in changed for row in wordings[q["id"]]]
    seen = [q | {"question": wordings[q["id"]][0]["question"]} for q in questions]
    kept = [id for number, id in enumerate(wordings) if number % 10 < 3]  # facts that no training set of a size has
    sizes: dict = {size: {"trained on": [], "test": [], "valid": []} for size in SIZES}
    drilled: dict = {"epochs": DRILL_EPOCHS, "trained on": [], "version 1": [], "version 2": [], "stale": []}
    after: dict = {"RAG + fine-tuned, version 2": []}
    training_seconds = []
    for seed in SEEDS:
        seconds, shop = tune(lessons, 1, seed)
        training_seconds.append(seconds)
        note("fine-tuned", *quality(plain(questions))[:2])
        together = [catalogue.prompt(q["question"], p) for q, p in zip(questions, pages(questions))]
        note("fine-tuned + RAG", *quality(together)[:2])
        renewed = [catalogue.prompt(q["question"], p) for q, p in zip(changed, pages(changed, 2))]
        after["RAG + fine-tuned, version 2"].append(rows(quality(renewed, changed, 2)[0])["knowledge"])

        tune(drill, DRILL_EPOCHS, seed, shop)
        found, _, answers = quality(plain(changed), changed)
        later = catalogue.evaluate(answers, changed, 2)
        known = quality(plain([q for q in seen if q["answer_v2"]]), [q for q in seen if q["answer_v2"]])[0]
        drilled["trained on"].append(rows(known)["knowledge"])
        drilled["version 1"].append(rows(found)["knowledge"])
        drilled["version 2"].append(rows(later)["knowledge"])
        drilled["stale"].append(round(later.stale.value * later.stale.n))
        print(seed, "drilled", found.knowledge, "→", later.knowledge, "stale", later.stale, flush=True)

        others = [of[id] for id in kept]
        for size, (facts, each) in SIZES.items():
            picked = random.Random(0).sample([id for id in wordings if id not in kept], facts)  # the same for each seed
            chosen = [catalogue.example(row) for id in picked for row in wordings[id][:each]]
            tune(chosen, STEPS * BATCH_SIZE / len(chosen), seed)
            own = [q for q in seen if q["id"] in picked]
            on_own, on_others = quality(plain(own), own)[0], quality(plain(others), others)[0]
            sizes[size]["trained on"].append(rows(on_own)["behaviour"])
            sizes[size]["test"].append(rows(on_others)["behaviour"])
            sizes[size]["valid"].append(rows(on_others)["valid"])
            print(seed, size, "examples:", on_own.behaviour, on_others.behaviour, flush=True)

    sweep, weights, done = {}, None, 0
    everything = [catalogue.example(row) for row in catalogue.training]
    for epochs in SWEEP:
        schedule = {"schedule": "constant", "learning_rate": LEARNING_RATE / 2}
        weights, done = tune(everything, epochs - done, epochs, weights, **schedule)[1], epochs
        found, _, answers = quality(plain(questions))
        by_id = dict(zip(of, answers))
        later = catalogue.evaluate([by_id[q["id"]] for q in changed], changed, 2)
        stale = [catalogue.knows(_said(by_id[q["id"]]), q, 1) for q in changed]
        known = quality(plain(seen), seen)[0]
        sweep[epochs] = {
            "trained on": [rows(known)["knowledge"]],
            "test": [rows(found)["knowledge"]],
            "version 2": [rows(later)["knowledge"]],
            "stale": [[int(value) for value in stale]],
        }
        print(epochs, "epochs by heart", known.knowledge, found.knowledge, later.stale, flush=True)

    write_record(
        "framework",
        {
            "examples": len(lessons),
            "seeds": systems,
            "training_seconds": training_seconds,
            "drilled": drilled,
            "after_update": after,
            "sizes": sizes,
            "steps": STEPS,
            "sweep": sweep,
        },
    )
    shown = {
        name: {side: evaluation.over_seeds(held[side]) for side in ("knowledge", "behaviour", "valid")}
        | {
            "both": evaluation.over_seeds(
                [[a * b for a, b in zip(*pair)] for pair in zip(held["knowledge"], held["behaviour"])]
            )
        }
        for name, held in systems.items()
    }
    units = {"knowledge": "%", "behaviour": "%", "both": "%", "valid": "%"}
    figures.scorecard(shown, "Four approaches, three seeds", units).save(str(RECORDS / "framework.png"))


def _said(answer: str) -> str:
    from course_utils.data_prep.catalogue import SCHEMA

    record = evaluation.parse_record(answer, SCHEMA)
    return answer if record is None else record["answer"]


if __name__ == "__main__":
    main()
