"""Mistakes a user can mend, told in one sentence instead of a traceback."""

import errno
import os
import re
import sys
from contextlib import contextmanager, suppress

OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?(device[ _]|host[ _])?memory|(not enough|insufficient) memory|alloc(ation)?[ _]failed|errormemoryallocation"
    r"|(can't|cannot|could not|couldn't|failed to|unable to) allocate|bad_alloc|resource[ _]exhausted|insufficient_resources"
    r"|cudnn_status_not_supported",
    re.IGNORECASE,
)
"""what the allocators of torch, CUDA, HIP, XPU, MPS, NCCL and the C library say; accelerate takes the last one for memory too"""
UNPRINTABLE = OSError, ValueError, AttributeError
"""of a pipe that nobody reads or a full disk; of a stream that is closed; and of none, as where there is no console"""
DISTRIBUTIONS = {"sklearn": "scikit-learn", "google": "protobuf"}
"""what pip calls a package, where Python has another name for it"""
DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class UserError(Exception):
    """A mistake in the input or the surroundings; its text names the file, the row and the mend."""

    exit_code = 2


class TrainingDivergedError(UserError):
    """Training reached a loss that is not a number; the input was fine, so the exit code is not 2."""

    exit_code = 1


@contextmanager
def exit_on_user_error():
    """Ends the program with a `UserError`'s text and exit code; every other exception keeps its traceback.

    Memory that runs out and a full disk are among the user's errors, wherever they are met. Inside, no printing fails.
    """
    with lasting_output():
        try:
            with _surroundings():
                yield
        except KeyboardInterrupt:
            sys.exit("interrupted")
        except Exception as problem:
            leave(problem)
            raise


@contextmanager
def _surroundings():
    """Turns the end of memory or of the disk, where nothing nearer has an advice, into a `UserError`."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in DISK_FULL:
            raise
        raise UserError(f"{problem.filename or 'a file'} cannot be written ({problem.strerror}): free some space") from problem
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        raise UserError(
            f"memory does not suffice ({first_line(problem)}): end other programs that use it, or give fewer reviews, fewer "
            "terms or smaller batches"
        ) from problem


def leave(problem: BaseException) -> None:
    """Ends the program with one sentence where the user can mend the problem; else returns."""
    if isinstance(problem, UserError):
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    if package := distribution_of(problem):
        print(f"error: the package {package} is not installed: pip install {package}", file=sys.stderr)
        sys.exit(UserError.exit_code)


def distribution_of(problem: Exception) -> str | None:
    """What to install where an import found nothing; None for other problems, and where Python's or our own module is missing."""
    name = (getattr(problem, "name", None) or "").partition(".")[0]
    if not isinstance(problem, ModuleNotFoundError) or not name or name == "popcorn" or name in sys.stdlib_module_names:
        return None
    return DISTRIBUTIONS.get(name, name)


def uncaught(kind: type[BaseException], problem: BaseException, traceback) -> None:
    """A `sys.excepthook`, for what stands outside of `exit_on_user_error`: a script's own imports."""
    leave(problem)
    sys.__excepthook__(kind, problem, traceback)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, of the processor or of a GPU; torch need not be loaded."""
    if any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def first_line(problem: BaseException) -> str:
    """What a library says, without the lines of detail below."""
    return (str(problem).strip() or repr(problem)).splitlines()[0]


class LastingStream:
    """A stream to print to, of which no failure ends a run.

    What its encoding lacks is escaped. Where nobody reads any more, or its disk is full, the text is dropped.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except UNPRINTABLE:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Passes on what can be passed on."""
        try:
            self._stream.flush()
        except UNPRINTABLE:
            self._drop()

    def _drop(self) -> None:
        """From now on into nothing: the interpreter, which flushes at its end, would fail too."""
        with suppress(*UNPRINTABLE):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


@contextmanager
def lasting_output():
    """Has stdout and stderr print as a `LastingStream` does, for all that prints: rich and tqdm look them up too."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if isinstance(stream, LastingStream) else LastingStream(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def log(text: str) -> None:
    """Prints a line at once, also into a pipe (a notebook shows it while the run goes on), by one of several processes."""
    if os.environ.get("RANK", "0") == "0":
        with lasting_output():
            print(text, flush=True)
