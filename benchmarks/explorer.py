"""The explorer: how large its pages are, how soon they paint, how smooth they move, and how soon a slider is answered.

    python benchmarks/explorer.py

Needs the extras serve and dev, and the system's Chromium. Each first paint is of a fresh page from a file; the frames are
drawn while the graph, wholly unfolded, is zoomed in and out; each answer is one HTTP request for a network that was not asked
for before (and, where timm is installed, of two of its networks).
"""

import http.client
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from lamina.cli import explore, network
from lamina.serve import app, run
from lamina.serve.explorer.routes import Explorer
from lamina.serve.models import Models

PAGES = ("resnet50", "resnet152", "densenet201", "vit_b_16", "resnet1202_cifar")
PAINTS = 5
SLIDERS = {
    "resnet50": [f"set.img_size={n}" for n in range(64, 512, 4)],
    "densenet121": [f"set.img_size={n}" for n in range(64, 512, 4)],
    "densenet201": [f"set.img_size={n}" for n in range(64, 512, 4)],
    "vit_b_16": [f"set.mlp={n}" for n in range(512, 4096, 32)],
    "timm:swin_tiny_patch4_window7_224": [f"batch={n}" for n in range(2, 90)],
    "timm:convnext_tiny": [f"set.resolution={n}" for n in range(64, 512, 4)],
}
FRAMES = """() => {
  document.querySelector('[aria-label="Unfold everything"]').click();
  const view = lamina.stage.first, times = [];
  view.fit();
  for (let i = 0; i < 60; i++) {
    const start = performance.now();
    view.zoom(i < 30 ? 1.12 : 1 / 1.12);
    view.surface.paint();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return [view.layout.boxes.length, times[30], times[57]];
}"""


def share(values: Sequence[float], at: float) -> float:
    return sorted(values)[min(len(values) - 1, int(at * len(values)))]


def pages(folder: Path) -> None:
    print("page              bytes  first paint ms  nodes unfolded  frame ms  95 %")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in PAGES:
            file = folder / f"{name}.html"
            file.write_text(explore.page([network.find(name)]), encoding="utf-8")
            paints = []
            found: Any = None
            for _ in range(PAINTS):
                page = browser.new_page(viewport={"width": 1400, "height": 900})
                page.goto(file.as_uri())
                page.wait_for_selector(".strip strong")
                paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                found = page.evaluate(FRAMES)
                page.close()
            nodes, frame, late = found
            size = file.stat().st_size
            print(f"{name:16} {size:>7,} {statistics.median(paints):>12.0f} {nodes:>15,} {frame:>9.1f} {late:>5.1f}")
        browser.close()


def sliders() -> None:
    explorer = Explorer(network.find, explore.at, tuple(SLIDERS)[:1])
    explorer.warm()
    server = run.Server(app.application(Models([]), routes=explorer.routes()), 0.0)
    listening = run.bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    connection = http.client.HTTPConnection(*listening.getsockname()[:2], timeout=60)
    print("\nslider                              answers  median ms  95 % ms  of the processor")
    for name, changes in SLIDERS.items():
        if name.startswith("timm:") and find_spec("timm") is None:
            continue
        times = []
        for change in changes:
            start, cpu = time.perf_counter(), time.process_time()
            batch = "" if change.startswith("batch") else "batch=1&"
            connection.request("GET", f"/explore/network?model={name}&{batch}dtype=float32&{change}")
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                times.append((1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu)))
        clock, spent = zip(*times[3:], strict=True)  # the first ones import what the network needs
        figures = f"{statistics.median(clock):>10.0f} {share(clock, 0.95):>8.0f} {share(spent, 0.95):>8.0f}"
        print(f"{name:34} {len(clock):>8} {figures}")
    connection.close()
    server.stop()
    thread.join()
    listening.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        pages(Path(place))
    sliders()
