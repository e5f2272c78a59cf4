from lamina.cli.output import Json, print_json


def table(json: Json = False) -> None:
    """The lecture's summary table: its figures, ours beneath them where they differ, and the reason."""
    from lamina.lecture import summary

    document = summary.document()
    if json:
        print_json(document)
        return
    from lamina.report.table import console
    from lamina.report.table import table as grid

    def text(cell: dict) -> str:
        note = f" [{cell['note']}]" if cell["note"] else ""
        if summary.same(cell["lecture"], cell["exact"]) and not isinstance(cell["exact"], int):
            return cell["lecture"] + note
        ours = f"{cell['exact']:,}" if isinstance(cell["exact"], int) else str(cell["exact"])
        return (
            f"{cell['lecture']}\n= {ours}{note}"
            if summary.same(cell["lecture"], cell["exact"])
            else f"{cell['lecture']}\n≠ {ours}{note}"
        )

    rows = []
    for column, title in summary.TITLES.items():
        rows.append([title, *(text(row["cells"][column]) for row in document["rows"])])
        rows.append([""])
    out = console()
    out.print("The lecture's figure; beneath it ours, exact: = where it rounds to it, ≠ where it does not.")
    out.print(grid(["", *(row["network"] for row in document["rows"])], rows[:-1]))
    for number, note in enumerate(document["notes"], 1):
        out.print(f"[{number}] {note}", markup=False)
    _examples(document["examples"])


def _examples(examples: dict) -> None:
    from lamina.report.table import console
    from lamina.report.table import table as grid

    out = console()
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
    out.print(grid(columns, rows))
