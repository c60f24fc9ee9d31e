"""Fine-tuning jobs, their events and checkpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from openai.types.fine_tuning import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from starlette.concurrency import run_in_threadpool

from course_utils.openai_server.jobs import CreateJob, shown
from course_utils.openai_server.parsing import Query, json_body
from course_utils.openai_server.replies import checked, listing
from course_utils.openai_server.service import Service


def router(service: Service) -> APIRouter:
    """Return the routes of fine-tuning jobs, their events and checkpoints."""
    routes = APIRouter()
    store, jobs = service.store, service.jobs

    @routes.post("/v1/fine_tuning/jobs", response_model=None)
    async def create(body: Annotated[CreateJob, json_body(CreateJob)]) -> dict[str, Any]:
        service.check_budget()
        job = await run_in_threadpool(jobs.create, body)
        service.runner.wake()
        return shown(job)

    @routes.get("/v1/fine_tuning/jobs", response_model=None)
    def jobs_list(request: Request) -> dict[str, Any]:
        query = Query(request)
        page = store.page("job", after=query.text("after"), limit=query.limit(20, 100), where=query.metadata())
        return {"object": "list", "data": [shown(job) for job in page[0]], "has_more": page[1]}

    @routes.get("/v1/fine_tuning/jobs/{job_id}", response_model=None)
    def retrieve(job_id: str) -> dict[str, Any]:
        return shown(jobs.get(job_id))

    @routes.post("/v1/fine_tuning/jobs/{job_id}/cancel", response_model=None)
    def cancel(job_id: str) -> dict[str, Any]:
        job = jobs.cancel(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @routes.post("/v1/fine_tuning/jobs/{job_id}/pause", response_model=None)
    def pause(job_id: str) -> dict[str, Any]:
        job = jobs.pause(job_id)
        service.runner.stop(job_id)
        return shown(job)

    @routes.post("/v1/fine_tuning/jobs/{job_id}/resume", response_model=None)
    def resume(job_id: str) -> dict[str, Any]:
        job = jobs.resume(job_id)
        service.runner.wake()
        return shown(job)

    @routes.get("/v1/fine_tuning/jobs/{job_id}/events", response_model=None)
    def events(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        events_page, has_more = store.page("event", job_id, query.text("after"), query.limit(20, 100))
        return {
            "object": "list",
            "data": [checked(FineTuningJobEvent, event) for event in events_page],
            "has_more": has_more,
        }

    @routes.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", response_model=None)
    def checkpoints(job_id: str, request: Request) -> dict[str, Any]:
        jobs.get(job_id)
        query = Query(request)
        page = store.page("checkpoint", job_id, query.text("after"), query.limit(10, 100))
        return listing(page, FineTuningJobCheckpoint, empty_ids=None)

    return routes
