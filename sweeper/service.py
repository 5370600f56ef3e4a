"""Fine-tuned models over HTTP: an application of FastAPI that asks `sweeper.predict`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from sweeper import __version__
from sweeper.guard import Limits
from sweeper.predict import Predictor
from sweeper.problems import OF_BODIES, REFUSALS, answer_in_a_line

MOST_INPUTS = 64

Value = str | bool | int | float | None
One = str | list[Value] | dict[str, Value]


class Question(BaseModel):
    """One input or a batch of them, and which adapter is to answer."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": ["a film that one sees twice"]}]}
    )

    inputs: Annotated[
        str | dict[str, Value] | Annotated[list[One], Field(min_length=1, max_length=MOST_INPUTS)],
        Field(
            description="A text; an image's file in base64; a row of a table, column by column; or a list of such. "
            "In a list, a sentence may also be the list of its words, and a row the list of its values."
        ),
    ]
    adapter: str | None = Field(None, description="Its name; may be left out where there is one alone.")


class Word(BaseModel):
    """A word and its tag."""

    word: str
    label: str
    score: float


class Prediction(BaseModel):
    """An answer: `label` and `score` of a class, the `value` of a number, the `text` written, or the tagged `words`."""

    label: str | None = None
    score: float | None = Field(None, description="Probability of the label.")
    value: float | None = None
    text: str | None = None
    words: list[Word] | None = None


class Predictions(BaseModel):
    """An answer to each input, in their order."""

    adapter: str
    predictions: list[Prediction]


class Adapter(BaseModel):
    """What can be asked."""

    name: str
    strategy: str
    base: str
    work: str
    modality: str
    labels: list[str]
    columns: list[str]
    test_score: float | None


class Health(BaseModel):
    """That the service answers."""

    status: str
    adapters: int


def service(predictors: Mapping[str, Predictor], with_token: bool = True, limits: Limits | None = None) -> FastAPI:
    """Return the application; `sweeper.guard` goes in front of it.

    Args:
        predictors: By the names that requests call them.
        with_token: Whether the guard asks for a token, which the schema then says.
        limits: How long a request waits for its turn.
    """
    seconds = (limits or Limits()).seconds
    # No pages of documentation: they would load their scripts from elsewhere.
    app = FastAPI(title="sweeper serve", version=__version__, docs_url=None, redoc_url=None)
    by_token = [Depends(HTTPBearer(auto_error=False))] if with_token else []
    answer_in_a_line(app)

    @app.get("/healthz", responses={403: REFUSALS[403], 429: REFUSALS[429]})
    async def healthz() -> Health:
        """Say that the service answers."""
        return Health(status="ok", adapters=len(predictors))

    @app.get("/adapters", responses=REFUSALS, dependencies=by_token)
    async def adapters() -> list[Adapter]:
        """List what can be asked."""
        return [_described(name, predictor) for name, predictor in predictors.items()]

    @app.post("/predict", responses={**REFUSALS, **OF_BODIES}, dependencies=by_token, response_model_exclude_none=True)
    def predict(question: Question) -> Predictions:
        """Answer to one input or a batch."""
        name = question.adapter
        if name is None:
            if len(predictors) > 1:
                raise HTTPException(422, f"adapter: name one of {', '.join(predictors)}")
            name = next(iter(predictors))
        if name not in predictors:
            raise HTTPException(422, f"no adapter named {name[:80]!r}. Available: {', '.join(predictors)}")
        inputs: list[Any] = question.inputs if isinstance(question.inputs, list) else [question.inputs]
        try:
            if predictors[name].signature.modality == "image":
                inputs = [_decoded(value, number) for number, value in enumerate(inputs, 1)]
            answers = predictors[name].predict(inputs, seconds)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        except TimeoutError:
            raise HTTPException(503, "others are being answered", {"Retry-After": "5"}) from None
        return Predictions(adapter=name, predictions=[Prediction(**answer) for answer in answers])

    return app


def _described(name: str, predictor: Predictor) -> Adapter:
    facts, signature = predictor.facts, predictor.signature
    columns = signature.features.columns if signature.features else {}
    return Adapter(
        name=name,
        strategy=facts.strategy,
        base=facts.base,
        work=signature.work,
        modality=signature.modality,
        labels=list(signature.labels),
        columns=list(columns),
        test_score=facts.scores.get("test_score"),
    )


def _decoded(value: Any, number: int) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"input {number}: an image is read here: give its file in base64") from None
