"""The file for Kaggle: what is in it and what is not, its metadata, and its form as a notebook."""

import ast
import json
import re

import nbformat
import pytest
from conftest import ROOT, SMALL, run
from nbclient import NotebookClient

from popcorn.kaggle import kernel

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "parse(Config)" in path.read_text() and path.stem != "glove-gensim")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_kernel_has_what_its_script_imports_and_no_other_model(script):
    made = "\n".join(kernel.parts(script, []))
    names = [node.slice.value for node in ast.walk(ast.parse(made)) if isinstance(node, ast.Subscript) and isinstance(
        node.value, ast.Name) and node.value.id == "FILES"]  # fmt: skip
    reader = "popcorn/data/competition.py"
    assert reader in names and all(name.startswith("popcorn/") for name in names)
    assert (ROOT / f"{script}.py").read_text() in made and (ROOT / reader).read_text() in made
    others = [other for other in SCRIPTS if other != script and f"\nimport {other}" in made.split("# MODEL")[1]]
    assert not others


def test_a_kernel_asks_for_the_packages_of_its_own_kind_alone():
    files = {
        name: [ROOT / f"{name}.py", *kernel.local_imports(ROOT / f"{name}.py", False)]
        for name in ("nbsvm", "lstm", "deberta_lora")
    }
    packages = {name: {re.match(r"\w+", line)[0] for line in kernel.packages(files[name])} for name in files}
    assert packages["lstm"] == packages["nbsvm"] | {"gensim"} and packages["deberta_lora"] >= {"peft", "bitsandbytes", "tyro"}
    used = {name: {path.stem for path in paths} for name, paths in files.items()}
    of_hf_trainer = {"hf_trainer", "review_trainer", "finetuning_task", "adapters", "deberta"}
    of_word_models = {"pytorch_trainer", "session", "loop", "word_model", "word_vectors"}
    assert of_hf_trainer <= used["deberta_lora"] and of_word_models <= used["lstm"] and "sklearn_pipeline" in used["nbsvm"]
    assert not used["lstm"] & {*of_hf_trainer, "sklearn_pipeline", "load"}
    assert not used["nbsvm"] & {*of_hf_trainer, *of_word_models, "load"}


def test_the_teacher_comes_along_where_it_is_needed():
    assert "FILES['nbsvm.py']" in "\n".join(kernel.parts("gru", ["--pseudo-labels", "nbsvm"], with_teacher=True))


def test_metadata_is_what_kaggles_own_reader_takes(tmp_path, monkeypatch):
    """Everything that `kaggle kernels push` checks before it goes to the network."""
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    from kaggle.api.kaggle_api_extended import KaggleApi

    sent = []

    class Client:
        """Takes the request in place of Kaggle."""

        kernels = property(lambda self: self)
        kernels_api_client = property(lambda self: self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def save_kernel(self, request):
            sent.append(request)

    monkeypatch.setattr(KaggleApi, "build_kaggle_client", lambda self: Client())
    attach = "someone/bert/PyTorch/base-uncased/2"
    kernel.write_kernel("bert_trainer", tmp_path, "somebody", "--epochs 1", attach, as_notebook=False)
    kernel.write_kernel("lstm", tmp_path, "somebody", "", None, as_notebook=True)
    kernel.write_kernel("tfidf", tmp_path, "somebody", "", None, as_notebook=False)
    for name in ("bert_trainer", "lstm", "tfidf"):
        KaggleApi().kernels_push(str(tmp_path / name))
    script, notebook, linear = sent
    assert script.slug == "somebody/popcorn-bert-trainer" and script.enable_gpu and script.enable_internet
    assert script.competition_data_sources == ["word2vec-nlp-tutorial"] and script.model_data_sources == [attach]
    assert "'--epochs', '1', '--model', '/kaggle/input/bert/pytorch/base-uncased/2'" in script.text
    assert notebook.enable_gpu and not linear.enable_gpu
    assert notebook.kernel_type == "notebook" and json.loads(notebook.text)["cells"]


def test_a_notebook_runs_from_top_to_bottom(competition, glove, tmp_path, monkeypatch):
    options = " ".join(map(str, ["--data-dir", competition, "--word-vectors", glove, *SMALL, "--no-validation"]))
    kernel.write_kernel("lstm", tmp_path, "somebody", options, None, as_notebook=True)
    made = nbformat.read(tmp_path / "lstm" / "lstm.ipynb", as_version=4)
    nbformat.validate(made)
    NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    run("lstm.py", *options.split(), "--output-dir", tmp_path / "script")
    for kind in ("", ".proba"):
        name = f"lstm{kind}.csv"
        assert (tmp_path / "submissions" / name).read_bytes() == (tmp_path / "script" / "submissions" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nothing",), "no script nothing.py"),
        (("os.path",), "no script"),
        (("lstm", "--attach", "bert"), "--attach is 'bert'"),
        (("lstm", "--options=it's"), "close every quotation"),
        (("lstm", "--options=--epoch 4"), "--epoch"),
        (("lstm", "--options=--epochs 0"), "--epochs is 0"),
        (("lstm", "--attach", "a/b/PyTorch/c/1"), "--model"),
    ],
)
def test_what_cannot_be_made_is_refused(options, said, tmp_path):
    done = run("-m", "popcorn", "kernel", *options, "--output", tmp_path, code=2)
    assert said in done.stderr and not list(tmp_path.iterdir())
