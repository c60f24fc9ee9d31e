"""Generates many answers at once: one base model in memory, and a batch that requests join and leave between two tokens.

Continuous batching as in Orca (Yu et al., OSDI 2022). One thread owns the model. Between steps it admits waiting requests
(their prompts go through the model together) and frees the rows of finished ones. transformers' own continuous batching
serves one merged model and lets no request restrict its tokens.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils import memory
from course_utils.openai_server.adapters import MAX_ADAPTERS, Adapters
from course_utils.openai_server.sampling import Sampling, Token, TokenSampler
from course_utils.scoring import cache_name, stop_token_ids

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

    Loaded: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase]

MAX_ROWS = 16  # answers generated at once
PAUSE_SECONDS = 1.0  # of idling before memory is given back
MAX_PREFILL_TOKENS = 256  # tokens of prompts processed between two steps of the running answers
COLUMN_MULTIPLE = 32  # columns are read in multiples of this: fewer shapes, since a CPU kernel is prepared for each
CAPACITY_MULTIPLE = 256  # columns are added in multiples of this, since everything has to be copied then


@dataclass(eq=False)
class Generation:
    """One answer that is being generated.

    Attributes:
        prompt: token ids.
        adapter: name and folder of the adapter, or None for the base.
        sampling: how tokens are chosen.
        limit: maximum number of tokens.
        on_token: called by the engine's thread with each `Token`; returns whether to stop.
        on_end: called once by the engine's thread, with "stop", "length", "cancelled" or an exception.
        cancelled: set it to remove the answer from the batch before the next token.
    """

    prompt: list[int]
    adapter: tuple[str, Path] | None
    sampling: Sampling
    limit: int
    on_token: Callable[[Token], bool]
    on_end: Callable[[str | BaseException], None]
    cancelled: bool = False
    generated: int = 0
    length: int = 0
    last: int = 0
    sampler: TokenSampler | None = field(default=None, repr=False)


class Engine:
    """Runs each `Generation` that is submitted.

    All computation happens in the engine's one thread, loading included. Each thread that computes gets OpenMP threads of
    its own; once there are more of them than cores, they sleep between products, which halves the speed.

    Args:
        load: returns a causal language model in eval mode, for this engine alone, and its tokenizer.
        rows: maximum number of answers that are generated at once.

    Raises:
        Exception: whatever `load` raised.
    """

    def __init__(self, load: Callable[[], Loaded], rows: int = MAX_ROWS) -> None:
        self.rows = rows
        self._submitted: queue.SimpleQueue[Sequence[Generation] | None] = queue.SimpleQueue()  # None to stop
        self._pending: list[Generation] = []  # waiting for a free row
        self._running: list[Generation] = []
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(load,), name="engine", daemon=True)
        self._thread.start()
        self._loaded.result()

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue generations; those of one call that have the same prompt and adapter share the work on the prompt."""
        self._submitted.put(generations)

    def close(self) -> None:
        """Stop the engine; unfinished generations end with an error."""
        self._submitted.put(None)
        self._thread.join(timeout=30)

    @property
    def busy(self) -> int:
        """Number of generations that are running or waiting."""
        return len(self._running) + len(self._pending)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self, load: Callable[[], Loaded]) -> None:
        import torch

        try:
            self.model, self.tokenizer = load()
            # Each row may need an adapter of its own.
            self.adapters = Adapters(self.model, max(MAX_ADAPTERS, self.rows))
            self.cache = KeyValueCache(self.model)
            self._cache_name = cache_name(self.model)
            self.ends = stop_token_ids(self.model, self.tokenizer)
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(None)
        with torch.inference_mode():
            while self._receive():
                try:
                    self._admit()
                    self._step()
                except BaseException as error:  # out of memory, or a bug: the running generations fail, the engine goes on
                    traceback.print_exc()
                    self.cache.clear()
                    failed, self._running = self._running, []
                    for generation in failed:
                        self._end(generation, error)
        for generation in [*self._running, *self._pending]:
            self._end(generation, RuntimeError("the server is shutting down"))

    def _receive(self) -> bool:
        """Move submitted generations to the pending ones, and return whether to go on; wait if there is nothing to do.

        After a pause, memory is given back to the system: after answers with a schema that is hundreds of megabytes, which
        a training process on this machine may need.
        """
        paused = False
        while True:
            idle = not self.busy
            try:
                generations = self._submitted.get(block=idle, timeout=None if paused else PAUSE_SECONDS)
            except queue.Empty:
                if not idle:
                    return True
                self.cache.clear()
                memory.trim()
                paused = True
                continue
            if generations is None:
                return False
            self._pending += generations

    def _end(self, generation: Generation, reason: str | BaseException) -> None:
        """Report that a generation has ended; an error in the callback must not affect the others."""
        try:
            generation.on_end(reason)
        except BaseException:
            traceback.print_exc()

    def _is_cancelled(self, generation: Generation) -> bool:
        """Whether a generation was cancelled; reports its end if so."""
        if generation.cancelled:
            self._end(generation, "cancelled")
        return generation.cancelled

    def _admit(self) -> None:
        """Start the oldest pending generations by running their prompts through the model."""
        self._pending = [generation for generation in self._pending if not self._is_cancelled(generation)]
        starting: list[Generation] = []
        for generation in self._next():
            self._pending.remove(generation)
            try:
                if generation.adapter:
                    in_use = {other.adapter[0] for other in (*self._running, *starting) if other.adapter}
                    self.adapters.load(*generation.adapter, in_use)
                generation.sampler = TokenSampler(generation.sampling, self.tokenizer, self.ends)
                starting.append(generation)
            except BaseException as error:  # panics of Rust libraries are not Exceptions
                self._end(generation, error)
        if not starting:
            return
        try:
            logits = self._prefill(starting)
        except BaseException as error:
            traceback.print_exc()
            for generation in starting:
                self._end(generation, error)
        else:
            self._running += starting
            self._choose(logits, starting)

    def _next(self) -> list[Generation]:
        """The pending generations to start next.

        Only a few at a time: larger batches are no faster on a CPU, and the running generations would wait longer.
        """
        chosen: list[Generation] = []
        prompts: set[tuple[tuple[int, ...], str | None]] = set()
        for generation in self._pending[: self.rows - len(self._running)]:
            prompts.add(_prompt_key(generation))
            if chosen and sum(len(prompt) for prompt, _ in prompts) > MAX_PREFILL_TOKENS:
                break
            chosen.append(generation)
        return chosen

    def _prefill(self, generations: list[Generation]) -> torch.Tensor:
        """Run prompts through the model, concatenated into one row; returns (generations, vocabulary) next-token logits.

        If they were padded to one length, short prompts would cost as much as the longest.
        """
        import torch
        from transformers import DynamicCache

        # a prompt with several generations goes through the model once
        keys = [_prompt_key(generation) for generation in generations]
        distinct = list(dict.fromkeys(keys))
        lengths = [len(prompt) for prompt, _ in distinct]
        ends = torch.tensor(lengths).cumsum(0)
        ids = torch.tensor([[token for prompt, _ in distinct for token in prompt]])
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        owners = torch.repeat_interleave(torch.tensor(lengths))
        visible = (owners[:, None] == owners[None, :]).tril_()
        self.adapters.use([adapter for _, adapter in distinct], lengths)
        prompts = DynamicCache()
        logits = self._forward(ids, visible[None], positions, prompts, ends - 1)[0]
        first_row, rows = len(self._running), [distinct.index(key) for key in keys]
        self.cache.reserve(first_row + len(rows), max(lengths))
        for number, (generation, row) in enumerate(zip(generations, rows)):
            generation.length = lengths[row]
            self.cache.write(first_row + number, prompts, slice(int(ends[row]) - lengths[row], int(ends[row])))
        return logits[rows]

    def _step(self) -> None:
        """Generate one more token for each running generation."""
        import torch

        self._remove([generation for generation in self._running if self._is_cancelled(generation)])
        if not self._running:
            return
        ids = torch.tensor([[generation.last] for generation in self._running])
        positions = torch.tensor([generation.length for generation in self._running])
        visible = self.cache.open(positions)
        self.adapters.use([generation.adapter and generation.adapter[0] for generation in self._running])
        logits = self._forward(ids, visible[:, None], positions[:, None], self.cache, torch.zeros(1, dtype=torch.long))
        for generation in self._running:
            generation.length += 1
        self._choose(logits[:, 0], list(self._running))

    def _forward(
        self,
        ids: torch.Tensor,
        visible: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache | KeyValueCache,
        logit_positions: torch.Tensor,
    ) -> torch.Tensor:
        """(rows, positions, vocabulary) float32 logits at `logit_positions`; `visible` is (rows, queries, columns)."""
        import torch

        device, dtype = self.model.device, self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=True,
            logits_to_keep=logit_positions.to(device),  # as a list of positions: see scoring.run_model
            **{self._cache_name: cache},
        )
        logits: torch.Tensor = output.logits.float()
        return logits

    def _choose(self, logits: torch.Tensor, generations: list[Generation]) -> None:
        """Choose each generation's next token, report it, and remove the finished generations from the batch."""
        greedy = logits.argmax(1).tolist()
        ended: dict[Generation, str | BaseException] = {}
        for row, generation in enumerate(generations):
            reason: str | BaseException | None = None
            try:
                assert generation.sampler is not None  # created when the generation was admitted
                token = generation.sampler.choose(logits[row], greedy[row])
                generation.last = token.id
                stopped = token.id in self.ends
                if not stopped:
                    generation.generated += 1
                    stopped = generation.on_token(token)
                if not stopped and generation.generated >= generation.limit:
                    reason = "length"
                elif stopped or generation.sampler.finished:  # the grammar allows nothing more
                    reason = "stop"
            except BaseException as error:
                reason = error
            if reason is not None:
                ended[generation] = reason
        self._remove(list(ended))
        for generation, reason in ended.items():
            self._end(generation, reason)

    def _remove(self, generations: list[Generation]) -> None:
        """Remove generations from the batch; the last rows move into the gaps."""
        for generation in generations:
            row, last = self._running.index(generation), self._running.pop()
            if last is not generation:
                self._running[row] = last
                self.cache.move(len(self._running), row)


