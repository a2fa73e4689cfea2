"""The disk space of checkpoints: estimated before the training, at least what is written, and refused where it is not there."""

import shutil
from collections import namedtuple

import pretrained
import pytest
from conftest import SMALL, run_here

from popcorn.errors import UserError
from popcorn.training import disk

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def largest(tmp_path, monkeypatch):
    """The largest size of all splits' folders, measured whenever a checkpoint is about to be removed."""
    sizes, remove = [], shutil.rmtree

    def measure_and_remove(*given, **options):
        files = (tmp_path / "runs").glob("*/seed-1/[vr]*/**/*")  # validated, refit
        sizes.append(sum(path.stat().st_size for path in files if path.is_file()))
        remove(*given, **options)

    monkeypatch.setattr(shutil, "rmtree", measure_and_remove)
    return lambda: max(sizes)


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("lstm", [*SMALL, "--hidden", 200]),
        ("bert_trainer", ["--epochs", 2, "--batch-size", 32, "--max-length", 32, "--learning-rate", 0.005]),
    ],
)
def test_a_run_never_takes_more_than_it_said(script, given, competition, glove, tmp_path, monkeypatch, largest):
    estimates, estimate = [], disk.disk_space
    monkeypatch.setattr(disk, "disk_space", lambda *given, **more: estimates.append(estimate(*given, **more)) or estimates[-1])
    if script == "bert_trainer":
        given = ["--model", pretrained.write(tmp_path / "bert", "bert"), *given]
    else:
        given = ["--word-vectors", glove, *given]
    said = run_here(f"{script}.py", "--data-dir", competition, *given, "--output-dir", tmp_path, "--checkpoint-every", 5)
    (needed,) = estimates
    assert f"takes at most {disk.size(needed)} of disk space" in said
    assert 0.6 * needed < largest() < needed


def test_a_disk_that_lacks_the_space_is_refused(tmp_path, monkeypatch):
    needed = disk.disk_space(1_000_000, models=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, needed - 1))
    with pytest.raises(UserError, match=rf"{tmp_path} takes at most 44.0 MB .*: free some space, or choose another place"):
        disk.require_disk_space(tmp_path, 1_000_000, models=2)
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "model.bin").write_bytes(b"1")  # of the same run, which replaces it
    disk.require_disk_space(tmp_path, 1_000_000, models=2)
    disk.require_disk_space(tmp_path / "linear", 0, models=2)


def test_a_base_size_model_fits_on_kaggle():
    assert disk.disk_space(355_000_000, models=2) < 20e9  # RoBERTa-large, validated and refit
