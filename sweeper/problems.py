"""What the HTTP services say where they do not answer: one line, in every case."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Problem(BaseModel):
    """Why there is no answer, in a line."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No token, or a wrong one"},
    403: {"model": Problem, "description": "A foreign Host or Origin"},
    429: {"model": Problem, "description": "Too many requests; Retry-After says when to come again"},
}
OF_BODIES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "A body that is no JSON"},
    408: {"model": Problem, "description": "A body that did not come in time"},
    413: {"model": Problem, "description": "A body that is too large"},
    422: {"model": Problem, "description": "A question that cannot be answered"},
    503: {"model": Problem, "description": "Others are being answered; Retry-After says when to come again"},
}


def answer_in_a_line(app: FastAPI) -> None:
    """Let what is wrong with a request be told in one line, as everywhere."""

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = next((part for part in first["loc"][1:2] if isinstance(part, str)), "")
        return JSONResponse({"detail": f"{where}: {first['msg']}" if where else str(first["msg"])}, 422)
