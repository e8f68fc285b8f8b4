"""One mask, many formats: the ending decides, grids must fit, and no interruption leaves half a file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import slicerio
from pydicom.sr.coding import Code
from support.forking import run_program
from support.series import COLUMNS, ROWS, SLICES, TURNED, positions, positions_in_seg, write_series
from support.synthetic import BUNDLE, ORIENTATIONS, Volume, affine_of, stored_as, write_nifti

from differseg_med.errors import CaseError
from differseg_med.export.formats import Segmented, onto_reference, save_mask
from differseg_med.export.segment import SegmentInfo
from differseg_med.geometry import Grid
from differseg_med.io.volumes import load_volume
from differseg_med.prediction.writers import RUN_FORMATS, write_format
from differseg_med.transforms.grids import grid_of

LESION = SegmentInfo(
    "Lesion",
    property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    property_type=Code("4147007", "SCT", "Mass"),
    algorithm_type="AUTOMATIC",
    algorithm_name="model",
    algorithm_version="1",
)
SHAPE = (COLUMNS, ROWS, SLICES)
MASK = (np.random.default_rng(0).random(SHAPE) > 0.6).astype(np.uint8)
MASK[..., 3:] = 0  # empty slices at the end, so that a DICOM SEG can have an even number of bytes


def read_positions(path: Path) -> np.ndarray:
    """World positions (RAS) of the foreground, each format through its own library."""
    if path.name.endswith(".dcm"):
        return positions_in_seg(path)
    if path.name.endswith(".seg.nrrd"):
        read = slicerio.read_segmentation(str(path))
        return positions(read["voxels"], np.diag([-1, -1, 1, 1]) @ read["ijkToLPS"])
    image = nib.load(path)
    return positions(np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii", "m.seg.nrrd", "m.dcm"])
def test_the_ending_decides_and_the_place_is_the_references(name, tmp_path):
    folder = write_series(tmp_path / "ct", TURNED)
    affine = np.asarray(load_volume(folder).affine)
    assert save_mask(MASK, folder, tmp_path / name, segment=LESION) == []
    np.testing.assert_allclose(read_positions(tmp_path / name), positions(MASK, affine), atol=2e-3)


def test_the_same_mask_is_at_the_same_place_in_every_format(tmp_path):
    folder = write_series(tmp_path / "ct", TURNED)
    for name in ("m.nii.gz", "m.seg.nrrd", "m.dcm"):
        save_mask(MASK, folder, tmp_path / name, segment=LESION)
    nifti, slicer, dicom = (read_positions(tmp_path / name) for name in ("m.nii.gz", "m.seg.nrrd", "m.dcm"))
    np.testing.assert_allclose(slicer, nifti, atol=2e-3)
    np.testing.assert_allclose(dicom, nifti, atol=2e-3)


@pytest.mark.parametrize(
    ("mask", "name", "words"),
    [
        (MASK, "m.mha", "unknown ending"),
        (MASK[:-1], "m.nii.gz", "not on its reference"),
        (MASK * 3, "m.seg.nrrd", "not binary"),
        (MASK, "m.dcm", "DICOM series"),
    ],
)
def test_what_cannot_be_saved_is_refused(mask, name, words, tmp_path):
    with pytest.raises(CaseError, match=words):
        save_mask(mask, Grid(SHAPE, affine_of()), tmp_path / name, segment=LESION)
    assert not list(tmp_path.iterdir())


def test_a_nifti_reference_gives_no_dicom_seg_but_the_others(tmp_path):
    reference = write_nifti(tmp_path / "t1.nii.gz", Volume(MASK, affine_of()))
    save_mask(MASK, reference, tmp_path / "m.seg.nrrd", segment=LESION)
    with pytest.raises(CaseError, match="refers to the DICOM images under it") as error:
        save_mask(MASK, reference, tmp_path / "m.dcm", segment=LESION)
    assert ".seg.nrrd" in error.value.remedy


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_a_mask_stored_along_other_axes_is_turned(codes):
    reference = Grid(SHAPE, affine_of((0.7, 1.1, 3.3), angles=(20, -10, 5)))
    stored = stored_as(Volume(MASK, reference.affine), codes)
    turned, notes = onto_reference(stored.data, Grid(stored.data.shape, stored.affine), reference)
    np.testing.assert_array_equal(turned, MASK)
    assert notes == []


def test_a_mask_of_a_part_of_the_reference_is_put_back():
    reference = Grid((9, 8, 7), affine_of((0.7, 1.1, 3.3), angles=(20, -10, 5)))
    part = Grid((4, 3, 2), reference.affine @ np.array([[1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]]))
    expected = np.zeros(reference.shape, np.uint8)
    expected[2:6, 3:6, 4:6] = (drawn := np.arange(24).reshape(4, 3, 2) % 2)
    placed, notes = onto_reference(drawn.astype(np.uint8), part, reference)
    np.testing.assert_array_equal(placed, expected)
    assert notes == []
    beyond = Grid((4, 3, 2), reference.affine @ np.array([[1, 0, 0, 7], [0, 1, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]]))
    with pytest.raises(CaseError, match="other voxels"):  # the last columns of the mask would be lost
        onto_reference(np.ones((4, 3, 2), np.uint8), beyond, reference)


def test_another_grid_needs_consent_and_is_told():
    reference = Grid((20, 20, 10), affine_of((1, 1, 2), (0, 0, 0)))
    ball = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0) <= 12
    fine = Grid(ball.shape, affine_of((0.5, 0.5, 0.5), (-0.25, -0.25, -0.75)))
    with pytest.raises(CaseError, match="other voxels than the reference") as error:
        onto_reference(ball.astype(np.uint8), fine, reference)
    assert "20 x 20 x 10" in str(error.value)
    assert "--resample" in error.value.remedy
    moved, (note,) = onto_reference(ball.astype(np.uint8), fine, reference, resample=True)
    assert moved.shape == (20, 20, 10)
    center = (np.argwhere(moved) @ np.diag([1, 1, 2])).mean(axis=0)
    np.testing.assert_allclose(center, [9.5, 9.5, 9.0], atol=0.3)  # 19.5 * 0.5 - 0.25, - 0.75
    assert f"{ball.sum() * 0.125 / 1000:.3f} ml before, {moved.sum() * 2 / 1000:.3f} ml after" in note
    far = Grid(ball.shape, affine_of((0.5, 0.5, 0.5), (500, 0, 0)))
    with pytest.raises(CaseError, match="not where the reference image is"):
        onto_reference(ball.astype(np.uint8), far, reference, resample=True)


def test_every_format_by_name(tmp_path):
    folder = write_series(tmp_path / "ct", TURNED)
    grid = grid_of(load_volume(folder))
    probability = MASK * np.float32(0.75)
    segmented = Segmented(MASK, grid, LESION, {"ct": folder}, "ct", "case01", probability)
    for name in RUN_FORMATS:
        file, notes = write_format(name, segmented, tmp_path / "out")
        assert (tmp_path / "out" / file).exists(), name
        assert notes == []
    assert {p.name for p in (tmp_path / "out").iterdir()} == {known.file for known in RUN_FORMATS.values()}
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file() and file.suffix != ".dcm":  # a DICOM SEG belongs to the patient, the others name nobody
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            for private in (b"Doe", b"19700101", str(tmp_path).encode()):
                assert private not in content, file.name
    with pytest.raises(CaseError, match="no format 'stl'"):
        write_format("stl", segmented, tmp_path / "out")
    with pytest.raises(CaseError, match="no probability"):
        write_format("probability", replace(segmented, probability=None), tmp_path / "out")


NAMES = ("mask.nii.gz", "mask.nii", "mask.seg.nrrd", "mask.dcm", "probability.nrrd")

INTERRUPTED = """
import json, os, resource, signal, sys, time
import numpy as np
from differseg_med.errors import CaseError
from differseg_med import atomic
from differseg_med.export.formats import save_mask
from differseg_med.export.seg_nrrd import save_nrrd_volume
from differseg_med.export.segment import read_segment

