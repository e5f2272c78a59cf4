"""Learning curves of training runs, as PNG files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.files import write
from lamina.report.plot import COLOURS, _figure, _style

Rows = Sequence[Mapping[str, Any]]


def draw(runs: Mapping[str, Rows], title: str, path: Path) -> None:
    """Loss and measure of `runs` (name to the rows of a metrics.jsonl) over their epochs. One colour per run; training is thin
    where there is validation, which is thick."""
    from matplotlib.ticker import MaxNLocator

    first = next(iter(runs.values()))[0]
    measure = next((key for key in ("top1", "token_accuracy") if key in first), None)
    panels = [("loss", "loss")] + ([(measure, f"{measure.replace('_', ' ')} (%)")] if measure else [])
    with _style():
        figure = _figure(9.0, 3.6)
        figure.suptitle(title, x=0.01, ha="left")
        for ax, (key, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for (name, rows), colour in zip(runs.items(), COLOURS, strict=False):
                epochs = [row["epoch"] for row in rows]
                held = f"validation_{key}"
                dots = {"marker": "o", "markersize": 3} if len(rows) < 3 else {}
                thin = held in rows[0]
                prefix = f"{name}, " if len(runs) > 1 else ""
                ax.plot(
                    epochs,
                    [row[key] for row in rows],
                    color=colour,
                    lw=0.9,
                    alpha=0.7 if thin else 1,
                    label=f"{prefix}training",
                    **dots,
                )
                if thin:
                    ax.plot(epochs, [row[held] for row in rows], color=colour, lw=2, label=f"{prefix}validation", **dots)
            ax.set_title(label)
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
            ax.grid(axis="y")
            ax.legend()
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=144, facecolor="white", transparent=False)
        write(path, content.getvalue())
