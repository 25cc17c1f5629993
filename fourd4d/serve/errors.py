"""What clients are told when something is wrong, in OpenAI's words."""

from __future__ import annotations

from typing import Any, Final

from fourd4d.core.errors import InputError, one_line

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
                 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal with its HTTP status.

    Attributes:
      status: of the response.
      param: the field of the request that is to blame.
      code: a word for programs.
      retry: seconds after which to come back; None for never.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None,
                 code: str | None = None, retry: int | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry = retry

    def to_json(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = _TYPES.get(self.status,
                          "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param,
                          "code": self.code}}


def of(error: BaseException) -> ApiError:
    """Return the refusal that an error amounts to: 400 for bad input, 500 for what is our fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, str(error), param=error.where if "[" in error.where else None)
    if isinstance(error, TimeoutError):
        return ApiError(504, "the request took longer than the server's time limit",
                        code="timeout")
    return ApiError(500, f"the server failed ({one_line(error)})", code="internal_error")
