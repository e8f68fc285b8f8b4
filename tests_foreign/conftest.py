"""Nothing is skipped here: `make test-foreign` installs what these tests need, and what is missing fails them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.browser import Page, chromium


@pytest.fixture(scope="session")
def require_program() -> Callable[..., Path]:
    """As in ``tests``, but a program that is missing is a failure whatever CI says."""

    def find(name: str, package: str = "") -> Path:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        assert found, f"no program {name}: install the Debian package {package or name.lower()}"
        return Path(found)

    return find


@pytest.fixture(scope="session")
def node_modules() -> Path:
    folder = Path(os.environ.get("DIFFERSEG_NODE_MODULES", ""))
    assert (folder / "dcmjs").is_dir(), "DIFFERSEG_NODE_MODULES names no folder with dcmjs: run make test-foreign"
    return folder


@pytest.fixture(scope="session")
def browser(require_program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(require_program("chromium"), tmp_path_factory.mktemp("profile")) as page:
        yield page
