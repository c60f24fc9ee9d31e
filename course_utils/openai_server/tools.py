"""Tools of a request: checked as the hosted API checks them, and turned into the calls that an answer may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.constrained import MAX_CALLS, Calls, Signature, json_grammar
from course_utils.openai_server.errors import invalid
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


def allowed_calls(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool] | None,
    choice: str | ChatToolChoice | None,
    parallel: bool | None,
) -> Calls | None:
    """Check `tools`, `tool_choice` and `parallel_tool_calls`, and return the calls that they allow, or None without tools.

    Raises:
        ApiError: a value is invalid; the error names the parameter.
    """
    if not tools:
        for name, value in (("tool_choice", choice), ("parallel_tool_calls", parallel)):
            if value is not None:
                raise invalid(name, f"'{name}' is only allowed when 'tools' are specified.")
        return None
    declared = [tool.function.name for tool in tools]
    for number, name in enumerate(declared):
        if name in declared[:number]:
            path = f"tools[{number}].function.name"
            raise invalid(path, f"Invalid '{path}': a function named '{name}' was given twice.")
    mode, names = _chosen(choice, declared)
    # the schema of a function that can't be called is not needed
    callable_ = [(number, tool.function) for number, tool in enumerate(tools) if tool.function.name in names]
    signatures = tuple(_signature(tokenizer, function, f"tools[{number}].function") for number, function in callable_)
    one = parallel is False or (isinstance(choice, ChatToolChoice) and choice.type == "function")
    return Calls(signatures, mode, 1 if one else MAX_CALLS)


def _chosen(choice: str | ChatToolChoice | None, declared: list[str]) -> tuple[Literal["auto", "required"], list[str]]:
    """Mode of calling, and the names of the functions that may be called."""
    match choice:
        case None | "auto":
            return "auto", declared
        case "none":
            return "auto", []
        case "required":
            return "required", declared
        case ChatToolChoice(type="function", function=FunctionName(name=name)):
            return "required", _check_declared([name], declared, "tool_choice")
        case ChatToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=tools)):
            functions = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in tools]
            names = [str(function.get("name")) for function in functions]
            return mode, _check_declared(names, declared, "tool_choice.allowed_tools.tools")
    raise invalid("tool_choice", "Invalid value for 'tool_choice': expected 'none', 'auto', 'required' or a function.")


def _check_declared(names: list[str], declared: list[str], param: str) -> list[str]:
    if unknown := [name for name in names if name not in declared]:
        raise invalid(param, f"Tool choice '{unknown[0][:80]}' not found in 'tools' parameter.")
    return names


def _signature(tokenizer: PreTrainedTokenizerBase, function: Function, path: str) -> Signature:
    """A function with the schema of its arguments, which may have only the properties that the schema names.

    Whatever satisfies the closed schema satisfies the given one. Functions can rarely use arguments that they do not know,
    and a small model fills an open object with noise.
    """
    parameters = function.parameters
    if parameters is None:
        return Signature(function.name, NO_ARGUMENTS)
    schema = {"type": "object", **parameters}
    if isinstance(schema.get("properties"), dict) and not schema.keys() & COMBINING_KEYWORDS:
        schema.setdefault("additionalProperties", False)
    if schema["type"] != "object":
        problem = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{str(schema['type'])[:80]}\"'."
    else:
        problem = check_grammar(tokenizer, json_grammar(schema, lenient=not function.strict)) or ""
    if problem:
        message = f"Invalid schema for function '{function.name}': {problem}"
        raise invalid(f"{path}.parameters", message, "invalid_function_parameters")
    return Signature(function.name, schema, bool(function.strict))


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
