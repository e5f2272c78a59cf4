"""The search against brute force: every member of the declared space, written out and evaluated one by one."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import InputError
from lamina.hardware import accelerator, space
from lamina.hardware.mapping import Evaluation, Loop, Tier, Tiling, evaluate
from lamina.hardware.nest import Nest
from lamina.hardware.search import OBJECTIVES, Objective, optimum, search

LEVELS = """
    [[level]]
    name = "DRAM"
    {outside}
    [[level]]
    name = "buffer"
    {buffer}
    [[level]]
    name = "registers"
    inside = true
    {registers}
"""
SMALL = {
    # one shared buffer, registers in parts, windows shared between neighbours
    "eyeriss-like": 'array = [3, 2]\nwindow_multicast = true\ndataflows = ["ws", "os", "nlr", "rs", "flexible"]'
    + LEVELS.format(
        outside="bandwidth = 3", buffer='capacity = { W = 60, IO = 90 }\nbandwidth = 9',
        registers="capacity = { W = 16, I = 8, O = 8 }",
    ),
    # one unified memory in each place, ports for reading and writing
    "unified": 'array = [2, 2]\ndataflows = ["ws", "os", "nlr", "rs", "flexible"]'
    + LEVELS.format(
        outside="read_bandwidth = 2\nwrite_bandwidth = 1", buffer="capacity = 100\nenergy = 7\nread_bandwidth = 8",
        registers="capacity = 22\nbandwidth = 6",
    ),
    # a systolic array whose weights come from outside past the buffer
    "systolic": 'array = [2, 4]\nbits = 8\nsystolic = "W"\ndataflows = ["ws"]\nnetwork_energy = 0.5'
    + LEVELS.format(outside="bandwidth = 2", buffer='keeps = "IO"\ncapacity = 40', registers='keeps = "W"\ncapacity = 2'),
}  # fmt: skip
DEVICES = {name: accelerator.parse(f'name = "{name}"\n{text}', name) for name, text in SMALL.items()}


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    """Small layers of every form: convolutions (grouped, depthwise, strided, dilated, transposed), matrix products."""
    sizes = {dim: 1 for dim in "NGMCPQRS"}
    dims = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=4, unique=True))
    for dim in dims:
        sizes[dim] = draw(st.integers(2, 3 if dim in "RSG" else 5))
        if math.prod(sizes.values()) > 60:
            sizes[dim] = 1
    pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))
    return Nest(**sizes, stride=draw(pairs), dilation=draw(pairs), transposed=draw(st.booleans()))


def value(found: Evaluation, objective: Objective) -> float:
    return {"energy": found.energy, "cycles": found.cycles, "edp": found.energy * found.cycles}[objective]


def compare(nest: Nest, device: accelerator.Accelerator, dataflow: str) -> int:
    """How many tilings the space has, each evaluated and none better than what the search finds for any objective."""
    everything = [evaluate(nest, tiling, device) for tiling in space.tilings(nest, device, dataflow)]
    for objective in OBJECTIVES:
        found = optimum(nest, device, space.storeys(device, dataflow), objective)
        if not everything:
            assert found is None
            continue
        assert found is not None
        assert value(found.evaluation, objective) == pytest.approx(
            min(value(one, objective) for one in everything), rel=1e-9
        ), (nest, device.name, dataflow, objective)
    return len(everything)


@given(nest=nests(), data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_search_finds_what_brute_force_finds(nest: Nest, data: st.DataObject) -> None:
    device = data.draw(st.sampled_from(sorted(DEVICES)))
    compare(nest, DEVICES[device], data.draw(st.sampled_from(DEVICES[device].dataflows[:4])))


@pytest.mark.parametrize(
    "nest",
    [
        Nest(G=3, P=5, Q=2, stride=(1, 2), dilation=(1, 2)),  # tiles of one position touch fewer inputs than the box
        Nest(G=2, C=2, R=2, dilation=(2, 1)),
        Nest(M=3, C=2, P=2),
    ],
)
def test_a_flexible_array_chooses_what_its_registers_keep(nest: Nest) -> None:
    found = {(parts.keeps, parts.low) for parts in space.storeys(DEVICES["unified"], "flexible")}
    assert found == {
        (keeps, low)
        for keeps in ("", "W", "I", "O", "WI", "WO", "IO", "WIO")
        for low in (None, *(keeps if len(keeps) > 1 else ""))
    }
    for device in ("eyeriss-like", "unified"):
        assert compare(nest, DEVICES[device], "flexible") > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@given(nest=nests(), data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_search_finds_what_brute_force_finds_on_200_layers(device: str, nest: Nest, data: st.DataObject) -> None:
    compare(nest, DEVICES[device], data.draw(st.sampled_from(DEVICES[device].dataflows)))


# ---- the orders that the space declares are enough --------------------------------------------------------------


def permuted(tiling: Tiling) -> Iterator[Tiling]:
    """The same tiles with the loops of every tier in every order."""
    choices = []
    for tier in tiling.tiers:
        time = [loop for loop in tier.loops if not loop.spatial]
        across = tuple(loop for loop in tier.loops if loop.spatial)
        choices.append([Tier(tier.level, tier.keeps, (*order, *across)) for order in itertools.permutations(time)])
    for tiers in itertools.product(*choices):
        yield Tiling(tiers)


@pytest.mark.parametrize("nest", [
    Nest(M=4, C=4, Q=4, S=3), Nest(N=2, M=2, P=3, R=2), Nest(G=2, M=2, C=2, P=2, Q=2),
    Nest(M=3, C=2, P=3, Q=2, R=2, transposed=True),
])  # fmt: skip
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_order_of_the_loops_beats_the_declared_ones(nest: Nest, objective: Objective) -> None:
    device = DEVICES["eyeriss-like"]
    members = {repr(tiling): tiling for tiling in itertools.islice(space.tilings(nest, device, "os"), 0, None, 7)}
    found = optimum(nest, device, space.storeys(device, "os"), objective)
    assert found is not None
    for tiling in members.values():
        for other in itertools.islice(permuted(tiling), 150):
            assert value(evaluate(nest, other, device), objective) >= value(found.evaluation, objective) * (1 - 1e-9)


# ---- what the optimum must be, by hand ----------------------------------------------------------------------------


def test_a_matrix_product_that_fits_moves_each_element_once() -> None:
    """64 x 64 x 64 with everything in the buffer: 3 · 4096 words from and to DRAM, no partial sum among them."""
    device = accelerator.parse(
        'name = "large"\narray = [8, 8]' + LEVELS.format(outside="", buffer='capacity = "64K"', registers="capacity = 512"),
        "large",
    )
    found = search(Nest(N=64, M=64, C=64), device)
    assert sum(a.total for a in found.evaluation.accesses["DRAM"].values()) == 3 * 64 * 64


@pytest.mark.parametrize(("held", "energy"), [(11, 8306), (10, None)])
def test_a_tensor_lies_low_in_the_registers_where_there_is_no_room_for_its_tile(held: int, energy: int | None) -> None:
    """N 2, M 4, C 5 on one element: 8 sums, 2 inputs and 1 weight of the 4 that their tile has are 11 registers. Then each
    element crosses each edge once: 38 from and to DRAM (200); 30 fills, 30 reads and 8 updates of the buffer (6); 38 on the way
    (2); 30 fills, 80 reads of operands, 40 updates and 32 reads of sums in the registers (1); 40 multiplications."""
    text = LEVELS.format(outside="", buffer="capacity = 1024", registers=f"capacity = {2 * held}")
    found = search(Nest(N=2, M=4, C=5), accelerator.parse('name = "one"\narray = [1, 1]' + text, "one"))
    if energy is None:
        assert found.evaluation.energy > 8306
        return
    assert found.evaluation.energy == 200 * 38 + 6 * 68 + 2 * 38 + 30 + 80 + 40 + 32 + 40 == energy
    assert [(tier.level, tier.keeps) for tier in found.tiling.tiers] == [
        ("DRAM", "WIO"), ("buffer", "WIO"), ("registers", "IO"), ("registers", "W"),
    ]  # fmt: skip


def test_flexible_is_never_worse_than_a_fixed_dataflow() -> None:
    device, nest = DEVICES["eyeriss-like"], Nest(M=8, C=4, P=5, Q=5, R=3, S=3)
    for objective in OBJECTIVES:
        flexible = value(search(nest, device, objective, "flexible").evaluation, objective)
        for dataflow in ("ws", "os", "nlr", "rs"):
            assert flexible <= value(search(nest, device, objective, dataflow).evaluation, objective)


def test_a_nest_that_cannot_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"no tiling of a nest of R 9, S 9 fits unified with rs"):
        search(Nest(R=9, S=9), accelerator.parse('name = "unified"\n' + SMALL["unified"].replace("= 100", "= 9"), "x"),
               dataflow="rs")  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 12, 100, 4096])
def test_ceilings_are_all_values_of_the_size_by_a_number(size: int) -> None:
    assert list(space.ceilings(size)) == sorted({-(-size // k) for k in range(1, size + 1)})


def test_loops_are_written_outermost_first() -> None:
    from lamina.hardware.mapping import brief, written

    tiling = Tiling((Tier("DRAM", "WIO", (Loop("M", 2),)), Tier("buffer", "IO", (Loop("Q", 4), Loop("P", 3, True)))))
    assert brief(tiling) == "DRAM M2 | buffer Q4 | array P3"
    assert written(tiling).splitlines() == [
        "DRAM keeps weights, inputs, outputs", "for m in 2", "  buffer keeps inputs, outputs", "  for q in 4",
        "    parallel for p in 3", "      multiply-accumulate",
    ]  # fmt: skip


def test_no_mapping_that_accelforge_found_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """By AccelForge's own count, as benchmarks/mapping.py recorded it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import mapping  # pyright: ignore[reportMissingImports]
    import record  # pyright: ignore[reportMissingImports]

    device = accelerator.parse(mapping.HIERARCHY, "hierarchy")
    rows = [row for row in record.read("mapping")["rows"] if row["peer"] == "AccelForge"]
    assert rows
    for row in rows:
        N, M, C = map(int, row["layer"].rpartition(": ")[2].split(" x "))
        found = search(Nest(N=N, M=M, C=C), device).evaluation
        assert mapping.with_reads_below(found, device) <= row["energy"] * (1 + 1e-9), row["layer"]
