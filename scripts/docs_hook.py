"""Hooks of MkDocs: pages that the code writes, pages from outside of docs/, and links that lead to either.

``README.md`` is the first page. A link in it, or in a bundle's card, is written as it must be for readers of the
repository; the site has the same files elsewhere, so that links are turned here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from docs_pages import PAGES, notebook_page

ROOT = Path(__file__).parents[1]
OUTSIDE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
OUTSIDE |= {
    f"bundles/{path.parents[1].name}.md": str(path.relative_to(ROOT)) for path in ROOT.glob("bundles/*/docs/README.md")
}
"""Pages by their place in the site, and the files of the repository that they are."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for uri, source in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    for uri, write in PAGES.items():
        files.append(File.generated(config, uri, content=write()))
    for script in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        files.append(File.generated(config, f"notebooks/{script.stem}.md", content=notebook_page(script)))
        files.remove(files.src_uris[f"notebooks/{script.name}"])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    uri = page.file.src_uri
    source = OUTSIDE.get(uri, f"docs/{uri}")
    return LINK.sub(lambda match: _turned(match, source, uri), markdown)


def _turned(match: re.Match[str], source: str, uri: str) -> str:
    """A link as the page at ``uri`` needs it; one to a file that is no page becomes its text."""
    image, text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if re.match(r"[a-z]+:", target) or not path:
        return match[0]
    there = normpath(str(PurePosixPath(source).parent / path))
    place = {file: page for page, file in OUTSIDE.items()}.get(there, there.removeprefix("docs/"))
    if place == there and (ROOT / there).exists():
        return text
    return f"{image}[{_plain(text, source, uri)}]({relpath(place, PurePosixPath(uri).parent)}{hash_}{anchor})"


def _plain(text: str, source: str, uri: str) -> str:
    """The text of a link, of which an image's link is turned as well."""
    return LINK.sub(lambda match: _turned(match, source, uri), text)
