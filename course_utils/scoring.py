"""How likely a model finds given completions: from chats to token ids, batches and log-probabilities.

Training, evaluation and reward models all score completions with these functions. An example is a prompt and one or more
completions of it. Several completions can share their prompt: the row then contains the prompt, the first completion and the
second completion, and a mask keeps the second from seeing the first. The prompt is computed once, and every result is the
same as with separate rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batch = dict[str, Any]  # tensors by name, and the number of sequences: what `collate` makes
Example = TypeVar("Example", bound=Sized)

# Tokens that go through the model at once. On a CPU, more would not be faster and only take memory: this number keeps
# training the 135M model under 2 GB, which is all that Binder has.
CPU_MICRO_BATCH_TOKENS = 320
GPU_MICRO_BATCH_TOKENS = 8192  # at most; `training.micro_batches` takes fewer where the model leaves less memory


class Output(Protocol):
    """The part of a model's output that is used here: the logits."""

    logits: torch.Tensor


@dataclass(frozen=True)
class Encoded:
    """One example as token ids.

    Attributes:
        prompt: token ids of the prompt, which are not scored.
        completions: token ids to score, one list per completion of the prompt.
        reference_log_probabilities: log-probability of each completion under the reference model, in nats, if an objective
            needs them.
        token_values: name → one number per token of the completions (SFT's weights, PPO's advantages).
        example_values: name → one number for the example (KTO's label).
        messages: the prompt before it was encoded, if a reward function reads it.
    """

    prompt: list[int]
    completions: list[list[int]]
    reference_log_probabilities: tuple[float, ...] = ()
    token_values: dict[str, list[float]] = field(default_factory=dict)
    example_values: dict[str, float] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of tokens, with the prompt counted once."""
        return len(self.prompt) + self.scored

    @property
    def scored(self) -> int:
        """Number of tokens in the completions."""
        return sum(map(len, self.completions))

    @property
    def learned(self) -> int:
        """Number of completion tokens that contribute to the loss."""
        return round(sum(self.token_values["weight"])) if "weight" in self.token_values else self.scored


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id for padding, or the stop token's if the tokenizer defines none; masks hide it either way."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad_id)


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


def can_share_prompt(model: PreTrainedModel) -> bool:
    """Return whether the model's attention accepts a custom mask; FlashAttention does not."""
    attention = getattr(model.config, "_attn_implementation", None) or ""
    return not str(attention).startswith("flash")


