"""Slices become a volume by where they are; whatever is no regular volume is refused with positions and numbers."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSNearLossless,
    RLELossless,
)
from support.making import (
    COLUMNS,
    ROWS,
    SLICES,
    STEP,
    affine_lps,
    assert_refused,
    enhanced,
    ras,
    save,
    slices,
    stored,
    uid,
)

from differseg_med.io.dicom.reader import DicomReader, read_grid, read_volume
from differseg_med.io.volumes import load_volume
from differseg_med.transforms.loading import LoadVolumesd

ANGLES = [(0, 0, 0), (90, 0, 0), (0, 90, 0), (180, 90, 0), (20, -10, 5), (-130, 70, 200)]
VALUES = stored().transpose(2, 1, 0).astype(np.float32)  # (column, row, slice)


@pytest.mark.parametrize("angles", ANGLES)
def test_any_orientation_as_simpleitk_reads_it(tmp_path, angles):
    folder = save(tmp_path, slices(angles=angles))
    volume = read_volume(folder)
    assert_array_equal(volume.data, VALUES - 1024)
    assert_allclose(volume.grid.affine, ras(affine_lps(angles)), atol=1e-6)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    for index in [(0, 0, 0), (5, 1, 2), (COLUMNS - 1, 3, SLICES - 1)]:
        world = ras(np.array(image.TransformIndexToPhysicalPoint(index)))
        found = tuple(volume.grid.indices(world).round().astype(int))
        assert_allclose(volume.grid.world(found), world, atol=1e-4)
        assert volume.data[found] == image[index]


def test_the_order_of_files_and_numbers_says_nothing(tmp_path):
    def lie(dataset, number):
        dataset.InstanceNumber = 100 - 3 * number
        dataset.SliceLocation = "0"

    volumes = [read_volume(save(tmp_path / str(seed), slices(change=lie), seed)) for seed in range(3)]
    for volume in volumes:
        assert_array_equal(volume.data, VALUES - 1024)
        assert_allclose(volume.grid.affine, ras(affine_lps()), atol=1e-6)


def test_every_slice_has_its_own_slope(tmp_path):
    slopes = [0.5, 0.25, 4.0, 1.0, 2.0, 0.125]

    def scale(dataset, number):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slopes[number]), str(number)

    volume = read_volume(save(tmp_path, slices(change=scale)))
    assert_array_equal(volume.data, VALUES * np.array(slopes, np.float32) + np.arange(SLICES, dtype=np.float32))


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
)
def test_transfer_syntaxes(tmp_path, syntax):
    made = slices()
    for dataset in made:
        if syntax.is_compressed and not syntax.is_deflated:
            dataset.compress(syntax, generate_instance_uid=False)
            continue
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.set_original_encoding(False, False)
    for number, dataset in enumerate(made):
        dataset.save_as(
            tmp_path / str(number),
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            force_encoding=True,
        )
    assert_array_equal(read_volume(tmp_path).data, VALUES - 1024)


def test_a_missing_codec_names_the_command(tmp_path):
    made = slices()
    for dataset in made:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    folder = save(tmp_path, made)
    # Stands in for an installation without decoders: what cannot be imported is not there.
    code = (
        "import sys\n"
        "for name in ('openjpeg', 'pylibjpeg', 'PIL', 'gdcm'): sys.modules[name] = None\n"
        "from pydicom.uid import JPEG2000Lossless\n"
        "from differseg_med.io.dicom.pixels import check_codec\n"
        "from differseg_med.io.dicom.files import read_headers\n"
        "from pathlib import Path\n"
        f"check_codec(JPEG2000Lossless, read_headers(Path({str(folder)!r}))[0][0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "differseg-med[codecs]"' in done.stderr
    assert "JPEG 2000" in done.stderr


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_missing_geometry_is_refused_and_named(tmp_path, keyword):
    def strip(dataset, number):
        if number == 4:
            del dataset[keyword]

    assert_refused(save(tmp_path, slices(change=strip)), f"{keyword} is missing", "file ")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", ["0", "1"]),
        ("PixelSpacing", ["-1", "1"]),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"]),
        ("ImagePositionPatient", ["nan", "0", "0"]),
        ("ImagePositionPatient", ["1e9", "0", "0"]),
        ("RescaleSlope", "0"),
    ],
)
def test_impossible_values_are_refused(tmp_path, keyword, value):
    def break_it(dataset, number):
        setattr(dataset, keyword, value)

    assert_refused(save(tmp_path, slices(change=break_it)[:1]), "cannot be right")


def test_a_single_slice_has_its_thickness_for_a_distance(tmp_path):
    folder = save(tmp_path / "a", slices()[:1])
    volume = read_volume(folder)
    assert volume.grid.spacing_mm == (0.75, 1.5, STEP)
    assert "single slice" in volume.notes[0]
    made = slices()[:1]
    del made[0].SliceThickness
    assert_refused(save(tmp_path / "b", made), "does not say how thick")


def test_identical_duplicates_are_dropped_with_a_note(tmp_path):
    again = slices()[2:4]
    again[0].SOPInstanceUID = again[0].file_meta.MediaStorageSOPInstanceUID = uid("sent again")
    volume = read_volume(save(tmp_path, [*slices(), *again]))
    assert_array_equal(volume.data, VALUES - 1024)
    assert sorted(volume.notes) == ["1 identical copies of images left out"] * 2


def test_a_compressed_copy_is_a_copy(tmp_path):
    """The archive holds both what the scanner sent and what was compressed for the long term."""
    again = slices()
    for number, dataset in enumerate(again):
        dataset.compress(RLELossless if number % 2 else JPEG2000Lossless, generate_instance_uid=False)
    volume = read_volume(save(tmp_path, [*slices(), *again]))
    assert_array_equal(volume.data, VALUES - 1024)
    assert volume.notes == ("6 identical copies of images left out",)


@pytest.mark.parametrize("flag", [True, False])
def test_loss_by_compression_is_told(tmp_path, flag):
    made = slices()
    if flag:  # decompressed since: only the attribute still says so
        made[3].LossyImageCompression = "01"
    else:
        for dataset in made:
            dataset.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    volume = read_volume(save(tmp_path, made))
    assert np.abs(volume.data - (VALUES - 1024)).max() == (0 if flag else 2)
    assert volume.notes == ("compressed with loss: the voxels are not exactly what was measured",)


def test_different_duplicates_are_refused(tmp_path):
    again = slices(stored(seed=1))[2:3]
    assert_refused(save(tmp_path / "a", [*slices(), *again]), "same SOPInstanceUID")
    again[0].SOPInstanceUID = again[0].file_meta.MediaStorageSOPInstanceUID = uid("another")
    folder = save(tmp_path / "b", [*slices(), *again])
    assert_refused(folder, "1 slice positions have several different images", "-305.25 mm")


def test_several_series_in_one_folder(tmp_path):
    folder = save(tmp_path, [*slices(), *slices(stored(seed=1), series="other")])
    assert_refused(
        folder, "there are 2 series here", f"{uid('series', 'series')} (CT, series, 6 files)", "PATH::SeriesInstanceUID"
    )
    cell = f"{folder}::{uid('series', 'other')}"
    assert_array_equal(read_volume(cell).data, stored(seed=1).transpose(2, 1, 0) - 1024.0)
    assert_refused(f"{folder}::1.2.3", "no such series here")


def test_folders_in_folders_zips_in_zips_and_other_files(tmp_path):
    save(tmp_path / "dicom" / "a", slices()[:3])
    (tmp_path / "dicom" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "dicom" / "notes.txt").write_text("seen by")
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for path in sorted(save(tmp_path / "rest", slices()[3:]).iterdir()):
            archive.write(path, f"deep/er/{path.name}")
    with zipfile.ZipFile(tmp_path / "dicom" / "outer.zip", "w") as archive:
        archive.write(inner, "inner.zip")
    assert_array_equal(read_volume(tmp_path / "dicom").data, VALUES - 1024)


def test_a_bare_data_set_without_preamble(tmp_path):
    for number, dataset in enumerate(slices()):
        for element in ("file_meta",):
            delattr(dataset, element)
        dataset.save_as(tmp_path / str(number), implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert_array_equal(read_volume(tmp_path).data, VALUES - 1024)


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -10, 5)])
def test_enhanced_multi_frame(tmp_path, angles):
    slopes = np.array([1, 2, 0.5, 1, 4, 1])
    folder = save(tmp_path, [enhanced(angles=angles, slope=slopes)])
    volume = read_volume(folder)
    assert_allclose(volume.grid.affine, ras(affine_lps(angles)), atol=1e-6)
    assert_array_equal(volume.data, VALUES * slopes.astype(np.float32))


def test_colour_pictures_are_refused(tmp_path):
    made = slices()
    for dataset in made:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    assert_refused(save(tmp_path, made), "colour image", "RGB")


def test_declared_sizes_are_not_believed(tmp_path):
    def grow(dataset, number):
        dataset.Rows = 60000

    assert_refused(save(tmp_path / "a", slices(change=grow)), "cannot be right")

    def much(dataset, number):
        dataset.Rows = dataset.Columns = 30000

    assert_refused(save(tmp_path / "b", slices(change=much)), "too large")


def test_monai_reads_dicom_through_the_reader(tmp_path):
    from monai.transforms import LoadImage

    folder = save(tmp_path, slices())
    image = LoadImage(reader=DicomReader(), image_only=True)(folder)
    assert_array_equal(image, VALUES - 1024)
    assert_allclose(image.affine, ras(affine_lps()), atol=1e-6)
    loaded = load_volume(folder)
    assert loaded.shape == (1, COLUMNS, ROWS, SLICES)
    assert_array_equal(loaded[0], image)


def test_remarks_reach_the_notes_of_the_case(tmp_path):
    folder = save(tmp_path, slices()[:1])
    case = LoadVolumesd(["ct"])({"ct": str(folder)})
    assert [note for note in case["notes"] if note.startswith("ct: a single slice")]


def test_a_file_that_appears_is_noticed(tmp_path):
    folder = save(tmp_path, slices()[:4])
    assert read_grid(folder).shape[2] == 4
    save(tmp_path, slices()[4:5])
    assert read_grid(folder).shape[2] == 5


def test_bits_above_those_stored_are_no_value(tmp_path):
    """Old scanners kept overlays in the upper bits; SimpleITK masks them, too."""

    def mark(dataset, number):
        values = np.frombuffer(dataset.PixelData, "<i2").astype(np.uint16) | 0x8000
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = values.tobytes()

    folder = save(tmp_path, slices(change=mark))
    assert_array_equal(read_volume(folder).data, VALUES - 1024)
