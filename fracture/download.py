"""Download the two public sets that the project can be trained on.

A set is described by what its repository's public API says of it: title, licence, and for each
file the size, the address and a checksum. Nothing is taken on trust: a file counts as downloaded
once its checksum is right, and an archive is unpacked only if nothing in it leaves its folder.

The APIs: ``data.mendeley.com/public-api`` (files with SHA-256) and ``api.figshare.com/v2``
(files with MD5). Only the standard library is used, and tqdm for the progress bar.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

# Mendeley's servers refuse the name that urllib gives by default.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; fracture-data)", "Accept": "*/*"}
_TIMEOUT = 60.0
_CHUNK = 1 << 18
_ATTEMPTS = 5
_MAX_ANSWER = 32 << 20
# What zipfile and zlib raise for archives that are damaged or made by somebody's hand.
_UNSOUND = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
    FileExistsError,
    NotADirectoryError,
)


class FetchError(RuntimeError):
    """A data set could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a published data set.

    Attributes:
        name: path inside the data set, with forward slashes.
        size: bytes.
        url: where to download it.
        algorithm: ``"sha256"`` or ``"md5"``.
        digest: the checksum, lower-case hexadecimal.
    """

    name: str
    size: int
    url: str
    algorithm: str
    digest: str


@dataclass(frozen=True)
class RemoteSet:
    """A published data set as its record describes it."""

    title: str
    doi: str
    licence: str
    licence_url: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and the licence under which the project uses it."""

    page: str
    api: str
    licence: str
    read: Callable[[str], RemoteSet]


@dataclass(frozen=True)
class UnpackLimits:
    """How much an archive may hold: a guard against archives made to fill the disk.

    Attributes:
        members: files and folders.
        ratio: unpacked size over the archive's own; pictures hardly compress.
        free_bytes: unpacked size that is allowed whatever the ratio.
    """

    members: int = 100_000
    ratio: float = 20.0
    free_bytes: int = 64 << 20


def read_mendeley(api: str, dataset: str = "vg95gvhj3y", version: int = 3) -> RemoteSet:
    """Read a Mendeley Data record and its file list, folder by folder.

    Raises:
        FetchError: no network, or an answer that is not such a record.
    """
    root = f"{api}/datasets/{dataset}"
    record = _get_json(f"{root}?version={version}")
    with _as_answer(root):
        if int(record.get("version", version)) != version:
            raise FetchError(
                f"{root} answered with version {record['version']}, not {version}, "
                "on which this project's notes are based."
            )
        folders = {folder["id"]: folder for folder in _get_json(f"{root}/folders/{version}")}
        files = []
        for folder_id in ["root", *folders]:
            query = urllib.parse.urlencode({"folder_id": folder_id, "version": version})
            prefix = _mendeley_folder(folder_id, folders)
            for entry in _get_json(f"{root}/files?{query}"):
                details = entry["content_details"]
                files.append(
                    RemoteFile(
                        name=_safe_name([*prefix, entry["filename"]]),
                        size=int(details.get("size", entry.get("size", -1))),
                        url=details["download_url"],
                        algorithm="sha256",
                        digest=str(details["sha256_hash"]).lower(),
                    )
                )
        licence = record.get("data_licence") or {}
        return RemoteSet(
            title=str(record["name"]).strip(),
            doi=str(record["doi"]["id"]),
            licence=str(licence.get("short_name") or "not stated"),
            licence_url=str(licence.get("url") or ""),
            files=tuple(files),
        )


def read_figshare(api: str, article: int = 22363012) -> RemoteSet:
    """Read a figshare article and its file list.

    Raises:
        FetchError: no network, or an answer that is not such a record.
    """
    url = f"{api}/articles/{article}"
    record = _get_json(url)
    with _as_answer(url):
        licence = record.get("license") or {}
        return RemoteSet(
            title=str(record["title"]).strip(),
            doi=str(record["doi"]),
            licence=str(licence.get("name") or "not stated"),
            licence_url=str(licence.get("url") or ""),
            files=tuple(
                RemoteFile(
                    name=_safe_name([entry["name"]]),
                    size=int(entry["size"]),
                    url=entry["download_url"],
                    algorithm="md5",
                    digest=str(entry.get("supplied_md5") or entry["computed_md5"]).lower(),
                )
                for entry in record["files"]
                if not entry.get("is_link_only")
            ),
        )


