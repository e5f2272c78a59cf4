"""The engine in one process: resumed runs, the learning rate, the validation split, augmentation, averages."""

import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from lamina.data import folder, mnist, parallel_text
from lamina.data.augment import Plan, generator
from lamina.data.image import ImageSpec, random_crop
from lamina.data.pairs import normal
from lamina.errors import InputError, LaminaError
from lamina.train import checkpoint, launch, optim, tasks
from lamina.train.loop import Run
from lamina.train.recipe import Optimizer, Schedule, read
from lamina.train.world import World
from lamina.zoo import registry
from tests import training


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(training.TINY)
    return path


@pytest.fixture
def made(tmp_path, monkeypatch) -> dict[str, str]:
    """Made data in `$LAMINA_DATA`, and the environment that says so."""
    training.write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    return {"LAMINA_DATA": str(tmp_path / "data")}


@pytest.fixture
def run(recipe, made):
    """`run("ema=0.9")` gives a `Run` in this process, with settings laid over the tiny recipe."""

    def start(*settings: str, out: Path = Path("unused")) -> Run:
        plan = read(recipe, settings)
        torch.manual_seed(plan.seed)
        return Run(plan, registry.build(plan.network, **plan.changes), launch.task(plan), out, World())

    return start


# ---- stopping and going on --------------------------------------------------------------------------------------------

