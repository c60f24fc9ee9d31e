"""Tools of a request: checked as the hosted API checks them, and turned into the calls that an answer may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.constrained import MAX_CALLS, Calls, Signature, json_grammar
from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.messages import described
from course_utils.openai_server.sampling import check_grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOOLS = 128
# schema for a function without parameters
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
COMBINING_KEYWORDS = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties"}
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Strict):
    """A function that the model may call, with the schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; functions are the only kind here."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """A function, given by its name."""

    name: str


class AllowedTools(Strict):
    """Some of the request's tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_TOOLS)]


class ChatToolChoice(Strict):
    """One function that must be called, or the tools that may be called.

    Other kinds are refused as a whole, under `tool_choice`.
    """

    type: str
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None
    custom: Any = None


class CalledFunction(Strict):
    """The function that was called, and its arguments."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A tool call in an assistant's message of the conversation."""

    id: str
    type: Literal["function"]
    function: CalledFunction


Tools = Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)]
Functions = Annotated[list[Function], Field(min_length=1, max_length=MAX_TOOLS)]


@dataclass(frozen=True)
class Offer:
    """The functions that a request offers to the model.

    Attributes:
        described: the functions as the prompt describes them, for `messages.flatten`.
        calls: the calls that are allowed, for `constrained.answer_grammar`; None if the request has no tools.
        deprecated: whether the request used `functions`, so that the answer must use `function_call`.
    """

    described: tuple[dict[str, Any], ...] = ()
    calls: Calls | None = None
    deprecated: bool = False


def offered(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool] | None,
    choice: str | ChatToolChoice | None,
    parallel: bool | None,
) -> Offer:
    """Check `tools`, `tool_choice` and `parallel_tool_calls`, and return the functions that they offer.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    if not tools:
        for name, value in (("tool_choice", choice), ("parallel_tool_calls", parallel)):
            if value is not None:
                raise invalid(name, f"'{name}' is only allowed when 'tools' are specified.")
        return Offer()
    functions = [tool.function for tool in tools]
    paths = [f"tools[{number}].function" for number in range(len(functions))]
    mode, names = _chosen(choice, [function.name for function in functions])
    max_calls = 1 if parallel is False or (isinstance(choice, ChatToolChoice) and choice.type == "function") else MAX_CALLS
    return _offer(tokenizer, functions, paths, mode, names, max_calls)


def offered_functions(
    tokenizer: PreTrainedTokenizerBase,
    functions: Sequence[Function] | None,
    call: str | FunctionName | None,
    with_tools: bool,
) -> Offer | None:
    """Check `functions` and `function_call`, which `tools` has replaced, and return what they offer, or None.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    if not functions:
        if call is not None:
            raise invalid("function_call", "'function_call' is only allowed when 'functions' are specified.")
        return None
    if with_tools:
        if call != "none":  # functions that can't be called change nothing
            raise invalid("functions", "'functions' and 'tools' can't be used together. Use 'tools'.")
        return None
    declared = [function.name for function in functions]
    if isinstance(call, FunctionName):
        if call.name not in declared:
            raise invalid("function_call", f"Invalid value for 'function_call': no function named '{call.name}' was given.")
        mode, names = "required", [call.name]
    elif call in (None, "auto", "none"):
        mode, names = "auto", [] if call == "none" else declared
    else:
        raise invalid("function_call", f"Invalid value for 'function_call': {call!r} is not 'none', 'auto' or a function.")
    paths = [f"functions[{number}]" for number in range(len(functions))]
    offer = _offer(tokenizer, functions, paths, mode, names, max_calls=1)
    return Offer(offer.described, offer.calls, deprecated=True)


def _chosen(choice: str | ChatToolChoice | None, declared: list[str]) -> tuple[Literal["auto", "required"], list[str]]:
    """Mode of calling, and the names of the functions that may be called."""
    if choice is None or choice == "auto":
        return "auto", declared
    if choice == "none":
        return "auto", []
    if choice == "required":
        return "required", declared
    if isinstance(choice, ChatToolChoice) and choice.type == "function" and choice.function is not None:
        return "required", _check_declared([choice.function.name], declared, "tool_choice")
    if isinstance(choice, ChatToolChoice) and choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        names = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in allowed.tools]
        return allowed.mode, _check_declared(
            [str(name.get("name")) for name in names], declared, "tool_choice.allowed_tools.tools"
        )
    raise invalid("tool_choice", "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or a function.")


def _check_declared(names: list[str], declared: list[str], param: str) -> list[str]:
    for name in names:
        if name not in declared:
            raise invalid(param, f"Tool choice '{name[:80]}' not found in 'tools' parameter.")
    return names


