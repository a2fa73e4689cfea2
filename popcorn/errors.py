"""Mistakes a user can mend, told in one sentence instead of a traceback."""

import os
import sys
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input or the surroundings; its text names the file, the row and the mend."""

    exit_code = 2


class Diverged(UserError):
    """Training reached a loss that is not a number; the input was fine, so the exit code is not 2."""

    exit_code = 1


@contextmanager
def one_sentence():
    """Ends the program with a `UserError`'s text and exit code; every other exception keeps its traceback."""
    try:
        yield
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(mistake.exit_code)
    except KeyboardInterrupt:
        sys.exit("interrupted")


def say(text: str) -> None:
    """Prints a line at once, also into a pipe (a notebook shows it while the run goes on), by one of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
