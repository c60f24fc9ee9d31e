"""Kernels of a Python: cells run there, with the network cut off where asked, or ended as a lost runtime ends."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager
    from nbformat import NotebookNode

WITHOUT_NETWORK = Path(__file__).parents[1] / "without_network"
CELL_TIMEOUT = 3600
STARTUP_TIMEOUT = 600  # of a machine that others keep busy


@contextlib.contextmanager
def _settings(python: Path, cut: bool) -> Iterator[dict]:
    """What makes a kernel manager start that Python.

    Sockets are files, so that a kernel whose network is cut off is reached all the same.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:  # a short path: a socket's may have 107 characters
        spec = Path(folder) / "colab"
        spec.mkdir()
        command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=40"]
        argv = [str(WITHOUT_NETWORK), *command] if cut else command
        text = json.dumps({"argv": argv, "display_name": "Colab", "language": "python"})
        (spec / "kernel.json").write_text(text, encoding="utf-8")
        specs = KernelSpecManager(kernel_dirs=[folder], ensure_native_kernel=False)
        yield {"kernel_name": "colab", "kernel_spec_manager": specs, "transport": "ipc", "ip": f"{folder}/k"}


def run(
    notebook: NotebookNode,
    python: Path,
    folder: Path,
    environment: Mapping[str, str],
    cut: bool = False,
    on_cell: Callable[[NotebookNode, int], object] = lambda cell, index: None,
) -> NotebookNode:
    """Run all cells of a notebook in place, those after an error too, and return it.

    Args:
        notebook: a notebook node.
        python: of the environment whose kernel it is.
        folder: where the kernel runs.
        environment: of the kernel.
        cut: no network but loopback.
        on_cell: called with each cell that has run, and its index.
    """
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with _settings(python, cut) as settings:

        class Manager(AsyncKernelManager):
            """Starts that Python."""

            def __init__(self, **more) -> None:
                super().__init__(**(more | settings))

        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            startup_timeout=STARTUP_TIMEOUT,
            kernel_name="colab",
            kernel_manager_class=Manager,
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.on_cell_executed = lambda cell, cell_index, execute_reply: on_cell(cell, cell_index)
        client.execute(env=dict(environment))
    return notebook


def run_cells(cells: list[str], python: Path, folder: Path, environment: Mapping[str, str], cut: bool = False) -> str:
    """Run cells, and return what they printed.

    Raises:
        RuntimeError: a cell failed.
    """
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    outputs = [output for cell in run(notebook, python, folder, environment, cut).cells for output in cell.outputs]
    for output in outputs:
        if output.output_type == "error":
            raise RuntimeError(f"{output.ename}: {output.evalue}")
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


@contextlib.contextmanager
def started(python: Path, folder: Path, environment: Mapping[str, str], code: str) -> Iterator[KernelManager]:
    """A kernel that was given code and is working on it; nobody waits for the answer."""
    from jupyter_client.manager import KernelManager

    with _settings(python, cut=False) as settings:
        manager = KernelManager(**settings)
        manager.start_kernel(cwd=str(folder), env=dict(environment))
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=STARTUP_TIMEOUT)
            client.execute(code)
            yield manager
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def first_line(source: str) -> str:
    """Return the first line of a cell that is neither empty, nor a comment, nor for IPython."""
    return next((line for line in source.splitlines() if line.strip() and not line.startswith(("#", "%"))), "")[:100]


def say(cell: NotebookNode, index: int, *about: str) -> None:
    """Tell whoever waits that a cell has run, and how it ended."""
    failed = next((f"{o.ename}: {o.evalue[:150]}" for o in cell.outputs if o.output_type == "error"), "ok")
    print(time.strftime("%H:%M:%S"), *about, f"cell {index:3} ", failed, file=sys.stderr, flush=True)
