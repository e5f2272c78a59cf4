import pytest

from lamina import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.00 k"), (3857973248, "3.86 G"), (999_600, "1.00 M"), (60_954_656, "61.0 M"),
        (138_357_544, "138 M"), (99_950, "100 k"), (9_996, "10.0 k"), (9_994, "9.99 k"), (1.5e12, "1.50 T"), (0.25, "0.25"),
    ],
)  # fmt: skip
def test_si(value, text):
    assert units.si(value) == text


def test_units():
    assert units.macs(3857973248) == "3.86 GMACs"
    assert units.macs(12) == "12 MACs"
    assert units.bytes_(1500) == "1.50 kB"
    assert units.shape((1, 3, 224, 224)) == "1x3x224x224"


@pytest.mark.parametrize(
    ("text", "value"), [("5G", 5e9), ("5 GMACs", 5e9), ("8GB", 8e9), ("30M", 30e6), ("12", 12), ("1.5k", 1500)]
)
def test_parse(text, value):
    assert units.parse(text) == value


@pytest.mark.parametrize("text", ["", "G", "5X", "-3", "1x3"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="not a number with a unit"):
        units.parse(text)


def test_parse_shape():
    assert units.parse_shape("1x3x224x224") == units.parse_shape("1,3,224,224") == (1, 3, 224, 224)
    for wrong in ("", "x", "1x0", "1x-3", "a", "1.5x2"):
        with pytest.raises(ValueError, match="not a valid shape"):
            units.parse_shape(wrong)
