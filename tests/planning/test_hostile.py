"""Hostile column names and targets through ``plan`` and ``new``: refused, or a bundle that means what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.hostile import GOOD, HOSTILE, TEXTS
from support.running import cohort

from differseg_med.bundles.lint import bundle_files, lint_files
from differseg_med.case import Cohort
from differseg_med.cohort.table import read_cohort
from differseg_med.errors import CaseError
from differseg_med.export.segment import read_segment
from differseg_med.planning.jobs import bundle_without_data, plan_bundle

IN_CONFIGURATIONS = (
    *("$__import__('os').system('touch ran')", "@checkpoint", "%/etc/x.yaml::a", "a: {_target_: os.system}"),
    *("x}, run: {_target_: os.system", "_target_", "a#b", "a::b", "- a", "!!python/name:os.system", "&a", "*a", "# c"),
    *("on", "7", "1e3", "null", "<<x>>", "+a", "'a", '"a', '", "x": "'),
)
"""Texts that mean something to YAML, JSON, MONAI or our templates."""
EVERY = tuple(dict.fromkeys((*IN_CONFIGURATIONS, *HOSTILE, *TEXTS, *GOOD)))


def made(folder: Path, column: str = "t1", label: str = "lesion") -> Path | None:
    """A bundle that passes the lint; None where it is refused and nothing written."""
    try:
        bundle = bundle_without_data({column: "mr", "ct": "ct"}, folder, target=f"{label}=liver lesion")
    except CaseError:
        assert not folder.exists()
        return None
    assert lint_files(bundle_files(bundle)) == []
    return bundle


def test_column_names(tmp_path):
    done = []
    for number, name in enumerate(EVERY):
        if (bundle := made(tmp_path / f"b{number}", column=name)) is not None:
            done.append(name)
            content = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text(encoding="utf-8"))
            assert (list(content["modalities"]), content["reference"]) == ([name, "ct"], name)
    assert {"on", "7", "null", "Größe", "case_001", "COM"} <= set(done) <= {*GOOD, "on", "7", "1e3", *EVERY}
    assert not {*IN_CONFIGURATIONS[:13]} & set(done)


def test_targets(tmp_path):
    done = []
    for number, label in enumerate(EVERY):
        if (bundle := made(tmp_path / f"b{number}", label=label)) is not None:
            done.append(label)
            assert read_segment(bundle).name == (label.strip() or "liver lesion")
    assert {"on", "7", "case_001"} <= set(done)
    assert not {*IN_CONFIGURATIONS[:13]} & set(done)


@pytest.mark.parametrize("name", ["$exit()", "../x", "_target_"])
def test_a_plan_of_a_cohort_refuses_before_it_reads_an_image(name, tmp_path):
    table = read_cohort(cohort(tmp_path, "a"), ("t1",))
    hostile = Cohort(table.path, (name,), table.cases)
    with pytest.raises(CaseError, match="name cannot be that of a modality"):
        plan_bundle(hostile, tmp_path / "made")
    assert not (tmp_path / "made").exists()
