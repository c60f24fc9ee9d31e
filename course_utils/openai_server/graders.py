"""Graders of reinforcement fine-tuning: their requests checked as the hosted API types them, and the simple ones run.

A grader turns an answer into a number, usually from 0 to 1. Graders that compare texts are run here, alone or combined by a
formula. Those that need a model or run a stranger's code are checked and not run.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, ValidationError

from course_utils.openai_server.bodies import Strict, hosted_error
from course_utils.openai_server.errors import ApiError, invalid

Name = Annotated[str, Field(min_length=1, max_length=256)]
Metric = Literal[
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]
Message = dict[str, Any]


class StringCheck(Strict):
    """1 or 0: whether one text is, is not, or contains another."""

    type: Literal["string_check"]
    name: Name
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(Strict):
    """How alike two texts are."""

    type: Literal["text_similarity"]
    name: Name
    input: str
    reference: str
    evaluation_metric: Metric


class Python(Strict):
    """A program with a function `grade(sample, item)`."""

    type: Literal["python"]
    name: Name
    source: Annotated[str, Field(min_length=1, max_length=256 * 1024)]
    image_tag: str | None = None


class ScoreModel(Strict):
    """A model that gives a score."""

    type: Literal["score_model"]
    name: Name
    model: Annotated[str, Field(min_length=1)]
    input: Annotated[list[Message], Field(min_length=1)]
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: dict[str, Any] | None = None


class LabelModel(Strict):
    """A model that chooses a label; only inside a multi grader."""

    type: Literal["label_model"]
    name: Name
    model: Annotated[str, Field(min_length=1)]
    input: Annotated[list[Message], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)]
    passing_labels: list[str]


Single: TypeAlias = Annotated[StringCheck | TextSimilarity | Python | ScoreModel | LabelModel, Field(discriminator="type")]


def _one_or_several(value: Any) -> str:
    """Which of the two forms: graders by name, or a single one, which has a type."""
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "one" if isinstance(kind, str) else "several"


class Multi(Strict):
    """Several graders and the formula that combines their scores into one."""

    type: Literal["multi"]
    name: Name
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
    """The hyperparameters of reinforcement fine-tuning; their bounds are the API's (its specification of August 2026)."""

    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto | None = None
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto | None = None
    compute_multiplier: Annotated[float, Field(gt=1e-5, le=10)] | Auto | None = None
    eval_interval: Annotated[int, Field(ge=1)] | Auto | None = None
    eval_samples: Annotated[int, Field(ge=1)] | Auto | None = None
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None


class Reinforcement(Strict):
    """The settings of reinforcement fine-tuning."""

    grader: Grader
    hyperparameters: Hyperparameters | None = None


class Validate(Strict):
    """The body of a request to check a grader."""

    grader: Grader


class Run(Strict):
    """The body of a request to run a grader on one answer."""

    grader: Grader
    model_sample: str
    item: Any = None


def check_settings(settings: Mapping[str, Any] | None) -> Reinforcement:
    """Check the settings of a reinforcement job.

    Args:
        settings: the request's block "reinforcement".

    Raises:
        ApiError: something in them is missing, unknown or out of bounds, or the grader could not be used.
    """
    body = {"method": {"reinforcement": settings or {}}}
    try:
        checked = Reinforcement.model_validate(settings or {}, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        within = [{**one, "loc": ("method", "reinforcement", *one["loc"])} for one in details]
        raise hosted_error(within, body) from error
    check_grader(checked.grader)
    return checked


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
        _names_of(_formula(grader.calculate_output), grader.named())
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


def run(grader: Any, answer: str, item: Any) -> tuple[float, dict[str, float]]:
    """Grade an answer.

    Args:
        grader: a checked grader.
        answer: the model's text.
        item: the row of the training file, as an object.

    Returns:
        The reward, and the reward of each grader of a multi grader by name.

    Raises:
        ApiError: a grader of this type is not run here, or the formula cannot be computed.
    """
    check_grader(grader)
    if not isinstance(grader, Multi):
        return _single(grader, answer, item), {}
    parts = {name: _single(part, answer, item) for name, part in grader.named().items()}
    return _computed(_formula(grader.calculate_output), parts), parts


def _single(grader: Any, answer: str, item: Any) -> float:
    if isinstance(grader, StringCheck):
        return float(
            _OPERATIONS[grader.operation](_filled(grader.input, answer, item), _filled(grader.reference, answer, item))
        )
    if isinstance(grader, TextSimilarity) and grader.evaluation_metric == "fuzzy_match":
        return _fuzzy(_filled(grader.input, answer, item), _filled(grader.reference, answer, item))
    kind = grader.evaluation_metric if isinstance(grader, TextSimilarity) else grader.type
    message = (
        f"This server checks graders of the kind '{kind}' and does not run them; it runs 'string_check' and 'fuzzy_match'."
    )
    raise ApiError(400, message, param="grader", code="grader_not_run")


_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.lower() in text.lower(),
}


def _filled(text: str, answer: str, item: Any) -> str:
    """A text with its templates filled in; what is not there is empty, so that a comparison with it fails."""

    def value(match: re.Match[str]) -> str:
        space, path = _variable(match[1])
        current: Any = item if space == "item" else _sample(answer)
        for name in path:
            current = current.get(name) if isinstance(current, Mapping) else None
        return current if isinstance(current, str) else "" if current is None else json.dumps(current, ensure_ascii=False)

    return _TEMPLATE.sub(value, text)


def _sample(answer: str) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    return {"output_text": answer, "output_json": parsed}


def _fuzzy(one: str, other: str) -> float:
    """Share of characters in common, in order; the hosted service counts a little otherwise."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).ratio()


_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp, "sqrt": math.sqrt,
    "log": math.log,
}  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _formula(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise invalid("grader.calculate_output", f"Invalid grader: {text[:80]!r} is no formula.") from error


def _names_of(node: ast.expr, graders: Mapping[str, Any]) -> None:
    """Refuse a formula with anything but numbers, the graders' names, + - * / and a few functions."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return
        case ast.Name(id=name) if name in graders:
            return
        case ast.Name(id=name):
            raise invalid(
                "grader.calculate_output", f"Invalid grader: its formula uses {name[:60]!r}, which no grader is named."
            )
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _names_of(operand, graders)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _names_of(left, graders)
            return _names_of(right, graders)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]) if name in _FUNCTIONS:
            for argument in arguments:
                _names_of(argument, graders)
            return
    allowed = f"+ - * / and {', '.join(_FUNCTIONS)}"
    raise invalid("grader.calculate_output", f"Invalid grader: its formula may use numbers, graders, {allowed}.")


def _computed(node: ast.expr, values: Mapping[str, float]) -> float:
    try:
        result = float(_value(node, values))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise invalid("grader.calculate_output", f"The formula could not be computed: {error}.") from error
    if not math.isfinite(result):
        raise invalid("grader.calculate_output", "The formula could not be computed: its result is not finite.")
    return result


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            return _value(operand, values) * (-1 if isinstance(op, ast.USub) else 1)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name](*(_value(argument, values) for argument in arguments))
    raise ValueError("not a formula")
