"""What installing the course does to a machine: nothing to what Colab ships; and the wheel alone is enough."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from colab.machine import canonical as canonical_name
from colab.machine import shipped, write_metadata

from course_utils import assets, lessons
from course_utils.publishing import builder
from course_utils.publishing.wheel import write_wheel

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "tests" / "colab").glob("image-*.txt"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return write_wheel(tmp_path_factory.mktemp("dist"))


def fake_machine(image, folder):
    """A virtual environment in which pip believes that all of an image is installed: metadata without code.

    Python 3.13 as on Colab where there is one; else this one, which resolves all but Python-specific markers alike.
    """
    python = next((p for p in map(shutil.which, ("python3.13",)) if p and _works(p)), sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    write_metadata(site, shipped(image))
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
    return {canonical_name(name) for name in names}


def extras_of(section: str) -> str:
    """What the install cell of a section asks for beside the course itself."""
    return re.search(r"^# INSTALL:[ ]*(.*)$", lessons.source_file(section).read_text(encoding="utf-8"), re.MULTILINE)[1]


@pytest.mark.parametrize("section", lessons.NAMES)
def test_the_install_cell_asks_for_what_the_cells_import(section):
    """Where everything is installed, as in this environment, no lesson misses anything; on Colab it does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def distributions(requirements):
        return canonical(re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)

    optional = {extra: distributions(needed) for extra, needed in project["optional-dependencies"].items()}
    there = distributions(project["dependencies"]).union(*(optional[e] for e in re.split(r",\s*", extras_of(section)) if e))
    code = "\n".join(c.source for c in builder.instructor_edition(section).cells if c.cell_type == "code")
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    belong = packages_distributions()
    needed = canonical(d for name in imported - {"course_utils"} for d in belong.get(name, ()))
    needed &= set().union(*optional.values())
    assert "course_utils" in imported and needed <= there, f"{section} needs an extra that brings {needed - there}"


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
    for used in (constraint,) if "trl" in re.split(r",\s*", extras) else (None, constraint):
        found = would_install(python, asked, tmp_path=tmp_path, constraint=used)
        assert "finetuning-course" in found
        assert canonical(found) & canonical(shipped(image)) == set()


WHEEL = "finetuning_course-{}-py3-none-any.whl"
HOSTS = ("/content/drive/MyDrive", "/kaggle/input")  # where the cell looks on Colab and Kaggle


def machine_without_the_course(folder):
    """A virtual environment whose pip installs nothing, but writes down what it was asked, and then fails if told to."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(
        "import os, sys\nopen('asked.txt', 'w').write('\\n'.join(sys.argv[1:]))\nsys.exit(os.environ.get('PIP_SAYS', 0))\n"
    )
    return folder / "bin" / "python", site


def run_install_cell(python, folder, extras="", hosts=HOSTS, **environment):
    """Run the cell as it is written, but for the hosts' folders, which are looked for below `folder`."""
    cell = builder.install_cell(extras)
    for host in hosts:
        assert cell.count(host) == 1
        cell = cell.replace(host, f"{folder.parent}{host}")
    here = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run([python, "-c", cell], cwd=folder, env=here, capture_output=True, text=True)


