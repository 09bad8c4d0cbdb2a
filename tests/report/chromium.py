"""Chromium, headless, for the tests of the page: it loads one file, counts what it asks the network for, and looks.

python tests/report/chromium.py REPORT.html OUT.png      the picture under docs/
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def missing() -> str | None:
    """What the tests need and is not there."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"{name} is not installed: apt-get install chromium chromium-driver"
    if axe_script() is None:
        return "axe-core is not installed: pip install --no-deps axe-playwright-python"
    return None


def axe_script() -> Path | None:
    """axe-core, from the package that ships it; nothing else of that package is used."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "axe.min.js"
    return path if path.is_file() else None


class Browser:
    """One headless Chromium with an empty profile."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={self.profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.quit()
        self.profile.cleanup()

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this size."""
        media = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.requests()
        self.driver.get(page.resolve().as_uri())

    def js(self, code: str, *args: Any) -> Any:
        """What `code`, the body of a function of `arguments`, returns in the page."""
        return self.driver.execute_script(code, *args)  # type: ignore[no-untyped-call]

    def requests(self) -> dict[str, str | None]:
        """Every address asked for since the last call, and why it was refused (`csp`), or None."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        failed = {e["params"]["requestId"]: e["params"] for e in events if e["method"] == "Network.loadingFailed"}
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {p["request"]["url"]: failed.get(p["requestId"], {}).get("blockedReason") for p in sent}

    def complaints(self) -> list[str]:
        """What the console holds since the last call: errors, warnings, blocked resources."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self) -> list[str]:
        """axe-core's findings, all of its rules."""
        script = axe_script()
        assert script is not None
        self.js(script.read_text(encoding="utf-8") + "\nwindow.axe = axe;")
        found = self.driver.execute_async_script(  # type: ignore[no-untyped-call]
            "const done = arguments[arguments.length - 1]; axe.run(document).then(done, (e) => done(String(e)));"
        )
        assert isinstance(found, dict), found
        assert len(found["passes"]) > 20  # it did look
        return [f"{v['id']}: {node['html'][:200]}" for v in found["violations"] for node in v["nodes"]]

    def screenshot(self, path: Path, top: int = 0, height: int | None = None) -> None:
        """A PNG of the page from `top`, all of it without a height."""
        width = self.js("return innerWidth")
        whole = self.js("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": top, "width": width, "height": min(height or whole, whole - top), "scale": 1}
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        path.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    with Browser() as browser:
        browser.open(Path(sys.argv[1]), 1120)
        top = browser.js("return arguments[0] && document.getElementById(arguments[0]).offsetTop", *sys.argv[3:4])
        browser.screenshot(Path(sys.argv[2]), int(top or 0), 1500)
    from PIL import Image

    Image.open(sys.argv[2]).convert("RGB").quantize(64).save(sys.argv[2], optimize=True)
