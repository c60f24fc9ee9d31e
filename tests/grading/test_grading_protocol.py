"""Values over the line, and a line that breaks in every way."""

import math
import select
import socket
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from support import SLOW

from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.values import Opaque, Unsendable, decode, encode
from course_utils.grading import protocol
from course_utils.grading.protocol import Channel, Died, Limits, Starved, value_of

LIMITS = Limits(reply_bytes=1000, question_seconds=1.0)


def same(one, other):
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, (np.ndarray, np.generic)):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and (one == other or (one != one and other != other))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        1e-300,
        math.nan,
        -math.inf,
        "text \udc80 ü",
        b"\x00\xff",
        [],
        (),
        (1, [2, (3,)], None),
        {"a": 1, 2: (3,), (4, 5): {"tensor": 1}},
        {1, 2},
        np.float32(2.5),
        np.bool_(True),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.zeros((0, 3)),
        np.array(5.0),
        torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        torch.tensor(True),
        torch.tensor([1, 2]),
        {"grad": torch.ones(2), "none": None},
    ],
    ids=repr,
)
def test_values_come_back_as_they_went(value):
    import json

    assert same(value, decode(json.loads(json.dumps(encode(value)))))


def test_what_comes_back_as_something_near():
    assert decode(encode(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))).dtype == torch.bfloat16
    assert decode(encode(1 + 2j)) == 1 + 2j
    assert decode(encode(Fraction(1, 4))) == 0.25
    opaque = decode(encode(object()))
    assert isinstance(opaque, Opaque)
    assert repr(opaque) == "<object>"
    with pytest.raises(TypeError):
        float(opaque)


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"a": 1, "b": 2},
        {"unknown": 1},
        {"tuple": 1},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"set": [[1]]},
        {"bytes": "?"},
        {"bytes": 5},
        {"int": "x"},
        {"int": 5},
        {"float": "1"},
        {"array": []},
        {"array": ["object", [1], "AAAAAAAAAAA="]},
        {"array": ["float64", [2], "AAAAAAAAAAA="]},
        {"array": ["float64", [-1], ""]},
        {"array": ["float64", ["1"], "AAAAAAAAAAA="]},
        {"array": ["float64", [10**30, 0], ""]},
        {"array": ["float64", [1] * 70, "AAAAAAAAAAA="]},
        {"tensor": ["uint16 ", [1], "AAA="]},
        {"scalar": 1},
        {"complex": [1.0]},
        {"complex": ["1", 2.0]},
        {"bfloat16": ["int64", [1], "AAAAAAAAAAA="]},
        {"bfloat16": 1},
    ],
    ids=str,
)
def test_text_that_is_no_value(text):
    with pytest.raises(Unsendable):
        decode(text)


def test_values_that_do_not_travel():
    with pytest.raises(Unsendable, match="parts"):
        encode([0] * 100_001)
    with pytest.raises(Unsendable, match="bits"):
        encode(2**70_000)
    endless = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        encode(endless)


class Clock:
    """Stands for `time` and `select`: time passes by waiting alone, so that no other process's work can use it up.

    `drip`, if there is one, is done after each twentieth of a second.
    """

    POLLIN, POLLOUT = select.POLLIN, select.POLLOUT

    def __init__(self):
        self.now, self.drip = 1000.0, None

    def monotonic(self):
        return self.now

    def poll(self):
        clock, real = self, select.poll()

        class Poll:
            register = real.register

            def poll(self, milliseconds):
                assert milliseconds >= 0  # less than nothing would be for ever
                if clock.drip and milliseconds > 50:
                    clock.now += 0.05
                    clock.drip()
                    milliseconds -= 50
                found = real.poll(0)
                clock.now += 0 if found else milliseconds / 1000
                return found

        return Poll()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(protocol, "time", clock)
    monkeypatch.setattr(protocol, "select", clock)
    return clock


def pair(limits):
    """Our end, as a channel, and theirs."""
    ours, theirs = socket.socketpair()
    return Channel(ours, limits), theirs


@pytest.fixture
def line(clock):
    channel, theirs = pair(LIMITS)
    yield channel, theirs
    channel.close()
    theirs.close()


def timed(clock, function):
    """What was said in the end, and after how many seconds."""
    began = clock.now
    with pytest.raises(Died) as died:
        function()
    return str(died.value), pytest.approx(clock.now - began)


def test_replies_in_pieces_and_several_at_once():
    channel, theirs = pair(Limits(reply_bytes=1000, question_seconds=60))  # by the real clock

    def reply():
        theirs.recv(1000)
        for byte in b'{"n": 1}\n{"n": 2}\n':
            theirs.send(bytes([byte]))

    threading.Thread(target=reply).start()
    assert channel.ask({}, 60) == {"n": 1}
    assert channel.first(60) == {"n": 2}
    channel.close()
    theirs.close()


@pytest.mark.parametrize("begun", [b"", b'{"n": '])
def test_no_reply_or_one_without_an_end(line, clock, begun):
    line[1].send(begun)
    assert timed(clock, lambda: line[0].ask({}, 0.2)) == ("timed out after 0.2 s", 0.2)


