"""Answers for many at once: one base in memory, a batch that requests join and leave between two tokens.

Continuous batching after Orca (Yu et al., OSDI 2022). A thread owns the model. Between steps it takes in waiting requests
(their prompts go through the model together), and rows that come to their end make room. Keys and values of all rows end in
the same column, wherever they began: a step then writes one column for all, and only a mask knows who is how long. Rotary
positions are in the keys already, so that it makes no difference where a row lies.
"""

from __future__ import annotations

import inspect
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
from course_utils.openai_server.sampling import Sampler, Sampling, Token

if TYPE_CHECKING:
    import asyncio

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded: TypeAlias = tuple[PreTrainedModel, PreTrainedTokenizerBase]
    Deletion: TypeAlias = tuple[str, Callable[[], object]]  # an adapter, and what to call when it is gone
    Delivery: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]  # what to call, and with what

ROWS = 16  # requests at once
PAUSE_SECONDS = 1.0  # without work, before freed memory is given back
PREFILL_TOKENS = 256  # tokens of prompts between two steps of those that run
SPAN = 32  # columns are read in multiples of this: fewer shapes, for each of which a CPU kernel is prepared
SPARE = 256  # columns of room: after so many tokens everything is moved once
KEEP_BYTES = 512 << 20  # of room for keys and values that stays while nobody asks: new memory costs a page fault each 4 KB


@dataclass(eq=False)
class Answer:
    """One answer in the making.

    Attributes:
        prompt: token ids.
        adapter: name and folder of the adapter, or None for the base.
        sampling: how tokens are chosen.
        limit: the most tokens it may have.
        on_token: called by the engine's thread with each `Token`; returns whether that is enough.
        on_end: called by the engine's thread once, with "stop", "length", "cancelled" or an exception.
        cancelled: set it, and the answer leaves the batch before the next token.
    """

    prompt: list[int]
    adapter: tuple[str, Path] | None
    sampling: Sampling
    limit: int
    on_token: Callable[[Token], bool]
    on_end: Callable[[str | BaseException], None]
    cancelled: bool = False
    made: int = 0
    length: int = 0
    last: int = 0
    sampler: Sampler | None = field(default=None, repr=False)


