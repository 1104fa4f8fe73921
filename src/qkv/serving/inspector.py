"""The inspector's HTTP interface: bounded input, JSON out, every complaint a sentence under `error`; and its page."""

import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from qkv.errors import UserError
from qkv.inspection.ablation import Head
from qkv.serving.examination import Look, Subject

LONGEST_TEXT = 4000  # characters
WIDEST_BEAM = 20
MOST_BYTES = 64 * 1024  # of a request
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_HEADERS = {
    # All is the page's own: no inline script or style, nothing from elsewhere, and no site may frame it.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# Not left to the machine's table of types: some call a script plain text, which browsers then refuse to run.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_log = logging.getLogger(__name__)


class HeadInQuestion(BaseModel):
    """A head; layers and heads count from 1."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["encoder", "decoder", "cross"]
    layer: int = Field(ge=1)
    head: int = Field(ge=1)


class Question(BaseModel):
    """What to look at. Without a beam or length penalty, the run's own are used."""

    model_config = ConfigDict(extra="forbid")
    model: int = Field(0, ge=0)
    source: str = Field(max_length=LONGEST_TEXT)
    prefix: Annotated[str, Field(max_length=LONGEST_TEXT)] | Annotated[list[int], Field(max_length=1024)] = ""
    beam: int | None = Field(None, ge=1, le=WIDEST_BEAM)
    n_best: int = Field(1, ge=1, le=WIDEST_BEAM)
    length_penalty: float | None = Field(None, ge=0, le=10)
    off: list[HeadInQuestion] = Field(default=[], max_length=512)
    show: int = Field(0, ge=0, lt=WIDEST_BEAM)


class AttributionQuestion(Question):
    """A question and the method by which it is to be answered."""

    method: str = Field("occlusion", max_length=40)


def create_app(subjects: Sequence[Subject], hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """The page at /, and what it asks for.

    GET /api/models describes the models. POST /api/examine, /api/attribution and /api/shapes take a `Question` and
    answer with what the `Subject`'s method says.

    Args:
        subjects: one model, or two to be compared.
        hosts: names that the server answers to. Others are refused, so that no site can reach it by a name of its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    _add_guard(app)
    _add_page(app)
    described = [subject.describe() for subject in subjects]

    def asked(question: Question) -> tuple[Subject, Look]:
        if question.model >= len(subjects):
            raise UserError(f"there is no model {question.model}: they count from 0 to {len(subjects) - 1}")
        subject = subjects[question.model]
        beam = subject.translator.beam_for(question.n_best) if question.beam is None else question.beam
        beam = max(question.n_best, beam)
        options = subject.translator.search_options(beam, question.length_penalty, question.n_best)
        off = [Head(head.kind, head.layer, head.head) for head in question.off]
        return subject, Look(question.source, options, question.prefix, off, question.show)

    @app.get("/api/models")
    async def models() -> list[dict[str, Any]]:
        return described

    # These are no coroutines: they compute in threads, and files are served meanwhile.

    @app.post("/api/examine")
    def examine(question: Question) -> dict[str, Any]:
        subject, look = asked(question)
        return subject.examine(look)

    @app.post("/api/attribution")
    def attribution(question: AttributionQuestion) -> dict[str, Any]:
        subject, look = asked(question)
        return subject.attribute(look, question.method)

    @app.post("/api/shapes")
    def shapes(question: Question) -> dict[str, Any]:
        subject, look = asked(question)
        return subject.shapes(look)

    return app


def _add_guard(app: FastAPI) -> None:
    """Refuse large requests, answer every fault with JSON, and say what a browser may do with an answer."""

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Response:
        response = await _guarded(request, proceed)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(HTTPException)
    async def pass_on(_: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str))
        return _refusal(422, f"{place}: {first['msg']}" if place else first["msg"])


async def _guarded(request: Request, proceed: Any) -> Response:
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MOST_BYTES:
        return _refusal(413, f"the request is too large: at most {MOST_BYTES:,} bytes")
    try:
        response: Response = await proceed(request)
    except Exception:
        _log.exception("%s %s failed", request.method, request.url.path)
        return _refusal(500, "something went wrong in the server; its terminal says what")
    return response


def _add_page(app: FastAPI) -> None:
    """The files that lie in `qkv/serving/page`, by their names: no path leads anywhere else."""
    content = {
        file.name: (file.read_bytes(), _TYPES[PurePath(file.name).suffix])
        for file in files("qkv.serving").joinpath("page").iterdir()
        if PurePath(file.name).suffix in _TYPES
    }

    @app.get("/")
    async def start() -> Response:
        return await file("index.html")

    @app.get("/{name}")
    async def file(name: str) -> Response:
        if name not in content:
            raise HTTPException(404, f"there is no {name} here")
        found, media_type = content[name]
        return Response(found, media_type=media_type)


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
