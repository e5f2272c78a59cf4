"""Accelerators as files: those that ship, a user's own, and what is refused."""

from pathlib import Path

import pytest

from lamina.errors import InputError
from lamina.hardware import accelerator, roofline, sweep

OUTSIDE = '[[level]]\nname = "DRAM"\n'
MINE = f"""name = "mine"
array = [4, 4]
dataflows = ["ws", "flexible"]
{OUTSIDE}bandwidth = 8
[[level]]
name = "buffer"
capacity = "1K"
[[level]]
name = "registers"
inside = true
capacity = 32
"""


@pytest.mark.parametrize("name", accelerator.names())
def test_those_that_ship_name_their_sources(name: str) -> None:
    device = accelerator.load(name)
    assert device.sources and device.about and device.dataflows


def test_eyeriss_has_the_published_sizes() -> None:
    """JSSC 2017: 168 elements, 108 KB of buffer, registers of 224, 12 and 24 words of 16 bits."""
    device = accelerator.load("eyeriss")
    assert device.elements == 168
    assert sum(held for _, held in device.capacities("buffer")) * 2 == 108 * 1024
    assert dict(device.capacities("registers")) == {"W": 224, "I": 12, "O": 24}


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    device = accelerator.load(str(file))
    assert (device.elements, device.bits, device.cost("DRAM"), device.cost("registers")) == (16, 16, 200, 1)
    assert device.capacities("buffer") == [("WIO", 512)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', 'name = "mine"\ncolour = "red"', "mine: unknown key colour"),
        ("bandwidth = 8", "bandwith = 8", r"unknown key bandwith, in a \[\[level\]\]"),
        ('name = "mine"\n', "", "the key name is missing"),
        ("array = [4, 4]", "array = [0, 4]", "two sides of at least 1"),
        ('"1K"', '"lots"', "'lots' is not a capacity"),
        ('"1K"', "4", "buffer holds 2 elements for WIO, and needs room for one of each tensor"),
        ("bandwidth = 8", "bandwidth = 8\nread_bandwidth = 4", "contradicts read_bandwidth"),
        ("bandwidth = 8", "bandwidth = -1", "a bandwidth is more than 0"),
        ("bandwidth = 8", "capacity = 9", "DRAM is the outermost level"),
        ('capacity = "1K"\n', "", "buffer has no capacity"),
        ('capacity = "1K"', 'capacity = {W = "1K"}', 'the parts of its capacity are for "W", and it keeps "WIO"'),
        ("inside = true", 'inside = true\nkeeps = "O"', r"mine cannot run ws \(weight stationary\)"),
        ('"ws", ', '"ws", "spiral", ', "no dataflow is called 'spiral'"),
        ("capacity = 32", "capacity = 32\nenergy = -1", "an access costs 0 or more"),
        ('name = "registers"', 'name = "buffer"', "a name of its own"),
        ("array", "array =", "mine is not TOML"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(old: str, new: str, message: str) -> None:
    assert old in MINE
    with pytest.raises(InputError, match=message) as caught:
        accelerator.parse(MINE.replace(old, new, 1), "mine")
    assert "\n" not in str(caught.value)


def test_a_dataflow_that_the_array_does_not_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"Eyeriss runs rs, not nlr \(no local reuse\)"):
        accelerator.allowed(accelerator.load("eyeriss"), "nlr")


def test_an_unknown_name_lists_those_that_there_are() -> None:
    with pytest.raises(InputError, match="no accelerator is called 'pentium': there are eyeriss, flexible"):
        accelerator.load("pentium")


# ---- sweeps ---------------------------------------------------------------------------------------------------------


def test_a_sweep_doubles_from_one_end_to_the_other() -> None:
    assert [text for text, _ in sweep.parse("pe=8x8:32x32").values] == ["8x8", "16x16", "32x32"]
    assert [text for text, _ in sweep.parse("buffer=32k:512k").values] == ["32k", "64k", "128k", "256k", "512k"]
    assert [value for _, value in sweep.parse("bandwidth=4,6").values] == [4, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pe=8", "'8' is not an array"), ("cache=1:2", "write one of pe="), ("buffer=64k:32k", "ends before it begins"),
        ("bandwidth=fast", "'fast' is not a bandwidth"), ("pe=0x4", "not an array"), ("buffer=0", "more than 0 bytes"),
    ],
)  # fmt: skip
def test_a_sweep_that_says_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep.parse(text)


def test_variants_scale_the_parts_of_a_buffer() -> None:
    (one,) = sweep.variants(accelerator.load("eyeriss"), [sweep.parse("buffer=216k")])
    assert dict(one.accelerator.capacities("buffer")) == {"W": 8 * 1024, "IO": 100 * 1024}


def test_the_front_holds_what_nothing_beats() -> None:
    rows = [{"area": a, "cycles": c, "energy": e, "refusal": None} for a, c, e in ((1, 9, 9), (2, 5, 9), (2, 6, 9), (3, 5, 9))]
    found = sweep.run([], None, "energy", "all", lambda function, items: rows)  # type: ignore[arg-type]
    assert [row["front"] for row in found] == [True, True, False, False]


# ---- roofline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*roofline.machines(), "eyeriss", "tpu_v1"])
def test_every_machine_has_a_roof(name: str) -> None:
    machine = roofline.load(name)
    assert machine.bandwidth > 0 and min(machine.peak.values()) > 0 and machine.sources


def test_tpu_v1_has_the_published_peak() -> None:
    """Jouppi et al., ISCA 2017: 92 T operations per second, and a ridge at 1350 multiply-accumulates per byte."""
    machine = roofline.load("tpu_v1")
    assert machine.operations("int8") == pytest.approx(92e12, rel=0.01)
    assert machine.operations("int8") / 2 / machine.bandwidth == pytest.approx(1350, rel=0.01)


def test_a_device_without_a_clock_has_no_roof() -> None:
    with pytest.raises(InputError, match="no clock or no bandwidth"):
        roofline.load("rs_256")


def test_a_type_that_a_machine_does_not_name_is_refused() -> None:
    with pytest.raises(InputError, match="no peak for bf16"):
        roofline.load("v100").operations("bf16")
