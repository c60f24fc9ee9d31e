"""What `course lab` has a kernel say of its errors."""

import json
import threading

import pytest

from course_utils import assets, kernel_errors


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os.path, json as j\nfrom a import b as c\nx, (y, *z) = 1, (2, 3)", {"os", "j", "c", "x", "y", "z"}),
        ("%pip install x\n!ls\ndef f(a):\n    inner = 1\n\nclass C:\n    field = 1", {"f", "C"}),
        ("for i in range(3):\n    with open(i) as file:\n        last = file", {"i", "file", "last"}),
        ("print(a.b)\na.b = 1\na[0] = 2", set()),
        ("this is no Python", set()),
    ],
)
def test_the_names_that_a_cell_makes(source, names):
    assert kernel_errors.names_made(source) == names


def test_a_fresh_kernel_says_where_a_name_is_made_and_has_no_name_of_ours(tmp_path, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    cells = [("markdown", "# A\n## 2 · The job\ntext"), ("code", "import torch"), ("code", ["tuned = 1\n", "b = 2"])]
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": kind, "source": source} for kind, source in cells]}))
    monkeypatch.setenv("PYTHONSTARTUP", str(assets.PACKAGE / "lab_settings" / "kernel_startup.py"))
    monkeypatch.setenv("JPY_SESSION_NAME", str(notebook))
    manager, client = start_new_kernel()
    try:

        def printed(code):
            said = []
            client.execute_interactive(code, output_hook=lambda m: said.append(m["content"].get("text") or ""), timeout=60)
            return "".join(said)

        assert "made by a cell below the heading “2 · The job”. Run the cells above first" in printed("tuned + 1")
        assert printed("nowhere + 1") == printed("1 / 0") == ""
        said = []
        threading.Timer(3, manager.interrupt_kernel).start()
        answer = client.execute_interactive(
            "import time\ntime.sleep(60)", output_hook=lambda m: said.append(m["content"].get("traceback") or []), timeout=50
        )
        assert answer["content"]["ename"] == "KeyboardInterrupt"
        (lines,) = [lines for lines in said if lines]
        assert len(lines) == 2 and "line 2: time.sleep(60)" in lines[0] and "Run it again" in lines[1]
        assert printed("print([n for n in dir() if n == 'Any'])").strip() == "[]"
        assert printed("print([n for n in dir() if 'name' in n.lower() and not n.startswith('__')])").strip() == "[]"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
