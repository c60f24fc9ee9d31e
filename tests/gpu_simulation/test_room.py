"""Models of true size on a simulated card: nothing large is computed or stored, and all memory is counted."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from . import driver, room, true_size

MEGABYTE = 1 << 20


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
