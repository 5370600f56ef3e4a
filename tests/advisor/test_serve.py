"""The advisor as a service: the same answers as the command's, and a page that people can use."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from advisor.evidence import PACKAGED, load
from advisor.questions import answered, situation_of
from advisor.recommend import recommend
from advisor.situation import Situation
from tests.browser import assert_accessible, opened, overflow
from tests.conftest import Command
from tests.serving import TOKEN, Running, check_against_schema, start

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from advisor.service import service
from sweeper.guard import Guard, Limits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    started = start("advisor", "serve", "--port", "0", "--fitted", str(PACKAGED))
    yield started
    started.end()


@pytest.mark.parametrize(
    ("known", "flags"),
    [
        ({"large": True, "compute": "low"}, ["--large-model", "--compute", "low"]),
        (
            {"model_params": 40000, "n_train": 100, "modality": "image", "similar": False},
            ["--model-params", "40k", "--n-train", "100", "--modality", "image", "--task-different"],
        ),
    ],
)
def test_programs_get_what_the_command_prints(
    running: Running, known: dict[str, Any], flags: list[str], command: Command
) -> None:
    wanted = json.loads(command("advisor", "recommend", "--format", "json", *flags).stdout)
    with running.client() as client:
        posted = client.post("/recommend", json=known)
        got = client.get("/recommend", params={key: str(value).lower() for key, value in known.items()})
        assert client.post("/recommend", json={**known, "more": 1}).status_code == 422
        wrong = client.post("/recommend", json={"large": False, "model_params": 7e9})
        assert client.get("/healthz", headers={"Authorization": ""}).json()["status"] == "ok"
        assert client.post("/recommend", json=known, headers={"Authorization": ""}).status_code == 401
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert client.post("/recommend", json=known, headers={"Origin": "http://evil.example"}).status_code == 403
    assert posted.json() == got.json() == {**wanted, "fitted": "shipped"}
    assert wrong.status_code == 422
    assert wrong.json() == {
        "detail": "a small model contradicts 7,000,000,000 parameters, which is a large model: leave one out"
    }


def test_answers_are_as_the_schema_says() -> None:
    pytest.importorskip("schemathesis")
    app = Guard(service(load(PACKAGED), "it"), TOKEN, {"testserver"}, limits=Limits(per_minute=10**6))
    schema = check_against_schema(app, examples=12)
    assert {*schema["paths"]} == {"/healthz", "/recommend"}


def answer_the_questions(shown: Page, answers: dict[str, str]) -> None:
    for question, answer in answers.items():
        shown.get_by_role("group", name=question).get_by_label(answer, exact=True).check()
    shown.get_by_role("button", name="Recommend").click()


@pytest.mark.parametrize("width", [1400, 400])
def test_people_answer_four_questions_and_read_what_to_take(running: Running, browser: Browser, width: int) -> None:
    link = re.search(r"http\S+\?token=\S+", running.said)
    assert link
    with opened(browser, link[0], width=width, origin=running.address) as shown:
        assert shown.url == f"{running.address}/", "the token does not stay in the address"
        assert shown.inner_text(".says h2") == "It depends"
        assert_accessible(shown)
        questions = {
            "Is the model large?": "Yes",
            "How many labelled rows are there?": "Small",
            "How much GPU memory is there?": "Low",
            "Is the task like what the model was pretrained on?": "No",
        }
        answer_the_questions(shown, questions)
        assert shown.inner_text(".says h2") == "lora or prompt_tuning"
        assert "by the rules, for a large model" in shown.inner_text(".says")
        assert "arXiv 2106.09685" in shown.inner_text("main")
        for question, answer in questions.items():
            assert shown.get_by_role("group", name=question).get_by_label(answer, exact=True).is_checked()
        assert overflow(shown) == 0
        assert_accessible(shown)
        keep(shown, f"rules-{width}")
        shown.get_by_role("link", name="Start over").click()
        assert shown.inner_text(".says h2") == "It depends"
        shown.get_by_text("Numbers, where you have them").click()
        shown.get_by_label("What the rows are").select_option("image")
        shown.get_by_label("Parameters of the model").fill("40k")
        shown.get_by_label("Labelled training rows").fill("100")
        answer_the_questions(shown, {"Is the task like what the model was pretrained on?": "No"})
        wanted = recommend(Situation(model_params=4e4, n_train=100, modality="image", similar=False), load(PACKAGED))
        assert wanted.spoke == "evidence"
        assert shown.inner_text(".says h2") == wanted.candidates[0].strategy
        assert shown.locator("tbody tr").count() == len(wanted.candidates)
        assert shown.get_by_label("Parameters of the model").input_value() == "40k"
        assert overflow(shown) == 0
        assert_accessible(shown)
        keep(shown, f"evidence-{width}")
        shown.get_by_role("link", name="As JSON").click()
        assert json.loads(shown.inner_text("pre"))["spoke"] == "evidence"


def keep(shown: Page, name: str) -> None:
    """Keep a screenshot for people to look at, where the environment names a folder for them."""
    folder = os.environ.get("SWEEPER_SCREENSHOTS")
    if folder:
        shown.screenshot(path=Path(folder) / f"questions-{name}.png", full_page=True)


def test_the_page_is_for_those_who_have_the_link(running: Running) -> None:
    with running.client(Authorization="") as client:
        assert client.get("/").status_code == 401
        cookie = client.get("/", params={"token": running.token, "large": "true"})
        assert (cookie.status_code, cookie.headers["location"]) == (303, "/?large=true")
        assert "HttpOnly; SameSite=Strict" in cookie.headers["set-cookie"]
        page = client.get(cookie.headers["location"])  # the client keeps cookies
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert 'value="true" checked' in page.text


def test_what_is_filled_in_is_shown_and_never_becomes_markup(running: Running) -> None:
    hostile = '"><script>alert(1)</script>'
    with running.client() as client:
        page = client.get("/", params={"model_params": hostile})
    assert page.status_code == 422
    assert "<script" not in page.text
    assert "is not a number of parameters" in page.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"large": "maybe"}, "no answer named 'maybe' to large. Available: false, true"),
        ({"data": "huge"}, "no answer named 'huge' to data"),
        ({"n_train": "-5"}, "'-5' is no number of rows"),
        ({"n_train": "9" * 5000}, "is no number of rows"),
        ({"gpu_memory": "much"}, "'much' is not an amount of memory"),
        ({"lage": "true"}, "no field named 'lage'. Did you mean 'large'"),
        ({"large": "true", "model_params": "40k"}, "a large model contradicts 40,000 parameters"),
    ],
)
def test_a_field_that_is_none_is_told(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        situation_of(given)


def test_the_page_says_what_fits_and_how_to_ask_the_same() -> None:
    given = {"model_params": "7B", "n_train": "1000", "modality": "text", "gpu_memory": "16GB", "similar": "false"}
    situation = situation_of(given)
    page = answered(given, recommend(situation, load(PACKAGED)))
    assert "Of that, what fits into 16 GB: qlora." in page
    line = "--model-params 7000000000 --task-different --n-train 1000 --gpu-memory 16GB --modality text"
    asked = re.search(r"advisor recommend ([^<]*)<", page)
    assert asked
    assert sorted(asked[1].split()) == sorted(line.split())
