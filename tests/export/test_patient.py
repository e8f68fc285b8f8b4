"""DICOM SEG of any header: character sets of East Asia, misspelt ones, and what of a patient stays behind."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support.making import enhanced, save, stored
from support.segmentations import LESION, MASK, read_by_dcmqi
from support.series import AXIAL, COLUMNS, ROWS, SLICES, positions, positions_in_seg, write_series

from differseg_med.export.dicom_seg import save_dicom_seg
from differseg_med.export.patient import keep_needed
from differseg_med.export.seg_frames import bits_are_understood, frames_to_keep, packed_bytes
from differseg_med.export.source import read_source
from differseg_med.io.dicom.reader import read_volume

HALF_WIDTH = "\uff94\uff8f\uff80\uff9e^\uff80\uff9b\uff73"
CYRILLIC = b"\xb8\xd2\xd0\xdd\xde\xd2".decode("iso-8859-5")
NAMES = {  # PS3.5 annexes: character set, bytes, text
    "H.3-1 Japanese": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "H.3-2 Japanese": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        f"{HALF_WIDTH}=山田^太郎=やまだ^たろう",
    ),
    "I.2-1 Korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "J.1-1 Chinese in UTF-8": (["ISO_IR 192"], "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "J.3-1 Chinese in GB18030": (
        ["GB18030"],
        b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab",
        "Wang^XiaoDong=王^小东",
    ),
    "K.2-1 Chinese": (
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东",
    ),
    "misspelt Japanese": (
        ["", "ISO2022_IR-87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        "Yamada^Tarou=山田^太郎",
    ),
    "misspelt UTF-8": (["UTF-8"], "Müller^Änne".encode(), "Müller^Änne"),
    "misspelt Latin": (["iso-ir 100"], "Müller^Änne".encode("latin-1"), "Müller^Änne"),
    "Cyrillic": (["ISO_IR 144"], b"\xb8\xd2\xd0\xdd\xde\xd2", CYRILLIC),
    "nonsense that is UTF-8": (["KLINGON"], "Müller^Änne".encode(), "Müller^Änne"),
    "nonsense that is Latin": (["KLINGON"], "Müller^Änne".encode("latin-1"), "Müller^Änne"),
}


def series_of(folder: Path, sets: list[str], name: bytes) -> Path:
    """A series whose patient is called so, byte for byte."""
    write_series(folder, AXIAL, PatientName="X" * 40)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "Q" * (len(name) + len(name) % 2)
        dataset.PatientComments, dataset.Occupation = "told us", "spy"
        terms = "\\".join(sets).encode()
        dataset.SpecificCharacterSet = "ISO_IR 6"
        dataset.save_as(path)
        content = path.read_bytes()
        content = content.replace(b"Q" * (len(name) + len(name) % 2), name.ljust(len(name) + len(name) % 2))
        old = b"\x08\x00\x05\x00CS\x08\x00ISO_IR 6"
        terms += b" " * (len(terms) % 2)
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, old[:6] + len(terms).to_bytes(2, "little") + terms))
    return folder


@pytest.mark.parametrize("case", NAMES)
def test_names_in_any_character_set_arrive_in_one_that_all_readers_know(case, tmp_path):
    sets, name, text = NAMES[case]
    source = read_source(series_of(tmp_path / "ct", sets, name))
    save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert str(seg.PatientName).rstrip("=") == text
    assert seg.SpecificCharacterSet == ("ISO_IR 100" if case.endswith("Latin") else "ISO_IR 192")
    encoding = "utf-8" if seg.SpecificCharacterSet == "ISO_IR 192" else "latin-1"
    assert text.encode(encoding) in (tmp_path / "mask.dcm").read_bytes()  # whoever trusts the tag reads it so
    assert "PatientComments" not in seg
    assert "Occupation" not in seg


GOSSIP = {
    "PatientComments": "afraid of needles",
    "AdditionalPatientHistory": "fell off a horse",
    "Occupation": "judge",
    "EthnicGroup": "unknown",
    "OtherPatientNames": "Maiden^Name",
    "PatientTelephoneNumbers": "555",
    "SmokingStatus": "YES",
    "PregnancyStatus": 4,
    "PatientWeight": "70",
    "PatientAge": "050Y",
    "NameOfPhysiciansReadingStudy": "House^Gregory",
    "AdmittingDiagnosesDescription": "sarcoma?",
    "AdmissionID": "A-4711",
}


def test_what_modules_do_not_require_stays_behind(tmp_path):
    kept = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand", "ClinicalTrialProtocolID": "T1"}
    source = read_source(write_series(tmp_path / "ct", **GOSSIP, **kept))
    save_dicom_seg(MASK, source.grid.affine, source, tmp_path / "mask.dcm", LESION)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert [keyword for keyword in GOSSIP if keyword in seg] == []
    assert (seg.PatientID, str(seg.PatientName), seg.PatientBirthDate) == ("P1", "Doe^Jane", "19700101")
    assert {keyword: seg.get(keyword) for keyword in kept} == kept


def test_an_animal_keeps_its_species():
    animal = Dataset()
    animal.PatientSpeciesDescription, animal.PatientComments = "Canis lupus familiaris", "bites"
    keep_needed(animal)
    assert list(animal.keys()) == [pydicom.tag.Tag("PatientSpeciesDescription")]


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("pixels", [(6, 7), (8, 9), (16, 16), (163, 153), (5, 5), (7, 9)])
def test_empty_frames_are_left_out_until_bits_are_understood(count, pixels):
    frames = np.zeros((count, *pixels), np.uint8)
    frames[: (count + 1) // 2, 2, 2] = 1
    kept = frames_to_keep(frames)
    empty = count - (count + 1) // 2
    possible = [n for n in range(count - empty, count + 1) if bits_are_understood(n, frames[0].size)]
    assert len(kept) == (max(possible) if possible else count)
    assert kept == list(range(len(kept)))  # of the end: the others keep their numbers
    assert frames[kept].sum() == frames.sum()
    assert packed_bytes(len(kept), frames[0].size) == len(pydicom.pixels.utils.pack_bits(frames[kept], pad=False))


def as_cornerstone(bits: np.ndarray) -> np.ndarray | None:
    """What its adapters 5.14 make of frames of bits: by the length alone, packed frame by frame or all together."""
    count, pixels = bits.shape
    stored = np.packbits(bits.ravel(), bitorder="little")
    stored = np.pad(stored, (0, stored.size % 2))  # a value of DICOM has an even length
    each, together = -(-pixels // 8), -(-count * pixels // 8)
    if stored.size == count * each:
        return np.unpackbits(stored, bitorder="little").reshape(count, -1)[:, :pixels]
    if stored.size == together:
        return np.unpackbits(stored, bitorder="little", count=count * pixels).reshape(count, pixels)
    return None  # refused


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("pixels", [*range(3, 36), 39277, 28900])
def test_which_bits_are_understood(count, pixels):
    """Frames that would be shifted without a word count like those that are refused; real adapters: tests_foreign."""
    bits = np.random.default_rng(0).integers(0, 2, (count, pixels), np.uint8)
    found = as_cornerstone(bits)
    assert bits_are_understood(count, pixels) == (found is not None and np.array_equal(found, bits))


def test_a_seg_that_cornerstone_reads(tmp_path):
    """Its adapters take PixelData of (packed bits / 8) bytes, and no byte more."""
    source = read_source(write_series(tmp_path / "ct"))
    mask = MASK.copy()
    mask[..., [1, 3]] = 0
    path = tmp_path / "mask.dcm"
    assert save_dicom_seg(mask, source.grid.affine, source, path, LESION) == []
    seg = pydicom.dcmread(path)
    # 42 pixels: 5 frames are 27 bytes, 4 are 21, 3 are 16.
    assert int(seg.NumberOfFrames) == SLICES - 2
    assert len(seg.PixelData) == packed_bytes(SLICES - 2, ROWS * COLUMNS) == 16
    expected = positions(mask, source.grid.affine)
    np.testing.assert_allclose(positions_in_seg(path), expected, atol=2e-3)
    np.testing.assert_allclose(read_by_dcmqi(path, tmp_path / "dcmqi")[0], expected, atol=2e-3)


def test_a_multi_frame_source_without_one_of_its_empty_frames(tmp_path):
    dataset = enhanced(stored((5, 6, 7)))
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
    dataset.AccessionNumber, dataset.SeriesNumber = "", 1
    folder = save(tmp_path / "mr", [dataset])
    source, volume = read_source(folder), read_volume(folder)
    mask = np.zeros(volume.grid.shape, np.uint8)
    mask[2:4, 1:5, 0] = mask[1, 2, 2] = 1  # two empty frames at the end
    save_dicom_seg(mask, volume.grid.affine, source, tmp_path / "mask.dcm", LESION)
    seg = hd.seg.segread(tmp_path / "mask.dcm")
    assert (seg.NumberOfFrames, len(seg.PixelData)) == (3, 16)
