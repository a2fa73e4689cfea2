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
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as problem:
        leave(problem)
        raise


def leave(problem: BaseException) -> None:
    """Ends the program with one sentence where the user can mend the problem; else returns."""
    from popcorn.packages import distribution_of

    if isinstance(problem, UserError):
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    if package := distribution_of(problem):
        print(f"error: the package {package} is not installed: pip install {package}", file=sys.stderr)
        sys.exit(UserError.exit_code)


def uncaught(kind: type[BaseException], problem: BaseException, traceback) -> None:
    """A `sys.excepthook`, for what stands outside of `one_sentence`: a script's own imports."""
    leave(problem)
    sys.__excepthook__(kind, problem, traceback)


def say(text: str) -> None:
    """Prints a line at once, also into a pipe (a notebook shows it while the run goes on), by one of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
