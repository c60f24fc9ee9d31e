import math
import sys

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import training
from course_utils.errors import CourseError, Diverged
from course_utils.training.settings import learning_rate_factor

DATA = [conversation(f"Message number {i} about {'things ' * (i % 5)}", f"Answer {i % 3}") for i in range(13)]


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def run(tokenizer, data=DATA, validation=None, model=None, **settings):
    model = model or with_lora(tiny_llama(), random_b=False)
    defaults = {"learning_rate": 5e-3, "batch_size": 4}
    return model, training.fit(model, tokenizer, data, validation, settings=training.Settings(**(defaults | settings)))


def test_loss_falls_and_only_the_adapter_moves(tokenizer):
    model = with_lora(tiny_llama(), random_b=False)
    before = weights(model)
    _, history = run(tokenizer, model=model, validation=DATA[:4], max_steps=30, evaluate_every=10)
    assert sum(history.losses[-5:]) / 5 < sum(history.losses[:5]) / 5 - 0.2  # of single batches, whose examples differ
    assert history.validation_losses[-1] < history.validation_losses[0] - 0.1  # a random model of 32 units learns slowly
    assert history.validation_steps == [0, 10, 20, 30]
    for name, parameter in model.named_parameters():
        assert ("lora_" in name) == (not parameter.equal(before[name])), name


def test_same_seed_same_run_and_another_seed_another_order(tokenizer):
    first, again, other = (run(tokenizer, max_steps=6, seed=seed)[1].losses for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_validation_loss_weighs_tokens_not_batches(tokenizer):
    """One long and many short completions: the mean over tokens is far from the mean over batches."""
    rows = [conversation("x", "word " * 40), *[conversation("x", "no")] * 9]
    by_size = [
        run(tokenizer, data=DATA, validation=rows, max_steps=1, micro_batch_tokens=size)[1].validation_losses[0]
        for size in (10, 100, 10_000)
    ]
    assert by_size == pytest.approx([by_size[0]] * 3, rel=1e-5)
    objective, model = training.SFT(), with_lora(tiny_llama(), random_b=False)
    examples = [objective.encode(tokenizer, row, 1024, "x") for row in rows]
    one = {"tokens": 1}
    sums = [objective.loss(model, objective.collate([e], 2), one).value.item() for e in examples]
    assert by_size[0] == pytest.approx(sum(sums) / sum(e.scored for e in examples), rel=1e-5)
    means = [total / example.scored for total, example in zip(sums, examples)]
    assert abs(by_size[0] - sum(means) / len(means)) > 1e-3  # so that the two can be told apart


def test_schedules():
    factors = [learning_rate_factor(step, 10, training.Settings(warmup_steps=2)) for step in range(1, 11)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[-1] == pytest.approx(1 / 8)
    assert learning_rate_factor(9, 10, training.Settings(schedule="constant")) == 1
    assert learning_rate_factor(6, 10, training.Settings(schedule="cosine")) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (lambda: tiny_llama().requires_grad_(False), DATA, "add an adapter"),
        (lambda: with_lora(tiny_llama().half()), DATA, "float16 on a CPU"),
        (lambda: with_lora(tiny_llama()), [], "the train set is empty"),
    ],
)
def test_what_cannot_be_trained_is_refused(tokenizer, model, data, said):
    with pytest.raises(CourseError, match=said):
        run(tokenizer, data, model=model())


@pytest.mark.parametrize("what", ["train", "validation"])
def test_broken_rows_are_named_by_position(tokenizer, what):
    broken = [*DATA[:3], conversation(completion="")]
    data = {"data": DATA, "validation": DATA[:2], ("data" if what == "train" else what): broken}
    with pytest.raises(CourseError, match=rf"^{what}\[3\]"):
        run(tokenizer, **data)


