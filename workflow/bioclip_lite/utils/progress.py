"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 20.0


def progress(items: Iterable[T], total: int, what: str, images: int = 0) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done; ``what`` names the work and its unit.

    ``images``: how many each item holds, where images per second are of interest.
    """
    if sys.stderr.isatty():
        bar = tqdm(items, total=total, desc=what, leave=False)
        for item in bar:
            yield item
            if images and (rate := bar.format_dict["rate"]):
                bar.set_postfix_str(f"{rate * images:.0f} images/s", refresh=False)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES:
            left = (total - done) * (now - began) / done
            rate = f"{images * done / (now - began):.0f} images/s, " if images else ""
            print(f"{what}: {done} of {total}, {rate}about {left:.0f} s left", file=sys.stderr, flush=True)
            said = now
