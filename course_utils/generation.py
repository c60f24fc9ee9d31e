"""Batched generation from conversations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.batching import pad_prompts, pad_token_id
from course_utils.errors import CourseError
from course_utils.progress import ProgressLine
from course_utils.scoring import (
    cache_name,
    chat_token_ids,
    output_embeddings,
    shared_beginning,
    stop_token_ids,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model

# Prompts with the same instructions begin with the same tokens, which are computed once. Below this many it does not pay.
SHARED_TOKENS = 32
PATIENCE = 3.0  # seconds after which progress is shown

# A model's generation configuration may recommend settings that change its distribution; Qwen2.5's has a repetition penalty
# of 1.05, which makes JSON invalid, as its quotation marks are repetitions. Passed to `generate`, these put it out of force.
UNCHANGED_DISTRIBUTION: dict[str, Any] = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0, "min_new_tokens": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "bad_words_ids": None, "sequence_bias": None, "min_p": None,
    "typical_p": 1.0,
}  # fmt: skip

Conversation = Sequence[Mapping[str, Any]] | str  # messages, or the text of a single user message


def generate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = 25,
    seed: int = 0,
) -> list[str]:
    """Answer each conversation; the answers are returned in the order of the conversations.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer, with a chat template.
        conversations: lists of messages, or plain strings (one user message each).
        max_new_tokens: longest answer in tokens; an answer ends earlier at the stop token.
        temperature: 0 always takes the likeliest token (greedy, reproducible); above 0 samples.
        top_p: sample only from the likeliest tokens that together have this probability.
        batch_size: conversations per batch; they are sorted by length first, to keep padding low.
        seed: seed of the sampling.

    Returns:
        The answers' texts without special tokens.
    """
    prompts = [prompt_token_ids(tokenizer, conversation) for conversation in conversations]
    answers = complete(model, tokenizer, prompts, max_new_tokens, temperature, top_p, batch_size, seed)
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]


def complete(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = 25,
    seed: int = 0,
    stops: set[int] | None = None,
) -> list[list[int]]:
    """Answer prompts that are given as token ids, like `generate`, and return the answers as token ids.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        max_new_tokens: maximum length of an answer, in tokens.
        temperature, top_p, batch_size, seed: as for `generate`.
        stops: ids that end an answer; None for those of tokenizer and model.

    Returns:
        For each prompt the token ids of its answer, up to and including the stop token if the answer reaches it.

    Raises:
        CourseError: the temperature is negative, or prompt and answer are longer than the model's context.
    """
    import torch

    if temperature < 0:
        raise CourseError(f"temperature must not be negative, but it is {temperature}")
    longest, context = max(map(len, prompts), default=0), getattr(model.config, "max_position_embeddings", None)
    if context and longest + max_new_tokens > context:
        raise CourseError(
            f"the longest prompt has {longest:,} tokens, an answer up to {max_new_tokens:,}; together the model reads "
            f"at most {context:,}: shorten the prompt, or allow a shorter answer"
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    pad_id = pad_token_id(tokenizer)
    sampling = UNCHANGED_DISTRIBUTION | {"do_sample": False}
    if temperature:  # top_k 0: the whole distribution, not transformers' fifty likeliest tokens
        sampling |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    stops = stop_token_ids(model, tokenizer) if stops is None else stops
    answers: list[list[int]] = [[]] * len(prompts)
    if temperature:
        torch.manual_seed(seed)
    line = ProgressLine(len(order), "answer", PATIENCE)
    with ready_to_generate(model):
        shared = shared_beginning(prompts)
        shared = shared if shared >= SHARED_TOKENS else 0
        beginning = _beginning(model, prompts[0][:shared]) if shared else None
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            watch = _Watch(line, start, len(batch), max_new_tokens)
            ids, mask = pad_prompts([prompts[i] for i in batch], pad_id, shared)
            with torch.no_grad():
                output = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad_id,
                    eos_token_id=sorted(stops),
                    stopping_criteria=[watch],
                    **_repeated(cache_name(model), beginning, len(batch)),
                    **sampling,
                )
            for i, generated in zip(batch, output[:, ids.shape[1] :].tolist()):
                end = next((at for at, id in enumerate(generated, 1) if id in stops), len(generated))
                answers[i] = generated[:end]
    line.finish()
    return answers


class _Watch:
    """Shows progress after each token; transformers calls it to ask whether to stop, which it never says."""

    def __init__(self, line: ProgressLine, done: int, rows: int, tokens: int) -> None:
        self.line, self.done, self.rows, self.tokens, self.token = line, done, rows, tokens, 0

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        import torch

        self.token += 1
        # a batch's answers are ready together; while it runs, their share of the longest length counts
        self.line.update(self.done + int(self.rows * self.token / self.tokens))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def ready_to_generate(model: Model) -> Iterator[None]:
    """Put the model into evaluation mode inside the `with` block, with a faster head; afterwards it is as before.

    The head gets only the last position, a slice that is not contiguous; on a CPU it would copy its whole weight once per
    row of the batch.
    """
    was_training = model.training
    model.eval()
    contiguous = output_embeddings(model).register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    try:
        yield
    finally:
        contiguous.remove()
        model.train(was_training)


def _beginning(model: Model, ids: list[int]) -> Any:
    """Keys and values of one sequence, (1, heads, tokens, features) a layer."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=True, logits_to_keep=1).past_key_values


def _repeated(name: str, beginning: Any, rows: int) -> dict[str, Any]:
    """The argument with a copy for each row of a batch, as generation writes into it; none if there is no beginning."""
    if beginning is None:
        return {}
    cache = copy.deepcopy(beginning)
    cache.batch_repeat_interleave(rows)
    return {name: cache}


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """Return the token ids of a conversation, up to the place where the answer begins."""
    messages = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
    return chat_token_ids(tokenizer, messages, add_generation_prompt=True)
