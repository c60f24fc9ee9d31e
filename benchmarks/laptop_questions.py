"""Lesson 01's hundred questions, put to models that people deploy: asked, shown past answers or passages, and trained.

    python benchmarks/laptop_questions.py                     every run that the record does not have yet; hours
    python benchmarks/laptop_questions.py "0.5B | choice"     the runs whose names begin so
    python benchmarks/laptop_questions.py --list              the runs, and which of them are recorded
    python benchmarks/laptop_questions.py --dry               one prompt of each form; no model is loaded

Each question is asked in the ways that `shop_prompts` knows, and in a few more that a larger model can use. Where a
way has several forms, and for the learning rate and the passes of training, the runs "choice" come first: they ask 50 of the
training questions, in a wording that neither training nor the past answers have, and what comes afterwards takes the best.
The hundred test questions choose nothing. An untrained model's answers at temperature 0 depend on no seed: past answers are
the nearest of all, not drawn. So only training has seeds, which are another start of the adapter and another order.

"Seconds a request" are those of a batch, of which the common beginning is read once: what a host with a prompt cache needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import common  # noqa: F401 - prepares the process
import shop_prompts
import shop_scores
from course_utils import memory, models, training
from course_utils.data_prep import load_catalogue
from course_utils.data_prep.catalogue import SCHEMA, Catalogue
from course_utils.evidence import lesson_01
from course_utils.generation import generate
from course_utils.retrieval import Retriever
from in_schema import generate_in_schema
from laptop_runs import MODELS, SHOWN, Prompt, count_tokens, loaded, recorded_run, run_command, summary, tokenizer_of

import torch
from peft import LoraConfig, get_peft_model
from sklearn.metrics import cohen_kappa_score

NAME = "laptop-questions"
SEEDS = (0, 1, 2)
BATCH, WARMUP = 4, 5  # as in lesson 01
PASSES = (1,)  # as in lesson 01
RATES = {"0.5B": (2e-4, 4e-4), "1.5B": (2e-4,)}  # around the best of the tickets' sweep
ANSWER_TOKENS, MORE_IN_SCHEMA = 40, 16
MANY_EXAMPLES, MANY_PASSAGES = 8, 3
# Forms that lesson 01 does not have.
EIGHT_EXAMPLES = f"prompt: {MANY_EXAMPLES} retrieved examples"
THREE_PASSAGES = f"RAG: few-shot, {MANY_PASSAGES} passages"
WHOLE_WITH_EXAMPLES = "whole catalogue, retrieved examples"
# A way to ask → its forms, as `shop_prompts.prompts` and this module name them.
FORMS = {
    "prompt alone": ("prompt: instructions", "prompt: few-shot", "prompt: few-shot, structured"),
    "past answers": ("prompt: retrieved examples", EIGHT_EXAMPLES),
    "RAG": ("RAG: few-shot", "RAG: few-shot, structured", THREE_PASSAGES),
    "RAG + past answers": ("RAG: retrieved examples",),
    "RAG + past answers to other questions": ("RAG: retrieved examples of other facts",),
    "RAG, the fact alone": ("RAG",),
    "whole catalogue": ("whole catalogue", WHOLE_WITH_EXAMPLES),
}
TRAINED = ("fine-tuned", "fine-tuned + RAG")
# The record's form, with texts that end before the tokens do.
STRUCTURED = SCHEMA | {
    "properties": SCHEMA["properties"]
    | {
        "product": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
        "answer": {"type": "string", "maxLength": 40},
    }
}

catalogue = load_catalogue()


# -- questions and prompts ------------------------------------------------------------------------------------------------


@cache
def validation() -> tuple[list[dict], Catalogue]:
    """Return the questions that choices are made on, and the catalogue whose past answers lack them.

    They are the second wordings of every second fact: `shop_prompts.training_examples` trains on the first and the third.
    """
    wordings: dict[str, list[dict]] = {}
    for row in catalogue.training:
        wordings.setdefault(row["question_id"], []).append(row)
    rows = [rows[1] for rows in list(wordings.values())[::2]]
    return rows, replace(catalogue, training=[row for row in catalogue.training if row not in rows])


def prompts(form: str, questions: Sequence[Mapping], source: Catalogue = catalogue) -> list[Prompt]:
    """Return a form's prompts for some questions, with past answers and passages of the catalogue `source`."""
    if form == EIGHT_EXAMPLES:
        return [
            with_examples(source, question["question"], near)
            for question, near in zip(questions, nearest(source, questions, MANY_EXAMPLES))
        ]
    if form == THREE_PASSAGES:
        found = Retriever(source.versions[1], "dense").search_all([q["question"] for q in questions], MANY_PASSAGES)
        return [
            source.prompt(question["question"], [hit.passage for hit in hits], few_shot=True)
            for question, hits in zip(questions, found)
        ]
    if form == WHOLE_WITH_EXAMPLES:
        examples = shop_prompts.prompts("prompt: retrieved examples", source, questions)
        whole = shop_prompts.prompts("whole catalogue", source, questions)
        return [[instructed[0], *shown[1:]] for instructed, shown in zip(whole, examples)]
    return shop_prompts.prompts(form, source, questions)


