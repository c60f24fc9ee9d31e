"""A server on loopback that speaks the fine-tuning API, fine-tunes and serves; and the hosts that speak it too."""

from types import SimpleNamespace

from course_utils import facts
from course_utils.openai_server.options import Options
from course_utils.openai_server.serving import LocalServer, local_server, serve

__all__ = ["HOSTS", "LocalServer", "Options", "local_server", "serve"]

# Name → what `data/hosts.toml` says of it; a host that has no address of its own has None there.
HOSTS = {id: SimpleNamespace(**{"base_url": None, **row}) for id, row in facts.table("hosts").items()}
