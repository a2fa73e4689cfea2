"""Packages that one part needs and the others do without: where one is missing or broken, a sentence says so."""

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from popcorn.errors import UserError, distribution_of, log


class MissingPackage(UserError):
    """A package that cannot be imported, and how to install it."""


@contextmanager
def needs(package: str, purpose: str):
    """Around the imports of a package, as pip calls it: raises `MissingPackage` where it is missing or fails to be imported."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # a broken package may raise anything as it is imported
        if distribution_of(problem) == package:
            raise MissingPackage(f"{purpose} needs {package}, which is not installed: pip install {package}") from problem
        said = (str(problem) or repr(problem)).splitlines()[0]
        raise MissingPackage(
            f"{purpose} needs {package}, which cannot be imported here ({type(problem).__name__}: {said}): "
            f"pip install --upgrade {package}"
        ) from problem


def hide_unusable_quantizers() -> None:
    """Has PEFT and transformers, which try two packages by themselves, find those that are of use alone.

    torchao is hidden in any case: nothing here asks for it, and PEFT refuses to work beside an old one. bitsandbytes is hidden
    where it cannot be imported. To be called before PEFT is imported.
    """
    sys.modules["torchao"] = None  # which Python's own import takes for "there is none"
    try:
        import_module("bitsandbytes")
    except Exception as problem:
        sys.modules["bitsandbytes"] = None
        if distribution_of(problem) != "bitsandbytes":
            said = (str(problem) or repr(problem)).splitlines()[0]
            log(f"bitsandbytes cannot be imported here ({type(problem).__name__}: {said}), and is left out")


def tensorboard_if_usable() -> list[str]:
    """The name of TensorBoard's logger, for either engine; no name, and a sentence, where it is missing or broken.

    TensorFlow, which TensorBoard would import where it is installed, is left alone: that takes many seconds.
    """
    stub = "tensorboard.compat.notf"  # where this can be imported TensorBoard takes its own small part of TensorFlow
    sys.modules.setdefault(stub, ModuleType(stub))
    try:
        with needs("tensorboard", "TensorBoard"):
            import_module("torch.utils.tensorboard")
    except MissingPackage as problem:
        log(f"No curves for TensorBoard: {problem}")
        return []
    return ["tensorboard"]


def quiet_transformers() -> None:
    """Has it report neither that a head is new, which fine-tuning begins with, nor the progress of a second's work.

    An adapter brings its own head, so that the report would be wrong there.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
