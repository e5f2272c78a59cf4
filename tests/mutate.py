"""What share of small faults the tests catch: `make mutate`.

Two kinds of faults are put, one at a time, into a copy of the checkout, in which the fast tests of their part are run until one
fails: those of `faults.toml`, written by hand, each with a name; and random ones (an operator or a comparison exchanged, a
constant changed by one, a condition inverted, a keyword dropped, a call left out, nothing returned), drawn by seed from the
files of each part. No test sees data that do not ship. What survives is printed with its change; changes that make no
difference to any caller are named in `faults.toml` with the reason, and do not count.

    python tests/mutate.py                       all written faults, and 60 random ones of each part
    python tests/mutate.py --random 0            the written ones alone
    python tests/mutate.py --part zoo --random 500 --seed 3
"""

import argparse
import ast
import copy
import difflib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
FAULTS = Path(__file__).with_name("faults.toml")

# Part: its files, and for each (the first pattern that fits) the tests that hold it, the quickest first.
COUNTED = ("tests/conformance", "tests/tracing", "tests/onnx")
CONV = "tests/zoo/test_zoo_conv_families.py"
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "operators": {
        r"lamina/operators/(nests|shapes)\.py": ("tests/test_operators.py", "tests/tracing/test_trace.py", *COUNTED),
        r"lamina/operators/.*\.py": ("tests/tracing/test_memory.py", "tests/tracing/test_trace.py", *COUNTED),
    },
    "zoo": {
        r"lamina/zoo/(densenet|wide_resnet|resnext|overfeat)\.py": ("tests/zoo/test_details.py", CONV),
        r"lamina/zoo/resnet\.py": ("tests/zoo/test_details.py", "tests/zoo/test_zoo.py", CONV),
        r"lamina/zoo/.*inception.*\.py": ("tests/zoo/test_details.py", "tests/zoo/test_zoo_inception.py"),
        r"lamina/zoo/transformer\.py": ("tests/zoo/test_transformer.py", "tests/infer/test_answers.py"),
        r"lamina/zoo/vit\.py": ("tests/zoo/test_vit.py", "tests/infer/test_answers.py"),
        r"lamina/zoo/[a-z0-9_]+\.py": ("tests/zoo/test_details.py", "tests/zoo/test_zoo.py"),
    },
    "train": {
        r"lamina/train/recipe\.py": ("tests/train/test_train_recipes.py", "tests/train/test_semantics.py"),
        r"lamina/train/(launch|finish|provenance|world)\.py": (
            "tests/train/test_semantics.py",
            "tests/train/test_provenance.py",
            "tests/train/test_train_cli.py",
        ),
        r"lamina/train/[a-z_]+\.py": ("tests/train/test_semantics.py", "tests/train/test_disk.py", "tests/train/test_train.py"),
    },
    "infer": {
        r"lamina/infer/(generate|translate)\.py": ("tests/infer/test_decoding_semantics.py", "tests/infer/test_generate.py"),
        r"lamina/infer/export\.py": ("tests/infer/test_export.py",),
        r"lamina/infer/rewrite\.py": ("tests/infer/test_rewrite.py",),
        r"lamina/infer/winograd\.py": ("tests/infer/test_winograd.py",),
        r"lamina/infer/(bench|layers|machine|auto)\.py": ("tests/infer/test_bench.py", "tests/infer/test_session.py"),
        r"lamina/infer/[a-z_/]+\.py": ("tests/infer/test_answers.py", "tests/infer/test_session.py"),
    },
}
EVERY_OTHER = ("tests/train/test_semantics.py", "tests/infer/test_answers.py", "tests/data", "tests/lecture", "tests/weights")


@dataclass(frozen=True)
class Fault:
    name: str
    part: str
    file: str
    old: str  # the file's text, and what takes its place
    new: str
    tests: tuple[str, ...]

    @property
    def change(self) -> str:
        lines = difflib.unified_diff(self.old.splitlines(), self.new.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


@dataclass(frozen=True)
class Result:
    fault: Fault
    caught: bool
    by: str  # the failing test
    seconds: float


# ---- which faults -----------------------------------------------------------------------------------------------------


def place(file: str) -> tuple[str, tuple[str, ...]]:
    """The part that a file belongs to, and its tests."""
    for part, patterns in PARTS.items():
        for pattern, tests in patterns.items():
            if re.fullmatch(pattern, file):
                return part, tests
    return "others", EVERY_OTHER


def written() -> list[Fault]:
    """Those of `faults.toml`. A fault whose old text is not in its file, or is there twice, is an error."""
    found, problems = [], []
    for row in tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]:
        path = CHECKOUT / row["file"]
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text.count(row["old"]) != 1:
            problems.append(f"{row['name']}: its text stands {text.count(row['old'])} times in {row['file']}")
            continue
        part, tests = place(row["file"])
        new = text.replace(row["old"], row["new"])
        found.append(Fault(row["name"], row.get("part", part), row["file"], text, new, tuple(row.get("tests", tests))))
    if problems:
        raise SystemExit("faults.toml does not fit the code:\n" + "\n".join(problems))
    return found


