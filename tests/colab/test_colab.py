"""What `make colab` stands on: lists of packages compared, a record that goes on, cells run in another kernel."""

import sys

import pytest

from . import kernel, machine, run


def test_what_an_installation_replaced_is_told_from_what_it_added():
    before = {"Py.Parsing": "3", "torch": "2.11.0", "six": "1"}
    after = {"py-parsing": "3", "torch": "2.12.0", "trl": "0.29.1"}
    found = machine.difference(before, after)
    assert found.replaced == {"torch": ("2.11.0", "2.12.0"), "six": ("1", None)}
    assert found.added == {"trl": "0.29.1"}
    assert machine.difference(before, before) == machine.Difference({}, {})


def test_a_record_goes_on_where_it_stopped():
    def row(number, cells, errors=0):
        return {"lesson": number, "cells": cells, "errors": ["bad"] * errors, "replaced": {}}

    once = run.merged({}, {"tier": "cpu", "lessons": [row("05", 100, errors=2)]})
    assert (once["cells"], once["errors"]) == (100, 2)
    twice = run.merged(once, {"lessons": [row("01", 50)]})
    assert [r["lesson"] for r in twice["lessons"]] == ["01", "05"] and (twice["cells"], twice["errors"]) == (150, 2)
    again = run.merged(run.merged(twice, {"host": {}}), {"lessons": [row("05", 101)]})
    assert (again["cells"], again["errors"], again["tier"], again["host"]) == (151, 0, "cpu", {})


def ours(**more):
    """The environment of a kernel that has the course as this process has it, and the stand-in for google.colab."""
    paths = ":".join([str(run.ROOT), str(machine.STAND_IN)])
    return machine.environment(PYTHONPATH=paths, **run.ON_COLAB, **more)


def test_a_kernel_is_on_colab_and_where_the_network_is_cut_it_is(tmp_path):
    code = (
        "import socket\nfrom course_utils import hardware\n"
        "print(hardware.detect_environment(), [name for _, name in socket.if_nameindex()])"
    )
    assert kernel.run_cells([code], sys.executable, tmp_path, ours(), cut=True).startswith("colab ['lo'")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        kernel.run_cells(["1 / 0"], sys.executable, tmp_path, ours())
