"""The reproductions of docs/failures.md, each under a minute on a CPU: a question's symptom, and its cure."""

import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_experts, tiny_llama, with_lora
from test_preflight import make_model
from test_roundtrip import CHATS, adapter, merged, other_tokenizer  # noqa: F401 - fixtures
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

pytestmark = pytest.mark.soak("reproduces what others' trackers report; nothing of ours depends on it")
PAGE = Path(__file__).parents[1] / "docs" / "failures.md"


def lora(**more):
    """A new configuration each time, because PEFT writes into it what it finds in a model."""
    return LoraConfig(**({"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | more))


def trainer(model, tokenizer, rows, folder, **settings):
    """TRL's, on the CPU, as its defaults have it but for what is named."""
    from datasets import Dataset  # here, as `make test` collects this file and runs nothing of it
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **settings)
    return SFTTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


@pytest.fixture
def tokenizer(adapter):  # noqa: F811
    return AutoTokenizer.from_pretrained(adapter)


def small(tokenizer, **changes):
    """A random Llama with this vocabulary."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return tiny_llama(vocab_size=len(tokenizer), **(ids | changes))


# -- training ---------------------------------------------------------------------------------------------------------------


def test_a_loaded_adapter_is_frozen(tmp_path):
    with_lora(tiny_llama()).save_pretrained(tmp_path)
    for trainable in (False, True):
        model = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=trainable)
        assert any(p.requires_grad for p in model.parameters()) == trainable


def test_reentrant_checkpointing_stops_the_gradient():
    for cured in (False, True):
        model = get_peft_model(tiny_llama(), lora()).train()
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.disable_input_require_grads() if hasattr(model, "_require_grads_hook") else None
        if cured:
            model.enable_input_require_grads()
        ids = torch.arange(3, 19)[None]
        loss = model(input_ids=ids, labels=ids).loss
        assert loss.requires_grad == cured


def test_the_end_token_is_masked_where_it_also_pads(tokenizer, tmp_path):
    tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer.apply_chat_template(CHATS[0], return_dict=True)["input_ids"]
    labels = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids}])["labels"][0].tolist()
    assert tokenizer.eos_token_id in ids and tokenizer.eos_token_id not in labels
    trl = trainer(small(tokenizer), tokenizer, [{"messages": CHATS[0]}], tmp_path)
    assert tokenizer.eos_token_id in next(iter(trl.get_train_dataloader()))["labels"][0].tolist()


def test_the_default_length_cuts_the_answer_off(tokenizer, tmp_path):
    answer = [{"role": "assistant", "content": "the answer"}]
    rows = [{"prompt": [{"role": "user", "content": "x" * length}], "completion": answer} for length in (20, 978, 2000)]
    for settings, learned in (({}, ["all", "part"]), ({"max_length": None}, ["all", "all", "all"])):
        data = trainer(small(tokenizer), tokenizer, rows, tmp_path, shuffle_dataset=False, **settings).train_dataset
        ends = [row["input_ids"][-2] == tokenizer.eos_token_id for row in data]  # before the template's last line break
        assert ["all" if end else "part" for end in ends] == learned  # a row without any answer is left out


def test_a_template_without_generation_marks_masks_nothing_it_should(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="generation"):
        trainer(small(tokenizer), tokenizer, [{"messages": CHATS[0]}], tmp_path, assistant_only_loss=True)
    rows = [{"prompt": CHATS[0][:2], "completion": CHATS[0][2:]}]  # needs no marks
    labels = next(iter(trainer(small(tokenizer), tokenizer, rows, tmp_path).get_train_dataloader()))["labels"][0]
    learned = tokenizer.decode(labels[labels != -100])
    assert CHATS[0][2]["content"] in learned and "Count." not in learned


def test_a_misspelt_target_is_passed_over_in_silence(recwarn):
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "vproj"], task_type="CAUSAL_LM"))
    adapted = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {"q_proj"} and not [w for w in recwarn if "vproj" in str(w.message)]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_experts_are_not_quantised(architecture, tmp_path):
    from transformers import BitsAndBytesConfig

    AutoModelForCausalLM.from_config(tiny_experts(architecture)).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert dtypes["model.layers.0.self_attn.q_proj.weight"] == torch.uint8
    assert {dtype for name, dtype in dtypes.items() if ".experts." in name} == {torch.bfloat16}


def test_all_linear_leaves_out_experts_of_some_models():
    adapted = {}
    for architecture in ("qwen3_moe", "gpt_oss"):
        model = get_peft_model(AutoModelForCausalLM.from_config(tiny_experts(architecture)), lora())
        adapted[architecture] = any("experts" in name for name, p in model.named_parameters() if p.requires_grad)
    assert adapted == {"qwen3_moe": True, "gpt_oss": False}
    named = lora(target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_config(tiny_experts("gpt_oss")), named)
    assert any("experts" in name for name, p in model.named_parameters() if p.requires_grad)


def test_thoughts_of_earlier_turns_are_left_out(tmp_path):
    thinking = AutoTokenizer.from_pretrained(make_model(tmp_path, "qwen3"))
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nfirst thought\n</think>\n\nYes."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "No."},
    ]
    text = thinking.apply_chat_template(turns, tokenize=False)
    assert "first thought" not in text and "<think>\n\n</think>\n\nNo." in text  # and the last learns to think nothing
    assert "first thought" in thinking.apply_chat_template(turns[:2], tokenize=False)


def test_pure_bfloat16_rounds_small_steps_away():
    for dtype, moved in ((torch.bfloat16, False), (torch.float32, True)):
        weight = torch.nn.Parameter(torch.ones(64, dtype=dtype))
        optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0)
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        assert bool((weight != 1).all()) == moved


def test_packing_lets_rows_see_each_other(tokenizer, tmp_path):
    rows = [{"messages": chat} for chat in CHATS]
    for strategy, apart in (("wrapped", False), ("bfd", True)):
        packed = trainer(
            small(tokenizer), tokenizer, rows, tmp_path, packing=True, packing_strategy=strategy, max_length=512,
            per_device_train_batch_size=1,
        )  # fmt: skip
        batch = {k: v for k, v in next(iter(packed.get_train_dataloader())).items() if k in ("input_ids", "position_ids")}
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][0, 3] = 5  # in the first row
        with torch.no_grad():
            before, after = (packed.model(**b).logits[0, -1] for b in (batch, changed))
        assert torch.equal(before, after) == apart


# -- saving and merging -----------------------------------------------------------------------------------------------------


def test_new_tokens_must_be_there_before_the_adapter(tokenizer, tmp_path):
    tokenizer.add_tokens(["<ticket>", "</ticket>"])
    model = tiny_llama(vocab_size=300)
    model.resize_token_embeddings(300 + 2)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])).save_pretrained(
        tmp_path
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(tiny_llama(vocab_size=300), tmp_path)
    model = tiny_llama(vocab_size=300)
    model.resize_token_embeddings(300 + 2)
    PeftModel.from_pretrained(model, tmp_path)


def test_merging_into_four_bits_rounds_the_adapter_away(tmp_path):
    from transformers import BitsAndBytesConfig

    torch.manual_seed(0)
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    with_lora(AutoModelForCausalLM.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "adapter")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    ids, errors = torch.arange(3, 35)[None], {}
    for kind, settings in (("16 bits", {"dtype": torch.bfloat16}), ("4 bits", {"quantization_config": config})):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **settings)
        model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        with torch.no_grad():
            apart = model(ids).logits.float()
            errors[kind] = (model.merge_and_unload()(ids).logits.float() - apart).norm() / apart.norm()
    assert errors["4 bits"] > 5 * errors["16 bits"], errors


# -- answering --------------------------------------------------------------------------------------------------------------


def test_a_template_and_a_tokenizer_write_the_start_token_twice(tokenizer):
    tokenizer.add_bos_token = True
    from tokenizers.processors import TemplateProcessing

    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    text = tokenizer.apply_chat_template(CHATS[0], tokenize=False)
    for options, times in (({}, 2), ({"add_special_tokens": False}, 1)):
        assert tokenizer(text, **options)["input_ids"].count(tokenizer.bos_token_id) == times


def test_right_padding_changes_answers(tokenizer, merged):  # noqa: F811
    model = AutoModelForCausalLM.from_pretrained(merged)
    longer = [CHATS[0][0], {"role": "user", "content": "a question that is a good deal longer than the other one?"}]
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in (CHATS[0][:2], longer)]
    for side, same in (("right", False), ("left", True)):
        batch = tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt")
        answers = model.generate(**batch, max_new_tokens=16, do_sample=False)[:, batch["input_ids"].shape[1] :]
        assert (tokenizer.decode(answers[0], skip_special_tokens=True) == CHATS[0][2]["content"]) == same


def test_a_recommended_penalty_changes_greedy_answers(tokenizer):
    model = small(tokenizer, initializer_range=0.2)
    prompt = tokenizer("abababab", return_tensors="pt")
    model.generation_config.repetition_penalty = 1.5
    texts = [
        model.generate(**prompt, max_new_tokens=12, do_sample=False, **more) for more in ({}, {"repetition_penalty": 1.0})
    ]
    assert not torch.equal(*texts)


# -- the page ---------------------------------------------------------------------------------------------------------------


def test_the_reproductions_that_the_page_names_are_there():
    named = re.findall(r"`(tests/\w+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (PAGE.parents[1] / file).read_text(encoding="utf-8"), name
