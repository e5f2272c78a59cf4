"""What `mapping.py --peers` runs with .mapping/bin/python: zigzag-dse on AlexNet, its own network, hardware and mapping files.

Prints one line of JSON: the energy (in its picojoules), the cycles, the seconds on the clock and of the processor.
"""

import importlib.metadata
import importlib.resources
import json
import logging
import tempfile
import time
from pathlib import Path

from zigzag.api import get_hardware_performance_zigzag


def main() -> None:
    logging.disable(logging.CRITICAL)
    inputs = importlib.resources.files("zigzag") / "inputs"
    clock, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        energy, cycles, *_ = get_hardware_performance_zigzag(
            str(inputs / "workload" / "alexnet.onnx"),
            str(inputs / "hardware" / "eyeriss_like.yaml"),
            str(inputs / "mapping" / "default.yaml"),
            opt="energy",
            dump_folder=str(Path(folder) / "out"),
            loma_show_progress_bar=False,
        )
    found = {"version": importlib.metadata.version("zigzag-dse"), "energy": float(energy), "cycles": float(cycles)}
    print(json.dumps(found | {"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
