"""Docs, help and messages use the field's words: no private ones, which a reader has to guess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.docs import COMMAND, PAGES, ROOT, name_of

PRIVATE = {
    r"pictures?": "image, figure or overlay",
    r"cells?(?! of tables)": "entry",
    r"go(es)? on": "continues, resumes",
    r"anew": "again",
    r"floors?": "baseline, lowest version",
    r"(a)?like(ness)?(?= (each other|to))|likeness|alike": "similar, similarity",
    r"slow shading": "bias field",
    r"lines? up": "are registered",
    r"told apart|taken apart": "distinguished, split",
    r"(is|are) said|said so|in words|softly": "say what happens and where it can be read",
    r"the way is open|shows? the way": "demonstrates the steps",
    r"sure of nothing": "low-confidence",
    r"remark(s|ed)?": "note, warning",
    r"by hand drawn|made images": "synthetic images",
}
"""Words of this project's own, and what the field says."""


def private_words(text: str) -> list[str]:
    """Private words in a text, code aside."""
    text = re.sub(r"^```.*?^```|^    .*?$|`[^`]*`|\]\([^)]*\)", "", text, flags=re.S | re.M)
    return [
        f"{found[0]!r}: say {instead}"
        for word, instead in PRIVATE.items()
        for found in re.finditer(rf"\b({word})\b", re.sub(r"\s+", " ", text), re.I)
    ]


def helps(command: object, name: str = "differseg-med") -> Iterator[tuple[str, str]]:
    """Help of every command, and of its arguments and options."""
    texts = [getattr(command, "help", ""), *(getattr(p, "help", "") for p in command.params)]
    yield name, "\n".join(text for text in texts if text)
    for word, child in getattr(command, "commands", {}).items():
        yield from helps(child, f"{name} {word}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_have_no_private_words(page: Path) -> None:
    assert private_words(page.read_text(encoding="utf-8")) == []


def test_help_has_no_private_words() -> None:
    assert {name: found for name, text in helps(COMMAND) if (found := private_words(text))} == {}


def test_messages_have_no_private_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from docs_findings import all_kinds

    texts = {f"{kind.module}:{kind.line}": f"{kind.text} {kind.remedy}" for kind in all_kinds()}
    assert {place: found for place, text in texts.items() if (found := private_words(text))} == {}


@pytest.mark.parametrize("text", ["A picture is drawn.", "The case\ngoes on.", "leave the cell blank", "Draw anew."])
def test_a_private_word_is_found(text: str) -> None:
    assert len(private_words(text)) == 1


def test_code_may_say_what_it_likes() -> None:
    assert private_words("`cell` and [floors](floors.md)\n\n    cell,picture\n") == [
        "'floors': say baseline, lowest version"
    ]
