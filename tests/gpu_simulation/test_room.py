"""Models of true size on a simulated card: nothing large is computed or stored, and all memory is counted."""

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file

from . import build, driver, room, run, true_size

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    if reason := build.why_not():
        pytest.skip(reason)
    with run.stand_ins(tmp_path_factory.mktemp("hub"), "float16") as folder:
        yield folder


def test_a_sparse_file_is_a_safetensors_file(tmp_path):
    small = {"few": torch.arange(6.0).view(2, 3), "none": torch.empty(0), "half": torch.ones(5, dtype=torch.bfloat16)}
    true_size.write_sparse(small, tmp_path / "sparse", {"format": "pt"})
    save_file(small, tmp_path / "whole", {"format": "pt"})
    for file in ("sparse", "whole"):
        found = load_file(tmp_path / file)
        assert found.keys() == small.keys() and all(torch.equal(found[name], small[name]) for name in small)


def test_the_longest_rows_are_taken_in_their_order():
    rows = ["aaa", "a", "aaaaa", "aa", "aaaa"]
    assert [rows[i] for i in true_size._longest(rows, 3)] == ["aaa", "aaaaa", "aaaa"]
    assert true_size._longest([{"input_ids": [1]}, {"input_ids": [1, 2]}], 1) == [1]


def test_processes_share_a_card_and_what_they_hold_is_read_cell_by_cell(on_card, tmp_path):
    ledger, context = room.Ledger(tmp_path / "ledger"), driver.CONTEXT_BYTES
    shared = {driver.LEDGER: str(tmp_path / "ledger")}
    first, second = (on_card("t4", 2 * context + 100 * MEGABYTE, **shared, NUMBER=number) for number in "12")
    take = "torch.kept = torch.empty(60 << 20, device='cuda', dtype=torch.uint8)"
    first(take)
    assert ledger.lap()[0] == context + 60 * MEGABYTE
    first("del torch.kept")
    assert second.refuses(take)[0] == "OutOfMemoryError"
    assert second("result = torch.cuda.mem_get_info()[0] >> 20") == 40  # the first keeps what it has freed
    first("torch.cuda.empty_cache()")
    second(take)
    peak, shares = ledger.lap()
    assert peak == 2 * context + 60 * MEGABYTE and sum(shares.values()) == peak
    assert first.refuses(take)[0] == "OutOfMemoryError"
    second("del torch.kept; torch.cuda.empty_cache()")
    ledger.lap()
    assert ledger.lap()[0] == 2 * context
    second(take)
    second.process.kill()  # what a process had is free once it is no more
    second.process.wait()
    first(take)
    ledger.lap()
    assert ledger.lap()[0] == context + 60 * MEGABYTE
    ledger.close()


@pytest.mark.soak("without true sizes the card is tested in `make test`")
@pytest.mark.slow
def test_a_model_of_true_size_is_counted_trained_saved_and_loaded(hub):
    cells = [
        "from course_utils import memory, models, training\nfrom course_utils.generation import generate\n"
        "model, tokenizer = models.load()",
        "import torch\nfrom peft import LoraConfig, get_peft_model\n"
        "weights = sum(p.numel() for p in model.parameters()) * 2\n"
        "assert weights == 2 * 1_711_376_384 and 0 <= torch.cuda.memory_allocated() - weights < 1_000_000",
        "chat = [{'role': 'user', 'content': 'a question'}, {'role': 'assistant', 'content': 'an answer'}]\n"
        "before = torch.cuda.memory_allocated()\ntorch.cuda.reset_peak_memory_stats()\n"
        "answers = generate(model, tokenizer, [chat[:1]] * 30, max_new_tokens=200)\n"
        "cache = 25 * 200 * 24 * 2 * 2048 * 2\n"  # of one batch, all layers, keys and values
        "assert len(answers) == 30 and 1.02 < (torch.cuda.max_memory_allocated() - before) / cache < 1.3",
        "lora = LoraConfig(r=16, target_modules='all-linear', task_type='CAUSAL_LM')\n"
        "tuned = get_peft_model(model, lora)\n"
        "history = training.fit(tuned, tokenizer, [chat] * 100, settings=training.Settings(batch_size=4))\n"
        "assert len(history.losses) == 3 and set(history.losses) == {0.0}",
        "merged = tuned.merge_and_unload()\nmerged.save_pretrained('merged')\ntokenizer.save_pretrained('merged')\n"
        "del model, tuned, merged, history\nmemory.release()\nmodel, _ = models.load('merged')\n"
        "assert 0 <= torch.cuda.memory_allocated() - weights < 20_000_000",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    found = run.run_notebook(notebook, run.LessonRun("00", "t4"), hub, count=True, small=False)
    assert not found.errors and not found.unmet, str(found)
    peaks = [cell["peak"] for cell in found.memory["cells"]]
    assert peaks[0] - driver.CONTEXT_BYTES - 2 * 1_711_376_384 in range(1_000_000)
    assert found.memory["highest"]["processes"] == {"notebook": max(peaks)}
    (step,) = found.memory["steps"]
    assert (step["examples"], step["method"]) == (4, "lora") and step["counted"] > 0
    assert "highest" in str(found)


@pytest.mark.slow
def test_a_model_of_another_format_is_not_held_in_the_machines_memory(on_card, tmp_path):
    """On its way to the card: on Colab's T4 there is less of it than of the card's."""
    code = f"""
        import psutil, threading, time, transformers
        from course_utils import models
        sizes = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8, vocab_size=49152)
        config = transformers.LlamaConfig(num_key_value_heads=8, tie_word_embeddings=True, **sizes)
        folder = {str(tmp_path)!r}
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)    # 368 MB
        transformers.AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name)).save_pretrained(folder)
        own = lambda: psutil.Process().memory_info().rss - psutil.Process().memory_info().shared
        peak, before, ended = [0], own(), threading.Event()
        def watch():
            while not ended.wait(0.01):
                peak[0] = max(peak[0], own())
        threading.Thread(target=watch).start()
        model, _ = models.load(folder, dtype=torch.float32)
        ended.set()
        size = sum(weights.numel() * weights.element_size() for weights in model.parameters())
        result = [(peak[0] - before) / 1e6, size / 1e6, str(model.device)]
    """
    grown, size, device = on_card("a100", None, **{driver.SKIP: "1000000"})(code)
    assert size > 700 and device == "cuda:0"
    assert grown < size / 3
