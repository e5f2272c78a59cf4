"""Published figures and the conventions that give them."""

import json

import pytest

import lamina
from lamina.cost import tools
from lamina.cost.explain import candidates, explain, parse
from lamina.errors import InputError
from lamina.zoo import registry


def trace(name, **changes):
    return lamina.trace(registry.assemble(name, **changes).train("aux" in changes), *registry.example(name), name=name)


@pytest.fixture(scope="module")
def v1_5():
    return trace("resnet50_v1_5")


def names(found):
    return {c.name for c in found}


@pytest.mark.parametrize(
    ("text", "value", "digit"),
    [
        ("4.11G", 4_110_000_000, 10**7),
        ("25.6M", 25_600_000, 10**5),
        ("8.2 GFLOPs", 8_200_000_000, 10**8),
        ("3.8e9", 3_800_000_000, 10**8),
        ("25,557,032", 25_557_032, 1),
        ("86.6M params", 86_600_000, 10**5),
        ("17.58B", 17_580_000_000, 10**7),
        ("138M parameters", 138_000_000, 10**6),
    ],
)
def test_parsing_keeps_the_printed_digits(text, value, digit):
    published = parse(text)
    assert (published.value, published.digit) == (value, digit)


@pytest.mark.parametrize(
    "text", ["", "many", "4.11", "4.11X", "-3G", "0G", "4.11 Gparsecs", "1e999", "4..1G", "G", "nan", "٣G"]
)
def test_nonsense_is_refused(text, v1_5):
    if text == "4.11":
        assert not explain(v1_5, text).rounded  # a number, if a small one
        return
    with pytest.raises(InputError):
        parse(text)


def test_what_the_conventions_of_resnet50_are(v1_5):
    found = explain(v1_5, "4.11G")
    assert {"fvcore (count)", "timm (count)", "MACs + norms (2 per element)"} <= names(found.rounded)
    assert not {"MACs", "ptflops (count)", "thop (count)"} & names(found.rounded)
    assert names(explain(v1_5, "4.089G").rounded) >= {"MACs", "torchvision (count)", "calflops (count)"}
    assert names(explain(v1_5, "4.13G").rounded) == {"ptflops (count)", "thop (count)"}
    assert "FLOPs (2 per MAC)" in names(explain(v1_5, "8.18 GFLOPs").rounded)
    assert "parameters" in names(explain(v1_5, "25.6M").rounded)
    assert names(explain(v1_5, "25.61M").rounded) == {
        "parameters and running statistics",
        "parameters and all buffers (the state_dict)",
        "keras (parameters)",
    }
    assert "fvcore (activations)" in names(explain(v1_5, "11.1M").rounded)  # timm's card of ResNet-50


def test_a_unit_says_what_is_counted(v1_5):
    assert {c.quantity for c in explain(v1_5, "25.6M parameters").rounded} == {"parameters"}
    assert not explain(v1_5, "25.6 MFLOPs").rounded


def test_digits_that_were_cut_off_are_told_from_rounded_ones():
    found = explain(trace("resnet50"), "3.8G")  # He et al. 2016, Table 1: 3.8 x 10^9, of 3.858
    assert not found.rounded and "MACs" in names(found.cut)


def test_nothing_fits(v1_5):
    found = explain(v1_5, "4.3G")
    assert not found.rounded and not found.cut
    assert found.nearest.name == "thop (count)" and found.error == pytest.approx(100 * (4_133_742_592 / 4.3e9 - 1))


def test_auxiliary_heads():
    with_heads = trace("googlenet", aux=True)
    found = explain(trace("googlenet"), "13.38M", with_heads)
    assert names(found.rounded) == {"parameters, with the auxiliary heads"}
    assert found.rounded[0].value == 13_378_280


def test_attention_left_out():
    work = trace("vit_b_16")
    assert "MACs without attention's products" in names(explain(work, "16.85G").rounded)
    assert "MACs" in names(explain(work, "17.56G").rounded)
    assert tools.attention_macs(work) == 12 * 2 * 197 * 197 * 768


def test_conventions_that_say_nothing_are_not_offered():
    found = names(candidates(trace("vgg16")))
    assert "MACs without attention's products" not in found and "MACs + norms (2 per element)" not in found
    assert {"MACs", "MACs + biases", "parameters"} <= found


# Configurations of pycls that are networks of the zoo.
PYCLS = {
    "resnet50_v1_5": "R-50-1x64d_step_8gpu", "resnet101_v1_5": "R-101-1x64d_step_8gpu",
    "resnext50_32x4d": "X-50-32x4d_step_8gpu", "resnext101_32x4d": "X-101-32x4d_step_8gpu",
}  # fmt: skip


def test_pycls_counts_the_last_layers_biases(shared):
    ledger = json.loads((shared / "reference/pycls_model_complexity.json").read_text())
    compared = 0
    for name, path in PYCLS.items():
        row = ledger[f"configs/archive/imagenet/resnet/{path}.yaml"]
        if name in registry.counts():
            compared += 1
            work = trace(name)
            # Only the last layer has biases, so it is the plainer "MACs + biases" too.
            assert names(explain(work, str(row["flops"])).rounded) >= {"MACs + biases"}
            assert "parameters" in names(explain(work, str(row["params"])).rounded)
            assert "activations: outputs of convolutions, linear layers and products" not in names(
                explain(work, str(row["acts"])).rounded
            )  # pycls counts max pooling too
    assert compared >= 3
