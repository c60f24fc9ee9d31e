import subprocess
import sys

import pytest

from course_utils import assets, memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a block")
def test_peak_of_a_block_includes_what_was_freed_in_it():
    """What benchmarks measure; in a process of its own, as importing their `common` prepares the process."""
    code = """
from benchmarks.common import MemoryAdded
with MemoryAdded() as added:
    b"1" * 400_000_000
print(added.bytes)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=assets.root())
    assert 380e6 < int(ran.stdout) < 440e6


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
