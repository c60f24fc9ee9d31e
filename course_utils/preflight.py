"""What will go wrong in a fine-tuning run, seen before it starts: from configuration, tokenizer, template and data alone.

    course preflight train.jsonl --model Qwen/Qwen3-8B --method qlora --gpu t4

No weights are read. preflight.toml has the codes of what can be found, their levels, and what to do. A level says how sure
it is that the run suffers: a template that is merely unusual is a note.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import facts, memory, models
from course_utils.data_prep import formats, reading, validation
from course_utils.data_prep.deduplication import comparable, digest
from course_utils.data_prep.findings import ERROR, shorten
from course_utils.data_prep.variants import variants
from course_utils.errors import CourseError
from course_utils.export import adds_start
from course_utils.memory.shape import MIXTRAL_NAMES, QWEN_NAMES, Shape, configuration, shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CODES: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
LEVELS = ("error", "warning", "note")
METHODS, TASKS = ("lora", "qlora", "full"), ("sft", "dpo")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
MANY = 0.01  # share of the rows from which a fault of level "share" is an error
SAMPLE = 1000  # rows that are tokenized whatever their length
# Architectures whose float16 gradients become NaN, by the beginning of their `model_type`: unslothai/unsloth,
# unsloth/models/loader.py (FORCE_FLOAT32), as data/models.toml quotes it.
OVERFLOWS_IN_FLOAT16 = ("gemma3", "gemma4", "qwen3_5")
# Defaults of TRL's SFTConfig and DPOConfig (1.16), which are for full fine-tuning; LoRA takes about ten times as much
# (Schulman et al., 2025, "LoRA Without Regret").
USUAL_RATES = {"sft": 2e-5, "dpo": 1e-6}
LORA_FACTOR = 10
NOTHING_LEARNED = {"no_assistant", "nothing_trained", "content_empty", "field_empty", "preference_same", "messages_empty"}
OF_THE_TEMPLATE = ("no-end-token", "prefix-broken", "system-dropped", "tools-dropped")  # most often at fault there
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
EMPTY_THINK = re.compile(r"<think>\s*</think>")


@dataclass(frozen=True)
class Finding:
    """One thing that will go wrong, or that is worth knowing.

    Attributes:
        code: a key of `CODES`.
        level: one of `LEVELS`.
        where: the file and line, or the part of the model.
        what: what is wrong, with the number of rows and one of them.
        do: what to do about it.
        lines: lines of all rows that have it; [] if it isn't in the rows.
    """

    code: str
    level: str
    where: str
    what: str
    do: str
    lines: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.level:<7} {self.code}, {self.where}: {self.what}\n        {self.do}"


@dataclass
class Preflight:
    """What `check` has found.

    Attributes:
        model, data: what was checked, as it was named.
        method, task, max_length: the planned run.
        rows: number of rows read.
        longest: number of tokens of the longest row.
        findings: errors first, notes last.
        seconds: how long the check took.
    """

    model: str
    data: str
    method: str
    task: str
    max_length: int
    rows: int = 0
    longest: int = 0
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values that can be written as JSON."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        counts = [(level, sum(f.level == level for f in self.findings)) for level in LEVELS]
        found = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts if count) or "nothing"
        run = f"{self.data} for {self.model}, {self.task} with {self.method}"
        head = f"{run}: {self.rows:,} rows, the longest of {self.longest:,} tokens; found: {found}"
        return "\n".join([head, *map(str, self.findings)])

    def _repr_html_(self) -> str:
        from course_utils.show.tables import Table

        rows = {f"{n}": {"level": f.level, "code": f.code, "where": f.where, "what": f.what, "do": f.do}
                for n, f in enumerate(self.findings, 1)}  # fmt: skip
        return Table(rows, str(self).partition("\n")[0], "", "")._repr_html_()


class Conversation(NamedTuple):
    """One text that is trained on: of a row for SFT, or one of the two of a row for DPO.

    Attributes:
        line: line of the row.
        messages: the messages, the learned answer last; [] if the row holds plain text.
        tools: the row's tools.
        prompt, answer: the two parts of plain text.
    """

    line: int
    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    prompt: str = ""
    answer: str = ""

    @property
    def question(self) -> str:
        """What the user says, in all turns."""
        return self.prompt + "\n".join(_text(m) for m in self.messages if m.get("role") == "user")

    @property
    def surroundings(self) -> str:
        """All that stands before the answer."""
        return comparable(self.prompt + json.dumps(self.messages[:-1], ensure_ascii=False))


class Rendered(NamedTuple):
    """A conversation as the template writes it, whole, and up to where the answer begins."""

    conversation: Conversation
    text: str
    prompt: str

    @property
    def begin(self) -> int:
        """Where the answer begins in the text: after the prompt, or where the two part."""
        if self.text.startswith(self.prompt):
            return len(self.prompt)
        return formats.shared_beginning(list(self.text), list(self.prompt))


@dataclass
class Tally:
    """Counts faults: (code, level) → the lines that have it, and what the first of them shows."""

    name: str
    hits: dict[tuple[str, str], tuple[list[int], str]] = field(default_factory=dict)

    def add(self, code: str, line: int, detail: str, level: str = "") -> None:
        """Count a fault of a row; a level replaces that of its code."""
        lines, _ = self.hits.setdefault((code, level or CODES[code]["level"]), ([], detail))
        if not lines or lines[-1] != line:
            lines.append(line)

    def findings(self, rows: int, **fill: Any) -> Iterator[Finding]:
        """Yield a finding for each fault, which says how many of the rows have it and shows the first."""
        for (code, level), (lines, detail) in self.hits.items():
            level = ("error" if len(lines) >= MANY * rows else "warning") if level == "share" else level
            count = f"{len(lines):,} of {rows:,} rows" if rows > 1 else "the row"
            where = f"{'chat template, as in ' * (code in OF_THE_TEMPLATE)}{self.name}, line {lines[0]}"
            yield replace(_finding(code, where, f"{count}: {detail}", level, **fill), lines=lines)


def _finding(code: str, where: str, what: str, level: str = "", **fill: Any) -> Finding:
    entry = CODES[code]
    return Finding(code, level or entry["level"], where, what, entry["do"].format_map(fill))


def check(
    data: str | Path | Sequence[Mapping[str, Any]],
    model: str,
    *,
    evaluation: str | Path | Sequence[Mapping[str, Any]] | None = None,
    method: str = "lora",
    task: str = "sft",
    max_length: int = 1024,
    targets: str | Sequence[str] = "all-linear",
    gpu: str | None = None,
    dtype: str | None = None,
    learning_rate: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Preflight:
    """Find what will go wrong in a run, without the model's weights.

    The run is one of TRL's trainers, or `training.fit`: the template of the tokenizer, the loss on the last answer, texts
    cut at the end to `max_length`. All rows are rendered with the template. `SAMPLE` of them are tokenized as well, and all
    that would be too long with half as many characters per token as any in the sample.

    Args:
        data: training file (JSONL, JSON, CSV or Parquet), or its rows: conversations, prompts with completions, {"text"}, or
            for DPO preferences.
        model: a folder, `owner/model` on the hub, a tier, or the packaged model; only configuration and tokenizer are read.
        evaluation: file or rows that the model will be evaluated on.
        method: "lora", "qlora" (4-bit base prepared by PEFT) or "full".
        task: "sft" or "dpo".
        max_length: of the trainer, in tokens; 1024 is TRL's default.
        targets: "all-linear", or names of modules that get an adapter.
        gpu: a key of `memory.GPUS`, for whether a step of one example with gradient checkpointing fits.
        dtype: "bfloat16", "float16" or "float32"; None for what the GPU is good at.
        learning_rate: the planned one; None for the trainer's default.
        tokenizer: a tokenizer, or one with a changed template, in place of the model's own.

    Returns:
        Preflight, whose `findings` have the errors first.

    Raises:
        CourseError: a file or the model cannot be read, an argument is unknown, or the rows are of another task's kind.
    """
    began = time.perf_counter()
    for name, value, allowed in (("method", method, METHODS), ("task", task, TASKS), ("dtype", dtype, (None, *DTYPES))):
        if value not in allowed:
            raise CourseError(f"{name}={value!r}: choose one of {', '.join(map(str, filter(None, allowed)))}")
    model = models.TIERS[model].name if model in models.TIERS else model
    config = configuration(model)
    tokenizer = tokenizer or models.load_tokenizer(model)
    result = Preflight(model, _name(data), method, task, max_length)
    tally = Tally(result.data)
    conversations = _conversations(data, task, tally, result)
    file = str(data) if isinstance(data, str | Path) else "FILE"
    findings: list[Finding] = []
    if evaluation is not None:  # before what takes long, since it may be refused
        findings += _evaluation_in_training(conversations, evaluation, task, result.data, file)
    rendered = _rendered(tokenizer, conversations, tally)
    stops = _stop_tokens(model, config, tokenizer)
    _check_template(tokenizer, rendered, stops, tally)
    _check_thoughts(rendered, tally)
    _check_lengths(tokenizer, rendered, config, tally, result)
    _check_copies(conversations, task, tally)
    tokens = {"start": tokenizer.bos_token, "end": tokenizer.eos_token or "an end token"}
    findings += tally.findings(result.rows, longest=result.longest, file=file, **tokens)
    findings += _check_vocabulary(tokenizer, config, findings)
    findings += _check_model(model, config, result, targets, gpu, dtype)
    findings += _check_rate(method, task, learning_rate, model)
    result.findings = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    result.seconds = round(time.perf_counter() - began, 2)
    return result


def _name(data: str | Path | Sequence[Mapping[str, Any]]) -> str:
    return Path(data).name if isinstance(data, str | Path) else "the rows"


def _conversations(
    data: str | Path | Sequence[Mapping[str, Any]], task: str, tally: Tally, result: Preflight | None = None
) -> list[Conversation]:
    """The conversations of a file's valid rows; what is wrong with the others is counted.

    Without a result, for an evaluation, also those that have no answer.
    """
    is_file = isinstance(data, str | Path)
    rows = list(reading.read(data)) if is_file else [reading.Row(n, dict(row)) for n, row in enumerate(data, 1)]  # type: ignore[arg-type]
    if not rows:
        raise CourseError(f"{_name(data)} has no rows")
    shapes = [formats.shape_of(row.value) for row in rows]
    kinds = [formats.KIND_OF[shape] for shape in shapes if shape]
    kind = max(set(kinds), key=kinds.count) if kinds else "text"
    if (task == "dpo") != (kind == "preference") or kind == "unpaired_preference":
        wanted = "prompt, chosen and rejected" if task == "dpo" else "messages, or prompt and completion"
        raise CourseError(f"{_name(data)} has rows of kind {kind}; {task} needs {wanted} (--task names the task)")
    if result is not None:
        result.rows = len(rows)
    conversations, unanswered = list[Conversation](), list[Conversation]()
    for row in rows if kind == "text" else ():
        text = row.value.get("text") if isinstance(row.value, dict) else None
        if not isinstance(text, str):
            tally.add("invalid-rows", row.line, "no messages, no prompt with completion, and no text")
        elif not text.strip():
            tally.add("nothing-to-learn", row.line, "the text is empty")
        else:
            conversations.append(Conversation(row.line, [], answer=text))
    for row, faults in validation.check(iter(rows), kind, "trl") if kind != "text" else ():
        errors = [fault for fault in faults if fault.severity == ERROR]
        if unlearned := [fault for fault in errors if fault.code in NOTHING_LEARNED]:
            tally.add("nothing-to-learn", row.line, f"{unlearned[0].message} ({unlearned[0].field})")
            if unlearned == errors and isinstance(row.value.get("messages"), list):
                unanswered.append(Conversation(row.line, [*row.value["messages"], {"role": "assistant"}]))
        elif errors:
            tally.add("invalid-rows", row.line, str(errors[0].message))
        else:
            if task == "sft" and "messages" in row.value:
                tally.add("loss-on-prompts", row.line, "TRL learns the system's and the user's messages as well")
            conversations += _of_row(row.value, row.line, task)
    return conversations if result else conversations + unanswered


def _of_row(row: dict[str, Any], line: int, task: str) -> Iterator[Conversation]:
    """What is trained on of a valid row."""
    row, _ = variants(row)  # as the trainers' readers take it: without nulls, lists that were written as text
    tools = row["tools"] if isinstance(row.get("tools"), list) else None
    if task == "dpo":
        row = formats.convert(row, "preference")
        sides = [row["chosen"], row["rejected"]]
        if isinstance(sides[0], str):
            yield from (Conversation(line, [], tools, row.get("prompt") or "", side) for side in sides)
            return
        yield from (Conversation(line, [*(row.get("prompt") or []), *side], tools) for side in sides)
    elif formats.shape_of(row) == "prompt_completion" and isinstance(row["completion"], str):
        yield Conversation(line, [], tools, row["prompt"], row["completion"])
    else:
        messages = formats.convert(row, "messages")["messages"]
        learned = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
        messages = messages[: learned[-1] + 1]
        yield Conversation(line, [{k: v for k, v in m.items() if k != "weight"} for m in messages], tools)


def _text(message: Mapping[str, Any]) -> str:
    return formats.text_content(message.get("content"))


def _check_copies(conversations: list[Conversation], task: str, tally: Tally) -> None:
    """Rows that repeat an earlier one, but for case, spaces and punctuation."""
    step = 2 if task == "dpo" else 1  # of a preference both sides count
    first: dict[bytes, int] = {}
    copies = []
    for start in range(0, len(conversations), step):
        pair = conversations[start : start + step]
        line, parts = pair[0].line, [c.prompt + c.answer + json.dumps(c.messages, ensure_ascii=False) for c in pair]
        original = first.setdefault(digest(*map(comparable, parts)), line)
        if original != line:
            copies.append((line, original))
    level = "" if len(copies) >= MANY * len(conversations) / step else "note"
    for line, original in copies:
        tally.add("copies", line, f"a copy of line {original}", level)


def _evaluation_in_training(
    conversations: list[Conversation], evaluation: str | Path | Sequence[Mapping[str, Any]], task: str, name: str, file: str
) -> Iterator[Finding]:
    """Rows of the evaluation whose question is one of the training set's, but for case, spaces and punctuation."""
    tally = Tally(_name(evaluation))
    prompts_of: dict[str, dict[str, int]] = {}  # question → prompt, with what surrounds the question → line
    for conversation in conversations:
        prompts_of.setdefault(comparable(conversation.question), {}).setdefault(conversation.surroundings, conversation.line)
    evaluated = _conversations(evaluation, task, tally)
    if not evaluated:
        raise CourseError(f"{tally.name}: no row could be read: {next(iter(tally.hits.values()))[1]}")
    tally.hits.clear()  # `course preflight EVAL` tells what is wrong with the rows themselves
    for conversation in evaluated:
        prompts = prompts_of.get(comparable(conversation.question), {})
        if len(prompts) > 2:  # "Summarize this." may be asked of many texts
            prompts = {k: v for k, v in prompts.items() if k == conversation.surroundings}
        if prompts and conversation.question.strip():
            line = next(iter(prompts.values()))
            detail = f"{shorten(conversation.question)} is also asked in {name}, line {line}"
            tally.add("evaluation-in-training", conversation.line, detail)
    other = evaluation if isinstance(evaluation, str | Path) else "EVAL"
    yield from tally.findings(len({c.line for c in evaluated}), file=file, evaluation=other)


