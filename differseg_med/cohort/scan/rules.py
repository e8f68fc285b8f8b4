"""Rules that say which series, or which file, is which modality.

A rule file is YAML with three lists, tried in the order ``ignore``, ``modalities``; the first rule that fits wins::

    ignore:                               # series that nobody wants: localizers, reports, screenshots
      - {description: "localizer|scout"}
    modalities:
      - name: t1                          # column of the cohort table
        modality: MR                      # Modality of the series
        kind: mr                          # what kind of image it is, where Modality does not tell: cbct for example
        description: "t1|mprage"          # regex, any case, on SeriesDescription or ProtocolName
        not: "flair"                      # regex that must not be found there
        where: {EchoTime: "< 30", SliceThickness: 1 to 5, ImageType: [ORIGINAL, DERIVED]}
        orientation: axial                # or coronal, sagittal
        file: "t1"                        # regex on the name of a NIfTI, NRRD or MHA file
    labels:
      - {roi: gtv|tumou?r, file: "mask|label|seg"}

A condition under ``where`` is a comparison (``"> 60"``, ``"!= 0"``), a range (``"1 to 5"``, ends included), a list of
allowed values, a regex (``"~ ^BRAIN"``), ``present``, ``absent``, or a value. A tag with several values fits if one of
them does. Rules look at tags that do not identify a patient. A fourth part, ``words``, names parts of regexes:
``words: {t1: "(^|[^a-z])t1"}`` and then ``description: "{t1}|mprage"``. A fifth, ``columns: [t1, adc]``, gives the
columns of the table another order than that of the rules: masks are drawn on the first.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from differseg_med.cohort.scan.rule_file import MAX_TEXT, check_pattern, read_yaml
from differseg_med.errors import CaseError
from differseg_med.modality import KINDS, kind_of_dicom

PRESETS = ("default", "mr", "ct", "pet")
ORIENTATIONS = ("sagittal", "coronal", "axial")  # in the order of the axis that the slices are stacked along: R, A, S
COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
MATCH = "~"
"""Begins a condition that is a regular expression."""
_COMPARISON = re.compile(r"(<=|>=|!=|<|>|=)\s*(\S+)")
_RANGE = re.compile(r"(-?[\d.]+(?:e-?\d+)?)\s+to\s+(-?[\d.]+(?:e-?\d+)?)", re.IGNORECASE)

SeriesTags = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule; parts that are not given fit everything, except that a file needs ``file``.

    Args:
        name: modality, a column of the cohort table; empty for what is ignored.
        modality: DICOM Modality (CT, MR, PT).
        kind: one of `differseg_med.modality.KINDS`; empty for what DICOM says.
        description: regex on SeriesDescription or ProtocolName, any case.
        exclude: regex that neither may contain (``not`` in YAML).
        where: conditions on tags by keyword.
        orientation: ``axial``, ``coronal`` or ``sagittal``: the nearest plane of the slices.
        file: regex on the file's name, for files without tags.
    """

    name: str = ""
    modality: str = ""
    description: str = ""
    exclude: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    orientation: str = ""
    file: str = ""
    kind: str = ""

    def kind_of(self, modality: str = "") -> str:
        """What kind of image this is: as the rule says, else by the image's Modality, else by the rule's; or empty."""
        return self.kind or kind_of_dicom(modality or self.modality) or ""

    def fits_series(self, tags: SeriesTags) -> bool:
        """Whether a DICOM series with these tags is meant."""
        if not (self.modality or self.description or self.where or self.orientation):
            return False  # a rule for files only
        texts = [str(tags.get(key, "")) for key in ("SeriesDescription", "ProtocolName")]
        return (
            (not self.modality or str(tags.get("Modality", "")).upper() == self.modality.upper())
            and (not self.description or any(found(self.description, text) for text in texts))
            and not (self.exclude and any(found(self.exclude, text) for text in texts))
            and all(holds(condition, tags.get(tag)) for tag, condition in self.where.items())
            and (not self.orientation or orientation(tags) == self.orientation)
        )

    def fits_file(self, name: str) -> bool:
        """Whether a file of this name is meant."""
        return bool(self.file) and found(self.file, name)


