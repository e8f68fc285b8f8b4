"""Names from outside as parts of paths: what is refused, and that refusing one case lets the others go on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import GOOD, HOSTILE

from differseg_med.atomic import replacing, write_text
from differseg_med.errors import CaseError, printable
from differseg_med.paths import inside, safe_part, same_name, unsafe


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_hostile_names_are_no_part_of_a_path(text, tmp_path):
    assert unsafe(text)
    with pytest.raises(CaseError, match="the Modality cannot be the name of a file or folder") as caught:
        inside(tmp_path, "ok", safe_part(text, "Modality"))
    message = str(caught.value)
    assert printable(message) == message
    assert len(message) < 300


@pytest.mark.parametrize("text", GOOD)
def test_names_that_a_folder_can_have_are_taken(text, tmp_path):
    path = inside(tmp_path, text)
    assert path.parent == tmp_path
    with replacing(path / f"{text}_0000.nii.gz", ".nii.gz") as temporary:  # endings and temporary names fit too
        temporary.write_bytes(b"x")
    assert [p.name for p in path.iterdir()] == [f"{text}_0000.nii.gz"]


@given(st.text(alphabet=st.characters(), max_size=12))
def test_whatever_is_taken_stays_in_its_folder(text):
    if not unsafe(text):
        path = Path("/out", text)
        assert path.parent == Path("/out")
        assert path.resolve().is_relative_to("/out")
        assert path.name == text
        text.encode()


def test_names_that_a_disk_may_take_for_one():
    assert same_name("É") == same_name("e\u0301")
    assert same_name("STRASSE") == same_name("straße")
    assert same_name("a") != same_name("b")


def test_messages_hold_nothing_that_a_terminal_obeys(tmp_path):
    error = CaseError("no \x1b[2J", case="a\nb", file="x/\udc80.nii", found="\x9b31m", remedy="\u202etxt")
    text = str(error)
    assert text == printable(text)
    assert r"\x1b[2J" in text
    assert "\\udc80.nii" in text
    write_text(tmp_path / "a.txt", "\udc80")
    assert (tmp_path / "a.txt").read_text() == "\\udc80"
    assert printable("Größe, 症例\u00a07") == "Größe, 症例\u00a07"


def test_every_hostile_name_is_another():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 55
    assert sys.getfilesystemencoding() == "utf-8"
