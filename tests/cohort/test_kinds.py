"""``cohort.yaml`` beside the table: written by scan and import, asked for where missing, compared with bundles."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import yaml
from support.bodies import body
from support.running import cohort as cohort_of
from support.running import evaluator_of, summary
from support.scanning import scanned, series
from support.synthetic import Volume, affine_of, write_nifti
from typer.testing import CliRunner

from differseg_med.bundles.factories import cohort_dataset
from differseg_med.cli import app
from differseg_med.cohort.importers import read_msd, read_nnunet
from differseg_med.cohort.kinds import parse_kinds, read_kinds, write_kinds
from differseg_med.cohort.scan.rules import parse_rules
from differseg_med.cohort.scan.scan import write_scan
from differseg_med.cohort.table import read_cohort, table_modalities, write_cohort
from differseg_med.errors import CaseError
from differseg_med.io.itk import as_voxels
from differseg_med.modality import Modality


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["cohort", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def phases(folder, kinds=None):
    """A table of two phases of a CT whose columns do not say that they are CT."""
    rows = ["case_id,arterial,venous,label,fold"]
    for number, case in enumerate(("a", "b")):
        data = np.random.default_rng(number).normal(size=(6, 5, 4)).astype(np.float32)
        for name in ("arterial", "venous"):
            write_nifti(folder / f"{case}_{name}.nii.gz", Volume(data, affine_of()))
        write_nifti(folder / f"{case}_label.nii.gz", Volume((data > 0).astype(np.uint8), affine_of()), np.uint8)
        rows.append(f"{case},{case}_arterial.nii.gz,{case}_venous.nii.gz,{case}_label.nii.gz,{number}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    if kinds is not None:
        write_kinds(folder / "cohort.csv", kinds)
    return folder / "cohort.csv"


TWO = {"arterial": "ct", "venous": "ct"}


def test_two_phases_of_a_ct_are_ct_to_nnunet_and_come_back_by_name(tmp_path):
    table = phases(tmp_path, TWO)
    run("export", "nnunet", table, "--out", tmp_path / "D")
    assert json.loads((tmp_path / "D" / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "CT"}
    back = read_nnunet(tmp_path / "D")
    assert (back.modalities, back.kinds) == (("arterial", "venous"), TWO)
    run("export", "msd", table, "--out", tmp_path / "M" / "dataset.json", "--layout", "4d")
    assert json.loads((tmp_path / "M" / "dataset.json").read_text())["modality"] == {"0": "CT", "1": "CT"}
    run("import", "msd", tmp_path / "M", "--out", tmp_path / "back.csv")
    assert read_cohort(tmp_path / "back.csv", ("arterial", "venous")).kinds == TWO


@pytest.mark.parametrize("command", [("nnunet", "D"), ("msd", "D.json")])
def test_without_kinds_an_export_asks_and_the_command_that_it_names_answers(tmp_path, caplog, command):
    table = phases(tmp_path)
    export = ("export", command[0], table, "--out", tmp_path / command[1])
    run(*export, code=1)
    question = "differseg-med cohort kinds cohort.csv --kind arterial=KIND --kind venous=KIND"
    assert question in caplog.text
    assert "nothing says of arterial, venous (expected one of ct, " in caplog.text
    assert not (tmp_path / command[1]).exists()
    run(*export, "--kind", "arterial=ct", "--kind", "venous=ct")
    assert not (tmp_path / "cohort.yaml").exists()  # said for this command only
    answer = question.removeprefix("differseg-med cohort ").replace("KIND", "ct").replace("cohort.csv", str(table))
    output = run(*answer.split())
    assert "arterial ct, venous ct" in output
    run(*export)
    assert read_kinds(table) == TWO


def test_channels_of_one_name_are_told_apart(tmp_path):
    info = {"channel_names": {"0": "CT", "1": "CT", "2": "label"}, "labels": {}, "file_ending": ".nii.gz"}
    for n in range(3):
        write_nifti(tmp_path / "imagesTr" / f"a_{n:04d}.nii.gz", Volume(np.zeros((2, 2, 2), np.float32), affine_of()))
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    found = read_nnunet(tmp_path)
    assert found.modalities == ("ct_0", "ct_1", "label_2")
    assert found.kinds == {"ct_0": "ct", "ct_1": "ct"}
    assert [path.name for path in found.cases[0].images.values()] == [f"a_{n:04d}.nii.gz" for n in range(3)]
    (tmp_path / "dataset.json").write_text(json.dumps(info | {"modality": {"zero": "CT"}, "training": []}))
    with pytest.raises(CaseError, match="channels are not numbered"):
        read_msd(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "label", "", 5, None, "CON"])
@pytest.mark.parametrize("kind", ["ct", ["ct"], "scan"])
def test_our_entry_in_a_data_set_is_believed_only_if_it_can_be(tmp_path, name, kind):
    write_nifti(tmp_path / "imagesTr" / "a_0000.nii.gz", Volume(np.zeros((2, 2, 2), np.float32), affine_of()))
    ours = {"0": {"name": name, "kind": kind}}
    info = {"channel_names": {"0": "T1w"}, "labels": {}, "differseg_med_columns": ours}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    assert read_nnunet(tmp_path).kinds == {"t1w": "mr"}


def test_import_asks_for_what_the_data_set_does_not_say(tmp_path):
    phases(tmp_path)
    image = ("--image", "arterial={case}_arterial.nii.gz", "--image", "venous={case}_venous.nii.gz")
    output = run("import", "pattern", tmp_path, "--out", tmp_path / "p.csv", *image, "--kind", "venous=ct")
    assert "p.yaml: venous ct" in output
    assert "What kind of image arterial holds is not known" in output
    assert "differseg-med cohort kinds p.csv --kind arterial=KIND" in output
    assert read_kinds(tmp_path / "p.csv") == {"venous": "ct"}
    run("import", "pattern", tmp_path, "--out", tmp_path / "q.csv", *image, "--kind", "veinous=ct", code=1)
    assert not (tmp_path / "q.csv").exists()


def test_a_scan_of_dicom_writes_what_dicom_says(tmp_path):
    series(tmp_path / "p" / "1", "t1 tra", "MR")
    series(tmp_path / "p" / "2", "abdomen arterial", "CT")
    output = run("scan", tmp_path / "p", "--out", tmp_path / "cohort.csv")
    assert "cohort.yaml: t1 mr, ct_arterial ct" in output
    assert yaml.safe_load((tmp_path / "cohort.yaml").read_text()) == {
        "modalities": {"t1": {"kind": "mr"}, "ct_arterial": {"kind": "ct"}}
    }
    # A rule says what Modality does not: cone-beam CT is stored as CT. Words of one column say nothing.
    rules = parse_rules({"modalities": [{"name": "first", "description": "abdomen", "kind": "cbct"}]})
    assert scanned(tmp_path / "p", rules=rules).kinds == {"first": "cbct"}
    plain = parse_rules({"modalities": [{"name": "ct", "description": "t1"}]})
    assert scanned(tmp_path / "p", rules=plain).kinds == {"ct": "mr"}
    with pytest.raises(ValueError, match=r"rule 1 of modalities: kind is one of ct, .*, found 'CT'"):
        parse_rules({"modalities": [{"name": "x", "kind": "CT", "file": "x"}]})


def test_a_column_with_two_kinds_of_images_has_none_and_a_warning(tmp_path):
    series(tmp_path / "p" / "1", "chest", "MR")
    series(tmp_path / "q" / "1", "chest", "CT", patient="P2", study="S2")
    found = scanned(tmp_path, rules=parse_rules({"modalities": [{"name": "x", "description": "chest"}]}))
    assert found.kinds == {}
    assert [source.level for _, source in found.audit] == ["warning"] * 2
    assert "x holds several kinds of images: MR and CT" in found.audit[0][1].reason
    write_scan(found, tmp_path / "cohort.csv")
    assert not (tmp_path / "cohort.yaml").exists()


def test_a_table_does_not_replace_a_file_that_is_something_else(tmp_path):
    (tmp_path / "cohort.yaml").write_text("modalities:\n  - {name: t1, file: t1}\n")
    with pytest.raises(CaseError, match=r"cohort.yaml: .*It would be replaced: move cohort.yaml away"):
        write_cohort(tmp_path / "cohort.csv", ("t1",), [], {"t1": "mr"})
    assert not (tmp_path / "cohort.csv").exists()


def test_what_a_person_wrote_of_other_columns_stays(tmp_path):
    write_kinds(tmp_path / "cohort.csv", {"t1": "mr", "old": "us", "x": "oct"})
    write_cohort(tmp_path / "cohort.csv", ("x", "t1"), [], {"t1": "nm"})
    assert read_kinds(tmp_path / "cohort.csv") == {"x": "oct", "t1": "nm"}


HEADER, ROW = "case_id,t1,ct,label,site", "a,t1.nii,ct.nii,,S"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "modalities: {t1: {kind: mri}}",
            "modality 't1': kind: expected one of ct, .*, found 'mri'. Correct the entry",
        ),
        (
            "modalities: {t1: {kind: mr, window: [0, 1]}}",
            "modality 't1': unknown setting 'window', expected percentile",
        ),
        ("modalities: {t1: [mr]}", r"modality 't1': expected \{kind: ...\}, found \['mr'\]"),
        ("modalities: {t1: }", r"modality 't1': expected \{kind: ...\}, found None"),
        ("modalities: {1: mr}", "a modality needs a name of letters, found 1"),
        ("modalities: {t9: mr}", "names a modality 't9', which the table does not have .*'t1', 'ct', 'site'"),
        ("modalities: {label: mr}", "names a modality 'label'"),
        ("modalities: [t1, ct]", "does not say what kinds of images its columns hold .*found {'modalities': \\['t1'"),
        ("t1: mr", "does not say what kinds of images"),
        ("", "does not say what kinds of images .*found None"),
        ("just words", "does not say what kinds of images"),
        ("modalities: {t1: mr}\nsplits: 5", "unknown entry 'splits'"),
        ("modalities: {t1: mr, t1: ct}", "'t1' is there twice"),
        ("modalities: {t1: mr", "not YAML"),
        ("modalities: {t1: 2001-99-99}", "not YAML"),
        ("[" * 3000, "not YAML"),
        (b"modalities: {t1: m\xff}", "not YAML"),
        ("modalities: !!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_nonsense_beside_the_table_is_refused_in_words(tmp_path, text, words):
    (tmp_path / "cohort.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "cohort.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CaseError, match=words) as error:
        read_cohort(tmp_path / "cohort.csv", ("t1", "ct"))
    assert "/cohort.yaml: " in str(error.value)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_short_and_long_entries_mean_the_same(tmp_path):
    (tmp_path / "cohort.csv").write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "cohort.yaml").write_text("\ufeffmodalities:\r\n  site: us\r\n  t1: {kind: mr, percentile: 99}\r\n")
    cohort = read_cohort(tmp_path / "cohort.csv", ("t1", "ct"))
    assert cohort.kinds == cohort.cases[0].kinds == {"t1": "mr"}
    assert table_modalities(tmp_path / "cohort.csv") == ("t1", "ct", "site")  # a kind makes a column a modality


@pytest.mark.parametrize("entry", ["ct", "=ct", "t1=", "t1=MR", "t1=scan"])
def test_kinds_of_the_command_line(entry):
    with pytest.raises(CaseError, match=r"is not understood .*COLUMN=KIND, KIND one of ct, "):
        parse_kinds([entry])


NEEDED = {"t1": Modality("t1", "mr"), "ct": Modality("ct", "ct")}


def test_a_bundle_and_a_cohort_are_compared_by_name_and_kind(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text(f"{HEADER}\n{ROW}\n")
    assert read_cohort(table, NEEDED).kinds == {"t1": "mr", "ct": "ct"}  # the cohort says nothing: the bundle's hold
    write_kinds(table, {"ct": "ct"})
    assert read_cohort(table, NEEDED).cases[0].kinds == {"t1": "mr", "ct": "ct"}
    write_kinds(table, {"ct": "cbct"})
    with pytest.raises(CaseError) as error:
        read_cohort(table, NEEDED)
    assert "modality 'ct' is another kind of image than the bundle was made for" in str(error.value)
    assert "(expected t1 (MR), ct (CT), found t1 (unknown kind), ct (cone-beam CT))" in str(error.value)
    table.write_text(f"{HEADER.replace('t1', 't1c')}\n{ROW}\n")
    write_kinds(table, {"t1c": "mr"})
    words = str(read_cohort(table, NEEDED).problem)
    assert "expected t1 (MR), ct (CT), found columns t1c (MR), ct, site" in words
    assert "Rename" not in words


def test_a_run_without_a_file_of_kinds_goes_on_without_a_word_and_stops_at_another_kind(tmp_path, caplog):
    table = cohort_of(tmp_path, "a")
    with caplog.at_level(logging.INFO):
        evaluator_of(table).run()
    assert summary(table)["a"]["status"] == "done"
    assert "kind" not in caplog.text
    write_kinds(table, {"ct": "mr"})
    with pytest.raises(CaseError, match=r"expected t1 .MR., ct .CT., pet .PET., found t1 .unknown kind., ct .MR."):
        evaluator_of(table)
    assert len(cohort_dataset(table, ("t1", "ct", "pet"), None)) == 1  # names alone: nothing to compare


def shifted(folder, **kinds):
    """A case whose second image lies 12 mm beside the first."""
    for name, offset in (("a", (0, 0, 0)), ("b", (12, 0, 0))):
        voxels, grid = as_voxels(body(offset=offset))
        write_nifti(folder / f"{name}.nii.gz", Volume(voxels.astype(np.float32), grid.affine))
    (folder / "cohort.csv").write_text("case_id,a,b,label\n1,a.nii.gz,b.nii.gz,\n")
    if kinds:
        write_kinds(folder / "cohort.csv", kinds)
    return folder / "cohort.csv"


def test_the_check_judges_by_kind_and_asks_once_where_it_is_not_known(tmp_path):
    table = shifted(tmp_path)
    output = run("check", table)
    assert output.count("warning:") == 1
    assert "nothing says what kind of image a, b holds" in output
    assert "cohort kinds cohort.csv --kind a=KIND --kind b=KIND" in output
    assert "nothing says" not in run("check", table, "--no-alignment")
    assert "a and b are not registered" in run("check", table, "--kind", "a=mr", "--kind", "b=mr")
    assert "No errors and no warnings." in run("check", table, "--kind", "a=us", "--kind", "b=mr")


@pytest.mark.parametrize("kind", ["us", "cbct", "dose"])
def test_ultrasound_cone_beam_and_dose_are_not_taken_for_mr(tmp_path, kind):
    assert "No errors and no warnings." in run("check", shifted(tmp_path, a="mr", b=kind))


def test_the_check_finds_dicom_of_another_kind(tmp_path):
    series(tmp_path / "p", "t1", "MR")
    (tmp_path / "cohort.csv").write_text("case_id,x,label\n1,p,\n")
    output = run("check", tmp_path / "cohort.csv", "--kind", "x=ct", code=1)
    assert "1, x: the column holds CT, but DICOM says that this image is MR" in output
    assert "DICOM says" not in run("check", tmp_path / "cohort.csv", "--kind", "x=mr")


def test_folds_and_n4_carry_the_kinds(tmp_path, caplog):
    table = phases(tmp_path, TWO)
    run("folds", table, "--k", "2", "--out", tmp_path / "other.csv")
    assert read_kinds(tmp_path / "other.csv") == TWO
    run("n4", table, "--out", tmp_path / "n4", "--modalities", "venous", code=1)
    assert "venous has no bias field to correct (expected MR, found CT)" in caplog.text
