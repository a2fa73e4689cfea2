"""The page about all models: what is on it, that it needs no network, and that a browser shows it in light and in dark."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import SMALL, run
from matplotlib.image import imread

from popcorn.report import at_temperature, fitted_temperature

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(competition, glove, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    where = "--data-dir", competition, "--output-dir", folder
    run("tfidf.py", *where, "--record")
    run("lstm.py", *where, "--vectors", glove, *SMALL, "--record")
    run("-m", "popcorn", "report", *where, "--results", folder / "results")
    return folder / "report" / "index.html"


def test_the_page_has_all_its_parts_and_needs_nothing_else(page):
    text = page.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:6] == [
        "Leaderboard", "Accuracy against time", "Learning curves", "Calibration", "Accuracy by length", "Agreement",
    ]  # fmt: skip
    assert text.count("<svg") == 5 and "currentColor" in text and "#010203" not in text
    assert not re.search(r"<script|<link|<img|url\((?!#)|@import", text)
    assert all(f"<td>{name}</td>" in text for name in ("tfidf", "lstm"))


def test_reviews_are_shown_as_text(page):
    """Whatever stands in a review, it is no part of the page."""
    quoted = re.findall(r"<blockquote>(.*?)</blockquote>", page.read_text(), re.DOTALL)
    assert all("<br" not in text and "<script" not in text for text in quoted)


def test_a_temperature_is_found_again():
    generator = np.random.default_rng(0)
    right = 1 / (1 + np.exp(-generator.normal(0, 2, 20_000)))
    labels = generator.uniform(size=len(right)) < right
    assert fitted_temperature(at_temperature(right, 0.5), labels) == pytest.approx(2.0, rel=0.05)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")
@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_a_browser_shows_it_in_light_and_in_dark(size, page, tmp_path):
    brightness = {}
    for mode, extra in (("light", ()), ("dark", ("--force-dark-mode",))):
        shot = tmp_path / f"{mode}.png"
        subprocess.run(
            [CHROMIUM, *QUIET, *extra, f"--user-data-dir={tmp_path / mode}", f"--window-size={size}", f"--screenshot={shot}",
             page.as_uri()], check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        pixels = imread(shot)[..., :3].mean(-1)
        brightness[mode] = np.median(pixels)
        assert np.ptp(pixels) > 0.7  # the text stands out from the page
    assert brightness["light"] > 0.9 and brightness["dark"] < 0.2
