"""Mistakes that a user can fix, shown as one sentence instead of a traceback."""

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
"""error messages of the allocators of torch, CUDA, HIP, XPU, MPS, NCCL and the C library; Accelerate counts the last one too"""
UNPRINTABLE = OSError, ValueError, AttributeError
"""errors of a closed pipe or a full disk, of a closed stream, and of a missing console"""
DISTRIBUTIONS = {"sklearn": "scikit-learn", "google": "protobuf"}
"""pip's name of a package, where it differs from the import name"""
DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class UserError(Exception):
    """A mistake in the input or the environment; the text names file, row and fix."""

    exit_code = 2


class TrainingDivergedError(UserError):
    """The training loss is not finite; the exit code is not 2.

    The input was valid.
    """

    exit_code = 1


@contextmanager
def exit_on_user_error():
    """Ends the program with the text and exit code of a `UserError`.

    Every other exception keeps its traceback. An out-of-memory error or a full disk counts as a `UserError` too. Inside the
    block, no failure to print ends the run.
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
    """Turns an out-of-memory error or a full disk into a `UserError`.

    A `UserError` from closer to the cause passes through unchanged.
    """
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
    """Ends the program with one sentence where the user can fix the problem; else returns."""
    if isinstance(problem, UserError):
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    if package := distribution_of(problem):
        print(f"error: the package {package} is not installed: pip install {package}", file=sys.stderr)
        sys.exit(UserError.exit_code)


def distribution_of(problem: Exception) -> str | None:
    """The package to install after a failed import.

    None for other problems, for the standard library, and for modules of this package.
    """
    name = (getattr(problem, "name", None) or "").partition(".")[0]
    if not isinstance(problem, ModuleNotFoundError) or not name or name == "popcorn" or name in sys.stdlib_module_names:
        return None
    return DISTRIBUTIONS.get(name, name)


def uncaught(kind: type[BaseException], problem: BaseException, traceback) -> None:
    """A `sys.excepthook` for code outside of `exit_on_user_error`, such as a script's imports."""
    leave(problem)
    sys.__excepthook__(kind, problem, traceback)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the memory of the CPU or a GPU ran out.

    Works without importing torch.
    """
    if any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def first_line(problem: BaseException) -> str:
    """The first line of an error message, without the details below it."""
    return (str(problem).strip() or repr(problem)).splitlines()[0]


class LastingStream:
    """An output stream whose failures never end a run.

    Characters that its encoding lacks are escaped. Where the reader is gone or the disk is full, the text is dropped.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text as far as possible."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except UNPRINTABLE:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flushes the stream as far as possible."""
        try:
            self._stream.flush()
        except UNPRINTABLE:
            self._drop()

    def _drop(self) -> None:
        """Redirects the stream to the null device, since the interpreter flushes it at exit."""
        with suppress(*UNPRINTABLE):
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self._stream.fileno())
            os.close(null_device)


@contextmanager
def lasting_output():
    """Replaces stdout and stderr with `LastingStream`s, for rich and tqdm too."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if isinstance(stream, LastingStream) else LastingStream(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def log(text: str) -> None:
    """Prints a line immediately, from the main process only.

    Notebooks and pipes show it during the run.
    """
    if os.environ.get("RANK", "0") == "0":
        with lasting_output():
            print(text, flush=True)
