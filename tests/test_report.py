"""The page about all models: what is on it, that it needs no network, and that a browser shows it on any screen."""

import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import BLAME, PRAISE, ROOT, SMALL, reviews, run
from matplotlib.image import imread
from sklearn.metrics import log_loss

from popcorn.data import competition as competition_data
from popcorn.data import stanford
from popcorn.data.splits import validation_folds
from popcorn.data.submission import read_probabilities
from popcorn.metrics import true_labels
from popcorn.reporting.paired import compare
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
    run("lstm.py", *where, "--word-vectors", glove, *SMALL, "--pseudo-labels", "None", "--name", "lstm", "--save-results")
    run("-m", "popcorn", "report", *where, "--results", folder / "results")
    return folder / "report" / "index.html"


def test_the_page_has_all_its_parts_and_needs_nothing_else(page):
    text = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Leaderboard", "Comparison with the best model", "Accuracy against time", "Learning curves", "Calibration",
        "Accuracy by length", "Agreement", "Errors common to all models",
    ]  # fmt: skip
    assert text.count("<svg") == 4 and "currentColor" in text and "#010203" not in text
    assert not re.search(r"<script[^>]|<link|<img|url\((?!#)|@import", text) and text.count("<script>") == 1
    assert all(f"<td>{name}</td>" in text for name in ("tfidf", "lstm"))


def submitted(page):
    """The ids of the test reviews, and by model its probabilities."""
    test = competition_data.find_competition(_data_of(page)).read(competition_data.TEST)
    folder = page.parents[1] / "submissions"
    names = "tfidf", "lstm"
    return test.ids, {
        name: read_probabilities(folder / f"{name}.proba.csv", test.ids, "")["sentiment"].to_numpy() for name in names
    }


def test_each_model_is_compared_with_the_best(page):
    text = page.read_text()
    ids, probability = submitted(page)
    best = re.search(r"against that of <b>(\w+)</b>", text)[1]
    (other,) = set(probability) - {best}
    comparison = compare(true_labels(ids), probability[best], probability[other])
    assert comparison.accuracy[0] >= comparison.accuracy[1]
    row = re.search(rf'<tr><td>{other}</td><td class="group">([\d.]+)</td>(.*?)<td class="group">([\d.]+)</td>(.*?)</tr>', text)
    assert (float(row[1]), float(row[3])) == pytest.approx((comparison.accuracy[1], comparison.auc[1]), abs=5e-5)
    for shown, difference in ((row[2], comparison.accuracy_difference), (row[4], comparison.auc_difference)):
        assert shown == "".join(f"<td>{cell.replace('<', '&lt;')}</td>" for cell in difference.cells())
    agreed = re.findall(r"<td style=[^>]*>([\d.]+)</td>", text)
    assert [float(each) for each in agreed] == pytest.approx([100 * comparison.agreement] * 2, abs=0.05)


def luminance(color: np.ndarray) -> float:
    """The relative luminance of a color in sRGB, (3,) from 0 to 255 (WCAG 2.2)."""
    part = color / 255
    return float(np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_on_color_can_be_read(mode, page):
    """On the strongest shade that agreement, and the words of a review, may have."""
    template = (ROOT / "popcorn" / "reporting" / "report.html").read_text()
    rule = re.findall(r":root {(.*?)}", template, re.DOTALL)[mode]
    hexadecimal = {
        name: "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        for name, digits in re.findall(r"--(\w+): #(\w+);", rule)
    }
    ink, ground, note = (np.frombuffer(bytes.fromhex(hexadecimal[name]), np.uint8) for name in ("ink", "page", "note"))
    shades = {name: np.array(values.split(), float) for name, values in re.findall(r"--(\w+): (\d+ \d+ \d+);", rule)}
    highest = {name: float(factor) for name, factor in re.findall(r"--(\w+)\) / {{ \(-?\w+ \* ([\d.]+)\)", template)}
    assert set(highest) == set(shades) == {"good", "bad", "same"}
    on = [(ink, ground * (1 - highest[name]) + color * highest[name]) for name, color in shades.items()]
    for text, behind in [*on, (note, ground)]:
        low, high = sorted((luminance(text), luminance(behind)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


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
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "alert(1)</script>" not in text


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
  const field = inside.getElementById("filter");
  field.value = "LST nothing";
  field.dispatchEvent(new Event("input"));
  const rows = [...inside.querySelectorAll(".models tbody tr")].filter(each => each.offsetHeight);
  document.title = inside.documentElement.scrollWidth + " " +
    Math.min(...[...inside.querySelectorAll("svg")].map(each => each.getBoundingClientRect().width)) + " " +
    [...new Set(rows.map(each => each.cells[0].textContent))] + " " +
    Math.min(...texts.map(each => each.getBBox().height * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)));
}}</script>"""
"""a page that reads how wide the report and its charts are, which models a filter leaves, and how high the smallest lettering is;
Chromium's own windows are not as narrow"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it")
@pytest.mark.parametrize("width", [1280, 375])
def test_it_is_as_wide_as_a_laptop_or_a_phone_and_can_be_read(width, page, tmp_path):
    """Wide parts scroll in themselves, and lettering does not shrink with them; charts fill the page, and a filter its tables."""
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
    page_width, chart_width, models, lettering = re.search(r"<title>(\S+) (\S+) (\S+) (\S+)</title>", shown).groups()
    assert int(page_width) <= width and float(lettering) > 8
    assert float(chart_width) > 0.9 * width and models == "lstm"
