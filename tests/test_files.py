"""A file is there whole or not at all."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from course_utils import files


def test_a_file_is_written_and_replaced_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "x.txt"
    assert files.write_whole(file, b"one") == file and file.read_bytes() == b"one"
    files.write_whole(file, (part for part in (b"two", b" ", b"parts")))
    assert file.read_bytes() == b"two parts" and os.listdir(tmp_path) == ["x.txt"]


def test_what_was_there_stays_if_writing_fails(tmp_path):
    file = tmp_path / "x.txt"
    files.write_whole(file, b"old")

    def broken():
        yield b"half"
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        files.write_whole(file, broken())
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.txt"]


def test_what_a_killed_process_left_can_be_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    code = "import os, pathlib, sys; from course_utils import files; os.replace = lambda *_: os._exit(9); "
    code += "files.write_whole(pathlib.Path(sys.argv[1]), b'half')"
    subprocess.run([sys.executable, "-c", code, tmp_path / "deep" / "x.json"], check=False)
    (draft,) = (tmp_path / "deep").iterdir()
    mine = tmp_path / ".notes.tmp"
    mine.touch()
    files.remove_drafts(tmp_path)
    assert not draft.exists() and mine.exists()


def test_a_new_file_has_the_mode_that_new_files_get_and_an_old_one_keeps_its_own(tmp_path):
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    file = files.write_whole(tmp_path / "x.txt", b"one")
    assert stat.S_IMODE(file.stat().st_mode) == usual
    file.chmod(0o600)
    files.write_whole(file, b"two")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_writers_at_once_leave_one_whole_file(tmp_path):
    """A fixed temporary name would let one writer rename the other's half."""
    file, contents = tmp_path / "x.txt", [bytes([65 + number]) * 300_000 for number in range(8)]
    barrier = threading.Barrier(len(contents))

    def write(content):
        barrier.wait()
        for _ in range(5):
            files.write_whole(file, (content[at : at + 1000] for at in range(0, len(content), 1000)))

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in contents and os.listdir(tmp_path) == ["x.txt"]


def test_what_cannot_be_flushed_is_no_error(tmp_path):
    files.to_disk(tmp_path / "not there")
    files.to_disk(tmp_path)
