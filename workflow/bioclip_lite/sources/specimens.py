"""Photographs of invented organisms: six body plans drawn with signed distance functions (numpy only).

A shape is a field of signed distances to its outline (negative inside), as in computer graphics (I. Quilez, "2D
distance functions"); ``paint`` turns it into anti-aliased coverage. A specimen lives in its own coordinates: x runs
from tail to head, y from one side to the other, both about -1 to 1.

Arrays see only + - * / floor, sqrt, minimum and maximum in float32, which IEEE 754 rounds alike everywhere, so that
a photograph has the same bytes on every processor; libraries' sine, arctangent and power do not promise that.
"""

import colorsys
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout

PATTERNS = ("striped", "spotted", "ringed", "marbled")
# Background of each habitat: hue (turns), saturation, value; what lies about in it: hue, saturation, value, length.
HABITATS = {
    "meadow": ((0.27, 0.45, 0.48), (0.30, 0.60, 0.40, 0.65)),
    "litter": ((0.08, 0.45, 0.42), (0.09, 0.60, 0.45, 0.35)),
    "water": ((0.54, 0.40, 0.55), (0.48, 0.35, 0.45, 0.50)),
    "sand": ((0.11, 0.32, 0.74), (0.10, 0.25, 0.62, 0.18)),
    "stone": ((0.60, 0.06, 0.56), (0.33, 0.20, 0.42, 0.25)),
}


class Traits(NamedTuple):
    """The continuous traits of one specimen, each in 0 to 1 but for the two hues (turns of the colour circle)."""

    hue: float
    accent_hue: float
    saturation: float
    brightness: float
    accent_brightness: float
    breadth: float  # of the body
    number: float  # of petals, legs, leaflets, bristles
    length: float  # of appendages
    thickness: float  # of appendages
    lobes: float  # depth of indentations
    head: float  # size of head, flower heart, fin, ring
    rim: float  # brightness of outlines and small parts
    frequency: float  # of the pattern
    contrast: float
    direction: float
    coverage: float


@dataclass(frozen=True)
class Drawing:
    """Shapes from back to front, each with the paint it takes, and the coordinates that carry the pattern."""

    shapes: list[tuple[Array, str]]  # signed distance [S, S]; "skin", "accent", "trim", "white" or "black"
    u: Array  # [S, S], along the body
    v: Array  # [S, S], across it


# -------------------------------------------------------------------------------------------------- numeric primitives


def wave(turns: Array) -> Array:
    """The sine of ``2 pi turns`` to 0.001, from two parabolas."""
    t = turns - np.floor(turns + 0.5)
    y = t * (8.0 - 16.0 * np.abs(t))
    return y * (0.775 + 0.225 * np.abs(y))


def angle(x: Array, y: Array) -> Array:
    """The angle of (x, y) in turns, -0.5 to 0.5 (minimax polynomial of the arctangent, error 4e-5)."""
    ax, ay = np.abs(x), np.abs(y)
    ratio = np.minimum(ax, ay) / np.maximum(np.maximum(ax, ay), 1e-9)
    square = ratio * ratio
    a = (((-0.0464964749 * square + 0.15931422) * square - 0.327622764) * square * ratio + ratio) / (2 * math.pi)
    a = np.where(ay > ax, 0.25 - a, a)
    a = np.where(x < 0, 0.5 - a, a)
    return np.where(y < 0, -a, a)


def norm(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)


def capsule(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Distance to a thick line with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    h = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0.0, 1.0)
    return norm(px - h * dx, py - h * dy) - radius


def ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Distance to an ellipse with half axes a and b, exact on its outline only."""
    return (norm(x / a, y / b) - 1.0) * min(a, b)


def disc(x: Array, y: Array, cx: float, cy: float, radius: float) -> Array:
    return norm(x - cx, y - cy) - radius


@functools.lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Pixel centres from -1 to 1, x to the right and y down; each float32 [size, size]."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def cloud(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Value noise in 0 to 1: random numbers on a coarse lattice, smoothly interpolated; float32 [size, size]."""
    lattice = rng.random((cells + 1, cells + 1), dtype=np.float32)
    place = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    cell = place.astype(np.intp)
    t = place - cell
    t = t * t * (3 - 2 * t)
    rows = lattice[cell] * (1 - t)[:, None] + lattice[cell + 1] * t[:, None]
    return rows[:, cell] * (1 - t) + rows[:, cell + 1] * t


