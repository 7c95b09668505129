"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the person who runs the pipeline can correct.

    The message says what is wrong, where, why it matters and what to do. The command line prints it alone,
    without a traceback, and exits with status 1.
    """


def first_line(error: Exception) -> str:
    """The first line of an exception's message; the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
