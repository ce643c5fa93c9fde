"""Headless Chromium as a reader of reports: no network, every request and console error told, axe-core at hand."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-default-apps", "--force-device-scale-factor=1",
)  # fmt: skip


class Reader:
    """A browser that resolves no name, and that may read the files of a page as any browser may."""

    def __init__(self, profile: Path) -> None:
        if CHROMIUM is None or CHROMEDRIVER is None:
            pytest.skip("no chromium or chromedriver: apt-get install chromium chromium-driver")
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        self.driver.get("about:blank")
        self.requests()  # of the browser's own first page

    def screen(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the width of the page, and the colour scheme that the system prefers."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def open(self, path: Path, hash_: str = "") -> None:
        """Open a file from disk."""
        self.driver.get(path.as_uri() + hash_)

    def run(self, script: str, *arguments):
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str):
        """The first element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str):
        """All elements."""
        return self.driver.find_elements("css selector", selector)

    def press(self, key: str) -> None:
        """A key, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(key)

    def wait(self, script: str, seconds: float = 10.0):
        """Until a script returns something; that."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"in vain: {script}"
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """Errors of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def sideways(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def broken_images(self) -> list[str]:
        """Images without content or alternative text, after all of them were brought to load."""
        self.run("for (const i of document.images) i.loading = 'eager'")
        self.wait("return [...document.images].every(i => i.complete)")
        return self.run(
            "return [...document.images].filter(i => !i.naturalWidth || i.alt.length < 10).map(i => i.src.slice(0, 99))"
        )

    def accessibility(self) -> list[str]:
        """What axe-core has against the page: rule, and the first element."""
        from axe_core_python.selenium import Axe

        found = Axe().run(self.driver)["violations"]
        return [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}" for v in found]
