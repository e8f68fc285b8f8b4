"""``report.html``: what a run made of each case, to be looked at in any browser, without a network."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from differseg_med.atomic import write_text
from differseg_med.reports.colors import modality_colors
from differseg_med.reports.pages import Notice, Table, write_page

_PAGE, PART = "report.html", "report.json"
"""The page, and in each case's folder what it shows of the case."""

BESIDE = 50
"""Cases up to which pictures and volumes are inside the page; those of more cases lie beside it and are loaded when
they are looked at."""

PICTURE, VIEW = "report.webp", "report.js"
"""In each case's folder, if there are more cases: the picture, and what the viewer needs."""

SHOWN = {
    "case_id": "case",
    "status": "status",
    "modalities": "modalities",
    "volume_ml": "volume (ml)",
    "area_percent": "area (%)",
    "boundary_entropy": "boundary entropy (bits)",
    "fold_agreement": "agreement of the folds",
    "flags": "flags",
    "notes": "notes",
}
"""Columns of ``summary.csv`` that the table has, by the names it gives them."""

SIZES = {"volume_ml": "ml", "area_percent": "% of the image"}
_TEXTS = ("flags", "notes")
RANKS = {"failed": 0, "incomplete": 1, "flagged": 2, "": 3}

SummaryRows = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Shown:
    """A case as the template shows it.

    Args:
        case: its id.
        facts: words on status, modalities and size.
        modalities: names, with their colours.
        notices: what a reader should know first.
        picture: address of the picture; empty for none.
        viewed: whether the viewer can show it.
        view: for the viewer: JSON, if it is inside the page.
        files: name and address of each file of the case.
        kind: ``failed``, ``notice`` or nothing.
    """

    case: str
    facts: Sequence[str]
    modalities: Mapping[str, str]
    notices: Sequence[Notice]
    picture: str
    viewed: bool
    view: str
    files: Mapping[str, str]
    kind: str

    @property
    def anchor(self) -> str:
        """Where the case is in the page."""
        return _anchor(self.case)

    @property
    def folder(self) -> str:
        """Address of the case's folder."""
        return quote(self.case)


