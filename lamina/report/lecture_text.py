"""The lecture's documents as text for the terminal."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from lamina.report.table import table

Document = Mapping[str, Any]


def claims(out: Console, document: Sequence[Document]) -> None:
    """One table per slide, and how many claims have which verdict."""
    columns = ("claim", "lecture", "lamina", "verdict", "command")
    for slide in dict.fromkeys(claim["slide"] for claim in document):
        rows = [
            (c["claim"], c["lecture"], c["lamina"], c["verdict"] + (f": {c['why']}" if c["why"] else ""), c["command"])
            for c in document
            if c["slide"] == slide
        ]
        out.print(table(columns, rows, left=columns, title=slide))
    tally = Counter(claim["verdict"] for claim in document)
    out.print(f"{len(document)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in tally.most_common()))


def summary(out: Console, document: Document, titles: Mapping[str, str], same: Callable[[str, Any], bool]) -> None:
    """The summary table, columns by their `titles`, its notes and the worked examples; `same` says whether the lecture's figure
    is ours, rounded or cut."""
    rows = []
    for column, title in titles.items():
        rows.append([title, *(_cell(row["cells"][column], same) for row in document["rows"])])
        rows.append([""])
    out.print("The lecture's figure, and below it the exact one: = where it rounds to the lecture's, ≠ where it does not.")
    out.print(table(["", *(row["network"] for row in document["rows"])], rows[:-1]))
    for number, note in enumerate(document["notes"], 1):
        out.print(f"[{number}] {note}", markup=False)
    _examples(out, document["examples"])


def _cell(cell: Document, same: Callable[[str, Any], bool]) -> str:
    alike = same(cell["lecture"], cell["exact"])
    note = f" [{cell['note']}]" if cell["note"] else ""
    if alike and not isinstance(cell["exact"], int):
        return cell["lecture"] + note
    ours = f"{cell['exact']:,}" if isinstance(cell["exact"], int) else str(cell["exact"])
    return f"{cell['lecture']}\n{'=' if alike else '≠'} {ours}{note}"


def _examples(out: Console, examples: Document) -> None:
    stacked, inception = examples["stacked_filters"], examples["bottleneck"]
    fields = stacked["receptive_fields"]
    out.print(
        f"\nStacked filters: a 5x5 filter has {stacked['one_5x5']} weights, two 3x3 filters {stacked['two_3x3']}; "
        f"their receptive fields are {fields[0]}x{fields[0]} and {fields[1]}x{fields[1]}."
    )
    out.print(
        f"1x1 bottleneck: {inception['direct']:,} MACs become {inception['reduced']:,}; the lecture's 358M "
        f"({inception['with_3x3_twice']:,}) counts the 3x3 branch twice.\n"
    )
    rows = [
        (
            str(row["layer"]),
            row["filter"],
            str(row["filters"]),
            str(row["channels"]),
            str(row["stride"]),
            f"{row['weights']:,}" + (f" ({row['lecture']['weights']})" if "weights" in row["lecture"] else ""),
            f"{row['macs']:,}" + (f" ({row['lecture']['macs']})" if "macs" in row["lecture"] else ""),
        )
        for row in examples["alexnet_layers"]
    ]
    columns = ("AlexNet layer", "filter", "filters", "channels", "stride", "weights (lecture)", "MACs (lecture)")
    out.print(table(columns, rows))
