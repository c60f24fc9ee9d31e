"""Run by every Python process that has this folder on PYTHONPATH: with COURSE_SIMULATED_GPU set, torch sees that card."""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _from_file(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class _Finder:
    """Finds torch, bitsandbytes and what `true_size` changes as usual, and is there when they are loaded."""

    def find_spec(self, name, path=None, target=None):
        after = sys.modules["_true_size"].AFTER if "_true_size" in sys.modules else {}
        if name not in ("torch", "bitsandbytes", *after):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        driver, load = sys.modules["_simulated_gpu"], spec.loader.exec_module
        if name == "torch":
            driver.library = driver.preload()

            def exec_module(module):
                load(module)
                driver.activate(module, driver.library)
        elif name in after:

            def exec_module(module):
                load(module)
                after[name](module)
        else:

            def exec_module(module):
                driver.while_bitsandbytes_loads(lambda: load(module))

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("COURSE_SIMULATED_GPU"):
    _from_file("_simulated_gpu", HERE.parent / "driver.py")
    if os.environ.get("COURSE_SIMULATED_GPU_SKIP_FROM"):
        _from_file("_true_size", HERE.parent / "true_size.py")
    sys.meta_path.insert(0, _Finder())

# The sitecustomize that this one hides, if there is one.
_others = [folder for folder in sys.path if Path(folder or ".").resolve() != HERE]
if (_hidden := importlib.machinery.PathFinder.find_spec("sitecustomize", _others)) and _hidden.origin:
    _from_file("sitecustomize", _hidden.origin)
