"""The system calls that an answer's process may make; all others are refused (seccomp).

An answer computes, starts threads and event loops, and uses files in its scratch folders. It does not need processes,
programs, namespaces, sockets, pipes, keys, modes and times of files, locks, or information about the machine and the other
answers on it. Because this is a list of what is allowed, calls that later kernels add are refused too.

Some calls seem to succeed and do nothing (`WITHOUT_EFFECT`): libraries that copy a file or keep a small database set modes
and locks by the way, and an answer has its scratch folders for itself.

Refused or without effect because two answers graded at the same time could communicate through them, although they share no
writable file: locks and leases on files that both see (`flock`, `F_SETLK`, `F_SETLEASE`, `F_NOTIFY`), inotify and fanotify,
times, modes and attributes of shared nodes, `futex` on a page of a library that both map, message queues, keyrings, sockets
that lead anywhere (vsock has no namespace), pipes and pseudo-terminals (they are counted per user or per machine, and so are
their inode numbers), which pages of a file are in memory (`mincore`, `RWF_NOWAIT`, `posix_fadvise`, `MADV_PAGEOUT`), free
memory and the number of processes (`sysinfo`), free space of shared disks, POSIX timers, io_uring, asynchronous I/O, perf,
bpf, userfaultfd.

Still open, because nothing on a shared machine can close it: how fast the machine is. An answer that keeps a core, a cache,
the memory or the disk busy slows the others down, and they can measure that with a clock, at a few bits per second, with
errors; reading a file of a shared package brings it into memory, and the next reader is faster. To rule this out too, grade
with one job.

This file runs inside the sandbox, so it imports only the standard library.
"""

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator

# name: (number on x86_64, number on aarch64); None where the call does not exist
# fmt: off
CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "creat": (85, None), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "stat": (4, None),
    "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents": (78, None), "getdents64": (217, 61), "truncate": (76, 45), "ftruncate": (77, 46),
    "fallocate": (285, 47), "sendfile": (40, 71), "copy_file_range": (326, 285), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "umask": (95, 166), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226),
    "mremap": (25, 216), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "pause": (34, None), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getpriority": (140, 141), "getrlimit": (97, 163), "uname": (63, 160),
    "getcpu": (309, 168), "getrandom": (318, 278), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "arch_prctl": (158, None), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "map_shadow_stack": (453, 453), "fcntl": (72, 25), "ioctl": (16, 29),
    "futex": (202, 98), "madvise": (28, 233), "clone": (56, 220), "clone3": (435, 435), "prctl": (157, 167),
    "prlimit64": (302, 261),
    # asyncio's event loop: a pair of sockets that wakes it, and the calls that wait for them
    "socketpair": (53, 199), "sendto": (44, 206), "recvfrom": (45, 207), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22),
}
# Modes, times, attributes and locks of files, and waiting for the disk
WITHOUT_EFFECT: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "listxattr": (194, 11), "llistxattr": (195, 12),
    "flistxattr": (196, 13), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
}
# fmt: on
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # machine: (its audit number, column of CALLS)
# Higher numbers belong to kernels newer than this list; they get ENOSYS, which the C library can handle.
NEWEST = 470

# call: (argument, its allowed values): a file's own flags, terminal queries and non-blocking mode, waits between the threads
# of one process, what malloc does, a thread's name, reading a limit.
_PRIVATE = 128  # of futex: the waiters are threads of one process
NARROWED: dict[str, tuple[int, tuple[int, ...]]] = {
    "fcntl": (1, (0, 1, 2, 3, 4, 1030)),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "ioctl": (1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FION/FIOCLEX
    "madvise": (2, (0, 1, 2, 3, 4, 8, 14, 15, 16, 17)),  # NORMAL … DONTNEED, FREE, (NO)HUGEPAGE, DONTDUMP, DODUMP
    "prctl": (0, (15, 16)),  # PR_SET_NAME, PR_GET_NAME
    "prlimit64": (2, (0,)),  # no new limit
    "socketpair": (0, (1,)),  # AF_UNIX, which leads nowhere
}
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW of fcntl, which have no effect either
_WAITS = (0, 9, 9 | 256)  # FUTEX_WAIT, FUTEX_WAIT_BITSET, the latter also with the real-time clock
_THREAD = 0x10000  # CLONE_THREAD

_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NOTHING = _ERROR  # "error 0": the call returns 0 and is not made
_EPERM, _EAGAIN, _ENOSYS = 1, 11, 38
_LOAD, _EQUAL, _GREATER_OR_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

Line = tuple[int, int, int, int]  # (code, lines to skip if true, lines to skip if false, constant)


def confine() -> bool:
    """Restrict this process, and the threads that it starts, to the system calls in `CALLS`, permanently.

    Returns:
        False if this machine cannot do that.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False
    lines = program(platform.machine())
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    filter_ = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(packed))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    return bool(libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0) == 0)


def program(machine: str) -> list[Line]:
    """Return the filter as classic BPF instructions, the form in which the kernel takes it.

    Args:
        machine: a key of `MACHINES`.
    """
    audit, column = MACHINES[machine]
    lines: list[Line] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_OR_EQUAL, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _KILL),  # so do the calls of x32
    ]
    for name, numbers in CALLS.items():
        number, block = numbers[column], list(_block(name))
        if number is not None:
            lines += [(_EQUAL, 0, len(block), number), *block]
    for numbers in WITHOUT_EFFECT.values():
        number = numbers[column]
        if number is not None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTHING)]
    lines += [(_GREATER_OR_EQUAL, 0, 1, NEWEST + 1), (_RETURN, 0, 0, _ERROR | _ENOSYS), (_RETURN, 0, 0, _ERROR | _EPERM)]
    return lines


def _block(name: str) -> Iterator[Line]:
    """Lines that decide a call of this name; control never passes to the lines after them."""
    if name == "clone3":  # the filter cannot see its flags; after ENOSYS the C library uses clone
        yield (_RETURN, 0, 0, _ERROR | _ENOSYS)
    elif name == "clone":
        yield from ((_LOAD, 0, 0, _ARGUMENTS), (_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, _ERROR | _EPERM))
        yield (_RETURN, 0, 0, _ALLOW)
    elif name == "futex":
        # Joining a thread waits on a word that the kernel wakes as a shared one. EAGAIN makes the caller check the word in a
        # loop until the thread has ended, so nothing waits where another process could wake it.
        yield from ((_LOAD, 0, 0, _ARGUMENTS + 8), (_ANY_BIT, 0, 1, _PRIVATE), (_RETURN, 0, 0, _ALLOW))
        for wait in _WAITS:
            yield from ((_EQUAL, 0, 1, wait), (_RETURN, 0, 0, _ERROR | _EAGAIN))
        yield (_RETURN, 0, 0, _ERROR | _EPERM)
    elif name in NARROWED:
        argument, values = NARROWED[name]
        if name == "prlimit64":  # the argument is a pointer: check both halves
            yield from ((_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERROR | _EPERM))
        yield (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
        for value in values:
            yield from ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))
        for value in _LOCKS if name == "fcntl" else ():
            yield from ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _NOTHING))
        yield (_RETURN, 0, 0, _ERROR | _EPERM)
    else:
        yield (_RETURN, 0, 0, _ALLOW)
