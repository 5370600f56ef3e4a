"""Who gets past the guard: the application behind it tells whether it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from sweeper.guard import Guard, Limits, Message, Receive, Send
from tests.serving import TOKEN

PORT = 8000


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answer with what was sent; as a page where a page was asked for."""
    body = (await receive())["body"]
    kind = b"text/html; charset=utf-8" if scope["path"] == "/" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"echo " + body})


def ask(
    guard: Guard,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    parts: list[bytes] | None = None,
    query: str = "",
    slow: float = 0.0,
    client: str = "127.0.0.1",
    method: str = "GET",
) -> tuple[int, dict[str, str], str]:
    """Send a request, its body in parts, and return status, headers and body of the answer."""
    given = {"host": f"localhost:{PORT}", "authorization": f"Bearer {TOKEN}", **(headers or {})}
    left = list(parts or [b""])
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(slow)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in given.items() if value],
        "client": (client, 1),
        "server": ("127.0.0.1", PORT),
    }
    asyncio.run(guard(scope, receive, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]).decode()


def guard(token: str | None = TOKEN, **more: Any) -> Guard:
    return Guard(echo, token, {"localhost", "127.0.0.1", "::1", "box.example"}, **more)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "box.example.:80", "Box.Example"]
)
def test_own_names_pass(host: str) -> None:
    assert ask(guard(), headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "192.0.2.7", "[", ":"],
)
def test_other_names_do_not(host: str) -> None:
    status, _, body = ask(guard(), headers={"host": host})
    assert status == 403
    assert "echo" not in body


def test_any_address_is_ours_where_every_address_is_listened_on_and_still_no_name() -> None:
    outside = guard(addresses=True)
    assert ask(outside, headers={"host": "192.0.2.7:8000"})[0] == 200
    assert ask(outside, headers={"host": "[2001:db8::1]:8000"})[0] == 200
    assert ask(outside, headers={"host": "rebound.example:8000"})[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://localhost:{PORT}", 200),
        (f"https://localhost:{PORT}", 200),
        ("http://localhost:8001", 403),
        ("http://evil.example", 403),
        (f"http://localhost:{PORT}.evil.example", 403),
        ("null", 403),
        ("x", 403),
    ],
)
def test_pages_of_others_may_not_ask(origin: str, status: int) -> None:
    assert ask(guard(), headers={"origin": origin}, method="POST")[0] == status


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "é"]
)
def test_without_the_token_nothing_but_health_is_told(authorization: str) -> None:
    for path in ("/", "/predict", "/openapi.json", "/healthz/", "//healthz"):
        status, headers, body = ask(guard(), path, {"authorization": authorization})
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "echo" not in body
    assert ask(guard(), "/healthz", {"authorization": authorization})[0] == 200
    assert ask(guard(None), "/predict", {"authorization": authorization})[0] == 200


def test_a_link_with_the_token_becomes_a_cookie_and_a_clean_address() -> None:
    page, nothing = guard(pages=True), {"authorization": ""}
    status, headers, _ = ask(page, "/", nothing, query=f"a=b%26c&token={TOKEN}&d=")
    assert (status, headers["location"]) == (303, "/?a=b%26c&d=")
    cookie, *how = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= {*how}
    assert ask(page, "/", {**nothing, "cookie": f"x=1; {cookie}"})[0] == 200
    assert ask(page, "/", {**nothing, "cookie": cookie[:-1]})[0] == 401
    assert ask(page, "/", {**nothing, "cookie": cookie.replace(str(PORT), "1")})[0] == 401, "another service's"
    assert ask(page, "/", nothing, query=f"token={TOKEN}x")[0] == 401
    assert ask(page, "/", nothing, query=f"token={TOKEN}", method="POST")[0] == 401
    assert ask(guard(), "/", nothing, query=f"token={TOKEN}")[0] == 401, "a service without pages takes headers alone"
    assert ask(guard(), "/", {**nothing, "cookie": cookie})[0] == 401
    for path in ("//evil.example", "/\\evil.example", "/x\r\ny"):
        location = ask(page, path, nothing, query=f"token={TOKEN}")[1]["location"]
        assert location.startswith("/")
        assert location[1] not in "/\\"
        assert location.isprintable()


def test_bodies_have_an_end() -> None:
    small = guard(limits=Limits(body_bytes=10, seconds=0.2))
    assert ask(small, parts=[b"12345", b"", b"67890"])[2] == "echo 1234567890"
    assert ask(small, parts=[b"12345", b"67890", b"1"])[0] == 413
    assert ask(small, headers={"content-length": "11"})[0] == 413
    assert ask(small, headers={"content-length": "9" * 5000})[0] == 413
    assert ask(small, headers={"content-length": "-1"}, parts=[b"1"])[2] == "echo 1"
    assert ask(small, parts=[b"1", b"2", b"3"], slow=0.15)[0] == 408


def test_who_asks_too_often_waits_and_others_do_not() -> None:
    three = guard(limits=Limits(per_minute=3))
    assert [ask(three)[0] for _ in range(4)] == [200, 200, 200, 429]
    status, headers, body = ask(three, headers={"authorization": ""})
    assert (status, body) == (429, '{"detail": "more than 3 requests a minute"}'), "guesses count too"
    assert 15 <= int(headers["retry-after"]) <= 20
    assert ask(three, client="127.0.0.2")[0] == 200
    for number in range(2000):
        three.rate.wait(str(number))
    assert len(three.rate.left) <= 1024


def test_what_is_spent_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sweeper.guard.time.monotonic", lambda: now[0])
    two = guard(limits=Limits(per_minute=2))
    assert [ask(two)[0] for _ in range(3)] == [200, 200, 429]
    now[0] += float(ask(two)[1]["retry-after"])
    assert [ask(two)[0] for _ in range(2)] == [200, 429]


def test_no_answer_is_kept_framed_or_guessed_at() -> None:
    for path, policy in (("/", "frame-ancestors 'none'"), ("/x", "default-src 'none'; frame-ancestors 'none'")):
        _, headers, _ = ask(guard(), path)
        assert headers["content-security-policy"] == policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    _, headers, _ = ask(guard(), headers={"authorization": ""})
    assert headers["cache-control"] == "no-store"
