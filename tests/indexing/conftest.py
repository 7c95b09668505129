"""What tests of reading photographs share."""

import os
from typing import Any

import pytest

from bioclip_lite.indexing import batches, database, parts, reading

SEE = reading._see


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Locators of the photographs that are read, all in this process, 32 in a batch."""
    locators: list[str] = []

    def see(read: Any, state: Any, min_side: int, locator: str) -> batches.Result:
        locators.append(locator)
        return SEE(read, state, min_side, locator)

    for module in (database, parts):
        monkeypatch.setattr(module, "BATCH", 32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(reading, "_see", see)
    return locators
