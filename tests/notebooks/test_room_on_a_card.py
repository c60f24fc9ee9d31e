"""Lessons let go of a model before they load the next one: on the smallest A100, not three of them fit.

Cells are run with stand-ins that have a size and a place, and nothing else. A size of 1 is the tier's model in 16 bits.
"""

import sys
import weakref
from types import SimpleNamespace

import jupytext
import pytest

from course_utils import lessons

FOUR_BITS = 0.30


class Card:
    """What lies on the card now, and at the most."""

    def __init__(self):
        self.models, self.peak = weakref.WeakSet(), 0.0

    def look(self):
        self.peak = max(self.peak, sum(model.size for model in self.models if model.place == "cuda"))

    def model(self, size, place="cuda"):
        model = Model()
        model.card, model.size, model.place = self, size, place
        self.models.add(model)
        self.look()
        return model


class Model:
    """A model that can be moved; whatever else is asked of it gives itself."""

    def to(self, place):
        self.place = place
        self.card.look()
        return self

    def dequantize(self):
        self.size = 1
        self.card.look()
        return self

    def merge_and_unload(self):
        return self

    def save_pretrained(self, folder):
        pass

    def print_trainable_parameters(self):
        pass


@pytest.fixture
def card(monkeypatch):
    card = Card()
    adapted = SimpleNamespace(from_pretrained=lambda base, folder: base)
    monkeypatch.setitem(sys.modules, "peft", SimpleNamespace(PeftModel=adapted))
    return card


def run(section, card, known, text):
    """Run the cell that contains this text; what is known is handed over to it."""
    cells = jupytext.read(lessons.source_file(lessons.find(section).name)).cells
    names = {
        "torch": SimpleNamespace(float32="float32"),
        "show": SimpleNamespace(folder_sizes=lambda *folders: None),
        "tokenizer": card.model(0),
        "PeftModel": sys.modules["peft"].PeftModel,
        "AutoModelForCausalLM": SimpleNamespace(from_pretrained=lambda folder, dtype: card.model(1, "cpu")),
        "base": "folder",
        "dtype": "bfloat16",
        **known,
    }
    known.clear()
    exec(next(cell.source for cell in cells if cell.cell_type == "code" and text in cell.source), names)
    return names


def test_lesson_02_merges_in_32_bits_beside_the_card(card):
    tuned = card.model(1)
    names = run("02", card, {"tuned": tuned}, 'merged.save_pretrained("tickets-merged")')
    assert names["merged"].place != "cuda" and card.peak == tuned.size  # in 32 bits, which the card need not hold


def test_lesson_03_lets_go_of_each_merged_model(card):
    four_bit = card.model(FOUR_BITS)
    known = {
        "four_bit": four_bit, "beside": four_bit, "linear": four_bit, "losses": {}, "answer_loss": lambda model: 0.0,
        "charts": SimpleNamespace(bars=lambda *values, **options: None), "place": "cuda",
        "load_four_bit": lambda: card.model(FOUR_BITS),
    }  # fmt: skip
    del four_bit
    run("03", card, known, "del beside, four_bit, linear")
    assert card.peak == 1 and not sum(model.size for model in card.models if model.place == "cuda" and model.size == 1)
