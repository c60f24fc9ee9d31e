"""Graders of reinforcement fine-tuning: their requests checked as the hosted API types them, and the simple ones run.

A grader turns an answer into a number, usually from 0 to 1. Graders that compare texts are run here, alone or combined by a
formula. Those that need a model or run a stranger's code are checked and not run.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
import time
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, TypeAlias

from openai.types.graders import (
    LabelModelGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from pydantic import Discriminator, Field, Tag

from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.errors import ApiError, invalid


class StringCheck(StringCheckGrader, Strict):
    """1 or 0: whether one text is, is not, or contains another."""


class TextSimilarity(TextSimilarityGrader, Strict):
    """How alike two texts are."""


class Python(PythonGrader, Strict):
    """A program with a function `grade(sample, item)`."""


class ScoreModel(ScoreModelGrader, Strict):
    """A model that gives a score."""


class LabelModel(LabelModelGrader, Strict):
    """A model that chooses a label; only inside a multi grader."""


Single: TypeAlias = Annotated[StringCheck | TextSimilarity | Python | ScoreModel | LabelModel, Field(discriminator="type")]


def _one_or_several(value: Any) -> str:
    """Which of the two forms: graders by name, or a single one, which has a type."""
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "one" if isinstance(kind, str) else "several"


class Multi(Strict):
    """Several graders and the formula that combines their scores into one."""

    type: Literal["multi"]
    name: str
    graders: Annotated[
        Annotated[dict[str, Single], Tag("several")] | Annotated[Single, Tag("one")], Discriminator(_one_or_several)
    ]
    calculate_output: Annotated[str, Field(min_length=1, max_length=1000)]

    def named(self) -> dict[str, Any]:
        """Return the graders by the names that the formula uses; a single one has its own name."""
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader: TypeAlias = Annotated[StringCheck | TextSimilarity | Python | ScoreModel | Multi, Field(discriminator="type")]
Auto = Literal["auto"]


class Hyperparameters(Strict):
    """The hyperparameters that all methods have; their bounds are the API's (its specification of August 2026)."""

    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto | None = None
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto | None = None


class ReinforcementHyperparameters(Hyperparameters):
    """The hyperparameters of reinforcement fine-tuning."""

    compute_multiplier: Annotated[float, Field(gt=1e-5, le=10)] | Auto | None = None
    eval_interval: Annotated[int, Field(ge=1)] | Auto | None = None
    eval_samples: Annotated[int, Field(ge=1)] | Auto | None = None
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None


class Reinforcement(Strict):
    """The settings of reinforcement fine-tuning."""

    grader: Grader
    hyperparameters: ReinforcementHyperparameters | None = None


class Validate(Strict):
    """The body of a request to check a grader."""

    grader: Grader


class Run(Strict):
    """The body of a request to run a grader on one answer."""

    grader: Grader
    model_sample: str
    item: Any = None


ERRORS = (  # what the hosted API says of a run
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip
_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_VARIABLE = re.compile(r"(item|sample)((?:\.\w+)+)")
SAMPLE = ("output_text", "output_json", "output_tools", "choices", "output_audio")


def check_grader(grader: Any) -> None:
    """Check what types alone do not: templates, a formula and its names, a program's syntax.

    Raises:
        ApiError: the grader could not be used.
    """
    if isinstance(grader, Multi):
        for part in grader.named().values():
            check_grader(part)
        _formula(grader.calculate_output, grader.named())
    elif isinstance(grader, Python):
        _check_program(grader.source)
    elif isinstance(grader, LabelModel):
        if unknown := [label for label in grader.passing_labels if label not in grader.labels]:
            raise invalid("grader.passing_labels", f"Invalid grader: {unknown[0]!r} is not one of its labels.")
    elif isinstance(grader, (StringCheck, TextSimilarity)):
        for text in (grader.input, grader.reference):
            for template in _TEMPLATE.findall(text):
                _variable(template)


def _check_program(source: str) -> None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise invalid("grader.source", f"Invalid grader: its source is no Python ({error}).") from error
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
    if not functions or len(functions[0].args.args) != 2:
        raise invalid("grader.source", "Invalid grader: its source must define grade(sample, item).")


def _variable(template: str) -> tuple[str, list[str]]:
    match = _VARIABLE.fullmatch(template.strip())
    if not match:
        raise invalid("grader", f"Invalid grader: {{{{{template[:60]}}}}} must be {{{{item.NAME}}}} or {{{{sample.NAME}}}}.")
    space, path = match[1], match[2][1:].split(".")
    if space == "sample" and path[0] not in SAMPLE:
        raise invalid("grader", f"Invalid grader: sample has no {path[0][:60]!r}; it has {', '.join(SAMPLE)}.")
    return space, path


# -- running --------------------------------------------------------------------------------------------------------------


def run(grader: Any, answer: str, item: Any) -> dict[str, Any]:
    """Grade an answer.

    Args:
        grader: a grader.
        answer: the model's text.
        item: the row of the training file, as an object.

    Returns:
        The reply of the API: the reward, and the reward of each grader of a multi grader by name.

    Raises:
        ApiError: the grader could not be used, is of a type that is not run here, or its formula cannot be computed.
    """
    started = time.perf_counter()
    check_grader(grader)
    parts: dict[str, float] = {}
    if isinstance(grader, Multi):
        parts = {name: _score(part, answer, item) for name, part in grader.named().items()}
        reward = _computed(_formula(grader.calculate_output, parts), parts)
    else:
        reward = _score(grader, answer, item)
    return {
        "reward": reward,
        "sub_rewards": parts,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": dict.fromkeys(ERRORS, False),
            "execution_time": time.perf_counter() - started,
            "scores": parts or {grader.name: reward},
            "token_usage": None,
            "sampled_model_name": None,
        },
    }


