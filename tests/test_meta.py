"""What stands beside the code agrees with it: version, citation, changelog, hooks, workflow, data cards, and every name in
CONTRIBUTING.md."""

import ast
import json
import re
import shlex
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

import course_utils
from course_utils import models

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
RELEASES = re.findall(
    r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
)


def targets(text):
    """Makefile target → (what it depends on, its commands without the folder of the virtual environment)."""
    found, those = {}, []
    for line in text.splitlines():
        if line.startswith("\t"):
            command = line.strip().lstrip("@-")
            for name in those:
                found[name][1].append(re.sub(r"\$\(\w+\)(-oldest)?(/bin)?/", "", command))
        elif rule := re.match(r"([\w $()/.-]+):(?!=)([^=]*)$", line):
            those = rule[1].split()
            for name in those:
                found.setdefault(name, (rule[2].split(), []))
    return found


TARGETS = targets((ROOT / "Makefile").read_text(encoding="utf-8"))


def commands(target):
    """All that `make target` runs, what it depends on included."""
    needs, own = TARGETS[target]
    called = [word for line in own if line.startswith("$(MAKE) ") for word in line.split()[1:]]
    return own + [line for name in (*needs, *called) if name in TARGETS for line in commands(name)]


def test_the_makefile_is_understood():
    made = targets("lint: style\n\t$(BIN)/mypy\n\nstyle: $(VENV)/.test\n\t@$(BIN)/ruff check .\n\nBIN := x\n.PHONY: lint\n")
    assert made["lint"] == (["style"], ["mypy"]) and made["style"] == (["$(VENV)/.test"], ["ruff check ."])
    assert {"test", "test-quick", "clean"} <= set(TARGETS)


# Version, citation, changelog


def test_the_version_is_one():
    newest = RELEASES[0][0]
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "course_utils/__init__.py"
    assert course_utils.__version__ == CITATION["version"] == newest


def test_the_changelog_is_in_order():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == ["[Unreleased]", *(f"[{version}] - {day}" for version, day in RELEASES)]
    order = [tuple(map(int, version.split("."))) for version, _ in RELEASES]
    assert order == sorted(set(order), reverse=True)
    days = [date.fromisoformat(day) for _, day in RELEASES]
    assert days == sorted(days, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_the_citation_can_be_read_and_agrees():
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    assert CITATION["title"] and CITATION["message"] and len(CITATION["abstract"]) > 100
    assert all(author.get("name") or author.get("family-names") for author in CITATION["authors"]) and CITATION["authors"]
    assert CITATION["date-released"] == RELEASES[0][1]  # a text: a bare date would be read as another type
    assert CITATION["license"] == PROJECT["project"]["license"]
    assert CITATION["keywords"] == PROJECT["project"]["keywords"]
    assert CITATION["repository-code"] == PROJECT["project"]["urls"]["Repository"]


# Hooks and workflow


def test_every_hook_is_local_and_part_of_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    # A look at what is about to be committed means nothing to `make lint`.
    entries = [hook["entry"] for hook in hooks if not hook["entry"].startswith("git diff --cached --check")]
    assert len(entries) == len(hooks) - 1 >= 4
    linted = [shlex.split(line.replace(" .", "")) for line in commands("lint")]
    for entry in entries:
        words = shlex.split(entry.removeprefix(".venv/bin/").replace(" .", ""))
        assert words in linted, f"`make lint` does not run {entry}"


WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_only_calls_make():
    called = set()
    for step in STEPS:
        if "run" in step:
            words = shlex.split(step["run"])
            assert words[0] == "sudo" or (words[0] == "make" and len(words) == 2), step["run"]
            called |= set(words[1:]) if words[0] == "make" else set()
    assert called == {"lint", "test-quick", "test-notebooks", "test", "facts"}
    assert called <= set(TARGETS), f"the Makefile has no {', '.join(sorted(called - set(TARGETS)))}"


def test_the_workflow_pins_major_versions_and_uses_each_of_its_times():
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)
    asked = WORKFLOW.get("on", WORKFLOW.get(True))  # YAML 1.1 takes the key `on` for true
    for time in asked["schedule"]:
        assert any(time["cron"] in job["if"] for job in WORKFLOW["jobs"].values()), time
    named = re.findall(r"schedule == '([^']*)'", " ".join(job["if"] for job in WORKFLOW["jobs"].values()))
    assert set(named) == {time["cron"] for time in asked["schedule"]}


def test_the_workflow_covers_the_oldest_python_and_keys_its_cache_on_the_models_wheel():
    versions = {
        version
        for job in WORKFLOW["jobs"].values()
        for version in job.get("strategy", {}).get("matrix", {}).get("python", ())
    }
    assert PROJECT["project"]["requires-python"].removeprefix(">=") in versions
    assert WORKFLOW["env"]["MODEL_WHEEL"] == models.PACKAGED.wheel_sha256


