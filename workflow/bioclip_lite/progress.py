"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 20.0


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` and show how many of ``total`` are done; ``what`` names the work and its unit."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES:
            left = (total - done) * (now - began) / done
            print(f"{what}: {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            said = now
