"""The lecture as one page: its claims slide by slide, the summary table, and the plots."""

from collections.abc import Mapping
from typing import Any

from lamina import units
from lamina.lecture import claims, degradation, facts, fit, multiscale, slides, summary, views
from lamina.lecture.claims import Slide
from lamina.report import hardware, plot
from lamina.report.lecture_page import Section, Table, render
from lamina.report.page import Figure
from lamina.zoo import registry

BARS = {"lenet5": "LeNet-5", "alexnet": "AlexNet", "vgg": "VGG-16", "googlenet": "GoogLeNet", "resnet": "ResNet-50"}
INTRO = (
    "Every claim of the lecture “Popular DNNs and Inference”, next to what is computed from the networks themselves. "
    "A MAC is one multiply-accumulate of a convolution, a linear layer or a matrix product; biases, norms, activations and "
    "pooling are not counted. Each verdict names the command that shows it."
)


def page(explorer: str = "") -> str:
    """A self-contained HTML document. With the address of an explorer, each claim links to the view there that shows it."""
    table: dict[str, Any] = summary.document()
    table["columns"] = [{"key": key, "title": title} for key, title in summary.TITLES.items()]
    sections = [
        Section(
            title=slide.title,
            text=text(slide),
            claims=[linked(row, explorer) for row in slides.rows(slide.key, slides.SLIDES[slide.key](slide.claims)).values()],
            tables=tables(slide.key),
            figures=figures(slide.key),
        )
        for slide in claims.slides()
    ]
    return render("Popular DNNs and Inference: the lecture, checked", INTRO, table, sections)


def linked(row: Mapping[str, str], explorer: str) -> Mapping[str, str]:
    shown = views.view(row["command"]) if explorer else ""
    return {**row, "view": f"{explorer}#{shown}"} if shown else row


def text(slide: Slide) -> str:
    return slide.text.format_map(degradation.setting(degradation.measured())) if slide.key == "resnet" else slide.text


def tables(key: str) -> list[Table]:
    if key != "resnet":
        return []
    caption = "At the end of training. First / last gradient: its norm in the first convolution divided by that in the last."
    return [Table(caption, degradation.COLUMNS, degradation.table(degradation.measured()))]


def figures(key: str) -> list[Figure]:
    if key in BARS:
        title = BARS[key]
        svg = plot.layer_bars(facts.workload(facts.NETWORKS[title]), title)
        bars = Figure(svg, f"{title}: weights and MACs of each layer")
        curves = [Figure(degradation.draw(degradation.measured()), degradation.CAPTION)] if key == "resnet" else []
        return [*curves, bars]
    if key == "ilsvrc":
        return [
            Figure(plot.scatter(accuracies()), "Top-1 accuracy on ImageNet against MACs; the area is the number of parameters")
        ]
    if key == "theory":
        return [Figure(draw(multiscale.measured()), caption) for draw, caption in multiscale.FIGURES]
    if key == "summary":
        return dataflow_figures()
    return []


def accuracies() -> list[tuple[str, str, float, int, float]]:
    """(name, family, MACs, parameters, top-1) of the networks with a published single-crop accuracy on ImageNet."""
    points = []
    for name in registry.names():
        spec = registry.spec(name)
        family = "inception" if "inception" in spec.family else spec.family
        points += [(name, family, spec.macs, spec.parameters, f["value"]) for f in spec.figures if f["figure"] == "top1"]
    return points


def dataflow_figures() -> list[Figure]:
    """What fixed dataflows lose, and for each network the share of the array at work by layer and dataflow."""
    record = fit.record()
    title = f"An array of {units.shape(fit.array())} elements, each dataflow at its best"
    figures = [
        Figure(hardware.losses(record, title), "Energy and cycles as multiples of an array that may lay its loops at will")
    ]
    for row in record["networks"]:
        names = {**fit.FIXED, "flexible": "flexible"}
        rows = [names[name] for name in row["utilisation"]]
        svg = plot.heatmap(rows, row["layers"], list(row["utilisation"].values()), row["model"])
        figures.append(Figure(svg, f"{row['model']}: multiply-accumulates per cycle and element, by layer, fewest cycles"))
    return figures
