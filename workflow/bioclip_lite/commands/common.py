"""What the commands of ``python -m bioclip_lite`` have in common."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from bioclip_lite.utils.errors import UserError

P = ParamSpec("P")


def command(name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorates a ``main`` that returns an exit status: a user's mistake becomes "<name>: ..." and status 1."""

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def told(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1

        return told

    return decorate
