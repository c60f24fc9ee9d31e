"""Atomic and durable writing of files, and hashes, shared by the whole package."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

DRAFT = ".tmp"  # the end of a temporary name


def remove_drafts(folder: Path) -> None:
    """Remove what `write_whole` left in a folder, and the folders in it, when its process was killed.

    Nobody else may be writing there.
    """
    for draft in folder.rglob(f".*{DRAFT}"):
        if re.fullmatch(r"\..+\.[0-9a-f]{32}\.tmp", draft.name):
            draft.unlink(missing_ok=True)


def write_whole(path: Path, parts: bytes | Iterable[bytes]) -> Path:
    """Write a file atomically: under a temporary name in the same folder, then renamed.

    Nobody ever sees a half-written file, two processes can write it at the same time, and the old content stays if writing
    fails.

    Args:
        path: the file to write; its folder must exist.
        parts: the content, whole or in pieces.

    Returns:
        `path`.

    Raises:
        OSError: it cannot be written; no temporary file is left behind.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}{DRAFT}")
    try:
        with open(temporary, "xb") as file:
            if isinstance(parts, bytes):
                file.write(parts)
            else:
                file.writelines(parts)
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def to_disk(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to the disk if the file system supports it; a mounted drive may not."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; 269 MB take about 0.2 s."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
