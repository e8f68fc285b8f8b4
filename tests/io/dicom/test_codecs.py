"""Every transfer syntax of dcm_qa_ts decodes to the same voxels without the library under GPL."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.pixels import get_decoder
from support.synthetic import ROOT

FOLDER = ROOT.parent / "shared" / "data" / "dicom_samples" / "transfer_syntaxes"
DECODERS = {  # none is pylibjpeg-libjpeg's
    "1.2.840.10008.1.2.5": ("pydicom",),
    "1.2.840.10008.1.2.4.70": ("gdcm",),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("pylibjpeg", "gdcm"),  # by OpenJPEG
}
NUMBERS = range(1, 10)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/dicom_samples, beside the project")


def read(number):
    return pydicom.dcmread(FOLDER / f"{number}.dcm")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_same_voxels_without_gpl(number):
    expected = read(1).pixel_array
    dataset = read(number)
    syntax = dataset.file_meta.TransferSyntaxUID
    for plugin in DECODERS.get(syntax, ("",)):
        found, _ = get_decoder(syntax).as_array(dataset, decoding_plugin=plugin)
        np.testing.assert_array_equal(found, expected)


def test_every_compressed_syntax_of_the_samples_is_tried():
    syntaxes = [read(number).file_meta.TransferSyntaxUID for number in NUMBERS]
    assert {syntax for syntax in syntaxes if syntax.is_compressed} == set(DECODERS)
