"""Ours beside TRL and a plain PyTorch loop: same model, data, batch and number of examples, in one process, in turns.

    python benchmarks/speed.py [sft] [dpo] [--rounds N] [--examples N]

Each round every contender trains a fresh adapter (same seed) on the same examples once; the order rotates, so that a busy
machine hurts all alike. What counts is the time of an epoch; ratios are taken round by round. Memory is what the process's
resident size grows by at its highest. Before the rounds each contender trains once on more examples (`--long`); the loss of
its adapter is taken on held-out examples by one and the same function. Useful operations are those that no way of doing it
can leave out (every token once, no padding, no recomputing), over the time and over what a large matrix product reaches.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from common import RECORDS, peak_flops, write_record
from course_utils import memory, models, training
from course_utils.data_prep import load_task
from course_utils.scoring import Encoded

import torch

BATCH = {"sft": 8, "dpo": 4}  # pairs; at 8 TRL without checkpointing wants more than 23 GB
RATE = 5e-4
COMPARED = ("TRL as installed", "ours")  # whose held-out losses should agree, up to what the order of examples does
LENGTH = 1024


def useful_operations(kind: str, model, examples: list[Encoded]) -> float:
    """Of one epoch: LoRA's 4 N + 6 L a token, the head on scored tokens, attention; for DPO its reference's forward too."""
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
    """Conversations of mixed length: 1 to 12 of the course's tickets in one message, numbers of them lognormal."""
    task, dice = load_task("support_tickets"), random.Random(seed)
    order = dice.sample(range(len(task.train)), len(task.train))
    made = []
    while len(made) < count:
        several = [order.pop() for _ in range(min(12, max(1, round(dice.lognormvariate(0.5, 0.8)))))]
        rows = [task.train[i] for i in several]
        prompt = [rows[0][0], {"role": "user", "content": "\n\n".join(row[1]["content"] for row in rows)}]
        answers = [row[2]["content"] for row in rows]
        products = [task.rows["train"][i]["record"]["product"] or "the shop" for i in several]
        prose = [
            f"This customer writes about {product}; somebody should have a look at it and answer." for product in products
        ]
        made.append({
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "\n".join(answers)}],
            "rejected": [{"role": "assistant", "content": "\n".join(prose)}],
        })  # fmt: skip
    return made


def adapter(base, seed: int = 0):
    """A new adapter on `base`, the same for the same seed."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


class Contender:
    """One way to train; `epoch` trains a fresh adapter on all rows once and returns (seconds, final loss)."""

    def __init__(self, kind: str, name: str, dtype, attention: str, run):
        self.kind, self.name, self.run = kind, name, run
        self.base, self.tokenizer = models.load(tier="cpu", dtype=dtype)
        self.base.set_attn_implementation(attention)

    def epoch(self, rows: list[dict], held_out: list[dict], seed: int = 0) -> dict:
        """Train and measure; the seed is the adapter's and that of the order of examples."""
        tuned = adapter(self.base, seed)
        memory.release()
        with memory.track(self.name) as report, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, extra = self.run(self.kind, tuned, self.tokenizer, rows, seed)
        loss = held_out_loss(self.kind, tuned, self.tokenizer, held_out)
        self.base = tuned.unload()
        return {"seconds": seconds, "set_up": extra, "peak_mb": report.process_increase / 1e6, "loss": loss}


def held_out_loss(kind: str, model, tokenizer, rows: list[dict]) -> float:
    """SFT loss a token on the chosen answers, for both kinds: it moves under both."""
    objective = training.SFT()
    encoded = [objective.encode(tokenizer, r["prompt"] + r["chosen"], LENGTH, "held out") for r in rows]
    sizes, total = objective.normalizers(encoded), 0.0
    model.eval()
    with torch.no_grad():
        for example in encoded:
            total += objective.loss(model, objective.collate([example], 2), sizes).value.item()
    return total


def ours(kind: str, model, tokenizer, rows: list[dict], seed: int):
    """`training.fit`; the reference's time is given apart."""
    data = rows if kind == "dpo" else [r["prompt"] + r["chosen"] for r in rows]
    objective = training.DPO() if kind == "dpo" else training.SFT()
    settings = training.Settings(learning_rate=RATE, batch_size=BATCH[kind], max_length=LENGTH, seed=seed)
    history = training.fit(model, tokenizer, data, objective=objective, settings=settings)
    return history.seconds, history.reference_seconds


def plain(kind: str, model, tokenizer, rows: list[dict], seed: int):
    """What a tutorial shows: random batches padded on the right, all logits, cross-entropy; DPO with its reference live."""
    dice = random.Random(seed)
    rows = dice.sample(rows, len(rows))
    objective = training.DPO() if kind == "dpo" else training.SFT()
    examples = [objective.encode(tokenizer, r if kind == "dpo" else r["prompt"] + r["chosen"], LENGTH, "x") for r in rows]
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    steps = -(-len(examples) // BATCH[kind])
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)  # as TRL and we have it
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
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    return time.perf_counter() - started, 0.0