def test_the_install_cell_takes_the_copy_that_is_imported(tmp_path):
    """Colab has some packages twice, Ubuntu's behind pip's; two constraints on one package are a conflict to pip."""
    (python, site), first, here = machine_without_the_course(tmp_path / "venv"), tmp_path / "first", tmp_path / "here"
    here.mkdir()
    for folder, name, version in ((first, "Py.Parsing", "3.2.3"), (site, "py-parsing", "2.4.7"), (site, "six", "1.17.0")):
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    done = run_install_cell(python, here, PYTHONPATH=str(first))
    assert done.returncode == 0, done.stderr
    assert "\n--constraint\nshipped.txt\n" in (here / "asked.txt").read_text()
    assert sorted((here / "shipped.txt").read_text().splitlines()) == ["Py.Parsing==3.2.3", "six==1.17.0"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return machine_without_the_course(tmp_path_factory.mktemp("bare") / "venv")[0]


@pytest.mark.parametrize(
    ("places", "taken"),
    [
        ([], None),
        (["here/{0.1.0}"], 0),
        (["here/{0.9.0}", "here/{0.10.0}", "here/{0.2.0}"], 1),  # the newest
        (["content/drive/MyDrive/{9.0.0}", "here/{0.1.0}"], 1),  # what lies beside the notebook comes first
        (["{0.1.0}"], 0),  # one folder up, when somebody sorts the notebooks
        (["content/drive/MyDrive/course/learner/{0.1.0}"], 0),
        (["content/drive/MyDrive/Colab Notebooks/learner/notebooks/{0.1.0}"], 0),
        (["kaggle/input/a-class/{0.1.0}"], 0),
        (["here/finetuning_course-0.1.0-py3-none-any (1).whl"], None),  # pip refuses a browser's second download
    ],
)
def test_the_install_cell_takes_the_file_of_the_pack_before_it_asks_the_repository(bare, tmp_path, places, taken):
    here = tmp_path / "here"
    files = [tmp_path / re.sub(r"\{(.*)\}", lambda found: WHEEL.format(found[1]), place) for place in places]
    for file in [here / "a", *files]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert run_install_cell(bare, here, "qlora,data").returncode == 0
    asked = (here / "asked.txt").read_text().splitlines()[-1]
    address = f"git+{assets.repository_url()}" if taken is None else files[taken].as_uri()
    assert asked == f"finetuning-course[qlora,data] @ {address}"


def test_without_file_and_repository_the_install_cell_says_what_to_do(bare, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    done = run_install_cell(bare, here, PIP_SAYS="no repository there")
    assert done.returncode and "no repository there" in done.stdout
    assert "Traceback" not in done.stderr
    for advice in (
        "is not installed",
        WHEEL.format("*"),
        "beside\nthis notebook",
        "In Colab: open Files",
        "run this cell again",
    ):
        assert advice in done.stderr
    (here / WHEEL.format("0.1.0")).touch()
    done = run_install_cell(bare, here, PIP_SAYS="no torch there")
    assert done.returncode and "no torch there" in done.stdout
    assert f"{WHEEL.format('0.1.0')} is here, but what it needs could not be installed" in done.stderr


@pytest.mark.slow
def test_a_notebook_beside_the_pack_has_the_course_after_its_first_cell(wheel, tmp_path):
    """With pip itself, which here may fetch nothing; what the course needs is another test's matter."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python, here = tmp_path / "venv" / "bin" / "python", tmp_path / "A folder, with signs"
    here.mkdir()
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "repository_url", lambda: (tmp_path / "nowhere").as_uri())
        done = run_install_cell(python, here, "data", **offline)
        assert done.returncode and "put it beside\nthis notebook" in done.stderr and "Traceback" not in done.stderr
    shutil.copy(wheel, here)
    done = run_install_cell(python, here, "data", **offline)
    assert done.returncode == 0, done.stdout + done.stderr
    where = subprocess.run(
        [python, "-c", "import course_utils; print(course_utils.__file__)"], cwd=here, capture_output=True, text=True, env={}
    )
    assert where.stdout.startswith(str(tmp_path / "venv")), where.stderr
    (here / "shipped.txt").unlink()
    assert run_install_cell(python, here, "data", **offline).returncode == 0
    assert not (here / "shipped.txt").exists()  # the second time it does nothing


@pytest.mark.slow
def test_where_the_course_is_installed_its_file_is_packed_again(wheel, tmp_path):
    """An instructor who has no checkout hands out the same files."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    code = "import pathlib; from course_utils.publishing.wheel import write_wheel; print(write_wheel(pathlib.Path('out')))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"out/{wheel.name}", done.stderr
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(tmp_path / "out" / wheel.name) as second:
        contents = [{name: file.read(name) for name in file.namelist() if "/RECORD" not in name} for file in (first, second)]
        assert set(contents[0]) == set(contents[1]) and contents[0] == contents[1]
    target = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "again")]
    subprocess.run([*target, str(tmp_path / "out" / wheel.name)], check=True)
    assert (tmp_path / "again" / "course_utils" / "_assets" / "notebooks" / "02_lora.ipynb").exists()


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
    assert "course_utils/_assets/data/glossary.jsonl" in names
    assert {f"course_utils/_assets/notebooks/{name}.ipynb" for name in lessons.NAMES} <= names
    assert not [name for name in names if name.endswith(".png")]  # of the benchmarks; no program reads them
    assert wheel.stat().st_size < 3_400_000  # a third: six notebooks with their outputs


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
    address = assets.repository_url()
    assert address.startswith("https://github.com/")
    kept = [
        ROOT / "README.md",
        *ROOT.glob("course_utils/**/*.py"),
        *ROOT.glob("notebooks/source/*.py"),
        *ROOT.glob("binder/*"),
    ]
    assert [file.name for file in kept if file.is_file() and address in file.read_text(encoding="utf-8")] == []
