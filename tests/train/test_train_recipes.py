"""Recipes: every one that comes with Lamina is whole and takes its first steps; bad ones are refused with one line."""

import json
import math
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lamina.data.image import ImageSpec
from lamina.errors import InputError, LaminaError
from lamina.train import launch, optim, tasks
from lamina.train.loop import Run
from lamina.train.recipe import difference, dump, loads, names, read
from lamina.train.world import World
from lamina.zoo import registry
from tests import training

STEPS = 20
# What makes a network quick on one core and leaves its form; the others are as they are.
SMALL = {
    "alexnet_imagenet": ("changes.img_size=67", "image.size=67", "image.resize=72"),
    "vgg16_imagenet": ("changes.img_size=32", "image.size=32", "image.resize=36"),
    "resnet50_imagenet": ("image.size=64", "image.resize=72"),
    "vit_s_16_imagenet": ("changes.img_size=64", "image.size=64", "image.resize=72", "changes.depth=4"),
    "googlenet_imagenet": ("image.size=224", "batch=1"),
    "resnext29_8x64d_cifar10": ("changes.cardinality=2", "changes.widths=[32, 64, 128]"),
    "densenet_bc_100_12_cifar10": ("changes.depths=[4, 4, 4]",),
    "transformer_base": (
        "changes.vocabulary=300",
        "text.vocabulary=300",
        "changes.encoder_layers=2",
        "changes.decoder_layers=2",
    ),
    "transformer_de_en_multi30k": ("changes.vocabulary=300", "text.vocabulary=300", "validation=6"),
    "transformer_de_en_tatoeba": ("changes.vocabulary=300", "text.vocabulary=300", "validation=6"),
}


def write_pictures(root: Path, count: int = 40) -> Path:
    """A folder of `count` small JPEG files in four classes."""
    for number in range(count):
        folder = root / f"class{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (60, 80, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        pixels[:, :, number % 3] //= 4
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.jpg")
    return root


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_whole(name):
    recipe = read(name)
    assert recipe.network in registry.names()
    assert recipe.about and (recipe.mark is None or recipe.mark.source)
    registry.assemble(recipe.network, **recipe.changes)
    if recipe.text is None:
        assert {"size", "resize"} <= set(recipe.image)
    else:
        vocabulary = recipe.changes.get("vocabulary", registry.spec(recipe.network).config.vocabulary)
        assert recipe.text.vocabulary == vocabulary


@pytest.mark.parametrize("name", names())
def test_a_recipe_survives_being_written_out(name, tmp_path):
    recipe = read(name, ("optimizer.lr=0.25", "samples=1000"))
    (tmp_path / "config.toml").write_text(dump(recipe))
    assert read(tmp_path / "config.toml") == recipe
    assert (recipe.optimizer.lr, recipe.samples) == (0.25, 1000)


@pytest.mark.parametrize("name", names())
def test_the_first_steps(name, tmp_path, monkeypatch):
    plan = read(name)
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    data, batch = None, "batch=2"
    if plan.text is not None:
        data, batch = training.write_corpus(tmp_path / "corpus"), "batch=60"
        if plan.text.source == "en":
            batch = "batch=40"
    elif plan.data == "image_folder":
        data = write_pictures(tmp_path / "pictures")
    else:
        {"mnist": training.write_mnist, "cifar10": training.write_cifar10}[plan.data](tmp_path / "data")
    held = f"validation={min(plan.validation, 10)}"
    plan = read(name, (batch, "accumulate=1", held, *SMALL.get(name, ())))
    torch.manual_seed(plan.seed)
    task = launch.task(plan, data)
    module = registry.build(plan.network, **plan.changes)
    tasks.check(module, task, plan)
    run = Run(plan, module, task, tmp_path / "run", World())
    before = [p.detach().clone() for p in module.parameters()]
    while run.step < STEPS:
        epoch = run.step // run.steps_an_epoch
        batches = task.batches(epoch)[: STEPS - run.step]
        stream = run.stream(batches, epoch)
        for index in batches:
            loss, right, answers = run._step(index, stream)
            expected = plan.optimizer.lr * optim.factor(run.step, plan.schedule, int(run.steps), run.steps_an_epoch)
            assert {g["lr"] for g in run.optimizer.param_groups} == {expected}
            assert math.isfinite(loss) and 0 <= right <= answers and answers == task.count(index)
            run.step += 1
    assert all(p.isfinite().all() for p in module.parameters())
    moved = sum(not torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert moved > 0.9 * len(before)


@given(
    st.text(st.characters(codec="utf-8")),
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.booleans() | st.integers(-9, 2**70) | st.text("ab\"'\\\n\t\x7f")
    ),
    st.floats(1e-12, 1e6),
    st.none() | st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
)
def test_any_recipe_survives_being_written_out(tmp_path_factory, about, changes, lr, area):
    recipe = read("vit_mnist")
    recipe = msgspec.structs.replace(
        recipe,
        about=about,
        changes=changes,
        optimizer=msgspec.structs.replace(recipe.optimizer, lr=lr),
        augmentation=msgspec.structs.replace(recipe.augmentation, area=area),
    )
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert read(path) == recipe


