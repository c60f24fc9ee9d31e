"""What installing the course does to a machine: nothing to what Colab ships; and the wheel alone is enough."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from threading import Thread

import packaging
import pytest
from colab.machine import canonical as canonical_name
from colab.machine import shipped, write_metadata

from course_utils import assets, lessons, session
from course_utils.errors import CourseError
from course_utils.publishing import builder
from course_utils.publishing.wheel import write_wheel

ROOT = Path(__file__).parents[1]
CPU_IMAGE, GPU_IMAGE = (max((ROOT / "tests" / "colab").glob(f"image-*-{kind}.txt")) for kind in ("cpu", "gpu"))
SOAK = pytest.mark.soak("the GPU's image has nearly all of the CPU's packages, and more")
WHEEL = "finetuning_course-{}-py3-none-any.whl"
HOSTS = ("/content/drive/MyDrive", "/kaggle/input/")  # where the first cell looks on Colab and Kaggle
START = 'from course_utils import session; print(session.install_missing("{}"))'


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return write_wheel(tmp_path_factory.mktemp("dist"))


def machine(folder):
    """Python of a virtual environment with pip; as on Colab 3.13 where there is one, else this one."""
    python = next((p for p in map(shutil.which, ("python3.13",)) if p and _works(p)), sys.executable)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def _works(python):
    return subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return machine(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="module", params=[GPU_IMAGE, pytest.param(CPU_IMAGE, marks=SOAK)], ids=lambda image: image.stem)
def colab(request, tmp_path_factory):
    """(python, image's packages): pip believes that all of an image is installed, by metadata without code."""
    python = machine(tmp_path_factory.mktemp("colab") / "venv")
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    ships = shipped(request.param)
    write_metadata(site, {name: version for name, version in ships.items() if canonical_name(name) != "pip"})
    (site / "packaging").symlink_to(Path(packaging.__file__).parent)
    return python, ships


def run(python, code, folder, **environment):
    """Run code as the first cell's second line runs, without this machine's settings for pip."""
    ours = ("PYTHONPATH", "PIP_FIND_LINKS", "PIP_CONSTRAINT")
    here = {name: value for name, value in os.environ.items() if name not in ours} | environment
    return subprocess.run([python, "-c", code], cwd=folder, env=here, capture_output=True, text=True)


def run_pip_line(python, folder, cut=False, **environment):
    """Run the first cell's line for pip as IPython does: in the system's shell, by the kernel's own Python.

    The hosts' folders are looked for beside `folder`.
    """
    (line,) = (line[1:] for line in builder.install_cell("").splitlines() if line.startswith("%pip "))
    for host in HOSTS:
        assert host in line
        line = line.replace(host, f"{folder.parent}{host}")
    command = f"{ROOT / 'tests' / 'without_network' if cut else ''} {python} -m {line}"
    return subprocess.run(command, shell=True, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


def small_wheel(folder, name, version, *requirements):
    """Write a wheel that pip accepts, without code."""
    folder.mkdir(parents=True, exist_ok=True)
    info, file = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requirements)]
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")
    return file


def versions(python):
    """What pip lists, canonical name → version."""
    done = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True)
    return {canonical_name(entry["name"]): entry["version"] for entry in json.loads(done.stdout)}


def extras_of(section):
    return re.search(r"^# INSTALL:[ ]*(.*)$", lessons.source_file(section).read_text(encoding="utf-8"), re.MULTILINE)[1]


NAMES = [lesson.name for lesson in lessons.NOTEBOOKS.values()]
ALL_EXTRAS = ",".join(sorted({extra for name in NAMES for extra in extras_of(name).split(",")}))


