"""What is wrong with preference data is named with its row."""

import copy
import re

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import training
from course_utils.errors import CourseError

PROMPT = conversation("Where is my parcel?")[:2]
GOOD = {"prompt": PROMPT, "chosen": "It arrives tomorrow.", "rejected": "No idea."}
SETTINGS = training.Settings(max_steps=1, batch_size=2)


def answer(text):
    return {"role": "assistant", "content": text}


def refused(rows, objective=None, model=None, tokenizer=None):
    with pytest.raises(CourseError) as error:
        training.fit(model or with_lora(tiny_llama()), tokenizer, rows, None, objective or training.DPO(), SETTINGS)
    return str(error.value)


OTHER = conversation("Where is my kettle?")[:2]
LONGER = [*PROMPT, answer("Which one?"), {"role": "user", "content": "The blue one."}]


def after(prompt, rejected_after):
    return {"chosen": [*prompt, answer("Tomorrow.")], "rejected": [*rejected_after, answer("No idea.")]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GOOD, GOOD | {"rejected": GOOD["chosen"]}], r"train\[1\].*the same"),
        ([GOOD, GOOD, after(PROMPT, OTHER)], r"train\[2\]: the prompts of the pair differ in message 1.*kettle"),
        (
            [GOOD, after(PROMPT, LONGER)],
            r"train\[1\]: the prompts of the pair differ: 2 messages before chosen, 4 before rej",
        ),
        ([{"chosen": "Yes.", "rejected": "No."}], r"train\[0\]: there is no prompt"),
    ],
)
def test_what_is_wrong_with_a_pair_is_named_with_its_row(packaged, rows, said):
    assert re.search(said, refused(rows, tokenizer=packaged[1]), re.DOTALL)


def test_an_implicit_prompt_gives_what_an_explicit_one_gives(packaged):
    whole = {key: [*PROMPT, answer(GOOD[key])] for key in ("chosen", "rejected")}
    objective = training.DPO()
    assert objective.encode(packaged[1], whole, 512, "x") == objective.encode(packaged[1], GOOD, 512, "x")


def test_a_tokenizer_without_chat_template(packaged):
    bare = copy.deepcopy(packaged[1])
    bare.chat_template = None
    assert "has no chat template" in refused([GOOD], tokenizer=bare)
