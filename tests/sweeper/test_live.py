"""The page that shows launches while they run."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sweeper.live import LivePage
from sweeper.results import ResultsStore
from sweeper.standing import reporting
from tests import small
from tests.browser import assert_accessible, opened, overflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser

GRID = """
question = "Does the page <b>rise</b>?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [0, 1]
[[strategies]]
name = "lora"
rank = [1, 2, 4]
[[strategies]]
name = "full"
[train]
lr = [1e-3, 1e-2]
steps = 1000
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LivePage]:
    """The page of a store with one launch, which runs for ever."""
    store = ResultsStore(tmp_path / "results", create=True)
    store.mark()
    rows = [small.row(seed=0, valid=0.5), small.row(strategy="full", valid=0.4)]
    with reporting(store, "a", "<script>alert(1)</script>", "?") as reporter, LivePage(store) as page:
        reporter.round([row.spec for row in rows], [], 4)
        reporter.hear(2, 12.0, rows)
        reporter.write()
        threading.Thread(target=page.serve_forever, args=(0.02,), daemon=True).start()
        yield page
        page.shutdown()


def ask(server: LivePage, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


def test_who_has_the_link_gets_a_cookie_and_with_it_the_page(server: LivePage) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, headers, _ = ask(server, server.link.partition(str(server.server_port))[2])
    assert (status, headers["location"]) == (303, "/")
    cookie, *flags = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(flags)
    status, headers, text = ask(server, "/", Cookie=cookie)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert "2 of 4 trials" in text
    assert "<script>alert" not in text
    assert ask(server, "/news", Cookie=cookie)[0] == 200
    assert ask(server, "/other", Cookie=cookie)[0] == 404


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/news", {}, 403),
        ("/?token=", {}, 403),
        ("/?token=wrong", {}, 403),
        ("/?token=%FF", {}, 403),
        ("/", {"Cookie": "sweeper-{port}=wrong"}, 403),
        ("/", {"Cookie": "\x01;;="}, 403),
        ("/?token={token}", {"Host": "evil.example"}, 421),
        ("/?token={token}", {"Host": "evil.example:{port}"}, 421),
        ("/", {"Cookie": "sweeper-{port}={token}", "Host": "127.0.0.1"}, 421),
    ],
)
def test_others_get_nothing(server: LivePage, path: str, headers: dict[str, str], status: int) -> None:
    known = {"port": server.server_port, "token": server.token}
    found, answered, text = ask(
        server, path.format(**known), **{name: value.format(**known) for name, value in headers.items()}
    )
    assert found == status
    assert "set-cookie" not in answered
    assert "trials" not in text


def test_nothing_can_be_sent(server: LivePage) -> None:
    cookie = f"{server.cookie}={server.token}"
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/", method, Cookie=cookie)[0] == 501


def test_without_scripts_the_page_loads_itself_anew(browser: Browser, server: LivePage) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.link)
    asked = server.seen
    page.wait_for_event("request", timeout=15_000)
    page.wait_for_timeout(500)
    assert server.seen > asked
    context.close()


def test_the_page_of_a_real_sweep_rises_and_ends(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "rises.toml").write_text(GRID)
    launch = subprocess.Popen(
        [str(Path(sys.executable).with_name("sweeper")), "launch", "--grid", "rises.toml", "--pack", "1", "--live"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert launch.stderr is not None
    said = ""
    while not (link := re.search(r"^Live: (\S+)$", said, re.MULTILINE)):
        line = launch.stderr.readline()
        assert line, said
        said += line
    origin = link[1].partition("/?")[0]
    with opened(browser, link[1], origin=origin) as page:
        assert page.url == f"{origin}/", "the token does not stay in the address"
        seen = []
        state = page.locator(".state")
        while not seen or seen[-1][0] < seen[-1][1]:
            assert len(seen) < 400
            found = re.match(r"(\d+) of (\d+) trials", state.inner_text() if state.count() else "0 of 1 trials")
            assert found is not None
            if (counts := (int(found[1]), int(found[2]))) not in seen:
                seen.append(counts)
            page.wait_for_timeout(250)
        assert len(seen) > 2, "it was seen to rise"
        assert seen[-1] == (16, 16)
        page.get_by_role("heading", name="rises: done").wait_for(timeout=10_000)
        assert page.get_by_role("img", name=re.compile("^from .* at step")).count() == 2, "a learning curve a strategy"
        assert page.locator("b").count() == 0, "what a grid says is text"
        assert_accessible(page)
        for width in (1400, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert overflow(page) == 0
            if folder := os.environ.get("SWEEPER_SCREENSHOTS"):
                page.screenshot(path=f"{folder}/live-{width}.png", full_page=True)
    _, rest = launch.communicate(timeout=60)
    assert launch.returncode == 0, said + rest