def test_no_reply_by_the_real_clock():
    channel, theirs = pair(LIMITS)
    with pytest.raises(Died, match=r"timed out after 0\.05 s"):
        channel.ask({}, 0.05)
    channel.close()
    theirs.close()


def test_a_byte_now_and_then_does_not_move_the_deadline(line, clock):
    sent = []
    clock.drip = lambda: sent.append(line[1].send(b"x"))
    assert timed(clock, lambda: line[0].ask({}, 0.3)) == ("timed out after 0.3 s", 0.3)
    assert len(sent) >= 5


def looked_at(clock, a_second, sleeps):
    """A channel to a process that never replies, which computes for so many seconds of each."""
    ours, theirs = socket.socketpair()
    limits = Limits(question_seconds=100, patience=10)
    return Channel(ours, limits, lambda: (a_second * (clock.now - 1000), sleeps)), theirs


def test_an_answer_is_charged_what_it_computes_and_not_what_other_programs_compute(clock):
    channel, theirs = looked_at(clock, a_second=0.25, sleeps=False)
    said, seconds = timed(clock, lambda: channel.ask({}, 8))
    assert said == "timed out after 8 s" and 32 <= seconds.expected <= 33
    channel.close(), theirs.close()


def test_one_who_sleeps_is_charged_by_the_clock(clock):
    channel, theirs = looked_at(clock, a_second=0.01, sleeps=True)
    said, seconds = timed(clock, lambda: channel.ask({}, 8))
    assert said == "timed out after 8 s" and 8 <= seconds.expected < 8.5
    channel.close(), theirs.close()


def test_one_who_has_replied_is_not_charged_while_the_grader_gets_no_processor(clock):
    channel, theirs = looked_at(clock, a_second=0.01, sleeps=True)
    for _ in range(40):
        receive = channel._receive

        def late(allowance, receive=receive):
            theirs.send(b"{}\n")
            clock.now += 3
            return receive(allowance)

        channel._receive = late
        assert channel.ask({}, 8) == {}
        channel._receive = receive
    channel.close(), theirs.close()


def test_a_machine_that_is_too_busy_is_not_the_answers_fault(clock):
    channel, theirs = looked_at(clock, a_second=0.01, sleeps=False)
    with pytest.raises(Starved, match="too busy"):
        channel.ask({}, 8)
    assert 80 <= clock.now - 1000 < 81
    channel.close(), theirs.close()


def test_the_question_has_a_limit_of_its_own(line, clock):
    assert timed(clock, lambda: line[0].ask({}, 60)) == ("timed out: more than 1 s in all", 1.0)
    assert timed(clock, lambda: line[0].ask({}, 60)) == ("timed out: more than 1 s in all", 0.0)


def test_one_who_does_not_listen(line, clock):
    assert timed(clock, lambda: line[0].ask({"x": "y" * 10**7}, 0.3)) == ("timed out after 0.3 s", 0.3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * 20_000, "more than 1,000 bytes"),
        (b"junk\n", "cannot read"),
        (b"\n", "cannot read"),
        (b"5\n", "cannot read"),
        (b"[" * 9000 + b"\n", "cannot read"),
        (b'{"ready": {"error": ' + b"[" * 900 + b"]" * 900 + b"}}\n", "cannot read"),  # its text would break what writes it
        (b"\xff\xfe\n", "cannot read"),
    ],
)
def test_junk(line, clock, data, said):
    line[1].send(data)
    text, seconds = timed(clock, lambda: line[0].ask({}, 0.5))
    assert said in text and seconds == 0


def test_one_who_hangs_up(line, clock):
    line[1].close()
    assert timed(clock, lambda: line[0].ask({}, 0.5)) == ("ended itself", 0)


@pytest.mark.parametrize("message", [{}, {"n": 2, "ok": 1}, {"n": 1}, {"n": 1, "ok": 1, "err": ""}, {"n": 1, "ok": {}}])
def test_what_is_no_reply_to_this_call(message):
    with pytest.raises(Died):
        value_of(message, 1)


def test_a_reply():
    assert value_of({"n": 1, "ok": {"tuple": [1]}}, 1) == ((1,), None)
    assert value_of({"n": 1, "err": "x" * 999}, 1) == (None, "x" * 300)


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.id)
def test_judging_takes_bounded_time_and_never_raises(exercise):
    import time

    asked = checking.CaseSet.of(exercise, np.random.default_rng(0))
    huge = [2**65_000, -(2**65_000), "x" * 2_000_000, [0] * 290_000, nested(400), np.zeros(250_000), torch.zeros(250_000)]
    huge += [{k: k for k in range(50_000)}, b"x" * 1_000_000, np.zeros((1,) * 30), math.nan, [math.nan] * 100_000]
    for value in huge:
        began = time.process_time()
        points, message, _ = checking.judge(exercise, asked, [value] * len(asked.cases))
        assert points == 0 and len(message) < 5000
        assert time.process_time() - began < 4.0 * SLOW, type(value)
