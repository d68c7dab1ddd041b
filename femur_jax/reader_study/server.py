"""The web server of a study, on loopback: the page, and for each reader the next radiograph.

A reader's link carries a token after '#', which browsers send to nobody; the page puts it into
each request's Authorization header. Radiographs are asked for by their number in the session, and
only the next two are given.
"""

import contextlib
import dataclasses
import json
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from femur_jax.errors import UserError
from femur_jax.reader_study.answers import AnswerStore, OutOfTurnError
from femur_jax.reader_study.questions import QUESTIONS, check_answers
from femur_jax.reader_study.study import Study

HOST = "127.0.0.1"
_WEB = Path(__file__).parent / "web"
_LARGEST_BODY = 1 << 16
_LONGEST_MS = 10**9
_HEADERS = {
    "Cache-Control": "no-store",  # patients' radiographs do not stay in a browser's cache
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(study: Study, store: AnswerStore) -> Starlette:
    """The ASGI application.

    Its functions do not yield between reading and writing the store, so requests of several
    readers take turns.
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
        number, place = request.path_params["number"], request.path_params["place"]
        items, due = store.items(reader), store.next_number(reader)
        if not due <= number <= due + 1 or number >= len(items):
            raise HTTPException(404, "This radiograph is not due.")
        if place >= len(items[number].images):
            raise HTTPException(404, "There is no such radiograph.")
        return FileResponse(
            study.image(items[number].images[place]), media_type="application/octet-stream"
        )

    async def save(request: Request) -> Response:
        reader = reader_of(request)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                raise HTTPException(413, "The answer is too long.")
        number, blocks = request.path_params["number"], store.items(reader)
        try:
            sent = json.loads(body)
            answers, milliseconds, final = sent["answers"], sent["milliseconds"], sent["final"]
            if type(milliseconds) is not int or not 0 <= milliseconds <= _LONGEST_MS:
                raise ValueError("no time")
            if type(final) is not bool or type(answers) is not dict:
                raise ValueError("no answers, or not said whether final")
            check_answers(blocks[number].block, answers, final=final)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise HTTPException(422, "This is no answer.") from error
        try:
            store.save(reader, number, answers, milliseconds, final=final)
        except OutOfTurnError as error:
            raise HTTPException(409, "Another window of this reader went on.") from error
        except sqlite3.OperationalError as error:
            raise HTTPException(507, f"The server could not save: {error}.") from error
        return Response(status_code=204)

    async def with_headers(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/api/session", session),
            Route("/api/items/{number:int}", save, methods=["PUT"]),
            Route("/api/items/{number:int}/images/{place:int}", image),
            Mount("/", StaticFiles(directory=_WEB, html=True)),
        ],
        middleware=[
            # A page of another name that resolves to loopback is refused (DNS rebinding).
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=with_headers),
        ],
    )


def serve(study: Study, store: AnswerStore, port: int) -> None:
    """Prints each reader's link and serves until interrupted.

    Raises:
        UserError: No reader was invited, or the port is taken.
    """
    readers = store.readers()
    if not readers:
        raise UserError("No reader was invited yet; add --invite with a code for each.")
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"Port {port}: {error.strerror}; name another with --port.") from None
    config = uvicorn.Config(
        application(study, store), log_config=None, log_level="error", access_log=False
    )
    for reader, token in readers.items():
        done, items = store.next_number(reader), len(store.items(reader))
        link = f"http://{HOST}:{listening.getsockname()[1]}/#{token}"
        print(f"{reader}  {done} of {items} done  {link}", flush=True)
    print("Ctrl-C ends the server; nothing is lost.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
