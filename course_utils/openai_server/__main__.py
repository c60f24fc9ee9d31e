"""`python -m course_utils.openai_server`: what `local_server` starts."""

import sys

from course_utils import session
from course_utils.openai_server.serving import main

session.prepare_process()
sys.exit(main(sys.argv[1:]))
