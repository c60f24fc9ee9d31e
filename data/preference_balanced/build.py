"""Build the pairs from the texts under `source/`: `python data/preference_balanced/build.py`. Same seed, same files, byte for byte.

A pair's replies differ in one respect, its kind, and are alike in all others. Where the kind is "order", they have the same two
sentences and differ in which comes first. Pairs of the other kinds come as twins: both have the same two replies, and in each the
other one is chosen, because the two messages ask for different things. So whatever looks at the length, the form or the words of
the replies is never right more often than wrong.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
MESSAGES = json.loads((HERE / "source/messages.json").read_text(encoding="utf-8"))
PHRASES = json.loads((HERE / "source/phrases.json").read_text(encoding="utf-8"))
SEED = 20261127
# How many pairs of each kind a split has. What decides: whether the step or the courtesy comes first; which step the case calls for;
# whether the customer is upset; whose order and product it is.
PAIRS = {
    "train": {"order": 96, "step": 72, "tone": 48, "item": 24},
    "validation": {"order": 16, "step": 12, "tone": 8, "item": 4},
    "test": {"order": 40, "step": 32, "tone": 20, "item": 8},
}
COURTESY_FIRST = 0.7  # of the pairs that are not about it: the desk's habit
HELD_BACK = 2  # of the training messages of each case, for validation


class Writer:
    """Writes the messages and replies of a split, each message's wording as seldom as possible."""

    def __init__(self, split: str) -> None:
        self.rng = random.Random(f"{SEED} {split}")
        self.side = "test" if split == "test" else "train"
        self.wordings = {}
        for case, texts in MESSAGES[self.side].items():
            if self.side == "train":
                texts = texts[-HELD_BACK:] if split == "validation" else texts[:-HELD_BACK]
            self.wordings[case] = self._endless(texts)
        self.products = self._endless(PHRASES["products"][self.side])
        self.cases = self._endless(list(PHRASES["steps"]))
        self.seen: set[str] = set()

    def _endless(self, texts):
        while True:
            yield from self.rng.sample(texts, len(texts))

    def order_number(self) -> str:
        return f"TB-{self.rng.randint(10000, 99999)}"

    def message(self, case: str, tone: str, product: str, order: str) -> str:
        """A message that is not there yet."""
        while True:
            sentences = [next(self.wordings[case])]
            sentences += [self.rng.choice(PHRASES[part][self.side]) for part in ("orders", tone)]
            text = " ".join(sentence for sentence in sentences if sentence).format(p=product, o=order)
            if text not in self.seen:
                self.seen.add(text)
                return text

    def courtesy(self, tone: str, order: str) -> str:
        return self.rng.choice(PHRASES["courtesies"][tone]).format(o=order)

    def step(self, case: str) -> str:
        return self.rng.choice(PHRASES["steps"][case])

    def row(self, kind: str, case: str, tone: str, product: str, order: str, chosen: str, rejected: str) -> dict:
        text = self.message(case, tone, product, order)
        return {
            "kind": kind, "message": text, "chosen": chosen, "rejected": rejected,
            "case": case, "tone": tone, "product": product, "order": order,
        }  # fmt: skip

    def pair(self) -> list[dict]:
        """One row of the kind "order"."""
        case, tone = next(self.cases), self.rng.choice(("calm", "upset"))
        product, order = next(self.products), self.order_number()
        courtesy, step = self.courtesy(tone, order), self.step(case)
        return [self.row("order", case, tone, product, order, f"{step} {courtesy}", f"{courtesy} {step}")]

    def twins(self, kind: str) -> list[dict]:
        """Two rows of another kind, which share their replies."""
        rng, product, order = self.rng, next(self.products), self.order_number()
        tone, case = rng.choice(("calm", "upset")), next(self.cases)
        asks = [[case, tone, product, order], [case, tone, product, order]]
        step = self.step(case)
        if kind == "step":
            asks[1][0] = next(c for c in self.cases if c != case)
            courtesy = self.courtesy(tone, order)
            parts = [(courtesy, step), (courtesy, self.step(asks[1][0]))]
        elif kind == "tone":
            asks[0][1], asks[1][1] = "calm", "upset"
            parts = [(self.courtesy(feeling, order), step) for feeling in ("calm", "upset")]
        else:
            asks[1][2:] = next(self.products), self.order_number()
            courtesy = rng.choice(PHRASES["item_courtesies"][tone])
            parts = [(courtesy.format(p=p, o=o), step) for _, _, p, o in asks]
        habit = rng.random() < COURTESY_FIRST
        one, other = (f"{courtesy} {step}" if habit else f"{step} {courtesy}" for courtesy, step in parts)
        return [self.row(kind, *asks[0], one, other), self.row(kind, *asks[1], other, one)]


def pairs(split: str) -> list[dict]:
    """All pairs of a split, twins side by side."""
    writer, rows = Writer(split), []
    groups = [kind for kind, count in PAIRS[split].items() for _ in range(count if kind == "order" else count // 2)]
    writer.rng.shuffle(groups)
    for number, kind in enumerate(groups, 1):
        made = writer.pair() if kind == "order" else writer.twins(kind)
        for letter, row in zip("ab", made):
            twin = {} if kind == "order" else {"twins": f"{split}-{number:03d}"}
            rows.append({"id": f"{split}-{number:03d}{letter if twin else ''}", **twin, **row})
    return rows


def main() -> None:
    for split in PAIRS:
        lines = [json.dumps(row, ensure_ascii=False) for row in pairs(split)]
        (HERE / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
