"""What the zoo holds. Nothing here imports torch until a network is built.

A family is a paper: a row of `FAMILIES`, the file of its name with its networks, their counts in the ledger `counts.json`, and
what is known of them in print in `published/FAMILY.toml`.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lamina.errors import InputError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

HEADLESS = "_headless"


@dataclass(frozen=True)
class Paper:
    """`venue` where it was published, `year` when it came out (on arXiv, if it did)."""

    title: str
    authors: str
    venue: str
    year: int
    arxiv: str = ""


# The families, oldest first: each is a paper and the file of its name.
FAMILIES = {
    "lenet": Paper(
        "Gradient-based learning applied to document recognition",
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner",
        "Proceedings of the IEEE 86(11)", 1998,
    ),
    "alexnet": Paper(
        "ImageNet classification with deep convolutional neural networks",
        "A. Krizhevsky, I. Sutskever, G. Hinton",
        "NIPS", 2012,
    ),
    "overfeat": Paper(
        "OverFeat: Integrated recognition, localization and detection using convolutional networks",
        "P. Sermanet, D. Eigen, X. Zhang, M. Mathieu, R. Fergus, Y. LeCun",
        "ICLR 2014", 2013, "1312.6229",
    ),
    "vgg": Paper(
        "Very deep convolutional networks for large-scale image recognition",
        "K. Simonyan, A. Zisserman",
        "ICLR 2015", 2014, "1409.1556",
    ),
    "googlenet": Paper(
        "Going deeper with convolutions",
        "C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke, A. Rabinovich",
        "CVPR 2015", 2014, "1409.4842",
    ),
    "bn_inception": Paper(
        "Batch normalization: Accelerating deep network training by reducing internal covariate shift",
        "S. Ioffe, C. Szegedy",
        "ICML 2015", 2015, "1502.03167",
    ),
    "inception_v3": Paper(
        "Rethinking the Inception architecture for computer vision",
        "C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna",
        "CVPR 2016", 2015, "1512.00567",
    ),
    "resnet": Paper(
        "Deep residual learning for image recognition",
        "K. He, X. Zhang, S. Ren, J. Sun",
        "CVPR 2016", 2015, "1512.03385",
    ),
    "inception_v4": Paper(
        "Inception-v4, Inception-ResNet and the impact of residual connections on learning",
        "C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi",
        "AAAI 2017", 2016, "1602.07261",
    ),
    "wide_resnet": Paper(
        "Wide residual networks",
        "S. Zagoruyko, N. Komodakis",
        "BMVC 2016", 2016, "1605.07146",
    ),
    "densenet": Paper(
        "Densely connected convolutional networks",
        "G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger",
        "CVPR 2017", 2016, "1608.06993",
    ),
    "resnext": Paper(
        "Aggregated residual transformations for deep neural networks",
        "S. Xie, R. Girshick, P. Dollár, Z. Tu, K. He",
        "CVPR 2017", 2016, "1611.05431",
    ),
    "transformer": Paper(
        "Attention is all you need",
        "A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, Ł. Kaiser, I. Polosukhin",
        "NIPS", 2017, "1706.03762",
    ),
    "vit": Paper(
        "An image is worth 16x16 words: Transformers for image recognition at scale",
        "A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai, T. Unterthiner, M. Dehghani, "
        "M. Minderer, G. Heigold, S. Gelly, J. Uszkoreit, N. Houlsby",
        "ICLR 2021", 2020, "2010.11929",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One entry of the zoo. `input` is (channels, height, width), or of the Transformer (source, target) tokens; the
    counts are of the network as built by default, for one such input."""

    name: str
    family: str
    paper: Paper
    input: tuple[int, ...]
    parameters: int
    macs: int
    figures: tuple[Mapping[str, Any], ...]  # what papers print: figure, value, protocol, source
    weights: tuple[Mapping[str, Any], ...]  # the files that fit: tag, url, sha256, image, top1, top5
    deviations: tuple[str, ...]

    @property
    def config(self) -> Any:
        """The frozen `Config`: the architecture's degrees of freedom."""
        return import_module(f"lamina.zoo.{self.family}").VARIANTS[self.name]

    @property
    def top1(self) -> float | None:
        """The best published single-crop top-1 accuracy in percent; None where there is none."""
        return max((f["value"] for f in self.figures if f["figure"] == "top1"), default=None)


@cache
def counts() -> dict[str, dict[str, Any]]:
    """The shipped ledger: name to family, input, parameters and MACs; a test holds it to what is traced."""
    return json.loads(files("lamina.zoo").joinpath("counts.json").read_text())


