"""What a mask shows: read from a bundle or from dcmqi's format, and never guessed."""

from __future__ import annotations

import json

import pytest
from pydicom.sr.coding import Code
from support.synthetic import BUNDLE

from differseg_med.errors import CaseError
from differseg_med.export.segment import SegmentInfo, read_segment


def sct(value, meaning):
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning}


TYPE = sct("4147007", "Mass")
BLOCK = {
    "labelID": 1,
    "SegmentLabel": "Left lesion",
    "SegmentAlgorithmType": "SEMIAUTOMATIC",
    "SegmentAlgorithmName": "brush",
    "AlgorithmVersion": "2",
    "SegmentedPropertyCategoryCodeSequence": sct("49755003", "Morphologically Abnormal Structure"),
    "SegmentedPropertyTypeCodeSequence": TYPE,
    "AnatomicRegionSequence": sct("68367000", "Thigh"),
    "AnatomicRegionModifierSequence": sct("7771000", "Left"),
    "recommendedDisplayRGBValue": [1, 2, 3],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_sarcoma_bundle_says_primary_neoplasm_by_this_model():
    segment = read_segment(BUNDLE)
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert segment.name == "Gross tumour volume"
    assert segment.segment_id == "gross_tumour_volume"
    # SNOMED CT: malignant neoplasm, primary (morphologic abnormality); Slicer and dcmqi call it "Neoplasm, Primary".
    assert segment.property_category == Code("49755003", "SCT", "Morphologically Abnormal Structure")
    assert segment.property_type == Code("86049000", "SCT", "Neoplasm, Primary")
    assert segment.anatomic_region is None  # differs from patient to patient
    assert (segment.algorithm_type, segment.algorithm_name) == ("AUTOMATIC", metadata["name"])
    assert segment.algorithm_version == metadata["version"]


@pytest.mark.parametrize(
    "document", [BLOCK, {"segmentAttributes": [[BLOCK]], "SeriesNumber": "1"}], ids=["bare", "dcmqi"]
)
def test_a_file_in_dcmqis_format(document, tmp_path):
    segment = read_segment(write(tmp_path / "s.json", document))
    assert segment.color == (1, 2, 3)
    assert segment.anatomic_region == Code("68367000", "SCT", "Thigh")
    assert segment.anatomic_region_modifier == Code("7771000", "SCT", "Left")
    assert segment.property_type_modifier is None
    assert (segment.algorithm_type, segment.algorithm_name, segment.algorithm_version) == (
        "SEMIAUTOMATIC",
        "brush",
        "2",
    )


def test_a_bundle_without_the_block_has_a_name_but_no_codes(tmp_path):
    outputs = {"pred": {"channel_def": {"0": "pothole"}}}
    metadata = {"name": "Potholes", "version": "1", "network_data_format": {"outputs": outputs}}
    write(tmp_path / "configs" / "metadata.json", metadata)
    segment = read_segment(tmp_path)
    assert segment.name == "pothole"
    assert segment.codes == ()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "cannot be read"),
        ({**BLOCK, "SegmentDescription": "two\nlines"}, "one line"),
        ({**BLOCK, "SegmentLable": "x"}, "unknown keys ..SegmentLable"),
        ({key: value for key, value in BLOCK.items() if key != "SegmentLabel"}, "SegmentLabel is missing"),
        ({**BLOCK, "SegmentLabel": " "}, "needs a name"),
        ({**BLOCK, "SegmentLabel": "Läsion"}, "ASCII"),
        ({**BLOCK, "SegmentLabel": "a|b"}, "ASCII"),
        ({**BLOCK, "SegmentLabel": "a\nb"}, "ASCII"),
        ({**BLOCK, "SegmentLabel": "x" * 65}, "64"),
        ({**BLOCK, "SegmentAlgorithmType": "AI"}, "one of .*AUTOMATIC"),
        ({**BLOCK, "SegmentedPropertyTypeCodeSequence": {"CodeValue": "1"}}, "CodingSchemeDesignator"),
        ({**BLOCK, "SegmentedPropertyTypeCodeSequence": "Mass"}, "SegmentedPropertyTypeCodeSequence needs"),
        ({**BLOCK, "SegmentedPropertyTypeCodeSequence": {**TYPE, "CodeMeaning": "a~b"}}, "ASCII"),
        ({**BLOCK, "recommendedDisplayRGBValue": [0.5, 0.1, 1]}, "0 to 255"),
        ({**BLOCK, "recommendedDisplayRGBValue": [1, 2]}, "0 to 255"),
        ({**BLOCK, "TrackingUniqueIdentifier": "lesion 7"}, "no DICOM UID"),
        ({**BLOCK, "TrackingIdentifier": "a|b"}, "ASCII"),
        ({"segmentAttributes": [[BLOCK, BLOCK]]}, "2 segments"),
        ([], "not right"),
    ],
)
def test_what_is_not_right_is_said(document, words, tmp_path):
    with pytest.raises(CaseError, match=words) as error:
        read_segment(write(tmp_path / "s.json", document))
    assert "s.json" in str(error.value)
    assert error.value.remedy


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CaseError, match="cannot be read"):
        read_segment(tmp_path / "none.json")


def test_ids_are_stable_and_plain():
    assert SegmentInfo("MS lesion (T2)").segment_id == "ms_lesion_t2"
    assert SegmentInfo("???").segment_id == "segment"
