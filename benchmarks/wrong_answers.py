"""Answers of the CPU tier's model to sort by what went wrong: lesson 01's section on looking at errors.

Few on purpose: three systems of lesson 01, some of the questions, so that each cause of error occurs. Writes a dated record
with the question, the passage that was shown and the answer; which of them are wrong, and why, is computed when they are
read.
"""

from __future__ import annotations

from common import write_results
from course_utils import models
from course_utils.data_prep import load_catalogue
from course_utils.generation import generate
from course_utils.retrieval import Retriever

MOST_TOKENS = 40


def main() -> None:
    """Ask, and write down what came."""
    catalogue = load_catalogue()
    model, tokenizer = models.load(tier="cpu")
    questions = catalogue.questions
    hits = Retriever(catalogue.versions[1], "dense").search_all([q["question"] for q in questions], 1)
    shown = {q["id"]: found[0].passage for q, found in zip(questions, hits)}
    found = [q for q in questions if shown[q["id"]]["id"] == q["passage"]]
    missed = [q for q in questions if shown[q["id"]]["id"] != q["passage"]]
    asked = {
        "prompt: few-shot": [(q, [], {"few_shot": True}) for q in questions[5::20]],
        "RAG: instructions": [(q, [shown[q["id"]]], {"instructions": True}) for q in [*found[1::6][:11], *missed[:2]]],
        "RAG: few-shot": [(q, [shown[q["id"]]], {"few_shot": True}) for q in [*found[::10][:7], *missed[2:6]]],
    }
    rows = []
    for system, cases in asked.items():
        for question, passages, how in cases:
            prompt = catalogue.prompt(question["question"], passages, **how)
            answer = generate(model, tokenizer, [prompt], max_new_tokens=MOST_TOKENS)[0]
            passage = passages[0]["id"] if passages else None
            rows.append({"system": system, "question": question["id"], "passage": passage, "answer": answer})
            print(rows[-1], flush=True)
    write_results("wrong-answers", {"answers": rows})


if __name__ == "__main__":
    main()
