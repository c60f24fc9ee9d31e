"""What lesson 03 shows: memory from published shapes, 4-bit storage beside bitsandbytes, and this machine's runs.

Estimates are those of `course_utils.memory`, with one part that these leave out: `prepare_model_for_kbit_training` turns
what is not in 4 bits (embedding, head, norms) into float32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, evaluation, facts, hardware, memory
from course_utils.show.tables import Table
from course_utils.training.objectives import encode_completion, encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from course_utils.evaluation import Score
    from course_utils.figures import Figure
    from course_utils.models import Model
    from course_utils.training import History

MODEL = "Llama-3.1-8B"
MIXED = {"full": {"precision": "amp"}}  # trained weights keep 32 bits; an adapter's do anyway
ONE_STEP = {"batch_size": 1, "length": 1024, "checkpointing": True}
NO_LIMIT = 10**9  # tokens
METHODS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


# -- memory of a step -------------------------------------------------------------------------------------------------------


def step_parts(model: str = MODEL, method: str = "qlora", embeddings: str = "float32", **options: Any) -> dict[str, float]:
    """The parts of a training step's peak memory, in GB (10^9 bytes).

    Args:
        model: a name in `memory.ARCHITECTURES`.
        method: "full", "lora" or "qlora".
        embeddings: of a 4-bit base, as `memory.StepPlan` has it; the recipe's are float32.
        options: further options of `memory.estimate`.
    """
    if method == "qlora":
        options["embeddings"] = embeddings
    estimate = memory.estimate(model, method, **(ONE_STEP | MIXED.get(method, {}) | options))
    return {
        "weights": estimate.weights / 1e9,
        "what is trained, with its states": (estimate.adapter + estimate.gradients + estimate.optimizer) / 1e9,
        "activations and logits": (estimate.activations + estimate.logits) / 1e9,
        "the card's own needs": estimate.overhead / 1e9,
    }


def _gpu_label(gpu: str) -> str:
    return str(facts.table("gpus")[gpu]["label"])


def step_gb(*arguments: Any, **options: Any) -> float:
    """The sum of `step_parts`."""
    return sum(step_parts(*arguments, **options).values())


def does_it_fit(model: str = MODEL, cards: Sequence[str] = ("rtx3060", "t4")) -> Figure:
    """Memory of one step of LoRA and of QLoRA, beside two cards."""
    rows = {METHODS[method]: step_parts(model, method) for method in ("lora", "qlora")}
    limits = {_gpu_label(card): memory.gpu_memory(card) / 1e9 for card in cards}
    fits = {name: sum(row.values()) <= min(limits.values()) for name, row in rows.items()}
    title = f"One training step of {model}, 1,024 tokens"
    if fits["QLoRA"] and not fits["LoRA"]:
        title = f"{model}: QLoRA fits where LoRA does not"
    return charts.bars(rows, title, "GB", limits)


KEEP_16_BITS: dict[str, Any] = {"embeddings": "bfloat16"}  # of a 4-bit base alone
# name, what changes, and what it costs; from cheap to expensive
LEVERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("LoRA as you started", {}, ""),
    ("one example at a time", {"batch_size": 1}, "same result with accumulation; on a GPU small passes waste time"),
    ("checkpointing", {"checkpointing": True}, "up to half as much time again (a third in full fine-tuning)"),
    ("4-bit base", {"method": "qlora"}, "a few to some tens of per cent more time (Q2); a rounded base (Q5)"),
    ("embeddings left in 16 bits", KEEP_16_BITS, "nothing here; skip prepare_model_for_kbit_training's float32 copy"),
    ("8-bit optimizer", {"optimizer": "paged_adamw_8bit"}, "little; “paged” lets it move to the computer's memory"),
    ("half the length", {"length": 0.5}, "longer examples are cut off: measure your lengths first"),
)


def _pull(options: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a step after one more lever."""
    after = {**options, **change}
    if "length" in change:
        after["length"] = int(change["length"] * options["length"])
    if "batch_size" in change and options["batch_size"] > 1:
        after["accumulation"] = options["batch_size"]
    return after


