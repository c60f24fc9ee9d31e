"""From conversations to token ids: functions shared by the objectives, with errors that name the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError, TooLong
from course_utils.scoring import chat_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def messages_of(example: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Return the messages under a key of an example, after checking them.

    A text stands for one message: in a prompt the user's, elsewhere the assistant's.

    Args:
        example: an example in the user's format.
        key: "prompt", "chosen", "rejected" or "completion".
        where: name of the example in error messages.

    Raises:
        CourseError: there is neither a text nor a list of messages, or a message has no role or no text.
    """
    messages = example.get(key) if isinstance(example, dict) else None
    if isinstance(messages, str):
        messages = [{"role": "user" if key == "prompt" else "assistant", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise CourseError(f"{where}: expected messages or a text under {key!r}, found {messages!r:.60}")
    return check_messages(messages, f"{where}, {key}")


def check_messages(messages: list[Any], where: str) -> list[dict[str, Any]]:
    """Return the messages unchanged, after checking that each has a role and a text.

    Raises:
        CourseError: a message has no role, or its content is not a text.
    """
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise CourseError(f"{where}, message {number}: expected {{'role': ..., 'content': text}}, found {message!r:.80}")
    return messages


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], max_length: int, where: str
) -> list[int]:
    """Return the token ids of a prompt, up to the place where the assistant's answer begins.

    Raises:
        TooLong: the prompt leaves no room for an answer within `max_length` tokens.
    """
    prompt = chat_token_ids(tokenizer, messages, add_generation_prompt=True)
    if len(prompt) >= max_length:
        raise TooLong(
            f"{where}: the prompt alone has {len(prompt)} tokens and max_length is {max_length}; "
            f"raise Settings(max_length=...) above it or shorten the message",
            len(prompt),
            max_length,
        )
    return prompt


def encode_completion(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    messages: Sequence[Mapping[str, Any]],
    max_length: int,
    where: str,
) -> list[int]:
    """Return the token ids of the last message, which must be the assistant's, up to and including the stop token.

    Args:
        tokenizer: a tokenizer with a chat template.
        prompt: token ids of the messages before it, from `encode_prompt`.
        messages: the whole conversation.
        max_length: maximum length of prompt and answer together, in tokens; a longer answer is cut.
        where: name of the example in error messages.

    Raises:
        CourseError: the last message is not the assistant's or is empty, or the chat template changes the prompt.
    """
    if messages[-1]["role"] != "assistant":
        raise CourseError(f"{where}: the last message must be the assistant's, but it is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise CourseError(f"{where}: the assistant's message is empty, so there is nothing to learn")
    ids = chat_token_ids(tokenizer, messages)
    if ids[: len(prompt)] != prompt:
        raise CourseError(f"{where}: the chat template changes the prompt once an answer follows it")
    completion = ids[len(prompt) :]
    while completion and completion[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id in completion:
        completion.pop()  # templates put a newline after the stop token; nothing is learned from it
    return completion[: max_length - len(prompt)]
