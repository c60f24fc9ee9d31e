"""What goes wrong with one row of a batch is that row's alone; adapters that answer stay until they have answered."""

import asyncio
import json
import shutil
import threading

import pytest
from support import tiny_llama, with_lora

from course_utils.openai_server import choices
from course_utils.openai_server import engine as engines
from course_utils.openai_server.adapters import MAX_ADAPTERS
from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import Chat
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
    return await Chat(engine, 400).begin(ChatRequest.model_validate(body | more), adapter)


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


def test_a_model_deleted_while_it_answers_stays_until_it_has(engine, folder):
    expected = alone(engine, (1, None), (2, ("a", folder)))

    async def delete_meanwhile():
        buried = threading.Event()
        begun = [await begin(engine, 1), await begin(engine, 2, ("a", folder))]
        for completion in begun:
            while engine.busy < 2 or not completion.choices[0].ids:
                await asyncio.sleep(0.001)
        engine.forget("a", buried.set)
        while_it_answers = buried.is_set()
        texts = await asyncio.gather(*map(answer, begun))
        return texts, while_it_answers, await asyncio.to_thread(buried.wait, 10)

    texts, early, buried = asyncio.run(delete_meanwhile())
    assert texts == expected and not early and buried
    assert engine.adapters.in_memory == 0


def test_a_model_deleted_before_its_turn_answers_too_and_late_comers_hear_it_is_gone(engine, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")

    async def delete_at_once():
        first = await begin(engine, 3, ("copy", copy))
        engine.forget("copy", lambda: shutil.rmtree(copy))
        found = await answer(first)
        return found, await answer(await begin(engine, 3, ("copy", copy)))

    found, late = asyncio.run(delete_at_once())
    assert found == alone(engine, (3, ("a", folder)))[0]
    assert isinstance(late, ApiError) and late.status == 404 and late.body["error"]["code"] == "model_not_found"
    assert str(tmp_path) not in late.body["error"]["message"]


def test_more_adapters_at_once_than_are_held_wait_for_their_turn(engine, folder):
    count = MAX_ADAPTERS + 4
    held = []
    load = engine.adapters.load

    def noted(*given, **more):
        load(*given, **more)
        held.append(engine.adapters.in_memory)

    engine.adapters.load = noted
    asked = [(i, (f"copy-{i}", folder)) for i in range(count)] + [(i, None) for i in range(4)]
    texts = asyncio.run(everything(engine, *asked))
    assert not [text for text in texts if isinstance(text, ApiError)]
    assert texts[:3] == alone(engine, *((i, ("a", folder)) for i in range(3)))
    assert texts[-1] == alone(engine, (3, None))[0]
    assert max(held) <= MAX_ADAPTERS


def test_who_waits_for_an_adapter_is_not_overtaken_for_ever(engine, folder):
    """Those whose adapter is in memory would keep it there, and the last one out, for as long as they come."""
    engine.adapters.keep = 1

    async def ask():
        done = []
        begun = [await begin(engine, 0, ("a", folder)), await begin(engine, 1, ("b", folder), max_tokens=2)]
        begun += [await begin(engine, i, ("a", folder)) for i in range(2, 8)]

        async def noted(number, completion):
            await answer(completion)
            done.append(number)

        await asyncio.gather(*(noted(number, completion) for number, completion in enumerate(begun)))
        return done

    assert asyncio.run(ask()).index(1) == 1


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
        if self.stops == ["bad"] and len(self.ids) == 3:
            raise error
        return add(self, token)

    monkeypatch.setattr(choices.Choice, "add", broken)


def break_the_end_of_a_text(monkeypatch, engine, error):
    flush = choices.Choice.flush

    def broken(self):
        if self.stops == ["bad"]:
            raise error
        return flush(self)

    monkeypatch.setattr(choices.Choice, "flush", broken)


def break_the_prompt(monkeypatch, engine, error):
    """The model, while prompts go through it and the bad one's is among them."""
    forward = engine._forward
    bad = engine.tokenizer(" the bad one", add_special_tokens=False)["input_ids"][-2:]

    def broken(ids, *rest):
        row = ids[0].tolist()
        if any(row[i : i + 2] == bad for i in range(len(row))):
            raise error
        return forward(ids, *rest)

    monkeypatch.setattr(engine, "_forward", broken)


def break_a_step(monkeypatch, engine, error):
    """The model, in every step with the bad one's row."""
    forward, use, used = engine._forward, engine.adapters.use, []

    def noted(names, lengths=None):
        used[:] = [*names, "a prompt"] if lengths else names
        use(names, lengths)

    def broken(*given):
        if "bad" in used and used[-1] != "a prompt":
            raise error
        return forward(*given)

    monkeypatch.setattr(engine.adapters, "use", noted)
    monkeypatch.setattr(engine, "_forward", broken)


@pytest.mark.parametrize("error", [RuntimeError("planted"), MemoryError("planted"), Panic("planted")], ids=repr)
@pytest.mark.parametrize(
    "break_it",
    [break_sampling, break_grammar, break_text, break_the_end_of_a_text, break_the_prompt, break_a_step],
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
    assert alone(engine, *good) == expected and engine.busy == 0 and engine.cache.rows == 0


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
