"""`python -m popcorn publish`: the probabilities of recorded runs, for others to score, compare and blend.

A file is published only if it reproduces what `results/` has of its run.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from popcorn.data import competition as competition_data
from popcorn.data.submission import (
    DECIMALS,
    PUBLISHED,
    RunFiles,
    own_files,
    published_files,
    published_names,
    write_published,
)
from popcorn.data.tables import bare
from popcorn.errors import UserError, log
from popcorn.metrics import SELECTION_METRIC, Score, score_test
from popcorn.reporting.score import OUT_OF_FOLD, read_predictions
from popcorn.runs.results import ROUNDED, read_runs, reproduces, rows
from popcorn.runs.run_dir import load_test_probabilities

FOLD = "fold-"
"""start of a fold's name in a saved run"""


def publish(names: list[str], output_dir: Path, results: Path, data_dir: Path | None) -> None:
    """Publishes the named rows of `results`; by default all, and prints which cannot be.

    Raises `UserError` where a named row cannot be published, and where a published file is not of a recorded run.
    """
    competition = competition_data.find_competition(data_dir)
    if competition.source == competition_data.FALLBACK:
        raise UserError("the rows are of the competition's reviews, which are not here: put its files into data/, or --data-dir")
    test_ids = competition.read(competition_data.TEST).ids
    recorded = [row.name for row in rows(results)]
    if unknown := sorted(set(names) - set(recorded)):
        raise UserError(f"{results} has no row {unknown[0]}: name one of {', '.join(recorded)}")
    for name in names or recorded:
        try:
            publish_row(name, output_dir, read_runs(results / f"{name}.json"), test_ids)
        except UserError as problem:
            if names:
                raise
            log(f"{name} is not published: {problem}")
    folder = output_dir / "submissions"
    published = published_scores(folder, results)
    size = sum(path.stat().st_size for path in (folder / PUBLISHED).glob("*"))
    log(f"{folder / PUBLISHED}: {len(published)} of {len(recorded)} rows, {size / 1e6:.2f} MB")


def publish_row(name: str, output_dir: Path, runs: list[dict], test_ids: list[str]) -> None:
    """Writes the files of the first of the row's recorded `runs` whose probabilities are here.

    Raises `UserError` where there are none, or where those of a run with `--folds` are not complete.
    """
    folder = output_dir / "submissions"
    own, published = places = own_files(folder, name), published_files(folder, name)
    missing = f"no probabilities in {own.test} or {output_dir / 'runs' / name} reproduce the score of a recorded run"
    for run in runs:
        saved = output_dir / "runs" / name / f"seed-{run['seed']}"
        test = next((table for table in predictions(places, saved, test_ids) if reproduces(run, score_of(table))), None)
        if test is None:
            continue
        out_of_fold = (read_predictions(each.out_of_fold, [OUT_OF_FOLD]) for each in places if each.out_of_fold.is_file())
        found = next((table for table in out_of_fold if reproduces_folds(run, table)), None)
        if has_folds(run) and found is None:
            missing = f"{own.out_of_fold} does not reproduce the folds of a recorded run"
            continue
        write_published(published.test, test)
        published.out_of_fold.unlink(missing_ok=True)  # that of a run with --folds before
        if found is not None:
            write_published(published.out_of_fold, found)
        log(f"{published.test}: seed {run['seed']}, {score_of(test).describe()}")
        return
    raise UserError(f"{missing}: run the recorded command again")


def predictions(places: tuple[RunFiles, RunFiles], saved: Path, test_ids: list[str]) -> Iterator[pd.DataFrame]:
    """Test probabilities by id that may be those of a run, rounded as in a submission.

    They come from one's own submission, from the run's folder `saved`, since the submission may be another seed's, and from the
    published file.
    """
    own, published = places
    if own.test.is_file():
        yield read_predictions(own.test)
    test = load_test_probabilities(saved)
    if test is not None and len(test) == len(test_ids):
        yield pd.DataFrame({"sentiment": test.round(DECIMALS)}, index=bare(test_ids))
    if published.test.is_file():
        yield read_predictions(published.test)


def has_folds(run: dict) -> bool:
    """Whether a recorded run had `--folds`."""
    return any(name.startswith(FOLD) for name in run["fits"])


def reproduces_folds(run: dict, table: pd.DataFrame) -> bool:
    """Whether out-of-fold probabilities have the recorded ROC AUC of each fold."""
    folds = dict(list(table.groupby("fold")))
    if {f"{FOLD}{number}" for number in folds} != run["fits"].keys():
        return False
    for number, rows_of_fold in folds.items():
        fit, score = run["fits"][f"{FOLD}{number}"], score_of(rows_of_fold)
        if score is None or abs(score.auc - fit["history"][fit["epoch"] - 1][SELECTION_METRIC]) >= ROUNDED:
            return False
    return True


def score_of(table: pd.DataFrame) -> Score | None:
    """The score of probabilities by id; None where the ids do not have ratings of both classes."""
    return score_test(table.index.tolist(), table["sentiment"].to_numpy())


def published_scores(folder: Path, results: Path) -> dict[str, Score]:
    """The test scores of all published rows, by name; `folder` is `submissions/`.

    Raises `UserError` for the first file that is not of a recorded run, and for a run without its out-of-fold file.
    """
    recorded, scores = {row.name for row in rows(results)}, {}
    for name in published_names(folder):
        record, files = results / f"{name}.json", published_files(folder, name)
        if name not in recorded:
            raise UserError(
                f"{files.test} has no record {record} on the competition's data: save its results, or remove the file"
            )
        scores[name] = score_of(read_predictions(files.test))
        fix = f"run python -m popcorn publish {name} where the recorded run is, or remove the row's published files"
        run = next((run for run in read_runs(record) if reproduces(run, scores[name])), None)
        if run is None:
            raise UserError(f"{files.test} does not reproduce the score of a run in {record}: {fix}")
        is_complete = files.out_of_fold.is_file() == has_folds(run)
        if not is_complete or (has_folds(run) and not reproduces_folds(run, read_predictions(files.out_of_fold, [OUT_OF_FOLD]))):
            raise UserError(f"{files.out_of_fold} does not reproduce the folds of the run in {record}: {fix}")
    return scores
