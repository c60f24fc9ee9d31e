"""Constrained decoding without a server; with one, test_adapters.py and test_tools.py have it."""

import pytest
import torch

from course_utils.openai_server.constrained import json_grammar
from course_utils.openai_server.sampling import Sampling, TokenSampler


@pytest.mark.model
def test_a_model_may_have_more_rows_than_the_tokenizer_has_tokens(tiny):
    """Qwen2.5-7B has 152,064 logits for 151,665 tokens: those without a token are never allowed, however likely they are."""
    _, tokenizer = tiny
    grammar = json_grammar({"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]})
    sampler = TokenSampler(Sampling(temperature=0.0, grammar=grammar), tokenizer, {int(tokenizer.eos_token_id)})
    logits = torch.zeros(len(tokenizer) + 399)
    logits[len(tokenizer) :] = 9.0
    chosen = sampler.choose(logits, int(logits.argmax())).id
    assert tokenizer.decode([chosen]).lstrip().startswith("{")
