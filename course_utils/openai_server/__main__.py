"""What `local_server` starts: takes its options as JSON, prints its address as JSON, and ends when its input is closed."""

import json
import os
import signal
import sys
import threading
import time

from course_utils import session
from course_utils.errors import CourseError
from course_utils.openai_server import Options, serve


def ready(base_url: str, key: str) -> None:
    """Tell the process that started this one, and watch it."""
    print(json.dumps({"base_url": base_url, "key": key}), flush=True)
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Wait until the input is closed, which happens when the parent ends, and end."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15)
    os._exit(1)


session.prepare_process()
try:
    serve(Options(**json.loads(sys.argv[1])), ready)
except CourseError as error:
    sys.exit(str(error))
