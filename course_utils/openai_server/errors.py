"""What the service says when it refuses: the hosted API's status, words and codes."""

from __future__ import annotations

KEYS_PAGE = "https://platform.openai.com/account/api-keys"
DEPRECATIONS = "https://developers.openai.com/api/docs/deprecations#update-to-openais-self-serve-fine-tuning"


class ApiError(Exception):
    """A refusal; becomes {"error": {"message", "type", "param", "code"}} with this status.

    Args:
        status: HTTP status.
        message: for a person.
        param: the parameter at fault.
        code: for a program.
        type: the family of errors.
        retry_after: seconds after which trying again makes sense; None where it never does (the client is told not to).
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}

    @property
    def headers(self) -> dict[str, str]:
        """The client repeats 408, 409, 429 and 5xx by itself unless it is told not to."""
        if self.retry_after is not None:
            return {"retry-after": f"{self.retry_after:.0f}", "retry-after-ms": f"{1000 * self.retry_after:.0f}"}
        return {"x-should-retry": "false"} if self.status in (408, 409, 429, 507) else {}


def wrong_key(key: str) -> ApiError:
    """The key is shown as the hosted API shows it: its ends only."""
    shown = f"{key[:8]}{'*' * max(0, min(len(key) - 12, 40))}{key[-4:]}" if len(key) > 12 else "*" * len(key)
    return ApiError(
        401, f"Incorrect API key provided: {shown}. You can find your API key at {KEYS_PAGE}.", code="invalid_api_key"
    )


def no_key() -> ApiError:
    """No Authorization header, or not a bearer's."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
    )


def no_such_file(file_id: str) -> ApiError:
    """Unknown file."""
    return ApiError(404, f"No such File object: {file_id}", param="id")


def no_such_job(job_id: str) -> ApiError:
    """Unknown fine-tuning job."""
    return ApiError(404, f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")


def no_such_model(model: str) -> ApiError:
    """Unknown model where one is to be used."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def not_tunable(model: str) -> ApiError:
    """A model that jobs can't start from."""
    message = f"Model {model} is not available for fine-tuning or does not exist."
    return ApiError(400, message, param="model", code="model_not_available")


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A parameter with a value that can't be."""
    return ApiError(400, message, param=param, code=code)


def no_room() -> ApiError:
    """The server's disk is full; no use trying again before somebody made room."""
    message = (
        "The server has no room left on its disk, and nothing was changed. Delete files or models that are not needed, or "
        "make room there, and try again."
    )
    return ApiError(507, message, code="insufficient_storage", type="server_error")


def busy() -> ApiError:
    """The database was held by another process for too long."""
    message = "The server is busy with another change. Please try again."
    return ApiError(503, message, code="busy", type="server_error", retry_after=1)


def winding_down() -> ApiError:
    """What organisations that may no longer train get from OpenAI since May 2026."""
    return ApiError(
        403,
        "OpenAI is winding down the fine-tuning platform and your organization is no longer able to create new fine-tuning "
        f"training jobs. Learn more {DEPRECATIONS}",
        code="training_not_available",
    )


def no_money() -> ApiError:
    """The budget is used up; no use trying again."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return ApiError(429, message, code="insufficient_quota", type="insufficient_quota")


def too_fast(limit: int, seconds: float) -> ApiError:
    """More requests a minute than the server was started for."""
    message = (
        f"Rate limit reached on requests per min (RPM): Limit {limit}, Used {limit}, Requested 1. "
        f"Please try again in {seconds:.0f}s."
    )
    return ApiError(429, message, code="rate_limit_exceeded", type="requests", retry_after=seconds)
