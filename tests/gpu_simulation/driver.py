"""What `torch.cuda` asks of a driver, answered for the simulated card (`card.cpp`).

PyTorch's own `torch.cuda` stays in place. It is a layer of Python over functions of `torch._C` that a build without CUDA
lacks; these are added, over the few C functions of the card. Only streams and events, whose base classes are missing, are
replaced.

`startup/sitecustomize.py` loads this file in every process that has COURSE_SIMULATED_GPU in its environment. It imports
nothing of the course, and torch only when torch is being imported anyway.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import types
from dataclasses import dataclass

GPU = "COURSE_SIMULATED_GPU"  # "t4", or "2xt4" for two of them
LIBRARY = "COURSE_SIMULATED_GPU_LIBRARY"  # the built card.cpp
BYTES = "COURSE_SIMULATED_GPU_BYTES"  # memory of each card, if another than the model has
# Operations whose largest tensor has so many bytes are not computed, only their memory is counted.
SKIP = "COURSE_SIMULATED_GPU_SKIP_FROM"
LEDGER = "COURSE_SIMULATED_GPU_LEDGER"  # a file through which all processes that name it share the first card

# What CUDA takes for itself in each process; 0.4 to 0.5 GB by version.
CONTEXT_BYTES = 450_000_000


@dataclass(frozen=True)
class Card:
    """A model of card: its name, compute capability and memory as `torch.cuda.get_device_properties` reports them."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    processors: int

    @property
    def number_format(self) -> str:
        """The 16-bit format that the card multiplies."""
        return "bfloat16" if self.capability >= (8, 0) else "float16"


CARDS = {
    "t4": Card("Tesla T4", (7, 5), 15_828_320_256, 40),
    "l4": Card("NVIDIA L4", (8, 9), 23_660_331_008, 58),
    "a100": Card("NVIDIA A100-SXM4-40GB", (8, 0), 42_474_471_424, 108),
    "a100-80gb": Card("NVIDIA A100-SXM4-80GB", (8, 0), 85_095_874_560, 108),
}


def asked_for() -> tuple[str, int]:
    """Return which card the environment asks for, and how many of them."""
    number, _, card = os.environ[GPU].rpartition("x")
    return card, int(number or 1)


def preload() -> ctypes.CDLL:
    """Load the card. Must come before torch, which asks once which backends there are and remembers the answer."""
    library = ctypes.CDLL(os.environ[LIBRARY])
    for function in ("card_allocated", "card_held", "card_peak", "card_allocations", "card_available"):
        getattr(library, function).restype = ctypes.c_int64
    library.card_insert.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    library.card_share.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
    library.card_computed_after_all.restype = ctypes.c_char_p
    return library


