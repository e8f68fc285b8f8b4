"""Every byte that commands write and say of planted inputs: no name of a patient, whether they succeed or fail."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.making import COLUMNS, ROWS, SLICES, affine_lps, ras, rtstruct, save, slices, stored
from support.markers import Markers, planted_dicom, planted_itk, planted_picture, planted_png
from support.running import evaluator_of, picture_evaluator
from support.synthetic import BUNDLE, read_rows, row_of, write_case, write_table
from typer.testing import CliRunner

from differseg_med.bundles.factories import picture_writers
from differseg_med.cli import app
from differseg_med.errors import VERBOSE
from differseg_med.export.patient import NEEDED
from differseg_med.prediction.writers import RUN_FORMATS, format_writers

ALL = ",".join(RUN_FORMATS)
IN_DICOM = tuple(f"dicom/{kind.file}" for kind in RUN_FORMATS.values() if kind.needs_dicom)
IN_AUDIT = ("folder", "file", "SeriesDescription", "region")
"""What the tables of a scan are for: which series of which folder a case is."""


def planted_case(folder: Path, marker: Markers) -> dict[str, Path]:
    """NIfTI files whose folder, names and texts hold markers."""
    files = write_case(folder / f"{marker('folder')} {marker('folder')}")
    for name, path in list(files.items()):
        image = nib.load(path)
        header = image.header.copy()
        header["descrip"], header["db_name"], header["aux_file"] = (marker("NIfTI") for _ in range(3))
        files[name] = path.with_name(f"{marker('file')}_{name}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header), files[name])
        path.unlink()
    return files


def planted_cohort(root: Path, marker: Markers) -> Path:
    """A table of good and bad cases, whose images come in every kind of file."""
    made = {name: planted_case(root, marker) for name in ("good", "damaged", "absent", "elsewhere", "region")}
    made["itk"] = {name: made["good"][name] for name in ("t1", "label")}
    made["dicom"] = {"t1": planted_dicom(root, marker, modality="MR"), "label": root / f"{marker('file')}.nii"}
    drawn_mask = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    drawn_mask[5:20, 8:20, 2:4] = 1
    nib.save(nib.Nifti1Image(drawn_mask, ras(affine_lps())), made["dicom"]["label"])
    made["damaged"]["t1"].write_bytes(b"damaged")
    made["absent"]["t1"] = root / marker("folder") / f"{marker('file')}.nii.gz"
    made["elsewhere"]["t1"] = planted_dicom(root, marker)
    two = [*slices(series=marker("region")), *slices(stored(seed=1), series=marker("region"))]
    made["two"] = made["good"] | {"t1": save(root / marker("folder"), two)}
    regions = {marker("region"): [np.zeros((3, 3))], marker("region"): [np.zeros((3, 3))]}
    drawn = save(root / marker("folder"), [rtstruct(regions)])
    made["picture"] = {"t1": planted_png(root / f"{marker('file')}.png", marker)}
    for name, ending in (("t1", "nrrd"), ("label", "seg.nrrd")):
        image, keys = sitk.ReadImage(made["itk"][name]), []
        if name == "label":
            image, keys = sitk.Cast(image, sitk.sitkUInt8), ["Segment0_Name", "Segment0_ID"]
            image.SetMetaData("Segment0_LabelValue", "1")
            image.SetMetaData("Segment0_Layer", "0")
        for key in image.GetMetaDataKeys():
            if not key.startswith("Segment"):
                image.EraseMetaData(key)
        made["itk"][name] = planted_itk(root / f"{marker('file')}.{ending}", image, marker, *keys)
    table = root / "cohort.csv"
    rows = [row_of(case, files, table) for case, files in made.items()]
    next(row for row in rows if row["case_id"] == "region")["label"] = f"{drawn.name}/IM000000::{marker('region')}"
    return write_table(table, rows)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Markers, Path]:
    marker = Markers()
    root = tmp_path_factory.mktemp("planted") / f"{marker('folder')} {marker('folder')}"
    return marker, planted_cohort(root, marker)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture):
    """Run commands as users do; what they and everything else said until now."""
    monkeypatch.delenv(VERBOSE, raising=False)
    caplog.set_level("INFO")
    said: list[str] = []

    def run(*words: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["differseg-med", *map(str, words)])
        done = CliRunner().invoke(app, [*map(str, words)])
        said.append(done.output)
        assert done.exit_code == code, done.output + caplog.text
        return done.output

    run.all = lambda: "\n".join([*said, caplog.text, *capfd.readouterr()])
    return run


def beside_patient_modules(marker: Markers, out: Path) -> dict[str, list[str]]:
    """What files hold, but for what DICOM objects have to say of their patient."""
    found = marker.written(out)
    for name in IN_DICOM:
        dataset = pydicom.dcmread(out / name)
        of_patient = " ".join(str(dataset[keyword].value) for keyword in NEEDED if keyword in dataset)
        assert {marker.kinds[one] for one in found[name]} >= {"PatientName", "PatientID"}
        found[name] = [f"{marker.kinds[one]} {one}" for one in found[name] if one not in marker.found_in(of_patient)]
    return {name: markers for name, markers in found.items() if markers}


def test_no_output_of_a_run_in_all_formats(planted, told):
    marker, table = planted
    assert len(marker.given) >= 140
    evaluator_of(table, writers=format_writers(list(RUN_FORMATS), BUNDLE)).run()
    out = table.parent / "out"
    assert marker.found_in(told.all()) == []
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written >= {"summary.csv", "report.html", "metrics.csv", "run.json"}
    assert written >= {f"dicom/{RUN_FORMATS[name].file}" for name in RUN_FORMATS if name not in ("scene", "bids")}
    assert written >= {"good/scene/scene.mrml", "good/scene.mrb", "derivatives/dataset_description.json"}
    assert beside_patient_modules(marker, out) == {}


def test_no_output_of_pictures_that_are_segmented(told, tmp_path):
    """EXIF, texts of PNG, comments of JPEG and tags of TIFF stay where they are when all goes well."""
    marker = Markers()
    root = tmp_path / marker("folder")
    root.mkdir()
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[10:30, 12:36] = 255
    rows = []
    for ending in ("png", "jpg", "tif"):
        picture = planted_picture(root / f"{marker('file')}.{ending}", marker, pixels)
        label = planted_picture(root / f"{marker('file')}_label.png", marker, pixels[..., 0])
        rows.append({"case_id": ending, "rgb": picture.name, "label": label.name})
    table = write_table(root / "cohort.csv", rows, ("case_id", "rgb", "label"))
    picture_evaluator(table, writers=picture_writers(cutout=True)).run()
    out = root / "out"
    assert {row["status"] for row in read_rows(out / "summary.csv").values()} == {"done"}
    for name in ("mask.png", "probability.png", "overlay.png", "cutout.png"):
        assert (out / "jpg" / name).is_file()
    assert len(marker.given) >= 50
    assert marker.found_in(told.all()) == []
    assert marker.written(out) == {}


def test_no_output_of_exports(planted, told, tmp_path):
    marker, table = planted
    rows = read_rows(table)
    out = tmp_path / marker("folder") / "exports"
    for case, formats in (("dicom", ALL), ("itk", "dicom-seg,scene")):  # no probability here; no SEG without DICOM
        image, label = (table.parent / rows[case][name] for name in ("t1", "label"))
        options = ("--reference", image, "--bundle", BUNDLE, "--formats", formats, "--out", out / case)
        told("export", label, *options, code=1)
    told("export", label, "--reference", table.parent / rows["elsewhere"]["t1"], "--out", out / "bad", code=1)
    told("export", table.parent / marker("folder"), "--reference", image, "--out", out / "bad", code=1)
    assert beside_patient_modules(marker, out) == {}
    # Without a case a message names the file that was typed, by its last part; never its folder.
    assert {marker.kinds[name] for name in marker.found_in(told.all())} <= {"file"}


def test_no_output_of_checks_and_only_places_in_audits(planted, told, tmp_path):
    marker, table = planted
    checked, scanned = tmp_path / marker("folder") / "checked", tmp_path / marker("folder") / "scanned"
    told("cohort", "check", table, "--out", checked, "--no-alignment", code=1)
    assert marker.written(checked) == {}
    told("cohort", "scan", table.parent, "--out", scanned / "cohort.csv")
    told("cohort", "scan", table.parent, "--out", scanned / "cohort.csv" / "x.csv", code=1)
    found = marker.written(scanned)
    assert set(found) <= {"cohort.csv", "audit.csv", "audit.html"}
    shown = {marker.kinds[name] for names in found.values() for name in names}
    assert shown <= set(IN_AUDIT)
    assert marker.found_in(told.all()) == []