def colour(hue: float, saturation: float, value: float) -> Array:
    """An RGB colour, float32 [3, 1, 1]."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(rgb, np.float32).reshape(3, 1, 1)


def paint(image: Array, distance: Array, ink: Array, pixel: float) -> None:
    """Lay ink [3, 1, 1] or [3, S, S] over the inside of a shape, in place; ``pixel``: one pixel in its units."""
    image += np.clip(0.5 - distance * (1 / pixel), 0.0, 1.0) * (ink - image)


# --------------------------------------------------------------------------------------------------------- body plans


def flower(x: Array, y: Array, t: Traits) -> Drawing:
    """A ring of petals, each the same in its own sector, around a heart."""
    petals = 4 + round(7 * t.number)
    turns, r = angle(x, y) * petals, norm(x, y)
    sector = (turns - np.floor(turns + 0.5)) / petals
    px, py = r * wave(sector + 0.25), r * wave(sector)
    half = 0.30 + 0.10 * t.length
    wide = half * (0.22 + 0.6 * t.breadth) * min(1.0, 7.0 / petals)
    # Petals are ellipses, pointed or notched at the tip according to the trait `lobes`.
    tip = np.maximum(px - 0.85 * half - 0.1, 0.0) * (1.5 * t.lobes - 0.2)
    blade = ellipse(px - half - 0.06, py, half, wide) + tip * (1.0 - np.minimum(np.abs(py) / wide, 1.0))
    heart = 0.10 + 0.20 * t.head
    shapes = [(blade, "skin"), (r - heart, "accent"), (r - 0.55 * heart, "trim")]
    return Drawing(shapes, px * 2.2 - 1.0, py / wide)


def beetle(x: Array, y: Array, t: Traits) -> Drawing:
    """Wing cases with a seam, a neck shield, a head with feelers, and pairs of bent legs; mirrored about y = 0."""
    side = np.abs(y)
    half, wide = 0.60, 0.60 * (0.36 + 0.42 * t.breadth)
    pairs = 2 + round(3 * t.number)
    reach, thick = 0.14 + 0.34 * t.length, 0.016 + 0.04 * t.thickness
    legs = np.full_like(x, 9.0)
    for i in range(pairs):
        root = (i / (pairs - 1) - 0.5) * 0.95 * half
        lean = 0.55 * root + 0.04
        knee = (root + lean * 0.6, wide * 0.8 + 0.55 * reach)
        foot = (root + lean * 1.5, wide * 0.8 + reach)
        legs = np.minimum(legs, capsule(x, side, (root, 0.5 * wide), knee, thick))
        legs = np.minimum(legs, capsule(x, side, knee, foot, 0.7 * thick))
    skull = 0.11 + 0.12 * t.head
    feeler = capsule(x, side, (half, 0.05), (half + 0.2 + 0.25 * t.length, 0.1 + 0.32 * t.lobes), 0.016)
    head = disc(x, y, half + 0.06, 0.0, skull)
    case = ellipse(x, y, half, wide)
    shield = np.maximum(case, 0.62 * half - x)
    seam = np.maximum(case, np.maximum(side - 0.012, x - 0.62 * half))
    shapes = [(legs, "trim"), (feeler, "trim"), (head, "accent"), (case, "skin"), (shield, "accent"), (seam, "trim")]
    return Drawing(shapes, x / half, y / wide)


def fish(x: Array, y: Array, t: Traits) -> Drawing:
    """A spindle with forked tail, dorsal and belly fins, and an eye."""
    half, high = 0.62, 0.62 * (0.24 + 0.42 * t.breadth)
    along = np.minimum(np.abs(x) / half, 1.0)
    square = along * along
    outline = high * (1.0 - (along * square * t.lobes + square * (1.0 - t.lobes)))
    body = np.where(np.abs(x) < half, (np.abs(y) - outline) * 0.75, norm(np.abs(x) - half, y))
    span, back = 0.14 + 0.26 * t.length, -0.8 * half - x
    spread = np.clip((back + 0.10) / span, 0.0, 1.2)
    fork = back - span * (0.75 + 0.5 * (np.abs(y) / (0.12 + 0.3 * t.thickness)) * t.lobes)
    tail = np.maximum(np.maximum(-back - 0.1, fork), np.abs(y) - (0.05 + (0.12 + 0.30 * t.thickness) * spread))
    fin_half, fin_high = 0.12 + 0.26 * t.head, 0.10 + 0.28 * t.number
    slope = np.clip((x + fin_half) / (2 * fin_half), 0.0, 1.0)
    dorsal = np.maximum(np.abs(x) - fin_half, np.abs(y + 0.7 * high) - fin_high * (1.0 - 0.6 * slope))
    belly = capsule(x, y, (0.1, 0.6 * high), (-0.05 - 0.2 * t.length, 1.15 * high), 0.05)
    eye_x, eye_y = 0.66 * half, -0.2 * high
    shapes = [(tail, "accent"), (dorsal, "accent"), (belly, "accent"), (body, "skin")]
    shapes += [(disc(x, y, eye_x, eye_y, 0.065), "white"), (disc(x, y, eye_x + 0.01, eye_y, 0.034), "black")]
    return Drawing(shapes, x / half, y / high)


def mushroom(x: Array, y: Array, t: Traits) -> Drawing:
    """A cap with gills on a stem with a ring."""
    wide, high = 0.34 + 0.38 * t.breadth, 0.20 + 0.46 * t.lobes
    thick, foot = 0.05 + 0.13 * t.thickness, 0.35 + 0.45 * t.length
    stem = capsule(x, y, (0.0, 0.0), (0.0, foot), thick) - 0.06 * np.maximum(y, 0.0)
    ring_y = foot * (0.25 + 0.4 * t.head)
    ring = np.maximum(np.abs(y - ring_y - np.abs(x) * 0.3) - 0.03, np.abs(x) - 1.8 * thick)
    brim = 0.10 * (t.number - 0.5) * (1.0 - np.minimum((x / wide) * (x / wide), 1.0))
    cap = np.maximum(ellipse(x, y + 0.02, wide, high), y - 0.04 + brim)
    gills = ellipse(x, y - 0.03 + brim, 0.92 * wide, 0.07)
    shapes = [(stem, "accent"), (ring, "trim"), (gills, "trim"), (cap, "skin")]
    return Drawing(shapes, x / wide, y / high + 0.5)


def leaf(x: Array, y: Array, t: Traits) -> Drawing:
    """One to five leaflets that spread from a stalk, with toothed margins and a midrib."""
    leaflets, fan = 1 + 2 * round(2 * t.number), 0.34 + 0.40 * t.length
    skin, ribs = np.full_like(x, 9.0), np.full_like(x, 9.0)
    u, v = x, y
    for i in sorted(range(leaflets), key=lambda i: -abs(i - leaflets // 2)):  # the middle one last, on top
        turn = (i - leaflets // 2) * fan
        c, s = math.cos(turn), math.sin(turn)
        along, across = c * (x + 0.55) + s * y, c * y - s * (x + 0.55)
        long = 1.2 * (1.0 - 0.22 * abs(turn))
        p = np.clip(along / long, 0.0, 1.0)
        swell = p * (1.0 - p) * (1.0 + 2.4 * (t.head - 0.5) * (p - 0.5)) * 4.0
        teeth = 1.0 + (0.04 + 0.30 * t.lobes) * wave(p * (3.0 + 6.0 * t.thickness))
        wide = (0.10 + 0.30 * t.breadth) * long * (0.5 + 0.5 / leaflets)
        end = norm(np.maximum(-along, 0.0) + np.maximum(along - long, 0.0), across)
        blade = np.where((along > 0) & (along < long), (np.abs(across) - wide * swell * teeth) * 0.8, end)
        nearer = blade < skin
        u, v = np.where(nearer, p * 2.0 - 1.0, u), np.where(nearer, across / wide, v)
        skin = np.minimum(skin, blade)
        ribs = np.minimum(ribs, np.maximum(np.abs(across) - 0.014, blade))
    stalk = capsule(x, y, (-0.95, 0.0), (-0.52, 0.0), 0.022)
    return Drawing([(stalk, "accent"), (skin, "skin"), (ribs, "accent")], u, v)


def worm(x: Array, y: Array, t: Traits) -> Drawing:
    """A wavy tapering body with a head and a row of bristles on each side."""
    half, wide = 0.80, 0.07 + 0.13 * t.thickness
    centre = y - (0.08 + 0.20 * t.lobes) * wave(x * (0.35 + 0.55 * t.breadth) + 0.1)
    square = (x / half) * (x / half)
    body = np.where(
        np.abs(x) < half, (np.abs(centre) - wide * (1.0 - square * square)) * 0.8, norm(np.abs(x) - half, centre)
    )
    spacing = 2 * half / (6 + 2 * round(8 * t.number))
    offset = x / spacing
    offset = (offset - np.floor(offset + 0.5)) * spacing
    bristles = np.maximum(np.abs(offset) - 0.013, np.abs(centre) - wide * (1.0 - square) - 0.22 * t.length - 0.02)
    bristles = np.maximum(bristles, np.abs(x) - 0.9 * half)
    skull = 0.07 + 0.11 * t.head
    bend = (0.08 + 0.20 * t.lobes) * float(wave(np.array(0.9 * half * (0.35 + 0.55 * t.breadth) + 0.1)))
    head = disc(x, y, 0.9 * half, bend, skull)
    eye = disc(x, y, 0.9 * half + 0.4 * skull, bend - 0.3 * skull, 0.03)
    shapes = [(bristles, "trim"), (body, "skin"), (head, "accent"), (eye, "black")]
    return Drawing(shapes, x / half * 1.6, centre / wide)


PLANS: dict[str, Callable[[Array, Array, Traits], Drawing]] = {
    "flower": flower,
    "beetle": beetle,
    "fish": fish,
    "mushroom": mushroom,
    "leaf": leaf,
    "worm": worm,
}
_UPRIGHT = {"fish", "mushroom"}  # these are photographed nearly level, the others from above at any angle


# ---------------------------------------------------------------------------------------------------- the photograph


def markings(pattern: str, drawing: Drawing, t: Traits) -> Array:
    """Opacity of the accent colour on the skin, 0 to 1, [S, S]."""
    c, s = math.cos(math.pi * t.direction), math.sin(math.pi * t.direction)
    frequency = 0.5 + 1.8 * t.frequency
    p = (drawing.u * c + drawing.v * (0.8 * s)) * frequency
    q = (drawing.v * (0.8 * c) - drawing.u * s) * frequency
    if pattern == "striped":
        field = wave(p)
    elif pattern == "spotted":
        field = wave(p) * wave(q) * 1.6
    elif pattern == "ringed":
        field = wave(norm(drawing.u, drawing.v) * (1.2 * frequency))
    else:  # marbled
        field = wave(p + 0.24 * wave(q * 0.7))
    return np.clip((field - (1.4 * t.coverage - 0.7)) * 4.0 + 0.5, 0.0, 1.0) * (0.25 + 0.75 * t.contrast)


def inks(pattern: str, drawing: Drawing, t: Traits) -> dict[str, Array]:
    skin = colour(t.hue, 0.35 + 0.6 * t.saturation, 0.35 + 0.6 * t.brightness)
    accent = colour(t.accent_hue, 0.25 + 0.7 * t.saturation, 0.15 + 0.8 * t.accent_brightness)
    return {
        "skin": skin + markings(pattern, drawing, t) * (accent - skin),
        "accent": accent,
        "trim": skin * (0.15 + 0.5 * t.rim),
        "white": np.full((3, 1, 1), 0.95, np.float32),
        "black": np.full((3, 1, 1), 0.05, np.float32),
    }


def pose(plan: str, rng: np.random.Generator, size: int, nuisance: float) -> tuple[Array, Array, float]:
    """The specimen's coordinates at each pixel after a random turn, mirror, scale, shift and shear; its pixel size."""
    x, y = grid(size)
    turn = rng.normal(0.0, 0.35) if plan in _UPRIGHT else rng.uniform(-math.pi, math.pi)
    turn *= min(1.0, 2 * nuisance)
    mirror = -1.0 if rng.random() < 0.5 and nuisance > 0 else 1.0
    scale = 0.9 + nuisance * rng.uniform(-0.22, 0.16)
    shift_x, shift_y, stretch, shear = (nuisance * rng.uniform(-0.15, 0.15, 4)).tolist()
    x, y = (x - shift_x) / scale, (y - shift_y) / scale
    c, s = math.cos(turn), math.sin(turn)
    along = (x * c + y * s) * ((1.0 + stretch) * mirror) + y * shear
    return along, y * c - x * s, 2.0 / size / scale