def _rendered(tokenizer: PreTrainedTokenizerBase, conversations: list[Conversation], tally: Tally) -> list[Rendered]:
    """All conversations that the template takes, as it writes them; plain text as TRL's trainers do, with an end token."""
    rendered = []
    for conversation in conversations:
        if not conversation.messages:
            end = tokenizer.eos_token or ""
            answer = conversation.answer if conversation.answer.endswith(end) else conversation.answer + end
            rendered.append(Rendered(conversation, conversation.prompt + answer, conversation.prompt))
            continue
        if not tokenizer.chat_template:
            raise CourseError(
                "the tokenizer has no chat template, so nothing says how messages become text: take the instruct model's "
                "tokenizer, or set tokenizer.chat_template to the right one"
            )
        for tried in (conversation, conversation._replace(messages=_without_system(conversation.messages))):
            messages, options = tried.messages, {"tools": tried.tools or None, "tokenize": False}
            try:
                text = tokenizer.apply_chat_template(messages, **options)
                prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)
            except Exception as error:  # jinja's, or whatever an expression in a template raises
                roles = ", ".join(str(message["role"]) for message in messages[:6])
                tally.add("role-refused", tried.line, f"the template refuses {roles}: {shorten(str(error), 120)}")
                continue
            rendered.append(Rendered(tried, str(text), str(prompt)))
            break
    return rendered


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the system's text in the user's first, so that the rest of a refused row is checked too."""
    if len(messages) < 3 or messages[0]["role"] not in ("system", "developer"):
        return messages
    return [messages[1] | {"content": f"{_text(messages[0])}\n\n{_text(messages[1])}"}, *messages[2:]]


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _stop_tokens(model: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that end an answer when the model writes one: the tokenizer's, and those of the two configurations."""
    from transformers import GenerationConfig

    ids: list[Any] = [tokenizer.eos_token_id, getattr(config.get_text_config(), "eos_token_id", None)]
    try:
        ids.append(GenerationConfig.from_pretrained(models.resolve(model)).eos_token_id)
    except (OSError, ValueError, CourseError):
        pass  # many models have none, and a name of `memory.ARCHITECTURES` has no folder
    flat = {id for entry in ids for id in (entry if isinstance(entry, list) else [entry]) if id is not None}
    return [str(tokenizer.convert_ids_to_tokens(id)) for id in sorted(flat) if id < len(tokenizer)]


