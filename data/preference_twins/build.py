"""Build the pairs from the texts under `source/`: `python data/preference_twins/build.py`. Same seed, same files, byte for byte.

Pairs come as twins. Both pairs of twins have the same two replies, and in each the other one is chosen, because the two
messages ask for different things. So whatever looks at the replies alone (their length, their form, their words) and not at
the message is right for one of the twins exactly when it is wrong for the other.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
MESSAGES = json.loads((HERE / "source/messages.json").read_text(encoding="utf-8"))
PHRASES = json.loads((HERE / "source/phrases.json").read_text(encoding="utf-8"))
SEED = 20261127
# How many twins of each kind a split has. What decides: which case it is; whether a promise may be made; whose product and
# order it is; whether one thing is asked or two; whether the customer is upset.
TWINS = {
    "train": {"step": 56, "promise": 16, "item": 16, "asked": 16, "tone": 16},
    "validation": {"step": 10, "promise": 2, "item": 2, "asked": 3, "tone": 3},
    "test": {"step": 25, "promise": 7, "item": 7, "asked": 7, "tone": 7},
}
OPPOSITES = (("return", "expired"), ("cancel", "shipped"))
ALONE = ("late", "defect", "return", "charge", "cancel")  # cases that a second question can follow
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
        self.followed = self._endless(ALONE)
        self.opposites = self._endless(OPPOSITES)
        self.also = self._endless(("login", "question", "charge"))
        self.seen: set[str] = set()

    def _endless(self, texts):
        while True:
            yield from self.rng.sample(texts, len(texts))

    def order(self) -> str:
        return f"TB-{self.rng.randint(10000, 99999)}"

    def message(self, case: str, tone: str, product: str, order: str, also: str = "") -> str:
        """A message that is not there yet."""
        while True:
            parts = [next(self.wordings[case])]
            if also:
                parts.append(self.rng.choice(PHRASES["also"][self.side][also]))
            parts += [self.rng.choice(PHRASES["orders"][self.side]), self.rng.choice(PHRASES[tone][self.side])]
            text = " ".join(part for part in parts if part).format(p=product, o=order)
            if text not in self.seen:
                self.seen.add(text)
                return text

    def opening(self, tone: str, order: str) -> str:
        return self.rng.choice(PHRASES["openings"][tone]).format(o=order)

    def step(self, case: str) -> str:
        return self.rng.choice(PHRASES["steps"][case])

    def twins(self, kind: str) -> tuple[dict, dict]:
        """Two rows without their replies' roles: what each message says, what a right reply does, and that reply."""
        rng, product, order = self.rng, next(self.products), self.order()
        tone = rng.choice(("calm", "upset"))
        row = {"kind": kind, "product": product, "order": order, "tone": tone}
        if kind in ("step", "promise"):
            if kind == "promise":
                one, other = rng.sample(next(self.opposites), 2)
            else:
                one, other = next(self.cases), next(self.cases)
                while one == other or any({one, other} == set(pair) for pair in OPPOSITES):
                    other = next(self.cases)
            opening = self.opening(tone, order)
            made = [(case, tone, product, order, "", f"{opening} {self.step(case)}") for case in (one, other)]
        elif kind == "item":
            case = next(self.cases)
            step = self.step(case)
            items = [(product, order), (next(self.products), self.order())]
            opening = rng.choice(PHRASES["item_openings"][tone])
            made = [(case, tone, p, o, "", f"{opening.format(p=p, o=o)} {step}") for p, o in items]
        elif kind == "asked":
            case, also = next(self.followed), next(self.also)
            while case == also:
                also = next(self.also)
            short = f"{self.opening(tone, order)} {self.step(case)}"
            made = [
                (case, tone, product, order, "", short),
                (case, tone, product, order, also, f"{short} {self.step(also)}"),
            ]
        else:
            case = next(self.cases)
            step = self.step(case)
            made = [
                (case, feeling, product, order, "", f"{self.opening(feeling, order)} {step}")
                for feeling in ("calm", "upset")
            ]
        rows = []
        for case, feeling, p, o, also, reply in made:
            wants = [case, also] if also else [case]
            text = self.message(case, feeling, p, o, also)
            rows.append(row | {"message": text, "tone": feeling, "product": p, "order": o, "wants": wants, "reply": reply})
        return rows[0], rows[1]


def pairs(split: str) -> list[dict]:
    """All pairs of a split, twins side by side."""
    writer, rows = Writer(split), []
    kinds = [kind for kind, count in TWINS[split].items() for _ in range(count)]
    writer.rng.shuffle(kinds)
    for number, kind in enumerate(kinds, 1):
        one, other = writer.twins(kind)
        for letter, own, twin in (("a", one, other), ("b", other, one)):
            rows.append(
                {
                    "id": f"{split}-{number:03d}{letter}", "twins": f"{split}-{number:03d}", "kind": kind,
                    "message": own["message"], "chosen": own["reply"], "rejected": twin["reply"],
                    "wants": own["wants"], "tone": own["tone"], "product": own["product"], "order": own["order"],
                }
            )  # fmt: skip
    return rows


def main() -> None:
    for split in TWINS:
        lines = [json.dumps(row, ensure_ascii=False) for row in pairs(split)]
        (HERE / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
