import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.options import Device, Json, Weights
from lamina.cli.output import print_json
from lamina.errors import InputError

NOTHING = 'give a sentence, as in lamina translate transformer_de_en "Ich habe keine Zeit.", or --file FILE'
PAPER = 5  # the offset of the paper's length penalty


def translate(
    model: Annotated[str, typer.Argument(help="A zoo name, such as transformer_de_en, or the folder of a CTranslate2 model.")],
    sentences: Annotated[
        list[str] | None, typer.Argument(metavar="SENTENCE...", help="What to translate; none reads lines from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A text file of sentences, one per line.")] = None,
    weights: Weights = None,
    beams: Annotated[int, typer.Option("--beams", help="Sequences that the search keeps open; 1 is greedy.")] = 5,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="The paper's length penalty ((5 + length) / 6) ** alpha (0.6 there, with 4 beams)."),
    ] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Translate sentences with a Transformer and the byte-pair encoding in its weight file, a line for each, in order."""
    from lamina.infer.translate import translator
    from lamina.progress import track

    if sentences and file is not None:
        raise InputError("sentences and --file exclude each other: give one")
    if not sentences and file is None and sys.stdin.isatty():
        raise InputError(NOTHING)
    net = translator(model, weights, device)
    options = {} if alpha is None else {"length_penalty": alpha, "offset": PAPER}
    found = (
        net.translate(sentences, beams, **options)
        if sentences
        else track(net.stream(_lines(file), beams, **options), "sentences")
    )
    number, rows, bad = 0, [], 0
    for number, row in enumerate(found, 1):
        if "error" in row:
            bad += 1
            print(f"lamina: line {number} {row['error']}", file=sys.stderr)
        if json:
            rows.append(row)
        else:
            print(row.get("target", ""), flush=True)  # a line for each, whatever becomes of it
    if not number:
        raise InputError(NOTHING)
    if json:
        print_json(rows)
    if bad:
        raise typer.Exit(1)


def _lines(file: Path | None) -> Iterator[str]:
    """The lines of a file, or of standard input, as they come."""
    try:
        with open(file or 0, encoding="utf-8", closefd=file is not None) as stream:
            for line in stream:
                yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file or 'standard input'} cannot be read as UTF-8 text ({error})") from error
