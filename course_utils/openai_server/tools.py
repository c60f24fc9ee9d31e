"""Tools of a request: checked as the hosted API does, and as what an answer may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from course_utils.openai_server.errors import ApiError, invalid
from course_utils.openai_server.grammar import MOST_CALLS, Calls, Signature, of_json
from course_utils.openai_server.messages import described
from course_utils.openai_server.sampling import check_grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOOLS = 128
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}  # arguments of a function without parameters
COMBINED = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties"}
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind here."""

    model_config = ConfigDict(extra="allow")
    type: str
    function: Function | None = None


class Named(BaseModel):
    """A function by its name."""

    model_config = ConfigDict(extra="forbid")
    name: str


class Allowed(BaseModel):
    """Some of the tools, and whether one must be called."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_TOOLS)]


class Choose(BaseModel):
    """One function that must be called, or the tools that may be."""

    model_config = ConfigDict(extra="allow")  # of other kinds; refused by their type
    type: str
    function: Named | None = None
    allowed_tools: Allowed | None = None


class CalledFunction(BaseModel):
    """What was called, and with what."""

    model_config = ConfigDict(extra="allow")
    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call in an assistant's message of the conversation."""

    model_config = ConfigDict(extra="allow")
    id: str
    type: Literal["function"]
    function: CalledFunction


Tools = Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS)]
Functions = Annotated[list[Function], Field(min_length=1, max_length=MOST_TOOLS)]


@dataclass(frozen=True)
class Offer:
    """What a request offers: functions as they stand in the prompt, and what may be called of them.

    Attributes:
        described: for `messages.flatten`.
        calls: for `grammar.of_answer`; None where the request has no tools.
        deprecated: whether it was asked with `functions`, and is to be answered with `function_call`.
    """

    described: tuple[dict[str, Any], ...] = ()
    calls: Calls | None = None
    deprecated: bool = False


def offered(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool] | None,
    choice: str | Choose | None,
    parallel: bool | None,
) -> Offer:
    """Check `tools`, `tool_choice` and `parallel_tool_calls`.

    Raises:
        ApiError: what can't be, naming the parameter.
    """
    if not tools:
        for name, value in (("tool_choice", choice), ("parallel_tool_calls", parallel)):
            if value is not None:
                raise invalid(name, f"'{name}' is only allowed when 'tools' are specified.")
        return Offer()
    functions = [_function(tool, number) for number, tool in enumerate(tools)]
    places = [f"tools[{number}].function" for number in range(len(functions))]
    how, names = _chosen(choice, [function.name for function in functions])
    most = 1 if parallel is False or (isinstance(choice, Choose) and choice.type == "function") else MOST_CALLS
    return _offer(tokenizer, functions, places, how, names, most)


def offered_functions(
    tokenizer: PreTrainedTokenizerBase, functions: Sequence[Function] | None, call: str | Named | None, with_tools: bool
) -> Offer | None:
    """The same for `functions` and `function_call`, which `tools` took the place of; None if they are not used.

    Raises:
        ApiError: what can't be, naming the parameter.
    """
    if not functions:
        if call is not None:
            raise invalid("function_call", "'function_call' is only allowed when 'functions' are specified.")
        return None
    if with_tools:
        if call != "none":  # functions that can't be called change nothing
            raise invalid("functions", "'functions' and 'tools' can't be used together. Use 'tools'.")
        return None
    known = [function.name for function in functions]
    if isinstance(call, Named):
        if call.name not in known:
            raise invalid("function_call", f"Invalid value for 'function_call': no function named '{call.name}' was given.")
        how, names = "required", [call.name]
    elif call in (None, "auto", "none"):
        how, names = "auto", [] if call == "none" else known
    else:
        raise invalid("function_call", f"Invalid value for 'function_call': {call!r} is not 'none', 'auto' or a function.")
    places = [f"functions[{number}]" for number in range(len(functions))]
    offer = _offer(tokenizer, functions, places, how, names, most=1)
    return Offer(offer.described, offer.calls, deprecated=True)


def _function(tool: Tool, number: int) -> Function:
    if tool.type != "function":
        message = f"Invalid value: '{tool.type[:80]}'. Supported values are: 'function'."
        raise invalid(f"tools[{number}].type", message, "invalid_value")
    if tool.function is None:
        place = f"tools[{number}].function"
        raise invalid(place, f"Missing required parameter: '{place}'.", "missing_required_parameter")
    return tool.function


def _chosen(choice: str | Choose | None, known: list[str]) -> tuple[Literal["auto", "required"], list[str]]:
    """How to call, and what may be called."""
    if choice is None or choice == "auto":
        return "auto", known
    if choice == "none":
        return "auto", []
    if choice == "required":
        return "required", known
    if isinstance(choice, Choose) and choice.type == "function" and choice.function is not None:
        return "required", _known([choice.function.name], known, "tool_choice")
    if isinstance(choice, Choose) and choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        names = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in allowed.tools]
        return allowed.mode, _known([str(name.get("name")) for name in names], known, "tool_choice.allowed_tools.tools")
    raise invalid("tool_choice", "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or a function.")


