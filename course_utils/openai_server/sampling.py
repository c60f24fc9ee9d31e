"""How a token is chosen: temperature, nucleus, penalties, bias, seed, and a grammar that allows only what is valid.

Parameters mean what the hosted API documents. Constrained decoding is llguidance's: at each position it tells which tokens
of the vocabulary can still lead to a text that the grammar allows.
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

COLD = 1e-5  # below, the likeliest token is as good as certain, and a logit divided by it may be no number


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: the same seed and request give the same answer; None for another one each time.
        presence_penalty: taken from the logit of each token that the answer has already.
        frequency_penalty: the same for each time that it has it.
        bias: token id → what is added to its logit.
        top: how many alternatives to report with each token; None reports nothing.
        grammar: what the answer may be (module `grammar`); None for anything.
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
        id: in the vocabulary.
        log_probability: under the model at temperature 1, before penalties, bias and grammar; None if not asked for.
        alternatives: the likeliest tokens there, (id, log-probability).
    """

    id: int
    log_probability: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer.

    Raises:
        CourseError: a grammar that can't be followed, and why.
    """

    def __init__(self, sampling: Sampling, tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> None:
        import torch

        self.sampling, self.ends = sampling, ends
        self.counts: dict[int, int] = {}
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed % 2**63)
        self.matcher = _matcher(tokenizer, sampling.grammar) if sampling.grammar is not None else None

    @property
    def finished(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self.matcher is not None and self.matcher.is_stopped()

    def choose(self, logits: torch.Tensor, greedy: int) -> Token:
        """Pick the next token.

        Args:
            logits: (vocabulary) in float32; may be changed.
            greedy: its likeliest.
        """
        import torch

        how = self.sampling
        plain = torch.log_softmax(logits, 0) if how.top is not None else None
        changed = self.matcher is not None or how.bias or (self.counts and (how.presence_penalty or how.frequency_penalty))
        if changed:
            logits = self._adjusted(logits)
        if how.temperature < COLD:
            chosen = int(logits.argmax()) if changed else greedy
        else:
            chosen = self._sample(logits / how.temperature)
        self.counts[chosen] = self.counts.get(chosen, 0) + 1
        if self.matcher is not None and not self.matcher.consume_token(chosen):
            reason = self.matcher.get_error().strip().splitlines()
            raise CourseError(f"the schema can't be followed any further: {reason[0] if reason else 'no token fits'}")
        if plain is None:
            return Token(chosen)
        values, ids = plain.topk(how.top) if how.top else (torch.empty(0), torch.empty(0, dtype=torch.long))
        return Token(chosen, float(plain[chosen]), tuple(zip(ids.tolist(), values.tolist())))

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        how = self.sampling
        for token, number in self.counts.items():
            logits[token] -= how.presence_penalty + how.frequency_penalty * number
        for token, value in how.bias.items():
            if 0 <= token < len(logits):
                logits[token] += value
        if self.matcher is not None:
            bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
            allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool))
            logits = logits.masked_fill(~allowed.to(logits.device), float("-inf"))
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
    """Why a grammar can't be followed, or None if it can."""
    try:
        _matcher(tokenizer, grammar)
    except CourseError as error:
        return str(error)
    return None


def _matcher(tokenizer: PreTrainedTokenizerBase, grammar: str) -> LLMatcher:
    try:
        import llguidance
    except ImportError as error:
        raise CourseError("constrained decoding needs llguidance: pip install 'finetuning-course[server]'") from error
    compiled = llguidance.LLMatcher.grammar_from_lark(grammar)
    matcher = llguidance.LLMatcher(_vocabulary(tokenizer), compiled, log_level=0)
    if matcher.is_error():
        raise CourseError(matcher.get_error().strip().splitlines()[0])
    return matcher


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> LLTokenizer:
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer)