def test_difference():
    old, new = read("vit_mnist"), read("vit_mnist", ("optimizer.lr=0.5",))
    assert difference(old, old) == ""
    assert difference(old, new) == "optimizer.lr is 0.002 there and 0.5 here"
    assert difference(old, read("vit_mnist", ("changes.depth=2",))) == "changes.depth is None there and 2 here"


BAD = {
    "optimiser = 1": "no key 'optimiser'; the nearest is optimizer",
    "zzz = 1": "no key 'zzz'; there are network, data, epochs",
    "epochs = 1.5": "epochs: expected a whole number, not 1.5",
    "epochs = true": "epochs: expected a whole number, not True",
    "epochs = 0": "epochs: expected a whole number >= 1, not 0",
    "epochs = 1e400": "epochs: expected a whole number, not inf",
    "batch = 0": "batch: expected a whole number >= 1, not 0",
    "network = 5": "network: expected a string, not 5",
    "seed = -1": "seed: expected a whole number >= 0, not -1",
    "seed = 4294967296": "seed: expected a whole number <= 4294967295, not 4294967296",
    "precision = 'fp8'": "precision is one of fp32, bf16, not 'fp8'",
    "select = 'best'": 'select = "best" needs validation samples',
    "validation = -3": "validation: expected a whole number >= 0, not -3",
    "ema = 1.0": "ema: expected a number < 1, not 1.0",
    "clip = 0": "clip: expected a number > 0, not 0",
    "clip = nan": "clip: expected a number > 0, not nan",
    "clip = inf": "clip: expected a number <= 1e+30, not inf",
    "clip = 'x'": "clip: expected a number, not 'x'",
    "image = 3": "image: expected a table, not 3",
    "channels_last = 1": "channels_last: expected true or false, not 1",
    "[optimizer]\nname = 'adam'": "optimizer.lr is missing",
    "[optimizer]\nname = 'adam'\nlr = 1\nbeta = 2": "no key 'optimizer.beta'; the nearest is optimizer.betas",
    "[optimizer]\nname = 'lion'\nlr = 1": "optimizer.name is one of sgd, adam, adamw, not 'lion'",
    "[optimizer]\nname = 'sgd'\nlr = nan": "optimizer.lr: expected a number > 0, not nan",
    "[optimizer]\nname = 'sgd'\nlr = 1\nmomentum = 1.5": "optimizer.momentum: expected a number < 1, not 1.5",
    "[optimizer]\nname = 'sgd'\nlr = 1\nmomentum = 0\nnesterov = true": "optimizer: nesterov = true needs a momentum above 0",
    "[optimizer]\nname = 'adam'\nlr = 1\nbetas = [0.9]": "optimizer.betas: expected a list of length 2, not [0.9]",
    "[optimizer]\nname = 'adam'\nlr = 1\nbetas = [0.9, 1]": "optimizer.betas[1]: expected a number < 1, not 1",
    "[schedule]\nwarmup = -1": "schedule.warmup: expected a whole number >= 0, not -1",
    "[schedule]\nmilestones = [3, 2]": "schedule: milestones are epochs in ascending order, not [3.0, 2.0]",
    "[schedule]\nmilestones = ['a']": "schedule.milestones[0]: expected a number, not 'a'",
    "[augmentation]\narea = [0.5, 0.1]": "augmentation: area is two shares above 0, the smaller first, not [0.5, 0.1]",
    "[loss]\nlabel_smoothing = 2": "loss.label_smoothing: expected a number <= 1, not 2",
    "[text]\nsource = 'de'": "text.target is missing",
    "changes.depth = 2026-01-01": "changes.depth: expected a string, a finite number, true or false, or a list of these, not",
    "changes.depth = [1, [nan]]": "changes.depth: expected a string, a finite number",
    "image.mean.x = 1": "image.mean: expected a string, a finite number",
    "= 3": "is not TOML: ",
    f"epochs = {'9' * 5000}": "is not TOML: Exceeds the limit (4300 digits)",
    f"epochs = 0x{'f' * 5000}": "epochs: expected a whole number",
    f"x = {'[' * 2000}": "is not TOML: ",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_recipes(text, tmp_path):
    head = {"network": "'lenet5'", "data": "'mnist'", "epochs": "1", "batch": "8", "seed": "0"}
    head = {k: v for k, v in head.items() if not text.startswith(f"{k} =")}
    optimizer = "" if text.startswith("[optimizer]") else "optimizer = {name = 'sgd', lr = 0.1}\n"
    path = tmp_path / "bad.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in head.items()) + optimizer + text)
    with pytest.raises(InputError) as error:
        read(path)
    assert BAD[text] in str(error.value) and "\n" not in str(error.value)


def mutated(text: str, random: Random) -> bytes:
    """`text` with one of its bytes, lines or values changed."""
    lines = text.splitlines(keepends=True)
    kind, place = random.randrange(4), random.randrange(len(lines))
    if kind == 0:
        content = bytearray(text.encode())
        content[random.randrange(len(content))] = random.randrange(256)
        return bytes(content)
    if kind == 1:
        del lines[place]
    elif kind == 2:
        lines.insert(place, lines[random.randrange(len(lines))])
    else:
        odd = ("nan", "-1", "0", "1e999", "[]", "{a = 1}", "[[0.5]]", "''", "'é'", "true", "1979-05-27", "9" * 30, "'\\u0000'")
        lines[place] = f"{lines[place].partition('=')[0].strip()} = {random.choice(odd)}\n"
    return "".join(lines).encode()


@pytest.mark.slow
def test_mutated_recipes(tmp_path):
    """A thousand mutated recipes are read, or refused with one line; what is read is written out and read again."""
    random, path, outcomes = Random(11), tmp_path / "mutated.toml", Counter()
    texts = [files("lamina.train").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8") for name in names()]
    for _ in range(1000):
        path.write_bytes(mutated(random.choice(texts), random))
        try:
            recipe = read(path)
            ImageSpec.of(recipe.image)
        except LaminaError as error:
            assert str(error).isprintable(), path.read_bytes()
            outcomes["refused"] += 1
        else:
            assert loads(dump(recipe), "dumped") == recipe, path.read_bytes()
            json.dumps([recipe.image, recipe.changes])
            outcomes["read"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 200, outcomes


def test_a_recipe_written_by_an_earlier_version(tmp_path):
    """The form that runs wrote before tomli-w: lists on one line, tables without values left out."""
    text = """about = "a \\"b\\""\nnetwork = "resnet20_cifar"\ndata = "cifar10"\nepochs = 70\nbatch = 128\nseed = 2015
validation = 0\nselect = "last"\nprecision = "fp32"\naccumulate = 1\nchannels_last = true\ncompile = false\nkeep = 2

[optimizer]\nname = "sgd"\nlr = 0.1\nmomentum = 0.9\nnesterov = false\nbetas = [0.9, 0.999]\neps = 1e-08
weight_decay = 0.0001\ndecay_all = true\n
[schedule]\nname = "steps"\nwarmup = 0\nmilestones = [35.0, 52.5]\ngamma = 0.1\nfinal = 0.0\n
[augmentation]\ncrop = 4\nflip = true\ncutout = 0\n
[loss]\nlabel_smoothing = 0.0\nscale = 1.0\naux = 0.3\n"""
    recipe = loads(text, "config.toml")
    assert (recipe.about, recipe.schedule.milestones, recipe.optimizer.eps) == ('a "b"', (35.0, 52.5), 1e-8)
    assert loads(dump(recipe), "again") == recipe


def test_bad_settings(tmp_path):
    for setting, message in {
        "optimizer.lr": "it has the form KEY=VALUE",
        "=3": "it has the form KEY=VALUE",
        "epochs.x=3": "epochs is a value, not a table",
        "optimizer.lrr=3": "no key 'optimizer.lrr'; the nearest is optimizer.lr",
        "optimizer.lr=fast": "optimizer.lr: expected a number, not 'fast'",
    }.items():
        with pytest.raises(InputError, match=message):
            read("lenet5_mnist", (setting,))
    assert read("lenet5_mnist", ("precision=bf16", "changes.x=[1, 2]")).precision == "bf16"  # a bare word is a string


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no such recipe; there are .*lenet5_mnist"):
        read("lenet")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"about = '\xe9'")
    with pytest.raises(InputError, match="is not a text file"):
        read(tmp_path / "latin.toml")
