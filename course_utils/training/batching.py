"""The batches of an epoch: all examples once, in random order."""

from __future__ import annotations

from collections.abc import Sequence

from course_utils.scoring import Example


def shuffled_batches(examples: Sequence[Example], batch_size: int, seed: int, bucket: int = 1) -> list[list[Example]]:
    """All examples once, in random order; if `bucket` is above one, batched with others of similar length.

    Batches are then cut from random groups of `bucket` batches, each group sorted by length.
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
