"""What goes wrong in a run is found before it, and a sound run is accused of nothing."""

import json
import tomllib
from functools import cache
from pathlib import Path

import pytest
from support import SLOW, cpu_below

from course_utils import cli, preflight
from course_utils.errors import CourseError

MODELS = tomllib.loads(Path(__file__).with_name("chat_templates.toml").read_text(encoding="utf-8"))
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
PLACES = ("parcel", "invoice", "account", "refund", "cable", "charger", "lamp", "kettle", "router", "printer")
TOOL = {
    "type": "function",
    "function": {"name": "find_order", "parameters": {"type": "object", "properties": {"number": {"type": "string"}}}},
}


@cache
def words():
    """A byte-level BPE of 600 tokens, as text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([json.dumps(chats(40)), json.dumps(MODELS)], trainer)
    return tokenizer.to_str()


def make_model(folder, name, edit=None, **changes):
    """Write configuration and tokenizer of a small model; `edit` replaces one text of its template by another."""
    from tokenizers import Tokenizer, processors
    from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

    model = MODELS[MODELS[name].get("like", name)] | MODELS[name] | changes
    raw = Tokenizer.from_str(words())
    raw.add_special_tokens(model["special"])
    if bos := model.get("adds_bos") and model["bos"]:
        raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))])
    template = model["template"].lstrip("\n")
    if edit:
        assert edit[0] in template
        template = template.replace(*edit)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=model.get("bos"), eos_token=model["eos"], pad_token=model.get("pad"),
        chat_template=template,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    vocabulary = model.get("vocabulary", len(tokenizer) + 8)
    AutoConfig.for_model(**(SIZES | ids | {"vocab_size": vocabulary} | model["config"])).save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(model["stops"])).save_pretrained(folder)
    return str(folder)


def chats(count=200, system=True, turns=1, **answer):
    """Conversations that differ; the last answer has further fields."""
    rows = []
    for n in range(count):
        messages = [SYSTEM] if system else []
        for turn in range(turns):
            place = PLACES[(n + turn) % len(PLACES)]
            messages.append({"role": "user", "content": f"Where is my {place}, order {n}? It is day {turn} of waiting."})
            messages.append({"role": "assistant", "content": f"The {place} of order {n} left us on day {turn}."})
        messages[-1] = messages[-1] | answer
        rows.append({"messages": messages})
    return rows


def with_tools(count=200):
    """Conversations in which the assistant calls a function."""
    rows = chats(count)
    for n, row in enumerate(rows):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "find_order", "arguments": {"number": str(n)}}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": f"c{n}", "content": '{"state": "sent"}'}
        row["messages"][2:2] = [called, result]
        row["tools"] = [TOOL]
    return rows


def preferences(count=200, system=True):
    """A prompt with two answers."""
    return [
        {
            "prompt": row["messages"][:-1],
            "chosen": row["messages"][-1:],
            "rejected": [{"role": "assistant", "content": "No idea."}],
        }
        for row in chats(count, system)
    ]


def completions(count=200):
    """Prompt and completion, as messages."""
    return [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in chats(count)]


def levels(found):
    return {finding.code: finding.level for finding in found.findings}


QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
THOUGHT = {"reasoning_content": "They ask for a place, and the list has the day."}
SOUND = [
    ("llama", chats(), {}), ("llama", with_tools(), {"method": "qlora", "gpu": "t4"}),
    ("llama", preferences(), {"task": "dpo", "gpu": "rtx4090"}), ("llama", chats(turns=3), {"method": "full"}),
    ("qwen2.5", chats(system=False), {}), ("qwen2.5", with_tools(), {"method": "qlora"}),
    ("qwen2.5", completions(), {"gpu": "t4", "dtype": "float16"}),
    ("qwen3", chats(**THOUGHT), {}), ("qwen3", chats(), {"learning_rate": 1e-4}), ("qwen3", chats(turns=2, **THOUGHT), {}),
    ("gemma", chats(), {}), ("gemma", preferences(system=False), {"task": "dpo"}),
    ("mistral", chats(turns=2), {}), ("mistral", with_tools(), {}),
    ("phi", chats(), {"targets": ("qkv_proj", "o_proj")}), ("smollm2", chats(system=False), {"method": "full", "gpu": "t4"}),
    ("smollm2", preferences(), {"task": "dpo"}), ("gpt-oss", with_tools(), {"targets": QKVO}),
    ("gpt-oss", chats(thinking="A question of place."), {"targets": QKVO, "gpu": "a100"}),
    ("qwen3-moe", chats(**THOUGHT), {"gpu": "a100"}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SOUND)))
def test_a_sound_run_has_no_errors_and_no_warnings(tmp_path, number):
    name, rows, options = SOUND[number]
    found = preflight.check(rows, make_model(tmp_path, name), **options)
    assert set(levels(found).values()) <= {"note"}, str(found)
    assert found.ok and found.rows == len(rows) and found.longest > 10


def planted(rows, index, **changes):
    """The rows with one that is changed."""
    return [row | changes if n == index else row for n, row in enumerate(rows)]


THINK_TAGS = "<think>\n\n</think>\n\n"
BOS = ("{{- bos_token }}", "{{- bos_token + bos_token }}")
GENERATION = (
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}",
    "{{ '<|im_start|>' + m.role + '\\n' }}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}",
)
NO_SYSTEM = "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
LONG = [{"role": "user", "content": "Where is my parcel? " * 120}, {"role": "assistant", "content": "On its way."}]
LONGER = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "It is on its way to you. " * 120}]
MIXED = chats(100, **THOUGHT) + [{"messages": [*row["messages"][:-2], {"role": "user", "content": f"Q{n}"},
         row["messages"][-1]]} for n, row in enumerate(chats(100))]  # fmt: skip

# code, level, model, what make_model takes, rows, what check takes
FAULTS = [
    ("experts-without-adapters", "warning", "gpt-oss", {}, chats(), {}),
    ("experts-without-adapters", "warning", "gpt-oss", {}, chats(), {"targets": ("q_proj", "up_proj", "gate_proj")}),
    ("experts-not-quantized", "warning", "qwen3-moe", {}, chats(**THOUGHT), {"method": "qlora"}),
    ("experts-become-float32", "warning", "gpt-oss", {}, chats(), {"method": "qlora", "targets": QKVO}),
    ("does-not-fit", "error", "llama", {"config": {"model_type": "llama", "num_hidden_layers": 400, "hidden_size": 4096}},
     chats(), {"gpu": "t4"}),
    ("does-not-fit", "warning", "llama", {"config": {"model_type": "llama", "hidden_size": 8192, "vocab_size": 300_000}},
     chats(), {"gpu": "t4", "method": "qlora"}),
    ("dtype-not-supported", "warning", "llama", {}, chats(), {"gpu": "t4", "dtype": "bfloat16"}),
    ("dtype-not-supported", "warning", "gemma", {}, chats(), {"dtype": "float16"}),
    ("answer-cut", "warning", "llama", {}, planted(chats(), 17, messages=LONGER), {}),
    ("answer-cut", "error", "llama", {}, chats(), {"max_length": 75}),
    ("nothing-to-learn", "warning", "llama", {}, planted(chats(), 17, messages=LONG), {"max_length": 300}),
    ("nothing-to-learn", "error", "llama", {}, chats(20) + chats(1, content=""), {}),
    ("no-end-token", "error", "mistral", {"edit": ("m.content | trim + eos_token", "m.content | trim")}, chats(), {}),
    ("no-end-token", "warning", "qwen2.5", {"eos": "<|endoftext|>", "stops": ["<|endoftext|>"]}, chats(), {}),
    ("no-end-token", "warning", "smollm2", {"edit": GENERATION}, chats(), {}),
    ("loss-on-prompts", "note", "llama", {}, chats(), {}),
    ("end-is-padding", "note", "qwen2.5", {"pad": "<|im_end|>"}, chats(), {}),
    ("prefix-broken", "error", "qwen2.5", {"edit": ("assistant\\n' }}", "assistant\\n<think>\\n' }}")}, chats(), {}),
    ("prefix-broken", "warning", "phi", {"edit": ("|>\\n'", "|> '")}, chats(content="order sent."), {}),
    ("empty-thoughts", "note", "qwen3", {}, chats(), {}),
    ("empty-thoughts", "warning", "qwen3", {}, MIXED, {}),
    ("empty-thoughts", "warning", "qwen2.5", {}, chats(content=THINK_TAGS + "Yes."), {}),
    ("thoughts-dropped", "error", "llama", {}, chats(**THOUGHT), {}),
    ("thoughts-dropped", "note", "qwen3", {}, [{"messages": [*a["messages"], *b["messages"][1:]]}
     for a, b in zip(chats(9, reasoning_content="Which day?"), chats(9, **THOUGHT))], {}),
    ("system-dropped", "error", "qwen3", {"edit": (NO_SYSTEM, "")}, chats(**THOUGHT), {}),
    ("role-refused", "error", "gemma", {}, [{"messages": row["messages"][:2] + row["messages"][1:]} for row in chats()], {}),
    ("tools-dropped", "error", "smollm2", {}, with_tools(), {}),
    ("double-start-token", "error", "llama", {"edit": BOS}, chats(), {}),
    ("double-start-token", "error", "mistral", {}, [{"text": f"<s>[INST] Say {n}[/INST] {n}</s>"} for n in range(9)], {}),
    ("vocabulary-grown", "error", "llama", {"vocabulary": 600}, chats(), {}),
    ("vocabulary-grown", "note", "phi", {"special": [*MODELS["phi"]["special"], "<new>"], "vocabulary": 605},
     chats(), {}),
    ("copies", "warning", "llama", {}, chats(100) + chats(2), {}),
    ("copies", "note", "llama", {}, chats(300) + chats(1), {}),
    ("copies", "warning", "llama", {}, preferences(9) + preferences(1), {"task": "dpo"}),
    ("evaluation-in-training", "error", "llama", {}, chats(), {"evaluation": chats(9, system=False)}),
    ("evaluation-in-training", "warning", "llama", {}, chats(1), {"evaluation": chats(200)}),
    ("default-system-message", "note", "smollm2", {}, chats(system=False), {}),
    ("default-system-message", "note", "gpt-oss", {}, chats(system=False), {"targets": QKVO}),
    ("rows-cut", "note", "llama", {}, [{"text": f"{n} and so on " * 30} for n in range(9)], {"max_length": 32}),
    ("learning-rate", "note", "llama", {}, chats(), {}),
    ("learning-rate", "note", "llama", {}, chats(), {"method": "full", "learning_rate": 2e-3}),
    ("invalid-rows", "error", "llama", {}, planted(chats(), 3, messages=[{"role": "robot", "content": "Hello"}]), {}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[f"{fault[0]}-{fault[1]}-{fault[2]}" for fault in FAULTS])
def test_a_planted_fault_is_found(tmp_path, number):
    code, level, name, changes, rows, options = FAULTS[number]
    found = preflight.check(rows, make_model(tmp_path, name, **changes), **options)
    assert (code, level) in [(finding.code, finding.level) for finding in found.findings], str(found)
    assert found.ok == ("error" not in levels(found).values())
    related = {"experts-not-quantized", "experts-become-float32", "experts-without-adapters"}
    others = {c for c, level in levels(found).items() if level != "note"} - {code} - (related if code in related else set())
    assert not others, str(found)


def test_the_rate_of_a_model_of_the_course_is_that_of_its_lesson():
    for model in ("cpu", "SmolLM2-135M-Instruct"):
        (advice,) = [finding for finding in preflight.check(chats(20), model).findings if finding.code == "learning-rate"]
        assert "0.002" in advice.do and "0.002" in advice.what
        assert "learning-rate" not in levels(preflight.check(chats(20), model, learning_rate=2e-3))
    assert "learning-rate" in levels(preflight.check(chats(20), "cpu", learning_rate=1e-4))


def test_every_code_has_a_planted_fault():
    assert {fault[0] for fault in FAULTS} == set(preflight.CODES)


def test_a_finding_counts_the_rows_and_shows_where_one_is(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = planted(planted(chats(), 17, messages=LONGER), 40, messages=LONGER)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = preflight.check(file, make_model(tmp_path / "model", "llama"))
    cut = next(finding for finding in found.findings if finding.code == "answer-cut")
    assert "rows.jsonl, line 18" in cut.where and "2 of 200" in cut.what and str(found.longest) in cut.do
    assert cut.lines == [18, 41]


def test_a_fault_of_the_template_is_looked_for_in_the_template(tmp_path):
    """What a stranger stumbled over: where it is, what to do, and on which of two files."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats()))
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats(9)))
    model = make_model(tmp_path / "model", "mistral", edit=("m.content | trim + eos_token", "m.content | trim"))
    found = preflight.check(tmp_path / "train.jsonl", model, evaluation=tmp_path / "held.jsonl")
    end, leak = (next(f for f in found.findings if f.code == code) for code in ("no-end-token", "evaluation-in-training"))
    assert end.where.startswith("chat template") and "tokenizer.eos_token" not in end.do and len(end.lines) == 200
    assert str(tmp_path / "held.jsonl") in leak.do and leak.lines == list(range(1, 10))


