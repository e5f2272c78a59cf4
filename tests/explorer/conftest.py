"""Pages to test, and a real browser to open them in."""

import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium from the system; Playwright's own browsers are not needed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright, of the development extra")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with sync_api.sync_playwright() as playwright:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may run as root
            yield found
            found.close()


@dataclass
class Visit:
    """An open page: what it said on the console, and what it asked of anybody but its own origin."""

    page: Any
    address: str
    messages: list[str] = field(default_factory=list)

    def figure(self, key: str) -> float:
        return float(self.page.get_attribute(f'[data-figure="{key}"]', "data-value"))

    def value(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        """Wait until it is true. (Playwright's own way is evaluated in the page, whose policy forbids that.)"""
        end = time.monotonic() + 30
        while not self.value(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def boxes(self) -> list[str]:
        """The names of what the graph shows."""
        return self.value("lamina.stage.first.layout.boxes.map((b) => lamina.net.name(b.item))")

    def place(self, name: str) -> dict[str, float]:
        """Where an item of the graph is on the screen."""
        found = self.value(f"lamina.stage.first.placeOf(lamina.net.find({name!r}))")
        assert found, f"{name} is not to be seen"
        return found

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """`visit(path or address, hash="#...")` opens a page; at the end no page may have complained or reached elsewhere."""
    visits: list[Visit] = []

    def go(where: str | Path, hash: str = "", width: int = 1400, scheme: str = "light") -> Visit:
        address = where.as_uri() if isinstance(where, Path) else where
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        found = Visit(page, address)
        page.on("console", lambda message: found.messages.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: found.messages.append(f"error: {error}"))
        origin = "file://" if isinstance(where, Path) else "/".join(address.split("/")[:3])
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((origin, "data:", "blob:")) else found.messages.append(f"request: {request.url}")
            ),
        )
        page.goto(address + hash)
        page.wait_for_selector(".strip strong")
        visits.append(found)
        return found

    yield go
    for found in visits:
        messages = list(found.messages)
        found.page.close()
        assert messages == []
