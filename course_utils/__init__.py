"""Tools that the six notebooks of the course share.

Nothing heavy is imported here: torch, transformers and matplotlib load inside the functions that need them, so that
`import course_utils` costs a fraction of a second and `course --help` answers at once.
"""

import logging

from course_utils import compatibility, hardware, openmp

# On import bitsandbytes says on stderr that an optional kernel, which it would fetch from the hub, is missing. Nothing here
# uses it, and PEFT imports bitsandbytes where it is installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# Before torch is loaded, and inherited by kernels, servers and workers that are started from here.
openmp.wait_briefly()
hardware.keep_to_one_card()
compatibility.hide_refused_torchao()

__version__ = "1.0.0"
