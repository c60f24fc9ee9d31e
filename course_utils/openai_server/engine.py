"""Generates many answers at once: one base model in memory, and a batch that requests join and leave between two tokens.

Continuous batching as in Orca (Yu et al., OSDI 2022). One thread owns the model. Between steps it admits waiting requests
(their prompts go through the model together) and frees the rows of finished ones. The keys and values of all rows end in
the same column, wherever they began: a step then writes one column for all rows, and only the mask reflects how long each
row is. Rotary positions are already applied to the keys, so it makes no difference in which columns a row lies.
"""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils import memory
from course_utils.openai_server.adapters import Adapters
from course_utils.openai_server.sampling import Sampling, Token, TokenSampler
from course_utils.scoring import cache_name, stop_token_ids

if TYPE_CHECKING:
    import asyncio

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase]
    Deletion: TypeAlias = tuple[str, Callable[[], object]]  # an adapter, and what to call once it is dropped
    Delivery: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]  # what to call, and its arguments

MAX_ROWS = 16  # answers generated at once
PAUSE_SECONDS = 1.0  # of idling before freed memory is given back
MAX_PREFILL_TOKENS = 256  # tokens of prompts processed between two steps of the running answers
COLUMN_MULTIPLE = 32  # columns are read in multiples of this: fewer shapes, since a CPU kernel is prepared for each
SPARE_COLUMNS = 256  # room for this many tokens before everything has to be moved
MAX_IDLE_BYTES = 512 << 20  # of key-value storage that is kept while idle: new memory costs a page fault per 4 KB


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
        # generations to start, an adapter to drop, or None to stop
        self._waiting: queue.SimpleQueue[list[Generation] | Deletion | None] = queue.SimpleQueue()
        self._running: list[Generation] = []
        self._pending: list[Generation] = []  # waiting for a free row, or for room for their adapter
        self._deleted: list[Deletion] = []  # adapters to drop once no generation uses them
        self._closed = False
        self._outbox: list[tuple[asyncio.AbstractEventLoop, Callable[..., object], tuple[Any, ...]]] = []
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(load,), name="engine", daemon=True)
        self._thread.start()
        self._loaded.result()

    def _load(self, load: Callable[[], Loaded]) -> None:
        self.model, self.tokenizer = load()
        self.adapters = Adapters(self.model)
        self.cache = KeyValueCache(self.model)
        self._cache_name = cache_name(self.model)
        self.ends = stop_token_ids(self.model, self.tokenizer)

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue generations; those of one call that have the same prompt and adapter share the work on the prompt."""
        self._waiting.put(list(generations))

    def post(self, loop: asyncio.AbstractEventLoop, deliver: Callable[..., object], *arguments: Any) -> None:
        """Have an event loop call a function, from the engine's thread; all calls of a step share one wake-up."""
        self._outbox.append((loop, deliver, arguments))

    def _send(self) -> None:
        posted, self._outbox = self._outbox, []
        for loop in {id(loop): loop for loop, _, _ in posted}.values():
            try:
                loop.call_soon_threadsafe(
                    _deliver, [(deliver, arguments) for other, deliver, arguments in posted if other is loop]
                )
            except RuntimeError:  # the loop is closed: nobody is waiting any more
                pass

    def forget(self, adapter: str, on_dropped: Callable[[], object] = bool) -> None:
        """Drop an adapter once it is unused: generations submitted before this call still finish with it.

        Args:
            adapter: its name.
            on_dropped: called by the engine's thread when the adapter has been dropped.
        """
        self._waiting.put((adapter, on_dropped))

    def close(self) -> None:
        """Stop the engine; unfinished generations end with an error."""
        self._waiting.put(None)
        self._thread.join(timeout=30)

    @property
    def busy(self) -> int:
        """Number of generations that are running or waiting."""
        return len(self._running) + len(self._pending)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self, load: Callable[[], Loaded]) -> None:
        import torch

        try:
            self._load(load)
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(None)
        with torch.inference_mode():
            while not self._closed:
                self._receive()
                try:
                    if self._pending and len(self._running) < self.rows:
                        self._admit()
                        self._send()  # first tokens are sent without waiting for a step
                    if self._running:
                        self._step()
                    self._drop_deleted()
                except BaseException as error:  # a bug: the running generations fail, and the engine goes on
                    traceback.print_exc()
                    for generation in self._running:
                        self._end(generation, error)
                    self._running.clear()
                    self.cache.clear()
                self._send()
        for generation in [*self._running, *self._pending]:
            self._end(generation, RuntimeError("the server is shutting down"))
        self._send()

    def _end(self, generation: Generation, reason: str | BaseException) -> None:
        """Report that a generation has ended; an error in the callback must not affect the others."""
        try:
            generation.on_end(reason)
        except BaseException:
            traceback.print_exc()

    def _drop_deleted(self) -> None:
        """Drop the deleted adapters that no generation needs any more."""
        if not self._deleted:
            return
        needed = _adapters_of(self._running) | _adapters_of(self._pending)
        for name, on_dropped in [deletion for deletion in self._deleted if deletion[0] not in needed]:
            self._deleted.remove((name, on_dropped))
            self.adapters.drop(name)
            on_dropped()

    def _receive(self) -> None:
        """Move submitted generations to the pending ones; wait for some if there is nothing to do.

        After a pause, freed memory is given back to the system: after answers with a schema that is hundreds of megabytes,
        which a training process on this machine may need.
        """
        waited = False
        while True:
            idle = not self._running and not self._pending and not self._deleted
            try:
                item = self._waiting.get(block=idle, timeout=None if waited else PAUSE_SECONDS)
            except queue.Empty:
                if not idle:
                    return
                memory.trim()
                waited = True
                continue
            if item is None:
                self._closed = True
                return
            if isinstance(item, tuple):
                self._deleted.append(item)
            else:
                self._pending += item

    def _admit(self) -> None:
        """Start the oldest pending generations by running their prompts through the model.

        Only a few at a time: larger batches are no faster on a CPU, and the running generations would wait longer.
        """
        self._pending = [generation for generation in self._pending if not self._is_cancelled(generation)]
        chosen = self._next()
        self._pending = [generation for generation in self._pending if generation not in chosen]
        in_use = _adapters_of(self._running)
        ready = []
        for generation in chosen:
            try:
                if generation.adapter:
                    self.adapters.load(*generation.adapter, in_use)
                    in_use.add(generation.adapter[0])
                generation.sampler = TokenSampler(generation.sampling, self.tokenizer, self.ends)
                ready.append(generation)
            except BaseException as error:  # panics of Rust libraries are not Exceptions
                self._end(generation, error)
        if ready:
            self._start(ready)

    def _next(self) -> list[Generation]:
        """Choose the pending generations to start next: each needs a free row, and room in memory for its adapter.

        If there is no room for an adapter, its generation waits, and so do all later ones with an adapter. Otherwise new
        requests could keep the loaded adapters in memory for ever. Generations of the base need no room and do not wait.
        """
        in_use = _adapters_of(self._running)
        chosen: list[Generation] = []
        prompts: set[tuple[tuple[int, ...], str | None]] = set()
        tokens, full = 0, False
        for generation in self._pending:
            if len(chosen) == self.rows - len(self._running):
                break
            name = generation.adapter[0] if generation.adapter else None
            full = full or (name is not None and name not in in_use and len(in_use) >= self.adapters.keep)
            if name is not None and full:
                continue
            if (key := _prompt_key(generation)) not in prompts:
                tokens += len(generation.prompt)
                prompts.add(key)
            if chosen and tokens > MAX_PREFILL_TOKENS:
                break
            chosen.append(generation)
            in_use |= {name} if name is not None else set()
        return chosen

    def _start(self, generations: list[Generation]) -> None:
        """Run prompts through the model and choose the first tokens; if the batch fails, one prompt at a time."""
        try:
            logits = self._prefill(generations)
        except BaseException as error:
            if len(generations) > 1:
                for generation in generations:
                    self._start([generation])
                return
            traceback.print_exc()
            self._end(generations[0], error)
            return
        self._running += generations
        self._choose(logits, generations)

    def _prefill(self, generations: list[Generation]) -> torch.Tensor:
        """Run prompts through the model, concatenated into one row; returns (generations, vocabulary) next-token logits.

        If they were padded to one length, short prompts would cost as much as the longest.
        """
        import torch

        # a prompt with several generations goes through the model once
        keys = [_prompt_key(generation) for generation in generations]
        distinct = list(dict.fromkeys(keys))
        rows = [distinct.index(key) for key in keys]
        device, dtype = self.model.device, self.model.dtype
        lengths = [len(prompt) for prompt, _ in distinct]
        ids = torch.tensor([[token for prompt, _ in distinct for token in prompt]])
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        owners = torch.repeat_interleave(torch.tensor(lengths))
        hidden = (owners[:, None] != owners[None, :]).logical_or_(
            torch.ones(len(owners), len(owners), dtype=torch.bool).triu(1)
        )
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)[None, None]
        ends = torch.tensor(lengths).cumsum(0)
        self.adapters.use([adapter for _, adapter in distinct], lengths)
        fresh = PromptKeysValues()
        logits = self._forward(ids.to(device), mask.to(device), positions.to(device), fresh, (ends - 1).to(device))
        self.cache.join(fresh, [(int(ends[row]) - lengths[row], lengths[row]) for row in rows])
        for generation in generations:
            generation.length = len(generation.prompt)
        return logits[0][rows]

    def _step(self) -> None:
        """Generate one more token for each running generation."""
        import torch

        self._remove([generation for generation in self._running if self._is_cancelled(generation)])
        if not self._running:
            return
        device = self.model.device
        rows = list(self._running)
        mask = self.cache.open_column([generation.length for generation in rows], self.model.dtype)
        ids = torch.tensor([[generation.last] for generation in rows], device=device)
        positions = torch.tensor([[generation.length] for generation in rows], device=device)
        last = torch.zeros(1, dtype=torch.long, device=device)

        def forward(part: slice) -> torch.Tensor:
            self.cache.part = part
            self.adapters.use([generation.adapter and generation.adapter[0] for generation in rows[part]])
            return self._forward(ids[part], mask[part], positions[part], self.cache, last)[:, 0]

        try:
            logits = forward(slice(len(rows)))
        except BaseException as error:
            if len(rows) == 1:
                raise
            print(f"engine: a step failed ({type(error).__name__}: {error}); retrying its rows one by one", file=sys.stderr)
            logits = self._one_by_one(rows, forward)
        for generation in self._running:
            generation.length += 1
        self._choose(logits, list(self._running))

    def _one_by_one(self, rows: list[Generation], forward: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """Repeat a failed step row by row; rows that fail again end. Returns the logits of the others.

        Each row writes only its own part of a column, so what the failed attempt has written does no harm.
        """
        import torch

        logits: dict[Generation, torch.Tensor] = {}
        for row, generation in enumerate(rows):
            try:
                logits[generation] = forward(slice(row, row + 1))[0]
            except BaseException as error:
                traceback.print_exc()
                self._end(generation, error)
        self._remove([generation for generation in rows if generation not in logits])
        return torch.stack([logits[generation] for generation in self._running]) if logits else torch.empty(0, 1)

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: PromptKeysValues | KeyValueCache,
        logit_positions: torch.Tensor,
    ) -> torch.Tensor:
        """(rows, positions, vocabulary) float32 logits at `logit_positions`."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=logit_positions,  # as a list of positions: see scoring.run_model
            **{self._cache_name: cache},
        )
        logits: torch.Tensor = output.logits.float()
        return logits

    def _choose(self, logits: torch.Tensor, generations: list[Generation]) -> None:
        """Choose each generation's next token, report it, and remove the finished generations from the batch."""
        greedy = logits.argmax(1).tolist()
        finished = []
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
            except BaseException as error:  # it may be a panic, as above
                reason = error
            if reason is not None:
                self._end(generation, reason)
                finished.append(generation)
        self._remove(finished)

    def _is_cancelled(self, generation: Generation) -> bool:
        """Whether a generation was cancelled; reports its end if so."""
        if generation.cancelled:
            self._end(generation, "cancelled")
        return generation.cancelled

    def _remove(self, generations: list[Generation]) -> None:
        """Remove generations from the batch; the last rows move into the gaps."""
        for generation in generations:
            row = self._running.index(generation)
            last = len(self._running) - 1
            if row != last:
                self.cache.move(last, row)
                self._running[row] = self._running[last]
            self._running.pop()
        if generations:
            self.cache.truncate(len(self._running))


