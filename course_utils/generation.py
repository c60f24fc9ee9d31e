"""Batched generation from conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import chat_token_ids, output_embeddings, pad_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model

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
    prompts = [_prompt(tokenizer, conversation) for conversation in conversations]
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
) -> list[list[int]]:
    """Answer prompts that are given as token ids, like `generate`, and return the answers as token ids.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt.
        max_new_tokens: maximum length of an answer, in tokens.
        temperature, top_p, batch_size, seed: as for `generate`.

    Returns:
        For each prompt the token ids of its answer, up to and including the stop token if the answer reaches it.
    """
    import torch

    if temperature < 0:
        raise CourseError(f"temperature must not be negative, but it is {temperature}")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    pad_id = pad_token_id(tokenizer)
    # top_k 0: the whole distribution, not transformers' fifty likeliest tokens
    sampling: dict[str, float] = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    answers: list[list[int]] = [[]] * len(prompts)
    was_training = model.training
    model.eval()
    if temperature:
        torch.manual_seed(seed)
    # The head gets only the last position, a slice that is not contiguous; on a CPU it would copy its whole weight once per
    # row of the batch.
    contiguous = output_embeddings(model).register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            length = max(len(prompts[i]) for i in batch)
            ids = torch.full((len(batch), length), pad_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):  # padded on the left: generation continues at the end of the prompt
                ids[row, length - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, length - len(prompts[i]) :] = 1
            with torch.no_grad():
                output = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad_id,
                    **sampling,
                )
            for i, generated in zip(batch, output[:, length:].tolist()):
                end = generated.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in generated else len(generated)
                answers[i] = generated[:end]
    finally:
        contiguous.remove()
        model.train(was_training)
    return answers


def _prompt(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    messages = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
    return chat_token_ids(tokenizer, messages, add_generation_prompt=True)
