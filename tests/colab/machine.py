"""A virtual environment with what Colab ships, and what of the image belongs into it.

An image has more than 600 packages. In the environment are, at the image's versions, those that the course's requirements
lead to, and those that the libraries among them look for and use where they find them (`LOOKED_FOR`): a torchao that PEFT
refuses fails a lesson only where it is installed. Of the others pip sees name and version, as the install cell does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_in"
STATE = "colab.json"  # in the environment's folder: what is of the image, and how it came there
RESOLVED = "resolved.json"  # there too: pip's report
LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "peft", "transformers")
# What LIBRARIES, or torch itself (optree), ask for before they use it, and the image has. TensorFlow, JAX and what stands on
# them are left out: they take gigabytes, and these libraries load them only for tensors of theirs.
LOOKED_FOR = (
    *("diffusers", "nltk", "numba", "polars", "sentencepiece", "tensorboard", "tiktoken", "timm"),
    *("optree", "torchao", "torchaudio", "torchcodec", "torchdata", "torchvision", "wandb", "zstandard"),
)
# Libraries of the driver that torch's build from the index requires in versions of its own; Colab's build has others.
OF_THE_BUILD = re.compile(r"nvidia-|cuda-|triton$")


@dataclass(frozen=True)
class Difference:
    """What an installation did to the packages of a machine; versions by canonical name.

    Attributes:
        replaced: name → (version before, version after), None where it has gone.
        added: name → version.
    """

    replaced: dict[str, tuple[str, str | None]]
    added: dict[str, str]


def canonical(name: str) -> str:
    """Return the one form of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """Return a version without its local part: torch 2.11.0+cpu is on no index but the builder's own."""
    return version.partition("+")[0]