def ground(habitat: str, rng: np.random.Generator, size: int) -> Array:
    """The background without anything on it, float32 [3, size, size]."""
    hue, saturation, value = HABITATS[habitat][0]
    dark = colour(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.5, 1.4), value * rng.uniform(0.5, 1.0))
    light = colour(hue + rng.normal(0, 0.05), saturation * rng.uniform(0.4, 1.3), value * rng.uniform(0.9, 1.4))
    texture = 0.6 * cloud(rng, size, int(rng.integers(2, 6))) + 0.4 * cloud(rng, size, int(rng.integers(9, 20)))
    return dark + texture * (light - dark)


def scatter(image: Array, rng: np.random.Generator, habitat: str, number: int) -> None:
    """Lay blades, twigs or pebbles on the image, in place: clutter on the ground, occlusion on the specimen."""
    size = image.shape[-1]
    x, y = grid(size)
    hue, saturation, value, length = HABITATS[habitat][1]
    for _ in range(number):
        cx, cy, turn, stretch, thick = rng.random(5).tolist()
        half = length * (0.4 + 0.8 * stretch)
        cx, cy, turn = 2 * cx - 1, 2 * cy - 1, math.pi * turn
        dx, dy = half * math.cos(turn), half * math.sin(turn)
        twig = capsule(x, y, (cx - dx, cy - dy), (cx + dx, cy + dy), 0.018 + 0.05 * thick)
        ink = colour(hue + rng.normal(0, 0.05), saturation * rng.uniform(0.4, 1.4), value * rng.uniform(0.5, 1.6))
        paint(image, twig, ink * np.clip(0.7 - twig * 8.0, 0.6, 1.1), 2.0 / size)


