"""Adapters in one batch give what each gives alone, and PEFT; the engine's answers are those of `generation`."""

import asyncio
import gc
import json
import shutil
import threading
import time
import weakref

import pytest
import torch
from support import tiny_llama, with_lora

from course_utils.openai_server import constrained
from course_utils.openai_server import engine as module
from course_utils.openai_server.adapters import Adapters
from course_utils.openai_server.bodies import ApiError
from course_utils.openai_server.chat import ChatRequest
from course_utils.openai_server.completions import begin
from course_utils.openai_server.engine import Engine


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of three adapters of different rank, scaling and layers, and their models as PEFT has them."""
    made = {}
    for name, rank, alpha, targets in (
        ("a", 4, 8, "all-linear"),
        ("b", 8, 4, ["q_proj", "down_proj"]),
        ("c", 2, 16, "all-linear"),
    ):
        model = with_lora(tiny_llama(), rank, alpha, targets).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.01 * (ord(name) - 96)
        folder = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(folder)
        made[name] = folder, model
    return made


def test_a_mixed_batch_equals_peft_row_by_row(saved):
    base = tiny_llama()
    adapters = Adapters(base)
    ids = torch.randint(3, 1000, (6, 7), generator=torch.Generator().manual_seed(0))
    rows = ["a", None, "b", "c", "a", "b"]
    for name in ("a", "b", "c"):
        adapters.load(name, saved[name][0])
    adapters.use(rows)
    with torch.no_grad():
        mixed = base(ids).logits
        for row, name in enumerate(rows):
            alone = saved[name][1] if name else tiny_llama()
            torch.testing.assert_close(mixed[row], alone(ids[row : row + 1]).logits[0], atol=1e-4, rtol=1e-4)
        assert (mixed[0] - mixed[4]).abs().max() > 0.01  # other tokens, so the rows were not simply copied
        adapters.use([None] * 6)
        torch.testing.assert_close(base(ids).logits, tiny_llama()(ids).logits)


def test_adapters_that_are_not_used_for_longest_leave_memory(saved):
    adapters = Adapters(tiny_llama(), keep=2)
    for name in ("a", "b", "c"):
        adapters.load(name, saved[name][0])
        adapters.use([name])
    assert list(adapters._loaded) == ["b", "c"]
    adapters.load("a", saved["a"][0], in_use=["b", "c"])
    assert list(adapters._loaded) == ["b", "c", "a"]  # what is in use stays
    adapters.load("b2", saved["b"][0], in_use=["c"])
    assert list(adapters._loaded) == ["c", "b2"]


def test_what_is_no_adapter_of_this_base_is_refused(saved, tmp_path):
    from course_utils.errors import CourseError

    adapters = Adapters(tiny_llama(hidden_size=64))
    with pytest.raises(CourseError, match=r"this base does not have"):
        adapters.load("a", saved["a"][0])
    with pytest.raises(CourseError, match="cannot read"):
        adapters.load("x", tmp_path)


@pytest.fixture(scope="module")
def engine(packaged):
    engine = Engine(lambda: (tiny_llama(max_position_embeddings=512), packaged[1]), rows=4)
    yield engine
    engine.close()


def ask(engine, requests, adapters=None):
    """Choices of all requests, sent at once."""

    async def one(request, adapter):
        body = {"model": "m", "temperature": 0, "max_tokens": 12} | request
        return await (await begin(engine, 400, ChatRequest.model_validate(body), adapter)).whole()

    async def everything():
        return await asyncio.gather(*map(one, requests, adapters or [None] * len(requests)))

    return asyncio.run(everything())


def question(words: int, **more) -> dict:
    return {"messages": [{"role": "user", "content": "tell " * words + "me"}], **more}


def texts(found) -> list[str]:
    return [choice["message"]["content"] for answer in found for choice in answer["choices"]]


@pytest.mark.model
def test_a_batch_that_rows_join_and_leave_gives_what_each_gets_alone(engine, packaged, saved):
    """Twenty requests of different length, adapters and limits on four rows, in float32."""
    from course_utils.generation import complete

    names = [None, "a", "b", "c"]
    requests = [question(1 + 7 * i % 60, max_tokens=3 + 5 * i % 29) for i in range(20)]
    adapters = [(n, saved[n][0]) if (n := names[i % 4]) else None for i in range(20)]
    found = texts(ask(engine, requests, adapters))
    tokenizer = packaged[1]
    for request, adapter, text in zip(requests, adapters, found):
        model = saved[adapter[0]][1] if adapter else tiny_llama()
        prompt = tokenizer(tokenizer.apply_chat_template(request["messages"], tokenize=False, add_generation_prompt=True))[
            "input_ids"
        ]
        expected = complete(model, tokenizer, [prompt], request["max_tokens"])[0]
        assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert engine.busy == 0


@pytest.mark.model
def test_choices_of_a_seed_differ_and_come_again(engine):
    one, other = (texts(ask(engine, [question(3, n=3, seed=7, temperature=1.5)])) for _ in range(2))
    assert one == other and len(set(one)) == 3
    assert texts(ask(engine, [question(3, n=3, seed=8, temperature=1.5)])) != one


@pytest.mark.model
def test_log_probabilities_are_the_models(engine, packaged):
    found = ask(engine, [question(3, logprobs=True, top_logprobs=5)])[0]["choices"][0]
    tokens = found["logprobs"]["content"]
    tokenizer = packaged[1]
    text = tokenizer.apply_chat_template(question(3)["messages"], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text)["input_ids"]
    with torch.no_grad():
        expected = torch.log_softmax(tiny_llama()(torch.tensor([prompt])).logits[0, -1], 0)
    assert tokens[0]["logprob"] == pytest.approx(float(expected.max()), abs=1e-4)
    tops = [other["logprob"] for other in tokens[0]["top_logprobs"]]
    assert tops == pytest.approx(expected.topk(5).values.tolist(), abs=1e-4)
    assert (
        bytes(b for token in tokens for b in token["bytes"]).decode(errors="ignore")[:5] == found["message"]["content"][:5]
    )


@pytest.mark.model
def test_bias_penalties_and_nucleus(engine, packaged):
    tokenizer = packaged[1]
    first = ask(engine, [question(3, logprobs=True)])[0]["choices"][0]["logprobs"]["content"]
    chosen = tokenizer.encode(first[0]["token"])[0]
    banned = texts(ask(engine, [question(3, logit_bias={str(chosen): -100, "foo": 0})]))[0]
    assert not banned.startswith(first[0]["token"])
    forced = texts(ask(engine, [question(3, logit_bias={str(tokenizer.encode(" yes")[0]): 100})]))[0]
    assert forced == " yes" * 12
    varied = ask(engine, [question(3, logit_bias={"100": 100, "101": 99.9, "102": 99.8}, frequency_penalty=1)])
    assert len(set(texts(varied)[0].split(tokenizer.decode([100])))) > 1  # not one token twelve times
    greedy = texts(ask(engine, [question(3)]))[0]
    assert texts(ask(engine, [question(3, temperature=2, top_p=0)]))[0] == greedy


@pytest.mark.model
def test_a_stop_sequence_ends_the_text_before_it(engine):
    whole = texts(ask(engine, [question(3)]))[0]
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    found = ask(engine, [question(3, stop=["never this", middle])])[0]["choices"][0]
    assert found["message"]["content"] == whole[: whole.index(middle)] and found["finish_reason"] == "stop"


@pytest.mark.model
def test_whoever_goes_away_makes_room(engine):
    async def leave():
        begun = [
            await begin(engine, 400, ChatRequest.model_validate({"model": "m", **question(2), "max_tokens": 350}), None)
            for _ in range(6)
        ]
        for completion in begun:
            await completion._queue.get() if completion in begun[:4] else None
            completion.cancel()

    asyncio.run(leave())
    assert texts(ask(engine, [question(3, max_tokens=2)]))[0]
    assert engine.busy == 0


def test_text_is_sent_without_half_characters_and_without_what_may_be_a_stop(packaged):
    from course_utils.openai_server.constrained import Choice
    from course_utils.openai_server.sampling import Token

    tokenizer = packaged[1]
    choice = Choice(tokenizer, ["END"])
    ids = tokenizer.encode("größer 日本 E")
    pieces = [choice.add(Token(i))[0] for i in ids]
    assert "".join(pieces) == "größer 日本 " and "\ufffd" not in "".join(pieces)
    assert choice.finish() == ("E", [])
    choice = Choice(tokenizer, ["END"])
    sent = ""
    for token in tokenizer.encode("the END of it"):
        sent += choice.add(Token(token))[0]
        if choice.stopped:
            break
    assert choice.stopped and sent + choice.finish()[0] == "the "


@pytest.mark.parametrize("seed", range(20))
def test_each_row_sees_its_own_past_and_nothing_else(seed):
    """Rows of random length join and leave; what a row may look at is compared with a list kept beside it."""
    import random

    from transformers import DynamicCache

    from course_utils.openai_server.engine import KeyValueCache

    def of_one_layer(tokens):
        return torch.tensor(tokens).float()[None, None, :, None]

    dice, histories, counter = random.Random(seed), [], iter(range(1, 10**6))
    columns = KeyValueCache(tiny_llama())
    columns.layers = columns.heads = columns.width = 1
    columns.clear()
    for _ in range(120):
        if dice.random() < 0.1 and len(histories) < 9:
            made = [[next(counter) for _ in range(dice.randint(1, 90))] for _ in range(dice.randint(1, 3))]
            prompts, tokens = DynamicCache(), [token for row in made for token in row]
            prompts.update(of_one_layer(tokens), -of_one_layer(tokens), 0)
            columns.reserve(len(histories) + len(made), max(map(len, made)))
            for row in made:
                begin = tokens.index(row[0])
                columns.write(len(histories), prompts, slice(begin, begin + len(row)))
                histories.append(row)
        for row in sorted((row for row in range(len(histories)) if dice.random() < 0.03), reverse=True):
            last = histories.pop()
            if row < len(histories):
                columns.move(len(histories), row)
                histories[row] = last
        if not histories:
            continue
        visible = columns.open(torch.tensor([len(history) for history in histories]))
        new = [next(counter) for _ in histories]
        found = columns.update(of_one_layer(new).transpose(0, 2), -of_one_layer(new).transpose(0, 2), 0)
        keys, values = (part[:, 0, :, 0] for part in found)
        for row, (history, token) in enumerate(zip(histories, new)):
            history.append(token)
            assert keys[row][visible[row]].tolist() == history and (-values[row][visible[row]]).tolist() == history


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_product_is_the_linear_layer(dtype, rows):
    from course_utils.openai_server.adapters import Product

    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, 64), torch.randn(48, 64), torch.randn(48)
    for given in (None, bias):
        given = None if given is None else given.to(dtype)
        expected = torch.nn.functional.linear(x.to(dtype), weight.to(dtype), given)
        with torch.inference_mode():
            found = Product(weight.to(dtype), given)(x.to(dtype))
        assert found.shape == expected.shape and found.dtype == dtype
        # The order of additions may differ, the rounding of the result by one unit.
        unit = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
        torch.testing.assert_close(found, expected, rtol=unit, atol=unit)


@pytest.mark.model
def test_freed_memory_goes_back_after_a_pause_once_and_not_during_work(packaged, monkeypatch):
    """A schema's tables leave 300 MB of freed memory with the packaged model; a training process beside it may need them."""
    trims = []
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.2)

    def noted():
        if threading.current_thread() is engine._thread:  # other engines of this process may pause too
            trims.append(engine.busy)

    monkeypatch.setattr(module.memory, "trim", noted)
    engine = Engine(lambda: (tiny_llama(max_position_embeddings=512), packaged[1]), rows=4)
    try:
        for expected in (1, 2):  # after loading; and after answers, which take longer than the pause
            until = time.monotonic() + 60
            while len(trims) < expected and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.6)
            assert trims == [0] * expected
            if expected == 1:
                texts(ask(engine, [{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200}] * 6))
    finally:
        engine.close()


