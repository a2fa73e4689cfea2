"""Where a checkpoint comes from: a folder, or a hub that answers, fails, stalls and recovers; and what is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pretrained
import pytest
import requests
from conftest import ROOT, run_here
from huggingface_hub import errors

from popcorn.errors import UserError
from popcorn.kaggle.model_config import config_folder
from popcorn.models.hub import fetch
from popcorn.utils import kaggle

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return pretrained.write(tmp_path_factory.mktemp("bert"), "bert")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download of a whole model asks for."""

    def do_GET(self):
        self.server.asked += 1
        path = unquote(self.path.split("?")[0])
        if self.server.asked <= self.server.failing:
            return self.answer(self.server.failure, b"{}")
        if self.server.asked <= self.server.stalling:
            time.sleep(60)
        files = {path.name: path.read_bytes() for path in self.server.folder.iterdir()}
        files |= {"README.md": b"a model", ".gitattributes": b"", "tf_model.h5": b"weights for another library"}
        if path.startswith("/api/models/some/model/tree/"):
            tree = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in files.items()]
            return self.answer(200, json.dumps(tree).encode())
        if path.startswith("/api/models/some/model"):
            names = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": "some/model", "sha": COMMIT, "siblings": names}).encode())
        if path.startswith("/some/model/resolve/") and path.rsplit("/", 1)[1] in files:
            return self.answer(200, files[path.rsplit("/", 1)[1]])
        return self.answer(404, b"{}")

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 401:
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(bert):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked, server.failing, server.failure, server.stalling = bert, 0, 0, 503, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def fetched(hub, home, model="some/model", **variables) -> subprocess.CompletedProcess:
    """`fetch` in a process of its own: the client reads its address and its time limits once."""
    code = (
        "from popcorn.errors import exit_on_user_error\nfrom popcorn.models.hub import fetch\n"
        f"with exit_on_user_error(): print(fetch({model!r}, 'bert'))"
    )
    address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | address | variables, capture_output=True, text=True
    )