def shipped(image: Path) -> dict[str, str]:
    """Return the packages of an image, name → version, as its file has them."""
    lines = [line for line in image.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def write_metadata(site: Path, packages: Mapping[str, str]) -> None:
    """Let pip believe that packages are installed: metadata without code."""
    for name, version in packages.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "RECORD").write_text("", encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    """Compare two lists of packages, name → version, in whatever spelling."""
    old, new = ({canonical(name): version for name, version in packages.items()} for packages in (before, after))
    replaced = {name: (version, new.get(name)) for name, version in old.items() if new.get(name) != version}
    return Difference(replaced, {name: version for name, version in new.items() if name not in old})


def reached(report: Mapping[str, Any], start: Iterable[str]) -> set[str]:
    """Return the canonical names that packages of a report of pip lead to, themselves included.

    Args:
        report: of `pip install --dry-run --report`.
        start: their names; those that the report does not have are left out.
    """
    from packaging.requirements import Requirement

    entries = {canonical(entry["metadata"]["name"]): entry for entry in report["install"]}
    found: set[str] = set()
    waiting = [(canonical(name), frozenset[str]()) for name in start]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if name not in entries or (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        extras |= set(entries[name].get("requested_extras") or ())
        for text in entries[name]["metadata"].get("requires_dist", []):
            needed = Requirement(text)
            places = [report["environment"] | {"extra": extra} for extra in (extras or {""})]
            if needed.marker is None or any(needed.marker.evaluate(place) for place in places):
                waiting.append((canonical(needed.name), frozenset(needed.extras)))
    return found


def of_the_host(report: Mapping[str, Any], image: Mapping[str, str]) -> dict[str, str]:
    """Return what of a report Colab has before the install cell runs: name → version.

    That is what the image has, and the driver's libraries that only torch's build leads to.
    """
    versions = {canonical(entry["metadata"]["name"]): entry["metadata"]["version"] for entry in report["install"]}
    names = {canonical(name) for name in image}
    build = {name for name in reached(report, ["torch"]) if OF_THE_BUILD.match(name)}
    return {name: version for name, version in versions.items() if name in names | build}


def listed(python: Path) -> dict[str, str]:
    """Return what `pip list` says, canonical name → version."""
    found = json.loads(_pip(python, "list", "--format", "json"))
    return {canonical(entry["name"]): entry["version"] for entry in found}


def reset(python: Path, before: Mapping[str, str]) -> None:
    """Take away what was added to an environment: the next notebook opens on a new machine.

    Raises:
        SystemExit: something of the image is no longer as it was, so that the environment has to be made anew.
    """
    found = difference(before, listed(python))
    if found.replaced:
        sys.exit(f"no longer Colab's packages: {found.replaced}; delete the environment and run this again")
    if found.added:
        _pip(python, "uninstall", "--yes", "--quiet", *found.added)


def build(folder: Path, python: str, image: Path, course: str) -> dict[str, Any]:
    """Make the environment if it is not there, and return what it is.

    Args:
        folder: of the virtual environment. If it has a report of the resolver, from a run that was cut off, that is taken.
        python: the interpreter: Colab's version of Python.
        image: file with the packages of an image.
        course: what is asked for, as pip reads it: the course with the extras of all lessons.
    """
    state = folder / STATE
    if state.exists():
        return json.loads(state.read_text(encoding="utf-8"))
    asked_for = shipped(image)
    packages = {canonical(name): public(version) for name, version in asked_for.items()}
    report_file, inside = folder / RESOLVED, folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        _pip(inside, "install", "--quiet", f"pip=={packages['pip']}")
    torch, looked_for = _torch(inside, packages["torch"]), list(LOOKED_FOR)
    if torch != packages["torch"]:  # those are built for one version of torch
        looked_for = [name for name in looked_for if not name.startswith("torch")]
        packages["torch"] = torch
    if not report_file.exists():
        constraint = folder / "image.txt"
        lines = [f"{name}=={version}" for name, version in packages.items() if not OF_THE_BUILD.match(name)]
        constraint.write_text("\n".join(lines), encoding="utf-8")
        report = folder / f"{RESOLVED}.part"
        arguments = ["--dry-run", "--quiet", "--report", str(report), "--constraint", str(constraint)]
        _pip(inside, "install", *arguments, course, *looked_for)
        report.rename(report_file)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    host = of_the_host(report, packages)
    files = [
        f"{entry['metadata']['name']} @ {entry['download_info']['url']}"
        for entry in report["install"]
        if canonical(entry["metadata"]["name"]) in host
    ]
    _pip(inside, "install", "--quiet", "--no-deps", *files)
    site = next(folder.glob("lib/python*/site-packages"))
    present = listed(inside)
    named = {name: version for name, version in asked_for.items() if canonical(name) not in present}
    write_metadata(site, named)
    shutil.copytree(STAND_IN, site, dirs_exist_ok=True)
    course_needs = reached(report, ["finetuning-course"])
    made = {
        "image": image.name,
        "python": report["environment"]["python_full_version"],
        "installed": len(host),
        "by_name_only": len(named),
        "for_the_course": len(course_needs & set(host)),
        "looked_for": {name: present[name] for name in looked_for},
        "looked_for_and_left_out": sorted(_asks(site) & {canonical(name) for name in named}),
        "not_the_images_version": {
            name: {"image": version, "here": present.get(name, version)}
            for name, version in ((canonical(n), v) for n, v in asked_for.items())
            if present.get(name, version) != version
        },
        "of_torchs_build": sorted(name for name in host if name not in packages),
        "packages": listed(inside),
    }
    part = state.with_suffix(".part")
    part.write_text(json.dumps(made, indent=1), encoding="utf-8")
    part.rename(state)
    return made


def _asks(site: Path) -> set[str]:
    """Names for which LIBRARIES look before they use them."""
    pattern = re.compile(r"(?:is_package_available|find_spec)\(\s*[\"']([\w.]+)")
    files = [file for library in LIBRARIES for file in (site / library).rglob("*.py")]
    return {canonical(name) for file in files for name in pattern.findall(file.read_text(encoding="utf-8", errors="ignore"))}


def _torch(python: Path, wanted: str) -> str:
    """The version of torch that the index has: the image's, or the newest."""
    found = _pip(python, "index", "versions", "torch")
    versions = re.search(r"Available versions: (.*)", found)[1].split(", ")
    return wanted if wanted in versions else versions[0]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what would make another machine of the one that is built."""
    ours = ("PYTHONPATH", "PIP_CONSTRAINT", "PIP_FIND_LINKS")
    return {name: value for name, value in os.environ.items() if name not in ours} | more


def _pip(python: Path, *arguments: str) -> str:
    done = subprocess.run([python, "-m", "pip", *arguments], capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"pip {arguments[0]}: {done.stderr.strip()[-2000:]}")
    return done.stdout
