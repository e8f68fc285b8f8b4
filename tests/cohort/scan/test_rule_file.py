"""Rule files of others: references that multiply and patterns that never end are refused before they cost anything."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from differseg_med.cohort.scan.rule_file import MAX_NODES, MAX_TEXT, check_pattern, read_yaml
from differseg_med.cohort.scan.rules import PRESETS, load_rules
from differseg_med.errors import CaseError

REPEATED = "repeats a group that holds"
WAYS = "can share out a text in"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^(a+)+$", REPEATED),
        ("(a|a)*$", REPEATED),
        ("^(a|aa)+$", REPEATED),
        (r"^(\w+\s?)*$", REPEATED),
        ("(?:a|b){2,}", REPEATED),
        ("(?P<x>(a*)b)+", REPEATED),
        ("(.*.*.*.*.*)x", WAYS),
        ("(a?){30}", WAYS),
        ("a?" * 30 + "a" * 30, WAYS),
        ("(a|a)" * 30, WAYS),
        ("(a{1,16}){1,16}b", WAYS),
        ("a**", "is not a regular expression"),
        ("(", "is not a regular expression"),
    ],
)
def test_patterns_that_can_take_forever(pattern, words):
    with pytest.raises(ValueError, match=words):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "t1|mprage",
        "a.*b.*c",
        "(ab)+c",
        "((a))*",
        r"\(+a\)+",
        r"[(+)*]+",
        "(?<![a-z])t1(?!.*x)",
        "b.?(0|50|100)",
        "x{3}",
    ],
)
def test_patterns_that_end(pattern):
    check_pattern(pattern)
    for text in ("a" * MAX_TEXT, "abc" * 42):
        re.search(pattern, text)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_far_from_the_limits(preset):
    load_rules(preset)
    assert (files("differseg_med.cohort.scan") / "presets" / f"{preset}.yaml").stat().st_size < 2**14


def references(depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (references(9), f"multiply to more than {MAX_NODES}"),
        ("&a [*a]", "refer to themselves|not YAML"),
        ("[" * 5000, "too deep|not YAML"),
        ("a: " + "x" * 2**16, "larger than"),
        ("{a: 1", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML"),
        ("a: \udcff", "not YAML"),
    ],
)
def test_files_that_are_none(tmp_path, text, words):
    (tmp_path / "rules.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=words):
        read_yaml(tmp_path / "rules.yaml")
    with pytest.raises(CaseError, match=r"rules.yaml"):
        load_rules(tmp_path / "rules.yaml")


def test_a_few_references_are_followed(tmp_path):
    (tmp_path / "rules.yaml").write_text(references(2), encoding="utf-8")
    assert read_yaml(tmp_path / "rules.yaml")["a1"] == [["x"] * 9] * 9