def _prompt_key(generation: Generation) -> tuple[tuple[int, ...], str | None]:
    """Key that is equal for generations whose prompt goes through the model once for all of them."""
    return tuple(generation.prompt), generation.adapter and generation.adapter[0]


class KeyValueCache:
    """The keys and values of the running rows; the token at a row's position n is in column n.

    It stands in for a transformers cache while the model computes a step.
    """

    is_compileable = False

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dtype, self.device = model.dtype, model.device
        self.clear()

    def clear(self) -> None:
        """Free the storage."""
        self.storage = self._view = self._empty(0, 0)  # a view of the old storage would hold it

    def _empty(self, rows: int, columns: int) -> torch.Tensor:
        import torch

        # zeros, since hidden values are multiplied by zero, and NaN times zero is NaN
        shape = (self.layers, 2, rows, self.heads, columns, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def reserve(self, rows: int, columns: int) -> None:
        """Make sure that there is storage for so many rows and columns."""
        _, _, old_rows, _, old_columns, _ = self.storage.shape
        if rows > old_rows or columns > old_columns:
            previous = self.storage
            self.storage = self._empty(
                max(old_rows, 1 << (rows - 1).bit_length()), max(old_columns, _round_up(columns, CAPACITY_MULTIPLE))
            )
            self.storage[:, :, :old_rows, :, :old_columns] = previous

    def write(self, row: int, prompts: DynamicCache, part: slice) -> None:
        """Fill a row with the keys and values of a prompt: that part of the columns in which it went through the model."""
        for storage, layer in zip(self.storage, prompts.layers):
            for target, source in zip(storage, (layer.keys, layer.values)):
                target[row, :, : part.stop - part.start] = source[0, :, part]

    def move(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        self.storage[:, :, target] = self.storage[:, :, source]

    def open(self, positions: torch.Tensor) -> torch.Tensor:
        """Make room for a token in each row, and return which columns it sees, of shape (rows, columns).

        Args:
            positions: each row's position of the new token, of shape (rows,).
        """
        import torch

        rows, columns = len(positions), _round_up(int(positions.max()) + 1, COLUMN_MULTIPLE)
        self.reserve(rows, columns)
        self._view = self.storage[:, :, :rows, :, :columns]
        self._rows, self._positions = torch.arange(rows, device=self.device), positions.to(self.device)
        return torch.arange(columns) <= positions[:, None]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values, each of shape (rows, heads, 1, width), and return all that the rows have."""
        keys, values = self._view[layer_idx]
        keys[self._rows, :, self._positions] = key[:, :, 0]
        values[self._rows, :, self._positions] = value[:, :, 0]
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        """Return 0: positions and mask are given with each step."""
        return 0


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
