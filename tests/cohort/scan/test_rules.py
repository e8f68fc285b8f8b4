"""Which series is which modality: the words of rule files, and the shipped rules on names that scanners give."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from differseg_med.cohort.scan.rules import PRESETS, holds, load_rules, parse_rules
from differseg_med.errors import CaseError

PRESET_FILES = Path(__file__).parents[3] / "differseg_med" / "cohort" / "scan" / "presets"


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("> 60", 60.1, True),
        ("> 60", 60, False),
        (">= 60", 60, True),
        ("<= 1.5", 1.5, True),
        ("< 1.5", 1.5, False),
        ("!= 0", 0, False),
        ("!= 0", 3, True),
        ("= 800", 800.0, True),
        ("1 to 5", 5, True),
        ("1 to 5", 5.01, False),
        ("-3 to -1", -2, True),
        ([0, 50], 50.0, True),
        ([0, 50], 800, False),
        (["SE", "IR"], ("GR", "ir"), True),
        (["SE", "IR"], "GR", False),
        ("present", "Gadovist", True),
        ("present", None, False),
        ("present", "", False),
        ("absent", None, True),
        ("absent", 0, False),
        ("axial", "AXIAL", True),
        (3, "3.0", True),
        ("> 60", None, False),
        ("!= 0", None, False),
        ("1 to 5", ("text", 4), True),
        ("~ ^gado", "Gadovist", True),
        ("~ ^gado", ("none", "Gadovist"), True),
        ("~ ^gado", "no gadolinium", False),
        ("~ .", None, False),
    ],
)
def test_conditions_on_tags(condition, value, expected):
    assert holds(condition, value) is expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"SeriesDescription": "t1_mprage_sag_p2_iso"}, "t1"),
        ({"SeriesDescription": "T1 MPRAGE +C"}, "t1c"),
        ({"SeriesDescription": "t1_tse_tra_KM"}, "t1c"),
        ({"SeriesDescription": "AX T1 POST GD"}, "t1c"),
        ({"SeriesDescription": "t1_se_tra", "ContrastBolusAgent": "Gadovist"}, "t1c"),
        ({"SeriesDescription": "t1_se_tra pre", "ContrastBolusAgent": "Gadovist"}, "t1"),
        ({"SeriesDescription": "t1_vibe_sub"}, ""),
        ({"SeriesDescription": "t2_tse_tra"}, "t2"),
        ({"SeriesDescription": "t2_flair_tra_dark-fluid"}, "flair"),
        ({"SeriesDescription": "T2* GRE"}, None),
        ({"SeriesDescription": "no words", "InversionTime": 2500, "EchoTime": 90}, "flair"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace", "DiffusionBValue": 1000}, "dwi"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace", "DiffusionBValue": 0}, "dwi_low"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace_ADC", "DiffusionBValue": 1000}, "adc"),
        ({"SeriesDescription": "ep2d_diff", "ImageType": ("DERIVED", "PRIMARY", "ADC")}, "adc"),
        ({"SeriesDescription": "broadcast"}, None),
        ({"ProtocolName": "T1 3D"}, "t1"),
        ({"ScanningSequence": "SE", "EchoTime": 100, "RepetitionTime": 4000}, "t2"),
        ({"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 600}, "t1"),
        ({"SeriesDescription": "localizer t1"}, ""),
        ({"SeriesDescription": "t1", "ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, ""),
        ({"Modality": "CT", "SeriesDescription": "Abdomen portal venous 3.0"}, "ct_venous"),
        ({"Modality": "CT", "SeriesDescription": "Leber arteriell"}, "ct_arterial"),
        ({"Modality": "CT", "SeriesDescription": "Nephro delayed"}, "ct_delayed"),
        ({"Modality": "CT", "SeriesDescription": "spätarteriell"}, "ct_arterial"),
        ({"Modality": "CT", "SeriesDescription": "Leber art/pv/spät"}, "ct"),
        ({"Modality": "CT", "SeriesDescription": "liver arterial venous delayed"}, "ct"),
        ({"Modality": "CT", "SeriesDescription": "Knee plate calculated"}, "ct"),
        ({"Modality": "CT", "SeriesDescription": "CT WB 3.27"}, "ct"),
        ({"Modality": "CT", "SeriesDescription": "Topogram 0.6"}, ""),
        ({"Modality": "PT", "SeriesDescription": "WB AC", "CorrectedImage": ("DECY", "ATTN")}, "pet"),
        ({"Modality": "PT", "SeriesDescription": "WB NAC", "CorrectedImage": ("DECY",)}, None),
        ({"Modality": "US", "SeriesDescription": "t1"}, None),
    ],
)
def test_the_shipped_rules_know_the_names_of_series(tags, expected):
    rule = load_rules().match_series({"Modality": "MR", **tags})
    assert (None if rule is None else rule.name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t1", "t1"),
        ("sub-01_T1w", "t1"),
        ("sub-01_ce-gad_T1w", "t1c"),
        ("T1WKS", "t1c"),
        ("t1post", "t1c"),
        ("case3_FLAIR", "flair"),
        ("T2W", "t2"),
        ("ct", "ct"),
        ("p01-pet", "pet"),
        ("oct", None),
        ("t12", None),
    ],
)
def test_the_shipped_rules_know_the_names_of_files(name, expected):
    rule = load_rules().match_file(name)
    assert (None if rule is None else rule.name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mask", True), ("p1_seg", True), ("consensus_gt", True), ("x.seg", True), ("segmented", False)],
)
def test_the_shipped_rules_know_the_names_of_masks(name, expected):
    assert (load_rules().label_file(name) is not None) is expected


def test_the_default_is_the_three_others_together():
    parts = {name: yaml.safe_load((PRESET_FILES / f"{name}.yaml").read_text()) for name in PRESETS}
    together = [rule for name in ("mr", "ct", "pet") for rule in parts[name]["modalities"]]
    assert parts["default"]["modalities"] == together
    assert all(parts["default"]["ignore"] == part["ignore"] for part in parts.values())
    assert all(parts["default"]["words"].items() >= part.get("words", {}).items() for part in parts.values())


def test_words_stand_for_parts_of_regexes_and_other_braces_stay():
    rules = parse_rules(
        {"words": {"t1": "t1w?"}, "modalities": [{"name": "a", "description": "^{t1}_x{2}$", "not": "{unknown}"}]}
    )
    assert [rules.match_series({"SeriesDescription": name}) is not None for name in ("T1W_xx", "t1_x")] == [True, False]
    assert rules.modalities[0].exclude == "{unknown}"


def test_the_first_rule_that_fits_wins():
    rules = parse_rules(
        {"modalities": [{"name": "fine", "where": {"SliceThickness": "< 2"}}, {"name": "any", "modality": "CT"}]}
    )
    assert rules.match_series({"Modality": "CT", "SliceThickness": 1.0}).name == "fine"
    assert rules.match_series({"Modality": "CT", "SliceThickness": 5.0}).name == "any"


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [((1, 0, 0, 0, 1, 0), "axial"), ((0, 1, 0, 0, 0, -1), "sagittal"), ((0.9, 0.1, 0, 0, 0.2, -0.9), "coronal")],
)
def test_orientation_is_the_nearest_plane(cosines, expected):
    for plane in ("axial", "coronal", "sagittal"):
        rules = parse_rules({"modalities": [{"name": "x", "orientation": plane}]})
        fits = rules.match_series({"ImageOrientationPatient": cosines}) is not None
        assert fits is (plane == expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("modalities: []", "needs a list 'modalities'"),
        ("- a", "needs a list 'modalities'"),
        ("modalities: [{name: t1, describes: t1}]", "unknown word 'describes'"),
        ("modality: []\nmodalities: [{name: a}]", "unknown word 'modality'"),
        ("modalities: [{name: t1, description: 't1('}]", "not a regular expression"),
        ("modalities: [{name: t1, where: {EchoTime: '> long'}}]", "compares with something that is no number"),
        ("modalities: [{name: t1, orientation: oblique}]", "orientation is one of"),
        ("modalities: [{name: t1/x}]", "needs a name"),
        ("modalities: [{name: t1, where: {SequenceName: '~ t1('}}]", "where is not a regular expression"),
        ("words: [t1]\nmodalities: [{name: a}]", "words is a mapping"),
        ("modalities: [{modality: MR}]", "needs a name"),
        ("ignore: [{name: a}]\nmodalities: [{name: a}]", "has no name"),
        ("modalities: [", "not YAML"),
    ],
)
def test_mistakes_in_a_rule_file_are_told(tmp_path, content, words):
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(CaseError, match=r"rules\.yaml") as error:
        load_rules(path)
    assert words in str(error.value)


def test_a_missing_rule_file_is_told(tmp_path):
    with pytest.raises(CaseError, match="no such rule file"):
        load_rules(tmp_path / "rules.yaml")


def test_the_rules_of_the_how_to_page_are_rules():
    page = (Path(__file__).parents[3] / "docs" / "dicom_to_model.md").read_text()
    content = page.split("```yaml\n")[1].split("```")[0]
    assert parse_rules(yaml.safe_load(content)).names == ("t2", "ct")


def test_columns_come_in_an_order_of_their_own():
    content = {"columns": ["t1"], "modalities": [{"name": "adc", "modality": "MR"}, {"name": "t1", "modality": "MR"}]}
    assert parse_rules(content).names == ("t1", "adc")
    assert load_rules("mr").names == ("t1", "t1c", "t2", "flair", "adc", "dwi", "dwi_low")
    with pytest.raises(ValueError, match="columns is a list of names"):
        parse_rules({**content, "columns": ["t3"]})
