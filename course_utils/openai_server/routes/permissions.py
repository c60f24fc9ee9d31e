"""Routes of a checkpoint's permissions: which other projects may use it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from course_utils.openai_server import errors
from course_utils.openai_server.bodies import Strict
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.parsing import Query, json_body
from course_utils.openai_server.replies import listing
from course_utils.openai_server.service import Service
from course_utils.openai_server.store import new_id


class NewPermissions(Strict):
    """The body of a request that lets other projects use a checkpoint."""

    project_ids: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=100)]


def router(service: Service) -> APIRouter:
    """Return the routes of permissions."""
    routes = APIRouter()
    store = service.store
    path = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"

    def check_checkpoint(checkpoint: str) -> None:
        if store.get("model", checkpoint) is None:
            raise errors.no_such_model(checkpoint)

    @routes.get(path, response_model=None)
    def permissions(checkpoint: str, request: Request) -> dict[str, Any]:
        check_checkpoint(checkpoint)
        query = Query(request)
        order = query.one_of("order", ("ascending", "descending"))
        filters = {"project_id": project} if (project := query.text("project_id")) else None
        page = store.page(
            "permission",
            checkpoint,
            query.text("after"),
            query.limit(10, 100),
            newest_first=order != "ascending",
            where=filters,
        )
        return listing(page, None, empty_ids=None)

    @routes.post(path, response_model=None)
    async def create(checkpoint: str, body: Annotated[NewPermissions, json_body(NewPermissions)]) -> dict[str, Any]:
        check_checkpoint(checkpoint)

        def add() -> list[dict[str, Any]]:
            created = []
            with store.transaction():
                for project in dict.fromkeys(body.project_ids):
                    permission: dict[str, Any] = {
                        "id": new_id("permission"),
                        "object": "checkpoint.permission",
                        "created_at": int(time.time()),
                        "project_id": project,
                    }
                    created.append(store.add("permission", permission["id"], permission, parent=checkpoint))
            return created

        return listing((await run_in_threadpool(add), False), None, empty_ids=None)

    @routes.delete(path + "/{permission_id}", response_model=None)
    def delete(checkpoint: str, permission_id: str) -> dict[str, Any]:
        check_checkpoint(checkpoint)
        if permission_id not in {permission["id"] for permission in store.all("permission", checkpoint)}:
            raise ApiError(404, f"No such permission: {permission_id}", param="permission_id")
        store.delete("permission", permission_id)
        return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}

    return routes
