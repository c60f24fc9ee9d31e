"""What lies in a folder, and how large it is."""

from __future__ import annotations

import os
from pathlib import Path

from course_utils.show.tables import Table


def folder_sizes(*folders: str | os.PathLike[str]) -> Table:
    """The files of folders with their sizes in MB (10^6 bytes), largest first."""
    rows = {}
    for folder in map(Path, folders):
        for file in sorted(folder.iterdir(), key=lambda f: -f.stat().st_size):
            if file.is_file():
                rows[f"{folder.name}/{file.name}"] = {"MB": round(file.stat().st_size / 1e6, 2)}
    return Table(rows, "", "file", "")
