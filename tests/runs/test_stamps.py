"""A stamp changes with every file that a cell is read from, and with nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from differseg_med.case import Case
from differseg_med.runs.stamps import case_stamps, file_hash, files_of, inputs_of, stamp


def touch_content(path: Path) -> None:
    """Change one byte; size and date stay, as ``cp -p`` or an editor of headers leave them."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_every_file_of_a_volume(tmp_path, name):
    image = sitk.Image([4, 5, 6], sitk.sitkInt16)
    sitk.WriteImage(image, str(tmp_path / name))
    files = sorted(tmp_path.iterdir())
    assert sorted(files_of(tmp_path / name)) == files
    assert len(files) == (2 if name in ("a.nhdr", "a.mhd") else 1)
    stamps = {stamp(tmp_path / name)}
    assert stamp(f"{tmp_path / name}::2") not in stamps
    for file in files:
        touch_content(file)
        stamps.add(stamp(tmp_path / name))
    assert len(stamps) == 1 + len(files)
    (tmp_path / "another.raw").write_text("x")
    assert stamp(tmp_path / name) in stamps
    files[-1].unlink()
    assert stamp(tmp_path / name) not in stamps


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.nhdr", "NRRD0004\ntype: short\ndata file: LIST\ns1.raw\ns2.raw\n\n"),
        ("a.nhdr", "NRRD0004\ndata file: s%d.raw 1 2 1\n\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\ns1.raw\ns2.raw\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = s%d.raw 1 2 1\n"),
    ],
)
def test_slices_in_files_of_their_own(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for slices in ("s1.raw", "s2.raw"):
        (tmp_path / slices).write_bytes(b"1234")
    before = stamp(tmp_path / name)
    touch_content(tmp_path / "s2.raw")
    assert stamp(tmp_path / name) != before


def test_all_slices_of_a_series_but_not_our_results_inside(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("1.dcm", "2.dcm", "sub/3.dcm"):
        (tmp_path / name).write_bytes(b"1234")
    stamps = [stamp(tmp_path)]
    for name in ("2.dcm", "sub/3.dcm"):
        touch_content(tmp_path / name)
        stamps.append(stamp(tmp_path))
    (tmp_path / "4.dcm").write_bytes(b"1234")
    stamps.append(stamp(tmp_path))
    assert len(set(stamps)) == 4
    (tmp_path / "out").mkdir()
    for name in ("run.json", "mask.nii.gz"):
        (tmp_path / "out" / name).write_text("ours")
    assert stamp(tmp_path) == stamps[-1]


def test_another_file_of_the_same_size_and_date(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"1234")
    before = stamp(tmp_path / "a.nii")
    shutil.copy2(tmp_path / "a.nii", tmp_path / "b.nii")
    (tmp_path / "b.nii").replace(tmp_path / "a.nii")
    assert stamp(tmp_path / "a.nii") != before
    assert stamp(tmp_path / "nowhere.nii") == "missing"


def test_a_case(tmp_path):
    for name in ("t1.nii", "ct.nii", "l.nii"):
        (tmp_path / name).write_bytes(b"1234")
    t1, ct, label = (tmp_path / name for name in ("t1.nii", "ct.nii", "l.nii"))
    withheld = Case("a", "a", {"t1": t1}, label, reference_images=(t1, ct))
    assert case_stamps(withheld) == {"t1": stamp(t1), "other image 1": stamp(ct)}
    assert list(inputs_of(withheld)) == [t1, ct, label]


def test_cells_that_no_disk_holds(tmp_path):
    for cell in ("x" * 5000, f"{tmp_path}/{'y' * 300}.nhdr", "a\0b.mha"):
        assert stamp(cell) == "missing"
        assert list(inputs_of(Case("a", "a", {"t1": Path(cell)}))) == [Path(cell)]


def test_hashes(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    assert (
        file_hash(tmp_path / "w.pt") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180
    assert file_hash(tmp_path / "nowhere") == ""