def nearest(source: Catalogue, questions: Sequence[Mapping], number: int) -> list[list[Mapping]]:
    """Return for each question the training questions with the nearest wording, nearest last."""
    index = Retriever([{"id": str(n), "text": row["question"]} for n, row in enumerate(source.training)], "dense")
    found = index.search_all([question["question"] for question in questions], number)
    return [[source.training[int(hit.id)] for hit in reversed(hits)] for hits in found]


def with_examples(source: Catalogue, question: str, rows: Sequence[Mapping]) -> Prompt:
    """Return the prompt with instructions and with the answers to other questions as earlier turns."""
    system, asked = source.prompt(question, instructions=True)
    return [system, *(message for row in rows for message in shop_prompts.example(source, row)[1:]), asked]


# -- measuring --------------------------------------------------------------------------------------------------------------


def batch_size(form: str) -> int:
    """Return how many questions are answered at once: fewer where each needs much memory."""
    if form.startswith("whole"):
        return 5
    return 20 if form.startswith("RAG: ") else 50


def measure(
    model: Any, tokenizer: Any, form: str, questions: Sequence[Mapping], source: Catalogue = catalogue
) -> dict[str, Any]:
    """Ask questions in one form.

    Returns:
        "right" (valid, behaviour, knowledge and both → 0 or 1 for each question), tokens and seconds a request, the first
        answers and a summary.
    """
    asked = prompts(form, questions, source)
    started = time.process_time()
    if form.endswith("structured"):
        answers = generate_in_schema(model, tokenizer, asked, STRUCTURED, ANSWER_TOKENS + MORE_IN_SCHEMA)
    else:
        answers = generate(model, tokenizer, asked, ANSWER_TOKENS, batch_size=batch_size(form))
    seconds = time.process_time() - started
    rows = shop_scores.evaluate(source, answers, questions).rows
    right = {side: [int(row[n]) for row in rows] for n, side in enumerate(("valid", "behaviour", "knowledge"))}
    right["both"] = [b * k for b, k in zip(right["behaviour"], right["knowledge"])]
    return {
        "form": form, "right": right, **count_tokens(tokenizer, asked), "seconds_a_request": round(seconds / len(asked), 2),
        "answers": answers[:SHOWN], "summary": summary(right),
    }  # fmt: skip


def quality(run: Mapping[str, Any]) -> tuple[float, ...]:
    """Return what forms are ranked by: right on both sides, on either side, valid form, and the shorter prompt."""
    both, behaviour, knowledge, valid = (sum(run["right"][name]) for name in ("both", "behaviour", "knowledge", "valid"))
    return both, behaviour + knowledge, valid, -run["prompt_tokens"]


# -- untrained models -----------------------------------------------------------------------------------------------------


def try_form(size: str, form: str) -> dict:
    """Return the results of one form on the validation questions."""
    return measure(*loaded(size), form, *validation())


def best_form(way: str) -> str:
    """Return the form of a way to ask with which the 0.5B was best on the validation questions."""
    forms = FORMS[way]
    if len(forms) == 1:
        return forms[0]
    return max(forms, key=lambda form: quality(recorded_run(NAME, f"0.5B | choice, {form} | 0")))


def untrained(size: str, way: str) -> dict:
    """Return the results of a way to ask on the hundred questions, in its best form."""
    return measure(*loaded(size), best_form(way), catalogue.questions)


def judged(size: str) -> dict:
    """Return whether the model agrees with marks by hand: does a free answer give the right fact? Asked as in lesson 01."""
    rows = [json.loads(line) for line in lesson_01.data_file("judged").read_text(encoding="utf-8").splitlines()]
    question = "Customer: {question}\nRight answer: {expected}\nReply: {reply}\n"
    task = "Does the reply tell the customer the right answer? Answer yes or no."
    asked = [[{"role": "user", "content": question.format(**row) + task}] for row in rows]
    written = generate(*loaded(size), asked, 2, batch_size=10)
    said, by_hand = [text.strip().lower().startswith("yes") for text in written], [row["right"] for row in rows]
    kappa = float(cohen_kappa_score(said, by_hand))
    agree = sum(a == b for a, b in zip(said, by_hand))
    return {
        "says yes": sum(said), "as by hand": agree, "kappa": kappa, "answers": written[:SHOWN],
        "summary": f"yes {sum(said)} of {len(rows)}, as by hand {agree}, kappa {kappa:.2f}",
    }  # fmt: skip


# -- trained models -------------------------------------------------------------------------------------------------------


