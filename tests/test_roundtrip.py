"""An adapter on its way to a server: export writes what was trained, and roundtrip names each of five planted faults."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_packaged import byte_letters
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from course_utils import cli, export, roundtrip
from course_utils.errors import CourseError

START, SAY, STOP = "<|begin|>", "<|say|>", "<|over|>"  # no words that llama.cpp would know without being told
TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|say|>system\nBe brief.<|over|>\n{% endif %}"
    "{% for m in messages %}<|say|>{{ m.role }}\n{{ m.content }}<|over|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|say|>assistant\n{% endif %}"
)
CHATS = [
    [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": f"{word}?"},
        {"role": "assistant", "content": json.dumps({"n": number})},
    ]
    for number, word in enumerate(("a", "b", "c", "d", "e", "f", "g", "h"))
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter that answers each of eight messages with a record, over a small random Llama; beside it the messages."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = [("i", "n"), ("Ġ", "l"), ("o", "n")]
    words = [*byte_letters(), *map("".join, pairs)]
    bpe = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, pairs))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (START, SAY, STOP, "<|pad|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=START, eos_token=STOP, pad_token="<|pad|>", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=256, initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), lora)
    texts = [tokenizer.apply_chat_template(chat, tokenize=False).rstrip("\n") for chat in CHATS]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    answers = batch["input_ids"].clone()
    for row, chat in enumerate(CHATS):
        prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        answers[row, : len(prompt)] = -100
    answers[batch["attention_mask"] == 0] = -100
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(300):
        loss = model(**batch, labels=answers).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.005:
            break
    assert loss < 0.02
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    rows = [json.dumps({"messages": chat}) for chat in CHATS]
    (folder / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    rows = [json.dumps({"messages": chat[1:]}) for chat in CHATS]
    (folder / "no-system.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "adapter"


@pytest.fixture(scope="module")
def merged(adapter):
    export.export(adapter, "merged", adapter.parent / "merged-copy")
    return adapter.parent / "merged-copy"


def other_tokenizer(merged, target, **changes):
    """A copy of the merged model whose tokenizer has other properties."""
    shutil.copytree(merged, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(target)
    return target


def plant(file, name, value):
    """Change a number in a GGUF file's metadata."""
    field = gguf.GGUFReader(file, "r+").fields[name]
    field.parts[field.data[0]][0] = value


def ask(adapter, *files, test="test.jsonl", types=("f32",)):
    pytest.importorskip("xllamacpp")
    return roundtrip.roundtrip(
        adapter, adapter.parent / test, types=types, files=files, max_tokens=16, report=lambda _: None
    )


def found(result, stage):
    return {(d.code, d.level) for d in result.differences if d.where == stage}


# -- what is written is what was trained ------------------------------------------------------------------------------------


def test_the_merged_model_computes_what_the_adapter_does(adapter, merged):
    from peft import PeftModel

    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(adapter.parent / "base"), adapter)
    one = AutoModelForCausalLM.from_pretrained(merged)
    ids = torch.arange(40)[None]
    assert torch.allclose(apart(ids).logits, one(ids).logits, atol=1e-4)
    with apart.disable_adapter():
        assert not torch.allclose(apart(ids).logits, one(ids).logits, atol=0.1)


def test_a_gguf_file_has_the_merged_weights_and_tokens(merged, tmp_path):
    export.write_gguf(merged, tmp_path / "model.gguf", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(40)[None]
    assert torch.equal(theirs(ids).logits, AutoModelForCausalLM.from_pretrained(merged)(ids).logits)


@pytest.mark.parametrize(("quantization", "error"), [("bf16", 0.004), ("f16", 0.001), ("q8_0", 0.02), ("q4_0", 0.2)])
def test_each_number_format_is_off_by_its_rounding_alone(merged, tmp_path, quantization, error):
    for name in ("f32", quantization):
        export.write_gguf(merged, tmp_path / f"{name}.gguf", name)
    exact, rounded = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("f32", quantization))
    for one, other in zip(exact, rounded):
        wanted, given = (gguf.dequantize(t.data, t.tensor_type) for t in (one, other))
        assert np.linalg.norm(given - wanted) <= error * np.linalg.norm(wanted), one.name
        assert quantization == "f32" or one.data.ndim == 1 or not np.array_equal(given, wanted)


def test_llama_cpp_reads_the_prompts_and_writes_the_answers_of_training(adapter):
    result = ask(adapter)
    stages = {stage.name: stage for stage in result.stages if not stage.skipped}
    assert result.ok and not result.differences, str(result)
    assert set(stages) >= {"peft", "merged", "f32", "ollama"}
    for stage in stages.values():
        assert stage.prompts == stages["peft"].prompts
        assert stage.answers == [chat[-1]["content"] for chat in CHATS] and all(stage.ended)
        assert stage.score.value == 1 and stage.difference.low < 0 < stage.difference.high