class Engine:
    """Generates for whoever submits an `Answer`.

    Everything that computes happens in the engine's one thread, loading included. Each thread that does gets OpenMP threads
    of its own, and once there are more of them than cores, they go to sleep between any two products: half the speed.

    Args:
        load: gives a causal language model in eval mode, for this engine alone, and its tokenizer.
        rows: answers at once.

    Raises:
        Exception: what `load` raised.
    """

    def __init__(self, load: Callable[[], Loaded], rows: int = ROWS) -> None:
        self.rows = rows
        # answers to take in, an adapter to forget, or None for the end
        self._waiting: queue.SimpleQueue[list[Answer] | Deletion | None] = queue.SimpleQueue()
        self._running: list[Answer] = []
        self._held: list[Answer] = []  # waiting for a free row, or for room for their adapter
        self._deleted: list[Deletion] = []  # adapters that go when their last answer is done
        self._closed = False
        self._outbox: list[tuple[asyncio.AbstractEventLoop, Callable[..., object], tuple[Any, ...]]] = []
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(load,), name="engine", daemon=True)
        self._thread.start()
        self._loaded.result()

    def _load(self, load: Callable[[], Loaded]) -> None:
        self.model, self.tokenizer = load()
        self.adapters = Adapters(self.model)
        self.cache = Columns(self.model)
        # transformers calls it `cache` since 5.2x and `past_key_values` before
        known = inspect.signature(type(self.model).forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"
        ends = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        self.ends = {self.tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])} - {None}

    def submit(self, answers: Sequence[Answer]) -> None:
        """Take answers in; those of one call that have the same prompt and adapter share the work on it."""
        self._waiting.put(list(answers))

    def post(self, loop: asyncio.AbstractEventLoop, deliver: Callable[..., object], *what: Any) -> None:
        """From the engine's thread: have an event loop call something. All calls of a step go together, in one wake-up."""
        self._outbox.append((loop, deliver, what))

    def _send(self) -> None:
        posted, self._outbox = self._outbox, []
        for loop in {id(loop): loop for loop, _, _ in posted}.values():
            try:
                loop.call_soon_threadsafe(_deliver, [(deliver, what) for other, deliver, what in posted if other is loop])
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

    def forget(self, adapter: str, then: Callable[[], object] = bool) -> None:
        """Drop an adapter once nobody uses it: answers that were taken in before go through it to their end.

        Args:
            adapter: its name.
            then: called by the engine's thread afterwards.
        """
        self._waiting.put((adapter, then))

    def close(self) -> None:
        """Stop; answers that are not finished end with an error."""
        self._waiting.put(None)
        self._thread.join(timeout=30)

    @property
    def busy(self) -> int:
        """Answers that run or wait."""
        return len(self._running) + len(self._held)

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
                self._take_in()
                try:
                    if self._held and len(self._running) < self.rows:
                        self._admit()
                        self._send()  # first tokens do not wait for a step
                    if self._running:
                        self._step()
                    self._bury()
                except BaseException as error:  # a bug: those at work hear of it, the rest goes on
                    traceback.print_exc()
                    for answer in self._running:
                        self._end(answer, error)
                    self._running.clear()
                    self.cache.clear()
                self._send()
        for answer in [*self._running, *self._held]:
            self._end(answer, RuntimeError("the server is shutting down"))
        self._send()

    def _end(self, answer: Answer, reason: str | BaseException) -> None:
        """Tell whoever waits for an answer that it has ended; a fault in telling is nobody else's either."""
        try:
            answer.on_end(reason)
        except BaseException:
            traceback.print_exc()

    def _bury(self) -> None:
        """Drop the deleted adapters that no answer needs any more."""
        if not self._deleted:
            return
        needed = _adapters_of(self._running) | _adapters_of(self._held)
        for name, then in [each for each in self._deleted if each[0] not in needed]:
            self._deleted.remove((name, then))
            self.adapters.drop(name)
            then()

    def _take_in(self) -> None:
        """Move what was submitted to the held; wait for something if there is nothing to do.

        After a pause, memory that was freed goes back to the system: hundreds of megabytes after answers with a schema, in
        which a training process beside this one may have to find room.
        """
        waited = False
        while True:
            idle = not self._running and not self._held and not self._deleted
            try:
                found = self._waiting.get(block=idle, timeout=None if waited else PAUSE_SECONDS)
            except queue.Empty:
                if not idle:
                    return
                memory.trim()
                waited = True
                continue
            if found is None:
                self._closed = True
                return
            if isinstance(found, tuple):
                self._deleted.append(found)
            else:
                self._held += found

    def _admit(self) -> None:
        """Bring the oldest of the waiting prompts through the model.

        Few at a time: larger pieces are no faster on a CPU, and those that run already would wait for longer.
        """
        self._held = [answer for answer in self._held if not self._gone(answer)]
        chosen = self._next()
        taken = set(map(id, chosen))
        self._held = [answer for answer in self._held if id(answer) not in taken]
        in_use = _adapters_of(self._running)
        ready = []
        for answer in chosen:
            try:
                if answer.adapter:
                    self.adapters.load(*answer.adapter, in_use)
                    in_use.add(answer.adapter[0])
                answer.sampler = Sampler(answer.sampling, self.tokenizer, self.ends)
                ready.append(answer)
            except BaseException as error:  # libraries in Rust panic with what is no Exception
                self._end(answer, error)
        if ready:
            self._begin(ready)

    def _next(self) -> list[Answer]:
        """The waiting answers whose turn it is: for each a row, and a place in memory for its adapter.

        Whose adapter finds no place waits, and whoever comes later with an adapter waits behind it: else those that are in
        memory could be kept there for ever by new requests. Answers of the base need no place and do not wait.
        """
        in_use = _adapters_of(self._running)
        chosen: list[Answer] = []
        prompts: set[tuple[tuple[int, ...], str | None]] = set()
        tokens, full = 0, False
        for answer in self._held:
            if len(chosen) == self.rows - len(self._running):
                break
            name = answer.adapter[0] if answer.adapter else None
            full = full or (name is not None and name not in in_use and len(in_use) >= self.adapters.keep)
            if name is not None and full:
                continue
            if (key := _shared(answer)) not in prompts:
                tokens += len(answer.prompt)
                prompts.add(key)
            if chosen and tokens > PREFILL_TOKENS:
                break
            chosen.append(answer)
            in_use |= {name} if name is not None else set()
        return chosen

    def _begin(self, answers: list[Answer]) -> None:
        """Prompts through the model and their first tokens; if they can't go together, one by one."""
        try:
            logits = self._prefill(answers)
        except BaseException as error:
            if len(answers) > 1:
                for answer in answers:
                    self._begin([answer])
                return
            traceback.print_exc()
            self._end(answers[0], error)
            return
        self._running += answers
        self._choose(logits, answers)

    def _prefill(self, answers: list[Answer]) -> torch.Tensor:
        """Prompts through the model, behind one another as one row; returns (answers, vocabulary) logits of the next tokens.

        Padded to one length, short ones would cost as much as the longest.
        """
        import torch

        # several answers to one prompt: once through the model
        keys = [_shared(answer) for answer in answers]
        distinct = list(dict.fromkeys(keys))
        rows = [distinct.index(key) for key in keys]
        device, kind = self.model.device, self.model.dtype
        lengths = [len(prompt) for prompt, _ in distinct]
        ids = torch.tensor([[token for prompt, _ in distinct for token in prompt]])
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        whose = torch.repeat_interleave(torch.tensor(lengths))
        hidden = (whose[:, None] != whose[None, :]).logical_or_(torch.ones(len(whose), len(whose), dtype=torch.bool).triu(1))
        mask = torch.zeros(hidden.shape, dtype=kind).masked_fill_(hidden, torch.finfo(kind).min)[None, None]
        ends = torch.tensor(lengths).cumsum(0)
        self.adapters.use([adapter for _, adapter in distinct], lengths)
        fresh = Fresh()
        logits = self._forward(ids.to(device), mask.to(device), positions.to(device), fresh, (ends - 1).to(device))
        self.cache.join(fresh, [(int(ends[row]) - lengths[row], lengths[row]) for row in rows])
        for answer in answers:
            answer.length = len(answer.prompt)
        return logits[0][rows]

    def _step(self) -> None:
        """One more token for each running answer."""
        import torch

        self._leave([answer for answer in self._running if self._gone(answer)])
        if not self._running:
            return
        device = self.model.device
        rows = list(self._running)
        mask = self.cache.open_column([answer.length for answer in rows], self.model.dtype)
        ids = torch.tensor([[answer.last] for answer in rows], device=device)
        positions = torch.tensor([[answer.length] for answer in rows], device=device)
        last = torch.zeros(1, dtype=torch.long, device=device)

        def forward(part: slice) -> torch.Tensor:
            self.cache.part = part
            self.adapters.use([answer.adapter and answer.adapter[0] for answer in rows[part]])
            return self._forward(ids[part], mask[part], positions[part], self.cache, last)[:, 0]

        try:
            logits = forward(slice(len(rows)))
        except BaseException as error:
            if len(rows) == 1:
                raise
            print(f"engine: a step failed ({type(error).__name__}: {error}); its rows go one by one", file=sys.stderr)
            logits = self._one_by_one(rows, forward)
        for answer in self._running:
            answer.length += 1
        self._choose(logits, list(self._running))

    def _one_by_one(self, rows: list[Answer], forward: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        """A step that failed for all together, row by row; those that fail alone as well end. Logits of those that are left.

        A column is written by each row for itself, so that what the failed attempt has written does no harm.
        """
        import torch

        failed: list[Answer] = []
        found: list[tuple[Answer, torch.Tensor]] = []
        for row, answer in enumerate(rows):
            try:
                found.append((answer, forward(slice(row, row + 1))[0]))
            except BaseException as error:
                traceback.print_exc()
                self._end(answer, error)
                failed.append(answer)
        self._leave(failed)
        logits = {id(answer): each for answer, each in found}
        return torch.stack([logits[id(answer)] for answer in self._running]) if found else torch.empty(0, 1)

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Fresh | Columns,
        kept: torch.Tensor,
    ) -> torch.Tensor:
        """(rows, kept, vocabulary) float32 logits at the positions `kept`."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=kept,  # as a list of positions: see scoring.run_model
            **{self._cache_name: cache},
        )
        logits: torch.Tensor = output.logits.float()
        return logits

    def _choose(self, logits: torch.Tensor, answers: list[Answer]) -> None:
        """Pick each answer's next token, tell whoever waits for it, and let go of those that are finished."""
        greedy = logits.argmax(1).tolist()
        finished = []
        for row, answer in enumerate(answers):
            reason: str | BaseException | None
            try:
                assert answer.sampler is not None  # it was made when the answer was admitted
                token = answer.sampler.choose(logits[row], greedy[row])
                answer.last = token.id
                if token.id in self.ends:
                    reason = "stop"
                else:
                    answer.made += 1
                    reason = "stop" if answer.on_token(token) else "length" if answer.made >= answer.limit else None
                    if reason is None and answer.sampler.finished:  # the grammar allows nothing more
                        reason = "stop"
            except BaseException as error:  # as above
                reason = error
            if reason is not None:
                self._end(answer, reason)
                finished.append(answer)
        self._leave(finished)

    def _gone(self, answer: Answer) -> bool:
        """Whether nobody waits for an answer any more; tells so if it is news."""
        if answer.cancelled:
            self._end(answer, "cancelled")
        return answer.cancelled

    def _leave(self, answers: list[Answer]) -> None:
        """Take answers out of the batch; the last rows move into the gaps."""
        for answer in answers:
            row = self._running.index(answer)
            last = len(self._running) - 1
            if row != last:
                self.cache.move(last, row)
                self._running[row] = self._running[last]
            self._running.pop()
        if answers:
            self.cache.keep(len(self._running))


