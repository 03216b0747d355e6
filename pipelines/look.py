"""What all pages share: their look, and how they are filled in, so that no name is markup."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

FOLDER = Path(__file__).parent
LOOK = Markup((FOLDER / "look.css").read_text(encoding="utf-8"))
TEMPLATES = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
