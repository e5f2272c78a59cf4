"""The accuracies that the documentation quotes: `lamina eval` on whole test sets, into benchmarks/records/evaluations.json.

    LAMINA_DATA=DIR python benchmarks/evaluations.py [--weights DIR] [--only SUBSTRING]

The shipped networks, and where `--weights` (by default DIR/weights) holds them akamaster's ResNets for CIFAR-10 and BVLC's
GoogLeNet in torch's form; photos/ in DIR holds one photo of each of 500 ImageNet classes. A row that cannot be evaluated
keeps its earlier result. Each row is {"command", "result": what `--json` gives, "date", "commit"}.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import record

GOOGLENET = "lamina eval googlenet --weights {weights}/googlenet/googlenet_bvlc_state_dict.pt --data {data}/photos"
ENGINES, VIEWS = ("onnxruntime", "openvino", "compile", "auto"), (10, 144)
ROWS = {
    "lenet5": "lamina eval lenet5 --data mnist",
    "vit_mnist": "lamina eval vit_mnist --data mnist",
    "resnet20_cifar": "lamina eval resnet20_cifar --data cifar10",
    "resnet20_akamaster": "lamina eval resnet20_cifar --weights {weights}/resnet_cifar10/resnet20-12fca82f.th --data cifar10",
    "resnet32_akamaster": "lamina eval resnet32_cifar --weights {weights}/resnet_cifar10/resnet32-d509ac18.th --data cifar10",
    "googlenet_bvlc": GOOGLENET,
    **{f"googlenet_bvlc_{engine}": f"{GOOGLENET} --engine {engine}" for engine in ENGINES},
    **{f"googlenet_bvlc_{views}_crop": f"{GOOGLENET} --protocol {views}-crop" for views in VIEWS},
    "transformer_tatoeba": "lamina eval transformer_de_en --data tatoeba",
    "transformer_tatoeba_strict": "lamina eval transformer_de_en --data tatoeba_strict",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the rows that have this in their name")
    options = parser.parse_args()
    data = Path(os.environ["LAMINA_DATA"])
    places = {"data": data, "weights": options.weights or data / "weights"}
    known = record.read("evaluations")["rows"] if (record.RECORDS / "evaluations.json").exists() else {}
    made, missing = record.provenance(packages=("sacrebleu",)), 0
    made["command"] = "LAMINA_DATA=DIR python benchmarks/evaluations.py"
    for name, command in ROWS.items():
        if options.only not in name:
            continue
        call = shlex.split(command.format(**places))
        done = subprocess.run([sys.executable, "-m", *call, "--json"], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip()}", file=sys.stderr)
            missing += 1
            continue
        result = json.loads(done.stdout)
        result |= {key: Path(result[key]).name for key in ("weights", "data")}
        shown = command.format(data="DIR", weights="DIR/weights")
        known[name] = {"command": shown, "date": made["date"], "commit": made.get("commit"), "result": result}
        print(f"{name}: {result}", flush=True)
    record.write("evaluations", made, rows={name: known[name] for name in ROWS if name in known})
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
