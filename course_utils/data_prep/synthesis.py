"""Training data from a stronger model: a meta-prompt for each topic, with a ledger that survives interruption and keeps to a
budget.

This is the approach behind the Phi models' textbooks (Gunasekar et al. 2023) and Self-Instruct (Wang et al. 2023). A request
has one line in the ledger before it is sent (an intent, with the most it can cost) and another afterwards (the answer, with
what it did cost). A run that is killed and started again reuses every answer in the ledger. A request that was under way is
sent again with the same idempotency key, and a server that honours the key bills it once. The budget does not rely on that:
it counts such a request twice.
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
    """What to ask a stronger model for.

    Attributes:
        topics: what the examples should be about.
        meta_prompt: the request, with {topic} in it.
        schema: JSON Schema of an answer, an object with a list `examples`.
        requests_per_topic: number of requests for each topic.
        model: name of the model at the endpoint.
        price: price of the model's tokens.
        max_tokens: maximum number of tokens in an answer.
        temperature: sampling temperature.
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
        """Return (key, topic, number) of every request; the key depends on everything that affects the answer."""
        requests = []
        for number in range(self.requests_per_topic):
            for topic in self.topics:
                shape = [topic, number, self.meta_prompt, self.schema, self.model, self.max_tokens, self.temperature]
                requests.append((hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:32], topic, number))
        return requests

    def messages(self, topic: str) -> list[dict]:
        """Return the conversation that is sent for a topic."""
        return [{"role": "user", "content": self.meta_prompt.replace("{topic}", topic)}]

    def max_cost(self, topic: str) -> float:
        """Return the most that a request about a topic can cost, in dollars.

        It assumes one input token per byte, and `max_tokens` of output.
        """
        return self.price.of(
            len(self.messages(topic)[0]["content"].encode()) + len(json.dumps(self.schema)), self.max_tokens
        )


@dataclass
class Synthesis:
    """The result of a run.

    Attributes:
        examples: all examples that fit the schema, each with `provenance` (model, topic, request, time).
        rejected: (topic, number, reason) of answers and examples that do not fit.
        cost: dollars according to the ledger, for answers that arrived and for requests whose answer did not.
        requests: number of requests that were sent in this run.
        reused: number of answers that were reused from the ledger.
        unsent: number of requests that were not sent, because they might have exceeded the budget.
    """

    examples: list[dict] = field(default_factory=list)
    rejected: list[tuple[str, int, str]] = field(default_factory=list)
    cost: float = 0.0
    requests: int = 0
    reused: int = 0
    unsent: int = 0

    def __str__(self) -> str:
        parts = [
            f"{len(self.examples)} examples, {len(self.rejected)} rejected",
            f"{self.requests} requests sent, {self.reused} reused",
            f"{self.cost:.4f} dollars",
        ]
        if self.unsent:
            parts.append(f"{self.unsent} requests not sent, because the budget is used up")
        return "; ".join(parts)


def synthesise(plan: Plan, client: openai.OpenAI, ledger: str | Path, budget: float, workers: int = 4) -> Synthesis:
    """Ask for examples until the plan is done, or until another request might exceed the budget.

    Args:
        plan: what to ask for.
        client: from `endpoint.client_for`.
        ledger: JSONL file; the run continues from what is in it.
        budget: dollars, over all runs with this ledger. It is never exceeded, because a request counts as the most it can
            cost until its answer says what it did cost.
        workers: number of requests that run at once.

    Raises:
        CourseError: the endpoint refuses or cannot be reached (earlier answers are in the ledger), or another run is using
            the ledger.
    """
    ledger = Path(ledger)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{ledger}.lock", timeout=0)
    try:
        with lock:
            return _Run(plan, client, ledger, budget).run(workers)
    except Timeout as error:
        raise CourseError(f"another run is writing {ledger.name}; wait for it, or name another ledger") from error


