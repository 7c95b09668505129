"""Report a user's mistake in one line, in all commands of ``bioclip-lite``."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from bioclip_lite.utils.errors import UserError

P = ParamSpec("P")


def command(name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a ``main`` that returns an exit status: print a UserError as "<name>: ..." and return 1."""

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def report_mistakes(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1

        return report_mistakes

    return decorate