def levers(model: str = MODEL, card: str = "t4", batch_size: int = 8, length: int = 1024) -> Figure:
    """Memory of a step as one lever after the other is pulled, beside a card."""
    options: dict[str, Any] = {"method": "lora", "batch_size": batch_size, "length": length, "checkpointing": False}
    totals = {}
    for name, change, _ in LEVERS:
        options = _pull(options, change)
        totals[name] = step_gb(model, **options)
    limit = memory.gpu_memory(card) / 1e9
    fitting = next((name for name, gb in totals.items() if gb <= limit), None)
    first, *_, last = totals.values()
    title = f"{model}, {batch_size} × {length:,} tokens: from {first:,.0f} GB to {last:,.0f}"
    title += f"; fits from “{fitting}” on" if fitting else f"; too much for the {_gpu_label(card)}"
    return charts.bars(totals, title, "GB, all levers so far", {_gpu_label(card): limit})


def prices(model: str = MODEL, batch_size: int = 8, length: int = 1024) -> Table:
    """What each lever saves by itself, what is left after it and all before it, and what it costs."""
    start: dict[str, Any] = {"method": "lora", "batch_size": batch_size, "length": length, "checkpointing": False}
    options, rows = start, {}
    for name, change, cost in LEVERS[1:]:
        options = _pull(options, change)
        saved = step_gb(model, **start) - step_gb(model, **_pull(start, change))
        rows[name] = {
            "alone saves, GB": None if change is KEEP_16_BITS else round(saved, 1),
            "left after it and those above, GB": round(step_gb(model, **options), 1),
            "what it costs you": cost,
        }
    return Table(rows, f"{model}, starting from LoRA with {batch_size} × {length:,} tokens", "lever", "")


def paging(model: str = MODEL, length: int = 1024) -> Table:
    """What a paged optimizer can move to the computer's memory, for LoRA, QLoRA and full fine-tuning."""
    rows = {}
    for method, name in METHODS.items():
        estimate = memory.estimate(model, method, batch_size=1, length=length, checkpointing=True, **MIXED.get(method, {}))
        rows[name] = {"optimizer states, GB": round(estimate.optimizer / 1e9, 1),
                      "share of the step, %": round(100 * estimate.optimizer / estimate.total)}  # fmt: skip
    return Table(rows, f"{model}: what paging can move", "method", "")


# -- four bits --------------------------------------------------------------------------------------------------------------


def nf4_table() -> torch.Tensor:
    """bitsandbytes' sixteen values, in order."""
    import bitsandbytes.functional as bnb

    return bnb.get_4bit_type("nf4", device="cpu")


def by_hand(weights: torch.Tensor, values: torch.Tensor) -> Table:
    """One block, weight by weight: scaled, its code, the code's value, what comes back."""
    scale = weights.abs().max()
    codes = (weights[:, None] / scale - values).abs().argmin(dim=1)
    restored = values[codes] * scale
    rows: dict[str, dict[str, Any]] = {
        f"{weight:+.2f}": {
            f"÷ {scale:.2f}": f"{weight / scale:+.3f}",
            "code": int(code),
            "its value": f"{values[code]:+.3f}",
            "restored": f"{back:+.3f}",
            "off by": f"{back - weight:+.3f}",
        }
        for weight, code, back in zip(weights, codes, restored)
    }
    return Table(rows, "", "weight", "")


def compare_with_bitsandbytes(
    quantize: Callable, pack: Callable, weights: Mapping[str, torch.Tensor], scale_codes: Callable | None = None
) -> Table:
    """How many bytes of the lesson's quantization differ from the library's.

    Args:
        quantize: the notebook's, called as quantize(weight, values); returns codes and scales.
        pack: the notebook's, codes → bytes.
        weights: name → weight.
        scale_codes: the notebook's second quantization, called as scale_codes(scales, table=65535), since bitsandbytes'
            CPU code looks a scale up in a table of so many steps; returns its codes first.
    """
    import bitsandbytes.functional as bnb

    rows = {}
    for name, weight in weights.items():
        weight = weight.detach().cpu()
        packed, state = bnb.quantize_4bit(
            weight, blocksize=64, quant_type="nf4", compress_statistics=scale_codes is not None
        )
        codes, scales = quantize(weight, nf4_table())
        rows[name] = {"weights": weight.numel(), "bytes of codes that differ": int((pack(codes) != packed.flatten()).sum())}
        if scale_codes is None:
            rows[name]["scales that differ"] = int((scales != state.absmax).sum())
        else:
            own_codes = scale_codes(scales, table=65535)[0]
            rows[name]["8-bit scales that differ"] = int((own_codes != state.absmax).sum())
    return Table(rows, "The lesson's code beside bitsandbytes", "what was quantized", "")


