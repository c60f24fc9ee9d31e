import pytest

from course_utils.errors import CourseError
from course_utils.generation import generate

PROMPTS = [
    "What is the capital of France?",
    "Say hello.",
    "Name a colour, and then another one, and explain the two at length.",
]


@pytest.fixture(scope="module")
def exact(packaged):
    """The same model in float32, where batching changes no answer."""
    import torch

    from course_utils import models

    return models.load(dtype=torch.float32)


def test_answers_come_back_in_order_and_batching_does_not_change_them(exact):
    model, tokenizer = exact
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    assert together == alone
    assert "Paris" in together[0]
    assert not any("<|im" in answer for answer in together)


def test_conversations_and_strings_are_the_same_thing(packaged):
    text = generate(*packaged, ["Say hello."], max_new_tokens=5)
    assert text == generate(*packaged, [[{"role": "user", "content": "Say hello."}]], max_new_tokens=5)
    french = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Say hello."}]
    other = generate(*packaged, [french], max_new_tokens=5)
    assert text != other


def test_sampling_follows_its_seed_and_leaves_the_model_as_it_was(packaged):
    model, tokenizer = packaged
    model.train()
    one, same, other = (
        generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert model.training
    model.eval()
    assert one == same != other
    assert not model.get_output_embeddings()._forward_pre_hooks


RULES = "You are the assistant of a shop that sells lamps, kettles and chairs. Be brief, be friendly, and name the article."


def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_answer(exact, monkeypatch):
    from course_utils import generation

    model, tokenizer = exact
    chats = [[{"role": "system", "content": RULES}, {"role": "user", "content": prompt}] for prompt in PROMPTS * 2]
    tokens = []
    counter = model.get_input_embeddings().register_forward_hook(lambda *args: tokens.append(args[1][0].numel()))
    counts, answers = {}, {}
    for shared in (32, 10_000):
        tokens.clear()
        monkeypatch.setattr(generation, "SHARED_TOKENS", shared)
        answers[shared] = generate(model, tokenizer, chats, max_new_tokens=16, batch_size=4)
        counts[shared] = sum(tokens)
    counter.remove()
    assert answers[32] == answers[10_000]
    lengths = [len(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) for chat in chats]
    assert counts[10_000] - counts[32] > 3 * min(lengths)  # of six prompts the beginning of one is left


# What models' own configurations contain: Qwen2.5-7B-Instruct's has the first. FIRST stands for the answer's first token.
FIRST = -1
RECOMMENDED = [
    {"repetition_penalty": 9.0},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 24},
    {"suppress_tokens": [FIRST]},
    {"begin_suppress_tokens": [FIRST]},
    {"bad_words_ids": [[FIRST]]},
    {"num_beams": 3},
]


def with_first(value, first):
    return [with_first(v, first) for v in value] if isinstance(value, list) else first if value == FIRST else value


@pytest.mark.parametrize("recommended", RECOMMENDED, ids=lambda recommended: next(iter(recommended)))
def test_what_a_models_configuration_recommends_does_not_change_its_answers(tiny, recommended):
    from transformers import GenerationConfig

    from course_utils.generation import complete

    model, tokenizer = tiny
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    plain = complete(model, tokenizer, prompts, max_new_tokens=12)
    stop = plain[0][5]  # so that an answer ends before the 24 tokens of `min_new_tokens`
    kept = model.generation_config.to_diff_dict() | {"eos_token_id": stop}
    model.generation_config = GenerationConfig(**kept)
    plain = complete(model, tokenizer, prompts, max_new_tokens=30)
    more = {name: with_first(value, plain[0][0]) for name, value in recommended.items()}
    model.generation_config = GenerationConfig(**kept | more)
    assert complete(model, tokenizer, prompts, max_new_tokens=30) == plain


def test_a_recommended_cut_does_not_change_what_is_sampled(tiny):
    from transformers import GenerationConfig

    model, tokenizer = tiny
    ask = {"max_new_tokens": 8, "temperature": 1.0}
    plain = generate(model, tokenizer, PROMPTS, **ask)
    model.generation_config = GenerationConfig(**model.generation_config.to_diff_dict(), min_p=0.9, typical_p=0.1)
    assert generate(model, tokenizer, PROMPTS, **ask) == plain


def test_generation_itself_ends_at_the_tokenizers_stop_token(tiny):
    """A configuration may name another token than the one that ends an answer: nobody should wait for what is cut anyway."""
    from course_utils.generation import complete

    model, tokenizer = tiny
    answer = complete(model, tokenizer, [[5, 6, 7, 8]], max_new_tokens=8)[0]
    tokenizer = type("Tokenizer", (), {"eos_token_id": answer[3], "pad_token_id": 0})
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    assert complete(model, tokenizer, [[5, 6, 7, 8]], max_new_tokens=60)[0] == answer[: answer.index(answer[3]) + 1]
    assert len(passes) <= 4


def test_an_answer_ends_at_any_stop_token_of_the_model(packaged):
    from course_utils.generation import complete
    from course_utils.scoring import chat_token_ids

    model, tokenizer = packaged
    prompts = [chat_token_ids(tokenizer, [{"role": "user", "content": p}], add_generation_prompt=True) for p in PROMPTS]
    whole = complete(model, tokenizer, prompts, max_new_tokens=12)
    kept, second = model.generation_config.eos_token_id, whole[0][4]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, second]  # Qwen's and Llama's have several
    try:
        shorter = complete(model, tokenizer, prompts, max_new_tokens=12)
    finally:
        model.generation_config.eos_token_id = kept
    assert shorter[0] == whole[0][: whole[0].index(second) + 1]
    assert all(second not in answer[:-1] for answer in shorter)


def test_no_prompts_no_answers(packaged):
    assert generate(*packaged, []) == []


def test_negative_temperature_is_refused(packaged):
    with pytest.raises(CourseError, match="temperature must not be negative"):
        generate(*packaged, PROMPTS, temperature=-1)


def test_what_is_longer_than_the_models_context_is_refused_before_anything_is_computed(packaged):
    with pytest.raises(CourseError, match=r"prompt has 9,0\d\d tokens, an answer up to 96; .* at most 8,192"):
        generate(*packaged, ["hi", "word " * 9000])