SOURCES = {
    "mendeley": Source(
        page="https://data.mendeley.com/datasets/vg95gvhj3y/3",
        api="https://data.mendeley.com/public-api",
        licence="CC BY 4.0",
        read=read_mendeley,
    ),
    "fracatlas": Source(
        page="https://figshare.com/articles/dataset/The_dataset/22363012",
        api="https://api.figshare.com/v2",
        licence="CC BY 4.0",
        read=read_figshare,
    ),
}


def fetch(
    name: str,
    out: Path,
    *,
    api: str | None = None,
    any_licence: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Download a data set into ``out/name`` and unpack it there.

    Safe to repeat: finished files are kept, half-finished ones are gone on with.

    Args:
        name: a key of :data:`SOURCES`.
        out: folder for all data sets.
        api: another server that speaks the same API.
        any_licence: go on although the record states another licence than the expected one.
        say: takes each line of the report.

    Returns:
        The data set's folder. ``source.json`` in it holds title, DOI, licence and files, which
        the attribution that the licence asks for can be taken from.

    Raises:
        FetchError: what went wrong, and how to get the set by hand.
    """
    source = SOURCES[name]
    folder = Path(out) / name
    try:
        described = source.read(api or source.api)
        say(f"{described.title} (DOI {described.doi})")
        say(f"Licence: {described.licence} {described.licence_url}".rstrip())
        if described.licence != source.licence and not any_licence:
            raise FetchError(
                f"The record states the licence {described.licence!r}, not {source.licence!r} "
                "as expected. Nothing was downloaded; read the licence, and add --any-licence "
                "if it allows what you want."
            )
        if not described.files:
            raise FetchError("The record lists no files.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "source.json").write_text(
            json.dumps(asdict(described), indent=2) + "\n", encoding="utf-8"
        )
        for file in described.files:
            path = download(file, folder)
            say(f"{path}: {file.size:,} bytes, {file.algorithm} checked")
            if path.suffix.lower() == ".zip":
                say(f"{unpack(path)}: unpacked")
            elif path.suffix.lower() in (".rar", ".7z"):
                say(f"{path}: please unpack this archive by hand, beside itself")
    except FetchError as error:
        raise FetchError(
            f"{name}: {error} By hand: download from {source.page} and unpack in {folder}."
        ) from error
    except OSError as error:
        raise FetchError(f"{name}: cannot write to {folder}: {error}.") from error
    return folder


def download(file: RemoteFile, folder: Path) -> Path:
    """Download one file, going on where an earlier attempt was cut off.

    The bytes grow in ``<name>.part``; only a file whose checksum is right gets its name.

    Raises:
        FetchError: no network, a connection that stays cut, a wrong size or checksum.
    """
    path = folder / file.name
    if path.is_file() and _digest(path, file.algorithm) == file.digest:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _progress(file.name, file.size) as bar:
        _fill(part, file, bar)
    if part.stat().st_size != file.size or (found := _digest(part, file.algorithm)) != file.digest:
        problem = (
            f"{part.stat().st_size:,} bytes instead of {file.size:,}"
            if part.stat().st_size != file.size
            else f"{file.algorithm} {found} instead of {file.digest}"
        )
        part.unlink()
        raise FetchError(
            f"{file.name} arrived damaged ({problem}); it was deleted. Run the command again."
        )
    part.replace(path)
    return path


def unpack(archive: Path, limits: UnpackLimits = UnpackLimits()) -> Path:
    """Unpack a zip archive into a folder of its name beside it, all of it or nothing.

    Returns:
        The folder. If it is there already it is left as it is.

    Raises:
        FetchError: a damaged archive; a member with an absolute path, a ``..``, a link or a
            password; more members or bytes than ``limits`` allow or the disk has room for.
    """
    target = archive.with_suffix("")
    if target.is_dir():
        return target
    scratch = archive.with_name(archive.name + ".unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked_members(file, archive, limits)
            for info, name in members:
                place = scratch.joinpath(*name.parts)
                if info.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                # zipfile stops at the size the directory states, which has been checked, and
                # raises if the data does not match its CRC.
                with file.open(info) as packed, place.open("xb") as plain:
                    shutil.copyfileobj(packed, plain, _CHUNK)
        scratch.mkdir(exist_ok=True)
        scratch.replace(target)
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        ValueError,
        FileExistsError,
    ) as error:
        raise FetchError(f"{archive.name} is not a sound zip archive ({error}).") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _checked_members(
    file: zipfile.ZipFile, archive: Path, limits: UnpackLimits
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    infos = file.infolist()
    total = sum(info.file_size for info in infos)
    allowed = max(limits.free_bytes, limits.ratio * archive.stat().st_size)
    if len(infos) > limits.members or total > allowed:
        raise FetchError(
            f"{archive.name} would unpack to {len(infos):,} members and {total:,} bytes, "
            "more than a set of pictures can be; it was not unpacked."
        )
    if total > shutil.disk_usage(archive.parent).free:
        raise FetchError(f"{archive.name} needs {total:,} bytes of disk, more than are free.")
    members = []
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if (
            name.is_absolute()
            or ".." in name.parts
            or any(":" in part or "\0" in part for part in name.parts)
            or not name.parts
        ):
            raise FetchError(
                f"{archive.name} has a member that leaves its folder, {info.filename!r}; "
                "it was not unpacked."
            )
        mode = info.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise FetchError(
                f"{archive.name} has a member that is a link or a device, {info.filename!r}; "
                "it was not unpacked."
            )
        if info.flag_bits & 1:
            raise FetchError(f"{archive.name} is protected by a password.")
        members.append((info, name))
    return members


def _fill(part: Path, file: RemoteFile, bar: Any) -> None:
    """Append to ``part`` until it has the file's size, over several connections if need be."""
    failures = 0
    while True:
        have = part.stat().st_size if part.is_file() else 0
        if have >= file.size:
            return
        problem = "the server closed the connection"
        try:
            with _open(file.url, start=have) as answer:
                # A server that cannot resume sends the file from its beginning.
                resumed = answer.status == 206
                bar.reset(file.size)
                bar.update(have if resumed else 0)
                with part.open("ab" if resumed else "wb") as sink:
                    while chunk := answer.read(_CHUNK):
                        sink.write(chunk)
                        bar.update(len(chunk))
                        if sink.tell() > file.size:
                            return
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
        now = part.stat().st_size if part.is_file() else 0
        failures = 0 if now > have else failures + 1
        if now < file.size and failures >= _ATTEMPTS:
            raise FetchError(
                f"{file.name} stopped after {now:,} of {file.size:,} bytes ({problem}). "
                "Run the command again: it goes on from there."
            )
        if failures:
            time.sleep(min(2.0**failures, 20.0) * _patience())


def _patience() -> float:
    """Factor on the waits between attempts; the tests set it to 0."""
    return float(os.environ.get("FRACTURE_FETCH_PATIENCE", "1"))


def _open(url: str, start: int = 0) -> http.client.HTTPResponse:
    """Open an http(s) address from byte ``start``, retrying what a busy server may answer."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"{url!r} is not a web address.")
    headers = _HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    host = urllib.parse.urlsplit(url).netloc
    for attempt in range(_ATTEMPTS):
        try:
            return urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
            )
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:
                # The server has fewer bytes than are here already: take it from the beginning.
                return _open(url)
            busy = error.code == 429 or error.code >= 500
            if not busy or attempt + 1 == _ATTEMPTS:
                raise FetchError(
                    f"{host} answered {error.code} {error.reason} for {url}."
                ) from error
        except urllib.error.URLError as error:
            raise FetchError(
                f"no connection to {host} ({error.reason}). Is this machine online?"
            ) from error
        time.sleep(min(2.0**attempt, 20.0) * _patience())
    raise AssertionError("unreachable: the last attempt returns or raises")


def _get_json(url: str) -> Any:
    try:
        with _open(url) as answer:
            return json.loads(answer.read(_MAX_ANSWER))
    except (ValueError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise FetchError(f"{url} did not answer with JSON ({error}).") from error


@contextlib.contextmanager
def _as_answer(url: str) -> Iterator[None]:
    """Turn what a record of another shape provokes into a FetchError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FetchError(
            f"{url} answered with a record of a shape this version does not know "
            f"({type(error).__name__}: {error})."
        ) from error


def _mendeley_folder(folder_id: str, folders: dict[str, Any]) -> list[str]:
    """Names from the outermost folder to this one; the root has none."""
    names: list[str] = []
    while folder_id in folders and len(names) <= len(folders):
        names.insert(0, folders[folder_id]["name"])
        folder_id = folders[folder_id].get("parent_id")
    return names


def _safe_name(parts: list[str]) -> str:
    """Join names from a record into a relative path that stays in its folder."""
    for part in parts:
        if not part.strip(" .") or set(part) & set("/\\:\0"):
            raise FetchError(f"the record names a file {'/'.join(parts)!r}, which is no file name.")
    return "/".join(parts)


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _progress(name: str, size: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=name, leave=False)
