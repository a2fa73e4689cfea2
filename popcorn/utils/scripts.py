"""The scripts at the repository's root, one per model, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def model_scripts() -> list[str]:
    """Names of the scripts at the root, without `.py`, in alphabetical order."""
    return sorted(path.stem for path in ROOT.glob("*.py") if path.stem.isidentifier())


def load_script(name: str) -> ModuleType:
    """Imports the script of that name (without `.py`); raises `FileNotFoundError` where there is none."""
    path = ROOT / f"{name}.py"
    if not name.isidentifier() or not path.is_file():
        raise FileNotFoundError(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and saved models find their module by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
