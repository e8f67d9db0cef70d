"""DICOM files in every form that turns up, all of them written here."""

from __future__ import annotations

import base64
import io
import logging
import struct
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from fracture.film import FilmError, Limits, read_film

PATIENT = "Okonkwo^Adaeze"
SECRETS = ("Okonkwo", "Adaeze", "19840217", "MRN-55121", "Harbour Clinic", "19990101", "Dr. Quill")


def film12() -> np.ndarray:
    """A drawn bone on soft tissue, uint16 (96, 80), 12 bits used, bone bright."""
    rows, columns = np.mgrid[0:96, 0:80].astype(float)
    across = np.abs(columns - 40 - 4 * np.sin(rows / 20))
    film = 200 + 900.0 * (across < 26) + 1400.0 * (across < 10)
    film += 900 * np.exp(-((across - 9) ** 2))
    film += np.random.default_rng(5).normal(0, 25, film.shape)
    return np.clip(film, 0, 4095).astype(np.uint16)


def dataset(pixels: np.ndarray, **tags: object) -> Dataset:
    """An uncompressed DICOM data set with a patient in it."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
    ds.StudyDate = ds.PatientBirthDate = "19840217"
    ds.PatientName, ds.PatientID = PATIENT, "MRN-55121"
    ds.InstitutionName, ds.ReferringPhysicianName = "Harbour Clinic", "Dr. Quill"
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "DX", "MONOCHROME2", 1
    request = Dataset()
    request.ScheduledProcedureStepStartDate = "19990101"
    ds.RequestAttributesSequence = Sequence([request])
    ds.Rows, ds.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = 12 if pixels.dtype.itemsize == 2 else ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for tag, value in tags.items():
        setattr(ds, tag, value)
    return ds


def saved(ds: Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def jpeg_lossless(pixels: np.ndarray, predictor: int = 1, bits: int = 12) -> bytes:
    """A JPEG Lossless stream (ITU T.81 annex H): predictor 1 (left), every code five bits long."""
    values = pixels.astype(np.int64)
    guess = np.empty_like(values)
    guess[0, 0] = 1 << (bits - 1)
    guess[0, 1:], guess[1:, 0] = values[0, :-1], values[:-1, 0]
    left, above, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    guess[1:, 1:] = left if predictor == 1 else left + ((above - corner) >> 1)
    out = []
    for difference in (values - guess).ravel().tolist():
        size = abs(difference).bit_length()
        out.append(f"{size:05b}")
        if size:
            out.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    stream = "".join(out)
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    rows, columns = pixels.shape
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB3B", 11, bits, rows, columns, 1, 1, 0x11, 0),
            b"\xff\xc4" + struct.pack(">HB16B", 36, 0, *[17 * (n == 4) for n in range(16)]),
            bytes(range(17)),
            b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, predictor, 0, 0),
            coded,
            b"\xff\xd9",
        ]
    )


def compressed(ds: Dataset, syntax: UID, frames: list[bytes]) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return saved(ds)


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.9))
    return np.clip((values - low) / (high - low), 0, 1)


def assert_shows(data: bytes, expected: np.ndarray, tolerance: float = 2e-3) -> None:
    film = read_film(data, name="film.dcm")
    assert film.pixels.shape == expected.shape
    assert film.pixels.dtype == np.float32
    assert np.abs(film.pixels - stretched(expected.astype(float))).max() < tolerance
    assert film.display.shape == (*expected.shape, 3)


def forms() -> dict[str, bytes]:
    """One file of every lossless form, all of the same 12-bit film."""
    pixels = film12()
    made = {
        "explicit": saved(dataset(pixels)),
        "no preamble": saved(dataset(pixels))[132:],
        "jpeg lossless": compressed(dataset(pixels), JPEGLosslessSV1, [jpeg_lossless(pixels)]),
        "jpeg lossless 5": compressed(dataset(pixels), JPEGLossless, [jpeg_lossless(pixels, 5)]),
        "monochrome1": saved(dataset(4095 - pixels, PhotometricInterpretation="MONOCHROME1")),
        "signed": saved(dataset(pixels.astype(np.int16) - 2048)),
        "16 bit": saved(dataset(pixels * 16, BitsStored=16, HighBit=15)),
        "overlay bits": saved(dataset(pixels | 0x8000)),
        "wide window": saved(dataset(pixels, WindowCenter=2048, WindowWidth=4096)),
        "rescaled": saved(dataset(pixels, RescaleSlope="2.5", RescaleIntercept="-1024")),
        "useless window": saved(dataset(pixels, WindowCenter=99999, WindowWidth=1)),
    }
    for name, syntax in (("implicit", ImplicitVRLittleEndian), ("big endian", ExplicitVRBigEndian)):
        other = dataset(pixels)
        other.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            other.PixelData = pixels.byteswap().tobytes()
        made[name] = saved(other)
    bare = dataset(pixels)
    del bare.file_meta
    out = io.BytesIO()
    pydicom.dcmwrite(out, bare, implicit_vr=True, little_endian=True)
    made["no header"] = out.getvalue()
    for name, syntax in (("rle", RLELossless), ("jpeg 2000", JPEG2000Lossless)):
        packed = dataset(pixels)
        packed.compress(syntax, generate_instance_uid=False)
        made[name] = saved(packed)
    deflated = dataset(pixels)
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    made["deflated"] = saved(deflated)
    return made


FORMS = forms()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_film(form: str) -> None:
    assert_shows(FORMS[form], film12())


def test_8_bit_and_jpeg_baseline() -> None:
    from PIL import Image

    pixels = (film12() >> 4).astype(np.uint8)
    assert_shows(saved(dataset(pixels)), pixels)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=98)
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):  # the second one may hold 8 bits, too
        assert_shows(compressed(dataset(pixels), syntax, [out.getvalue()]), pixels, 0.05)


JPEG_LS = base64.b64decode(
    "/9j/9wALCwBAAEABAREA/9oACAEBAAAAAAE8EIRERJJJIAAAAAUrQQhEREkkkgAAAABStFFFFKUpSlKUpSAAAAAK"
    "VJJJJJJJJJKUpSlIP9weYbw+EXi8dETyecEfJ5wR8nnBPp7gn09wT6e4J9PcE+nuCfn8F+fwX5/Bfn8F+fwX5/Bf"
    "n8F+fwX5/Bfn8F+fwX5/Bfn8F+fwX5/Bfn8F+fwX5/Bfn8F+fwX5+AAAZ9KSlKUpSlKUpQAAAcSlKUpSlKUpSlAq"
    "0qqqqoiIiIgVSIiIiIiIiIiCz58/gvz+C/P4L8/gvz+C/P4L8/gvz+C/P4L8/gvz+C/P4L8/gvz+C/P4L8/gvz+C"
    "/P4L8/gvz+C/P4L8/gvz+C/P4L8/gvz+C/P4L8/gvz+C/P4L8/D/2Q=="
)  # of steps() by CharLS; nothing that the tests depend on can write JPEG-LS


def steps() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:64]
    return (rows // 32 * 1000 + columns // 16 * 300 + 100).astype(np.uint16)


def test_jpeg_ls() -> None:
    syntax = UID("1.2.840.10008.1.2.4.80")
    assert_shows(compressed(dataset(steps()), syntax, [JPEG_LS]), steps())
    with pytest.raises(FilmError, match="not fit"):
        read_film(compressed(dataset(steps()[:40]), syntax, [JPEG_LS]))


def test_jpeg_2000_signed() -> None:
    signed = dataset(film12().astype(np.int16) - 2048)
    signed.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert_shows(saved(signed), film12())


def test_colour_is_kept_on_display() -> None:
    colours = np.stack([film12() >> 6, film12() >> 5, film12() >> 4], axis=-1).astype(np.uint8)
    ds = dataset(colours, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    assert np.array_equal(read_film(saved(ds)).display, colours)
    ds.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(read_film(saved(ds)).display, colours)


def test_window_is_applied() -> None:
    pixels = film12().astype(float)
    for function, expected in (
        ("LINEAR", np.clip((pixels - 1499.5) / 1199 + 0.5, 0, 1)),
        ("LINEAR_EXACT", np.clip((pixels - 1500) / 1200 + 0.5, 0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (pixels - 1500) / 1200))),
    ):
        ds = dataset(film12(), WindowCenter=[1500, 400], WindowWidth=[1200, 10])
        ds.VOILUTFunction = function
        assert_shows(saved(ds), expected)


def table(first: int, values: np.ndarray) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, 16]
    item.LUTData = values.astype("<u2").tobytes()
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "OW"
    item.ModalityLUTType = "US"
    return item


def test_tables_are_applied() -> None:
    pixels = film12()
    curve = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        ds = dataset(pixels, **{keyword: Sequence([table(0, curve)])})
        assert_shows(saved(ds), curve[pixels])


def test_padding_is_left_out() -> None:
    pixels = film12()
    inside = pixels.copy()
    pixels[:, :8] = 4095
    ds = dataset(pixels, PixelPaddingValue=4095)
    film = read_film(saved(ds))
    assert not film.pixels[:, :8].any()
    assert np.abs(film.pixels[:, 8:] - stretched(inside[:, 8:])).max() < 2e-3


@pytest.mark.parametrize("packed", [False, True])
def test_first_of_several_frames(packed: bool) -> None:
    frames = np.stack([film12(), film12()[::-1], film12()[:, ::-1]])
    ds = dataset(frames, NumberOfFrames=3)
    if packed:
        ds.compress(RLELossless, generate_instance_uid=False)
    film = read_film(saved(ds))
    assert np.abs(film.pixels - stretched(frames[0])).max() < 2e-3
    assert film.notes == ("Only the first of 3 frames was read.",)


def test_nothing_of_the_patient_leaves(caplog, capfd, tmp_path) -> None:
    """Neither in the film nor in an error, a warning or a log, whole file or damaged."""
    caplog.set_level(logging.DEBUG)
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in FORMS.values():
            for damaged in (data, data[: len(data) // 2], data[:600], data[:-9]):
                try:
                    film = read_film(damaged)
                except FilmError as error:
                    said.append(f"{error} {error.__cause__}")
                else:
                    said += [film.name, *film.notes, *film.problems]
                    assert not any(secret.encode() in film.pixels.tobytes() for secret in SECRETS)
    captured = capfd.readouterr()
    everything = [*said, *map(str, warned), caplog.text, captured.out, captured.err]
    assert not [secret for secret in SECRETS for text in everything if secret in text]
    assert all(secret.encode() in FORMS["explicit"] for secret in SECRETS if secret != "19990101")


def lying(**tags: object) -> bytes:
    return saved(dataset(film12(), **tags))


def nested(depth: int) -> bytes:
    """Sequences of undefined length, one in the other."""
    opened = struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, 0xFFFFFFFF)
    opened += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return FORMS["explicit"][:132] + opened * depth


def many_tables(count: int) -> bytes:
    """Large tables of empty items, again and again."""
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 100_000
    one = struct.pack("<HH2sHI", 0x28, 0x3010, b"SQ", 0, len(items)) + items
    return FORMS["explicit"] + one * count


def test_files_that_lie_end_in_a_sentence() -> None:
    pixels = film12()
    bomb = dataset(np.zeros((64, 64), np.uint8))
    bomb.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    bomb.PixelData = bytes(150_000_000)
    short = struct.pack("<16I", 2, 64, 70, *[0] * 13)
    items = FORMS["explicit"][:132] + struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, 0xFFFFFFFF)
    for data, message in (
        (lying(Rows=60_000, Columns=60_000), "megapixels"),
        (lying(Rows=97), "damaged"),
        (lying(Rows=0), "no pixels"),
        (lying(NumberOfFrames=5000), "frames"),
        (lying(BitsAllocated=12), "damaged"),
        (FORMS["explicit"][:-100], "damaged"),
        (FORMS["explicit"][:500], "no picture|damaged"),
        (compressed(dataset(pixels), JPEGLosslessSV1, [jpeg_lossless(pixels[:50])]), "not fit"),
        (compressed(dataset(pixels), JPEG2000Lossless, [b"\xff\x4f\xff\x51" + bytes(60)]), "fit"),
        (compressed(dataset(pixels), RLELossless, [short]), "damaged"),
        (compressed(dataset(pixels), UID("1.2.840.10008.1.2.4.100"), [b"\0" * 20]), "coded"),
        (saved(bomb), "unpacks"),
        (nested(100_000), "nested"),
        (items + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000, "too many parts"),
        (b"\0" * 128 + b"DICM", "no picture|damaged"),
    ):
        with pytest.raises(FilmError, match=message):
            read_film(data)


def test_large_tables_are_left_out() -> None:
    assert_shows(many_tables(20), film12())


def test_limits_are_settings() -> None:
    with pytest.raises(FilmError, match="megapixels"):
        read_film(FORMS["explicit"], limits=Limits(max_pixels=96 * 80 - 1))
    with pytest.raises(FilmError, match="frames"):
        read_film(lying(NumberOfFrames=3), limits=Limits(max_frames=2))


def test_read_from_a_file_without_extension(tmp_path) -> None:
    path = tmp_path / "IM000001"
    path.write_bytes(FORMS["jpeg 2000"])
    assert read_film(path).name == "IM000001"
