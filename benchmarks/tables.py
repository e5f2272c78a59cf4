"""Tables of what the benchmarks found, from their records: what they print, and what the documentation shows."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def score(tools: Sequence[str], rows: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """How many of the rows that all can enter each tool has right, and how many there are."""
    entered = [row for row in rows if not row["apart"]]
    return [sum(row["cells"][i] == "**right**" for row in entered) for i in range(len(tools))], len(entered)


def conformance(tools: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Rows of cost_conformance.py: those that all counters can enter, their sum, and those apart."""
    counts, total = score(tools, rows)
    shown = [[row["row"], row["exact"], *row["cells"]] for row in rows if not row["apart"]]
    shown.append([f"rows right, of {total}", "", *map(str, counts)])
    shown += [[f"apart: {row['row']}", row["exact"], *row["cells"]] for row in rows if row["apart"]]
    return markdown(["MACs", "exact", *tools], shown)


def sources(rows: Sequence[dict[str, Any]]) -> str:
    """The trackers' issues that rows were made after, as links."""
    issues = sorted({issue for row in rows for issue in row["source"]}, key=str.lower)
    return ", ".join(f"[{issue}](https://github.com/{issue.replace('#', '/issues/')})" for issue in issues)


def post_norm(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["layer", *(f"{n} to {2 * n}" for n in (4, 8, 16, 32, 64)), "changed by h = 0"]
    return markdown(columns, ([r["layer"], *(f"{x:.1e}" for x in (*r["differences"], r["still"]))] for r in rows))


def trained_growth(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["network", "grown by", "same predictions", "top-1 before, %", "top-1 after, %"]
    cells = ([f"{r['same']:,} of {r['of']:,}", f"{r['before']:.2f}", f"{r['after']:.2f}"] for r in rows)
    return markdown(columns, ([r["network"], r["by"], *c] for r, c in zip(rows, cells, strict=True)))


def large_growth(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["network", "grown by", "parameters before", "after", "seconds", "CPU seconds", "memory, of the old weights"]
    return markdown(columns, (
        [r["network"], f"{r['by']} x2", f"{r['parameters'] / 1e6:.0f}M", f"{r['grown'] / 1e6:.0f}M", f"{r['seconds']:.1f}",
         f"{r['cpu_seconds']:.1f}", f"{r['memory']:.2f}"]
        for r in rows
    ))  # fmt: skip


def train_overhead(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["network", "batch", "ready", "made", "loop", "loop / made", "loop / ready", "checkpoint, ms"]
    return markdown(columns, (
        [r["network"], f"{r['batch']:,}", *(f"{r['per_second'][k]:,.0f}" for k in ("ready", "made", "loop")),
         f"{r['loop / made']:.3f}", f"{r['loop / ready']:.3f}", f"{r['checkpoint_ms']:.0f}"]
        for r in rows
    ))  # fmt: skip


def cost_speed(rows: Sequence[dict[str, Any]], others: Sequence[str]) -> str:
    """Milliseconds of Lamina and of some of the others; "wrong" where the count is."""
    shown = []
    for r in rows:
        ms, exact = r["milliseconds"], r["exact"]
        fastest = min(ms[n] for n in ms if exact[n] and n != "Lamina")
        cells = [f"{ms[n]:.3g}" if exact[n] else "wrong" for n in ("Lamina", *others)]
        shown.append([r["network"], *cells, f"{fastest / ms['Lamina']:.1f}"])
    return markdown(["", "Lamina", *others, "fastest other / Lamina"], shown)


FORMS = {"torch": "torch", "last": "channels last", "onnxruntime": "ONNX Runtime", "packed": "packed", "winograd": "Winograd"}


def layers(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of a layer in each form that it has."""
    return markdown(["layer", *FORMS.values()], (
        [r["layer"], *(f"{r['milliseconds'][k]:.1f}" if k in r["milliseconds"] else "" for k in FORMS)] for r in rows
    ))  # fmt: skip


def inference(rows: Iterable[dict[str, Any]]) -> str:
    """Milliseconds of each engine on the network as it came, of auto with the engine it chose, and auto over the best."""
    engines = {"torch": "torch", "compile": "Inductor", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    columns = ["network", "batch", *engines.values(), "auto", "over the best"]
    return markdown(columns, (
        [f"`{r['network']}`", f"{r['batch']}", *(f"{r['ms'][k]:.1f}" if k in r["ms"] else "" for k in engines),
         f"{r['ms']['auto']:.1f} ({engines[r['auto']]})", f"{r['ratio']:.2f}"]
        for r in rows
    ))  # fmt: skip


def eyeriss(rows: Sequence[dict[str, Any]]) -> str:
    """Ours first, the chip's in brackets, with the difference to it."""

    def beside(row: dict[str, Any], key: str, digits: int) -> str:
        ours, chip = row[key], row[f"{key}_silicon"]
        difference = f"{100 * (ours / chip - 1):+.1f} %".replace("-", "−")
        return f"{ours:.{digits}f} ({chip:.1f}, {difference})"

    columns = ["layer", "active elements", "buffer, MB", "DRAM, MB", "time, ms"]
    return markdown(columns, (
        [r["layer"], f"{r['active']} ({r['active_silicon']})", beside(r, "buffer", 1), beside(r, "dram", 2), beside(r, "ms", 1)]
        for r in rows
    ))  # fmt: skip


def mapping(rows: Sequence[dict[str, Any]]) -> str:
    """Mappings found beside other tools: energies by their count, and processor seconds. A peer's convolutions are one row."""

    def power(value: float, digits: int) -> str:
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"

    def row(title: str, some: Sequence[dict[str, Any]]) -> list[str]:
        theirs, ours, seconds, own = (sum(r[key] for r in some) for key in ("energy", "ours", "seconds", "own_seconds"))
        each = sorted(r["energy"] / r["ours"] for r in some)
        ends = f" ({each[0]:.3f} to {each[-1]:.3f})" if len(some) > 1 else ""
        digits = 3 if len(some) > 1 else 5
        return [title, power(theirs, digits), power(ours, digits), f"{theirs / ours:.4f}{ends}", f"{seconds:.1f} s",
                f"{own:.2f} s", f"{seconds / max(own, 0.01):.0f}"]  # fmt: skip

    zigzag = [r for r in rows if r["peer"] == "zigzag-dse"]
    shown = [row(f"zigzag-dse {zigzag[0]['version']}, AlexNet's {len(zigzag)}", zigzag)]
    shown += [row(f"{r['peer']} {r['version']}, {r['layer']}".replace(" x ", "×"), [r]) for r in rows if r not in zigzag]
    columns = ["peer, layers", "its energy", "ours, by its count", "ratio", "its time", "ours", "ratio"]
    return markdown(columns, shown)


def differences(rows: Sequence[dict[str, Any]], peer: str) -> list[float]:
    """By how much a peer counts more than we do for its own mappings, where those are loop nests in our form; ascending."""
    return sorted(r["energy"] / r["counted"] - 1 for r in rows if r["peer"] == peer and "counted" in r)