def stored_bits(model: PreTrainedModel) -> float:
    """Bits per weight that a 4-bit model's linear layers really hold: codes and both kinds of scales."""
    from course_utils import quantization

    held = weights = 0
    for layer in quantization.four_bit_layers(model).values():
        state = layer.weight.quant_state
        held += layer.weight.numel() * layer.weight.element_size() + state.absmax.numel() * state.absmax.element_size()
        if state.nested:
            held += 4 * state.state2.absmax.numel()
        weights += layer.in_features * layer.out_features
    return 8 * held / weights


def code_book_errors(weight: torch.Tensor, quantize: Callable, dequantize: Callable) -> Table:
    """Root mean square error of three sets of sixteen values, on a real matrix and on normally distributed weights."""
    import bitsandbytes.functional as bnb
    import torch

    books = {
        "NF4": nf4_table(),
        "FP4, a tiny floating-point format": bnb.get_4bit_type("fp4", device="cpu").sort().values,
        "INT4, 15 evenly spaced values": torch.arange(-7, 8) / 7,
    }
    weight = weight.detach().float().cpu()
    weights = {
        "this matrix": weight,
        "normal weights": torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)),
    }
    rows: dict[str, dict[str, float]] = {}
    for name, values in books.items():
        for what, w in weights.items():
            back = dequantize(*quantize(w, values), values).reshape(w.shape)
            rows.setdefault(name, {})[f"{what}: error, % of their size"] = float(100 * (back - w).norm() / w.norm())
    return Table(rows, "Error of the restored weights", "the sixteen values", "NF4")


# -- quality of the base ----------------------------------------------------------------------------------------------------


def passages() -> list[str]:
    """Twelve short passages of everyday prose (`data/general`)."""
    with open(assets.path("data/general/passages.jsonl"), encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def text_losses(model: Model, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[float]:
    """Mean loss per token of each text."""
    import torch

    losses = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].float()
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    return losses


def answer_losses(
    model: Model, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Mapping[str, str]]]
) -> list[float]:
    """Mean loss per token of each conversation's last message, given those before it.

    What the template writes after the stop token is left out: nobody generates it, and not every trainer learns it.
    """
    import torch

    losses = []
    model.eval()
    for conversation in conversations:
        chat = [dict(message) for message in conversation]
        prompt = encode_prompt(tokenizer, chat[:-1], NO_LIMIT, "conversation")
        answer = encode_completion(tokenizer, prompt, chat, NO_LIMIT, "conversation")
        tensor = torch.tensor([prompt + answer], device=model.device)
        with torch.no_grad():
            logits = model(tensor).logits[0, len(prompt) - 1 : -1].float()
        losses.append(float(torch.nn.functional.cross_entropy(logits, tensor[0, len(prompt) :])))
    return losses


