"""Paths and names put together from pieces: what no single entry shows, the lint finds by following references."""

from __future__ import annotations

import json

import pytest
import yaml

from differseg_med.bundles.lint import lint_files
from differseg_med.errors import CaseError

PATHS = {  # each would read or write outside the bundle and the output
    "an empty beginning": {"empty": "", "x": "$@empty + '/home/other'"},
    "an empty beginning of an empty one": {"e": "", "f": "$@e + @e", "x": "$@f + '/home'"},
    "an empty folder of the run": {"output_dir": "", "x": "$@output_dir + '/home'"},
    "a name with a slash": {"a": "x", "s": "$@a + '/..'", "x": "$@s + '/../../y'"},
    "dots apart": {"dot": ".", "x": "$@dot + './etc'"},
    "dots in constants": {"x": "$@bundle_root + '/.' + './.' + './y'"},
    "dots joined": {"x": "$os.path.join(@bundle_root, '.' + '.')"},
    "beside the output": {"x": "$@output_dir + '2/y'"},
    "dots behind a folder": {"x": "$@output_dir + '/a/../../y'"},
    "a part of a text": {"a": "x/etc/passwd", "x": "$@a[1:]"},
    "a character of a folder": {"x": "$@bundle_root[0] + 'home'"},
    "a character by the least": {"a": "x/", "x": "$min(@a) + 'home'"},
    "characters in a list": {"a": "x/", "x": "$list(@a)[1]"},
    "characters sorted": {"a": "x/", "x": "$sorted(@a)[0]"},
    "characters starred": {"a": "x/", "x": "$[*@a][1]"},
    "characters zipped": {"a": "x/", "x": "$list(zip(@a))"},
    "a text repeated": {"dot": ".", "x": "$@dot * 2"},
    "a text repeated in place": {"x": "$'.' * 2"},
    "a format of a constant": {"x": "$'%s' % '/etc'"},
    "a format of an entry": {"f": "x%c", "x": "$@f % 47"},
    "a format in a list": {"x": "$['%c'][0] % 47"},
    "a choice": {"x": "$'/etc' if 1 else 'a'"},
    "one of two": {"e": "", "x": "$@e or '/etc'"},
    "a join with an empty one": {"e": "", "x": "$os.path.join(@e, 'etc')"},
    "a join with a root": {"x": "$os.path.join(@bundle_root, '/etc')"},
    "a folder above": {"x": "$os.path.dirname(@bundle_root)"},
    "a name and dots": {"x": "$os.path.basename(@bundle_root) + '/..'"},
    "a list of pieces": {"l": ["", "/etc"], "x": "$@l[0] + @l[1]"},
    "a dictionary of pieces": {"d": {"a": "", "b": "etc"}, "x": "$@d['a'] + '/' + @d['b']"},
    "nested pieces": {"a": {"b": {"c": ""}}, "x": "$@a::b::c + '/etc'"},
    "a long way": {f"a{n}": f"@a{n + 1}" for n in range(50)} | {"a50": "", "x": "$@a0 + '/etc'"},
    "a circle beside": {"a": "@b", "+a": "", "b": "@a", "x": "$@b + '/etc'"},
    "old separators": {"a": {"b": ""}, "x": "$@a#b + '/etc'"},
    "a macro of pieces": {"a": {"b": ""}, "m": "%a", "x": "$@m::b + '/etc'"},
    "a merged piece": {"a": {"b": "x"}, "+a": {"b": ""}, "x": "$@a::b + '/etc'"},
    "a piece by a long key": {"a": {"b": "x"}, "a::b": "", "x": "$@a::b + '/etc'"},
    "a relative piece": {"a": {"e": "", "x": "$@::e + '/etc'"}},
    "a text of an object": {"o": {"_target_": "torch.nn.Identity"}, "x": "$str(@o) + '/etc'"},
    "a text of a list": {"x": "$str(['/etc'])"},
    "metadata": {"x": "$@_meta_::nothing + '/etc'", "_meta_": {"nothing": ""}},
    "bytes": {"x": b"/etc"},
    "the user's data": {
        "dataset_dir": "/home/other",
        "x": {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@dataset_dir"},
    },
    "the user's data by a macro": {"dataset_dir": "/home/other", "x": {"output_dir": "%dataset_dir"}},
    "the user's data with an end": {"dataset_dir": "/home/other", "x": {"output_dir": "$@dataset_dir + '/y'"}},
    "the user's data elsewhere": {"x": {"dataset_dir": "/home/other"}},
    "the user's data by another name": {"dataset_dir": "/home/o", "a": "@dataset_dir", "x": {"log_dir": "@a"}},
    "a drive": {"x": "C:windows"},
    "an address": {"x": {"_target_": "HoVerNet", "pretrained_url": "https://example.org/x"}},
    "an address in pieces": {"a": "https:/", "x": {"pretrained_url": "$@a + '/example.org'"}},
    "a file's address": {"x": "file:///etc/passwd"},
    "a hub": {"x": {"_target_": "differseg_med.bundle.DifferSeg", "encoder": "hf-hub:someone/something"}},
}

TWICE = '{"x": "$exit()", "x": 1}'

NAMES = {  # each would run a function of the bundle's choice
    "a reader by reference": {"r": "os.system", "x": {"_target_": "LoadImaged", "keys": "i", "reader": "@r"}},
    "a reader in pieces": {"x": {"_target_": "LoadImaged", "keys": "i", "reader": "$'os.' + 'system'"}},
    "a reader by macro": {"r": "os.system", "x": {"_target_": "LoadImaged", "keys": "i", "reader": "%r"}},
    "a reader in a list": {"r": "os.system", "x": {"_target_": "LoadImaged", "reader": ["ITKReader", "@r"]}},
    "a reader by merging": {"x": {"_target_": "LoadImaged", "keys": "i"}, "+x": {"reader": "os.system"}},
    "a reader by a long key": {"x": {"_target_": "LoadImaged", "keys": "i"}, "x#reader": "os.system"},
    "a reader by its place": {"l": {"_target_": "LoadImage", "_mode_": "callable"}, "x": "$@l('os.system')"},
    "a reader sorted": {"l": {"_target_": "LoadImage", "_mode_": "callable"}, "x": "$sorted(['a'], key=@l)"},
    "a reader by a data set": {
        "l": {"_target_": "LoadImage", "_mode_": "callable"},
        "x": {"_target_": "Dataset", "data": ["os.system"], "transform": "@l"},
    },
    "a mode by reference": {"m": "debug", "x": {"_target_": "Compose", "_mode_": "@m"}},
    "a mode by merging": {"x": {"_target_": "LoadImage"}, "+x": {"_mode_": "callable"}, "y": "$@x('os.system')"},
    "a mode before its class": {"x": {"_target_": "Compose", "_mode_": "callable"}, "+x": {"_target_": "LoadImage"}},
    "a debugger": {"x": {"_target_": "Compose", "_debug_": True}},
    "a pickle": {"x": {"_target_": "LoadImaged", "keys": "i", "reader": "NumpyReader", "allow_pickle": True}},
    "a pickle by reference": {"p": True, "x": {"_target_": "LoadImaged", "keys": "i", "allow_pickle": "@p"}},
    "a merger": {"x": {"_target_": "PatchInferer", "merger_cls": "my_module.Merger"}},
    "a command of MONAI's": {"x": {"_target_": "AutoRunner", "work_dir": "x"}},
    "a generator of code": {"x": {"_target_": "BundleGen"}},
    "a download": {"x": {"_target_": "DecathlonDataset", "root_dir": "x", "task": "y", "download": True}},
    "a hub's code": {"x": {"_target_": "PerceptualLoss", "spatial_dims": 3}},
    "a camera": {"x": {"_target_": "CameraDataset"}},
    "a module in the folder": {"x": {"_target_": "Evil"}},
    "a name from elsewhere": {"x": {"_target_": "monai.data.dataset.ThreadPool"}},
    "a file of a name from elsewhere": {"x": {"_target_": "monai.data.wsi_reader.TiffFile", "arg": "x"}},
    "no factory": {"x": {"_target_": "differseg_med.bundle.annotations"}},
    "a target of another file": {"x": {"_target_": "%other.yaml::x"}},
    "all references": {"x": "$__local_refs"},
    "a reference by a computed name": {"x": "$__local_refs['a' + 'b']"},
    "arguments from a dictionary": {"x": "$torch.device(**@d)"},
    "a disabled one": {"x": {"_target_": "os.system", "_disabled_": True}},
    "an expression that disables": {"x": {"_target_": "Compose", "_disabled_": "$exit()"}},
    "an expression that is required": {"x": {"_target_": "Compose", "_requires_": ["$exit()"]}},
    "a key that is pasted": {"q, __import__('os').system('x'), [0": {"y": "$@z[@::a]"}},
    "an import in a place of its own": {"x": {"y": [{"z": "$import shutil"}]}},
    "a second import": {"x": "$import os, subprocess"},
    "a renamed import": {"x": "$import os as torch"},
    "pairs": "x: !!pairs [a: $exit()]",
    "a key twice": TWICE,
}

PASSES = {
    "folders": {"bundle_root": ".", "a": "$@bundle_root + '/models'", "b": "$@a + '/model' + '.pt'"},
    "joined": {"name": "model.pt", "a": "$os.path.join(@output_dir, 'a', @name)"},
    "numbered": {"n": 3, "a": "$@output_dir + '/fold' + str(@n)"},
    "names": {"key": "image", "a": "$@key + '_meta_dict'"},
    "numbers": {"a": 2, "b": [1, 2], "c": "$@a * len(@b) + @b[0] % 2", "d": "$[0] * 3"},
    "data": {
        "dataset_dir": "/data/x",
        "d": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "e": {"_target_": "Dataset", "data": "@d"},
        "f": "$@d[:-9]",
    },
    "a relative reference": {"a": {"b": 1, "c": "@::b"}},
    "a reader": {"r": "NibabelReader", "x": {"_target_": "LoadImaged", "keys": "i", "reader": "@r"}},
    "a call later": {"x": {"_target_": "torch.nn.Identity", "_mode_": "callable"}},
    "words": {"_meta_": {"schema": "https://example.org", "note": "~5 mm: A: b"}},
}


def refused(content, folder, ending=".yaml") -> list[str]:
    file = folder / f"a{ending}"
    text = json.dumps(content) if ending == ".json" else yaml.safe_dump(content)
    file.write_text(content if isinstance(content, str) else text)
    return [str(line) for line in lint_files([file])]


@pytest.mark.parametrize("name", [*PATHS, *NAMES])
def test_what_is_put_together_is_refused(name, tmp_path):
    content = {**PATHS, **NAMES}[name]
    if content != TWICE:
        assert refused(content, tmp_path)
        return
    with pytest.raises(CaseError, match="is there twice"):
        refused(content, tmp_path, ".json")


@pytest.mark.parametrize("name", PASSES)
def test_what_bundles_need_passes(name, tmp_path):
    assert refused(PASSES[name], tmp_path) == []
    assert refused(PASSES[name], tmp_path, ".json") == []


def test_pieces_in_two_files_are_found(tmp_path):
    (tmp_path / "inference.yaml").write_text("cache: ''")
    (tmp_path / "train.yaml").write_text("x: $@cache + '/home/other'")
    files = [tmp_path / "inference.yaml", tmp_path / "train.yaml"]
    assert [line.file for line in lint_files(files)] == ["train.yaml"]


def test_an_endless_web_of_references_ends(tmp_path):
    web = {f"a{n}": f"$@a{n + 1} + @a{n + 1}" for n in range(60)} | {"a60": "x", "circle": "$@circle + '/x'"}
    assert refused(web, tmp_path)
    wide = {f"a{n}": f"$[@a{n + 1}, @a{n + 1}]" for n in range(60)} | {"a60": "x"}
    assert refused(wide, tmp_path)


def test_enough_is_tried():
    assert len(PATHS) + len(NAMES) >= 80
