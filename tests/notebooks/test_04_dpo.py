"""Lesson 04: the code that readers see against TRL's losses, and the programs for work as they stand."""

import pytest
from support import PAIRS, lesson_code, nudge, tiny_llama, trl_arguments, trl_tokenizer, with_lora

from course_utils.data_prep import load_preferences
from course_utils.exercises import lesson_04 as exercises


@pytest.fixture(scope="module")
def lesson():
    """The functions of the cells that are written from scratch, as they stand there."""
    return lesson_code("04")


def test_dpo_from_scratch_is_trls(lesson, tmp_path):
    import datasets
    import torch

    trl = pytest.importorskip("trl")
    trainer = trl.DPOTrainer(
        model=with_lora(tiny_llama()), args=trl_arguments(trl.DPOConfig, tmp_path, beta=0.3),
        train_dataset=datasets.Dataset.from_list(PAIRS), processing_class=trl_tokenizer(),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    model, log_probability = trainer.model.eval(), lesson["reply_log_probability"]

    def pairs():
        return log_probability(model, batch["input_ids"], batch["completion_mask"]).view(2, -1).T

    with torch.no_grad():
        reference = pairs()
    nudge(model)
    ours, theirs = lesson["dpo_loss"](pairs(), reference, beta=0.3), trainer.compute_loss(model, dict(batch))
    assert abs(theirs.item() - 0.6931) > 1e-3
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for a, b in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_exercise_on_the_batch_is_the_lessons_function(lesson):
    import torch

    model = tiny_llama().eval()
    ids, mask = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 0]]), torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        found = lesson["reply_log_probability"](model, ids, mask)
    assert torch.allclose(exercises.log_probabilities_of_batch(logits, ids, mask), found, atol=1e-5)


def ranked(lesson, name, every=1, kinds=("order", "step", "tone", "item")):
    """Share of the test pairs that each rule of section 6 ranks right, learned from each `every`th training pair."""
    data = load_preferences(name)
    train = data.train[::every]
    test = [row for row in data.test if row.get("kind") in kinds or name == "confounded"]
    target = max(range(1, 200), key=lambda words: lesson["share_right"](lesson["length_scores"](train, words)))
    return {
        "length": lesson["share_right"](lesson["length_scores"](test, target)),
        "words": lesson["share_right"](lesson["word_scores"](train, test)),
        "opening": lesson["share_right"](lesson["word_scores"](train, test, first=3)),
    }


@pytest.mark.parametrize("every", [1, 2, 3], ids=["all pairs", "one of each twins", "every third pair"])
def test_no_shortcut_ranks_our_pairs(lesson, every):
    found = ranked(lesson, "balanced", every)
    assert found["length"] <= 0.6 and found["words"] <= 0.6


def test_how_a_reply_begins_ranks_the_pairs_that_are_about_that_and_no_others(lesson):
    assert ranked(lesson, "balanced", kinds=("order",))["opening"] == 1.0
    assert all(ranked(lesson, "balanced", kinds=(kind,))["opening"] <= 0.6 for kind in ("step", "tone", "item"))


def test_the_same_shortcuts_rank_the_earlier_pairs(lesson):
    assert min(ranked(lesson, "confounded").values()) > 0.8