def _prompt_key(generation: Generation) -> tuple[tuple[int, ...], str | None]:
    """Key that is equal for generations whose prompt goes through the model once for all of them."""
    return tuple(generation.prompt), generation.adapter and generation.adapter[0]


def _adapters_of(generations: Sequence[Generation]) -> set[str]:
    return {generation.adapter[0] for generation in generations if generation.adapter}


def _deliver(posted: list[Delivery]) -> None:
    for deliver, arguments in posted:
        deliver(*arguments)


class PromptKeysValues:
    """The keys and values of concatenated prompts, layer by layer, as the model computes them."""

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's keys and values, each of shape (1, heads, positions, width), and return them."""
        self.layers.append((key, value))
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        """Return the number of earlier positions, which is 0."""
        return 0


class KeyValueCache:
    """The keys and values of the running rows; all rows end in the same column.

    Attributes:
        part: the rows that the next forward pass is for; `open_column` sets it to all rows.
    """

    is_compileable = False

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dtype, self.device = model.dtype, model.device
        self.storage: torch.Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Remove all rows; their storage is kept for the next ones unless it is large."""
        self.end = self.rows = self.longest = 0  # first unwritten column, number of rows, columns of the longest row
        self._view = self.part = slice(0)
        if self.storage is not None and self.storage.numel() * self.storage.element_size() > MAX_IDLE_BYTES:
            self.storage = None

    def join(self, fresh: PromptKeysValues, parts: list[tuple[int, int]]) -> None:
        """Add rows, each with the keys and values of a prompt that went through the model.

        Args:
            fresh: keys and values of all prompts.
            parts: for each row to add, where its prompt begins and how many tokens it has.
        """
        import torch

        length = max(size for _, size in parts)
        storage = self._reserve(self.rows + len(parts), behind=length, ahead=1)
        new_rows = slice(self.rows, self.rows + len(parts))
        # (rows, columns): what lies before a prompt is masked, so it may be anything
        source = torch.tensor([[max(0, begin + size - length + i) for i in range(length)] for begin, size in parts])
        source = source.to(self.device)
        for layer, pair in enumerate(fresh.layers):
            for key_or_value, tensor in enumerate(pair):
                storage[layer, key_or_value, new_rows, :, self.end - length : self.end] = tensor[0][:, source].transpose(
                    0, 1
                )
        self.rows += len(parts)
        self.longest = max(self.longest, length)

    def open_column(self, lengths: list[int], dtype: torch.dtype) -> torch.Tensor:
        """Add a column for one more token, and return the attention mask, of shape (rows, 1, 1, columns).

        Args:
            lengths: number of tokens in each row so far.
            dtype: data type of the mask.
        """
        import torch

        self.longest = max(lengths)
        span = -(-(self.longest + 1) // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
        self._reserve(self.rows, behind=span - 1, ahead=1)
        self.end += 1
        self.longest += 1
        self._view, self.part = slice(self.end - span, self.end), slice(self.rows)
        begins = torch.tensor([span - 1 - length for length in lengths], device=self.device)
        hidden = torch.arange(span, device=self.device)[None, :] < begins[:, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, torch.finfo(dtype).min)
        return mask[:, None, None, :]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new column, and return all keys and values that rows may attend to.

        The new keys and values have the shape (rows, heads, 1, width).
        """
        storage = self.storage
        assert storage is not None
        for key_or_value, new_values in enumerate((key, value)):
            storage[layer_idx, key_or_value, self.part, :, self.end - 1] = new_values[:, :, 0]
        keys, values = (storage[layer_idx, key_or_value, self.part, :, self._view] for key_or_value in (0, 1))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        """Return the number of columns in use."""
        return self.end

    def move(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        assert self.storage is not None
        self.storage[:, :, target] = self.storage[:, :, source]

    def truncate(self, rows: int) -> None:
        """Keep only the first `rows` rows, and remove the others."""
        self.rows = rows
        if rows == 0:
            self.clear()

    def _reserve(self, rows: int, behind: int, ahead: int) -> torch.Tensor:
        """Make sure there is storage for `rows` rows, and `behind` columns before and `ahead` after their common end.

        Moves all keys and values if it has to.
        """
        import torch

        storage = previous = self.storage
        row_capacity, column_capacity = (storage.shape[2], storage.shape[4]) if storage is not None else (0, 0)
        if storage is not None and rows <= row_capacity and self.end >= behind and self.end + ahead <= column_capacity:
            return storage
        end, in_use = max(self.longest, behind), self.longest
        if storage is None or rows > row_capacity or end + ahead > column_capacity:
            rows, columns = (
                max(row_capacity, 1 << (rows - 1).bit_length()),
                max(column_capacity, end + ahead + SPARE_COLUMNS),
            )
            # zeros, since masked values are multiplied by zero, and NaN times zero is NaN
            storage = self.storage = torch.zeros(
                self.layers, 2, rows, self.heads, columns, self.width, dtype=self.dtype, device=self.device
            )
        if self.rows:
            assert previous is not None
            for target, source in zip(storage, previous):
                part = source[:, : self.rows, :, self.end - in_use : self.end]
                target[:, : self.rows, :, end - in_use : end] = part.clone() if previous is storage else part
        self.end = end
        return storage