@pytest.mark.parametrize("section", NAMES)
def test_the_install_cell_asks_for_what_the_cells_import(section):
    """Where everything is installed, as in this environment, no lesson misses anything; on Colab it does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def distributions(requirements):
        return {canonical_name(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}

    optional = {extra: distributions(needed) for extra, needed in project["optional-dependencies"].items()}
    there = distributions(project["dependencies"]).union(*(optional[extra] for extra in extras_of(section).split(",")))
    code = "\n".join(c.source for c in builder.instructor_edition(section).cells if c.cell_type == "code")
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    belong = packages_distributions()
    needed = {canonical_name(d) for name in imported - {"course_utils"} for d in belong.get(name, ())}
    needed &= set().union(*optional.values())
    assert "course_utils" in imported and needed <= there, f"{section} needs an extra that brings {needed - there}"


# -- the first line: the course


@pytest.mark.parametrize(
    ("places", "taken"),
    [
        (["here/{0.1.0}"], 0),
        (["here/{0.9.0}", "here/{0.10.0}", "here/{0.2.0}"], 1),  # the newest
        (["{0.1.0}"], 0),  # one folder up, when somebody sorts the notebooks
        (["content/drive/MyDrive/{0.1.0}"], 0),
        (["kaggle/input/a-class/{0.1.0}"], 0),
        (["kaggle/input/datasets/somebody/a-class/{0.1.0}"], 0),
        (["kaggle/input/a-class/{0.1.0}", "kaggle/input/another/{0.2.0}"], 1),
        (["here/finetuning_course-0.1.0-py3-none-any (1).whl"], None),  # pip refuses a browser's second download
        ([], None),
    ],
)
def test_the_course_is_taken_from_its_file_wherever_a_host_has_it(bare, tmp_path, places, taken):
    here, files = tmp_path / "here", []
    here.mkdir()
    for place in places:
        version = re.search(r"[0-9.]*[0-9]", place)[0]
        files.append(tmp_path / place.replace(f"{{{version}}}", WHEEL.format(version)))
        small_wheel(files[-1].parent, "finetuning_course", version).rename(files[-1])
    report = tmp_path / "report.json"
    done = run_pip_line(bare, here, PIP_DRY_RUN="1", PIP_REPORT=str(report))
    if taken is None:
        assert done.returncode and "No matching distribution found for finetuning-course" in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        (entry,) = json.loads(report.read_text())["install"]
        assert entry["download_info"]["url"] == files[taken].as_uri()


def test_a_published_course_is_taken_from_the_index(bare, tmp_path, monkeypatch):
    """pip asks an index on loopback; before the course is published it asks none, as anybody could take the name there."""
    place = tmp_path / "simple" / assets.DISTRIBUTION
    file = small_wheel(place, assets.DISTRIBUTION.replace("-", "_"), "9.9")
    (place / "index.html").write_text(f'<a href="{file.name}">{file.name}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        index = {"PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple", "PIP_TARGET": str(tmp_path / "site")}
        here = tmp_path / "here"
        here.mkdir()
        assert run_pip_line(bare, here, **index).returncode != 0
        monkeypatch.setattr(assets, "repository_url", lambda: "https://github.com/somebody/finetuning-course")
        assert run_pip_line(bare, here, **index).returncode == 0
        server.shutdown()
    assert [file.name for file in (tmp_path / "site").iterdir()] == ["finetuning_course-9.9.dist-info"]


def test_where_the_course_is_installed_the_first_line_does_nothing_without_a_network(tmp_path):
    """A checkout stays one, although a newer file lies beside the notebook."""
    here = tmp_path / "here"
    small_wheel(here, "finetuning_course", "99.0")
    before = session.installed_version("finetuning-course")
    done = run_pip_line(sys.executable, here, cut=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert session.installed_version("finetuning-course") == before != "99.0"


# -- the second line: what the lesson needs


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Lets a package seem to be installed, the course among them; first on the path is what was added last."""

    def add(name, version, *lines):
        folder = tmp_path / f"{name}-{version}"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        text = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *lines]
        (info / "METADATA").write_text("\n".join(text) + "\n")
        monkeypatch.syspath_prepend(str(folder))

    needs = ["absent>=2", "old>=3", "there>=1.5; extra == 'a'", "gone[x]>=1; extra == 'b'", "no>=1; python_version < '3'"]
    extras = ["Provides-Extra: a", "Provides-Extra: b"]
    add("finetuning_course", "7.0", *extras, *(f"Requires-Dist: {need}" for need in needs))
    add("absent", "2.0")
    add("old", "3.1")
    add("There", "1.5+cu1")
    return add


@pytest.fixture
def pip(monkeypatch):
    """What pip is asked, and its constraints; its exit status and its words can be set."""
    found = {"status": 0, "stderr": ""}

    def answer(command, **_):
        found["asked"] = command[command.index("--constraint") + 2 :]
        found["constraints"] = Path(command[command.index("--constraint") + 1]).read_text().splitlines()
        return subprocess.CompletedProcess(command, found["status"], "", found["stderr"])

    monkeypatch.setattr(session.subprocess, "run", answer)
    return found


@pytest.mark.parametrize("extras", ["", "a"])
def test_where_nothing_is_missing_nothing_is_asked_or_printed(packages, pip, capsys, extras):
    assert session.install_missing(extras) == []
    assert "asked" not in pip and capsys.readouterr().out == ""


def test_what_is_missing_is_asked_for_and_what_is_there_is_pinned_once(packages, pip, capsys):
    """Colab has some packages twice, Ubuntu's behind pip's; two constraints on one package are a conflict to pip."""
    packages("Twice.There", "2.4.7")
    packages("twice-there", "3.2.3")
    assert session.install_missing("a, b") == pip["asked"] == ["gone[x]>=1"]
    assert [line for line in pip["constraints"] if "wice" in line] == ["twice-there==3.2.3"]
    assert {"There==1.5+cu1", "old==3.1", "finetuning_course==7.0"} <= set(pip["constraints"])
    assert "gone[x]>=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extras", "status", "old", "message"),
    [
        ("b", 1, None, r"could not install gone\[x\]>=1. It says:\nno index there\n.*run this cell again"),
        ("b", 0, "2.9", r"needs old>=3, and 2.9 is installed. Run `%pip install 'old>=3'`, then restart"),
        ("c", 0, None, "no extra c"),
    ],
)
def test_what_cannot_be_installed_is_said_with_what_to_do(packages, pip, extras, status, old, message):
    if old:
        packages("old", old)
    pip |= {"status": status, "stderr": "no index there"}
    with pytest.raises(CourseError, match=message):
        session.install_missing(extras)
    assert ("asked" in pip) == bool(status)


