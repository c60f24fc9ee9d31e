"""Exercises of section 02, LoRA."""

from __future__ import annotations

from course_utils.exercises.definitions import Exercise, Mistake


def lora_forward(x, W, A, B, alpha):
    """Output of a linear layer with a LoRA adapter.

    Args:
        x: inputs, shape (batch, d_in).
        W: frozen weight, shape (d_out, d_in).
        A: shape (r, d_in).
        B: shape (d_out, r).
        alpha: the scaling's numerator; the update is scaled by alpha / r.

    Returns:
        Tensor of shape (batch, d_out).
    """
    ### BEGIN SOLUTION
    rank = A.shape[0]
    return x @ W.T + (alpha / rank) * (x @ A.T) @ B.T
    ### END SOLUTION


def _layer_cases(random):
    import torch

    cases = []
    for rank in (1, 2, 4):
        d_in, d_out, batch = (int(random.integers(5, 9)) for _ in range(3))
        shapes = ((batch, d_in), (d_out, d_in), (rank, d_in), (d_out, rank))
        tensors = [torch.tensor(random.normal(size=shape), dtype=torch.float64) for shape in shapes]
        # alpha differs from the rank and is never 1, so that a missing factor always shows
        cases.append((*tensors, float(random.integers(5, 40))))
    return cases


def _no_scaling(x, W, A, B, alpha):
    return x @ W.T + (x @ A.T) @ B.T


def _alpha_without_rank(x, W, A, B, alpha):
    return x @ W.T + alpha * (x @ A.T) @ B.T


def _rank_from_wrong_side(x, W, A, B, alpha):
    return x @ W.T + (alpha / A.shape[1]) * (x @ A.T) @ B.T


def _update_only(x, W, A, B, alpha):
    return (alpha / A.shape[0]) * (x @ A.T) @ B.T


def _scales_everything(x, W, A, B, alpha):
    return (alpha / A.shape[0]) * (x @ W.T + (x @ A.T) @ B.T)


def adapter_parameters(shapes, rank):
    """Number of trainable parameters that LoRA adds.

    Args:
        shapes: list of (d_out, d_in), one for each adapted linear layer.
        rank: r.

    Returns:
        int.
    """
    ### BEGIN SOLUTION
    return sum(rank * (d_in + d_out) for d_out, d_in in shapes)
    ### END SOLUTION


def _shape_cases(random):
    return [
        (
            [(int(random.integers(50, 90)), int(random.integers(100, 500))) for _ in range(n)],
            int(random.integers(2, 17)),
        )
        for n in (1, 2, 5)
    ]


def _product_of_dimensions(shapes, rank):
    return sum(rank * d_in * d_out for d_out, d_in in shapes)


def _only_a(shapes, rank):
    return sum(rank * d_in for _, d_in in shapes)


def _only_b(shapes, rank):
    return sum(rank * d_out for d_out, _ in shapes)


def _square_layers(shapes, rank):
    return sum(2 * rank * d_in for _, d_in in shapes)


def _base_counted_too(shapes, rank):
    return sum(rank * (d_in + d_out) + d_in * d_out for d_out, d_in in shapes)


def merged_weight(W, A, B, alpha):
    """Weight of the plain linear layer that computes what the adapted one computes.

    Args:
        W: frozen weight, shape (d_out, d_in).
        A: shape (r, d_in).
        B: shape (d_out, r).
        alpha: the scaling's numerator.

    Returns:
        Tensor of shape (d_out, d_in); W itself is not changed.
    """
    ### BEGIN SOLUTION
    rank = A.shape[0]
    return W + (alpha / rank) * (B @ A)
    ### END SOLUTION


def _merge_cases(random):
    import torch

    cases = []
    for rank in (1, 2, 3):
        size = int(random.integers(5, 9))  # square, so that a transposed product has the right shape too
        shapes = ((size, size), (rank, size), (size, rank))
        tensors = [torch.tensor(random.normal(size=shape), dtype=torch.float64) for shape in shapes]
        cases.append((*tensors, float(random.integers(5, 40))))
    return cases


def _merge_no_scaling(W, A, B, alpha):
    return W + B @ A


def _merge_alpha_only(W, A, B, alpha):
    return W + alpha * (B @ A)


