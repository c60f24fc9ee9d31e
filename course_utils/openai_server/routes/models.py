"""Routes of models: list, retrieve, and delete fine-tuned ones."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from fastapi import APIRouter
from openai.types import Model, ModelDeleted
from starlette.exceptions import HTTPException

from course_utils.openai_server import errors
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.jobs import public
from course_utils.openai_server.replies import checked
from course_utils.openai_server.service import Service


def router(service: Service) -> APIRouter:
    """Return the routes of models."""
    routes = APIRouter()
    store = service.store

    def bases() -> list[dict[str, Any]]:
        stand_in = f"local stand-in: {service.base}"
        return [
            {"id": name, "object": "model", "created": service.started, "owned_by": owner, "shutdown_date": None}
            for name, owner in [(service.base, "local"), *((name, stand_in) for name in service.names)]
        ]

    @routes.get("/v1/models", response_model=None)
    def models() -> dict[str, Any]:
        tuned = [public(model) for model in store.all("model") if not model["_checkpoint"]]
        return {"object": "list", "data": [checked(Model, model) for model in [*bases(), *tuned]]}

    @routes.get("/v1/models/{name:path}", response_model=None)
    def retrieve(name: str) -> dict[str, Any]:
        if not name:
            raise HTTPException(404)
        document = store.get("model", name) or next((model for model in bases() if model["id"] == name), None)
        if document is None:
            raise errors.no_such_model(name)
        return checked(Model, public(document))

    @routes.delete("/v1/models/{name:path}", response_model=None)
    def delete(name: str) -> dict[str, Any]:
        if any(model["id"] == name for model in bases()):
            raise ApiError(403, f"The model '{name}' is a base model and can't be deleted", param="model")
        with store.transaction():
            document = store.get("model", name)
            if document is None:
                raise ApiError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
            store.delete("model", name)
            in_use = any(model["_folder"] == document["_folder"] for model in store.all("model"))
        if not in_use:
            remove = partial(shutil.rmtree, store.model_folder(document["_folder"]), ignore_errors=True)
            if service.chat.loaded:
                service.chat.loaded.engine.forget(document["_folder"], remove)
            else:
                remove()
        return checked(ModelDeleted, {"id": name, "object": "model", "deleted": True})

    return routes