def drawn(part: str, count: int, seed: int) -> list[Fault]:
    """`count` random faults of a part's files, each a different one, less those that are known to change nothing."""
    known = [(row["file"], row["line"], row["becomes"]) for row in tomllib.loads(FAULTS.read_text(encoding="utf-8"))["same"]]
    faults = []
    for path in sorted((CHECKOUT / "lamina").rglob("*.py")):
        file = path.relative_to(CHECKOUT).as_posix()
        where, tests = place(file)
        if where != part:
            continue
        text = path.read_text(encoding="utf-8")
        for line, old, new, mutated in mutants(text):
            if (file, old, new) not in known:
                faults.append(Fault(f"{file}:{line}", part, file, text, mutated, tests))
    return random.Random(f"{seed} {part}").sample(faults, min(count, len(faults)))


SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def mutants(text: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, the changed lines before, after, the whole text after) of every small fault of a module."""
    for node in targets(ast.parse(text)):
        for new in changes(node):
            mutated = replaced(text, node, new)
            old_lines, new_lines = text.splitlines(), mutated.splitlines()
            first = next((i for i, (a, b) in enumerate(zip(old_lines, new_lines, strict=False)) if a != b), None)
            if first is not None:
                yield node.lineno, old_lines[first].strip(), new_lines[first].strip(), mutated


def targets(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes that may be changed: no annotations, texts or messages, nothing for the type checker alone."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)):
            continue
        if isinstance(tree, (ast.AnnAssign, ast.arg)) and child is tree.annotation:
            continue
        if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) and (
            child is tree.returns or child in tree.decorator_list
        ):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child
        yield from targets(child)


def changes(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    """What the node may become."""
    new = copy.deepcopy(node)
    match new:
        case ast.BinOp(op=op) if type(op) in SWAPS:
            new.op = SWAPS[type(op)]()
            yield new
        case ast.BoolOp():
            new.op = SWAPS[type(new.op)]()
            yield new
        case ast.Compare():
            new.ops[0] = SWAPS[type(new.ops[0])]()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield new.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not new.value)
        case ast.Constant(value=int()):
            yield ast.Constant(new.value + 1)
            yield ast.Constant(new.value - 1)
        case ast.Constant(value=float()):
            yield ast.Constant(new.value * 2 or 1.0)
        case ast.IfExp():
            yield ast.IfExp(new.test, new.orelse, new.body)
        case ast.If() | ast.While():
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield new
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Call(keywords=[_, *_]):
            for i in range(len(new.keywords)):
                dropped = copy.deepcopy(new)
                del dropped.keywords[i]
                yield dropped


def replaced(text: str, node: ast.expr | ast.stmt, new: ast.AST) -> str:
    """The text with `new` in place of `node`; of a compound statement only the condition is written anew."""
    if isinstance(new, (ast.If, ast.While)):
        assert isinstance(node, (ast.If, ast.While))
        node, new = node.test, new.test
    code = ast.unparse(ast.fix_missing_locations(new))
    if isinstance(new, ast.expr) and not isinstance(new, (ast.Constant, ast.Call, ast.Name, ast.Attribute)):
        code = f"({code})"
    if isinstance(new, ast.Constant) and code.startswith("-"):
        code = f"({code})"
    lines = text.encode().splitlines(keepends=True)  # columns count bytes
    assert node.end_lineno is not None and node.end_col_offset is not None
    begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    whole = text.encode()
    return (whole[:begin] + code.encode() + whole[end:]).decode()


# ---- running the tests ------------------------------------------------------------------------------------------------


class Copy:
    """A copy of the checkout in which tests are run, each time in a fork of this process, which has torch imported."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of_checkout(cls, folder: Path) -> "Copy":
        listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        for file in listed.splitlines():
            if (CHECKOUT / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / file, folder / file)
        return cls(folder)

    def twin(self, folder: Path) -> "Copy":
        """A copy of the copy, compiled files included."""
        shutil.copytree(self.folder, folder)
        return Copy(folder)

    def judge(self, fault: Fault, limit: float) -> Result:
        path = self.folder / fault.file
        before = path.stat()
        path.write_text(fault.new, encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, time.time_ns()))  # another time than the compiled file says
        try:
            code, by, seconds = self.run(fault.tests, limit, keep_compiled=False)
        finally:
            path.write_text(fault.old, encoding="utf-8")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return Result(fault, code != 0, by, seconds)

    def run(self, tests: Sequence[str], limit: float, keep_compiled: bool = True) -> tuple[int, str, float]:
        """pytest's exit code, the first failing test, and the processor's seconds, of which it has `limit`; a machine that is
        busy may take fifteen times as long."""
        begin, log = time.monotonic(), self.folder / "log.txt"
        child = os.fork()
        if not child:
            self._pytest(tests, log, limit, keep_compiled)
        while True:
            done, status, used = os.wait4(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() - begin > 15 * limit:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.02)
        code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if code < 0:
            return code, "no end within the time limit", seconds
        found = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", log.read_text(errors="replace"), re.M)
        return code, found[1] if found else "the tests do not start", seconds

    def _pytest(self, tests: Sequence[str], log: Path, seconds: float, keep_compiled: bool) -> None:
        """In the fork: never returns."""
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.chdir(self.folder)
            sys.dont_write_bytecode = not keep_compiled
            sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in (str(CHECKOUT), str(CHECKOUT / "tests")))]
            os.environ["PYTHONPATH"] = str(self.folder)
            os.environ["LAMINA_SHARED"] = str(self.folder / "none")
            os.environ.pop("LAMINA_DATA", None)
            import pytest

            chosen = list(dict.fromkeys(tests))
            options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=line", "-rfE"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what `warm` has imported
            code = pytest.main([*options, *chosen])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(int(code))


