"""Our trainer against TRL and a plain PyTorch loop: same model, data, batch size and number of examples, in one process, in
turns.

    python benchmarks/speed.py [sft] [dpo] [--rounds N] [--examples N] [--float32]

In each round every contender trains a new adapter (same seed) once on the same examples; the order rotates, so that other
load on the machine affects all of them equally. The time of an epoch is compared; ratios are computed round by round. Memory
is the peak growth of the process's resident size. Before the rounds each contender trains on more examples (`--long`); the
loss of its adapter is measured on held-out examples, with the same function for all. Useful operations are those that no
implementation can avoid (every token once, no padding, no recomputation); they are divided by the time and by the rate of a
large matrix product.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings

from common import MemoryAdded, peak_flops, picture, write_results
from course_utils import hardware, memory, models, training
from course_utils.batching import Encoded, to_device
from course_utils.data_prep import load_task

import torch

BATCH = {"sft": 8, "dpo": 4}  # pairs for DPO; with 8, TRL without checkpointing needs more than 23 GB
RATE = 5e-4
COMPARED = ("TRL as installed", "ours")  # their held-out losses should agree, apart from the effect of the order of examples
LENGTH = 1024


def useful_operations(kind: str, model, examples: list[Encoded]) -> float:
    """Operations of one epoch: LoRA's 4 N + 6 L per token, the head on scored tokens, attention; for DPO also the
    reference's forward pass.
    """
    config = model.config
    frozen = sum(p.numel() for n, p in model.named_parameters() if "_proj.weight" in n or "base_layer.weight" in n)
    trained = sum(16 * (m.in_features + m.out_features) for n, m in model.named_modules() if n.endswith("_proj"))
    head, width = config.vocab_size * config.hidden_size, config.num_hidden_layers * config.hidden_size
    total = 0.0
    for example in examples:
        tokens, scored = len(example), example.scored
        forward = 2 * frozen * tokens + 2 * head * scored + 2 * width * tokens * tokens  # half of all pairs: causal
        total += 2 * forward + 2 * width * tokens * tokens + 6 * trained * tokens + (forward if kind == "dpo" else 0)
    return total


def chats(count: int, seed: int = 0) -> list[dict]:
    """Conversations of mixed length: 1 to 12 of the course's tickets in one message, with lognormal numbers of them."""
    task, generator = load_task("support_tickets"), random.Random(seed)
    order = generator.sample(range(len(task.train)), len(task.train))
    pairs = []
    while len(pairs) < count:
        ticket_indexes = [order.pop() for _ in range(min(12, max(1, round(generator.lognormvariate(0.5, 0.8)))))]
        rows = [task.train[i] for i in ticket_indexes]
        prompt = [rows[0][0], {"role": "user", "content": "\n\n".join(row[1]["content"] for row in rows)}]
        answers = [row[2]["content"] for row in rows]
        products = [task.rows["train"][i]["record"]["product"] or "the shop" for i in ticket_indexes]
        prose = [
            f"This customer writes about {product}; somebody should have a look at it and answer." for product in products
        ]
        pairs.append({
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "\n".join(answers)}],
            "rejected": [{"role": "assistant", "content": "\n".join(prose)}],
        })  # fmt: skip
    return pairs


def adapter(base, seed: int = 0):
    """A new adapter on `base`; the same seed gives the same adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


class Contender:
    """One way to train; `epoch` trains a new adapter once on all rows and returns its measurements."""

    def __init__(self, kind: str, name: str, dtype, attention: str, run):
        self.kind, self.name, self.run = kind, name, run
        self.base, self.tokenizer = models.load(tier="cpu", dtype=dtype)
        self.base.set_attn_implementation(attention)

    def epoch(self, rows: list[dict], held_out: list[dict], seed: int = 0) -> dict:
        """Train and measure; the seed determines the adapter and the order of examples."""
        tuned = adapter(self.base, seed)
        memory.release()
        with MemoryAdded() as added, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, extra = self.run(self.kind, tuned, self.tokenizer, rows, seed)
        loss = held_out_loss(self.kind, tuned, self.tokenizer, held_out)
        self.base = tuned.unload()
        return {"seconds": seconds, "set_up": extra, "peak_mb": added.bytes / 1e6, "loss": loss}


def held_out_loss(kind: str, model, tokenizer, rows: list[dict]) -> float:
    """SFT loss per token on the chosen answers, used for both kinds because both change it."""
    objective = training.SFT()
    encoded = [objective.encode(tokenizer, r["prompt"] + r["chosen"], LENGTH, "held out") for r in rows]
    sizes, total = objective.normalizers(encoded), 0.0
    model.eval()
    with torch.no_grad():
        for example in encoded:
            total += objective.loss(model, to_device(objective.collate([example], 2), model.device), sizes).value.item()
    return total


def ours(kind: str, model, tokenizer, rows: list[dict], seed: int, rate: float = RATE):
    """Train with `training.fit`; returns the training time and, separately, the reference's time."""
    data = rows if kind == "dpo" else [r["prompt"] + r["chosen"] for r in rows]
    objective = training.DPO() if kind == "dpo" else training.SFT()
    settings = training.Settings(learning_rate=rate, batch_size=BATCH[kind], max_length=LENGTH, seed=seed)
    history = training.fit(model, tokenizer, data, objective=objective, settings=settings)
    return history.seconds, history.reference_seconds


