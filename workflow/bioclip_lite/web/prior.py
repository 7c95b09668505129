"""Place and month: how likely each taxon of a bundle is met there, from counts of occurrences.

A prior multiplies the probabilities of a model, p * prior ** weight, and the products are divided by their sum. It is
the likelihood of the place and of the month given the taxon, not the number of its occurrences: models know how common
taxa are from what they have learned. With T occurrences of a taxon, a of them in the cell of the place and around it,
and b the share of all occurrences there, the likelihood is (a + K b) / (T + K): a taxon of which the table has few
occurrences, or none, is neither favoured nor suppressed. Months likewise, the two beside counting a half. ``floor`` is
the least likelihood of a taxon as a part of that of the likeliest one: it limits what a photograph out of range loses.

The file: for each taxon 12 levels, its months; then for each taxon the number of its cells, and of each cell the
distance of its number from the one before and a level. Numbers are LEB128, levels one byte of a number of 6 bits of
exponent and 2 of mantissa (``_VALUES``): whole numbers, so that Python and JavaScript compute with the same ones.
packages/react-bio-clip/src/core/prior.ts is the other half.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.metrics.ranks import softmax
from bioclip_lite.utils.errors import UserError

CELLS = (0.5, 1.0, 2.0, 4.0, 10.0, 20.0, 60.0)  # degrees; all divide 180
BYTES = 100  # per taxon, at most
PSEUDO = 10.0  # K, occurrences
_KNOWN = 10  # occurrences of a taxon from which it can be told that a place or month is none of its own
# Of neighbouring cells, the place's own in the middle; their sum is 16.
_AROUND = {(row, column): (2 - abs(row)) * (2 - abs(column)) for row in (-1, 0, 1) for column in (-1, 0, 1)}
_NOTHING = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
_VALUES = np.array([level if level < 4 else (4 + level % 4) << (level // 4 - 1) for level in range(128)])

Counts = Mapping[int, int]  # occurrences by cell


@dataclass(frozen=True)
class Prior:
    """Counts of C taxa."""

    cell: float  # degrees
    cells: dict[int, tuple[np.ndarray, np.ndarray]]  # by number of the cell: taxa that occur there, and how often
    everywhere: np.ndarray  # int64 [C], occurrences of each taxon
    months: np.ndarray  # int64 [C, 12]
    weight: float
    floor: float


class Expectation(NamedTuple):
    """Place and month of a photograph as a prior sees them."""

    share: np.ndarray  # float64 [C], of each taxon; their sum is 1
    unexpected: np.ndarray  # bool [C]: the table has the taxon, but not around the place, or not around the month


def cell_of(latitude: float, longitude: float, cell: float) -> int:
    """The number of the cell that a place in degrees lies in, from the south and from 180 degrees west."""
    rows, columns = round(180 / cell), round(360 / cell)
    row = min(int((latitude + 90) / cell), rows - 1)
    return row * columns + int((longitude + 180) / cell) % columns


def near(number: int, cell: float) -> dict[int, int]:
    """The cell of a number and those around it, with their weights."""
    rows, columns = round(180 / cell), round(360 / cell)
    row, column = divmod(number, columns)
    found: dict[int, int] = {}
    for (down, right), weight in _AROUND.items():
        if 0 <= row + down < rows:
            place = (row + down) * columns + (column + right) % columns
            found[place] = found.get(place, 0) + weight
    return found


def likelihood(prior: Prior, latitude: float, longitude: float, month: int) -> Expectation | None:
    """``expect`` with a floor of 0."""
    here = np.zeros(len(prior.everywhere), dtype=np.int64)
    for number, weight in near(cell_of(latitude, longitude, prior.cell), prior.cell).items():
        taxa, counts = prior.cells.get(number, _NOTHING)
        here[taxa] += weight * counts
    now = 2 * prior.months[:, month - 1] + prior.months[:, month - 2] + prior.months[:, month % 12]
    if not here.any() or not now.any():
        return None
    ratio = _ratio(here / 16, prior.everywhere) * _ratio(now / 4, prior.months.sum(axis=1))
    unexpected = (prior.everywhere >= _KNOWN) & ((here == 0) | (now == 0))
    return Expectation(ratio / ratio.sum(), unexpected)


def expect(prior: Prior, latitude: float, longitude: float, month: int) -> Expectation | None:
    """What the prior says of a place in degrees and a month, 1 to 12.

    None where the table knows nothing of either, or the weight is 0: then all is as without a prior.
    """
    found = likelihood(prior, latitude, longitude, month) if prior.weight else None
    return found and Expectation(mixed(found.share, prior.floor), found.unexpected)


def mixed(share: np.ndarray, floor: float) -> np.ndarray:
    """Shares, float64 [..., C], of which none is less than ``floor`` of the largest."""
    raised = (1 - floor) * share / share.max(axis=-1, keepdims=True) + floor
    mixed: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return mixed


def _ratio(here: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Likelihood of a place or a month given each taxon, divided by that given any: float64 [C]."""
    base = here.sum() / total.sum()
    ratio: np.ndarray = (here + PSEUDO * base) / (total + PSEUDO) / base
    return ratio


def combine(
    logits: np.ndarray, temperature: float, expected: Sequence[Expectation | None], weight: float
) -> np.ndarray:
    """Probabilities of photographs with the prior, float64 [n, C]; those of the model where nothing is expected.

    Args:
        logits: float [n, C].
    """
    scaled = (logits / temperature).astype(np.float64)
    for row, one in enumerate(expected):
        if one is not None:
            scaled[row] += weight * np.log(one.share)
    return softmax(scaled)


# ---- the file


def level_of(count: int) -> int:
    """The level of a number of occurrences: the highest whose value is not above it."""
    return int(np.searchsorted(_VALUES, count, side="right")) - 1


def encode(cells: Iterable[Counts], months: np.ndarray) -> bytes:
    """The file of the counts of C taxa; months: int [C, 12]."""
    content = bytearray(level_of(int(count)) for count in months.reshape(-1))
    for counts in cells:
        content += _leb128(len(counts))
        last = 0
        for number, count in sorted(counts.items()):
            content += _leb128(number - last)
            content.append(level_of(count))
            last = number
    return bytes(content)


def decode(content: bytes, about: Mapping[str, Any], taxa: int) -> Prior:
    """The prior of C taxa from its file and entry ``prior`` of bundle.json.

    Raises:
        UserError: the file is not complete.
    """
    try:
        months = _VALUES[np.frombuffer(content, np.uint8, 12 * taxa)].reshape(taxa, 12)
        place = 12 * taxa
        cells: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for taxon in range(taxa):
            length, place = _number(content, place)
            last = 0
            for _ in range(length):
                distance, place = _number(content, place)
                last += distance
                cells[last].append((taxon, int(_VALUES[content[place]])))
                place += 1
    except (IndexError, ValueError):
        raise UserError(f"{about['file']} is not complete; make the bundle again") from None
    everywhere = np.zeros(taxa, dtype=np.int64)
    for counts in cells.values():
        for taxon, count in counts:
            everywhere[taxon] += count
    columns = {number: (np.array(counts)[:, 0], np.array(counts)[:, 1]) for number, counts in cells.items()}
    return Prior(about["cell"], columns, everywhere, months, about["weight"], about["floor"])


def _leb128(number: int) -> bytes:
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


def _number(content: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while content[place] > 127:
        number |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
    return number | content[place] << shift, place + 1
