"""``report.html``: what a run made of each case, to be looked at in any browser, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from differseg_med.atomic import write_text
from differseg_med.reports import html

PAGE, PART = "report.html", "report.json"
"""The page, and in each case's folder what it shows of the case."""

COLUMNS = {
    "case_id": "case",
    "status": "status",
    "modalities": "modalities",
    "volume_ml": "volume (ml)",
    "area_percent": "area (%)",
    "boundary_entropy": "boundary entropy (bits)",
    "flags": "flags",
    "notes": "notes",
}
SIZES = {"volume_ml": "ml", "area_percent": "% of the picture"}
TEXTS = ("flags", "notes")

STYLE = """
tr.failed td { background: #fdebed; } tr.flagged td { background: #fff6dd; }
section { border-top: 1px solid #ccd2dd; padding: 1em 0; } section h2 { border: 0; margin: 0 0 .3em; }
section img { max-width: 600px; width: 100%; display: block; margin: .6em 0; }
button, select { font: inherit; padding: .25em .9em; }
dialog { width: min(1240px, 94vw); border: 0; padding: 1em 1.2em; background: #15181f; color: #e8ebf2; }
dialog::backdrop { background: #000a; } #stage { height: 64vh; } canvas { outline: 0; }
dialog .bar { display: flex; gap: 1em; align-items: center; flex-wrap: wrap; margin-bottom: .6em; }
#case { font-weight: 600; margin-right: auto; } #place { font-variant-numeric: tabular-nums; margin: .5em 0 0; }
#caption { color: #a4acbd; font-size: 13px; margin: 0; }
"""

DIALOG = """<dialog id="viewer"><div class="bar"><span id="case"></span>
<label>image <select id="modality"></select></label>
<label>mask <input id="opacity" type="range" min="0" max="1" step="0.05" value="0.5"></label>
<button id="previous">previous</button><button id="next">next</button><button id="close">close</button></div>
<div id="stage"><canvas id="canvas"></canvas></div><p id="place"></p><p id="caption"></p></dialog>"""

NOTE = (
    "Pictures follow the radiological convention: the patient's right is on the left. A flag is no verdict: it says "
    "what is unlike the training cases. Research software, not for diagnosis."
)


def write_results_page(rows: Sequence[Mapping[str, object]], folder: str | Path, title: str = "Segmentation") -> Path:
    """Write ``report.html`` into the folder of a run: a table, and per case a picture, a viewer and links to its files.

    Args:
        rows: those of ``summary.csv``.
        folder: results of the run; what is shown of a case is in its ``report.json``, see `write_part`.
        title: title of the page.
    """
    folder = Path(folder)
    parts = {case: part for row in rows if (part := _read(folder / (case := str(row["case_id"])) / PART))}
    body = [f"<style>{STYLE}</style>", *_outcome(rows), _table(rows)]
    for row in rows:
        body.append(_section(row, folder, parts.get(str(row["case_id"]))))
    volumes = {case: part for case, part in parts.items() if part.get("volumes")}
    if volumes or not parts:  # pictures have no slices
        body.append(html.paragraph(NOTE))
    body += _viewer(volumes) if volumes else []
    return html.write_page(folder / PAGE, title, body)


def write_part(folder: Path, part: Mapping[str, Any]) -> None:
    """Keep what the page will show of a case, so that an interrupted run loses nothing.

    Args:
        folder: of the case.
        part: what `differseg_med.reports.views.part_of` returned; of photographs, which have no slices, ``picture``.
    """
    write_text(folder / PART, json.dumps(part))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
        return part if "picture" in part else None
    except (OSError, ValueError, AttributeError):  # a page without this picture is better than none
        return None


def _outcome(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    status = [str(row["status"]) for row in rows]
    flagged = [str(row["case_id"]) for row in rows if row.get("flags")]
    counts = ", ".join(f"{status.count(name)} {name}" for name in dict.fromkeys(status))
    yield html.paragraph(f"{len(rows)} cases: {counts}; {len(flagged)} with flags.")
    for row in rows:
        if row.get("reason"):
            yield html.paragraph(str(row["reason"]), "failed")


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    names = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    lines = [
        "<tr>"
        + "".join(f'<th class="{"text" * (name in TEXTS)}">{escape(COLUMNS[name])}</th>' for name in names)
        + "</tr>"
    ]
    for row in rows:
        cells = [
            f'<td class="text">{escape(str(row.get(name, "")))}</td>'
            if name in TEXTS
            else f"<td>{escape(str(row.get(name, '')))}</td>"
            for name in names[1:]
        ]
        case = str(row["case_id"])
        link = f'<td><a href="#{escape(_anchor(case))}">{escape(case)}</a></td>'
        lines.append(f'<tr class="{_kind(row)}">{link}{"".join(cells)}</tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _kind(row: Mapping[str, object]) -> str:
    return "failed" if row.get("reason") else "flagged" if row.get("flags") else ""


def _anchor(case: str) -> str:
    return f"case-{quote(case, safe='')}"


def _section(row: Mapping[str, object], folder: Path, part: Mapping[str, Any] | None) -> str:
    case = str(row["case_id"])
    lines = [f'<section id="{escape(_anchor(case))}"><h2>{escape(case)}</h2>']
    facts = [str(row["status"]), str(row.get("modalities", ""))]
    facts += [f"{row[name]} {unit}" for name, unit in SIZES.items() if row.get(name)]
    lines.append(html.paragraph(" · ".join(fact for fact in facts if fact)))
    lines += [html.paragraph(str(row["reason"]), "failed")] if row.get("reason") else []
    lines += [html.paragraph(flag, "notice") for flag in str(row.get("flags") or "").split("; ") if flag]
    if part:
        if part.get("volumes"):
            lines.append(f'<button data-open="{escape(case)}">Look through the slices</button>')
        picture = escape(str(part["picture"]))
        lines.append(f'<img loading="lazy" alt="{escape(case)}: mask" src="data:image/webp;base64,{picture}">')
    found = sorted(p for p in (folder / case).glob("*") if p.name != PART and not p.name.startswith("."))
    links = (f'<a href="{escape(quote(f"{case}/{p.name}"))}">{escape(p.name)}</a>' for p in found)
    return "\n".join([*lines, f"<p>{' · '.join(links)}</p></section>"])


def _viewer(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    data = files("differseg_med.reports") / "viewer"
    library = base64.b64encode((data / "niivue.umd.js.gz").read_bytes()).decode("ascii")
    licences = (data / "LICENSE.txt").read_text(encoding="utf-8")
    script = (data / "viewer.js").read_text(encoding="utf-8")
    return [
        f"<!--\n{licences.replace('--', '- -')}-->",
        DIALOG,
        f'<script type="text/plain" id="niivue">{library}</script>',
        *(f'<script type="application/json" data-case="{escape(c)}">{_json(p)}</script>' for c, p in parts.items()),
        f"<script>{script}</script>",
    ]


def _json(part: Mapping[str, Any]) -> str:
    """What the viewer needs; the picture is in the page already."""
    text = json.dumps({name: value for name, value in part.items() if name != "picture"})
    return text.replace("<", "\\u003c")  # nothing in it may end the script element