SETTINGS = {
    "plain": (),
    "everything": ("changes.dropout=0.3", "ema=0.9", "clip=0.5", "accumulate=3", "save_steps=3", "validation=7"),
    "bf16, best": ("precision=bf16", "changes.dropout=0.3", "validation=12", "select=best", "optimizer.lr=0.1", "ema=0.5"),
    "sgd": ("optimizer.name=sgd", "optimizer.lr=0.05", "optimizer.nesterov=true", "channels_last=true", "keep=1"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(settings, recipe, made, tmp_path):
    settings = ("epochs=3", *settings)
    assert training.call(training.train, recipe, tmp_path / "calm", made, settings) == 0
    steps = training.metrics(tmp_path / "calm")[-1]["step"]
    chance = random.Random(str(settings))
    out, resume = tmp_path / "disturbed", False
    for step in sorted(chance.sample(range(steps), 3)):
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        code = training.call(training.train, recipe, out, made, settings, stop=(step, number), resume=resume)
        if code == 0:  # the signal came in the last step: nothing was left to stop
            assert step == steps - 1
        else:
            assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        resume = True
    assert training.call(training.train, recipe, out, made, settings, resume=True) == 0
    assert training.same(out, tmp_path / "calm")
    assert training.call(training.train, recipe, out, made, settings, resume=True) == 0  # a finished run stays as it is
    assert training.same(out, tmp_path / "calm")


def test_another_seed_gives_other_weights(recipe, made, tmp_path):
    for out, seed in (("a", 7), ("b", 8)):
        assert training.call(training.train, recipe, tmp_path / out, made, (f"seed={seed}", "epochs=1")) == 0
    assert not training.same(tmp_path / "a", tmp_path / "b")


def test_text_resumes_to_the_bit(tmp_path):
    corpus = training.write_corpus(tmp_path / "corpus")
    recipe = tmp_path / "text.toml"
    recipe.write_text(training.TINY_TEXT.replace("dropout = 0.0", "dropout = 0.2") + "[loss]\nlabel_smoothing = 0.1\n")
    options = {"data": corpus}
    assert training.call(training.train, recipe, tmp_path / "calm", {}, **options) == 0
    steps = training.metrics(tmp_path / "calm")[-1]["step"]
    assert training.call(training.train, recipe, tmp_path / "out", {}, stop=(steps // 3, signal.SIGINT), **options) == 130
    assert training.call(training.train, recipe, tmp_path / "out", {}, resume=True, **options) == 0
    assert training.same(tmp_path / "out", tmp_path / "calm")


def test_ctrl_c_on_the_real_command(recipe, made, tmp_path):
    """One line, exit code 130, everything saved."""
    out = tmp_path / "run"
    call = [sys.executable, "-m", "lamina", "train", str(recipe), "--out", str(out), "--set", "epochs=100000"]
    environment = {"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path), **made}
    with subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (out / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
    assert process.returncode == 130
    assert error.startswith("lamina: stopped after ") and error.endswith("which is saved: continue with --resume\n")
    assert error.count("\n") == 1
    last = checkpoint.newest(out / "checkpoints")
    assert last is not None and last.progress()["step"] == last.step


def test_what_a_run_leaves(recipe, made, tmp_path):
    out = tmp_path / "run"
    launch.train(read(recipe, ("validation=10", "keep=2", "epochs=4", "select=best")), out)
    rows = training.metrics(out)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and [row["step"] for row in rows] == [3, 6, 9, 12]
    keys = {"step", "epoch", "lr", "loss", "top1", "validation_loss", "validation_top1"}
    assert all(keys == set(row) for row in rows)
    best = min(rows, key=lambda row: row["validation_loss"])
    kept = {c.step for c in checkpoint.complete(out / "checkpoints")}
    assert kept == {9, 12, best["step"]}
    metadata = {"network": "vit_mnist", "data": "mnist", "seed": "7", "step": str(best["step"])}
    from safetensors import safe_open

    with safe_open(out / "weights.safetensors", "pt") as file:
        assert metadata.items() <= file.metadata().items()
    assert read(out / "config.toml") == read(recipe, ("validation=10", "keep=2", "epochs=4", "select=best"))
    # The weights that are kept are those whose validation loss was the least.
    module = registry.build("vit_mnist", **read(recipe).changes)
    module.load_state_dict(training.weights(out))
    again = Run(read(recipe, ("validation=10",)), module, launch.task(read(recipe, ("validation=10",))), out, World())
    assert again.evaluate()["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-5)


def test_a_damaged_checkpoint_is_trained_anew(recipe, made, tmp_path):
    calm, out = tmp_path / "calm", tmp_path / "out"
    for folder_ in (calm, out):
        assert training.call(training.train, recipe, folder_, made, ("keep=1", "save_steps=1")) == 0
    (last,) = checkpoint.complete(out / "checkpoints")
    (last.path / "state.safetensors").write_bytes(b"")
    assert training.call(training.train, recipe, out, made, ("keep=1", "save_steps=1"), resume=True) == 0
    assert training.same(out, calm)
    assert checkpoint.newest(out / "checkpoints").step == last.step


# ---- steps ------------------------------------------------------------------------------------------------------------


def test_accumulated_steps_are_whole_ones(run):
    """Parts of unequal size (16 in 3, the last batch of 2 in 2) weigh as many samples as they have."""
    sgd = ("optimizer.name=sgd", "optimizer.lr=0.1")  # Adam would blow up the rounding of gradients that are nothing else
    one, parts = run(*sgd), run("accumulate=3", *sgd)
    for epoch in range(2):
        for index in one.task.batches(epoch):
            a, b = (it._step(index, it.stream([index], epoch)) for it in (one, parts))
            assert a == pytest.approx(b, rel=1e-4)
            one.step, parts.step = one.step + 1, parts.step + 1
    for p, q in zip(one.module.parameters(), parts.module.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_channels_last_changes_nothing_but_rounding(tmp_path, monkeypatch):
    training.write_cifar10(tmp_path)
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    ends = []
    for channels_last in ("false", "true"):
        settings = ("batch=10", "validation=0", "precision=fp32", f"channels_last={channels_last}", "changes.depths=[1, 1, 1]")
        plan = read("resnet20_cifar10", settings)
        torch.manual_seed(plan.seed)
        it = Run(plan, registry.build(plan.network, **plan.changes), launch.task(plan), tmp_path, World())
        for index in it.task.batches(0):
            it._step(index, it.stream([index], 0))
            it.step += 1
        filters = next(p for p in it.module.parameters() if p.ndim == 4 and p.shape[1] > 1)
        assert filters.is_contiguous(memory_format=torch.channels_last) == (channels_last == "true")
        ends.append(it.module.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-3, atol=1e-4)


def test_clipping(run):
    it = run("clip=0.01", "optimizer.name=sgd", "optimizer.lr=1.0", "optimizer.momentum=0.0", "schedule.warmup=0")
    before = [p.detach().clone() for p in it.module.parameters()]
    index = it.task.batches(0)[0]
    it._step(index, it.stream([index], 0))
    moved = math.sqrt(sum(float((p.detach() - q).square().sum()) for p, q in zip(it.module.parameters(), before, strict=True)))
    assert moved == pytest.approx(0.01 * it.lr(0), rel=1e-3)


def test_weight_decay_spares_biases_and_norms_unless_told(run):
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    spared, all_of_it = (optim.optimizer(module, Optimizer("sgd", 0.1, weight_decay=0.5, decay_all=d)) for d in (False, True))
    decay = {id(p): g["weight_decay"] for g in spared.param_groups for p in g["params"]}
    assert [decay[id(p)] for p in module.parameters()] == [0.5, 0, 0, 0]
    assert [g["weight_decay"] for g in all_of_it.param_groups] == [0.5]


def test_the_average_is_the_recurrence(run):
    module = nn.Linear(2, 1)
    average = optim.Average(module, 0.9)
    expected = module.weight.detach().clone().double()
    for step in range(200):
        with torch.no_grad():
            module.weight += torch.randn(1, 2, generator=generator(0, step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.values["weight"].double(), expected, rtol=1e-4, atol=1e-5)
    own = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, average.values["weight"])
    assert torch.equal(module.weight, own)


def test_loss_sums_over_answers(run):
    it = run("loss.label_smoothing=0.1", "loss.scale=0.5", "loss.aux=0.3")
    batch = it.task.batch(torch.tensor([3, 1, 4]), 0, torch.device("cpu"))
    it.module.eval()
    scores = it.module(*batch.inputs)
    total, plain, right = tasks.loss(it.module, batch, it.recipe)
    mean = F.cross_entropy(0.5 * scores, batch.targets, label_smoothing=0.1)
    assert total.item() == pytest.approx(3 * mean.item(), rel=1e-5)
    assert plain.item() == pytest.approx(3 * F.cross_entropy(0.5 * scores, batch.targets).item(), rel=1e-5)
    assert right.item() == (scores.argmax(1) == batch.targets).sum()

    class Heads(nn.Module):
        def forward(self, x):
            return scores, 2 * scores, scores

    second = F.cross_entropy(scores, batch.targets, label_smoothing=0.1)  # twice the scores, half of them: themselves
    expected = 3 * (mean + 0.3 * (second + mean))
    assert tasks.loss(Heads(), batch, it.recipe)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_answers_that_do_not_count_have_no_loss(run, smoothing):
    it = run(f"loss.label_smoothing={smoothing}")
    answers = torch.tensor([[2, tasks.IGNORED, 0], [tasks.IGNORED, tasks.IGNORED, 1]])
    scores = torch.randn(2, 3, 5, generator=generator(1)).requires_grad_()
    total, plain, right = tasks.loss(nn.Identity(), tasks.Batch((scores,), answers), it.recipe)
    (gradient,) = torch.autograd.grad(total, scores)
    counted = answers != tasks.IGNORED
    expected = F.cross_entropy(scores[counted], answers[counted], label_smoothing=smoothing, reduction="sum")
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert plain.item() == pytest.approx(F.cross_entropy(scores[counted], answers[counted], reduction="sum").item(), rel=1e-6)
    assert right.item() == (scores[counted].argmax(1) == answers[counted]).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, scores)[0])
    assert not gradient[~counted].any()


# ---- the learning rate ------------------------------------------------------------------------------------------------


def test_schedules_by_formula():
    def factor(step: int, **options) -> float:
        return optim.factor(step, Schedule(**options), steps=100, steps_an_epoch=10)

    assert [factor(s, warmup=4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [factor(s, name="linear") for s in (0, 49, 99)] == pytest.approx([0.99, 0.5, 0])
    assert [factor(s, name="linear", final=0.2) for s in (49, 99)] == pytest.approx([0.6, 0.2])
    assert [factor(s, name="cosine", warmup=20) for s in (19, 39, 59, 99)] == pytest.approx(
        [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, 0]
    )
    assert factor(99, name="cosine", final=0.1) == pytest.approx(0.1)
    drops = [factor(s, name="steps", milestones=(2, 4.5), gamma=0.5) for s in (0, 19, 20, 44, 45, 99)]
    assert drops == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [factor(s, name="inverse_sqrt") for s in (0, 3)] == [1, 0.5]


@pytest.mark.parametrize("step", [1, 2, 3999, 4000, 4001, 100_000])
def test_the_transformers_rate_is_equation_3(step):
    """lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5), step from 1 (Vaswani et al. 2017, section 5.3)."""
    recipe = read("transformer_base")
    ours = recipe.optimizer.lr * optim.factor(step - 1, recipe.schedule, 100_000, 1000)
    assert ours == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-4)


def test_the_rate_is_that_of_the_step(run):
    it = run("epochs=2")
    for index in it.task.batches(0):
        it._step(index, it.stream([index], 0))
        expected = it.recipe.optimizer.lr * optim.factor(it.step, it.recipe.schedule, 8, 4)
        assert {g["lr"] for g in it.optimizer.param_groups} == {expected}
        it.step += 1


# ---- what is learnt from, and what is chosen by -----------------------------------------------------------------------


@given(st.integers(2, 300), st.data())
def test_the_split_is_disjoint_and_by_seed(count, data):
    held = data.draw(st.integers(0, count - 1))
    samples = data.draw(st.none() | st.integers(1, count - held))
    kept, out = tasks.split(count, held, 3, samples)
    assert not set(kept.tolist()) & set(out.tolist())
    assert len(out) == held and len(kept) == (count - held if samples is None else samples)
    assert set(kept.tolist()) | set(out.tolist()) <= set(range(count))
    again = tasks.split(count, held, 3, samples)
    assert torch.equal(kept, again[0]) and torch.equal(out, again[1])


def test_the_split_depends_on_the_seed():
    assert not torch.equal(tasks.split(100, 20, 1)[1], tasks.split(100, 20, 2)[1])


def test_training_never_reads_the_test_set(recipe, made, tmp_path, monkeypatch):
    asked, inner = [], mnist.load

    def load(split: str = "test"):
        asked.append(split)
        return inner(split)

    monkeypatch.setattr(mnist, "load", load)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / "data/mnist" / name).unlink()
    launch.train(read(recipe, ("validation=10", "select=best")), tmp_path / "run")
    assert set(asked) == {"train"}


def test_validation_pictures_are_no_training_pictures(run):
    it = run("validation=20")
    seen = {p.numpy().tobytes() for p in it.task.pixels}
    held = {p.numpy().tobytes() for p in it.task.held[0]}
    assert len(seen) == 30 and len(held) == 20 and not seen & held


def test_training_never_reads_a_corpus_test_part(tmp_path, monkeypatch):
    corpus = training.write_corpus(tmp_path / "corpus", test=0)
    recipe = tmp_path / "text.toml"
    recipe.write_text(training.TINY_TEXT)
    asked = []
    inner = parallel_text.load
    monkeypatch.setattr(parallel_text, "load", lambda c, split, *rest: asked.append(split) or inner(c, split, *rest))
    plan = read(recipe, ("validation=8", "select=best", "epochs=1"))
    launch.train(plan, tmp_path / "run", corpus)
    assert asked == ["train"]
    # No source sentence that is held out is trained on, in whatever writing.
    task = launch.task(plan, corpus)
    decoded = [{normal(task.codec.decode(ids)) for ids in part} for part in (task.sources, task.held[0])]
    assert len(decoded[1]) == 8 and not decoded[0] & decoded[1]


# ---- augmentation -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(0, 4), st.booleans(), st.integers(0, 50))
def test_every_crop_is_a_window_of_the_padded_picture(channels, crop, flip, epoch):
    pixels = torch.randint(1, 256, (6, channels, 9, 7), generator=generator(epoch), dtype=torch.uint8)
    changed = Plan(6, (9, 7), 5, epoch, crop, flip).apply(pixels, torch.arange(6))
    padded = F.pad(pixels, [crop] * 4)
    for old, new in zip(padded, changed, strict=True):
        windows = [old[:, y : y + 9, x : x + 7] for y in range(2 * crop + 1) for x in range(2 * crop + 1)]
        views = windows + ([w.flip(-1) for w in windows] if flip else [])
        assert any(torch.equal(new, view) for view in views)


def test_windows_and_mirror_images_are_all_taken():
    pixels = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).repeat(2000, 1, 1, 1)
    changed = Plan(2000, (3, 3), 0, 0, crop=1, flip=True).apply(pixels, torch.arange(2000))
    kinds, counts = changed.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18 and counts.min() > 2000 / 18 / 2
    plain = Plan(2000, (3, 3), 0, 0, flip=True).apply(pixels, torch.arange(2000))
    mirrored = (plain[:, 0, 0, 0] == 3).sum().item()
    assert 850 < mirrored < 1150


@given(st.integers(1, 6), st.integers(0, 20))
def test_cutout_is_one_square_of_zeros(side, epoch):
    pixels = torch.full((8, 2, 9, 7), 200, dtype=torch.uint8)
    changed = Plan(8, (9, 7), 1, epoch, cutout=side).apply(pixels, torch.arange(8))
    assert set(changed.unique().tolist()) <= {0, 200}
    for picture in changed:
        assert torch.equal(picture[0], picture[1])
        gone = (picture[0] == 0).nonzero()
        low, high = gone.min(0).values, gone.max(0).values + 1
        height, width = (high - low).tolist()
        assert len(gone) == height * width  # a full rectangle
        assert height == side or low[0] == 0 or high[0] == 9  # smaller only where the edge cuts it
        assert width == side or low[1] == 0 or high[1] == 7


@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_pictures_change_does_not_depend_on_its_batch(order, size):
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=generator(1), dtype=torch.uint8)
    plan = Plan(12, (8, 8), 3, 4, crop=2, flip=True, cutout=3)
    before = pixels.clone()
    whole = plan.apply(pixels, torch.arange(12))
    index = torch.tensor(order[:size])
    assert torch.equal(plan.apply(pixels[index], index), whole[index])
    assert torch.equal(pixels, before)


def test_augmentation_differs_by_epoch_and_seed():
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=generator(1), dtype=torch.uint8)
    views = [Plan(12, (8, 8), s, e, crop=2, flip=True).apply(pixels, torch.arange(12)) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_crops_of_files(tmp_path):
    """By seed alone; within the picture; mirrored half of the time."""
    across = torch.arange(200, dtype=torch.uint8).expand(100, 200)  # each column has its own grey
    Image.fromarray(across.numpy()).save(tmp_path / "x.png")
    spec = ImageSpec(size=20, resize=20, channels="L", scale=1, mean=(0.0,), std=(1.0,))
    views = [random_crop(tmp_path / "x.png", spec, generator(0, n), (0.1, 0.5), True) for n in range(60)]
    again = random_crop(tmp_path / "x.png", spec, generator(0, 7), (0.1, 0.5), True)
    assert torch.equal(views[7], again) and not torch.equal(views[7], views[8])
    mirrored = sum(bool(v[0, 0, 0] > v[0, 0, -1]) for v in views)
    assert 15 < mirrored < 45
    for view in views:
        assert view.min() >= 0 and view.max() <= 199
        width = float(view.max() - view.min()) + 1
        assert 20 < width <= 170  # sqrt(0.1 * 20,000 * 3/4) = 39, less half a pixel each side; sqrt(0.5 * 20,000 * 4/3) = 115
    same = random_crop(tmp_path / "x.png", spec, generator(0, 1), None, False)
    from lamina.data.image import prepare

    assert torch.equal(same, prepare(tmp_path / "x.png", spec))


def test_picture_files_do_not_depend_on_their_batch(tmp_path):
    from tests.train.test_train_recipes import write_pictures

    write_pictures(tmp_path / "pictures", 12)
    plan = read("resnet50_imagenet", ("batch=4", "image.size=32", "image.resize=36", "validation=3"))
    task = launch.task(plan, tmp_path / "pictures")
    whole = task.batch(torch.arange(9), 2, torch.device("cpu"))
    part = task.batch(torch.tensor([7, 2]), 2, torch.device("cpu"))
    assert torch.equal(part.inputs[0], whole.inputs[0][[7, 2]]) and torch.equal(part.targets, whole.targets[[7, 2]])
    assert not torch.equal(task.batch(torch.arange(9), 3, torch.device("cpu")).inputs[0], whole.inputs[0])
    held = torch.cat([b.targets for b in task.validation(torch.device("cpu"), 0, 1)])
    assert len(held) == 3 and len(folder.load(tmp_path / "pictures")[0]) == 12


def test_a_stream_is_its_batches_in_turn(run, tmp_path):
    """Parts of unequal size, in groups of several and in the last one of fewer."""
    from tests.train.test_train_recipes import write_pictures

    write_pictures(tmp_path / "pictures", 12)
    files = launch.task(read("resnet50_imagenet", ("batch=4", "image.size=32", "image.resize=36")), tmp_path / "pictures")
    cpu = torch.device("cpu")
    for task, parts in (
        (run("batch=300", "augmentation.crop=2").task, [torch.arange(i, 50, 7) for i in range(7)]),
        (run("batch=9").task, [torch.tensor([3])]),
        (files, [torch.tensor([2, 1]), torch.tensor([0]), torch.arange(5)]),
        (files, []),
    ):
        stream = list(task.stream(iter(parts), 3, cpu))
        assert len(stream) == len(parts)
        for made, part in zip(stream, parts, strict=True):
            expected = task.batch(part, 3, cpu)
            assert torch.equal(made.inputs[0], expected.inputs[0]) and torch.equal(made.targets, expected.targets)
            # Resumed, a run has other groups: its products must not depend on where in memory a batch begins.
            assert made.inputs[0].storage_offset() == 0


def test_picture_files_are_decoded_ahead(tmp_path):
    """The next batch is under way before a batch is asked for the second time, and no further one is."""
    from tests.train.test_train_recipes import write_pictures

    write_pictures(tmp_path / "pictures", 12)
    task = launch.task(read("resnet50_imagenet", ("batch=4", "image.size=32", "image.resize=36")), tmp_path / "pictures")
    asked, inner = [], task.batch
    task.batch = lambda part, *rest: asked.append(part.tolist()) or inner(part, *rest)
    stream = task.stream(torch.arange(9).split(2), 0, torch.device("cpu"))
    next(stream)
    stream.close()  # an interrupted run: waits for what is under way
    assert asked == [[0, 1], [2, 3]]


# ---- what cannot be ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_data_or_another_recipe(run, tmp_path):
    run("epochs=1", out=tmp_path).train()
    with pytest.raises(LaminaError, match="another recipe"):
        run("epochs=1", "optimizer.lr=0.5", out=tmp_path).resume()
    other = run("epochs=1", out=tmp_path)
    other.samples = 49
    with pytest.raises(LaminaError, match="50 training samples, and there are 49 now"):
        other.resume()


def test_weights_that_are_not_finite_are_not_saved(run, tmp_path):
    it = run("epochs=1", out=tmp_path)
    it.save()
    it.step = 1
    with torch.no_grad():
        next(it.module.parameters()).view(-1)[0] = math.nan
    with pytest.raises(LaminaError, match=r"no longer finite in step 0 .*step-00000000 is left"):
        it.save()
    assert [c.step for c in checkpoint.complete(it.checkpoints)] == [0]


def test_a_best_checkpoint_that_is_gone(run, tmp_path):
    it = run("epochs=1", "validation=10", "select=best", out=tmp_path)
    it.step, it.best = it.steps, {"step": 1, "validation_loss": 0.0}
    with pytest.raises(LaminaError, match="step-00000001, the best checkpoint, is damaged or gone"):
        it.train()


def test_too_many_samples(run):
    with pytest.raises(InputError, match="50 validation and 1 training samples of 50"):
        run("validation=50")
    with pytest.raises(InputError, match="0 validation and 51 training"):
        run("samples=51")
