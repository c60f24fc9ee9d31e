import pytest
from support import conversation

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
