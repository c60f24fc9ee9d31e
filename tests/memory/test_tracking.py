from course_utils import memory


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
