"""The shell of HTML pages, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sweeper.page import element, join, page, table
from tests.browser import assert_accessible, opened, overflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\"'&"


def test_what_is_not_markup_is_escaped_everywhere(browser: Browser, tmp_path: Path) -> None:
    body = join(
        [element("p", HOSTILE, title=HOSTILE), HOSTILE, table([HOSTILE, "b"], [[HOSTILE, HOSTILE]], caption=HOSTILE)]
    )
    file = tmp_path / "page.html"
    file.write_text(page(HOSTILE, body, lead=HOSTILE, brand=HOSTILE, footer=HOSTILE))
    with opened(browser, file.as_uri(), width=400) as shown:
        assert shown.title() == HOSTILE
        assert shown.inner_text("h1") == HOSTILE
        assert shown.locator("main img, main script").count() == 0
        assert shown.get_attribute("main p", "title") == HOSTILE
        assert shown.inner_text("tbody th") == HOSTILE
        assert_accessible(shown)
        assert overflow(shown) == 0


def test_only_its_own_code_runs_and_nothing_leaves(browser: Browser, tmp_path: Path) -> None:
    outside = "http://203.0.113.1/x"
    body = join(
        [
            element("p", "x", onclick="document.title='clicked'", style="color: red"),
            element("img", src=outside, alt="outside"),
            element("script", "document.title='foreign'"),
        ]
    )
    script = f"document.documentElement.dataset.ran = 'yes'; fetch('{outside}').catch(() => 0)"
    file = tmp_path / "page.html"
    file.write_text(page("A title", body, script=script))
    complains = pytest.raises(AssertionError, match="Content Security Policy")
    with complains, opened(browser, file.as_uri()) as shown:
        shown.click("main p")
        assert shown.title() == "A title"
        assert shown.evaluate("document.documentElement.dataset.ran") == "yes"
        assert shown.evaluate("getComputedStyle(document.querySelector('main p')).color") != "rgb(255, 0, 0)"


def test_code_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain"):
        page("t", element("p", "x"), script="'</script>'")