def _check_template(tokenizer: PreTrainedTokenizerBase, rendered: list[Rendered], stops: list[str], tally: Tally) -> None:
    """What the template drops, adds or changes, row by row."""
    bos, special = str(tokenizer.bos_token or ""), [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    default_system, starts = _default_system(tokenizer, rendered), adds_start(tokenizer)
    for r in rendered:
        (line, messages, tools, *_), text, prompt = r
        if not messages:
            if bos and starts and text.startswith(bos):
                tally.add("double-start-token", line, f"the text begins with {bos}, and the tokenizer adds another")
            continue
        squeezed = _squeeze(text)
        if bos and text.startswith(bos + bos):
            tally.add("double-start-token", line, f"the template writes {bos} twice: {shorten(text)}")
        instructions = [m for m in messages if m["role"] in ("system", "developer")]
        dropped = [m for m in instructions if _squeeze(_text(m)) not in squeezed]
        if dropped:
            tally.add("system-dropped", line, f"the template leaves out the system message {shorten(_text(dropped[0]))}")
        if not instructions and default_system:
            tally.add("default-system-message", line, f"no system message, so the template adds {shorten(default_system)}")
        if names := [name for name in _tool_names(messages, tools) if name not in text]:
            tally.add("tools-dropped", line, f"the template leaves out {', '.join(names[:3])}")
        if not text.startswith(prompt):
            pair = (shorten(part[r.begin :][:30]) for part in (prompt, text))
            tally.add("prefix-broken", line, "the prompt alone goes on with {}, and before an answer with {}".format(*pair))
        tail = text[r.begin :].rpartition(_text(messages[-1]).strip()[-40:])[2]
        ends = [stop for stop in stops if stop in tail]
        if not ends:
            other = next((token for token in special if token in tail), "")
            only = f"only {' or '.join(stops) or 'no token'} stops the model when it answers"
            detail = f"the answer ends with {shorten(tail[-30:])}; {only}, and it isn't learned"
            tally.add("no-end-token", line, detail, "warning" if other else "")
        elif r is rendered[0] and not _end_is_learned(tokenizer, r.conversation, stops):
            detail = (
                f"the template closes {{% generation %}} before {ends[0]}: with assistant_only_loss=True it isn't learned"
            )
            tally.add("no-end-token", line, detail, "warning")
        elif tokenizer.pad_token in ends:
            tally.add("end-is-padding", line, f"{tokenizer.pad_token} both ends answers and fills up batches")


def _end_is_learned(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, stops: list[str]) -> bool:
    """Whether TRL's assistant_only_loss, which goes by the template's {% generation %}, would learn a token that ends."""
    if not re.search(r"{%-?\s*generation", str(tokenizer.chat_template)):
        return True
    options = {"tools": conversation.tools or None, "return_dict": True, "return_assistant_tokens_mask": True}
    tokens = tokenizer.apply_chat_template(conversation.messages, **options)
    learned = [id for id, mask in zip(tokens["input_ids"], tokens["assistant_masks"]) if mask]
    return bool(set(stops) & set(tokenizer.convert_ids_to_tokens(learned)))


def _tool_names(messages: list[dict[str, Any]], tools: list[Any] | None) -> list[str]:
    """The functions that a row offers or calls."""
    entries = [*(tools or []), *(call for message in messages for call in message.get("tool_calls") or [])]
    functions = [entry.get("function", entry) for entry in entries if isinstance(entry, dict)]
    return [str(function["name"]) for function in functions if isinstance(function, dict) and function.get("name")]


def _default_system(tokenizer: PreTrainedTokenizerBase, rendered: list[Rendered]) -> str:
    """What the template writes before a first user's message and not before a second one; "" if that is no message."""
    if not any(r.conversation.messages for r in rendered):
        return ""
    messages = [{"role": role, "content": text} for role, text in (("user", "≺1≻"), ("assistant", "≺2≻"), ("user", "≺3≻"))]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # as in `_rendered`; then there is no message to find
        return ""
    first, second = text.partition("≺1≻")[0], text.partition("≺2≻")[2].partition("≺3≻")[0]
    header = formats.shared_beginning(list(reversed(first)), list(reversed(second)))
    added = first[: len(first) - header]
    for token in tokenizer.all_special_tokens:
        added = added.replace(token, " ")
    added = re.sub(r"<[^<>\s]*>", " ", added)
    return _squeeze(added) if len(re.findall(r"[^\W\d_]{2,}", added)) > 2 else ""


def _thought(message: Mapping[str, Any]) -> str:
    """What an assistant's message says that it thought, in a field of its own or at the start of its content."""
    inline = THINK.search(_text(message))
    texts = [*(message.get(name) for name in THOUGHT_FIELDS), inline and inline.group(1)]
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def _check_thoughts(rendered: list[Rendered], tally: Tally) -> None:
    """Thoughts of an answer that the template leaves out, and empty ones that it, or the row, puts before an answer."""
    thinking = sum(bool(_thought(r.conversation.messages[-1])) for r in rendered if r.conversation.messages)
    for (line, messages, *_), text, prompt in rendered:
        if not messages:
            continue
        *earlier, last = messages
        squeezed, thought = _squeeze(text), _squeeze(_thought(last))
        if thought and thought not in squeezed:
            tally.add("thoughts-dropped", line, f"the template leaves out what the answer thought: {shorten(thought)}")
        past = [_squeeze(_thought(message)) for message in earlier if message["role"] == "assistant"]
        if any(t and t not in squeezed for t in past):
            detail = "the template leaves out what earlier answers thought, as most are meant to"
            tally.add("thoughts-dropped", line, detail, "note")
        if not thought and EMPTY_THINK.search(text, max(0, len(prompt) - 40)):
            own = EMPTY_THINK.search(_text(last))
            detail = "the answer begins with an empty <think> block" + ("" if own else ", which the template writes")
            detail += f", while {thinking:,} rows have thoughts" if thinking else ""
            tally.add("empty-thoughts", line, f"{detail}: training teaches not to think", "" if own or thinking else "note")


def _check_lengths(
    tokenizer: PreTrainedTokenizerBase, rendered: list[Rendered], config: PreTrainedConfig, tally: Tally, result: Preflight
) -> None:
    """Rows that are cut, in their answer or before it, and prompts whose tokens change once an answer follows."""
    if not rendered:
        return
    sample = rendered[:: -(-len(rendered) // SAMPLE)]
    whole = _token_ids(tokenizer, sample, [r.text for r in sample])
    densest = min(len(r.text) / max(1, len(ids)) for r, ids in zip(sample, whole)) / 2
    sample_ids, size = dict(zip(map(id, sample), whole)), config.get_text_config().vocab_size
    longest = max(rendered, key=lambda r: len(r.text))
    chosen = [r for r in rendered if r is longest or id(r) in sample_ids or len(r.text) > densest * result.max_length]
    # In two parts, since tokenizing takes most of the time; whether the two merge into other tokens, the sample tells.
    prompts = _token_ids(tokenizer, chosen, [r.text[: r.begin] for r in chosen])
    answers = _token_ids(tokenizer, chosen, [r.text[r.begin :].rstrip() for r in chosen], part=True)
    for r, prompt, answer in zip(chosen, prompts, answers):
        line, messages, length = r.conversation.line, r.conversation.messages, len(prompt) + len(answer)
        result.longest = max(result.longest, length)
        if (highest := max([*prompt, *answer], default=0)) >= size:
            token = f"{highest} ({tokenizer.convert_ids_to_tokens(highest)})"
            tally.add("vocabulary-grown", line, f"token {token} is beyond the model's {size:,} embeddings")
        if messages and r.text.startswith(r.prompt) and prompt != sample_ids.get(id(r), prompt)[: len(prompt)]:
            detail = f"the prompt's last token merges with the answer's first ({len(sample):,} rows were looked at)"
            tally.add("prefix-broken", line, detail, "warning")
        if length <= result.max_length:
            continue
        if not r.prompt:
            tally.add("rows-cut", line, f"{length:,} tokens, of which the first {result.max_length:,} are left")
        elif len(prompt) >= result.max_length:
            left = f"of which {result.max_length:,} are left, and none of the answer"
            tally.add("nothing-to-learn", line, f"the prompt alone has {len(prompt):,} tokens, {left}")
        else:
            tally.add("answer-cut", line, f"{length:,} tokens, over {result.max_length:,}: the answer loses its end")


def _token_ids(
    tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered], texts: list[str], part: bool = False
) -> list[list[int]]:
    """The tokens of texts: with the tokenizer's special tokens only if no template wrote them and it is no later part."""
    plain = not rendered[0].conversation.messages
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=plain and not part)["input_ids"]
    return ids


def _check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, found: list[Finding]
) -> Iterator[Finding]:
    """A tokenizer with more tokens than the model has embeddings, even if no row that was tokenized has one of them."""
    size = config.get_text_config().vocab_size
    if len(tokenizer) > size and not any(finding.code == "vocabulary-grown" for finding in found):
        what = f"{len(tokenizer):,} tokens, and the model has {size:,} embeddings; no row that was looked at needs more"
        yield _finding("vocabulary-grown", "tokenizer", what, "note")


