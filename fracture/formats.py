"""Turns the bytes of a file into an array of pixels, or into a FilmError that says why not.

Nothing here trusts the file. Its kind is told from its first bytes, never from its name. Sizes are
read from the headers before anything is decoded, and of PNG, JPEG and GIF only the parts that carry
pixels reach the decoder: descriptions, thumbnails, colour profiles and comments are what most
attacks on decoders hide in, and a film's description may name the patient.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "JPEG_FRAMES",
    "FilmError",
    "Limits",
    "Raster",
    "check_size",
    "decode",
    "first_of",
    "from_array",
    "from_picture",
    "jpeg_segments",
    "to_bytes",
]

MAX_SIDE = 32_768  # pixels; a film this long has no pixels left for its width
MAX_PARTS = 100_000  # chunks, strips or tiles of one file; decoders spend time on each of them
NARROW = 256  # pixels; a film is not shrunk to less than that on its shorter side
MAX_SCAN_WORK = 1_000_000_000  # pixels times scans of a progressive JPEG: about 5 s of decoding

READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF, HEIC and DICOM"


class FilmError(ValueError):
    """The film cannot be read. The message is one sentence for the person who dropped it."""


@dataclass(frozen=True)
class Limits:
    """What one film may cost: bytes of its file, pixels of its picture, frames of its file.

    enough: pixels of the longer side that are enough. A picture of at least twice as many is read
            at a half, a quarter ... of its size, each pixel the mean of those it stands for, which
            JPEG files can do while they are decoded. None: at full size.
    """

    max_bytes: int = 25_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 1_000
    enough: int | None = None

    def shrinks(self, width: int, height: int) -> int:
        """How many pixels a side become one: 1, 2, 4 ..."""
        shrinks = 1
        while (
            self.enough is not None
            and max(width, height) // (2 * shrinks) >= self.enough
            and min(width, height) // (2 * shrinks) >= NARROW
        ):
            shrinks *= 2
        return shrinks


@dataclass(frozen=True)
class Raster:
    """Decoded pixels, upright.

    values: (H, W) of integers or floats, where not-a-number marks pixels without data, or uint8
            (H, W, 3). float32 values that can be written to are nobody else's.
    notes:  plain sentences about what was done.
    """

    values: np.ndarray
    notes: tuple[str, ...] = ()


def decode(data: bytes, limits: Limits) -> Raster:
    """The picture in the bytes of a file. Raises FilmError, and nothing else, for any bytes."""
    if not data:
        raise FilmError("The file is empty.")
    if len(data) > limits.max_bytes:
        raise FilmError(f"The file is larger than {limits.max_bytes / 1e6:.3g} MB.")
    kind = _kind(data)
    try:
        return _shrunk(_READERS[kind](data, limits), limits)
    except FilmError:
        raise
    except MemoryError:
        raise FilmError("The picture needs more memory than there is.") from None
    except Exception:
        # Decoders raise whatever they like on damaged files; what they say may quote the file.
        raise FilmError(f"The {kind} file is damaged, cut off or of an unusual form.") from None


def from_picture(picture: Image.Image, limits: Limits) -> Raster:
    """The pixels of a PIL picture, upright. Raises FilmError, and nothing else."""
    check_size(picture.width, picture.height, limits)
    try:
        return _shrunk(Raster(_pixels(ImageOps.exif_transpose(picture))), limits)
    except MemoryError:
        raise FilmError("The picture needs more memory than there is.") from None
    except Exception:
        raise FilmError("The picture is damaged, cut off or of an unusual form.") from None


def from_array(values: np.ndarray, limits: Limits) -> Raster:
    """The pixels of an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of real numbers.

    Colours are uint8, or floats in [0, 1], or any numbers, which are then stretched to their full
    range. Raises FilmError for anything else.
    """
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise FilmError("An array of this shape is not a picture.")
    if values.dtype.kind not in "buif":
        raise FilmError("An array of a picture holds real numbers.")
    check_size(values.shape[1], values.shape[0], limits)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 2:
        return _shrunk(Raster(values.copy() if values.dtype == np.float32 else values), limits)
    if values.dtype != np.uint8:
        values = to_bytes(values)
    return _shrunk(Raster(_pixels(Image.fromarray(np.ascontiguousarray(values)))), limits)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise FilmError unless a picture of this size may be decoded."""
    if width < 1 or height < 1:
        raise FilmError("The picture has no pixels.")
    if width * height > limits.max_pixels:
        raise FilmError(
            f"The picture has {width} x {height} pixels; "
            f"more than {limits.max_pixels / 1e6:.3g} megapixels are not read."
        )
    if max(width, height) > MAX_SIDE:
        raise FilmError(f"The picture is longer than {MAX_SIDE} pixels ({width} x {height}).")


