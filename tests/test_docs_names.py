"""No sentence of README, docs and cards names a command, option, setting, file or function that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from support.docs import (
    COMMAND,
    PAGES,
    ROOT,
    inline_code,
    name_of,
    options_of,
    parse_script,
    shown_commands,
    unknown_options,
    words_of,
)

import differseg_med as ds
from differseg_med.bundles.new import TEMPLATES

OTHERS_OPTIONS = {
    "--gpus", "--gpus-per-task", "--network", "--user", "--rm", "--target", "--shm-size",  # Docker, Slurm
    "--bundle_root", "--config_file", "--output_dir", "--inferer::flip", "--tracking",  # MONAI
    "--logdir",  # TensorBoard
    "--modality", "--kills", "--changes", "--onto", "--faults", "--seed",
    "--conf", "--studies", "--host",  # MONAI Label
    "--logging_file",  # MONAI
}  # fmt: skip
"""Options of other programs that sentences name."""

GROUPS = {name for name, command in COMMAND.commands.items() if getattr(command, "commands", None)}


def walk(command: object) -> Iterator[object]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from walk(child)


ALL_OPTIONS = options_of(*walk(COMMAND))


@cache
def script_options() -> set[str]:
    """Options of all scripts, from their sources."""
    return {
        option
        for script in (ROOT / "scripts").glob("*.py")
        for option in re.findall(r'"(--[a-z][\w-]*)"', script.read_text(encoding="utf-8"))
    }


def commands_in(text: str) -> Iterator[list[str]]:
    """Calls of ``differseg-med``, in blocks and in sentences, there also without its name."""
    for line in shown_commands(text):
        words = words_of(line)
        if words[0] == "differseg-med":
            yield words[1:]
    for code in inline_code(text):
        try:
            words = words_of(code)
        except ValueError:  # a lone quotation mark: not a command
            continue
        if words[:1] == ["differseg-med"]:
            yield words[1:]
        elif len(words) > 1 and _is_call(words):
            yield words


def _is_call(words: list[str]) -> bool:
    """Whether words in a sentence call a command: ``cohort scan ...``, ``predict --formats ...``."""
    if words[0] in GROUPS:
        return bool(re.fullmatch(r"[a-z]\w+", words[1]))
    return words[0] in COMMAND.commands and words[1].startswith("--")


def wrong_names(text: str) -> list[str]:
    """What a page names and the package has not."""
    wrong = [" ".join(words) for words in commands_in(text) if _refused(words)]
    for code in inline_code(text):
        options = re.findall(r"(?<![\w-])--[a-z][\w:-]*", code)
        wrong += [option for option in options if option not in ALL_OPTIONS | script_options() | OTHERS_OPTIONS]
        wrong += [code for name in re.findall(r"\bds\.(\w+)", code) if name not in ds.__all__]
        wrong += [code for name in re.findall(r"\b(differseg_med(?:\.\w+)+)", code) if not _importable(name)]
        wrong += [code for target in re.findall(r"^make (\w+)", code) if target not in _targets()]
    wrong += [
        extra
        for extras in re.findall(r"differseg-med\[([\w,-]+)\]", text)
        for extra in extras.split(",")
        if f"\n{extra} = [" not in _read("pyproject.toml")
    ]
    wrong += [name for name in re.findall(r"\bDIFFERSEG_[A-Z_]+", text) if name not in _sources()]
    return wrong + [setting for setting in _settings(text) if setting.split("::")[-1] not in _known_settings()]


def _refused(words: list[str]) -> bool:
    try:
        return bool(unknown_options(words))
    except AssertionError:
        return True


def _settings(text: str) -> Iterator[str]:
    yield from re.findall(r"--set [\"']?([a-z][\w:]*)=", re.sub(r"\s+", " ", text))


@cache
def _known_settings() -> set[str]:
    """Names of entries of bundles' configurations and presets, and of the arguments of what they build."""
    names = {"name", "cutout", "overlay"}  # the last two: entries of the writers of 2-D images
    for path in [*ROOT.glob("bundles/*/configs/*.yaml"), *ROOT.glob("configs/*.yaml")]:
        names |= set(_keys(yaml.safe_load(path.read_text(encoding="utf-8"))))
    return names | set(re.findall(r"^ +(\w+): .*= ", _sources(), re.M))


