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
from urllib.parse import unquote

import pretrained
import pytest
from conftest import ROOT, run

from popcorn.errors import UserError
from popcorn.hub import fetch

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
    code = f"from popcorn import errors, hub\nwith errors.one_sentence(): print(hub.fetch({model!r}, 'bert'))"
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

    monkeypatch.setattr("popcorn.hub.TRIES", 1)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match=r"cannot be kept in .*No space left.*free some space"):
        fetch("some/model", "bert")


def test_a_hub_out_of_reach_is_told_in_one_sentence(hub, tmp_path):
    hub.failing = 1_000
    started = time.monotonic()
    done = fetched(hub, tmp_path)
    assert done.returncode == 2 and time.monotonic() - started < 15
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "the hub is out of reach" in line and "Add Input, Models" in line and "pass its folder with --model" in line


def test_a_token_that_is_not_taken_is_told(hub, tmp_path):
    hub.failing, hub.failure = 1_000, 401
    done = fetched(hub, tmp_path, HF_TOKEN="hf_expired")
    assert done.returncode == 2 and "renew or unset HF_TOKEN" in done.stderr


def test_a_name_that_the_hub_does_not_know(hub, tmp_path):
    done = fetched(hub, tmp_path, model="some/other")
    assert done.returncode == 2 and "correct the name" in done.stderr and "trying again" not in done.stdout
    assert "correct the name" in fetched(hub, tmp_path, model="no such name!").stderr


def test_a_folder_that_lacks_a_part_says_which(bert, tmp_path):
    for number, (part, said) in enumerate(
        (("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokeniser"))
    ):
        folder = shutil.copytree(bert, tmp_path / str(number))
        (folder / part).unlink()
        with pytest.raises(UserError, match=f"lacks its {said}"):
            fetch(str(folder), "bert")


def test_a_model_of_another_family_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match=r"is of the family 'bert'.*fine-tunes 'roberta'"):
        fetch(str(bert), "roberta")
    damaged = shutil.copytree(bert, tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a model's configuration"):
        fetch(str(damaged), "bert")


@pytest.mark.parametrize("script", ["bert_native", "bert_trainer", "roberta_trainer"])
def test_a_script_without_network_says_so_before_it_loads_anything(script, tmp_path):
    started = time.monotonic()
    done = run(f"{script}.py", code=2, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert done.stderr.startswith("error: the hub is out of reach") and time.monotonic() - started < 10
