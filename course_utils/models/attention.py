"""Attention on a CPU in 16 bits: eager for short sequences, but without copying keys and values for each query head.

Models with grouped-query attention have several query heads per key-value head (SmolLM2-135M: 9 and 3). transformers' eager
and SDPA implementations first repeat keys and values to match; here the queries of a group are concatenated and multiplied
with the one key head they share, which gives the same product. The masks and the softmax in float32 are those of eager
attention. Longer sequences go to SDPA, which never builds the table of all pairs: at 1,024 tokens it takes about a third of
the time. In float32 and on GPUs, SDPA is better throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "grouped_eager"
LONG = 384  # queries; up to here eager is as fast or faster, measured in bfloat16, forward and backward


def register() -> str:
    """Register the kernel with transformers, and return its name, which is the value for `attn_implementation=`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute scaled dot-product attention with key and value heads that several query heads share.

    Args:
        module: the attention layer; dropout applies only if it is in training mode.
        query: shape (batch, heads, queries, head_dim).
        key, value: shape (batch, key-value heads, positions, head_dim).
        attention_mask: added to the scores, shape (batch, 1, queries, positions), or None.
        scaling: factor on the scores.
        dropout: share of weights that is dropped in training.

    Returns:
        The output, of shape (batch, queries, heads, head_dim), and None in the place of the attention weights.
    """
    import torch

    batch, heads, queries, width = query.shape
    if queries > LONG:
        mask = None if attention_mask is None else attention_mask[..., : key.shape[2]]
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, dropout if module.training else 0.0, scale=scaling, enable_gqa=heads != key.shape[1]
        )
        return output.transpose(1, 2).contiguous(), None
    groups = key.shape[1]
    stacked = query.reshape(batch, groups, heads // groups * queries, width)
    scores = (stacked @ key.transpose(2, 3) * scaling).view(batch, groups, heads // groups, queries, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, : key.shape[2]]
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    output = weights.view(batch, groups, heads // groups * queries, -1) @ value
    return output.view(batch, heads, queries, width).transpose(1, 2).contiguous(), None