def _plain_logs(model, examples: list[Encoded]) -> list:
    ids = [torch.tensor(e.prompt + e.completions[0]) for e in examples]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=2)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    logs = model(input_ids=padded, attention_mask=mask).logits.float().log_softmax(-1)
    found = []
    for row, e in zip(logs, examples):
        start, end = len(e.prompt), len(e)
        found.append(row[start - 1 : end - 1].gather(1, torch.tensor(e.completions[0])[:, None])[:, 0])
    return found


def trl_with(**settings):
    """TRL's trainer with these settings; time from first step to last, the set-up of a precomputed reference apart."""

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
                output_dir=folder, per_device_train_batch_size=BATCH[kind], num_train_epochs=1, learning_rate=RATE,
                use_cpu=True, max_length=LENGTH, save_strategy="no", report_to="none", disable_tqdm=True,
                logging_steps=10_000, seed=seed, **more, **precompute,
            )  # fmt: skip
            started = time.perf_counter()
            made = trainer(
                model=model, args=arguments, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer,
            )  # fmt: skip
            clock = Clock()
            made.add_callback(clock)
            set_up = time.perf_counter() - started
            made.train()
            if "ref" in model.peft_config:
                model.delete_adapter("ref")
        return clock.seconds, set_up if precompute else 0.0

    return run


def contenders(kind: str) -> list[Contender]:
    """The rows of the table."""
    # Found by trying: float32 or bfloat16 base, autocast or not, sdpa or eager.
    best = {"gradient_checkpointing": False}
    best |= {"precompute": True} if kind == "dpo" else {"train_sampling_strategy": "group_by_length"}
    return [
        Contender(kind, "TRL as installed", torch.float32, "sdpa", trl_with()),
        Contender(kind, "TRL at its best", torch.bfloat16, "eager", trl_with(**best)),
        Contender(kind, "plain PyTorch loop", torch.bfloat16, "sdpa", plain),
        Contender(kind, "ours", torch.bfloat16, "grouped_eager", ours),
    ]


def compare(kind: str, rounds: int, examples: int, long: int, seeds: int) -> dict:
    """Run all contenders in turns; medians, quartiles of the ratios to ours."""
    from course_utils.attention import register

    register()
    everything = chats(long + 16)
    rows, held_out = everything[:examples], everything[long:]
    those = contenders(kind)
    objective = training.DPO() if kind == "dpo" else training.SFT()
    encoded = [
        objective.encode(those[0].tokenizer, r if kind == "dpo" else r["prompt"] + r["chosen"], LENGTH, "x") for r in rows
    ]
    lengths = sorted(map(len, encoded))
    operations = useful_operations(kind, those[0].base, encoded)
    results: dict[str, list[dict]] = {c.name: [] for c in those}
    losses: dict[str, list[float]] = {}
    for contender in those:  # the runs whose loss counts come first: they warm up too
        for seed in range(seeds if contender.name in COMPARED else 1):
            losses.setdefault(contender.name, []).append(contender.epoch(everything[:long], held_out, seed)["loss"])
        print(f"{kind} {long} examples, {contender.name}: held-out losses {losses[contender.name]}", flush=True)
    for number in range(rounds):
        for contender in those[number % len(those) :] + those[: number % len(those)]:
            measured = contender.epoch(rows, held_out)
            print(f"{kind} round {number} {contender.name}: {measured}", flush=True)
            results[contender.name].append(measured)
    peak, table = peak_flops(), {}
    for name, measured in results.items():
        ratios = sorted(m["seconds"] / o["seconds"] for m, o in zip(measured, results["ours"]))
        whole = sorted(
            (m["seconds"] + m["set_up"]) / (o["seconds"] + o["set_up"]) for m, o in zip(measured, results["ours"])
        )
        table[name] = {
            "seconds": statistics.median(m["seconds"] for m in measured),
            "set_up": statistics.median(m["set_up"] for m in measured),
            "times_ours": [ratios[0], statistics.median(ratios), ratios[-1]],
            "times_ours_with_reference": [whole[0], statistics.median(whole), whole[-1]],
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
    parser.add_argument("--long", type=int, default=48, help="examples of the run whose loss is compared")
    parser.add_argument("--seeds", type=int, default=3, help="runs whose losses are averaged, for TRL as installed and ours")
    chosen = parser.parse_args()
    from course_utils import figures

    for kind in chosen.kinds:
        result = compare(kind, chosen.rounds, chosen.examples, chosen.long, chosen.seeds)
        for name, row in result["table"].items():
            low, median, high = row["times_ours"]
            print(
                f"{name:<20} {row['seconds']:6.1f} s  {median:.2f}x ours [{low:.2f}, {high:.2f}]  "
                f"+{row['peak_mb']:.0f} MB  loss {row['held_out_loss']:.4f}  {100 * row['share_of_peak']:.0f} % of peak"
            )
        file = write_record(f"speed-{kind}", result)
        times = {name: row["times_ours"][1] for name, row in result["table"].items()}
        figures.bars(times, f"{kind.upper()}: time of an epoch, ours = 1", "median of paired ratios").save(
            str(Path(RECORDS) / f"{file.stem}.png")
        )


if __name__ == "__main__":
    main()