def test_an_idle_cache_holds_no_memory():
    from course_utils.openai_server.engine import KeyValueCache

    columns = KeyValueCache(tiny_llama())
    columns.open(torch.tensor([5, 7]))
    storage = weakref.ref(columns.storage.untyped_storage())
    columns.clear()
    gc.collect()
    assert storage() is None


# -- what goes wrong with one answer of a batch is that answer's alone -----------------------------------------------------

TOKENS = 40


@pytest.fixture(scope="module")
def folder(saved):
    return saved["a"][0]


@pytest.fixture
def fresh(packaged):
    """An engine for one test, which may break it."""
    engine = Engine(lambda: (tiny_llama(max_position_embeddings=512), packaged[1]), rows=32)
    yield engine
    engine.close()


class Panic(BaseException):
    """What the Rust libraries raise where they panic: no Exception."""


async def say(fresh, number, adapter=None, **more):
    body = {"model": "m", "temperature": 0, "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"say {number}"}]}
    return await begin(fresh, 400, ChatRequest.model_validate(body | more), adapter)


async def answer(completion):
    """Its text, or the error."""
    try:
        async with asyncio.timeout(60):
            return (await completion.whole())["choices"][0]["message"]["content"]
    except ApiError as error:
        return error


async def everything(fresh, *asked):
    begun = [await say(fresh, *each[:2], **(each[2] if len(each) > 2 else {})) for each in asked]
    return await asyncio.gather(*map(answer, begun))


def alone(fresh, *asked):
    return [asyncio.run(everything(fresh, each))[0] for each in asked]


@pytest.mark.model
def test_a_model_deleted_while_it_answers_goes_on_and_late_comers_hear_it_is_gone(fresh, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    expected = alone(fresh, (1, None), (2, ("a", folder)))

    async def delete_meanwhile():
        begun = [await say(fresh, 1), await say(fresh, 2, ("copy", copy))]
        for completion in begun:
            while not completion.choices[0].tokens:
                await asyncio.sleep(0.001)
        shutil.rmtree(copy)
        late = answer(await say(fresh, 3, ("another", copy)))
        return [*await asyncio.gather(*map(answer, begun)), await late]

    *texts, late = asyncio.run(delete_meanwhile())
    assert texts == expected
    assert isinstance(late, ApiError) and late.status == 404 and late.body["error"]["code"] == "model_not_found"
    assert str(tmp_path) not in late.body["error"]["message"]


@pytest.mark.model
def test_more_adapters_at_once_than_are_held_when_idle(fresh, folder):
    count = fresh.rows + 4
    asked = [(i, (f"copy-{i}", folder)) for i in range(count)] + [(i, None) for i in range(4)]
    texts = asyncio.run(everything(fresh, *asked))
    assert not [text for text in texts if isinstance(text, ApiError)]
    assert texts[:3] == alone(fresh, *((i, ("a", folder)) for i in range(3)))
    assert texts[-1] == alone(fresh, (3, None))[0]
    assert len(fresh.adapters._loaded) <= fresh.rows


BAD = {"messages": [{"role": "user", "content": "the bad one"}]}


# What fails: the class, its method, and with what arguments it does.
FAULTS = {
    "sampling": (module.TokenSampler, "choose", lambda self, *_: self.sampling.seed == 13 and sum(self.counts.values()) > 2),
    "grammar": (module.TokenSampler, "__init__", lambda self, sampling, *_: sampling.seed == 13),
    "text": (constrained.Choice, "add", lambda self, token: self.stops == ["bad"] and len(self.tokens) == 3),
    "the end of a text": (constrained.Choice, "finish", lambda self: self.stops == ["bad"]),
}


def plant(monkeypatch, fault, error):
    """Let one of `FAULTS` happen to the request of `BAD`."""
    owner, name, happens = FAULTS[fault]
    original = getattr(owner, name)

    def broken(self, *arguments):
        if happens(self, *arguments):
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.model
@pytest.mark.parametrize("error", [RuntimeError("planted"), Panic("planted")], ids=repr)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_its_own_rows_alone(fresh, folder, monkeypatch, fault, error):
    good = [(1, None), (2, ("a", folder)), (3, None)]
    expected = alone(fresh, *good)
    plant(monkeypatch, fault, error)
    bad = (0, ("bad", folder), BAD | {"seed": 13, "stop": ["bad"]})
    for _ in range(2):  # and nothing is left behind that would harm the next ones
        first, one, other, last = asyncio.run(everything(fresh, good[0], good[1], bad, good[2]))
        assert [first, one, last] == expected
        assert isinstance(other, ApiError) and other.status == 500, other
    monkeypatch.undo()
    assert alone(fresh, *good) == expected and fresh.busy == 0


@pytest.mark.model
def test_a_step_that_fails_ends_what_runs_and_the_next_answers(fresh, folder, monkeypatch):
    expected = alone(fresh, (1, None), (2, ("a", folder)))
    forward = fresh._forward

    def broken(ids, *given):
        if len(ids) == 2:  # both are running, however late the second came
            raise MemoryError("planted")
        return forward(ids, *given)

    monkeypatch.setattr(fresh, "_forward", broken)
    found = asyncio.run(everything(fresh, (1, None), (2, ("a", folder))))
    assert [isinstance(each, ApiError) and each.status for each in found] == [500, 500]
    assert alone(fresh, (1, None), (2, ("a", folder))) == expected and fresh.busy == 0


@pytest.mark.model
def test_a_stream_says_what_failed_and_ends(fresh, monkeypatch):
    plant(monkeypatch, "text", Panic("planted"))

    async def ask():
        return [piece async for piece in (await say(fresh, 0, stop=["bad"])).stream()]

    last = json.loads(asyncio.run(ask())[-1].removeprefix("data: "))
    assert last["error"]["type"] == "server_error" and set(last["error"]) == {"message", "type", "param", "code"}


@pytest.mark.model
def test_an_adapter_whose_weights_are_no_numbers_ends_its_own_answers_alone(fresh, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors")
    asked = [(0, None), (1, ("good", folder))]
    expected = alone(fresh, *asked)
    found = asyncio.run(everything(fresh, asked[0], (2, ("broken", broken)), asked[1]))
    assert "not finite" in str(found[1])
    assert [found[0], found[2]] == expected
