"""Lesson 01's rivals on all 100 questions, what is trained with three seeds, and facts memorised in more and more epochs.

Every way to ask gets its best form (`SYSTEMS`): RAG is asked for the record too,
examples are retrieved, the whole catalogue is in the prompt, and structured output is decoded under a grammar. Writes a
dated record. Each list in the record has one list of zeros and ones per seed, in the order of the questions;
greedy answers of the untrained model have one seed. `--try 3` asks the untrained systems three questions each and writes
nothing. `--rivals` measures the table of rivals alone, all of it on this machine, in an hour less; what the record says of
facts learned by heart and of sizes of the training set is then the newest record's, and the record says so. `--add NAME`
measures one more untrained system and writes it into the newest record. `--unseen` writes into it how well
a model reads that was trained without the passages and products that it is asked about: the passages are dealt into four
parts, and each part's questions go to a model that was trained on the examples of the other three.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from datetime import date

import shop_prompts
import shop_scores
from common import RECORDS, write_results
from course_utils import evaluation, hardware, memory, models, training
from course_utils.data_prep import load_catalogue
from course_utils.data_prep.catalogue import SCHEMA
from course_utils.generation import generate
from course_utils.retrieval import Retriever
from in_schema import generate_in_schema
from shop_prompts import prompts as prompts_of
from shop_prompts import training_examples

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

SEEDS = (0, 1, 2)
# Size of the training set: (facts, wordings per fact). All are trained for the same number of steps, and tested on other
# facts.
SIZES = {24: (24, 1), 70: (70, 1), 210: (70, 3)}
STEPS = 60
DRILL_EPOCHS = 3
SWEEP = (1, 3, 6)
SYSTEMS = (
    "prompt: zero-shot", "prompt: instructions", "prompt: few-shot", "prompt: few-shot, structured",
    "prompt: retrieved examples", "RAG", "RAG: few-shot", "RAG: few-shot, structured", "RAG: retrieved examples",
    "RAG: retrieved examples of other facts", "whole catalogue", "fine-tuned", "fine-tuned + RAG",
    "fine-tuned + RAG, unseen products",
)  # fmt: skip
UNSEEN, UNSEEN_PARTS = SYSTEMS[-1], 4
LEARNING_RATE, BATCH_SIZE = 2e-3, 4
MOST_TOKENS = 40
# The form of lesson 01's record, with texts that end before the tokens do.
STRUCTURED = {
    **SCHEMA,
    "properties": SCHEMA["properties"]
    | {
        "product": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        "answer": {"type": "string", "maxLength": 40},
    },
}

catalogue = load_catalogue()
questions = catalogue.questions
changed = [question for question in questions if question["answer_v2"] is not None]
wordings: dict[str, list[dict]] = {}
for row in catalogue.training:
    wordings.setdefault(row["question_id"], []).append(row)
model, tokenizer = models.load(tier="cpu")


def after_the_same_beginning(prompts) -> list[str]:
    """Greedy answers to prompts with a long common beginning, which is read once: what a host's prompt cache does."""
    encoded = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True)["input_ids"] for p in prompts]
    shared = next(i for i, column in enumerate(zip(*encoded)) if len(set(column)) > 1)
    beginning = torch.tensor([encoded[0][:shared]], device=model.device)
    model.eval()
    answers = []
    with torch.no_grad():
        read = model(beginning, use_cache=True, logits_to_keep=1).past_key_values
        for ids in encoded:
            tokens = torch.tensor([ids], device=model.device)
            written = model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), past_key_values=copy.deepcopy(read),
                max_new_tokens=MOST_TOKENS, do_sample=False, pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            answers.append(tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))
    return answers


def answer(system: str, prompts) -> list[str]:
    """Answers of a system, as `SYSTEMS` names it."""
    if system == "whole catalogue":
        return after_the_same_beginning(prompts)
    if system.endswith("structured"):
        return generate_in_schema(model, tokenizer, prompts, STRUCTURED, MOST_TOKENS)
    return generate(model, tokenizer, prompts, max_new_tokens=MOST_TOKENS)


def quality(prompts, selected=questions, version: int = 1, system: str = ""):
    """Scores of greedy answers, seconds per answer, and the answers."""
    started = time.perf_counter()
    answers = answer(system, prompts)
    return (
        shop_scores.evaluate(catalogue, answers, selected, version),
        (time.perf_counter() - started) / len(prompts),
        answers,
    )


def rows(scores) -> dict:
    """For each side (format, behaviour, knowledge), 0 or 1 per question."""
    sides = zip(*scores.rows)
    return {side: [int(value) for value in values] for side, values in zip(("valid", "behaviour", "knowledge"), sides)}


def plain(selected):
    """Prompts without instructions or passages."""
    return [catalogue.prompt(question["question"]) for question in selected]


