"""What a file may cost, and that damage to voxels is seen wherever a checksum could show it."""

from __future__ import annotations

import gzip
import io
import os
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from support.synthetic import Volume, affine_of, write_nifti

from differseg_med.errors import CaseError
from differseg_med.io.budget import MAX_VOXELS, SPARE_BYTES, beside, check_claim, check_pixels, unpack
from differseg_med.io.headers import read_header
from differseg_med.io.volumes import load_volume
from differseg_med.io.voxels import check_body, read_itk, read_voxels

CONTENT = bytes(range(256)) * 400
VOXELS = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(CONTENT),
        zlib.compress(CONTENT),
        gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]),
        gzip.compress(CONTENT) + bytes(600),
    ],
    ids=["gzip", "zlib", "two members", "padded"],
)
def test_unpacking_gives_what_pythons_gzip_gives(packed):
    assert unpack(io.BytesIO(packed), len(CONTENT)) == CONTENT
    assert unpack(io.BytesIO(packed), 500) == CONTENT[:500] if len(CONTENT) - 500 <= SPARE_BYTES else True
    assert unpack(io.BytesIO(packed), len(CONTENT), keep=False) == b""


@pytest.mark.parametrize("keep", [True, False])
def test_unpacking_refuses_what_is_too_short_too_long_or_damaged(keep):
    packed = gzip.compress(CONTENT, mtime=0)
    for data, size in (
        (packed[:-1], len(CONTENT)),
        (packed[: len(packed) // 2], len(CONTENT)),
        (packed, len(CONTENT) + 1),
        (packed, len(CONTENT) - SPARE_BYTES - 1),
        (packed + b"no gzip", len(CONTENT)),
        (b"", 1),
    ):
        with pytest.raises((EOFError, ValueError, zlib.error)):
            unpack(io.BytesIO(data), size, keep=keep)


@pytest.mark.parametrize(
    ("shape", "size", "held", "packed", "words"),
    [
        ((2048, 2048, 1500), 1, 67, True, "smaller than its header says"),
        ((4, 4, 4), 2, 127, False, "smaller than its header says"),
        ((MAX_VOXELS + 1, 1, 1), 1, 2**40, False, "larger than this program reads"),
        ((2**29, 1, 1), 32, 2**40, False, "larger than this program reads"),
        ((4, 0, 4), 2, 10, False, "an axis without voxels"),
        ((4, -4, 4), 2, 10, False, "an axis without voxels"),
        ((), 2, 10, False, "an axis without voxels"),
    ],
)
def test_claims(tmp_path, shape, size, held, packed, words):
    with pytest.raises(CaseError, match=words):
        check_claim(tmp_path / "a.nii", shape, size, held=held, packed=packed)


def test_claims_that_hold(tmp_path):
    check_claim(tmp_path / "a", (4, 4, 4), 2, held=128, packed=False)
    check_claim(tmp_path / "a", (1024, 1024, 1000), 2, held=2**22, packed=True)
    check_pixels(tmp_path / "a", 8192, 8192)
    with pytest.raises(CaseError, match="8192 x 8193 pixels"):
        check_pixels(tmp_path / "a", 8193, 8192)


@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "b/a.raw", "..", "", "C:a.raw", "b\\a.raw", "link.raw"])
def test_voxels_elsewhere(tmp_path, name):
    (tmp_path / "case").mkdir()
    (tmp_path / "a.raw").write_bytes(b"x")
    (tmp_path / "case" / "link.raw").symlink_to(tmp_path / "a.raw")
    with pytest.raises(CaseError, match="voxels in another folder"):
        beside(tmp_path / "case" / "a.mhd", name)


def test_voxels_beside_the_header(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"x")
    assert beside(tmp_path / "a.mhd", "a.raw") == tmp_path / "a.raw"
    with pytest.raises(CaseError, match="missing"):
        beside(tmp_path / "a.mhd", "b.raw")


def saved(path):
    volume = Volume(VOXELS, affine_of((1, 1.5, 2)))
    if path.name.endswith(".nii.gz"):
        return write_nifti(path, volume, np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T)), str(path), useCompression=True)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.nhdr", "a.mhd"])
def test_no_flipped_bit_becomes_an_image(tmp_path, name, capfd):
    """Of each byte of the body one bit; what is no part of the content (a time, a name) may change."""
    path = saved(tmp_path / name)
    body = next((p for p in sorted(tmp_path.iterdir()) if p != path), path)
    whole = body.read_bytes()
    marks = (b"\n\n", b"LOCAL\n") if body == path else ()
    start = next((whole.index(mark) + len(mark) for mark in marks if mark in whole), 0)
    refused = 0
    for place in range(start, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        body.write_bytes(changed)
        try:
            header = read_header(path)
            np.testing.assert_array_equal(read_voxels(header), VOXELS)
            check_body(header)
        except CaseError:
            refused += 1
    assert refused > 0.9 * (len(whole) - start)
    body.write_bytes(whole)
    check_body(read_header(path))
    np.testing.assert_array_equal(load_volume(path)[0], VOXELS)


def test_components_that_itk_moves_are_no_damage(tmp_path):
    """The axis of components last in the file and first in memory: the checksum is then compared by unpacking."""
    layers = np.random.default_rng(0).integers(0, 2, (2, 4, 5, 6)).astype(np.uint8)  # component, k, j, i
    header = (
        "NRRD0004\ntype: uchar\ndimension: 4\nspace: left-posterior-superior\nsizes: 6 5 4 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2) none\nkinds: domain domain domain vector\nencoding: gzip\n"
        "space origin: (0,0,0)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + gzip.compress(layers.tobytes()))
    np.testing.assert_array_equal(np.moveaxis(sitk.GetArrayFromImage(read_itk(tmp_path / "a.nrrd")), -1, 0), layers)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.mha", "NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n", "no distance between voxels"),
        ("a.mha", "NDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 0 1\nElementType = MET_UCHAR\n", "no distance"),
        ("a.mha", "NDims = 3\nNDims = 3\n", "not an image"),
        (
            "a.mha",
            "NDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nDistanceUnits = um\nElementType = MET_UCHAR\n",
            "not the millimetre",
        ),
        ("a.nrrd", "type: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n", "no distance between voxels"),
        ("a.nrrd", "type: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspacings: 1 nan 1\n", "no distance"),
        (
            "a.nrrd",
            'type: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspacings: 1 1 1\nspace units: "um" "um" "um"\n',
            "not the millimetre",
        ),
        ("a.nrrd", "type: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspacings: 1 1 1\nsizes: 2 2 2\n", "image"),
        ("a.nrrd", "type: block\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspacings: 1 1 1\n", "not an image"),
        (
            "a.nrrd",
            "type: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspacings: 1 1 1\ndata file: LIST\n",
            "slice",
        ),
    ],
)
def test_text_headers_that_itk_takes_for_something(tmp_path, name, text, words):
    start, end = (
        ("NRRD0004\n", "\n") if name.endswith("nrrd") else ("ObjectType = Image\n", "ElementDataFile = LOCAL\n")
    )
    (tmp_path / name).write_bytes(f"{start}{text}{end}".encode() + bytes(64))
    with pytest.raises(CaseError, match=words):
        read_header(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t1.nii.gz")
    with pytest.raises(CaseError, match="there is no such file"):
        load_volume(tmp_path / "t1.nii.gz")
