"""From a claim's command to the explorer's view of the same."""

from urllib.parse import parse_qsl

import pytest

from lamina.lecture import claims, html, views
from lamina.zoo import registry


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("lamina cost resnet50 --by layer", {"net": "resnet50", "tab": "table"}),
        ("lamina cost googlenet --by kind", {"net": "googlenet", "heat": "kind"}),
        ("lamina cost resnet34; lamina cost resnet50", {"net": "resnet34", "beside": "resnet50", "tab": "compare"}),
        ("lamina fit --compare alexnet vgg16", {"net": "alexnet", "tab": "accelerator"}),
        ("lamina eval lenet5 --data mnist", {"net": "lenet5", "tab": "live"}),
        ("lamina table", {"tab": "zoo"}),
        ("lamina lecture --json", {}),
        ("lamina train resnet20_cifar10", {}),
    ],
)
def test_a_command_has_the_view_that_shows_the_same(command: str, expected: dict[str, str]) -> None:
    assert dict(parse_qsl(views.view(command))) == expected


def test_most_claims_have_a_view_of_a_network_that_there_is() -> None:
    """The others' commands train, or run on files of the user's."""
    commands = [claim.command for slide in claims.slides() for claim in slide.claims.values()]
    shown = [dict(parse_qsl(text)) for text in map(views.view, commands) if text]
    assert len(shown) > 0.7 * len(commands)
    assert all(query[key] in registry.counts() for query in shown for key in ("net", "beside") if key in query)


def test_a_page_by_itself_links_nowhere() -> None:
    row = {"command": "lamina cost resnet50"}
    assert html.linked(row, "") == row
    assert html.linked(row, "/explore/")["view"] == "/explore/#net=resnet50"
