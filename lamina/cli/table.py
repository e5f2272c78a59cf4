from lamina.cli import output
from lamina.cli.options import Json


def table(json: Json = False) -> None:
    """The lecture's summary table: its figures, ours below them where they differ, and the reason."""
    from lamina.lecture import summary
    from lamina.report import lecture_text

    document = summary.document()
    form = "json" if json else "text"
    output.emit(form, document, lambda out: lecture_text.summary(out, document, summary.TITLES, summary.same))
