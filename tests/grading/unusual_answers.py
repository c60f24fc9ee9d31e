"""Right answers as learners write them: each has full marks in the notebook's check and in grading."""

from dataclasses import dataclass

from course_utils.exercises.definitions import strip_solution
from course_utils.exercises.registry import EXERCISES


@dataclass(frozen=True)
class Form:
    """A notebook with one answer.

    Attributes:
        id: the exercise.
        cell: the answer cell, its marker included unless it has one.
        before: code cells above it.
        later: code cells below it that were run before the check.
        unrun: code cells below it that were not.
    """

    id: str
    cell: str
    before: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    unrun: tuple[str, ...] = ()

    @property
    def answer(self):
        return self.cell if "EXERCISE:" in self.cell else f"# EXERCISE: {self.id}\n{self.cell}"

    @property
    def cells(self):
        return [*self.before, self.answer, *self.later, *self.unrun]


def solved(id):
    return EXERCISES[id].source()


def stub(id):
    return strip_solution(EXERCISES[id].source())


def form(id, cell, *before, later=(), unrun=()):
    return Form(id, cell, before, later, unrun)


PRICE = "t * e * p"
JOB = "def job_cost(t, v, e, p):\n"
BREAK = (
    "    if old_cost <= new_cost:\n        return None\n"
    "    return {}((setup / days + upkeep_a_day) / (old_cost - new_cost)){}\n"
)
BREAK_EVEN = "def break_even(setup, upkeep_a_day, old_cost, new_cost, days):\n"
RECALL = "[right in found[:k] for found, right in zip(rankings, relevant)]"
ERRORS = solved("frame-6").replace("def sort_errors", "def counted").replace("# EXERCISE: frame-6\n", "")
STALE = solved("frame-3").replace("def stale", "def shares_of").replace("# EXERCISE: frame-3\n", "")
DIAGNOSE = solved("frame-1").replace("def diagnose", "def said").replace("# EXERCISE: frame-1\n", "")
FORWARD = "x @ W.T + alpha / A.shape[0] * x @ A.T @ B.T"
LORA = "def lora_forward(x, W, A, B, alpha):\n    return "
LABEL = (
    "def conversation_labels(ids, turns, header, ignore=-100):\n"
    "    said = [role == 'assistant' and place >= header for role, length in turns for place in range(length)]\n"
)
LABELS = "[token if own else ignore for token, own in zip(ids, said)]"
BLOCK = (
    "def quantize_block(weights, values):\n    scale = weights.abs().max()\n"
    "    codes = (weights[:, None] / scale - values[None, :]).abs().argmin(dim=1)\n    return "
)
GAE = solved("align-7").replace("def advantages", "def in_order").replace("# EXERCISE: align-7\n", "")
FAULTS = solved("data-1").replace("def faults", "def codes").replace("# EXERCISE: data-1\n", "")
HELD = solved("data-4").replace("def held_out_rows", "def rows_of").replace("# EXERCISE: data-4\n", "")
DIGITS = (
    "    digits = np.array([int(c) for c in text if c.isdigit()][::-1])\n"
    "    digits[1::2] = 2 * digits[1::2] - 9 * (digits[1::2] > 4)\n"
)
CARD = "import numpy as np\ndef is_card_number(text):\n" + DIGITS
ROWS = solved("api-4").replace("def result_rows", "def rows_of").replace("# EXERCISE: api-4\n", "")
COUNT = "sum(rank * (a + b) for a, b in shapes)"

