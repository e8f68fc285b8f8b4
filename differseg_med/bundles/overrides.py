"""What is given to ``python -m monai.bundle run`` beside the files: MONAI takes any name, also what nothing reads."""

from __future__ import annotations

import inspect
from types import FrameType

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import run

from differseg_med.bundles.configuration import SEP, Configuration
from differseg_med.errors import CaseError

_OWN = {*inspect.signature(run).parameters, *inspect.signature(ConfigWorkflow).parameters, "bundle_root"}
"""Arguments of MONAI itself, and the entry that its programs give to every bundle."""


def refuse_unread() -> None:
    """Refuse a misspelt or unused override before anything is computed.

    A factory that every run needs calls this: nothing of ours is called earlier, and MONAI hands the names to nobody,
    so that they are looked up in its own frame.

    Raises:
        CaseError: naming the override, and the arguments of that name if there are any.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not run.__code__:
        frame = frame.f_back
    workflow = None if frame is None else frame.f_locals.get("workflow")
    if frame is None or not isinstance(workflow, ConfigWorkflow):
        return
    configuration = Configuration(workflow.parser, [])
    read = configuration.read_entries()
    for given in _given(frame):
        name = given.replace("#", SEP).lstrip("+")
        if given in _OWN or name.split(SEP)[0] == "_meta_" or name in read:
            continue
        found = configuration.candidates(name)
        raise CaseError(
            f"--{given}: nothing in this run reads {name!r}",
            expected=" or ".join(f"--{place}" for place in found) or None,
            remedy="Leave it out, or set the argument that is meant: --component::argument value.",
        )


def _given(frame: FrameType) -> list[str]:
    """Names of what was given; MONAI takes None for nothing."""
    file, own = frame.f_locals.get("args_file"), frame.f_locals.get("override", {})
    given = {**(ConfigParser.load_config_files(file) if file else {}), **own}
    return [name for name, value in given.items() if value is not None]
