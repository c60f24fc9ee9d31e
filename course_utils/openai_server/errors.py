"""The service's error responses: the hosted API's status codes, messages and error codes."""

from __future__ import annotations

KEYS_PAGE = "https://platform.openai.com/account/api-keys"
DEPRECATIONS = "https://developers.openai.com/api/docs/deprecations#update-to-openais-self-serve-fine-tuning"


class ApiError(Exception):
    """An error response with the body {"error": {"message", "type", "param", "code"}}.

    Args:
        status: HTTP status.
        message: explanation for people.
        param: the parameter at fault.
        code: error code for programs.
        type: error type, which groups several codes.
        retry_after: seconds after which to retry; None where retrying is pointless (the client is told not to).
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
        """Return the headers about retrying.

        The client retries 408, 409, 429 and 5xx on its own unless it is told not to.
        """
        if self.retry_after is not None:
            return {"retry-after": f"{self.retry_after:.0f}", "retry-after-ms": f"{1000 * self.retry_after:.0f}"}
        return {"x-should-retry": "false"} if self.status in (408, 409, 429, 507) else {}


def wrong_key(key: str) -> ApiError:
    """Return the error for a wrong API key, which is shown as the hosted API shows it: only its beginning and its end."""
    shown = f"{key[:8]}{'*' * max(0, min(len(key) - 12, 40))}{key[-4:]}" if len(key) > 12 else "*" * len(key)
    return ApiError(
        401, f"Incorrect API key provided: {shown}. You can find your API key at {KEYS_PAGE}.", code="invalid_api_key"
    )


def no_key() -> ApiError:
    """Return the error for a request without an Authorization header, or with one that has no bearer token."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
    )


def no_such_file(file_id: str) -> ApiError:
    """Return the error for a file that does not exist."""
    return ApiError(404, f"No such File object: {file_id}", param="id")


def no_such_job(job_id: str) -> ApiError:
    """Return the error for a fine-tuning job that does not exist."""
    return ApiError(404, f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")


def no_such_model(model: str) -> ApiError:
    """Return the error for a request that wants to use a model that does not exist."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def not_tunable(model: str) -> ApiError:
    """Return the error for a job that wants to start from a model that cannot be tuned."""
    message = f"Model {model} is not available for fine-tuning or does not exist."
    return ApiError(400, message, param="model", code="model_not_available")


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return the error for a parameter with an invalid value."""
    return ApiError(400, message, param=param, code=code)


def missing(param: str) -> ApiError:
    """Return the error for a required parameter that is missing."""
    return invalid(param, f"Missing required parameter: '{param}'.", "missing_required_parameter")


def unknown_argument(param: str) -> ApiError:
    """Return the error for an argument that the API does not have."""
    return invalid(param, f"Unrecognized request argument supplied: {param}", "unknown_parameter")


def not_json() -> ApiError:
    """Return the error for a body that is not JSON."""
    return ApiError(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
    )


def no_room() -> ApiError:
    """Return the error for a full disk of the server; retrying is pointless until somebody frees space."""
    message = (
        "The server has no space left on its disk, and nothing was changed. Delete files or models that are not needed, or "
        "free disk space there, and try again."
    )
    return ApiError(507, message, code="insufficient_storage", type="server_error")


def busy() -> ApiError:
    """Return the error for a database that another process has locked for too long."""
    message = "The server is busy with another change. Please try again."
    return ApiError(503, message, code="busy", type="server_error", retry_after=1)


def winding_down() -> ApiError:
    """Return the error that OpenAI has sent since May 2026 to organisations that may no longer train."""
    return ApiError(
        403,
        "OpenAI is winding down the fine-tuning platform and your organization is no longer able to create new fine-tuning "
        f"training jobs. Learn more {DEPRECATIONS}",
        code="training_not_available",
    )
