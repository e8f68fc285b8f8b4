"""What an installation brings: no library under the GPL unless its extra is asked for."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("codecs", "export", "mlflow", "onnxruntime", "openvino", "pacs", "tensorboard", "xlsx")
GPL = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public")


def wanted(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def brought(requirements: list[str]) -> set[str]:
    """Names of all installed packages that these need, and what those need, by their metadata."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        needed = todo.pop()
        key = (re.sub(r"[-_.]+", "-", needed.name).lower(), frozenset(needed.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            more = [Requirement(text) for text in distribution(needed.name).requires or []]
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        todo += [one for one in more if wanted(one, key[1])]
    return {name for name, _ in seen}


def licence(name: str) -> str:
    """What a package's metadata say of its licence; a licence's whole text is cut after its title."""
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return ""
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License")]
    return " ".join([metadata.get("License-Expression") or "", (metadata.get("License") or "")[:100], *classifiers])


def test_nothing_under_the_gpl_comes_by_default():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) - {"codecs-gpl", "test", "build", "docs", "slicer", "dev"} == set(EXTRAS)
    found = brought([*PROJECT["dependencies"], *(text for name in EXTRAS for text in extras[name])])
    assert found >= {"torch", "monai", "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "dicomweb-client"}
    assert [name for name in sorted(found) if GPL.search(licence(name))] == []
    assert "pylibjpeg-libjpeg" not in found


def test_the_extra_that_has_it_is_told():
    assert "pylibjpeg-libjpeg" in brought(PROJECT["optional-dependencies"]["codecs-gpl"])
    assert "pylibjpeg-libjpeg" in brought(["pylibjpeg[all]>=2.0"])
    for text, is_gpl in (("GPL V3.0", True), ("GNU General Public License v3", True), ("LGPL-2.1", False)):
        assert bool(GPL.search(text)) is is_gpl
    assert not GPL.search("GNU Lesser General Public License")
