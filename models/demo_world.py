"""The demo's world: sights whose Chinese names say what is to be seen, and pictures of them drawn by program.

A sight is named weather, time of day, colour, place: 雪夜红塔 is a red tower on a snowy night.  So a name that no model
was trained on can still be found by its parts.
"""

import itertools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

WEATHERS = {"晴": "clear", "雨": "rain", "雪": "snow", "雾": "fog"}
TIMES = {  # top and bottom of the sky, the ground, and how much light falls on things
    "晨": ((236, 150, 150), (255, 214, 170), (150, 130, 90), 0.9),
    "午": ((90, 160, 235), (190, 220, 245), (120, 160, 90), 1.0),
    "夜": ((12, 16, 50), (40, 44, 90), (38, 44, 48), 0.6),
}
COLOURS = {
    "红": (214, 40, 40),
    "黄": (240, 205, 40),
    "蓝": (40, 80, 220),
    "绿": (30, 150, 60),
    "紫": (150, 50, 180),
    "白": (245, 245, 245),
}


class Sight(NamedTuple):
    """One of the 576 things that can be seen in this world."""

    weather: str
    time: str
    colour: str
    place: str

    @property
    def name(self) -> str:
        return "".join(self)


def all_sights() -> list[Sight]:
    return [Sight(*parts) for parts in itertools.product(WEATHERS, TIMES, COLOURS, PLACES)]


