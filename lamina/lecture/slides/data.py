"""The slides on data sets."""

from lamina import units
from lamina.data import files, imagenet, mnist
from lamina.lecture import facts
from lamina.lecture.claims import Findings, Said, judge, untestable
from lamina.zoo import registry


def digits(said: Said) -> Findings:
    if any(files.find("mnist", file) is None for file in mnist.SHA256):
        return {"size": untestable(), "count": untestable()}
    (images, labels), (test_images, test_labels) = mnist.load("train"), mnist.load("test")
    size = f"{units.shape(images.shape[2:])}, {len(set(labels.tolist()) | set(test_labels.tolist()))}"
    count = f"{len(images):,} + {len(test_images):,}"
    return {
        "size": judge(size == said["size"].lecture, found=size),
        "count": judge(count == said["count"].lecture, found=count),
    }


def photos(said: Said) -> Findings:
    """The counts are the paper's; only the names of the classes are here."""
    size, paper = said["size"], said["size"].paper
    sides, classes, counts = size.lecture.replace("; ", ", ").split(", ")
    splits = (paper["train"], paper["validation"], paper["test"])
    counted = classes == f"{len(imagenet.classes()):,}" == f"{paper['classes']:,}" and all(
        facts.agrees(figure, exact) for figure, exact in zip(counts.split(" / "), splits, strict=True)
    )
    resized = sides == f"~{paper['resized']}x{paper['resized']}"
    measures = sorted(measured("alexnet", "vgg16", "googlenet", "resnet50"))
    text = ", ".join(measures)
    return {
        "size": judge(False, counted and resized, **{key: value for key, value in paper.items() if key != "source"}),
        "metrics": judge(text == said["metrics"].lecture, found=text),
    }


def measured(*names: str) -> set[str]:
    """What the papers of these networks measure errors by: "top-1", "top-5"."""
    errors = (f["figure"] for name in names for f in registry.spec(name).figures if f["figure"].endswith("_error"))
    return {figure.removesuffix("_error").replace("top", "top-") for figure in errors}
