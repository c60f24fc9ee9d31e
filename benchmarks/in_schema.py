"""Constrained decoding without a server: what the service does for `response_format`, for a whole list of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.batching import pad_prompts, pad_token_id
from course_utils.generation import UNCHANGED_DISTRIBUTION, Conversation, prompt_token_ids, ready_to_generate
from course_utils.openai_server.constrained import json_grammar
from course_utils.openai_server.sampling import Sampling, TokenSampler

if TYPE_CHECKING:
    from course_utils.models import Model

    import torch
    from transformers import PreTrainedTokenizerBase


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