class _Run:
    def __init__(self, plan: Plan, client: openai.OpenAI, ledger: Path, budget: float) -> None:
        self.plan, self.client, self.ledger, self.budget = plan, client, ledger, budget
        self.result, self.mutex = Synthesis(), threading.Lock()
        self.answers, intents = read_ledger(ledger)
        # A request that was sent and has no answer may have been billed: it counts as the most it can cost, and once more
        # when it is sent again.
        lost = [costs[: len(costs) - (key in self.answers)] for key, costs in intents.items()]
        self.spent = sum(answer["cost"] for answer in self.answers.values()) + sum(map(sum, lost))

    def run(self, workers: int) -> Synthesis:
        pending = [(key, topic, number) for key, topic, number in self.plan.requests() if key not in self.answers]
        self.result.reused = len(self.plan.requests()) - len(pending)
        with self.ledger.open("ab") as self.file, ThreadPoolExecutor(workers) as pool:
            failures = [f for f in pool.map(self._request, pending) if f is not None]
        self.result.cost = self.spent
        self._collect()
        if failures:
            raise failures[0]
        return self.result

    def _request(self, request: tuple[str, str, int]) -> CourseError | None:
        key, topic, number = request
        max_cost = self.plan.max_cost(topic)
        with self.mutex:
            if self.spent + max_cost > self.budget:
                self.result.unsent += 1
                return None
            self.spent += max_cost
            self.result.requests += 1
            self._write({"intent": key, "topic": topic, "number": number, "dearest": max_cost})
        try:
            plan, messages = self.plan, self.plan.messages(topic)
            answer = ask(self.client, plan.model, messages, plan.schema, plan.max_tokens, plan.temperature, key)
        except CourseError as error:
            return error
        cost = self.plan.price.of(answer.prompt_tokens, answer.completion_tokens)
        entry = {"answer": key, "topic": topic, "number": number, "text": answer.text, "model": answer.model,
                 "cost": cost, "finish_reason": answer.finish_reason,
                 "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        with self.mutex:
            self._write(entry)
            self.spent += cost - max_cost
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
    """Read a ledger; a last line that was cut off when the run was killed is removed.

    Returns:
        Key → answer; and key → the maximum costs of all requests that were about to be sent, in dollars.
    """
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
                f"{path.name}, line {number} is not a line of a ledger; name another file, or remove the line"
            ) from error
    return answers, intents


def read_answer(entry: dict, schema: dict) -> tuple[list[dict], list[str]]:
    """Return the examples in an answer that fit the schema, with their provenance, and what is wrong with the others."""
    import jsonschema

    reasons = ["the answer was cut at max_tokens"] if entry["finish_reason"] == "length" else []
    try:
        examples = json_in(entry["text"])["examples"]
        if not isinstance(examples, list):
            raise TypeError("examples is not a list")
    except (ValueError, KeyError, TypeError) as error:
        return [], reasons or [f"the answer has no list of examples: {str(error)[:100]}"]
    listed = schema.get("properties", {}).get("examples", {})
    item, minimum = listed.get("items", {}), listed.get("minItems", 0)
    validator = jsonschema.validators.validator_for(item)(item)
    valid = []
    if len(examples) < minimum:
        reasons.append(f"{len(examples)} examples instead of {minimum}")
    for position, example in enumerate(examples):
        violation = next(iter(validator.iter_errors(example)), None)
        if violation:
            reasons.append(f"example {position + 1}: {violation.message[:100]}")
            continue
        request = {"request": entry["answer"], "created": entry["created"]}
        source = {"source": "synthetic", "model": entry["model"], "topic": entry["topic"]} | request
        valid.append({**example, "provenance": source})
    return valid, reasons


def as_chat(examples: Iterable[dict], system: str, prompt: str = "message", answer: str = "record") -> list[dict]:
    """Turn examples into chat rows that keep their provenance.

    Args:
        examples: examples from `synthesise`.
        system: the system message of every row.
        prompt: the field of an example that becomes the user's message.
        answer: the field that becomes the assistant's; a value that is not a text is written as JSON.
    """

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
    """Estimate the cost of a plan in dollars, before anything is sent.

    Args:
        plan: what to ask for.
        tokens: (input, output) tokens of a typical request, for the likely cost.

    Returns:
        The likely cost and the maximum.
    """
    max_cost = sum(plan.max_cost(topic) for _, topic, _ in plan.requests())
    likely = len(plan.requests()) * plan.price.of(*tokens) if tokens else max_cost
    return likely, max_cost
