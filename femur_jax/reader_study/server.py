"""Web server of a study on loopback: serves the page and each reader's next radiographs.

A reader's link carries a token after '#', which browsers do not send; the page puts it into the
Authorization header of each request. Radiographs are requested by their number in the session, and
only those of the current and the next item are served.
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
    "Cache-Control": "no-store",  # keeps patients' radiographs out of the browser's cache
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


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
        return FileResponse(
            study.image(items[number].images[side]), media_type="application/octet-stream"
        )

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
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise HTTPException(422, "These answers are not valid.") from error
        try:
            store.save(reader, number, answers, milliseconds, final=final)
        except OutOfTurnError as error:
            raise HTTPException(409, "This item was already answered in another window.") from error
        except sqlite3.OperationalError as error:
            raise HTTPException(507, f"The server could not save the answers: {error}.") from error
        return Response(status_code=204)

    async def with_headers(
        request: Request, handle: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await handle(request)
        response.headers.update(_HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/api/session", session),
            Route("/api/items/{number:int}", save, methods=["PUT"]),
            Route("/api/items/{number:int}/images/{side:int}", image),
            Mount("/", StaticFiles(directory=_WEB, html=True)),
        ],
        middleware=[
            # Refuses requests under another host name that resolves to loopback (DNS rebinding).
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=with_headers),
        ],
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
        application(study, store), log_config=None, log_level="error", access_log=False
    )
    for reader, token in readers.items():
        done, items = store.next_number(reader), len(store.items(reader))
        link = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
        print(f"{reader}  {done} of {items} done  {link}", flush=True)
    print("Ctrl-C stops the server; all answers are saved.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
