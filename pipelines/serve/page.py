"""The page: one HTML file with its style and script inside, which asks nobody but its own server."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from pipelines.look import LOOK, TEMPLATES

FOLDER = Path(__file__).parent


def make_page() -> tuple[str, list[str]]:
    """The page, and its inline parts as they stand in it: style and script."""
    style = LOOK + (FOLDER / "page.css").read_text(encoding="utf-8")
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    html = TEMPLATES.get_template("serve/page.html.j2").render(style=Markup(style), script=Markup(script))
    return html, [style, script]