# -- both, on Colab


def test_the_first_cell_on_colab_adds_what_is_missing_and_replaces_nothing(colab, wheel, tmp_path):
    """pip itself, with a folder for an index, on which the newest TRL asks for newer packages than Colab ships."""
    python, ships = colab
    here, index = tmp_path / "a folder, with signs", tmp_path / "index"
    here.mkdir()
    shutil.copy(wheel, here)
    small_wheel(index, "gguf", "1.0")
    small_wheel(index, "datasets", "99.0")
    small_wheel(index, "trl", "0.29.1", "datasets>=3")
    small_wheel(index, "trl", "2.0", "datasets>=99")
    before = versions(python)
    done = run_pip_line(python, here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = run(python, START.format("trl"), here, **offline, PIP_FIND_LINKS=str(index))
    assert done.returncode == 0, done.stderr
    after = versions(python)
    added = {name: version for name, version in after.items() if name not in before}
    assert added == {"finetuning-course": wheel.name.split("-")[1], "gguf": "1.0", "trl": "0.29.1"}
    assert before.items() <= after.items() and after["datasets"] == ships["datasets"]
    assert run(python, START.format("trl"), here, **offline).stdout == "[]\n"  # the second time it does nothing
    failed = run(python, START.format("qlora"), here, **offline)
    assert failed.returncode and "could not install bitsandbytes" in failed.stderr and "No matching" in failed.stderr


@pytest.mark.index
def test_the_lessons_replace_nothing_on_colab(colab, wheel, tmp_path):
    """With today's index, and the extras of all lessons at once."""
    python, ships = colab
    shutil.copy(wheel, tmp_path)
    assert run_pip_line(python, tmp_path).returncode == 0
    report = tmp_path / "report.json"
    done = run(python, START.format(ALL_EXTRAS), tmp_path, PIP_DRY_RUN="1", PIP_REPORT=str(report))
    assert done.returncode == 0, done.stderr
    added = {canonical_name(entry["metadata"]["name"]) for entry in json.loads(report.read_text())["install"]}
    assert {"trl", "bitsandbytes", "faker"} - set(versions(python)) <= added
    assert added & {canonical_name(name) for name in ships} == set()


# -- the wheel


@pytest.mark.slow
def test_where_the_course_is_installed_all_is_there_and_its_file_is_packed_again(wheel, tmp_path):
    """Away from a checkout, data and notebooks are found, and an instructor hands out the same files."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    code = (
        "import pathlib; from course_utils import assets, data_prep; from course_utils.publishing.wheel import write_wheel\n"
        "print(assets.path('notebooks/02_lora.ipynb'), len(data_prep.load_task('support_tickets').test))\n"
        "print(write_wheel(pathlib.Path('out')))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    notebook, rows, packed = done.stdout.split()
    assert notebook.startswith(str(site)) and rows == "100" and packed == f"out/{wheel.name}", done.stderr
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(tmp_path / "out" / wheel.name) as second:
        contents = [{name: file.read(name) for name in file.namelist() if "/RECORD" not in name} for file in (first, second)]
        assert set(contents[0]) == set(contents[1]) and contents[0] == contents[1]
    target = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "again")]
    subprocess.run([*target, str(tmp_path / "out" / wheel.name)], check=True)
    assert (tmp_path / "again" / "course_utils" / "_assets" / "notebooks" / "02_lora.ipynb").exists()


def test_the_wheel_carries_data_and_notebooks(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (
        "data/support_tickets/test.jsonl",
        "data/raw_support_export/truth.jsonl",
        "notebooks/02_lora.ipynb",
    ):
        assert f"course_utils/_assets/{file}" in names
    templates = [file for file in (ROOT / "course_utils").rglob("templates/*") if file.is_file()]
    assert len(templates) >= 9 and {file.relative_to(ROOT).as_posix() for file in templates} <= names
    assert not [name for name in names if "instructor/" in name or name.startswith("tests/") or "checkpoint.ipynb" in name]
    assert "course_utils/_assets/data/glossary.jsonl" in names
    assert {f"course_utils/_assets/notebooks/{name}.ipynb" for name in NAMES} <= names
    assert not [name for name in names if name.endswith(".png")]  # of the benchmarks; no program reads them
    assert wheel.stat().st_size < 3_400_000  # a third: six notebooks with their outputs
