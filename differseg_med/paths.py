"""Names that come from outside (a table, a file's tags, a server) as parts of paths, and as words of messages."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from differseg_med.errors import CaseError, printable

LONGEST_PART = 200
"""Bytes of a name in UTF-8: disks take 255, and endings and names of temporary files are added to it."""

SPECIAL = frozenset('/\\:*?"<>|')
"""What separates folders or is not allowed in a name on some system."""

DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)
"""Names that Windows takes for a device, whatever their ending."""


def unsafe(text: str) -> str:
    """What keeps a text from being one part of a path on every system, in words; empty if nothing does."""
    if not text.strip(". "):
        return "it is empty or only dots"
    if SPECIAL.intersection(text):
        return f"it has one of {' '.join(sorted(SPECIAL))}"
    if printable(text) != text:
        return "it has control characters"
    if text != text.strip() or text.startswith(".") or text.endswith("."):
        return "it begins or ends with a dot or a space"
    if (size := len(text.encode())) > LONGEST_PART:
        return f"it has {size} bytes, more than {LONGEST_PART}"
    if DEVICE.fullmatch(text):
        return "it is the name of a device on Windows"
    return ""


def safe_part(text: str, what: str = "name") -> str:
    """The text, checked to be one part of a path on every system.

    Args:
        text: from outside.
        what: what it is, for the message.

    Raises:
        CaseError: if it is not.
    """
    if why := unsafe(text):
        raise CaseError(
            f"the {what} cannot be the name of a file or folder: {why}",
            found=repr(printable(text)[:40]),
            remedy="Use letters, digits, - and _.",
        )
    return text


def inside(folder: str | Path, *parts: str) -> Path:
    """A path below ``folder``, each part checked by `safe_part`.

    Raises:
        CaseError: for a part that is none.
    """
    return Path(folder, *map(safe_part, parts))


def same_name(text: str) -> str:
    """The same for names that some disk takes for one: those that differ in case or Unicode form only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
