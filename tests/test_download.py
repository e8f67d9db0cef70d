"""Downloading against a local server that speaks both APIs and misbehaves on request."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from fracture.download import (
    FetchError,
    RemoteFile,
    UnpackLimits,
    download,
    fetch,
    unpack,
)

INSIDE = {
    "Bone Fracture/Orginal/Simple Bone Fracture/1_Simple Bone Fracture.jpg": b"one",
    "Bone Fracture/Augmented/Simple Bone Fracture/1_Simple Bone Fracture_rotate.jpg": b"two",
}


def make_zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Server:
    """Serves ``files`` by path, with ranges; keeps what it was asked for.

    ``cut``: close the connection after so many bytes, the given number of times.
    ``ranges``: False for a server that ignores the Range header.
    ``busy``: answer 503 so many times first.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after = 0
        self.cuts = 0
        self.ranges = True
        self.busy = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if self.busy:
            self.busy -= 1
            request.send_error(503)
            return
        body = self.files.get(request.path)
        if body is None:
            body = self.files.get(urlsplit(request.path).path)
        if body is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(body):
            request.send_error(416)
            return
        request.send_response(206 if wanted and self.ranges else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        rest = body[start:]
        if self.cuts and not request.path.startswith("/api"):
            self.cuts -= 1
            rest = rest[: self.cut_after]
            request.close_connection = True
        request.wfile.write(rest)

    def add_mendeley(self, archive: bytes, **changes: object) -> None:
        """The record of the set, its root folder and one folder more."""
        root = "/api/datasets/vg95gvhj3y"
        record = {
            "id": "vg95gvhj3y",
            "version": 3,
            "name": "Bone films",
            "doi": {"id": "10.17632/vg95gvhj3y.3"},
            "data_licence": {
                "short_name": "CC BY 4.0",
                "url": "http://creativecommons.org/licenses/by/4.0",
            },
        } | changes
        self.files[root] = json.dumps(record).encode()
        folders = [
            {"id": "f2", "name": "inner", "parent_id": "f1"},
            {"id": "f1", "name": "notes", "parent_id": None},
        ]
        self.files[f"{root}/folders/3"] = json.dumps(folders).encode()
        for folder, name, data in [
            ("root", "Bone Fracture.zip", archive),
            ("f2", "read me.txt", b"hello"),
        ]:
            path = f"/store/{folder}"
            self.files[path] = data
            entry = {
                "filename": name,
                "size": len(data),
                "content_details": {
                    "size": len(data),
                    "sha256_hash": hashlib.sha256(data).hexdigest(),
                    "download_url": self.url + path,
                },
            }
            self.files[f"{root}/files?folder_id={folder}&version=3"] = json.dumps([entry]).encode()
        self.files[f"{root}/files?folder_id=f1&version=3"] = b"[]"

    def add_figshare(self, archive: bytes) -> None:
        self.files["/store/1"] = archive
        record = {
            "title": "The dataset",
            "doi": "10.6084/m9.figshare.22363012.v6",
            "license": {
                "value": 1,
                "name": "CC BY 4.0",
                "url": "https://creativecommons.org/licenses/by/4.0/",
            },
            "files": [
                {
                    "id": 1,
                    "name": "FracAtlas.zip",
                    "size": len(archive),
                    "is_link_only": False,
                    "download_url": f"{self.url}/store/1",
                    "supplied_md5": hashlib.md5(archive).hexdigest(),
                    "computed_md5": hashlib.md5(archive).hexdigest(),
                }
            ],
        }
        self.files["/api/articles/22363012"] = json.dumps(record).encode()

    def remote(self, path: str, data: bytes) -> RemoteFile:
        self.files[path] = data
        digest = hashlib.sha256(data).hexdigest()
        return RemoteFile("file.bin", len(data), self.url + path, "sha256", digest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FRACTURE_FETCH_PATIENCE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


DATA = bytes(range(256)) * 4000


def test_mendeley(server: Server, tmp_path: Path) -> None:
    server.add_mendeley(make_zip(INSIDE))
    said: list[str] = []
    folder = fetch("mendeley", tmp_path, api=f"{server.url}/api", say=said.append)
    assert folder == tmp_path / "mendeley"
    for name, data in INSIDE.items():
        assert (folder / "Bone Fracture" / name).read_bytes() == data
    assert (folder / "notes" / "inner" / "read me.txt").read_bytes() == b"hello"
    assert "Licence: CC BY 4.0 http://creativecommons.org/licenses/by/4.0" in said
    source = json.loads((folder / "source.json").read_text())
    assert source["doi"] == "10.17632/vg95gvhj3y.3"
    assert source["licence"] == "CC BY 4.0"
    assert [file["name"] for file in source["files"]] == [
        "Bone Fracture.zip",
        "notes/inner/read me.txt",
    ]
    versions = [parse_qs(urlsplit(path).query).get("version") for path, _ in server.asked]
    assert versions[0] == ["3"]

    server.asked.clear()
    fetch("mendeley", tmp_path, api=f"{server.url}/api", say=said.append)
    assert not [path for path, _ in server.asked if path.startswith("/store")]


def test_fracatlas(server: Server, tmp_path: Path) -> None:
    server.add_figshare(make_zip({"FracAtlas/images/Fractured/IMG0000019.jpg": b"film"}))
    said: list[str] = []
    folder = fetch("fracatlas", tmp_path, api=f"{server.url}/api", say=said.append)
    unpacked = folder / "FracAtlas" / "FracAtlas" / "images" / "Fractured" / "IMG0000019.jpg"
    assert unpacked.read_bytes() == b"film"
    assert any("md5 checked" in line for line in said)


def test_another_licence_stops_it(server: Server, tmp_path: Path) -> None:
    server.add_mendeley(make_zip(INSIDE), data_licence={"short_name": "CC BY NC 3.0"})
    with pytest.raises(FetchError, match="'CC BY NC 3.0', not 'CC BY 4.0'"):
        fetch("mendeley", tmp_path, api=f"{server.url}/api", say=lambda _: None)
    assert not list(tmp_path.iterdir())
    fetch("mendeley", tmp_path, api=f"{server.url}/api", any_licence=True, say=lambda _: None)
    assert (tmp_path / "mendeley" / "Bone Fracture").is_dir()


def test_record_of_another_shape(server: Server, tmp_path: Path) -> None:
    server.add_mendeley(b"")
    server.files["/api/datasets/vg95gvhj3y"] = b'{"name": "x"}'
    with pytest.raises(FetchError, match="a shape this version does not know"):
        fetch("mendeley", tmp_path, api=f"{server.url}/api", say=lambda _: None)
    server.files["/api/datasets/vg95gvhj3y"] = b"<html>"
    with pytest.raises(FetchError, match="did not answer with JSON"):
        fetch("mendeley", tmp_path, api=f"{server.url}/api", say=lambda _: None)
    server.add_mendeley(b"", version=4)
    with pytest.raises(FetchError, match="version 4, not 3"):
        fetch("mendeley", tmp_path, api=f"{server.url}/api", say=lambda _: None)


@pytest.mark.parametrize("name", ["../up.jpg", "..", "a/b.jpg", "C:x.jpg", "a\\b.jpg", ""])
def test_record_with_a_file_name_that_climbs_out(server: Server, tmp_path: Path, name: str) -> None:
    server.add_mendeley(make_zip(INSIDE))
    path = "/api/datasets/vg95gvhj3y/files?folder_id=root&version=3"
    entries = json.loads(server.files[path])
    entries[0]["filename"] = name
    server.files[path] = json.dumps(entries).encode()
    with pytest.raises(FetchError, match="no file name"):
        fetch("mendeley", tmp_path, api=f"{server.url}/api", say=lambda _: None)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Port 9 (discard) of this machine: nothing listens there.
    with pytest.raises(FetchError) as error:
        fetch("fracatlas", tmp_path, api="http://127.0.0.1:9/v2", say=lambda _: None)
    assert "no connection to 127.0.0.1:9" in str(error.value)
    assert "By hand: download from https://figshare.com/" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_only_the_web(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345")
    file = RemoteFile("copy", 5, secret.as_uri(), "md5", hashlib.md5(b"12345").hexdigest())
    with pytest.raises(FetchError, match="not a web address"):
        download(file, tmp_path)
    assert not (tmp_path / "copy").exists()


def test_cut_connection_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    server.cuts, server.cut_after = 2, 300_000
    assert download(file, tmp_path).read_bytes() == DATA
    assert [start for _, start in server.asked] == [None, "bytes=300000-", "bytes=600000-"]


def test_cut_for_good_then_resumed_by_the_next_run(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    server.cuts, server.cut_after = 1, 1000
    with pytest.raises(FetchError, match=r"stopped after 1,000 of .* goes on from there"):
        # After the first thousand bytes, connections are accepted but nothing comes.
        original = server.answer

        def starve(request: BaseHTTPRequestHandler) -> None:
            original(request)
            server.cuts, server.cut_after = 1, 0

        server.answer = starve  # type: ignore[method-assign]
        download(file, tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == DATA[:1000]
    assert not (tmp_path / "file.bin").exists()
    server.answer = original  # type: ignore[method-assign]
    server.cuts = 0
    server.asked.clear()
    assert download(file, tmp_path).read_bytes() == DATA
    assert server.asked == [("/store/x", "bytes=1000-")]
    assert not (tmp_path / "file.bin.part").exists()


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(DATA[:5000])
    assert download(file, tmp_path).read_bytes() == DATA


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    server.busy = 3
    assert download(file, tmp_path).read_bytes() == DATA
    server.busy = 100
    with pytest.raises(FetchError, match="answered 503"):
        download(server.remote("/store/y", b"other"), tmp_path)


def test_missing_file(server: Server, tmp_path: Path) -> None:
    file = RemoteFile("file.bin", 3, f"{server.url}/nothing", "md5", "0" * 32)
    with pytest.raises(FetchError, match="answered 404"):
        download(file, tmp_path)


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    server.files["/store/x"] = b"\1" + DATA[1:]
    with pytest.raises(FetchError, match=r"arrived damaged \(sha256 .* it was deleted"):
        download(file, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sent", [DATA[:-5], DATA + b"more"])
def test_wrong_size(server: Server, tmp_path: Path, sent: bytes) -> None:
    file = server.remote("/store/x", DATA)
    server.files["/store/x"] = sent
    with pytest.raises(FetchError):
        download(file, tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    file = server.remote("/store/x", DATA)
    (tmp_path / "file.bin").write_bytes(b"damaged")
    assert download(file, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "a/../../evil.txt", "/evil.txt", "C:\\evil.txt", "..\\evil.txt", "a/..\\..\\e"],
)
def test_zip_that_climbs_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    archive = folder / "set.zip"
    archive.write_bytes(make_zip({"good.txt": b"good", name: b"evil"}))
    with pytest.raises(FetchError, match="leaves its folder"):
        unpack(archive)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "set.zip"]


def test_zip_with_a_link(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc")
    with pytest.raises(FetchError, match="a link"):
        unpack(archive)
    assert not (tmp_path / "set").exists()


def test_zip_bomb(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    archive.write_bytes(make_zip({"zeros": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(FetchError, match="more than a set of pictures can be"):
        unpack(archive, UnpackLimits(free_bytes=1 << 19))
    with pytest.raises(FetchError, match="more than a set of pictures can be"):
        unpack(archive, UnpackLimits(members=0))
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_zip_that_states_a_false_size(tmp_path: Path) -> None:
    """A directory that states 10 bytes where 2 MB are packed: nothing gets past the 10."""
    data = make_zip({"zeros": bytes(1 << 21)}, zipfile.ZIP_DEFLATED)
    true_size = (1 << 21).to_bytes(4, "little")
    assert data.count(true_size) == 2
    archive = tmp_path / "set.zip"
    archive.write_bytes(data.replace(true_size, (10).to_bytes(4, "little")))
    with pytest.raises(FetchError, match="not a sound zip archive"):
        unpack(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("spoil", [b"no zip at all", None])
def test_damaged_zip(tmp_path: Path, spoil: bytes | None) -> None:
    archive = tmp_path / "set.zip"
    data = make_zip({"a.txt": b"0123456789" * 50})
    archive.write_bytes(spoil or data.replace(b"0123456789", b"0123456780"))
    with pytest.raises(FetchError, match="not a sound zip archive"):
        unpack(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_unpacked_once(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    archive.write_bytes(make_zip({"a.txt": b"x", "empty/": b""}))
    folder = unpack(archive)
    assert (folder / "empty").is_dir()
    (folder / "a.txt").write_bytes(b"edited")
    assert unpack(archive) == folder
    assert (folder / "a.txt").read_bytes() == b"edited"
