"""A server on loopback that speaks the fine-tuning API, fine-tunes and serves."""

from course_utils.openai_server.hosts import HOSTS, Host
from course_utils.openai_server.options import Options
from course_utils.openai_server.serving import LocalServer, local_server, serve

__all__ = ["HOSTS", "Host", "LocalServer", "Options", "local_server", "serve"]
