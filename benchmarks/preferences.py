"""Lesson 04: every method on the same pairs, three seeds. Which replies are better, and what did it take?

    python benchmarks/preferences.py [SEED ...] [METHOD ...]    # all seeds and methods, or those named; a dated record
    python benchmarks/preferences.py --try DPO GRPO             # a few steps of the methods named, or of all; writes nothing

A method takes two to four minutes a seed on two idle cores. What is done is kept under build/preferences, so that seeds and
methods can be added on another day; the record has what is there.

All but ORPO begin with one model, which has imitated the desk's replies, good and bad ones alike. The control learns the
chosen replies and nothing else. Each method has one learning rate: 3e-4 if it moves the start, 1e-3 if it imitates. What is
recorded: for each test pair whether the chosen reply gained more, for each answer at temperature 0 which rules it keeps and
what a second judge gives it, and how far sampled answers are from the start. The second judge is a reward model, trained on
the same pairs from the same start; how often it agrees with the rules is recorded beside it.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import write_results
from course_utils import memory, models, training
from course_utils.data_prep import load_preferences
from course_utils.evidence import house_style, lesson_04
from course_utils.generation import complete, generate
from course_utils.scoring import chat_token_ids
from objectives import IPO, ORPO, SimPO, likelihoods, log_ratios

import torch
from peft import LoraConfig, get_peft_model

SEEDS = (0, 1, 2)
PARTS = Path(__file__).parents[1] / "build" / "preferences"
PLAN = {"start": 240, "pairs": 120, "test": 60, "sampled": 24, "answer_tokens": 48, "batch": 4,
        "grpo_steps": 20, "grpo_messages": 3, "grpo_answers": 4}  # fmt: skip
TRY = PLAN | {"start": 4, "pairs": 4, "test": 2, "sampled": 2, "answer_tokens": 16,
              "grpo_steps": 1, "grpo_messages": 1, "grpo_answers": 2}  # fmt: skip
RATE, IMITATION_RATE = 3e-4, 1e-3
START, CONTROL = lesson_04.START, lesson_04.CONTROL


# Method → (objective, learning rate). SFT on chosen is the control.
METHODS: dict[str, tuple[Any, float]] = {
    CONTROL: (training.SFT(), IMITATION_RATE),
    "DPO": (training.DPO(beta=0.1), RATE),
    lesson_04.WITH_SFT: (training.DPO(beta=0.1, sft_weight=1.0), RATE),
    "DPO, β = 0.02": (training.DPO(beta=0.02), RATE),
    "DPO, β = 1": (training.DPO(beta=1.0), RATE),
    "DPO, rate too high": (training.DPO(beta=0.1), 10 * RATE),
    "DPO, contradictory pairs": (training.DPO(beta=0.1), RATE),
    "ORPO": (ORPO(beta=0.5), IMITATION_RATE),
    "KTO": (None, RATE),
    "IPO": (IPO(beta=0.1), RATE),
    "SimPO": (SimPO(), RATE),
    "GRPO": (None, RATE),
}


def part_of(seed: int) -> Path:
    """Where a seed's results wait for the others."""
    return PARTS / f"{seed}.json"


def save(seed: int, results: Mapping[str, Any]) -> None:
    """Keep a seed's results."""
    PARTS.mkdir(parents=True, exist_ok=True)
    part_of(seed).write_text(json.dumps(results))


def answers(model: Any, tokenizer: Any, rows: Sequence[dict], max_new_tokens: int) -> list[str]:
    """Answers at temperature 0 to the messages of some pairs."""
    return generate(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens=max_new_tokens)


def adapter(model: Any, seed: int) -> Any:
    """The same fresh adapter on any model."""
    torch.manual_seed(seed)
    return get_peft_model(model, lora())


def chat(row: Mapping[str, Any], key: str) -> list[dict]:
    """A pair's prompt with one of its replies."""
    return [*row["prompt"], {"role": "assistant", "content": row[key]}]


def examples_for(name: str, rows: Sequence[dict]) -> list[Any]:
    """The rows as the method's objective takes them."""
    if name == CONTROL:
        return [chat(row, "chosen") for row in rows]
    if name == "DPO, contradictory pairs":
        turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        return [pair for both in zip(rows, turned) for pair in both]
    return list(rows)


