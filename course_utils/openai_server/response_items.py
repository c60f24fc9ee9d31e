"""The items of the Responses API's input, and their conversion into chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BeforeValidator, Field, model_validator

from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.errors import invalid


class Echoed(Strict):
    """An item that a client sends back as it received it.

    An empty field counts as none, and ids and statuses mean nothing.
    """

    id: Any = None
    status: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, value: Any) -> Any:
        return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value


class TextPart(Echoed):
    """A text in a message or in an output."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Any = None
    logprobs: Any = None


class RefusalPart(Echoed):
    """A refusal in a message."""

    type: Literal["refusal"]
    refusal: str


Content = str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]]


class MessageItem(Echoed):
    """A message of the conversation."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Any = None


class CallItem(Echoed):
    """A function call that the model has made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class OutputItem(Echoed):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


def _with_type(item: Any) -> Any:
    """An item without a type is a message."""
    return {"type": "message", **item} if isinstance(item, dict) else item


Item = Annotated[MessageItem | CallItem | OutputItem, Field(discriminator="type"), BeforeValidator(_with_type)]


def to_messages(new_items: str | Sequence[Item], previous: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append new items to the conversation, and return all of it as chat messages.

    Consecutive calls, also those after an assistant's text, become one message, as the model writes them.

    Args:
        new_items: a user's text, or items.
        previous: chat messages of the conversation so far.

    Raises:
        ApiError: a call has no output, or an output has no call.
    """
    messages = list(previous)
    if isinstance(new_items, str):
        messages.append({"role": "user", "content": new_items})
    else:
        for item in new_items:
            _add(messages, item)
    _check_calls(messages)
    return messages


def _add(messages: list[dict[str, Any]], item: MessageItem | CallItem | OutputItem) -> None:
    if isinstance(item, MessageItem):
        messages.append({"role": item.role, "content": _text(item.content)})
    elif isinstance(item, OutputItem):
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
    else:
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        if messages and messages[-1]["role"] == "assistant":
            last = messages.pop()  # replaced by a new message, so that those of earlier responses stay unchanged
            messages.append({**last, "tool_calls": [*(last.get("tool_calls") or ()), call]})
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: str | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that every output belongs to a call, and that every call has an output."""
    called: set[str] = set()
    unanswered: dict[str, None] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            called.add(call["id"])
            unanswered[call["id"]] = None
        if message["role"] == "tool":
            if message["tool_call_id"] not in called:
                _refuse("input", f"No tool call found for function call output with call_id {message['tool_call_id']}.")
            unanswered.pop(message["tool_call_id"], None)
    if unanswered:
        _refuse("input", f"No tool output found for function call {next(iter(unanswered))}.")


def _refuse(param: str, message: str) -> NoReturn:
    raise invalid(param, message, "invalid_value")
