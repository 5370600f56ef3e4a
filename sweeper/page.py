"""The shell of every HTML page of the project: one file, no request to anywhere, light and dark, screen and paper.

What comes from rows and users is hostile. Markup is therefore a type of its own (`markupsafe.Markup`): a plain string
is escaped wherever it becomes part of a page, and only what `element` and `Markup(...).format` built is not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f6f8; --ink: #1a1d21; --soft: #545b64; --line: #d8dce2; --edge: #767d86;
  --accent: #0b57d0; --on-accent: #ffffff; --good: #0f6b2f; --bad: #b3261e; --warn: #7a4f00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --panel: #1d2127; --ink: #e6e9ed; --soft: #a8b0ba; --line: #363d47; --edge: #8b939d;
  --accent: #8ab4f8; --on-accent: #10233f; --good: #7ddb9a; --bad: #f5b5b0; --warn: #f0c674; } }
* { box-sizing: border-box; }
html { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 1.5rem; }
main { padding-bottom: 3rem; }
footer { padding-top: 1rem; padding-bottom: 2rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2rem 0 .5rem; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; margin: .25rem 0; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; scroll-margin-top: .75rem; }
h3 { font-size: 1.1rem; }
h4 { font-size: 1rem; }
p, ul, ol, dl { margin: .5rem 0; max-width: 48rem; }
p, li, dd, td, th, summary, legend { overflow-wrap: break-word; }
a { color: var(--accent); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: .5rem; top: -4rem; padding: .5rem 1rem; background: var(--accent);
  color: var(--on-accent); z-index: 9; }
.skip:focus { top: .5rem; }
.brand { margin: 0; color: var(--soft); font-size: .875rem; }
.lead { margin: 0 0 1rem; color: var(--soft); font-size: 1.05rem; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.warn { color: var(--warn); }
.small { font-size: .875rem; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.25rem;
  margin: 1rem 0; }
.panel > :first-child { margin-top: 0; }
.panel > :last-child { margin-bottom: 0; }
code, pre, kbd, samp { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .875em; }
code { overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem;
  overflow-x: auto; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9375rem; }
caption { text-align: left; color: var(--soft); padding: 0 0 .35rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: nowrap; }
tbody th { font-weight: 600; }
.scroll tbody th:first-child { position: sticky; left: 0; background: var(--paper); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: .875rem; }
svg { max-width: 100%; height: auto; }
summary { cursor: pointer; padding: .25rem 0; }
fieldset { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1rem; padding: .75rem 1rem; }
legend { font-weight: 600; padding: 0 .25rem; }
input, select, textarea, button { font: inherit; color: var(--ink); background: var(--paper);
  border: 1px solid var(--edge); border-radius: 6px; padding: .4rem .6rem; max-width: 100%; }
input[type=radio], input[type=checkbox] { accent-color: var(--accent); width: 1.1rem; height: 1.1rem;
  vertical-align: -.15rem; }
button { background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600;
  padding: .5rem 1.1rem; cursor: pointer; }
@media (max-width: 40rem) { header, main, footer { padding-left: 1rem; padding-right: 1rem; }
  h1 { font-size: 1.3rem; } .lead { font-size: .95rem; } h2 { font-size: 1.2rem; } .panel { padding: .75rem 1rem; } }
@media print { :root { color-scheme: light; --paper: #fff; --panel: #fff; --ink: #000; --soft: #333; --line: #aaa;
    --edge: #666; --accent: #000; --good: #000; --bad: #000; --warn: #000; }
  html { font-size: 10pt; } nav, .skip { display: none; } header, main, footer { max-width: none; padding: 0; }
  details::details-content { content-visibility: visible; height: auto; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .4rem .2rem 0; } thead th { white-space: normal; }
  figure, table, .panel { break-inside: avoid; } h2, h3, h4 { break-after: avoid; } .scroll { overflow: visible; }
  .scroll tbody th:first-child { position: static; } }
"""


def page(
    title: str,
    body: Markup,
    *,
    lead: str | Markup = "",
    brand: str = "sweeper",
    nav: Markup | None = None,
    footer: str | Markup = "",
    style: str = "",
    script: str = "",
    calls_home: bool = False,
) -> str:
    """Return a whole HTML document with a heading, an optional line under it, and the body as its main part.

    Its Content-Security-Policy lets nothing load or run that is not in the file: ``style`` and ``script`` are
    allowed by their hashes, images as ``data:`` URLs; ``style=`` attributes and ``onclick=`` do nothing.

    Args:
        title: The document's title, and its first heading.
        body: What stands in ``<main>``; a plain string is escaped.
        lead: A line under the heading.
        brand: A word above it.
        nav: Links, put between heading and body as they are; bring ``<nav aria-label=...>``.
        footer: The last line.
        style: CSS after that of the shell, whose colours are variables (``--ink``, ``--accent``, ...).
        script: JavaScript, run when the document is parsed.
        calls_home: Let the script and forms call the server that the page is from, and no other.
    """
    for name, code in (("style", style), ("script", script)):
        if "</" in code:
            raise ValueError(f"an inline {name} must not contain '</': it would end its element")
    css = STYLE + style
    home = "'self'" if calls_home else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(css)}; "
        f"script-src {_hash(script)}; connect-src {home}; form-action {home}; base-uri 'none'"
    )
    whole = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        "<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to content</a>\n'
        "<header>{head}</header>\n{nav}\n"
        '<main id="main" tabindex="-1">\n{body}\n</main>\n{foot}{script}</body>\n</html>\n'
    ).format(
        policy=policy,
        title=title,
        css=Markup(css),  # noqa: S704 - the callers' own code, not rows
        head=join(
            [
                element("p", brand, class_="brand") if brand else "",
                element("h1", title),
                element("p", lead, class_="lead") if lead else "",
            ]
        ),
        nav=nav or "",
        body=body,
        foot=element("footer", footer) if footer else "",
        script=element("script", Markup(script)) if script else "",  # noqa: S704
    )
    return str(whole)


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element; children and values of attributes are escaped unless they are markup.

    ``class_`` is written ``class`` and ``aria_label`` ``aria-label``; an attribute that is ``None`` or ``False`` is
    left out, one that is ``True`` stands alone.
    """
    written = Markup("").join(
        (Markup(" {}") if value is True else Markup(' {}="{}"')).format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup("<{}{}>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, join(children))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Return parts as one piece of markup, each escaped unless it is markup."""
    return escape(between).join(escape(part) for part in parts)


def table(
    headings: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    label: str = "",
    words: int = 1,
) -> Markup:
    """Return a table that scrolls sideways where it is too wide; the first cell of a row is its heading.

    Args:
        headings: Column headings.
        rows: Cells from left to right.
        caption: Said above the table, and its name.
        label: Its name where there is no caption.
        words: So many columns from the left hold words; the others are numbers, set to the right.
    """
    kinds = [None if place < words else "number" for place in range(len(headings))]
    head = (element("th", cell, scope="col", class_=kind) for kind, cell in zip(kinds, headings, strict=True))
    lines = (
        element(
            "tr",
            *(
                element("td", cell, class_=kinds[place]) if place else element("th", cell, scope="row")
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    )
    drawn = element(
        "table",
        element("caption", caption) if caption else "",
        element("thead", element("tr", *head)),
        element("tbody", *lines),
    )
    # A part that scrolls must be reached by keyboard (WCAG 2.1.1).
    return element("div", drawn, class_="scroll", tabindex=0, role="group", aria_label=caption or label)


VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


def _hash(code: str) -> str:
    """Return the source expression of Content-Security-Policy that lets this code in and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" if code else "'none'"