def trl_settings(model: Any, rate: float, seed: int) -> dict[str, Any]:
    """The settings that all of TRL's trainers have in common here."""
    return {
        "output_dir": tempfile.mkdtemp(), "learning_rate": rate, "seed": seed, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "gradient_checkpointing": False, "use_cpu": model.device.type == "cpu",
        "bf16": model.dtype == torch.bfloat16, "logging_steps": 5,
    }  # fmt: skip


def lora(task: str = "CAUSAL_LM", **more: Any) -> LoraConfig:
    """The adapter of every method."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task, **more)


def grpo(model: Any, tokenizer: Any, rows: Sequence[dict], rate: float, plan: Mapping[str, int], seed: int) -> Any:
    """TRL's GRPO with the rules as the reward."""
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    answers = plan["grpo_answers"]
    config = GRPOConfig(
        **trl_settings(model, rate, seed), max_steps=plan["grpo_steps"], beta=0.02, lr_scheduler_type="constant",
        per_device_train_batch_size=answers, gradient_accumulation_steps=plan["grpo_messages"], num_generations=answers,
        max_completion_length=plan["answer_tokens"], temperature=1.0,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{key: row[key] for key in ("prompt", "case", "tone", "order")} for row in rows])
    torch.manual_seed(seed)
    trainer = GRPOTrainer(
        model=model, args=config, train_dataset=data, processing_class=tokenizer, reward_funcs=rules, peft_config=lora()
    )
    trainer.train()
    return trainer.model


def kto(model: Any, tokenizer: Any, rows: Sequence[dict], rate: float, plan: Mapping[str, int], seed: int) -> Any:
    """TRL's KTO on both replies of each pair, one good and one bad."""
    import datasets
    from trl import KTOConfig, KTOTrainer

    data = [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": row[key]}], "label": key == "chosen"}
        for row in rows
        for key in ("chosen", "rejected")
    ]
    config = KTOConfig(
        **trl_settings(model, rate, seed), num_train_epochs=1, per_device_train_batch_size=plan["batch"], beta=0.1,
        warmup_steps=3,
    )  # fmt: skip
    torch.manual_seed(seed)
    trainer = KTOTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer,
        peft_config=lora(),
    )  # fmt: skip
    trainer.train()
    return trainer.model