def test_a_model_is_fetched_whole_and_once(hub, bert, tmp_path):
    done = fetched(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.splitlines()[-1]
    assert {path.name for path in bert.iterdir()} == set(os.listdir(folder))
    hub.failing = 1_000  # it never answers again
    assert fetched(hub, tmp_path).stdout.splitlines()[-1] == folder


def test_a_hub_that_fails_is_asked_again(hub, tmp_path):
    hub.failing = 2
    done = fetched(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The hub did not answer" in done.stdout and "trying again" in done.stdout


def test_a_hub_that_stalls_is_asked_again(hub, tmp_path):
    hub.stalling, started = 2, time.monotonic()
    done = fetched(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="1")
    assert done.returncode == 0, done.stderr
    assert "trying again" in done.stdout and time.monotonic() - started < 40


def test_a_full_disk_is_not_taken_for_the_network(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("popcorn.models.hub.TRIES", 1)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match=r"cannot be kept in .*No space left.*free some space"):
        fetch("some/model", "bert")


def test_a_hub_out_of_reach_gives_one_sentence(hub, tmp_path):
    hub.failing = 1_000
    started = time.monotonic()
    done = fetched(hub, tmp_path)
    assert done.returncode == 2 and time.monotonic() - started < 15
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "the hub is out of reach" in line and "Add Input, Models" in line and "pass its handle or folder with --model" in line


def test_a_token_that_is_not_taken_is_reported(hub, tmp_path):
    hub.failing, hub.failure = 1_000, 401
    done = fetched(hub, tmp_path, HF_TOKEN="hf_expired")
    assert done.returncode == 2 and "renew or unset HF_TOKEN" in done.stderr


def test_a_name_that_the_hub_does_not_know(hub, tmp_path):
    done = fetched(hub, tmp_path, model="some/other")
    assert done.returncode == 2 and "correct the name" in done.stderr and "trying again" not in done.stdout
    assert "correct the name" in fetched(hub, tmp_path, model="no such name!").stderr


def test_a_folder_that_lacks_a_part_says_which(bert, tmp_path):
    for number, (part, said) in enumerate(
        (("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"))
    ):
        folder = shutil.copytree(bert, tmp_path / str(number))
        (folder / part).unlink()
        with pytest.raises(UserError, match=f"lacks its {said}"):
            fetch(str(folder), "bert")


def test_a_model_of_another_family_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match=r"is of the family 'bert'.*is for 'roberta'"):
        fetch(str(bert), "roberta")
    damaged = shutil.copytree(bert, tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a model's configuration"):
        fetch(str(damaged), "bert")


class Answer:
    """As much of a response as the client's errors ask for."""

    def __init__(self, status: int):
        self.status_code, self.headers, self.request = status, {}, None


def refused(kind: type[Exception], status: int) -> Exception:
    """An error of the client, as it raises it of such an answer."""
    problem = kind.__new__(kind)
    Exception.__init__(problem, f"{status} Client Error.\n\nMore of it.")
    problem.response = Answer(status)
    return problem


def cut_off(cause: Exception | None = None) -> Exception:
    """How the client says that a file is not in its cache and the hub has not given it."""
    problem = errors.LocalEntryNotFoundError("Cannot find the requested files.")
    problem.__cause__ = cause
    return problem


OUT = "the hub is out of reach .*"
ANSWERS = {
    "gated": (refused(errors.GatedRepoError, 403), 1, r"is gated: accept its terms on https?://.*/some/model, and set HF_TOKEN"),
    "gated, unknown": (refused(errors.GatedRepoError, 401), 1, "is gated: accept its terms"),
    "none such": (refused(errors.RepositoryNotFoundError, 404), 1, "correct the .*HF_TOKEN where the model is private"),
    "disabled": (refused(errors.DisabledRepoError, 403), 1, "has disabled some/model, for everyone: take another model"),
    "revision": (refused(errors.RevisionNotFoundError, 404), 1, "has no such revision on the hub"),
    "a file": (refused(errors.RemoteEntryNotFoundError, 404), 1, "lacks a file on the hub .*: take another model"),
    "token": (refused(errors.HfHubHTTPError, 401), 1, "renew or unset HF_TOKEN"),
    "forbidden": (refused(errors.HfHubHTTPError, 403), 1, "token has no access to some/model: set HF_TOKEN to one that has"),
    "bad request": (refused(errors.BadRequestError, 400), 1, "refuses to give some/model"),
    "legal": (refused(errors.HfHubHTTPError, 451), 1, "refuses to give some/model"),
    "too often": (refused(errors.HfHubHTTPError, 429), 3, "too many requests .*: wait some minutes, or set HF_TOKEN"),
    "too often within": (cut_off(refused(errors.HfHubHTTPError, 429)), 3, "too many requests .*: wait some minutes"),
    "gated within": (cut_off(refused(errors.GatedRepoError, 403)), 1, "is gated: accept its terms"),
    "disabled within": (cut_off(refused(errors.DisabledRepoError, 403)), 1, "has disabled some/model"),
    "down": (refused(errors.HfHubHTTPError, 503), 3, OUT + r"status 503.*: try later"),
    "down within": (cut_off(refused(errors.HfHubHTTPError, 500)), 3, OUT + r"status 500.*: try later"),
    "no network": (OSError("no route"), 3, OUT + "switch the internet on"),
    "cut off": (cut_off(), 3, OUT + "switch the internet on"),
    "offline": (errors.OfflineModeIsEnabled("offline"), 1, "HF_HUB_OFFLINE forbids access to the hub: unset it"),
    "offline within": (cut_off(errors.OfflineModeIsEnabled("offline")), 1, "HF_HUB_OFFLINE forbids"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), 1, "free some space"),
    "no right": (PermissionError(errno.EACCES, "Permission denied"), 1, "free some space, or set HF_HOME"),
    "no name": (errors.HFValidationError("no such name"), 1, r"correct the name; or on Kaggle"),
}  # fmt: skip
MISLEADING = "switch the internet on", "correct the", "free some space"


@pytest.mark.parametrize("case", ANSWERS)
def test_every_refusal_says_what_helps_and_is_not_waited_for_in_vain(case, monkeypatch):
    problem, tries, said = ANSWERS[case]
    asked = []

    def ask(*_, **__):
        asked.append(1)
        raise problem

    def nothing_cached(*_, **__):
        raise cut_off()

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)
    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_cached)
    with pytest.raises(UserError, match=said) as raised:
        fetch("some/model", "bert")
    assert len(asked) == tries
    assert all(advice in said or advice not in str(raised.value) for advice in MISLEADING)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)
    with pytest.raises(UserError, match=said):  # the plan asks for one file alone
        config_folder("some/model", "bert", Path())


@pytest.mark.parametrize("case", ["too often", "down", "gated", "token", "offline"])
def test_what_was_fetched_before_serves_where_the_hub_refuses(case, bert, monkeypatch):
    def ask(*_, **__):
        raise ANSWERS[case][0]

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, local_files_only, **__: str(bert))
    assert fetch("some/model", "bert") == bert