def tune(
    size: str, examples: list[Prompt], rate: float, passes: int, seed: int, held_out: Sequence[Prompt] = ()
) -> tuple[Any, Any, dict[str, Any]]:
    """Return a model with a merged adapter, its tokenizer, and how it was trained."""
    loaded.cache_clear()
    memory.release()
    torch.manual_seed(seed)
    model, tokenizer = models.load(MODELS[size])
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=rate, batch_size=BATCH, epochs=passes, warmup_steps=WARMUP, seed=seed)
    started = time.process_time()
    history = training.fit(model, tokenizer, examples, list(held_out), settings=settings)
    return model.merge_and_unload(), tokenizer, {
        "rate": rate, "passes": passes, "examples": len(examples),
        "training_seconds": round(time.process_time() - started), "validation_losses": history.validation_losses,
    }  # fmt: skip


def lesson_examples(left_out: Sequence[str] = ()) -> list[Prompt]:
    """Return what lesson 01 trains on: the facts alone, and three of five once more with their passage."""
    return [example for group in shop_prompts.training_examples(catalogue, left_out) for example in group]


def measure_trained(
    model: Any, tokenizer: Any, how: Mapping[str, Any], questions: Sequence[Mapping], source: Catalogue = catalogue
) -> dict:
    """Return how a model was trained, and "systems": its results without and with a passage."""
    systems = {form: measure(model, tokenizer, form, questions, source) for form in TRAINED}
    return {**how, "systems": systems, "summary": "; ".join(f"{form}: {run['summary']}" for form, run in systems.items())}


def try_training(size: str, rate: float | None, passes: int) -> dict:
    """Return the results of one way of training on the validation questions; `rate` None takes the best of one pass."""
    questions, source = validation()
    rate = rate or best_training(size, PASSES[:1])[0]
    held_out = [shop_prompts.example(catalogue, question) for question in questions]
    return measure_trained(*tune(size, lesson_examples(), rate, passes, 0, held_out), questions, source)


def trainings(size: str) -> dict[str, tuple[float | None, int]]:
    """Return run → (rate, passes) of the ways of training that are tried, each depending on those before it."""
    table: dict[str, tuple[float | None, int]] = {
        f"{size} | choice, rate {rate:g} | 0": (rate, PASSES[0]) for rate in RATES[size]
    }
    return table | {f"{size} | choice, {passes} passes | 0": (None, passes) for passes in PASSES[1:]}


def best_training(size: str, passes: Sequence[int] = PASSES) -> tuple[float, int]:
    """Return rate and passes with which most validation answers were right; of several, those of the lower loss.

    Answers count that are right on both sides with a passage, and on the side of behaviour without one. A size for which one
    rate is given takes as many passes as the 0.5B.
    """
    rates = RATES[size]
    if len(rates) == 1:
        return rates[0], best_training("0.5B")[1]
    tried = [recorded_run(NAME, run) for run, (_, number) in trainings(size).items() if number in passes]

    def right(run: Mapping[str, Any]) -> tuple[float, float]:
        alone, read = (run["systems"][form]["right"] for form in TRAINED)
        return sum(alone["behaviour"]) + sum(read["both"]), -run["validation_losses"][-1]

    best = max(tried, key=right)
    return best["rate"], best["passes"]


def trained(size: str, seed: int) -> dict:
    """Return the results of a trained model on the hundred questions, without and with a passage."""
    return measure_trained(*tune(size, lesson_examples(), *best_training(size), seed), catalogue.questions)


# -- runs -----------------------------------------------------------------------------------------------------------------


def jobs() -> dict[str, Callable[[], dict]]:
    """Return name of a run → what measures it, in the order in which the answers are wanted."""
    table: dict[str, Callable[[], dict]] = {}

    def add_untrained(size: str) -> None:
        for form in (form for forms in FORMS.values() if len(forms) > 1 for form in forms):
            if size == "0.5B":
                table[f"{size} | choice, {form} | 0"] = partial(try_form, size, form)
        for way in FORMS:
            table[f"{size} | {way} | 0"] = partial(untrained, size, way)
        table[f"{size} | judge of free text | 0"] = partial(judged, size)

    add_untrained("0.5B")
    for run, (rate, passes) in trainings("0.5B").items():
        table[run] = partial(try_training, "0.5B", rate, passes)
    for seed in SEEDS:
        table[f"0.5B | fine-tuned | {seed}"] = partial(trained, "0.5B", seed)
    add_untrained("1.5B")
    table["1.5B | fine-tuned | 0"] = partial(trained, "1.5B", 0)
    return table


def plan() -> dict:
    """Return what holds for all runs."""
    return {
        "models": MODELS, "forms": FORMS, "batch": BATCH, "seeds": SEEDS, "answer tokens": ANSWER_TOKENS,
        "questions": len(catalogue.questions), "validation questions": len(validation()[0]),
        "past answers": len(catalogue.training),
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """Return each form with the tokens that it takes → its prompt for one question; training examples come last."""
    tokenizer, question = tokenizer_of("0.5B"), catalogue.questions[:2]
    shown = {}
    for form in (*(form for forms in FORMS.values() for form in forms), *TRAINED):
        both = prompts(form, question)
        shown[f"{form}: {count_tokens(tokenizer, both)}"] = both[0]
    alone, read = shop_prompts.training_examples(catalogue)
    return shown | {"an example to train on": alone[0], "another, with its passage": read[0]}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
