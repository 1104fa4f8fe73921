"""The inspector's HTTP interface: bounded input, JSON out, every complaint a sentence under `error`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from qkv.errors import UserError
from qkv.inspection.ablation import Head
from qkv.serving.examination import Subject

LONGEST_TEXT = 4000  # characters
WIDEST_BEAM = 20
MOST_BYTES = 64 * 1024  # of a request


class HeadInQuestion(BaseModel):
    """A head; layers and heads count from 0."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["encoder", "decoder", "cross"]
    layer: int = Field(ge=0)
    head: int = Field(ge=0)


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


def create_app(subjects: Sequence[Subject], hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> FastAPI:
    """GET /api/models describes the models; POST /api/examine answers a `Question` by `Subject.examine`.

    Args:
        subjects: one model, or two to be compared.
        hosts: names that the server answers to. Others are refused, so that no site can reach it by a name of its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Any:
        length = request.headers.get("content-length", "0")
        if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MOST_BYTES:
            return _refusal(413, f"the request is too large: at most {MOST_BYTES:,} bytes")
        response = await proceed(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.exception_handler(UserError)
    def refuse(_: Request, error: UserError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str))
        return _refusal(422, f"{place}: {first['msg']}" if place else first["msg"])

    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        return [subject.describe() for subject in subjects]

    @app.post("/api/examine")
    def examine(question: Question) -> dict[str, Any]:
        if question.model >= len(subjects):
            raise UserError(f"there is no model {question.model}: they count from 0 to {len(subjects) - 1}")
        subject = subjects[question.model]
        options = subject.translator.options
        beam = max(question.n_best, options.beam if question.beam is None else question.beam)
        penalty = options.length_penalty if question.length_penalty is None else question.length_penalty
        return subject.examine(
            question.source,
            options=replace(options, beam=beam, n_best=question.n_best, length_penalty=penalty),
            prefix=question.prefix,
            off=[Head(head.kind, head.layer, head.head) for head in question.off],
            show=question.show,
        )

    return app


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
