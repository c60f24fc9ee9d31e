"""What stands beside the code agrees with it: version, citation, data cards, links, the hash in the workflow, nbval."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import course_utils
from course_utils import models

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_version_is_one():
    newest, day = re.search(r"^## \[(\d.*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M).groups()
    assert course_utils.__version__ == CITATION["version"] == newest and CITATION["date-released"] == day


def test_the_workflow_keys_its_cache_on_the_models_wheel():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))
    assert workflow["env"]["MODEL_WHEEL"] == models.PACKAGED.wheel_sha256[0]


@pytest.mark.parametrize("folder", sorted({p.parent for p in ROOT.glob("data/*/*.jsonl")}), ids=lambda p: p.name)
def test_every_data_set_has_a_card_with_its_licence(folder):
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    assert "**Licence.**" in card
    for row in re.findall(r"^\| `([\w./]+)` \|", card, re.MULTILINE):
        assert (folder / row).exists(), f"{folder.name}: the card lists {row}"


def test_links_between_the_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^):#\s]*)(?:#([\w-]+))?\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
                assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_the_pages_name_only_files_that_are_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs/recipes.md"):
        named = re.findall(
            r"`((?:[\w.-]+/)+[\w-]+\.(?:py|md|ipynb|jsonl|json|toml|txt|yml))", page.read_text(encoding="utf-8")
        )
        missing = [name for name in named if not re.search("NN|NAME", name) and not (ROOT / name).exists()]
        assert missing == [], page.name


def test_nbval_compares_results_and_not_looks():
    from nbval.plugin import get_sanitize_patterns

    [(looks, instead)] = get_sanitize_patterns((Path(__file__).parent / "nbval.cfg").read_text(encoding="utf-8"))
    bare = "<table><td>7 <b id=1>kg</b></td></table>"
    dressed = '<table style="color:red"><td style="margin:0;padding:0">7 <b style="x:y" id=1>kg</b></td></table>'
    assert re.sub(looks, instead, dressed) == bare
    assert re.sub(looks, instead, dressed.replace("7", "8")) != bare