def test_an_evaluation_may_have_no_answers_and_must_have_rows(tmp_path):
    model, rows = make_model(tmp_path, "llama"), chats(20)
    found = preflight.check(rows, model, evaluation=[{"messages": row["messages"][:-1]} for row in rows[:4]])
    assert "4 of 4" in next(f.what for f in found.findings if f.code == "evaluation-in-training")
    with pytest.raises(CourseError, match="no row could be read"):
        preflight.check(rows, model, evaluation=[{"question": "Where?"}])


def test_one_fault_hides_no_other(tmp_path):
    """A refused system message, or a broken prompt, and what else is wrong with the same rows."""
    refuse = (
        "{{- bos_token }}",
        "{{- bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('No!') }}{% endif %}",
    )
    rows = planted(chats(**THOUGHT), 3, messages=LONG)
    found = preflight.check(rows, make_model(tmp_path / "one", "gemma", edit=refuse), max_length=300)
    assert {"role-refused", "thoughts-dropped", "nothing-to-learn"} <= set(levels(found))
    broken = ("assistant\\n' }}", "assistant\\nAnswer: ' }}")
    model = make_model(tmp_path / "two", "smollm2", edit=broken)
    found = preflight.check(planted(rows, 5, messages=LONGER), model, max_length=300)
    assert {"prefix-broken", "nothing-to-learn", "answer-cut"} <= set(levels(found)) and "no-end-token" not in levels(found)


