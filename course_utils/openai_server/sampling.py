"""Chooses tokens: temperature, nucleus sampling, penalties, bias, seed, and a grammar that restricts what is allowed.

The parameters have the meaning documented by the hosted API. Constrained decoding is done by llguidance: for each position
it computes which tokens of the vocabulary can still lead to a text that the grammar allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase

MIN_TEMPERATURE = 1e-5  # below it the likeliest token is practically certain, and dividing logits by it may overflow


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 always takes the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: the same seed and request give the same answer; None for a different one each time.
        presence_penalty: subtracted from the logit of each token that is already in the answer.
        frequency_penalty: subtracted once for each occurrence in the answer.
        bias: token id → value added to its logit.
        top: how many alternatives to report with each token; None to report no log-probabilities at all.
        grammar: grammar of the answer (module `constrained`); None if it is unconstrained.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    top: int | None = None
    grammar: str | None = None


class Token(NamedTuple):
    """A token of an answer.

    Attributes:
        id: index in the vocabulary.
        log_probability: in nats, under the model at temperature 1, before penalties, bias and grammar; None if not
            requested.
        alternatives: the likeliest tokens at this position, as (id, log-probability).
    """

    id: int
    log_probability: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class TokenSampler:
    """Chooses the tokens of one answer.

    Raises:
        CourseError: the grammar cannot be followed; the message says why.
    """

    def __init__(self, sampling: Sampling, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> None:
        import torch

        self.sampling, self.ends = sampling, end_ids
        self.counts: dict[int, int] = {}
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed % 2**63)
        self.matcher = _make_matcher(tokenizer, sampling.grammar) if sampling.grammar is not None else None

    @property
    def finished(self) -> bool:
        """Whether the grammar allows no further token."""
        return self.matcher is not None and self.matcher.is_stopped()

    def choose(self, logits: torch.Tensor, greedy: int) -> Token:
        """Choose the next token.

        Args:
            logits: shape (vocabulary,), in float32; they may be modified.
            greedy: id of the likeliest token.
        """
        import torch

        sampling = self.sampling
        log_probabilities = torch.log_softmax(logits, 0) if sampling.top is not None else None
        adjusted = (
            self.matcher is not None
            or sampling.bias
            or (self.counts and (sampling.presence_penalty or sampling.frequency_penalty))
        )
        if adjusted:
            logits = self._adjusted(logits)
        if sampling.temperature < MIN_TEMPERATURE:
            chosen = int(logits.argmax()) if adjusted else greedy
        else:
            chosen = self._sample(logits / sampling.temperature)
        self.counts[chosen] = self.counts.get(chosen, 0) + 1
        if self.matcher is not None and not self.matcher.consume_token(chosen):
            reason = self.matcher.get_error().strip().splitlines()
            raise CourseError(f"the schema can't be followed any further: {reason[0] if reason else 'no token fits'}")
        if log_probabilities is None:
            return Token(chosen)
        values, ids = (
            log_probabilities.topk(sampling.top) if sampling.top else (torch.empty(0), torch.empty(0, dtype=torch.long))
        )
        return Token(chosen, float(log_probabilities[chosen]), tuple(zip(ids.tolist(), values.tolist())))

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        sampling = self.sampling
        for token, count in self.counts.items():
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
        for token, value in sampling.bias.items():
            if 0 <= token < len(logits):
                logits[token] += value
        if self.matcher is not None:
            bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.zeros(len(logits), dtype=bool)  # a model may have more logits than its tokenizer has tokens
            of_tokens = np.unpackbits(bits, count=min(len(logits), 8 * len(bits)), bitorder="little")
            allowed[: len(of_tokens)] = of_tokens
            logits = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))
        return logits

    def _sample(self, logits: torch.Tensor) -> int:
        import torch

        probabilities = torch.softmax(logits, 0).cpu()
        if self.sampling.top_p < 1:
            values, order = probabilities.sort(descending=True)
            before = values.cumsum(0) - values
            values[(before >= self.sampling.top_p) & (torch.arange(len(values)) > 0)] = 0  # the likeliest always stays
            return int(order[torch.multinomial(values, 1, generator=self.generator)])
        return int(torch.multinomial(probabilities, 1, generator=self.generator))


def check_grammar(tokenizer: PreTrainedTokenizerBase, grammar: str) -> str | None:
    """Return why a grammar cannot be followed, or None if it can."""
    try:
        _make_matcher(tokenizer, grammar)
    except CourseError as error:
        return str(error)
    return None


def _make_matcher(tokenizer: PreTrainedTokenizerBase, grammar: str) -> LLMatcher:
    import llguidance

    compiled = llguidance.LLMatcher.grammar_from_lark(grammar)
    matcher = llguidance.LLMatcher(_vocabulary(tokenizer), compiled, log_level=0)
    if matcher.is_error():
        raise CourseError(matcher.get_error().strip().splitlines()[0])
    return matcher


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> LLTokenizer:
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer)
