"""What a simulated camera sees: a field with rows of plants, at some time of the day."""

from dataclasses import dataclass
from functools import cache
from math import hypot, sin
from random import Random

from mqtt_service.simulator.mosaic import LEAST_ADDED, Colour, grown, mosaic

# Squares across and down, the finest first: a picture has the finest that fits its size.
_GRIDS = ((80, 60), (40, 30), (20, 15), (8, 6))
# The coarsest fits it, whatever the scene.
LEAST_BYTES = 400
_SUN_SIZE = 0.07
_ROWS_OF_PLANTS = 9
_SHARE_OF_PLANTS = 0.55


@dataclass(frozen=True)
class _Scene:
    """Colours: of the sky at the top and above the field, of sun or moon, of soil and plants."""

    top: Colour
    bottom: Colour
    sun: Colour
    sun_at: tuple[float, float]
    soil: Colour
    plants: Colour


_SCENES = (
    _Scene((92, 110, 168), (246, 190, 150), (255, 226, 170), (0.2, 0.42), (104, 78, 60), (72, 104, 58)),
    _Scene((70, 140, 214), (188, 222, 244), (255, 246, 200), (0.7, 0.16), (142, 108, 74), (84, 152, 62)),
    _Scene((138, 150, 160), (206, 210, 212), (226, 228, 228), (0.45, 0.2), (110, 92, 74), (88, 124, 76)),
    _Scene((84, 58, 116), (240, 132, 84), (255, 200, 110), (0.82, 0.46), (84, 58, 52), (56, 76, 48)),
    _Scene((10, 14, 34), (34, 44, 76), (226, 230, 240), (0.3, 0.2), (26, 26, 32), (24, 40, 34)),
)


def photograph(size: int, rng: Random) -> bytes:
    """A JPEG of `size` bytes: one of a few scenes, and no two have the same bytes.

    Raises ValueError where that is less than `LEAST_BYTES` and too little.
    """
    scene = rng.randrange(len(_SCENES))
    fitting = (jpeg for grid in _GRIDS if len(jpeg := _draw(scene, grid)) + LEAST_ADDED <= size)
    return grown(next(fitting, _draw(scene, _GRIDS[-1])), size, rng)


@cache
def _draw(scene: int, grid: tuple[int, int]) -> bytes:
    across, down = grid
    return mosaic([
        [_seen(_SCENES[scene], (x + 0.5) / across, (y + 0.5) / down) for x in range(across)]
        for y in range(down)
    ])  # fmt: skip


def _seen(scene: _Scene, x: float, y: float) -> Colour:
    """The colour at a point; both coordinates go from 0 to 1, from the left and from the top."""
    horizon = 0.56 + 0.04 * sin(7 * x + 1)
    if y < horizon:
        near_sun = hypot(x - scene.sun_at[0], (y - scene.sun_at[1]) * 0.75) < _SUN_SIZE
        return scene.sun if near_sun else _between(scene.top, scene.bottom, y / horizon)
    depth = (y - horizon) / (1 - horizon)
    # The rows run to one point on the horizon.
    row = (x - 0.5) / (0.25 + depth) * _ROWS_OF_PLANTS
    ground = scene.plants if row % 1 < _SHARE_OF_PLANTS else scene.soil
    return _between(scene.bottom, ground, min(1, 0.55 + depth))


def _between(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
