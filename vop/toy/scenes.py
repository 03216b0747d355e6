"""The toy world: what a scene holds, how it is drawn, how it is put into words.

Pure numpy, deterministic from a seed. Stills pre-train the small CLIP (`vop.backbones.pretrain`); videos make the
`toy` benchmark (`vop.toy.videos`). Both draw from the same world, but differ in look and wording, as web images differ from
videos.

Coordinates: x to the right, y down, the origin in the middle of the picture, the short side of the picture = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPES = {"circle": "disc", "square": "box", "triangle": "wedge", "cross": "plus", "ring": "hoop", "star": "starlet"}
COLORS = {  # name -> (a second name, RGB)
    "red": ("crimson", (0.85, 0.10, 0.12)),
    "green": ("emerald", (0.10, 0.62, 0.20)),
    "blue": ("azure", (0.12, 0.28, 0.90)),
    "yellow": ("golden", (0.95, 0.85, 0.10)),
    "purple": ("violet", (0.55, 0.15, 0.75)),
    "orange": ("amber", (0.97, 0.52, 0.05)),
    "white": ("pale", (0.97, 0.97, 0.97)),
    "pink": ("rosy", (0.98, 0.50, 0.70)),
}
TEXTURES = ("plain", "striped", "checkered", "dotted", "wavy")
TONES = {"dark": 0.18, "gray": 0.42, "bright": 0.66}
SMALL, LARGE = 0.11, 0.21  # radius


@dataclass(frozen=True)
class Thing:
    """One colored shape: its place, radius and opacity; `turned` 0..1 of the way to `next_color`."""

    shape: str
    color: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.16
    opacity: float = 1.0
    next_color: str = ""
    turned: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A textured background and up to two things; `seed` fixes the hue, phase and scale of the background.

    brightness: how bright the background is, 0..1, where it is not that of its tone.
    """

    things: tuple[Thing, ...]
    texture: str
    tone: str
    seed: int = 0
    brightness: float | None = None


@dataclass(frozen=True)
class Look:
    """What a camera does to a scene: 1 contrast, 0 everything else leaves it as drawn."""

    contrast: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    vignette: float = 0.0
    grain: float = 0.0


def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    short = min(height, width)
    y = (np.arange(height) + 0.5 - height / 2) / short
    x = (np.arange(width) + 0.5 - width / 2) / short
    return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


