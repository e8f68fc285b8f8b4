"""Which cases have which modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from differseg_med.case import Case


def presence(cases: Sequence[Case], modalities: Sequence[str]) -> list[dict[str, object]]:
    """How many cases have which modalities: one row per pattern, the most frequent first.

    Returns:
        Rows with ``yes`` or ``-`` per modality, ``cases``, ``with label``, and one column per split.
    """
    splits = sorted({case.split for case in cases if case.split})
    patterns: dict[tuple[bool, ...], list[Case]] = {}
    for case in cases:
        patterns.setdefault(tuple(m in case.images for m in modalities), []).append(case)
    rows = []
    for pattern, own in sorted(patterns.items(), key=lambda item: (-len(item[1]), [not has for has in item[0]])):
        row: dict[str, object] = {m: "yes" if has else "-" for m, has in zip(modalities, pattern)}
        row |= {"cases": len(own), "with label": sum(case.label is not None for case in own)}
        rows.append(row | {split: sum(case.split == split for case in own) for split in splits})
    return rows


def presence_in_words(cases: Sequence[Case]) -> str:
    """The same in a line, the most frequent pattern first: ``7 cases: t1+ct 5, ct 2``."""
    counts = Counter(case.modalities for case in cases).most_common()
    return f"{len(cases)} case{'s' * (len(cases) != 1)}: {', '.join(f'{name} {count}' for name, count in counts)}"


def absent_of(case: Case, modalities: Sequence[str]) -> list[str]:
    """The modalities that a case has not."""
    return [name for name in modalities if name not in case.images]


def text_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Rows as lines of aligned columns, numbers to the right."""
    lines = [""] * (len(rows) + 1)
    for name in rows[0]:
        cells = [name, *(str(row[name]) for row in rows)]
        width = max(map(len, cells))
        numbers = all(cell.replace(".", "", 1).isdigit() or not cell for cell in cells[1:])
        lines = [f"{line}{cell:{'>' if numbers else '<'}{width}}  " for line, cell in zip(lines, cells)]
    return [line.rstrip() for line in lines]
