"""Tools of a request: checked as the hosted API checks them, and turned into the calls that an answer may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from course_utils.openai_server.bodies import invalid
from course_utils.openai_server.chat import ChatToolChoice, Function, Tool, ToolMode
from course_utils.openai_server.constrained import MAX_CALLS, Calls, Signature, json_grammar
from course_utils.openai_server.sampling import check_grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# schema for a function without parameters
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
COMBINING_KEYWORDS = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "unevaluatedProperties"}


def allowed_calls(
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Tool] | None,
    choice: ToolMode | ChatToolChoice | None,
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
    named = choice.function.name if isinstance(choice, ChatToolChoice) else None
    if named is not None and named not in declared:
        raise invalid("tool_choice", f"Tool choice '{named[:80]}' not found in 'tools' parameter.")
    # the schema of a function that can't be called is not needed
    callable_ = [] if choice == "none" else [pair for pair in enumerate(tools) if named in (None, pair[1].function.name)]
    signatures = tuple(_signature(tokenizer, tool.function, f"tools[{number}].function") for number, tool in callable_)
    mode: Literal["auto", "required"] = "required" if named is not None or choice == "required" else "auto"
    return Calls(signatures, mode, 1 if named is not None or parallel is False else MAX_CALLS)


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
    answered: dict[str, bool] = {}  # id of each call of the last message but its results → whether it has one
    for number, message in enumerate((*messages, {"role": "end"})):
        path = f"messages[{min(number, len(messages) - 1)}]"
        if message["role"] == "tool":
            if not answered:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise invalid(f"{path}.role", f"Invalid parameter: {text}")
            if message["tool_call_id"] not in answered:
                text = f"'tool_call_id' of '{message['tool_call_id']}' not found in 'tool_calls' of previous message."
                raise invalid(f"{path}.tool_call_id", f"Invalid parameter: {text}")
            answered[message["tool_call_id"]] = True
        elif unanswered := [call_id for call_id, done in answered.items() if not done]:
            raise invalid(
                f"{path}.role",
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(unanswered)}",
            )
        else:
            answered = {call["id"]: False for call in message.get("tool_calls") or ()}
