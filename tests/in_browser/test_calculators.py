"""What calculators and answers on a page say, without a browser; and the files and fragments of pages."""

import io
import json
import re
import subprocess
import sys
import zipfile
from html import unescape
from html.parser import HTMLParser

import pytest
from drawn import choices
from support import solution_lines, write_page

from course_utils import costs, decision, in_browser, memory
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.in_browser import calculate
from course_utils.publishing import calculators, pyodide
from course_utils.show.calculators import CALCULATORS, METHODS


def cells(details):
    """Name of a row → its cells."""
    rows = re.findall(r'<tr><th scope="row"[^>]*>(.*?)</th>(.*?)</tr>', details)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows}


# -- calculators ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", CALCULATORS)
def test_every_choice_has_an_answer_and_the_answers_differ(id):
    said = {json.dumps(calculate(id, drawn)) for drawn in choices(id)}
    assert len(said) > 50
    for field in CALCULATORS[id].fields:
        for option, _ in field.options:
            answer = calculate(id, CALCULATORS[id].defaults | {field.name: option})
            assert answer["valid"] and answer["summary"] and answer["details"]


def test_memory_is_what_estimate_says():
    for drawn in choices("memory", 20):
        gpu = drawn.pop("gpu")
        answer = calculate("memory", drawn | {"gpu": gpu})
        if drawn["method"] != "qlora":
            del drawn["embeddings"]  # nothing is in 4 bits
        found = memory.estimate(**drawn, precision="amp" if drawn["method"] == "full" else "bf16")
        together = dict(zip(METHODS, cells(answer["details"])["together"]))[drawn["method"]]
        assert float(together.replace(",", "")) == pytest.approx(found.total / 1e9, rel=0.01, abs=0.06)
        assert f"{'fits' if found.fits(gpu) else 'does not fit'} on {gpu}" in answer["summary"]


def test_costs_are_what_the_assumptions_say():
    for drawn in choices("costs", 20):
        volume = drawn.pop("requests_a_day")
        answer = calculate("costs", drawn | {"requests_a_day": volume})
        assumptions = costs.Assumptions(**drawn)
        totals = [way.total(volume, assumptions.days) for way in assumptions.ways().values()]
        shown = [float(row[3].replace(",", "")) for row in cells(answer["details"]).values()]
        assert shown == pytest.approx(totals, abs=0.51)
        pays = assumptions.break_even("hosted")
        assert ("never pays" in answer["summary"]) == (pays is None)


def test_a_model_that_takes_no_new_jobs_is_marked():
    said = [calculate("costs", CALCULATORS["costs"].defaults | {"small": small})["details"] for small in costs.PRICES]
    assert ["no new tuning jobs" in text for text in said] == [small in costs.NO_NEW_JOBS for small in costs.PRICES]


def test_the_decision_is_what_decide_says():
    for drawn in choices("decision", 20):
        found, answer = decision.decide(**drawn), calculate("decision", drawn)
        assert answer["summary"].startswith(f"Recommendation: {found.approach}")
        assert answer["details"].count("<li>") == len(found.reasons) + 1 + len(found.changes)


@pytest.mark.parametrize(
    ("id", "wrong", "said"),
    [
        ("memory", {"length": 0}, "Length, tokens: a whole number from 1 to 131,072"),
        ("memory", {"length": None}, "Length, tokens: a whole number"),
        ("memory", {"length": float("nan")}, "Length, tokens"),
        ("memory", {"batch_size": 1.5}, "Sequences in a micro-batch"),
        ("memory", {"rank": "16"}, "Rank of the adapter: choose one of the list"),
        ("costs", {"days": 0}, "Days over which it has to pay: a whole number from 1"),
        ("decision", {"gap": "money"}, "What is missing\\?: choose one"),
    ],
)
def test_a_wrong_choice_is_named(id, wrong, said):
    answer = calculate(id, CALCULATORS[id].defaults | wrong)
    assert not answer["valid"] and re.match(said, answer["summary"]) and not answer["details"]