def test_export_leaves_the_whole_folder_or_none(adapter, tmp_path):
    with pytest.raises(CourseError, match="--base"):
        config = json.loads((adapter / "adapter_config.json").read_text())
        shutil.copytree(adapter, tmp_path / "moved")
        config["base_model_name_or_path"] = "/gone/base"
        (tmp_path / "moved" / "adapter_config.json").write_text(json.dumps(config))
        export.export(tmp_path / "moved", "gguf", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["moved"]
    export.export(tmp_path / "moved", "gguf", tmp_path / "out", base=str(adapter.parent / "base"))
    with pytest.raises(CourseError, match="exists"):
        export.export(adapter, "gguf", tmp_path / "out")


def test_ollama_gets_template_stop_word_and_system_message(adapter, tmp_path):
    export.export(adapter, "ollama", tmp_path / "served")
    file, render, stops = roundtrip.read_modelfile(tmp_path / "served" / "Modelfile")
    assert file.exists() and stops == [STOP]
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    for chat in (CHATS[0][:2], CHATS[0][1:2], [*CHATS[0], CHATS[1][1]]):
        assert render(chat) == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_ollamas_older_templates_are_rendered_too(tmp_path):
    text = "{{ if .System }}[S]{{ .System }}\n{{ end }}\n{{- if .Prompt }}[U]{{ .Prompt }}\n{{ end }}[A]{{ .Response }}<e>\n"
    (tmp_path / "model.gguf").touch()
    (tmp_path / "Modelfile").write_text(f'FROM ./model.gguf\nTEMPLATE """{text}"""\nPARAMETER stop <e>\n')
    _, render, stops = roundtrip.read_modelfile(tmp_path / "Modelfile")
    assert render([*CHATS[0], CHATS[1][1]]) == '[S]Count.\n[U]a?\n[A]{"n": 0}<e>\n[U]b?\n[A]' and stops == ["<e>"]
    (tmp_path / "Modelfile").write_text('FROM ./model.gguf\nTEMPLATE """{{ json .Tools }}"""')
    with pytest.raises(CourseError, match="json"):
        roundtrip.read_modelfile(tmp_path / "Modelfile")


def test_a_template_that_changes_texts_gets_no_modelfile(adapter):
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.chat_template = TEMPLATE.replace("{{ m.content }}", "{{ m.content | upper }}")
    with pytest.raises(CourseError, match="llama-server --jinja"):
        export.modelfile(tokenizer)


@pytest.mark.parametrize(
    ("change", "said"), [({"use_dora": True}, "DoRA"), ({"r": 1024}, "rank"), ({"init_lora_weights": "pissa"}, "pissa")]
)
def test_vllm_is_given_what_it_takes(adapter, tmp_path, change, said):
    made = export.export(adapter, "vllm", tmp_path / "served")
    assert "--max-lora-rank 16" in made.command and "adapter_model.safetensors" in made.files
    shutil.copytree(adapter, tmp_path / "other")
    config = json.loads((adapter / "adapter_config.json").read_text()) | change
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CourseError, match=said):
        export.export(tmp_path / "other", "vllm", tmp_path / "refused")


def test_models_that_it_cannot_write_need_llama_cpps_converter(merged, tmp_path):
    shutil.copytree(merged, tmp_path / "gemma")
    other = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    config = json.loads((merged / "config.json").read_text()) | other
    (tmp_path / "gemma" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CourseError, match="--converter"):
        export.write_gguf(tmp_path / "gemma", tmp_path / "model.gguf")


# -- the planted faults -----------------------------------------------------------------------------------------------------


def test_another_template_is_named(adapter, merged, tmp_path):
    other = TEMPLATE.replace("<|say|>{{ m.role }}\n", "### {{ m.role }}: ")
    folder = other_tokenizer(merged, tmp_path / "other", chat_template=other)
    export.write_gguf(folder, tmp_path / "alpaca.gguf", "f32")
    result = ask(adapter, tmp_path / "alpaca.gguf", types=())
    assert found(result, "alpaca.gguf") >= {("template", "error")} and not result.ok


def test_another_stop_word_is_named(adapter, merged, tmp_path):
    shutil.copytree(merged, tmp_path / "no-end")
    config = json.loads((merged / "generation_config.json").read_text()) | {"eos_token_id": 0}
    (tmp_path / "no-end" / "generation_config.json").write_text(json.dumps(config))
    export.write_gguf(merged, tmp_path / "no-end.gguf", "f32")
    plant(tmp_path / "no-end.gguf", "tokenizer.ggml.eos_token_id", 0)
    result = ask(adapter, tmp_path / "no-end", tmp_path / "no-end.gguf", types=())
    for stage in ("no-end", "no-end.gguf"):
        assert found(result, stage) == {("stop-word", "error")}, str(result)


