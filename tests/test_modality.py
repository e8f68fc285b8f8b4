"""The table of kinds, and modalities as configurations and cohorts declare them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from differseg_med.case import Cohort
from differseg_med.modality import (
    KINDS,
    NNUNET_SCHEMES,
    NORMALIZATIONS,
    Modality,
    contradicts_dicom,
    declared,
    display_windows,
    is_judged,
    kind_of_channel,
    kind_of_dicom,
    nnunet_channel,
)
from differseg_med.transforms.intensity import NORMALIZE, NormalizeByKindd

ROOT = Path(__file__).parents[1]

# What clinics have, by the standards: DICOM PS3.3 C.7.3.1.1.1 (Modality), and the schemes of nnU-Net 2
# (preprocessing/normalization/map_channel_name_to_normalization.py).
EXPECTED = {  # kind: normalisation, its first DICOM code, nnU-Net's name for column "x", judged with
    "ct": ("window", "CT", "CT", {"ct", "pet"}),
    "cbct": ("range", None, "x", set()),
    "mr": ("nonzero", "MR", "x", {"mr"}),
    "pet": ("log", "PT", "x", {"ct", "pet"}),
    "nm": ("nonzero", "NM", "x", set()),
    "us": ("range", "US", "x", set()),
    "dose": ("window", "RTDOSE", "noNorm", set()),
    "xray": ("range", "CR", "x", set()),
    "mg": ("range", "MG", "x", set()),
    "oct": ("range", "OPT", "x", set()),
    "image": ("channels", "XC", "noNorm", set()),
    "thermal": ("channels", "TG", "x", set()),
    "depth": ("range", None, "x", set()),
    "flow": ("channels", None, "noNorm", set()),
}


def test_the_table_is_the_one_that_is_expected():
    assert {
        name: (kind.normalization, next(iter(kind.dicom), None), nnunet_channel("x", name), set(kind.judged_with))
        for name, kind in KINDS.items()
    } == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_normalises_its_channels_and_keeps_no_data_at_zero(kind):
    modality = Modality("x", kind)
    volume = torch.rand(max(KINDS[kind].channels), 4, 4, 2, generator=torch.Generator().manual_seed(0)) * 50 + 1
    if KINDS[kind].normalization != "channels":
        volume = volume[:1]
    volume[:, 0, 0, 0] = float("nan")
    normalize = NormalizeByKindd({"x": modality})
    found = normalize({"x": volume})["x"]
    assert normalize.channels == [modality.channels] == [found.shape[0]]
    assert modality.channels in KINDS[kind].channels
    assert bool(torch.isfinite(found).all())
    assert not bool(found[:, 0, 0, 0].any())
    assert bool((found != 0).any())


def test_the_settings_in_the_table_are_those_of_the_functions():
    functions = {name: set(inspect.signature(function).parameters) - {"volume"} for name, function in NORMALIZE.items()}
    assert {name: set(settings) for name, settings in NORMALIZATIONS.items()} == functions


def test_what_the_table_says_is_consistent():
    for name, kind in KINDS.items():
        assert all(name in KINDS[other].judged_with for other in kind.judged_with), f"{name} is judged one way only"
        Modality("x", name, 0, kind.defaults)  # the defaults are such as a configuration may have
        assert all(other == other.casefold() for other in kind.names)
        if kind.window is not None:
            assert kind.window[0] < kind.window[1]
    for words in ("dicom", "names", "label"):
        every = [word for kind in KINDS.values() for word in (getattr(kind, words),)]
        flat = [word for part in every for word in ([part] if isinstance(part, str) else part)]
        assert len(flat) == len(set(flat)), f"two kinds share {words}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_means_another_normalisation_to_nnunet_is_not_used(kind):
    """Of its names only those that a kind asks for may be among nnU-Net's schemes, whatever the column is called."""
    for column in ("CT", "ct", "noNorm", "rgb_to_0_1", "venous"):
        channel = nnunet_channel(column, kind)
        assert channel == KINDS[kind].nnunet or channel.casefold() not in NNUNET_SCHEMES


def test_kinds_by_the_words_of_dicom_and_of_data_sets():
    assert [kind_of_dicom(word) for word in ("CT", "mr", "PT", "US", "RTDOSE", "SC", "KO", "")] == [
        *("ct", "mr", "pet", "us", "dose"),
        *(None, None, None),
    ]
    # The channels of the Medical Segmentation Decathlon, tasks 1 to 10.
    decathlon = ("FLAIR", "T1w", "t1gd", "T2w", "MRI", "CT", "T2", "ADC")
    assert [kind_of_channel(word) for word in decathlon] == ["mr"] * 5 + ["ct", "mr", "mr"]
    assert [kind_of_channel(word) for word in ("arterial", "octa", "noNorm", "ct_venous", "")] == [None] * 5
    assert not contradicts_dicom("cbct", "CT")
    assert not contradicts_dicom("ct", "CT")
    assert not contradicts_dicom("ct", "SC")
    assert contradicts_dicom("ct", "MR")
    assert contradicts_dicom("cbct", "MR")


