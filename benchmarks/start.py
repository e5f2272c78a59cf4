"""How long a user waits: the command's wall time beside that of `import torch`, interleaved; and what is warm.

.venv/bin/python benchmarks/start.py
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 5
LAMINA = [sys.executable, "-c", "from lamina.cli import main; main()"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "lamina --help": [*LAMINA, "--help"],
    "lamina list": [*LAMINA, "list"],
    "lamina cost resnet152 --json": [*LAMINA, "cost", "resnet152", "--json"],
    "lamina cost lenet5 --json": [*LAMINA, "cost", "lenet5", "--json"],
}


def run(command: list[str]) -> tuple[float, int]:
    """Wall seconds, and the peak of resident memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def best(function, rounds: int = 10) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    runs = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            runs[name].append(run(command))
    # only now: a child's peak memory would include this process's own at the fork
    import torch

    import lamina

    torch_time = statistics.median(t for t, _ in runs["import torch"])
    print(f"{'command':32}{'median s':>10}{'of import torch':>18}{'peak MB':>10}")
    for name, values in runs.items():
        median = statistics.median(t for t, _ in values)
        print(f"{name:32}{median:10.2f}{median / torch_time:18.2f}{max(m for _, m in values) / 1e6:10.0f}")
    print(f"\n{'network':20}{'build on meta, ms':>20}{'warm trace, ms':>18}{'layers':>8}")
    for name in ("lenet5", "alexnet", "vgg16", "googlenet", "resnet50", "resnet152", "resnet1202_cifar"):
        module = lamina.build(name, device="meta").eval()
        x = torch.empty(1, *lamina.spec(name).input, device="meta")
        layers = len(lamina.trace(module, x).layers)
        build = best(lambda name=name: lamina.build(name, device="meta"), 3)
        traced = best(lambda module=module, x=x: lamina.trace(module, x))
        print(f"{name:20}{1000 * build:20.1f}{1000 * traced:18.1f}{layers:8}")


if __name__ == "__main__":
    main()
