"""What goes through the model at once: nothing lost, nothing seen twice, and the numbers of rows of their own."""

import inspect

import pytest
from support import tiny_llama

from course_utils.batching import Encoded, collate, micro_batches, shuffled_batches
from course_utils.scoring import cache_name, shared_beginning, sum_by_completion, token_log_probabilities


def example(prompt, *completions):
    return Encoded(
        list(range(100, 100 + prompt)), [list(range(200 + 50 * i, 200 + 50 * i + n)) for i, n in enumerate(completions)]
    )


def by_hand(model, e):
    """Log-probability of each completion, in a row of its own, without padding."""
    import torch

    found = []
    for completion in e.completions:
        logs = model(input_ids=torch.tensor([e.prompt + completion])).logits[0].log_softmax(-1)
        found.append(sum(logs[len(e.prompt) + i - 1, token].item() for i, token in enumerate(completion)))
    return found


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "grouped_eager"])
@pytest.mark.parametrize(
    "examples", [[example(9, 4)], [example(5, 3), example(12, 7), example(1, 1)], [example(6, 5, 9), example(20, 2, 1)]]
)
def test_log_probabilities_equal_those_of_rows_of_their_own(examples, attention, share):
    import torch

    from course_utils.models.attention import register

    register()
    model = tiny_llama()
    with torch.no_grad():
        expected = [value for e in examples for value in by_hand(model, e)]
        model.set_attn_implementation(attention)
        batch = collate(examples, pad_id=2, share_prompt=share)
        found = sum_by_completion(token_log_probabilities(model, batch), batch)
    assert batch["sequences"] == len(expected)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_every_example_is_seen_once_an_epoch():
    examples = [example(1, n) for n in range(1, 38)]
    orders = []
    for seed in (0, 1):
        made = shuffled_batches(examples, 4, seed)
        assert sorted(len(e) for batch in made for e in batch) == list(range(2, 39))
        assert max(map(len, made)) <= 4
        orders.append([len(e) for batch in made for e in batch])
    assert orders[0] != orders[1]


def test_micro_batches_hold_their_limits_and_lose_nothing():
    examples = [example(1, n - 1) for n in (5, 80, 7, 6, 40, 41, 3)]
    cut = micro_batches(examples, 45)
    assert sorted(len(e) for part in cut for e in part) == [3, 5, 6, 7, 40, 41, 80]
    assert all(len(part) == 1 or len(part) * max(map(len, part)) <= 45 for part in cut)


def test_what_prompts_begin_with_leaves_one_token_of_each():
    same = list(range(50))
    assert shared_beginning([[*same, 1], [*same, 2, 3], same]) == 49
    assert shared_beginning([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9]]) == 2
    assert shared_beginning([[9, *same], same]) == shared_beginning([same]) == shared_beginning([]) == 0


def test_a_cache_is_called_what_the_model_calls_it_with_an_adapter_too():
    from peft import LoraConfig, get_peft_model

    model = tiny_llama()
    name = cache_name(model)
    assert name in inspect.signature(type(model).forward).parameters
    assert cache_name(get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj"]))) == name
