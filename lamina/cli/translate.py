from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.options import Device, Json, Weights
from lamina.cli.output import print_json


def translate(
    model: Annotated[str, typer.Argument(help="A zoo name, such as transformer_de_en, or the folder of a CTranslate2 model.")],
    sentences: Annotated[list[str] | None, typer.Argument(metavar="SENTENCE...", help="What to translate.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A text file of sentences, one per line.")] = None,
    weights: Weights = None,
    beams: Annotated[int, typer.Option("--beams", help="Sequences that the search keeps open; 1 is greedy.")] = 5,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Translate sentences with a Transformer and the byte-pair encoding in its weight file."""
    from lamina.errors import InputError
    from lamina.infer.translate import translator

    given = list(sentences or ())
    if file is not None:
        try:
            given += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as UTF-8 text ({error})") from error
    if not given:
        raise InputError('give a sentence, as in lamina translate transformer_de_en "Ich habe keine Zeit.", or --file FILE')
    results = translator(model, weights, device).translate(given, beams)
    if json:
        print_json(results)
    else:
        for result in results:
            print(result["target"])
