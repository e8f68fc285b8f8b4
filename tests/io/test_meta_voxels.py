"""Voxels of MetaImage files, which are read without ITK: the same values, and its words stay off the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.testing import assert_array_equal
from PIL import Image

from differseg_med.errors import CaseError
from differseg_med.io.volumes import load_volume

VOXELS = np.random.default_rng(0).integers(0, 100, (4, 5, 6))


def written(folder: Path, kind: type = np.int16, *, packed: bool = False, name: str = "a.mha") -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(kind)), str(folder / name), useCompression=packed)
    return folder / name


def changed(path: Path, *lines: tuple[bytes, bytes], body: bytes | None = None) -> Path:
    content = path.read_bytes()
    end = content.index(b"LOCAL\n") + 6
    head, voxels = content[:end], content[end:]
    for old, new in lines:
        assert old in head
        head = head.replace(old, new)
    path.write_bytes(head + (voxels if body is None else body))
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]
)
def test_every_type_gives_the_values_of_itk(tmp_path, kind, packed):
    path = written(tmp_path, kind, packed=packed)
    assert_array_equal(load_volume(path)[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)


MSB = (b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True")
TEXT = (b"BinaryData = True", b"BinaryData = False")
WORDS = b" ".join(b"%d" % value for value in VOXELS.ravel()) + b"\n"
ENCODINGS = {
    "highest byte first": ([MSB], VOXELS.astype(">i2").tobytes()),
    "by its other name": ([(MSB[0], b"ElementByteOrderMSB = 1")], VOXELS.astype(">i2").tobytes()),
    "one name against the other": ([(MSB[0], b"ElementByteOrderMSB = True\n" + MSB[0])], None),
    "as words": ([TEXT], WORDS),
    "at the end of the file": ([(b"NDims", b"HeaderSize = -1\nNDims")], b"1234" + VOXELS.astype("<i2").tobytes()),
    "with a scale, which ITK leaves aside": ([(b"NDims", b"ElementToIntensityFunctionSlope = 2\nNDims")], None),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_gives_the_values_of_itk(tmp_path, name):
    lines, body = ENCODINGS[name]
    path = changed(written(tmp_path), *lines, body=body)
    assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)
    assert_array_equal(load_volume(path)[0], VOXELS.T)


@pytest.mark.parametrize("before", [b"-1", b"4"])
def test_voxels_in_a_file_of_their_own(tmp_path, before):
    path = written(tmp_path, name="a.mhd")
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"1234" + raw.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"NDims", b"HeaderSize = " + before + b"\nNDims"))
    assert_array_equal(load_volume(path)[0], VOXELS.T)


REFUSED = {
    "a header before voxels that follow": ([(b"NDims", b"HeaderSize = 4\nNDims")], None),
    "a header of minus two": ([(b"NDims", b"HeaderSize = -2\nNDims")], None),
    "a header per slice": ([(b"NDims", b"HeaderSizePerSlice = 4\nNDims")], None),
    "too few words": ([TEXT], WORDS[:-9] + b" " * 9),
    "no numbers": ([TEXT], WORDS.replace(b" 3 ", b" x ")),
    "words that are compressed": ([TEXT, (b"CompressedData = False", b"CompressedData = True")], WORDS),
    "no yes and no no": ([(b"BinaryData = True", b"BinaryData =")], None),
    "a line that MetaIO takes for two": ([MSB, (b"NDims", b"Comment = " + b"x" * 500 + b"\nNDims")], None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_without_a_word_of_a_library(tmp_path, name, capfd):
    lines, body = REFUSED[name]
    with pytest.raises(CaseError, match="damaged"):
        load_volume(changed(written(tmp_path), *lines, body=body))
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_is_told_by_us_alone(tmp_path, capfd):
    """MetaIO prints "Uncompress failed" by itself, wherever the bit is."""
    path = written(tmp_path, packed=True)
    whole = path.read_bytes()
    start = whole.index(b"LOCAL\n") + 6
    for place in range(start, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(CaseError, match="damaged, cut short or not an image"):
            load_volume(path)
    assert capfd.readouterr() == ("", "")


def tiff(path: Path, tag: int, place: int) -> Path:
    """A TIFF whose ``tag`` leads to ``place``."""
    Image.fromarray(np.full((20, 24, 3), 200, np.uint8)).save(path, dpi=(72, 72))
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    for entry in range(first + 2, first + 2 + 12 * int.from_bytes(content[first : first + 2], "little"), 12):
        if int.from_bytes(content[entry : entry + 2], "little") == tag:
            content[entry + 8 : entry + 12] = place.to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_a_tiff_whose_tags_lead_behind_its_end(tmp_path, recwarn):
    """Pillow warns and goes on without the tag."""
    assert load_volume(tiff(tmp_path / "whole.tif", 0, 0)).shape == (3, 20, 24, 1)
    with pytest.raises(CaseError, match=r"cut short.*(Truncated File Read|Tag data larger)"):
        load_volume(tiff(tmp_path / "cut.tif", 282, 10**6))
    assert not recwarn.list
