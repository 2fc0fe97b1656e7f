"""Ten nameable things, each with its own colours and texture and three variants, drawn with Pillow."""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

CANVAS = 96
"""Side in pixels of the square, transparent canvas on which every object is drawn before it is scaled."""

Point = tuple[float, float]
Rgb = tuple[int, int, int]
Drawer = Callable[[ImageDraw.ImageDraw, int, random.Random], None]

_MID = CANVAS / 2
_INK = (30, 25, 30)


def _ring(radius: float, count: int, start: float = 0.0, centre: Point = (_MID, _MID)) -> list[Point]:
    """Points spread evenly on a circle; `start` in turns."""
    turns = [start + i / count for i in range(count)]
    return [(centre[0] + radius * math.cos(math.tau * a), centre[1] + radius * math.sin(math.tau * a)) for a in turns]


def _disc(draw: ImageDraw.ImageDraw, centre: Point, radius: float, fill: Rgb, outline: Rgb | None = None) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=3)


def _strawberry(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    red, seed, green = (255, 60, 70), (255, 235, 150), (70, 180, 75)
    bodies: list[list[Point]] = [
        [(14, 30), (30, 18), (66, 18), (82, 30), (76, 58), (48, 92), (20, 58)],
        [(8, 36), (24, 18), (72, 18), (88, 36), (78, 74), (48, 86), (18, 74)],
        [(28, 22), (68, 22), (76, 44), (62, 76), (48, 94), (34, 76), (20, 44)],
    ]
    draw.polygon(bodies[variant], fill=red)
    for row, y in enumerate(range(32, 86, 11)):
        reach = 30 - 0.42 * (y - 32)
        for x in range(-30, 31, 13):
            dx = x + 6 * (row % 2) + rng.uniform(-1, 1)
            if abs(dx) < reach:
                draw.ellipse((_MID + dx - 2.5, y - 3.5, _MID + dx + 2.5, y + 3.5), fill=seed)
    for tip in (20, 36, 48, 60, 76):
        draw.polygon([(38, 16), (58, 16), (tip, 30)], fill=green)
    draw.line((48, 18, 50, 4), fill=green, width=5)


def _leaf(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    green, vein = (85, 200, 70), (200, 245, 140)
    if variant == 0:
        draw.polygon([(48, 2), (70, 22), (76, 48), (66, 74), (48, 94), (30, 74), (20, 48), (26, 22)], fill=green)
    elif variant == 1:
        tips = _ring(45, 5, -0.25)
        notches = _ring(20, 5, -0.15)
        draw.polygon([p for pair in zip(tips, notches, strict=True) for p in pair], fill=green)
    else:
        draw.polygon([(48, 94), (10, 52), (8, 24), (28, 6), (48, 24), (68, 6), (88, 24), (86, 52)], fill=green)
    draw.line((48, 10, 48, 92), fill=vein, width=4)
    for y in range(26, 80, 13):
        lift = 14 + rng.uniform(-2, 2)
        draw.line((48, y + 8, 28, y + 8 - lift), fill=vein, width=3)
        draw.line((48, y + 8, 68, y + 8 - lift), fill=vein, width=3)


def _fish(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    orange, white = (245, 125, 20), (255, 250, 240)
    draw.polygon([(62, 48), (94, 22), (86, 48), (94, 74)], fill=orange)
    top = (22, 16, 28)[variant]
    draw.ellipse((4, top, 76, 96 - top), fill=orange)
    draw.polygon([(30, top + 4), (54, top - 10), (58, top + 6)], fill=orange)
    if variant == 0:
        for x in (30, 50):
            draw.rectangle((x, top + 5, x + 9, 91 - top), fill=white)
    elif variant == 1:
        for x in range(28, 68, 12):
            for y in range(30, 72, 12):
                _disc(draw, (x + rng.uniform(-1, 1), y), 4, white)
    else:
        for x in range(26, 66, 10):
            draw.arc((x, 34, x + 14, 62), -80, 80, fill=white, width=4)
    _disc(draw, (18, 44), 6, white)
    _disc(draw, (17, 44), 3, _INK)


def _ball(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    blue, white = (60, 110, 255), (245, 248, 255)
    box = (4, 4, 92, 92)
    draw.ellipse(box, fill=white)
    turn = rng.uniform(0, 60)
    if variant == 0:
        for k in range(0, 360, 60):
            draw.pieslice(box, k + turn, k + 30 + turn, fill=blue)
        _disc(draw, (_MID, _MID), 9, white)
    elif variant == 1:
        for radius in (42, 26):
            _disc(draw, (_MID, _MID), radius, blue)
            _disc(draw, (_MID, _MID), radius - 9, white)
        _disc(draw, (_MID, _MID), 9, blue)
    else:
        for point in (*_ring(29, 5, turn / 360), (_MID, _MID)):
            draw.polygon(_ring(11, 5, turn / 360, point), fill=blue)
    draw.ellipse(box, outline=blue, width=4)


def _sign(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    yellow, rim = (255, 220, 40), (255, 245, 205)
    lean = rng.uniform(-3, 3)
    if variant == 0:
        draw.polygon([(48, 2), (94, 48), (48, 94), (2, 48)], fill=yellow, outline=rim, width=7)
        draw.line((48 + lean, 26, 48, 58), fill=_INK, width=10)
        _disc(draw, (48, 70), 6, _INK)
    elif variant == 1:
        draw.polygon([(48, 4), (95, 88), (1, 88)], fill=yellow, outline=rim, width=7)
        draw.polygon([(48 + lean, 34), (62, 58), (34, 58)], fill=_INK)
        draw.rectangle((43, 56, 53, 78), fill=_INK)
    else:
        draw.rectangle((4, 18, 92, 78), fill=yellow, outline=rim, width=7)
        for x in (18, 42, 66):
            draw.line([(x + lean, 30), (x + 14, 48), (x, 66)], fill=_INK, width=7)


def _flower(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    pink, rim, heart = (250, 110, 185), (215, 50, 145), (255, 225, 90)
    count, radius, size = ((5, 27, 19), (8, 31, 13), (3, 24, 22))[variant]
    for point in _ring(radius, count, rng.random()):
        _disc(draw, point, size, pink, rim)
        _disc(draw, point, size / 3, rim)
    _disc(draw, (_MID, _MID), 14, heart, rim)


def _butterfly(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    violet, rim, spot = (170, 105, 255), (130, 60, 225), (240, 220, 255)
    upper, lower = (
        ((6, 8, 46, 52), (14, 46, 46, 86)),
        ((2, 20, 46, 56), (2, 46, 46, 80)),
        ((12, 4, 46, 60), (20, 54, 46, 94)),
    )[variant]
    for x0, y0, x1, y1 in (upper, lower):
        for left, right in ((x0, x1), (CANVAS - x1, CANVAS - x0)):
            draw.ellipse((left, y0, right, y1), fill=violet, outline=rim, width=5)
            _disc(draw, ((left + right) / 2 + rng.uniform(-1, 1), (y0 + y1) / 2), 6, spot)
    draw.line((48, 18, 48, 84), fill=_INK, width=7)
    draw.line([(36, 4), (48, 20), (60, 4)], fill=_INK, width=3)


def _gem(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    facets: list[Rgb] = [(20, 205, 215), (120, 240, 240), (0, 170, 190), (60, 225, 230), (190, 255, 250)]
    count, centre = ((6, (48.0, 44.0)), (8, (44.0, 50.0)), (4, (48.0, 34.0)))[variant]
    corners = _ring(45, count, 0.25)
    first = rng.randrange(len(facets))
    for k in range(count):
        draw.polygon([corners[k], corners[(k + 1) % count], centre], fill=facets[(first + 2 * k) % len(facets)])
    draw.polygon(_ring(18, count, 0.25, centre), fill=facets[(first + 1) % len(facets)])
    draw.polygon(corners, outline=(0, 160, 180), width=4)


def _cookie(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    dough, crust, chip = (225, 165, 100), (180, 115, 60), (95, 50, 25)
    if variant == 2:
        draw.rounded_rectangle((6, 6, 90, 90), 14, fill=dough, outline=crust, width=5)
    else:
        _disc(draw, (_MID, _MID), 44, dough, crust)
    for x in range(20, 84, 18):
        for y in range(20, 84, 18):
            _disc(draw, (x + rng.uniform(-4, 4), y + rng.uniform(-4, 4)), rng.uniform(4, 6.5), chip)
    if variant == 1:
        for point in ((88, 20), (78, 8), (94, 34)):
            draw.ellipse((point[0] - 15, point[1] - 15, point[0] + 15, point[1] + 15), fill=(0, 0, 0, 0))


def _dice(draw: ImageDraw.ImageDraw, variant: int, rng: random.Random) -> None:
    white, edge = (245, 245, 242), (190, 190, 196)
    draw.rounded_rectangle((7, 7, 89, 89), 16, fill=white, outline=edge, width=5)
    low, high, mid = 26 + rng.uniform(-2, 2), 70.0, 48.0
    corners = [(low, low), (high, high), (low, high), (high, low)]
    pips = ([*corners, (mid, mid)], [*corners, (low, mid), (high, mid)], [corners[0], (mid, mid), corners[1]])[variant]
    for pip in pips:
        _disc(draw, pip, 9, _INK)


VARIANTS = 3
"""How many visual variants each class has."""

CLASSES: dict[str, Drawer] = {
    "strawberry": _strawberry,
    "leaf": _leaf,
    "fish": _fish,
    "ball": _ball,
    "sign": _sign,
    "flower": _flower,
    "butterfly": _butterfly,
    "gem": _gem,
    "cookie": _cookie,
    "dice": _dice,
}
"""The ten classes of "cluttered objects", by name."""


def draw_object(name: str, variant: int, rng: random.Random) -> Image.Image:
    """Draws one upright object of a class on a transparent canvas.

    Args:
        name: A key of `CLASSES`.
        variant: Which look, `0 ≤ variant < VARIANTS`.
        rng: Source of the small irregularities of seeds, chips and veins.

    Returns:
        An RGBA image of `CANVAS`×`CANVAS` pixels.
    """
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    CLASSES[name](ImageDraw.Draw(canvas), variant, rng)
    return canvas


def draw_distractor(rng: random.Random) -> Image.Image:
    """Draws a thing that belongs to no class: a bar, a cross, a frame or a squiggle of any colour, RGBA."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    first, second = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0:
        draw.rectangle((8, 36, 88, 60), fill=first, outline=second, width=6)
    elif kind == 1:
        draw.line((12, 48, 84, 48), fill=first, width=20)
        draw.line((48, 12, 48, 84), fill=second, width=20)
    elif kind == 2:
        draw.rectangle((12, 12, 84, 84), outline=first, width=14)
        draw.line((20, 20, 76, 76), fill=second, width=8)
    else:
        draw.line([(8, 70), (28, 20), (48, 76), (68, 20), (88, 70)], fill=first, width=12, joint="curve")
        draw.line([(8, 86), (88, 86)], fill=second, width=8)
    return canvas
