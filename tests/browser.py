"""Pages of the project in a real Chromium: what it complains of, what leaves the machine, what axe finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox, since tests may run as root in a container; the rest keeps the browser from calling its maker.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a Chromium for the tests of one file.

    Not for the session: while playwright runs, this thread has an event loop, which other tests may want to start.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    required = bool(os.environ.get("SWEEPER_REQUIRE_BROWSER"))
    if path is None:
        (pytest.fail if required else pytest.skip)(f"no browser on the path; looked for {', '.join(NAMES)}")
    if not required:
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@contextmanager
def opened(
    browser: Browser, address: str, *, width: int = 1400, height: int = 900, scheme: Scheme = "light", origin: str = ""
) -> Iterator[Page]:
    """Open an address in a fresh window; at the end nothing may have been complained of, and nothing have left.

    Args:
        browser: The fixture.
        address: ``file://`` or ``http://``.
        width: Of the window, in CSS pixels.
        height: The same.
        scheme: Which colours the user prefers.
        origin: Where requests may go, besides ``file:`` and ``data:``: the server under test.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    left: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def watch(url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "about:")) and not (origin and url.startswith(f"{origin}/")):
            left.append(url)

    page.on("request", lambda request: watch(request.url))
    page.on("websocket", lambda socket: watch(socket.url))
    try:
        page.goto(address)
        yield page
        assert not complaints, complaints
        assert not left, f"requests left: {left}"
    finally:
        context.close()


def assert_accessible(page: Page) -> None:
    """Let axe look at the page in both colour schemes; it must find no violation."""
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page).response["violations"]
        found = [f"{it['id']}: {it['help']}: {[node['html'][:200] for node in it['nodes'][:3]]}" for it in violations]
        assert not found, f"in {scheme} colours: {found}"


def overflow(page: Page) -> int:
    """Return by how many CSS pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