def formats() -> dict[str, dict[str, Any]]:
    """The base model in several formats, one after the other: what it holds, how well it predicts six passages of prose.

    Returns:
        format → "MB" and "losses" (one per text). "16 bits" stands for the format in which this machine computes, which on
        some CPUs is float32.
    """
    from logging import ERROR, getLogger

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from course_utils import models

    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)  # it reports each 8-bit product in another format

    device = hardware.detect()
    name = models.TIERS[device.tier].name
    dtype, tokenizer = device.torch_dtype(), models.load_tokenizer(name)
    four = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    configs = {
        "16 bits": None,
        "8 bits": BitsAndBytesConfig(load_in_8bit=True),
        "NF4": BitsAndBytesConfig(bnb_4bit_quant_type="nf4", **four),
        "FP4": BitsAndBytesConfig(bnb_4bit_quant_type="fp4", **four),
    }
    measured: dict[str, dict[str, Any]] = {}
    for label, config in configs.items():
        options = {} if config is None else {"quantization_config": config}
        model = AutoModelForCausalLM.from_pretrained(
            models.resolve(name), dtype=dtype, device_map={"": device.place()}, **options
        ).eval()
        # float32 is what some CPUs compute in: what is not quantized would be stored in 16 bits
        wide = sum(p.numel() for p in model.parameters() if p.dtype == torch.float32)
        size = (model.get_memory_footprint() - 2 * wide) / 1e6
        measured[label] = {"MB": size, "losses": text_losses(model, tokenizer, passages()[:6])}
        del model
        memory.release()
    return measured


def formats_table(measured: Mapping[str, Mapping[str, Any]]) -> Table:
    """`formats` as a table; differences are per text, with their 95 % intervals."""
    plain = measured["16 bits"]["losses"]
    rows = {}
    for name, row in measured.items():
        more = evaluation.mean([b - a for a, b in zip(plain, row["losses"])])
        rows[name] = {
            "weights, MB": round(row["MB"]),
            "loss on prose (nats per token)": evaluation.mean(row["losses"]).value,
            "extra loss against 16 bits (95 % interval)": "" if name == "16 bits" else _interval(more, 3),
            "extra loss against NF4": ""
            if name != "FP4"
            else _interval(evaluation.mean([b - a for a, b in zip(measured["NF4"]["losses"], row["losses"])]), 3),
        }
    return Table(rows, "The same model, loaded in four formats", "format", "NF4")


def _interval(score: Score, decimals: int = 0, factor: float = 1.0, minus: float = 0.0) -> str:
    value, low, high = (f"{factor * (number - minus):+.{decimals}f}" for number in (score.value, score.low, score.high))
    return f"{value} ({low} to {high})"


# -- learning and speed -----------------------------------------------------------------------------------------------------


def runs_table(recipe: Mapping[str, float], runs: Mapping[str, History]) -> Table:
    """The recipe's run beside those of `training.fit`.

    Args:
        recipe: "loss" (validation) and "seconds" of the run with `SFTTrainer`.
        runs: name → history.
    """
    measured = {"QLoRA, SFTTrainer": (recipe["loss"], recipe["seconds"])}
    measured |= {f"{name}, training.fit": (run.validation_losses[-1], run.seconds) for name, run in runs.items()}
    rows = {name: {"validation loss": float(loss), "seconds": round(time)} for name, (loss, time) in measured.items()}
    return Table(rows, "The same examples, once", "run", "")


def pace(
    models: Mapping[str, Model], tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Any], rounds: int = 4
) -> dict[str, Any]:
    """Time of a forward and backward pass of QLoRA relative to LoRA's, at two sizes; the two take turns.

    On a CPU it is the processor's time, which other programs on the machine hardly change.

    Args:
        models: "LoRA" and "QLoRA", both with an adapter.
        tokenizer: theirs.
        conversations: at least four; a small step has one of them, a large one four.
        rounds: turns of each, after one that does not count.

    Returns:
        tokens of a step → Score of the ratio.
    """
    from course_utils import training

    objective = training.SFT()
    examples = [objective.encode(tokenizer, chat, 4096, "train") for chat in conversations[:4]]
    totals = {size: objective.normalizers(examples[:size]) for size in (1, 4)}

    def seconds(model: Model, size: int) -> float:
        batch = objective.collate(examples[:size], tokenizer.pad_token_id)
        batch = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
        clock = time.perf_counter if model.device.type == "cuda" else time.process_time
        started = clock()
        objective.loss(model.train(), batch, totals[size]).value.backward()
        if model.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        elapsed = clock() - started
        model.zero_grad()
        return elapsed

    time_ratios = {}
    for size in (1, 4):
        ratios = []
        for turn in range(rounds + 1):
            order = list(models)[:: 1 if turn % 2 else -1]
            times = {name: seconds(models[name], size) for name in order}
            ratios.append(times["QLoRA"] / times["LoRA"])
        time_ratios[str(sum(map(len, examples[:size])))] = evaluation.mean(ratios[1:])
    return time_ratios


