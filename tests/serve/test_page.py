"""The page in a browser without a window: what it shows, plays and asks for, with the keyboard, on small and dark screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.screenshots import running
from tests.serve.conftest import LONG, MARKUP, ORDER
from tests.support.browser import CHROMIUM, Page, browser
from vop.index.search import Index

BOX = "a golden box on a wavy background"
FILMS = "document.querySelectorAll('.film').length"
PLAYED = "document.querySelector('dialog[open] video')?.currentTime"
pytestmark = [pytest.mark.usefixtures("slow"), pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def address(indexes: dict[str, Index]) -> Iterator[str]:
    with running(indexes) as address:
        yield address


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    opened.look(1280, 900)
    opened.asked.clear()
    opened.said.clear()
    yield opened
    assert not opened.said, "an error, or a breach of the content security policy"


def test_two_models_side_by_side_and_what_is_asked_for(page: Page, address: str) -> None:
    page.go(f"{address}#q=a+golden+box")
    page.wait(f"{FILMS} === 24")
    page.wait("[...document.querySelectorAll('.film img')].filter(image => image.naturalWidth === 682).length > 3")
    heads, left, right = page.value(
        "[[...document.querySelectorAll('h2')].map(h => h.textContent).filter(Boolean),"
        " ...[...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().x)]"
    )
    assert heads == ["ten: ViT-toy", "four: ViT-toy"] and right > left + 500
    asked = {urlsplit(each).netloc for each in page.asked if each.startswith(("http", "ws"))}
    assert asked == {urlsplit(address).netloc}, "nobody else is asked: it works offline"


def test_a_query_is_typed_and_linked(page: Page, address: str) -> None:
    page.go(address)
    page.wait("document.activeElement?.id === 'q' && document.getElementById('about').textContent")
    page.write(BOX)
    page.press("Enter")
    page.wait(f"{FILMS} > 0")
    assert page.value("location.hash") == "#q=a+golden+box+on+a+wavy+background"
    assert page.value("document.title").startswith(BOX)
    page.value("document.querySelector('[name=max_duration]').value = 10; document.querySelector('.ask button').click()")
    page.wait(f"{FILMS} === 2")
    assert "max_duration=10" in page.value("location.hash")
    page.value("history.back()")
    page.wait(f"{FILMS} === 24")
    assert page.value("document.querySelector('[name=max_duration]').value") == ""
    page.value("document.querySelectorAll('[name=m]')[2].click()")
    page.wait(f"{FILMS} === 12")
    assert page.value("location.hash").endswith("&m=four")


def test_the_span_is_marked_where_it_is(page: Page, address: str) -> None:
    page.go(f"{address}#q={BOX}&m=four&path=kitchen&top=1")
    page.wait(FILMS)
    left, right, ends = page.value(
        "(() => { const f = document.querySelector('.film').getBoundingClientRect(), s = document.querySelector('.span')"
        ".getBoundingClientRect(); return [(s.x - f.x) / f.width, (s.right - f.x) / f.width, f.right - s.right]; })()"
    )
    assert 0.2 < left < right < 0.8 and ends > 0
    bar = "document.querySelector('li .track i').getBoundingClientRect()"
    track = "document.querySelector('li .track').getBoundingClientRect()"
    assert page.value(f"({bar}.x - {track}.x) / {track}.width") == pytest.approx(0.5, abs=0.01), "from second 20 of 40"


def test_a_moment_is_played_from_its_start(page: Page, address: str) -> None:
    page.go(f"{address}#q={BOX}&m=four&path=kitchen")
    page.wait(FILMS)
    page.value("document.querySelector('.film').click()")
    assert 20 <= page.wait(PLAYED) < 40
    assert page.value("document.getElementById('playing').textContent") == "kitchen/forward.mp4"
    link = page.value("document.getElementById('here').href")
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]') && document.activeElement.className === 'film'")
    assert "v=" not in page.value("location.hash")
    page.go(link)
    assert 20 <= page.wait(PLAYED) < 40, "by its address"


def test_the_keyboard_is_enough(page: Page, address: str) -> None:
    page.go(f"{address}#q={BOX}")
    page.wait(f"{FILMS} === 24")
    chosen = "[...document.querySelectorAll('.film')].indexOf(document.activeElement)"
    places = []
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.press(key)
        places.append(page.value(chosen))
    assert places == [0, 1, 13, 12, 0]
    page.press("Enter")
    page.wait(PLAYED + " >= 0")
    page.press("Escape")
    page.wait(f"{chosen} === 0")
    page.press("/")
    assert page.value("document.activeElement.id + getSelection()") == "q" + BOX
    page.press("ArrowDown")
    assert page.value(chosen) == 0
    page.press("ArrowUp")
    assert page.value("document.activeElement.id") == "q"


def test_names_are_shown_as_they_are(page: Page, address: str) -> None:
    page.go(f"{address}#q={BOX}&m=ten&top=100")
    page.wait(f"{FILMS} >= {len(ORDER)}")
    names = page.value("[...document.querySelectorAll('.name')].map(name => name.textContent)")
    assert any(name.endswith(f" {MARKUP}.mp4") for name in names)
    page.go(f"{address}#q={MARKUP.replace(' ', '+')}")
    page.wait(f"{FILMS} > 1")
    assert page.value("document.title") == f"{MARKUP} – find a moment"
    assert page.value("document.querySelectorAll('main img[src=x]').length") == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_can_be_read(page: Page, address: str, width: int, dark: bool) -> None:
    page.look(width, 850, dark)
    page.go(f"{address}#q={BOX}&top=100")
    page.wait(f"{FILMS} > 20")
    page.value("document.getElementById('filters').open = true")
    assert page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
    cut = "[...document.querySelectorAll('.score')].filter(score => score.scrollWidth > score.clientWidth + 1)"
    assert page.value(f"{cut}.length") == 0, f"a score is whole, however long the name ({LONG[:20]}...)"
    assert page.value(CONTRAST) >= 4.5
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 30)" if dark else "rgb(255, 255, 255)")


# The least contrast of a text with what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """(() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => { const [r, g, b] = rgb.map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3]) return c.slice(0, 3); } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  let least = 21, count = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05)); count++;
  }
  return count > 20 ? least : 0;
})()"""


def test_what_cannot_be_had_is_a_sentence(page: Page, address: str, served: Path) -> None:
    file = served / "videos/short.mp4"
    away = file.with_suffix(".away")
    file.rename(away)
    try:
        page.call("Network.clearBrowserCache")
        page.go(f"{address}#q={BOX}&m=ten&path=short&top=1")
        page.wait("!!document.querySelector('.film.none')")
        assert "short.mp4 has gone since it was indexed" in page.value("document.querySelector('.film').textContent")
        page.value("document.querySelector('.film').click()")
        page.wait("!document.getElementById('trouble').hidden")
        assert "has gone" in page.value("document.getElementById('trouble').textContent")
        page.go(f"{address}#q=a&index=nothing&top=1000")
        page.wait("!!document.querySelector('.trouble')")
        assert "top: Input should be less than" in page.value("document.querySelector('.trouble').textContent")
    finally:
        away.rename(file)
    page.said = [each for each in page.said if "Failed to load resource" not in each]
