"""Who may ask a local HTTP service, and how much: plain ASGI, in front of any application.

A page in a browser on the same machine can send requests to a loopback address too. Therefore a token is asked for; a
foreign Host (a name that was made to point here: DNS rebinding) and a foreign Origin (another site's page: CSRF) are
refused; and no answer may be kept, framed, or read by another site.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = "/healthz"
"""Asked without a token, by what watches over services."""
MOST_CLIENTS = 1024
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# A page brings its own policy (`sweeper.page`), which cannot say who may frame it.
POLICY, PAGE_POLICY = "default-src 'none'; frame-ancestors 'none'", "frame-ancestors 'none'"


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        body_bytes: Of one request.
        seconds: Until a request's body is there, and until its turn comes.
        per_minute: Requests of one address, on average; so many may come at once.
    """

    body_bytes: int = 8 * 2**20
    seconds: float = 30.0
    per_minute: int = 600


class _RefusedError(Exception):
    """A request that the application never sees."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """An ASGI application in front of another.

    Args:
        app: The other.
        token: What requests must carry as ``Authorization: Bearer TOKEN``; ``None`` for no token.
        hosts: Names and addresses that the service may be called by.
        addresses: Whether it may be called by any address: an address cannot be rebound as a name can.
        pages: Whether people open it in a browser: ``?token=TOKEN`` becomes a cookie.
        limits: What a client may ask for.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        hosts: Collection[str],
        addresses: bool = False,
        pages: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.app, self.token, self.pages, self.addresses = app, token, pages, addresses
        self.hosts = {host.lower() for host in hosts}
        self.limits = limits or Limits()
        self.rate = _Rate(self.limits.per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            self._check(scope)
            body = await self._body(scope, receive)
        except _RefusedError as refused:
            return await _answer(refused, _safe(send))
        await self.app(scope, _again(body, receive), _safe(send))

    def _check(self, scope: Message) -> None:
        headers = scope["headers"]
        host = _only(headers, b"host")
        if not self._is_ours(host):
            raise _RefusedError(403, f"the service has no name {host[:100]!r}; --allow-host NAME gives it one")
        if any(key == b"origin" for key, _ in headers):
            origin = _only(headers, b"origin")
            if urlsplit(origin).netloc.lower() != host.lower():
                raise _RefusedError(403, f"pages of {origin[:100]!r} may not ask here")
        wait = self.rate.wait(scope["client"][0] if scope.get("client") else "")
        if wait:
            raise _RefusedError(429, f"more than {self.limits.per_minute} requests a minute", **{"retry-after": wait})
        if self.token is not None and scope["path"] != OPEN:
            self._check_token(scope, self.token)

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        name = name.partition("]")[0].removeprefix("[") if name.startswith("[") else name.rpartition(":")[0] or name
        name = name.removesuffix(".")
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.addresses

    def _check_token(self, scope: Message, token: str) -> None:
        given = [value for key, value in scope["headers"] if key == b"authorization"]
        kind, _, carried = (given[0] if given else b"").partition(b" ")
        if kind.lower() == b"bearer" and _equal(carried.strip(), token):
            return
        cookie = f"token-{(scope.get('server') or ('', 0))[1]}"  # a browser sends cookies to every port of a host
        if self.pages and _equal(_cookie(scope["headers"], cookie), token):
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = dict(query).get("token", "")
        if self.pages and scope["method"] == "GET" and _equal(shown.encode(), token):
            path = "/" + quote(scope["path"].lstrip("/"))  # two slashes would lead to another host
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            raise _RefusedError(
                303,
                "the token is a cookie now",
                location=f"{path}?{rest}" if rest else path,
                **{"set-cookie": f"{cookie}={token}; Path=/; HttpOnly; SameSite=Strict"},
            )
        how = "open the link that was printed when the service started, or send" if self.pages else "send"
        raise _RefusedError(
            401,
            f"no token, or a wrong one: {how} the header Authorization: Bearer TOKEN",
            **{"www-authenticate": "Bearer"},
        )

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """Return a request's body, never more than is allowed."""
        most = self.limits.body_bytes
        too_large = _RefusedError(413, f"a body of more than {most:,} bytes")
        for key, value in scope["headers"]:
            if key == b"content-length" and value.isdigit() and (len(value) > 15 or int(value) > most):
                raise too_large
        body = b""
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _RefusedError(400, "the client has gone")
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return body
        except TimeoutError:
            raise _RefusedError(408, f"the body did not come within {self.limits.seconds:g} seconds") from None


class _Rate:
    """A bucket of requests for each client, which fills up steadily."""

    def __init__(self, per_minute: int) -> None:
        self.most = per_minute
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> str:
        """Take a request from a client's bucket; empty, say how many seconds to wait."""
        now = time.monotonic()
        left, since = self.left.pop(client, (float(self.most), now))
        left = min(self.most, left + (now - since) * self.most / 60)
        self.left[client] = (left - 1 if left >= 1 else left, now)
        while len(self.left) > MOST_CLIENTS:  # who has not asked for longest has a full bucket anyhow
            self.left.popitem(last=False)
        return "" if left >= 1 else str(math.ceil((1 - left) * 60 / self.most))


def _only(headers: Collection[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the value of a header that stands there once, else nothing."""
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return values[0] if len(values) == 1 else ""


def _equal(given: bytes, token: str) -> bool:
    return hmac.compare_digest(given, token.encode())


def _cookie(headers: Collection[tuple[bytes, bytes]], name: str) -> bytes:
    for key, value in headers:
        if key == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(name)
            except CookieError:
                continue
            if found is not None:
                return found.value.encode()
    return b""


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the application the body that has been read, and then what comes after it."""
    waiting = [body]

    async def once() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return once


def _safe(send: Send) -> Send:
    """Return what sends answers with the headers that all of them have."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = dict(message.get("headers", []))
            is_page = own.get(b"content-type", b"").startswith(b"text/html")
            more = {**HEADERS, "content-security-policy": PAGE_POLICY if is_page else POLICY}
            fresh = [(key.encode(), value.encode()) for key, value in more.items() if key.encode() not in own]
            message = {**message, "headers": [*message.get("headers", []), *fresh]}
        await send(message)

    return with_headers


async def _answer(refused: _RefusedError, send: Send) -> None:
    body = json.dumps({"detail": refused.detail}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    start = [(key.encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": start})
    await send({"type": "http.response.body", "body": body})
