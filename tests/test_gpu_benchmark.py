"""The GPU's benchmark, in small sizes on the CPU."""

import json

import pytest

from benchmarks import gpu
from popcorn.errors import UserError


@pytest.fixture
def config(tmp_path, monkeypatch) -> gpu.Config:
    """Small sizes, and three lengths of reviews."""
    monkeypatch.setattr(gpu, "LENGTHS", gpu.LENGTHS[::8])
    models = "microsoft/deberta-v3-base", gpu.ADAPTED
    return gpu.Config(models, tiny=True, seconds=0, output=tmp_path / "gpu.json", work=tmp_path / "work")


def rows_of(config: gpu.Config) -> dict:
    return json.loads(config.output.read_text())["rows"]


def test_every_row_has_speed_memory_and_the_plan(config, capsys):
    gpu.main(config)
    rows = rows_of(config)
    assert rows.keys() == set(config.models) and [row["epochs"] for row in rows.values()] == [3, 2]
    for row in rows.values():
        assert row["micro_batch_size"] == row["planned_micro_batch_size"] == gpu.BATCH and not row["recomputed"]
        assert min(row[name] for name in ("reviews_per_second", "peak_memory", "planned_peak_memory", "t4_x2_hours")) > 0
    assert "hours, T4 x2" in capsys.readouterr().out


def test_a_row_is_written_at_once_and_not_measured_again(config, monkeypatch, capsys):
    """Another row's failure does not lose it."""
    monkeypatch.setattr(gpu, "recipe_of", lambda model, _: model)
    measured = []

    def measure(model, _):
        measured.append(model)
        if model == gpu.ADAPTED:
            assert list(rows_of(config)) == ["microsoft/deberta-v3-base"]
            raise RuntimeError("CUDA error: out of order")
        return dict.fromkeys(("reviews_per_second", "peak_memory", "planned_peak_memory", "micro_batch_size",
                              "planned_micro_batch_size", "epochs", "t4_x2_hours"), 1)  # fmt: skip

    monkeypatch.setattr(gpu, "measure", measure)
    gpu.main(config)
    gpu.main(config)
    assert measured == [*config.models, gpu.ADAPTED] and "out of order" in capsys.readouterr().out


def test_smaller_micro_batches_where_memory_runs_out(config, monkeypatch):
    """As in training: halved until they fit; so small ones recompute activations."""
    tried = []

    def train_for(recipe, size, seconds):
        tried.append(size)
        if size > 4:
            raise gpu.torch.OutOfMemoryError("CUDA out of memory.")
        return 1.0, 1

    monkeypatch.setattr(gpu, "train_for", train_for)
    row = gpu.measure(gpu.recipe_of("microsoft/deberta-v3-base", config), config)
    assert tried == [32, 16, 8, 4] and row["recomputed"]
    assert (row["micro_batch_size"], row["planned_micro_batch_size"]) == (4, 32)


def test_no_row_is_started_late(config):
    config.minutes = 1
    gpu.main(config)
    assert not config.output.exists()


def test_an_unknown_model_is_refused(config):
    config.models = ("bert-huge",)
    with pytest.raises(UserError, match="bert-huge is unknown"):
        gpu.main(config)
