"""The service as it runs: a process that listens, asked over HTTP by friends and by others."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sweeper.predict import Answer, load, load_all
from tests import asked
from tests.conftest import Called
from tests.serving import TOKEN, Running, check_against_schema, start

pytest.importorskip("transformers")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

from sweeper.guard import Guard, Limits
from sweeper.service import MOST_INPUTS, service

EVERYWHERE = "0.0.0.0"  # noqa: S104 - refused without a token
TEXTS = [text for text, _ in asked.texts(9)][:6]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Two adapters on one base that mean the opposite of one another, and one for tables."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("served")
        patch.setenv("SWEEPER_DATA", str(place / "kept"))
        model = asked.bert(place / "bert")
        yield {
            "mood": asked.sentiment(place / "mood", model),
            "gloom": asked.sentiment(place / "gloom", model, names=("happy", "sad")),
            "prices": asked.prices(place / "prices"),
        }


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Running]:
    started = start("sweeper", "serve", *(f"{name}={folder}" for name, folder in folders.items()), "--port", "0")
    yield started
    started.end()


def about(answer: Answer) -> dict[str, Any]:
    """Return what compares equal but for the last digits: a service has more threads, which sum in another order."""
    return {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for key, value in answer.items()}


def test_the_line_that_is_printed_asks(running: Running, folders: dict[str, Path]) -> None:
    assert re.match(r"Serving mood, gloom, prices on http://127\.0\.0\.1:\d+; Ctrl-C ends it", running.said)
    question = re.search(r"-d '(.*)'", running.said)
    assert question
    with running.client() as client:
        answer = client.post("/predict", content=question[1], headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
        (wanted,) = load(folders["mood"]).predict(["a text"])
        assert answer.json() == {"adapter": "mood", "predictions": [about(wanted)]}
        assert client.get("/healthz", headers={"Authorization": ""}).json() == {"status": "ok", "adapters": 3}
        listed = {one["name"]: one for one in client.get("/adapters").json()}
    assert listed["gloom"]["labels"] == ["happy", "sad"]
    assert listed["prices"]["columns"] == ["age", "colour"]


def test_each_of_many_at_once_gets_the_answer_of_its_own_adapter(running: Running, folders: dict[str, Path]) -> None:
    rows = [{"age": 40, "colour": "red"}, {"age": 20.5, "colour": "blue"}]
    inputs = {"mood": TEXTS, "gloom": TEXTS, "prices": rows}
    local = load_all(folders)
    wanted = {name: local[name].predict(inputs[name]) for name in inputs}
    assert {one["label"] for one in wanted["mood"]} <= {"kind", "unkind"}
    assert {one["label"] for one in wanted["gloom"]} <= {"happy", "sad"}
    with running.client() as client, ThreadPoolExecutor(12) as threads:
        names = [*inputs] * 12
        asks = [lambda n=name: client.post("/predict", json={"adapter": n, "inputs": inputs[n]}) for name in names]
        for name, answer in zip(names, threads.map(lambda ask: ask(), asks), strict=True):
            assert answer.status_code == 200, answer.text
            assert answer.json() == {"adapter": name, "predictions": [about(one) for one in wanted[name]]}


REFUSED: list[tuple[dict[str, str], Any, int, str]] = [
    ({"Authorization": ""}, {"inputs": "x"}, 401, "no token, or a wrong one"),
    ({"Authorization": "Bearer guess"}, {"inputs": "x"}, 401, "no token, or a wrong one"),
    ({"Host": "rebound.example"}, {"inputs": "x"}, 403, "the service has no name 'rebound.example'"),
    ({"Origin": "http://evil.example"}, {"inputs": "x"}, 403, "pages of 'http://evil.example' may not ask here"),
    ({"Origin": "null"}, {"inputs": "x"}, 403, "pages of 'null'"),
    ({}, {"inputs": "x"}, 422, "adapter: name one of mood, gloom, prices"),
    ({}, {"inputs": "x", "adapter": "moood"}, 422, "no adapter named 'moood'. Available: mood, gloom, prices"),
    ({}, {"inputs": [], "adapter": "mood"}, 422, "inputs: "),
    ({}, {"inputs": ["x"] * (MOST_INPUTS + 1), "adapter": "mood"}, 422, "inputs: "),
    ({}, {"inputs": ["x", " "], "adapter": "mood"}, 422, "input 2: a text is read here, got ' '"),
    ({}, {"inputs": {"age": "old", "colour": "red"}, "adapter": "prices"}, 422, "input 1: 'age' must be a finite"),
    ({}, {"text": "x"}, 422, "inputs: Field required"),
    ({}, {"inputs": "x" * 9_000_000, "adapter": "mood"}, 413, "a body of more than 8,388,608 bytes"),
]


@pytest.mark.parametrize(("headers", "question", "status", "says"), REFUSED)
def test_what_is_not_answered_is_told_in_a_line(
    running: Running, headers: dict[str, str], question: Any, status: int, says: str
) -> None:
    with running.client(**headers) as client:
        answer = client.post("/predict", json=question)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(says)
    assert "\n" not in answer.json()["detail"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not {name for name in answer.headers if name.startswith("access-control")}
    assert "server" not in answer.headers


def test_a_port_that_is_taken_ends_in_a_line(running: Running, folders: dict[str, Path], called: Called) -> None:
    code, _, error = called("serve", str(folders["mood"]), "--port", running.address.rpartition(":")[2])
    assert code == 1
    assert re.fullmatch(
        r"Error: port \d+ of 127\.0\.0\.1 is in use: --port takes another, --port 0 a free one\n", error
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--host", EVERYWHERE, "--no-token"], r"--host 0\.0\.0\.0 is seen by other machines: leave out --no-token"),
        (["--host", "no.such.name.invalid"], "'no.such.name.invalid' is no address or name of this machine"),
        (["--token-file", "none.txt"], "--token-file 'none.txt' cannot be read: No such file"),
        (["--token-file", "x", "--no-token"], "contradict one another"),
        (["other=elsewhere"], "there is no folder 'elsewhere'"),
        (["{mood}"], r"two adapters are named 'mood': NAME=.* gives another name"),
        (["a b={mood}"], "'a b' is no name for an adapter"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(
    line: list[str], says: str, folders: dict[str, Path], called: Called
) -> None:
    mood = str(folders["mood"])
    code, _, error = called("serve", mood, "--port", "0", *(part.format(mood=mood) for part in line))
    assert code == 2
    assert re.fullmatch(rf"Error: .*{says}.*\n", error)


def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    folders: dict[str, Path], called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.listen.importlib.util.find_spec", lambda name: None)
    code, _, error = called("serve", str(folders["mood"]))
    assert code == 2
    assert error == "Error: sweeper serve needs FastAPI and uvicorn: pip install 'sweeper-advisor[serve]'\n"


def test_a_token_of_ones_own_is_not_printed(
    folders: dict[str, Path], called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeper.serve_cli.answer", lambda app, door: print("token", app.token))
    monkeypatch.setenv("SWEEPER_TOKEN", TOKEN)
    code, out, error = called("serve", str(folders["mood"]), "--port", "0")
    assert (code, out) == (0, f"token {TOKEN}\n")
    assert "Bearer $SWEEPER_TOKEN" in error
    assert TOKEN not in error
    (tmp_path / "token").write_text(f"{TOKEN}-2\n")
    _, out, error = called("serve", str(folders["mood"]), "--port", "0", "--token-file", str(tmp_path / "token"))
    assert out == f"token {TOKEN}-2\n"
    assert TOKEN not in error
    monkeypatch.setenv("SWEEPER_TOKEN", "short")
    code, _, error = called("serve", str(folders["mood"]), "--port", "0")
    assert code == 2
    assert "the token in SWEEPER_TOKEN must be 16 to 512" in error
    code, out, error = called("serve", str(folders["mood"]), "--port", "0", "--no-token")
    assert out == "token None\n"
    assert "Authorization" not in error


def test_ctrl_c_ends_it_without_a_trace(folders: dict[str, Path]) -> None:
    started = start("sweeper", "serve", str(folders["prices"]), "--port", "0")
    port = int(started.address.rpartition(":")[2])
    with pytest.raises(OSError, match=r"refused|unreachable"):  # it listens on this machine's inner address alone
        socket.create_connection((_outer_address(), port), timeout=2)
    started.process.send_signal(signal.SIGINT)
    _, error = started.process.communicate(timeout=20)
    assert started.process.returncode == 130
    assert not error.strip()


def _outer_address() -> str:
    """Return an address of this machine that others would use; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no outer address")
        return str(probe.getsockname()[0])


def test_answers_are_as_the_schema_says(folders: dict[str, Path]) -> None:
    app = Guard(service(load_all(folders)), TOKEN, {"testserver"}, limits=Limits(per_minute=10**6))
    schema = check_against_schema(app, examples=15)
    assert {*schema["paths"]} == {"/healthz", "/adapters", "/predict"}
    assert {"200", "401", "403", "413", "422", "429", "503"} <= {*schema["paths"]["/predict"]["post"]["responses"]}
    assert json.dumps(schema).count("HTTPBearer") >= 2
