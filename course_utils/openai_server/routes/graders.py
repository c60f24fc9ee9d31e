"""Routes of graders: check one, and run one on an answer."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from course_utils.openai_server import graders
from course_utils.openai_server.parsing import json_body
from course_utils.openai_server.service import Service

ERRORS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip


def router(service: Service) -> APIRouter:
    """Return the routes of graders."""
    routes = APIRouter()

    @routes.post("/v1/fine_tuning/alpha/graders/validate", response_model=None)
    async def validate(body: Annotated[graders.Validate, json_body(graders.Validate)]) -> dict[str, Any]:
        graders.check_grader(body.grader)
        return {"grader": body.grader.model_dump(exclude_none=True)}

    @routes.post("/v1/fine_tuning/alpha/graders/run", response_model=None)
    async def run(body: Annotated[graders.Run, json_body(graders.Run)]) -> dict[str, Any]:
        started = time.perf_counter()
        reward, parts = await run_in_threadpool(graders.run, body.grader, body.model_sample, body.item)
        return {
            "reward": reward,
            "sub_rewards": parts,
            "model_grader_token_usage_per_model": {},
            "metadata": {
                "name": body.grader.name,
                "type": body.grader.type,
                "errors": dict.fromkeys(ERRORS, False),
                "execution_time": time.perf_counter() - started,
                "scores": parts or {body.grader.name: reward},
                "token_usage": None,
                "sampled_model_name": None,
            },
        }

    return routes