def default_micro_batch_tokens(device: torch.device) -> int:
    """Return the default number of tokens in a micro-batch on this device, padding included."""
    return CPU_MICRO_BATCH_TOKENS if device.type == "cpu" else GPU_MICRO_BATCH_TOKENS


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`."""
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}


def micro_batches(examples: Sequence[Example], max_tokens: int, max_examples: int | None = None) -> list[list[Example]]:
    """Sort examples by length, and cut them into micro-batches within the limits.

    Args:
        examples: examples of any length.
        max_tokens: maximum number of tokens in a micro-batch, padding included; a single example may be longer.
        max_examples: maximum number of examples in a micro-batch; None for no limit.
    """
    cut: list[list[Example]] = []
    for example in sorted(examples, key=len):
        has_room = cut and (len(cut[-1]) + 1) * len(example) <= max_tokens
        if has_room and (max_examples is None or len(cut[-1]) < max_examples):
            cut[-1].append(example)
        else:
            cut.append([example])
    return cut


def collate(examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
    """Batch of examples, padded on the left so that all completions end at the same position.

    Then only the last positions can have a loss, and the model computes logits for no others: with completions of 50 tokens
    and a vocabulary of 49,152 this saves most of the memory and a fifth of the time.

    Args:
        examples: all with the same number of completions.
        pad_id: token id for padding.
        share_prompt: put all completions of a prompt into one row, with the prompt once; otherwise one row per completion.

    Returns:
        dict of tensors: `input_ids`, `position_ids` (rows, length); `attention_mask` (rows, length), or (rows, 1,
        length, length) of booleans if completions share a row; `keep` (output length), the positions whose outputs are
        needed; for each scored token its `row`, `column` (index in `keep` of the position that predicts it), `label` and
        `completion` (number of its completion, those of the first example first); for each completion the row and
        column of its last token, `end_row` and `end_column` (in the whole length); `sequences`, the number of
        completions; `reference_log_probabilities` (examples, completions of each) if the examples have them; and
        the examples' `token_values` (scored tokens) and `example_values` (examples) under their names.
    """
    import torch

    per_row = len(examples[0].completions) if share_prompt else 1
    rows = examples if share_prompt else [Encoded(e.prompt, [c]) for e in examples for c in e.completions]
    # Rounded up to a multiple of 8: libraries prepare a kernel for each new shape, and having fewer shapes saves more time
    # than the extra padding costs (5 to 10 %, measured on a CPU).
    length = _round_up(max(map(len, rows)))
    output_length = min(_round_up(1 + max(row.scored for row in rows)), length)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    segment = torch.full((len(rows), length), -1)  # -1 padding, 0 prompt, 1 first completion, ...
    names = ("row", "column", "label", "completion", "end_row", "end_column")
    scored: dict[str, list[int]] = {name: [] for name in names}
    for i, row in enumerate(rows):
        start = length - len(row)
        after_prompt = at = start + len(row.prompt)
        input_ids[i, start:at] = torch.tensor(row.prompt)
        position_ids[i, start:at] = torch.arange(len(row.prompt))
        segment[i, start:at] = 0
        for number, completion in enumerate(row.completions):
            end = at + len(completion)
            input_ids[i, at:end] = torch.tensor(completion)
            position_ids[i, at:end] = torch.arange(len(row.prompt), len(row.prompt) + len(completion))
            segment[i, at:end] = number + 1
            # Each position predicts the next token; the first of every completion is predicted by the prompt's last.
            predictors = [after_prompt - 1, *range(at, end - 1)] if completion else []
            scored["row"] += [i] * len(completion)
            scored["column"] += [position - (length - output_length) for position in predictors]
            scored["label"] += completion
            scored["completion"] += [i * per_row + number] * len(completion)
            scored["end_row"].append(i)
            scored["end_column"].append(end - 1)
            at = end
    if per_row == 1:
        mask = (segment >= 0).long()
    else:
        query, key = segment[:, :, None], segment[:, None, :]
        mask = ((key == 0) | (key == query)) & (key >= 0) & torch.ones(length, length, dtype=torch.bool).tril()
        mask = mask[:, None]
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": mask,
        "keep": torch.arange(length - output_length, length),
        "sequences": len(rows) * per_row,
        **{name: torch.tensor(values, dtype=torch.long) for name, values in scored.items()},
        **_values_of(examples),
    }


def _values_of(examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Tensors of the values that the examples carry besides their token ids."""
    import torch

    first = examples[0]
    values = {name: torch.tensor([v for e in examples for v in e.token_values[name]]) for name in first.token_values}
    values |= {name: torch.tensor([e.example_values[name] for e in examples]) for name in first.example_values}
    if first.reference_log_probabilities:
        values["reference_log_probabilities"] = torch.tensor([e.reference_log_probabilities for e in examples])
    return values


def run_model(model: torch.nn.Module, batch: Batch, keep_all: bool = False) -> Output:
    """Return the model's output for a batch, at the positions in `keep`, or with `keep_all` at all positions."""
    import torch

    mask = batch["attention_mask"]
    if mask.dim() == 4:
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    # A list of positions, not a number: a number would give a slice that is not contiguous, for which the head copies its
    # weight once per example (a third of the step on a CPU).
    selection = {} if keep_all else {"logits_to_keep": batch["keep"]}
    output: Output = model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False, **selection
    )
    return output


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


@overload
def log_probabilities(
    model: torch.nn.Module, output: torch.Tensor, labels: torch.Tensor, with_max: Literal[False] = False
) -> torch.Tensor: ...
@overload
def log_probabilities(
    model: torch.nn.Module, output: torch.Tensor, labels: torch.Tensor, with_max: Literal[True]
) -> tuple[torch.Tensor, torch.Tensor]: ...
def log_probabilities(
    model: torch.nn.Module, output: torch.Tensor, labels: torch.Tensor, with_max: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute the log-probabilities of `labels` from the model's output at the positions that predict them.

    Args:
        model: the model that computed the output.
        output: logits, shape (positions, vocabulary); or hidden states, shape (positions, hidden), if a fused head replaces
            the last layer (`training.fused.head`) and computes the rest.
        labels: token ids, shape (positions,).
        with_max: whether to return also the log-probabilities of the likeliest tokens.

    Returns:
        Shape (positions,) in float32, in nats, with gradient; with `with_max` a pair of these, the second without gradient.
    """
    import torch

    stand_in = vars(output_embeddings(model)).get("forward")
    if hasattr(stand_in, "log_probabilities"):
        values, highest = stand_in.log_probabilities(output, labels, with_max)
        return (values, highest) if with_max else values
    table = torch.log_softmax(output, dim=-1, dtype=torch.float32)
    values = table.gather(1, labels[:, None])[:, 0]
    return (values, table.detach().amax(1)) if with_max else values


@overload
def token_log_probabilities(model: torch.nn.Module, batch: Batch, with_max: Literal[False] = False) -> torch.Tensor: ...
@overload
def token_log_probabilities(
    model: torch.nn.Module, batch: Batch, with_max: Literal[True]
) -> tuple[torch.Tensor, torch.Tensor]: ...
def token_log_probabilities(
    model: torch.nn.Module, batch: Batch, with_max: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute the log-probability of every scored token in a batch from `collate`.

    Returns:
        Shape (scored tokens,) in float32, in nats, with gradient. With `with_max` a pair: also the log-probabilities of the
        model's likeliest tokens at these positions, without gradient.
    """
    output = run_model(model, batch).logits[batch["row"], batch["column"]]
    if with_max:
        return log_probabilities(model, output, batch["label"], True)
    return log_probabilities(model, output, batch["label"])


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


def _round_up(length: int, to: int = 8) -> int:
    return -(-length // to) * to
