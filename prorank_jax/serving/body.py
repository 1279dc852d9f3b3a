"""Reads request bodies piece by piece, so that one that is too large or too slow is refused early."""

from __future__ import annotations

import contextlib

from starlette.requests import ClientDisconnect, Request

from prorank_jax.serving.client_waits import ClientWaits
from prorank_jax.serving.errors import RequestError, client_gone, draining
from prorank_jax.serving.held_bytes import HeldShare


def check_content_type(request: Request) -> None:
    """Raises `RequestError` 415 for a body that is not declared as plain JSON in UTF-8."""
    declared = request.headers.get("content-type", "")
    media_type, *parameters = [part.strip().lower() for part in declared.split(";")]
    charsets = [
        value.strip('"') for name, _, value in (p.partition("=") for p in parameters) if name == "charset"
    ]
    if media_type != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise RequestError(
            415,
            "unsupported_media_type",
            f"Content-Type {declared[:100]!r} is not taken; send 'Content-Type: application/json' in UTF-8",
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise RequestError(
            415,
            "unsupported_media_type",
            f"Content-Encoding {encoding[:100]!r} is not taken; send the body uncompressed",
        )


async def discard_body(request: Request, waits: ClientWaits, *, max_bytes: int, timeout_s: float) -> None:
    """Reads and forgets what a client still sends, within bounds, so that it gets the answer.

    Where a connection is closed with unread bytes, the client's system sees a reset and drops the answer.
    """
    seen = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with waits.at_most(timeout_s):
            async for piece in request.stream():
                seen += len(piece)
                if seen > max_bytes:
                    return


async def read_body(
    request: Request, share: HeldShare, waits: ClientWaits, *, max_bytes: int, timeout_s: float
) -> bytearray:
    """The body of a request, counted in what it holds while it arrives.

    Raises:
        RequestError: 413 above `max_bytes`, 408 when it takes longer than `timeout_s`, 503 when too much
            is held already or the server must leave, 499 when the client has gone.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()  # a list of pieces takes many times their size where they are of a byte or two
    try:
        async with waits.at_most(timeout_s):
            async for piece in request.stream():
                if len(body) + len(piece) > max_bytes:
                    raise _too_large(max_bytes)
                share.hold(len(body) + len(piece))
                body += piece
    except TimeoutError as error:
        if waits.are_over:
            raise draining() from error
        raise RequestError(
            408,
            "request_timeout",
            f"the body did not arrive within client_timeout_s={timeout_s:g}; send it faster",
            headers={"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise client_gone() from error
    return body


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"the body has more than max_body_bytes={max_bytes}; send fewer or shorter documents",
    )