def blur(image: Array) -> Array:
    """The mean of each pixel and its four neighbours, wrapping round at the border."""
    total = image + np.roll(image, 1, 1) + np.roll(image, -1, 1) + np.roll(image, 1, 2) + np.roll(image, -1, 2)
    return total * np.float32(0.2)


def photograph(
    plan: str, pattern: str, habitat: str, traits: Traits, rng: np.random.Generator, size: int, nuisance: float
) -> NDArray[np.uint8]:
    """One photograph of a specimen, uint8 [size, size, 3]; ``nuisance``, 0 to 1, is the strength of all else."""
    x, y, pixel = pose(plan, rng, size, nuisance)
    drawing = PLANS[plan](x, y, traits)
    if rng.random() < 0.5:  # found away from its habitat
        habitat = list(HABITATS)[int(rng.integers(len(HABITATS)))]
    image = ground(habitat, rng, size)
    scatter(image, rng, habitat, int(rng.integers(0, 1 + round(6 * nuisance))))

    if rng.random() < nuisance:  # a drop shadow
        outline = functools.reduce(np.minimum, (distance for distance, _ in drawing.shapes))
        step = max(1, round(0.03 * size))
        image *= 1.0 - 0.45 * np.roll(np.clip(0.5 - outline / (5 * pixel), 0.0, 1.0), (step, step), (0, 1))
    gx, gy = grid(size)
    light = rng.uniform(0, 2 * math.pi)
    shade = 1.0 + (0.28 * nuisance) * (gx * math.cos(light) + gy * math.sin(light))
    palette = inks(pattern, drawing, traits)
    for distance, ink in drawing.shapes:
        edge = 1.0 - (0.15 + 0.35 * traits.rim) * np.clip(1.0 + distance / (5 * pixel), 0.0, 1.0)
        paint(image, distance, palette[ink] * (shade * edge), pixel)

    scatter(image, rng, habitat, int(rng.random() < 0.6 * nuisance) + int(rng.random() < 0.3 * nuisance))
    balance = (1.0 + nuisance * rng.uniform(-0.15, 0.15, 3)).astype(np.float32).reshape(3, 1, 1)
    image *= balance * (1.0 + nuisance * rng.uniform(-0.35, 0.3))
    if rng.random() < 0.4 * nuisance:
        image = blur(image)
    image += rng.standard_normal(image.shape, dtype=np.float32) * (0.06 * nuisance * rng.random())
    return np.ascontiguousarray((np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0))
