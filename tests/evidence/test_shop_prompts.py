"""The prompts behind lesson 01's recorded ways (`benchmarks/shop_prompts.py`)."""

from benchmarks import shop_prompts
from course_utils.data_prep import load_catalogue
from course_utils.evidence.lesson_01 import WAYS


def test_the_recorded_prompts_are_what_they_are_called():
    catalogue = load_catalogue()
    asked = catalogue.questions[:2]
    keys = [small for small, _ in WAYS.values()]
    text = {
        key: [" ".join(m["content"] for m in prompt) for prompt in shop_prompts.prompts(key, catalogue, asked)]
        for key in keys
    }
    assert "Passages:" in text["RAG: few-shot"][0] and "Passages:" not in text["prompt: few-shot"][0]
    assert all(p["text"] in text["whole catalogue"][1] for p in catalogue.versions[1])
    fact = {row["question"]: row["question_id"] for row in catalogue.training}
    for which, others in (("RAG: retrieved examples", False), ("RAG: retrieved examples of other facts", True)):
        prompts = shop_prompts.prompts(which, catalogue, catalogue.questions[:30])
        asked = [[m["content"].rpartition("Customer: ")[2] for m in prompt if m["role"] == "user"] for prompt in prompts]
        examples = [[fact[text] for text in texts[:-1]] for texts in asked]
        own = [question["id"] in shown for question, shown in zip(catalogue.questions, examples)]
        assert {len(shown) for shown in examples} == {shop_prompts.RETRIEVED_EXAMPLES} and any(own) != others


def test_what_is_left_out_of_the_training_is_in_no_example():
    catalogue = load_catalogue()
    held_out = {q["id"]: q for q in catalogue.questions[::4]}
    alone, with_passage = shop_prompts.training_examples(catalogue, held_out)
    everything = [group for groups in shop_prompts.training_examples(catalogue) for group in groups]
    said = {turn["content"] for example in [*alone, *with_passage] for turn in example}
    wordings = {row["question"] for row in catalogue.training if row["question_id"] in held_out}
    assert len(alone) == len(catalogue.questions) - len(held_out) and len(alone) + len(with_passage) < len(everything)
    assert not any(question in text for question in wordings for text in said)
