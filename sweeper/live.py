"""A page that shows launches while they run: on this machine alone, for who has the link."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sweeper.live_page import fragment, whole_page
from sweeper.printing import say
from sweeper.results import ResultsStore
from sweeper.standing import standings

if TYPE_CHECKING:
    from rich.console import Console

HOST = "127.0.0.1"
FRESH_SECONDS = 1.0
"""How old what is shown may be: any number of open pages costs one look at the store."""
LINGER_SECONDS = 5.0
"""How long the page of a launch waits at its end for who looks at it to see the end."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page has its own for all else
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LivePage(ThreadingHTTPServer):
    """Serves the page of a store on the loopback interface.

    Attributes:
        link: What to open: it has the token, which then lives in a cookie.
        seen: When somebody last asked for news, on the monotonic clock.
    """

    daemon_threads = True

    def __init__(self, store: ResultsStore, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.store = store
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"sweeper-{self.server_port}"  # cookies are shared by all ports of a host
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.link = f"http://{HOST}:{self.server_port}/?token={self.token}"
        self.seen = float("-inf")
        self._lock = threading.Lock()
        self._made, self._fragment = float("-inf"), ""

    def news(self) -> str:
        """Return how all stands, as the part of the page that changes."""
        with self._lock:
            if time.monotonic() - self._made > FRESH_SECONDS:
                self._fragment = fragment(standings(self.store), self.store.name)
                self._made = time.monotonic()
            self.seen = time.monotonic()
            return self._fragment

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: LivePage
    server_version, sys_version = "sweeper", ""
    timeout = 30  # a connection that says nothing does not hold a thread for ever

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers.get("Host") not in self.server.hosts:  # a page elsewhere whose name now means this machine
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, f"This server is http://{HOST}:{self.server.server_port}/.")
        elif url.path == "/" and self._is_token(parse_qs(url.query).get("token", [""])[0]):
            cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(HTTPStatus.SEE_OTHER, "", {"Location": "/", "Set-Cookie": cookie})
        elif not self._is_token(self._cookie()):
            self._refuse(HTTPStatus.FORBIDDEN, "Open the link that the terminal shows: it has a token.")
        elif url.path == "/":
            self._answer(HTTPStatus.OK, whole_page(self.server.news()))
        elif url.path == "/news":
            self._answer(HTTPStatus.OK, self.server.news())
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is one page here: /.")

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.server.token.encode())

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, text + "\n", {"Content-Type": "text/plain; charset=utf-8"})

    def _answer(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        own = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(content)), **HEADERS}
        for name, value in {**own, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Log nothing: the address has the token."""


@contextlib.contextmanager
def shown_live(store: ResultsStore, talk: Console) -> Iterator[LivePage]:
    """Serve the page of a store meanwhile; who looks at it at the end sees the end."""
    with LivePage(store) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        say(talk, f"Live: {server.link}")
        try:
            yield server
        finally:
            ended = time.monotonic()
            if ended - server.seen < LINGER_SECONDS:
                while server.seen < ended + FRESH_SECONDS and time.monotonic() < ended + LINGER_SECONDS:
                    time.sleep(0.1)
            server.shutdown()


def serve_until_interrupted(store: ResultsStore, port: int, talk: Console) -> None:
    """Serve the page of a store until Ctrl-C; its link is printed on stdout."""
    with LivePage(store, port) as server:
        print(server.link, flush=True)
        say(talk, "Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
