"""Fuzzes `read_film`: damaged files of every format, and no exception but FilmError may come out.

    python tests/fuzz_film.py --inputs 20000

Every input is made from the seed and its own number, so that `--first N --inputs 1` makes it again.
The inputs are read in child processes: one that dies (a decoder in C that crashes) is found, too,
as are inputs that take longer than 5 s of processor time or more than 1 GB.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this file is a command, too

import test_dicom
import test_film
from tqdm import tqdm

from fracture.film import FilmError, read_film

SECONDS, BYTES = 5.0, 1_000_000_000
BATCH = 500  # inputs a child process
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 60_000)
LARGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def seeds() -> dict[str, bytes]:
    """Small whole files of every format, and the hostile ones."""
    picture = Image.fromarray(test_film.drawn(34, 26))
    found = {}
    for kind, options in (
        ("PNG", {}),
        ("PNG", {"pnginfo": None, "exif": _exif()}),
        ("JPEG", {"quality": 90, "exif": _exif()}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("WEBP", {"exif": _exif()}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {"exif": _exif()}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "packbits"}),
    ):
        for mode in ("L", "RGB", "P", "RGBA"):
            if (mode == "RGBA" and kind == "JPEG") or (
                mode in "RGBAP" and "jpeg" in options.values()
            ):
                continue
            converted = picture.convert("RGB" if kind == "JPEG" and mode == "P" else mode)
            found[f"{kind} {mode} {len(found)}"] = test_film.encoded(converted, kind, **options)
    pages = {"save_all": True, "append_images": [picture, picture.rotate(90)]}
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        found[f"{kind} of pages"] = test_film.encoded(picture, kind, **pages)
    for name in ("png 16 bit", "tiff 16 bit", "tiff float with nan", "tiff int"):
        found[name] = test_film.FORMS[name]
    found |= {f"dicom {name}": data for name, data in test_dicom.FORMS.items()}
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        out = io.BytesIO()
        pillow_heif.from_pillow(picture.convert("RGB")).save(out, quality=50)
        found["heic"] = out.getvalue()
    for name, (make, _) in test_film.HOSTILE.items():
        data = make()
        if len(data) < 20_000:
            found[f"hostile {name}"] = data
    return found


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[305] = 6, "software"
    return exif


def damaged(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """The file after one accident or a few."""
    file = bytearray(data)
    for _ in range(min(6, int(random.geometric(0.5)))):
        if not file:
            break
        # Headers decide most; half of the accidents happen there.
        reach = min(len(file), 300) if random.random() < 0.5 else len(file)
        at = int(random.integers(reach))
        size = int(2 ** random.uniform(0, 9))
        accident = random.integers(9)
        if accident == 0:
            file[at] ^= 1 << int(random.integers(8))
        elif accident == 1:
            file[at] = int(random.integers(256))
        elif accident == 2:
            file[at : at + size] = random.bytes(size)
        elif accident == 3:
            del file[at : at + size]
        elif accident == 4:
            file[at:at] = file[at : at + size]
        elif accident == 5:
            other = others[int(random.integers(len(others)))]
            start = int(random.integers(max(1, len(other))))
            file[at : at + size] = other[start : start + size]
        elif accident == 6:
            del file[at:]
        else:
            order = "<>"[int(random.integers(2))]
            if random.random() < 0.5:
                number = struct.pack(f"{order}H", min(0xFFFF, int(random.choice(NUMBERS))))
            else:
                number = struct.pack(f"{order}I", int(random.choice(NUMBERS + LARGE)))
            file[at : at + len(number)] = number
    whole = bytes(file)
    # A wrong checksum would stop the PNG decoder before anything else can.
    return _with_checksums(whole) if random.random() < 0.7 else whole


def _with_checksums(data: bytes) -> bytes:
    if data[:4] != b"\x89PNG":
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + size
        if end + 4 > len(data):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(out)


def made(number: int, seed: int, files: list[bytes]) -> bytes:
    random = np.random.default_rng([seed, number])
    return damaged(files[number % len(files)], files, random)


def outcome(data: bytes) -> str:
    """ "read", "refused", or what went wrong."""
    started = time.process_time()
    try:
        film = read_film(data, name="fuzz")
        result = "read"
        if not (
            film.pixels.dtype == np.float32
            and film.display.shape == (*film.pixels.shape, 3)
            and film.pixels.size
            and 0 <= film.pixels.min() <= film.pixels.max() <= 1
        ):
            result = "wrong: pixels out of their range or shape"
    except FilmError as error:
        message = str(error)
        result = "refused" if message.endswith(".") and "\n" not in message else "wrong: message"
    except BaseException:
        result = "wrong: " + traceback.format_exc(limit=-3)
    seconds = time.process_time() - started
    return result if seconds < SECONDS else f"wrong: {seconds:.1f} s"


def run(
    files: list[bytes], numbers: range, seed: int, progress: bool
) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and a text about every input that went wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    shared = mmap.mmap(-1, 8)  # the number of the input that a child is at
    with tqdm(total=len(numbers), disable=not progress, unit="file") as bar:
        at, end = numbers.start, numbers.stop
        while at < end:
            stop = min(end, at + BATCH)
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                _child(range(at, stop), seed, files, shared, writer)
            os.close(writer)
            with os.fdopen(reader) as lines:
                said = lines.read()
            status = os.waitpid(child, 0)[1]
            for line in filter(None, said.split("\0")):
                number, result = line.split(" ", 1)
                counts[result if result in ("read", "refused") else "wrong"] += 1
                if result.startswith("wrong"):
                    wrong.append(f"input {number}: {result}")
            before, at = at, stop
            if status:
                at = struct.unpack("q", shared[:8])[0] + 1
                counts["wrong"] += 1
                wrong.append(f"input {at - 1}: the process died, status {status}")
            bar.update(at - before)
    return counts, wrong


def _memory(which: str) -> int:
    """Bytes of this process: "VmRSS" (now, and the high-water mark starts anew) or "VmHWM"."""
    status = Path("/proc/self/status").read_text()
    if which == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")
    return int(status.split(f"{which}:")[1].split()[0]) * 1024


def _child(numbers: range, seed: int, files: list[bytes], shared: mmap.mmap, writer: int) -> None:
    """Reads its inputs, says what came of each, and ends the process."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    highest, before = 0, _memory("VmRSS")  # a fork begins with all that its parent holds
    with os.fdopen(writer, "w") as out:
        for number in numbers:
            shared[:8] = struct.pack("q", number)
            result = outcome(made(number, seed, files))
            memory = _memory("VmHWM") - before
            if memory > BYTES and memory > highest:
                result = f"wrong: {memory / 1e9:.1f} GB"
            highest = max(highest, memory)
            out.write(f"{number} {result}\0")
            out.flush()
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only damage files of such a name, as 'dicom'")
    parser.add_argument("--save", type=Path, help="write the inputs that went wrong to this folder")
    options = parser.parse_args()
    found = seeds()
    files = [data for name, data in found.items() if options.match in name.lower()]
    numbers = range(options.first, options.first + options.inputs)
    counts, wrong = run(files, numbers, options.seed, progress=True)
    for text in wrong[:20]:
        print(text)
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        for text in wrong:
            number = int(text.split(":")[0].split()[1])
            (options.save / str(number)).write_bytes(made(number, options.seed, files))
    print(
        f"{sum(counts.values())} inputs from {len(files)} files: {counts['read']} read, "
        f"{counts['refused']} refused with a sentence, {counts['wrong']} wrong"
    )
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
