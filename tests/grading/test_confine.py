"""The filter of system calls says the same on every machine it is for; here it is worked out without the kernel."""

import struct

import pytest

from course_utils.grading import confine

ALLOW, KILL, EPERM, EAGAIN, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x5000B, 0x50026
NOTHING = 0x50000  # the call is not made, and returns 0
# (name, arguments) -> verdict
NARROW = [
    ("fcntl", (3, 3), ALLOW),
    *((("fcntl", (3, command), EPERM)) for command in (5, 36, 8, 10, 1024, 1026, 1031)),
    *((("fcntl", (3, command), NOTHING)) for command in (6, 7, 37, 38)),  # locks
    ("ioctl", (1, 0x5401), ALLOW),
    ("ioctl", (1, 0x40049409), EPERM),  # FICLONE
    ("ioctl", (1, 0x5412), EPERM),  # TIOCSTI
    *((("madvise", (0, 4096, advice), EPERM)) for advice in (9, 20, 21, 22, 25, 100)),
    ("madvise", (0, 4096, 4), ALLOW),
    ("prctl", (15, 0), ALLOW),
    ("prctl", (4, 1), EPERM),
    ("prctl", (22, 2), EPERM),
    ("prlimit64", (0, 7, 0, 1), ALLOW),
    ("prlimit64", (0, 7, 1, 0), EPERM),
    ("prlimit64", (0, 7, 1 << 32, 0), EPERM),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (2, 1, 0), EPERM),
    ("socketpair", (40, 1, 0), EPERM),
    ("clone", (0x3D0F00,), ALLOW),  # a thread of the C library
    ("clone", (0x11,), EPERM),
    ("clone", (0x4111,), EPERM),
    ("clone3", (0, 88), ENOSYS),
    *((("futex", (0, operation | 128), ALLOW)) for operation in (0, 1, 3, 4, 5, 9, 10, 9 | 256)),
    *((("futex", (0, operation), EAGAIN)) for operation in (0, 9, 9 | 256)),
    *((("futex", (0, operation), EPERM)) for operation in (1, 3, 4, 5, 6, 7, 8, 10, 11)),
    ("read", (0, 1 << 40), ALLOW),
]
# modes, owners, times, attributes, locks, nodes, processes, name spaces, sockets, pipes, messages, keys, and what is new
REFUSED = {
    "x86_64": "90 91 268 92 93 94 260 132 235 261 280 188 189 190 197 73 133 259 57 58 59 322 272 308 165 166 161 "
    "155 101 310 311 41 42 43 46 47 49 50 54 288 299 307 22 293 29 30 64 65 68 69 70 240 241 248 249 250 "
    "319 447 321 323 425 426 427 298 27 221 187 327 99 137 138 222 224 206 253 254 294 300 301 303 304 "
    "312 434 438 449 428 429 430 442 162 306 135 279 278 275 276 160 109 112 203 141 149 151 324 452 454",
    "aarch64": "52 53 54 55 88 5 6 7 14 32 33 221 281 97 268 40 39 51 41 117 270 271 198 200 201 202 203 208 211 212 "
    "59 194 196 190 193 186 189 187 180 181 217 218 219 279 447 280 282 425 426 427 241 232 223 213 286 "
    "179 43 44 107 85 0 26 27 262 263 264 265 272 434 438 449 428 442 81 267 92 239 75 76 77 164 154 157 "
    "122 140 228 230 283 452 454",
}


def verdict(machine, number, arguments=(), audit=None):
    """What the program says, worked out line by line."""
    words = [number, audit or confine.MACHINES[machine][0], 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32]
    data, lines, at, value = struct.pack("16I", *words), confine.program(machine), 0, 0
    while True:
        code, yes, no, constant = lines[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("I", data, constant)
        elif code == 0x06:
            return constant
        else:
            met = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            at += yes if met else no


@pytest.mark.parametrize("machine", confine.MACHINES)
def test_what_is_listed_is_allowed_and_nothing_else(machine):
    column = confine.MACHINES[machine][1]
    listed = {numbers[column] for numbers in confine.CALLS.values()} - {None}
    narrowed = {confine.CALLS[name][column] for name in (*confine.NARROWED, "futex", "clone", "clone3")}
    without_effect = {numbers[column] for numbers in confine.WITHOUT_EFFECT.values()} - {None}
    for number in range(confine.NEWEST + 1):
        if number not in narrowed:
            expected = ALLOW if number in listed else NOTHING if number in without_effect else EPERM
            assert verdict(machine, number) == expected, number
    assert verdict(machine, confine.NEWEST + 1) == ENOSYS
    assert not listed & set(map(int, REFUSED[machine].split()))
    assert len(confine.program(machine)) < 4096  # the kernel's limit


@pytest.mark.parametrize("machine", confine.MACHINES)
@pytest.mark.parametrize(("name", "arguments", "said"), NARROW)
def test_of_some_calls_a_part_is_allowed(machine, name, arguments, said):
    assert verdict(machine, confine.CALLS[name][confine.MACHINES[machine][1]], arguments) == said


def test_calls_of_other_kinds_end_the_process():
    assert verdict("x86_64", 0x40000000) == KILL
    assert verdict("x86_64", 0, audit=0x40000003) == KILL  # 32 bit
