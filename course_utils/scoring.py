"""How likely a model finds given completions: log-probabilities of the tokens in a batch, for training and evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.batching import Batch, Encoded
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def chat_token_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> list[int]:
    """Return the token ids of messages, formatted with the tokenizer's chat template.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: the conversation.
        add_generation_prompt: whether to add what stands before an answer of the assistant.

    Raises:
        CourseError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise CourseError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, so it does not say how the "
            "speakers are marked: take the instruct model's tokenizer, or set tokenizer.chat_template to the right one"
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def run_model(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the model's logits for a batch, at the positions in `keep`; with a fused head, hidden states in their place."""
    import torch

    mask = batch["attention_mask"]
    if mask.dim() == 4:
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    # A list of positions, not a number: a number would give a slice that is not contiguous, for which the head copies its
    # weight once per example (a third of the step on a CPU).
    logits: torch.Tensor = model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False,
        logits_to_keep=batch["keep"],
    ).logits  # fmt: skip
    return logits


def output_embeddings(model: torch.nn.Module) -> Any:
    """Return the layer that turns hidden states into logits, however the model is wrapped."""
    owner: Any = next(m for m in model.modules() if hasattr(m, "get_output_embeddings"))
    return owner.get_output_embeddings()


def stop_token_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end an answer: the tokenizer's, and those that the model's generation configuration adds."""
    more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *([more] if isinstance(more, int) else more or ())}
    return {id for id in ids if id is not None}


def cache_name(model: torch.nn.Module) -> str:
    """Return what the model calls the keys and values it is given: "cache" since transformers 5.2x, or "past_key_values"."""
    for module in model.modules():  # an adapter's wrapper takes anything and passes it on
        parameters = inspect.signature(type(module).forward).parameters
        name = next((name for name in ("cache", "past_key_values") if name in parameters), None)
        if name:
            return name
    return "past_key_values"


def shared_beginning(prompts: Sequence[list[int]]) -> int:
    """Return with how many tokens all prompts begin, so that these can be computed once.

    One token of each prompt is left over, since the last one's logits say what comes next. 0 for a single prompt.
    """
    if len(prompts) < 2:
        return 0
    longest = min(map(len, prompts)) - 1
    first, last = min(prompts), max(prompts)  # what these two share, all between them do
    return next((i for i in range(longest) if first[i] != last[i]), longest)


def log_probabilities(
    model: torch.nn.Module, output: torch.Tensor, labels: torch.Tensor, with_max: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the log-probabilities of `labels` from the model's output at the positions that predict them.

    Args:
        model: the model that computed the output.
        output: logits, shape (positions, vocabulary); or hidden states, shape (positions, hidden), if a fused head replaces
            the last layer (`training.fused`) and computes the rest.
        labels: token ids, shape (positions,).
        with_max: whether to compute also the log-probabilities of the likeliest tokens.

    Returns:
        A pair of shape (positions,) in float32, in nats: the labels' log-probabilities, with gradient, and those of the
        likeliest tokens, without it (empty without `with_max`).
    """
    import torch

    stand_in = vars(output_embeddings(model)).get("forward")
    if hasattr(stand_in, "log_probabilities"):
        pair: tuple[torch.Tensor, torch.Tensor] = stand_in.log_probabilities(output, labels, with_max)
        return pair
    table = torch.log_softmax(output, dim=-1, dtype=torch.float32)
    highest = table.detach().amax(1) if with_max else table.new_zeros(0)
    return table.gather(1, labels[:, None])[:, 0], highest


def token_log_probabilities(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the log-probability of every scored token in a batch from `collate`.

    Returns:
        Shape (scored tokens,) in float32, in nats, with gradient.
    """
    output = run_model(model, batch)[batch["row"], batch["column"]]
    return log_probabilities(model, output, batch["label"])[0]


def sum_by_completion(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum values of tokens over each completion.

    Args:
        values: shape (scored tokens,).
        batch: the batch that the tokens belong to.

    Returns:
        Shape (completions,).
    """
    return values.new_zeros(batch["sequences"]).index_add_(0, batch["completion"], values)


def completion_log_probabilities(
    model: torch.nn.Module, cut: Sequence[Sequence[Encoded]], make_batch: Callable[[Sequence[Encoded]], Batch]
) -> dict[int, tuple[float, ...]]:
    """Compute the log-probability of each completion of each example, without gradient.

    Args:
        model: the model, whose mode (training or evaluation) is not changed.
        cut: micro-batches of examples.
        make_batch: turns a micro-batch of examples into its tensors on the model's device.

    Returns:
        `id` of an example → log-probabilities of its completions, in nats.
    """
    import torch

    by_example: dict[int, tuple[float, ...]] = {}
    with torch.no_grad():
        for examples in cut:
            batch = make_batch(examples)
            sums = sum_by_completion(token_log_probabilities(model, batch), batch).view(len(examples), -1)
            by_example |= {id(example): tuple(row) for example, row in zip(examples, sums.tolist())}
    return by_example
