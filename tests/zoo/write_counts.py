"""Write the zoo's ledger, lamina/zoo/counts.json, from what is traced: `python -m tests.zoo.write_counts`."""

import json
from importlib import import_module
from pathlib import Path

import torch

from lamina.tracing.tracer import trace
from lamina.zoo import registry

TOKENS = 128  # of source and target, for the Transformer's MACs


def ledger() -> dict[str, dict[str, object]]:
    rows = {}
    for family in registry.FAMILIES:
        module = import_module(f"lamina.zoo.{family}")
        for name, config in module.VARIANTS.items():
            with torch.device("meta"):
                net = module.Net(config).eval()
                if family == "transformer":
                    shape = (TOKENS, TOKENS)
                    inputs = tuple(torch.zeros(1, n, dtype=torch.long) for n in shape)
                else:
                    shape = (config.in_channels, config.img_size, config.img_size)
                    inputs = (torch.empty(1, *shape),)
                total = trace(net, *inputs).total()
            rows[name] = {"family": family, "input": shape, "parameters": total.parameters, "macs": total.macs}
    return rows


if __name__ == "__main__":
    lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in ledger().items())
    path = Path(registry.__file__).with_name("counts.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