def warm() -> None:
    """Import, once for all forks, what takes long and is no part of what is tested."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import hypothesis  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import numpy  # noqa: F401
    import PIL.Image  # noqa: F401
    import pytest  # noqa: F401
    import rich.console  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tokenizers  # noqa: F401
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401
    import typer  # noqa: F401


def judge_all(faults: Sequence[Fault], folder: Path, jobs: int) -> list[Result]:
    """The results in the order of the faults, each printed as it comes."""
    first = Copy.of_checkout(folder / "0")
    limits = {}
    for tests in dict.fromkeys(fault.tests for fault in faults):
        code, by, seconds = first.run(tests, 600)
        if code:
            log = (first.folder / "log.txt").read_text(errors="replace")[-2000:]
            raise SystemExit(f"without a fault {' '.join(tests)} fails ({code}): {by}\n{log}")
        limits[tests] = 3 * seconds + 20
    free = [first, *(first.twin(folder / str(i)) for i in range(1, jobs))]

    def one(fault: Fault) -> Result:
        mine = free.pop()
        try:
            result = mine.judge(fault, limits[fault.tests])
        finally:
            free.append(mine)
        state = "caught  " if result.caught else "SURVIVED"
        print(f"{state} {result.seconds:5.1f} s  {fault.name}  {result.by if result.caught else ''}", flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, faults))


def table(results: Sequence[Result], kind: str) -> list[str]:
    lines = [f"{kind:12} tried  caught  share"]
    for part in [*dict.fromkeys(r.fault.part for r in results), "all"]:
        rows = [r for r in results if part in ("all", r.fault.part)]
        caught = sum(r.caught for r in rows)
        lines.append(f"{part:12} {len(rows):5}  {caught:6}  {100 * caught / len(rows):5.1f} %")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="What share of small faults the tests catch.")
    parser.add_argument("--random", type=int, default=60, help="how many random faults of each part (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="this part alone")
    parser.add_argument("--fault", action="append", metavar="WORDS", help="the written faults whose names have these words")
    parser.add_argument("--no-written", action="store_true", help="the random faults alone")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    by_hand = [f for f in written() if (not options.part or f.part in parts) and not options.no_written]
    if options.fault:
        by_hand = [f for f in by_hand if any(words in f.name for words in options.fault)]
    by_chance = [] if options.fault else [f for part in parts for f in drawn(part, options.random, options.seed)]
    warm()
    with tempfile.TemporaryDirectory(prefix="lamina-mutate-") as folder:
        results = judge_all([*by_hand, *by_chance], Path(folder), options.jobs)
    for result in results:
        if not result.caught:
            print(f"\n{result.fault.name} survived:\n{result.fault.change}")
    groups = {"written": results[: len(by_hand)], "random": results[len(by_hand) :]}
    for kind, rows in groups.items():
        if rows:
            print("", *table(rows, kind), sep="\n")
    if options.json:
        document = [
            {"kind": kind, "name": r.fault.name, "part": r.fault.part, "caught": r.caught, "by": r.by, "change": r.fault.change}
            for kind, rows in groups.items()
            for r in rows
        ]
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(any(not r.caught for r in groups["written"]))


if __name__ == "__main__":
    sys.exit(main())
