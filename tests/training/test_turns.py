"""Learning several messages of a conversation, the share of tokens that are right, and being told of every step."""

import pytest
import torch
from support import conversation, tiny_llama, with_lora

from course_utils.errors import CourseError
from course_utils.training import SFT, Settings, fit
from course_utils.training.fused import fused

pytestmark = pytest.mark.model
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 3 a number?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And 4?"},
    {"role": "assistant", "content": "That one too, of course."},
    {"role": "user", "content": "And x?"},
    {"role": "assistant", "content": "No, a letter."},
]


def loss_of(model, tokenizer, objective, examples):
    encoded = [objective.encode(tokenizer, example, 500, "train[0]") for example in examples]
    sizes = objective.normalizers(encoded)
    found = objective.loss(model, objective.collate(encoded, 2), sizes)
    return found.value, sizes["tokens"], found.metrics


def test_all_turns_at_once_are_the_same_as_each_by_itself(tiny):
    model, tokenizer = tiny
    together, tokens, _ = loss_of(model, tokenizer, SFT(turns="all"), [TALK])
    apart, tokens_apart, _ = loss_of(model, tokenizer, SFT(), [TALK[:3], TALK[:5], TALK])
    assert tokens == tokens_apart
    assert float(together) == pytest.approx(float(apart), rel=1e-5)


def test_a_message_of_weight_0_is_read_and_not_learned(tiny):
    model, tokenizer = tiny
    talk = [*TALK[:4], TALK[4] | {"weight": 0}, *TALK[5:]]
    without, tokens, _ = loss_of(model, tokenizer, SFT(turns="all"), [talk])
    apart, tokens_apart, _ = loss_of(model, tokenizer, SFT(), [TALK[:3], TALK])
    assert tokens == tokens_apart and float(without) == pytest.approx(float(apart), rel=1e-5)
    silent = [m | ({"weight": 0} if m["role"] == "assistant" else {}) for m in TALK]
    with pytest.raises(CourseError, match=r"train\[7\]: there is no message of the assistant to learn"):
        SFT(turns="all").encode(tokenizer, silent, 500, "train[7]")
    with pytest.raises(CourseError, match="choose among last, all"):
        SFT(turns="first")


def test_a_long_conversation_is_cut_at_the_end(tiny):
    _, tokenizer = tiny
    whole = SFT(turns="all").encode(tokenizer, TALK, 500, "x")
    cut = SFT(turns="all").encode(tokenizer, TALK, len(whole) - 5, "x")
    assert len(cut) == len(whole) - 5 == len(cut.prompt) + len(cut.token_values["weight"])
    assert cut.completions[0] == whole.completions[0][:-5] and cut.learned == whole.learned - 5


@pytest.mark.parametrize("functions", [(), ("head",)])
def test_accuracy_is_the_share_of_first_choices(tiny, functions):
    model, tokenizer = tiny
    objective = SFT(turns="all", accuracy=True)
    encoded = objective.encode(tokenizer, TALK, 500, "x")

    def choices():
        with torch.no_grad():
            ids = torch.tensor([encoded.prompt + encoded.completions[0]])
            return model(ids).logits[0, len(encoded.prompt) - 1 : -1].argmax(1).tolist()

    for place in (0, 1):  # two tokens as the model would have them, so that not all are wrong
        encoded.completions[0][place] = choices()[place]
    right = sum(a == b and w for a, b, w in zip(choices(), encoded.completions[0], encoded.token_values["weight"]))
    lora = with_lora(tiny_llama(), random_b=False)
    with fused(lora, functions):
        sizes = objective.normalizers([encoded])
        found = objective.loss(lora, objective.collate([encoded], 2), sizes)
        found.value.backward()
    assert 2 <= right < sizes["tokens"]
    assert float(found.metrics["accuracy"]) == pytest.approx(right / sizes["tokens"])
    plain = SFT(turns="all").loss(lora, objective.collate([encoded], 2), sizes)
    assert float(plain.value) == pytest.approx(float(found.value), rel=1e-5) and plain.metrics == {}


def test_every_step_is_told_before_its_checkpoint(tmp_path):
    model, told = with_lora(tiny_llama()), []

    class Enough(Exception):
        pass

    def on_step(step, total, history):
        there = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
        told.append((step, total, history.validation_steps[-1], there))
        if step == 5:
            raise Enough

    from course_utils import models

    tokenizer = models.load_tokenizer(tier="cpu")
    rows = [conversation(f"Where is parcel {i}?") for i in range(8)]
    settings = Settings(
        batch_size=2, epochs=2, evaluate_every=2, checkpoint_folder=tmp_path, checkpoint_every=1, learning_rate=1e-3
    )
    with pytest.raises(Enough):
        fit(model, tokenizer, rows, rows[:2], SFT(accuracy=True), settings, on_step=on_step)
    assert [entry[:3] for entry in told] == [(1, 8, 0), (2, 8, 2), (3, 8, 2), (4, 8, 4), (5, 8, 4)]
    assert [entry[3][-1:] for entry in told] == [[], *([f"checkpoint-{n:06d}"] for n in range(1, 5))]
    told.clear()
    history = fit(
        with_lora(tiny_llama()), tokenizer, rows, rows[:2], SFT(accuracy=True), settings,
        on_step=lambda step, total, history: told.append(step),
    )  # fmt: skip
    assert told == [5, 6, 7, 8]  # step 5 was told, but its checkpoint was not written: it comes again
    assert len(history.metric("accuracy")) == 8
