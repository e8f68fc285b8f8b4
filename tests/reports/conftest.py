"""One browser for all tests of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.browser import Page, chromium


@pytest.fixture(scope="package")
def browser(require_program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(require_program("chromium"), tmp_path_factory.mktemp("profile")) as page:
        yield page
