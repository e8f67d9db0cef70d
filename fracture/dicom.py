"""The pixels of a DICOM file, and nothing else of it.

A DICOM file names its patient. So the file is first walked element by element, and only those that
describe pixels are copied out (`KEPT`); pydicom never sees the others, and neither does an error
message, a log or a `Film`. The walk is bounded, which a parser that builds objects is not: 25 MB
of empty sequence items would fill gigabytes.

Values follow DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality: rescale or table), C.11.2 (VOI: window
or table); MONOCHROME1 is turned around, so that bone is bright. Orientation and text that is
burned in are left as they are.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

from fracture.formats import (
    JPEG_FRAMES,
    FilmError,
    Limits,
    Raster,
    check_size,
    first_of,
    jpeg_segments,
    to_bytes,
)

__all__ = ["read"]

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
JPEG = (
    JPEG_BASELINE,
    "1.2.840.10008.1.2.4.51",  # 12 bit
    "1.2.840.10008.1.2.4.57",  # lossless
    "1.2.840.10008.1.2.4.70",  # lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81",  # JPEG-LS, near lossless
)

PIXEL_DATA = 0x7FE00010
KEPT = {
    0x00280002,  # samples per pixel
    0x00280004,  # photometric interpretation
    0x00280006,  # planar configuration
    0x00280008,  # number of frames
    0x00280010,  # rows
    0x00280011,  # columns
    0x00280100,  # bits allocated
    0x00280101,  # bits stored
    0x00280102,  # high bit
    0x00280103,  # signed or not
    0x00280120,  # padding value
    0x00281050,  # window centre
    0x00281051,  # window width
    0x00281052,  # rescale intercept
    0x00281053,  # rescale slope
    0x00281056,  # VOI function
    0x00281101,  # palette: descriptors and values
    0x00281102,
    0x00281103,
    0x00281201,
    0x00281202,
    0x00281203,
    0x00283000,  # modality table
    0x00283010,  # VOI table
    0x7FE00001,  # where the frames start and how long they are
    0x7FE00002,
    PIXEL_DATA,
}
MAX_ELEMENTS = 100_000  # of the file, nested ones included
MAX_KEPT = 300_000  # bytes of a kept element other than the pixels: the largest table has 131,072
MAX_DEPTH = 16
MAX_TILES = 10_000  # of a JPEG 2000 picture

LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


def read(data: bytes, limits: Limits) -> Raster:
    """The first frame of a DICOM file, bone bright, window or table applied.

    Grey values are float32 (H, W), within [0, 1] where the file has a window or a table, and
    not-a-number where the file marks padding; colours are uint8 (H, W, 3). Raises FilmError for
    what can be said in a sentence, and whatever pydicom and its plug-ins raise for damaged files.
    """
    dataset = pydicom.dcmread(io.BytesIO(_only_pixels(data, limits)))
    if PIXEL_DATA not in dataset:
        raise FilmError("The DICOM file holds no picture.")
    check_size(int(dataset.Columns), int(dataset.Rows), limits)
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    if frames > limits.max_frames:
        raise FilmError(f"The file holds more than {limits.max_frames} frames.")
    plugin = _prepare(dataset, frames)
    stored = pixel_array(dataset, index=0, decoding_plugin=plugin)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        values = stored if stored.dtype == np.uint8 else to_bytes(stored)
    else:
        values = _grey(stored, dataset)
    return Raster(values, first_of(frames))


# --- the walk --------------------------------------------------------------------------------


def _only_pixels(data: bytes, limits: Limits) -> bytes:
    """The same DICOM file, reduced to its transfer syntax and the elements of `KEPT`."""
    at = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    for tag, start, value, end in _Walk(data, EXPLICIT).elements(at):
        if tag >> 16 != 2:
            at = start
            break
        at = end
        if tag == 0x00020010:
            syntax = data[value:end].rstrip(b"\0 ").decode("ascii", "replace")
    if not syntax:  # a file without a header says how it is coded by its first element only
        syntax = EXPLICIT if data[at + 4 : at + 6].isalpha() else IMPLICIT
    if syntax == DEFLATED:
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        data, at, syntax = inflating.decompress(data[at:], 4 * limits.max_bytes), 0, EXPLICIT
        if inflating.unconsumed_tail:
            raise FilmError("The DICOM file unpacks to more than can be read.")
    kept: dict[int, bytes] = {}
    for tag, start, value, end in _Walk(data, syntax).elements(at):
        if tag in KEPT and (tag == PIXEL_DATA or end - value <= MAX_KEPT):
            kept.setdefault(tag, data[start:end])
    uid = syntax.encode("ascii", "replace") + b"\0" * (len(syntax) % 2)
    head = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    return b"".join([b"\0" * 128, b"DICM", head, *kept.values()])


class _Walk:
    """Steps from element to element of a DICOM data set without reading their values."""

    def __init__(self, data: bytes, syntax: str) -> None:
        self.data = data
        self.order = ">" if syntax == BIG_ENDIAN else "<"
        self.explicit = syntax != IMPLICIT
        self.left = MAX_ELEMENTS

    def elements(self, at: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag and positions of the element, its value and its end, on the outermost level."""
        while at + 8 <= len(self.data):
            tag, value, length = self._header(at)
            end = self._after_items(value, 0) if length == UNDEFINED else value + length
            yield tag, at, value, min(end, len(self.data))
            at = end

    def _header(self, at: int) -> tuple[int, int, int]:
        """Tag, position of the value and its length."""
        self.left -= 1
        if self.left < 0:
            raise FilmError("The DICOM file is cut into too many parts to be read.")
        group, element = struct.unpack_from(self.order + "HH", self.data, at)
        tag = group << 16 | element
        kind = self.data[at + 4 : at + 6]
        # Delimiters never have a kind, and some writers forget it inside sequences.
        if not self.explicit or group == 0xFFFE or not (kind.isalpha() and kind.isupper()):
            return tag, at + 8, self._number("I", at + 4)
        if kind in LONG:
            return tag, at + 12, self._number("I", at + 8)
        return tag, at + 8, self._number("H", at + 6)

    def _after_items(self, at: int, depth: int) -> int:
        """The position after a sequence, or after coded pixels, of undefined length."""
        if depth > MAX_DEPTH:
            raise FilmError("The DICOM file is nested too deeply to be read.")
        while at + 8 <= len(self.data):
            tag, value, length = self._header(at)
            if tag == SEQUENCE_END:
                return value
            if tag == ITEM and length == UNDEFINED:
                at = self._after_item(value, depth)
            else:
                at = value + length
        return len(self.data)

    def _after_item(self, at: int, depth: int) -> int:
        while at + 8 <= len(self.data):
            tag, value, length = self._header(at)
            if tag == ITEM_END:
                return value
            at = self._after_items(value, depth + 1) if length == UNDEFINED else value + length
        return len(self.data)

    def _number(self, code: str, at: int) -> int:
        return struct.unpack_from(self.order + code, self.data, at)[0]