# Data, records


@pytest.mark.parametrize("folder", sorted(p for p in (ROOT / "data").iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_every_data_set_has_a_card(folder):
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    assert card.startswith(f"# Data card: {folder.name}\n")
    for part in ("**What.**", "**How it was ", "**Licence.**"):
        assert part in card, f"{folder.name}: the card does not say {part.strip('*. ')}"
    for row in re.findall(r"^\| `([\w./]+)` \|", card, re.MULTILINE):
        assert (folder / row).exists(), f"{folder.name}: the card lists {row}"


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "records").glob("*-20*.json")), ids=lambda file: file.stem)
def test_every_record_says_when_where_and_with_what(file):
    record = json.loads(file.read_text(encoding="utf-8"))
    assert file.stem.endswith(date.fromisoformat(record["date"]).isoformat())
    assert record["machine"] and record["versions"]


def test_no_record_is_taken_for_another():
    """`assets.benchmark_results` finds the newest file that begins with a name and a hyphen."""
    names = {file.stem[: -len("-2026-01-01")] for file in (ROOT / "benchmarks" / "records").glob("*-20*.json")}
    read = set()
    for file in (*ROOT.glob("notebooks/source/*.py"), *ROOT.glob("tests/**/*.py")):
        read |= set(re.findall(r"assets\.benchmark_results\(\"([\w-]+)\"\)", file.read_text(encoding="utf-8")))
    assert read <= names
    assert [(name, other) for name in read for other in names if other.startswith(f"{name}-")] == []


# CONTRIBUTING.md speaks of files, targets, tests and names that are there.

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TESTS = "\n".join(file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("tests/**/*.py")))
CODE = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "course_utils").rglob("*.py")))


def code_of(text):
    """Code blocks and code spans of a page, a line each."""
    found, prose, fenced = [], [], False
    for line in text.splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        else:
            (found if fenced or line.startswith("    ") else prose).append(line)
    return "\n".join(found + re.findall(r"`([^`]+)`", " ".join(prose)))


def spoken(pattern):
    """What a pattern finds in the guide's code; names in capitals stand for the reader's own."""
    return sorted({name for name in re.findall(pattern, code_of(GUIDE)) if not re.search(r"NN|NAME", name)})


def test_the_guides_files_are_there():
    named = spoken(r"(?:[\w.-]+/)+[\w-]+\.(?:py|md|ipynb|jsonl|json|txt|yml)")
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_guides_targets_are_there():
    named = spoken(r"\bmake ([a-z][\w-]*)")
    assert {"lint", "test", "test-quick"} <= set(named)
    assert [name for name in named if name not in TARGETS] == []


def test_the_guides_tests_are_there():
    named = spoken(r"\btest_\w+\b(?!\.py)")
    assert len(named) > 20
    assert [name for name in named if not re.search(rf"def {name}\(", TESTS)] == []


def test_the_glossarys_names_are_there():
    table = GUIDE[GUIDE.index("| in the code |") :]
    named = re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE)
    assert len(named) >= 15
    assert named == sorted(named, key=str.lower), "the glossary is alphabetical"
    assert [name for name in named if not re.search(rf"\b{name.rpartition('.')[2]}\b", CODE)] == []


def test_the_readme_shows_what_its_script_makes_in_small_files_with_words_for_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {file: " ".join(alt.split()) for alt, file in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)}
    script = ast.parse((ROOT / "pictures" / "make.py").read_text(encoding="utf-8"))
    (made,) = (
        ast.literal_eval(line.value)
        for line in script.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "NAMES"
    )
    assert sorted(shown) == sorted(f"pictures/{name}.webp" for name in made) and len(made) == 3
    for file, alt in shown.items():
        assert 40 <= len(alt) <= 250, file
        data = (ROOT / file).read_bytes()
        assert data[8:12] == b"WEBP" and 5_000 < len(data) < 120_000, file


def test_nbval_compares_results_and_not_looks():
    import re
    from pathlib import Path

    from nbval.plugin import get_sanitize_patterns

    [(looks, instead)] = get_sanitize_patterns((Path(__file__).parent / "nbval.cfg").read_text(encoding="utf-8"))
    bare = "<table><td>7 <b id=1>kg</b></td></table>"
    dressed = '<table style="color:red"><td style="margin:0;padding:0">7 <b style="x:y" id=1>kg</b></td></table>'
    assert re.sub(looks, instead, dressed) == bare
    assert re.sub(looks, instead, dressed.replace("7", "8")) != bare
