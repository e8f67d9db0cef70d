"""Takes README's picture of the page, with a simulated film on it.

    python tests/screenshot.py [--film FILM] [--out PICTURE] [--width 390] [--dark]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    from playwright.sync_api import sync_playwright
    from running import run_app

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, default=ROOT / "examples/femur-oblique.png")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/screenshot.png")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_app(Path(folder), Path("-"), "looktwice") as app,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": args.width, "height": 900},
            color_scheme="dark" if args.dark else "light",
        )
        page.goto(app.url)
        page.set_input_files(".fx-drop input[type=file]", str(args.film))
        page.locator("#verdict .fx-verdict", has_text=args.film.name).wait_for(timeout=120_000)
        page.wait_for_timeout(1500)  # the verdict's bars grow, the maps fade in
        page.screenshot(path=args.out)
        browser.close()
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
