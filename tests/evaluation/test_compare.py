"""Comparing models: pairs, tests and corrections by hand and against SciPy; refusal of what is not comparable."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from differseg_med.errors import CaseError
from differseg_med.evaluation.compare import compare, holm, rank_biserial
from differseg_med.evaluation.tables import write_metrics
from differseg_med.metrics.case import Settings
from differseg_med.metrics.policy import MEASURES

CASES = [f"case{i:02d}" for i in range(12)]
RNG = np.random.default_rng(4)
BASE = RNG.uniform(0.4, 0.8, size=12)


def table(folder, dice, *, cases=CASES, subjects=None, settings=None, failed=(), **columns):
    rows = []
    for i, (case, value) in enumerate(zip(cases, dice)):
        row = dict.fromkeys(MEASURES, 1.0) | {"case_id": case, "dice": float(value), "empty": "none"}
        row |= {"subject_id": subjects[i] if subjects else case, "volume_ml": 10.0, "reference_ml": 10.0 + i}
        rows.append(row | {name: values[i] for name, values in columns.items()})
    write_metrics(rows, folder, settings=settings, failed=failed)
    return folder / "metrics.csv"


def only(found, measure="dice"):
    (result,) = (r for r in found if r.measure == measure)
    return result


def test_two_models_against_scipy(tmp_path):
    gain = RNG.normal(0.03, 0.05, size=12)
    tables = {"old": table(tmp_path / "a", BASE), "new": table(tmp_path / "b", BASE + gain)}
    found = only(compare(tables, tmp_path / "out", measures=["dice"]))
    assert found.p == pytest.approx(stats.wilcoxon(gain).pvalue)
    assert (found.first, found.second, found.cases, found.subjects) == ("old", "new", 12, 12)
    assert found.mean_difference == pytest.approx(gain.mean())
    assert found.median_difference == pytest.approx(np.median(gain))
    assert found.low < found.mean_difference < found.high
    assert (found.wins, found.ties, found.losses) == ((gain > 0).sum(), 0, (gain < 0).sum())
    assert found.p_smallest == 2 / 2**12
    ranks = stats.rankdata(np.abs(gain))
    assert found.rank_biserial == pytest.approx((ranks[gain > 0].sum() - ranks[gain < 0].sum()) / ranks.sum())


def test_better_means_lower_for_distances_and_nearer_to_zero_for_volumes(tmp_path):
    first = table(tmp_path / "a", BASE, hd95_mm=[9.0] * 12, volume_difference_ml=[-5.0] * 12)
    second = table(tmp_path / "b", BASE, hd95_mm=[7.0] * 12, volume_difference_ml=[3.0] * 12)
    found = compare({"a": first, "b": second}, tmp_path / "out")
    for measure, difference in (("hd95_mm", -2.0), ("volume_difference_ml", -2.0)):
        result = only(found, measure)
        assert result.mean_difference == pytest.approx(difference)
        assert (result.wins, result.losses, result.rank_biserial) == (12, 0, 1)
        assert result.p == pytest.approx(2 / 2**12)


def test_a_model_does_not_differ_from_itself(tmp_path):
    path = table(tmp_path / "a", BASE)
    found = only(compare({"a": path, "same": path}, tmp_path / "out"))
    assert (found.p, found.p_holm, found.ties, found.rank_biserial, found.mean_difference) == (1, 1, 12, 0, 0)


def test_scans_of_one_subject_are_one_observation(tmp_path):
    subjects = [f"s{i // 4}" for i in range(12)]
    tables = [table(tmp_path / n, d, subjects=subjects) for n, d in (("a", BASE), ("b", BASE + 0.1))]
    found = only(compare(dict(zip("ab", tables)), tmp_path / "out", measures=["dice"]))
    assert (found.cases, found.subjects, found.wins) == (12, 3, 12)
    assert found.p == found.p_smallest == 0.25  # twelve subjects would give 0.0005


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.03]).tolist() == [0.03]


def test_the_pairs_of_a_measure_are_one_family(tmp_path):
    tables = {n: table(tmp_path / n, BASE + d) for n, d in (("a", 0.0), ("b", 0.02), ("c", 0.04))}
    found = compare(tables, tmp_path / "out", measures=["dice", "hd95_mm"])
    assert [(r.measure, r.first, r.second) for r in found][:3] == [
        ("dice", "a", "b"),
        ("dice", "a", "c"),
        ("dice", "b", "c"),
    ]
    for family in (found[:3], found[3:]):
        assert [r.p_holm for r in family] == pytest.approx(holm([r.p for r in family]).tolist())
    assert found[0].p_holm == pytest.approx(3 * found[0].p)
    assert {r.p_smallest for r in found} == {3 * 2 / 2**12}


def test_against_the_first_only_fewer_subjects_are_enough(tmp_path):
    few = CASES[:7]
    names = ("a", "b", "c", "d", "e")
    tables = {n: table(tmp_path / n, BASE[:7] + 0.02 * i, cases=few) for i, n in enumerate(names)}
    found = compare(tables, tmp_path / "all", measures=["dice"])
    assert len(found) == 10
    assert found[0].p_smallest == pytest.approx(10 / 2**6)
    page = (tmp_path / "all" / "comparison.html").read_text()
    assert "With 7 subjects and 10 pairs of models no corrected p can be below 0.16" in page
    found = compare({n: tables[n] for n in "abc"}, tmp_path / "first", measures=["dice"], against_first=True)
    assert [(r.first, r.second) for r in found] == [("a", "b"), ("a", "c")]
    assert found[0].p_smallest == found[0].p_holm == pytest.approx(2 / 2**6)
    assert "no corrected p can be below" not in (tmp_path / "first" / "comparison.html").read_text()


def test_rank_biserial_by_hand():
    assert rank_biserial([1, -2, 3]) == pytest.approx((1 + 3 - 2) / 6)
    assert rank_biserial([0, 0, 5]) == 1
    assert rank_biserial([0, 0]) == 0


def test_files(tmp_path):
    tables = {"<a>": table(tmp_path / "a", BASE), "b": table(tmp_path / "b", BASE + 0.1)}
    found = compare(tables, tmp_path / "out")
    lines = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert lines["p_holm"].tolist() == pytest.approx([r.p_holm for r in found])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)|@import|url\(|<script[^>]|<link|<a>""", page) == []
    assert page.count("<img") == 4
    assert "&lt;a&gt;" in page
    for words in ("Holm", "12 / 0 / 0", "12 cases of 12 subjects", str(tmp_path)):
        assert (words in page) == (words != str(tmp_path))


