"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake that the person who runs the pipeline can correct.

    The message says what is wrong, where, why it matters and what to do. The command line prints it alone,
    without a traceback, and exits with status 1.
    """
