"""What a bundle may name: ours and MONAI's pass, programs in disguise do not, and only --trust runs them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import differseg_med as ds
from differseg_med.bundles.lint import bundle_files, expression_refused, lint_files
from differseg_med.bundles.manifest import MANIFEST, check_manifest, write_manifest
from differseg_med.bundles.new import TEMPLATES, new_bundle
from differseg_med.cli import app
from differseg_med.errors import CaseError

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "sts_petctmr_segmentation"
TABLE = BUNDLE / "sample" / "cohort.csv"
BUNDLES = sorted((ROOT / "bundles").iterdir())
ZOO = ROOT / "tests" / "data" / "zoo_configs"

REASONS = {  # why a configuration of the model zoo is refused
    "refused_spleen_ct_inference.json": ["dataset::data: ListComp"],
    "refused_brats_mri_inference.json": ["_target_ 'Lambdad'", "func: Lambda is not allowed"],
    "refused_pancreas_dints_inference.yaml": ["torch.load()", "torch.from_numpy()"],
    "refused_endoscopic_inbody_inference.json": ["import of json", "open()", "json.load()", ".close()"],
    "refused_pediatric_abdominal_inference.yaml": ["import of scripts.monai_utils"],
}

EXPRESSIONS = (
    "__import__('os').system('touch ran')",
    "import os.path as torch",
    "import subprocess",
    "import os; os.system('touch ran')",
    "from os import system",
    "os.system('touch ran')",
    "@imports::0.system('touch ran')",
    "__local_refs['os'].system('touch ran')",
    "torch.load('x.pt', weights_only=False)",
    "torch.hub.load('a/b', 'c')",
    "torch.jit.load('x.ts')",
    "torch.classes.load_library('x.so')",
    "open('/etc/passwd').read()",
    "eval('1')",
    "exec('x = 1')",
    "compile('1', '', 'eval')",
    "getattr(torch, 'load')('x')",
    "setattr(torch, 'device', 1)",
    "().__class__.__base__.__subclasses__()",
    "@evaluator.__class__",
    "@evaluator.run.__globals__",
    "@evaluator.run.__func__()",
    "lambda x: x",
    "[x for x in (1, 2)]",
    "{x for x in (1, 2)}",
    "(x for x in (1, 2))",
    "f'{torch}'",
    "'%s' % @device",
    "'{0.__class__}'.format(@device)",
    "(y := 1)",
    "9 ** 9 ** 9",
    "1 << 99999999",
    "[0] * 99999999999",
    "os.environ",
    "os.path",
    "os.path.os.system('x')",
    "glob.os.system('x')",
    "monai.bundle.download('x')",
    "monai.utils.set_determinism.__globals__",
    "numpy.load('x.npy', allow_pickle=True)",
    "print",
    "sorted([1], key=eval)",
    "dict(a=open)",
    "glob.glob('/etc/*')",
    "'/etc' + '/passwd'",
    "@bundle_root + '/../../x'",
    "os.path.join('..', 'x')",
    "x = 1",
    "def f(): pass",
    "1 +",
    "b'x'",
    "(" * 3000,
)

HOSTILE = (
    {"a": {"_target_": "os.system", "command": "touch ran"}},
    {"a": {"_target_": "subprocess.run", "args": ["ls"]}},
    {"a": {"_target_": "builtins.eval", "source": "1"}},
    {"a": {"_target_": "torch.load", "f": "x.pt"}},
    {"a": {"_target_": "torch.nn.modules.module.torch.load", "f": "x"}},
    {"a": {"_target_": "torch.optim.lr_scheduler.os.system"}},
    {"a": {"_target_": "differseg_med.bundle.with_weights.__globals__"}},
    {"a": {"_target_": "differseg_med.bundle.__loader__.get_data"}},
    {"a": {"_target_": "differseg_med.bundles.factories.torch.load"}},
    {"a": {"_target_": "differseg_med.cli.pacs.push"}},
    {"a": {"_target_": "monai.bundle.scripts.download"}},
    {"a": {"_target_": "download_and_extract", "url": "x"}},
    {"a": {"_target_": "Lambdad", "keys": "image", "func": "@b"}},
    {"a": {"_target_": "monai.transforms.Lambda", "func": "@b"}},
    {"a": {"_target_": "TorchVisiond", "name": "x"}},
    {"a": {"_target_": "monai.transforms.utils.os.system"}},
    {"a": {"_target_": "ConfigWorkflow", "config_file": "x"}},
    {"a": {"_target_": "MLFlowHandler", "tracking_uri": "http://127.0.0.1"}},
    {"a": {"_target_": "$torch.device", "type": "cpu"}},
    {"a": {"_target_": "@b"}},
    {"a": {"_target_": ["os.system"]}},
    {"a::_target_": "os.system", "a": {"command": "ls"}},
    {"a#b#_target_": "os.system"},
    {"+a::_target_": "os.system"},
    {"a": {"_target_": "LoadImaged", "keys": "image", "reader": "os.system"}},
    {"a": {"_target_": "LoadImaged", "keys": "image", "reader": ["ITKReader", "my.Reader"]}},
    {"a": {"_target_": "SaveImaged", "keys": "pred", "writer": "shutil.rmtree"}},
    {"a": {"_target_": "Compose", "transforms": [{"_target_": "os.remove", "path": "x"}]}},
    {"a": {"_target_": "Compose", "_mode_": "debug"}},
    {"a": {"_target_": "Compose", "_requires_": "$__import__('os').system('x')"}},
    {"a": "%/etc/evil.json::x"},
    {"a": "%evil.YAML"},
    {"cache_dir": "/home/other"},
    {"cache_dir": "~/x"},
    {"path": "../../x"},
    {"path": "C:\\x"},
    {"imports": ["$import differseg_med_evil"]},
    {"a": {"b": [{"c": ["$exit()"]}]}},
)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_our_bundles_pass(bundle):
    assert lint_files([*bundle_files(bundle), *(ROOT / "configs").glob("*.yaml")]) == []


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.yaml")), ids=lambda path: path.stem)
def test_bundles_of_templates_pass(template, tmp_path):
    assert lint_files(bundle_files(new_bundle(template, tmp_path / "task"))) == []


def test_bundles_of_modalities_pass(tmp_path):
    done = CliRunner().invoke(
        app, ["new", "--name", "task", "--modalities", "flair=mr,t1c=mr,ct=ct,p=pet", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    files = bundle_files(tmp_path / "task")
    assert {file.name for file in files} == {"inference.yaml", "train.yaml", "evaluate.yaml", "metadata.json"}
    assert lint_files(files) == []
    with (tmp_path / "task" / "configs" / "inference.yaml").open("a") as file:
        file.write("\nx: $exit()\n")
    assert [refused.entry for refused in lint_files(files)] == ["x"]


@pytest.mark.parametrize("file", sorted(ZOO.iterdir()), ids=lambda path: path.name)
def test_the_model_zoo(file):
    found = [str(refused) for refused in lint_files([file])]
    expected = REASONS.get(file.name, [])
    assert [reason for reason in expected if not any(reason in line for line in found)] == []
    assert bool(found) is file.name.startswith("refused")


def test_five_of_the_zoo_pass_and_five_do_not():
    assert len(list(ZOO.glob("passes_*"))) == len(list(ZOO.glob("refused_*"))) == len(REASONS) == 5


@pytest.mark.parametrize("code", EXPRESSIONS, ids=lambda code: code[:40])
def test_expressions_that_are_refused(code):
    assert expression_refused(code)


@pytest.mark.parametrize(
    "code",
    [
        "@bundle_root + '/eval'",
        "torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "@max_epochs * @iterations",
        "@train#trainer.run()",
        "@encoder_weights is None",
        "import numpy as np",
        "@checkpointloader(@evaluator) if @load_pretrain else None",
        "[1, @inferer#sw_batch_size, -1]",
        "@images[:-9]",
        "setattr(torch.backends.cudnn, 'benchmark', True)",
        "1e-4",
    ],
)
def test_expressions_that_pass(code):
    assert expression_refused(code) == ""


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_configurations_that_are_refused(number, tmp_path):
    for name, text in (("a.yaml", yaml.safe_dump(HOSTILE[number])), ("a.json", json.dumps(HOSTILE[number]))):
        (tmp_path / name).write_text(text)
        assert lint_files([tmp_path / name])


def test_enough_is_tried():
    assert len(EXPRESSIONS) + len(HOSTILE) >= 90


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n"
        + "".join(f"a{n + 1}: &a{n} [*a{n - 1 if n else ''}, *a{n - 1 if n else ''}]\n" for n in range(40)),
        "a: &a [*a]",
        "a: " + "[" * 3000,
        "a: 1\na: 2",
        "!!python/object/apply:os.system [ls]",
        "a: !!python/name:os.system",
        "\x00",
        "a: [",
        "? {a: 1}\n: 2",
    ],
    ids=range(9),
)
def test_files_that_are_no_configurations_are_refused_in_words(text, tmp_path):
    file = tmp_path / "inference.yaml"
    file.write_text(text)
    assert refused_somehow(file)


def refused_somehow(file: Path) -> bool:
    """Whether the lint finds something, or says that it cannot read the file."""
    try:
        return bool(lint_files([file]))
    except CaseError as error:
        return "cannot be read" in str(error)


def evil_bundle(folder: Path, extra: str) -> Path:
    """Our bundle with a line more, and a module beside it that leaves a file where it is imported."""
    bundle = folder / "bundle"
    shutil.copytree(BUNDLE / "configs", bundle / "configs")
    (bundle / "evil_module.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close(); x = 1")
    with (bundle / "configs" / "inference.yaml").open("a") as file:
        file.write(extra)
    return bundle


def test_only_trust_runs_what_is_not_allowed(tmp_path, caplog):
    from differseg_med.bundles.workflows import BundleRun

    code = f"$open({str(tmp_path / 'ran')!r}, 'w').close()"
    bundle = evil_bundle(tmp_path, f"\ninitialize: [{json.dumps(code)}]\n")
    with pytest.raises(CaseError, match=r"initialize::0: open\(.*--trust"):
        BundleRun(bundle, ["inference"], TABLE, tmp_path / "out").open()
    assert not (tmp_path / "ran").exists()
    workflow = BundleRun(bundle, ["inference"], TABLE, tmp_path / "out", trust=True).open()
    assert "may run any program" in caplog.text
    workflow.initialize()
    assert (tmp_path / "ran").exists()


def test_segment_asks_for_trust_too(tmp_path):
    """The bundle has no weights: with trust its ``initialize`` runs before that is found."""
    code = f"$open({str(tmp_path / 'ran')!r}, 'w').close()"
    bundle = evil_bundle(tmp_path, f"\ninitialize: [{json.dumps(code)}]\n")
    image = next((BUNDLE / "sample").rglob("*.nii.gz"))
    with pytest.raises(CaseError, match=r"initialize::0: open\(.*--trust"):
        ds.segment(bundle, device="cpu", t1=image)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CaseError, match="no checkpoint"):
        ds.segment(bundle, device="cpu", trust=True, t1=image)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["predict", "train", "evaluate"])
def test_commands_refuse_before_anything_is_parsed(command, tmp_path, caplog):
    evil = "\nimports: ['$import evil_module']\ninitialize: ['$evil_module.x']\n"
    bundle = evil_bundle(tmp_path, evil)
    before = list(sys.path)
    arguments = [command, "--bundle", str(bundle), "--cohort", str(TABLE), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert "import of evil_module" in caplog.text
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()
    assert sys.path == before


def test_the_command_lists_what_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["lint-bundle", str(evil_bundle(tmp_path, "\nx: $exit()\n"))])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["inference.yaml: x: exit() is not in the list"]
    assert CliRunner().invoke(app, ["lint-bundle", str(BUNDLE)]).exit_code == 0


@pytest.mark.parametrize("target", ["/etc/hosts", "../beside", "../../bundle_of_others", "models/../../x", "itself"])
def test_links_that_lead_out_are_refused(target, tmp_path, caplog):
    from differseg_med.bundles.workflows import BundleRun

    bundle = evil_bundle(tmp_path, "")
    (tmp_path / "beside").write_text("x")
    (bundle / "models").mkdir()
    (bundle / "models" / "inner.pt").symlink_to("../evil_module.py")  # leads to another file of the bundle
    (tmp_path / "another_name").symlink_to(bundle)  # where the bundle lies may be a link
    assert CliRunner().invoke(app, ["lint-bundle", str(tmp_path / "another_name")]).exit_code == 0
    link = bundle / "itself"
    link.symlink_to(target)
    assert CliRunner().invoke(app, ["lint-bundle", str(bundle)]).exit_code == 1
    assert "leads out of it, or nowhere (found itself)" in caplog.text
    with pytest.raises(CaseError, match="leads out of it"):
        BundleRun(bundle, ["inference"], TABLE, tmp_path / "out").open()


def test_a_manifest_has_the_weights_too(tmp_path):
    from safetensors.numpy import load_file, save_file

    from differseg_med.bundles.workflows import BundleRun

    bundle, weights = evil_bundle(tmp_path, ""), tmp_path / "bundle" / "models" / "model.safetensors"
    weights.parent.mkdir()
    save_file({"a": np.zeros(3, np.float32)}, weights)
    write_manifest(bundle)
    hashes = json.loads((bundle / MANIFEST).read_text())["sha256"]
    assert hashes["models/model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    check_manifest(bundle)
    save_file({"a": np.ones(3, np.float32)}, weights)
    assert load_file(weights)["a"][0] == 1
    with pytest.raises(CaseError, match=r"models/model\.safetensors is changed"):
        BundleRun(bundle, ["inference"], TABLE, tmp_path / "out").open()


def test_a_manifest_may_be_about_what_runs_only(tmp_path):
    bundle = evil_bundle(tmp_path, "")
    (bundle / MANIFEST).write_text(json.dumps({"folders": ["configs", "models"], "sha256": {}}))
    with pytest.raises(CaseError, match="is not listed"):
        check_manifest(bundle)
    write_manifest(bundle)
    (bundle / "evil_module.py").unlink()
    check_manifest(bundle)
    (bundle / "configs" / "more.yaml").write_text("a: 1")
    with pytest.raises(CaseError, match=r"configs/more\.yaml is not listed"):
        check_manifest(bundle)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_our_bundles_are_those_of_their_manifests(bundle):
    """Where this fails after a change of configurations or weights: ``make manifests``."""
    assert json.loads((bundle / MANIFEST).read_text())["folders"] == ["configs", "models"]
    check_manifest(bundle)


def test_a_manifest_tells_of_changed_missing_and_new_files(tmp_path):
    bundle = evil_bundle(tmp_path, "")
    assert CliRunner().invoke(app, ["lint-bundle", str(bundle), "--write-manifest"]).exit_code == 0
    check_manifest(bundle)
    hashes = json.loads((bundle / MANIFEST).read_text())["sha256"]
    assert set(hashes) == {"evil_module.py"} | {f"configs/{p.name}" for p in (BUNDLE / "configs").iterdir()}
    (bundle / "evil_module.py").write_text("x = 2")
    with pytest.raises(CaseError, match=r"evil_module\.py is changed"):
        check_manifest(bundle)
    (bundle / "evil_module.py").rename(bundle / "other.py")
    with pytest.raises(CaseError, match=r"evil_module\.py is missing, other\.py is not listed"):
        check_manifest(bundle)
    write_manifest(bundle)
    check_manifest(bundle)
    (bundle / MANIFEST).write_text("[]")
    with pytest.raises(CaseError, match="manifest cannot be read"):
        check_manifest(bundle)