def _offer(
    tokenizer: PreTrainedTokenizerBase,
    functions: Sequence[Function],
    paths: Sequence[str],
    mode: Literal["auto", "required"] | str,
    names: Sequence[str],
    max_calls: int,
) -> Offer:
    offered_names: set[str] = set()
    signatures = []
    for function, path in zip(functions, paths):
        if function.name in offered_names:
            raise invalid(f"{path}.name", f"Invalid '{path}.name': a function named '{function.name}' was given twice.")
        offered_names.add(function.name)
        if function.name in names:  # the schema of a function that can't be called is not needed
            signatures.append(_signature(tokenizer, function, path))
    calls = Calls(tuple(signatures), "required" if mode == "required" else "auto", max_calls)
    return Offer(tuple(described(function.model_dump()) for function in functions), calls)


def _signature(tokenizer: PreTrainedTokenizerBase, function: Function, path: str) -> Signature:
    def schema_error(reason: str) -> ApiError:
        message = f"Invalid schema for function '{function.name}': {reason}"
        return invalid(f"{path}.parameters", message, "invalid_function_parameters")

    parameters = function.parameters
    if parameters is None:
        return Signature(function.name, NO_ARGUMENTS)
    if (type_ := parameters.get("type", "object")) != "object":
        raise schema_error(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{str(type_)[:80]}\"'.")
    if function.strict and (problem := _not_strict(parameters)):
        raise schema_error(problem)
    schema = {"type": "object", **(parameters if _combines(parameters) else _closed(parameters))}
    if problem := check_grammar(tokenizer, json_grammar(schema, lenient=not function.strict)):
        raise schema_error(problem)
    return Signature(function.name, schema, bool(function.strict))


def _not_strict(schema: Any, path: str = "()") -> str | None:
    """Return why a schema is not strict: every object must be closed, and all its properties required."""
    if isinstance(schema, list):
        return next((problem for part in schema if (problem := _not_strict(part, path))), None)
    if not isinstance(schema, dict):
        return None
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return f"In context={path}, 'additionalProperties' is required to be supplied and to be false."
        required = schema.get("required") if isinstance(schema.get("required"), list) else []
        for name in properties if isinstance(properties, dict) else ():
            if name not in (required or []):
                return (
                    f"In context={path}, 'required' is required to be supplied and to be an array including every key in "
                    f"properties. Missing '{name}'."
                )
    for key in ("properties", "$defs", "definitions"):
        inner = schema.get(key)
        for name, part in inner.items() if isinstance(inner, dict) else ():
            if problem := _not_strict(part, f"('{key}', '{name}')"):
                return problem
    for key in ("items", "anyOf"):
        if problem := _not_strict(schema.get(key), f"('{key}')"):
            return problem
    return None


def _combines(value: Any) -> bool:
    """Whether parts of a schema describe one object together: closing one part would rule out what the others allow."""
    if isinstance(value, dict):
        return bool(value.keys() & {"allOf", "patternProperties", "if", "unevaluatedProperties"}) or any(
            map(_combines, value.values())
        )
    return isinstance(value, list) and any(map(_combines, value))


def _closed(schema: Any) -> Any:
    """Close a schema: its objects may have only the properties that it names, unless it explicitly allows others.

    Whatever satisfies the closed schema satisfies the given one. Functions can rarely use arguments that they do not know,
    and a small model fills open objects with noise.
    """
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(inner := schema.get(key), dict):
            closed[key] = {name: _closed(part) for name, part in inner.items()}
    if isinstance(schema.get("items"), dict):
        closed["items"] = _closed(schema["items"])
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list):
            closed[key] = [_closed(part) for part in branches]
    if isinstance(schema.get("properties"), dict) and not schema.keys() & COMBINING_KEYWORDS:
        closed.setdefault("additionalProperties", False)
    return closed


# -- the conversation ---------------------------------------------------------------------------------------------------


def check_conversation(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every tool result belongs to a call, and that every call has a result before the conversation goes on.

    Raises:
        ApiError: one of them is missing; the error has the hosted API's words.
    """
    unanswered: list[str] | None = None  # ids of calls without a result; None if there was no call before
    called: list[str] = []
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        if message["role"] == "tool":
            if unanswered is None:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise invalid(f"{path}.role", f"Invalid parameter: {text}")
            call_id = message["tool_call_id"]
            if call_id not in called:
                text = f"'tool_call_id' of '{call_id}' not found in 'tool_calls' of previous message."
                raise invalid(f"{path}.tool_call_id", f"Invalid parameter: {text}")
            unanswered = [pending_id for pending_id in unanswered if pending_id != call_id]
            continue
        _check_all_answered(unanswered, path)
        calls = message.get("tool_calls")
        called = [call["id"] for call in calls or ()]
        unanswered = list(called) if calls else None
    _check_all_answered(unanswered, f"messages[{len(messages) - 1}]")


def _check_all_answered(unanswered: list[str] | None, path: str) -> None:
    if unanswered:
        raise invalid(
            f"{path}.role",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
            f"The following tool_call_ids did not have response messages: {', '.join(unanswered)}",
        )