# How much longer QLoRA takes than LoRA, as others measured it on GPUs: from tokens per second, or as they state it.
_PACE = [row for row in facts.table("published").values() if row["lesson"] == "03"]
PUBLISHED_PACE = {row["source"]: row["lora"] / row["qlora"] - 1 for row in _PACE}
READ = min(row["date"] for row in _PACE)


def pace_table(pace: Mapping[str, Score]) -> Table:
    """`pace` beside what others measured on GPUs: how much longer QLoRA takes, in per cent."""
    rows = {f"this machine, {tokens} tokens a step": _interval(s, factor=100, minus=1) for tokens, s in pace.items()}
    rows |= {name: f"{100 * value:+.0f}" for name, value in PUBLISHED_PACE.items()}
    shown = {name: {"more time, % (95 % interval)": text} for name, text in rows.items()}
    return Table(shown, f"QLoRA beside LoRA; published figures read by {READ}", "measured", "")


def paired_losses(losses: Mapping[str, Sequence[float]]) -> Table:
    """Mean losses of several models on the same answers, and message by message the difference of the last two."""
    rows = {name: {"mean loss": f"{evaluation.mean(own).value:.3f}"} for name, own in losses.items()}
    *_, (one, first), (other, last) = losses.items()
    gap = evaluation.mean([b - a for a, b in zip(first, last, strict=True)])
    rows[f"{other} minus {one} (95 % interval)"] = {"mean loss": _interval(gap, 3)}
    return Table(rows, f"Loss on {len(last)} held-out answers (nats per token)", "model", "")


# -- deployment -------------------------------------------------------------------------------------------------------------


def update_after_rounding(update: torch.Tensor, weight: torch.Tensor, quantize: Callable, dequantize: Callable) -> Table:
    """What is left of an update once base plus update is rounded to 4 bits again.

    Args:
        update: the adapter's change of a matrix.
        weight: the matrix as 4 bits hold it, dequantized.
        quantize, dequantize: the notebook's functions.
    """
    values = nf4_table()
    update, weight = update.detach().float().cpu(), weight.detach().float().cpu()
    codes, scales = quantize(weight + update, values)
    back = dequantize(codes, scales, values).reshape(weight.shape)
    changed = (codes != quantize(weight, values)[0]).float().mean().item()
    remaining_update = back - weight
    gaps = (scales.mean() * (values[1:] - values[:-1]).mean()).item()
    rows = {
        "typical change of a weight": {"value": f"{update.abs().mean().item():.5f}"},
        "typical distance between neighbouring values": {"value": f"{gaps:.5f}"},
        "codes that change": {"value": f"{100 * changed:.2f} %"},
        "share of the update that arrives": {
            "value": f"{100 * float((remaining_update * update).sum() / update.square().sum()):.0f} %"
        },
    }
    return Table(rows, "One layer, rounded again", "what", "")


def merge_figure(losses: Mapping[str, float]) -> Figure:
    """Mean loss on held-out answers for each way to deploy a QLoRA adapter.

    Args:
        losses: way → loss: first without an adapter, second with the adapter beside the 4-bit base, then others; those that
            were rounded again have "again" in their names.
    """
    start, best, *_ = losses
    again = next(name for name in losses if "again" in name)
    gone = gain_lost_percent({name: losses[name] for name in (start, best, again)})
    title = f"Rounding again loses {gone:.0f} % of what this short training gained"
    not_rounded_again = [name for name in losses if name != start and "again" not in name]
    return charts.bars(losses, title, "loss on answers (nats per token)", decimals=2, highlight=not_rounded_again)


