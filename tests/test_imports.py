"""Who may import whom, read from the source, and what starting Lamina must not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lamina"
ANY = ("",)  # matches everything


@dataclass(frozen=True)
class Row:
    """What a module may import beside the standard library, its own package and `COMMON`.

    `lamina` are parts of Lamina and `third` packages of others; `lazy`, of either, only inside a function. `never` goes
    before all.
    """

    lamina: tuple[str, ...] = ()
    third: tuple[str, ...] = ()
    lazy: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


COMMON = (
    "lamina.__version__",
    "lamina.errors",
    "lamina.extras",
    "lamina.files",
    "lamina.progress",
    "lamina.units",
    "lamina.workload",
)
CORE = ("torch", "numpy", "safetensors", "PIL", "typer", "click", "rich", "matplotlib", "huggingface_hub")

# The longest name that fits a module is its row.
TABLE = {
    "lamina.errors": Row(),
    "lamina.extras": Row(),
    "lamina.files": Row(third=("platformdirs",)),
    "lamina.progress": Row(third=("rich",)),
    "lamina.units": Row(),
    "lamina.workload": Row(third=("msgspec",)),
    "lamina.operators": Row(),
    "lamina": Row(lamina=ANY),  # lamina/__init__.py alone: a file elsewhere needs a row
    "lamina.__main__": Row(lamina=("lamina.cli",)),
    "lamina.sources": Row(
        lamina=("lamina.zoo", "lamina.tracing", "lamina.onnx"),
        third=("torch",),
        # numpy: sample inputs in .npz
        lazy=("timm", "transformers", "onnx", "huggingface_hub", "numpy", "lamina.weights", "lamina.data.registry"),
    ),
    "lamina.zoo": Row(third=("torch",)),
    "lamina.weights": Row(
        lamina=("lamina.zoo", "lamina.data"), third=("torch", "safetensors", "huggingface_hub"), lazy=("numpy",)
    ),
    "lamina.data": Row(third=("torch", "numpy", "PIL", "tokenizers", "msgspec")),
    "lamina.cost": Row(),
    "lamina.tracing": Row(lamina=("lamina.operators",), third=("torch",), never=("lamina.zoo",)),
    "lamina.onnx": Row(lamina=("lamina.operators",), third=("onnx", "numpy")),
    "lamina.infer": Row(lamina=("lamina.zoo", "lamina.weights", "lamina.data"), third=("torch", "numpy")),
    "lamina.infer.engines": Row(lamina=("lamina.zoo", "lamina.weights", "lamina.data"), third=("torch",)),
    "lamina.infer.engines.onnxruntime": Row(third=("torch", "onnxruntime")),  # these two are imported when they start
    "lamina.infer.engines.sharing": Row(lamina=("lamina.zoo", "lamina.data"), third=("torch",), lazy=("onnx_ir",)),
    "lamina.infer.engines.openvino": Row(third=("torch", "openvino")),
    "lamina.infer.networks": Row(
        lamina=("lamina.zoo", "lamina.weights", "lamina.data", "lamina.sources"), third=("torch",), lazy=("onnxruntime",)
    ),
    "lamina.infer.export": Row(
        lamina=("lamina.zoo", "lamina.data"), third=("torch",), lazy=("onnx", "onnxscript", "onnxruntime")
    ),
    "lamina.infer.translate": Row(
        lamina=("lamina.zoo", "lamina.weights", "lamina.data"), third=("torch",), lazy=("sacrebleu",)
    ),
    **dict.fromkeys(
        ("lamina.infer.bench", "lamina.infer.layers", "lamina.infer.protocols"),
        Row(
            lamina=("lamina.zoo", "lamina.weights", "lamina.data", "lamina.tracing", "lamina.hardware.roofline"),
            third=("torch", "numpy", "PIL"),
        ),
    ),
    "lamina.hardware": Row(third=("numpy", "msgspec"), lazy=("ray",)),
    # A recipe names its network, and running one builds it; training itself gets a module.
    "lamina.train": Row(
        lamina=("lamina.data",),
        third=("torch", "safetensors", "msgspec", "tomli_w"),
        lazy=("lamina.zoo.registry", "lamina.weights"),
    ),
    # What follows training is evaluated as any weights are; nothing of `lamina.infer` or `lamina.report` imports training.
    "lamina.train.finish": Row(lamina=("lamina.infer", "lamina.report"), third=("safetensors",)),
    "lamina.scale": Row(lamina=("lamina.zoo",), third=("torch", "numpy")),
    "lamina.scale.schedule": Row(
        lamina=("lamina.zoo", "lamina.weights", "lamina.tracing", "lamina.cost", "lamina.train"), third=("torch", "msgspec")
    ),
    "lamina.report": Row(third=("rich", "matplotlib", "jinja2")),
    # The page and its document need no server; the routes and the live runs behind them do.
    "lamina.serve.explorer": Row(lamina=("lamina.cost", "lamina.hardware", "lamina.sources", "lamina.zoo")),
    "lamina.serve.explorer.routes": Row(lamina=("lamina.zoo",), third=("starlette", "anyio", "msgspec")),
    "lamina.serve.explorer.live": Row(
        lamina=("lamina.data.image", "lamina.infer", "lamina.weights", "lamina.zoo"), third=("numpy", "torch")
    ),
    # Networks with their weights come from `lamina.infer`; images are decoded by `lamina.data`, as everywhere.
    "lamina.serve": Row(
        lamina=("lamina.sources", "lamina.cost", "lamina.infer", "lamina.hardware", "lamina.report", "lamina.data.image"),
        third=("starlette", "uvicorn", "prometheus_client", "anyio", "msgspec", "numpy", "torch"),
    ),
    "lamina.serve.models": Row(lamina=("lamina.infer", "lamina.weights.ctranslate2"), third=("numpy", "torch")),
    "lamina.serve.ray_serve": Row(third=("ray",)),
    "lamina.lecture": Row(lamina=ANY, third=CORE, never=("lamina.cli",)),
    "lamina.cli": Row(lamina=ANY, third=CORE),
}


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING:`


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def from_targets(node: ast.ImportFrom, package: str) -> Iterator[str]:
    """The modules that `from base import a, b` names: `base.a` where that is a module of Lamina, `base` elsewhere."""
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if base == "lamina" or (base.startswith("lamina.") and is_module(inner)) else base


def called_target(node: ast.Call) -> str | None:
    """The module, or the constant beginning of its name, that `import_module(...)` and `__import__(...)` name."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return None
    text = node.args[0]
    if isinstance(text, ast.JoinedStr) and text.values:
        text = text.values[0]
    value = text.value if isinstance(text, ast.Constant) else None
    return value.rstrip(".") if isinstance(value, str) else None


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def read_imports(source: str, package: str) -> Iterator[Import]:
    """Every import of `source`, wherever it stands."""

    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = list(from_targets(node, package))
        elif isinstance(node, ast.Call) and (target := called_target(node)):
            targets = [target]
        else:
            targets = []
        for target in dict.fromkeys(targets):
            yield Import(target, getattr(node, "lineno", 0), lazy, typing)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and is_typing(node):
            for child in node.body:
                yield from visit(child, lazy, True)
            children: list[ast.stmt] | Iterator[ast.AST] = node.orelse
        else:
            children = ast.iter_child_nodes(node)
        for child in children:
            yield from visit(child, lazy, typing)

    yield from visit(ast.parse(source), False, False)


