"""The command line: what is documented exists, and what is mistyped is explained."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.synthetic import SMALL, row_of, tiny_network, write_case, write_table
from typer.testing import CliRunner

from differseg_med.bundles.workflows import BundleRun
from differseg_med.cli import app, export
from differseg_med.cli.options import progress
from differseg_med.errors import CaseError, exit_code
from differseg_med.prediction.writers import RUN_FORMATS

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
TABLE = BUNDLE / "sample" / "cohort.csv"


def test_the_command_line_answers_before_torch_is_loaded() -> None:
    """Help and a mistyped option take no longer than reading what to say."""
    code = "import sys, differseg_med.cli; print([m for m in ('torch', 'monai', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_names_every_format() -> None:
    assert ", ".join(RUN_FORMATS) == export.NAMES


def test_unknown_setting_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A misspelt name in --set fails and lists what there is."""
    with pytest.raises(CaseError, match=r"--set roi_sise=.*not understood.*roi_size"):
        BundleRun(BUNDLE, ["inference"], TABLE, tmp_path, settings=["roi_sise=[96, 96]"]).open()


def test_settings_reach_the_configuration(tmp_path: Path) -> None:
    """--set values are YAML, and win over the file."""
    workflow = BundleRun(BUNDLE, ["inference"], TABLE, tmp_path, settings=["planes=[axial]", "threshold=0.4"]).open()
    workflow.initialize()
    assert workflow.parser.get_parsed_content("inferer").planes == ("axial",)
    assert workflow.parser["threshold"] == 0.4


def test_missing_configuration_is_named(tmp_path: Path) -> None:
    """A folder that is no bundle gives one sentence, not a traceback."""
    with pytest.raises(CaseError, match=r"configs/inference.yaml: there is no such configuration"):
        BundleRun(tmp_path, ["inference"], TABLE, tmp_path / "out").open()


def test_run_without_a_table_ends_with_one_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table that is not there: exit code 1 and the reason."""
    assert exit_code(BundleRun(BUNDLE, ["inference"], tmp_path / "nowhere.csv", tmp_path / "out").run) == 1
    assert "there is no cohort table here" in caplog.text


def test_damaged_weights_end_with_one_and_say_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint that is cut short is named, and nothing is written for the cases."""
    weights = tmp_path / "model.pt"
    shutil.copyfile(BUNDLE / "models" / "model.pt", weights)
    weights.write_bytes(weights.read_bytes()[:100_000])
    settings = [f"checkpoint={weights}"]
    assert exit_code(BundleRun(BUNDLE, ["inference"], TABLE, tmp_path / "out", settings=settings).run) == 1
    assert "model.pt is damaged" in caplog.text
    assert not list((tmp_path / "out").glob("*/mask.nii.gz"))


def table_of(folder: Path, **cells: str) -> Path:
    """A small case; ``cells`` replace what its row says."""
    table = folder / "cohort.csv"
    return write_table(table, [row_of("a", write_case(folder / "a"), table) | cells])


@pytest.fixture(scope="module")
def every_subset(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Evaluation with every subset of the modalities, by a tiny network with random weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_network().state_dict(), path)
    tiny = {**SMALL, "pixdim": "null", "checkpoint": path, "threshold": 0.1}
    return ["evaluate", "--bundle", str(BUNDLE), *(f"--set={k}={v}" for k, v in tiny.items()), "--subsets", "all"]


def test_all_subsets_of_the_modalities(every_subset: list[str], tmp_path: Path) -> None:
    """One run per subset; where the only modality is absent from the table, the case has failed."""
    table = table_of(tmp_path, pet="")
    result = CliRunner().invoke(app, [*every_subset, "--cohort", str(table), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1  # nobody has a PET
    with (tmp_path / "out" / "subsets.csv").open(newline="") as file:
        rows = {row["given"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["t1+ct+pet", "t1+ct", "t1+pet", "ct+pet", "t1", "ct", "pet"]
    assert {name for name, row in rows.items() if row["failed"] == "1"} == {"pet"}
    assert float(rows["t1+ct+pet"]["dice_mean"]) == float(rows["t1+ct"]["dice_mean"]) > 0
    assert all((tmp_path / "out" / name).is_file() for name in ("subsets.png", "subsets.html"))


def test_subsets_of_cases_that_all_fail(
    every_subset: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback after the work: a sentence, and each subset's reports."""
    table = table_of(tmp_path, t1="nowhere.nii.gz", ct="", pet="")
    result = CliRunner().invoke(app, [*every_subset, "--cohort", str(table), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "no case could be measured with any subset" in caplog.text


def test_subsets_takes_all_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["evaluate", "--bundle", str(BUNDLE), "--cohort", str(TABLE), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--subsets", "some"], env={"TERM": "dumb"})
    assert result.exit_code == 2
    assert "takes" in result.output


@pytest.mark.parametrize("option", ["--withhold=pet", "--resume", "--device=cpu", "--set=amp=true", "--subsets=all"])
def test_options_of_a_run_are_refused_where_nothing_is_run(tmp_path: Path, option: str) -> None:
    """What would be ignored with --predictions is told."""
    arguments = ["evaluate", "--cohort", str(TABLE), "--out", str(tmp_path / "out"), "--predictions", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, option], env={"TERM": "dumb", "COLUMNS": "200"})
    assert result.exit_code == 2
    assert f"{option.split('=')[0]} is not for --predictions" in result.output
    assert not (tmp_path / "out").exists()


def test_progress_shows_on_a_terminal_that_does_not_tell_its_size(monkeypatch) -> None:
    """As within ``script`` or ``docker exec``: a new pseudo-terminal has 0 rows and columns."""
    master, slave = os.openpty()
    monkeypatch.setattr(sys, "stderr", os.fdopen(slave, "w"))
    assert list(progress("file")([1, 2, 3])) == [1, 2, 3]
    sys.stderr.close()
    shown = b""
    while b"3/3" not in shown:  # one read gives what one write left; at the end the system says that nobody writes
        shown += os.read(master, 10_000)
