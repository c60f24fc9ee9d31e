"""The service's error responses: the hosted API's status codes, messages and error codes."""

from __future__ import annotations


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
        return {"x-should-retry": "false"} if self.status == 507 else {}


def no_such_file(file_id: str) -> ApiError:
    """Return the error for a file that does not exist."""
    return ApiError(404, f"No such File object: {file_id}", param="id")


def no_such_model(model: str) -> ApiError:
    """Return the error for a request that wants to use a model that does not exist."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def no_such_response(response_id: str) -> ApiError:
    """Return the error for a response that is not stored, or not any more."""
    return ApiError(404, f"Response with id '{response_id[:80]}' not found.")


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


def not_json() -> ApiError:
    """Return the error for a body that is not JSON."""
    return ApiError(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
    )
