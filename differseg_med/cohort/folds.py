"""Folds for cross-validation: subjects stay together, and each fold resembles the whole cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from differseg_med.case import Case
from differseg_med.errors import CaseError

_MODALITIES = "modalities"
"""A criterion that every table has: which modalities are present."""

Criteria = Mapping[str, str]
"""The level of each criterion for one case, for example ``{"site": "A", "age": "43 to 58"}``."""


@dataclass(frozen=True)
class Balance:
    """How the cases of one level of a criterion spread over the folds."""

    criterion: str
    level: str
    counts: tuple[int, ...]


def assign_folds(
    subjects: Sequence[str],
    criteria: Sequence[Criteria],
    k: int,
    seed: int = 0,
    fixed: Mapping[str, int] | None = None,
) -> list[int]:
    """Fold (0 to k - 1) of each case: all cases of a subject in one, every level of every criterion spread evenly.

    Subjects are placed one after another, those of rare levels and with many cases first, each into the fold where the
    squared distance of all counts from equal shares grows least. ``seed`` decides among equals. The order of the cases
    does not matter.

    Args:
        subjects: subject of each case.
        criteria: levels of each case; may be empty mappings.
        k: number of folds.
        seed: of the random order.
        fixed: folds of subjects that have one and stay there.

    Raises:
        ValueError: for a fold outside of them, for fewer than two folds, or fewer subjects than folds.
    """
    names = sorted(set(subjects))
    if k < 2:
        raise ValueError(f"a cross-validation has at least 2 folds, not {k}: choose another --k")
    if len(names) < k:
        remedy = f"--k {len(names)} leaves one out at a time" if len(names) > 1 else "one cannot be divided"
        raise ValueError(f"{k} folds need as many patients (subject_id), there are {len(names)}: {remedy}")
    levels = [{("", ""), *case.items()} for case in criteria]  # the first counts the cases themselves
    index = {level: i for i, level in enumerate(sorted({level for case in levels for level in case}))}
    vectors = {name: np.zeros(len(index)) for name in names}
    for subject, case in zip(subjects, levels):
        vectors[subject][[index[level] for level in case]] += 1
    total = sum(vectors.values())
    weight = 1 / total  # a level of three cases counts as much as one of thirty
    rng = np.random.default_rng(seed)
    kept = fixed or {}
    if beyond := [fold for fold in kept.values() if not 0 <= fold < k]:
        raise ValueError(f"a case is in fold {beyond[0]}, which {k} folds do not have")
    order = [names[i] for i in rng.permutation(len(names)) if names[i] not in kept]
    order.sort(key=lambda name: -float((vectors[name] * weight).sum()))  # stable: equals stay shuffled
    counts = np.zeros((k, len(index)))
    fold_of = {name: kept[name] for name in names if name in kept}
    for name, fold in fold_of.items():
        counts[fold] += vectors[name]
    for name in order:
        grown = ((counts + vectors[name]) ** 2 - counts**2) @ weight
        best = np.flatnonzero(grown <= grown.min() + 1e-9)
        fold_of[name] = int(rng.choice(best))
        counts[fold_of[name]] += vectors[name]
    return [fold_of[subject] for subject in subjects]


def levels_of(cases: Sequence[Case], names: Iterable[str], values: Mapping[str, Mapping[str, float]]) -> list[Criteria]:
    """The criteria of each case: columns of the table, `_MODALITIES`, or measured ``values`` by name and case id.

    Numbers of more than four different values are cut into quarters of the cohort; an empty cell is a level.

    Raises:
        CaseError: for a name that is no column of the table.
    """
    criteria: list[dict[str, str]] = [{} for _ in cases]
    for name in names:
        if name == _MODALITIES:
            column = [case.modalities for case in cases]
        elif name in values:
            column = [str(values[name].get(case.case_id, "")) for case in cases]
        elif any(name in case.extra for case in cases):
            column = [case.extra.get(name, "") for case in cases]
        else:
            known = sorted({_MODALITIES, *values, *(key for case in cases for key in case.extra)})
            raise CaseError(f"cannot stratify by {name!r}: no such column", expected=f"some of {known}")
        for levels, level in zip(criteria, _in_quarters(column)):
            levels[name] = level
    return list(criteria)


def _in_quarters(column: Sequence[str]) -> list[str]:
    try:
        numbers = [float(cell) if cell else None for cell in column]
    except ValueError:
        return [cell or "(empty)" for cell in column]
    given = np.array([number for number in numbers if number is not None])
    if len(set(given.tolist())) <= 4:
        return [cell or "(empty)" for cell in column]
    edges = np.quantile(given, [0, 0.25, 0.5, 0.75, 1])
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return ["(empty)" if n is None else names[int(np.searchsorted(edges[1:-1], n, side="left"))] for n in numbers]


def kept_folds(cases: Sequence[Case]) -> dict[str, int]:
    """The fold of each subject that has one, all its cases included.

    Raises:
        CaseError: for a fold that is no number, or a subject in two.
    """
    kept: dict[str, int] = {}
    for case in cases:
        if not case.fold:
            continue
        if not case.fold.isdigit():
            raise CaseError("the fold is no number", case=case.case_id, expected="0, 1, ...", found=case.fold)
        if kept.setdefault(case.subject_id, int(case.fold)) != int(case.fold):
            raise CaseError(
                "cases of one subject are in two folds", case=case.case_id, remedy="Assign them again: --reshuffle."
            )
    return kept


def with_folds(
    cases: Sequence[Case], folds: Sequence[int], validation: int | None = None, *, reshuffle: bool = True
) -> list[Case]:
    """The cases with their fold; with ``validation`` also split: that fold validates, the others train.

    Args:
        cases: of the table.
        folds: of each.
        validation: number of the fold that validates.
        reshuffle: whether a case may leave the split that it has.

    Raises:
        CaseError: if it would have to and may not.
    """
    done = [replace(case, fold=str(fold)) for case, fold in zip(cases, folds)]
    if validation is None:
        return done
    split = ["validation" if case.fold == str(validation) else "train" for case in done]
    moved = [case.case_id for case, new in zip(done, split) if case.split not in ("", new)]
    if moved and not reshuffle:
        raise CaseError(
            f"{len(moved)} cases would leave their split, {moved[0]} for example",
            expected=f"fold {validation} as the validation that the table has",
            remedy="Leave --validation out to keep the split, or replace it: --reshuffle.",
        )
    return [replace(case, split=new) for case, new in zip(done, split)]


def balance(criteria: Sequence[Criteria], folds: Sequence[int], k: int) -> list[Balance]:
    """Cases per fold, in all and for each level of each criterion."""
    counts = Counter((item, fold) for case, fold in zip(criteria, folds) for item in {("cases", "all"), *case.items()})
    items = sorted({item for item, _ in counts}, key=lambda item: (item[0] != "cases", item))
    return [Balance(*item, tuple(counts[item, fold] for fold in range(k))) for item in items]
