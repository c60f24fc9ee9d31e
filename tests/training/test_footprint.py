"""What `fit` says about memory before a run, beside what the run takes."""

import subprocess
import sys

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import assets, training
from course_utils.batching import Encoded
from course_utils.training import footprint


def example(prompt, *completions):
    return Encoded([5] * prompt, [[7] * n for n in completions])


def predicted(model, *cut, objective=None, share=True, settings=None, **options):
    objective = objective or training.SFT()
    batches = [objective.collate(part, 0, share) for part in cut]
    return footprint.predict(model, batches, settings or training.Settings(), **options)


def test_the_largest_micro_batch_decides():
    model = with_lora(tiny_llama())
    small, large = [example(10, 6)], [example(90, 30)] * 3
    both = predicted(model, small, large, small)
    assert both == predicted(model, large)
    assert (both.rows, both.length) == (3, 120)
    assert both.predicted > predicted(model, small).predicted


def test_the_largest_micro_batches_are_found_among_many():
    many = [[example(n % 50 + 1, 5)] * (n % 4 + 1) for n in range(500)]
    wide, long, scored = [example(50, 5)] * 9, [example(300, 5)], [example(15, 40)] * 9
    found = footprint.largest([*many, wide, long, scored])
    assert scored in found and wide not in found  # of the same size, and more of it is scored
    assert long in found
    tokens = lambda part: len(part) * max(map(len, part))
    sizes = {(len(part), max(map(len, part))) for part in [*many, wide, long, scored]}
    assert sorted(map(tokens, found))[-12:] == sorted(rows * length for rows, length in sizes)[-12:]
    assert len(found) <= 13


def test_gradients_count_while_the_next_micro_batch_is_computed():
    model = with_lora(tiny_llama())
    part = [example(90, 30)] * 3
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    one, several = predicted(model, part), predicted(model, part, accumulates=True)
    assert dict(several.parts)["gradients"] == 4 * trained
    assert dict(one.parts)["gradients"] == 0  # at the loss, where this step is highest
    assert dict(one.parts)["optimizer"] == 8 * trained


def test_a_shared_prompt_is_one_row():
    model = with_lora(tiny_llama())
    pair = [example(100, 20, 20)]
    together, apart = predicted(model, pair), predicted(model, pair, share=False)
    assert (together.rows, together.length) == (1, 144)
    assert (apart.rows, apart.length) == (2, 120)


def doubled(model):
    """Two adapters, both active."""
    from peft import LoraConfig

    model = with_lora(model)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "second"])
    return model


def partly(model):
    model.requires_grad_(False).get_output_embeddings().requires_grad_(True)
    return model


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda m: with_lora(m, use_dora=True), "not a float32 LoRA of one rank"),
        (lambda m: with_lora(m, rank_pattern={"q_proj": 2}), "not a float32 LoRA of one rank"),
        (lambda m: with_lora(m, target_modules=["q_proj"], layers_to_transform=[1]), "not a float32 LoRA of one rank"),
        (lambda m: with_lora(m, modules_to_save=["lm_head"]), "not a float32 LoRA of one rank"),
        (lambda m: with_lora(m, dropout=0.1), "dropout"),
        (doubled, "not a single LoRA"),
        (partly, "part of the model"),
    ],
)
def test_what_the_closed_form_does_not_cover_is_said(change, reason):
    found = predicted(change(tiny_llama()), [example(10, 6)])
    assert found.predicted is None
    assert reason in str(found)


def test_fused_functions_switched_off():
    found = predicted(with_lora(tiny_llama()), [example(10, 6)], settings=training.Settings(fused=("head",)))
    assert "switched off" in found.reason


def test_an_unknown_architecture_trains_without_a_prediction(tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_positions=256, n_embd=32, n_layer=2, n_head=4))
    history = training.fit(model, tokenizer, [conversation()] * 2, settings=training.Settings(max_steps=1))
    assert "not tested on the architecture" in str(history.memory)
    assert len(history.losses) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a block")
def test_what_fit_predicts_is_near_what_it_takes(packaged):
    """The real model, in a process of its own: here other tests' memory would be reused."""
    code = """
from peft import LoraConfig, get_peft_model
from benchmarks.common import MemoryAdded
from course_utils import models, training
from course_utils.data_prep import load_task
model, tokenizer = models.load(tier="cpu")
model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
data = load_task("support_tickets").train[:64]
training.fit(model, tokenizer, data, settings=training.Settings(max_steps=1))  # what libraries keep for themselves
with MemoryAdded() as added:
    history = training.fit(model, tokenizer, data, settings=training.Settings(max_steps=2, micro_batch_tokens=3000))
print(history.memory, added.bytes, history.memory.predicted / added.bytes)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=assets.root())
    assert 0.75 < float(ran.stdout.split()[-1]) < 1.25, ran.stdout
