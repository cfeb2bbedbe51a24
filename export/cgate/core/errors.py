"""The one error a user can fix, and the exit codes that every command shares."""

import contextlib
from collections.abc import Iterator

EXIT_OK = 0
EXIT_CHECK_FAILED = 1  # bits differ, the model does not fit the target, a budget is missed
EXIT_USAGE = 2  # bad usage or bad input
EXIT_TOOL_MISSING = 3  # a compiler, emulator or package is not installed
EXIT_TARGET_FAILED = 4  # the emulated or real target crashed, hung or answered garbage
EXIT_INTERRUPTED = 130  # Ctrl-C


class CgateError(Exception):
    """A failure that the user can act on; `cgate` prints it without a traceback.

    Args:
        message: what went wrong and why, naming the value found and the values allowed.
        hint: the next step, usually a command to run; empty if there is none.
        code: the exit code, one of the EXIT_* constants of this module.
    """

    def __init__(self, message: str, hint: str = "", code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


@contextlib.contextmanager
def hinted(hint: str) -> Iterator[None]:
    """Give a CgateError from within that names no next step this one.

    Raises:
        CgateError: the same one.
    """
    try:
        yield
    except CgateError as error:
        error.hint = error.hint or hint
        raise
