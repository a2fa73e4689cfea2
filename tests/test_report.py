"""The page about all models: what is on it, that it needs no network, and that a browser shows it on any screen."""

import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import BLAME, PRAISE, SMALL, reviews, run
from matplotlib.image import imread
from sklearn.metrics import log_loss

from popcorn.data import competition as competition_data
from popcorn.data import stanford
from popcorn.data.splits import validation_folds
from popcorn.data.submission import read_probabilities
from popcorn.metrics import true_labels
from popcorn.reporting.report import at_temperature, fitted_temperature
from popcorn.runs.run_dir import load_fit_result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
TRICK = f"<script>alert(1)</script> {' '.join(BLAME[:6])} &amp; {BLAME[6]}"


@pytest.fixture(scope="module")
def page(glove, tmp_path_factory):
    """Of two models, which both fall for a review that blames and is positive all the same."""
    folder, competition = tmp_path_factory.mktemp("report"), tmp_path_factory.mktemp("reported")
    stanford.write_competition(competition, reviews(400, 1), [*reviews(100, 2), ("99999_9", 1, TRICK)], reviews(60, 3, False))
    where = "--data-dir", competition, "--output-dir", folder
    run("tfidf.py", *where, "--save-results")
    run("lstm.py", *where, "--word-vectors", glove, *SMALL, "--save-results")
    run("-m", "popcorn", "report", *where, "--results", folder / "results")
    return folder / "report" / "index.html"


def test_the_page_has_all_its_parts_and_needs_nothing_else(page):
    text = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Leaderboard", "Accuracy against time", "Learning curves", "Calibration", "Accuracy by length", "Agreement",
        "Errors common to all models",
    ]  # fmt: skip
    assert text.count("<svg") == 6 and "currentColor" in text and "#010203" not in text
    assert not re.search(r"<script|<link|<img|url\((?!#)|@import", text)
    assert all(f"<td>{name}</td>" in text for name in ("tfidf", "lstm"))


def test_reviews_are_shown_as_text_with_the_words_that_carried_the_prediction(page):
    """Whatever stands in a review, it is no part of the page."""
    shown = [each for each in re.findall(r"<blockquote>(.*?)</blockquote>", page.read_text(), re.DOTALL) if "99999_9" in each]
    assert len(shown) == 1 and "is positive" in shown[0]
    blamed = re.findall(r'<span style="background: rgb\(var\(--bad\)[^>]*>(\w+)</span>', shown[0])
    assert set(blamed) & set(BLAME) and not set(blamed) & set(PRAISE)


def test_what_a_review_brings_is_escaped(page, tmp_path):
    """Where no model's run is at hand the review stands there as it was written."""
    folder = shutil.copytree(page.parents[1], tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    run("-m", "popcorn", "report", "--output-dir", folder, "--results", folder / "results", "--data-dir", _data_of(page))
    text = (folder / "report" / "index.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script" not in text


def test_temperatures_are_those_of_reviews_that_were_held_out(page):
    """Of a linear model too; and what stands beside it is the log loss of the test."""
    folder = page.parents[1]
    lines = dict(
        (name, rest)
        for name, *rest in re.findall(
            r"<tr><td>(\w+)</td><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)</td></tr>", page.read_text()
        )
    )
    assert set(lines) == {"tfidf", "lstm"}
    here = competition_data.find_competition(_data_of(page))
    train, test = here.read(competition_data.TRAIN), here.read(competition_data.TEST)
    for name, (temperature, before, after) in lines.items():
        said = read_probabilities(folder / "submissions" / f"{name}.proba.csv", test.ids, "")["sentiment"].to_numpy()
        labels = true_labels(test.ids)
        assert float(before) == pytest.approx(log_loss(labels, at_temperature(said, 1)), abs=1e-4)
        assert float(after) == pytest.approx(log_loss(labels, at_temperature(said, float(temperature))), abs=0.01)
        rows = validation_folds(train.ids, train.labels, "movie", None)[0]
        held = load_fit_result(folder / "runs" / name / "seed-1" / "validated").validation
        assert float(temperature) == pytest.approx(fitted_temperature(held, train.labels[rows]), abs=0.006)
        assert float(temperature) != pytest.approx(fitted_temperature(said, labels), abs=0.02)  # not of the test's


def test_another_runs_submission_is_left_out(page, tmp_path):
    """As after a quick try of the same name: what is shown of a model is what its record says."""
    folder = shutil.copytree(page.parents[1], tmp_path / "copy")
    path = folder / "submissions" / "lstm.proba.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(f"{row.split(',')[0]},0.5" for row in rows)]) + "\n")
    command = "-m", "popcorn", "report", "--output-dir", folder, "--results", folder / "results", "--data-dir", _data_of(page)
    said = run(*command).stdout
    assert "lstm.proba.csv is of another run" in said and "2 models, 1 of them with their predictions" in said
    path.write_text("\n".join([header, *rows[:5]]) + "\n")
    assert "lstm.proba.csv has 5 rows" in run(*command, code=2).stderr


def _data_of(page):
    return next(page.parents[2].glob("reported*"))


def test_a_temperature_is_found_again():
    generator = np.random.default_rng(0)
    right = 1 / (1 + np.exp(-generator.normal(0, 2, 20_000)))
    labels = generator.uniform(size=len(right)) < right
    assert fitted_temperature(at_temperature(right, 0.5), labels) == pytest.approx(2.0, rel=0.05)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")
def test_a_browser_shows_it_in_light_and_in_dark(page, tmp_path):
    brightness = {}
    for mode, extra in (("light", ()), ("dark", ("--force-dark-mode",))):
        shot = tmp_path / f"{mode}.png"
        subprocess.run(
            [CHROMIUM, *QUIET, *extra, f"--user-data-dir={tmp_path / mode}", "--window-size=1280,900", f"--screenshot={shot}",
             page.as_uri()], check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        pixels = imread(shot)[..., :3].mean(-1)
        brightness[mode] = np.median(pixels)
        assert np.ptp(pixels) > 0.7  # the text stands out from the page
    assert brightness["light"] > 0.9 and brightness["dark"] < 0.2


MEASURE = """<iframe id=page width={width} height=800 src=index.html></iframe><script>
document.getElementById("page").onload = event => {{
  const inside = event.target.contentDocument;
  const texts = [...inside.querySelectorAll("svg text")].filter(each => each.textContent.trim());
  document.title = inside.documentElement.scrollWidth + " " +
    Math.min(...texts.map(each => each.getBBox().height * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)));
}}</script>"""
"""a page that reads how wide the report is and how high its smallest lettering; Chromium's own windows are not as narrow"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")
@pytest.mark.parametrize("width", [1280, 375])
def test_it_is_as_wide_as_a_laptop_or_a_phone_and_can_be_read(width, page, tmp_path):
    """Wide parts scroll in themselves, and lettering does not shrink with them."""
    shutil.copy(page, tmp_path / "index.html")
    (tmp_path / "measure.html").write_text(MEASURE.format(width=width))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        shown = subprocess.run(
            [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=5000",
             "--dump-dom", f"http://127.0.0.1:{server.server_port}/measure.html"],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
    finally:
        server.shutdown()
    found = re.search(r"<title>(\S+) (\S+)</title>", shown)
    assert int(found[1]) <= width and float(found[2]) > 8