def test_a_loss_that_is_nan_stops_the_run_with_a_reason(tokenizer):
    import torch

    model = with_lora(tiny_llama())
    next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(math.nan)
    with pytest.raises(CourseError, match="the loss is nan at step 1: the learning rate"):
        run(tokenizer, model=model, max_steps=2)
    assert torch.isfinite(model.get_input_embeddings().weight).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"schedule": "triangular"}, "constant, linear, cosine"),
        ({"warmup_steps": -2}, "must not be negative"),
        ({"evaluate_every": 0}, "must be at least 1, or None"),
        ({"fused": ("lora", "all")}, "head, lora, mlp, norm"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(CourseError, match=said):
        training.Settings(**settings)


def test_progress_shows_loss_and_speed_in_a_terminal_and_is_silent_elsewhere(tokenizer, capsys, monkeypatch):
    run(tokenizer, max_steps=2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(tokenizer, max_steps=2)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "tokens/s" in shown


def test_history_says_and_draws_what_happened(tokenizer):
    _, history = run(tokenizer, max_steps=4, validation=DATA[:2])
    assert "4 steps" in str(history)
    figure = history.plot()
    assert figure.data.startswith(b"\x89PNG")
    assert "in 4 steps" in figure.alt
    assert history.tokens > history.scored_tokens > 0


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [(4, "lower Settings\\(micro_batch_tokens=5000\\)"), (1, "lower Settings\\(max_length=1024\\)")],
)
def test_out_of_memory_says_what_to_lower_and_how_much_it_was(tokenizer, monkeypatch, batch_size, advice):
    """A stand-in for the allocator's refusal, which cannot be had here without hurting the machine."""
    import torch

    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(training.SFT, "loss", refuse)
    with pytest.raises(CourseError, match=rf"out of memory at step 1, with [\d,]+ tokens at once; {advice}"):
        run(tokenizer, batch_size=batch_size, micro_batch_tokens=5000)


def test_other_errors_are_not_taken_for_it(tokenizer, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(training.SFT, "loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tokenizer)


def test_a_set_with_one_completion_only_is_remarked_upon(tokenizer):
    with pytest.warns(UserWarning, match="every training example has the same completion"):
        _, history = run(tokenizer, data=[conversation(f"Question {i}", "Yes") for i in range(5)], max_steps=1)
    assert any("same completion" in note for note in history.notes)


def test_in_a_notebook_the_bar_and_the_curve_are_rewritten_in_place(tokenizer, monkeypatch):
    """IPython's display stood in for; that the built notebook looks right is seen in the browser test."""
    import IPython.display

    from course_utils import progress
    from course_utils.training import history

    shown = []

    class Handle:
        def __init__(self, number):
            self.number = number

        def update(self, html):
            shown.append((self.number, html.data))

    def display(html, display_id):
        shown.append((len({n for n, _ in shown}), html.data))
        return Handle(shown[-1][0])

    for module in (progress, history):
        monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr(history, "CURVE_SECONDS", 0)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(IPython.display, "display", display)
    run(tokenizer, max_steps=6)
    bars, curves = ([data for number, data in shown if number == which] for which in (0, 1))
    assert "left" in bars[1] and "<progress" in bars[1]
    assert "Trained 6 of 6 steps in" in bars[-1]  # one line of summary takes the bar's place
    assert "left" not in bars[-1] and "<progress" not in bars[-1]
    assert 'alt="Line chart. Loss while training' in curves[0]
    assert curves[-1] == ""  # the finished run draws itself


@pytest.mark.parametrize("left", ["bf16", "another device"])
def test_what_another_trainer_left_in_accelerates_state_is_no_obstacle(tokenizer, left):
    """TRL's trainers leave their precision there, and with `use_cpu` the CPU; here it is a GPU that does not exist."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    _, undisturbed = run(tokenizer, max_steps=2)
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(mixed_precision="bf16" if left == "bf16" else "no", cpu=True)
    if left == "another device":
        PartialState._shared_state["device"] = torch.device("cuda")
    try:
        _, history = run(tokenizer, max_steps=2)
        assert history.losses == pytest.approx(undisturbed.losses, rel=1e-6)  # in float32, as if nobody had been there
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def overflowing(monkeypatch, steps):
    """A model that is trained with loss scaling, as in float16, and whose gradient is infinite for `steps` steps."""
    import torch
    from accelerate import Accelerator

    from course_utils.training import trainer

    def accelerator_for(model):
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu")

        def unscale_gradients():
            for optimizer in accelerator._optimizers:
                accelerator.scaler.unscale_(optimizer.optimizer)

        accelerator.unscale_gradients = unscale_gradients
        return accelerator

    monkeypatch.setattr(trainer, "accelerator_for", accelerator_for)
    model = with_lora(tiny_llama(), random_b=False)
    backwards = []

    def gradient(value):
        backwards.append(1)
        return value * math.inf if len(backwards) <= steps else value

    next(p for p in model.parameters() if p.requires_grad).register_hook(gradient)
    return model


def test_steps_that_the_loss_scaling_skips_are_counted_and_said(tokenizer, monkeypatch):
    model = overflowing(monkeypatch, 3)
    with pytest.warns(UserWarning, match="3 of 8 steps were skipped because their gradient was not finite"):
        _, history = run(tokenizer, model=model, max_steps=8, micro_batch_tokens=4096)
    assert history.skipped_steps == [1, 2, 3]
    assert "steps were skipped" in history.notes[-1]
    assert history.losses[0] != history.losses[-1]


def test_a_run_of_which_every_step_was_skipped_is_no_success(tokenizer, monkeypatch):
    model = overflowing(monkeypatch, 5)
    before = weights(model)
    with pytest.raises(Diverged, match="none of the 5 steps changed the model"):
        run(tokenizer, model=model, max_steps=5, micro_batch_tokens=4096)
    assert all(before[name].equal(weight) for name, weight in weights(model).items())


def under_autocast(monkeypatch):
    """Let Accelerate wrap the model for mixed precision, as it does on a T4."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from course_utils.training import trainer

    def accelerator_for(model):
        AcceleratorState._reset_state()
        return Accelerator(mixed_precision="bf16", cpu=True)

    monkeypatch.setattr(trainer, "accelerator_for", accelerator_for)


def test_after_training_the_model_computes_as_before_it_was_wrapped(tokenizer, monkeypatch):
    under_autocast(monkeypatch)
    model = with_lora(tiny_llama())
    wrapped = []
    for _ in range(2):  # a second run has to be wrapped too
        training.fit(
            model, tokenizer, DATA, settings=training.Settings(max_steps=1),
            on_step=lambda *_: wrapped.append("forward" in vars(model)),
        )  # fmt: skip
        assert not {"forward", "_original_forward"} & vars(model).keys()
    assert wrapped == [True, True]
    with pytest.raises(CourseError):  # and after a run that failed
        training.fit(model, tokenizer, [], settings=training.Settings(max_steps=1))
    assert not {"forward", "_original_forward"} & vars(model).keys()


def test_what_waits_for_the_device_is_a_step_and_not_each_micro_batch(tokenizer):
    """Each number that is copied from a GPU waits until it has computed everything before it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    waits = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                frame = sys._getframe(1)
                while "/torch/" in frame.f_code.co_filename:
                    frame = frame.f_back
                waits.append(frame.f_code.co_filename)
            return function(*args, **(kwargs or {}))

    counts = {}
    for tokens in (4096, 64):  # all at once; one example at a time
        waits.clear()
        with Watch():
            run(tokenizer, validation=DATA, batch_size=13, max_steps=1, micro_batch_tokens=tokens)
        counts[tokens] = sum("course_utils" in file for file in waits)  # transformers asks once a forward pass for its mask
    assert counts[64] == counts[4096] <= 6, (counts, set(waits))
