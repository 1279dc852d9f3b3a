"""The HTTP routes: POST /rerank (also /v1/rerank and /v2/rerank), GET /health, GET /live, GET /metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prorank_jax.serving.answers import make_answer
from prorank_jax.serving.body import check_content_type, discard_body, read_body
from prorank_jax.serving.errors import RequestError, too_many_connections
from prorank_jax.serving.held_bytes import HeldShare, bytes_kept
from prorank_jax.serving.metrics import CONTENT_TYPE
from prorank_jax.serving.request_format import RerankRequest, parse_request
from prorank_jax.serving.service import Service

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
PIECE_BYTES = 1 << 16
ROUTES_SHOWN = "POST /rerank, GET /health, GET /live and GET /metrics"
CLOSE = (b"connection", b"close")


def make_app(service: Service, count_connections: Callable[[], int]) -> ASGIApp:
    """The ASGI application of a service.

    Args:
        count_connections: how many are open. Above `max_connections` nothing is reranked; whoever watches
            the server must still be told how it is.
    """

    async def check_connections(request: Request) -> None:
        options = service.options
        open_now, limit = count_connections(), options.max_connections
        if open_now > limit:
            await discard_body(
                request,
                service.client_waits,
                max_bytes=options.max_body_bytes,
                timeout_s=options.client_timeout_s,
            )
            raise too_many_connections(open_now, limit)

    async def take_request(request: Request, share: HeldShare) -> RerankRequest:
        body = await read_body(
            request,
            share,
            service.client_waits,
            max_bytes=service.options.max_body_bytes,
            timeout_s=service.options.client_timeout_s,
        )
        asked = parse_request(body, service.options)
        share.hold(bytes_kept(asked, len(body)))
        return asked

    async def answer_to(request: Request, share: HeldShare) -> Response:
        asked = await take_request(request, share)
        scores = await service.score(asked.pairs, asked.instruction, _client_leaves(request))
        content = make_answer(asked, scores, service.options.shown_model, service.calibration)
        return JSONResponse(content)

    async def rerank(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        service.check_ready()
        await check_connections(request)
        check_content_type(request)
        with service.held_bytes.share() as share:
            answer = await answer_to(request, share)
            # Within: what a client does not read may take no more memory than what it sent was allowed.
            share.shrink_to(len(answer.body))
            # Who reads too slowly until the server must leave gets a part, which uvicorn notes in its log.
            with contextlib.suppress(TimeoutError):
                async with service.client_waits.at_most(None):
                    await _send_in_pieces(answer, send)

    def show_state(is_well: bool) -> Response:
        shown = {"status": service.state, "model": service.options.shown_model}
        return JSONResponse(shown, 200 if is_well else 503)

    async def health(_: Request) -> Response:
        return show_state(service.state == "ok")

    async def live(_: Request) -> Response:
        return show_state(service.state != "failing")

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = Starlette(
        routes=[
            *(route for path in RERANK_PATHS for route in _routes(path, _App(rerank), methods=["POST"])),
            *_routes("/health", health),
            *_routes("/live", live),
            *_routes("/metrics", metrics),
        ],
        exception_handlers={
            RequestError: _answer_error,
            HTTPException: _answer_wrong_route,
            Exception: _answer_failure,
        },
    )
    app.router.redirect_slashes = False
    return _RerankAnswers(app, service)


def _routes(path: str, endpoint: Any, methods: list[str] | None = None) -> list[Route]:
    """With a slash at its end too.

    A redirect would name the scheme and path that this server sees, not those of a proxy before it: a
    client that follows would send its texts in clear, or to no such path.
    """
    return [Route(spelling, endpoint, methods=methods) for spelling in (path, f"{path}/")]


class _App:
    """A function as the ASGI application that starlette takes any object but a function for."""

    def __init__(self, run: ASGIApp) -> None:
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run(scope, receive, send)


async def _send_in_pieces(response: Response, send: Send) -> None:
    """Sends a response as fast as the client reads it: before each piece, uvicorn waits for room."""
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    for start in range(0, len(response.body), PIECE_BYTES):
        piece = bytes(response.body[start : start + PIECE_BYTES])
        is_last = start + PIECE_BYTES >= len(response.body)
        await send({"type": "http.response.body", "body": piece, "more_body": not is_last})


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer_error(_: Request, error: Any) -> Response:
    return JSONResponse(error.to_json(), error.status, error.headers)


async def _answer_wrong_route(request: Request, error: Any) -> Response:
    wrong = f"{request.method} {request.url.path[:100]}"
    message = f"{wrong}: {error.detail.lower()}; there are {ROUTES_SHOWN}"
    body = RequestError(error.status_code, "no_such_route", message).to_json()
    return JSONResponse(body, error.status_code, error.headers)


async def _answer_failure(_: Request, error: Exception) -> Response:
    message = f"a fault of the server ({type(error).__name__}); its log has the details"
    return JSONResponse(RequestError(500, "internal", message).to_json(), 500)


class _RerankAnswers:
    """Counts and times the answers to rerank requests, whatever gives them.

    While the server drains, scores end their connection, so that a balancer opens its next one elsewhere.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].removesuffix("/") not in RERANK_PATHS:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
                self._metrics.request_seconds.observe(time.perf_counter() - started)
                # With an error, a part of the body may be unread: closed then, the answer would be lost.
                if self._service.state == "draining" and message["status"] == 200:
                    message = {**message, "headers": [*message["headers"], CLOSE]}
            await send(message)

        with self._metrics.requests_in_flight.track_inprogress():
            await self._app(scope, receive, counting_send)