# --- decoding --------------------------------------------------------------------------------


def _prepare(dataset: pydicom.Dataset, frames: int) -> str:
    """Leave only the first frame, checked against the header; returns pydicom's plug-in for it.

    A decoder believes the size in its own stream. It gets none that differs from the size in the
    header, which has been checked. Pillow is preferred where it can: its decoders are the most
    tried.
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        return ""
    if syntax not in (RLE, *JPEG, *JPEG_2000):
        raise FilmError("The pixels of the DICOM file are coded in a way that is not read.")
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=frames, extended_offsets=offsets)
    dataset.NumberOfFrames = 1
    for offset in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if offset in dataset:
            delattr(dataset, offset)
    if syntax == RLE:
        dataset.PixelData = _unpacked(frame, dataset)
        dataset["PixelData"].VR = "OW"
        dataset["PixelData"].is_undefined_length = False
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT)
        dataset.PlanarConfiguration = 1
        return ""
    if syntax in JPEG:
        frame = _checked_jpeg(frame, dataset)
    else:
        _check_jpeg_2000(frame, dataset)
    dataset.PixelData = encapsulate([frame], has_bot=False)
    return "pillow" if syntax in (JPEG_BASELINE, *JPEG_2000) else "pylibjpeg"


def _unpacked(frame: bytes, dataset: pydicom.Dataset) -> bytes:
    """Pixels of a run-length coded frame (PS3.5 annex G), as many as the header says.

    pydicom's own decoder would write as much as the stream asks for.
    """
    samples, depth = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated) // 8
    pixels = int(dataset.Rows) * int(dataset.Columns)
    count, *starts = struct.unpack_from("<16I", frame)
    if count != samples * depth or samples not in (1, 3) or depth not in (1, 2, 4):
        raise FilmError("The pixels of the DICOM file do not fit its header.")
    ends = [*starts[1:count], len(frame)]
    planes = np.empty((samples, pixels, depth), dtype=np.uint8)
    for index, (start, end) in enumerate(zip(starts, ends, strict=False)):
        # One line of all pixels: a run that crosses the end of a row is read, too.
        plane = Image.frombytes("L", (pixels, 1), frame[start:end], "packbits", "L")
        # The most significant byte comes first, and has to come last.
        planes[index // depth, :, depth - 1 - index % depth] = np.asarray(plane)[0]
    return planes.tobytes()


def _checked_jpeg(frame: bytes, dataset: pydicom.Dataset) -> bytes:
    """The stream without its descriptions, if it is as large as the header says."""
    kept, sizes = [frame[:2]], 0
    for marker, segment in jpeg_segments(frame):
        if (0xE0 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            continue
        if marker in JPEG_FRAMES or marker == 0xF7:  # 0xF7: JPEG-LS
            sizes += 1
            rows, columns, samples = struct.unpack_from(">HHB", segment, 5)
            _check_same(dataset, rows, columns, samples)
        kept.append(segment)
    if sizes != 1:
        raise FilmError("The pixels of the DICOM file do not fit its header.")
    return b"".join(kept)


def _check_jpeg_2000(frame: bytes, dataset: pydicom.Dataset) -> None:
    at = frame.find(b"\xff\x4f\xff\x51")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(
        ">8IH", frame, at + 8
    )
    _check_same(dataset, y1 - y0, x1 - x0, samples)
    if at < 0 or -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y) > MAX_TILES:
        raise FilmError("The pixels of the DICOM file are cut into too many parts to be read.")


def _check_same(dataset: pydicom.Dataset, rows: int, columns: int, samples: int) -> None:
    header = (int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel))
    if (rows, columns, samples) != header:
        raise FilmError("The pixels of the DICOM file do not fit its header.")


# --- from stored values to grey --------------------------------------------------------------


def _grey(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Stored values to float32 grey values, bone bright."""
    unused = stored.dtype.itemsize * 8 - int(dataset.get("BitsStored") or 0)
    if 0 < unused < stored.dtype.itemsize * 8 and stored.dtype.kind in "iu":
        stored = (stored << unused) >> unused  # old files keep overlays in the unused bits
    padding = None
    if isinstance(dataset.get("PixelPaddingValue"), int):
        padding = stored == dataset.PixelPaddingValue
    if "ModalityLUTSequence" in dataset:
        values = apply_modality_lut(stored, dataset)
    else:
        values = _rescaled(stored, dataset)
    if "VOILUTSequence" in dataset:
        values = apply_voi(values.astype(np.int32), dataset, index=0)
    values = np.array(values, dtype=np.float32)
    if "VOILUTSequence" not in dataset:
        _apply_window(values, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.negative(values, out=values)
    if padding is not None and not padding.all():
        values[padding] = np.nan
    return values


def _rescaled(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    slope, intercept = _float(dataset, "RescaleSlope"), _float(dataset, "RescaleIntercept")
    values = stored.astype(np.float32)
    if slope:
        values *= np.float32(slope)
        values += np.float32(intercept or 0)
    return values


def _apply_window(values: np.ndarray, dataset: pydicom.Dataset) -> None:
    """Show the values through the file's first window, in place, if that leaves some to see."""
    centre, width = _float(dataset, "WindowCenter"), _float(dataset, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-3)
    sample = _through_window(values[::8, ::8].copy(), centre, width, function)
    low, high = np.percentile(sample, (1, 99))
    if high - low > 0.05:  # a window set for another picture leaves a white or a black one
        _through_window(values, centre, width, function)


def _through_window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Map float32 values to [0, 1] in place, and return them."""
    values -= np.float32(centre)
    if function == "SIGMOID":
        values *= np.float32(-4 / width)
        np.clip(values, -30, 30, out=values)
        np.exp(values, out=values)
        values += 1
        return np.reciprocal(values, out=values)
    values *= np.float32(1 / width)
    values += 0.5
    return np.clip(values, 0, 1, out=values)


def _float(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """The first value of an element as a finite number, or None."""
    try:
        value = dataset.get(keyword)
        number = float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None
