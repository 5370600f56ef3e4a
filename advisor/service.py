"""The advisor over HTTP: an application of FastAPI that answers programs, and people on a page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from advisor.evidence import Fitted
from advisor.questions import answered, situation_of
from advisor.recommend import recommend
from advisor.report import as_json
from advisor.situation import Situation
from sweeper import __version__
from sweeper.problems import OF_BODIES, REFUSALS, answer_in_a_line

Number = Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]


class Known(BaseModel):
    """What is known of model, data and budget; what is left out is unknown, and is never guessed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"large": True, "compute": "low"}]})

    large: bool | None = Field(None, description="Whether the model has more than 1 B parameters.")
    similar: bool | None = Field(None, description="Whether the task is like what it was pretrained on.")
    data: Literal["small", "medium", "large"] | None = Field(
        None, description="Labelled rows: up to 2,000, up to 50,000, more."
    )
    compute: Literal["low", "medium", "high"] | None = Field(
        None, description="GPU memory: below 24 GB, below 80 GB, more."
    )
    modality: Literal["text", "image", "tabular"] | None = None
    model_params: Number | None = Field(None, description="Parameters of the model; it answers `large`.")
    n_train: Annotated[int, Field(ge=1, lt=10**12)] | None = Field(
        None, description="Labelled training rows; they answer `data`."
    )
    gpu_memory: Number | None = Field(None, description="Bytes of GPU memory; they answer `compute`.")
    seq_len: Annotated[int, Field(ge=1, le=10**7)] | None = Field(
        None, description="Tokens of the longest texts, for the memory; 512 where nothing is said."
    )


class Health(BaseModel):
    """That the service answers."""

    status: str
    trials: int


def service(fitted: Fitted, source: str, with_token: bool = True) -> FastAPI:
    """Return the application; `sweeper.guard` goes in front of it.

    Args:
        fitted: What trials say.
        source: What answers call the file that it is from.
        with_token: Whether the guard asks for a token, which the schema then says.
    """
    # No pages of documentation: they would load their scripts from elsewhere.
    app = FastAPI(title="advisor serve", version=__version__, docs_url=None, redoc_url=None)
    by_token = [Depends(HTTPBearer(auto_error=False))] if with_token else []
    answer_in_a_line(app)

    def answer(known: Known) -> dict[str, Any]:
        try:
            return {**as_json(recommend(Situation(**known.model_dump()), fitted)), "fitted": source}
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    @app.get("/healthz", responses={403: REFUSALS[403], 429: REFUSALS[429]})
    async def healthz() -> Health:
        """Say that the service answers."""
        return Health(status="ok", trials=fitted.trials)

    @app.post("/recommend", responses={**REFUSALS, **OF_BODIES}, dependencies=by_token)
    def recommend_for(known: Known) -> dict[str, Any]:
        """Answer as `advisor recommend --format json` does."""
        return answer(known)

    @app.get("/recommend", responses={**REFUSALS, 422: OF_BODIES[422]}, dependencies=by_token)
    def recommend_to(known: Annotated[Known, Query()]) -> dict[str, Any]:
        """Answer as `advisor recommend --format json` does."""
        return answer(known)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def ask(request: Request) -> HTMLResponse:
        """Show the questions, and the answer to what was answered."""
        given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
        try:
            found = recommend(situation_of(given), fitted)
        except ValueError as error:
            return HTMLResponse(answered(given, None, str(error)), 422)
        return HTMLResponse(answered(given, found))

    return app
