"""Write the zoo's ledger, lamina/zoo/counts.json, from what is traced: `python tests/write_counts.py`."""

import json
from importlib import import_module
from pathlib import Path

import torch

from lamina.cost.trace import trace
from lamina.zoo import registry


def ledger() -> dict[str, dict[str, object]]:
    rows = {}
    for family in registry.FAMILIES:
        module = import_module(f"lamina.zoo.{family}")
        for name, config in module.VARIANTS.items():
            shape = (config.in_channels, config.img_size, config.img_size)
            with torch.device("meta"):
                total = trace(module.Net(config).eval(), torch.empty(1, *shape)).total()
            rows[name] = {"family": family, "input": shape, "parameters": total.parameters, "macs": total.macs}
    return rows


if __name__ == "__main__":
    lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in ledger().items())
    path = Path(registry.__file__).with_name("counts.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
