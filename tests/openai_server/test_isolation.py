"""What goes wrong with one answer of a batch is that answer's alone; adapters that answer stay until they have answered."""

import asyncio
import json
import shutil

import pytest
from support import tiny_llama, with_lora

from course_utils.openai_server import choices
from course_utils.openai_server import engine as engines
from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import begin as begin_chat
from course_utils.openai_server.engine import Engine
from course_utils.openai_server.errors import ApiError

pytestmark = pytest.mark.model
TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An adapter that changes answers."""
    model = with_lora(tiny_llama(), 4, 8, "all-linear")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02
    folder = tmp_path_factory.mktemp("adapters") / "a"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(packaged):
    engine = Engine(lambda: (tiny_llama(max_position_embeddings=512), packaged[1]), rows=32)
    yield engine
    engine.close()


class Panic(BaseException):
    """What the Rust libraries raise where they panic: no Exception."""


async def begin(engine, number, adapter=None, **more):
    body = {"model": "m", "temperature": 0, "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"say {number}"}]}
    return await begin_chat(engine, 400, ChatRequest.model_validate(body | more), adapter)


async def answer(completion):
    """Its text, or the error."""
    try:
        async with asyncio.timeout(60):
            return (await completion.whole())["choices"][0]["message"]["content"]
    except ApiError as error:
        return error


async def everything(engine, *asked):
    begun = [await begin(engine, *each[:2], **(each[2] if len(each) > 2 else {})) for each in asked]
    return await asyncio.gather(*map(answer, begun))


def alone(engine, *asked):
    return [asyncio.run(everything(engine, each))[0] for each in asked]


def test_a_model_deleted_while_it_answers_goes_on_and_late_comers_hear_it_is_gone(engine, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    expected = alone(engine, (1, None), (2, ("a", folder)))

    async def delete_meanwhile():
        begun = [await begin(engine, 1), await begin(engine, 2, ("copy", copy))]
        for completion in begun:
            while not completion.choices[0].tokens:
                await asyncio.sleep(0.001)
        shutil.rmtree(copy)
        late = answer(await begin(engine, 3, ("another", copy)))
        return [*await asyncio.gather(*map(answer, begun)), await late]

    *texts, late = asyncio.run(delete_meanwhile())
    assert texts == expected
    assert isinstance(late, ApiError) and late.status == 404 and late.body["error"]["code"] == "model_not_found"
    assert str(tmp_path) not in late.body["error"]["message"]


def test_more_adapters_at_once_than_are_held_when_idle(engine, folder):
    count = engine.rows + 4
    asked = [(i, (f"copy-{i}", folder)) for i in range(count)] + [(i, None) for i in range(4)]
    texts = asyncio.run(everything(engine, *asked))
    assert not [text for text in texts if isinstance(text, ApiError)]
    assert texts[:3] == alone(engine, *((i, ("a", folder)) for i in range(3)))
    assert texts[-1] == alone(engine, (3, None))[0]
    assert len(engine.adapters._loaded) <= engine.rows


BAD = {"messages": [{"role": "user", "content": "the bad one"}]}


def break_sampling(monkeypatch, engine, error):
    choose = engines.TokenSampler.choose

    def broken(self, logits, greedy):
        if self.sampling.seed == 13 and sum(self.counts.values()) >= 3:
            raise error
        return choose(self, logits, greedy)

    monkeypatch.setattr(engines.TokenSampler, "choose", broken)


def break_grammar(monkeypatch, engine, error):
    make = engines.TokenSampler.__init__

    def broken(self, sampling, *rest):
        if sampling.seed == 13:
            raise error
        make(self, sampling, *rest)

    monkeypatch.setattr(engines.TokenSampler, "__init__", broken)


def break_text(monkeypatch, engine, error):
    add = choices.Choice.add

    def broken(self, token):
        if self.stops == ["bad"] and len(self.tokens) == 3:
            raise error
        return add(self, token)

    monkeypatch.setattr(choices.Choice, "add", broken)


def break_the_end_of_a_text(monkeypatch, engine, error):
    finish = choices.Choice.finish

    def broken(self):
        if self.stops == ["bad"]:
            raise error
        return finish(self)

    monkeypatch.setattr(choices.Choice, "finish", broken)


@pytest.mark.parametrize("error", [RuntimeError("planted"), MemoryError("planted"), Panic("planted")], ids=repr)
@pytest.mark.parametrize(
    "break_it",
    [break_sampling, break_grammar, break_text, break_the_end_of_a_text],
    ids=lambda each: each.__name__,
)
def test_a_failure_is_its_own_rows_alone(engine, folder, monkeypatch, break_it, error, capfd):
    good = [(1, None), (2, ("a", folder)), (3, None)]
    expected = alone(engine, *good)
    break_it(monkeypatch, engine, error)
    bad = (0, ("bad", folder), BAD | {"seed": 13, "stop": ["bad"]})
    for _ in range(2):  # and nothing is left behind that would harm the next ones
        first, one, other, last = asyncio.run(everything(engine, good[0], good[1], bad, good[2]))
        assert [first, one, last] == expected
        assert isinstance(other, ApiError) and other.status == 500, other
    monkeypatch.undo()
    assert alone(engine, *good) == expected and engine.busy == 0


def test_a_step_that_fails_ends_what_runs_and_the_next_answers(engine, folder, monkeypatch):
    expected = alone(engine, (1, None), (2, ("a", folder)))
    forward, left = engine._forward, [9]

    def broken(*given):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError("planted")
        return forward(*given)

    monkeypatch.setattr(engine, "_forward", broken)
    found = asyncio.run(everything(engine, (1, None), (2, ("a", folder))))
    assert [isinstance(each, ApiError) and each.status for each in found] == [500, 500]
    assert alone(engine, (1, None), (2, ("a", folder))) == expected and engine.busy == 0


def test_a_stream_says_what_failed_and_ends(engine, monkeypatch):
    break_text(monkeypatch, engine, Panic("planted"))

    async def ask():
        return [piece async for piece in (await begin(engine, 0, stop=["bad"])).stream()]

    last = json.loads(asyncio.run(ask())[-1].removeprefix("data: "))
    assert last["error"]["type"] == "server_error" and set(last["error"]) == {"message", "type", "param", "code"}


def test_an_adapter_whose_weights_are_no_numbers_ends_its_own_answers_alone(engine, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors")
    asked = [(0, None), (1, ("good", folder))]
    expected = alone(engine, *asked)
    found = asyncio.run(everything(engine, asked[0], (2, ("broken", broken)), asked[1]))
    assert "not finite" in str(found[1])
    assert [found[0], found[2]] == expected