def activate(torch: types.ModuleType, library: ctypes.CDLL) -> None:
    """Answer for the driver from now on; `torch` has just been imported and nobody has asked anything yet."""
    kind, number = asked_for()
    card = CARDS[kind]
    total = int(os.environ.get(BYTES, card.memory_bytes))
    major, minor = card.capability
    skip = int(os.environ.get(SKIP, (1 << 63) - 1))
    if os.environ.get(LEDGER):
        name = " ".join(sys.orig_argv[1:]).encode()[:100]
        if library.card_share(os.environ[LEDGER].encode(), name, total, CONTEXT_BYTES):
            raise RuntimeError(f"cannot share a simulated card through {os.environ[LEDGER]}")

    @functools.cache
    def count() -> int:  # once, at the first question, as CUDA reads the variable
        asked = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(number))))
        shown = sum(index.strip().isdigit() and int(index) < number for index in asked.split(","))
        library.card_insert(shown, 10 * major + minor, max(0, total - CONTEXT_BYTES), skip)
        return shown

    library.card_insert(number, 10 * major + minor, max(0, total - CONTEXT_BYTES), skip)

    def statistics(device: int) -> dict:
        now, held, peak = library.card_allocated(device), library.card_held(device), library.card_peak(device)
        allocated = {"all": {"current": now, "peak": peak, "allocated": 0, "freed": 0}}
        reserved = {"all": {"current": held, "peak": max(held, peak), "allocated": 0, "freed": 0}}
        number_of = {"all": {"current": library.card_allocations(device)}}
        return {
            "allocated_bytes": allocated,
            "reserved_bytes": reserved,
            "active_bytes": allocated,
            "allocation": number_of,
        }

    def empty_cache() -> None:
        for device in range(number):
            library.card_empty_cache(device)

    functions = {
        "init": lambda: None,
        "isInBadFork": lambda: False,
        "getDeviceCount": count,
        "getDevice": lambda: library.card_current(),
        "setDevice": lambda device: exchange(device) and None,
        "exchangeDevice": lambda device: exchange(device),
        "maybeExchangeDevice": lambda device: exchange(device),
        "canDeviceAccessPeer": lambda *_: True,
        "getArchFlags": lambda: "sm_75 sm_80 sm_86 sm_89 sm_90",
        "isCurrentStreamCapturing": lambda: False,
        "getCurrentRawStream": lambda *_: 0,
        "synchronize": lambda: None,
        "emptyCache": empty_cache,
        "ipc_collect": lambda: None,
        "memoryStats": statistics,
        "resetPeakMemoryStats": lambda device: library.card_reset_peak(device),
        "resetAccumulatedMemoryStats": lambda device: None,
    }

    def exchange(device: int) -> int:
        if device >= count():
            raise RuntimeError("CUDA error: invalid device ordinal")
        return library.card_exchange(device)

    for name, function in functions.items():
        setattr(torch._C, f"_cuda_{name}", function)

    def properties(_device: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            name=card.name,
            major=major,
            minor=minor,
            total_memory=total,
            multi_processor_count=card.processors,
            is_integrated=0,
            is_multi_gpu_board=0,
            warp_size=32,
            max_threads_per_multi_processor=1024,
            regs_per_multiprocessor=65536,
            shared_memory_per_block=49152,
            shared_memory_per_block_optin=65536,
            gcnArchName="",
            uuid="simulated",
        )

    def memory_info(device: int) -> tuple[int, int]:
        shared = library.card_available() if device == 0 else -1
        return max(0, total - CONTEXT_BYTES - library.card_held(device)) if shared < 0 else shared, total

    cuda = torch.cuda
    cuda._get_device_properties = properties
    cuda._cudart = type("cudart", (), {"cudaMemGetInfo": staticmethod(memory_info)})
    cuda._exchange_device = cuda._maybe_exchange_device = exchange
    cuda._initialized = True
    cuda.default_generators = tuple(torch.Generator(f"cuda:{i}") for i in range(number))
    _streams(torch)
    _storages(torch)
    torch.version.cuda = "12.8"


def _streams(torch: types.ModuleType) -> None:
    """One stream, on which everything has happened by the time anybody asks."""

    class Stream:
        def __init__(self, *_, **__) -> None:
            self.device, self.cuda_stream, self.stream_id = torch.device("cuda", torch.cuda.current_device()), 0, 0

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_) -> None: ...

        def synchronize(self, *_) -> None: ...

        wait_stream = wait_event = record_event = synchronize

        def query(self) -> bool:
            return True

    class Event:
        def __init__(self, *_, **__) -> None: ...

        def record(self, *_) -> None: ...

        synchronize = wait = record

        def query(self) -> bool:
            return True

        def elapsed_time(self, _) -> float:
            return 1.0

    cuda = torch.cuda
    cuda.Stream, cuda.Event = Stream, Event
    cuda.current_stream = cuda.default_stream = lambda device=None: Stream()
    cuda.stream = cuda.StreamContext = lambda stream: stream or Stream()
    cuda.set_stream = lambda stream: None


def _storages(torch: types.ModuleType) -> None:
    """Python cannot make a storage on "cuda" without CUDA; taken from a tensor there, it can."""
    base = torch.storage._StorageBase
    clone, to = base.clone, base.to

    def on_card(size: int, device: object) -> object:
        return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()

    def card_clone(self: object) -> object:
        return on_card(self.nbytes(), self.device).copy_(self) if self.device.type == "cuda" else clone(self)  # type: ignore

    def card_to(self: object, *, device: object, non_blocking: bool = False) -> object:
        wanted = torch.device(device)
        if wanted.type != "cuda" or self.device == wanted:  # type: ignore
            return to(self, device=device, non_blocking=non_blocking)
        return on_card(self.nbytes(), wanted).copy_(self, non_blocking)  # type: ignore

    base.clone, base.to = card_clone, card_to


def while_bitsandbytes_loads(load: object) -> None:
    """Import bitsandbytes with its CPU library; its operations on the card then run on the host, like all others.

    With a card in sight it would look for CUDA's libraries.
    """
    import torch

    count = torch._C._cuda_getDeviceCount
    torch._C._cuda_getDeviceCount = lambda: 0
    try:
        load()  # type: ignore
    finally:
        torch._C._cuda_getDeviceCount = count
        torch.cuda._cached_device_count = None  # it remembers the zero
    library = sys.modules["_simulated_gpu"].library
    for operation in torch._C._dispatch_get_all_op_names():
        space, _, name = operation.partition("::")
        if space == "bitsandbytes" and library.card_take_over(space.encode(), name.encode()):
            raise RuntimeError(f"cannot take over {operation}")
