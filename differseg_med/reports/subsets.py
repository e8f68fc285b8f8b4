"""``subsets.html``: what a model is worth without some of its modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from differseg_med.metrics.policy import POLICY
from differseg_med.reports.pages import Figure, Section, Table, write_page


def write_subsets_page(
    lines: Sequence[Mapping[str, Any]], plot: bytes, path: str | Path, provenance: Mapping[str, str] | None = None
) -> Path:
    """Write the page.

    Args:
        lines: those of ``subsets.csv``.
        plot: PNG of the means.
        path: the file to write.
        provenance: what made it.
    """
    header = list(lines[0])
    table = Table("Scores by given modalities", header, [[line.get(name) for name in header] for line in lines])
    sections = [Section("Given modalities", [Figure(plot, "Mean Dice by given modalities"), table])]
    sections.append(Section("Policy", [POLICY]))
    return write_page(path, "Subsets of modalities", sections, provenance=provenance or {})
