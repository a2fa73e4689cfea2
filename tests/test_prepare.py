import hashlib
import http.server
import shutil
import tarfile
import threading

import pytest

from popcorn.data import competition as competition_data
from popcorn.data import stanford
from popcorn.errors import UserError

TEXTS = {
    "train/pos/7_9.txt": 'A "fine"\x85film.<br />Truly.',
    "train/neg/8_2.txt": "Bad \\ film.",
    "train/unsup/0_0.txt": "Perhaps.",
    "test/pos/3_10.txt": "Good.",
    "test/neg/3_1.txt": "Awful.\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in TEXTS.items():
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "aclImdb"


@pytest.fixture
def archive(tmp_path, folder):
    path = tmp_path / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, "aclImdb")
    return path


def test_archive_and_folder_give_the_competitions_files(tmp_path, folder, archive):
    for source in (folder, archive):
        stanford.prepare(source, tmp_path / "out")
        competition = competition_data.Competition(tmp_path / "out", "test")
        train = competition.read(competition_data.TRAIN)
        assert dict(zip(train.ids, train.labels.tolist(), strict=True)) == {'"7_9"': 1, '"8_2"': 0}
        assert set(train.texts) == {'A "fine" film.<br />Truly.', "Bad \\ film."}
        assert sorted(competition.sample_ids()) == ['"3_1"', '"3_10"']
        assert competition.read(competition_data.UNLABELED).ids == ['"0_0"']


def test_incomplete_sources_are_refused_and_nothing_is_written(tmp_path, folder, archive):
    (folder / "test/neg/3_1.txt").unlink()
    with pytest.raises(UserError, match="lacks the reviews of test/neg"):
        stanford.prepare(folder, tmp_path / "out")
    archive.write_bytes(archive.read_bytes()[:150])
    with pytest.raises(UserError, match="damaged or truncated"):
        stanford.prepare(archive, tmp_path / "out")
    with pytest.raises(UserError, match="there is no"):
        stanford.prepare(tmp_path / "nowhere.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Dropping(http.server.BaseHTTPRequestHandler):
    """Serves ranges of `content`, and breaks the connection in the middle `drops` times."""

    content = bytes(range(256)) * 100_000  # some times the 10 MB that the library takes at once
    drops = 0
    ranges: tuple = ()

    def do_GET(self):
        asked = self.headers.get("Range")
        start = int(asked.split("=")[1].split("-")[0]) if asked else 0
        type(self).ranges += (start,)
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        if self.drops > 0:
            type(self).drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.connection.close()
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Dropping,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}/aclImdb_v1.tar.gz"
        server.shutdown()


MD5 = hashlib.md5(Dropping.content).hexdigest()


def test_a_dropped_download_goes_on_where_it_stopped(tmp_path, server):
    handler, url = server
    handler.drops = 2
    target = tmp_path / "archive.tar.gz"
    stanford.download(target, url, MD5)
    assert target.read_bytes() == handler.content
    assert len(handler.ranges) == 3 and handler.ranges[2] >= handler.ranges[1] > handler.ranges[0] == 0
    stanford.download(target, url, MD5)
    assert len(handler.ranges) == 3  # it is there and whole


def test_a_later_call_goes_on_with_what_an_earlier_one_left(tmp_path, server):
    handler, url = server
    (tmp_path / "archive.tar.gz.part").write_bytes(handler.content[:1_000_000])
    stanford.download(tmp_path / "archive.tar.gz", url, MD5)
    assert (tmp_path / "archive.tar.gz").read_bytes() == handler.content
    assert handler.ranges == (1_000_000,)


def test_a_wrong_checksum_and_a_dead_server_are_told(tmp_path, server):
    _, url = server
    with pytest.raises(UserError, match="checksum"):
        stanford.download(tmp_path / "archive.tar.gz", url, "0" * 32)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be fetched"):
        stanford.download(tmp_path / "archive.tar.gz", url.replace("127.0.0.1", "127.0.0.2").rsplit(":", 1)[0] + ":9/x", MD5)


def test_what_cannot_be_written_or_read_is_told(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"):
        stanford.prepare(folder, tmp_path / "file")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (review, *_) = sorted(copy.rglob("*.txt"))
    review.write_bytes(b"na\xefve")
    with pytest.raises(UserError, match=f"{review.name} is not UTF-8 text"):
        stanford.prepare(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
