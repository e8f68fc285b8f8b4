"""What is wrong with a configuration is told in one line: entry, place, what was expected, what was found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from support.forking import run_program
from support.running import cohort, evaluator_of
from support.synthetic import BUNDLE, ROOT, ThresholdCenter

from differseg_med.bundles.arguments import UNKNOWN, annotation_in_words, argument_problem, fits
from differseg_med.bundles.configuration import Configuration
from differseg_med.bundles.factories import postprocessing, training_samples, with_weights
from differseg_med.bundles.workflows import BundleRun, readable
from differseg_med.errors import CaseError, ConfigError
from differseg_med.networks import DifferSeg

TABLE = BUNDLE / "sample" / "cohort.csv"
INFERENCE = [
    ("threshold=35", "entry threshold (--set): ", "between 0 and 1", "found 35"),
    ("threshold=1e-3", "entry threshold (--set): ", "a number", "found the text '1e-3'"),
    ("roi_size=96", "entry roi_size (--set): ", "a list of whole numbers", "found 96"),
    ("planes=axial", "entry planes (--set): ", "a list of names", "Write [axial]."),
    ("planes=[axal]", "entry planes (--set): ", "['axial', 'coronal', 'sagittal']", "found ['axal']"),
    ("pixdim=2", "entry pixdim (--set): ", "a list of numbers", "found 2"),
    ("pixdim=[2, 2]", "entry pixdim (--set): ", "three positive numbers", "found [2, 2]"),
    ("withhold=pet", "entry dataset::withhold (--set): ", "a list of names", "found the text 'pet'"),
    ("withhold=[pt]", "entry dataset::withhold (--set): ", "['t1', 'ct', 'pet']", "['pt']"),
    ("checkpoint=[1, 2]", "entry checkpoint (--set): ", "a path", "found [1, 2]"),
    ("reference=t2", "entry reference (--set): ", "['t1', 'ct', 'pet']", "found 't2'"),
    ("device=cuda:77", "entry device (--set): ", "cpu", "found cuda:77"),
    ("num_slices=5", "entry in_channels, file configs/inference.yaml: ", "[5, 5, 5]", "found [3, 3, 3]"),
    ("modalities::t1::kind=mri", "entry modalities::t1", "mr, pet", "'mri'"),
    ("modalities::t1::windw=3", "entry modalities::t1", "percentile", "windw"),
    ("network_def::decoder_chanels=[8, 8, 8, 8]", "entry network_def::decoder_chanels (--set): ", "one of in_channels",
     "Did you mean decoder_channels?"),
    ("network_def::encoder=resnet999", "entry network_def::encoder (--set): ", "unknown encoder", "resnet50"),
    ("planes::7=axial", "entry planes, file configs/inference.yaml: ", "no entry '7'", "--set planes::7"),
    ("threshold::x=1", "entry threshold, file configs/inference.yaml: ", "no entry 'x'", "--set threshold::x"),
    ("nework_def::encoder=x", "--set nework_def::encoder=x", "not understood", "network_def"),
    ("formats=[seg.nrd]", "entry writers::formats (--set): ", "seg.nrrd", "['seg.nrd']"),
    ("amp=yes please", "entry amp (--set): ", "true or false", "found the text 'yes please'"),
    ("resume=", "entry dataset::resume (--set): ", "true or false", "found None"),
]  # fmt: skip
PARTS = {
    "threshold=35": "postprocessing",
    "planes=[axal]": "inferer",
    "pixdim=[2, 2]": "preprocessing",
    "withhold=[pt]": "dataset",
    "reference=t2": "preprocessing",
    "device=cuda:77": "network",
    "num_slices=5": "evaluator",
    "modalities::t1::kind=mri": "preprocessing",
    "modalities::t1::windw=3": "preprocessing",
    "network_def::encoder=resnet999": "network_def",
    "formats=[seg.nrd]": "writers",
}
"""The component that says so when it is built; the others are found before."""

TRAIN = [
    ("dropout_weights=[1, 2]", "entry train::samples::dropout_weights (--set): ", "3 positive numbers", "found [1, 2]"),
    ("learning_rate=1e-3", "entry learning_rate (--set): ", "a number", "Write 0.001"),
    ("batch_size=2.5", "entry batch_size (--set): ", "a whole number", "found 2.5"),
    ("num_slices=2", "entry in_channels, file configs/inference.yaml: ", "multiples of num_slices 2", "[3, 3, 3]"),
]


def message(configs: list[str], setting: str, entry: str) -> str:
    """The one line that a setting ends in, when the run is put together up to ``entry``."""
    with pytest.raises(CaseError) as caught:
        built(configs, [setting], entry)
    text = str(caught.value)
    assert "\n" not in text
    return text


def built(configs: list[str], settings: list[str], entry: str, bundle: Path = BUNDLE) -> object:
    workflow = BundleRun(bundle, configs, TABLE, "nowhere", {}, settings).open()
    workflow.initialize()
    with readable(workflow.configuration):
        return workflow.parser.get_parsed_content(entry)


@pytest.mark.parametrize(("setting", "start", "expected", "found"), INFERENCE, ids=[row[0] for row in INFERENCE])
def test_a_setting_that_cannot_be_is_told_in_one_line(setting, start, expected, found):
    text = message(["inference"], setting, PARTS.get(setting, "bundle_root"))
    assert text.startswith(start), text
    assert expected in text
    assert found in text


@pytest.mark.parametrize(("setting", "start", "expected", "found"), TRAIN, ids=[row[0] for row in TRAIN])
def test_a_setting_of_a_training_is_told_in_one_line(setting, start, expected, found):
    text = message(["inference", "train"], setting, "train::samples")
    assert text.startswith(start), text
    assert expected in text
    assert found in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("+inferer: {_target_: differseg_med.bundle.SliceWindowInferr}",
         r"mine.yaml: \+inferer::_target_: .*Did you mean .*rer\?"),
        ("+inferer: {overlp: 0.3}", r"entry inferer::overlp, file .*mine.yaml: .*Did you mean overlap\?"),
        ("+inferer: {overlap: '@overlp'}", r"entry inferer::overlap, file .*mine.yaml: it refers to @overlp"),
        ("device: $torch.device('gpu')", r"entry device, file .*mine.yaml: .*gpu"),
        ("roi_size: 96", r"entry roi_size, file .*mine.yaml: .*expected a list of whole numbers, found 96"),
        ("- a", r"file .*mine.yaml: the configuration has no entries"),
        ("a: [", r"file .*mine.yaml: the configuration cannot be read"),
    ],
)  # fmt: skip
def test_a_preset_that_cannot_be_is_told_with_its_file(line, words, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text(line)
    with pytest.raises(CaseError, match=words) as caught:
        built(["inference", str(preset)], [], "evaluator")
    assert "\n" not in str(caught.value)


def test_a_setting_that_nothing_reads_is_refused(tmp_path):
    """A bundle of an earlier day, whose training had no use for ``amp``."""
    preset = tmp_path / "old.yaml"
    preset.write_text("unread: 1\nmore: {a: 1}\n")
    with pytest.raises(CaseError, match=r"--set unread: nothing in this run reads 'unread'"):
        BundleRun(BUNDLE, ["inference", str(preset)], TABLE, tmp_path, {}, ["unread=2"]).open()
    with pytest.raises(CaseError, match=r"--set more::a: nothing in this run reads"):
        BundleRun(BUNDLE, ["inference", str(preset)], TABLE, tmp_path, {}, ["more::a=2"]).open()


def test_arguments_are_set_by_their_name_alone():
    assert built(["inference"], ["flip=true", "overlap=0.25"], "inferer").overlap == 0.25
    with pytest.raises(CaseError, match=r"--set network=1|entry network"):
        built(["inference"], ["network=1"], "evaluator")
    with pytest.raises(CaseError, match=r"--set reference=ct is not understood .*one of a::reference, b::reference"):
        _ = ambiguous()


def ambiguous() -> None:
    """Two components that take an argument of one name."""
    from differseg_med.bundles.workflows import _set

    names = {"_target_": "differseg_med.bundle.preprocessing", "modalities": {}}
    parser = ConfigParser({"run": ["@a", "@b"], "a": {**names}, "b": {**names}})
    _set(Configuration(parser, []), "reference", "ct", "--set")


def test_factories_raise_and_do_not_exit(tmp_path):
    with pytest.raises(CaseError, match="no checkpoint at"):
        with_weights(DifferSeg(), tmp_path / "no.pt")
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        postprocessing(threshold=2)
    with pytest.raises(ValueError, match=r"multiples of num_slices 3, got \[3, 4\]"):
        training_samples([3, 4], [32, 32])


def test_types_of_arguments():
    def target(a: int, *, b: list[float] | None = None, c: str = "") -> None: ...

    target.__module__ = "differseg_med.test"
    target.__annotations__ = {"a": int, "c": str}
    assert argument_problem(target, {"a": 1}, partial=False) is None
    assert argument_problem(target, {"a": UNKNOWN, "c": "x"}, partial=False) is None
    assert argument_problem(target, {}, partial=False).argument == "a"
    assert argument_problem(target, {}, partial=True) is None
    assert argument_problem(target, {"a": True}, partial=False).expected == "a whole number"
    assert argument_problem(target, {"a": 1, "d": 1}, partial=False).argument == "d"
    for value, hint, good in (
        (1, float, True), (1.5, int, False), (True, float, False), (None, str | None, True), (None, str, False),
        ("a", Path, True), (["a"], Path, False), ({"a": 1}, dict[str, int], True), ("x", DifferSeg, False),
    ):  # fmt: skip
        assert fits(value, hint) is good, (value, hint)
    assert annotation_in_words(str | Path | None) == "a path or null"


def test_monai_s_own_command_ends_in_one_line_and_1(tmp_path):
    """Components are built by MONAI, which wraps what they raise in its own words."""
    config = BUNDLE / "configs" / "inference.yaml"
    options = ["--bundle_root", str(BUNDLE), "--output_dir", str(tmp_path), "--inferer::overlp", "0.3"]
    done = run_program("monai.bundle", "run", "--config_file", str(config), *options, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"entry inferer::overlp: .*SliceWindowInferer.*Did you mean overlap\?$", last), done.stderr[-1500:]
    assert "Traceback" not in done.stderr


def test_any_inferer_of_monai_segments(tmp_path):
    """A window of whole volumes for a network of whole volumes: the same mask as slice by slice."""

    class Volumes(ThresholdCenter):
        def __init__(self) -> None:
            super().__init__(num_slices=1)

    table = cohort(tmp_path, "a")
    evaluator_of(table).run()
    expected = (tmp_path / "out" / "a" / "mask.nii.gz").read_bytes()
    evaluator = evaluator_of(table, Volumes())
    evaluator.inferer = SlidingWindowInferer((24, 24, 16), mode="gaussian", overlap=0.25)
    evaluator.run()
    assert evaluator.failures == []
    assert (tmp_path / "out" / "a" / "mask.nii.gz").read_bytes() == expected


def test_what_the_system_refuses_to_a_run_is_told_in_one_line(tmp_path):
    run = ConfigParser({"file": str(tmp_path / "a" / "b"), "run": ["$open(@file, 'w')"]})
    with pytest.raises(CaseError, match=r"there is no such file or folder\. Check the path"), readable():
        run.get_parsed_content("run")


def test_the_error_says_what_an_owner_needs():
    error = ConfigError("wrong", entry="a::b", given="--set", expected=1, found=2, remedy="Write 1.")
    assert str(error) == "entry a::b (--set): wrong (expected 1, found 2). Write 1."
    assert isinstance(error, CaseError)
    assert ROOT.is_dir()