@pytest.mark.parametrize(
    ("part", "said"), [("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("config.json", "config.json")]
)
def test_what_the_hub_does_not_have_is_not_fetched_again(part, said, bert, tmp_path, monkeypatch):
    """Such as weights for another library alone."""
    folder = shutil.copytree(bert, tmp_path / "snapshot")
    (folder / part).unlink()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(UserError, match=rf"lacks its {said}.*some/model has none on the hub, so take another model"):
        fetch("some/model", "bert")


def test_a_file_is_no_folder(bert):
    with pytest.raises(UserError, match=r"config\.json is a file: give the folder that it is in"):
        fetch(str(bert / "config.json"), "bert")


@pytest.mark.parametrize("content", ["[]", "3", '"bert"', "null"])
def test_a_config_that_is_no_object_is_refused(content, bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "changed")
    (folder / "config.json").write_text(content)
    for read in (lambda: fetch(str(folder), "bert"), lambda: config_folder(str(folder), "bert", tmp_path)):
        with pytest.raises(UserError, match="is not a model's configuration"):
            read()


@pytest.mark.parametrize("script", ["bert_native", "bert_trainer", "roberta_trainer"])
def test_a_script_without_network_says_so_before_it_reads_anything(script, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    def nothing_cached(*_, **__):
        raise cut_off()

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_cached)
    *before, last = run_here(f"{script}.py", "--output-dir", tmp_path, code=2).splitlines()
    assert last.startswith("error: the hub is out of reach")
    assert before and all(line.startswith(("Model: ", "The hub did not answer")) for line in before)


HANDLE = "someone/bert/PyTorch/base-uncased"


@pytest.mark.parametrize("place", ["models/someone/bert/pytorch/base-uncased", "bert/pytorch/base-uncased"])
def test_an_attached_model_of_kaggle_is_found_without_network(place, bert, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle, "INPUT", tmp_path)
    for version in ("2", "10"):
        shutil.copytree(bert, tmp_path / place / version)
    assert fetch(HANDLE, "bert") == tmp_path / place / "10"
    assert fetch(f"{HANDLE}/2", "bert") == tmp_path / place / "2"


def test_a_model_that_is_not_attached_comes_through_kagglehub(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "empty")
    monkeypatch.setattr("kagglehub.model_download", lambda handle: {f"{HANDLE}/2": str(bert)}[handle])
    assert fetch(f"{HANDLE}/2", "bert") == bert


def response(status):
    """A failure of kagglehub with an answer from Kaggle."""
    from kagglehub.exceptions import KaggleApiHTTPError

    answer = requests.Response()
    answer.status_code = status
    return KaggleApiHTTPError(f"{status} Client Error.", response=answer)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (lambda: response(404), f"--model {HANDLE} is neither a folder here nor a model on Kaggle"),
        (lambda: response(403), f"accept its terms on https://www.kaggle.com/models/{HANDLE}, and set KAGGLE_API_TOKEN"),
        (lambda: response(500), "Kaggle fails (500 Client Error.)"),
        (lambda: requests.ConnectionError("no route"), f"Kaggle is out of reach, and {HANDLE} is not attached"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "free some space, or set KAGGLEHUB_CACHE"),
        (lambda: ValueError("nothing\nat all"), "Kaggle fails (nothing), and"),
    ],
)
def test_a_model_that_kaggle_does_not_give_leads_to_one_sentence(failure, said, tmp_path, monkeypatch):
    def fail(handle):
        raise failure()

    monkeypatch.setattr(kaggle, "INPUT", tmp_path)
    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(UserError) as refusal:
        fetch(HANDLE, "bert")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_folder_goes_before_a_model_of_kaggle(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert, tmp_path / HANDLE)
    assert fetch(HANDLE, "bert").resolve() == tmp_path / HANDLE


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (f"{HANDLE}/2", "bert_trainer-bert-PyTorch-base-uncased-2"),
        (HANDLE, "bert_trainer-bert-PyTorch-base-uncased"),
        ("/kaggle/input/models/someone/bert/pytorch/base-uncased/2", "bert_trainer-bert-pytorch-base-uncased-2"),
        ("someone/bert", "bert_trainer-bert"),
        ("/tmp/bert/3", "bert_trainer-bert-3"),
        ("/3", "bert_trainer-3"),
        ("../3", "bert_trainer-3"),
        ("bert-base-uncased", "bert_trainer"),
    ],
)
def test_a_run_is_named_after_another_model(model, name):
    from bert_trainer import Config

    config = Config(model=model)
    config.prepare("bert_trainer")
    assert config.name == name
