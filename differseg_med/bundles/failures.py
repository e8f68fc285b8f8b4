"""What stopped MONAI while it built or ran a configuration, in one line instead of its traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from monai.bundle.config_item import ConfigComponent, ConfigExpression, ConfigItem
from monai.utils import CompInitMode

from differseg_med.bundles.arguments import (
    RESERVED,
    Problem,
    argument_problem,
    component_of,
    problem_of,
    target_problem,
)
from differseg_med.bundles.configuration import SEP, STEPS, Configuration
from differseg_med.errors import CaseError, ConfigError, os_problem

EXTRAS = ("mlflow", "tensorboard")
"""Loggers that handlers of MONAI ask for, each an extra of the package."""


def explained(error: BaseException, configuration: Configuration | None = None) -> CaseError | None:
    """The problem behind an exception that MONAI wrapped.

    Args:
        error: what was raised while a configuration was built or run.
        configuration: says in which file an entry stands.

    Returns:
        The `CaseError` that a part raised, what the system refused to a run, or a `ConfigError` for the entry that
        could not be built; None for a fault of the program, whose traceback is worth having.
    """
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ConfigError):
            return cause if configuration is None or cause.file or cause.given else configuration.located(cause)
        if isinstance(cause, CaseError):
            item = _item(error)
            return cause if item is None or _is_step(item) or cause.case else _of_entry(item, cause, configuration)
    item = _item(error)
    if item is not None and _is_step(item):  # a run stopped by the disk is nothing of the configuration's
        return next((os_problem(cause) for cause in chain if isinstance(cause, OSError)), None)
    if item is None or not isinstance(error, Exception):
        return None
    problem = _problem(item, chain[min(1, len(chain) - 1)])  # what the component raised; the first one is MONAI's
    return _placed(item.get_id(), problem, configuration)


def _of_entry(item: ConfigItem, error: CaseError, configuration: Configuration | None) -> CaseError:
    """An error that a factory raised: of files and tables it says enough, of arguments it lacks the entry."""
    if error.file is not None or not isinstance(item, ConfigComponent):
        return error
    named = problem_of(error.problem, _arguments(item))
    found = "" if error.found is None else str(error.found)
    problem = Problem(named.argument, error.problem, str(error.expected or ""), found, error.remedy)
    return _placed(item.get_id(), problem, configuration)


def _placed(entry: str, problem: Problem, configuration: Configuration | None) -> ConfigError:
    if configuration is not None:
        return configuration.error(entry, problem)
    return ConfigError(
        problem.text,
        entry=f"{entry}{SEP}{problem.argument}" if problem.argument else entry,
        expected=problem.expected or None,
        found=problem.found or None,
        remedy=problem.remedy,
    )


def _problem(item: ConfigItem, cause: BaseException) -> Problem:
    """What is wrong with the entry that could not be built."""
    if isinstance(item, ConfigComponent):
        config, target = item.get_config(), item.resolve_module_name()
        if problem := target_problem(target):
            return problem
        component = component_of(target)
        arguments = _arguments(item)
        partial = config.get("_mode_") == CompInitMode.CALLABLE
        if component is not None and (problem := argument_problem(component, arguments, partial)):
            return problem
    text = str(cause).strip().split("\n")[0].rstrip(".") or type(cause).__name__
    if missing := next((name for name in EXTRAS if isinstance(cause, ImportError) and name in text.lower()), ""):
        return Problem("", f"{missing} is not installed", "", "", f'Run pip install "differseg-med[{missing}]"')
    if isinstance(cause, ValueError):
        return problem_of(text, _arguments(item))
    return Problem("", f"{text} ({type(cause).__name__})", "", "")


def _arguments(item: ConfigItem) -> dict[str, Any]:
    config = item.get_config()
    return {name: value for name, value in config.items() if name not in RESERVED} if isinstance(config, dict) else {}


def _is_step(item: ConfigItem) -> bool:
    """Whether the item is what a run does, not what it is made of."""
    return isinstance(item, ConfigExpression) and item.get_id().split(SEP)[0] in STEPS


def _item(error: BaseException) -> ConfigItem | None:
    """The entry that MONAI was at: its outermost frame in the traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        item = frame.f_locals.get("self")
        if isinstance(item, ConfigItem):
            return item
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def tell_in_one_line() -> None:
    """End ``python -m monai.bundle`` with the one line of `explained` where there is one.

    Other programs that import the package are left as they are.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or not main.name.startswith("monai.bundle"):
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        found = explained(error)
        if found is None:
            usual(kind, error, where)
        else:
            sys.stderr.write(f"{found}\n")

    sys.excepthook = hook