def _check_model(
    model: str, config: PreTrainedConfig, result: Preflight, targets: str | Sequence[str], gpu: str | None, dtype: str | None
) -> Iterator[Finding]:
    """What becomes of experts, whether the numbers suit the card, and whether a step fits on it."""
    sizes: Shape | None = None
    try:
        sizes = shape(model)
    except CourseError:  # not one of the decoders that the closed form is for
        if gpu:
            raise
    names: tuple[str, ...] | str = targets if isinstance(targets, str) else tuple(targets)
    if sizes is not None and result.method != "full":
        names = (yield from _check_experts(sizes, result.method, names)) if sizes.experts else names
        sizes.targets(names)  # raises an error for a name that matches nothing
    card = facts.table("gpus")[gpu.lower()] if gpu and memory.gpu_memory(gpu) else {}
    emulated = card.get("bfloat16") is False
    dtype_used = dtype or ("float16" if emulated else "bfloat16")
    if dtype == "bfloat16" and emulated:
        advice = "take float16 (dtype='float16', fp16=True) with the adapter in float32, as PEFT makes it"
        what = "the card has no bfloat16 units, and emulates it several times slower"
        yield _finding("dtype-not-supported", f"--gpu {gpu}", what, advice=advice)
    if dtype_used == "float16" and config.get_text_config().model_type.startswith(OVERFLOWS_IN_FLOAT16):
        advice = "take bfloat16 on a newer card (Ampere or later), or float32"
        what = f"gradients of {config.get_text_config().model_type} become NaN in float16"
        yield _finding("dtype-not-supported", "configuration", what, advice=advice)
    if gpu and sizes is not None:
        full = result.method == "full"
        plan: dict[str, Any] = {
            "method": result.method, "target_modules": names, "objective": result.task, "checkpointing": True,
            "length": max(1, min(result.max_length, result.longest)), "separate_reference": full and result.task == "dpo",
            "precision": "amp" if full and dtype is None else DTYPES[dtype_used],
            "embeddings": "float32" if result.method == "qlora" else "bfloat16",
        }  # fmt: skip
        estimate = memory.estimate(model, **plan)
        if not estimate.fits(gpu):
            what = f"a step of one example of {plan['length']:,} tokens takes {estimate.total / 1e9:.1f} GB"
            level, advice = "" if sizes.tested or sizes.experts else "warning", memory.advice(estimate, model, gpu)
            unprepared = memory.estimate(model, **plan | {"embeddings": "bfloat16"})
            if result.method == "qlora" and unprepared.fits(gpu):
                level, what = "warning", f"{what} after prepare_model_for_kbit_training"
                advice = f"{CODES['experts-become-float32']['do']}: {unprepared.total / 1e9:.1f} GB"
            yield _finding("does-not-fit", f"--gpu {gpu}", what, level, advice=advice)


