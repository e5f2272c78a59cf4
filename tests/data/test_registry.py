"""Each row of the table of data sets: its loader, its classes, its images' specification."""

import numpy as np
import pytest

from lamina.data import registry
from lamina.data.image import ImageSpec
from lamina.errors import InputError
from tests.data.test_data import idx

# Krizhevsky 2009, the table of the superclasses and their classes; the fine labels are numbered by the alphabet.
SUPERCLASSES = """
beaver, dolphin, otter, seal, whale
aquarium fish, flatfish, ray, shark, trout
orchid, poppy, rose, sunflower, tulip
bottle, bowl, can, cup, plate
apple, mushroom, orange, pear, sweet pepper
clock, keyboard, lamp, telephone, television
bed, chair, couch, table, wardrobe
bee, beetle, butterfly, caterpillar, cockroach
bear, leopard, lion, tiger, wolf
bridge, castle, house, road, skyscraper
cloud, forest, mountain, plain, sea
camel, cattle, chimpanzee, elephant, kangaroo
fox, porcupine, possum, raccoon, skunk
crab, lobster, snail, spider, worm
baby, boy, girl, man, woman
crocodile, dinosaur, lizard, snake, turtle
hamster, mouse, rabbit, shrew, squirrel
maple tree, oak tree, palm tree, pine tree, willow tree
bicycle, bus, motorcycle, pickup truck, train
lawn mower, rocket, streetcar, tank, tractor
"""
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}


def test_the_classes():
    images = [row for row in registry.DATASETS.values() if row.kind == "images"]
    assert CLASSES.items() <= {row.name: len(row.classes) for row in images}.items()
    assert all(row.classes and all(isinstance(name, str) for name in row.classes) for row in images)
    fine = sorted(name.strip() for line in SUPERCLASSES.split("\n") if line for name in line.split(","))
    assert list(registry.class_names("cifar100")) == fine
    assert registry.class_names("cifar10")[3] == "cat" and registry.class_names("fashion_mnist")[9] == "ankle boot"
    assert registry.class_names("tatoeba") == registry.class_names("") == registry.class_names("a/folder") == ()


def test_the_images_specifications():
    for row in registry.DATASETS.values():
        if row.kind == "images":
            spec = ImageSpec.of({**row.image, "size": row.image["resize"]})
            assert spec.inner == row.image["resize"]
    ink = ImageSpec.of({**registry.DATASETS["mnist"].image, "size": 28})  # -0.1 and 1.175: LeCun et al. 1998, section II.B
    assert [(v / ink.scale - ink.mean[0]) / ink.std[0] for v in (0, 255)] == pytest.approx([-0.1, 1.175])


def test_what_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    digits = {"images-idx3": np.full((2, 28, 28), 5), "labels-idx1": np.array([3, 7])}
    records = {"cifar10": bytes([6]) + bytes(3072), "cifar100": bytes([2, 99]) + bytes(3072)}
    for name in (name for name in CLASSES if name != "imagenet"):
        (tmp_path / name).mkdir()
        if name in records:
            for file in ("test_batch.bin", "test.bin"):
                (tmp_path / name / file).write_bytes(records[name])
        else:
            for file, values in digits.items():
                (tmp_path / name / f"t10k-{file}-ubyte").write_bytes(idx(values))
        pixels, labels = registry.DATASETS[name].load("test")
        row = registry.DATASETS[name]
        assert pixels.shape[1] == len(row.image["channels"]) and pixels.shape[-1] == row.image["resize"]
        assert int(labels.max()) < len(row.classes)
    assert {*CLASSES} - {"imagenet"} <= set(registry.names("images")) and "imagenet" not in registry.names("images")
    assert {"tatoeba", "tatoeba_strict", "multi30k"} <= set(registry.names("text"))


def test_a_split_that_is_not_there():
    with pytest.raises(InputError, match=r"^cifar100 has no split 'validation'; its splits are train, test$"):
        registry.DATASETS["cifar100"].load("validation")
