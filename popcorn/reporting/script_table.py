"""The README's table: one row per script, in English or Chinese.

Scores come from `results/*.json`, descriptions and public scores from `results/models.csv`.
"""

import ast
import csv
from dataclasses import dataclass, fields
from pathlib import Path

from popcorn.errors import UserError
from popcorn.runs.results import Row
from popcorn.utils.scripts import ROOT, model_scripts

MODELS = "models.csv"
FOLDS = "-folds"
"""ending of a row's name with `--folds`"""


@dataclass(frozen=True)
class Model:
    """A script's line in `results/models.csv`."""

    script: str
    model: str
    model_zh: str
    paper: str
    kaggle: str = ""
    """best accuracy of a public submission of this kind, as Kaggle shows it"""
    published: str = ""
    """best accuracy in a publication"""
    source: str = ""
    """what the public scores are of"""

    @property
    def public(self) -> float:
        """The better one of the two public scores; 0 if there is none."""
        return max(float(self.kaggle or 0), float(self.published or 0))


@dataclass(frozen=True)
class Language:
    """The texts of one language."""

    headings: tuple[str, ...]
    description: str
    """the column of models.csv"""
    not_measured: str
    kaggle: str
    published: str


ENGLISH = "script", "model", "accuracy", "ROC AUC", "time", "best elsewhere"
CHINESE = "脚本", "模型", "准确率", "ROC AUC", "用时", "公开最佳成绩"
LANGUAGES = {
    "English": Language(ENGLISH, "model", "not measured:", "Kaggle", "published"),
    "Chinese": Language(CHINESE, "model_zh", "尚无结果：", "Kaggle", "已发表"),
}


def models(results: Path) -> list[Model]:
    """One entry per script of the repository.

    It comes from `models.csv`, or else from the script's docstring. Raises `UserError` for a file with other columns or a score
    that is not a number.
    """
    path, listed = results / MODELS, {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            try:
                listed = {line["script"]: Model(**line) for line in csv.DictReader(file)}
                if not all(0 <= model.public <= 1 for model in listed.values()):
                    raise ValueError("a score is not between 0 and 1")
            except (TypeError, KeyError, ValueError) as problem:
                columns = ",".join(field.name for field in fields(Model))
                raise UserError(
                    f"{path} has a wrong line ({problem}): give {columns}, and accuracies between 0 and 1"
                ) from problem
    return [listed.get(script) or _from_docstring(script) for script in model_scripts()]


def _from_docstring(script: str) -> Model:
    docstring = ast.get_docstring(ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))) or script
    title = docstring.splitlines()[0].rstrip(".")
    return Model(script, title, title, "")


def script_rows(found: list[Row], results: Path, language: str) -> list[tuple[str, ...]]:
    """The table's cells in Markdown, the heading first, best accuracy first.

    Scripts without a recorded result come last, by their public scores.
    """
    texts, recorded = LANGUAGES[language], {row.name: row for row in found}
    measured, others = [], []
    for model in models(results):
        row = recorded.get(model.script) or _row_with_options(found, model.script)
        paper = f" ({model.paper})" if model.paper else ""
        link, described = f"[{model.script}]({model.script}.py)", getattr(model, texts.description) + paper
        public = _public_score(model, texts)
        if row is None:
            others.append(
                (-model.public, (link, described, f"{texts.not_measured} `python {model.script}.py`", "-", "-", public))
            )
        else:
            link += "" if row.name == model.script else f" `{row.name}`"
            spread = f" ± {row.spread:.4f}" if row.spread is not None else ""
            cells = link, described, f"{row.accuracy:.4f}{spread}", f"{row.auc:.4f}", _minutes(row.seconds), public
            measured.append((-row.accuracy, cells))
    return [texts.headings, *(cells for _, cells in sorted(measured) + sorted(others))]


def _row_with_options(found: list[Row], script: str) -> Row | None:
    """The script's row with options, such as lm_lstm-512, that has the best validation accuracy: the test chooses nothing.

    Rows with folds are the last choice, since each is several models.
    """
    rows = [row for row in found if row.name.startswith(script + "-")]
    return min(rows, key=lambda row: (row.name.endswith(FOLDS), -(row.validation or 0)), default=None)


def public_scores(results: Path) -> list[tuple[str, ...]]:
    """The cells of the table of public scores, the heading first."""
    lines = [
        (model.script, model.kaggle or "-", model.published or "-", model.source) for model in models(results) if model.public
    ]
    return [("script", "best public submission", "best published", "which"), *lines]


def _public_score(model: Model, texts: Language) -> str:
    if not model.public:
        return "-"
    source = texts.kaggle if float(model.kaggle or 0) == model.public else texts.published
    return f"{model.public:.4g} ({source})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