def covers(allowed: tuple[str, ...], module: str) -> bool:
    return any(name == "" or module == name or module.startswith(f"{name}.") for name in allowed)


def row_of(module: str) -> tuple[str, Row] | None:
    names = [name for name in TABLE if covers((name,), module) and (name != "lamina" or module == "lamina")]
    return max(((name, TABLE[name]) for name in names), key=lambda item: len(item[0]), default=None)


def permitted(module: str, row: Row, found: Import) -> bool:
    target = found.module
    if target.split(".")[0] in sys.stdlib_module_names:
        return True
    if covers(row.never, target):
        return False
    if found.lazy and covers(row.lazy, target):
        return True
    if target.split(".")[0] != "lamina":
        return found.typing or covers(row.third, target)
    own = ".".join(module.split(".")[:2])  # the package that the module is in; "lamina" itself is nobody's own
    return covers(COMMON, target) or covers(row.lamina, target) or (own != "lamina" and covers((own,), target))


def forbidden(path: str, module: str, source: str, is_package: bool = False) -> list[str]:
    """One line for each import that the table does not allow: file, line, the import, and what is allowed."""
    if (found := row_of(module)) is None:
        return [f"{path}:1: {module} has no row in the table of tests/test_imports.py"]
    name, row = found
    package = module if is_package else module.rpartition(".")[0]
    lazily = f", inside a function {', '.join(row.lazy)}" if row.lazy else ""
    allowed = f"{', '.join(filter(None, row.lamina + row.third)) or 'no more'}{lazily}"
    return [
        f"{path}:{item.line}: {module} may not import {item.module} (the row {name} allows {allowed})"
        for item in read_imports(source, package)
        if not permitted(module, row, item)
    ]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE.parent).as_posix())