def plain(kind: str, model, tokenizer, rows: list[dict], seed: int):
    """A loop as in tutorials: random batches padded on the right, all logits, cross-entropy; DPO computes its reference in
    each step.
    """
    generator = random.Random(seed)
    rows = generator.sample(rows, len(rows))
    objective = training.DPO() if kind == "dpo" else training.SFT()
    examples = [objective.encode(tokenizer, r if kind == "dpo" else r["prompt"] + r["chosen"], LENGTH, "x") for r in rows]
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    steps = -(-len(examples) // BATCH[kind])
    # the same schedule as TRL's and ours
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    started = time.perf_counter()
    for at in range(0, len(examples), BATCH[kind]):
        batch = examples[at : at + BATCH[kind]]
        if kind == "sft":
            logs = _plain_logs(model, batch)
            loss = -sum(log.sum() for log in logs) / sum(map(len, logs))
        else:
            flat = [Encoded(e.prompt, [c]) for e in batch for c in e.completions]
            sums = torch.stack([log.sum() for log in _plain_logs(model, flat)]).view(-1, 2)
            with torch.no_grad(), model.disable_adapter():
                reference = torch.stack([log.sum() for log in _plain_logs(model, flat)]).view(-1, 2)
            ratio = sums - reference
            loss = -torch.nn.functional.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return time.perf_counter() - started, 0.0


def _plain_logs(model, examples: list[Encoded]) -> list:
    ids = [torch.tensor(e.prompt + e.completions[0]) for e in examples]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=2)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    logs = model(input_ids=padded, attention_mask=mask).logits.float().log_softmax(-1)
    log_probabilities = []
    for row, e in zip(logs, examples):
        start, end = len(e.prompt), len(e)
        log_probabilities.append(row[start - 1 : end - 1].gather(1, torch.tensor(e.completions[0])[:, None])[:, 0])
    return log_probabilities


