from lamina.cli import output
from lamina.cli.options import HtmlFile, Json
from lamina.files import write


def lecture(html: HtmlFile = None, json: Json = False) -> None:
    """Every claim of the lecture: its figure, ours, the verdict and why, and the command that shows it."""
    if html is not None:
        from lamina.lecture.html import page

        write(html, page())
        if not json:
            return print(html.resolve())
    from lamina.lecture import slides
    from lamina.report import lecture_text

    document = slides.document()
    output.emit("json" if json else "text", document, lambda out: lecture_text.claims(out, document))
