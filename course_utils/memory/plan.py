"""Description of a training step, validated, for the closed form."""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.errors import CourseError

CHOICES = {
    "method": ("full", "lora", "qlora"),
    "precision": ("bf16", "fp16", "fp32", "amp"),
    "embeddings": ("bfloat16", "float32"),
    "optimizer": ("adamw", "adamw_8bit", "paged_adamw_8bit", "sgd"),
    "attention": ("sdpa", "eager"),
    "objective": ("sft", "dpo"),
    "device": ("cuda", "cpu"),
}


@dataclass(frozen=True)
class StepPlan:
    """A training step as TRL and most tutorials run it, with all logits and PEFT's layers, as far as memory depends on it.

    Attributes:
        method: "full", "lora" (16- or 32-bit frozen base) or "qlora" (its linear layers in NF4, double quantisation).
        rank: rank of the adapter.
        target_modules: last parts of module names, or "all-linear".
        batch_size: sequences (pairs for DPO) in a micro-batch on one device.
        length: tokens per sequence, padding included.
        padded: whether sequences in a batch differ in length, so that attention gets a mask, and each key and value is
            copied once per query head.
        accumulation: micro-batches per optimiser step; above one, gradients are kept while the next micro-batch runs.
        precision: "bf16" or "fp16" (the weights in 16 bits, adapters in float32), "fp32", or "amp" (weights in float32,
            products in bfloat16 under autocast, which is TRL's default).
        embeddings: what of a 4-bit base is not in 4 bits (embeddings, head, norms): "bfloat16" for 16 bits, as loaded, or
            "float32", as PEFT's `prepare_model_for_kbit_training` makes it.
        optimizer: "adamw", "adamw_8bit", "paged_adamw_8bit" or "sgd" (without momentum).
        checkpointing: keep only each block's input, and recompute the block in the backward pass.
        attention: "sdpa" (never builds the matrix of all pairs) or "eager" (builds it).
        objective: "sft" or "dpo" (two sequences per pair, and a reference).
        separate_reference: DPO's reference is a separate model; otherwise it is the same one, adapter off.
        device: "cuda" or "cpu"; determines what is added to the tensors.
    """

    method: str = "lora"
    rank: int = 16
    target_modules: tuple[str, ...] | str = "all-linear"
    batch_size: int = 1
    length: int = 512
    padded: bool = False
    accumulation: int = 1
    precision: str = "bf16"
    embeddings: str = "bfloat16"
    optimizer: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    objective: str = "sft"
    separate_reference: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        """Refuse invalid values; the error names the argument."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise CourseError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("rank", "batch_size", "length", "accumulation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CourseError(f"{name}={value!r}: must be a whole number of at least 1")
        if self.method == "qlora" and self.precision in ("fp32", "amp"):
            raise CourseError("a 4-bit base computes in 16 bits: choose precision 'bf16', or 'fp16' on a T4")
        if self.embeddings == "float32" and self.method != "qlora":
            raise CourseError("embeddings='float32' is for a 4-bit base; for other weights choose the precision")
        if self.objective == "dpo" and self.method == "full" and not self.separate_reference:
            raise CourseError(
                "full fine-tuning by DPO changes the only copy of the weights: its reference must be a model of its own "
                "(separate_reference=True)"
            )
        if self.target_modules != "all-linear":
            names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
            object.__setattr__(self, "target_modules", tuple(names))

    @property
    def sequences(self) -> int:
        """Number of sequences that go through the trained model at once."""
        return self.batch_size * (2 if self.objective == "dpo" else 1)

    @property
    def tokens(self) -> int:
        """Number of tokens that go through the trained model at once."""
        return self.sequences * self.length

    @property
    def repeats_keys(self) -> bool:
        """Whether each key and value is copied once per query head: by eager attention, and by SDPA with a mask."""
        return self.attention == "eager" or self.padded

    @property
    def autocast(self) -> bool:
        """Whether products run under autocast: with weights in float32, and where transformers' trainers train adapters."""
        return self.precision == "amp" or (self.method != "full" and self.precision in ("bf16", "fp16"))

    @property
    def bytes_per_value(self) -> int:
        """Bytes that an activation value takes."""
        return 4 if self.precision == "fp32" else 2

    @property
    def bytes_per_weight(self) -> int:
        """Bytes that a weight takes if it is not quantised."""
        return 4 if self.precision in ("fp32", "amp") else 2
