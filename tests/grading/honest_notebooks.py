# ruff: noqa - students write as they like
"""Right answers as whole notebooks of honest students, in unusual but legitimate forms; the reader who wrote most of them had
seen neither the exercises' definitions nor the grading.

ANSWERS has one entry a student: the exercises answered (several with "+" between them), what is unusual, and the cells. A cell
is the source of a code cell that stands where the exercise's answer cell stood (several: one below the other, the lesson's
check cell after the last), or a dictionary:

    {"code": source, "at": place}     place: "imports" (after the lesson's first cell of imports), "end", or an exercise's id
    {"markdown": text, "at": place}
    {"check": None, "at": place}      the exercise's check cell stands here instead; a text: with this source
    {"lesson": text}                  the cell of the lesson with this text has been run (its helper is used); others have not
    {"fails": True, "code": source}   a cell that ends in an error, as it did for the student
    {"stub": None}                    the lesson's answer cell as it was
    {"interrupted": source}           a cell that the student stopped; it is not run for the check
    {"given": source}                 what cells of the lesson have defined that are not run for the check
    {"module": name}                  a package that the student's machine has
    {"notebook": form}                how the whole file was stored; see `stored`

Run as a program, it prints a line of JSON for each entry: what the notebook's check says after IPython has run the cells.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import json
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import NamedTuple

LESSONS = {"frame": "01", "lora": "02", "qlora": "03", "align": "04", "data": "05", "api": "06"}
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


class Notebook(NamedTuple):
    """One student's answers.

    Attributes:
        ids: of the exercises answered.
        description: what is unusual.
        cells: see above.
        refused: if grading cannot accept the answer, words of the message that gives the reason and says what to do.
    """

    ids: tuple[str, ...]
    description: str
    cells: tuple
    refused: str


ANSWERS: list[Notebook] = []


def student(ids: str, description: str, *cells, refused: str = "") -> None:
    ANSWERS.append(Notebook(tuple(ids.split("+")), description, cells, refused))


# ---------------------------------------------------------------------------------------------------------------- frame-4
student(
    "frame-4",
    "try/except ZeroDivisionError, walrus, logging",
    r'''
# EXERCISE: frame-4
import logging
logging.basicConfig(level=logging.DEBUG)
log = logging.getLogger(__name__)

def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    """From how many requests a day on is the fine-tuned system cheaper?"""
    try:
        n = (setup / days + upkeep_a_day) / (saved := old_cost - new_cost)
    except ZeroDivisionError:
        log.warning("nothing saved")
        return None
    log.debug("saved %s -> n %s", saved, n)
    return n if saved > 0 else None
'''.strip(),
)

student(
    "frame-4",
    "solved with sympy, rational arithmetic, float at the end",
    r"""
# EXERCISE: frame-4
import sympy as sp
n = sp.symbols("n")

def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    if new_cost >= old_cost:
        return None
    rational = [sp.Rational(v) for v in (setup, upkeep_a_day, old_cost, new_cost, days)]
    s, u, o, w, d = rational
    (loesung,) = sp.solve(sp.Eq(s + u * d + n * d * w, n * d * o), n)
    return float(loesung)
""".strip(),
)

student(
    "frame-4",
    "torch result (0-d float64 tensor); keyword defaults added at the end",
    r'''
# EXERCISE: frame-4
import torch

def break_even(setup, upkeep_a_day, old_cost, new_cost, days, *, dtype=torch.float64, verbose=False):
    """From how many requests a day on is the fine-tuned system cheaper?"""
    saved = torch.tensor(old_cost, dtype=dtype) - torch.tensor(new_cost, dtype=dtype)
    if verbose: print(saved)
    if saved.item() <= 0: return None
    return (torch.tensor(setup, dtype=dtype) / days + upkeep_a_day) / saved
'''.strip(),
)

student(
    "frame-4",
    "class with __call__ and __slots__, instance under the required name; check run in a new cell further down",
    r"""
# EXERCISE: frame-4
class BreakEven:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self, setup, upkeep, old, new, days):
        self.calls += 1
        if not old > new:
            return
        per_day = setup / days + upkeep
        return per_day / (old - new)

    def __repr__(self):
        return f"<BreakEven called {self.calls} times>"

break_even = BreakEven()
break_even
""".strip(),
    {"check": None},
    "break_even",
    'check("frame-4", break_even)',
)

student(
    "frame-4",
    "decimal arithmetic, returns a Decimal; imports in another cell",
    {"at": "imports", "code": "from decimal import Decimal, getcontext\ngetcontext().prec = 40"},
    r'''
# EXERCISE: frame-4
def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    """From how many requests a day on is the fine-tuned system cheaper?"""
    setup, upkeep, old, new = (Decimal(str(dollars)) for dollars in (setup, upkeep_a_day, old_cost, new_cost))
    if new >= old:
        return None
    return (setup / days + upkeep) / (old - new)

print(break_even(365, 1, 0.02, 0.01, 365))
'''.strip(),
)

student(
    "frame-4",
    "numpy dot product with the lesson's np; %%time on the first line",
    r"""
%%time
# EXERCISE: frame-4
def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    saved = np.subtract(old_cost, new_cost)
    a_day = np.dot(np.array([setup, upkeep_a_day]), [1 / days, 1])
    return a_day / saved if saved > 0 else None
""".strip(),
)

student(
    "frame-4",
    "decorator with functools.wraps that prints every call; positional-only, annotations, Windows line endings",
    "\r\n".join(
        r'''
# EXERCISE: frame-4
from __future__ import annotations
import functools
from typing import Callable, ParamSpec, TypeVar
P = ParamSpec("P")
R = TypeVar("R")

def traced(f: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(f)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        print("->", f.__name__, args, kwargs)
        result = f(*args, **kwargs)
        print("<-", result)
        return result
    return inner

@traced
def break_even(setup: float, upkeep: float, old: float, new: float, days: int, /) -> float | None:
    """From how many requests a day on is the fine-tuned system cheaper?"""
    if old <= new:
        return None
    return (upkeep + setup / days) / (old - new)
'''.strip().split("\n")
    ),
)

student(
    "frame-4",
    "Fraction result, starred lambda",
    r"""
# EXERCISE: frame-4
from fractions import Fraction as Bruch
break_even = lambda *zahlen: (lambda einmal, täglich, alt, neu, tage: (einmal / tage + täglich) / (alt - neu) if alt > neu else None)(*map(Bruch, zahlen))
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- frame-2
student(
    "frame-2",
    "statistics.mean of booleans, imported in the answer's cell",
    r'''
# EXERCISE: frame-2
import statistics

def recall_at(rankings, relevant, k):
    """How often is the right passage among the first k?"""
    return statistics.mean(wanted in found[:k] for found, wanted in zip(rankings, relevant, strict=True))
'''.strip(),
)

student(
    "frame-2",
    "pandas, np.float64 result, pd imported in a cell at the top",
    {"at": "imports", "code": "import pandas as pd\npd.set_option('display.max_rows', 5)"},
    r"""
# EXERCISE: frame-2
def recall_at(rankings, relevant, k):
    frame = pd.DataFrame({"found": rankings, "relevant": relevant})
    frame["hit"] = frame.apply(lambda row: row.relevant in list(row.found)[:k], axis=1).astype(float)
    return frame["hit"].mean()

display(pd.DataFrame({"a": [1, 2]}))
recall_at([["a", "b"], ["c"]], ["b", "d"], 2)
""".strip(),
)

