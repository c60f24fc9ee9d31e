"""For tests and notebooks alike: processes that pytest-xdist runs side by side share the cores, or each would take all."""

import os

from course_utils import hardware, session

session.prepare_process()
os.environ.pop(hardware.TIER, None)  # tests are of this machine's own tier
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if workers > 1:  # before torch is loaded, and inherited by kernels and servers
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, hardware.usable_cores() // workers)))
