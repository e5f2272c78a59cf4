"""The zoo's counts on real networks and tensors: the numbers of counts*.json beside this file, from what torch multiplies.

    python -m tests.zoo.real_counts --check [--only SUBSTRING]     # every number against a count made now
    python -m tests.zoo.real_counts                                # write them anew

Of Lamina only the networks themselves are used, none of its counting: parameters are told apart by their modules, products are
those that `tests.real_counts.Products` sees on a real forward pass (an image, 128 tokens). `make peers` runs the check. What
the files hold besides (the paper's own connections, published parameters of torchvision) is left as it is.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lamina.zoo import registry, transformer
from tests.real_counts import Products, taken_apart

FILES = ("counts.json", "counts_conv_families.json", "counts_inception.json", "counts_transformers.json")
TOKENS = 128
FORMS: dict[str, dict[str, Any]] = {  # what a form of a network is called, and what it changes
    "counts": {},
    "with_aux": {"aux": True},
    "floor_pooling": {"ceil_mode": False},
    "option_a": {"shortcut": "A"},
    "option_b": {"shortcut": "B"},
    "cifar100": {"num_classes": 100},
    "21843_classes_with_prelogits_768": {"num_classes": 21843, "representation": 768},
    "tied_V37000_no_attention_bias": {"vocabulary": 37000, "attention_bias": False},
    "tied_V37000_attention_bias": {"vocabulary": 37000, "attention_bias": True},
    "tied_V32768_attention_bias": {"vocabulary": 32768, "attention_bias": True},
}


def configuration(name: str, form: str) -> tuple[Any, Any]:
    """The family's module, and the network's configuration in this form."""
    family = import_module(f"lamina.zoo.{registry.spec(name).family}")
    config = family.VARIANTS[name]
    if form == "init_2k_as_in_released_code":
        return family, replace(config, stem_channels=2 * config.growth)
    return family, replace(config, **({"img_size": int(form)} if form.isdigit() else FORMS[form]))


def parts(module: nn.Module) -> dict[str, int]:
    """Parameters by their module: scales and shifts of norms, biases, and weights."""
    found = {"weights": 0, "biases": 0, "norm": 0}
    known: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in known:
                known.add(id(parameter))
                part = "norm" if "Norm" in type(owner).__name__ else "biases" if name.endswith("bias") else "weights"
                found[part] += parameter.numel()
    return found


def inputs(family: Any, config: Any, batch: int) -> tuple[torch.Tensor, ...]:
    if family is transformer:
        return tuple(torch.randint(config.vocabulary, (batch, TOKENS)) for _ in range(2))
    return (torch.randn(batch, config.in_channels, config.img_size, config.img_size),)


def count(name: str, form: str) -> dict[str, int]:
    """All figures of a network in a form, by the names that the files have for them."""
    family, config = configuration(name, form)
    torch.manual_seed(0)
    module = family.Net(config).train(form == "with_aux")
    batch = 2 if module.training else 1  # a batch norm of one pixel has no statistics of one image
    with torch.no_grad(), taken_apart(module), Products() as seen:
        module(*inputs(family, config, batch))
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}  # an output's matrix may be one
    known = {p.untyped_storage().data_ptr(): p for p in module.parameters() if id(p) not in embeddings and p.dim() > 1}
    found = parts(module)
    found |= {"parameters": sum(found.values()), "macs": seen.macs // batch}
    for kind, short in (("conv", "conv"), ("linear", "fc")):
        products = seen.of(kind)
        used = {x for product in products for x in product.operands if x in known}
        found |= {f"{short}_weights": sum(known[x].numel() for x in used), f"{short}_layers": len(products)}
        found[f"{short}_macs"] = sum(product.macs for product in products) // batch
    return found | {"attention_macs": sum(product.macs for product in seen.of("matmul")) // batch}


def by_layer(name: str) -> dict[str, tuple[int, int]]:
    """Weights and MACs of each module that multiplies, by hooks on the modules."""
    family, config = configuration(name, "counts")
    module, found = family.Net(config).eval(), {}

    def hook(layer: Any, given: Any, result: torch.Tensor, path: str) -> None:
        places = result.numel() // result.shape[1]
        found[path] = layer.weight.numel(), layer.weight.numel() * places

    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda *call, path=path: hook(*call, path=path))  # type: ignore[misc]
    with torch.no_grad():
        module(*inputs(family, config, 1))
    return found


def tables(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(network, form, the table of its figures) of a file."""
    for name, row in document["networks"].items():
        for form, table in {**{k: v for k, v in row.items() if k in FORMS}, **row.get("other_configurations", {})}.items():
            yield name, form, table


def others(file: str, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, int]]]:
    """What else is counted: (what, the table, the figures made now)."""
    networks = document["networks"]
    if file == "counts.json":
        layers = by_layer("alexnet")
        for row in networks["alexnet"]["per_layer"]:
            weights, macs = layers[row["name"]]
            yield f"alexnet {row['name']}", row, {"weights": weights, "macs": macs}
        family, config = configuration("lenet5", "counts")
        lenet = family.Net(config)
        own = {
            key: sum(p.numel() for p in getattr(lenet, key.lower()).parameters())
            for key in ("C1", "S2", "C3", "S4", "C5", "F6")
        }
        yield "lenet5 by layer", networks["lenet5"]["parameters_by_layer"], own | {"total_trainable": sum(own.values())}
    if file == "counts_transformers.json":
        with torch.device("meta"):
            marian = transformer.Net(transformer.MARIAN)
        own = {"parameters": sum(p.numel() for name, p in marian.named_parameters() if name != "output_bias")}
        yield "opus_mt_en_de", document["marian"]["opus_mt_en_de"], own
        for name in ("transformer_base", "transformer_big"):
            body = {}
            for key, bias in (("no_attention_bias", False), ("attention_bias", True)):
                with torch.device("meta"):
                    net = transformer.Net(replace(transformer.VARIANTS[name], attention_bias=bias))
                body[key] = sum(p.numel() for path, p in net.named_parameters() if "embedding" not in path)
            yield f"{name} without embeddings", networks[name]["non_embedding_params"], body


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a number differs")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the networks that have this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong = numbers = 0
    for file in FILES:
        path = Path(__file__).with_name(file)
        document = json.loads(path.read_text(encoding="utf-8"))
        found = [(f"{n} {f}", t, count(n, f)) for n, f, t in tables(document) if options.only in n]
        found += list(others(file, document)) if not options.only else []
        for what, table, now in found:
            kept = {key: now[key] for key in table if key in now}
            numbers += len(kept)
            for key, value in kept.items():
                if table[key] != value:
                    print(f"{file}: {what}: {key} is {table[key]:,}, counted {value:,}", flush=True)
                    wrong += 1
            table |= kept
        if not options.check:
            path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{numbers:,} numbers counted on real tensors, {wrong} differ")
    return 1 if options.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
