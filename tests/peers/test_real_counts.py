"""MACs, parameters and backward MACs equal to an independent count on real tensors: networks of transformers, through the API
and as `hf:`, and torchvision's detection, segmentation, video and optical flow.

`KNOWN` lists what is not so, with the reason; an entry that has come right must go.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: make peers", exc_type=ImportError)

from lamina.errors import LaminaError
from lamina.sources import resolve
from lamina.tracing.tracer import trace
from lamina.workload import Workload
from tests import real_counts
from tests.peers.small_transformers import NETWORKS, Small, inputs

torchvision = pytest.importorskip("torchvision", reason="needs torchvision: make peers", exc_type=ImportError)
KNOWN: dict[str, str] = {}


def figures(work: Workload) -> tuple[int, int, int]:
    total = work.total()
    assert work.coverage.unknown == ()
    return total.parameters, total.macs, total.backward_macs


def by_lamina(module: Any, *args: Any, **options: Any) -> tuple[int, int, int]:
    """Where shapes do not decide, with values, if this Lamina can."""
    try:
        return figures(trace(module, *args, **options))
    except LaminaError:
        if "values" not in inspect.signature(trace).parameters:
            raise
        return figures(trace(module, *args, **options, values=True))


def compare(name: str, module: Any, found: Any, *args: Any, **options: Any) -> None:
    """`found()` against the count of the real module; as `KNOWN` says where it has something to say."""
    try:
        ours: Any = found()
    except LaminaError as error:
        ours = f"{type(error).__name__}: {error}"
    real = real_counts.count(module, *args, **options)
    right = ours == (real.parameters, real.macs, real.backward_macs)
    if name in KNOWN:
        assert not right, f"{name} has come right: take it out of KNOWN"
        pytest.xfail(KNOWN[name])
    assert right, f"{name}: Lamina {ours}, really {real}"


@pytest.mark.parametrize("small", NETWORKS, ids=lambda small: small.name)
def test_transformers_through_the_api(small: Small) -> None:
    module = small.module()
    given = inputs(module)
    compare(f"api:{small.name}", module, lambda: by_lamina(module, **given), **given)


@pytest.mark.parametrize("small", NETWORKS, ids=lambda small: small.name)
def test_transformers_from_a_config(small: Small, tmp_path: Path) -> None:
    module = small.module()
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(tmp_path)
    given = inputs(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    compare(f"hf:{small.name}", module, lambda: figures(resolve(f"hf:{tmp_path}").workload(shapes)), **given)


# ---- torchvision ----------------------------------------------------------------------------------------------------

DETECTION = {"weights": None, "weights_backbone": None}
SIDE = {"min_size": 96, "max_size": 96}
VIDEO, LARGE_VIDEO = (1, 3, 8, 64, 64), (1, 3, 16, 224, 224)


def vision() -> dict[str, tuple[str, dict[str, Any], list[Any]]]:
    """By name: the kind, options of the builder, and the inputs."""
    models, found = torchvision.models, {}
    torch.manual_seed(1)
    for name in models.list_models(module=models.detection):
        fixed = name.startswith("ssd")
        side = (320 if "320" in name else 300) if fixed else 96
        found[name] = ("detection", DETECTION | ({} if fixed else SIDE), [[torch.rand(3, side, side)]])
    for name in models.list_models(module=models.segmentation):
        found[name] = ("segmentation", DETECTION, [torch.rand(1, 3, 64, 64)])
    for name in models.list_models(module=models.video):
        large = name == "s3d" or name.startswith("mvit")  # which have sizes of their own
        found[name] = ("video", {"weights": None}, [torch.rand(LARGE_VIDEO if large else VIDEO)])
    for name in models.list_models(module=models.optical_flow):
        found[name] = ("optical flow", {"weights": None}, [torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)])
    return found


VISION = vision()


@pytest.mark.parametrize("name", VISION)
def test_torchvision(name: str) -> None:
    _, options, given = VISION[name]
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, **options).eval()
    compare(f"torchvision:{name}", module, lambda: by_lamina(module, *given), *given)


def test_there_are_as_many_as_said() -> None:
    assert len(NETWORKS) >= 80 and len({small.name for small in NETWORKS}) == len(NETWORKS)
    assert len(VISION) == 29