class RewardModel:
    """TRL's reward model, trained on pairs; the second judge."""

    def __init__(self, folder: str, tokenizer: Any, rows: Sequence[dict], plan: Mapping[str, int], seed: int) -> None:
        """Train it from the model in a folder."""
        import datasets
        from transformers import AutoModelForSequenceClassification
        from trl import RewardConfig, RewardTrainer

        torch.manual_seed(seed)
        body = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        body.config.pad_token_id = tokenizer.eos_token_id
        reply = lambda row, key: [*row["prompt"], {"role": "assistant", "content": row[key]}]  # noqa: E731
        data = [{key: reply(row, key) for key in ("chosen", "rejected")} for row in rows]
        config = RewardConfig(
            **trl_settings(body, 5e-4, seed), num_train_epochs=2, per_device_train_batch_size=plan["batch"],
            warmup_steps=3, center_rewards_coefficient=0.01,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=body, args=config, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer,
            peft_config=lora("SEQ_CLS", modules_to_save=["score"]),
        )  # fmt: skip
        trainer.train()
        self.model, self.tokenizer = trainer.model.eval(), tokenizer

    def scores(self, prompts: Sequence[list[dict]], texts: Sequence[str]) -> list[float]:
        """The reward of each answer, read at its stop token."""
        found = []
        for prompt, text in zip(prompts, texts, strict=True):
            ids = chat_token_ids(self.tokenizer, prompt, add_generation_prompt=True)
            ids += [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
            with torch.no_grad():
                found.append(float(self.model(torch.tensor([ids], device=self.model.device)).logits[0, 0]))
        return found


def score(row: dict, reply: str) -> float:
    """Share of the house style's rules kept; an answer without the right step gets half of it."""
    kept = house_style.judge(row, reply)
    return sum(kept.values()) / len(kept) * (1.0 if kept["right step"] else 0.5)


def wins(rows: Sequence[dict], replies: Sequence[str], others: Sequence[str]) -> list[float]:
    """For each message 1 if the reply has the higher score, 0 if the other one has, 0.5 for a tie."""
    pairs = zip(rows, replies, others, strict=True)
    scores = [(score(row, reply), score(row, other)) for row, reply, other in pairs]
    return [0.5 if a == b else float(a > b) for a, b in scores]


def rules(completions: Sequence[Any], case: Sequence, tone: Sequence, order: Sequence, **_: Any) -> list[float]:
    """The reward of GRPO, which passes the columns of the data set by name."""
    texts = [answer if isinstance(answer, str) else answer[-1]["content"] for answer in completions]
    rows = [{"case": c, "tone": t, "order": o} for c, t, o in zip(case, tone, order)]
    return [score(row, text) for row, text in zip(rows, texts)]


class Run:
    """One seed: the start, then every method from it."""

    def __init__(self, seed: int, plan: Mapping[str, int]) -> None:
        self.seed, self.plan = seed, plan
        pairs = load_preferences("balanced")
        rows = list(pairs.train)
        random.Random(seed).shuffle(rows)
        self.rows, self.test = rows[: plan["pairs"]], pairs.test[: plan["test"]]
        self.base, self.tokenizer = models.load()
        dice = random.Random(seed)
        demonstrations = [chat(row, dice.choice(("chosen", "rejected"))) for row in rows[: plan["start"]]]
        tuned = adapter(self.base, seed)
        self.fit(tuned, demonstrations, training.SFT(), IMITATION_RATE)
        self.start = tuned.merge_and_unload()
        self.before = likelihoods(self.start, self.tokenizer, self.test)
        self.start_answers = answers(self.start, self.tokenizer, self.test, plan["answer_tokens"])
        self.methods: dict[str, dict[str, Any]] = {START: self.looked_at(self.start, None)}
        part = part_of(seed)
        if plan is PLAN and part.exists():
            before = json.loads(part.read_text())["methods"]
            if before[START]["texts"] != self.start_answers:
                raise SystemExit(f"{part} is from another machine or another start; delete it to begin anew")
            self.methods = before | self.methods

    def fit(self, model: Any, rows: Sequence[Any], objective: Any, rate: float, epochs: float = 1.0) -> training.History:
        """Train an adapter."""
        settings = training.Settings(
            learning_rate=rate, batch_size=self.plan["batch"], warmup_steps=3, seed=self.seed, epochs=epochs
        )
        return training.fit(model, self.tokenizer, rows, None, objective, settings)

    def looked_at(self, model: Any, history: training.History | None) -> dict[str, Any]:
        """Everything that is recorded of a trained model."""
        test, plan, is_start = self.test, self.plan, model is self.start
        now = self.before if is_start else likelihoods(model, self.tokenizer, test)
        if is_start:
            right = [p.chosen / p.chosen_tokens > p.rejected / p.rejected_tokens for p in now]
        else:
            right = [after.chosen - then.chosen > after.rejected - then.rejected for then, after in zip(self.before, now)]
        texts = self.start_answers if is_start else answers(model, self.tokenizer, test, plan["answer_tokens"])
        kept = [house_style.judge(row, text) for row, text in zip(test, texts)]
        found: dict[str, Any] = {"right": list(map(float, right)), "texts": texts}
        found |= {rule: [float(one[rule]) for one in kept] for rule in house_style.RULES}
        found[lesson_04.ALL] = [float(all(one.values())) for one in kept]
        found["wins over start"] = wins(test, texts, self.start_answers)
        if not is_start:
            asked = [row["prompt"] for row in test[: plan["sampled"]]]
            ids = [chat_token_ids(self.tokenizer, prompt, add_generation_prompt=True) for prompt in asked]
            sampled = complete(model, self.tokenizer, ids, plan["answer_tokens"], temperature=1.0, seed=self.seed)
            found["kl"] = log_ratios(model, self.tokenizer, asked, sampled, self.reference_for(model))
            found["different sampled"] = len({tuple(answer) for answer in sampled})
        else:
            found["kl"] = [0.0] * plan["sampled"]
        if history is not None and history.losses:
            found["last loss"] = sum(history.losses[-4:]) / len(history.losses[-4:])
            found["curve"] = {
                name: history.metric(name) for name in ("reward_chosen", "reward_rejected") if name in history.metrics
            }
            if "accuracy" in history.metrics:
                last = history.metric("accuracy")[1:] or history.metric("accuracy")
                found["last accuracy"] = sum(last) / len(last)
        return found

    def reference_for(self, model: Any) -> Any:
        """The start; for an adapter on it, the model with its adapter switched off, which needs no second copy."""
        return None if getattr(model, "_from_start", False) else self.start

    def train(self, name: str) -> tuple[Any, training.History | None]:
        """A trained model and its history; `model.unload()` gets rid of its adapter."""
        objective, rate = METHODS[name]
        if objective is None:
            train = {"GRPO": grpo, "KTO": kto}[name]
            model = train(self.start, self.tokenizer, self.rows, rate, self.plan, self.seed)
            model._from_start = True
            return model, None
        body = models.load()[0] if name == "ORPO" else self.start
        model = adapter(body, self.seed)
        model._from_start = name != "ORPO"
        return model, self.fit(model, examples_for(name, self.rows), objective, rate)

    def method(self, name: str) -> None:
        """Train a method and record what became of the model."""
        model, history = self.train(name)
        self.methods[name] = self.looked_at(model, history) | {"rate": METHODS[name][1]}
        model.unload()
        memory.release()

    def finish(self) -> dict[str, Any]:
        """The run as it is recorded: each method also beside the control."""
        second = self.second_judge()
        if CONTROL in self.methods:
            control = self.methods[CONTROL]
            for found in self.methods.values():
                found["wins over control"] = wins(self.test, found["texts"], control["texts"])
                scores = zip(found["judge"], control["judge"])
                found["wins by judge"] = [0.5 if a == b else float(a > b) for a, b in scores]
        return {"seed": self.seed, "methods": self.methods, "judge": second}

    def second_judge(self) -> dict[str, list[float]]:
        """Train a reward model, let it score all answers, and say how it does where the truth is known.

        Returns:
            "ranks test pairs", and "agrees with the rules": for each answer and the start's answer to the same message of
            which the rules like one better, whether the judge likes the same one better.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.start.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            judge = RewardModel(folder, self.tokenizer, self.rows, self.plan, self.seed + 100)
        prompts = [row["prompt"] for row in self.test]

        def scores(texts: Sequence[str]) -> list[float]:
            return judge.scores(prompts, texts)

        for found in self.methods.values():
            found["judge"] = scores(found["texts"])
        start, agrees = self.methods[START]["judge"], []
        for found in self.methods.values():
            rules = wins(self.test, found["texts"], self.start_answers)
            agrees += [float((a > b) == (w == 1)) for a, b, w in zip(found["judge"], start, rules) if w != 0.5]
        pairs = zip(scores([row["chosen"] for row in self.test]), scores([row["rejected"] for row in self.test]))
        return {"ranks test pairs": [float(a > b) for a, b in pairs], "agrees with the rules": agrees}


def main() -> None:
    """All seeds and methods, then the record; with --try a few steps of the methods named."""
    trying = "--try" in sys.argv
    names = [argument for argument in sys.argv[1:] if argument in METHODS] or list(METHODS)
    asked = [int(argument) for argument in sys.argv[1:] if argument.isdigit()] or list(SEEDS)
    for seed in asked[:1] if trying else asked:
        started = time.perf_counter()
        run = Run(seed, TRY if trying else PLAN)
        print(seed, f"start {time.perf_counter() - started:.0f} s", flush=True)
        for name in [name for name in names if name not in run.methods]:
            run.method(name)
            if not trying:  # the judge comes last; a run that stops before keeps what is trained
                save(seed, {"seed": seed, "methods": run.methods})
            found = run.methods[name]
            kept, right = (sum(found[key]) / len(found[key]) for key in (lesson_04.ALL, "right"))
            print(
                seed, f"{time.perf_counter() - started:.0f} s", name, f"all five {kept:.2f}, pairs right {right:.2f}",
                flush=True,
            )  # fmt: skip
        finished = run.finish()
        memory.release()
        if not trying:
            save(seed, finished)
    if not trying:
        done = [seed for seed in SEEDS if part_of(seed).exists() and "judge" in json.loads(part_of(seed).read_text())]
        runs = [json.loads(part_of(seed).read_text()) for seed in done]
        write_results("preferences", {"plan": PLAN, "seeds": done, "start rate": IMITATION_RATE, "runs": runs})


if __name__ == "__main__":
    main()