def _merge_transposed(W, A, B, alpha):
    return W + (alpha / A.shape[0]) * (B @ A).T


def _merge_subtracts(W, A, B, alpha):
    return W - (alpha / A.shape[0]) * (B @ A)


def _update_without_base(W, A, B, alpha):
    return (alpha / A.shape[0]) * (B @ A)


def completion_labels(ids, prompt_length, ignore=-100):
    """Labels for completion-only training: the prompt's tokens carry no loss, the completion's do.

    Args:
        ids: token ids of prompt and completion, a list of int.
        prompt_length: how many of them are the prompt's.
        ignore: the label of a position without loss.

    Returns:
        list of int as long as ids. (Labels are not shifted: the model or the loss shifts them.)
    """
    ### BEGIN SOLUTION
    return [ignore] * prompt_length + list(ids[prompt_length:])
    ### END SOLUTION


def _label_cases(random):
    cases = []
    for length in (4, 7, 12):
        ids = [int(i) for i in random.integers(3, 1000, size=length)]
        cases.append((ids, int(random.integers(2, length - 1)), -100))
    ids = [2, 11, 2, 2, 57, 2]  # the stop token 2 stands in prompt and completion, as it does in a chat template
    return [*cases, (ids, 3, -100)]


def _nothing_masked(ids, prompt_length, ignore=-100):
    return list(ids)


def _completion_masked(ids, prompt_length, ignore=-100):
    return list(ids[:prompt_length]) + [ignore] * (len(ids) - prompt_length)


def _one_too_many(ids, prompt_length, ignore=-100):
    return [ignore] * (prompt_length + 1) + list(ids[prompt_length + 1 :])


def _one_too_few(ids, prompt_length, ignore=-100):
    return [ignore] * (prompt_length - 1) + list(ids[prompt_length - 1 :])


def _prompt_dropped(ids, prompt_length, ignore=-100):
    return list(ids[prompt_length:])


def _masked_with_zero(ids, prompt_length, ignore=-100):
    return [0] * prompt_length + list(ids[prompt_length:])


def _shifted(ids, prompt_length, ignore=-100):
    labels = [ignore] * prompt_length + list(ids[prompt_length:])
    return [*labels[1:], ignore]


def adapter_megabytes(shapes, rank, bytes_per_parameter):
    """Size of a saved adapter in megabytes (1 MB = 1,000,000 bytes), file header not counted.

    Args:
        shapes: list of (d_out, d_in), one for each adapted linear layer.
        rank: r.
        bytes_per_parameter: 2 for bfloat16, 4 for float32.

    Returns:
        float.
    """
    ### BEGIN SOLUTION
    parameters = sum(rank * (d_in + d_out) for d_out, d_in in shapes)
    return parameters * bytes_per_parameter / 1e6
    ### END SOLUTION


def _size_cases(random):
    return [(shapes, rank, size) for (shapes, rank), size in zip(_shape_cases(random), (2, 4, 2))]


def _mebibytes(shapes, rank, bytes_per_parameter):
    return _adapter(shapes, rank) * bytes_per_parameter / 2**20


def _gigabytes(shapes, rank, bytes_per_parameter):
    return _adapter(shapes, rank) * bytes_per_parameter / 1e9


def _bits_not_bytes(shapes, rank, bytes_per_parameter):
    return _adapter(shapes, rank) * bytes_per_parameter / 8e6


def _bytes_forgotten(shapes, rank, bytes_per_parameter):
    return _adapter(shapes, rank) / 1e6


def _always_float32(shapes, rank, bytes_per_parameter):
    return _adapter(shapes, rank) * 4 / 1e6


def _adapter(shapes, rank):
    return sum(rank * (d_in + d_out) for d_out, d_in in shapes)


