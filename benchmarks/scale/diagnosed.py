"""`lamina diagnose` of the shipped networks, and of the same with first weights, into benchmarks/records/diagnose.json.

LAMINA_DATA=DIR python benchmarks/scale/diagnosed.py [--samples 1000]
"""

import argparse
import sys
from pathlib import Path

import torch

from lamina.infer.growing import inputs, load
from lamina.scale.diagnose import diagnose
from lamina.zoo import registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

NETWORKS = {"vit_mnist": "mnist", "resnet20_cifar": "cifar10", "transformer_de_en": None}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, fresh = {}, {}
    for name, data in NETWORKS.items():
        loaded = load(name)
        batch, targets, what = inputs(loaded, data, options.samples)
        rows[name] = {"inputs": what, **diagnose(loaded.module, batch, targets).document()}
        torch.manual_seed(SEED)
        fresh[name] = {"inputs": what, **diagnose(registry.build(name).eval(), batch, targets).document()}
        print(f"{name}: {rows[name]['refinements']}", flush=True)
    record.write("diagnose", record.provenance(seed=SEED), rows=rows, fresh=fresh)


if __name__ == "__main__":
    main()
