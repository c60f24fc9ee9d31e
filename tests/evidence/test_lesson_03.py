"""What decides about lesson 03's claims: evidence that refutes a claim must refute it."""

import json

import pytest

from course_utils import assets, claims, memory
from course_utils.errors import CourseError
from course_utils.evaluation import Score
from course_utils.evidence import lesson_03

real = assets.benchmark_results


def test_every_claim_of_the_lesson_has_a_judge_and_a_source():
    ids = [id for id in claims.CLAIMS if id.startswith("Q")]
    assert all(hasattr(lesson_03, f"judge_{id}") for id in ids)
    assert set(ids) <= claims.SOURCES.keys()


def test_arithmetic_claims_fail_with_the_real_figures():
    found = {id: getattr(lesson_03, f"judge_{id}")() for id in ("Q1", "Q3", "Q4")}
    assert {id: verdict.word for id, verdict in found.items()} == dict.fromkeys(found, claims.FAILS)
    assert "3.88 times" in found["Q1"].sentence
    assert "13,631,488 of 8,043,892,736" in found["Q4"].sentence and "rank 8 on all seven" in found["Q4"].sentence
    assert "With 40 GB (really 42.4) Llama-3.1-70B does not fit" in found["Q3"].sentence


@pytest.mark.parametrize(("weights", "word"), [(4.2, claims.FAILS), (4.0 / 1.001, claims.HOLDS)])
def test_a_quarter_is_judged_by_the_whole_model(monkeypatch, weights, word):
    """If whole models took no more than the codes, the claim would hold."""

    class Made:
        def __init__(self, method):
            self.weights = 16e9 if method == "lora" else weights * 1e9 * (1 if word == claims.HOLDS else 1.2)

    monkeypatch.setattr(lesson_03.memory, "estimate", lambda name, method, **_: Made(method))
    assert lesson_03.judge_Q1().word == word


def test_the_right_count_would_hold(monkeypatch):
    made = memory.ParameterCount(8_051_249_152 - 20_971_520, 20_971_520)
    monkeypatch.setattr(lesson_03.memory, "count_parameters", lambda *a: made)
    assert lesson_03.judge_Q4().word == claims.HOLDS


@pytest.mark.parametrize("gb", [35.0, 45.0])
def test_70b_on_one_card_is_judged_by_the_whole_step(monkeypatch, gb):
    monkeypatch.setattr(lesson_03, "step_gb", lambda *a, **b: gb)
    assert lesson_03.judge_Q3().word == (claims.HOLDS if gb < 36 else claims.FAILS)


def test_speed_on_a_cpu_does_not_judge_a_claim_about_gpus():
    for value in (1.25, 3.0):
        verdict = lesson_03.judge_Q2({"80": Score(value, value - 0.1, value + 0.1, 4)})
        assert verdict.word == claims.NOT_TESTED
        assert f"{100 * (value - 1):+.0f} % at 80 tokens" in verdict.sentence
    assert "1 of their 5 figures lies between" in verdict.sentence


@pytest.fixture
def seeds(monkeypatch, tmp_path):
    """Writes a record of QLoRA over three seeds, with these losses."""
    file = tmp_path / "qlora-seeds-2026-12-01.json"
    monkeypatch.setattr(lesson_03.assets, "benchmark_results", lambda name: file if name == "qlora-seeds" else real(name))

    def write(losses):
        file.write_text(json.dumps({"runs": {f"QLoRA | {i}": {"validation_loss": x} for i, x in enumerate(losses)}}))

    return write


@pytest.mark.parametrize(
    ("qlora", "recorded", "word", "said"),
    [
        ([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7], claims.FAILS, "can be measured"),  # worse on each message and in each seed
        ([0.5, 0.6, 0.7, 0.8], [0.14, 0.16, 0.17], claims.NOT_TESTED, "no damage shows"),  # worse in this run only
        ([0.3, 0.5, 0.35, 0.55], [0.5, 0.6, 0.7], claims.NOT_TESTED, "no damage shows"),  # now better, now worse
        ([0.2, 0.3, 0.4, 0.5], [0.1, 0.1, 0.1], claims.NOT_TESTED, "no damage shows"),  # better on each
    ],
)
def test_quality_is_judged_by_messages_and_by_seeds(qlora, recorded, word, said, seeds):
    seeds(recorded)
    verdict = lesson_03.judge_Q5([0.3, 0.4, 0.5, 0.6], qlora, before=[2.0] * 4)
    assert verdict.word == word
    assert said in verdict.sentence
    assert "QLoRA reached" in verdict.sentence


def test_recorded_runs_of_qlora_are_shown_if_there_are_any(monkeypatch, seeds):
    shown = lambda: str(lesson_03.judge_Q5([0.3, 0.4], [0.3, 0.4]).evidence[1])
    seeds([0.2, 0.21, 0.22])
    assert "QLoRA, the same data and seeds" in shown() and "0.210 (0.200-0.220)" in shown()

    def none(name):
        if name == "qlora-seeds":
            raise CourseError("there is no record")
        return real(name)

    monkeypatch.setattr(lesson_03.assets, "benchmark_results", none)
    assert "QLoRA" not in shown()


# -- memory of a step


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
    assert left == sorted(left, reverse=True)
    assert lesson_03.prices("Llama-2-7B", 1, 512).rows["one example at a time"]["alone saves, GB"] == 0


@pytest.mark.parametrize("card", memory.GPUS)
def test_the_walk_is_drawn_for_every_card(card):
    alt = lesson_03.levers("Llama-2-7B", card, 2, 512).alt
    assert f"{lesson_03._gpu_label(card).partition(',')[0]}" in alt and len(alt) <= 300


def test_the_first_picture_says_only_what_is_true(monkeypatch):
    assert "QLoRA fits where LoRA does not" in lesson_03.does_it_fit().alt
    assert "QLoRA fits" not in lesson_03.does_it_fit(cards=("a100",)).alt


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
