"""OpenAI-compatible servers on loopback: one that fine-tunes and serves, and one that plays back recorded answers."""

from course_utils.openai_server.hosts import HOSTS, Host
from course_utils.openai_server.options import Options
from course_utils.openai_server.replay import Replay
from course_utils.openai_server.serving import LocalServer, local_server, serve

__all__ = ["HOSTS", "Host", "LocalServer", "Options", "Replay", "local_server", "serve"]