def _score(grader: Any, answer: str, item: Any) -> float:
    kind = getattr(grader, "evaluation_metric", grader.type)
    if kind not in ("string_check", "fuzzy_match"):
        message = f"This server checks graders of the kind '{kind}' and does not run them; it runs 'string_check' and "
        raise ApiError(400, f"{message}'fuzzy_match'.", param="grader", code="grader_not_run")
    text, reference = _filled(grader.input, answer, item), _filled(grader.reference, answer, item)
    if isinstance(grader, StringCheck):
        return float(_OPERATIONS[grader.operation](text, reference))
    # the share of characters in common, in order; the hosted service counts a little otherwise
    return SequenceMatcher(None, text, reference, autojunk=False).ratio()


_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": operator.contains,
    "ilike": lambda text, reference: reference.lower() in text.lower(),
}


def _filled(text: str, answer: str, item: Any) -> str:
    """A text with its templates filled in; what is not there is empty, so that a comparison with it fails."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    spaces = {"item": item, "sample": {"output_text": answer, "output_json": parsed}}

    def value(match: re.Match[str]) -> str:
        space, path = _variable(match[1])
        current: Any = spaces[space]
        for name in path:
            current = current.get(name) if isinstance(current, Mapping) else None
        return current if isinstance(current, str) else "" if current is None else json.dumps(current, ensure_ascii=False)

    return _TEMPLATE.sub(value, text)


_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp, "sqrt": math.sqrt,
    "log": math.log,
}  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
Formula: TypeAlias = Callable[[Mapping[str, float]], float]  # scores of the graders by name → the reward


def _formula(text: str, graders: Mapping[str, Any]) -> Formula:
    """The function that a formula describes: of numbers, the graders' names, + - * / and a few functions."""
    try:
        return _compiled(ast.parse(text.strip(), mode="eval").body, graders)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise invalid("grader.calculate_output", f"Invalid grader: {text[:80]!r} is no formula.") from error


def _compiled(node: ast.expr, graders: Mapping[str, Any]) -> Formula:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return lambda scores: float(number)
        case ast.Name(id=name) if name in graders:
            return lambda scores: scores[name]
        case ast.Name(id=name):
            message = f"Invalid grader: its formula uses {name[:60]!r}, which no grader is named."
            raise invalid("grader.calculate_output", message)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            unsigned, factor = _compiled(operand, graders), -1 if isinstance(sign, ast.USub) else 1
            return lambda scores: factor * unsigned(scores)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            combine, first, second = _BINARY[type(op)], _compiled(left, graders), _compiled(right, graders)
            return lambda scores: combine(first(scores), second(scores))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]) if name in _FUNCTIONS:
            compiled = [_compiled(argument, graders) for argument in arguments]
            return lambda scores: _FUNCTIONS[name](*(argument(scores) for argument in compiled))
    allowed = f"+ - * / and {', '.join(_FUNCTIONS)}"
    raise invalid("grader.calculate_output", f"Invalid grader: its formula may use numbers, graders, {allowed}.")


def _computed(formula: Formula, scores: Mapping[str, float]) -> float:
    try:
        result = float(formula(scores))
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise invalid("grader.calculate_output", f"The formula could not be computed: {error}.") from error
    if not math.isfinite(result):
        raise invalid("grader.calculate_output", "The formula could not be computed: its result is not finite.")
    return result
