"""What installing the course does to a machine: nothing to what Colab ships; and the wheel alone is enough."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_utils import lessons
from course_utils.publishing import builder

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "tests" / "colab").glob("image-*.txt"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def shipped(image):
    lines = [line for line in image.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def fake_machine(image, folder):
    """A virtual environment in which pip believes that all of an image is installed: metadata without code.

    Python 3.13 as on Colab where there is one; else this one, which resolves all but Python-specific markers alike.
    """
    python = next((p for p in map(shutil.which, ("python3.13",)) if p and _works(p)), sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name, version in shipped(image).items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text("")
        (info / "INSTALLER").write_text("pip\n")
    return folder / "bin" / "python"


def _works(python):
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def would_install(python, *requirements, tmp_path, constraint=None):
    """Names and versions that pip would install on the machine of `python`, by its own resolver's report."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--dry-run", "--quiet"]
    command += ["--report", str(report), *(["--constraint", str(constraint)] if constraint else []), *requirements]
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_FIND_LINKS", "PIP_CONSTRAINT")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PIP_CONFIG_FILE": os.devnull})
    assert done.returncode == 0, done.stderr
    installs = json.loads(report.read_text())["install"]
    return {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in installs}


def canonical(names):
    return {name.lower().replace("_", "-") for name in names}


def extras_of(section: str) -> str:
    """What the install cell of a section asks for beside the course itself."""
    return re.search(r"^# INSTALL:[ ]*(.*)$", lessons.source_file(section).read_text(encoding="utf-8"), re.MULTILINE)[1]


def test_there_are_images_to_install_on():
    assert {image.stem.rpartition("-")[2] for image in IMAGES} == {"cpu", "gpu"}
    assert all(len(shipped(image)) > 100 for image in IMAGES)


@pytest.mark.index
@pytest.mark.parametrize("section", lessons.NAMES)
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_installing_in_colab_replaces_nothing(image, section, wheel, tmp_path):
    """What a notebook's install cell asks for, with this wheel in place of the repository's address."""
    python = fake_machine(image, tmp_path / "colab")
    constraint = tmp_path / "shipped.txt"
    constraint.write_text("\n".join(f"{n}=={v}" for n, v in shipped(image).items()))
    extras = extras_of(section)
    asked = f"{wheel}[{extras}]" if extras else str(wheel)
    # The lower bounds alone must do, and the constraint is the belt to these braces; but for TRL, whose newest version asks
    # for newer packages than Colab ships (see the next test): there the install cell's constraint is what holds.
    for used in (constraint,) if "trl" in extras.split(", ") else (None, constraint):
        found = would_install(python, asked, tmp_path=tmp_path, constraint=used)
        assert "finetuning-course" in found
        assert canonical(found) & canonical(shipped(image)) == set()


def test_the_install_cell_takes_the_copy_that_is_imported(tmp_path):
    """Colab has some packages twice, Ubuntu's behind pip's; two constraints on one package are a conflict to pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    site, first = next((tmp_path / "venv").glob("lib/python*/site-packages")), tmp_path / "first"
    for folder, name, version in ((first, "Py.Parsing", "3.2.3"), (site, "py-parsing", "2.4.7"), (site, "six", "1.17.0")):
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "pip").mkdir()  # instead of pip: says what it was asked
    (site / "pip" / "__main__.py").write_text("import sys; print(sys.argv[1:])")
    python, environment = tmp_path / "venv" / "bin" / "python", os.environ | {"PYTHONPATH": str(first)}
    cell = builder.INSTALL.format(requirement="the course")
    done = subprocess.run([python, "-c", cell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "'--constraint', 'shipped.txt', 'the course'" in done.stdout
    assert sorted((tmp_path / "shipped.txt").read_text().splitlines()) == ["Py.Parsing==3.2.3", "six==1.17.0"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("git+https://github.com/OWNER/finetuning-course", "does not know where its course is kept"),
        ("git+https://example.org/gone", "could not be installed from finetuning-course @ git+https://example.org/gone"),
    ],
    ids=["placeholder", "gone"],
)
def test_an_install_that_cannot_work_ends_in_a_sentence(tmp_path, address, said):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    pip = next((tmp_path / "venv").glob("lib/python*/site-packages")) / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text("raise SystemExit('pip: no such repository')")  # as pip ends without its address
    cell = builder.INSTALL.format(requirement=f"finetuning-course @ {address}")
    command = [tmp_path / "venv" / "bin" / "python", "-c", cell]
    without_course = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=without_course, capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert ("no such repository" in done.stderr) == ("OWNER" not in address)


@pytest.mark.index
def test_with_the_install_cells_constraint_even_trl_replaces_nothing(wheel, tmp_path):
    """The known trap: plain pip takes the newest TRL, which pulls datasets and pyarrow up under the kernel."""
    image = next(i for i in IMAGES if "gpu" in i.stem)
    python = fake_machine(image, tmp_path / "colab")
    constraint = tmp_path / "shipped.txt"
    constraint.write_text("\n".join(f"{n}=={v}" for n, v in shipped(image).items()))
    plain = would_install(python, f"{wheel}[trl]", tmp_path=tmp_path)
    assert {"datasets", "pyarrow"} <= canonical(plain)
    held = would_install(python, f"{wheel}[trl]", tmp_path=tmp_path, constraint=constraint)
    assert canonical(held) & canonical(shipped(image)) == set()
    assert held["trl"].startswith("0.29.")


def test_the_wheel_carries_data_and_notebooks(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (
        "data/support_tickets/test.jsonl",
        "data/code_review/schema.json",
        "data/raw_support_export/truth.jsonl",
        "notebooks/02_lora.ipynb",
    ):
        assert f"course_utils/_assets/{file}" in names
    templates = [file for file in (ROOT / "course_utils").rglob("templates/*") if file.is_file()]
    assert len(templates) >= 9 and {file.relative_to(ROOT).as_posix() for file in templates} <= names
    assert not [name for name in names if "instructor/" in name or name.startswith("tests/") or "checkpoint.ipynb" in name]
    assert "course_utils/glossary.jsonl" in names
    assert {f"course_utils/_assets/notebooks/{name}.ipynb" for name in lessons.NAMES} <= names
    assert wheel.stat().st_size < 3_400_000  # a third of it are six notebooks with their outputs


@pytest.mark.slow
@pytest.mark.index
def test_the_wheel_alone_in_an_empty_folder_works(wheel, tmp_path):
    """Installed beside this environment's packages, away from the checkout: data is found, notebook 02 is there."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    code = (
        "import course_utils, course_utils.assets as a; from course_utils.data_prep import load_task; "
        "print(course_utils.__file__); print(len(load_task('support_tickets').test)); "
        "print(a.path('notebooks/02_lora.ipynb'))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True)
    package, rows, notebook = done.stdout.split()
    assert package.startswith(str(site)), done.stderr
    assert rows == "100"
    assert notebook.startswith(str(site))


def test_the_repositorys_address_stands_in_one_place():
    from course_utils import assets

    address = assets.repository_url()
    assert address.startswith("https://github.com/")
    kept = [
        ROOT / "README.md",
        *ROOT.glob("course_utils/**/*.py"),
        *ROOT.glob("notebooks/source/*.py"),
        *ROOT.glob("binder/*"),
    ]
    assert [file.name for file in kept if file.is_file() and address in file.read_text(encoding="utf-8")] == []