# -- answers to exercises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def adapter_parameters(shapes, rank)\n    return 1", "cannot read the answer: expected ':', in line 1"),
        ("x = 1\ny = 1 / 0", "stopped in line 2: ZeroDivisionError"),
        ("raise SystemExit(3)", "stopped in line 1: SystemExit"),
        ("x = 1", "is not a function"),
        ("def adapter_parameters(shapes, rank):\n    import nothing_like_it", "ModuleNotFoundError"),
        ("def adapter_parameters(shapes, rank):\n    return sum(rank * a for _, a in shapes)", "Only A is counted"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(source, said):
    found = in_browser.check("lora-3", source)
    assert not found["passed"] and re.search(said, found["message"]), found


def test_what_an_answer_prints_is_shown_and_cut():
    found = in_browser.check("lora-3", "print('hello')\nimport sys\nprint('x' * 10**5, file=sys.stderr)")
    assert found["printed"].startswith("hello\nxxx") and found["printed"].endswith("(and more)")
    assert len(found["printed"]) < 5000


def test_the_same_seed_gives_the_same_verdict():
    source = "def adapter_parameters(shapes, rank):\n    return rank * shapes[0][0]"
    assert in_browser.check("lora-3", source, seed=5) == in_browser.check("lora-3", source, seed=5)


# -- files and fragments --------------------------------------------------------------------------------------------------

# A fresh interpreter with the zip, the standard library and nothing else.
IN_ZIP = """
import importlib.abc, importlib.util, json, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "course_utils"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
really = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numpy" else really(name, package)
sys.path.insert(0, sys.argv[1])
from course_utils.in_browser import call
print(json.dumps([json.loads(call(json.dumps(request))) for request in json.loads(sys.stdin.read())]))
"""


def test_the_zip_has_all_that_a_page_needs(tmp_path):
    zipfile.ZipFile(io.BytesIO(calculators.archive())).extractall(tmp_path)
    asked = [{"call": "calculate", "arguments": {"id": id, "choices": c.defaults}} for id, c in CALCULATORS.items()]
    for id in in_browser.on_page():
        name = EXERCISES[id].name
        source = f"from course_utils.exercises import EXERCISES\n{name} = EXERCISES[{id!r}].solution"
        asked.append({"call": "check", "arguments": {"id": id, "source": source}})
    command = [sys.executable, "-I", "-c", IN_ZIP, str(tmp_path)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found[:3] == [calculate(id, calculator.defaults) for id, calculator in CALCULATORS.items()]
    assert [result["message"] for result in found[3:] if not result["passed"]] == []


def test_the_zip_is_small_and_the_same_at_every_build():
    first = calculators.archive()
    calculators.archive.cache_clear()
    assert calculators.archive() == first and len(first) < 400_000
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    assert not [name for name in names if re.search("grading|openai_server|publishing|data_prep", name)]


class Controls(HTMLParser):
    """Ids of controls, of what labels point to, and all ids, in the order of the page."""

    def __init__(self, text):
        super().__init__()
        self.controls, self.labelled, self.ids = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.append(found["id"])
        if tag in ("input", "select", "textarea"):
            self.controls.append(found["id"])
        if tag == "label":
            self.labelled.add(found["for"])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), with_python=False)


def test_every_control_of_the_page_has_a_label_of_its_own(page):
    found = Controls(page.read_text(encoding="utf-8"))
    fields = sum(len(calculator.fields) for calculator in CALCULATORS.values())
    assert len(found.controls) == fields + len(in_browser.on_page())
    assert set(found.controls) == found.labelled
    assert len(found.ids) == len(set(found.ids))


def test_the_page_stands_with_the_answers_of_the_build_and_names_no_other_host(page):
    text = page.read_text(encoding="utf-8")
    for id, calculator in CALCULATORS.items():
        assert calculate(id, calculator.defaults)["details"] in text
    own = [text, *(file.read_text(encoding="utf-8") for file in page.parent.rglob("course.*") if file.suffix != ".zip")]
    own.append((page.parent / calculators.static() / "worker.mjs").read_text(encoding="utf-8"))
    assert len(own) == 4
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//|fetch\(["']http|@import|url\(""", "\n".join(own)) == []


def test_a_fragment_can_begin_with_other_choices():
    text = calculators.fragment("memory", model="SmolLM2-135M", length=256)
    assert '<option value="&#34;SmolLM2-135M&#34;" selected>' in text and 'value="256"' in text
    answer = calculate("memory", CALCULATORS["memory"].defaults | {"model": "SmolLM2-135M", "length": 256})
    assert answer["summary"] in text
    with pytest.raises(ValueError, match="Length"):
        calculators.fragment("memory", length=0)


@pytest.mark.parametrize("id", in_browser.on_page())
def test_an_exercise_on_a_page_has_an_editor_without_the_solution(id):
    text = calculators.exercise_fragment(id)
    assert "<textarea" in text
    assert [line for line in solution_lines(EXERCISES[id].source()) if len(line) >= 12 and line in unescape(text)] == []


# -- Pyodide's package ----------------------------------------------------------------------------------------------------


def test_another_package_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "pyodide.tgz").write_bytes(b"something else")
    monkeypatch.setenv("COURSE_PYODIDE", str(tmp_path / "pyodide.tgz"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CourseError, match="not the Pyodide that the course was tested with"):
        pyodide.prepare()
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_npm_or_the_named_file_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("COURSE_PYODIDE", str(tmp_path / "nowhere.tgz"))
    with pytest.raises(CourseError, match="nowhere.tgz, which does not exist"):
        pyodide.prepare()
    monkeypatch.delenv("COURSE_PYODIDE")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CourseError, match=f"npm is not installed: install it, or run `npm pack pyodide@{pyodide.VERSION}`"):
        pyodide.prepare()