def tune(examples, epochs: float, seed: int, start=None, **more) -> tuple[float, dict]:
    """Train a new adapter on the original base and merge it; starts from the weights in `start` if given.

    The base is loaded again each time, because unmerging an adapter does not restore 16-bit weights exactly.

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


def untrained() -> list[str]:
    """The systems that answer with the model as it is."""
    return [name for name in SYSTEMS if not name.startswith("fine-tuned")]


def try_out(number: int) -> None:
    """A few questions to each untrained system, to see whether it works."""
    for system in untrained():
        prompts = prompts_of(system, catalogue, questions[:number])
        scores, seconds, answers = quality(prompts, questions[:number], system=system)
        print(
            f"{system}: {seconds:.1f} s, valid {scores.valid}, knowledge {scores.knowledge}",
            *answers,
            sep="\n  ",
            flush=True,
        )


def main(rivals_only: bool = False, added: str = "") -> None:
    """All systems, seed by seed."""
    index = {v: Retriever(catalogue.versions[v], "dense") for v in (1, 2)}

    def pages(selected, version: int = 1):
        return [[h.passage for h in hits] for hits in index[version].search_all([q["question"] for q in selected], 1)]

    systems: dict[str, dict] = {}
    if added:
        file = sorted(RECORDS.glob("framework-*.json"))[-1]
        content = json.loads(file.read_text(encoding="utf-8"))
        systems = content["seeds"]

    def note(name: str, prompts) -> None:
        scores, seconds, answers = quality(prompts, system=name)
        encoded = [
            tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True)["input_ids"] for p in prompts
        ]
        columns = systems.setdefault(name, {"valid": [], "behaviour": [], "knowledge": [], "seconds": []})
        for side, values in rows(scores).items():
            columns[side].append(values)
        columns["seconds"].append(seconds)
        columns["tokens"] = statistics.mean(map(len, encoded))
        columns.setdefault("answers", answers)  # those of the first seed
        print(f"{name:<28} knowledge {scores.knowledge} behaviour {scores.behaviour} both {scores.both}", flush=True)

    if added:
        note(added, prompts_of(added, catalogue, questions))
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    for system in untrained():
        note(system, prompts_of(system, catalogue, questions))

    question_by_id = {q["id"]: q for q in questions}
    lessons = [example for group in training_examples(catalogue) for example in group]
    drill = [shop_prompts.example(catalogue, row) for q in changed for row in wordings[q["id"]]]
    seen = [q | {"question": wordings[q["id"]][0]["question"]} for q in questions]
    reserved_facts = [id for number, id in enumerate(wordings) if number % 10 < 3]  # in no training set of SIZES
    sizes: dict = {size: {"trained on": [], "test": [], "valid": []} for size in SIZES}
    drilled: dict = {"epochs": DRILL_EPOCHS, "trained on": [], "version 1": [], "version 2": [], "stale": []}
    after: dict = {"RAG + fine-tuned, version 2": []}
    training_seconds = []
    for seed in SEEDS:
        seconds, adapter_weights = tune(lessons, 1, seed)
        training_seconds.append(seconds)
        for system in ("fine-tuned", "fine-tuned + RAG"):
            note(system, prompts_of(system, catalogue, questions))
        updated_prompts = [catalogue.prompt(q["question"], p) for q, p in zip(changed, pages(changed, 2))]
        after["RAG + fine-tuned, version 2"].append(rows(quality(updated_prompts, changed, 2)[0])["knowledge"])
        if rivals_only:
            continue

        tune(drill, DRILL_EPOCHS, seed, adapter_weights)
        answer_scores, _, answers = quality(plain(changed), changed)
        new_scores = shop_scores.evaluate(catalogue, answers, changed, 2)
        trained_scores = quality(plain([q for q in seen if q["answer_v2"]]), [q for q in seen if q["answer_v2"]])[0]
        drilled["trained on"].append(rows(trained_scores)["knowledge"])
        drilled["version 1"].append(rows(answer_scores)["knowledge"])
        drilled["version 2"].append(rows(new_scores)["knowledge"])
        drilled["stale"].append(round(new_scores.stale.value * new_scores.stale.n))
        print(seed, "drilled", answer_scores.knowledge, "→", new_scores.knowledge, "stale", new_scores.stale, flush=True)

        reserved_questions = [question_by_id[id] for id in reserved_facts]
        for size, (facts, wordings_per_fact) in SIZES.items():
            candidates = [id for id in wordings if id not in reserved_facts]
            training_facts = random.Random(0).sample(candidates, facts)  # the same for each seed
            chosen = [
                shop_prompts.example(catalogue, row) for id in training_facts for row in wordings[id][:wordings_per_fact]
            ]
            tune(chosen, STEPS * BATCH_SIZE / len(chosen), seed)
            trained_questions = [q for q in seen if q["id"] in training_facts]
            on_own = quality(plain(trained_questions), trained_questions)[0]
            on_others = quality(plain(reserved_questions), reserved_questions)[0]
            sizes[size]["trained on"].append(rows(on_own)["behaviour"])
            sizes[size]["test"].append(rows(on_others)["behaviour"])
            sizes[size]["valid"].append(rows(on_others)["valid"])
            print(seed, size, "examples:", on_own.behaviour, on_others.behaviour, flush=True)

    record = {"examples": len(lessons), "seeds": systems, "training_seconds": training_seconds, "after_update": after}
    if rivals_only:
        write_results("framework", record | taken_over())
        return

    sweep, weights, epochs_done = {}, None, 0
    everything = [shop_prompts.example(catalogue, row) for row in catalogue.training]
    for epochs in SWEEP:
        schedule = {"schedule": "constant", "learning_rate": LEARNING_RATE / 2}
        weights, epochs_done = tune(everything, epochs - epochs_done, epochs, weights, **schedule)[1], epochs
        answer_scores, _, answers = quality(plain(questions))
        by_id = dict(zip(question_by_id, answers))
        new_scores = shop_scores.evaluate(catalogue, [by_id[q["id"]] for q in changed], changed, 2)
        stale = [shop_scores.knows(catalogue, _answer_text(by_id[q["id"]]), q, 1) for q in changed]
        trained_scores = quality(plain(seen), seen)[0]
        sweep[epochs] = {
            "trained on": [rows(trained_scores)["knowledge"]],
            "test": [rows(answer_scores)["knowledge"]],
            "version 2": [rows(new_scores)["knowledge"]],
            "stale": [[int(value) for value in stale]],
        }
        print(epochs, "epochs by heart", trained_scores.knowledge, answer_scores.knowledge, new_scores.stale, flush=True)

    write_results("framework", record | {"drilled": drilled, "sizes": sizes, "steps": STEPS, "sweep": sweep})


def unseen() -> None:
    """Questions about products that the asked model was not trained on, for the newest record."""
    passage_of = {q["id"]: q["passage"] for q in questions}
    product_of = {q["passage"]: catalogue.record(q)["product"] or q["passage"] for q in questions}
    subjects = sorted(set(product_of.values()))  # a product, or a passage that is about none
    random.Random(0).shuffle(subjects)
    part_of = {subject: number % UNSEEN_PARTS for number, subject in enumerate(subjects)}
    columns: dict = {"valid": [], "behaviour": [], "knowledge": [], "seconds": []}
    for seed in SEEDS:
        by_question, seconds, asked = {}, [], []
        for part in range(UNSEEN_PARTS):
            held_out = {id for id, passage in passage_of.items() if part_of[product_of[passage]] == part}
            chosen = [example for group in training_examples(catalogue, held_out) for example in group]
            tune(chosen, 1, seed)
            selected = [q for q in questions if q["id"] in held_out]
            prompts = prompts_of(UNSEEN, catalogue, selected)
            scores, per_answer, _ = quality(prompts, selected)
            seconds.append(per_answer)
            asked += [
                len(tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True)["input_ids"])
                for p in prompts
            ]
            for question, values in zip(selected, zip(*rows(scores).values())):
                by_question[question["id"]] = values
            print(f"seed {seed}, part {part}: {len(chosen)} examples, {scores.knowledge}, both {scores.both}", flush=True)
        for side, values in zip(("valid", "behaviour", "knowledge"), zip(*(by_question[q["id"]] for q in questions))):
            columns[side].append(list(values))
        columns["seconds"].append(statistics.mean(seconds))
        columns["tokens"] = statistics.mean(asked)
    device = hardware.detect()
    columns["measured"] = {"date": date.today().isoformat(), "machine": f"{device.name}, {device.cores} cores"}
    columns["measured"] |= {"dtype": device.dtype, "parts": UNSEEN_PARTS}
    file = sorted(RECORDS.glob("framework-*.json"))[-1]
    content = json.loads(file.read_text(encoding="utf-8"))
    content["seeds"][UNSEEN] = columns
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def taken_over() -> dict:
    """What is not measured again, from the newest record, with that one's date, machine and number format."""
    file = sorted(RECORDS.glob("framework-*.json"))[-1]
    old = json.loads(file.read_text(encoding="utf-8"))
    parts = {name: old[name] for name in ("drilled", "sizes", "steps", "sweep")}
    origin = old.get("taken_over", {name: old[name] for name in ("date", "machine", "dtype")} | {"parts": list(parts)})
    return parts | {"taken_over": origin}


def _answer_text(answer: str) -> str:
    from course_utils.data_prep.catalogue import SCHEMA

    record = evaluation.parse_record(answer, SCHEMA)
    return answer if record is None else record["answer"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--try", type=int, dest="number", help="questions to each untrained system; nothing is written")
    parser.add_argument("--rivals", action="store_true", help="the table of rivals only; the rest from the newest record")
    parser.add_argument("--add", choices=untrained(), help="one more system, for the newest record")
    parser.add_argument("--unseen", action="store_true", help="products left out of the training, for the newest record")
    options = parser.parse_args()
    if options.unseen:
        unseen()
    elif options.number:
        try_out(options.number)
    else:
        main(options.rivals, options.add or "")
