"""Look at the built site as a reader does: pictures of pages on a desk and on a phone, and axe's verdict on each.

    make docs
    npm install axe-core
    python scripts/check_pages.py site --axe node_modules/axe-core/axe.min.js --out pages
    python scripts/check_pages.py results --pages report evaluation --axe ...
    python scripts/check_pages.py . --pages ADDRESS --axe ...       # the address that differseg-med view printed

Needs Chromium. Ends with exit code 1 if axe finds a violation that it calls serious or critical, or a page is wider
than the phone. Look at the pictures: no program sees whether a page is ugly.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.browser import chromium

PAGES = ("index", "tutorials/first_segmentation", "reference/commands", "reference/findings", "explanation/slices")
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
AXE = (
    "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(v => [v.impact, v.id, v.help, "
)
AXE += "v.nodes.length, v.nodes.slice(0, 5).map(n => n.target.join(' ')).join(' | ')]))"


def main() -> int:
    """Draw and judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of the npm package axe-core")
    parser.add_argument("--out", type=Path, default=Path("pages"))
    parser.add_argument("--pages", nargs="+", default=PAGES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium is installed")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(program), Path(profile)) as page:
        for number, name in enumerate(arguments.pages):
            address = "://" in name
            for device, size in SIZES.items():
                page.open(name if address else arguments.site / f"{name}.html", size)
                if address:  # of a case that is loaded after the page
                    page.wait("document.body.dataset.shown !== ''")
                picture = page.send("Page.captureScreenshot", format="png")["data"]
                called = f"page{number}" if address else name.replace("/", "_")
                (arguments.out / f"{called}_{device}.png").write_bytes(base64.b64decode(picture))
                width = page.run("document.documentElement.scrollWidth")
                if width > size[0]:
                    print(f"{name}, {device}: {width} px wide, the screen has {size[0]}")
                    wrong += 1
                page.run(arguments.axe.read_text(encoding="utf-8") + "; 0")
                for impact, rule, text, count, places in page.run(AXE):
                    print(f"{name}, {device}: {impact} {rule}, {count} places: {text} ({places})")
                    wrong += impact in ("serious", "critical")
    print(f"{wrong} serious")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
