"""A reply costs the grader little time and memory, whatever is in it: its size, not its content, decides."""

import json
import socket
import threading
import time
import tracemalloc

import pytest

from course_utils.exercises import EXERCISES, checking
from course_utils.grading.protocol import Channel, Died, Limits, value_of

LIMITS = Limits()
SECONDS = 4.0  # of this process's own work; an honest reply takes a thousandth
SAME = 2**61 - 1  # all multiples of it have one hash


def listed(part, size=1_900_000):
    """JSON list of as many of the parts as a reply may hold."""
    return f"[{','.join([part] * (size // (len(part) + 1)))}]"


def sized(parts):
    text, size = [], 0
    for part in parts:
        size += len(part) + 1
        if size > 1_900_000:
            break
        text.append(part)
    return f"[{','.join(text)}]"


def kind(name, held):
    return f'{{"{name}":{held}}}'


MULTIPLES = [SAME * n for n in range(100_000)]
VALUES = {
    "ints of one hash in a set": kind("set", sized(map(str, MULTIPLES))),
    "ints of one hash in a dict": kind("dict", sized(f"[{n},0]" for n in MULTIPLES)),
    "floats of one hash": kind("set", sized(repr(2.0 ** (61 * n)) for n in range(16))),
    "tuples of one hash": kind("set", sized(kind("tuple", f"[{n},1,2,3]") for n in MULTIPLES)),
    "wide ints of one hash": kind("set", sized(kind("int", f'"{n + SAME * 2**64:#x}"') for n in MULTIPLES)),
    "many small dicts": listed(kind("dict", "[[1,1]]")),
    "many small sets": listed(kind("set", "[1]")),
    "many types": sized(kind("object", f'"T{n}"') for n in range(10**6)),
    "many types read out": sized(kind("listed", f'["T{n}",[]]') for n in range(10**6)),
    "one type": listed(kind("object", '"T"')),
    "many arrays": listed(kind("array", '["int8",[0],""]')),
    "many tensors": listed(kind("tensor", '["int8",[0],""]')),
    "many scalars": listed(kind("scalar", '["int8",[],"AA=="]')),
    "a shape of huge sizes": kind("array", f'["int8",{listed("9" * 4000)},""]'),
    "a shape of many sizes": kind("array", f'["int8",{listed("3")},""]'),
    "a huge int": kind("int", '"0x' + "f" * 1_900_000 + '"'),
    "a long number": "9" * 1_900_000,
    "many long numbers": listed("9" * 4300),
    "a long float": "0." + "3" * 1_900_000,
    "a long exponent": "1e" + "9" * 1_900_000,
    "many empty lists": listed("[]"),
    "many nulls": listed("null"),
    "deep lists": "[" * 900_000 + "]" * 900_000,
    "450 deep": listed("[" * 450 + "]" * 450),
    "deep tuples": '{"tuple":[' * 400 + "1" + "]}" * 400,
    "a long text": '"' + "x" * 1_900_000 + '"',
    "many texts": listed('"x"'),
    "many keys": "{" + ",".join(f'"{n}":0' for n in range(150_000)) + "}",
    "an unknown kind": kind("k" * 1_900_000, "1"),
}


def answered(text):
    """What the grader makes of a reply, from the socket on."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, LIMITS)
    sending = threading.Thread(target=theirs.sendall, args=(b'{"n": 0, "ok": ' + text.encode() + b"}\n",))
    sending.start()
    try:
        return value_of(channel.ask({}, 60), 0)[0]
    except Died as end:
        return checking.Raised(str(end))
    finally:
        sending.join()
        channel.close()
        theirs.close()


@pytest.mark.parametrize("what", VALUES)
def test_what_a_reply_costs_to_read_and_to_judge(what):
    import numpy as np
    import torch  # noqa: F401

    exercise = EXERCISES["api-4"]
    asked = checking.CaseSet.of(exercise, np.random.default_rng(0))
    began = time.thread_time()
    value = answered(VALUES[what])
    read = time.thread_time() - began
    points, said, _ = checking.judge(exercise, asked, [value] * len(asked.cases))
    assert points == 0 and len(said) < 1000
    assert read < SECONDS and time.thread_time() - began < 2 * SECONDS


def test_what_a_reply_takes_of_memory():
    for what in ("many types", "many small dicts", "many arrays", "deep lists", "many empty lists"):
        tracemalloc.start()
        answered(VALUES[what])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300e6, (what, peak)


def test_many_large_replies_have_a_limit_together():
    ours, theirs = socket.socketpair()
    channel = Channel(ours, LIMITS)
    text = json.dumps({"n": 0, "ok": "x" * 1_500_000}).encode() + b"\n"

    def send():
        try:
            while True:
                theirs.sendall(text)
        except OSError:
            pass

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(Died, match="in all"):
        for _ in range(9):
            channel.ask({}, 60)
    channel.close()
    sending.join()
    theirs.close()