@dataclass(frozen=True)
class LabelRule:
    """What a label is called: a regex on the names of ROIs and segments, and one on the names of files."""

    roi: str = ""
    file: str = ""


@dataclass(frozen=True)
class Rules:
    """The content of a rule file."""

    modalities: tuple[Rule, ...]
    ignore: tuple[Rule, ...] = ()
    labels: tuple[LabelRule, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities in the order of ``columns``, then in that of the rules, each once."""
        return tuple(dict.fromkeys((*self.columns, *(rule.name for rule in self.modalities))))

    def match_series(self, tags: SeriesTags) -> Rule | None:
        """The first rule that fits a series; one without a name if it is to be ignored, None if no rule fits."""
        return next((rule for rule in (*self.ignore, *self.modalities) if rule.fits_series(tags)), None)

    def match_file(self, name: str) -> Rule | None:
        """The first rule that fits a file's name, as `match_series`."""
        return next((rule for rule in (*self.ignore, *self.modalities) if rule.fits_file(name)), None)

    def label_file(self, name: str) -> LabelRule | None:
        """The first label rule that fits a file's name."""
        return next((rule for rule in self.labels if rule.file and found(rule.file, name)), None)

    def rank(self, rule: Rule) -> int:
        """Place of a rule in the file: of two rules with one name the earlier is preferred."""
        return self.modalities.index(rule)


def load_rules(source: str | Path = "default") -> Rules:
    """Read a rule file, or one of the `PRESETS` by name.

    Raises:
        CaseError: for a file that is not there or no YAML, unknown words, a regex or a condition that cannot be read.
    """
    if str(source) in PRESETS:
        path = Path(str(files("differseg_med.cohort.scan") / "presets" / f"{source}.yaml"))
    else:
        path = Path(source)
    if not path.is_file():
        raise CaseError("there is no such rule file", file=path, expected=f"a YAML file, or one of {list(PRESETS)}")
    try:
        return parse_rules(read_yaml(path))
    except ValueError as error:
        raise CaseError(str(error), file=path, remedy="See docs/dicom_to_model.md for the form of rules.") from error


def parse_rules(content: Any) -> Rules:
    """Rules from the content of a YAML file.

    Raises:
        ValueError: that says what is wrong with which rule.
    """
    if not isinstance(content, Mapping) or not content.get("modalities"):
        raise ValueError("a rule file needs a list 'modalities'")
    if unknown := sorted(set(content) - {"words", "columns", "modalities", "ignore", "labels"}):
        raise ValueError(f"unknown word {unknown[0]!r}: a rule file has words, columns, modalities, ignore, labels")
    words = content.get("words") or {}
    if not isinstance(words, Mapping) or not all(isinstance(part, str) for pair in words.items() for part in pair):
        raise ValueError("words is a mapping from names to parts of regular expressions")
    content = _spelt_out(content, words)
    modalities = tuple(_rule(entry, f"rule {n} of modalities") for n, entry in enumerate(content["modalities"], 1))
    for number, rule in enumerate(modalities, start=1):
        if not re.fullmatch(r"\w+", rule.name):
            raise ValueError(f"rule {number} of modalities needs a name of letters, digits and _")
    ignore = tuple(_rule(entry, f"rule {n} of ignore") for n, entry in enumerate(content.get("ignore") or (), 1))
    if any(rule.name for rule in ignore):
        raise ValueError("a rule under ignore has no name")
    labels = tuple(_label_rule(entry, f"rule {n} of labels") for n, entry in enumerate(content.get("labels") or (), 1))
    columns = content.get("columns") or ()
    if not isinstance(columns, list | tuple) or not {*columns} <= {rule.name for rule in modalities}:
        raise ValueError("columns is a list of names of modalities")
    return Rules(modalities, ignore, labels, tuple(columns))


def _spelt_out(value: Any, words: Mapping[str, str]) -> Any:
    """The content of a rule file with the braces around names of ``words`` filled; other braces belong to the regex."""
    if isinstance(value, Mapping):
        return {key: _spelt_out(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelt_out(item, words) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), value)


def _rule(entry: Any, where: str) -> Rule:
    words = _words(entry, ("name", "modality", "kind", "description", "not", "where", "orientation", "file"), where)
    words["exclude"] = words.pop("not", "")
    conditions = words.setdefault("where", {})
    if not isinstance(conditions, Mapping):
        raise ValueError(f"{where}: where is a mapping from tags to conditions")
    for condition in conditions.values():
        if isinstance(condition, str) and condition.startswith(MATCH):
            _check_regex(condition.removeprefix(MATCH).strip(), f"{where}: where")
        holds(condition, 0)  # a comparison that cannot be read is a mistake of the file, not of a series
    if words.get("orientation", "axial") not in ORIENTATIONS:
        raise ValueError(f"{where}: orientation is one of {', '.join(sorted(ORIENTATIONS))}")
    if (kind := words.get("kind", "")) and kind not in KINDS:
        raise ValueError(f"{where}: kind is one of {', '.join(KINDS)}, found {kind!r}")
    for key in ("description", "exclude", "file"):
        _check_regex(words.get(key, ""), f"{where}: {'not' if key == 'exclude' else key}")
    return Rule(**words)


def _label_rule(entry: Any, where: str) -> LabelRule:
    words = _words(entry, ("roi", "file"), where)
    for key, text in words.items():
        _check_regex(text, f"{where}: {key}")
    return LabelRule(**words)


def _words(entry: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is not a mapping")
    if unknown := sorted(str(key) for key in set(entry) - set(known)):
        raise ValueError(f"{where}: unknown word {unknown[0]!r}, expected some of {', '.join(known)}")
    return {str(key): value if key == "where" else str(value) for key, value in entry.items()}


def _check_regex(text: str, where: str) -> None:
    try:
        check_pattern(text)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error


def found(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text (its first `MAX_TEXT` characters), whatever the case."""
    return re.search(pattern, text[:MAX_TEXT], re.IGNORECASE) is not None


def holds(condition: Any, value: Any) -> bool:
    """Whether a tag's value (None: the tag is absent) meets a condition of ``where``.

    Raises:
        ValueError: for a comparison with something that is no number.
    """
    text = str(condition).strip()
    if text in ("present", "absent"):
        return (value not in (None, "", ())) == (text == "present")
    values = value if isinstance(value, tuple | list) else () if value is None else (value,)
    if isinstance(condition, list | tuple):
        return any(_equal(item, wanted) for item in values for wanted in condition)
    if text.startswith(MATCH):
        return any(found(text.removeprefix(MATCH).strip(), str(item)) for item in values)
    if between := _RANGE.fullmatch(text):
        low, high = map(float, between.groups())
        return any(low <= number <= high for number in map(_number, values) if number is not None)
    if comparison := _COMPARISON.fullmatch(text):
        sign, wanted = comparison.groups()
        limit = _number(wanted)
        if limit is None:
            raise ValueError(f"{text!r} compares with something that is no number")
        return any(COMPARISONS[sign](number, limit) for number in map(_number, values) if number is not None)
    return any(_equal(item, condition) for item in values)


def _equal(value: Any, wanted: Any) -> bool:
    a, b = _number(value), _number(wanted)
    if a is not None and b is not None:
        return a == b
    return str(value).strip().casefold() == str(wanted).strip().casefold()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def orientation(tags: SeriesTags) -> str:
    """The nearest plane of a series' slices from ImageOrientationPatient; empty if it is not known."""
    cosines = np.asarray(tags.get("ImageOrientationPatient", ()), dtype=float)
    if cosines.shape != (6,):
        return ""
    return ORIENTATIONS[int(np.abs(np.cross(cosines[:3], cosines[3:])).argmax())]
