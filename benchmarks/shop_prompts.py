"""The prompts of every way in which lesson 01's hundred questions are put to a model, and what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from course_utils.data_prep.catalogue import Catalogue, write
from course_utils.retrieval import Retriever

RETRIEVED_EXAMPLES = 3


def prompts(system: str, catalogue: Catalogue, questions: Sequence[Mapping], version: int = 1) -> list[list[dict]]:
    """The prompts of a system, as the benchmark names it, for some questions.

    Systems that are trained get the message alone, or with the passage; those with structured output get the same prompt as
    those without.
    """
    passages = found_passages(catalogue, questions, version) if "RAG" in system else [list[Mapping]() for _ in questions]
    if system == "RAG":
        return [prompt_for_fact(q["question"], context[0]) for q, context in zip(questions, passages)]
    if system == "whole catalogue":
        return [whole_catalogue_prompt(catalogue, q["question"], version) for q in questions]
    if "retrieved examples" in system:
        shown = nearest_examples(catalogue, questions, other_facts=system.endswith("of other facts"))
        return [_with_retrieved_examples(catalogue, *row) for row in zip(questions, passages, shown)]
    how = {"instructions": True} if "instructions" in system else {"few_shot": True} if "few-shot" in system else {}
    return [catalogue.prompt(q["question"], context, **how) for q, context in zip(questions, passages)]


def found_passages(catalogue: Catalogue, questions: Sequence[Mapping], version: int = 1) -> list[list[Mapping]]:
    """For each question the first passage that dense retrieval finds, as a list of one."""
    hits = Retriever(catalogue.versions[version], "dense").search_all([q["question"] for q in questions], 1)
    return [[hit.passage for hit in question_hits] for question_hits in hits]


def nearest_examples(catalogue: Catalogue, questions: Sequence[Mapping], other_facts: bool) -> list[list[Mapping]]:
    """For each question the training questions with the nearest wording, nearest last.

    With `other_facts` the wordings of the fact that is asked for are left out; else they may be among the examples.
    """
    rows = [{"id": str(number), "text": row["question"]} for number, row in enumerate(catalogue.training)]
    wordings = max(Counter(row["question_id"] for row in catalogue.training).values())
    hits = Retriever(rows, "dense").search_all([q["question"] for q in questions], RETRIEVED_EXAMPLES + wordings)
    neighbours: list[list[Mapping]] = [[catalogue.training[int(hit.id)] for hit in nearest] for nearest in hits]
    if other_facts:
        neighbours = [[row for row in near if row["question_id"] != q["id"]] for q, near in zip(questions, neighbours)]
    return [near[:RETRIEVED_EXAMPLES][::-1] for near in neighbours]


def _with_retrieved_examples(
    catalogue: Catalogue, question: Mapping, passages: Sequence[Mapping], examples: Sequence[Mapping]
) -> list[dict]:
    system, *_, user_message = catalogue.prompt(question["question"], passages, instructions=True)
    by_id = {p["id"]: p for p in catalogue.versions[1]}
    passage_of = {q["id"]: by_id[q["passage"]] for q in catalogue.questions}
    shown = []
    for row in examples:
        shown += example(catalogue, row, [passage_of[row["question_id"]]] if passages else ())[1:]
    return [system, *shown, user_message]


def training_examples(catalogue: Catalogue, left_out: Collection[str] = ()) -> tuple[list[list[dict]], list[list[dict]]]:
    """What the lesson trains on, in wordings that the test does not have.

    Args:
        catalogue: with the training questions.
        left_out: ids of questions whose facts are not trained on.

    Returns:
        each fact once without a passage; three facts of five once more, in another wording and with the passage before it.
    """
    wordings: dict[str, list[dict]] = {}
    for row in catalogue.training:
        if row["question_id"] not in left_out:
            wordings.setdefault(row["question_id"], []).append(row)
    by_id = {p["id"]: p for p in catalogue.versions[1]}
    passage_of = {q["id"]: by_id[q["passage"]] for q in catalogue.questions}
    alone = [example(catalogue, rows[0]) for rows in wordings.values()]
    ids_with_passage = [id for number, id in enumerate(wordings) if number % 5 < 3]
    return alone, [example(catalogue, wordings[id][2], [passage_of[id]]) for id in ids_with_passage]


def whole_catalogue_prompt(catalogue: Catalogue, question: str, version: int = 1) -> list[dict]:
    """Instructions, three examples and all passages before the question; all but the question is the same each time."""
    messages = catalogue.prompt(question, few_shot=True)
    listing = "\n".join(f"{p['title']}. {p['text']}" for p in catalogue.versions[version])
    first = {"role": "system", "content": f"{messages[0]['content']}\n\nThe shop's catalogue:\n{listing}"}
    return [first, *messages[1:]]


def prompt_for_fact(question: str, passage: Mapping) -> list[dict]:
    """Return the conversation that should be answered with only the fact, read from a passage.

    Of five wordings that were tried on training questions, this one led the CPU tier's model to the most facts.
    """
    request = f"Passage: {passage['title']}: {passage['text']}\nQuestion: {question}\nAnswer:"
    system = "Answer the customer's question from the passage, in a few words."
    return [{"role": "system", "content": system}, {"role": "user", "content": request}]


def example(catalogue: Catalogue, row: Mapping, passages: Sequence[Mapping] = (), version: int = 1) -> list[dict]:
    """Return a conversation to train on: the prompt without instructions, and the right record.

    Args:
        catalogue: the facts.
        row: a training question.
        passages: passages to put before the message.
        version: version of the facts, 1 or 2.
    """
    answer = {"role": "assistant", "content": write(catalogue.record(row, version))}
    return [*catalogue.prompt(row["question"], passages), answer]