def test_a_second_start_token_is_named(adapter, merged, tmp_path):
    export.export(merged, "ollama", tmp_path / "served", number_format="f32")
    plant(tmp_path / "served" / "model.gguf", "tokenizer.ggml.add_bos_token", 1)
    (tmp_path / "served" / "Modelfile").rename(tmp_path / "served" / "Modelfile.twice")
    result = ask(adapter, tmp_path / "served" / "Modelfile.twice", types=())
    assert found(result, "Modelfile.twice") == {("double-start", "error")}, str(result)


@pytest.mark.parametrize(("test", "level"), [("no-system.jsonl", "error"), ("test.jsonl", "note")])
def test_another_system_message_is_named(adapter, merged, tmp_path, test, level):
    folder = other_tokenizer(merged, tmp_path / "other", chat_template=TEMPLATE.replace("Be brief.", "You are Qwen."))
    export.write_gguf(folder, tmp_path / "qwen.gguf", "f32")
    result = ask(adapter, tmp_path / "qwen.gguf", test=test, types=())
    assert found(result, "qwen.gguf") == {("default-system", level)} and result.ok == (level == "note"), str(result)


def test_a_broken_4_bit_file_is_named(adapter, merged, tmp_path):
    export.write_gguf(merged, tmp_path / "sound.gguf", "q4_0")
    shutil.copy(tmp_path / "sound.gguf", tmp_path / "broken.gguf")
    tensor = next(t for t in gguf.GGUFReader(tmp_path / "broken.gguf", "r+").tensors if t.name == "blk.1.ffn_up.weight")
    tensor.data[:] = np.roll(tensor.data, 1, axis=0)  # rows in another order, as a wrong permutation leaves them
    result = ask(adapter, tmp_path / "sound.gguf", tmp_path / "broken.gguf", types=())
    broken = [d for d in result.differences if d.where == "broken.gguf"]
    assert any(d.code == "broken-file" and "blk.1.ffn_up.weight" in d.what for d in broken), str(result)
    assert not any(d.code == "broken-file" and d.where == "sound.gguf" for d in result.differences)


def test_what_four_bits_cost_is_told_apart_from_a_broken_file(adapter, monkeypatch):
    score = roundtrip.paired_difference
    monkeypatch.setattr(roundtrip, "paired_difference", lambda right, first: score([False] * 50, [True] * 50))
    result = ask(adapter, types=("f32", "q4_0"))  # as if each stage had got worse
    assert found(result, "q4_0") == {("quantization-loss", "error")} and found(result, "f32") == {("lower-score", "error")}


def test_a_server_that_shows_no_tokens_is_compared_by_their_number(adapter, merged, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    other = other_tokenizer(
        merged, tmp_path / "other", chat_template=TEMPLATE.replace("<|say|>{{ m.role }}", "### {{ m.role }}")
    )
    for folder, codes in ((merged, set()), (other, {("prompt-length", "error")})):
        export.write_gguf(folder, tmp_path / "served.gguf", "f32")
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.verbosity = str(tmp_path / "served.gguf"), 256, -1
        server = xllamacpp.Server(settings)
        served = [f"mine={server.listening_address}/v1#any", "gone=http://127.0.0.1:9/v1"]
        test = adapter.parent / "test.jsonl"
        result = roundtrip.roundtrip(adapter, test, types=(), servers=served, max_tokens=16, report=str)
        assert found(result, "mine") == codes | ({("stop-word", "error")} & found(result, "mine")), str(result)
        assert "no answer" in next(stage.skipped for stage in result.stages if stage.name == "gone")


def test_without_llama_cpp_its_stages_are_skipped_with_a_word(adapter, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    result = roundtrip.roundtrip(
        adapter, adapter.parent / "test.jsonl", types=("f32",), max_tokens=16, report=lambda _: None
    )
    skipped = {stage.name: stage.skipped for stage in result.stages if stage.skipped}
    assert "[deploy]" in skipped["f32"] and "skipped" in str(result) and result.ok


def test_the_commands_print_json_and_exit_by_what_was_found(adapter, tmp_path, capsys):
    assert cli.main(["export", str(adapter), "--to", "vllm", "--out", str(tmp_path / "v"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["adapter_model.safetensors"] > 0
    assert cli.main(["export", str(adapter), "--to", "vllm", "--out", str(tmp_path / "v")]) == 2
    pytest.importorskip("xllamacpp")
    command = ["roundtrip", str(adapter), "--test", str(adapter.parent / "test.jsonl"), "--types", "f32"]
    assert cli.main([*command, "--max-tokens", "16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
