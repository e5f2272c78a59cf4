"""From a claim's command to the explorer's view of the same."""

from urllib.parse import parse_qsl

import pytest

from lamina.lecture import views


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
