"""Constrained decoding without a server: what comes out fits the schema, and is the model's own where that fits already."""

import json

import jsonschema
import pytest
import torch

from benchmarks.in_schema import generate_in_schema
from course_utils import models
from course_utils.openai_server.constrained import json_grammar
from course_utils.openai_server.sampling import Sampling, TokenSampler

pytestmark = pytest.mark.model
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}, "number": {"type": ["integer", "null"]}},
    "required": ["colour", "number"],
    "additionalProperties": False,
}


def test_answers_of_different_lengths_fit_the_schema_and_stay_in_order():
    model, tokenizer = models.load(tier="cpu")
    asked = ["Say red.", [{"role": "user", "content": "What colour has a clear sky at noon, in one word? " * 3}]]
    answers = generate_in_schema(model, tokenizer, asked, SCHEMA, 24)
    for answer in answers:
        jsonschema.validate(json.loads(answer), SCHEMA)
    assert answers == [generate_in_schema(model, tokenizer, [one], SCHEMA, 24)[0] for one in asked]


def test_what_a_models_configuration_recommends_changes_nothing(tiny):
    from transformers import GenerationConfig

    model, tokenizer = tiny
    plain = generate_in_schema(model, tokenizer, ["Say red."], SCHEMA, 40)
    kept = model.generation_config.to_diff_dict()
    model.generation_config = GenerationConfig(**kept, repetition_penalty=9.0, no_repeat_ngram_size=1)
    assert generate_in_schema(model, tokenizer, ["Say red."], SCHEMA, 40) == plain


def test_a_model_may_have_more_rows_than_the_tokenizer_has_tokens(tiny):
    """Qwen2.5-7B has 152,064 logits for 151,665 tokens: those without a token are never allowed, however likely they are."""
    _, tokenizer = tiny
    sampler = TokenSampler(Sampling(temperature=0.0, grammar=json_grammar(SCHEMA)), tokenizer, {int(tokenizer.eos_token_id)})
    logits = torch.zeros(len(tokenizer) + 399)
    logits[len(tokenizer) :] = 9.0
    chosen = sampler.choose(logits, int(logits.argmax())).id
    assert tokenizer.decode([chosen]).lstrip().startswith("{")


def test_a_failure_leaves_the_model_as_it_was(packaged, monkeypatch):
    from course_utils.scoring import output_embeddings

    model, tokenizer = packaged
    hooks = len(output_embeddings(model)._forward_pre_hooks)
    monkeypatch.setattr(model, "generate", lambda **_: 1 / 0)
    was_training = model.training
    model.train()
    try:
        with pytest.raises(ZeroDivisionError):
            generate_in_schema(model, tokenizer, ["Hello"], {"type": "object"})
        assert model.training
        assert len(output_embeddings(model)._forward_pre_hooks) == hooks
    finally:
        model.train(was_training)
