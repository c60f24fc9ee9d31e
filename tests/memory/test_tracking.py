from course_utils import memory


def test_free_memory_of_a_card_is_what_nobody_uses_and_what_this_process_has_kept(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (4_000, 16_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 3_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 1_000)
    assert memory.free_bytes(torch.device("cuda:0")) == 6_000
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8_000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3_000)
    assert memory.free_bytes(torch.device("mps")) == 5_000
    assert memory.free_bytes(torch.device("cpu")) is None


def test_what_is_given_back_reaches_the_cards_other_processes(monkeypatch):
    """The service in one process and the trainer in another share a card: what one's allocator keeps, the other lacks."""
    import torch

    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    memory.release()
    assert not emptied  # without a card there is nothing to ask for
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    memory.release()
    memory.trim()
    assert len(emptied) == 2