def _known(names: list[str], known: list[str], param: str) -> list[str]:
    for name in names:
        if name not in known:
            raise invalid(param, f"Tool choice '{name[:80]}' not found in 'tools' parameter.")
    return names


def _offer(
    tokenizer: PreTrainedTokenizerBase,
    functions: Sequence[Function],
    places: Sequence[str],
    how: Literal["auto", "required"] | str,
    names: Sequence[str],
    most: int,
) -> Offer:
    seen: set[str] = set()
    signatures = []
    for function, place in zip(functions, places):
        if function.name in seen:
            raise invalid(f"{place}.name", f"Invalid '{place}.name': a function named '{function.name}' was given twice.")
        seen.add(function.name)
        if function.name in names:  # of one that can't be called no schema has to be followed
            signatures.append(_signature(tokenizer, function, place))
    calls = Calls(tuple(signatures), "required" if how == "required" else "auto", most)
    return Offer(tuple(described(function.model_dump()) for function in functions), calls)


def _signature(tokenizer: PreTrainedTokenizerBase, function: Function, place: str) -> Signature:
    def refused(why: str) -> ApiError:
        message = f"Invalid schema for function '{function.name}': {why}"
        return invalid(f"{place}.parameters", message, "invalid_function_parameters")

    given = function.parameters
    if given is None:
        return Signature(function.name, NOTHING)
    if (kind := given.get("type", "object")) != "object":
        raise refused(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{str(kind)[:80]}\"'.")
    if function.strict and (fault := _not_strict(given)):
        raise refused(fault)
    schema = {"type": "object", **(given if _combines(given) else _closed(given))}
    if fault := check_grammar(tokenizer, of_json(schema, lenient=not function.strict)):
        raise refused(fault)
    return Signature(function.name, schema, bool(function.strict))


def _not_strict(schema: Any, place: str = "()") -> str | None:
    """What keeps a schema from being strict: every object has to be closed, and all its properties required."""
    if isinstance(schema, list):
        return next((fault for part in schema if (fault := _not_strict(part, place))), None)
    if not isinstance(schema, dict):
        return None
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return f"In context={place}, 'additionalProperties' is required to be supplied and to be false."
        required = schema.get("required") if isinstance(schema.get("required"), list) else []
        for name in properties if isinstance(properties, dict) else ():
            if name not in (required or []):
                return (
                    f"In context={place}, 'required' is required to be supplied and to be an array including every key in "
                    f"properties. Missing '{name}'."
                )
    for key in ("properties", "$defs", "definitions"):
        inner = schema.get(key)
        for name, part in inner.items() if isinstance(inner, dict) else ():
            if fault := _not_strict(part, f"('{key}', '{name}')"):
                return fault
    for key in ("items", "anyOf"):
        if fault := _not_strict(schema.get(key), f"('{key}')"):
            return fault
    return None


def _combines(value: Any) -> bool:
    """Whether a schema has parts that together describe one object: closing one of them would close out the others."""
    if isinstance(value, dict):
        return bool(value.keys() & {"allOf", "patternProperties", "if", "unevaluatedProperties"}) or any(
            map(_combines, value.values())
        )
    return isinstance(value, list) and any(map(_combines, value))


def _closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those that it names, unless it says that they may.

    Whatever satisfies it satisfies the given one. A function is rarely glad of arguments that it does not know, and a small
    model fills what is open with noise.
    """
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(inner := schema.get(key), dict):
            made[key] = {name: _closed(part) for name, part in inner.items()}
    if isinstance(schema.get("items"), dict):
        made["items"] = _closed(schema["items"])
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list):
            made[key] = [_closed(part) for part in branches]
    if isinstance(schema.get("properties"), dict) and not schema.keys() & COMBINED:
        made.setdefault("additionalProperties", False)
    return made


# -- the conversation ---------------------------------------------------------------------------------------------------


def check_conversation(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every tool's answer belongs to a call, and every call has an answer before the conversation goes on.

    Raises:
        ApiError: in the hosted API's words.
    """
    waiting: list[str] | None = None  # calls without an answer; None where no call came before
    called: list[str] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if message["role"] == "tool":
            if waiting is None:
                words = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise invalid(f"{place}.role", f"Invalid parameter: {words}")
            answered = message.get("tool_call_id")
            if answered is None:
                words = f"Missing required parameter: '{place}.tool_call_id'."
                raise invalid(f"{place}.tool_call_id", words, "missing_required_parameter")
            if answered not in called:
                words = f"'tool_call_id' of '{answered}' not found in 'tool_calls' of previous message."
                raise invalid(f"{place}.tool_call_id", f"Invalid parameter: {words}")
            waiting = [one for one in waiting if one != answered]
            continue
        _all_answered(waiting, place)
        calls = message.get("tool_calls")
        if calls and message["role"] != "assistant":
            raise invalid(f"{place}.tool_calls", f"Invalid parameter: a message of the {message['role']} calls no tools.")
        called = [call["id"] for call in calls or ()]
        waiting = list(called) if calls else None
    _all_answered(waiting, f"messages[{len(messages) - 1}]")


def _all_answered(waiting: list[str] | None, place: str) -> None:
    if waiting:
        raise invalid(
            f"{place}.role",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
            f"The following tool_call_ids did not have response messages: {', '.join(waiting)}",
        )