def _distance(thing: Thing, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed distance to the outline (roughly, in short sides), negative inside: [H, W]."""
    x, y, r = x - thing.x, y - thing.y, thing.radius
    ax, ay = np.abs(x), np.abs(y)
    if thing.shape == "circle":
        d = np.hypot(x, y) - r
    elif thing.shape == "square":
        d = np.maximum(ax, ay) - 0.85 * r
    elif thing.shape == "triangle":
        d = np.maximum(0.87 * ax - 0.5 * y, y) - 0.55 * r
    elif thing.shape == "cross":
        d = np.minimum(np.maximum(ax - r, ay - 0.32 * r), np.maximum(ax - 0.32 * r, ay - r))
    elif thing.shape == "ring":
        d = np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r
    elif thing.shape == "star":
        d = np.hypot(x, y) - r * (0.72 + 0.38 * np.cos(5 * np.arctan2(x, -y)))
    else:
        raise ValueError(f"unknown shape {thing.shape!r}; known: {', '.join(SHAPES)}")
    return np.asarray(d, dtype=np.float32)


def _background(scene: Scene, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(scene.seed)
    frequency, phase_x, phase_y = rng.uniform(4.5, 6.5), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    base = (TONES[scene.tone] if scene.brightness is None else scene.brightness) + rng.uniform(-0.06, 0.06, 3)
    u, v = 2 * np.pi * frequency * x + phase_x, 2 * np.pi * frequency * y + phase_y
    if scene.texture == "plain":
        pattern = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    elif scene.texture == "striped":
        pattern = np.sin(u) + 0 * v
    elif scene.texture == "checkered":
        pattern = np.sin(u * 0.6) * np.sin(v * 0.6) * 2
    elif scene.texture == "dotted":
        pattern = 4 * (np.cos(u) + np.cos(v) - 1.0)
    elif scene.texture == "wavy":
        pattern = np.sin(v + 1.5 * np.sin(u * 0.5))
    else:
        raise ValueError(f"unknown texture {scene.texture!r}; known: {', '.join(TEXTURES)}")
    shade = np.clip(3 * pattern, -1, 1) * 0.10
    return (base[None, None, :] + shade[:, :, None]).astype(np.float32)


def draw(scene: Scene, height: int, width: int, look: Look | None = None) -> NDArray[np.uint8]:
    """Draw a scene: uint8 [height, width, 3], RGB, edges anti-aliased."""
    x, y = _grid(height, width)
    image = _background(scene, x, y)
    for thing in scene.things:
        cover = np.clip(0.5 - _distance(thing, x, y) * min(height, width), 0, 1) * thing.opacity
        image += cover[:, :, None] * (_rgb(thing) - image)
    if look is not None:
        image = _photograph(image, x, y, look, scene.seed)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _rgb(thing: Thing) -> NDArray[np.float32]:
    color = np.asarray(COLORS[thing.color][1], dtype=np.float32)
    return color if not thing.next_color else color + thing.turned * (np.asarray(COLORS[thing.next_color][1]) - color)


def _photograph(
    image: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32], look: Look, seed: int
) -> NDArray[np.float32]:
    # The grain is the sensor's: fixed for a clip, so that a clip and its reverse hold the same pictures.
    grain = np.random.default_rng(seed + 1).normal(0, look.grain, image.shape)
    lit = (0.5 + look.contrast * (image - 0.5)) * np.asarray(look.tint) + grain
    return np.asarray(lit * (1 - look.vignette * 2 * (x**2 + y**2))[:, :, None], dtype=np.float32)


class Words:
    """Draws words for a scene. `second`: the chance of a second name (crimson for red); `drop`: of leaving a detail out."""

    def __init__(self, rng: np.random.Generator, second: float, drop: float):
        self.rng, self.second, self.drop = rng, second, drop

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def says(self, chance: float) -> bool:
        return bool(self.rng.random() < chance)

    def color(self, name: str) -> str:
        """'red', or 'crimson'."""
        return COLORS[name][0] if self.says(self.second) else name

    def thing(self, thing: Thing, sized: bool = True) -> str:
        """'a small red circle'; without a color if it turns into another."""
        color = "" if thing.next_color else self.color(thing.color) + " "
        shape = SHAPES[thing.shape] if self.says(self.second) else thing.shape
        size = ""
        if sized and not self.says(self.drop):
            size = self.pick(["small", "little"] if thing.radius < (SMALL + LARGE) / 2 else ["large", "big"]) + " "
        words = f"{size}{color}{shape}"
        return ("an " if words[0] in "aeiou" else "a ") + words

    def place(self, thing: Thing) -> str:
        """'in the top left', by thirds of the picture."""
        across = "left" if thing.x < -0.12 else "right" if thing.x > 0.12 else ""
        down = "top" if thing.y < -0.12 else "bottom" if thing.y > 0.12 else ""
        if not across and not down:
            return self.pick(["in the middle", "in the center"])
        corner = " ".join(word for word in (down, across) if word)
        return self.pick([f"in the {corner}", f"on the {corner}", f"at the {corner}", f"on the {corner} side"])

    def ground(self, scene: Scene) -> str:
        """'on a dark striped wall'."""
        tone = "" if self.says(self.drop) or not scene.tone else scene.tone + " "
        return f"{self.pick(['on', 'over', 'against'])} a {tone}{scene.texture} {self.pick(['wall', 'background', 'backdrop'])}"


def random_scene(rng: np.random.Generator, things: int) -> Scene:
    """A scene with `things` (0, 1 or 2) things anywhere in the picture that do not overlap much."""
    placed: list[Thing] = []
    while len(placed) < things:
        thing = Thing(
            shape=str(rng.choice(list(SHAPES))),
            color=str(rng.choice(list(COLORS))),
            x=float(rng.uniform(-0.36, 0.36)),
            y=float(rng.uniform(-0.36, 0.36)),
            radius=float(rng.choice([SMALL, LARGE]) * rng.uniform(0.85, 1.15)),
        )
        if all(np.hypot(thing.x - other.x, thing.y - other.y) > 0.35 for other in placed):
            placed.append(thing)
    texture, tone = str(rng.choice(TEXTURES)), str(rng.choice(list(TONES)))
    return Scene(tuple(placed), texture, tone, int(rng.integers(2**31)))


def random_still(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], str]:
    """A picture [size, size, 3] of a random scene and a caption of what is in it and where."""
    scene = random_scene(rng, int(rng.choice([0, 1, 2], p=[0.05, 0.55, 0.40])))
    look = Look(contrast=float(rng.uniform(0.85, 1.1)), grain=0.01)
    return draw(scene, size, size, look), still_caption(rng, scene)


def still_caption(rng: np.random.Generator, scene: Scene) -> str:
    """A caption as for a web image: an opener, what there is, where, on what; any detail may be missing."""
    words = Words(rng, second=0.3, drop=0.35)
    opener = words.pick(["a photo of ", "a picture of ", "an image of ", "here is ", "we can see ", "", "", ""])
    ground = words.ground(scene)
    if not scene.things:
        return opener + words.pick(["nothing ", "empty space "]) + ground
    ground = "" if words.says(0.25) else " " + ground
    if len(scene.things) == 1:
        thing = scene.things[0]
        # Words of motion stand in web captions too, but a still does not tell their direction.
        doing = " " + words.pick(STILL_VERBS) if words.says(0.2) else ""
        place = "" if words.says(0.2) else " " + words.place(thing)
        return opener + words.thing(thing) + doing + place + ground
    first, second = scene.things if words.says(0.5) else scene.things[::-1]
    return f"{opener}{words.thing(first)} {_relation(words, first, second)} {words.thing(second)}{ground}"


STILL_VERBS = ["moving", "growing", "shrinking", "drifting", "appearing", "waiting", "resting", "shown", "seen"]


def _relation(words: Words, first: Thing, second: Thing) -> str:
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy):
        side = "left" if dx > 0 else "right"
        return words.pick([f"to the {side} of", f"on the {side} and", f"{side} of"])
    side = "top" if dy > 0 else "bottom"
    return words.pick(["above" if dy > 0 else "below", f"at the {side} and", f"on the {side} with"])


def moved(scene: Scene, **change: Any) -> Scene:
    """The same scene with its first thing changed (x, y, radius, opacity, turned)."""
    first, *rest = scene.things
    return replace(scene, things=(replace(first, **change), *rest))