def test_one_question_about_many_texts_is_no_leak(tmp_path):
    """Only where all that stands before the answer is the same is a prompt with a common question in both files."""
    rows = chats(40)
    for n, row in enumerate(rows):
        row["messages"][:2] = [{"role": "system", "content": f"Text {n}"}, {"role": "user", "content": "Sum it up."}]
    found = preflight.check(rows[:30], make_model(tmp_path, "llama"), evaluation=rows[29:])
    leak = next(finding for finding in found.findings if finding.code == "evaluation-in-training")
    assert "1 of 11" in leak.what and "line 30" in leak.what


def test_the_command_line(tmp_path, capsys):
    model, file = make_model(tmp_path / "model", "llama"), tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in chats()))
    assert cli.main(["preflight", str(file), "--model", model, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and document["rows"] == 200 and document["findings"]
    assert set(document["findings"][0]) == {"code", "level", "where", "what", "do", "lines"}
    assert cli.main(["preflight", str(file), "--model", model, "--max-length", "75", "--eval", str(file)]) == 1
    printed = capsys.readouterr().out
    assert printed.index("error   answer-cut") < printed.index("note    learning-rate")
    assert "evaluation-in-training" in printed
    for wrong in (["--task", "dpo"], ["--targets", "q_prj"], ["--gpu", "t5"], ["--model", str(tmp_path)]):
        assert cli.main(["preflight", str(file), "--model", model, *wrong]) == 2, wrong
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("wrong", [{"method": "dora"}, {"task": "ppo"}, {"dtype": "int8"}, {"data": []}])
def test_what_cannot_run_is_an_error_of_its_own(tmp_path, wrong):
    with pytest.raises(CourseError):
        preflight.check(**({"data": chats(3), "model": make_model(tmp_path, "llama")} | wrong))


def test_a_notebook_shows_a_table_and_may_try_another_template(tmp_path):
    from course_utils import models

    folder = make_model(tmp_path, "llama")
    tokenizer = models.load_tokenizer(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace(*BOS)
    found = preflight.check(chats(3), folder, tokenizer=tokenizer)
    assert not found.ok and "double-start-token" in found._repr_html_()


@pytest.mark.slow
def test_thousands_of_rows_take_seconds(tmp_path):
    """Twenty thousand take less than half a minute."""
    model, rows = make_model(tmp_path, "llama"), chats(6_000, turns=4)
    with cpu_below(9 * SLOW):
        found = preflight.check(rows, model, evaluation=rows[:500])
    assert found.rows == 6_000
