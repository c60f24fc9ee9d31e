import pytest
from conftest import conversation, tiny_llama

from course_utils import training
from course_utils.errors import CourseError
from course_utils.training.objectives import IGNORE


@pytest.fixture
def tokenizer(packaged):
    return packaged[1]


def encode(tokenizer, example, max_length=1024):
    return training.SFT().encode(tokenizer, example, max_length, "train[7]")


def test_completion_runs_from_the_answer_to_the_stop_token(tokenizer):
    encoded = encode(tokenizer, conversation("Hello?", "Good day"))
    assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == "Good day<|im_end|>"
    assert tokenizer.decode(encoded.ids[: encoded.prompt_length]).endswith("<|im_start|>assistant\n")
    assert encoded.ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id  # pad is the stop token, and is scored


def test_collated_labels_stand_at_the_completions(tokenizer):
    examples = [
        encode(tokenizer, conversation("Hi", "A")),
        encode(tokenizer, conversation("A longer message", "B C D")),
    ]
    batch = training.SFT().collate(examples, pad_id=2)
    for row, example in enumerate(examples):
        completion = example.ids[example.prompt_length :]
        labels = batch["labels"][row].tolist()
        assert labels == [IGNORE] * (batch["keep"] - len(completion)) + completion
        assert batch["input_ids"][row, -batch["keep"] :].tolist()[-len(completion) :] == completion
        assert batch["attention_mask"][row].sum() == len(example)
        assert batch["position_ids"][row, -len(example) :].tolist() == list(range(len(example)))


def test_prompt_tokens_carry_no_loss_and_padding_changes_nothing(tokenizer):
    """Against cross-entropy written out by hand, example by example, without padding or cut-off logits."""
    import torch

    model, objective = tiny_llama(), training.SFT()
    examples = [
        encode(tokenizer, conversation(p, c)) for p, c in (("Hi", "Yes, sir"), ("Where is the thing I bought?", "No"))
    ]
    batch = objective.collate(examples, pad_id=2)
    expected = 0.0
    with torch.no_grad():
        for example in examples:
            logs = model(input_ids=torch.tensor([example.ids])).logits[0].log_softmax(-1)
            for at in range(example.prompt_length, len(example)):
                expected -= logs[at - 1, example.ids[at]].item()
        found = objective.loss(model, batch).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(map(objective.scored, examples)) == (batch["labels"] != IGNORE).sum()


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ([], "at least two messages"),
        ("text", "expected a list of at least two messages, found str"),
        ([{"role": "user", "content": "x"}, {"role": "assistant"}], "message 1: expected"),
        (conversation()[:2], "last message must be the assistant's, it is the user's"),
        (conversation(completion="  "), "the assistant's message is empty"),
    ],
)
def test_broken_examples_are_named(tokenizer, example, said):
    with pytest.raises(CourseError, match=said) as raised:
        encode(tokenizer, example)
    assert str(raised.value).startswith("train[7]")


def test_a_prompt_as_long_as_the_limit_is_an_error_not_a_silent_drop(tokenizer):
    with pytest.raises(CourseError, match=r"the prompt alone has \d+ tokens and max_length is 20; raise"):
        encode(tokenizer, conversation("word " * 50), max_length=20)
