"""Training data from a stronger model: topics times a meta-prompt, in a ledger that survives interruption and keeps a
budget.

The approach behind the Phi models' textbooks (Gunasekar et al. 2023) and Self-Instruct (Wang et al. 2023). Each request is a
line in a ledger before it is sent (an intent, with the most it can cost) and another after (the answer, with what it did
cost). A run that is killed and started again takes every answer from the ledger. A request that was under way is sent again
under the same idempotency key, and a server that honours the key bills it once. The budget does not rely on that: it counts
such a request twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from course_utils.data_prep.endpoint import Price, ask, json_in
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True)
class Plan:
    """What to ask for.

    Attributes:
        topics: what the examples should be about.
        meta_prompt: the request, with {topic} in it.
        schema: JSON Schema of an answer, an object with a list `examples`.
        requests_per_topic: so many answers for each topic.
        model: name of the model at the endpoint.
        price: of its tokens.
        max_tokens: of an answer.
        temperature: of sampling.
    """

    topics: tuple[str, ...]
    meta_prompt: str
    schema: dict
    requests_per_topic: int = 1
    model: str = "gpt-4.1"
    price: Price = field(default=Price(2.0, 8.0))
    max_tokens: int = 2000
    temperature: float = 1.0

    def requests(self) -> list[tuple[str, str, int]]:
        """(key, topic, number) of every request; a key depends on all that shapes the answer."""
        made = []
        for number in range(self.requests_per_topic):
            for topic in self.topics:
                shape = [topic, number, self.meta_prompt, self.schema, self.model, self.max_tokens, self.temperature]
                made.append((hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:32], topic, number))
        return made

    def messages(self, topic: str) -> list[dict]:
        """The conversation that is sent."""
        return [{"role": "user", "content": self.meta_prompt.replace("{topic}", topic)}]

    def dearest(self, topic: str) -> float:
        """The most a request can cost, in dollars: a token a byte in, all tokens out."""
        return self.price.of(
            len(self.messages(topic)[0]["content"].encode()) + len(json.dumps(self.schema)), self.max_tokens
        )


@dataclass
class Synthesis:
    """What a run made.

    Attributes:
        examples: all that fit the schema, each with `provenance` (model, topic, request, time).
        rejected: (topic, number, reason) of answers and examples that do not.
        cost: dollars, by the ledger: answers that came, and requests whose answer was lost.
        requests: sent in this run.
        reused: taken from the ledger.
        left: not sent, because the budget would not have held.
    """

    examples: list[dict] = field(default_factory=list)
    rejected: list[tuple[str, int, str]] = field(default_factory=list)
    cost: float = 0.0
    requests: int = 0
    reused: int = 0
    left: int = 0

    def __str__(self) -> str:
        parts = [
            f"{len(self.examples)} examples, {len(self.rejected)} rejected",
            f"{self.requests} requests sent, {self.reused} reused",
            f"{self.cost:.4f} dollars",
        ]
        if self.left:
            parts.append(f"{self.left} requests left undone, the budget is used up")
        return "; ".join(parts)


def synthesise(plan: Plan, client: openai.OpenAI, ledger: str | Path, budget: float, workers: int = 4) -> Synthesis:
    """Ask for examples until the plan is done or the budget would not hold another request.

    Args:
        plan: what to ask for.
        client: of `endpoint.client_for`.
        ledger: JSONL file; goes on from what is in it.
        budget: dollars, over all runs with this ledger; never exceeded, since each request is counted at its dearest until
            its answer says what it cost.
        workers: requests under way at once.

    Raises:
        CourseError: the endpoint refuses or can't be reached (what came before is in the ledger), or another run has the
            ledger.
    """
    ledger = Path(ledger)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{ledger}.lock", timeout=0)
    try:
        with lock:
            return _Run(plan, client, ledger, budget).go(workers)
    except Timeout as error:
        raise CourseError(f"another run is writing {ledger.name}; wait for it, or name another ledger") from error


class _Run:
    def __init__(self, plan: Plan, client: openai.OpenAI, ledger: Path, budget: float) -> None:
        self.plan, self.client, self.ledger, self.budget = plan, client, ledger, budget
        self.result, self.mutex = Synthesis(), threading.Lock()
        self.answers, intents = read_ledger(ledger)
        # A request that was sent and has no answer may have been billed: it counts at its dearest, and once more when sent
        # again.
        lost = [costs[: len(costs) - (key in self.answers)] for key, costs in intents.items()]
        self.spent = sum(answer["cost"] for answer in self.answers.values()) + sum(map(sum, lost))

    def go(self, workers: int) -> Synthesis:
        todo = [(key, topic, number) for key, topic, number in self.plan.requests() if key not in self.answers]
        self.result.reused = len(self.plan.requests()) - len(todo)
        with self.ledger.open("ab") as self.file, ThreadPoolExecutor(workers) as pool:
            failures = [f for f in pool.map(self._one, todo) if f is not None]
        self.result.cost = self.spent
        self._collect()
        if failures:
            raise failures[0]
        return self.result

    def _one(self, request: tuple[str, str, int]) -> CourseError | None:
        key, topic, number = request
        dearest = self.plan.dearest(topic)
        with self.mutex:
            if self.spent + dearest > self.budget:
                self.result.left += 1
                return None
            self.spent += dearest
            self.result.requests += 1
            self._write({"intent": key, "topic": topic, "number": number, "dearest": dearest})
        try:
            answer = ask(
                self.client,
                self.plan.model,
                self.plan.messages(topic),
                self.plan.schema,
                self.plan.max_tokens,
                self.plan.temperature,
                key,
            )
        except CourseError as error:
            return error
        cost = self.plan.price.of(answer.prompt_tokens, answer.completion_tokens)
        entry = {"answer": key, "topic": topic, "number": number, "text": answer.text, "model": answer.model,
                 "cost": cost, "finish_reason": answer.finish_reason,
                 "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        with self.mutex:
            self._write(entry)
            self.spent += cost - dearest
            self.answers[key] = entry
        return None

    def _write(self, entry: dict) -> None:
        self.file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def _collect(self) -> None:
        for key, topic, number in self.plan.requests():
            if key in self.answers:
                examples, reasons = read_answer(self.answers[key], self.plan.schema)
                self.result.examples += examples
                self.result.rejected += [(topic, number, reason) for reason in reasons]


def read_ledger(path: Path) -> tuple[dict[str, dict], dict[str, list[float]]]:
    """Answers by key, and the dearest costs of all intents by key; a last line that a kill cut off is removed."""
    answers: dict[str, dict] = {}
    intents: dict[str, list[float]] = {}
    if not path.exists():
        return answers, intents
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            entry = json.loads(line)
            if "answer" in entry:
                answers[entry["answer"]] = entry
            else:
                intents.setdefault(entry["intent"], []).append(entry["dearest"])
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(
                f"{path.name}, line {number} is no line of a ledger; name another file, or remove the line"
            ) from error
    return answers, intents


def read_answer(entry: dict, schema: dict) -> tuple[list[dict], list[str]]:
    """Examples of an answer that fit the schema's items, with their provenance, and what was wrong with the others."""
    import jsonschema

    if entry["finish_reason"] == "length":
        reason = ["the answer was cut at max_tokens"]
    else:
        reason = []
    try:
        examples = json_in(entry["text"])["examples"]
        if not isinstance(examples, list):
            raise TypeError("examples is no list")
    except (ValueError, KeyError, TypeError) as error:
        return [], reason or [f"no list of examples: {str(error)[:100]}"]
    item = schema.get("properties", {}).get("examples", {}).get("items", {})
    validator = jsonschema.validators.validator_for(item)(item)
    made, reasons = [], reason
    wanted = schema.get("properties", {}).get("examples", {}).get("minItems", 0)
    if len(examples) < wanted:
        reasons = [*reasons, f"{len(examples)} examples instead of {wanted}"]
    for position, example in enumerate(examples):
        fault = next(iter(validator.iter_errors(example)), None)
        if fault:
            reasons = [*reasons, f"example {position + 1}: {fault.message[:100]}"]
            continue
        source = {
            "source": "synthetic",
            "model": entry["model"],
            "topic": entry["topic"],
            "request": entry["answer"],
            "created": entry["created"],
        }
        made.append({**example, "provenance": source})
    return made, reasons


def as_chat(examples: Iterable[dict], system: str, prompt: str = "message", answer: str = "record") -> list[dict]:
    """Chat rows from examples, provenance kept; a value that is no text is written as JSON."""

    def text(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return [
        {
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": text(example[prompt])},
                {"role": "assistant", "content": text(example[answer])},
            ],
            "provenance": example["provenance"],
        }
        for example in examples
    ]


def estimate(plan: Plan, tokens: Sequence[int] | None = None) -> tuple[float, float]:
    """(likely, dearest) dollars of a plan; likely, if `tokens` gives (in, out) of a typical request."""
    dearest = sum(plan.dearest(topic) for _, topic, _ in plan.requests())
    likely = len(plan.requests()) * plan.price.of(*tokens) if tokens else dearest
    return likely, dearest