def gain_lost_percent(losses: Mapping[str, float]) -> float:
    """Share of what training gained that the last way loses, in per cent.

    Args:
        losses: way → loss: first without an adapter, second with the adapter beside its base, last the one asked for.
    """
    start, best, *_, last = losses.values()
    return 100 * (last - best) / (start - best)


def defaults() -> Table:
    """What `load_in_4bit=True` alone gives, beside the recipe."""
    from transformers import BitsAndBytesConfig

    alone = BitsAndBytesConfig(load_in_4bit=True)
    recipe = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": "True",
        "bnb_4bit_compute_dtype": "bfloat16 (T4: float16)",
    }
    rows = {
        name: {"by default": str(getattr(alone, name)).removeprefix("torch."), "in the recipe": value}
        for name, value in recipe.items()
    }
    return Table(rows, "", "argument", "")


def rounded_steps(matrix: torch.Tensor, width: int = 4096) -> Table:
    """Share of a matrix's weights that a step of Adam leaves exactly as they were, in bfloat16 and in float32.

    Adam's steps are about as large as the learning rate, whatever the gradient. Shown for a weight of the base, as full
    fine-tuning changes it, and for an adapter's matrix A, as PEFT starts it, at the beginning and near the end of a run.

    Args:
        matrix: a weight of the base.
        width: inputs of the layer that A belongs to; 4,096 in a model of 8B.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    start = torch.empty(16, width).uniform_(-(width**-0.5), width**-0.5, generator=generator)
    rows = {}
    for what, weight, rate in (
        ("full fine-tuning, a weight of the base, 0.00002", matrix, 2e-5),
        ("LoRA, matrix A, 0.0002", start, 2e-4),
        ("LoRA, matrix A, 0.00002: the last tenth of a linear schedule", start, 2e-5),
    ):
        signs = torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -1.0, 1.0)
        row = {}
        for dtype in (torch.bfloat16, torch.float32):
            stored = weight.detach().cpu().to(dtype)
            moved = (stored.float() + rate * signs).to(dtype)
            same = 100 * (moved == stored).float().mean().item()
            row[f"{str(dtype).removeprefix('torch.')}: not moved, %"] = round(same, 1)
        rows[what] = row
    return Table(rows, "Numbers that one step leaves as they were", "what is trained, and the learning rate", "")


def compare_with_peft(layer: Callable, weight: torch.Tensor, rank: int = 8, alpha: int = 16) -> Table:
    """Largest differences between the notebook's 4-bit LoRA layer and bitsandbytes with PEFT, in float32.

    Args:
        layer: the notebook's class, made as layer(weight, rank, alpha), with `A` and `B`.
        weight: a weight of a linear layer.
        rank, alpha: of the adapter.
    """
    import bitsandbytes as bnb
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from course_utils import quantization

    weight = weight.detach().float().cpu()
    torch.manual_seed(0)
    ours = layer(weight, rank, alpha)
    linear = bnb.nn.Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        compute_dtype=torch.float32,
        quant_type="nf4",
        compress_statistics=False,
    )
    linear.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=False)
    box = torch.nn.ModuleDict({"layer": linear}).to("cpu")
    quantization.guard(box)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"])
    theirs: Any = inject_adapter_in_model(config, box)["layer"]
    ours.B.data.normal_(0, 0.05)  # zero would hide a wrong A
    theirs.lora_A["default"].weight.data.copy_(ours.A.data)
    theirs.lora_B["default"].weight.data.copy_(ours.B.data)
    x = torch.randn(16, weight.shape[1])
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = ours(inputs[0]), theirs(inputs[1])
    for output in outputs:
        output.square().mean().backward()
    pairs = {
        "output": outputs,
        "gradient of A": (ours.A.grad, theirs.lora_A["default"].weight.grad),
        "gradient of B": (ours.B.grad, theirs.lora_B["default"].weight.grad),
        "gradient handed to the layer below": (inputs[0].grad, inputs[1].grad),
    }
    rows = {
        name: {"largest difference": float((a - b).detach().abs().max()), "largest value": float(b.detach().abs().max())}
        for name, (a, b) in pairs.items()
    }
    return Table(rows, "The lesson's layer beside bitsandbytes and PEFT", "compared", "")
