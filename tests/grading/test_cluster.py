"""Grading on a Dask cluster of two real worker processes: the same results, also when one of them dies."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from grading_fixtures import hand_in, left_behind, points, run
from support import wait_until
from test_grading_runs import SLOW, an_inbox, tree

from course_utils.cli import main
from course_utils.errors import CourseError
from course_utils.grading import cluster

distributed = pytest.importorskip("distributed", reason="needs the extra 'scale'")
pytestmark = pytest.mark.slow


def start(folder, *command):
    """A process of Dask, with its log in `folder`."""
    with (folder / f"{command[0]}.log").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", "dask", *command], cwd=folder, stdout=log, stderr=log)


@pytest.fixture
def dask_cluster(tmp_path_factory):
    """(scheduler's address, worker processes); the workers run in folders that have nothing of the course."""
    folder = tmp_path_factory.mktemp("dask")
    scheduler = start(
        folder, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", "where.json"
    )
    wait_until(lambda: (folder / "where.json").exists() and (folder / "where.json").stat().st_size)
    with distributed.Client(scheduler_file=str(folder / "where.json"), set_as_default=False) as client:
        address = client.scheduler.address
        workers = [
            start(folder, "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1")
            for _ in range(2)
        ]
        client.wait_for_workers(2, timeout=60)
    yield address, workers
    for process in (*workers, scheduler):
        process.terminate()
    for process in (*workers, scheduler):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # Dask's own: a worker that loses its scheduler while it ends may wait for ever
            process.kill()
            process.wait()


def test_two_workers_give_what_one_machine_gives(dask_cluster, tmp_path, capsys):
    address, workers = dask_cluster
    an_inbox(tmp_path / "in")
    arguments = ["grade", "06", str(tmp_path / "in"), "--seed", "11", "--out"]
    assert main([*arguments, str(tmp_path / "alone")]) == 1
    assert main([*arguments, str(tmp_path / "many"), "--scheduler", address]) == 1
    assert "13 graded in bubblewrap, 0 unchanged" in capsys.readouterr().out.splitlines()[-3]
    assert tree(tmp_path / "many") == tree(tmp_path / "alone")
    with distributed.Client(address, set_as_default=False) as client:
        changes = client.run(lambda dask_worker: dask_worker.state.transition_counter)
    assert len(changes) == len(workers) and min(changes.values()) > 0  # of their tasks' states: both had some to do
    assert main([*arguments, str(tmp_path / "many")]) == 1  # one machine goes on where the cluster stopped
    assert "0 graded in bubblewrap, 13 unchanged" in capsys.readouterr().out
    assert not left_behind()


def test_a_worker_that_dies_costs_nobody_anything(dask_cluster, tmp_path):
    address, workers = dask_cluster
    for number in range(8):
        hand_in(tmp_path / "in", f"learner-{number}", "06", {"api-4": SLOW})
    run("06", tmp_path / "in", tmp_path / "alone")

    def kill():
        wait_until(lambda: len(list((tmp_path / "many").glob("learners/*/results.json"))) >= 2)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run("06", tmp_path / "in", tmp_path / "many", scheduler=address)
    killer.join()
    assert workers[0].wait(60) == -signal.SIGKILL
    assert tree(tmp_path / "many") == tree(tmp_path / "alone")
    wait_until(lambda: not left_behind())


def test_a_cluster_whose_workers_are_all_dead_ends_the_grading_and_keeps_what_is_finished(
    dask_cluster, tmp_path, monkeypatch
):
    address, workers = dask_cluster
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 3)
    for number in range(6):
        hand_in(tmp_path / "in", f"learner-{number}", "06", {"api-4": SLOW})

    def kill():
        wait_until(lambda: list((tmp_path / "out").glob("learners/*/results.json")))
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(CourseError, match="had no worker for 3 s; start some and run the same command again: finished"):
        run("06", tmp_path / "in", tmp_path / "out", scheduler=address)
    killer.join()
    assert run("06", tmp_path / "in", tmp_path / "out").unchanged >= 1


def test_workers_that_cannot_grade_are_named(dask_cluster, tmp_path, monkeypatch):
    address, _ = dask_cluster
    hand_in(tmp_path / "in", "a", "06")
    monkeypatch.setattr(cluster, "grading_fingerprint", lambda: "of another version")
    with pytest.raises(CourseError, match=r"the worker tcp://127\.0\.0\.1:\d+ has another version of the course"):
        run("06", tmp_path / "in", tmp_path / "out", scheduler=address)
    assert not (tmp_path / "out").exists()


def test_no_scheduler_and_no_dask(tmp_path, monkeypatch):
    hand_in(tmp_path / "in", "a", "06")
    monkeypatch.setattr(cluster, "SECONDS", 1)
    with pytest.raises(CourseError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        run("06", tmp_path / "in", tmp_path / "out", scheduler="tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CourseError, match=r"pip install 'finetuning-course\[scale\]'"):
        run("06", tmp_path / "in", tmp_path / "out", scheduler="tcp://127.0.0.1:1")


def test_answers_on_a_worker_are_sandboxed(dask_cluster, tmp_path):
    address, _ = dask_cluster
    secret = tmp_path / "secret"
    secret.write_text("47")
    reads = f"# EXERCISE: api-4\nopen({str(secret)!r}, 'a').write('!')\ndef requests_until_paid(*a): return 0"
    hand_in(tmp_path / "in", "a", "06", {"api-4": reads})
    run("06", tmp_path / "in", tmp_path / "out", scheduler=address)
    assert points(tmp_path / "out", "a")["api-4"] == 0
    assert secret.read_text() == "47"