def write_results_page(
    rows: SummaryRows,
    folder: str | Path,
    title: str = "Segmentation",
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run: a table, and per case a picture, a viewer and links to its files.

    Args:
        rows: those of ``summary.csv``.
        folder: results of the run; what is shown of a case is in its ``report.json``, see `write_part`.
        title: title of the page.
        provenance: what made it.
    """
    folder, start = Path(folder), time.perf_counter()
    ordered = sorted(rows, key=_rank)  # stable: else in the order of the run
    colors = modality_colors([name for row in rows for name in str(row.get("modalities", "")).split("+") if name])
    inside = len(rows) <= BESIDE
    shown = [_shown(row, folder, inside, colors) for row in ordered]
    viewed = any(case.viewed for case in shown)
    data = files("differseg_med.reports") / "viewer"
    return write_page(
        folder / _PAGE,
        title,
        [],
        template="run.html.j2",
        lead=_outcome(rows),
        notices=[Notice(str(row["reason"]), "failed") for row in rows if row.get("reason")],
        provenance=provenance or {},
        table=_table(ordered),
        cases=shown,
        inside=inside,
        beside=(PICTURE, VIEW),
        size=_size(shown, folder, inside),
        seconds=f"{time.perf_counter() - start:.1f} s",
        slices=viewed or not any(case.picture for case in shown),  # images of two axes have none
        viewed=viewed,
        library=base64.b64encode((data / "niivue.umd.js.gz").read_bytes()).decode("ascii") if viewed else "",
        licences=(data / "LICENSE.txt").read_text(encoding="utf-8").replace("--", "- -") if viewed else "",
        script=(data / "viewer.js").read_text(encoding="utf-8") if viewed else "",
    )


def write_part(folder: Path, part: Mapping[str, Any]) -> None:
    """Keep what the page will show of a case, so that an interrupted run loses nothing.

    Args:
        folder: of the case.
        part: what `differseg_med.reports.views.part_of` returned; of photographs, which have no slices, ``picture``.
    """
    for name in (PICTURE, VIEW):  # made from an earlier part
        (folder / name).unlink(missing_ok=True)
    write_text(folder / PART, json.dumps(part))


def read_part(path: Path) -> dict[str, Any] | None:
    """What `write_part` kept of a case; None if the file is not there or broken."""
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
        return part if "picture" in part else None
    except (OSError, ValueError, TypeError):  # a page without this picture is better than none
        return None


def _outcome(rows: SummaryRows) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in Counter(str(row["status"]) for row in rows).items())
    return f"{len(rows)} cases: {counts}; {sum(bool(row.get('flags')) for row in rows)} with flags."


def _state(row: Mapping[str, object]) -> str:
    """What needs attention first: no mask, a file that is missing, a flag."""
    if row.get("reason"):
        return "incomplete" if row["status"] == "incomplete" else "failed"
    return "flagged" if row.get("flags") else ""


def _rank(row: Mapping[str, object]) -> int:
    return RANKS[_state(row)]


def _kind(row: Mapping[str, object]) -> str:
    return {"": "", "flagged": "notice"}.get(_state(row), "failed")


def _table(rows: SummaryRows) -> Table:
    names = [name for name in SHOWN if any(row.get(name) for row in rows)] or ["case_id"]
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    wide = [i for i, name in enumerate(names) if name in _TEXTS]
    links = {str(row["case_id"]): f"#{_anchor(str(row['case_id']))}" for row in rows}
    choices = names.index("status") if "status" in names else None
    header = [SHOWN[name] for name in names]
    return Table("Cases, those that need attention first", header, cells, wide, [*map(_kind, rows)], links, choices)


def _anchor(case: str) -> str:
    return f"case-{quote(case, safe='')}"


def _shown(row: Mapping[str, object], folder: Path, inside: bool, colors: Mapping[str, str]) -> Shown:
    case = str(row["case_id"])
    picture, viewed, view = _inside(folder / case) if inside else _beside(folder / case)
    hidden = {PART, PICTURE, VIEW}
    found = sorted(p.name for p in (folder / case).glob("*") if p.name not in hidden and not p.name.startswith("."))
    return Shown(
        case=case,
        facts=[str(row["status"]), *(f"{row[name]} {unit}" for name, unit in SIZES.items() if row.get(name))],
        modalities={name: colors[name] for name in str(row.get("modalities", "")).split("+") if name},
        notices=[*_notices(row)],
        picture=picture,
        viewed=viewed,
        view=view,
        files={name: quote(f"{case}/{name}") for name in found},
        kind=_kind(row),
    )


def _notices(row: Mapping[str, object]) -> Iterator[Notice]:
    if row.get("reason"):
        yield Notice(str(row["reason"]), "failed")
    yield from (Notice(flag) for flag in str(row.get("flags") or "").split("; ") if flag)


def _inside(folder: Path) -> tuple[str, bool, str]:
    """Address of the picture, whether there are slices to look through, and they themselves."""
    part = read_part(folder / PART)
    if part is None:
        return "", False, ""
    view = _json(part) if part.get("volumes") else ""
    return f"data:image/webp;base64,{part['picture']}", bool(view), view


def _beside(folder: Path) -> tuple[str, bool, str]:
    """The same of a case whose picture and slices become files beside the page; once, for pages of the same run."""
    part, picture, view = folder / PART, folder / PICTURE, folder / VIEW
    address = quote(f"{folder.name}/{PICTURE}")
    if picture.is_file() and part.is_file():
        return address, view.is_file(), ""
    content = read_part(part)
    try:
        data = base64.b64decode(str(content["picture"]) if content else "", validate=True)
    except ValueError:
        data = b""
    if not content or not data:
        return "", False, ""
    if content.get("volumes"):
        _replace(view, f"differsegView({json.dumps(folder.name)}, {_json(content)});\n".encode())
    _replace(picture, data)  # the last: it says that both are there
    return address, bool(content.get("volumes")), ""


def _replace(path: Path, content: bytes) -> None:
    """In one step, but not waiting for the disk: these files can be made again from the part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _size(shown: Sequence[Shown], folder: Path, inside: bool) -> str:
    if inside:
        size = sum(len(case.picture) + len(case.view) for case in shown)
    else:
        paths = (folder / case.case / name for case in shown if case.picture for name in (PICTURE, VIEW))
        size = sum(path.stat().st_size for path in paths if path.is_file())
    return f"{size / 1e6:.1f} MB"


def _json(part: Mapping[str, Any]) -> str:
    """What the viewer needs; the picture is in the page already."""
    text = json.dumps({name: value for name, value in part.items() if name != "picture"})
    return text.replace("<", "\\u003c")  # nothing in it may end the script element
