"""Folds: subjects together, levels spread, the same for the same seed; held against scikit-learn where it can do it."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from differseg_med.case import Case
from differseg_med.cohort.folds import assign_folds, balance, kept_folds, levels_of, with_folds
from differseg_med.errors import CaseError


def cohort(n: int = 120, seed: int = 0):
    """Subjects with one to three cases; sites of very different sizes, which subjects keep; ages at random."""
    rng = np.random.default_rng(seed)
    subjects, criteria = [], []
    for number in range(n):
        site = str(rng.choice(["A", "B", "C"], p=[0.7, 0.2, 0.1]))
        for _ in range(rng.integers(1, 4)):
            subjects.append(f"s{number}")
            criteria.append({"site": site, "age": str(rng.integers(0, 4))})
    return subjects, criteria


def spread(levels, folds, k):
    """The largest distance of a fold's share of a level from 1 / k."""
    counts = defaultdict(lambda: np.zeros(k))
    for level, fold in zip(levels, folds):
        counts[level][fold] += 1
    return max(float(np.abs(count / count.sum() - 1 / k).max()) for count in counts.values())


def test_all_cases_of_a_subject_are_in_one_fold():
    subjects, criteria = cohort()
    folds = assign_folds(subjects, criteria, 5)
    assert set(folds) == {0, 1, 2, 3, 4}
    where = defaultdict(set)
    for subject, fold in zip(subjects, folds):
        where[subject].add(fold)
    assert {len(own) for own in where.values()} == {1}


def test_folds_are_even_in_size_and_in_every_level():
    subjects, criteria = cohort()
    folds = assign_folds(subjects, criteria, 5)
    sizes = Counter(folds)
    assert max(sizes.values()) - min(sizes.values()) <= 3  # subjects have up to three cases
    for name in ("site", "age"):
        assert spread([case[name] for case in criteria], folds, 5) < 0.06


@pytest.mark.parametrize("seed", range(3))
def test_as_even_as_scikit_learn_for_one_criterion(seed):
    subjects, criteria = cohort(seed=seed)
    sites = np.array([case["site"] for case in criteria])
    theirs = np.zeros(len(sites), dtype=int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for fold, (_, held_out) in enumerate(splitter.split(sites, sites, subjects)):
        theirs[held_out] = fold
    ours = assign_folds(subjects, [{"site": site} for site in sites], 5)
    assert spread(sites, ours, 5) <= spread(sites, theirs, 5) + 0.02


def test_without_stratification_a_random_assignment_would_be_worse():
    subjects, criteria = cohort()
    random = {subject: int(f) for subject, f in zip(set(subjects), np.random.default_rng(1).integers(0, 5, 10_000))}
    ages = [case["age"] for case in criteria]
    assert spread(ages, assign_folds(subjects, criteria, 5), 5) < spread(ages, [random[s] for s in subjects], 5)


def test_the_same_seed_gives_the_same_folds_in_any_order():
    subjects, criteria = cohort()
    folds = dict(zip(subjects, assign_folds(subjects, criteria, 5, seed=3)))
    order = np.random.default_rng(0).permutation(len(subjects))
    mixed = [subjects[i] for i in order]
    assert dict(zip(mixed, assign_folds(mixed, [criteria[i] for i in order], 5, seed=3))) == folds
    assert dict(zip(subjects, assign_folds(subjects, criteria, 5, seed=4))) != folds


def test_rare_levels_are_not_put_together():
    criteria = [{"site": "rare" if n < 5 else "common"} for n in range(50)]
    folds = assign_folds([str(n) for n in range(50)], criteria, 5)
    assert sorted(folds[:5]) == [0, 1, 2, 3, 4]
    assert balance(criteria, folds, 5)[-1].counts == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("subjects", "k", "words"),
    [
        (["a", "b"], 3, "there are 2: --k 2 leaves one out"),
        (["a", "b"], 1, "at least 2 folds, not 1"),
        (["a"] * 9, 5, "there are 1: one cannot"),
    ],
)
def test_too_few_subjects_for_the_folds(subjects, k, words):
    with pytest.raises(ValueError, match=words):
        assign_folds(subjects, [{} for _ in subjects], k)


def cases(**columns):
    """Cases with extra columns."""
    rows = zip(*columns.values())
    return [Case(f"c{n}", f"c{n}", {}, extra=dict(zip(columns, row))) for n, row in enumerate(rows)]


def test_numbers_are_cut_into_quarters_and_words_are_kept():
    own = cases(age=[*map(str, range(1, 9)), ""], site=["A"] * 8 + [""])
    levels = levels_of(own, ["age", "site"], {})
    assert [case["age"] for case in levels] == ["1 to 2.75"] * 2 + ["2.75 to 4.5"] * 2 + ["4.5 to 6.25"] * 2 + [
        "6.25 to 8"
    ] * 2 + ["(empty)"]
    assert [case["site"] for case in levels] == ["A"] * 8 + ["(empty)"]


def test_modalities_and_measured_values_are_criteria():
    own = [Case("a", "a", {"t1": "x", "ct": "y"}), Case("b", "b", {"t1": "x"})]
    levels = levels_of(own, ["modalities", "label_volume"], {"label_volume": {"a": 3.0}})
    assert levels == [
        {"modalities": "t1+ct", "label_volume": "3.0"},
        {"modalities": "t1", "label_volume": "(empty)"},
    ]


def test_an_unknown_criterion_is_refused():
    with pytest.raises(CaseError, match=r"cannot stratify by 'sit'.*site"):
        levels_of(cases(site=["A"]), ["sit"], {})


def test_one_fold_can_become_the_validation_split():
    done = with_folds(cases(site=["A", "B", "C"]), [0, 1, 1], validation=1)
    assert [(case.fold, case.split) for case in done] == [("0", "train"), ("1", "validation"), ("1", "validation")]
    assert [case.split for case in with_folds(cases(site=["A"]), [0])] == [""]


def test_folds_that_are_there_stay():
    """New cases join their subject's fold, new subjects fill up the others; nothing moves."""
    cases = [Case(f"c{n}", f"s{n // 2}", {}, fold=str(n // 2 % 3) if n < 12 else "") for n in range(24)]
    cases.append(Case("again", "s0", {}))
    kept = kept_folds(cases)
    folds = assign_folds([case.subject_id for case in cases], [{} for _ in cases], 3, fixed=kept)
    assert [str(fold) for fold in folds[:12]] == [case.fold for case in cases[:12]]
    assert folds[-1] == 0
    assert max(Counter(folds).values()) - min(Counter(folds).values()) <= 2
    with pytest.raises(ValueError, match="fold 2, which 2 folds do not have"):
        assign_folds([case.subject_id for case in cases], [{} for _ in cases], 2, fixed=kept)
    with pytest.raises(CaseError, match="two folds"):
        kept_folds([Case("a", "s", {}, fold="0"), Case("b", "s", {}, fold="1")])


def test_a_split_that_is_there_stays():
    cases = [Case("a", "a", {}, split="train"), Case("b", "b", {}, split="validation"), Case("c", "c", {})]
    assert [c.split for c in with_folds(cases, [1, 0, 1], 0, reshuffle=False)] == ["train", "validation", "train"]
    with pytest.raises(CaseError, match=r"2 cases would leave their split, a for example.*--reshuffle"):
        with_folds(cases, [0, 1, 1], 0, reshuffle=False)
    assert [c.split for c in with_folds(cases, [0, 1, 1], 0)] == ["validation", "train", "train"]
