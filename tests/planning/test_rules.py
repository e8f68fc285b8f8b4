"""Each rule: the figures that go in, the value that comes out, and that the reason has the figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from differseg_med.errors import CaseError
from differseg_med.planning import cost_rules, data_rules
from differseg_med.planning.choices import NETWORK_SIZES, Limits, Plan
from differseg_med.planning.cost import Cost, allowed_memory, parse_memory, parse_time, undisturbed
from differseg_med.planning.data_rules import Detail
from differseg_med.planning.fingerprint import Fingerprint, LabelFacts, ModalityFacts, Spread

GB = 1e9
SMALL, MEDIUM, LARGE = NETWORK_SIZES
HOUR = Limits(3600, int(8 * GB))


def same(value: float) -> Spread:
    return Spread.of([value])


def facts(kind: str = "mr", spacing=(1.0, 1.0, 1.0), extent=(190.0, 190.0, 190.0), **others) -> ModalityFacts:
    given = {"cases": 10, "on_label_grid": 10, **others}
    return ModalityFacts(
        kind, given.pop("cases"), given.pop("on_label_grid"), *(tuple(map(same, v)) for v in (spacing, extent)),
        same(8000.0), **given,
    )  # fmt: skip


def label(diameter: float = 40.0, share: float = 0.1, main: float = 1.0, **others) -> LabelFacts:
    return LabelFacts(0, same(30), same(1), same(main), same(diameter), same(share), **others)


def found(*modalities: ModalityFacts, target: LabelFacts | None = None, **others) -> Fingerprint:
    named = {f"m{number}": m for number, m in enumerate(modalities or (facts(),))}
    return Fingerprint(10, 10, False, False, named, target or label(), **others)


def test_a_window_of_ct_is_that_of_the_target_and_a_quarter_more():
    grey = {"p0.5": -100.0, "p99.5": 142.0}
    settings, reason = data_rules.normalization("ct", facts("ct", foreground=grey, noise=5.0))
    assert settings == {"kind": "ct", "window": [-170.0, 210.0]}
    assert "-100 to 142 HU" in reason
    assert data_rules.normalization("ct", facts("ct", foreground=grey, noise=13.0))[0]["smooth"] == 0.75
    narrow = data_rules.normalization("ct", facts("ct", foreground={"p0.5": 20.0, "p99.5": 60.0}))[0]["window"]
    assert narrow == [-40.0, 120.0]  # at least 160 HU: what is around it must be seen


@pytest.mark.parametrize(
    ("zscore", "percentile", "expected"),
    [(0.37, 0.28, {"kind": "mr", "percentile": 99}), (0.05, 0.15, {"kind": "mr"}), (None, None, {"kind": "mr"})],
)
def test_mr_is_scaled_so_that_targets_look_alike(zscore, percentile, expected):
    facts_ = facts(zscore_varies=zscore, percentile_varies=percentile)
    assert data_rules.normalization("t1", facts_)[0] == expected


def test_the_reference_is_what_the_labels_were_drawn_on():
    chosen, reason = data_rules.reference(found(facts(on_label_grid=0), facts(on_label_grid=9), facts(on_label_grid=9)))
    assert chosen == "m1"
    assert "9 of 10" in reason
    assert "m2" in reason
    assert data_rules.reference(found(facts(on_label_grid=0, cases=4), facts(on_label_grid=0)))[0] == "m1"


@pytest.mark.parametrize(
    ("spacing", "extent", "diameter", "size", "mm"),
    [
        ((1, 1, 3.3), 203, 53, SMALL, 3.0),  # the sarcomas: as configs/sts_quick.yaml
        ((1, 1, 3.3), 203, 53, MEDIUM, 2.0),  # and as their bundle
        ((1, 1, 1), 160, 4, MEDIUM, 1.0),  # small lesions: as fine as the images
        ((0.7, 0.7, 5), 300, 12, SMALL, 2.0),  # a sixth of the target, though the field would not fit
        ((4, 4, 4), 100, 60, SMALL, 4.0),  # never finer than the images
    ],
)
def test_the_network_s_voxel(spacing, extent, diameter, size, mm):
    fingerprint = found(facts(spacing=spacing, extent=(extent,) * 3), target=label(diameter))
    assert data_rules.network_mm(fingerprint, "m0", size)[0] == mm


@pytest.mark.parametrize(
    ("spacing", "mm", "used", "pixdim"),
    [
        ((1, 1, 3.3), 2.0, ["axial", "coronal", "sagittal"], [2.0, 2.0, 2.0]),
        ((1, 1, 6), 1.0, ["axial"], [1.0, 1.0, 6]),
        ((6, 1, 1), 2.0, ["sagittal"], [6, 2.0, 2.0]),
        ((1, 6, 1), 2.0, ["coronal"], [2.0, 6, 2.0]),
    ],
)
def test_planes_by_isotropy(spacing, mm, used, pixdim):
    fingerprint = found(facts(spacing=spacing))
    assert data_rules.planes(fingerprint, "m0", Detail(mm, True, ""))[0] == used
    assert data_rules.pixdim(fingerprint, "m0", mm, used, "")[0] == pixdim


def test_what_there_is_no_time_to_look_at_is_looked_at_less_finely():
    """Three planes of the finest voxel, then one, then coarser voxels up to where a window holds the field of view."""
    fingerprint = found(facts(extent=(160,) * 3), target=label(4))
    tried = list(data_rules.details(fingerprint, "m0", SMALL))
    assert [(detail.mm, detail.three) for detail in tried] == [
        *((1.0, True), (1.0, False), (1.5, False), (2.0, False), (2.5, False))
    ]
    assert cost_rules.afforded(tried[0], [400.0], HOUR) is tried[0]
    coarse = cost_rules.afforded(tried[2], [1200.0, 400.0, 100.0], Limits(600, 0))
    used, why = data_rules.planes(fingerprint, "m0", coarse)
    assert used == ["axial"]
    assert "three planes, but they would need 20 min for a validation, of 10 min in all (--time)" in why
    grid, why = data_rules.pixdim(fingerprint, "m0", coarse.mm, ["axial"], coarse.why)
    assert grid == [1.5, 1.5, 1.5]
    assert "1 mm would suit them, but would need 7 min for a validation" in why


def test_slabs_span_up_to_four_millimetres():
    large, small = found(target=label(90)), found(target=label(8))
    three = ["axial", "coronal", "sagittal"]
    assert data_rules.slice_step(large, [2.0] * 3, three)[0] == 2  # as the sarcoma bundle
    assert data_rules.slice_step(large, [3.0] * 3, three)[0] == 1
    assert data_rules.slice_step(small, [1.0] * 3, three)[0] == 1
    assert data_rules.slice_step(large, [1.0, 1.0, 6.0], ["axial"])[0] == 1
    assert data_rules.num_slices(replace(large, single_slices=True))[0] == 1


@pytest.mark.parametrize(("extent", "mm", "most", "side"), [(190, 3, 64, 64), (190, 1, 96, 96), (110, 1, 160, 96)])
def test_the_window(extent, mm, most, side):
    fingerprint = found(facts(extent=(extent,) * 3))
    assert data_rules.roi_size(fingerprint, "m0", [mm] * 3, ["axial"], most)[0] == [side, side]


@pytest.mark.parametrize(("incomplete", "expected"), [(0, 0.5), (3, 0.29), (5, 0.1), (10, 0.1)])
def test_dropout_from_the_share_that_is_missing(incomplete, expected):
    assert data_rules.modality_dropout(found(facts(), facts(), incomplete=incomplete))[0] == expected
    assert data_rules.modality_dropout(found(facts(), incomplete=0))[0] == 0


def test_small_targets_get_the_focal_loss_and_more_samples():
    small, large = found(target=label(share=0.004)), found(target=label(share=0.15))
    assert (data_rules.focal_gamma(small)[0], data_rules.foreground_prob(small)[0]) == (2.0, 0.85)
    assert (data_rules.focal_gamma(large)[0], data_rules.foreground_prob(large)[0]) == (0.0, 0.7)


def test_mirroring_is_off_where_sides_differ():
    both, one = label(right_side=5, side_offset=0.2), label(right_side=10, side_offset=0.2)
    assert data_rules.flip_prob(found(target=both), "liver")[0] == 0.5
    value, reason = data_rules.flip_prob(found(target=one), "liver")
    assert value == 0
    assert "right of the middle in all 10 cases" in reason
    assert data_rules.flip_prob(found(target=both), "Left kidney")[0] == 0
    assert data_rules.flip_prob(found(target=label(right_side=10, side_offset=0.02)), "")[0] == 0.5  # crops around it


def test_doubts_about_alignment_move_modalities_apart():
    kinds = (facts(), facts())
    assert data_rules.max_shift(found(*kinds, aligned=(6, 0)), 1.0)[0] == 1.0
    assert data_rules.max_shift(found(*kinds, aligned=(6, 2), shift_mm=12.0), 2.0)[0] == 3.0
    assert data_rules.max_shift(found(facts(), facts("ct"), aligned=(0, 0)), 1.0)[0] == 2.0


def test_only_single_targets_lose_their_specks():
    assert data_rules.largest_only(found(target=label(main=0.99)))[0] is True
    assert data_rules.largest_only(found(target=label(main=0.4)))[0] is False


@pytest.mark.parametrize(
    ("steps", "on_gpu", "expected"),
    [
        ({"small": 600}, False, "small"),
        ({"small": 9000, "medium": 1500}, False, "small"),
        ({"small": 9000, "medium": 2500}, False, "medium"),
        ({"small": 90000, "medium": 30000, "large": 8000}, True, "large"),
    ],
)
def test_the_size_by_steps_in_the_time(steps, on_gpu, expected):
    """Sizes that cannot have enough steps are not even measured: there is no entry for them."""
    size, reason = cost_rules.choose_size(NETWORK_SIZES, replace(HOUR, on_gpu=on_gpu), lambda size: steps[size.name])
    assert size.name == expected
    assert str(steps[expected]) in reason


def test_the_batch_by_memory():
    cost = Cost(2.0, int(0.3 * GB), int(0.1 * GB), 10**6, 8)
    assert cost_rules.batch_size(cost, SMALL, HOUR, 0)[0] == 8
    assert cost_rules.batch_size(cost, SMALL, replace(HOUR, memory_bytes=int(2.5 * GB)), 0)[0] == 4
    with pytest.raises(CaseError, match=r"does not hold a training .*1\.5 GB.*found 1\.0 GB.*--memory"):
        cost_rules.batch_size(cost, SMALL, replace(HOUR, memory_bytes=int(GB)), 0)


def test_epochs_by_time():
    epochs, reason = cost_rules.max_epochs(620, 50, SMALL, 1.1, Limits(800, 0))
    assert epochs == 12
    assert "600 steps of 1.10 s" in reason
    assert cost_rules.max_epochs(10**6, 50, SMALL, 0.1, HOUR)[0] == 60  # 3000 steps
    assert "--time" in cost_rules.max_epochs(60, 10, SMALL, 20.0, HOUR)[1]
    assert "times as long" not in reason
    assert "a step takes 4.0 times as long" in cost_rules.max_epochs(620, 50, SMALL, 1.1, Limits(800, 0), 4.0)[1]
    assert cost_rules.val_interval(12, 55.0, 60.0)[0] == 11
    assert cost_rules.val_interval(60, 500.0, 60.0)[0] == 10


def test_a_step_on_a_busy_machine_counts_as_on_a_quiet_one():
    assert undisturbed(8.0, 2.0) == (2.0, 4.0)  # three other programs on one core
    assert undisturbed(1.2, 2.0) == (1.2, 1.0)  # two threads on two cores
    assert undisturbed(0.1, math.inf) == (0.1, 1.0)  # a GPU computes


def test_a_time_of_fewer_steps_than_an_epoch_is_refused():
    error = cost_rules.too_short(Limits(30, 0), 60.0, 0.5, 9.9)
    assert "7 min: 600 steps of 0.50 s" in str(error)  # 360 / 0.85 s
    assert "--time 30 s, enough for 9 steps" in str(error)
    assert "--time 8min" in str(error)


def test_time_and_memory_as_people_write_them():
    assert [parse_time(text) for text in ("2h", "90min", "1.5 h", "1d")] == [7200, 5400, 5400, 86400]
    assert [parse_memory(text) for text in ("8GB", "500mb", "1GiB")] == [8e9, 5e8, 2**30]
    for parse, text in ((parse_time, "soon"), (parse_time, "0h"), (parse_memory, "8"), (parse_memory, "much")):
        with pytest.raises(CaseError, match="not understood"):
            parse(text)


def test_more_memory_asked_than_there_is():
    with pytest.raises(CaseError, match=r"expected 8\.0 GB \(--memory\), found 1\.0 GB free.*--memory 1GB"):
        allowed_memory(int(8 * GB), int(GB))
    assert allowed_memory(int(GB), int(8 * GB)) == GB
    assert allowed_memory(None, int(10 * GB)) == 9 * GB


def test_what_is_set_comes_before_the_rules():
    plan = Plan({"pixdim": [1, 1, 1], "batch": 3})
    assert plan.choose("pixdim", lambda: ([2.0, 2.0, 2.0], "the images have 2 mm")) == [1, 1, 1]
    assert "--set" in plan.choices["pixdim"].reason
    assert "the images have 2 mm" in plan.choices["pixdim"].reason
    with pytest.raises(CaseError, match=r"--set batch: a plan has no such value.*pixdim"):
        plan.end()


@pytest.mark.parametrize(
    ("name", "given", "like"),
    [
        ("pixdim", [1, 1], [2.0] * 3),
        ("batch_size", "many", 8),
        ("batch_size", 2.5, 8),
        ("roi_size", [50, 50], [64, 64]),
    ],
)
def test_what_is_set_must_fit(name, given, like):
    with pytest.raises(CaseError, match="does not fit"):
        Plan({name: given}).choose(name, lambda: (like, ""))


def test_random_weights_are_said():
    value, reason = cost_rules.encoder_weights("resnet34", lambda name: "")
    assert value is None
    assert "random weights" in reason
    assert cost_rules.encoder_weights(cost_rules.SMALL_ENCODER, lambda name: "package")[0] == "package"
    day = Limits(86400, int(80 * GB), True)
    assert cost_rules.encoder(LARGE, day, lambda name: "cache")[0] == cost_rules.LARGE_ENCODER
    assert cost_rules.encoder(LARGE, day, lambda name: "")[0] == cost_rules.SMALL_ENCODER
    assert cost_rules.encoder(MEDIUM, HOUR, lambda name: "cache")[0] == cost_rules.SMALL_ENCODER