def _check_experts(
    sizes: Shape, method: str, names: tuple[str, ...] | str
) -> Generator[Finding, None, tuple[str, ...] | str]:
    """What 4-bit loading, its preparation and the targets do to experts; returns the targets that there are."""
    values = sizes.expert_weights
    share = f"{values / 1e9:.1f} of {sizes.parameters / 1e9:.1f} billion parameters are experts"
    known = {name for table in (QWEN_NAMES, MIXTRAL_NAMES) for parts in table.values() for name in parts}
    reached = {name for stack in sizes.experts for name in stack.names} | {x.name for x in sizes.linears}
    missed = [] if isinstance(names, str) else [name for name in names if name in known - reached]
    if missed or (names == "all-linear" and not sizes.target_experts(names)):
        what = f"{share}, and PEFT gives them no adapter for {', '.join(missed) or names}, without a word"
        parameters = ", ".join(repr(f"experts.{x.name}") for x in sizes.experts if x.experts > 1)
        yield _finding("experts-without-adapters", "--targets", what, parameters=parameters)
    if method == "qlora":
        what = f"{share}, which bitsandbytes leaves in 16 bits: {2 * values / 1e9:.0f} GB"
        yield _finding("experts-not-quantized", "--method qlora", what)
        what = f"prepare_model_for_kbit_training, where it is called, makes the experts float32: {4 * values / 1e9:.0f} GB"
        yield _finding("experts-become-float32", "--method qlora", what)
    return names if isinstance(names, str) else tuple(name for name in names if name not in missed)


def _check_rate(method: str, task: str, rate: float | None, model: str = "") -> Iterator[Finding]:
    """A learning rate far from what is usual, or a trainer's default that is for full fine-tuning.

    For the course's models what is usual is lesson 02's rate: small models want higher ones.
    """
    usual = USUAL_RATES[task] * (1 if method == "full" else LORA_FACTOR)
    tier = models.tier_of(model) if method != "full" and task == "sft" else None
    if tier:
        usual = facts.table("tiers")[tier]["plans"]["02"]["learning_rate"]
    if rate is None and tier:
        what = (
            f"TRL's default of {USUAL_RATES[task]:g} is for full fine-tuning, and lesson 02 trains this model at {usual:g}"
        )
        yield _finding("learning-rate", "--learning-rate", what, rate=usual)
    elif rate is None and method != "full":
        what = f"TRL's default of {USUAL_RATES[task]:g} is for full fine-tuning, and LoRA takes about ten times as much"
        yield _finding("learning-rate", "--learning-rate", what, rate=usual)
    elif rate is not None and not usual / 10 <= rate <= usual * 10:
        what = f"{rate:g} is far from the usual {usual:g} of {task} with {method}"
        yield _finding("learning-rate", "--learning-rate", what, rate=usual)
