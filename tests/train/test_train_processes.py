"""Two processes are one: the same batches, losses, weights and checkpoints, whole or sharded."""

import json
import os
import signal
import socket

import pytest
import torch

from lamina.train import checkpoint, launch
from lamina.train.loop import Run
from lamina.train.recipe import read
from lamina.train.world import World
from lamina.zoo import registry
from tests import training

# 35 pictures: batches of 16, 16 and 3; the last one's parts are of 2 and 1, and the second process has none of the second.
# SGD: Adam would blow up the rounding of gradients that are nothing else (of the keys' biases).
SGD = ("optimizer.name=sgd", "optimizer.lr=0.1")
PICTURES = (*SGD, "samples=35", "validation=7", "accumulate=2", "ema=0.9", "save_steps=2")


@pytest.fixture
def pictures(tmp_path):
    training.write_mnist(tmp_path / "data")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(training.TINY)
    return recipe, {"LAMINA_DATA": str(tmp_path / "data")}


def close(a, b, rel: float) -> None:
    """The same metrics, epoch by epoch, and the same weights, but for rounding."""
    one, two = training.metrics(a), training.metrics(b)
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        assert other == pytest.approx(row, rel=rel)
    first, second = training.weights(a), training.weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_two_processes_are_one(shard, pictures, tmp_path):
    recipe, made = pictures
    assert training.call(training.train, recipe, tmp_path / "one", made, PICTURES) == 0
    assert training.together(2, recipe, tmp_path / "two", made, PICTURES, shard=shard) == [0, 0]
    close(tmp_path / "one", tmp_path / "two", 1e-4)
    kept = checkpoint.complete(tmp_path / "two" / "checkpoints")
    assert [c.step for c in kept] == [4, 6]
    assert (kept[-1].path / "random-1.safetensors").is_file() and kept[-1].progress()["ranks"] == 2


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_two_processes_are_one_for_text(shard, tmp_path):
    corpus = training.write_corpus(tmp_path / "corpus")
    recipe = tmp_path / "text.toml"
    recipe.write_text(training.TINY_TEXT)
    settings = ("validation=5", "accumulate=2", "clip=0.5", "loss.label_smoothing=0.1")
    assert training.call(training.train, recipe, tmp_path / "one", {}, settings, data=corpus) == 0
    assert training.together(2, recipe, tmp_path / "two", {}, settings, data=corpus, shard=shard) == [0, 0]
    close(tmp_path / "one", tmp_path / "two", 1e-4)


def test_three_processes_and_a_batch_of_two(pictures, tmp_path):
    """More processes than samples in any part, and none of some validation pictures for one of them."""
    recipe, made = pictures
    settings = (*SGD, "samples=7", "batch=2", "validation=2", "epochs=1")
    assert training.call(training.train, recipe, tmp_path / "one", made, settings) == 0
    assert training.together(3, recipe, tmp_path / "three", made, settings) == [0, 0, 0]
    close(tmp_path / "one", tmp_path / "three", 1e-4)


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2), (2, 2)], ids=["two then one", "one then two", "two then two"])
@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_a_checkpoint_fits_any_number_of_processes(ranks, shard, pictures, tmp_path):
    """Stopped by a signal to the last process; all of them stop after the same step."""
    recipe, made = pictures
    settings = ("validation=7", "ema=0.9", "epochs=3", "changes.dropout=0.2") if ranks == (2, 2) else PICTURES

    def run(count: int, out: str, **options):
        if count == 1:
            return [training.call(training.train, recipe, tmp_path / out, made, settings, **options)]
        return training.together(count, recipe, tmp_path / out, made, settings, shard=shard, **options)

    assert set(run(ranks[0], "out", stop=(3, signal.SIGTERM, ranks[0] - 1))) <= {130, 0}
    assert checkpoint.newest(tmp_path / "out" / "checkpoints").step == 4
    assert set(run(ranks[1], "out", resume=True)) == {0}
    assert set(run(ranks[0], "calm")) == {0}
    if ranks == (2, 2):
        assert training.same(tmp_path / "out", tmp_path / "calm")  # to the bit, dropout included
    else:
        close(tmp_path / "calm", tmp_path / "out", 1e-4)