FORMS = {
    # what stands in other cells
    "constant-elsewhere": form("api-7", f"{JOB}    return {PRICE} / MILLION", "MILLION = 1e6\nprint(MILLION)"),
    "helper-elsewhere": form(
        "api-7",
        f"{JOB}    return dollars({PRICE})",
        "import operator\nMILLION = 10 ** 6",
        "def dollars(millionths):\n    return operator.truediv(millionths, MILLION)",
    ),
    "helper-below": form(
        "api-7", f"{JOB}    return dollars({PRICE})", later=("def dollars(millionths):\n    return millionths / 1e6",)
    ),
    "helper-written-twice": form(
        "api-7",
        f"{JOB}    return dollars({PRICE})",
        "def dollars(millionths):\n    return None",
        "def dollars(millionths):\n    return millionths / 1e6",
    ),
    "helper-in-a-cell-that-trains": form(
        "lora-3",
        "def adapter_parameters(shapes, rank):\n    return rank * total(shapes)",
        "from course_utils import assets\nmodel = assets\nhistory = [model]\ndef total(shapes):\n    return sum(map(sum, shapes))\n"
        "print(history)",
    ),
    "class-elsewhere": form(
        "lora-2",
        "def lora_forward(x, W, A, B, alpha):\n    return Layer(W, A, B, alpha)(x)",
        "from torch import nn",
        "class Layer(nn.Module):\n    def __init__(self, W, A, B, alpha):\n        super().__init__()\n"
        "        self.parts = W, A, B, alpha\n"
        f"    def forward(self, x):\n        W, A, B, alpha = self.parts\n        return {FORWARD}",
        later=(),
    ),
    "import-elsewhere": form("lora-2", f"{LORA}einsum('bi,oi->bo', x, W) + alpha / len(A) * x @ A.T @ B.T", "from torch import einsum"),
    "import-everything-elsewhere": form("align-7", f"from collections import Counter\n{GAE}\n"
        "def advantages(*a):\n    return [fsum([value]) for value in in_order(*a)]", "from math import *"),
    "decorator-elsewhere": form(
        "frame-4",
        f"@logged\n{BREAK_EVEN}{BREAK.format('', '')}",
        "import functools\n\ndef logged(function):\n    @functools.wraps(function)\n    def inner(*args, **more):\n"
        "        print(function.__name__, args)\n        return function(*args, **more)\n    return inner",
    ),
    "type-hints-elsewhere": form(
        "frame-4",
        f"def break_even(setup: float, upkeep_a_day: float, old_cost: float, new_cost: float, days: int = 30) -> Optional[float]:\n"
        f"{BREAK.format('', '')}",
        "from typing import Optional",
    ),
    "type-hint-of-the-lesson": form(
        "frame-4",
        f"def break_even(setup: Claim, upkeep_a_day, old_cost, new_cost, days):\n{BREAK.format('', '')}",
        "from course_utils.claims import Claim",
    ),
    "regular-expression-elsewhere": form(
        "data-3",
        "def is_card_number(text):\n    text = NOT_DIGITS.sub('', text)\n    if not 13 <= len(text) <= 19:\n        return False\n"
        "    digits = [int(c) for c in text[::-1]]\n    return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0",
        "import re\nNOT_DIGITS = re.compile(r'\\D')",
    ),
    "set-elsewhere-filled-by-a-loop": form(
        "api-1",
        "def new_messages(polls):\n    seen, found = set(SEEN), []\n    for event in (e for poll in polls for e in reversed(poll)):\n"
        "        if event['id'] not in seen and event['type'] not in SKIPPED:\n            found.append(event['message'])\n"
        "        seen.add(event['id'])\n    return found",
        "SEEN, SKIPPED = set(), set()\nfor word in 'metrics progress'.split():\n    SKIPPED.add(word)",
    ),
    "earlier-answer-of-ones-own": form(
        "lora-7",
        "def lora_slots(ranks, shapes, free, size):\n    ranks, one = sorted(ranks), adapter_parameters(shapes, 1) * size\n"
        "    number = sum(n * rank * one <= free for n, rank in enumerate(ranks, 1))\n    return number, ranks[number - 1]",
        solved("lora-3"),
    ),
    "helper-of-another-answer": form(
        "data-5",
        "def leaks(train, test, n):\n    seen = {run for text in train for run in runs(text, n)}\n"
        "    return [i for i, text in enumerate(test) if seen & runs(text, n)]",
        "# EXERCISE: data-2\ndef runs(text, n):\n    words = text.lower().split()\n    return {tuple(words[i:i + n]) for i in range(len(words) - n + 1)}\n"
        "def jaccard(one, other):\n    a, b = runs(one, 2), runs(other, 2)\n    return len(a & b) / len(a | b) if a | b else 0.0",
    ),
    "import-with-a-way-out": form(
        "api-6",
        solved("api-6").replace("    import json\n\n", "").replace("json.loads", "parser.loads"),
        "try:\n    import no_such_package as parser\nexcept ImportError:\n    import json as parser",
    ),
    # where the answer stands
    "stub-left-in-its-place": form("lora-3", stub("lora-3"), later=(f"def adapter_parameters(shapes, rank):\n    return {COUNT}",)),
    "stub-copied-below": form("lora-3", solved("lora-3"), unrun=(stub("lora-3"),)),
    "scratch-cell-with-the-marker-below": form(
        "lora-3", solved("lora-3"), later=("# EXERCISE: lora-3\nprint(adapter_parameters([(2, 3)], 1))",)
    ),
    "scratch-cell-with-the-marker-above": form("lora-3", solved("lora-3"), "# EXERCISE: lora-3\nshapes = [(2, 3)]"),
    "two-answers-in-a-cell": form("lora-3", solved("lora-3") + "\n\n" + solved("lora-7")),
    "two-answers-in-a-cell-second": form("lora-7", solved("lora-3") + "\n\n" + solved("lora-7")),
    # what stands beside the answer in its cell
    "prints-and-asserts-below": form("api-7", solved("api-7") + "\nprint(job_cost(9, 3, 2, 1))\nassert 1 == 2"),
    "display": form("api-7", f"{JOB}    display(p)\n    return {PRICE} / 1e6\n\ndisplay(job_cost(9, 3, 2, 1))"),
    "course-utils-above": form("frame-4", f"from course_utils import costs\nPRICES = costs.PRICES\n{solved('frame-4')}"),
    "check-in-the-cell": form("lora-3", solved("lora-3") + '\ncheck("lora-3", adapter_parameters)'),
    "line-magics": form("lora-3", f"%matplotlib inline\n!true\n{solved('lora-3')}\n%timeit -n1 -r1 adapter_parameters([(2, 3)], 1)\nx = !true"),
    "magics-in-a-block": form(
        "lora-3", f"if True:\n    %time x = 1\nfor _ in range(1):\n    %timeit -n1 -r1 1 + 1\n{solved('lora-3')}\nadapter_parameters?"
    ),
    "timed-cell": form("lora-6", f"%%time\n{solved('lora-6')}"),
    "captured-cell": form("lora-6", f"%%capture out\n{solved('lora-6')}"),
    "names-of-the-lesson-above": form("lora-6", f"print(tokenizer)\n{solved('lora-6')}", "from course_utils import assets\ntokenizer = assets"),
    "a-plot-below": form("align-4", f"{solved('align-4')}\nfigure = draw(log_odds_ratio)", "def draw(f):\n    return [f]"),
    "await-above": form("lora-6", f"import asyncio\nawait asyncio.sleep(0)\n{solved('lora-6')}"),
    # what kind of thing the answer is
    "lambda": form("lora-3", f"adapter_parameters = lambda shapes, rank: {COUNT}"),
    "partial": form("lora-3", f"from functools import partial\ndef _count(k, shapes, rank):\n    return {COUNT}\nadapter_parameters = partial(_count, 1)"),
    "called-object": form("frame-6", f"{ERRORS}\nclass Sorter:\n    def __call__(self, rows):\n        return counted(rows)\nsort_errors = Sorter()"),
    "static-method": form("frame-6", f"class Sorter:\n    @staticmethod\n    def sort(rows):\n        {ERRORS.replace(chr(10), chr(10) + '        ')}\n        return counted(rows)\nsort_errors = Sorter.sort"),
    "recursion": form("lora-3", "def adapter_parameters(shapes, rank):\n    return rank * sum(shapes[0]) + adapter_parameters(shapes[1:], rank) if shapes else 0"),
    "cached": form("lora-3", "from functools import lru_cache\n@lru_cache\ndef one(a, b, rank):\n    return rank * (a + b)\ndef adapter_parameters(shapes, rank):\n    return sum(one(*shape, rank) for shape in shapes)"),
    "global-state": form("lora-3", f"calls = 0\ndef adapter_parameters(shapes, rank):\n    global calls\n    calls += 1\n    return {COUNT}\nadapter_parameters.last = None"),
    "defaults-and-more-arguments": form("lora-3", f"def adapter_parameters(shapes, rank, *, verbose=False, **more):\n    return {COUNT}"),
    "renamed": form("lora-3", f"def mine(shapes, rank):\n    return {COUNT}\nadapter_parameters = mine\ndel mine"),
    # what it returns: scalars
    "decimal": form("api-7", f"from decimal import Decimal\n{JOB}    return Decimal({PRICE}) / 10**6"),
    "fraction": form("api-7", f"from fractions import Fraction\n{JOB}    return Fraction({PRICE}) / 10**6"),
    "numpy-float32": form("api-7", f"import numpy as np\n{JOB}    return np.float32({PRICE} / 1e6)"),
    "torch-float32": form("frame-4", f"import torch\n{BREAK_EVEN}{BREAK.format('torch.tensor(', ')')}"),
    "torch-float32-item": form("frame-2", f"import torch\ndef recall_at(rankings, relevant, k):\n    return torch.tensor({RECALL}).float().mean().item()"),
    "numpy-mean": form("frame-2", f"import numpy as np\ndef recall_at(rankings, relevant, k):\n    return np.mean({RECALL})"),
    "array-without-dimensions": form("frame-2", f"import numpy as np\ndef recall_at(rankings, relevant, k):\n    return np.asarray(np.mean({RECALL}))"),
    "pandas-scalar": form("frame-2", f"import pandas as pd\ndef recall_at(rankings, relevant, k):\n    return pd.Series({RECALL}).mean()"),
    "numpy-integer": form("lora-3", "import numpy as np\ndef adapter_parameters(shapes, rank):\n    return np.sum(shapes) * rank"),
    "torch-integer": form("lora-3", "import torch\ndef adapter_parameters(shapes, rank):\n    return torch.tensor(shapes).sum() * rank"),
    "numpy-bool": form("data-3", f"{CARD}    return np.bool_(13 <= len(digits) <= 19) & (digits.sum() % 10 == 0)"),
    "array-bool": form("data-3", f"{CARD}    return np.asarray(13 <= len(digits) <= 19 and digits.sum() % 10 == 0)"),
    "torch-bool": form("data-3", f"import torch\n{CARD}    return torch.tensor(bool(13 <= len(digits) <= 19 and digits.sum() % 10 == 0))"),
    "numpy-text": form("frame-1", f"import numpy as np\n{DIAGNOSE}\ndef diagnose(gap, reached, examples, moves):\n    return np.array([said(gap, reached, examples, moves)])[0]"),
    "enumeration": form("frame-1", f"from enum import Enum\nclass Try(str, Enum):\n    A = 'prompt'\n    B = 'rag'\n    C = 'fine-tune'\n    D = 'rag + fine-tune'\n{DIAGNOSE}\ndef diagnose(*situation):\n    return Try(said(*situation))"),
    # several values
    "list-for-tuple": form("frame-3", f"{STALE}\ndef stale(*a):\n    found = shares_of(*a)\n    return found and list(found)"),
    "array-for-tuple": form("frame-3", f"import numpy as np\n{STALE}\ndef stale(*a):\n    found = shares_of(*a)\n    return None if found is None else np.array(found)"),
    "namedtuple": form("frame-3", f"{STALE}\ndef stale(*a):\n    found = shares_of(*a)\n    return found and Shares(*found)", "from collections import namedtuple\nShares = namedtuple('Shares', 'right stale neither')"),
    "dataclass": form("frame-3", f"{STALE}\ndef stale(*a):\n    found = shares_of(*a)\n    return found and Shares(*found)", "from dataclasses import dataclass\n@dataclass\nclass Shares:\n    right: float\n    stale: float\n    neither: float"),
    "minus-nothing": form("frame-3", f"{STALE}\ndef stale(*a):\n    found = shares_of(*a)\n    return found and tuple(part or -0.0 for part in found)"),
    "array-for-list": form("align-7", f"import numpy as np\n{GAE}\ndef advantages(*a):\n    return np.array(in_order(*a))"),
    "float32-for-list": form("align-7", f"import torch\n{GAE}\ndef advantages(*a):\n    return torch.tensor(in_order(*a))"),
    "generator-for-list": form("align-7", f"{GAE}\ndef advantages(*a):\n    yield from in_order(*a)"),
    "map-for-list": form("align-7", f"{GAE}\ndef advantages(*a):\n    return map(float, in_order(*a))"),
    "pandas-for-list": form("align-7", f"import pandas as pd\n{GAE}\ndef advantages(*a):\n    return pd.Series(in_order(*a))"),
    "counter-for-dictionary": form("frame-6", f"from collections import Counter\n{ERRORS}\ndef sort_errors(rows):\n    return Counter(counted(rows))"),
    "dictionary-in-another-order": form("frame-6", f"import numpy as np\n{ERRORS}\ndef sort_errors(rows):\n    return {{name: np.int64(n) for name, n in sorted(counted(rows).items())}}"),
    "tensor-for-list": form("lora-6", f"import torch\n{LABEL}    return torch.tensor({LABELS})"),
    "tuple-for-list": form("lora-6", f"{LABEL}    return tuple({LABELS})"),
    "chain-for-list": form("lora-6", f"from itertools import chain\n{LABEL}    return chain(*([a] if b else [ignore] for a, b in zip(ids, said)))"),
    "numpy-integers-in-a-list": form("lora-6", f"import numpy as np\n{LABEL}    return list(np.array({LABELS}))"),
    "tensors-in-a-list": form("lora-6", f"import torch\n{LABEL}    return list(torch.tensor({LABELS}))"),
    "numpy-for-tensor": form("lora-2", f"import numpy as np\n{LORA}np.asarray({FORWARD})"),
    "list-for-tensor": form("lora-2", f"{LORA}({FORWARD}).tolist()"),
    "float32-for-float64": form("qlora-3", solved("qlora-3").replace("return values[codes.long()] * ", "return values.float()[codes.long()] * ")),
    "trained-tensor": form("lora-2", f"{LORA}({FORWARD}).requires_grad_()"),
    "other-integers": form("qlora-1", f"import torch\n{BLOCK}codes.to(torch.uint8), scale.item()"),
    "codes-as-a-list": form("qlora-1", f"{BLOCK}[codes.tolist(), scale.numpy()]"),
    "keys-for-list": form("data-5", "import numpy as np\n" + solved("data-5").replace("def leaks(", "def found_leaks(") + "\ndef leaks(*a):\n    return dict.fromkeys(found_leaks(*a)).keys()"),
    "filter-for-list": form("data-5", "def leaks(train, test, n):\n    def runs(text):\n        w = text.lower().split()\n        return {tuple(w[i:i + n]) for i in range(len(w) - n + 1)}\n    seen = set().union(*map(runs, train))\n    return filter(lambda i: runs(test[i]) & seen, range(len(test)))"),
    "deque-for-list": form("align-7", f"from collections import deque\n{GAE}\ndef advantages(*a):\n    return deque(in_order(*a))"),
    "reversed-for-list": form("align-7", f"{GAE}\ndef advantages(*a):\n    return reversed(in_order(*a)[::-1])"),
    "list-of-losses": form("align-3", "import math\ndef losses_of_a_run(chosen, rejected, beta):\n    return [math.log1p(math.exp(-beta * float(c - chosen[0] - r + rejected[0]))) for c, r in zip(chosen, rejected)]"),
    "array-of-texts": form("data-1", f"import numpy as np\n{FAULTS}\ndef faults(messages):\n    return np.unique(np.array(codes(messages), dtype=str))"),
    "array-of-rows": form("data-4", f"import numpy as np\n{HELD}\ndef held_out_rows(*a):\n    return np.array(rows_of(*a))"),
    "float-rows": form("data-4", f"import numpy as np\n{HELD}\ndef held_out_rows(*a):\n    return list(map(np.int64, rows_of(*a)))"),
    "numpy-keys": form("data-4", "import numpy as np\nfrom collections import defaultdict\ndef held_out_rows(customers, share):\n    groups, first = defaultdict(list), {}\n    for row, customer in enumerate(customers):\n        key = np.int64(row) if customer is None else first.setdefault(customer, np.int64(row))\n        groups[key].append(row)\n    rows = []\n    for key in sorted(groups, reverse=True):\n        if len(rows) >= share * len(customers):\n            break\n        rows += groups[key]\n    return sorted(rows)"),
    "generator-of-tuples": form("api-4", f"{ROWS}\ndef result_rows(data):\n    return (row for row in rows_of(data))"),
    "list-of-lists": form("api-4", f"{ROWS}\ndef result_rows(data):\n    return [list(row) for row in rows_of(data)]"),
    "list-of-dataclasses": form("api-4", f"{ROWS}\ndef result_rows(data):\n    return [Row(*row) for row in rows_of(data)]", "import dataclasses\nRow = dataclasses.make_dataclass('Row', ['step', 'train', 'valid'])"),
    "float-for-integer": form("api-4", solved("api-4").replace('(int(row["step"])', '(float(row["step"])')),
    "key-function-elsewhere": form("api-3", "def best_checkpoint(checkpoints):\n    found = [c for c in checkpoints if c.get(LOSS) is not None]\n    return NAME(min(found, key=ORDER)) if found else None", "from operator import itemgetter\nLOSS = 'full_valid_loss'", "NAME, ORDER = itemgetter('name'), itemgetter(LOSS, 'step')"),
}  # fmt: skip
