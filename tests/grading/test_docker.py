"""Where there is Docker and no bubblewrap: the same hostile answers, the same verdicts, no container left."""

import shutil
import subprocess

import pytest
from grading_fixtures import full, hand_in, left_behind, points, results, run, said
from test_bad_answers import HONEST, QUESTIONS, grade_all, is_in_order

from course_utils.grading import intake, sandbox

# What an answer sees more of in a container than in bubblewrap: nothing of this machine's owner, of others or of the grader.
SEEN = {
    "environment": "HOSTNAME",  # it says "sandbox"
    "reads-files": "/etc/hosts",  # the container's own; /sys, and /proc of the two processes in it
    "sees-processes": "'1', '",  # the container's server and itself
    "signals-the-server": "a str '[",  # which ends this container, and no other question runs in it
}
which = shutil.which
DOCKER = sandbox.docker_problem()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(DOCKER), reason=f"needs a Docker daemon: {DOCKER}")]


@pytest.fixture(scope="module", autouse=True)
def _no_bubblewrap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.shutil, "which", lambda name: None if name == "bwrap" else which(name))
        yield


def containers():
    listed = ["docker", "ps", "--all", "--quiet", "--filter", f"name={sandbox.CONTAINER}"]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("section", QUESTIONS)
def test_bad_answers_cost_at_most_their_question(section, tmp_path):
    _, out, _ = grade_all(section, tmp_path)
    id, bad = QUESTIONS[section]
    surprises = []
    for name, answer in bad.items():
        learner = intake.clean_name(name)
        found, text = points(out, learner), said(out, learner, id)
        assert {**found, id: 0} == {**full(section), id: 0}, f"{name} touched another question"
        outcome = results(out, learner)["extra_data"]["outcomes"][id]
        if name in SEEN:
            assert (outcome, found[id]) == ("wrong", 0.0) and SEEN[name] in text, text
        elif not is_in_order(answer, outcome, found[id], text):
            surprises.append((name, outcome, found[id], text))
    assert not surprises, "\n".join(map(str, surprises))
    for learner in HONEST:
        assert points(out, learner) == full(section)
        assert results(out, learner)["extra_data"]["isolation"] == "docker"
    assert not containers() and not left_behind()


def test_it_gives_what_bubblewrap_gives(tmp_path):
    from test_honest import WRONG

    hand_in(tmp_path / "in", "wrong", "02", {id: f"# EXERCISE: {id}\n{text}" for id, text in WRONG.items()})
    run("02", tmp_path / "in", tmp_path / "docker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.shutil, "which", which)
        assert run("02", tmp_path / "in", tmp_path / "bubblewrap").isolation == "bubblewrap"
    assert results(tmp_path / "docker", "wrong")["tests"] == results(tmp_path / "bubblewrap", "wrong")["tests"]


def test_a_grader_that_is_killed_leaves_no_container(tmp_path):
    import os
    import signal
    import sys
    import time

    hand_in(tmp_path / "in", "a", "06", {"api-1": "# EXERCISE: api-1\nwhile True: pass"})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").symlink_to(which("docker"))
    command = [sys.executable, "-m", "course_utils.cli", "grade", "06", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    grading = subprocess.Popen(command, env=os.environ | {"PATH": str(tmp_path / "bin")})
    end = time.monotonic() + 60
    while not containers():
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(2)  # the endless loop is on
    grading.send_signal(signal.SIGKILL)
    grading.wait()
    while containers():
        assert time.monotonic() < end, "a container is left"
        time.sleep(0.2)
