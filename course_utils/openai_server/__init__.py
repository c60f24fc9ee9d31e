"""OpenAI-compatible servers on loopback; so far the one that plays back what a strong model once answered."""

from course_utils.openai_server.replay import Replay

__all__ = ["Replay"]
