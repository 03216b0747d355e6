"""The look that all pages share can be read."""

from __future__ import annotations

import re

import pytest

from pipelines.look import LOOK

COLORS = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", LOOK, re.DOTALL)]


def light(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    least, most = sorted((light(one), light(other)))
    return (most + 0.05) / (least + 0.05)


@pytest.mark.parametrize("colors", COLORS, ids=["light", "dark"])
def test_contrast(colors: dict[str, str]) -> None:
    for text in ("text", "soft", "accent", "paper", "right", "wrong"):
        for background in ("page", "band"):
            assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
    assert contrast(colors["on-accent"], colors["accent"]) >= 4.5
    assert contrast(colors["edge"], colors["page"]) >= 3


def test_the_least_and_the_most() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert len(COLORS) == 2 and COLORS[0].keys() == COLORS[1].keys()
