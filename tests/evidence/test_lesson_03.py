"""Lesson 03: memory of a step, what bfloat16 rounds away, and losses that are those of training."""

import pytest

from course_utils import memory
from course_utils.evaluation import Score
from course_utils.evidence import lesson_03


def test_the_parts_are_the_estimates_and_float32_embeddings_come_on_top():
    plain = memory.estimate("Llama-3.1-8B", "qlora", **lesson_03.ONE_STEP).total / 1e9
    assert lesson_03.step_gb(embeddings="bfloat16") == pytest.approx(plain)
    assert lesson_03.step_gb() - plain == pytest.approx(2 * 2 * 128_256 * 4096 / 1e9, abs=0.001)  # and the norms
    lora = memory.estimate("Llama-3.1-8B", "lora", **lesson_03.ONE_STEP).total / 1e9
    assert lesson_03.step_gb(method="lora") == pytest.approx(lora)


def test_each_lever_saves_and_the_first_saves_most():
    table = lesson_03.prices()
    saved = {name: row["alone saves, GB"] or 0 for name, row in table.rows.items()}
    assert min(saved.values()) >= 0 and max(saved, key=saved.get) == "one example at a time"
    left = [row["left after it and those above, GB"] for row in table.rows.values()]
    assert left == sorted(set(left), reverse=True)
    assert lesson_03.prices("Llama-2-7B", 1, 512).rows["one example at a time"]["alone saves, GB"] == 0


def test_paging_pays_in_full_fine_tuning():
    shares = {name: row["share of the step, %"] for name, row in lesson_03.paging().rows.items()}
    assert shares["full fine-tuning"] > 40 and shares["QLoRA"] < 10


def test_most_weights_do_not_move_in_bfloat16_at_the_rate_of_full_fine_tuning():
    import torch

    weight = 0.05 * torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    full, start, end = (row["bfloat16: not moved, %"] for row in lesson_03.rounded_steps(weight).rows.values())
    assert full > 60 and start < 5 and 20 < end < full  # an adapter's numbers are small: it moves until the rate has decayed
    assert {row["float32: not moved, %"] for row in lesson_03.rounded_steps(weight).rows.values()} == {0}


def test_what_is_lost_is_a_share_of_the_gain():
    assert lesson_03.gain_lost_percent({"nothing": 3.0, "beside": 1.0, "merged": 2.0}) == 50


@pytest.mark.model
def test_a_loss_is_the_one_that_training_reports():
    """Nothing after the stop token counts: on 12 messages that line break alone made LoRA look worse than QLoRA by 0.07."""
    import torch
    from peft import LoraConfig, get_peft_model

    from course_utils import models, training

    chat = [{"role": "user", "content": "Where is TB-30718?"}, {"role": "assistant", "content": '{"order_id": "TB-30718"}'}]
    model, tokenizer = models.load(tier="cpu")
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    settings = training.Settings(learning_rate=1e-12, batch_size=1, warmup_steps=0)
    history = training.fit(model, tokenizer, [chat], [chat], settings=settings)
    (loss,) = lesson_03.answer_losses(model, tokenizer, [chat])
    assert loss == pytest.approx(history.validation_losses[0], rel=0.01)
    ids = torch.tensor([tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]])
    assert ids[0, -1] != tokenizer.eos_token_id  # else there were nothing to leave out


def test_the_paired_difference_is_that_of_the_last_two_models():
    table = lesson_03.paired_losses({"before": [9.0, 9.0], "LoRA": [0.5, 0.7], "QLoRA": [0.6, 0.8]})
    assert table.rows["QLoRA minus LoRA (95 % interval)"]["mean loss"] == "+0.100 (+0.100 to +0.100)"


def test_this_machines_pace_stands_beside_the_published_ones():
    table = lesson_03.pace_table({"80": Score(1.25, 1.15, 1.35, 4)})
    (column,) = {column for row in table.rows.values() for column in row}
    assert table.rows["this machine, 80 tokens a step"][column] == "+25 (+15 to +35)"
    assert table.rows["torchtune's README: 8B, RTX 4090"][column] == "+28"