def test_running_statistics_are_those_that_are_kept(tmp_path, monkeypatch):
    """Each process's batch norms see other pictures: validation is measured with the statistics that the checkpoint has."""
    training.write_cifar10(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    settings = ("batch=10", "samples=20", "validation=20", "epochs=1", "changes.depths=[1, 1, 1]", "precision=fp32")
    recipe = tmp_path / "recipe.toml"
    from lamina.train.recipe import dump

    recipe.write_text(dump(read("resnet20_cifar10", settings)))
    made = {"LAMINA_DATA": str(tmp_path / "data")}
    assert training.together(2, recipe, tmp_path / "two", made) == [0, 0]
    plan = read(recipe)
    run = Run(plan, registry.build(plan.network, **plan.changes), launch.task(plan), tmp_path / "two", World())
    assert run.resume()
    (row,) = training.metrics(tmp_path / "two")
    assert run.evaluate()["validation_loss"] == pytest.approx(row["validation_loss"], rel=1e-5)


def test_the_command_starts_processes(pictures, tmp_path):
    """Through torch's own launcher: one document on standard output, nothing on standard error."""
    recipe, made = pictures
    log, out = tmp_path / "log", tmp_path / "run"
    line = f"train {recipe} --out {out} --nproc 2 --json --threads 1 --set optimizer.name=sgd"
    assert training.call(training.command, line, made, log) == 0, log.with_suffix(".err").read_text()
    assert log.with_suffix(".err").read_text() == ""
    result = json.loads(log.with_suffix(".out").read_text())
    assert result["step"] == 8 and result["test"]["count"] == 30
    assert training.call(training.train, recipe, tmp_path / "one", made, ("optimizer.name=sgd",)) == 0
    close(tmp_path / "one", out, 1e-4)


def test_what_one_process_of_several_says(pictures, tmp_path):
    """One line, not one from each process nor the launcher's: a loss that is not finite, and a wrong call."""
    recipe, made = pictures
    log = tmp_path / "log"
    line = f"train {recipe} --out {tmp_path}/run --nproc 2 --threads 1 --set optimizer.lr=1e30"
    assert training.call(training.command, line, made, log) == 1
    error = log.with_suffix(".err").read_text()
    assert error.startswith("lamina: the loss is ") and error.count("\n") == 1, error
    line = f"train {recipe} --out {tmp_path}/run --nproc 2 --threads 1"
    assert training.call(training.command, line, made, log) == 2
    error = log.with_suffix(".err").read_text()
    assert error == f"lamina: {tmp_path}/run holds a run: --resume goes on with it, --out FOLDER starts another\n"


def test_ctrl_c_stops_all_processes(pictures, tmp_path):
    recipe, made = pictures
    log, out = tmp_path / "log", tmp_path / "run"
    line = f"train {recipe} --out {out} --nproc 2 --threads 1 --set epochs=100000"
    process = training.start(training.command, line, made, log)
    while process.is_alive() and not (out / "metrics.jsonl").exists():
        process.join(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    error = log.with_suffix(".err").read_text()
    assert error.startswith("lamina: stopped after ") and error.endswith("which is saved: continue with --resume\n"), error
    assert error.count("\n") == 1, error
    last = checkpoint.newest(out / "checkpoints")
    assert last is not None and last.progress()["ranks"] == 2


def test_processes_that_cannot_be():
    from lamina.errors import InputError

    for options, message in (
        ({"nodes": 2}, "--nodes: say where the machines meet, as in --rendezvous HOST:PORT"),
        ({"rendezvous": "a:1"}, "--rendezvous is where several machines meet"),
        ({"shard": True}, "--shard spreads a network over processes: give --nproc 2 or more"),
        ({"device": "tpu"}, "--device is cpu, cuda or mps, not tpu"),
    ):
        with pytest.raises(InputError, match=message):
            launch.Processes(**options)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda: this machine, or this torch, has none"):
            launch.Processes(device="cuda")


def test_two_machines_meet(pictures, tmp_path):
    """Here both are this one: the same call twice, one folder, one document."""
    recipe, made = pictures
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    line = f"train {recipe} --out {tmp_path}/run --nodes 2 --rendezvous 127.0.0.1:{port} --json --threads 1 --set epochs=1"
    logs = [tmp_path / "first", tmp_path / "second"]
    machines = [training.start(training.command, line, made, log) for log in logs]
    for machine in machines:
        machine.join()
    assert [m.exitcode for m in machines] == [0, 0], [log.with_suffix(".err").read_text() for log in logs]
    said = [log.with_suffix(".out").read_text() for log in logs]
    assert sorted(bool(text) for text in said) == [False, True]
    assert json.loads("".join(said))["step"] == 4
    (last,) = checkpoint.complete(tmp_path / "run" / "checkpoints")
    assert last.progress()["ranks"] == 2