@cache
def published(family: str) -> dict[str, Any]:
    """What papers print of a family, and which weight files fit it: `published/FAMILY.toml`, empty where there is none.

    `figures`: errors and accuracies in percent, each with its protocol and source; their status is "verified" if they were
    read in the source named, and "recalled" if they were written down from memory. `paper`: of networks that are not the
    family's paper's. `deviations`: where a network departs from its paper. `stages`: the paper's names of the stages of the
    family, of its networks for CIFAR (FAMILY_cifar) or of one network; a stage begins at the first layer of the module named
    with it and lasts until the next one's, and modules that a network lacks are passed over.

    `weights`: files that ship (`file`), at an address (`url`), on the Hugging Face hub (`hub`), or on the user's disk (`sha256`
    alone; it may be the beginning of the digest, as torchvision's file names carry it). `naming`: other people's keys (see
    `lamina.weights.fitting`). `hub`: what a hub's config.json says of networks that differ in neither keys nor shapes; the
    first row whose setting fits tells the field of our `Config`.
    """
    if family not in FAMILIES:
        raise InputError(f"no family {family!r}: there are {', '.join(FAMILIES)}")
    path = files("lamina.zoo").joinpath("published", f"{family}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def names(family: str | None = None) -> list[str]:
    """The zoo's names, by family and then as the family's file has them."""
    if family is not None and family not in FAMILIES:
        raise InputError(f"no family {family!r}: there are {', '.join(FAMILIES)}")
    return [name for name, row in counts().items() if family in (None, row["family"])]


def spec(name: str) -> Spec:
    """The entry `name`. An unknown name is an error that gives the nearest ones."""
    row = counts().get(name)
    if row is None:
        near = difflib.get_close_matches(name, counts(), n=4, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else "see `lamina list`"
        raise InputError(f"no network is called {name!r}; {hint}")
    records = published(row["family"])
    own = records.get("paper", {}).get(name)
    return Spec(
        name=name,
        family=row["family"],
        paper=Paper(**own) if own else FAMILIES[row["family"]],
        input=tuple(row["input"]),
        parameters=row["parameters"],
        macs=row["macs"],
        figures=tuple(f for f in records.get("figures", ()) if f["network"] == name),
        weights=tuple(w for w in records.get("weights", ()) if w["network"] == name),
        deviations=tuple(records.get("deviations", {}).get(name, ())),
    )


def stages(name: str) -> list[tuple[str, str]]:
    """(module path, the paper's name of the stage that begins there), in order; empty where no paper names them."""
    family = spec(name).family
    keys = (name, f"{family}_cifar" if name.endswith("_cifar") else name, family)
    tables = published(family).get("stages", {})
    rows = next((tables[key] for key in keys if key in tables), [])
    return [(path, stage) for path, stage in rows]


def build(name: str, *, device: "torch.device | str | None" = None, **changes: Any) -> "nn.Module":
    """The network `name`, initialised as its paper says, in training mode.

    `changes` replace fields of its `Config`: `num_classes=10`, `in_channels=1`, ...; `head=None` leaves out the last
    linear layer, so that the network gives its pooled features. On the meta device (`device="meta"`
    or inside `torch.device("meta")`) nothing is allocated or initialised.
    """
    import torch

    headless = "head" in changes and changes.pop("head") is None
    net = assemble(name, **changes)
    target = torch.device(device) if device is not None else torch.get_default_device()
    if target.type != "meta":
        net.to_empty(device=target)
        with torch.no_grad():
            net.init_weights()
    if headless:
        remove_head(name, net)
    return net


def example(name: str, shape: tuple[int, ...] | None = None) -> "tuple[torch.Tensor, ...]":
    """Inputs of the network on the meta device: images of `shape` (batch, channels, height, width), or two sequences of
    tokens of `shape` (batch, length); by default one of the entry's `input`."""
    import torch

    entry = spec(name)
    if entry.family == "transformer":
        shapes = [(1, length) for length in entry.input] if shape is None else [shape, shape]
        return tuple(torch.empty(s, dtype=torch.long, device="meta") for s in shapes)
    return (torch.empty(shape or (1, *entry.input), device="meta"),)


def is_headless(module: Any) -> bool:
    """Whether it was built with `head=None`."""
    return getattr(module, HEADLESS, False)


def remove_head(name: str, module: Any) -> None:
    """Replace the last linear layer, the one to the classes, by the identity."""
    from torch import nn

    classes = getattr(module.config, "num_classes", None)
    heads = [path for path, m in module.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not heads:
        raise InputError(f"{name} has no linear head to leave out")
    parent, _, attribute = heads[-1].rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())
    setattr(module, HEADLESS, True)


def assemble(name: str, **changes: Any) -> Any:
    """The network on the meta device, without weights."""
    from dataclasses import fields, replace

    import torch

    family = import_module(f"lamina.zoo.{spec(name).family}")
    config = family.VARIANTS[name]
    headless = "head" in changes and changes.pop("head") is None
    known = {f.name for f in fields(config)}
    if unknown := sorted(set(changes) - known):
        raise InputError(f"{name} has no {', '.join(unknown)}; what can be changed: {', '.join(sorted(known))}")
    for key in ("num_classes", "in_channels", "img_size"):
        value = changes.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name}: {key} is a positive whole number, not {value!r}")
    try:
        with torch.device("meta"):
            module = family.Net(replace(config, **changes))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    if headless:
        remove_head(name, module)
    return module