EXERCISES = (
    Exercise(
        id="lora-1",
        title="The LoRA forward pass",
        statement="Write the forward pass of a LoRA layer: both paths, scaled by $\\alpha/r$, summed.",
        solution=lora_forward,
        cases=_layer_cases,
        points=4,
        objectives=(1,),
        mistakes=(
            Mistake(_no_scaling, "The update is not scaled. LoRA multiplies it by alpha / r, r being the rank."),
            Mistake(_alpha_without_rank, "The update is scaled by alpha; the convention is alpha / r."),
            Mistake(_rank_from_wrong_side, "The rank is A's first dimension, (r, d_in); you divided by d_in."),
            Mistake(_update_only, "This is the adapter's path alone; the frozen path x Wᵀ is missing from the sum."),
            Mistake(_scales_everything, "alpha / r scales the update only, not the frozen path."),
        ),
        hint="x @ A.T has shape (batch, r); (x @ A.T) @ B.T has shape (batch, d_out). The rank is A.shape[0].",
    ),
    Exercise(
        id="lora-2",
        title="Counting what LoRA trains",
        statement="Count the trainable parameters that LoRA of rank `r` adds to linear layers of given shapes.",
        solution=adapter_parameters,
        cases=_shape_cases,
        points=2,
        objectives=(2,),
        mistakes=(
            Mistake(_product_of_dimensions, "You multiplied d_in by d_out. A has r x d_in, B has d_out x r: add the two."),
            Mistake(_only_a, "Only A is counted; B adds d_out x r more."),
            Mistake(_only_b, "Only B is counted; A adds r x d_in more."),
            Mistake(_square_layers, "You took the layers for square. d_in and d_out differ: r x (d_in + d_out)."),
            Mistake(_base_counted_too, "The frozen weight d_in x d_out is counted; it is not trained."),
        ),
        hint="For one layer: r * d_in for A, plus d_out * r for B.",
        tolerance=1e-9,
    ),
    Exercise(
        id="lora-3",
        title="Merging an adapter",
        statement="Merge an adapter into its base weight, so that inference needs one matrix product.",
        solution=merged_weight,
        cases=_merge_cases,
        points=3,
        objectives=(5,),
        mistakes=(
            Mistake(_merge_no_scaling, "The update is not scaled; merge (alpha / r) B A."),
            Mistake(_merge_alpha_only, "The update is scaled by alpha; the convention is alpha / r."),
            Mistake(_merge_transposed, "The product is transposed. W has shape (d_out, d_in), as B @ A has."),
            Mistake(_merge_subtracts, "The update is subtracted; merging adds it (unmerging subtracts)."),
            Mistake(_update_without_base, "This is the update alone; add it to W."),
        ),
        hint="B @ A has the shape of W. What factor did the forward pass put before it?",
    ),
    Exercise(
        id="lora-4",
        title="Loss on the completion only",
        statement="Build the labels that let only the completion's tokens carry loss.",
        solution=completion_labels,
        cases=_label_cases,
        points=3,
        objectives=(3,),
        mistakes=(
            Mistake(_nothing_masked, "Every token carries loss, the prompt's too: the model would learn to write customers' messages."),
            Mistake(_completion_masked, "The mask is the wrong way round: prompt tokens are ignored, completion tokens are kept."),
            Mistake(_one_too_many, "One token too many is masked: the completion's first token must carry loss."),
            Mistake(_one_too_few, "One token too few is masked: the prompt's last token must not carry loss."),
            Mistake(_prompt_dropped, "Labels need one entry for each id; masked positions stay, with the value `ignore`."),
            Mistake(_masked_with_zero, "Masked positions get the value `ignore` (-100); 0 is a token like any other."),
            Mistake(_shifted, "The labels are shifted by one. Here they stand at their own token; the loss shifts them."),
        ),
        hint="prompt_length times `ignore`, then the ids from prompt_length on, unchanged.",
        tolerance=1e-9,
    ),
    Exercise(
        id="lora-5",
        title="How big is the file?",
        statement="Compute the size of a saved adapter in megabytes.",
        solution=adapter_megabytes,
        cases=_size_cases,
        points=2,
        objectives=(2,),
        mistakes=(
            Mistake(_mebibytes, "You divided by 2^20, which gives mebibytes; the course's MB is 1,000,000 bytes."),
            Mistake(_gigabytes, "That is gigabytes; divide by 10^6."),
            Mistake(_bits_not_bytes, "Divided by 8: the argument is in bytes already."),
            Mistake(_bytes_forgotten, "That is millions of parameters; multiply by the bytes of each."),
            Mistake(_always_float32, "You assumed 4 bytes a parameter; use bytes_per_parameter."),
        ),
        hint="Parameters (as in lora-2) times bytes_per_parameter, divided by 1e6.",
    ),
)  # fmt: skip
