"""Shape rules for the commonest operations, as people write them: no kernel runs, not even a meta kernel.

A rule has the signature of the operation it stands for, with the trace's emitter in front, and returns the result's
stand-in, or NotImplemented to fall through. Whoever adds one adds nothing else: `meta_ops` agrees with it, and a test says so.
"""

from lamina.tracing.rules import attention, layout, norms, pointwise, products, recurrent  # noqa: F401 - each fills the table
from lamina.tracing.rules.opened import opened
from lamina.tracing.rules.table import QUESTIONS, RULES, TRANSPARENT, WHOLE

__all__ = ["QUESTIONS", "RULES", "TRANSPARENT", "WHOLE", "opened"]
