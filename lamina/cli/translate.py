import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.options import Device, Json, Weights
from lamina.cli.output import print_json
from lamina.errors import InputError

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
        raise InputError('give a sentence, as in lamina translate transformer_de_en "Ich habe keine Zeit.", or --file FILE')
    net = translator(model, weights, device)
    given = sentences or _lines(file)
    options = {} if alpha is None else {"length_penalty": alpha, "offset": PAPER}
    rows, bad = [], 0
    for number, row in enumerate(track(net.stream(given, beams, **options), "sentences"), 1):
        if "error" in row:
            bad += 1
            print(f"lamina: sentence {number}: {row['error']}", file=sys.stderr)
        if json:
            rows.append(row)
        else:
            print(row.get("target", ""), flush=True)  # a line for each, whatever becomes of it
    if json:
        print_json(rows)
    if bad:
        raise typer.Exit(1)


def _lines(file: Path | None) -> Iterator[str]:
    """The lines of a file, or of standard input, as they come."""
    try:
        if file is None:
            sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
            yield from _bare(sys.stdin)
        else:
            with file.open(encoding="utf-8") as stream:
                yield from _bare(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file or 'standard input'} cannot be read as UTF-8 text ({error})") from error


def _bare(stream: Iterable[str]) -> Iterator[str]:
    return (line.rstrip("\n") for line in stream)
