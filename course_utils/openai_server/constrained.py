"""Answers that are constrained by a grammar: JSON that fits a schema, function calls, or text followed by calls.

A call is text in the tags that open models use (`messages` writes the same text for training): a line with the opening tag,
a line of JSON with name and arguments, and a line with the closing tag. `generate_in_schema` is the constrained decoding of
the service without a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from course_utils.batching import pad_prompts, pad_token_id
from course_utils.generation import UNCHANGED_DISTRIBUTION, Conversation, prompt_token_ids, ready_to_generate
from course_utils.openai_server.sampling import Sampling, TokenSampler

if TYPE_CHECKING:
    import torch
    from llguidance._lib import JsonCompileOptions
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


# JSON as json.dumps writes it, on one line with single spaces. A grammar that allows white space between tokens lets a small
# model fill its whole answer with it.
JSON_STYLE: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
CALL_START = "<tool_call>"
CALL_END = "\n</tool_call>"
MAX_CALLS = 16  # per answer: a model that does not know when to stop would call until its context is full


@dataclass(frozen=True)
class Signature:
    """A function that may be called.

    Attributes:
        name: its name.
        schema: JSON Schema of its arguments.
        strict: whether all keywords of the schema are enforced.
    """

    name: str
    schema: dict[str, Any]
    strict: bool = False


@dataclass(frozen=True)
class Calls:
    """The function calls that an answer may contain.

    Attributes:
        functions: the functions that may be called; empty for an answer that must not call.
        mode: "auto" for text, calls, or text followed by calls; "required" for calls and nothing else.
        max_calls: maximum number of calls in one answer.
    """

    functions: tuple[Signature, ...]
    mode: Literal["auto", "required"] = "auto"
    max_calls: int = MAX_CALLS


def call_header(name: str) -> str:
    """Return the text between the opening tag and the arguments of a call."""
    return f'\n{{"name": {json.dumps(name)}, "arguments": '


def json_grammar(schema: dict[str, Any], lenient: bool = False) -> str:
    """Return the grammar of JSON that satisfies a schema; with `lenient`, keywords that cannot be enforced are ignored."""
    return f"%llguidance {{}}\nstart: {_json_rule(schema, lenient)}\n"


def answer_grammar(schema: dict[str, Any] | None, calls: Calls | None) -> str | None:
    """Return the grammar of an answer, or None if the answer is unconstrained.

    Args:
        schema: JSON Schema of an answer that does not call; None for free text.
        calls: the calls that are allowed; None if the request has no tools.
    """
    if calls is None:
        return None if schema is None else json_grammar(schema)
    if not calls.functions:
        return json_grammar(schema) if schema is not None else _text_without_calls()
    rules = [*_call_rules(calls.functions), f"more: {json.dumps(chr(10) + CALL_START)} call"]
    more_calls = f" more{{0,{calls.max_calls - 1}}}" if calls.max_calls > 1 else ""
    only_calls = f"{json.dumps(CALL_START)} call{more_calls}"
    if calls.mode == "required":
        start = only_calls
    elif schema is not None:
        start = f"answer | {only_calls}"
        rules.append(f"answer: {_json_rule(schema, lenient=False)}")
    else:
        # Lazy: as soon as the tag has been written, a call must follow.
        start = f"TEXT | begun{more_calls}"
        rules += ["TEXT: /(.|\\n)*/", f"opening[lazy]: TEXT {json.dumps(CALL_START)}", "begun: opening call"]
    return "\n".join(["%llguidance {}", f"start: {start}", *rules, ""])


def _call_rules(functions: Sequence[Signature]) -> list[str]:
    call_rules = [
        f"call_{number}: {json.dumps(call_header(function.name))} {_json_rule(function.schema, not function.strict)} "
        f"{json.dumps('}' + CALL_END)}"
        for number, function in enumerate(functions)
    ]
    return ["call: " + " | ".join(f"call_{number}" for number in range(len(functions))), *call_rules]


def _text_without_calls() -> str:
    return f"%llguidance {{}}\nstart: TEXT\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{CALL_START}(.|\\n)*/\n"


def _json_rule(schema: dict[str, Any], lenient: bool) -> str:
    options = {**JSON_STYLE, **({"lenient": True} if lenient else {})}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"


def generate_in_schema(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    schema: Mapping[str, Any],
    max_new_tokens: int = 96,
    batch_size: int = 8,
) -> list[str]:
    """Answer each conversation with JSON that fits a schema, always with the likeliest token that the schema allows.

    An answer is incomplete, and then no valid JSON, only where `max_new_tokens` ends it; give texts a "maxLength" in the
    schema.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer, with a chat template.
        conversations: lists of messages, or plain strings (one user message each).
        schema: JSON Schema of an answer.
        max_new_tokens: maximum length of an answer, in tokens.
        batch_size: number of conversations in a batch.

    Returns:
        The answers as text, in the order of the conversations.

    Raises:
        CourseError: the schema cannot be enforced, or llguidance is missing.
    """
    import torch
    from transformers import LogitsProcessorList

    sampling = Sampling(temperature=0.0, grammar=json_grammar(dict(schema)))
    prompts = [prompt_token_ids(tokenizer, conversation) for conversation in conversations]
    pad, end = pad_token_id(tokenizer), int(tokenizer.eos_token_id)
    answers: list[str] = []
    with ready_to_generate(model):
        for first in range(0, len(prompts), batch_size):
            rows = prompts[first : first + batch_size]
            ids, mask = pad_prompts(rows, pad)
            samplers = [TokenSampler(sampling, tokenizer, {end}) for _ in rows]

            def only_allowed(_: torch.Tensor, scores: torch.Tensor, samplers: list[TokenSampler] = samplers) -> torch.Tensor:
                """Leave each row the one token that its grammar allows and the model likes best."""
                forced = torch.full_like(scores, float("-inf"))
                for row, sampler in enumerate(samplers):
                    token = end if sampler.finished else sampler.choose(scores[row].float(), int(scores[row].argmax())).id
                    forced[row, token] = 0.0
                return forced

            with torch.no_grad():
                written = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=pad,
                    eos_token_id=end,
                    logits_processor=LogitsProcessorList([only_allowed]),
                    **UNCHANGED_DISTRIBUTION,
                )
            answers += tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return answers
