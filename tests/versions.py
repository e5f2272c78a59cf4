"""The tests of counting on the oldest torch that Lamina takes, the tested one and the newest: `make versions`.

Each is in an environment of its own, .versions/NAME, made on the first call (a gigabyte each with torch's CPU build, which
`TORCH_INDEX` names; 6 GB without). A version that cannot be installed is skipped by name. The exit code is 1 if a test fails,
or if no version could be had. Needs the standard library alone.
"""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = CHECKOUT / ".versions"
TESTS = ("tests/tracing", "tests/onnx", "tests/cost", "tests/conformance", "tests/test_operators.py")
# What torch chooses for itself, in place of what the tested one has.
TORCHS_OWN = ("torch", "sympy", "mpmath", "networkx", "fsspec", "filelock", "setuptools", "typing_extensions", "Jinja2")


def versions() -> dict[str, str]:
    """Name to what pip is asked for."""
    oldest = re.search(r'"torch>=([\d.]+)"', (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    tested = re.search(r"^torch==(\S+)$", (CHECKOUT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert oldest and tested
    return {"oldest": f"torch=={oldest[1]}.*", "tested": f"torch=={tested[1]}", "newest": "torch"}


def install(name: str, requirement: str) -> str:
    """Make the environment, if it is not there. What is returned is empty, or pip's reason."""
    folder = ENVIRONMENTS / name
    if (folder / "complete").exists():
        return ""
    venv.create(folder, clear=True, with_pip=True)
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(line for line in lines if line.split("==")[0] not in TORCHS_OWN), encoding="utf-8")
    index = os.environ.get("TORCH_INDEX")
    steps = [["--no-deps", "--index-url", index, requirement]] if index else []
    steps.append(["-c", str(constraints), requirement, "-e", f"{CHECKOUT}[onnx]", "pytest", "hypothesis"])
    for arguments in steps:
        call = [python(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        done = subprocess.run(call, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return (errors or ["pip failed"])[-1]
    (folder / "complete").touch()
    return ""


def python(name: str) -> str:
    return str(ENVIRONMENTS / name / ("Scripts" if os.name == "nt" else "bin") / "python")


def main() -> int:
    rows, failed = [], False
    for name, requirement in versions().items():
        print(f"== {name}: {requirement}", flush=True)
        if problem := install(name, requirement):
            rows.append((name, requirement, f"skipped: {problem}"))
            continue
        found = subprocess.run([python(name), "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
        # Other versions have other deprecations: their warnings are no errors.
        call = [python(name), "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", *TESTS]
        done = subprocess.run(call, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        print(done.stdout[-4000:])
        failed |= done.returncode != 0
        rows.append((name, found.stdout.strip(), "passed" if done.returncode == 0 else "FAILED"))
    for row in rows:
        print("{:8} {:16} {}".format(*row))
    return int(failed or not any(row[2] == "passed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