case, bundle, *names = sys.argv[1:]
mask, segment = np.load(case + "/mask.npy"), read_segment(bundle)

def export(path):
    if path.endswith("probability.nrrd"):
        save_nrrd_volume(mask * np.float32(0.3), np.eye(4), path)
    else:
        save_mask(mask, case + "/ct", path, segment=segment)

def killed(path, pipe):
    def stop(descriptor):
        os.write(pipe, b"written")
        time.sleep(60)
    atomic.os.fsync = stop
    export(path)

def full(path, pipe):  # a file may have 512 bytes: writing stops in the middle, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
    try:
        export(path)
    except CaseError as error:
        os.write(pipe, str(error).encode())

said = {}
for how in (killed, full):
    for name in names:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            how(f"{case}/{how.__name__}/{name}", writing)
            os._exit(0)
        os.close(writing)
        said[f"{how.__name__}/{name}"] = os.read(reading, 9999).decode()
        if how is killed:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder of old files after one process per file tried to replace it, and what each said, by HOW/NAME."""
    folder = tmp_path_factory.mktemp("case")
    write_series(folder / "ct", slices=40)
    random = np.random.default_rng(1).random((COLUMNS, ROWS, 40)) > 0.5  # does not shrink below the limit
    np.save(folder / "mask.npy", random.astype(np.uint8))
    for how in ("killed", "full"):
        (folder / how).mkdir()
        for name in NAMES:
            (folder / how / name).write_text("old")
    (folder / "interrupted.py").write_text(INTERRUPTED)
    done = run_program(folder / "interrupted.py", folder, BUNDLE, *NAMES)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_killed_half_way_leaves_the_old_file(name, interrupted):
    folder, said = interrupted
    assert said[f"killed/{name}"] == "written"  # it was killed between writing and renaming
    assert (folder / "killed" / name).read_text() == "old"
    left = {p.name for p in (folder / "killed").iterdir()} - set(NAMES)
    assert len(left) == len(NAMES)
    assert all(one.startswith(".") for one in left)  # hidden, and no one's result


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_the_old_file_and_says_so(name, interrupted):
    folder, said = interrupted
    message = said[f"full/{name}"]
    assert message.startswith(f"file full/{name}: ")
    assert "could not be written" in message
    assert str(folder) not in message
    assert (folder / "full" / name).read_text() == "old"
    assert {p.name for p in (folder / "full").iterdir()} == set(NAMES)
