"""The file for Kaggle: what is in it and what is not, its metadata, and its form as a notebook."""

import ast
import json
import re
import sys

import nbformat
import pytest
from conftest import ROOT, SMALL, run
from nbclient import NotebookClient

from popcorn import __main__ as commands
from popcorn.kaggle import kernel
from popcorn.utils.scripts import load_script

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "parse(Config)" in path.read_text() and path.stem != "glove-gensim")
HANDLE = "someone/bert/PyTorch/base-uncased/2"


def written(script: str, options: str = "", as_notebook: bool = False) -> str:
    """The kernel of one script."""
    return "\n".join(kernel.blocks_of(script, kernel.read_commands([script], options), None, as_notebook))


def imported(script: str) -> list:
    """The files that a script's kernel has in addition to the script."""
    return kernel.local_imports([ROOT / f"{script}.py"], False)


def commands_in(text: str) -> list[str]:
    """The commands that a kernel runs."""
    values = {ast.unparse(node.targets[0]): node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)}
    return ast.literal_eval(values["COMMANDS"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_kernel_has_what_its_script_imports_and_no_other_model(script):
    made = written(script)
    names = [node.slice.value for node in ast.walk(ast.parse(made)) if isinstance(node, ast.Subscript) and isinstance(
        node.value, ast.Name) and node.value.id == "FILES"]  # fmt: skip
    reader, teacher = "popcorn/data/competition.py", getattr(load_script(script).Config, "pseudo_labels", None)
    assert reader in names
    assert [name for name in names if not name.startswith("popcorn/")] == ([f"{teacher}.py"] if teacher else [])
    assert {"popcorn/kaggle/launch.py", "popcorn/kaggle/processes.py"} <= set(names) and "popcorn/kaggle/kernel.py" not in names
    assert (ROOT / f"{script}.py").read_text() in made and (ROOT / reader).read_text() in made
    others = [other for other in SCRIPTS if other != script and f"\nimport {other}" in made.split("# MODEL")[1]]
    assert not others


def test_a_kernel_asks_for_the_packages_of_its_own_kind_alone():
    files = {name: [ROOT / f"{name}.py", *imported(name)] for name in ("nbsvm", "lstm", "deberta_lora")}
    packages = {name: {re.match(r"\w+", line)[0] for line in kernel.packages(files[name])} for name in files}
    assert packages["lstm"] == packages["nbsvm"] | {"gensim"}
    assert packages["deberta_lora"] >= {"peft", "bitsandbytes", "tyro", "kagglehub"}
    used = {name: {path.stem for path in paths} for name, paths in files.items()}
    of_hf_trainer = {"hf_trainer", "review_trainer", "finetuning_task", "adapters", "deberta"}
    of_word_models = {"pytorch_trainer", "session", "loop", "word_model", "word_vectors"}
    assert of_hf_trainer <= used["deberta_lora"] and of_word_models <= used["lstm"] and "sklearn_pipeline" in used["nbsvm"]
    assert not used["lstm"] & {*of_hf_trainer, "sklearn_pipeline", "load"}
    assert not used["nbsvm"] & {*of_hf_trainer, *of_word_models, "load"}


def test_the_teacher_comes_along_where_it_is_needed():
    assert "FILES['nbsvm.py']" in written("gru", "--pseudo-labels nbsvm")


@pytest.fixture
def pushed(tmp_path, monkeypatch):
    """Pushes a kernel with Kaggle's own command up to the network; the request that it would send."""
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

    def push(name, options="", **more):
        kernel.write_kernel(name, tmp_path, "somebody", options, **more)
        KaggleApi().kernels_push(str(tmp_path / name))
        return sent[-1]

    return push


def test_metadata_is_what_kaggles_own_reader_takes(pushed, capsys):
    """Everything that `kaggle kernels push` checks before it goes to the network."""
    script = pushed("bert_trainer", f"--epochs 1 --model {HANDLE}")
    assert script.slug == "somebody/popcorn-bert-trainer" and script.enable_gpu and script.enable_internet
    assert script.machine_shape == "NvidiaTeslaT4" and not script.docker_image and not script.kernel_data_sources
    assert script.competition_data_sources == ["word2vec-nlp-tutorial"] and script.model_data_sources == [HANDLE]
    assert f"'bert_trainer.py --epochs 1 --model {HANDLE}'" in script.text
    notebook = pushed("lstm", accelerator="NvidiaL4", docker_image="gcr.io/kaggle-gpu-images/python:v170", as_notebook=True)
    assert notebook.enable_gpu and notebook.machine_shape == "NvidiaL4" and notebook.docker_image.endswith(":v170")
    assert notebook.kernel_type == "notebook" and json.loads(notebook.text)["cells"] and not notebook.model_data_sources
    linear = pushed("tfidf")
    assert not linear.enable_gpu and not linear.machine_shape
    assert "title does not resolve" not in capsys.readouterr().out


def test_the_next_session_has_the_kernels_own_output(pushed):
    first, second = pushed("bert_trainer", "--epochs 2"), pushed("bert_trainer", "--epochs 2", continues=True)
    assert second.slug == first.slug and second.kernel_data_sources == ["somebody/popcorn-bert-trainer"]
    assert "'bert_trainer.py --epochs 2 --resume'" in second.text and "PREVIOUS = None" in first.text
    assert "--resume" not in "".join(commands_in(pushed("tfidf", continues=True).text))


def test_a_table_has_several_scripts(pushed):
    table = pushed("table", "--seed 2", scripts=f"tfidf, bert_trainer --model {HANDLE},deberta_lora.py", continues=True)
    assert table.slug == "somebody/popcorn-table" and table.kernel_data_sources == [table.slug]
    assert table.enable_gpu and table.model_data_sources == [HANDLE]
    assert commands_in(table.text) == [
        "tfidf.py --save-results --seed 2",
        f"bert_trainer.py --model {HANDLE} --save-results --seed 2 --resume",
        "deberta_lora.py --save-results --seed 2 --resume",
    ]
    assert "ON_GPUS = ['bert_trainer.py', 'deberta_lora.py']" in table.text


def test_a_notebook_runs_from_top_to_bottom(competition, glove, tmp_path, monkeypatch):
    options = " ".join(map(str, ["--data-dir", competition, "--word-vectors", glove, *SMALL, "--no-validation"]))
    kernel.write_kernel("lstm", tmp_path, "somebody", options, as_notebook=True)
    made = nbformat.read(tmp_path / "lstm" / "lstm.ipynb", as_version=4)
    nbformat.validate(made)
    assert f"%%writefile {{folder}}/lstm.py\n{(ROOT / 'lstm.py').read_text()}" in [cell.source for cell in made.cells]
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
        (("lstm", "--options=it's"), "close every quotation"),
        (("lstm", "--options=--epoch 4"), "--epoch"),
        (("lstm", "--options=--epochs 0"), "--epochs is 0"),
        (("lstm", f"--options=--model {HANDLE}"), "--model"),
        (("bert_trainer", f"--options=--model {HANDLE[:-2]}"), f"add its version, such as {HANDLE[:-2]}/1"),
        (("lstm", "--continue"), "give your Kaggle user name with --user"),
        (("tfidf", "--accelerator", "NvidiaL4"), "leave --accelerator out"),
        (("lstm", "--scripts", "gru"), "--scripts and the kernel table need each other"),
        (("table",), "--scripts and the kernel table need each other"),
        (("table", "--scripts", "gru,nothing"), "no script nothing.py"),
        (("table", "--scripts", ", "), "--scripts and the kernel table need each other"),
    ],
)
def test_what_cannot_be_made_is_refused(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["popcorn", "kernel", *options, "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err.replace("\n", " ") and not list(tmp_path.iterdir())