def trl_with(rate: float = RATE, **settings):
    """TRL's trainer with these settings; the time from first to last step, and separately of precomputing the reference."""

    def run(kind: str, model, tokenizer, rows: list[dict], seed: int):
        import datasets
        import trl
        from transformers import TrainerCallback

        class Clock(TrainerCallback):
            def on_train_begin(self, *_, **__):
                self.started = time.perf_counter()

            def on_train_end(self, *_, **__):
                self.seconds = time.perf_counter() - self.started

        data = rows if kind == "dpo" else [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
        config, trainer = (trl.DPOConfig, trl.DPOTrainer) if kind == "dpo" else (trl.SFTConfig, trl.SFTTrainer)
        precompute = {"precompute_ref_log_probs": True} if kind == "dpo" and settings.get("precompute") else {}
        more = {name: value for name, value in settings.items() if name != "precompute"}
        with tempfile.TemporaryDirectory() as folder:
            arguments = config(
                output_dir=folder, per_device_train_batch_size=BATCH[kind], num_train_epochs=1, learning_rate=rate,
                max_length=LENGTH, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=10_000, seed=seed,
                use_cpu=model.device.type == "cpu", **more, **precompute,
            )  # fmt: skip
            started = time.perf_counter()
            trl_trainer = trainer(
                model=model, args=arguments, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer,
            )  # fmt: skip
            clock = Clock()
            trl_trainer.add_callback(clock)
            set_up = time.perf_counter() - started
            trl_trainer.train()
            if "ref" in model.peft_config:
                model.delete_adapter("ref")
        return clock.seconds, set_up if precompute else 0.0

    return run


def contenders(kind: str) -> list[Contender]:
    """The rows of the table."""
    # All but "as installed" get the format that is fast on this machine, as `models.load` chooses it for a learner.
    fast = getattr(torch, hardware.detect().dtype)
    # Found by experiment among: float32 or bfloat16 base, autocast or not, sdpa or eager.
    best = {"gradient_checkpointing": False, "bf16": fast is torch.bfloat16}
    best |= {"precompute": True} if kind == "dpo" else {"train_sampling_strategy": "group_by_length"}
    return [
        Contender(kind, "TRL as installed", torch.float32, "sdpa", trl_with()),
        Contender(kind, "TRL at its best", fast, "eager", trl_with(**best)),
        Contender(kind, "plain PyTorch loop", fast, "sdpa", plain),
        Contender(kind, "ours", fast, "grouped_eager", ours),
    ]


def compare(kind: str, rounds: int, examples: int, long: int, seeds: int) -> dict:
    """Run all contenders in turns; returns medians, and lowest, median and highest ratios to ours."""
    from course_utils.models.attention import register

    register()
    everything = chats(long + 16)
    rows, held_out = everything[:examples], everything[long:]
    competitors = contenders(kind)
    objective = training.DPO() if kind == "dpo" else training.SFT()
    encoded = [
        objective.encode(competitors[0].tokenizer, r if kind == "dpo" else r["prompt"] + r["chosen"], LENGTH, "x")
        for r in rows
    ]
    lengths = sorted(map(len, encoded))
    operations = useful_operations(kind, competitors[0].base, encoded)
    results: dict[str, list[dict]] = {c.name: [] for c in competitors}
    losses: dict[str, list[float]] = {}
    for contender in competitors:  # the runs whose loss counts come first; they also serve as a warm-up
        for seed in range(seeds if contender.name in COMPARED else 1):
            losses.setdefault(contender.name, []).append(contender.epoch(everything[:long], held_out, seed)["loss"])
        print(f"{kind} {long} examples, {contender.name}: held-out losses {losses[contender.name]}", flush=True)
    for number in range(rounds):
        for contender in competitors[number % len(competitors) :] + competitors[: number % len(competitors)]:
            measured = contender.epoch(rows, held_out)
            print(f"{kind} round {number} {contender.name}: {measured}", flush=True)
            results[contender.name].append(measured)
    peak, table = peak_flops(), {}
    for name, measured in results.items():
        ratios = sorted(m["seconds"] / o["seconds"] for m, o in zip(measured, results["ours"]))
        ratios_with_reference = sorted(
            (m["seconds"] + m["set_up"]) / (o["seconds"] + o["set_up"]) for m, o in zip(measured, results["ours"])
        )
        table[name] = {
            "seconds": statistics.median(m["seconds"] for m in measured),
            "set_up": statistics.median(m["set_up"] for m in measured),
            "times_ours": [ratios[0], statistics.median(ratios), ratios[-1]],
            "times_ours_with_reference": [
                ratios_with_reference[0],
                statistics.median(ratios_with_reference),
                ratios_with_reference[-1],
            ],
            "peak_mb": statistics.median(m["peak_mb"] for m in measured),
            "share_of_peak": operations / peak / statistics.median(m["seconds"] + m["set_up"] for m in measured),
            "held_out_losses": losses[name],
            "held_out_loss": statistics.mean(losses[name]),
        }
    tokens = {"shortest": lengths[0], "median": statistics.median(lengths), "longest": lengths[-1]}
    return {
        "examples": examples, "batch": BATCH[kind], "rounds": rounds, "long": long, "tokens": tokens,
        "matrix_product_peak_gflops": peak / 1e9, "table": table,
    }  # fmt: skip


def main() -> None:
    """Measure, print, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["sft", "dpo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--long", type=int, default=48, help="examples in the run whose loss is compared")
    parser.add_argument("--seeds", type=int, default=3, help="runs whose losses are averaged, for TRL as installed and ours")
    parser.add_argument("--float32", action="store_true", help="as on a processor that is slow in bfloat16")
    chosen = parser.parse_args()
    from course_utils import charts

    if chosen.float32:
        hardware.cpu_has_fast_bfloat16 = lambda: False

    for kind in chosen.kinds:
        result = compare(kind, chosen.rounds, chosen.examples, chosen.long, chosen.seeds)
        for name, row in result["table"].items():
            low, median, high = row["times_ours"]
            print(
                f"{name:<20} {row['seconds']:6.1f} s  {median:.2f}x ours [{low:.2f}, {high:.2f}]  "
                f"+{row['peak_mb']:.0f} MB  loss {row['held_out_loss']:.4f}  {100 * row['share_of_peak']:.0f} % of peak"
            )
        file = write_results(f"speed-{kind}-{hardware.detect().dtype}", result)
        times = {name: row["times_ours"][1] for name, row in result["table"].items()}
        charts.bars(times, f"{kind.upper()}: time of an epoch, ours = 1", "median of paired ratios").save(picture(file.stem))


if __name__ == "__main__":
    main()
