"""The application: the routes, the gate in front of them, and the error handlers, assembled."""

from __future__ import annotations

import sqlite3
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from course_utils.openai_server import replies
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.gate import Gate
from course_utils.openai_server.routes import chat, files, graders, jobs, models, permissions
from course_utils.openai_server.service import Service


def build(service: Service) -> FastAPI:
    """Assemble the application of a service: its routes, the gate in front of them, and its error handlers."""
    app = FastAPI(title="Fine-tuning service", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(ApiError, replies.refused)
    app.add_exception_handler(RequestValidationError, replies.invalid_request)
    app.add_exception_handler(HTTPException, replies.unknown_route)
    app.add_exception_handler(OSError, replies.storage)
    app.add_exception_handler(sqlite3.Error, replies.storage)
    app.add_exception_handler(Exception, replies.bug)
    for resource in (files, jobs, graders, permissions, models, chat):
        app.include_router(resource.router(service))

    @app.get("/health")
    def health() -> dict[str, Any]:
        loaded = service.chat.loaded
        return {
            "status": "ok",
            "model": service.base,
            "loaded": loaded is not None,
            "busy": loaded.engine.busy if loaded else 0,
            "adapters": loaded.engine.adapters.in_memory if loaded else 0,
            "adapter_bytes": loaded.engine.adapters.bytes if loaded else 0,
            "training_process": service.runner.process_of("train"),
        }

    return app