def test_case_ids_stay_text(tmp_path):
    ids = ["001", "NA", "1e5", "None"]
    tables = {n: table(tmp_path / n, BASE[:4] + d, cases=ids) for n, d in (("a", 0.0), ("b", 0.1))}
    assert only(compare(tables, tmp_path / "out", measures=["dice"])).cases == 4


def test_models_that_were_given_other_modalities_are_told_apart(tmp_path):
    full, less = ["t1+ct"] * 12, ["t1+ct"] * 9 + ["t1"] * 3
    tables = {"old": table(tmp_path / "a", BASE, modalities=full), "new": table(tmp_path / "b", BASE, modalities=less)}
    compare(tables, tmp_path / "out", measures=["dice"])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "3 of 12 cases were given to the models with different modalities" in page
    assert "(old: t1+ct 12; new: t1+ct 9, t1 3)" in page
    tables["new"] = table(tmp_path / "c", BASE + 0.01, modalities=full)
    compare(tables, tmp_path / "out", measures=["dice"])
    assert "different modalities" not in (tmp_path / "out" / "comparison.html").read_text()


def test_cases_that_differ_are_listed(tmp_path):
    tables = {
        "a": table(tmp_path / "a", BASE),
        "b": table(tmp_path / "b", BASE[:10], cases=CASES[:10]),
        "c": table(tmp_path / "c", BASE, cases=[*CASES[:11], "other"]),
    }
    with pytest.raises(CaseError, match="not measured on the same cases") as error:
        compare(tables, tmp_path / "out")
    assert "a lacks other; b lacks case10, case11, other; c lacks case11" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_failed_case_is_not_a_common_case(tmp_path):
    tables = {
        "a": table(tmp_path / "a", BASE),
        "b": table(tmp_path / "b", BASE[:11], cases=CASES[:11], failed={"case11": "unreadable"}),
    }
    with pytest.raises(CaseError, match="b lacks case11"):
        compare(tables, tmp_path / "out")


def test_other_references_are_refused(tmp_path):
    volumes = [10.0 + i for i in range(12)]
    volumes[3] += 0.5
    tables = {"a": table(tmp_path / "a", BASE), "b": table(tmp_path / "b", BASE, reference_ml=volumes)}
    with pytest.raises(CaseError, match="other reference volumes for case03"):
        compare(tables, tmp_path / "out")


def test_other_settings_are_refused(tmp_path):
    tables = {"a": table(tmp_path / "a", BASE), "b": table(tmp_path / "b", BASE, settings=Settings(tolerance_mm=5))}
    with pytest.raises(CaseError, match="other settings"):
        compare(tables, tmp_path / "out")
    (tmp_path / "b" / "metrics.json").unlink()  # a table alone is taken on trust
    assert compare(tables, tmp_path / "out")


def test_what_is_no_comparison_is_refused(tmp_path):
    path = table(tmp_path / "a", BASE)
    with pytest.raises(CaseError, match="two models"):
        compare({"a": path}, tmp_path / "out")
    with pytest.raises(ValueError, match="measures must be some of"):
        compare({"a": path, "b": path}, tmp_path / "out", measures=["dise"])
    for content in (None, "", "x,y\n1,2\n", "case_id,dice,empty\na,high,none\n"):
        bad = tmp_path / "bad.csv"
        if content is not None:
            bad.write_text(content)
        with pytest.raises(CaseError, match=r"not a metrics\.csv"):
            compare({"a": path, "b": bad}, tmp_path / "out")
