"""Networks on accelerators: every form of layer, the sums, the documents and the command."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lamina import cli
from lamina.cli import network
from lamina.errors import InputError
from lamina.hardware import accelerator, timeloop
from lamina.hardware.fit import by_dataflow, compared, document, fit
from lamina.hardware.mapping import Loop, Tier, Tiling, evaluate
from lamina.hardware.nest import Nest, from_loops
from lamina.hardware.search import search
from lamina.hardware.sweep import Jobs, parse, run, variants
from lamina.tracing.tracer import trace
from lamina.workload import Loops, Workload

SMALL = accelerator.parse(
    """
    name = "small"
    array = [4, 4]
    bits = 32
    clock = 1e6
    dataflows = ["ws", "os", "nlr", "rs", "flexible"]
    [[level]]
    name = "DRAM"
    bandwidth = 8
    [[level]]
    name = "buffer"
    capacity = 4096
    [[level]]
    name = "registers"
    inside = true
    capacity = 256
    """,
    "small",
)


class Everything(nn.Module):
    """Grouped, depthwise, dilated, strided and transposed convolutions, a linear layer and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 4, 3, padding=2, dilation=2)
        self.strided = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.transposed = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.strided(self.dilated(self.depthwise(self.grouped(x))))
        x = torch.relu(self.norm(self.transposed(x)))
        tokens = self.linear(x.flatten(2))
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.fixture(scope="module")
def workload() -> Workload:
    with torch.device("meta"):
        return trace(Everything().eval(), torch.empty(1, 4, 8, 1), name="everything")


def test_every_layer_costs_something(workload: Workload) -> None:
    found = fit(workload, SMALL)
    layers = {layer.name: layer for layer in found.layers}
    assert found.macs == workload.macs
    assert all(layer.cycles > 0 and layer.energy > 0 for layer in found.layers)
    assert layers["norm"].note == "traffic alone" and not layers["norm"].macs
    read = sum(w.numel for w in workload.layers[5].weights) + 2 * workload.layers[5].outputs[0].numel
    assert layers["norm"].moved == 4 * read
    attention = next(layer for layer in found.layers if len(layer.parts) == 2)
    assert attention.note.startswith("softmax") and attention.moved == 2 * 4 * 4 * 4  # 4 x 4 scores, twice, of 4 bytes


def test_a_layer_that_moves_data_takes_dram_s_time(workload: Workload) -> None:
    relu = next(layer for layer in fit(workload, SMALL).layers if layer.kind == "activation")
    assert relu.cycles == relu.moved / 8 and relu.energy == relu.moved / 4 * 200


def test_equal_shapes_are_searched_once() -> None:
    with torch.device("meta"):
        twice = trace(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).eval(), torch.empty(2, 6), name="twice")
    asked: list[Nest] = []

    def each(function, items):  # type: ignore[no-untyped-def]
        asked.extend(items)
        return map(function, items)

    found = fit(twice, SMALL, each=each)
    assert asked == [Nest(N=2, M=6, C=6)]
    assert found.layers[0].energy == found.layers[1].energy


def test_a_repeated_nest_costs_its_repeats() -> None:
    """An LSTM of 5 steps: the first step's product with the state is a nest of its own, the other four are one, four times."""
    with torch.device("meta"):
        lstm = trace(nn.LSTM(4, 4).eval(), torch.empty(5, 1, 4), name="lstm")
    layer = next(layer for layer in lstm.layers if layer.loops)
    repeated = [loops for loops in layer.loops if loops.times > 1]
    assert repeated and {loops.times for loops in repeated} == {4}
    found = fit(lstm, SMALL).nests[0]
    expected = sum(search(from_loops(loops), SMALL).evaluation.energy * loops.times for loops in layer.loops)
    assert found.energy == pytest.approx(expected)


def test_three_axes_become_two() -> None:
    loops = Loops(N=2, M=3, C=4, output=(5, 6, 7), filter=(2, 3, 3), stride=(1, 2, 2), padding=(0, 0, 0), dilation=(1, 1, 1))
    nest = from_loops(loops)
    assert nest.macs == loops.macs
    assert (nest.N, nest.C, nest.P, nest.Q, nest.stride) == (10, 8, 6, 7, (2, 2))


def test_a_network_without_loops_is_refused() -> None:
    with torch.device("meta"):
        nothing = trace(nn.ReLU().eval(), torch.empty(2, 3), name="nothing")
    with pytest.raises(InputError, match="nothing has no convolution, linear layer or matrix product"):
        fit(nothing, SMALL)


