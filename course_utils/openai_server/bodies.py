"""What the models of request bodies have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A body or a part of one. A field that it does not name is refused, as a misspelt one would silently change nothing."""

    model_config = ConfigDict(extra="forbid")