def draw(sight: Sight, random: np.random.Generator) -> Image.Image:
    """A new picture of a sight: where it stands, its size, the light, what else is there and the noise all vary."""
    width, height = int(random.integers(88, 129)), int(random.integers(66, 97))
    top, bottom, ground, light = TIMES[sight.time]
    if sight.weather == "雪":
        ground = mix(ground, (235, 240, 250), 0.75 * light)
    horizon = int(height * random.uniform(0.66, 0.8))
    image = Image.fromarray(sky(width, height, jitter(top, random), jitter(bottom, random)))
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, horizon, width, height), fill=jitter(ground, random))
    clutter(canvas, width, height, horizon, light, random)
    if sight.weather == "晴":
        sun_or_moon(canvas, sight.time, width, height, random)

    size = height * random.uniform(0.55, 0.8)  # of the thing itself
    x = width * random.uniform(0.35, 0.65)
    y = min(horizon + height * random.uniform(0.02, 0.15), height - 2)  # where it stands
    colour = mix((0, 0, 0), jitter(COLOURS[sight.colour], random), light)
    PLACES[sight.place](canvas, x, y, size, colour, mix((0, 0, 0), colour, 0.6))

    falling(canvas, sight.weather, width, height, random)
    pixels = np.asarray(image).astype(np.float32)
    if sight.weather == "雾":
        pixels += (np.float32(215 * light) - pixels) * np.float32(random.uniform(0.45, 0.6))
    pixels *= np.float32(random.uniform(0.85, 1.15))
    pixels += random.normal(0, random.uniform(3, 9), pixels.shape).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def mix(one, other, share: float) -> tuple[int, int, int]:
    """`share` of the other colour, the rest of the one."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def jitter(colour, random: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(np.array(colour) + random.integers(-16, 17, 3), 0, 255))


def sky(width: int, height: int, top, bottom) -> np.ndarray:
    """(height, width, 3) uint8, from one colour at the top to another at the bottom."""
    share = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to(top + (np.array(bottom) - top) * share, (height, width, 3)).astype(np.uint8)


def clutter(canvas, width, height, horizon, light, random) -> None:
    """Hills behind and stones and bushes in front, which no name tells of."""
    for _ in range(random.integers(0, 3)):
        x, w, h = random.uniform(0, width), random.uniform(20, 60), random.uniform(4, 14)
        shade = mix((0, 0, 0), (120, 130, 120), light * random.uniform(0.6, 1))
        canvas.ellipse((x - w, horizon - h, x + w, horizon + h), fill=shade)
    for _ in range(random.integers(2, 7)):
        x, y, r = random.uniform(0, width), random.uniform(horizon + 2, height), random.uniform(1.5, 5)
        tone = (90, 110, 70) if random.random() < 0.5 else (130, 120, 110)
        canvas.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=mix((0, 0, 0), tone, light))


def sun_or_moon(canvas, time, width, height, random) -> None:
    x, y, r = random.uniform(0.1, 0.9) * width, random.uniform(0.1, 0.25) * height, height * random.uniform(0.06, 0.09)
    if time == "晨":
        y = height * random.uniform(0.45, 0.55)  # the sun has just risen
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 225) if time == "夜" else (255, 225, 90))
    if time == "夜":
        for _ in range(random.integers(8, 20)):
            canvas.point((random.uniform(0, width), random.uniform(0, height * 0.55)), fill=(255, 255, 230))


def falling(canvas, weather, width, height, random) -> None:
    """Streaks of rain, or flakes of snow."""
    if weather == "雨":
        for _ in range(random.integers(45, 75)):
            x, y, length = random.uniform(-5, width), random.uniform(-5, height), random.uniform(5, 10)
            canvas.line((x, y, x + length * 0.4, y + length), fill=(175, 185, 205))
    if weather == "雪":
        for _ in range(random.integers(40, 70)):
            x, y, r = random.uniform(0, width), random.uniform(0, height), random.uniform(0.5, 1.6)
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 255))


# Each place stands on (x, y) and is s high; `fill` is its colour, `dark` its shaded parts.


def tower(canvas, x, y, s, fill, dark) -> None:
    for floor in range(4):
        w, bottom = s * (0.2 - 0.035 * floor), y - s * 0.24 * floor
        canvas.rectangle((x - w * 0.7, bottom - s * 0.24, x + w * 0.7, bottom), fill=fill)
        canvas.polygon(
            [(x - w * 1.3, bottom - s * 0.15), (x, bottom - s * 0.26), (x + w * 1.3, bottom - s * 0.15)], dark
        )


def bridge(canvas, x, y, s, fill, dark) -> None:
    canvas.pieslice((x - s, y - s * 0.5, x + s, y + s * 0.5), 180, 360, fill=fill)
    canvas.pieslice((x - s * 0.6, y - s * 0.3, x + s * 0.6, y + s * 0.3), 180, 360, fill=dark)
    for step in range(-3, 4):
        post = x + s * step * 0.22
        canvas.line((post, y - s * 0.62, post, y - s * 0.35), fill=fill, width=2)


def pavilion(canvas, x, y, s, fill, dark) -> None:
    canvas.polygon([(x - s * 0.65, y - s * 0.5), (x, y - s), (x + s * 0.65, y - s * 0.5)], fill)
    for side in (-0.45, -0.15, 0.15, 0.45):
        canvas.rectangle((x + s * side - 2, y - s * 0.5, x + s * side + 2, y), fill=dark)
    canvas.rectangle((x - s * 0.55, y - s * 0.08, x + s * 0.55, y), fill=fill)


def boat(canvas, x, y, s, fill, dark) -> None:
    canvas.polygon(
        [(x - s * 0.6, y - s * 0.22), (x + s * 0.6, y - s * 0.22), (x + s * 0.38, y), (x - s * 0.38, y)], dark
    )
    canvas.polygon([(x + s * 0.04, y - s), (x + s * 0.04, y - s * 0.28), (x + s * 0.5, y - s * 0.28)], fill)
    canvas.polygon([(x - s * 0.04, y - s * 0.85), (x - s * 0.04, y - s * 0.28), (x - s * 0.4, y - s * 0.28)], fill)


def mountain(canvas, x, y, s, fill, dark) -> None:
    canvas.polygon([(x - s * 0.95, y), (x - s * 0.1, y - s), (x + s * 0.95, y)], fill)
    canvas.polygon([(x - s * 0.1, y - s), (x + s * 0.95, y), (x + s * 0.2, y)], dark)


def flower(canvas, x, y, s, fill, dark) -> None:
    canvas.line((x, y, x, y - s * 0.5), fill=(60, 110, 60), width=3)
    for angle in np.arange(6) * np.pi / 3:
        px, py, r = x + s * 0.24 * np.cos(angle), y - s * 0.68 + s * 0.24 * np.sin(angle), s * 0.17
        canvas.ellipse((px - r, py - r, px + r, py + r), fill=fill)
    canvas.ellipse((x - s * 0.12, y - s * 0.8, x + s * 0.12, y - s * 0.56), fill=dark)


def wheel(canvas, x, y, s, fill, dark) -> None:
    centre, r = y - s * 0.55, s * 0.45
    canvas.line((x - s * 0.3, y, x, centre, x + s * 0.3, y), fill=dark, width=3)
    canvas.ellipse((x - r, centre - r, x + r, centre + r), outline=fill, width=4)
    for angle in np.arange(4) * np.pi / 4:
        dx, dy = r * np.cos(angle), r * np.sin(angle)
        canvas.line((x - dx, centre - dy, x + dx, centre + dy), fill=fill, width=2)


def castle(canvas, x, y, s, fill, dark) -> None:
    canvas.rectangle((x - s * 0.7, y - s * 0.55, x + s * 0.7, y), fill=fill)
    for tooth in range(-3, 4):
        canvas.rectangle(
            (x + s * (tooth * 0.2 - 0.06), y - s * 0.7, x + s * (tooth * 0.2 + 0.06), y - s * 0.5), fill=fill
        )
    canvas.pieslice((x - s * 0.2, y - s * 0.4, x + s * 0.2, y + s * 0.4), 180, 360, fill=dark)


PLACES = {
    "塔": tower,
    "桥": bridge,
    "亭": pavilion,
    "船": boat,
    "山": mountain,
    "花": flower,
    "轮": wheel,
    "城": castle,
}