def test_the_comparison_is_never_better_than_the_best(workload: Workload) -> None:
    table = compared({"everything": by_dataflow(workload, SMALL)}, SMALL)
    (row,) = table["networks"]
    assert set(row["dataflows"]) == set(SMALL.dataflows)
    for figures in row["dataflows"].values():
        assert figures["energy_ratio"] >= 1 and figures["cycles_ratio"] >= 1
    assert row["dataflows"]["flexible"]["energy_ratio"] == row["dataflows"]["flexible"]["cycles_ratio"] == 1
    assert sum(row["best"]["energy"].values()) == 7


def test_the_document_adds_up(workload: Workload) -> None:
    found = document(fit(workload, SMALL))
    assert found["totals"]["energy"] == pytest.approx(sum(layer["energy"] for layer in found["layers"]))
    for layer in found["layers"]:
        assert sum(layer["energies"].values()) == pytest.approx(layer["energy"])
    first = next(layer for layer in found["layers"] if layer["nests"])
    assert set(first["accesses"]["buffer"]) == {"W", "I", "O"}
    json.dumps(found)


def test_processes_find_the_same(workload: Workload) -> None:
    chosen = variants(SMALL, [parse("pe=2x2,4x4")])
    with Jobs(1) as here, Jobs(2) as there:
        assert run(chosen, workload, "energy", "ws", here.each) == run(chosen, workload, "energy", "ws", there.each)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_finds_the_same(workload: Workload) -> None:
    """A local cluster of two processes, kept where it was there before, ended where the sweep has started it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'lamina[ray]'")
    chosen = variants(SMALL, [parse("pe=2x2,4x4")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with Jobs(1) as here, Jobs(ray=True) as there:
            assert run(chosen, workload, "energy", "ws", here.each) == run(chosen, workload, "energy", "ws", there.each)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_a_cluster_that_the_sweep_has_started_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Ray:
        running = False

        @classmethod
        def is_initialized(cls) -> bool:
            return cls.running

        @classmethod
        def init(cls, **options: object) -> None:
            asked.append("init")

        @classmethod
        def shutdown(cls) -> None:
            asked.append("shutdown")

    monkeypatch.setitem(sys.modules, "ray", Ray)
    with Jobs(ray=True):
        assert asked == ["init"]
    assert asked == ["init", "shutdown"]
    Ray.running = True
    with Jobs(ray=True):
        pass
    assert asked == ["init", "shutdown"]


# ---- Timeloop's form ------------------------------------------------------------------------------------------------


def test_a_mapping_is_written_as_timeloop_reads_it() -> None:
    yaml = pytest.importorskip("yaml")
    nest = Nest(M=8, C=6, P=5, Q=5, R=3, S=3, stride=(2, 2))
    found = search(nest, SMALL)
    text = yaml.safe_load(timeloop.mapping(nest, found.tiling, SMALL, "a layer"))
    targets = [entry["target"] for entry in text["mapping"] if entry["type"] == "datatype"]
    levels = [target.partition("_")[0] for target in targets]  # "registers_Outputs" is of the registers
    assert list(dict.fromkeys(levels)) == ["registers", "buffer", "DRAM"]  # innermost first
    product = dict.fromkeys("NGMCPQRS", 1)
    for entry in text["mapping"]:
        for factor in entry.get("factors", []):
            dim, bound = factor.split("=")
            product[dim] *= int(bound)
    assert product == {dim: text["problem"]["instance"][dim] for dim in product}
    assert all(product[dim] >= size for dim, size in nest.bounds.items())
    assert text["problem"]["instance"]["Wstride"] == 2
    assert evaluate(nest, found.tiling, SMALL).energy == found.evaluation.energy


def test_a_tensor_that_lies_low_is_a_level_of_its_own_for_timeloop() -> None:
    yaml = pytest.importorskip("yaml")
    low = Tier("registers", "W", (Loop("N", 2),))
    tiling = Tiling(
        (Tier("DRAM", "WIO"), Tier("buffer", "WIO", (Loop("C", 3),)), Tier("registers", "IO", (Loop("M", 4),)), low)
    )
    text = timeloop.mapping(Nest(N=2, M=4, C=3), tiling, SMALL)
    assert "# levels of the architecture, the outermost first: DRAM, buffer, registers, registers_Weights\n" in text
    assert "# registers and registers_Weights share the capacity of registers\n" in text
    entries = {entry["target"]: entry for entry in yaml.safe_load(text)["mapping"] if entry["type"] == "datatype"}
    assert [entry["keep"] for entry in entries.values()] == [
        ["Weights"], ["Inputs", "Outputs"], ["Weights", "Inputs", "Outputs"], ["Weights", "Inputs", "Outputs"],
    ]  # fmt: skip
    assert list(entries) == ["registers_Weights", "registers", "buffer", "DRAM"]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["fit", "lenet5", "--on", "eyeriss", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert {"model", "accelerator", "objective", "totals", "layers"} <= set(found)
    assert {"cycles", "energy", "macs", "utilisation"} <= set(found["totals"])
    fields = {"name", "dataflow", "mapping", "utilisation", "cycles", "energy", "bound", "accesses"}
    assert all(fields <= set(layer) for layer in found["layers"])
    assert {layer["dataflow"] for layer in found["layers"] if layer["macs"]} == {"rs"}


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("fit.html", "fit.svg")]
    options = ["--html", str(files[0]), "--plot", str(files[1]), "--timeloop", str(tmp_path / "maps"), "--layer", "c5"]
    cli.app(["fit", "lenet5", "--on", "eyeriss", *options], standalone_mode=False)
    assert "multiply-accumulate" in capsys.readouterr().out
    assert files[0].read_text().startswith("<!DOCTYPE html>") and files[1].read_text().startswith("<svg")
    assert (tmp_path / "maps" / "c5.yaml").is_file() and (tmp_path / "maps" / "c5.txt").is_file()


def test_a_sweep_names_its_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--sweep", "buffer=64k:128k", "--plot", str(tmp_path / "front.svg"), "--json"]
    cli.app(["fit", "lenet5", "--on", "eyeriss", *options], standalone_mode=False)
    points = json.loads(capsys.readouterr().out)["points"]
    assert [point["buffer"] for point in points] == ["64k", "128k"] and any(point["front"] for point in points)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet5", "resnet18"], "several networks: add --compare"),
        (["lenet5", "--on", "eyeriss", "--dataflow", "os"], "Eyeriss runs rs, not os"),
        (["lenet5", "--on", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["lenet5", "--on", "eyeriss", "--layer", "c9"], "no layer with loops has this name"),
        (["lenet5", "--compare", "--on", "eyeriss"], "runs rs only"),
        (["lenet5", "--sweep", "bandwidth=1:1e300", "--sweep", "pe=1x1:4096x4096"], "12,961 designs, each a search"),
        (["lenet5", "--sweep", "buffer=1:1T"], "not a capacity"),
        (["lenet5", "--on", "systolic_os", "--dataflow", "ws"], "no level inside its processing elements keeps W"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        cli.app(["fit", *arguments], standalone_mode=False)
    assert "\n" not in str(caught.value)


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="--ray needs Ray, which is not installed"):
        cli.app(["fit", "lenet5", "--ray"], standalone_mode=False)


def test_a_million_designs_are_counted_before_any_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["bandwidth=1:1e300", "pe=1x1:4096x4096", "registers=64:1G", "buffer=1k:8k"]
    with pytest.raises(InputError, match="1,296,100 designs, each a search of the whole network; add --yes"):
        cli.app(["fit", "lenet5", "--on", "eyeriss", *(x for axis in axes for x in ("--sweep", axis))], standalone_mode=False)
    assert not capsys.readouterr().out


def test_the_roofline_s_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--plot", str(tmp_path / "roof.svg"), "--html", str(tmp_path / "roof.html"), "--json"]
    cli.app(["roofline", "lenet5", "--on", "t4", *options], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["ridge"] == pytest.approx(8.1e12 / 320e9)
    for layer in found["layers"]:
        assert layer["bound"] == ("compute" if layer["intensity"] >= found["ridge"] else "memory")
        assert layer["seconds"] == pytest.approx(max(layer["operations"] / 8.1e12, layer["bytes"] / 320e9))


def test_here_is_measured_and_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.infer import machine

    monkeypatch.setattr(machine, "measure", lambda dtype: (1e9, 1e8, "not measured"))
    cli.app(["roofline", "lenet5", "--on", "here", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["measured_device"] and found["totals"]["measured_seconds"] > 0


def test_a_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.infer import machine

    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "COPY", 1 << 16)
    peak, bandwidth, how = machine.measure(seconds=0.01)
    assert peak > 0 and bandwidth > 0 and "64x64 matrix product" in how


@pytest.mark.parametrize("device", accelerator.names())
def test_every_accelerator_takes_a_network_at_both_batches(device: str) -> None:
    """A part of benchmarks/mapping_zoo.py. Sixteen images cost at most sixteen times one: one mapping, run sixteen times, is
    among those of the larger batch."""
    net = network.find("lenet_caffe")
    one, sixteen = (fit(net.trace(net.resized("batch", batch)), accelerator.load(device)) for batch in (1, 16))
    assert sixteen.macs == 16 * one.macs
    assert 0 < sixteen.energy <= 16 * one.energy * (1 + 1e-9)
    assert 0 < one.utilisation <= 1 and 0 < sixteen.utilisation <= 1
