"""Lessons let go of a model before they load the next one: on the smallest A100, not three of them fit.

Cells are run with stand-ins that have a size and a place, and nothing else. A size of 1 is the tier's model in 16 bits.
"""

import gc
import sys
import weakref
from types import SimpleNamespace

import pytest

from course_utils import lessons

CARD = 42.4e9 / 16.76e9 - 0.25  # of which training and answering need some too
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

    def load(self, dtype="bfloat16", quantization=None):
        return self.model(FOUR_BITS if quantization else 2 if dtype == "float32" else 1), "tokenizer"


class Model:
    """A model that can be moved; whatever else is asked of it gives itself."""

    def to(self, place):
        self.place = place
        self.card.look()
        return self

    def cpu(self):
        return self.to("cpu")

    def dequantize(self):
        self.size = 1
        self.card.look()
        return self

    def parameters(self):
        return []

    def num_parameters(self):
        return 7

    def save_pretrained(self, folder, **_):
        pass

    def print_trainable_parameters(self):
        pass

    def merge_and_unload(self):
        return self


@pytest.fixture
def card(monkeypatch):
    card = Card()
    adapted = SimpleNamespace(from_pretrained=lambda base, folder: base)
    saved = SimpleNamespace(from_pretrained=lambda folder, dtype: card.model(1, "cpu"))
    pipeline = lambda task, model, dtype="float32": SimpleNamespace(model=card.load(dtype)[0])
    libraries = {
        "peft": SimpleNamespace(PeftModel=adapted),
        "transformers": SimpleNamespace(pipeline=pipeline, AutoModelForCausalLM=saved),
        "trl": SimpleNamespace(GRPOConfig=None, GRPOTrainer=None),
    }
    for name, library in libraries.items():
        monkeypatch.setitem(sys.modules, name, library)
    return card


def run(section, card, known, *texts):
    """Run the cells that contain these texts, each up to where it asks the model; what is known is handed over to them."""
    import jupytext
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    cells = jupytext.reads(
        lessons.source_file(lessons.find(section).name).read_text(encoding="utf-8"), fmt="py:percent"
    ).cells
    names = {
        "models": SimpleNamespace(load=card.load),
        "memory": SimpleNamespace(release=gc.collect),
        "torch": SimpleNamespace(float32="float32"),
        "device": SimpleNamespace(kind="cuda", torch_dtype=lambda: "bfloat16"),
        "show": SimpleNamespace(folder_sizes=lambda *folders: None),
        "tokenizer": card.model(0),
        "PeftModel": PeftModel,
        "AutoModelForCausalLM": AutoModelForCausalLM,
        **known,
    }
    known.clear()
    for text in texts:
        source = next(cell.source for cell in cells if cell.cell_type == "code" and text in cell.source)
        exec(source.partition("message, right =")[0], names)
    return names


def test_lesson_02_merges_in_32_bits_beside_the_card(card):
    tuned = card.model(1)
    names = run(
        "02", card, {"tuned": tuned, "base": "folder", "dtype": "bfloat16"}, 'merged.save_pretrained("tickets-merged")'
    )
    assert names["merged"].place != "cuda" and card.peak == tuned.size  # in 32 bits, which the card need not hold


def test_lesson_03_lets_go_of_each_merged_model(card):
    four_bit = card.model(FOUR_BITS)
    known = {
        "four_bit": four_bit, "beside": four_bit, "linear": four_bit, "losses": {}, "answer_loss": lambda model: 0.0,
        "charts": SimpleNamespace(bars=lambda *values, **options: None), "base": "folder", "dtype": "bfloat16",
        "place": "cuda", "load_four_bit": lambda: card.model(FOUR_BITS),
    }  # fmt: skip
    del four_bit
    run("03", card, known, "del beside, four_bit, linear")
    assert card.peak == 1 and not sum(model.size for model in card.models if model.place == "cuda" and model.size == 1)
