"""Intervals by subject, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from differseg_med.metrics.statistics import limits_of_agreement, per_subject, summarize

VALUES = np.random.default_rng(1).normal(10, 3, size=30)
EACH = [f"s{i}" for i in range(30)]


def test_one_case_per_subject_agrees_with_scipy():
    ours = summarize(VALUES, EACH, resamples=20000)
    for statistic, low, high in (
        (np.mean, ours.mean_low, ours.mean_high),
        (np.median, ours.median_low, ours.median_high),
    ):
        theirs = stats.bootstrap(
            (VALUES,), statistic, n_resamples=20000, method="percentile", rng=2
        ).confidence_interval
        assert (low, high) == pytest.approx(tuple(theirs), abs=0.1)  # two random drawings; the interval is 2 to 3 wide


def test_figures_by_hand():
    found = summarize([1.0, 2.0, 3.0, 10.0], ["a", "b", "c", "d"])
    assert (found.n, found.subjects, found.mean, found.median) == (4, 4, 4.0, 2.5)
    assert (found.q1, found.q3, found.minimum, found.maximum) == (1.75, 4.75, 1.0, 10.0)
    assert found.mean_low < found.mean < found.mean_high


def test_repeated_scans_of_a_subject_add_no_certainty():
    """Each value four times, as four scans of one subject: the interval stays; as other subjects it would halve."""
    single = summarize(VALUES, EACH)
    same = summarize(np.repeat(VALUES, 4), np.repeat(EACH, 4).tolist())
    other = summarize(np.repeat(VALUES, 4), [f"x{i}" for i in range(120)])
    assert (same.n, same.subjects) == (120, 30)
    assert (same.mean_low, same.mean_high) == pytest.approx((single.mean_low, single.mean_high))
    assert (same.median_low, same.median_high) == pytest.approx((single.median_low, single.median_high))
    assert other.mean_high - other.mean_low < 0.6 * (single.mean_high - single.mean_low)


def test_the_same_data_give_the_same_interval():
    assert summarize(VALUES, EACH) == summarize(VALUES, EACH)
    assert summarize(VALUES, EACH) != summarize(VALUES, EACH, seed=1)


def test_one_subject_has_no_interval():
    found = summarize([0.5, 0.7], ["a", "a"])
    assert (found.n, found.subjects, found.mean) == (2, 1, pytest.approx(0.6))
    assert found.mean_low is found.mean_high is found.median_low is found.median_high is None


@pytest.mark.parametrize(
    ("values", "subjects", "words"),
    [
        ([], [], "at least 1"),
        ([1.0], ["a", "b"], "one length"),
        ([np.nan], ["a"], "finite"),
        ([np.inf], ["a"], "finite"),
    ],
)
def test_what_cannot_be_summarized_is_refused(values, subjects, words):
    with pytest.raises(ValueError, match=words):
        summarize(values, subjects)


def test_per_subject_is_the_mean_of_each():
    assert per_subject([1, 2, 6, 4], ["b", "a", "b", "a"]).tolist() == [3.0, 3.5]


def test_limits_of_agreement_by_hand():
    mean, low, high = limits_of_agreement([-1.0, 1.0, 3.0])
    assert (mean, low, high) == pytest.approx((1.0, 1 - 1.96 * 2, 1 + 1.96 * 2))
    assert limits_of_agreement([2.0]) == (2.0, 2.0, 2.0)
