"""Options in groups for `--help`: the model's, those of its kind, and those of every script."""

import ast
import inspect
import re
import textwrap
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, get_type_hints

from tyro.conf import OmitArgPrefixes, arg


def grouped(config: type) -> type:
    """The options of `config`, in a nested dataclass for each of its classes.

    tyro shows each as a group. An option is in the group of the class that introduces it, with the most derived class's default
    and explanation. Only for `--help`: the result is not a `config`.
    """
    classes = [each for each in config.__mro__ if is_dataclass(each)]
    hints, texts = get_type_hints(config, include_extras=True), {}
    for each in reversed(classes):
        texts |= explanations(each)
    groups = {each: [] for each in classes}
    for option in fields(config):
        if option.init:
            owner = [each for each in classes if option.name in inspect.get_annotations(each)][-1]
            hint = Annotated[hints[option.name], arg(help=texts.get(option.name, ""))]
            groups[owner].append((option.name, hint, field(default=option.default, default_factory=option.default_factory)))
    members = []
    for each in classes:
        group = make_dataclass(each.__name__, groups[each], namespace={"__doc__": each.__doc__})
        members.append((title_of(each), Annotated[group, OmitArgPrefixes], field(default_factory=group)))
    return make_dataclass("Options", members)


def title_of(config: type) -> str:
    """The title of a class's group: "model" for a script's own Config, "training" for TrainingConfig."""
    words = re.findall("[A-Z][a-z]*", config.__name__.removesuffix("Config"))
    return "_".join(words).lower() or "model"


def explanations(config: type) -> dict[str, str]:
    """The strings below the class's own options, by the name of the option."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    return {
        option.target.id: " ".join(text.value.value.split())
        for option, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(option, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
