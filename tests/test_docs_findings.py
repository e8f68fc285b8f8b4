"""The reference page of findings: read from the source, each kind with a level, an id and its remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = """
_LOOK = "Look at it."

def judge(finding, voxels, notes):
    message = f"the image has {voxels} voxels" if voxels else "the image has no voxel"
    if voxels < 0:
        raise CaseError("this cannot be", remedy="Save it " + "again.")
    notes.append(f"{voxels} voxels left out")
    doubt = ("warning", "the header says nothing", _LOOK)
    return Finding("error", message, _LOOK), doubt
"""


@pytest.fixture
def docs_findings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import docs_findings

    return docs_findings


def test_every_form_of_a_finding_is_read(docs_findings, tmp_path: Path) -> None:
    (tmp_path / "judging.py").write_text(SOURCE)
    kinds = docs_findings.kinds_of(tmp_path / "judging.py")
    assert {(kind.level, kind.text, kind.remedy) for kind in kinds} == {
        ("error", "this cannot be", "Save it again."),
        ("note", "{...} voxels left out", ""),
        ("warning", "the header says nothing", "Look at it."),
        ("error", "the image has {...} voxels", "Look at it."),
        ("error", "the image has no voxel", "Look at it."),
    }
    assert kinds[0].id == "judging-this-cannot-be"


def test_the_page_has_an_id_for_every_kind(docs_findings, monkeypatch: pytest.MonkeyPatch) -> None:
    from docs_pages import findings

    page = findings()
    ids = re.findall(r'<a id="([a-z0-9-]+)"></a>', page)
    kinds = docs_findings.all_kinds()
    assert len(ids) == len(set(ids)) == len(kinds)
    texts = [kind.text for kind in kinds]
    assert texts.count("the label is empty") == 1  # of `cohort check`, and
    assert any(text.startswith("the mask touches the border") for text in texts)  # a flag of a prediction
