"""The course as one file that pip installs, for learners whose notebooks cannot reach its repository.

The file is the package as anybody installs it, so it has the exercises' solutions in it, as the repository has.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from course_utils import assets
from course_utils.errors import CourseError

EPOCH = (2020, 2, 2, 0, 0, 0)  # as hatchling has it; the same course gives the same file
OF_THE_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def write_wheel(folder: Path) -> Path:
    """Write the course's wheel into a folder, which is created if missing, and return the file.

    In a checkout it is built; where the course is installed it is packed again from the installed files.

    Raises:
        CourseError: pip cannot build it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkout = assets.PACKAGE.parent
    return _build(checkout, folder) if (checkout / "pyproject.toml").is_file() else _pack(folder)


def _build(checkout: Path, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, str(checkout)]
        if importlib.util.find_spec("hatchling"):  # else pip fetches it from the package index
            command.append("--no-build-isolation")
        done = subprocess.run(command, capture_output=True, text=True)
        built = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(built) != 1:
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"the course's wheel cannot be built: pip says {last_line!r}; try: pip install hatchling")
        return Path(shutil.move(built[0], folder / built[0].name))


def _pack(folder: Path) -> Path:
    """The installed files in a wheel again: what pip or a running Python added stays out."""
    installed = distribution(assets.DISTRIBUTION)
    wheel = folder / f"{assets.DISTRIBUTION.replace('-', '_')}-{installed.version}-py3-none-any.whl"
    record, record_name = [], ""
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(installed.files or [], key=str):
            if file.parent.suffix == ".dist-info" and file.name == "RECORD":
                record_name = str(file)
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            if file.parent.suffix == ".dist-info" and file.name in OF_THE_INSTALLATION:
                continue
            data = Path(str(file.locate())).read_bytes()
            add_to_zip(packed, str(file), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(data)}\n")
        add_to_zip(packed, record_name, "".join([*record, f"{record_name},,\n"]).encode())
    return wheel


def add_to_zip(packed: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file to an archive without the time of its making, so that the same files make the same archive."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    packed.writestr(entry, data)
