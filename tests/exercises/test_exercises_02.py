"""What the exercises of lesson 02 say of adapters holds for PEFT's, and their cases leave one right answer."""

import numpy as np
import pytest

from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.lesson_02 import conversation_labels, lora_slots, swapped_weight


@pytest.fixture
def draws():
    return lambda id: [case for seed in range(20) for case in EXERCISES[id].cases(np.random.default_rng(seed))]


def test_swapping_is_what_peft_does():
    """The layer with the first adapter merged, swapped by us; by PEFT unmerged and merged with the second."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False)).double()
    for name, rank, alpha in (("old", 2, 7), ("new", 3, 20)):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], init_lora_weights=False)
        model = inject_adapter_in_model(config, model, adapter_name=name)
    layer = model[0]

    def adapter(name, alpha):
        return layer.lora_A[name].weight.detach().double(), layer.lora_B[name].weight.detach().double(), alpha

    layer.merge(adapter_names=["old"])
    merged = layer.weight.detach().clone()
    layer.unmerge()
    layer.merge(adapter_names=["new"])
    ours = swapped_weight(merged, adapter("old", 7), adapter("new", 20))
    assert torch.allclose(ours, layer.weight, atol=1e-6) and not torch.allclose(ours, merged, atol=1e-2)


def test_of_a_single_answer_the_labels_are_the_lessons():
    """Beside the lesson's `ids_and_labels`, on its template: system, message, answer."""
    from course_utils import models
    from course_utils.data_prep import load_task

    tokenizer = models.load_tokenizer(tier="cpu")
    conversation = load_task("support_tickets").train[0]

    def ids_of(messages, **more):
        return tokenizer.apply_chat_template(messages, return_dict=True, **more)["input_ids"]

    ids, prompt = ids_of(conversation), ids_of(conversation[:-1], add_generation_prompt=True)
    header = len(prompt) - len(ids_of(conversation[:-1]))
    ends = [0, *(len(ids_of(conversation[:n])) for n in (1, 2, 3))]
    turns = [(message["role"], ends[n + 1] - ends[n]) for n, message in enumerate(conversation)]
    assert conversation_labels(ids, turns, header) == [-100] * len(prompt) + ids[len(prompt) :]


def test_no_other_choice_of_slots_holds_more_adapters(draws):
    for ranks, shapes, free, size in draws("lora-7"):
        best = {}
        for rank in set(ranks):
            fit = free // (rank * size * sum(map(sum, shapes)))
            best[rank] = min(fit, sum(other <= rank for other in ranks))
        number, chosen = lora_slots(ranks, shapes, free, size)
        assert number == max(best.values()) and chosen == min(rank for rank in best if best[rank] == number)


def test_the_cases_of_the_labels_have_tools_and_users_between_the_replies(draws):
    roles = [[role for role, _ in turns] for _, turns, _, _ in draws("lora-6")]
    assert {"system", "user", "assistant", "tool"} == {role for said in roles for role in said}
    assert sum(said.count("assistant") > 1 for said in roles) > len(roles) / 2
    assert any(said[-1] == "user" for said in roles)


@pytest.mark.parametrize("id", ["lora-5", "lora-6", "lora-7"])
def test_no_two_diagnoses_fit_the_same_answer(id):
    """The first that fits is told, so each mistake's values must be its own in every draw."""
    exercise = EXERCISES[id]
    for seed in range(30):
        outputs = checking.CaseSet.of(exercise, np.random.default_rng(seed)).mistake_outputs
        assert None not in outputs
        for number, mistaken in enumerate(outputs):
            for other in outputs[:number]:
                assert not all(checking._alike(a, b, exercise.tolerance) for a, b in zip(mistaken, other))
