import pytest

from course_utils import memory


def _touch(megabytes):
    import torch

    return torch.ones(megabytes * 250_000)  # float32: written, so resident


def test_peak_of_a_block_includes_what_was_freed_in_it():
    with memory.track() as report:
        _touch(400)
    assert 380e6 < report.process_increase < 440e6


def test_a_block_within_a_block_hides_nothing_from_the_outer_one():
    with memory.track() as outer:
        _touch(400)
        with memory.track() as inner:
            _touch(50)
        kept = outer.process_increase
        with memory.track():
            _touch(500)
    assert kept > 380e6  # its own, from before the inner block
    assert inner.process_increase < 100e6
    assert outer.process_increase > 480e6  # an inner block's


def test_sampling_where_the_kernel_does_not_tell(monkeypatch):
    from course_utils.memory import tracking

    monkeypatch.setattr(tracking, "_reset_kernel_peak", lambda: False)
    with memory.track() as report:
        for _ in range(20):
            _touch(300)
    assert report.sampled
    assert report.process_increase > 200e6


def test_report_is_complete_when_the_block_fails():
    with pytest.raises(ZeroDivisionError), memory.track() as report:
        1 / 0
    assert report.process_peak >= report.process_start > 0


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