def _shared(answer: Answer) -> tuple[tuple[int, ...], str | None]:
    """Equal for answers whose prompts go through the model once."""
    return tuple(answer.prompt), answer.adapter and answer.adapter[0]


def _adapters_of(answers: Sequence[Answer]) -> set[str]:
    return {answer.adapter[0] for answer in answers if answer.adapter}


def _deliver(posted: list[Delivery]) -> None:
    for deliver, what in posted:
        deliver(*what)


class Fresh:
    """Keys and values of prompts behind one another, layer by layer, as the model makes them."""

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember what a layer made, (1, heads, positions, width) each; nothing came before."""
        self.layers.append((key, value))
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        """Positions before."""
        return 0


class Columns:
    """Keys and values of the rows at work; all rows end in the same column.

    Attributes:
        part: the rows that the next products are for; all of them once a column was opened.
    """

    is_compileable = False

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dtype, self.device = model.dtype, model.device
        self.held: torch.Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Let go of all rows; their room stays for the next ones unless it is large."""
        self.at = self.rows = self.longest = 0  # first column that nobody has written, rows at work, columns of the longest
        self._view = self.part = slice(0)
        if self.held is not None and self.held.numel() * self.held.element_size() > KEEP_BYTES:
            self.held = None

    def join(self, fresh: Fresh, parts: list[tuple[int, int]]) -> None:
        """Add rows, each with the keys and values of a prompt that went through the model.

        Args:
            fresh: of all prompts.
            parts: for each row to be added, where its prompt begins and how many tokens it has.
        """
        import torch

        length = max(size for _, size in parts)
        held = self._reserve(self.rows + len(parts), behind=length, ahead=1)
        place = slice(self.rows, self.rows + len(parts))
        # (rows, columns): what lies before a prompt is masked, and may be anything
        source = torch.tensor([[max(0, begin + size - length + i) for i in range(length)] for begin, size in parts])
        source = source.to(self.device)
        for layer, pair in enumerate(fresh.layers):
            for which, tensor in enumerate(pair):
                held[layer, which, place, :, self.at - length : self.at] = tensor[0][:, source].transpose(0, 1)
        self.rows += len(parts)
        self.longest = max(self.longest, length)

    def open_column(self, lengths: list[int], dtype: torch.dtype) -> torch.Tensor:
        """Make a column for one more token; returns the mask (rows, 1, 1, columns) that goes with it.

        Args:
            lengths: tokens of each row so far.
            dtype: of the mask.
        """
        import torch

        self.longest = max(lengths)
        span = -(-(self.longest + 1) // SPAN) * SPAN
        self._reserve(self.rows, behind=span - 1, ahead=1)
        self.at += 1
        self.longest += 1
        self._view, self.part = slice(self.at - span, self.at), slice(self.rows)
        begins = torch.tensor([span - 1 - length for length in lengths], device=self.device)
        hidden = torch.arange(span, device=self.device)[None, :] < begins[:, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, torch.finfo(dtype).min)
        return mask[:, None, None, :]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new column of a layer, (rows, heads, 1, width) each, and give all that the rows may look at."""
        held = self.held
        assert held is not None
        for which, new in enumerate((key, value)):
            held[layer_idx, which, self.part, :, self.at - 1] = new[:, :, 0]
        keys, values = (held[layer_idx, which, self.part, :, self._view] for which in (0, 1))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        """Columns in use."""
        return self.at

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        assert self.held is not None
        self.held[:, :, target] = self.held[:, :, source]

    def keep(self, rows: int) -> None:
        """Let go of the rows from this one on."""
        self.rows = rows
        if rows == 0:
            self.clear()

    def _reserve(self, rows: int, behind: int, ahead: int) -> torch.Tensor:
        """Have so many rows, and columns before and after where all end; moves everything if it must."""
        import torch

        held = old = self.held
        have_rows, have = (held.shape[2], held.shape[4]) if held is not None else (0, 0)
        if held is not None and rows <= have_rows and self.at >= behind and self.at + ahead <= have:
            return held
        at, used = max(self.longest, behind), self.longest
        if held is None or rows > have_rows or at + ahead > have:
            rows, columns = max(have_rows, 1 << (rows - 1).bit_length()), max(have, at + ahead + SPARE)
            # zeros: what is masked is multiplied by nothing, and not-a-number times nothing is no number
            held = self.held = torch.zeros(
                self.layers, 2, rows, self.heads, columns, self.width, dtype=self.dtype, device=self.device
            )
        if self.rows:
            assert old is not None
            for target, source in zip(held, old):
                part = source[:, : self.rows, :, self.at - used : self.at]
                target[:, : self.rows, :, at - used : at] = part.clone() if old is held else part
        self.at = at
        return held
