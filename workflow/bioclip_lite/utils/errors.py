"""Errors that a user is meant to read: one sentence, and no traceback."""

import errno
import re
import sys

_HINTS = {
    errno.ENOSPC: "the disk is full; free some space and run again: what was finished stays",
    errno.EDQUOT: "your quota is full; free some space and run again: what was finished stays",
    errno.EROFS: "the folder is read-only; run in a clone of your own",
    errno.EACCES: "you have no permission to write there; ask its owner, or run in a clone of your own",
    errno.EPERM: "the system does not let you do that there; ask its owner, or run in a clone of your own",
    errno.EISDIR: "it is a folder, but a file is needed",
    errno.ENOTDIR: "a part of this path is a file, but a folder is needed",
    errno.EIO: "the disk, or the connection to it, fails; see to it and run again: what was finished stays",
    errno.ESTALE: "the connection to the disk was lost; run again: what was finished stays",
}
_OF_SQLITE = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC, 14: errno.EACCES}  # primary result codes


class UserError(Exception):
    """A mistake that the person who runs the pipeline can correct.

    The message says what is wrong, where, why it matters and what to do. The command line prints it alone,
    without a traceback, and exits with status 1.
    """


def first_line(error: Exception) -> str:
    """The first line of an exception's message; the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def explain(error: Exception) -> str | None:
    """The sentence of an error that a user can correct: a UserError, a full disk, a missing permission; else None."""
    if isinstance(error, UserError):
        return str(error)
    hint = _HINTS.get(_errno(error) or 0)
    return f"{error}; {hint}" if hint else None


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    if code := getattr(error, "sqlite_errorcode", None):
        return _OF_SQLITE.get(code & 0xFF)
    found = re.search(r"\(os error (\d+)\)$", str(error))  # libraries in Rust, such as safetensors
    return int(found[1]) if found else None


def tell(name: str, error: Exception) -> int:
    """Print ``explain`` of an error as "<name>: ...", and return the exit status; any other error is raised again."""
    text = explain(error)
    if text is None:
        raise error
    print(f"{name}: {text}", file=sys.stderr)
    return getattr(error, "status", 1)