def test_the_table_holds(path: Path) -> None:
    relative = path.relative_to(PACKAGE.parent).as_posix()
    lines = forbidden(relative, module_name(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")
    assert not lines, "\n" + "\n".join(lines)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others."""
    reached = {module: set(targets) for module, targets in imports.items()}
    for middle in reached:  # Warshall 1962
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    groups = {frozenset(other for other in reached[module] if module in reached.get(other, ())) for module in reached}
    return sorted(sorted(group) for group in groups if group)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside of functions count too; only those for the type checker do not."""
    imports = {}
    for path in FILES:
        module = module_name(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found = read_imports(path.read_text(encoding="utf-8"), package)
        targets = {item.module for item in found if not item.typing and covers(("lamina",), item.module)}
        imports[module] = targets - {module}  # a package that imports its own files by their names names itself
    assert circles(imports) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("module", "source", "names"),
    [
        ("lamina.workload", "import torch", ["torch"]),
        ("lamina.units", "def f():\n    from rich.table import Table", ["rich.table"]),
        ("lamina.errors", "from lamina import workload, zoo", ["lamina.zoo"]),
        ("lamina.operators", "from torch import nn", ["torch"]),
        ("lamina.operators", "if TYPE_CHECKING:\n    import torch\n    from lamina.zoo import lenet", ["lamina.zoo.lenet"]),
        ("lamina.operators", "if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", ["numpy"]),
        (
            "lamina.tracing.tracer",
            "from ..zoo import registry\nfrom . import rules\nfrom .. import zoo",
            ["lamina.zoo.registry", "lamina.zoo"],
        ),
        ("lamina.hardware.search", "import numpy, torch", ["torch"]),
        ("lamina.sources", "import timm\ndef f():\n    import timm", ["timm"]),
        ("lamina.train.loop", "class A:\n    from lamina.zoo.registry import build", ["lamina.zoo.registry"]),
        ("lamina.train.loop", "def f():\n    from lamina.zoo import registry, lenet", ["lamina.zoo.lenet"]),
        ("lamina.infer.session", "from lamina.hardware.roofline import bound", ["lamina.hardware.roofline"]),
        ("lamina.infer.bench", "from lamina.hardware.roofline import bound", []),
        ("lamina.report.table", "from lamina import __version__, build", ["lamina.build"]),
        ("lamina.report.table", "import_module(f'lamina.zoo.{name}')", ["lamina.zoo"]),
        ("lamina.lecture.slides", "import lamina.cli.main, lamina.report.table", ["lamina.cli.main"]),
        ("lamina.elsewhere", "", ["lamina.elsewhere has no row"]),
    ],
)
def test_the_table_is_read_as_meant(module: str, source: str, names: list[str]) -> None:
    lines = forbidden("file.py", module, source)
    assert [name in line for name, line in zip(names, lines, strict=True)] == [True] * len(names), lines


def test_a_forbidden_import_is_named_with_its_file_and_line() -> None:
    (line,) = forbidden("lamina/zoo/lenet.py", "lamina.zoo.lenet", "import math\n\nimport lamina.report.table\n")
    assert line.startswith("lamina/zoo/lenet.py:3: lamina.zoo.lenet may not import lamina.report.table (")


@pytest.mark.parametrize(
    "code",
    [
        "import lamina",
        "import lamina.zoo.registry as registry; registry.names(); registry.spec('resnet50')",
        "from lamina.cli import main; sys.argv = ['lamina', '--help']; main()",
        "from lamina.cli import main; sys.argv = ['lamina', '--version']; main()",
        "from lamina.cli import main; sys.argv = ['lamina', 'list']; main()",
    ],
    ids=["lamina", "registry", "help", "version", "list"],
)
def test_starting_does_not_import_torch(code: str) -> None:
    program = "\n".join([
        "import sys",
        "try:",
        f"    {code}",
        "except SystemExit as stop:",
        "    assert not stop.code, stop.code",
        "assert 'torch' not in sys.modules, 'torch was imported'",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
