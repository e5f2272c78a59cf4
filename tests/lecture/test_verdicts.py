"""Every claim's verdict, as the slide's figure and the papers leave it: an inverted one fails here.

`confirmed`: our figure rounds, or is cut, to the slide's; `refuted`: the networks say otherwise; `explained`: the slide's
figure is another one, for a reason that is known; `not testable here`: the data or the work are not there.
"""

import json
import tomllib
from importlib.resources import files
from typing import Any

import pytest

# Slide and claim, by the keys of claims.toml: the verdict, and on what it rests.
VERDICTS = {
    # Without the data files.
    "mnist size": ("not testable here", "the files are not here"),
    "mnist count": ("not testable here", "the files are not here"),
    "imagenet size": ("explained", "the counts are those of Russakovsky et al.; sizes differ from image to image"),
    "imagenet metrics": ("confirmed", "Russakovsky et al., section 4.1, count so"),
    # LeCun et al. 1998, section II.B
    "lenet5 layers": ("confirmed", "C1 and C3; C5, whose filter covers its input, and F6"),
    "lenet5 weights": ("confirmed", "60,000 trainable parameters"),
    "lenet5 macs": ("explained", "the 340,908 connections count biases and the RBF; products are 325,680"),
    "lenet5 sigmoid": ("explained", "1.7159 tanh(2a/3): a sigmoid shape, and odd"),
    # Krizhevsky et al. 2012, Figure 2: 2,332,704 + 58,621,952 weights, 665,784,864 + 58,621,952 MACs
    "alexnet layers": ("confirmed", "five and three"),
    "alexnet weights": ("confirmed", "60,954,656 is 61M"),
    "alexnet macs": ("confirmed", "724,406,816 is 724M"),
    "alexnet relu": ("confirmed", "section 3.1"),
    "alexnet lrn": ("confirmed", "section 3.3"),
    "alexnet layer1": ("confirmed", "96 x 3 x 11 x 11 = 34,848, cut; x 55 x 55 = 105,415,200"),
    "alexnet layer2": ("confirmed", "256 x 48 x 5 x 5 = 307,200; x 27 x 27 = 223,948,800"),
    "alexnet layer3": ("confirmed", "384 x 256 x 3 x 3 = 884,736; x 13 x 13 = 149,520,384"),
    "alexnet layer4": ("confirmed", "384 of 3x3 over 192, stride 1"),
    "alexnet layer5": ("confirmed", "256 of 3x3 over 192, stride 1"),
    # Simonyan and Zisserman 2014, Table 1
    "vgg layers": ("confirmed", "configuration D: 2 + 2 + 3 + 3 + 3 and 3"),
    "vgg weights": ("confirmed", "138,357,544 is 138M"),
    "vgg macs": ("confirmed", "15,470,264,320 is 15.5G"),
    "vgg stacked": ("confirmed", "5 x 5 = 25 and 2 x 3 x 3 = 18"),
    "vgg field": ("confirmed", "3 + 2 = 5"),
    "vgg vgg19": ("confirmed", "configuration E: 16 and 3"),
    # Szegedy et al. 2014, Table 1
    "googlenet depth": ("confirmed", "3 in the stem, 2 in each of 9 modules"),
    "googlenet total": ("confirmed", "3 in the stem, 6 in each of 9 modules"),
    "googlenet fc": ("confirmed", "one, without the heads"),
    "googlenet weights": ("confirmed", "6,990,272 is 7.0M"),
    "googlenet macs": ("explained", "1,582,671,872; the slide's 1.43G come of pools that round down"),
    "googlenet bottleneck": ("confirmed", "271M against 854M in the example"),
    "googlenet example": ("explained", "854M are right; 358M count a branch twice"),
    "googlenet one_gpu": ("confirmed", "1.7 GB for a batch of 32, of 12"),
    # He et al. 2015, Table 1 and section 4
    "resnet degradation": ("not testable here", "after so few steps 56 plain layers may only be slow: one run is at chance"),
    "resnet gradients": ("refuted", "they do not vanish: section 4.1 finds so too"),
    "resnet bottleneck": ("confirmed", "3.66G and 3.86G MACs: 5 % more"),
    "resnet layers": ("explained", "49 on the longest path, 53 with the projections"),
    "resnet weights": ("confirmed", "25,502,912 is 25.5M"),
    "resnet macs": ("confirmed", "3,857,973,248 is 3.9G"),
    "resnet depths": ("confirmed", "Table 1 and section 4.2"),
    "ilsvrc falling": ("confirmed", "28.2, 25.8, 16.4, 11.7, 6.7, 3.57"),
    "ilsvrc human": ("explained", "4.49 and 3.57 are below 5.1, ResNet-50's 5.25 is not"),
    # The summary table
    "table vgg_layers": ("refuted", "13, as on its own slide"),
    "table googlenet_channels": ("explained", "1,024 enter the classifier; no convolution sees more than 832"),
    "table googlenet_filters": ("refuted", "the 5x5 reduction of 3a has 16"),
    "table resnet_shapes": ("confirmed", "Table 1"),
    "table lenet_conv": ("explained", "1,650 weights and 267,600 MACs: no one form of the network has the slide's two"),
    "table errors": ("explained", "of different protocols"),
    # Huang et al. 2016; Zagoruyko and Komodakis 2016; Xie et al. 2016
    "densenet concatenation": ("confirmed", "58 of them, and no sum"),
    "densenet efficiency": ("confirmed", "DenseNet-169 against ResNet-50, -264 against -152"),
    "wide_resnet accuracy": ("confirmed", "21.9 % against 22.16 %"),
    "wide_resnet parallel": ("explained", "a third of the steps; times are not measured here"),
    "resnext cardinality": ("confirmed", "Table 3: 22.2 % against 23.9 %, at 4.1 to 4.3 GMACs"),
    # Vaswani et al. 2017; Dosovitskiy et al. 2020
    "transformer shapes": ("confirmed", "6 attentions in the encoder, 2 x 6 in the decoder"),
    "transformer patches": ("confirmed", "14 x 14 patches and a class token"),
    "summary deeper": ("confirmed", "4, 8, 16, 22, 50"),
    "summary small_filters": ("confirmed", "half of AlexNet's MACs are in 3x3, all of VGG's"),
    "summary one_by_one": ("confirmed", "none in AlexNet and VGG"),
    "summary paths": ("confirmed", "9 concatenations, 16 sums"),
    "summary lrn": ("refuted", "GoogLeNet has two"),
    "summary batch_norm": ("refuted", "it came with BN-Inception, in 2015"),
    "summary flexible": ("refuted", "row stationary loses less than a tenth on each network"),
    "theory depth": ("confirmed", "zero insertion changes no output"),
    "theory resolution": ("confirmed", "the Galerkin product to the coarse grid, dilation to the fine one; its inverse fails"),
    "theory transformer": ("refuted", "the grown GPT is not shown to end below one from scratch: one of three seeds fails"),
}


@pytest.fixture
def rows(ok, monkeypatch, tmp_path) -> dict[str, dict[str, Any]]:
    """Each claim's row of `lamina lecture --json`, by slide and claim; without data."""
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    slides = tomllib.loads((files("lamina.lecture") / "claims.toml").read_text(encoding="utf-8"))["slide"]
    names = [f"{slide['key']} {claim['id']}" for slide in slides for claim in slide["claim"]]
    return dict(zip(names, json.loads(ok("lecture --json")), strict=True))


def test_every_verdict(rows):
    assert list(rows) == list(VERDICTS)
    wrong = {name: (row["verdict"], *VERDICTS[name]) for name, row in rows.items() if row["verdict"] != VERDICTS[name][0]}
    assert not wrong


def test_what_is_not_a_number_has_a_reason(rows):
    for name, row in rows.items():
        assert row["why"] or row["verdict"] == "confirmed", name
        assert row["lamina"] or row["verdict"] == "not testable here", name
