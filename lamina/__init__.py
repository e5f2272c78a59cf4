"""Lamina: what a deep network costs, what it answers, how fast it is, which hardware it fits, how it is trained and grown.

>>> import lamina
>>> workload = lamina.trace(lamina.build("resnet50", device="meta").eval(), torch.empty(1, 3, 224, 224))
>>> workload.total().macs
3857973248
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name: (module, name there). Each is imported when first asked for, so that `import lamina` does not import torch.
_PUBLIC = {
    "Workload": ("lamina.workload", "Workload"),
    "build": ("lamina.zoo.registry", "build"),
    "names": ("lamina.zoo.registry", "names"),
    "spec": ("lamina.zoo.registry", "spec"),
    "load": ("lamina.weights.loading", "load"),
    "features": ("lamina.weights.features", "features"),
    "trace": ("lamina.tracing.tracer", "trace"),
    "register": ("lamina.tracing.custom", "register"),
    "compare": ("lamina.cost.compare", "compare"),
    "Session": ("lamina.infer.session", "Session"),
    "run": ("lamina.infer.session", "run"),
    "eval": ("lamina.infer.evaluate", "evaluate"),
    "grow": ("lamina.scale.growth", "grow"),
    "diagnose": ("lamina.scale.diagnose", "diagnose"),
    "shrink": ("lamina.scale.growth", "shrink"),
    "verify": ("lamina.scale.verify", "verify"),
}
__all__ = [
    "Session",
    "Workload",
    "build",
    "compare",
    "diagnose",
    "eval",
    "features",
    "grow",
    "load",
    "names",
    "register",
    "run",
    "shrink",
    "spec",
    "trace",
    "verify",
]

if TYPE_CHECKING:
    from lamina.cost.compare import compare
    from lamina.infer.evaluate import evaluate as eval
    from lamina.infer.session import Session, run
    from lamina.scale.diagnose import diagnose
    from lamina.scale.growth import grow, shrink
    from lamina.scale.verify import verify
    from lamina.tracing.custom import register
    from lamina.tracing.tracer import trace
    from lamina.weights.features import features
    from lamina.weights.loading import load
    from lamina.workload import Workload
    from lamina.zoo.registry import build, names, spec


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'lamina' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
