"""What the models of request bodies have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base class of request bodies and their parts.

    A field that is not declared is refused, since a misspelt one would silently change nothing.
    """

    model_config = ConfigDict(extra="forbid")
