import pytest
from support import conversation, tiny_llama

from course_utils import training
from course_utils.errors import CourseError


def encode(tokenizer, example, max_length=1024):
    return training.SFT().encode(tokenizer, example, max_length, "train[7]")


def test_completion_runs_from_the_answer_to_the_stop_token(tokenizer):
    encoded = encode(tokenizer, conversation("Hello?", "Good day"))
    (completion,) = encoded.completions
    assert tokenizer.decode(completion) == "Good day<|im_end|>"
    assert tokenizer.decode(encoded.prompt).endswith("<|im_start|>assistant\n")
    assert completion[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id  # pad is the stop token, and is scored


def test_prompt_tokens_carry_no_loss_and_padding_changes_nothing(tokenizer):
    """Against cross-entropy written out by hand, example by example, without padding or cut-off logits."""
    import torch

    model, objective = tiny_llama(), training.SFT()
    examples = [
        encode(tokenizer, conversation(p, c)) for p, c in (("Hi", "Yes, sir"), ("Where is the thing I bought?", "No"))
    ]
    sizes = objective.normalizers(examples)
    expected = 0.0
    with torch.no_grad():
        for example in examples:
            ids = example.prompt + example.completions[0]
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            for at in range(len(example.prompt), len(ids)):
                expected -= logs[at - 1, ids[at]].item()
        found = objective.loss(model, objective.collate(examples, pad_id=2), sizes).value.item()
    assert found == pytest.approx(expected / sizes["tokens"], rel=1e-5)
    assert sizes == {"tokens": sum(len(e.completions[0]) for e in examples)}


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ([], "at least two messages"),
        ("text", "expected a list of at least two messages, found str"),
        ([{"role": "user", "content": "x"}, {"role": "assistant"}], "message 1: expected"),
        (conversation()[:2], "last message must be the assistant's, but it is the user's"),
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
