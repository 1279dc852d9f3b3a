"""What a client is told when it gets no scores."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is answered with an error: `{"error": {"type", "message", "field"?}}`.

    Attributes:
        status: HTTP status code.
        type: a name that programs can compare.
        message: names the field, the value and the remedy.
        field: the field of the request that is wrong, if it is one.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.field = field
        self.headers = headers or {}

    def to_json(self) -> dict[str, dict[str, str]]:
        """The body of the response."""
        error = {"type": self.type, "message": self.message}
        return {"error": error | ({"field": self.field} if self.field else {})}


def wrong_field(field: str, message: str) -> RequestError:
    """422: a field that is missing, unknown, or has a value that cannot work."""
    return RequestError(422, "invalid_field", f"{field}: {message}", field=field)


def unavailable(type: str, message: str, retry_after_s: int = 1) -> RequestError:
    """503: the request is fine, but not now."""
    return RequestError(503, type, message, headers={"Retry-After": str(retry_after_s)})


def loading() -> RequestError:
    """503: the model is being read or compiled."""
    return unavailable("loading", "the model is still loading; ask /health and try again", 5)


def draining() -> RequestError:
    """503: the server was told to stop."""
    return unavailable("draining", "the server is shutting down; send the request to another one", 5)


def queue_full(waiting: int, wanted: int, limit: int) -> RequestError:
    """503: so many pairs wait already that this request's would exceed the bound."""
    return unavailable(
        "queue_full",
        f"{waiting} pairs are waiting and this request has {wanted}, more than max_queue_pairs={limit} "
        "together; try again later",
    )


def too_many_connections(open_now: int, limit: int) -> RequestError:
    """503 that closes its connection: more are open than the server takes requests on."""
    error = unavailable(
        "too_many_connections",
        f"{open_now} connections are open, more than max_connections={limit}; close idle ones or try again "
        "later",
    )
    error.headers["Connection"] = "close"  # kept open, it would be one too many itself
    return error


def timed_out(seconds: float) -> RequestError:
    """504: the scores did not come in time; what was not scored by then is dropped."""
    return RequestError(
        504,
        "timeout",
        f"no scores within request_timeout_s={seconds:g}; send fewer documents at once or try again later",
    )


def model_failed(error: BaseException, first_pair: int = 0) -> RequestError:
    """500: the model raised or gave no numbers; the server goes on.

    The client hears what a ValueError says, which is about its texts. What any other error says is about
    the machine, and stays in the log.

    Args:
        first_pair: which of the request's different pairs is pair 0 of `error`, where a long request is
            scored in parts.
    """
    start = f"; its pairs are counted from pair {first_pair} of the request, equal ones once"
    counted = start if first_pair else ""
    is_about_texts = isinstance(error, ValueError)
    reason = f"{one_line(error)}{counted}" if is_about_texts else type(error).__name__
    remedy = "" if is_about_texts else "; the server's log has the details"
    return RequestError(500, "model_failed", f"the model could not score this request ({reason}){remedy}")


def one_line(error: BaseException) -> str:
    """Kind and text of an error, for a line of its own."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def client_gone() -> RequestError:
    """499, as nginx calls it: nobody is there to read an answer; only /metrics shows it."""
    return RequestError(499, "client_gone", "the client closed the connection before its answer was ready")
