"""Optional packages: where one is missing or broken, the user gets one sentence."""

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from popcorn.errors import UserError, distribution_of, first_line, log


class MissingPackage(UserError):
    """A package that cannot be imported; the text includes how to install it."""


@contextmanager
def needs(package: str, purpose: str):
    """Wraps imports of a package (pip's name); raises `MissingPackage` where they fail."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # importing a broken package may raise anything
        if distribution_of(problem) == package:
            raise MissingPackage(f"{purpose} needs {package}, which is not installed: pip install {package}") from problem
        raise MissingPackage(
            f"{purpose} needs {package}, which cannot be imported here ({type(problem).__name__}: {first_line(problem)}): "
            f"pip install --upgrade {package}"
        ) from problem


def hide_unusable_quantizers() -> None:
    """Hides quantization packages that PEFT and transformers would try to import.

    torchao is always hidden: nothing here uses it, and PEFT rejects older versions of it. bitsandbytes is hidden where it cannot
    be imported. Call this before the first import of PEFT.
    """
    sys.modules["torchao"] = None  # the import system then raises ModuleNotFoundError
    try:
        import_module("bitsandbytes")
    except Exception as problem:
        sys.modules["bitsandbytes"] = None
        if distribution_of(problem) != "bitsandbytes":
            log(f"bitsandbytes cannot be imported here ({type(problem).__name__}: {first_line(problem)}), and is left out")


def tensorboard_if_usable() -> list[str]:
    """["tensorboard"] for the trainers' logs; an empty list where TensorBoard cannot be imported.

    A stub keeps TensorBoard from importing TensorFlow, which would take many seconds.
    """
    stub = "tensorboard.compat.notf"  # where this module exists, TensorBoard uses its own small part of TensorFlow
    sys.modules.setdefault(stub, ModuleType(stub))
    try:
        with needs("tensorboard", "TensorBoard"):
            import_module("torch.utils.tensorboard")
    except MissingPackage as problem:
        log(f"No curves for TensorBoard: {problem}")
        return []
    return ["tensorboard"]


def quiet_transformers() -> None:
    """Turns off warnings about new heads, and short progress bars, of transformers.

    Fine-tuning always starts with a new head. An adapter has its own, so the warning would be wrong there.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
