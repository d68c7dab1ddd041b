"""Web server of a study on loopback: serves the page and each reader's next radiographs.

A reader's link carries a token after '#', which browsers do not send; the page puts it into the
Authorization header of each request. Radiographs are requested by their number in the session, and
only those of the current and the next item are served.
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from femur_jax.errors import UserError
from femur_jax.reader_study.answers import AnswerStore, OutOfTurnError
from femur_jax.reader_study.questions import QUESTIONS, check_answers
from femur_jax.reader_study.study import Study

HOST = "127.0.0.1"
_WEB = Path(__file__).parent / "web"
_LARGEST_BODY = 1 << 16
_LONGEST_MS = 10**9
_SHUTDOWN_SECONDS = 5
_HEADERS = {
    "Cache-Control": "no-store",  # keeps patients' radiographs out of the browser's cache
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Number(IntegerConvertor):
    regex = "[0-9]{1,9}"  # Python refuses to convert thousands of digits


register_url_convertor("number", _Number())


class PromptHTTP(H11Protocol):
    """HTTP that ends a connection whose request is incomplete after some seconds.

    Otherwise clients that never finish their requests would hold connections for ever.
    """

    seconds = 30.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # of asyncio or uvloop
        """Waits for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _watch(self) -> None:
        incomplete = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if incomplete and self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.abort)
        elif not incomplete and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _WithHeaders:
    """Middleware that adds the same headers to each response."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _not_saved(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"The answers cannot be read or saved: {error}.", 507)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # which nobody receives


def application(study: Study, store: AnswerStore) -> Starlette:
    """Returns the ASGI application.

    No handler yields between reading and writing the store, so requests of several readers do not
    interleave.
    """

    def reader_of(request: Request) -> str:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        reader = store.reader_of(token)
        if reader is None:
            raise HTTPException(403, "This link is not valid.")
        return reader

    async def session(request: Request) -> Response:
        reader = reader_of(request)
        answered = store.answered(reader)
        draft = answered[-1] if answered and not answered[-1].final else None
        return JSONResponse(
            {
                "reader": reader,
                "blocks": [item.block for item in store.items(reader)],
                "next": store.next_number(reader),
                "draft": {
                    "answers": draft.answers if draft else {},
                    "milliseconds": draft.milliseconds if draft else 0,
                },
                "questions": {
                    block: [dataclasses.asdict(question) for question in questions]
                    for block, questions in QUESTIONS.items()
                },
            }
        )

    async def image(request: Request) -> Response:
        reader = reader_of(request)
        number, side = request.path_params["number"], request.path_params["side"]
        items, current = store.items(reader), store.next_number(reader)
        if not current <= number <= current + 1 or number >= len(items):
            raise HTTPException(404, "This item is not the current or the next one.")
        if side >= len(items[number].images):
            raise HTTPException(404, "This item has no such radiograph.")
        path = study.image(items[number].images[side])
        if not path.is_file():
            raise HTTPException(503, "This radiograph is missing; restore the study from a copy.")
        return FileResponse(path, media_type="application/octet-stream")

    async def save(request: Request) -> Response:
        reader = reader_of(request)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BODY:
                raise HTTPException(413, "The answer is too long.")
        number, blocks = request.path_params["number"], store.items(reader)
        try:
            sent = json.loads(body)
            answers, milliseconds, final = sent["answers"], sent["milliseconds"], sent["final"]
            if type(milliseconds) is not int or not 0 <= milliseconds <= _LONGEST_MS:
                raise ValueError("the time is missing or out of range")
            if type(final) is not bool or type(answers) is not dict:
                raise ValueError("answers or final are missing or have the wrong type")
            check_answers(blocks[number].block, answers, final=final)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise HTTPException(422, "These answers are not valid.") from error
        try:
            store.save(reader, number, answers, milliseconds, final=final)
        except OutOfTurnError as error:
            raise HTTPException(409, "This item was already answered in another window.") from error
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/api/session", session),
            Route("/api/items/{number:number}", save, methods=["PUT"]),
            Route("/api/items/{number:number}/images/{side:number}", image),
            Mount("/", StaticFiles(directory=_WEB, html=True)),
        ],
        middleware=[
            # Refuses requests under another host name that resolves to loopback (DNS rebinding).
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_WithHeaders),
        ],
        exception_handlers={sqlite3.Error: _not_saved, ClientDisconnect: _gone},
    )


def serve(study: Study, store: AnswerStore, port: int) -> None:
    """Prints each reader's link and serves the study until it is interrupted.

    Raises:
        UserError: No reader was invited, or the port is in use.
    """
    readers = store.readers()
    if not readers:
        raise UserError("No reader was invited yet; add --invite with a code for each reader.")
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"Port {port}: {error.strerror}; choose another with --port.") from None
    config = uvicorn.Config(
        application(study, store),
        http=PromptHTTP,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    for reader, token in readers.items():
        done, items = store.next_number(reader), len(store.items(reader))
        link = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        print(f"{reader}  {done} of {items} done  {link}", flush=True)
    print("Ctrl-C stops the server; all answers are saved.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