student(
    "frame-2",
    "head/tail recursion with itertools.islice, Fraction result",
    r"""
# EXERCISE: frame-2
from fractions import Fraction
from itertools import islice

def _hits(rankings, relevant, k):
    match rankings, relevant:
        case [], []:
            return 0
        case [first, *others], [wanted, *rest]:
            return any(id == wanted for id in islice(first, k)) + _hits(others, rest, k)

def recall_at(rankings, relevant, k):
    return Fraction(_hits(list(rankings), list(relevant), k), len(relevant))
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- frame-3
student(
    "frame-3",
    "match statement and Counter; helper in a cell between",
    r"""
from collections import Counter

def same(a, b):
    return a.strip().lower() == b.strip().lower()
""".strip(),
    {"markdown": "*Note to self:* compare with `same`, not with `==`!"},
    r'''
# EXERCISE: frame-3
def stale(answers, old, new):
    """After facts have changed."""
    def kind(answer, before, after):
        match (same(before, after), same(answer, after), same(answer, before)):
            case (True, _, _):
                return None
            case (_, True, _):
                return "right"
            case (_, _, True):
                return "stale"
            case _:
                return "neither"

    counted = Counter(filter(None, map(kind, answers, old, new)))
    if not (n := sum(counted.values())):
        return None
    return tuple(counted[k] / n for k in ("right", "stale", "neither"))
'''.strip(),
)

student(
    "frame-3",
    "pandas string methods, NamedTuple result of np.float64",
    r"""
# EXERCISE: frame-3
import pandas as pd
from typing import NamedTuple, Optional

class Shares(NamedTuple):
    right: float
    stale: float
    neither: float

def stale(answers, old, new) -> Optional[Shares]:
    df = pd.DataFrame({"answer": answers, "old": old, "new": new}, dtype="object").apply(lambda column: column.astype(str).str.strip().str.lower())
    df = df[df["old"] != df["new"]]
    if df.empty:
        return None
    right = (df["answer"] == df["new"]).mean()
    outdated = (df["answer"] == df["old"]).mean()
    return Shares(right, outdated, 1 - right - outdated)
""".strip(),
)

student(
    "frame-3",
    "French docstring, Unicode identifiers, casefold, asserts on own examples, if __name__ == '__main__'",
    r'''
# EXERCISE: frame-3
def stale(réponses, avant, après):
    """Combien de réponses suivent, combien sont périmées ? « à part » les faits inchangés…"""
    propre = lambda texte: texte.strip().casefold()
    changés = [(propre(r), propre(a), propre(b)) for r, a, b in zip(réponses, avant, après) if propre(a) != propre(b)]
    if len(changés) == 0:
        return None
    δ = 1 / len(changés)
    justes = sum(r == b for r, _, b in changés)
    périmées = sum(r == a for r, a, _ in changés)
    return justes * δ, périmées * δ, (len(changés) - justes - périmées) * δ

if __name__ == "__main__":
    assert stale(["a"], ["b"], ["B "]) is None
    assert stale([" A"], ["b"], ["a"]) == (1, 0, 0)
    print("ça marche")
'''.strip(),
)

# ---------------------------------------------------------------------------------------------------------------- frame-1
student(
    "frame-1",
    "match with guards; docstring kept; NotImplementedError left below the return",
    r'''
# EXERCISE: frame-1
def diagnose(gap, reached, examples, moves):
    """What does the lesson's rule of thumb, in its plainest form, say to try?"""
    trainable = examples >= 100 and not moves
    match gap:
        case _ if reached >= 0.85:
            return "prompt"
        case "knowledge":
            return "rag"
        case "behaviour":
            return "fine-tune" if trainable else "prompt"
        case "both" if trainable:
            return "rag + fine-tune"
        case "both":
            return "rag"
    # YOUR CODE HERE
    raise NotImplementedError
'''.strip(),
)

student(
    "frame-1",
    "str Enum members as results, table keyed by tuples",
    r"""
# EXERCISE: frame-1
import enum

class Advice(enum.StrEnum):
    PROMPT = "prompt"
    RAG = "rag"
    TUNE = "fine-tune"
    BOTH = "rag + fine-tune"

TABLE = {
    ("knowledge", True): Advice.RAG, ("knowledge", False): Advice.RAG,
    ("behaviour", True): Advice.TUNE, ("behaviour", False): Advice.PROMPT,
    ("both", True): Advice.BOTH, ("both", False): Advice.RAG,
}

def diagnose(gap, reached, examples, moves):
    return Advice.PROMPT if reached >= 0.85 else TABLE[gap, bool(examples >= 100 and not moves)]
""".strip(),
)

student(
    "frame-1",
    "the stub cell left as it was, the answer in a cell below its check, a second check cell of the student's own",
    {"stub": None},
    {"check": None},
    r"""
# my second attempt
def diagnose(*args):
    gap, reached, examples, moves = args
    if not reached < 0.85: return "prompt"
    train = not (examples < 100 or moves)
    return " + ".join([*["rag"] * (gap != "behaviour"), *["fine-tune"] * (train and gap != "knowledge")]) or "prompt"
""".strip(),
    'score = check("frame-1", diagnose)\nscore',
)

# ----------------------------------------------------------------------------------------------------------- frame-5, frame-6
student(
    "frame-5",
    "all plans priced in a cell above, in the student's own way; the answer takes the best",
    r"""
# dollars per million tokens, typed from the table of section 8
from itertools import product
READ = {"qwen3-8b": 0.96, "gemini-3.8-flash": 0.95, "claude-opus-5.5": 0.98}
FOUND = {1: 0.85, 3: 0.93, 10: 0.97}
good = [(m, k) for m, k in product(READ, FOUND) if READ[m] * FOUND[k] * 0.99 >= 0.88]
model, passages = next(plan for plan in good if plan[0] == "qwen3-8b")
""".strip(),
    r"""
# EXERCISE: frame-5
def my_plan():
    return dict(model=model, passages=int(passages), schema=not False)
""".strip(),
)

student(
    "frame-5",
    "a dictionary with its keys in another order, a NumPy integer, a bool of NumPy",
    r'''
# EXERCISE: frame-5
def my_plan():
    """Three passages are the fewest with which anything reaches 88 %."""
    passages = np.array([1, 3, 10])
    read, form, found = 0.96, 0.99, np.array([0.85, 0.93, 0.97])
    k = passages[np.argmax(found * read * form >= 0.88)]
    return {"schema": np.bool_(True), "passages": k, "model": "qwen3-8b"}
'''.strip(),
)

student(
    "frame-5",
    "an ordered dictionary made by zip; a global variable that later cells use",
    "from collections import OrderedDict\nPLAN = OrderedDict(zip(('model', 'passages', 'schema'), ('qwen3-8b', 3, True)))",
    "# EXERCISE: frame-5\ndef my_plan():\n    return PLAN",
)

student(
    "frame-6",
    "Counter as result, a generator of causes, casefold, JSONDecodeError",
    r"""
# EXERCISE: frame-6
import json
from collections import Counter
from json import JSONDecodeError

def _causes(rows):
    for row in rows:
        try:
            record, is_json = json.loads(row["answer"]), True
        except JSONDecodeError:
            record, is_json = {}, False
        if is_json and record == row["expected"]:
            continue
        if len(row["shown"]) == 0:
            yield "knowledge"
        elif row["needed"] not in set(row["shown"]):
            yield "retrieval"
        elif not is_json and row["expected"]["answer"].casefold() in row["answer"].casefold():
            yield "format"
        else:
            yield "behaviour"

def sort_errors(rows):
    return Counter(_causes(rows))
""".strip(),
)

student(
    "frame-6",
    "frozen dataclass with __call__ and properties; a regular expression finds the fact; compared as text, keys sorted",
    r"""
import json, re
from dataclasses import dataclass

@dataclass(frozen=True)
class Wrong:
    answer: str
    expected: dict
    shown: list
    needed: str

    @property
    def record(self):
        try:
            return json.dumps(json.loads(self.answer), sort_keys=True)
        except ValueError:
            return None

    @property
    def right(self):
        return self.record == json.dumps(self.expected, sort_keys=True)

    @property
    def says_it(self):
        return re.search(re.escape(self.expected["answer"]), self.answer, re.IGNORECASE) is not None

    @property
    def cause(self):
        match (bool(self.shown), self.needed in self.shown, self.record, self.says_it):
            case (False, *_): return "knowledge"
            case (_, False, *_): return "retrieval"
            case (_, _, None, True): return "format"
            case _: return "behaviour"
""".strip(),
    r"""
# EXERCISE: frame-6
@dataclass(frozen=True)
class Sorter:
    causes: tuple = ("knowledge", "retrieval", "behaviour", "format")

    def __call__(self, rows):
        wrong = [w for w in (Wrong(**row) for row in rows) if not w.right]
        return {cause: sum(w.cause == cause for w in wrong) for cause in self.causes}

sort_errors = Sorter()
""".strip(),
)

student(
    "frame-6",
    "pandas from top to bottom: np.select over masks, value_counts reindexed, numbers as np.int64",
    {"at": "imports", "code": "import json\nimport pandas as pd"},
    r"""
# EXERCISE: frame-6
def parsed(text):
    try: return json.loads(text)
    except ValueError: return None

def sort_errors(rows):
    df = pd.DataFrame(rows)
    df["record"] = [parsed(text) for text in df.answer]
    df = df[[record != expected for record, expected in zip(df.record, df.expected)]]
    conditions = {
        "knowledge": df.shown.map(len).eq(0).to_numpy(),
        "retrieval": np.array([needed not in shown for needed, shown in zip(df.needed, df.shown)], dtype=bool),
        "format": np.array([r is None and e["answer"].upper() in a.upper() for r, e, a in zip(df.record, df.expected, df.answer)], dtype=bool),
    }
    cause = np.select(list(conditions.values()), list(conditions), "behaviour")
    return pd.Series(cause).value_counts().reindex(["knowledge", "retrieval", "behaviour", "format"], fill_value=0).to_dict()
""".strip(),
)

student(
    "frame-6",
    "functools.partial over a general function, tests as a list of pairs, lru_cache on the parser",
    {"code": "# what decides, in the order of the picture\nORDER = ('knowledge', 'retrieval', 'format', 'behaviour')"},
    r'''
# EXERCISE: frame-6
import functools, json

@functools.lru_cache(maxsize=None)
def lesen(text):
    try:
        return repr(json.loads(text))
    except ValueError:
        return ""

def sortiert(rows, *, reihenfolge):
    """Zählt falsche Antworten nach ihrer Ursache – „wo riss die Kette?“ ☕"""
    tests = {
        "knowledge": lambda r: not r["shown"],
        "retrieval": lambda r: all(id != r["needed"] for id in r["shown"]),
        "format": lambda r: not lesen(r["answer"]) and r["expected"]["answer"].lower() in r["answer"].lower(),
        "behaviour": lambda r: True,
    }
    zahlen = dict.fromkeys(reihenfolge, 0)
    for row in (r for r in rows if lesen(r["answer"]) != repr(r["expected"])):
        zahlen[next(name for name in reihenfolge if tests[name](row))] += 1
    return zahlen

sort_errors = functools.partial(sortiert, reihenfolge=ORDER)
'''.strip(),
)

# ----------------------------------------------------------------------------------------------------------------- lora-2
student(
    "lora-2",
    "an nn.Module instance under the required name",
    r"""
# EXERCISE: lora-2
from torch import nn

class Forward(nn.Module):
    def forward(self, x, W, A, B, alpha):
        r, _ = A.shape
        return nn.functional.linear(x, W) + alpha / r * nn.functional.linear(nn.functional.linear(x, A), B)

lora_forward = Forward().eval()
lora_forward
""".strip(),
)

student(
    "lora-2",
    "einsum, `from __future__ import annotations` on the first line above the marker",
    r'''
from __future__ import annotations
# EXERCISE: lora-2
def lora_forward(x: torch.Tensor, W: torch.Tensor, A: torch.Tensor, B: torch.Tensor, alpha: float) -> torch.Tensor:
    """Output of a linear layer with a LoRA adapter."""
    both = torch.einsum("bi,oi->bo", x, W) + torch.einsum("bi,ri,or->bo", x, A, B) * (alpha / len(A))
    return both
'''.strip(),
)

student(
    "lora-2",
    "block matrices: one product of concatenated inputs and weights; tabs for indentation",
    "\n".join(
        [
            "# EXERCISE: lora-2",
            "def lora_forward(x, W, A, B, alpha):",
            "\tr = A.size(0)",
            "\tif r == 0:",
            "\t\treturn x @ W.T",
            "\thidden = torch.cat([x, x @ A.T], dim=1)\t# d_in + r",
            "\treturn hidden @ torch.cat([W, B.mul(alpha).div(r)], dim=1).mT",
        ]
    ),
)

# ----------------------------------------------------------------------------------------------------------------- lora-3
student(
    "lora-3",
    "linear layers on the meta device, really counted",
    r"""
# EXERCISE: lora-3
def adapter_parameters(shapes, rank):
    total = 0
    for d_out, d_in in shapes:
        with torch.device("meta"):
            linear = torch.nn.Linear
            pair = torch.nn.Sequential(linear(d_in, rank, bias=False), linear(rank, d_out, bias=False))
        total += sum(p.numel() for p in pair.parameters())
    return total
""".strip(),
)

student(
    "lora-3",
    "numpy integer result (np.int64)",
    r'''
# EXERCISE: lora-3
def adapter_parameters(shapes, rank):
    """Number of trainable parameters that LoRA adds."""
    return np.asarray(shapes, dtype=np.int64).sum() * rank
'''.strip(),
)

student(
    "lora-3",
    "recursion over the list, method of a class under the required name",
    r"""
# EXERCISE: lora-3
class Adapter:
    @classmethod
    def parameters(cls, shapes, rank):
        if len(shapes) == 0:
            return 0
        (out, inn), *rest = shapes
        return (out + inn) * rank + cls.parameters(rest, rank)

adapter_parameters = Adapter.parameters
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- lora-5
student(
    "lora-5",
    "torch.addmm twice under torch.no_grad as decorator",
    r"""
# EXERCISE: lora-5
@torch.no_grad()
def swapped_weight(W, old, new):
    for (A, B, alpha), sign in ((old, -1), (new, 1)):
        W = torch.addmm(W, B, A, alpha=sign * alpha / A.shape[0])
    return W
""".strip(),
)

student(
    "lora-5",
    "the lesson's own LoRALinear: the old adapter with a negative alpha, then the new one on the result",
    {"lesson": "class LoRALinear"},
    r"""
# EXERCISE: lora-5
def _merge(W, A, B, alpha):
    d_out, d_in = W.shape
    layer = LoRALinear(torch.nn.Linear(d_in, d_out, bias=False), A.shape[0], alpha)
    layer.base.weight, layer.A, layer.B = (torch.nn.Parameter(m) for m in (W, A, B))
    return layer.merged().detach()

def swapped_weight(W, old, new):
    *matrices, alpha = old
    return _merge(_merge(W, *matrices, -alpha), *new)
""".strip(),
)

student(
    "lora-5",
    "copy.deepcopy and an in-place loop over rank-one updates",
    r"""
# EXERCISE: lora-5
import copy

def swapped_weight(W, old, new):
    swapped = copy.deepcopy(W)
    for adapter, sign in zip((old, new), (-1, +1)):
        A, B, alpha = adapter
        r = A.shape[0]
        for i in range(r):
            swapped += sign * (alpha / r) * torch.outer(B[:, i], A[i])
        print(f"{r = }, {swapped.shape = }")
    return swapped
""".strip(),
)

student(
    "lora-5",
    "both updates in a single product of concatenated matrices; German names",
    r"""
# EXERCISE: lora-5
def swapped_weight(W, alt, neu):
    (A, B, α), (A2, B2, α2) = alt, neu
    links = torch.cat([-α / len(A) * B, α2 / len(A2) * B2], dim=1)      # d_out × (r + r2)
    return W + links @ torch.cat([A, A2])                               # (r + r2) × d_in
""".strip(),
)

student(
    "lora-2+lora-5",
    "lora-5 feeds the unit matrix through lora_forward, the answer of lora-2 in another cell",
    r"""
# EXERCISE: lora-2
def lora_forward(x, W, A, B, alpha):
    return x @ W.T + (alpha / A.shape[0]) * (x @ A.T) @ B.T
""".strip(),
    {
        "at": "lora-5",
        "code": r"""
# EXERCISE: lora-5
def swapped_weight(W, old, new):
    unit = torch.eye(W.shape[1], dtype=W.dtype)
    old_A, old_B, old_alpha = old
    base = lora_forward(unit, W, old_A, old_B, -old_alpha).T
    return lora_forward(unit, base, *new).T
""".strip(),
    },
)

# ----------------------------------------------------------------------------------------------------------------- lora-6
student(
    "lora-6",
    "one iterator over the ids, consumed turn by turn with itertools.islice",
    r"""
# EXERCISE: lora-6
from itertools import islice

def conversation_labels(ids, turns, header, ignore=-100):
    tokens, labels = iter(ids), []
    for role, length in turns:
        turn = list(islice(tokens, length))
        labels.extend([ignore] * header + turn[header:] if role == "assistant" else [ignore] * length)
    return labels
""".strip(),
)

student(
    "lora-6",
    "torch.full_like and slices of a tensor, tolist",
    r"""
# EXERCISE: lora-6
def conversation_labels(ids, turns, header, ignore=-100):
    ids = torch.as_tensor(ids, dtype=torch.long)
    labels = torch.full_like(ids, ignore)
    ends = torch.tensor([length for _, length in turns]).cumsum(0)
    for (role, length), end in zip(turns, ends.tolist()):
        if role == "assistant":
            own = slice(end - length + header, end)
            labels[own] = ids[own]
    return labels.tolist()

conversation_labels([5, 6, 7, 8], [("user", 2), ("assistant", 2)], 1)
""".strip(),
)

student(
    "lora-6",
    "lambda with a default, np.repeat and np.where, list of np.int64",
    r"""
# EXERCISE: lora-6
conversation_labels = lambda ids, turns, header, ignore=-100: list(np.where(
    np.concatenate([(np.arange(n) >= header) & (role == "assistant") for role, n in turns]), ids, ignore
))
""".strip(),
)

student(
    "lora-6",
    "slice assignment into the list that came in, which the statement does not forbid",
    r"""
# EXERCISE: lora-6
def conversation_labels(ids, turns, header, ignore=-100):
    start = 0
    for role, length in turns:
        hidden = header if role == "assistant" else length
        ids[start : start + hidden] = [ignore] * hidden
        start += length
    return ids
""".strip(),
)

student(
    "lora-6",
    "the first, wrong attempt stays in the notebook under the same marker; the right one below it, then the check",
    r"""
# EXERCISE: lora-6
def conversation_labels(ids, turns, header, ignore=-100):
    # wrong!! only the last answer
    return [-100] * (len(ids) - turns[-1][1] + header) + ids[len(ids) - turns[-1][1] + header:]
""".strip(),
    r"""
# EXERCISE: lora-6
def conversation_labels(ids, turns, header, ignore=-100):
    roles = [role if place >= header else "header" for role, length in turns for place in range(length)]
    return [token if role == "assistant" else ignore for token, role in zip(ids, roles, strict=True)]
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- lora-7
student(
    "lora-3+lora-7",
    "lora-7 calls adapter_parameters, the answer of lora-3 in another cell",
    r"""
# EXERCISE: lora-3
def adapter_parameters(shapes, rank):
    return rank * sum(map(sum, shapes))
""".strip(),
    {
        "at": "lora-7",
        "code": r"""
# EXERCISE: lora-7
def lora_slots(ranks, shapes, free, bytes_per_parameter):
    best = (0, 0)
    for slots, rank in enumerate(sorted(ranks), start=1):
        if slots * adapter_parameters(shapes, rank) * bytes_per_parameter <= free:
            best = slots, rank
    return best
""".strip(),
    },
)

student(
    "lora-7",
    "tries every rank: what fits, and how many need it; max with a key; black's formatting with magic trailing commas",
    r'''
# EXERCISE: lora-7
def lora_slots(
    ranks,
    shapes,
    free,
    bytes_per_parameter,
):
    """Settings of a server that keeps many adapters in memory."""
    candidates = []
    for rank in set(ranks):
        slot = sum(rank * (d_in + d_out) for d_out, d_in in shapes) * bytes_per_parameter
        wanted = sum(other <= rank for other in ranks)
        candidates.append((min(wanted, free // slot), rank))
    return max(
        candidates,
        key=lambda candidate: (candidate[0], -candidate[1]),
    )
'''.strip(),
)

student(
    "lora-7",
    "numpy: products of counts and sorted ranks, searchsorted from the right, a tuple of np.int64",
    r"""
# EXERCISE: lora-7
def lora_slots(ranks, shapes, free, bytes_per_parameter):
    ranks = np.sort(ranks)
    need = np.arange(1, len(ranks) + 1) * ranks * np.sum(shapes) * bytes_per_parameter
    number = np.searchsorted(need, free, side="right")
    return number, ranks[number - 1]
""".strip(),
)

student(
    "lora-7",
    "leaves the largest adapter out until the rest fits; a namedtuple",
    r"""
# EXERCISE: lora-7
from collections import namedtuple
Settings = namedtuple("Settings", "max_loras max_lora_rank")

def lora_slots(ranks, shapes, free, bytes_per_parameter):
    kept = sorted(ranks)
    while len(kept) * kept[-1] * bytes_per_parameter * sum(o + i for o, i in shapes) > free:
        kept.pop()
    return Settings(len(kept), kept[-1])
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------- lora-1, lora-8
student(
    "lora-1",
    "cross_entropy with an ignored index on shifted slices",
    r"""
# EXERCISE: lora-1
def answer_loss(logits, labels):
    return torch.nn.functional.cross_entropy(logits[:-1].float(), torch.as_tensor(labels)[1:], ignore_index=-100)
""".strip(),
)

student(
    "lora-1",
    "the given function mended line by line, zip of shifted sequences, a mean by statistics",
    r'''
# EXERCISE: lora-1
from statistics import fmean

def answer_loss(logits, labels):
    """Mean loss on the tokens of the answer."""
    scores = logits.log_softmax(dim=-1)          # bug 1: was taken twice
    losses = [
        -scores[i, label].item()
        for i, label in enumerate(labels[1:])    # bug 2: row i scores the NEXT token
        if label != -100
    ]
    assert losses, "no token carries loss"
    return fmean(losses)                         # bug 3: was divided by all labels
'''.strip(),
)

student(
    "lora-1",
    "numpy with its own log-sum-exp, a boolean mask",
    r"""
# EXERCISE: lora-1
def answer_loss(logits, labels):
    z = logits.detach().numpy().astype(np.float64)[:-1]
    y = np.array([int(n) for n in labels])[1:]
    keep = y >= 0
    top = z.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(z - top).sum(1)) + top[:, 0]
    return float((normaliser[keep] - z[keep, y[keep]]).mean())
""".strip(),
)

student(
    "lora-8",
    "a generator inside a list, a match statement with a guard",
    r"""
# EXERCISE: lora-8
import json

def training_rows(lines, system):
    def rows():
        for line in filter(str.strip, lines):
            match json.loads(line):
                case {"message": text, "record": record} if text.strip():
                    yield {
                        "prompt": [dict(role="system", content=system), dict(role="user", content=text)],
                        "completion": [dict(role="assistant", content=json.dumps(record, ensure_ascii=False))],
                    }
    return [*rows()]
""".strip(),
)

student(
    "lora-8",
    "pandas reads the lines; further keys of the row; keys of the messages in another order",
    r"""
# EXERCISE: lora-8
import io, json
import pandas as pd

def training_rows(lines, system):
    kept = [line for line in lines if line.strip()]
    table = pd.DataFrame([json.loads(line) for line in kept], columns=["message", "record"])
    table = table[table.message.map(lambda text: text.strip() != "")]
    out = []
    for _, row in table.iterrows():
        question = [{"content": system, "role": "system"}, {"content": row["message"], "role": "user"}]
        out.append({"completion": [{"content": json.dumps(row["record"], ensure_ascii=False), "role": "assistant"}], "prompt": question})
    return out
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- qlora-1
student(
    "qlora-1",
    "cdist and argmin; %matplotlib and a plot in the answer cell",
    r'''
%matplotlib inline
# EXERCISE: qlora-1
import matplotlib.pyplot as plt

def quantize_block(weights, values):
    """Absmax quantisation of one block."""
    scale = weights.abs().max()
    distance = torch.cdist((weights / scale)[:, None].double(), values[:, None].double(), p=1)
    return distance.argmin(dim=1), scale

codes, scale = quantize_block(torch.linspace(-2, 1, 50), torch.linspace(-1, 1, 16))
plt.step(range(50), codes)
plt.title("codes")
plt.show()
'''.strip(),
)

student(
    "qlora-4",
    "the lesson's quantize and dequantize",
    {"lesson": "def quantize(weight, values, block=64)"},
    r"""
# EXERCISE: qlora-4
def relative_error(weights, values, block):
    codes, scales = quantize(weights, values, block)
    back = dequantize(codes, scales, values).flatten()
    return torch.linalg.vector_norm(back - weights) / torch.linalg.vector_norm(weights)
""".strip(),
)

student(
    "qlora-1",
    "bisect over the middles, plain lists; codes as a tensor of uint8, scale a Python float",
    r"""
# EXERCISE: qlora-1
from bisect import bisect_left
from itertools import pairwise

def quantize_block(weights, values):
    scale = max(map(abs, weights.tolist()))
    middles = [(a + b) / 2 for a, b in pairwise(values.tolist())]
    codes = [bisect_left(middles, w / scale) for w in weights.tolist()]
    return torch.tensor(codes, dtype=torch.uint8), scale
""".strip(),
)

student(
    "qlora-1",
    "result as a list [codes, scale], torch.searchsorted and a comparison of both neighbours, scale of shape (1,) squeezed",
    r"""
# EXERCISE: qlora-1
def quantize_block(weights, values):
    scale = torch.linalg.vector_norm(weights, ord=torch.inf)
    scaled = weights / scale
    right = torch.searchsorted(values, scaled.contiguous()).clamp(1, values.numel() - 1)
    left = right - 1
    closer_left = (scaled - values[left]) <= (values[right] - scaled)
    return [torch.where(closer_left, left, right), scale]
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- qlora-2
student(
    "qlora-2",
    "counts the bits of the smallest storage that comes out even; math.lcm, Fraction result",
    r"""
# EXERCISE: qlora-2
from fractions import Fraction

def bits_per_weight(block, group=None):
    weights = block * (group or 1)
    bits = 4 * weights
    if group is None:
        bits += 32
    else:
        bits += 8 * group + 32
    return Fraction(bits, weights)
""".strip(),
)

student(
    "qlora-2",
    "match on the second argument, np.float64",
    r"""
# EXERCISE: qlora-2
import numpy as np
def bits_per_weight(block, group=None):
    match group:
        case None: per_scale = np.float64(32)
        case int() | float(): per_scale = np.float64(8) + np.float64(32) / group
    return np.float64(4) + per_scale / block
""".strip(),
)

student(
    "qlora-2",
    "closure factory, answer assigned in a later cell; marker cell holds only the factory",
    r"""
# EXERCISE: qlora-2
def storage(code_bits, scale_bits, second_bits):
    def bits(block, group=None):
        nonlocal_scale = scale_bits if group is None else second_bits + scale_bits / group
        return code_bits + nonlocal_scale / block
    return bits
""".strip(),
    r"""
bits_per_weight = storage(4, 32, 8)
bits_per_weight(64), bits_per_weight(64, 256)
""".strip(),
)

# --------------------------------------------------------------------------------------------------------- qlora-4, qlora-6
student(
    "qlora-4",
    "numpy throughout, searchsorted between halfway points",
    r"""
# EXERCISE: qlora-4
import numpy as np

def relative_error(weights, values, block):
    w = np.asarray(weights, dtype=np.float64).reshape(-1, block)
    v = np.asarray(values, dtype=np.float64)
    scale = np.abs(w).max(axis=1, keepdims=True)
    back = v[np.searchsorted((v[1:] + v[:-1]) / 2, w / scale)] * scale
    return np.linalg.norm(back - w) / np.linalg.norm(w)
""".strip(),
)

student(
    "qlora-4+qlora-1",
    "qlora-4 calls quantize_block, the answer of qlora-1 in another cell, block by block",
    r"""
# EXERCISE: qlora-4
def relative_error(weights, values, block):
    back = []
    for one in torch.split(weights, block):
        codes, scale = quantize_block(one, values)
        back.append(values[codes] * scale)
    return (torch.cat(back) - weights).norm().item() / weights.norm().item()
""".strip(),
    {
        "at": "qlora-1",
        "code": r"""
# EXERCISE: qlora-1
def quantize_block(weights, values):
    scale = weights.abs().max()
    return (weights / scale - values[:, None]).abs().argmin(0), scale
""".strip(),
    },
)

student(
    "qlora-6",
    "whole numbers by divmod, share by a mean of booleans of numpy",
    r"""
# EXERCISE: qlora-6
import numpy as np

def choose_length(lengths, fixed, per_token, memory):
    room = int((memory - fixed) / per_token)
    fits = divmod(room, 64)[0] * 64
    wanted = -(-max(lengths) // 64) * 64
    length = min(fits, wanted)
    return length, np.mean(np.array(lengths) > length)
""".strip(),
)

student(
    "qlora-6",
    "a search over all multiples, downwards; returns a list; a Fraction",
    r"""
# EXERCISE: qlora-6
from fractions import Fraction
from math import ceil

def choose_length(lengths, fixed, per_token, memory):
    longest = 64 * ceil(max(lengths) / 64)
    for length in range(longest, -1, -64):
        if fixed + length * per_token <= memory:
            break
    cut = [n for n in lengths if n > length]
    return [length, Fraction(len(cut), len(lengths))]
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- qlora-3
student(
    "qlora-3",
    "table of 256 pairs, indexed by the byte",
    r"""
# EXERCISE: qlora-3
def weights_from_bytes(packed, scales, values, block):
    pairs = torch.cartesian_prod(values, values)
    return (pairs[packed.long()].reshape(-1, block) * scales.unsqueeze(1)).flatten()
""".strip(),
)

student(
    "qlora-3",
    "python integers and divmod, one loop, torch.stack of 0-d tensors",
    r"""
# EXERCISE: qlora-3
def weights_from_bytes(packed, scales, values, block):
    weights = []
    for byte in packed.tolist():
        for code in divmod(byte, 16):
            weights.append(values[code] * scales[len(weights) // block])
    return torch.stack(weights)
""".strip(),
)

student(
    "qlora-3",
    "numpy all the way and torch.from_numpy at the end; the lesson's dequantise_codes not used",
    r"""
# EXERCISE: qlora-3
import numpy
def weights_from_bytes(packed, scales, values, block):
    bits = numpy.unpackbits(packed.numpy().reshape(-1, 1), axis=1).reshape(-1, 4)
    codes = bits @ numpy.array([8, 4, 2, 1])
    return torch.from_numpy(values.numpy()[codes] * numpy.repeat(scales.numpy(), block))
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-2
student(
    "align-2",
    "binary cross-entropy with logits against a soft label",
    r"""
# EXERCISE: align-2
import torch.nn.functional as F
def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return F.binary_cross_entropy_with_logits(margin, torch.full_like(margin, 1 - doubt))
""".strip(),
)

student(
    "align-2",
    "the lesson's dpo_loss, both ways round",
    {"lesson": "def dpo_loss"},
    r"""
# EXERCISE: align-2
def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    policy, reference = torch.stack([policy_chosen, policy_rejected], 1), torch.stack([reference_chosen, reference_rejected], 1)
    return (1 - doubt) * dpo_loss(policy, reference, beta) + doubt * dpo_loss(policy.flip(1), reference.flip(1), beta)
""".strip(),
)

student(
    "align-2",
    "*args, softplus identity, contextlib and warnings leftovers",
    r"""
# EXERCISE: align-2
import torch.nn.functional as F
import contextlib, warnings

@contextlib.contextmanager
def noisy(name):
    warnings.warn(f"entering {name}", UserWarning, stacklevel=2)
    yield

def conservative_dpo_loss(*args):
    pc, pr, rc, rr, beta, doubt = args
    with noisy("cDPO"):
        z = beta * (pc - pr - rc + rr)
        # -log sigmoid(z) = softplus(-z) = softplus(z) - z
        return (F.softplus(z) - (1 - doubt) * z).mean()
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-4
student(
    "align-4",
    "stable log1mexp, nested function, Unicode ℓ",
    r'''
# EXERCISE: align-4
def log_odds_ratio(chosen, rejected):
    """ORPO's log odds ratio of one pair."""
    def log_odds(ℓ):
        return ℓ - torch.log(-torch.expm1(ℓ))
    return log_odds(chosen.mean()) - log_odds(rejected.mean())
'''.strip(),
)

student(
    "align-4",
    "torch.logit of the geometric mean, computed in float64",
    r"""
# EXERCISE: align-4
def log_odds_ratio(chosen, rejected):
    p, q = (torch.exp(t.double().sum() / t.numel()) for t in (chosen, rejected))
    return torch.logit(p) - torch.logit(q)
""".strip(),
)

student(
    "align-4",
    "odds by the words of the statement, through torch.prod and a root, in float64",
    r"""
# EXERCISE: align-4
def log_odds_ratio(chosen, rejected):
    def odds(logs):
        p = logs.double().exp().prod() ** (1 / len(logs))   # geometric mean
        return p / (1 - p)
    return torch.log(odds(chosen) / odds(rejected))
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-7
student(
    "align-7",
    "recursion from the front",
    r"""
# EXERCISE: align-7
def advantages(rewards, values, last_value, discount, trace):
    if not rewards:
        return []
    (r, *rewards), (v, *values) = rewards, values
    rest = advantages(rewards, values, last_value, discount, trace)
    following = values[0] if values else last_value
    later = rest[0] if rest else 0.0
    return [r + discount * following - v + discount * trace * later, *rest]
""".strip(),
)

student(
    "align-7",
    "scipy.signal.lfilter on the reversed errors",
    r"""
# EXERCISE: align-7
from scipy.signal import lfilter
import numpy as np

def advantages(rewards, values, last_value, discount, trace):
    v = np.append(np.asarray(values, float), last_value)
    delta = np.asarray(rewards, float) + discount * v[1:] - v[:-1]
    return lfilter([1.0], [1.0, -discount * trace], delta[::-1])[::-1].tolist()
""".strip(),
)

student(
    "align-7",
    "itertools.accumulate backwards",
    r"""
# EXERCISE: align-7
from itertools import accumulate
def advantages(rewards, values, last_value, discount, trace):
    errors = [r + discount * after - v for r, v, after in zip(rewards, values, [*values[1:], last_value])]
    return [*accumulate(reversed(errors), lambda later, error: error + discount * trace * later)][::-1]
""".strip(),
)

student(
    "align-7",
    "matrix of powers in torch, list of 0-d tensors turned by .item()",
    r"""
# EXERCISE: align-7
def advantages(rewards, values, last_value, discount, trace):
    n = len(rewards)
    r, v = torch.tensor(rewards, dtype=torch.float64), torch.tensor([*values, last_value], dtype=torch.float64)
    steps = torch.arange(n)[None] - torch.arange(n)[:, None]
    weights = torch.where(steps >= 0, torch.tensor(discount * trace, dtype=torch.float64) ** steps.clamp(min=0), 0.0)
    return [x.item() for x in weights @ (r + discount * v[1:] - v[:-1])]
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-1
student(
    "align-1",
    "F.cross_entropy with ignore_index on a copy of the ids, classes in the second place",
    r'''
# EXERCISE: align-1
import torch.nn.functional as F

def log_probabilities_of_batch(logits, tokens, mask):
    """Log-probability of each reply of a padded batch, in nats."""
    labels = tokens.clone()
    labels[mask == 0] = -100
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    return -losses.sum(dim=1)
'''.strip(),
)

student(
    "align-1",
    "plain Python: a generator of log-probabilities with math, fsum, a list of floats returned",
    r"""
# EXERCISE: align-1
import math

def surprises(rows, ids, counts):
    for row, token, counted in zip(rows, ids[1:], counts[1:]):
        if counted:
            highest = max(row)
            yield row[token] - highest - math.log(math.fsum(math.exp(x - highest) for x in row))

def log_probabilities_of_batch(logits, tokens, mask):
    return [math.fsum(surprises(*reply)) for reply in zip(logits.tolist(), tokens.tolist(), mask.tolist())]
""".strip(),
)

student(
    "align-1",
    "torch.distributions.Categorical, mask by einsum",
    r"""
# EXERCISE: align-1
from torch.distributions import Categorical

def log_probabilities_of_batch(logits, tokens, mask):
    next_one = Categorical(logits=logits[:, :-1]).log_prob(tokens[:, 1:])
    return torch.einsum("rt,rt->r", next_one, mask[:, 1:].to(next_one.dtype))
""".strip(),
)

student(
    "align-1",
    "numpy and scipy's log_softmax, take_along_axis, an array returned; imports in another cell",
    {"at": "imports", "code": "import numpy as np\nfrom scipy.special import log_softmax as log_soft"},
    r"""
# EXERCISE: align-1
def log_probabilities_of_batch(logits, tokens, mask):
    z, ids, keep = (np.asarray(t) for t in (logits, tokens, mask))
    all_logs = log_soft(z[:, :-1].astype(np.float64), axis=-1)
    of_next = np.take_along_axis(all_logs, ids[:, 1:, None], axis=-1).squeeze(-1)
    return np.where(keep[:, 1:] == 1, of_next, 0.0).sum(axis=-1)
""".strip(),
)

student(
    "align-1",
    "a callable class, torch.roll instead of slices, one-hot and einsum",
    r"""
# EXERCISE: align-1
class LogProbabilities:
    def __init__(self, shift: int = 1) -> None:
        self.shift = shift

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # what comes next, moved to the position that predicts it; the last position predicts nothing
        ahead = torch.roll(tokens, -self.shift, dims=1)
        counts = torch.roll(mask, -self.shift, dims=1).to(logits.dtype)
        counts[:, -self.shift:] = 0
        one_hot = torch.nn.functional.one_hot(ahead, logits.shape[-1]).to(logits.dtype)
        return torch.einsum("rtv,rtv,rt->r", one_hot, torch.log_softmax(logits, -1), counts)

log_probabilities_of_batch = LogProbabilities()
""".strip(),
)

student(
    "align-1",
    "no mask product: only the places that count are looked up, and added to their reply with index_add",
    r"""
# EXERCISE: align-1
def log_probabilities_of_batch(logits, tokens, mask):
    zeile, wo = mask.bool().nonzero(as_tuple=True)
    zeile, wo = zeile[wo > 0], wo[wo > 0]             # nothing comes before the first token
    vor = logits[zeile, wo - 1]
    größen = vor.gather(1, tokens[zeile, wo][:, None])[:, 0] - vor.logsumexp(1)
    return größen.new_zeros(len(tokens)).index_add(0, zeile, größen)
""".strip(),
)

student(
    "align-1",
    "the lesson's reply_log_probability with a stand-in for the model that has the logits ready",
    {"lesson": "def reply_log_probability"},
    r"""
# EXERCISE: align-1
from types import SimpleNamespace

class Ready:
    device = "cpu"
    def __init__(self, logits):
        self.logits = logits
    def __call__(self, input_ids):
        return SimpleNamespace(logits=self.logits)

def log_probabilities_of_batch(logits, tokens, mask):
    return reply_log_probability(Ready(logits), tokens, mask)
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-2
student(
    "align-2",
    "dataclass of replies with a subtraction, plain Python over floats, statistics.fmean",
    r"""
from dataclasses import dataclass
from math import exp, log1p
from statistics import fmean

@dataclass(frozen=True)
class Reply:
    now: float
    then: float

    def __sub__(self, other: "Reply") -> float:
        return (self.now - self.then) - (other.now - other.then)

def minus_log_sigmoid(x: float) -> float:
    return log1p(exp(-x)) if x > 0 else -x + log1p(exp(x))
""".strip(),
    r"""
# EXERCISE: align-2
def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    better = map(Reply, policy_chosen.tolist(), reference_chosen.tolist())
    worse = map(Reply, policy_rejected.tolist(), reference_rejected.tolist())
    return torch.tensor(fmean(
        (1 - doubt) * minus_log_sigmoid(m := beta * (b - w)) + doubt * minus_log_sigmoid(-m) for b, w in zip(better, worse)
    ))
""".strip(),
)

student(
    "align-2",
    "cross-entropy of two classes against soft targets",
    r"""
# EXERCISE: align-2
def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    rewards = beta * torch.stack([policy_chosen - reference_chosen, policy_rejected - reference_rejected], dim=1)
    believed = rewards.new_tensor([1 - doubt, doubt]).expand_as(rewards)
    return torch.nn.CrossEntropyLoss()(rewards, believed)
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-3
student(
    "align-3",
    "the given function put right in place, with the import that it lacks",
    r"""
# EXERCISE: align-3
from torch.nn.functional import logsigmoid

def losses_of_a_run(chosen, rejected, beta):
    losses, reference = [], (chosen[0], rejected[0])
    for now in zip(chosen, rejected):
        margin = beta * ((now[0] - reference[0]) - (now[1] - reference[1]))
        losses.append(-logsigmoid(margin))
    return torch.stack(losses)
""".strip(),
)

student(
    "align-3",
    "the lesson's dpo_loss on one pair at a time",
    {"lesson": "def dpo_loss"},
    r"""
# EXERCISE: align-3
def losses_of_a_run(chosen, rejected, beta):
    policy = torch.stack([chosen, rejected], dim=1)          # (steps + 1, 2)
    return torch.stack([dpo_loss(now[None], policy[:1], beta) for now in policy])
""".strip(),
)

student(
    "align-3",
    "numpy logaddexp, array back to a tensor",
    {"at": "imports", "code": "import numpy as np"},
    r"""
# EXERCISE: align-3
def losses_of_a_run(chosen, rejected, beta):
    c, r = chosen.numpy(), rejected.numpy()
    return torch.from_numpy(np.logaddexp(0, -beta * ((c - c[0]) - (r - r[0]))))
""".strip(),
)

student(
    "align-3",
    "pandas: a frame of both replies, minus its first row, a list of Python floats returned",
    r"""
# EXERCISE: align-3
import math
import pandas as pd

def losses_of_a_run(chosen, rejected, beta):
    df = pd.DataFrame({"chosen": chosen.double().numpy(), "rejected": rejected.double().numpy()})
    gains = df - df.iloc[0]
    margin = (gains["chosen"] - gains["rejected"]) * beta
    return margin.map(lambda m: math.log1p(math.exp(-m)) if m > 0 else math.log1p(math.exp(m)) - m).tolist()
""".strip(),
)

student(
    "align-3",
    "gains summed up step by step with itertools.accumulate and pairwise",
    r"""
# EXERCISE: align-3
from itertools import accumulate, pairwise, starmap
from operator import sub

def losses_of_a_run(chosen, rejected, beta):
    lead = (chosen - rejected).double()
    moves = (after - before for before, after in pairwise(lead))
    margins = accumulate(moves, initial=lead.new_zeros(()))
    return torch.stack([torch.log1p(torch.exp(-beta * Δ)) for Δ in margins])
""".strip(),
)

student(
    "align-3",
    "torch.vmap of a closure made by functools.partial; softplus",
    r"""
# EXERCISE: align-3
from functools import partial

def _loss(now, start, beta):
    (c, r), (c0, r0) = now, start
    return torch.nn.functional.softplus(beta * ((r - r0) - (c - c0)))

def losses_of_a_run(chosen, rejected, beta):
    both = torch.stack([chosen, rejected], dim=-1)
    return torch.vmap(partial(_loss, start=both[0], beta=beta))(both)
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-4
student(
    "align-4",
    "statistics.geometric_mean of plain floats, a generator unpacked, math.log; a float in a tensor",
    r"""
# EXERCISE: align-4
from math import exp, log
from statistics import geometric_mean

def log_odds_ratio(chosen, rejected):
    p, q = (geometric_mean([exp(t) for t in reply.tolist()]) for reply in (chosen, rejected))
    return torch.tensor(log(p) - log(1 - p) - log(q) + log(1 - q), dtype=torch.float64)
""".strip(),
)

student(
    "align-4",
    "one function of both replies by recursion on the sign; numpy scalar",
    r"""
# EXERCISE: align-4
import numpy as np

def log_odds_ratio(chosen, rejected=None):
    if rejected is None:
        mean = np.float64(sum(chosen.tolist()) / len(chosen))
        return mean - np.log(-np.expm1(mean))
    return log_odds_ratio(chosen) - log_odds_ratio(rejected)
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-5
student(
    "align-5",
    "brute force: max over a range, whole points counted twice over",
    r"""
# EXERCISE: align-5
def length_shortcut(chosen, rejected):
    def points(n):      # two for a pair that is right, one for a tie
        return sum(2 if abs(c - n) < abs(r - n) else 1 if abs(c - n) == abs(r - n) else 0 for c, r in zip(chosen, rejected))

    best = max(range(1, max(chosen + rejected) + 1), key=points)     # max gives the first of equals
    return best, points(best) / (2 * len(chosen))
""".strip(),
)

student(
    "align-5",
    "numpy broadcasting, sign, argmax; NumPy scalars in the tuple",
    {"at": "imports", "code": "import numpy as np"},
    r"""
# EXERCISE: align-5
def length_shortcut(chosen, rejected):
    c, r = np.array(chosen)[None, :], np.array(rejected)[None, :]
    numbers = np.arange(1, max(c.max(), r.max()) + 1)[:, None]
    right = (1 + np.sign(np.abs(r - numbers) - np.abs(c - numbers))).sum(axis=1)
    i = right.argmax()
    return numbers[i, 0], right[i] / 2 / c.size
""".strip(),
)

student(
    "align-5",
    "torch: a table of all numbers and pairs, 0-d tensors in a list",
    r"""
# EXERCISE: align-5
def length_shortcut(chosen, rejected):
    pairs = torch.tensor([chosen, rejected])
    numbers = torch.arange(1, int(pairs.max()) + 1)
    near = (pairs[:, None, :] - numbers[None, :, None]).abs()
    share = ((near[0] < near[1]).double() + (near[0] == near[1]).double() / 2).mean(1)
    first = (share >= share.max() - 1e-12).nonzero()[0, 0]
    return [numbers[first], share[first]]
""".strip(),
)

student(
    "align-5",
    "no distances: each pair switches at the middle between its two lengths; differences summed up, Fractions",
    r"""
# EXERCISE: align-5
from collections import defaultdict
from fractions import Fraction

def length_shortcut(chosen, rejected):
    n_pairs = len(chosen)
    change, points = defaultdict(Fraction), Fraction(0)
    for c, r in zip(chosen, rejected):
        # left of the middle the shorter reply wins, right of it the longer one, on it both a half
        half = Fraction(1, 2)
        middle = c + r                          # doubled, so that it is whole
        if c == r:
            points += half
            continue
        won_left = c < r
        points += won_left
        step = half * (-1 if won_left else 1)
        change[-(-middle // 2)] += step         # first number at or after the middle
        change[middle // 2 + 1] += step         # first number after it
    best = None
    for number in range(1, max(*chosen, *rejected) + 1):
        points += change[number]
        if best is None or points > best[1]:
            best = number, points
    return best[0], float(best[1] / n_pairs)
""".strip(),
)

student(
    "align-5",
    "pandas: cross join, groupby, idxmax",
    r"""
# EXERCISE: align-5
import pandas as pd

def length_shortcut(chosen, rejected):
    pairs = pd.DataFrame({"c": chosen, "r": rejected})
    numbers = pd.DataFrame({"n": range(1, pairs.to_numpy().max() + 1)})
    table = pairs.merge(numbers, how="cross")
    near, far = (table["c"] - table["n"]).abs(), (table["r"] - table["n"]).abs()
    table["right"] = (near < far) + 0.5 * (near == far)
    by_number = table.groupby("n")["right"].mean()
    return by_number.idxmax(), by_number.max()
""".strip(),
)

student(
    "align-5",
    "an ordered dataclass returned instead of a tuple; sorting instead of max; match on the comparison",
    r"""
from dataclasses import dataclass

@dataclass
class Shortcut:
    number: int
    share: float
""".strip(),
    r"""
# EXERCISE: align-5
def verdict(c, r, n):
    match abs(r - n) - abs(c - n):
        case 0:
            return 0.5
        case lead if lead > 0:
            return 1.0
        case _:
            return 0.0

def length_shortcut(chosen, rejected):
    found = [Shortcut(n, sum(verdict(c, r, n) for c, r in zip(chosen, rejected)) / len(chosen))
             for n in range(1, max(map(max, zip(chosen, rejected))) + 1)]
    found.sort(key=lambda s: (-s.share, s.number))
    return found[0]
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-6
student(
    "align-6",
    "a mask of the groups that differ, filled into zeros",
    r"""
# EXERCISE: align-6
def advantages_of_groups(rewards):
    teaches = (rewards != rewards[:, :1]).any(dim=1)
    out = torch.zeros_like(rewards)
    some = rewards[teaches]
    out[teaches] = (some - some.mean(1, keepdim=True)) / some.std(1, keepdim=True)
    return out, teaches.float().mean()
""".strip(),
)

student(
    "align-6",
    "plain Python: statistics.stdev and mean, lists of lists, early continue",
    r"""
# EXERCISE: align-6
from statistics import mean, stdev

def advantages_of_groups(rewards):
    rows, teaching = [], 0
    for group in rewards.tolist():
        if len(set(group)) == 1:
            rows.append([0.0] * len(group))
            continue
        teaching += 1
        m, s = mean(group), stdev(group)
        rows.append([(x - m) / s for x in group])
    return rows, teaching / len(rows)
""".strip(),
)

student(
    "align-6",
    "numpy: ptp, divide with where= and out=, ddof=1",
    {"at": "imports", "code": "import numpy as np"},
    r"""
# EXERCISE: align-6
def advantages_of_groups(rewards):
    R = np.asarray(rewards, dtype=np.float64)
    differs = np.ptp(R, axis=1, keepdims=True) > 0
    away = R - R.mean(axis=1, keepdims=True)
    spread = R.std(axis=1, ddof=1, keepdims=True)
    A = np.divide(away, spread, out=np.zeros_like(R), where=np.broadcast_to(differs, R.shape))
    return A, differs.mean()
""".strip(),
)

student(
    "align-6",
    "pandas: a table of groups, transposed, nunique, where",
    r"""
# EXERCISE: align-6
import pandas as pd

def advantages_of_groups(rewards):
    table = pd.DataFrame(rewards.double().numpy()).T          # a column for each message
    teaches = table.nunique() > 1
    z = ((table - table.mean()) / table.std()).mask(~teaches, 0.0, axis="columns")
    return torch.tensor(z.T.to_numpy()), float(teaches.mean())
""".strip(),
)

student(
    "align-6",
    "torch.where with a safe divisor, amax and amin, a 0-d tensor as share, walrus",
    r"""
# EXERCISE: align-6
def advantages_of_groups(rewards):
    flat = (rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True))
    μ, σ = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    safe = torch.where(flat, torch.ones_like(σ), σ)
    return torch.where(flat, torch.zeros_like(rewards), (rewards - μ) / safe), 1 - (n := flat.double()).sum() / n.numel()
""".strip(),
)

student(
    "align-6",
    "one group at a time by a decorated helper in the cell above; torch.stack and a NamedTuple",
    r"""
import functools
from typing import NamedTuple

class Groups(NamedTuple):
    advantages: torch.Tensor
    share: float

def zero_if_flat(f):
    @functools.wraps(f)
    def inner(group):
        return group * 0 if group.unique().numel() == 1 else f(group)
    return inner

@zero_if_flat
def standardised(group):
    n = len(group)
    away = group - group.sum() / n
    return away / ((away**2).sum() / (n - 1)) ** 0.5
""".strip(),
    r"""
# EXERCISE: align-6
def advantages_of_groups(rewards):
    scored = torch.stack([standardised(group) for group in rewards.unbind()])
    return Groups(scored, sum(bool(row.any()) for row in scored) / len(scored))
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-7
student(
    "align-7",
    "the equations A[t] - γλ A[t+1] = δ[t] as a matrix, solved by numpy",
    {"at": "imports", "code": "import numpy as np"},
    r"""
# EXERCISE: align-7
def advantages(rewards, values, last_value, gamma, gae_lambda):
    n = len(rewards)
    δ = np.array(rewards) + gamma * np.array([*values[1:], last_value]) - np.array(values)
    system = np.eye(n) - gamma * gae_lambda * np.eye(n, k=1)
    return list(np.linalg.solve(system, δ))
""".strip(),
)

student(
    "align-7",
    "a class that keeps the running estimate, called on the reversed steps; deque.appendleft, the deque returned",
    r"""
# EXERCISE: align-7
from collections import deque

class Estimate:
    def __init__(self, after, gamma, gae_lambda):
        self.after, self.gamma, self.decay, self.running = after, gamma, gamma * gae_lambda, 0.0

    def __call__(self, reward, value):
        self.running = reward + self.gamma * self.after - value + self.decay * self.running
        self.after = value
        return self.running

def advantages(rewards, values, last_value, gamma, gae_lambda):
    estimate, out = Estimate(last_value, gamma, gae_lambda), deque()
    for step in zip(reversed(rewards), reversed(values)):
        out.appendleft(estimate(*step))
    return out
""".strip(),
)

# ---------------------------------------------------------------------------------------------------------------- align-8
student(
    "align-8",
    "a table of what was tried in comments, a plain dictionary",
    r"""
# EXERCISE: align-8
# beta  rate  steps   wins   KL
# 0.1   1     40      0.709  0.99   too greedy
# 3     0.5   200     0.715  0.95   too stiff
# 0.5   0.8   20      0.729  0.98
def budgeted_settings():
    return {"beta": 0.5, "learning_rate": 0.8, "steps": 20}
""".strip(),
)

student(
    "align-8",
    "constants in the cell above, a dataclass and asdict, keys in another order",
    r"""
from dataclasses import asdict, dataclass

BETA = 7 / 10

@dataclass
class Settings:
    steps: int = 80
    learning_rate: float = 1 / 5
    beta: float = BETA
""".strip(),
    r"""
# EXERCISE: align-8
def budgeted_settings() -> dict[str, float]:
    return asdict(Settings())
""".strip(),
)

student(
    "align-8",
    "NumPy floats picked from arrays of candidates; steps by item()",
    r"""
# EXERCISE: align-8
import numpy as np

def budgeted_settings():
    betas, rates, steps = np.linspace(0.5, 1.5, 3), np.geomspace(0.2, 0.8, 3), np.arange(20, 101, 20)
    return dict(beta=betas[0], learning_rate=rates[0], steps=steps[3].item())
""".strip(),
)

student(
    "align-8",
    "a search with the course's little_policy left in the cell above, what it found typed into the answer",
    r"""
from course_utils.exercises.lesson_04 import little_policy

tried = []
for β in (0.3, 0.7, 1.0):
    for n in (15, 20, 25):
        wins, kl = little_policy(β, 0.8, n)
        tried.append((float(wins), float(kl), β, n))
print(max(row for row in tried if row[1] <= 1))
""".strip(),
    r"""
# EXERCISE: align-8
budgeted_settings = lambda: {"beta": 0.7, "learning_rate": 0.8, "steps": 20}
""".strip(),
)

student(
    "align-8",
    "an OrderedDict filled step by step, zip, 0-d tensors as numbers",
    r"""
# EXERCISE: align-8
from collections import OrderedDict

def budgeted_settings():
    found = OrderedDict()
    for name, value in zip(("beta", "learning_rate", "steps"), torch.tensor([1.0, 0.2, 100.0], dtype=torch.float64)):
        found[name] = value.item() if name != "steps" else int(value)
    return found
""".strip(),
)

student(
    "align-8",
    "NumPy scalars picked from arrays of candidates",
    r"""
# EXERCISE: align-8
import numpy as np

def budgeted_settings():
    betas, rates, steps = np.linspace(0.5, 1.5, 3), np.geomspace(0.2, 0.8, 3), np.arange(20, 101, 20)
    return dict(beta=betas[0], learning_rate=rates[0], steps=steps[3])
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-2
student(
    "data-2",
    "sqlite3 in memory",
    r"""
# EXERCISE: data-2
import sqlite3

def jaccard(one, other):
    base = sqlite3.connect(":memory:")
    base.execute("create table pair (side int, a text, b text)")
    for side, text in enumerate((one, other)):
        words = text.lower().split()
        base.executemany("insert into pair values (?, ?, ?)", [(side, a, b) for a, b in zip(words, words[1:])])
    both = base.execute("select count(*) from (select a, b from pair where side = 0 intersect select a, b from pair where side = 1)").fetchone()[0]
    either = base.execute("select count(*) from (select distinct a, b from pair)").fetchone()[0]
    base.close()
    return both / either if either else 0.0
""".strip(),
)

student(
    "data-2",
    "pairwise and an lru_cached helper; duplicated definition later in the notebook (the same again)",
    r"""
# EXERCISE: data-2
from functools import lru_cache
from itertools import pairwise

@lru_cache(maxsize=1024)
def pairs_of(text):
    return frozenset(pairwise(text.casefold().split()))

def jaccard(one, other):
    a, b = map(pairs_of, (one, other))
    return len(a & b) / (len(a | b) or 1)

pairs_of.cache_info()
""".strip(),
    {
        "at": "end",
        "code": r"""
# the same again, to play with
def jaccard(one, other):
    a, b = pairs_of(one), pairs_of(other)
    return len(a & b) / len(a | b) if a | b else 0.0

jaccard("the big red kettle", "a big red kettle")
""".strip(),
    },
)

student(
    "data-2",
    "networkx graphs: edges as word pairs; numpy float result",
    r"""
# EXERCISE: data-2
import networkx as nx
def jaccard(one, other):
    graphs = []
    for text in (one, other):
        g = nx.DiGraph()
        words = text.lower().split()
        g.add_edges_from(zip(words[:-1], words[1:]))
        graphs.append(set(g.edges))
    union = set.union(*graphs)
    return np.divide(len(set.intersection(*graphs)), len(union)) if union else np.float64(0)
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-1
student(
    "data-1",
    "mapping patterns of match",
    r'''
# EXERCISE: data-1
def faults(messages):
    """What is wrong with a conversation, of three things?"""
    found, answered = set(), False
    for message in messages:
        match message:
            case {"role": "assistant"}:
                answered = True
            case {"role": "system" | "user"}:
                pass
            case _:
                found.add("role")
        match message:
            case {"content": str(text)} if text.strip():
                pass
            case _:
                found.add("content")
    if not answered:
        found.add("answer")
    return sorted(found)
'''.strip(),
)

student(
    "data-1",
    "a generator per rule, dict of predicates, any()",
    r"""
# EXERCISE: data-1
from typing import Any, Callable, Final
ROLES: Final = ("system", "user", "assistant")
RULES: dict[str, Callable[[list[dict[str, Any]]], bool]] = {
    "answer": lambda ms: all(m.get("role") != "assistant" for m in ms),
    "content": lambda ms: any(not (isinstance(m.get("content"), str) and m["content"].strip()) for m in ms),
    "role": lambda ms: any(m.get("role") not in ROLES for m in ms),
}
def faults(messages): return [code for code, broken in RULES.items() if broken(messages)]
""".strip(),
)

student(
    "data-1",
    "SortedSet of sortedcontainers, list at the end; try/except",
    r"""
# EXERCISE: data-1
from sortedcontainers import SortedSet

def faults(messages):
    codes = SortedSet(["answer"])
    for m in messages:
        try:
            role = m["role"]
        except KeyError:
            codes.add("role")
        else:
            if role == "assistant":
                codes.discard("answer")
            elif role not in ["system", "user"]:
                codes.add("role")
        try:
            if str.strip(m["content"]) == "":
                raise ValueError("blank")
        except (KeyError, TypeError, ValueError) as reason:
            print(repr(reason))
            codes.add("content")
    return list(codes)
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-4
student(
    "data-4",
    "dict of lists, popitem from the end",
    r"""
# EXERCISE: data-4
def held_out_rows(customers, share):
    groups = {}
    for row, customer in enumerate(customers):
        groups.setdefault(("nobody", row) if customer is None else ("somebody", customer), []).append(row)
    taken = []
    while len(taken) < share * len(customers):
        _, rows = groups.popitem()
        taken.extend(rows)
    return sorted(taken)
""".strip(),
)

student(
    "data-4",
    "share compared as a quotient; the rows of each customer by a comprehension (quadratic)",
    r"""
# EXERCISE: data-4
def held_out_rows(customers, share):
    n = len(customers)
    key = [(c, i if c is None else -1) for i, c in enumerate(customers)]
    order = list(dict.fromkeys(key))
    rows = set()
    for k in order[::-1]:
        if n == 0 or len(rows) / n >= share:
            break
        rows |= {i for i in range(n) if key[i] == k}
    return sorted(rows)
""".strip(),
)

student(
    "data-4",
    "pandas factorize and cumulative counts, list of Python ints",
    r"""
# EXERCISE: data-4
import pandas as pd

def held_out_rows(customers, share):
    if not len(customers):
        return []
    s = pd.Series([f"#{i}" if c is None else f"={c}" for i, c in enumerate(customers)])
    numbers, _ = pd.factorize(s)
    sizes = pd.Series(numbers).value_counts().sort_index()[::-1]
    before = sizes.cumsum() - sizes              # held out before this one is taken
    taken = sizes.index[before < share * len(s)]
    return [int(i) for i in np.flatnonzero(pd.Series(numbers).isin(taken))]
""".strip(),
)

student(
    "data-4",
    "exact share by Fraction, recursion with an accumulator, list of np.int64",
    r"""
# EXERCISE: data-4
from fractions import Fraction

def held_out_rows(customers, share):
    places = {}
    for i, c in enumerate(customers):
        places.setdefault(object() if c is None else c, []).append(i)

    def take(groups, rows):
        if not groups or Fraction(len(rows)) >= Fraction(str(share)) * len(customers):
            return rows
        *rest, last = groups
        return take(rest, rows + last)

    return list(np.sort(np.array(take(list(places.values()), []), dtype=np.int64)))
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-5
student(
    "data-5",
    "substring search in joined words with separators",
    r'''
# EXERCISE: data-5
def leaks(train, test, n):
    """Which test texts share a run of n words with a training text?"""
    joined = ["\n" + "\n".join(text.lower().split()) + "\n" for text in train]
    def runs(text):
        words = text.lower().split()
        for start in range(len(words) - n + 1):
            yield "\n" + "\n".join(words[start:start + n]) + "\n"
    return [i for i, text in enumerate(test) if any(run in t for run in runs(text) for t in joined)]
'''.strip(),
)

student(
    "data-5",
    "trie of nested defaultdicts, walrus",
    r"""
# EXERCISE: data-5
from collections import defaultdict
Trie = lambda: defaultdict(Trie)

def leaks(train, test, n):
    root = Trie()
    for text in train:
        words = text.casefold().split()
        for i in range(len(words) - n + 1):
            node = root
            for word in words[i : i + n]:
                node = node[word]
    found = []
    for number, text in enumerate(test):
        words = text.casefold().split()
        for i in range(len(words) - n + 1):
            node = root
            if all((node := node.get(word)) is not None for word in words[i : i + n]):
                found.append(number)
                break
    return found
""".strip(),
)

student(
    "data-5",
    "dynamic programming (longest common run), cached on disk in a temporary file by shelve",
    r"""
# EXERCISE: data-5
import tempfile
import shelve, os
CACHE = os.path.join(tempfile.mkdtemp(), "leaks")

def longest(a, b):
    best, row = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0] + [row[j] + 1 if x == b[j] else 0 for j in range(len(b))]
        best = max(best, *row)
    return best

def leaks(train, test, n):
    key = json.dumps([list(train), list(test), n])
    with shelve.open(CACHE) as cache:
        if key not in cache:
            cache[key] = [i for i, t in enumerate(test) if any(longest(t.lower().split(), u.lower().split()) >= n for u in train)]
        return cache[key]
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-3
student(
    "data-3",
    "lookup string, reversed enumerate, lambda; emoji in comments",
    r"""
# EXERCISE: data-3
# 💳 → Luhn ✔️   (zero-width: ​, nbsp in a comment:  )
is_card_number = lambda text: 13 <= len(z := [int(c) for c in text if c.isdigit()]) <= 19 and sum(int("0246813579"[d]) if i % 2 else d for i, d in enumerate(reversed(z))) % 10 == 0
""".strip(),
)

student(
    "data-3",
    "numpy, np.bool_ result",
    r"""
# EXERCISE: data-3
def is_card_number(text):
    digits = np.array([int(c) for c in text.replace(" ", "").replace("-", "")], dtype=int)[::-1]
    digits[1::2] *= 2
    digits[digits > 9] -= 9
    return (13 <= digits.size) & (digits.size <= 19) & (digits.sum() % 10 == np.int64(0))
""".strip(),
)

student(
    "data-3",
    "regular expression, str.translate, unittest in the cell",
    r'''
# EXERCISE: data-3
import re, unittest
DOUBLED = str.maketrans("0123456789", "0246813579")

def is_card_number(text: str) -> bool:
    """Luhn’s check — «Prüfziffer»"""
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"\d{13,19}", digits):
        return False
    return sum(map(int, digits[-1::-2] + digits[-2::-2].translate(DOUBLED))) % 10 == 0

class TestLuhn(unittest.TestCase):
    def test_visa(self):
        self.assertTrue(is_card_number("4539 1488 0343 6467"))
    def test_short(self):
        self.assertFalse(is_card_number("0000"))

unittest.main(argv=["x"], exit=False, verbosity=0)
'''.strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-6
student(
    "data-6",
    "numpy: probabilities under the threshold masked with -inf, argmax, flatnonzero as the list",
    r'''
# EXERCISE: data-6
def accused_rows(given, probabilities):
    """Rows whose label the rule of confident learning doubts."""
    labels = range(probabilities.shape[1])
    thresholds = np.array([probabilities[given == j, j].mean() if (given == j).any() else np.inf for j in labels])
    reached = probabilities >= thresholds
    best = np.where(reached, probabilities, -np.inf).argmax(axis=1)
    return np.flatnonzero(reached.any(axis=1) & (best != given))
'''.strip(),
)

student(
    "data-6",
    "plain Python on lists: a defaultdict of probabilities, max with a key, walrus",
    r"""
# EXERCISE: data-6
from collections import defaultdict

def accused_rows(given, probabilities):
    of_label = defaultdict(list)
    for label, row in zip(given.tolist(), probabilities.tolist()):
        of_label[label].append(row[label])
    threshold = {label: sum(ps) / len(ps) for label, ps in of_label.items()}
    accused = []
    for i, (label, row) in enumerate(zip(given.tolist(), probabilities.tolist())):
        if not (candidates := [j for j, t in threshold.items() if row[j] >= t]):
            continue
        if max(candidates, key=row.__getitem__) != label:
            accused.append(i)
    return accused
""".strip(),
)

student(
    "data-6",
    "pandas: long table, groupby, merge with the thresholds, idxmax",
    r"""
# EXERCISE: data-6
import pandas as pd

def accused_rows(given, probabilities):
    wide = pd.DataFrame(probabilities)
    own = pd.Series(probabilities[range(len(given)), given])
    thresholds = own.groupby(np.asarray(given)).mean()
    long = wide.stack().rename("p").rename_axis(["row", "label"]).reset_index()
    long["threshold"] = long["label"].map(thresholds)          # NaN for a label that no row has
    reached = long[long["p"] >= long["threshold"]]
    best = reached.loc[reached.groupby("row")["p"].idxmax()].set_index("row")["label"]
    return sorted(int(i) for i in best.index[best.to_numpy() != np.asarray(given)[best.index]])
""".strip(),
)

student(
    "data-6",
    "torch: scatter_add for the thresholds, nan from 0 / 0, masked_fill; a tuple of ints",
    {"at": "imports", "code": "import torch"},
    r"""
# EXERCISE: data-6
def accused_rows(given, probabilities):
    y, p = torch.as_tensor(given).long(), torch.as_tensor(probabilities).double()
    own = p.gather(1, y[:, None])[:, 0]
    total = torch.zeros(p.shape[1], dtype=p.dtype).scatter_add(0, y, own)
    number = torch.zeros(p.shape[1], dtype=p.dtype).scatter_add(0, y, torch.ones_like(own))
    below = ~(p >= total / number)                             # nothing reaches nan
    best = p.masked_fill(below, -1.0).max(dim=1)
    return tuple(i for i, (v, j) in enumerate(zip(best.values, best.indices)) if v >= 0 and j != y[i])
""".strip(),
)

student(
    "data-6",
    "a label is accused by another one that reaches its threshold with more: any() over the others",
    r"""
# EXERCISE: data-6
def accused_rows(given, probabilities):
    n_labels = probabilities.shape[1]
    schwelle = [np.mean(probabilities[given == ℓ][:, ℓ]) for ℓ in range(n_labels) if ℓ in given]
    welche = [ℓ for ℓ in range(n_labels) if ℓ in given]
    t = dict(zip(welche, schwelle))

    def bounds(i):
        own = given[i]
        return probabilities[i, own] if probabilities[i, own] >= t[own] else 0.0

    return [i for i in range(len(given))
            if any(probabilities[i, ℓ] >= t[ℓ] and probabilities[i, ℓ] > bounds(i) for ℓ in t if ℓ != given[i])]
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-7
student(
    "data-7",
    "plain Python: json, Counter of answers, the order's digits in the message, a set of seen messages; messages without two words left out",
    r'''
# EXERCISE: data-7
import json
import re
from collections import Counter

SIX = {"delivery", "billing", "returns", "defect", "account", "question"}

def training_labels(rows):
    """Which rows of an export should a classifier learn the category from?"""
    how_often = Counter(answer for _, answer in rows)
    seen, kept = set(), []
    for number, (message, answer) in enumerate(rows):
        try:
            record = json.loads(answer)
        except ValueError:
            continue
        if not isinstance(record, dict) or record.get("category") not in SIX:
            continue
        if how_often[answer] > 20:                         # the form that nobody filled in
            continue
        digits = re.sub(r"\D", "", message)
        if any(found not in digits for found in re.findall(r"\d{5,}", answer)):
            continue                                       # somebody else's answer
        if len(re.findall(r"[a-z]{2,}", message.lower())) < 2:
            continue                                       # "???", "ok"
        key = (" ".join(message.lower().split()), answer)
        if key in seen:
            continue
        seen.add(key)
        kept.append((number, record["category"]))
    return kept
'''.strip(),
)

student(
    "data-7",
    "the lesson's two rules, from their cells; generator",
    {"lesson": "GREETINGS = set("},
    {"lesson": "def foreign_numbers"},
    r"""
# EXERCISE: data-7
import json

def category_of(answer):
    try:
        record = json.loads(answer)
        return record["category"] if record["summary"] != "Customer contacts the support desk" else None
    except (ValueError, KeyError, TypeError):
        return None

def training_labels(rows):
    for i, (message, answer) in enumerate(rows):
        if (category := category_of(answer)) and not says_nothing(message) and not foreign_numbers(message, answer):
            yield i, category
""".strip(),
)

student(
    "data-7",
    "pandas: str.extract instead of json, value_counts, drop_duplicates, itertuples",
    r"""
# EXERCISE: data-7
import re
import pandas as pd

def training_labels(rows):
    df = pd.DataFrame(rows, columns=["message", "answer"])
    record = r'^\{"category": "(delivery|billing|returns|defect|account|question)".*"order_id": (?:null|"TB-(\d+)").*\}$'
    df[["category", "order"]] = df["answer"].str.extract(record)
    df["times"] = df["answer"].map(df["answer"].value_counts())
    digits = df["message"].str.replace(r"\D", "", regex=True)
    df["own"] = [pd.isna(order) or order in text for order, text in zip(df["order"], digits)]
    good = df[df["category"].notna() & df["own"] & (df["times"] < 10)]
    good = good.drop_duplicates(subset=["message"], keep="first")
    return list(good["category"].items())
""".strip(),
)

student(
    "data-7",
    "a chain of filters as functions that give a reason, in a class; the foreign forms translated, too; a list of lists",
    r"""
import json
import re
from collections import Counter
from dataclasses import dataclass

CATEGORIES = ("delivery", "billing", "returns", "defect", "account", "question")

@dataclass(frozen=True)
class Row:
    number: int
    message: str
    answer: str

    @property
    def category(self):
        try:
            fields = json.loads(self.answer)
        except json.JSONDecodeError:
            found = re.match(r"CATEGORY=(\w+);", self.answer)
            return found.group(1).lower() if found else None
        return fields.get("category", fields.get("topic")) if isinstance(fields, dict) else None

def no_label(row, answers):
    return row.category not in CATEGORIES and "no category"

def form_letter(row, answers):
    return answers[row.answer] > 30 and "everybody got it"

def swapped(row, answers):
    wanted = re.findall(r"TB-(\d{5})", row.answer)
    return bool(wanted) and wanted[0] not in re.sub(r"[^0-9]", "", row.message) and "another order"

RULES = (no_label, form_letter, swapped)
""".strip(),
    r"""
# EXERCISE: data-7
def training_labels(rows):
    answers = Counter(answer for message, answer in rows)
    table = [Row(i, *pair) for i, pair in enumerate(rows)]
    reasons = {row.number: [r for rule in RULES if (r := rule(row, answers))] for row in table}
    print(Counter(r for found in reasons.values() for r in found))
    return [[row.number, row.category] for row in table if not reasons[row.number]]
""".strip(),
)

student(
    "data-7",
    "match on the parsed record; the product's words looked for in the message; a dictionary's items returned",
    r"""
# EXERCISE: data-7
import json, re

def read(answer):
    try:
        return json.loads(answer)
    except ValueError:
        return None

def training_labels(rows):
    chosen = {}
    for i, (message, answer) in enumerate(rows):
        match read(answer):
            case {"summary": "Customer contacts the support desk"}:
                pass
            case {"category": "delivery" | "billing" | "returns" | "defect" | "account" | "question" as category, "order_id": order}:
                if order is None or order.removeprefix("TB-") in "".join(re.findall(r"\d", message)):
                    chosen[i] = category
            case _:
                pass
    return chosen.items()
""".strip(),
)

# ----------------------------------------------------------------------------------------------------------------- data-8
student(
    "data-8",
    "numpy means of bool arrays",
    r"""
# EXERCISE: data-8
def kappa(mine, other):
    a, b = np.array(mine, dtype=bool), np.array(other, dtype=bool)
    p, q = a.mean(), b.mean()
    chance = p * q + (1 - p) * (1 - q)
    return 1.0 if chance == 1 else ((a == b).mean() - chance) / (1 - chance)
""".strip(),
)

student(
    "data-8",
    "whole numbers only, in Fractions; early return",
    r"""
# EXERCISE: data-8
from fractions import Fraction

def kappa(mine: list[bool], other: list[bool]) -> float:
    n = len(mine)
    kept_mine, kept_other = sum(mine), sum(other)
    same = sum(not (x ^ y) for x, y in zip(mine, other))
    chance = Fraction(kept_mine * kept_other + (n - kept_mine) * (n - kept_other), n * n)
    if chance == 1:
        return 1.0
    return float((Fraction(same, n) - chance) / (1 - chance))
""".strip(),
)

student(
    "data-8",
    "pandas crosstab, reindexed to two by two, trace and margins",
    r"""
# EXERCISE: data-8
import pandas as pd

def kappa(mine, other):
    both = [False, True]
    table = pd.crosstab(pd.Series(mine), pd.Series(other), normalize=True).reindex(index=both, columns=both, fill_value=0.0)
    table = table.to_numpy(dtype=float)
    agreement, chance = np.trace(table), table.sum(0) @ table.sum(1)
    if np.isclose(chance, 1.0): return 1.0
    return (agreement - chance) / (1 - chance)
""".strip(),
)

student(
    "data-8",
    "Counter of the four pairs; chance as the mean over all pairings of the rows (itertools.product)",
    r"""
# EXERCISE: data-8
from collections import Counter
from itertools import product

def kappa(mine, other):
    cells = Counter(zip(mine, other))
    agreement = (cells[True, True] + cells[False, False]) / cells.total()
    by_chance = [x == y for x, y in product(mine, other)]
    chance = sum(by_chance) / len(by_chance)
    try:
        return (agreement - chance) / (1 - chance)
    except ZeroDivisionError:
        return 1.0
""".strip(),
)

student(
    "data-8",
    "torch; the 2 × 2 table by one-hot vectors, closed formula of four cells, a 0-d tensor",
    {"at": "imports", "code": "import torch"},
    r"""
# EXERCISE: data-8
def kappa(mine, other):
    a, b = (torch.nn.functional.one_hot(torch.tensor(marks).long(), 2).double() for marks in (mine, other))
    (nn, nj), (jn, jj) = a.T @ b
    unter = (jj + jn) * (jn + nn) + (jj + nj) * (nj + nn)
    return 2 * (jj * nn - jn * nj) / unter if unter > 0 else torch.ones((), dtype=torch.float64)
""".strip(),
)

student(
    "data-7",
    "NumPy: row numbers from flatnonzero",
    r"""
# EXERCISE: data-7
import json
import re

def training_labels(rows):
    def label(message, answer):
        try:
            record = json.loads(answer)
        except ValueError:
            return ""
        if not isinstance(record, dict) or record.get("summary") == "Customer contacts the support desk":
            return ""
        strange = [n for n in re.findall(r"\d{5,}", answer) if n not in re.sub(r"\D", "", message)]
        return "" if strange else record.get("category", "")

    labels = np.array([label(*row) for row in rows])
    numbers = np.flatnonzero(labels != "")
    return list(zip(numbers, labels[numbers]))
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-1
student(
    "api-1",
    "a dict by id that remembers the order, looks turned with a slice",
    r"""
# EXERCISE: api-1
def new_messages(polls):
    events = {}
    for poll in polls:
        for event in poll[::-1]:
            events.setdefault(event["id"], event)
    return [e["message"] for e in events.values() if e["type"] != "metrics"]
""".strip(),
)

student(
    "api-1",
    "a generator with match, TypedDict, itertools.chain; the result a tuple",
    r"""
# EXERCISE: api-1
import typing as t
from itertools import chain

class Event(t.TypedDict):
    id: str
    type: str
    message: str

def told(polls: t.Sequence[t.Sequence[Event]]) -> t.Iterator[str]:
    seen: set[str] = set()
    for event in chain.from_iterable(map(reversed, polls)):
        match event:
            case {"id": id, "type": kind} if id in seen or kind == "metrics":
                continue
        seen.add(event["id"])
        yield event["message"]

def new_messages(polls):
    return tuple(told(polls))
""".strip(),
)

student(
    "api-1",
    "pandas: one frame of all looks, drop_duplicates",
    r"""
# EXERCISE: api-1
import pandas as pd
def new_messages(polls):
    frame = pd.DataFrame([e for poll in polls for e in poll[::-1]], columns=["id", "type", "message"])
    frame = frame.drop_duplicates("id").query("type != 'metrics'")
    return frame["message"].tolist()
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-7
student(
    "api-7",
    "Decimal, returned as Decimal",
    r"""
# EXERCISE: api-7
from decimal import Decimal
def job_cost(train_tokens, validation_tokens, epochs, price):
    return Decimal(train_tokens) * Decimal(epochs) * Decimal(repr(price)) / Decimal(10) ** 6
""".strip(),
)

student(
    "api-7",
    "renamed arguments with an ignored underscore, exec of a template",
    r'''
# EXERCISE: api-7
exec("""
def job_cost(train, _, epochs, price, per=1_000_000):
    return train * epochs * price / per
""")
'''.strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-3
student(
    "api-3",
    "pandas: dropna, sort by loss and step",
    r"""
# EXERCISE: api-3
import pandas as pd
def best_checkpoint(checkpoints):
    df = pd.DataFrame(checkpoints, columns=["name", "step", "train_loss", "full_valid_loss"]).dropna(subset=["full_valid_loss"])
    if df.empty: return None
    return df.sort_values(["full_valid_loss", "step"]).iloc[0]["name"]
""".strip(),
)

student(
    "api-3",
    "functools.reduce with match, heapless",
    r"""
# EXERCISE: api-3
from functools import reduce

def better(a, b):
    match a, b:
        case None, _: return b
        case {"full_valid_loss": x, "step": s}, {"full_valid_loss": y, "step": t}:
            return b if (y, t) < (x, s) else a

def best_checkpoint(checkpoints):
    best = reduce(better, (c for c in checkpoints if c.get("full_valid_loss") is not None), None)
    return best and best["name"]
""".strip(),
)

student(
    "api-3",
    "min with key and default, filter with operator.itemgetter",
    r"""
# EXERCISE: api-3
import operator
def best_checkpoint(checkpoints):
    validated = [c for c in checkpoints if c.get("full_valid_loss", None) is not None]
    return min(validated, key=operator.itemgetter("full_valid_loss", "step"), default={"name": None})["name"]
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-4
student(
    "api-4",
    "pandas.read_csv on BytesIO, numpy numbers in the rows",
    r"""
# EXERCISE: api-4
import base64, binascii, io
import pandas as pd

def result_rows(data):
    try:
        data = base64.b64decode(data, validate=True)
    except binascii.Error:
        pass
    frame = pd.read_csv(io.BytesIO(data), skipinitialspace=True)
    return [(s, t, None if pd.isna(v) else v) for s, t, v in zip(frame["step"], frame["train_loss"], frame["valid_loss"])]
""".strip(),
)

student(
    "api-4",
    "csv.DictReader, codecs, utf-8-sig",
    r"""
# EXERCISE: api-4
import base64
import csv

def result_rows(data: bytes) -> list[tuple[int, float, float | None]]:
    text = data if b"," in data else base64.b64decode(data)   # base64 has no comma
    reader = csv.DictReader(text.decode("utf-8-sig").splitlines(), skipinitialspace=True)
    return [(int(row["step"]), float(row["train_loss"]), float(blank) if (blank := row["valid_loss"].strip()) else None) for row in reader]
""".strip(),
)

student(
    "api-4",
    "by hand with split and zip, no csv module; memoryview",
    r"""
# EXERCISE: api-4
from base64 import decodebytes
def result_rows(data):
    data = bytes(memoryview(data))
    if b"step" not in data: data = decodebytes(data)
    header, *lines = data.decode().strip().splitlines()
    names = [n.strip() for n in header.split(",")]
    out = []
    for line in lines:
        row = dict(zip(names, (field.strip() for field in line.split(","))))
        out += [(int(row["step"]), float(row["train_loss"]), float(row["valid_loss"]) if row["valid_loss"] else None)]
    return out
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-5
student(
    "api-5",
    "sorted, a helper for an output, rows appended",
    r"""
# EXERCISE: api-5
def preference_rows(logs):
    def output(answer):
        return [{"role": "assistant", "content": answer["text"]}]

    rows = []
    for log in logs:
        ranked = sorted(log["shown"], key=lambda answer: answer["votes"], reverse=True)
        if ranked[0]["votes"] > ranked[-1]["votes"]:
            rows.append({
                "input": {"messages": log["messages"]},
                "preferred_output": output(ranked[0]),
                "non_preferred_output": output(ranked[-1]),
            })
    return rows
""".strip(),
)

student(
    "api-5",
    "a generator with itemgetter, keys in another order, copies of the messages; %load_ext autoreload above",
    {"at": "imports", "code": "%load_ext autoreload\n%autoreload 2"},
    r"""
# EXERCISE: api-5
from operator import itemgetter
votes, text = itemgetter("votes"), itemgetter("text")

def preference_rows(logs):
    for log in logs:
        *_, best = ranked = sorted(log["shown"], key=votes)
        worst = ranked[0]
        if votes(best) - votes(worst):
            yield dict(
                non_preferred_output=[dict(content=text(worst), role="assistant")],
                preferred_output=[dict(content=text(best), role="assistant")],
                input=dict(messages=[dict(message) for message in log["messages"]]),
            )

preference_rows?
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-2
student(
    "api-2",
    "deepcopy, then in place; any over the weights",
    r"""
# EXERCISE: api-2
from copy import deepcopy
def with_weights(messages, thumbs):
    out = deepcopy(messages)
    for i, m in enumerate(out):
        if m["role"] == "assistant":
            m["weight"] = 1
            if i in thumbs and thumbs[i] == "down":
                m["weight"] = 0
    if sum(m.get("weight", 0) for m in out) == 0:
        return None
    return out
""".strip(),
)

student(
    "api-2",
    "comprehension with dict union, weights as a dict of their own; the result a tuple",
    r"""
# EXERCISE: api-2
def with_weights(messages, thumbs):
    weights = {n: {"weight": int(thumbs.get(n) != "down")} for n, m in enumerate(messages) if m["role"] == "assistant"}
    if {"weight": 1} not in weights.values():
        return
    return tuple(m | weights.get(n, {}) for n, m in enumerate(messages))
""".strip(),
)

student(
    "api-2",
    "a JSON round trip for the copy, weights as NumPy integers",
    r"""
# EXERCISE: api-2
import json
import numpy as np

def with_weights(messages, thumbs):
    messages = json.loads(json.dumps(messages))
    mine = np.array([m["role"] == "assistant" for m in messages])
    down = np.array([thumbs.get(n) == "down" for n in range(len(messages))])
    for n in np.flatnonzero(mine):
        messages[n]["weight"] = np.int64(not down[n])
    return messages if (mine & ~down).any() else None
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-6
student(
    "api-6",
    "guard clauses, JSONDecodeError, += for the parts",
    r"""
# EXERCISE: api-6
import json
def grade(sample, item):
    try:
        answer = json.loads(sample["output_text"])
    except json.JSONDecodeError:
        return 0.0
    if type(answer) is not dict:
        return 0.0
    if set(answer) != {"category", "escalation"}:
        return 0.0
    reward = 0.2
    if answer["category"] == item["reference"]["category"]:
        reward += 0.5
    if answer["escalation"] == item["reference"]["escalation"]:
        reward += 0.3
    return reward
""".strip(),
)

student(
    "api-6",
    "match on the parsed value, weights in a dict, sum, an int for nothing",
    r"""
# EXERCISE: api-6
from json import loads
WEIGHTS = {"category": 0.5, "escalation": 0.3}

def parsed(text):
    try:
        return loads(text)
    except Exception:
        return None

def grade(sample: dict, item: dict) -> float:
    right = item["reference"]
    match parsed(sample["output_text"]):
        case {"category": _, "escalation": _, **rest} as record if not rest:
            return 0.2 + sum(weight for field, weight in WEIGHTS.items() if record[field] == right[field])
    return 0
""".strip(),
)

student(
    "api-6",
    "tenths as Decimal, a NumPy dot product in the end",
    r"""
# EXERCISE: api-6
import json
from decimal import Decimal
import numpy as np
PARTS = np.array([Decimal("0.2"), Decimal("0.5"), Decimal("0.3")])

def grade(sample, item):
    reference = item["reference"]
    try:
        record = json.loads(sample["output_text"], parse_int=str)
        assert isinstance(record, dict) and sorted(record) == sorted(reference)
    except (ValueError, AssertionError):
        return 0.0
    hits = np.array([1] + [int(record[k] == reference[k]) for k in ("category", "escalation")])
    return float(PARTS @ hits)
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-8
student(
    "api-8",
    "the whole sum per million, ceiling with a check for the exact crossing",
    r"""
# EXERCISE: api-8
import math
def requests_until_paid(training, short, long, answer, tuned, untuned):
    t_in, t_out = tuned
    u_in, u_out = untuned
    saving = (long * u_in - short * t_in + answer * (u_out - t_out)) / 1_000_000
    if saving <= 0:
        return None
    n = math.ceil(training / saving)
    return n + 1 if n * saving <= training else n
""".strip(),
)

student(
    "api-8",
    "fractions, so that nothing is rounded; divmod",
    r"""
# EXERCISE: api-8
from fractions import Fraction as F
def requests_until_paid(training, short, long, answer, tuned, untuned):
    def price(prompt, model):
        return (prompt * F(str(model[0])) + answer * F(str(model[1]))) / 10**6
    saved = price(long, untuned) - price(short, tuned)
    return None if saved <= 0 else divmod(F(str(training)), saved)[0] + 1
""".strip(),
)

student(
    "api-8",
    "counts up in powers of two, then bisects; NumPy for the two prices",
    r"""
# EXERCISE: api-8
import numpy as np

def requests_until_paid(training, short, long, answer, tuned, untuned):
    mine = np.dot([short, answer], tuned) / 1e6
    theirs = np.dot([long, answer], untuned) / 1e6
    if mine >= theirs:
        return None
    paid = lambda n: training + n * mine < n * theirs
    high = 1
    while not paid(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if paid(middle) else (middle, high)
    return np.int64(high)
""".strip(),
)

# ------------------------------------------------------------------------------------------------------------------ api-9
student(
    "api-9",
    "pandas: left-open rows sorted to the end, duplicates dropped; names unpacked",
    r"""
# EXERCISE: api-9
import pandas as pd
def twelve_jobs(rows, prices):
    table = pd.DataFrame(rows, columns=["message", "answer", "tokens"])
    table["open"] = table["answer"].str.contains('"question"') & table["answer"].str.contains('"none"')
    table = table.sort_values("open", kind="stable").drop_duplicates("message")
    model, training = min(
        ((name, p["training"]) for name, p in prices.items() if p["no new jobs from"] is None), key=lambda pair: pair[1]
    )
    for epochs in range(50, 0, -1):
        if 12 * epochs * table["tokens"].sum() * training / 1e6 <= 1:
            break
    return model, epochs, table.index.tolist()
""".strip(),
)

student(
    "api-9",
    "numbers read off by hand, epochs as a float, rows as a NumPy array",
    r"""
# EXERCISE: api-9
import numpy as np

OPEN = '{"category": "question", "escalation": "none"}'

def twelve_jobs(rows, prices):
    best = {}
    for n, (message, answer, tokens) in enumerate(rows):
        best.setdefault(message, []).append((answer == OPEN, n))
    chosen = np.array([min(found)[1] for found in best.values()])
    model = "qwen3-8b"
    budget = 1 / 12 * 1e6 / prices[model]["training"]
    return model, np.floor(budget / sum(rows[n][2] for n in chosen)), chosen
""".strip(),
)

# =================================================================================================== forms of whole notebooks
GOOD_DATA_1 = r"""
# EXERCISE: data-2
def jaccard(one, other):
    a, b = pairs_in(one), pairs_in(other)
    return len(a & b) / len(a | b) if a | b else 0.0
""".strip()
GOOD_DATA_4 = r"""
# EXERCISE: data-5
def leaks(train, test, n):
    known = set().union(*(runs(t, n) for t in train)) if train else set()
    return [i for i, t in enumerate(test) if runs(t, n) & known]
""".strip()

student(
    "data-2+data-5",
    "one helper `pieces` redefined between the two exercises, each answer meant the one above it; both checks ran in order",
    r"""
def pieces(text):
    w = text.lower().split()
    return {(a, b) for a, b in zip(w, w[1:])}
""".strip(),
    r"""
# EXERCISE: data-2
def jaccard(one, other):
    a, b = pieces(one), pieces(other)
    return len(a & b) / len(a | b) if a | b else 0.0
""".strip(),
    {
        "at": "data-5",
        "code": r"""
def pieces(text, n):
    w = text.lower().split()
    return {tuple(w[i:i + n]) for i in range(len(w) - n + 1)}
""".strip(),
    },
    {
        "at": "data-5",
        "code": r"""
# EXERCISE: data-5
def leaks(train, test, n):
    known = {run for text in train for run in pieces(text, n)}
    return [i for i, text in enumerate(test) if pieces(text, n) & known]
""".strip(),
    },
)

student(
    "data-2+data-5",
    "both answers merged into one cell at the first place, with both checks in it; the second place deleted",
    r"""
# EXERCISE: data-2
def pairs(text):
    return runs(text, 2)

def jaccard(one, other):
    a, b = pairs(one), pairs(other)
    return len(a & b) / len(a | b) if a | b else 0.0

# EXERCISE: data-5
def runs(text, n):
    w = text.lower().split()
    return {tuple(w[i:i + n]) for i in range(len(w) - n + 1)}

def leaks(train, test, n):
    known = set().union(*(runs(t, n) for t in train))
    return [i for i, t in enumerate(test) if runs(t, n) & known]

print(check("data-2", jaccard))
print(check("data-5", leaks))
""".strip(),
    {"check": None},
    {"at": "data-5", "code": None},
    {"at": "data-5", "check": 'score = check("data-5", leaks)\nscore'},
)

student(
    "data-3",
    "answer cell split in two by the editor: marker, signature's helpers above, function below without a marker; metadata dropped from the second",
    r"""
# EXERCISE: data-3
def luhn_value(position, digit):
    if position % 2:
        digit *= 2
        digit -= 9 * (digit > 9)
    return digit
""".strip(),
    {"markdown": "Now the function itself."},
    r"""
def is_card_number(text):
    digits = [int(c) for c in text if c not in " -"]
    return 13 <= len(digits) <= 19 and sum(luhn_value(i, d) for i, d in enumerate(digits[::-1])) % 10 == 0
""".strip(),
)

student(
    "data-1",
    "marker comment deleted, metadata deleted, cell ids deleted (nbformat 4.4), as after a round trip through a converter",
    r"""
def faults(messages):
    codes = []
    if not any(m.get("role") == "assistant" for m in messages):
        codes.append("answer")
    if any(not isinstance(m.get("content"), str) or not m["content"].strip() for m in messages):
        codes.append("content")
    if any(m.get("role") not in ("system", "user", "assistant") for m in messages):
        codes.append("role")
    return codes
""".strip(),
    {"notebook": "bare"},
)

student(
    "api-3",
    "notebook saved with CRLF in every source and a BOM, sources as one string",
    r"""
# EXERCISE: api-3
def best_checkpoint(checkpoints):
    best = None
    for c in checkpoints:
        loss = c.get("full_valid_loss")
        if loss is None:
            continue
        if best is None or loss < best[0] or (loss == best[0] and c["step"] < best[1]):
            best = loss, c["step"], c["name"]
    return best[2] if best else None
""".strip(),
    {"notebook": "crlf"},
)

student(
    "lora-7",
    "cell order changed: the answer stands at the end of the notebook, its check after it",
    {
        "at": "end",
        "code": r"""
# EXERCISE: lora-7
def lora_slots(ranks, shapes, free, bytes_per_parameter):
    affordable = free // (bytes_per_parameter * sum(o + i for o, i in shapes))       # ranks in all
    return max(((n, rank) for n, rank in enumerate(sorted(ranks), 1) if n * rank <= affordable))
""".strip(),
    },
    {"at": "end", "check": None},
)

student(
    "qlora-2",
    "helper defined BELOW the answer, run before it (cells run out of order, then the check again)",
    r"""
# EXERCISE: qlora-2
def bits_per_weight(block, group=None):
    return 4 + scale_bits(group) / block
""".strip(),
    r"""
def scale_bits(group):
    return 32 if group is None else 8 + 32 / group
""".strip(),
)

student(
    "frame-4",
    "scratch cells around it that failed: a traceback, a syntax error, undefined names, sys.exit",
    {"fails": True, "code": "break_even(1, 2)"},
    {"fails": True, "code": "def half(:\n    pass"},
    {"fails": True, "code": "pirnt(prices)"},
    r"""
# EXERCISE: frame-4
def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    saved = old_cost - new_cost
    return None if saved <= 0 else setup / (days * saved) + upkeep_a_day / saved
""".strip(),
    {"fails": True, "code": "import sys\nsys.exit()"},
    {"fails": True, "code": "assert break_even(1, 1, 1, 0, 1) == 0, 'my own test is wrong'"},
)

student(
    "api-5",
    "shell and cell magics in cells beside it: !ls, %%bash, %%html, %timeit, %who, %pwd, files = !ls",
    "!ls | head -2\nfiles = !ls\nwhere = %pwd",
    "%%bash\necho hello",
    "%%html\n<b>bold</b>",
    r"""
# EXERCISE: api-5
def preference_rows(logs):
    rows = []
    for log in logs:
        votes = [answer["votes"] for answer in log["shown"]]
        if len(set(votes)) == 1:
            continue
        top, bottom = log["shown"][votes.index(max(votes))], log["shown"][votes.index(min(votes))]
        row = {"input": {"messages": log["messages"]}}
        for key, answer in (("preferred_output", top), ("non_preferred_output", bottom)):
            row[key] = [{"role": "assistant", "content": answer["text"]}]
        rows.append(row)
    return rows

%timeit -n 10 -r 1 preference_rows([])
%who function
""".strip(),
)

student(
    "data-5",
    "helper module written with %%writefile and imported, as in a project",
    "%%writefile my_text_tools.py\ndef runs(text, n):\n    w = text.lower().split()\n    return {tuple(w[i:i + n]) for i in range(len(w) - n + 1)}",
    "from my_text_tools import runs",
    GOOD_DATA_4,
)

student(
    "api-7",
    "%%capture on the answer cell, a tqdm loop in it",
    r"""
%%capture out
# EXERCISE: api-7
from tqdm.auto import tqdm
def job_cost(train_tokens, validation_tokens, epochs, price):
    dollars = 0
    for _ in tqdm(range(epochs), desc="epochs"):
        dollars += train_tokens * price / 1e6
    return dollars
""".strip(),
)

student(
    "api-1",
    "async leftovers: top-level await in the cell, an async version beside the plain one",
    r"""
# EXERCISE: api-1
import asyncio

async def messages_async(polls):
    seen, out = [], []
    for poll in polls:
        await asyncio.sleep(0)
        for event in list(reversed(poll)):
            if event["id"] in seen or event["type"] == "metrics":
                continue
            seen.append(event["id"])
            out.append(event["message"])
    return out

print(await messages_async([[]]))

def new_messages(polls):
    coroutine = messages_async(polls)
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value
""".strip(),
)

student(
    "align-3",
    "torch.set_default_dtype(float64) and manual_seed in a cell of the student's own",
    "torch.set_default_dtype(torch.float64)\ntorch.manual_seed(1234)",
    r"""
# EXERCISE: align-3
def losses_of_a_run(chosen, rejected, beta):
    gains = chosen - chosen[0] - rejected + rejected[0]
    return -torch.distributions.Bernoulli(logits=beta * gains).log_prob(torch.ones(len(gains)))
""".strip(),
)

student(
    "frame-2",
    "np.seterr(all='raise') and warnings as errors in another cell; global random generator with an own seed",
    "import warnings\nnp.seterr(all='raise')\nwarnings.simplefilter('error')\nrng = np.random.default_rng(2024)",
    r"""
# EXERCISE: frame-2
def recall_at(rankings, relevant, k):
    order = rng.permutation(len(relevant))      # any order does
    return float(np.mean([relevant[i] in rankings[i][:k] for i in order]))
""".strip(),
)

student(
    "lora-3",
    "singledispatch-like overloads with typing.overload and a global counter",
    r"""
# EXERCISE: lora-3
from typing import overload, Iterable

COUNTER = 0

@overload
def adapter_parameters(shapes: list[tuple[int, int]], rank: int) -> int: ...
@overload
def adapter_parameters(shapes: Iterable, rank: float) -> float: ...
def adapter_parameters(shapes, rank):
    global COUNTER
    COUNTER += 1
    return sum(rank * d for shape in shapes for d in shape)
""".strip(),
)

student(
    "frame-3",
    "names imported inside an `if True:` block and the answer defined there; try/except ImportError round an optional package",
    r"""
# EXERCISE: frame-3
try:
    import numba_that_is_not_here as nb
    jit = nb.njit
except ImportError:
    jit = lambda f: f

if True:
    from math import fsum
    @jit
    def stale(answers, old, new):
        a, o, n = ([" ".join(text.split()).lower() for text in texts] for texts in (answers, old, new))
        rows = [i for i in range(len(n)) if o[i] != n[i]]
        if not rows:
            return None
        right, late = fsum(a[i] == n[i] for i in rows), fsum(a[i] == o[i] for i in rows)
        return right / len(rows), late / len(rows), (len(rows) - right - late) / len(rows)
else:
    stale = None
""".strip(),
)

student(
    "frame-2",
    "`from numpy import *` in another cell; rankings padded to a matrix, comparison by broadcasting",
    {"at": "imports", "code": "from numpy import *"},
    r"""
# EXERCISE: frame-2
def recall_at(rankings, relevant, k):
    padded = array([(list(found) + [""] * k)[:k] for found in rankings])
    return (padded == array(relevant)[:, None]).any(axis=1).mean()
""".strip(),
)

student(
    "data-2+data-1+data-4+data-5+data-3",
    "all of lesson 05 in one notebook: helpers in one cell at the top, small functions below",
    {
        "at": "imports",
        "code": r"""
# my toolbox
import itertools as it
def words_of(text): return text.lower().split()
def runs(text, n): return set(zip(*(words_of(text)[i:] for i in range(n))))
pairs_in = lambda text: runs(text, 2)
""".strip(),
    },
    GOOD_DATA_1,
    {
        "at": "data-1",
        "code": r"""
# EXERCISE: data-1
def faults(messages):
    bad = {"answer"} - {"answer" for m in messages if m.get("role") == "assistant"}
    for m in messages:
        bad |= {"role"} if m.get("role") not in ("system", "user", "assistant") else set()
        bad |= {"content"} if not isinstance(m.get("content"), str) or m["content"].isspace() or m["content"] == "" else set()
    return sorted(bad)
""".strip(),
    },
    {
        "at": "data-4",
        "code": r"""
# EXERCISE: data-4
def held_out_rows(customers, share):
    keys = [(i,) if c is None else c for i, c in enumerate(customers)]
    rows = []
    for key in reversed(dict.fromkeys(keys)):
        if len(rows) >= share * len(keys):
            break
        rows += [i for i, k in enumerate(keys) if k == key]
    return sorted(rows)
""".strip(),
    },
    {"at": "data-5", "code": GOOD_DATA_4},
    {
        "at": "data-3",
        "code": r"""
# EXERCISE: data-3
def is_card_number(text):
    digits = [int(d) for d in text if d.isdigit()][::-1]
    return len(digits) in range(13, 20) and sum(d if even else d * 2 - 9 * (d > 4) for d, even in zip(digits, it.cycle([True, False]))) % 10 == 0
""".strip(),
    },
)

student(
    "qlora-4",
    "OrderedDict and the lesson's torch, decorator that times into a global list, print to stderr",
    r"""
# EXERCISE: qlora-4
import sys, time
from collections import OrderedDict
TIMES = []
def timed(f):
    def g(*a, **k):
        t = time.perf_counter()
        try:
            return f(*a, **k)
        finally:
            TIMES.append(time.perf_counter() - t)
            print(f"{TIMES[-1]:.6f} s", file=sys.stderr)
    return g

@timed
def relative_error(weights, values, block=64):
    found = OrderedDict(wrong=0.0, all=0.0)
    for piece in weights.split(block):
        scale = piece.abs().max()
        nearest = torch.cdist((piece / scale)[:, None], values[:, None]).argmin(1)
        found["wrong"] += float(((values[nearest] * scale - piece) ** 2).sum())
        found["all"] += float((piece**2).sum())
    return (found["wrong"] / found["all"]) ** 0.5
""".strip(),
)

student(
    "align-4",
    "inspect.getsource, help() and a pickle round trip of the function left in the cell",
    r"""
# EXERCISE: align-4
import inspect, pickle

def log_odds_ratio(chosen, rejected):
    a, b = chosen.mean(), rejected.mean()
    return (a - b) - (torch.log1p(-a.exp()) - torch.log1p(-b.exp()))

print(inspect.getsource(log_odds_ratio))
help(log_odds_ratio)
assert pickle.loads(pickle.dumps(log_odds_ratio)) is log_odds_ratio
""".strip(),
)

student(
    "api-4",
    "numpy.genfromtxt with names",
    r"""
# EXERCISE: api-4
import base64, io
import numpy as np

def result_rows(data):
    if not data.lstrip().startswith((b"step", b"train", b"valid")) and b"," not in data:
        data = base64.b64decode(data)
    table = np.genfromtxt(io.BytesIO(data), delimiter=",", names=True, dtype=float, ndmin=1)
    return [(int(r["step"]), float(r["train_loss"]), None if np.isnan(r["valid_loss"]) else float(r["valid_loss"])) for r in table]
""".strip(),
)

student(
    "qlora-3",
    "__wrapped__, functools.cache on the unpacking of a byte, descriptor class",
    r"""
# EXERCISE: qlora-3
import functools

@functools.cache
def halves(byte: int) -> tuple[int, int]:
    return byte >> 4, byte & 0b1111

class _Dequantise:
    def __call__(self, packed, scales, values, block):
        codes = torch.tensor([code for byte in packed.tolist() for code in halves(byte)], dtype=torch.int64)
        return values.take(codes) * scales.repeat_interleave(block)

weights_from_bytes = _Dequantise()
del _Dequantise
""".strip(),
)

student(
    "align-2",
    "torch.autograd.Function with its own backward pass",
    r"""
# EXERCISE: align-2
class SoftLabel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, doubt):
        ctx.save_for_backward(z)
        ctx.doubt = doubt
        return (torch.logaddexp(z, torch.zeros_like(z)) - (1 - doubt) * z).mean()

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * (torch.sigmoid(z) - (1 - ctx.doubt)) / z.numel(), None

def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    z = beta * (policy_chosen - policy_rejected - (reference_chosen - reference_rejected))
    return SoftLabel.apply(z, doubt)
""".strip(),
)

student(
    "data-4",
    "subprocess-free worker: multiprocessing-like queue.Queue with a thread; deque rotated",
    r"""
# EXERCISE: data-4
import queue, threading
from collections import deque, defaultdict

def held_out_rows(customers, share):
    out = queue.Queue()
    def work():
        rows = defaultdict(list)
        for i, who in enumerate(customers):
            rows[who if who is not None else f"\0nobody {i}"].append(i)
        line, kept = deque(rows), []
        while line and len(kept) < share * len(customers):
            kept += rows[line.pop()]
        out.put(sorted(kept))
    t = threading.Thread(target=work, daemon=True)
    t.start()
    t.join()
    return out.get()
""".strip(),
)

# ------------------------------------------------------------------------------- what else a notebook has when it is handed in
student(
    "lora-2",
    "`device` of the lesson's first cell: inputs moved to device.kind",
    r"""
# EXERCISE: lora-2
def lora_forward(x, W, A, B, alpha):
    x, W, A, B = (t.to(device.kind) for t in (x, W, A, B))
    scaling = alpha / A.shape[0]
    return nn.functional.linear(x, W) + scaling * nn.functional.linear(nn.functional.linear(x, A), B)
""".strip(),
    {"given": "from course_utils import hardware\ndevice = hardware.detect()"},
    refused="device comes from the course's own package, which is not available in grading: write what you need",
)

student(
    "align-3",
    "the lesson's dice, which stand in a cell that loads a model",
    r"""
# EXERCISE: align-3
def losses_of_a_run(chosen, rejected, beta):
    order = dice.sample(range(len(chosen)), len(chosen))   # it does not matter
    out = torch.empty_like(chosen)
    for i in order:
        gain = (chosen[i] - chosen[0]) - (rejected[i] - rejected[0])
        out[i] = torch.log1p(torch.exp(-beta * gain))
    return out
""".strip(),
    {"given": "import random\ndice = random.Random(0)"},
)

student(
    "data-2",
    "helper in a cell that first looks at the lesson's data",
    r"""
print(len(conversations), "conversations;", conversations[0][:1])

def normal(text):
    return text.lower().split()
""".strip(),
    r"""
# EXERCISE: data-2
def jaccard(one, other):
    a, b = (set(zip(normal(t), normal(t)[1:])) for t in (one, other))
    return len(a & b) / len(a | b) if (a or b) else 0.0
""".strip(),
    {"given": "conversations = [['a', 'b'], ['c']]"},
)

student(
    "data-2",
    "toolbox cell with an import that only the student's machine has (seaborn), then a helper",
    {"module": "seaborn"},
    {
        "at": "imports",
        "code": r"""
import seaborn as sns
sns.set_theme()

def bigrams(text):
    words = text.lower().split()
    return {*zip(words, words[1:])}
""".strip(),
    },
    r"""
# EXERCISE: data-2
def jaccard(one, other):
    a, b = bigrams(one), bigrams(other)
    if not (a | b): return 0.0
    return len(a & b) / len(a | b)
""".strip(),
)

student(
    "api-3",
    "an endless scratch loop that the student interrupted, an input(), a big array",
    {"interrupted": "while True:\n    time.sleep(1)\n    print('still running')"},
    {"interrupted": "name = input('your name? ')"},
    {"code": "import numpy as np\nbig = np.random.rand(3000, 3000)\nbig @ big"},
    r"""
# EXERCISE: api-3
def best_checkpoint(checkpoints):
    ok = [c for c in checkpoints if "full_valid_loss" in c and c["full_valid_loss"] is not None]
    ok.sort(key=lambda c: c["step"])
    ok.sort(key=lambda c: c["full_valid_loss"])
    return ok[0]["name"] if ok else None
""".strip(),
)

student(
    "qlora-2",
    "saved by Colab: ids, outputId, colab metadata, a form title; nbgrader's metadata gone",
    r"""
#@title Bits { run: "auto", display-mode: "form" }
# EXERCISE: qlora-2
def bits_per_weight(block, group=None):
    code = 4 #@param {type:"number"}
    if group is None:
        return code + 32 / block
    return code + 8 / block + 32 / (block * group)
""".strip(),
    {"notebook": "colab"},
)

student(
    "frame-3",
    "marker with the student's own words after it, a %% line above it",
    r"""
#%% stale
# EXERCISE: frame-3 -- done :-)
def stale(answers, old, new):
    norm = lambda s: "".join([s.strip().lower()])
    rows = [(norm(a), norm(o), norm(n)) for a, o, n in zip(answers, old, new)]
    rows = [r for r in rows if r[1] != r[2]]
    if not rows: return None
    right = [a == n for a, o, n in rows]
    stale_ = [a == o for a, o, n in rows]
    other = [not (x or y) for x, y in zip(right, stale_)]
    return tuple(sum(flags) / len(rows) for flags in (right, stale_, other))
""".strip(),
)

student(
    "align-2",
    "importlib in a cell above, softplus for the logarithm, del of a leftover inside the answer's cell",
    r"""
import importlib
nnf = importlib.import_module("torch.nn.functional")
x = torch.ones(3)
""".strip(),
    r"""
# EXERCISE: align-2
def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    z = beta * (policy_chosen - policy_rejected - reference_chosen + reference_rejected)
    return torch.mean((1 - doubt) * nnf.softplus(-z) + doubt * nnf.softplus(z))

del x
""".strip(),
)

student(
    "align-7",
    "list.insert(0), Greek docstring, identifiers γ, λ, δ and Â, arguments renamed",
    r'''
# EXERCISE: align-7
def advantages(rewards, values, last_value, γ, λ):
    """Γενικευμένη εκτίμηση πλεονεκτήματος."""
    Â, ausgabe = 0.0, []
    for t in range(len(rewards) - 1, -1, -1):
        δ = rewards[t] + γ * (values[t + 1] if t + 1 < len(values) else last_value) - values[t]
        Â = δ + γ * λ * Â
        ausgabe.insert(0, Â)
    return ausgabe
'''.strip(),
)

student(
    "lora-5",
    "an earlier, wrong helper in the answer's cell, overwritten by the later one below the answer in the same cell",
    r"""
# EXERCISE: lora-5
def update(A, B, alpha):
    return B @ A * alpha              # forgot r

def swapped_weight(W, old, new):
    return W - update(*old) + update(*new)

def update(A, B, alpha):              # noqa: F811
    return B @ A * (alpha / A.shape[0])
""".strip(),
)

student(
    "frame-4",
    "one parameter object: annotations as strings, nested functions, nonlocal, a while loop that brackets and bisects",
    r"""
# EXERCISE: frame-4
def break_even(setup: "USD", upkeep_a_day: "USD/d", old_cost: "USD", new_cost: "USD", days: "d") -> "1/d | None":
    steps = 0
    def gain(n):
        nonlocal steps
        steps += 1
        return n * (old_cost - new_cost) - (setup / days + upkeep_a_day)
    if new_cost >= old_cost:
        return None
    low, high = 0.0, 1.0
    while gain(high) < 0:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        if gain(middle) < 0:
            low = middle
        else:
            high = middle
    return high
""".strip(),
)


# ------------------------------------------------------------------------------------- written after a look at the first refusals
# All above was written before the exercises' definitions, the grading and the tests were looked at; what follows, to find out
# how far a refusal reaches, after that. It is as correct.
SECOND = len(ANSWERS)

student(
    "data-1",
    "marker comment gone, nbgrader's metadata still there",
    r"""
def faults(messages):
    wrong = set()
    for m in messages:
        if m.get("role") not in ("system", "user", "assistant"): wrong.add("role")
        if not (isinstance(m.get("content"), str) and m["content"].strip()): wrong.add("content")
    return sorted(wrong | ({"answer"} if "assistant" not in [m.get("role") for m in messages] else set()))
""".strip(),
)

student(
    "data-1",
    "marker comment still there, metadata gone",
    r"""
# EXERCISE: data-1
def faults(messages):
    wrong = set()
    for m in messages:
        if m.get("role") not in ("system", "user", "assistant"): wrong.add("role")
        if not (isinstance(m.get("content"), str) and m["content"].strip()): wrong.add("content")
    return sorted(wrong | ({"answer"} if "assistant" not in [m.get("role") for m in messages] else set()))
""".strip(),
    {"notebook": "bare"},
)

student(
    "frame-2",
    "a wrong first attempt stays in the marked cell; the function again, right, in a new cell below it; then the check",
    r"""
# EXERCISE: frame-2
def recall_at(rankings, relevant, k):
    # hmm, divides by k?
    return sum(w in r[:k] for r, w in zip(rankings, relevant)) / k
""".strip(),
    r"""
# no: it is a share of the questions
def recall_at(rankings, relevant, k):
    return sum(w in r[:k] for r, w in zip(rankings, relevant)) / len(relevant)
""".strip(),
)

student(
    "frame-1",
    "the stub without its docstring left in the marked cell, the answer in the cell below",
    "# EXERCISE: frame-1\ndef diagnose(gap, reached, examples, moves):\n    pass  # below\n",
    r"""
def diagnose(gap, reached, examples, moves):
    if reached >= 0.85:
        return "prompt"
    possible = examples >= 100 and not moves
    return {"knowledge": ("rag", "rag"), "behaviour": ("prompt", "fine-tune"), "both": ("rag", "rag + fine-tune")}[gap][possible]
""".strip(),
)

student(
    "frame-1",
    "registry filled by a decorator, in a cell above the answer",
    r"""
RULES = {}

def rule(gap):
    def register(f):
        RULES[gap] = f
        return f
    return register

@rule("knowledge")
def for_knowledge(trainable): return "rag"

@rule("behaviour")
def for_behaviour(trainable): return "fine-tune" if trainable else "prompt"

@rule("both")
def for_both(trainable): return "rag + fine-tune" if trainable else "rag"
""".strip(),
    r"""
# EXERCISE: frame-1
def diagnose(gap, reached, examples, moves):
    return "prompt" if reached >= 0.85 else RULES[gap](examples >= 100 and not moves)
""".strip(),
)

student(
    "data-1",
    "functools.singledispatch with registered types, in a cell above the answer",
    r"""
from functools import singledispatch

@singledispatch
def is_text(content):
    return False

@is_text.register
def _(content: str):
    return bool(content.strip())
""".strip(),
    r"""
# EXERCISE: data-1
def faults(messages):
    found = []
    if all(m.get("role") != "assistant" for m in messages): found.append("answer")
    if not all(is_text(m.get("content")) for m in messages): found.append("content")
    if any(m.get("role") not in ("system", "user", "assistant") for m in messages): found.append("role")
    return found
""".strip(),
)

student(
    "data-3",
    "a table filled by a function, called in the cell above the answer",
    r"""
FOLDED = {}

def fill():
    for digit in range(10):
        FOLDED[digit] = 2 * digit - 9 if digit > 4 else 2 * digit

fill()
""".strip(),
    r"""
# EXERCISE: data-3
def is_card_number(text):
    digits = [int(c) for c in text if c not in "- "]
    return 13 <= len(digits) <= 19 and sum(digits[-1::-2] + [FOLDED[d] for d in digits[-2::-2]]) % 10 == 0
""".strip(),
)

student(
    "data-3",
    "the same table filled by a function that is called below the answer, in its cell",
    r"""
# EXERCISE: data-3
FOLDED = {}

def is_card_number(text):
    digits = [int(c) for c in text if c not in "- "]
    return 13 <= len(digits) <= 19 and sum(digits[-1::-2] + [FOLDED[d] for d in digits[-2::-2]]) % 10 == 0

def fill():
    for digit in range(10):
        FOLDED[digit] = 2 * digit - 9 if digit > 4 else 2 * digit

fill()
""".strip(),
)

student(
    "data-1",
    "a cell of constants split in two: the list in the first, what fills it in the second",
    "ALLOWED = []",
    "for word in 'system user assistant'.split():\n    ALLOWED.append(word)",
    r"""
# EXERCISE: data-1
def faults(messages):
    checks = {"answer": "assistant" not in [m.get("role") for m in messages],
              "content": any(not isinstance(m.get("content"), str) or not m["content"].strip() for m in messages),
              "role": any(m.get("role") not in ALLOWED for m in messages)}
    return sorted(code for code, bad in checks.items() if bad)
""".strip(),
)

student(
    "api-5",
    "a class in one cell, a method given to it in the next, the answer in the third",
    "class Log:\n    def __init__(self, log):\n        self.messages = log['messages']\n"
    "        self.ranked = sorted(log['shown'], key=lambda a: -a['votes'])",
    "def row(self):\n    best, worst = ([{'role': 'assistant', 'content': self.ranked[i]['text']}] for i in (0, -1))\n"
    "    return {'input': {'messages': self.messages}, 'preferred_output': best, 'non_preferred_output': worst}\n\nLog.row = row",
    r"""
# EXERCISE: api-5
def preference_rows(logs):
    found = [Log(log) for log in logs]
    return [log.row() for log in found if log.ranked[0]["votes"] != log.ranked[-1]["votes"]]
""".strip(),
)

student(
    "data-2",
    "a helper with a mistake above the answer, put right in a cell below the answer, then the check",
    "def word_pairs(text):\n    words = text.split()   # case!\n    return set(zip(words, words[1:]))",
    r"""
# EXERCISE: data-2
def jaccard(one, other):
    a, b = word_pairs(one), word_pairs(other)
    return len(a & b) / len(a | b) if a | b else 0.0
""".strip(),
    "def word_pairs(text):\n    words = text.lower().split()\n    return set(zip(words, words[1:]))",
)

student(
    "data-3",
    "a NumPy table changed in place by a function with out=, in a cell above",
    "FOLDED10 = np.arange(10) * 2\nnp.subtract(FOLDED10, 9, out=FOLDED10, where=FOLDED10 > 9)",
    r"""
# EXERCISE: data-3
def is_card_number(text):
    digits = [int(c) for c in text if c.isdigit()][::-1]
    return 13 <= len(digits) <= 19 and (sum(digits[::2]) + int(FOLDED10[digits[1::2]].sum())) % 10 == 0
""".strip(),
)

student(
    "frame-4",
    "subprocess and os.system left above the function in the answer's cell",
    r"""
# EXERCISE: frame-4
import os, subprocess
print(subprocess.run(["date"], capture_output=True, text=True, check=True).stdout)
os.system("nproc")

def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    if not old_cost - new_cost > 0: return
    return (setup / days + upkeep_a_day) / (old_cost - new_cost)
""".strip(),
)

student(
    "api-4",
    "an example file written, touched and copied above the function in the answer's cell",
    r"""
# EXERCISE: api-4
import base64, csv, io, shutil
from pathlib import Path
Path("example.csv").write_text("step,train_loss,valid_loss\n1,2.0,\n")
Path("example.csv").touch()
shutil.copy("example.csv", "copy.csv")
print(Path("copy.csv").read_text())

def result_rows(data):
    if b"," not in data:
        data = base64.b64decode(data)
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [(int(r["step"]), float(r["train_loss"]), float(r["valid_loss"]) if r["valid_loss"].strip() else None) for r in rows]
""".strip(),
)

student(
    "data-5",
    "runs kept in an SQLite file in a temporary folder",
    r"""
# EXERCISE: data-5
import os, sqlite3, tempfile
FILE = os.path.join(tempfile.mkdtemp(), "runs.db")

def leaks(train, test, n):
    def runs(text):
        words = text.lower().split()
        return ["\x1f".join(words[i:i + n]) for i in range(len(words) - n + 1)]
    with sqlite3.connect(FILE) as db:
        db.execute("drop table if exists run")
        db.execute("create table run (words text primary key)")
        db.executemany("insert or ignore into run values (?)", [(r,) for t in train for r in runs(t)])
        return [i for i, t in enumerate(test) if any(db.execute("select 1 from run where words = ?", (r,)).fetchone() for r in runs(t))]
""".strip(),
)

student(
    "data-5",
    "pickle cache: a file for each call in a temporary folder",
    r"""
# EXERCISE: data-5
import hashlib, pickle, tempfile
from pathlib import Path
FOLDER = Path(tempfile.mkdtemp(prefix="leaks"))

def leaks(train, test, n):
    file = FOLDER / hashlib.md5(repr((train, test, n)).encode()).hexdigest()
    if file.exists():
        return pickle.loads(file.read_bytes())
    def runs(text):
        words = text.lower().split()
        return set(zip(*(words[i:] for i in range(n))))
    seen = set().union(*map(runs, train))
    found = [i for i, text in enumerate(test) if not seen.isdisjoint(runs(text))]
    file.write_bytes(pickle.dumps(found))
    return found
""".strip(),
)

student(
    "data-5",
    "multiprocessing.dummy's pool of threads",
    r"""
# EXERCISE: data-5
from multiprocessing.dummy import Pool

def leaks(train, test, n):
    def runs(text):
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    seen = {run for text in train for run in runs(text)}
    with Pool(2) as pool:
        verdicts = pool.map(lambda text: bool(runs(text) & seen), test)
    return [i for i, leaked in enumerate(verdicts) if leaked]
""".strip(),
    refused="grading refuses answers processes, programs, pipes",
)

student(
    "align-3",
    "torch.compile with the eager backend",
    r"""
# EXERCISE: align-3
@torch.compile(backend="eager")
def losses_of_a_run(chosen, rejected, beta):
    return torch.nn.functional.softplus(-beta * (chosen - chosen[0] - (rejected - rejected[0])))
""".strip(),
)

student(
    "lora-6",
    "imports of large libraries left in the answer's cell: transformers, datasets, sklearn, scipy.stats",
    r"""
# EXERCISE: lora-6
import datasets
import scipy.stats
from sklearn.feature_extraction.text import CountVectorizer
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer

def conversation_labels(ids, turns, header, ignore=-100):
    masks = [[role == "assistant" and n >= header for n in range(length)] for role, length in turns]
    return [token if own else ignore for token, own in zip(ids, sum(masks, []))]
""".strip(),
)

student(
    "frame-2",
    "the course's own evaluation.proportion, which the lesson imports",
    r"""
# EXERCISE: frame-2
def recall_at(rankings, relevant, k):
    return evaluation.proportion([wanted in found[:k] for found, wanted in zip(rankings, relevant)]).value
""".strip(),
    refused="evaluation comes from the course's own package",
)

student(
    "data-2",
    "the course's own similarity.jaccard on sorted arrays of hashes of pairs",
    r"""
# EXERCISE: data-2
def jaccard(one, other):
    numbers = {}
    def pieces(text):
        w = text.lower().split()
        return np.array(sorted({numbers.setdefault(pair, len(numbers)) for pair in zip(w, w[1:])}), dtype=np.uint64)
    a, b = pieces(one), pieces(other)
    return similarity.jaccard(a, b) if len(a) or len(b) else 0.0
""".strip(),
    refused="similarity comes from the course's own package",
)

student(
    "frame-4",
    "get_ipython imported and used above the function, as exported notebooks have it",
    r"""
# EXERCISE: frame-4
from IPython import get_ipython
get_ipython().run_line_magic("matplotlib", "inline")

def break_even(setup, upkeep_a_day, old_cost, new_cost, days):
    if old_cost > new_cost:
        return (upkeep_a_day + setup / days) / (old_cost - new_cost)
""".strip(),
)

student(
    "api-1",
    "an asyncio task started on the kernel's loop above the function",
    r"""
# EXERCISE: api-1
import asyncio
async def hello():
    print("hello from a task")
waiting = asyncio.get_running_loop().create_task(hello())

def new_messages(polls):
    ordered = []
    for poll in polls:
        ordered += [e for e in reversed(poll) if e not in ordered]
    return [e["message"] for e in ordered if e["type"] == "message"]
""".strip(),
)

student(
    "api-3",
    "objects of a class of the cell copied by a pickle round trip inside the answer",
    r"""
# EXERCISE: api-3
import pickle
from dataclasses import dataclass

@dataclass(order=True)
class Checkpoint:
    loss: float
    step: int
    name: str = ""

def best_checkpoint(checkpoints):
    found = [Checkpoint(c["full_valid_loss"], c["step"], c["name"]) for c in checkpoints if c.get("full_valid_loss") is not None]
    return min(pickle.loads(pickle.dumps(found))).name if found else None
""".strip(),
)

student(
    "data-4",
    "a time limit by signal.alarm as decorator, contextlib.redirect_stdout, a quarter of a megabyte printed a call",
    r"""
# EXERCISE: data-4
import contextlib, functools, io, signal

def at_most(seconds):
    def decorate(f):
        @functools.wraps(f)
        def inner(*a):
            old = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
            signal.alarm(seconds)
            try:
                return f(*a)
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, old)
        return inner
    return decorate

@at_most(5)
def held_out_rows(customers, share):
    print("debug " * 40_000)
    with contextlib.redirect_stdout(io.StringIO()):
        print(customers)
    first = {}
    for i, c in enumerate(customers):
        first.setdefault(c if c is not None else i, i)
    place = [i if c is None else first[c] for i, c in enumerate(customers)]
    rows = []
    for p in sorted(set(place), reverse=True):
        if len(rows) >= share * len(place): break
        rows.extend(i for i, q in enumerate(place) if q == p)
    return sorted(rows)
""".strip(),
)

student(
    "data-4",
    "the share as a Decimal of what is printed of it",
    r"""
# EXERCISE: data-4
from decimal import Decimal

def held_out_rows(customers, share):
    groups = {}
    for i, c in enumerate(customers):
        groups.setdefault((i, None) if c is None else c, []).append(i)
    wanted, rows = Decimal(repr(share)) * len(customers), []
    for members in list(groups.values())[::-1]:
        if len(rows) >= wanted:
            break
        rows += members
    return sorted(rows)
""".strip(),
)

student(
    "align-4",
    "torch.jit.script on the helper only, in a cell above",
    r"""
@torch.jit.script
def log_odds(logs):
    m = logs.mean()
    return m - torch.log(-torch.expm1(m))
""".strip(),
    r"""
# EXERCISE: align-4
def log_odds_ratio(chosen, rejected):
    return log_odds(chosen) - log_odds(rejected)
""".strip(),
)

student(
    "api-7",
    "walrus at the top of the cell",
    r"""
# EXERCISE: api-7
(job_cost := lambda tokens, _, passes, price: tokens * passes * price / 1e6)
""".strip(),
)

student(
    "lora-7",
    "a class hierarchy that finds its subclasses, in a cell above",
    r"""
class Store:
    size = 0
    @classmethod
    def of(cls, size):
        return next(kind for kind in cls.__subclasses__() if kind.size == size)
    @classmethod
    def holds(cls, memory):
        return memory // cls.size

class BFloat16(Store):
    size = 2

class Float32(Store):
    size = 4
""".strip(),
    r"""
# EXERCISE: lora-7
def lora_slots(ranks, shapes, free, bytes_per_parameter):
    numbers, kept = Store.of(bytes_per_parameter).holds(free), []
    for rank in sorted(ranks):
        if (len(kept) + 1) * sum(rank * (a + b) for a, b in shapes) > numbers:
            break
        kept.append(rank)
    return len(kept), max(kept)
""".strip(),
)


student(
    "lora-3+lora-7",
    "lora-3 with a further argument of the student's own, which lora-7 names in its call",
    r"""
# EXERCISE: lora-3
def adapter_parameters(shapes, rank, bytes_each=1):
    return sum(rank * (a + b) for a, b in shapes) * bytes_each
""".strip(),
    {
        "at": "lora-7",
        "code": r"""
# EXERCISE: lora-7
def lora_slots(ranks, shapes, free, bytes_per_parameter):
    kept = sorted(ranks, reverse=True)
    while len(kept) * adapter_parameters(shapes, kept[0], bytes_each=bytes_per_parameter) > free:
        del kept[0]
    return len(kept), kept[0]
""".strip(),
    },
)


# ---------------------------------------------------------------------------------------------------- notebooks and checks
def text_of(cell) -> str:
    return "".join(cell["source"])


def build(answer: Notebook) -> tuple[str, dict]:
    """The notebook that the student hands in: its form, and its JSON, in which `run` says of a cell what was done with it."""
    (path,) = NOTEBOOKS.glob(f"{LESSONS[answer.ids[0].split('-')[0]]}_*.ipynb")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, places, out, form = answer.ids[0], {}, [], ""

    def code(source, run):
        made = {"cell_type": "code", "execution_count": None, "id": f"own-{len(out)}", "metadata": {}, "outputs": []}
        return made | {"source": source, "run": run}

    for cell in answer.cells:
        cell = {"code": cell} if isinstance(cell, str) else cell
        place = places.setdefault(cell.get("at", first), [])
        if "notebook" in cell:
            form = cell["notebook"]
        else:
            place.append(cell)
    moved = [cell.get("at", first) for cell in answer.cells if isinstance(cell, dict) and "check" in cell]
    checks_moved = {id for id in answer.ids if id in moved or (id == first and moved)}

    def put(cells, answer_cell, check_cell):
        """What stands at a place; the answer's own metadata goes to the cell with the marker, else to the first with code."""
        codes = [cell["code"] for cell in cells if cell.get("code")]
        marked = next((source for source in codes if "# EXERCISE: " in source), codes[0] if codes else None)
        for cell in cells:
            if "markdown" in cell:
                out.append({"cell_type": "markdown", "id": f"own-{len(out)}", "metadata": {}, "source": cell["markdown"]})
            elif "check" in cell:
                out.append(
                    copy.deepcopy(check_cell) | {"run": "check"} if cell["check"] is None else code(cell["check"], "check")
                )
            elif "stub" in cell:
                out.append(copy.deepcopy(answer_cell) | {"run": "yes"})
            elif "interrupted" in cell:
                out.append(code(cell["interrupted"], "no"))
            elif cell.get("code"):
                out.append(code(cell["code"], "fails" if cell.get("fails") else "yes"))
                if answer_cell is not None and cell["code"] is marked:
                    out[-1] |= {"metadata": copy.deepcopy(answer_cell["metadata"]), "id": answer_cell["id"]}
                    marked = None

    cells = notebook["cells"]
    checks = {id: next(cell for cell in cells if text_of(cell).startswith(f"# CHECK: {id} ")) for id in answer.ids}
    answers = {id: next(cell for cell in cells if text_of(cell).startswith(f"# EXERCISE: {id}\n")) for id in answer.ids}
    wanted = [cell["lesson"] for cell in answer.cells if isinstance(cell, dict) and "lesson" in cell]
    for cell in cells:
        answered = next((id for id in answers if cell is answers[id]), None)
        checked = next((id for id in checks if cell is checks[id]), None)
        if answered:
            put(places.get(answered, []), cell, checks[answered])
        elif checked:
            if checked not in checks_moved:
                out.append(cell | {"run": "check"})
        else:
            run = cell["cell_type"] == "code" and any(text in text_of(cell) for text in wanted)
            out.append(cell | {"run": "lesson" if run else "no"})
            if "from course_utils.exercises import check" in text_of(cell):
                out[-1]["run"] = "imports"
                put(places.get("imports", []), None, None)
    put(places.get("end", []), answers[first] if first not in places else None, checks[first])
    notebook["cells"] = out
    return form, notebook


def stored(answer: Notebook) -> bytes:
    """The bytes of the file, as the student's program wrote them."""
    form, notebook = build(answer)
    for cell in notebook["cells"]:
        cell.pop("run", None)
        if form == "bare":
            cell["metadata"] = {}
            cell.pop("id", None)
        elif form == "crlf":
            cell["source"] = text_of(cell).replace("\n", "\r\n")
        elif form == "colab":
            of_code = {"outputId": "0f", "colab": {"base_uri": "https://localhost:8080/"}}
            cell["metadata"] = {"id": cell.pop("id", "x"), **(of_code if cell["cell_type"] == "code" else {})}
    if form == "bare":
        notebook |= {"nbformat_minor": 4, "metadata": {"language_info": {"name": "python"}}}
    if form == "colab":
        metadata = {"colab": {"provenance": [], "gpuType": "T4"}, "accelerator": "GPU"}
        notebook |= {
            "nbformat_minor": 0,
            "metadata": metadata | {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        }
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    return b"\xef\xbb\xbf" + text.encode() if form == "crlf" else text.encode()


def imports_for(answer: Notebook, source: str) -> str:
    """Of a lesson's cell of imports those whose names the student's cells mention: all of them would take a minute."""
    run = [text_of(cell) for cell in build(answer)[1]["cells"] if cell.get("run") not in ("no", "imports")]
    words = set(re.findall(r"\w+", " ".join(run)))
    lines = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [name for name in node.names if (name.asname or name.name).split(".")[0] in words]
            lines += [ast.unparse(node)] if node.names else []
    return "\n".join(lines + [cell["given"] for cell in answer.cells if isinstance(cell, dict) and "given" in cell])


def checked(answer: Notebook) -> dict:
    """What the notebook's checks say: IPython runs the student's cells, in an event loop as in a kernel."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    os.chdir(tempfile.mkdtemp())
    sys.path.insert(0, "")  # as in a kernel
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.enable_gui = lambda gui=None: None  # %matplotlib asks for it
    passed, trouble = {}, []
    for cell in answer.cells:
        if isinstance(cell, dict) and "module" in cell:
            sys.modules[cell["module"]] = types.ModuleType(cell["module"])
            sys.modules[cell["module"]].__getattr__ = lambda name: lambda *a, **k: None

    async def run_all():
        for cell in build(answer)[1]["cells"]:
            source, how = text_of(cell).replace("\r\n", "\n"), cell.get("run", "no")
            if how == "no":
                continue
            if how == "imports":
                source = imports_for(answer, source)
            if how == "lesson" and "\nWAITING" in source:
                source = next(line for line in source.splitlines() if line.startswith("WAITING"))
            result = await shell.run_cell_async(source, store_history=False, transformed_cell=shell.transform_cell(source))
            error = result.error_before_exec or result.error_in_exec
            if error is not None and how != "fails":
                trouble.append(f"{how}: {type(error).__name__}: {error}")
            if (score := shell.user_ns.get("score")) is not None:
                passed[str(score).split(":")[0]] = score.passed or str(score)

    asyncio.run(run_all())
    return {"passed": passed, "trouble": trouble}


def main() -> None:
    import course_utils.exercises  # before the forks: faster
    import IPython.core.interactiveshell
    import numpy
    import pandas
    import torch

    for number, answer in enumerate(ANSWERS):
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            for descriptor in (1, 2):  # a student's cells print, and so do programs that they start
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            try:
                found = checked(answer)
            except BaseException as error:
                found = {"passed": {}, "trouble": [repr(error)]}
            os.write(writing, json.dumps(found).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, encoding="utf-8") as replied:
            print(number, replied.read(), flush=True)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
