"""Answers that must fit a JSON schema, without a server: the constrained decoding of the service for a list of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.batching import pad_token_id
from course_utils.generation import UNCHANGED_DISTRIBUTION, Conversation
from course_utils.openai_server.grammar import json_grammar
from course_utils.openai_server.sampling import Sampling, TokenSampler
from course_utils.scoring import chat_token_ids, output_embeddings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


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
    prompts = [
        chat_token_ids(tokenizer, [{"role": "user", "content": c}] if isinstance(c, str) else c, add_generation_prompt=True)
        for c in conversations
    ]
    pad, end = pad_token_id(tokenizer), int(tokenizer.eos_token_id)
    was_training = model.training
    model.eval()
    answers: list[str] = []
    contiguous = output_embeddings(model).register_forward_pre_hook(
        lambda _, args: (args[0].contiguous(),)
    )  # see `generation`
    for first in range(0, len(prompts), batch_size):
        rows = prompts[first : first + batch_size]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
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
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad,
                eos_token_id=end, logits_processor=LogitsProcessorList([only_allowed]), **UNCHANGED_DISTRIBUTION,
            )  # fmt: skip
        answers += tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
    contiguous.remove()
    model.train(was_training)
    return answers