def _keys(entry: object) -> Iterator[str]:
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield str(key).lstrip("+").split("::")[-1]
            yield from _keys(value)


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@cache
def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def _sources() -> str:
    folders = ("differseg_med", "tests_foreign", "tests_label")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@cache
def _targets() -> list[str]:
    return re.findall(r"^(\w+):", _read("Makefile"), re.M)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_what_does_not_exist(page: Path) -> None:
    assert wrong_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "`differseg-med predict --cohort a.csv --colour red`",
        "`differseg-med paint --out x`",
        "`cohort paint x.csv`",
        "`predict --colours`",
        "Say `--colour` to it.",
        "\n    differseg-med cohort scan X --shade\n",
        "`ds.paint(x)` or `ds.segment`",
        "`differseg_med.networks.Paint`",
        "`make paint`",
        '    pip install "differseg-med[paint]"',
        "DIFFERSEG_PAINT",
        "`--set colour_of_paint=red`",
    ],
)
def test_a_name_that_does_not_exist_is_found(text: str) -> None:
    assert wrong_names(text) != []


def scripts_in(page: Path) -> list[list[str]]:
    lines = shown_commands(page.read_text(encoding="utf-8"))
    lines += [code for code in inline_code(page.read_text(encoding="utf-8")) if code.startswith("python scripts/")]
    return [words_of(line)[1:] for line in lines if line.startswith("python scripts/")]


@pytest.mark.parametrize("page", [page for page in PAGES if scripts_in(page)], ids=name_of)
def test_scripts_know_the_arguments_that_are_shown(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in scripts_in(page):
        parse_script(words, monkeypatch)


def test_arguments_that_a_script_does_not_know_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse_script(["scripts/make_multiphase_ct.py", "--colour", "red"], monkeypatch)


def missing_files(page: Path, text: str) -> list[str]:
    """Files of the repository that a page names in code, and targets of its links, that are not there."""
    tops = r"bundles/\w+_segmentation|configs|scripts|tests|differseg_med|docs"
    named = set(re.findall(rf"(?<![\w./])((?:{tops})/[\w./-]*[\w/])", text))
    named = {path for path in named if not any((base / path).exists() for base in (ROOT, page.parent))}
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return [path for path in named if not made_by_commands(path)] + [
        link for link in links if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    ]


def made_by_commands(path: str) -> bool:
    """Files inside of a bundle or a run that commands write: they are in no clone."""
    made = r"docs/(PLAN|fingerprint)|^configs/(inference|train|evaluate|metadata)|README.md$|bundles/ms_lesion_mri"
    return bool(re.search(made, path))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    assert missing_files(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", ["`scripts/paint.py`", "see [there](paint.md)", "docs/paint.md says so"])
def test_a_file_that_does_not_exist_is_found(text: str) -> None:
    assert len(missing_files(PAGES[0], text)) == 1


def headings(card: Path) -> list[str]:
    return re.findall(r"^##+ .*", card.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("card", [page for page in PAGES if page.parts[-4:-3] == ("bundles",)], ids=name_of)
def test_cards_have_the_headings_of_the_templates(card: Path) -> None:
    volume, image2d = (headings(TEMPLATES / sort / "README.md") for sort in ("volume", "image2d"))
    assert headings(card) == volume == image2d


def test_every_page_is_in_the_site() -> None:
    """What ``make docs`` refuses, without building it."""
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    cards = {f"bundles/{path.parents[1].name}.md" for path in ROOT.glob("bundles/*/docs/README.md")}
    assert (pages | cards) - listed == set()
