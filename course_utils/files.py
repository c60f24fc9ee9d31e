"""Files that are there whole or not at all, what is on the disk for good, and hashes: one of each, for everybody."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, parts: bytes | Iterable[bytes], durable: bool = False) -> Path:
    """Write a file under another name beside its place, and rename it there.

    Nobody ever sees half of it, two who write it at once do not disturb each other, and what was there stays if writing
    fails.

    Args:
        path: the file's place; its folder must be there.
        parts: the content, whole or piece by piece.
        durable: come back only when it is on the disk, so that it survives a power cut.

    Returns:
        `path`.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    beside = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(beside, "xb") as file:
            if isinstance(parts, bytes):
                file.write(parts)
            else:
                file.writelines(parts)
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        if durable:
            to_disk(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        to_disk(path.parent)
    return path


def to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk where the file system can; a mounted drive may not."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on Windows
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; 269 MB take about 0.2 s."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
