"""A trial leaves the model as it was."""

import pytest
import torch
from peft import LoraConfig
from support import tiny_llama, with_lora

from course_utils import training
from course_utils.errors import CourseError

CHATS = [[{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}] for word in ("one", "two")]


@pytest.mark.model
def test_the_model_is_as_before(packaged):
    model, settings = with_lora(tiny_llama(), rank=4), training.Settings(max_steps=2, batch_size=2, learning_rate=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    active = model.active_adapter
    history = training.trial(model, packaged[1], CHATS, CHATS, LoraConfig(r=2, target_modules="all-linear"), settings)
    assert len(history.losses) == 2 and history.validation_losses
    assert model.active_adapter == active and list(model.peft_config) == [active]
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(CourseError):  # nor does a failure leave anything behind
        training.trial(model, packaged[1], [], CHATS, LoraConfig(r=2, target_modules="all-linear"), settings)
    assert list(model.peft_config) == [active]