def test_an_unknown_kind_is_judged_with_nothing():
    assert not is_judged(None, "mr")
    assert not is_judged("mr", None)
    assert display_windows({"venous": "ct", "t1": "mr"}) == {"venous": (-160.0, 240.0)}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("mri", "modality 'x': kind: expected one of ct, "),
        (None, "modality 'x': expected {kind: ...}, found None"),
        (["ct"], "modality 'x': expected {kind: ...}, found ['ct']"),
        ({"kind": ["ct"]}, "modality 'x': kind: expected one of ct, "),
        ({"kind": "ct", "windows": [0, 1]}, "modality 'x': unknown setting 'windows', expected window, smooth"),
        (
            {"kind": "ct", "window": [240, -160]},
            "modality 'x': window: expected two numbers, the lowest and the highest",
        ),
        ({"kind": "ct", "window": "-160,240"}, "window: expected two numbers"),
        ({"kind": "ct", "window": [0, float("nan")]}, "window: expected two numbers"),
        ({"kind": "ct", "smooth": -1}, "smooth: expected a number of voxels from 0, found -1"),
        (
            {"kind": "mr", "percentile": 101},
            "percentile: expected a number up to 100, or null for a z-score, found 101",
        ),
        ({"kind": "mr", "percentile": "99"}, "found '99'"),
        ({"kind": "depth", "percentile": 99}, "percentile: expected a number from 0 to below 50, found 99"),
        ({"kind": "depth", "zero_is_missing": "no"}, "zero_is_missing: expected true or false, found 'no'"),
        ({"kind": "pet", "log_scale": 0}, "log_scale: expected a number above 0, found 0"),
        ({"kind": "image", "mean": [0.5, 0.5]}, "mean: expected a list of one or three numbers"),
        ({"kind": "image", "std": [0]}, "std: expected a list of one or three numbers above 0, found [0]"),
        ({"kind": "image", "channels": 2}, "channels: expected 1 or 3, found 2"),
        (
            {"kind": "image", "channels": 1, "mean": [0.1, 0.2, 0.3]},
            "channels: expected 3, as many as mean and std have",
        ),
        ({"kind": "ct", "channels": 3}, "channels: expected 1, found 3"),
        ({"kind": "ct", "channels": True}, "channels: expected 1, found True"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(entry, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        NormalizeByKindd({"x": entry})
    assert "\n" not in str(error.value)
    assert "modality 'x'" in str(error.value)


@pytest.mark.parametrize("entries", [None, [], {}, ["t1", "ct"], "t1", {1: "ct"}, {"": "ct"}])
def test_what_is_no_declaration_of_modalities(entries):
    with pytest.raises(ValueError, match=r"^(modalities: expected names|a modality needs a name)"):
        declared(entries)


def test_channels_and_options_follow_from_kind_and_settings():
    assert Modality.read("x", "image").options == {"mean": [0.5], "std": [0.5]}
    assert Modality.read("x", {"kind": "image", "channels": 3}).options == {"mean": [0.5] * 3, "std": [0.5] * 3}
    photo = Modality.read("x", {"kind": "image", "mean": [0.4, 0.5, 0.6], "std": [0.2]})
    assert (photo.channels, photo.options["std"]) == (3, [0.2] * 3)
    assert Modality.read("x", "flow").options == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert Modality.read("x", {"kind": "dose", "window": [0, 60]}).options == {"window": [0, 60]}
    assert Modality.read("x", {"kind": "mr", "percentile": None}).channels == 1


def fresh(name, monkeypatch, path=None):
    """A module of the package executed anew, from another file if one is given."""
    path = path or ROOT.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_new_kind_is_one_entry_in_one_file(tmp_path, monkeypatch):
    """The task of CONTRIBUTING, done with a copy of its file: normalisation, commands and export know the kind."""
    entry = '    "photon": Kind("photon-counting CT", "window", {"window": (-300.0, 300.0)}, nnunet="CT"),\n'
    start = "KINDS: dict[str, Kind] = {\n"
    source = (ROOT / "differseg_med" / "modality.py").read_text()
    (tmp_path / "modality.py").write_text(source.replace(start, start + entry))
    with pytest.raises(ValueError, match="photon"):
        NormalizeByKindd({"x": "photon"})
    fresh("differseg_med.modality", monkeypatch, tmp_path / "modality.py")
    intensity = fresh("differseg_med.transforms.intensity", monkeypatch)
    found = intensity.NormalizeByKindd({"x": "photon"})({"x": torch.tensor([-300.0, 0.0, 300.0])})
    assert found["x"].tolist() == [-2, 0, 2]
    kinds = fresh("differseg_med.cohort.kinds", monkeypatch)
    kinds.write_kinds(tmp_path / "cohort.csv", kinds.parse_kinds(["x=photon"]))
    cohort = Cohort(tmp_path / "cohort.csv", ("x",), (), kinds=kinds.read_kinds(tmp_path / "cohort.csv"))
    fresh("differseg_med.cohort.exporters", monkeypatch).export_nnunet(cohort, tmp_path / "D")
    assert json.loads((tmp_path / "D" / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
