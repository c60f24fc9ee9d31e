"""The batches of an epoch: all examples once, in random order."""

from __future__ import annotations

from collections.abc import Sequence

from course_utils.scoring import Example


def shuffled_batches(examples: Sequence[Example], batch_size: int, seed: int, bucket: int = 1) -> list[list[Example]]:
    """Cut the examples of one epoch into batches, in random order; each example occurs exactly once.

    With `bucket` above 1, examples of similar length share a batch, which saves padding: the shuffled examples are taken in
    groups of `bucket` batches, each group is sorted by length and cut into batches, and the batches are then shuffled.

    Args:
        examples: the encoded examples of the data set.
        batch_size: number of examples in a batch; the last batch of a group may have fewer.
        seed: seed of the order.
        bucket: number of batches in a group that is sorted by length; 1 for batches that are purely random.

    Returns:
        The batches, as lists of the given examples.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    batches: list[list[Example]] = []
    for start in range(0, len(order), batch_size * bucket):
        group = sorted(order[start : start + batch_size * bucket], key=lambda i: len(examples[i]))
        batches += [[examples[i] for i in group[at : at + batch_size]] for at in range(0, len(group), batch_size)]
    random.shuffle(batches)
    return batches
