"""Asks the same messages of an adapter at each stage of its way to a server, and says what differs and why.

    course roundtrip ticket-adapter --test test.jsonl

The first stage, the adapter over its base in PEFT, is what was trained; all others are compared with it: their prompts,
token by token, as each stage's own template and tokenizer make them; where answers end; and scores, message by message.
llama.cpp runs in this process (the extra `deploy`). Ollama is not run: llama.cpp, which it runs as well, gets the prompts
that a Modelfile makes. vLLM is asked where it runs. roundtrip.toml has the codes of what can differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import assets, models
from course_utils.data_prep import formats, load_task, reading
from course_utils.errors import CourseError
from course_utils.evaluation import Score, paired_difference, proportion
from course_utils.export import TYPES, convert, export, modelfile, read_adapter, read_marks
from course_utils.generation import complete
from course_utils.memory import release
from course_utils.preflight import Finding
from course_utils.scoring import chat_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model

CODES: dict[str, str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# Relative error of a matrix (norm of the difference over the norm) that its number format explains, with a margin.
USUAL_ERROR = {"F32": 1e-6, "F16": 0.001, "BF16": 0.004, "Q8_0": 0.02, "Q4_K": 0.15, "Q4_1": 0.15, "Q4_0": 0.2}
RUNS_ON = 0.05  # share of answers that reach the limit, beyond those of the first stage, from which a stop word is missing
PROBE: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]  # for what templates add without a system message


@dataclass
class Stage:
    """What a stage was asked and answered.

    Attributes:
        name: such as "merged" or "q4_0".
        answers, ended, right: for each message the answer, whether it ended before the limit, whether all of it is right.
        prompts, probe: token ids of the messages' prompts, and of `PROBE`'s; empty if the stage doesn't show them.
        lengths: number of tokens of each prompt, as the stage counts them.
        score, difference: share of right answers; how much more often than the first stage's, paired by message.
        same: number of answers equal to the first stage's, letter for letter.
        error: of a GGUF file's matrices, the largest error relative to the merged model's.
        seconds: how long the answers took.
        skipped: why it was not asked; "" if it was.
    """

    name: str
    skipped: str = ""
    answers: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    probe: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    score: Score | None = None
    difference: Score | None = None
    same: int = 0
    error: float = 0.0
    seconds: float = 0.0


@dataclass
class RoundTrip:
    """The stages, the first of which the others are compared with, and what `roundtrip` has found."""

    adapter: str
    stages: list[Stage]
    differences: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether each stage is asked the same, stops, and answers as well as can be told."""
        return not any(difference.level == "error" for difference in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values that can be written as JSON."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        first = self.stages[0]
        lines = [f"{self.adapter}: {len(first.answers)} messages; shares of right answers, with 95 % intervals"]
        lines.append(
            f"{'stage':<14}{'right':<24}{'minus peft, paired':<24}{'same text':>9}{'prompts':>9}{'ended':>7}{'s':>6}"
        )
        for stage in (stage for stage in self.stages if not stage.skipped):
            pairs = zip(stage.prompts, first.prompts) if stage.prompts else zip(stage.lengths, first.lengths)
            prompts = f"{sum(a == b for a, b in pairs)}{'' if stage.prompts else '?'}"
            scores = f"{stage.score!s:<24}{'' if stage is first else str(stage.difference):<24}"
            lines.append(f"{stage.name:<14}{scores}{stage.same:>9}{prompts:>9}{sum(stage.ended):>7}{stage.seconds:>6.0f}")
        lines += [f"{stage.name:<14}skipped: {stage.skipped}" for stage in self.stages if stage.skipped]
        return "\n".join(
            [*lines, *map(str, self.differences), *([] if self.differences else ["nothing differs but rounding"])]
        )


def roundtrip(
    adapter: str | Path,
    test: str | Path | None = None,
    base: str | None = None,
    types: Sequence[str] = ("bf16", "q4_0"),
    files: Sequence[Path] = (),
    servers: Sequence[str] = (),
    rows: int = 100,
    max_tokens: int = 96,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> RoundTrip:
    """Ask an adapter's test messages at each stage that runs here.

    Args:
        adapter: PEFT's folder.
        test: file of conversations, or prompts with completions; None for lesson 02's hundred test messages.
        base: the model it was trained on; None for the one that its configuration names.
        types: number formats of the GGUF files that are made and asked.
        files: merged folders, GGUF files and Modelfiles of your own, asked as well.
        servers: NAME=URL of servers with OpenAI's interface that run, or NAME=URL#MODEL; the URL ends with /v1.
        rows: ask the first so many messages.
        max_tokens: longest answer, in tokens.
        out: folder in which merged model and GGUF files stay, and are found again; None for one that is removed.
        report: called with a line of text before each stage.

    Raises:
        CourseError: the adapter, its base, the test file or one of the files cannot be read.
    """
    if wrong := [*(set(types) - set(TYPES)), *(file for file in files if not file.exists())]:
        raise CourseError(f"{wrong[0]} is no file, no folder and no number format (those are {', '.join(TYPES)})")
    _, source, tokenizer = read_adapter(adapter, base)
    conversations, solutions = _read_messages(test, rows)
    result = RoundTrip(str(adapter), [], [])

    def add(stage: Stage) -> Stage:
        result.stages.append(stage)
        if not stage.skipped:
            first = result.stages[0]
            stage.right = [_is_right(*pair) for pair in zip(stage.answers, solutions)]
            stage.score, stage.same = proportion(stage.right), sum(a == b for a, b in zip(stage.answers, first.answers))
            stage.difference = paired_difference(stage.right, first.right)
            result.differences.extend(_compare(stage, first, tokenizer))
        return stage

    with tempfile.TemporaryDirectory(prefix="roundtrip-") as scratch:
        folder = Path(out or scratch)
        merged, own = folder / "merged", list(files)
        report("peft: the adapter over its base")
        add(_ask_model("peft", source, tokenizer, conversations, max_tokens, adapter))
        if not merged.exists():
            export(adapter, "merged", merged, base)
        for place in [merged, *(file for file in own if file.is_dir())]:
            report(f"{place.name}: one model, in transformers")
            add(_ask_model(place.name, str(place), None, conversations, max_tokens))
        recipes = {file.name: file for file in own if file.name.startswith("Modelfile")}
        try:
            for name in types[:1]:
                (folder / "Modelfile").write_text(modelfile(tokenizer, f"./{name}.gguf"), encoding="utf-8")
                recipes = {"ollama": folder / "Modelfile"} | recipes
        except CourseError as error:
            add(Stage("ollama", str(error)))
        made = {name: folder / f"{name}.gguf" for name in types} | {f.name: f for f in own if f.suffix == ".gguf"} | recipes
        for name, file in made.items():
            report(f"{name}: in llama.cpp{', with the prompts that Ollama would make' if name in recipes else ''}")
            if not file.exists():
                convert(merged, file, name)
            stage = add(_ask_llama_cpp(name, file, conversations, max_tokens))
            if not stage.skipped and name not in recipes:
                result.differences.extend(_check_weights(file, merged, stage))
    for server in servers:
        report(server)
        add(_ask_server(server, conversations, max_tokens))
    if not any(server.startswith("vllm=") for server in servers):
        add(Stage("vllm", "start it as `course export --to vllm` says, and name it: --server vllm=URL#NAME"))
    explained = {difference.where for difference in result.differences if difference.level == "error"}
    for stage in result.stages:
        if stage.difference and stage.difference.high < 0 and stage.name not in explained:
            what = f"right answers {stage.difference} against peft; its matrices are off by up to {stage.error:.3f}"
            code = "quantization-loss" if stage.error > USUAL_ERROR["BF16"] else "lower-score"
            result.differences.append(_finding(code, stage, what))
    return result


def _read_messages(test: str | Path | None, rows: int) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Conversations up to the answer, and the right answers' texts."""
    if test is None:
        chats = load_task("support_tickets", ["category", "escalation", "product", "order_id"]).test
    else:
        chats = [formats.convert(row.value, "messages")["messages"] for row in reading.read(test)]
    if not chats or any(len(chat) < 2 or chat[-1]["role"] != "assistant" for chat in chats):
        raise CourseError(f"{test}: each row must end with the assistant's right answer, behind a prompt")
    return [chat[:-1] for chat in chats[:rows]], [str(chat[-1]["content"]) for chat in chats[:rows]]


def _is_right(answer: str, solution: str) -> bool:
    """Whether an answer is the solution: the same JSON value, or the same text."""
    try:
        return bool(json.loads(answer) == json.loads(solution))
    except ValueError:
        return answer.strip() == solution.strip()


# -- the stages -------------------------------------------------------------------------------------------------------------


def _ask_model(
    name: str, source: str, tokenizer: Any, conversations: list[Any], max_tokens: int, adapter: Any = None
) -> Stage:
    """Ask a folder in transformers: it ends answers where its generation_config.json says; an adapter, as in training."""
    from peft import PeftModel

    model: Model
    model, own_tokenizer = models.load(source)
    tokenizer, stops = tokenizer or own_tokenizer, None
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    elif (ends := model.generation_config.eos_token_id) is not None:
        stops = {ends} if isinstance(ends, int) else set(ends)
    *prompts, probe = (chat_token_ids(tokenizer, messages, True) for messages in [*conversations, PROBE])
    began = time.perf_counter()
    ids = complete(model, tokenizer, prompts, max_tokens, stops=stops)
    stage = Stage(name, prompts=prompts, probe=probe, lengths=list(map(len, prompts)), seconds=time.perf_counter() - began)
    stage.answers = [tokenizer.decode(answer, skip_special_tokens=True) for answer in ids]
    stage.ended = [len(answer) < max_tokens for answer in ids]
    del model
    release()
    return stage


def _post(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


def _ask_llama_cpp(name: str, file: Path, conversations: list[Any], max_tokens: int) -> Stage:
    """Ask a GGUF file: with its own template, or, for a Modelfile, with the texts that its template makes."""
    stage, render, stops = Stage(name), None, list[str]()
    try:
        import xllamacpp

        if file.suffix != ".gguf":
            file, render, stops = read_modelfile(file)
    except ImportError:
        return Stage(name, f"llama.cpp is not installed: pip install '{assets.DISTRIBUTION}[deploy]'")
    except CourseError as error:
        return Stage(name, str(error))
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = str(file), 8192, 1, -1
    # more threads than cores would wait for each other
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(settings)
    url, options = server.listening_address, {"temperature": 0, "repeat_penalty": 1}

    def read(messages: Any) -> tuple[str, list[int]]:
        text = render(messages) if render else _post(f"{url}/apply-template", messages=messages)["prompt"]
        ids = _post(f"{url}/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        return text, ids

    began = time.perf_counter()
    for messages in conversations:
        text, ids = read(messages)
        stage.prompts.append(ids)
        if not render:
            _add_choice(stage, _post(f"{url}/v1/chat/completions", messages=messages, max_tokens=max_tokens, **options))
            continue
        answer = _post(f"{url}/completion", prompt=text, n_predict=max_tokens, stop=stops, **options)
        stage.answers.append(answer["content"])
        stage.ended.append(answer["stop_type"] != "limit")
        stage.lengths.append(answer["tokens_evaluated"])
    stage.seconds, stage.probe = time.perf_counter() - began, read(PROBE)[1]
    return stage


def _add_choice(stage: Stage, completion: dict[str, Any]) -> None:
    choice = completion["choices"][0]
    stage.answers.append(choice["message"]["content"] or "")
    stage.ended.append(choice["finish_reason"] != "length")
    stage.lengths.append(completion["usage"]["prompt_tokens"])


def _ask_server(server: str, conversations: list[Any], max_tokens: int) -> Stage:
    """Ask a server that runs; vLLM shows the tokens of its prompts, most others only their number."""
    name, _, address = server.partition("=")
    url, _, model = address.partition("#")
    stage, began = Stage(name), time.perf_counter()
    try:
        for messages in [*conversations, PROBE]:
            body = {"model": model or "default", "messages": messages}
            if messages is not PROBE:
                _add_choice(stage, _post(f"{url}/chat/completions", **body, temperature=0, max_tokens=max_tokens))
            with contextlib.suppress(urllib.error.HTTPError):  # most have no such address
                stage.prompts.append(_post(f"{url.removesuffix('/v1')}/tokenize", **body).get("tokens") or [])
    except (OSError, KeyError, ValueError) as error:
        return Stage(name, f"no answer from {url}: {error}")
    *stage.prompts, stage.probe = stage.prompts if all(stage.prompts) and stage.prompts else [[]]
    stage.seconds = time.perf_counter() - began
    return stage


def read_modelfile(file: Path) -> tuple[Path, Callable[[Any], str], list[str]]:
    """Return a Modelfile's GGUF file, what turns messages into text as Ollama does with its template, and its stop words.

    Covers what templates of chat models are made of: texts, .System, .Prompt and .Response, or range .Messages with .Role
    and .Content; if, else, eq. Source: ollama/ollama, template/template.go.

    Raises:
        CourseError: the template has more than that, or there is none.
    """
    from jinja2 import Environment

    text = file.read_text(encoding="utf-8")
    lines = re.findall(r'^(FROM|TEMPLATE|SYSTEM)\s+(?:"""(.*?)"""|(.+?)$)', text, re.M | re.S | re.I)
    parts = {name.upper(): long or short for name, long, short in lines}
    if not {"FROM", "TEMPLATE"} <= set(parts):
        raise CourseError(
            f"{file.name} has no FROM or no TEMPLATE, which Ollama then would guess from the file's: not asked"
        )
    source, opened, trim = "", list[str](), False
    for words, left, action, right in re.findall(r"(.*?)(?:\{\{(-?)\s*(.*?)\s*(-?)\}\}|\Z)", parts["TEMPLATE"], re.S):
        words = words.lstrip() if trim else words
        words, trim = words.rstrip() if left else words, bool(right)
        source += f"{{% raw %}}{words}{{% endraw %}}" if words else ""
        word, _, rest = action.partition(" ")
        test = re.sub(r'^eq \.Role ("\w+")$', r"m.Role == \1", rest.removeprefix("if ").strip("() ")).removeprefix(".")
        if re.fullmatch(r"\.(System|Prompt|Response|Role|Content)", action):
            source += f"{{{{ {'m' + action if action in ('.Role', '.Content') else action[1:]} }}}}"
        elif word == "if" or action == "range .Messages":
            opened.append("if" if word == "if" else "for")
            source += f"{{% if {test} %}}" if word == "if" else "{% for m in Messages %}"
        elif word == "else":
            source += f"{{% elif {test} %}}" if rest else "{% else %}"
        elif action == "end" and opened:
            source += f"{{% end{opened.pop()} %}}"
        elif action:
            raise CourseError(f"{file.name} has {{{{ {action} }}}} in its template, which only Ollama renders: not asked")
    template = Environment(keep_trailing_newline=True).from_string(source)

    def render(messages: list[dict[str, Any]]) -> str:
        if "SYSTEM" in parts and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": parts["SYSTEM"]}, *messages]
        if "range .Messages" in parts["TEMPLATE"]:
            return template.render(Messages=[{"Role": m["role"], "Content": m["content"]} for m in messages])
        rendered, turn = "", dict[str, str]()
        for message in messages:
            name = {"system": "System", "user": "Prompt", "assistant": "Response"}[message["role"]]
            if "Response" in turn or name in turn:
                rendered, turn = rendered + template.render(turn), {}
            turn[name] = message["content"]
        return rendered + template.render(turn | {"Response": "\0"}).partition("\0")[0]

    return file.parent / parts["FROM"], render, re.findall(r'^PARAMETER stop "?(.+?)"?$', text, re.M | re.I)


# -- what differs -----------------------------------------------------------------------------------------------------------


def _finding(code: str, stage: Stage, what: str, level: str = "error") -> Finding:
    """What a stage does otherwise than the first; a note if only other messages would show it."""
    return Finding(code, level, stage.name, what, CODES[code])


def _compare(stage: Stage, first: Stage, tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    """What a stage was asked otherwise than the first, and whether its answers run on."""
    total, found = len(first.prompts), dict[str, list[str]]()
    for ids, reference in zip(stage.prompts, first.prompts):
        if ids != reference:
            code, what = _name_difference(ids, reference, tokenizer)
            found.setdefault(code, []).append(what)
    for code, whats in found.items():
        yield _finding(code, stage, f"{len(whats)} of {total} prompts; {whats[0]}")
    if not found and stage.probe and stage.probe != first.probe:
        code, what = _name_difference(stage.probe, first.probe, tokenizer)
        yield _finding(code, stage, f"with messages that have no system message, unlike these; {what}", "note")
    if not found and (other := [pair for pair in zip(stage.lengths, first.lengths) if pair[0] != pair[1]]):
        what = f"{len(other)} of {total} prompts; the first has {other[0][0]} tokens, and in training {other[0][1]}"
        yield _finding("prompt-length", stage, what)
    if (ran_on := sum(first.ended) - sum(stage.ended)) >= max(1, RUNS_ON * total):
        shown = next(answer for answer, end in zip(stage.answers, stage.ended) if not end)[-60:]
        yield _finding("stop-word", stage, f"{ran_on} of {total} answers run on to the limit: …{shown!r}")


def _name_difference(ids: list[int], reference: list[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The code of a difference between two prompts, and what shows it."""
    start = tokenizer.bos_token_id
    if start is not None and ids == [start, *reference]:
        return (
            "double-start",
            f"{tokenizer.bos_token} stands before what training began with, {tokenizer.decode(reference[:3])!r}",
        )
    if start is not None and [start, *ids] == reference:
        return "no-start", f"{tokenizer.bos_token} is missing at the beginning"
    text, trained = tokenizer.decode(ids), tokenizer.decode(reference)
    at = next((i for i, (a, b) in enumerate(zip(text, trained)) if a != b), min(len(text), len(trained)))
    if text == trained:
        return "tokens", f"{text[:60]!r}… is {len(ids)} tokens, and in training {len(reference)} others"
    try:
        opening, closing, _ = read_marks(tokenizer)
        blocks = [re.match(f"{re.escape(opening['system'])}(.*?){re.escape(closing)}", t, re.S) for t in (text, trained)]
        rests = [t[block.end() if block else 0 :] for t, block in zip((text, trained), blocks)]
        if rests[0] == rests[1]:
            systems = [repr(block[1][:60]) if block else "missing" for block in blocks]
            return "default-system", f"the system message is {systems[0]}, and in training {systems[1]}"
    except CourseError:
        pass  # a template of more than marks: its texts can only be compared
    return "template", f"from character {at} it says {text[at : at + 40]!r}, and in training {trained[at : at + 40]!r}"


def _check_weights(file: Path, merged: Path, stage: Stage) -> Iterator[Finding]:
    """Whether a file's matrices are the merged model's but for rounding."""
    import gguf

    with tempfile.TemporaryDirectory() as scratch:
        convert(merged, exact := Path(scratch) / "exact.gguf", "f32")
        reference, broken = {t.name: t for t in gguf.GGUFReader(exact).tensors}, list[str]()
        for tensor in gguf.GGUFReader(file).tensors:
            if tensor.name in reference:
                wanted = reference[tensor.name].data.reshape(-1)
                given = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
                error = float(((given - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-30)) ** 0.5
                usual, stage.error = USUAL_ERROR.get(tensor.tensor_type.name, 0.3), max(stage.error, error)
                if not error <= usual:  # also if it is no number
                    broken.append(
                        f"{tensor.name} ({tensor.tensor_type.name}) is off by {error:.2f}; rounding explains {usual:g}"
                    )
    if broken:
        yield _finding("broken-file", stage, f"{len(broken)} of {len(reference)} matrices; {broken[0]}")