def _kind(data: bytes) -> str:
    """The kind of file, by its first bytes. Raises FilmError for those that are no picture."""
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00"):
        return "DICOM"  # old files have no preamble and begin with the first element
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx"):
            return "HEIC"
        raise FilmError("This is a video or a kind of picture that is not read; try a JPEG or PNG.")
    if data.startswith(b"PK"):
        raise FilmError("This is a zip archive, not a picture; unpack it and drop the films.")
    if data.startswith(b"%PDF"):
        raise FilmError("This is a PDF, not a picture; save the film as PNG or JPEG.")
    if data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise FilmError("This is a web page or a drawing (HTML or SVG), not a picture of a film.")
    raise FilmError(f"This file is not a picture; {READABLE} can be read.")


_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}


# --- one reader a format ---------------------------------------------------------------------


def _read_png(data: bytes, limits: Limits) -> Raster:
    frames, exif, kept = 1, b"", [data[:8]]
    for count, (kind, body, whole) in enumerate(_png_chunks(data)):
        _check_parts(count)
        if kind == b"acTL":
            frames = _number(body[:4], ">")
        elif kind == b"eXIf":
            exif = body
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(whole)
    return _open("PNG", b"".join(kept), limits, frames, _orientation(exif))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, body and whole chunk, up to the end of the file."""
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + _number(data[at : at + 4], ">")
        yield data[at + 4 : at + 8], data[at + 8 : end - 4], data[at:end]
        at = end


def _read_jpeg(data: bytes, limits: Limits) -> Raster:
    exif, scans, size, kept = b"", 0, (1, 1), [data[:2]]
    for count, (marker, segment) in enumerate(jpeg_segments(data)):
        _check_parts(count)
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            exif = exif or segment[10:]
        if (0xE0 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            continue  # descriptions; 0xEE tells how the colours are coded
        if marker in JPEG_FRAMES:
            size = struct.unpack(">HH", segment[5:9])
            check_size(size[1], size[0], limits)
        scans += marker == 0xDA
        kept.append(segment)
    if scans * size[0] * size[1] > MAX_SCAN_WORK:
        raise FilmError("The JPEG file is made of too many scans to be read.")
    return _open("JPEG", b"".join(kept), limits, 1, _orientation(exif))


JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers that carry the size
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and whole segment, a scan with its coded pixels, to the end of the first picture."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        start, marker = found.start(), data[found.start() + 1]
        if marker == 0xD9:
            yield marker, data[start : start + 2]
            return
        end = start + 2 + _number(data[start + 2 : start + 4], ">")
        if marker == 0xDA:
            after = _JPEG_MARKER.search(data, end)
            end = after.start() if after else len(data)
        yield marker, data[start:end]
        at = end


def _read_gif(data: bytes, limits: Limits) -> Raster:
    """The first frame alone: the screen's header, how transparent it is, its own blocks."""
    palette = 3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0
    at = 13 + palette
    kept, control, frames, parts = [data[:at]], b"", 0, 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        parts += 1
        _check_parts(parts)
        start = at
        if data[at] == 0x21:
            at = _after_blocks(data, at + 2)
            if data[start + 1] == 0xF9:
                control = data[start:at]
            continue
        flags = data[at + 9]
        at = _after_blocks(data, at + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
        if not frames:
            kept += [control, data[start:at], b";"]
        frames += 1
        _check_frames(frames, limits)
    return _open("GIF", b"".join(kept), limits, frames, 1)


def _after_blocks(data: bytes, at: int) -> int:
    """The position after a chain of GIF data blocks, each led by its length, ended by 0."""
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _read_tiff(data: bytes, limits: Limits) -> Raster:
    tiff = _Tiff(data)
    tags = tiff.directory(tiff.first)
    tiff.check_weight(tags)
    width, height = tiff.value(tags, 256, 0), tiff.value(tags, 257, 0)
    check_size(width, height, limits)
    for tag in (273, 324):  # where the strips or tiles are
        _check_parts(tags[tag].count if tag in tags else 0)
    if tiff.value(tags, 322, 1) * tiff.value(tags, 323, 1) > limits.max_pixels:
        raise FilmError("The TIFF file is cut into tiles larger than any film.")
    number_kind, bits = tiff.value(tags, 339, 1), tiff.value(tags, 258, 8)
    if number_kind == 3 and bits != 32:
        raise FilmError(f"{bits}-bit floats are not read; save the film with 16-bit integers.")
    raster = _open("TIFF", data, limits, tiff.count_pages(limits), 1)
    values = raster.values
    if values.dtype == np.int32 and number_kind == 1:
        values = values.view(np.uint32)  # Pillow knows signed ones only
    # Pillow turns "white is zero" around in films of up to 8 bits only.
    if tiff.value(tags, 262, 1) == 0 and values.dtype.itemsize > 1:
        values = -values.astype(np.float32)
    return Raster(values, raster.notes)


def _read_webp(data: bytes, limits: Limits) -> Raster:
    return _open("WEBP", data, limits)


def _read_bmp(data: bytes, limits: Limits) -> Raster:
    if _number(data[30:34], "<") in (1, 2) and len(data) > 4_000_000:
        raise FilmError("A run-length coded BMP of this size is not read; save it as PNG.")
    return _open("BMP", data, limits)


def _read_heic(data: bytes, limits: Limits) -> Raster:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise FilmError(
            "HEIC pictures cannot be read on this computer; save it as JPEG or PNG."
        ) from None
    picture = HeifImageFile(io.BytesIO(data))  # sizes only; it turns the picture itself
    check_size(picture.width, picture.height, limits)
    return Raster(_pixels(picture), first_of(picture.n_frames))


def _read_dicom(data: bytes, limits: Limits) -> Raster:
    from fracture import dicom  # late: pydicom takes a while to import

    return dicom.read(data, limits)


_READERS: dict[str, Callable[[bytes, Limits], Raster]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "GIF": _read_gif,
    "TIFF": _read_tiff,
    "WebP": _read_webp,
    "BMP": _read_bmp,
    "HEIC": _read_heic,
    "DICOM": _read_dicom,
}


# --- what the readers share ------------------------------------------------------------------


def _open(
    kind: str, data: bytes, limits: Limits, frames: int | None = None, turn: int | None = None
) -> Raster:
    """Decode by Pillow's plug-in of that name and no other, then turn by the Exif orientation.

    frames, turn: None: as the plug-in says.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=[kind])
    except Image.DecompressionBombError:
        raise FilmError(
            f"The picture has more than {limits.max_pixels / 1e6:.3g} megapixels."
        ) from None
    check_size(picture.width, picture.height, limits)
    frames = getattr(picture, "n_frames", 1) if frames is None else frames
    _check_frames(frames, limits)
    if kind == "JPEG" and (shrinks := limits.shrinks(*picture.size)) > 1:
        picture.draft(None, tuple(side // shrinks for side in picture.size))
    turn = _orientation(picture.info.get("exif", b"")) if turn is None else turn
    if turn in _TURNS:
        picture = picture.transpose(_TURNS[turn])
    return Raster(_pixels(picture), first_of(frames))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _pixels(picture: Image.Image) -> np.ndarray:
    """A PIL picture of any mode as `Raster.values`; what is transparent becomes black."""
    picture.load()
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    width, height = picture.size
    transparent = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in picture.info
    )
    values = np.empty((height, width, 3), dtype=np.uint8)
    step = max(1, 4_000_000 // width)  # in bands of rows: copies of a large picture add up
    for top in range(0, height, step):
        band = picture.crop((0, top, width, min(height, top + step)))
        if transparent:
            # "RGBa" holds colours already multiplied by their alpha, which is black's share of 0.
            four = np.asarray(band.convert("RGBA").convert("RGBa"))
            values[top : top + step] = four[..., :3]
        else:
            values[top : top + step] = np.asarray(band.convert("RGB"))
    return values


def _shrunk(raster: Raster, limits: Limits) -> Raster:
    """The raster at the size that is enough."""
    values = raster.values
    shrinks = limits.shrinks(values.shape[1], values.shape[0])
    if shrinks == 1:
        return raster
    if values.dtype != np.uint8:
        with np.errstate(over="ignore"):  # too large for float32: infinite, so no number here
            values = values.astype(np.float32, copy=False)
    return Raster(np.array(Image.fromarray(values).reduce(shrinks)), raster.notes)


def to_bytes(colours: np.ndarray) -> np.ndarray:
    """Colours of any number type as uint8; floats in [0, 1] as they are, others stretched."""
    colours = np.nan_to_num(colours.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(colours.min()), float(colours.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return ((colours - low) * (255 / max(high - low, 1e-6)) + 0.5).astype(np.uint8)


def first_of(frames: int) -> tuple[str, ...]:
    return (f"Only the first of {frames} frames was read.",) if frames > 1 else ()


def _check_frames(frames: int, limits: Limits) -> None:
    if frames > limits.max_frames:
        raise FilmError(f"The file holds more than {limits.max_frames} frames.")


def _check_parts(parts: int) -> None:
    if parts > MAX_PARTS:
        raise FilmError("The file is cut into too many parts to be read.")


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "big" if order == ">" else "little")


@dataclass(frozen=True)
class _Entry:
    """One entry of a TIFF directory: type, number of values, position of the first one."""

    type: int
    count: int
    at: int


# Bytes of one value, by TIFF type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SIZES |= {17: 8, 18: 8}


class _Tiff:
    """Reads the directories of a TIFF file, or of an Exif block, which has the same form."""

    CHILDREN = (34665, 34853, 40965)  # Exif, position, interoperability

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = ">" if data[:1] == b"M" else "<"
        self.big = _number(data[2:4], self.order) == 43
        self.word = "Q" if self.big else "I"
        self.first = self._read(self.word, 8 if self.big else 4)

    def directory(self, at: int) -> dict[int, _Entry]:
        """The entries of the directory at a position, by tag."""
        entries = {}
        size, room = (20, 8) if self.big else (12, 4)
        for entry in self._places(at):
            tag, type_ = self._read("H", entry), self._read("H", entry + 2)
            number = self._read(self.word, entry + 4)
            value = entry + size - room
            if _SIZES.get(type_, 1) * number > room:
                value = self._read(self.word, value)
            entries[tag] = _Entry(type_, number, value)
        return entries

    def count_pages(self, limits: Limits) -> int:
        """The number of directories in the file's chain of them."""
        pages, seen, at = 0, set(), self.first
        try:
            while at and at not in seen:
                seen.add(at)
                at = self._read(self.word, self._places(at).stop)
                pages += 1
                _check_frames(pages, limits)
        except (struct.error, OverflowError):
            pass  # the chain breaks off; the first page may still be whole
        return pages

    def value(self, entries: dict[int, _Entry], tag: int, default: int) -> int:
        """The first value of an entry of whole numbers."""
        if tag not in entries:
            return default
        entry = entries[tag]
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(entry.type)
        return self._read(code, entry.at) if code else default

    def check_weight(self, entries: dict[int, _Entry], depth: int = 0) -> None:
        """Raise FilmError if the entries claim more than the file holds.

        Pillow copies every value, so that thousands of entries which all point to the same
        megabytes would fill the memory.
        """
        weight = sum(_SIZES.get(entry.type, 1) * entry.count for entry in entries.values())
        if weight > len(self.data) + 100_000:
            raise FilmError("The TIFF file claims to hold more than it does.")
        for tag in self.CHILDREN:
            if tag in entries and depth < 2:
                try:
                    child = self.directory(self.value(entries, tag, 0))
                except (struct.error, OverflowError):
                    continue
                self.check_weight(child, depth + 1)

    def _places(self, at: int) -> range:
        """Where the entries of the directory at a position are; its `stop` is their end."""
        count, start = (self._read("Q", at), at + 8) if self.big else (self._read("H", at), at + 2)
        _check_parts(count)
        size = 20 if self.big else 12
        return range(start, start + size * count, size)

    def _read(self, code: str, at: int) -> int:
        return struct.unpack_from(self.order + code, self.data, at)[0]


def _orientation(exif: bytes) -> int:
    """Exif orientation, 1 (upright) to 8, of an Exif block; 1 if it says nothing sensible."""
    try:
        tiff = _Tiff(exif.removeprefix(b"Exif\0\0"))
        return tiff.value(tiff.directory(tiff.first), 274, 1)
    except (FilmError, struct.error, OverflowError):
        return 1
