"""`lamina train`: the command line of `lamina.train.launch`, and what a person sees when a run ends."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli.memory import keep_freed
from lamina.cli.options import Device, Json
from lamina.cli.output import print_json
from lamina.errors import InputError, LaminaError
from lamina.extras import install_command

Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="The run's folder; by default runs/RECIPE.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Images by class, or a parallel corpus.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe.")]
Start = Annotated[
    str | None,
    typer.Option("--from", metavar="CHECKPOINT", help="Begin with these weights: a folder, a file, a zoo name."),
]
Rendezvous = Annotated[str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Where the machines meet.")]


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name, or a file FILE.toml; none: list them.")] = None,
    out: Out = None,
    data: Data = None,
    set: Set = None,
    start: Start = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest complete checkpoint.")] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; each calls the same command.")] = 1,
    rendezvous: Rendezvous = None,
    shard: Annotated[bool, typer.Option("--shard", help="Shard weights and optimizer over the processes (FSDP2).")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads a process computes with.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's events too.")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a network by a recipe, and evaluate it on the test split. Ctrl-C saves and stops; --resume continues."""
    from lamina.train import launch
    from lamina.train import recipe as recipes
    from lamina.train.loop import Interrupted

    if recipe is None:
        return _list([(name, recipes.read(name)) for name in recipes.names()], json)
    plan = recipes.read(recipe, set or ())
    if start is not None:
        plan = launch.starting(plan, start)
    folder = out or Path("runs") / Path(recipe).stem
    processes = launch.Processes(nproc, nodes, rendezvous, shard, threads, device)
    if plan.levels and processes.several:
        raise InputError("levels run in one process: leave --nproc and --nodes out")
    keep_freed(2**30, 2**31 - 1)
    try:
        if processes.several and not launch.is_worker():
            launch.spawn(sys.argv[1:], processes)
            return
        log, ended = _logger(folder, tensorboard, quiet=json), True
        if plan.levels:
            from lamina.scale.schedule import schedule

            plan, folder = schedule(plan, folder, data, processes, resume, log)
        else:
            ended = launch.train(plan, folder, data, processes, resume, log) is not None
        if ended:
            from lamina.train.finish import finish

            result = finish(plan, folder, data)
            print_json(result) if json else _show(result)
    except Interrupted as error:
        print(f"lamina: {error}", file=sys.stderr)
        raise typer.Exit(130) from None


def _list(rows: list[tuple[str, Any]], json: bool) -> None:
    from lamina.report import table

    if json:
        return print_json([{"recipe": n, "network": r.network, "data": r.data} for n, r in rows])
    for name, recipe in rows:
        print(f"{name:28} {recipe.network} on {recipe.data}, {recipe.epochs} epochs")
    table.console().print("[dim]lamina train NAME; the files are in lamina/train/recipes[/]")


def _logger(folder: Path, tensorboard: bool, quiet: bool) -> Any:
    """What is done with a row of metrics: a line for the person, and TensorBoard's events."""
    open_events: Any = None
    if tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter as open_events
        except ImportError as error:
            raise LaminaError(f"--tensorboard needs the tensorboard package: {install_command('logging')}") from error

    def log(row: dict[str, Any]) -> None:
        if open_events is not None and "level" not in row:
            with open_events(str(folder / "tensorboard")) as writer:
                for key, value in row.items():
                    if key not in ("step", "epoch"):
                        writer.add_scalar(key, value, row["step"])
        if not quiet and "level" in row:
            size = ", ".join(f"{k} = {v}" for k, v in row["changes"].items())
            print(f"level {row['level']}  {row['network']} ({size}), {row['macs']:.3g} MACs", flush=True)
        elif not quiet:
            percent = {k: v for k, v in row.items() if k.endswith(("top1", "token_accuracy"))}
            losses = {k: v for k, v in row.items() if k.endswith("loss")}
            parts = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in losses.items()]
            parts += [f"{k.replace('_', ' ')} {v:.2f} %" for k, v in percent.items()]
            print(
                f"epoch {row['epoch']:3}  {'  '.join(parts)}  ({row['seconds']:.0f} s, {row['per_second']:,.0f}/s)", flush=True
            )

    return log


def _show(result: dict[str, Any]) -> None:
    test = result.get("test", {})
    for key in ("top1", "top5", "bleu", "bleu_greedy"):
        if key in test:
            published = result.get("published", {})
            beside = f"   published: {published['value']:g} ({published['source']})" if published.get("measure") == key else ""
            print(f"test {key} {test[key]:.2f}{beside}")
    head = f"{result['epochs']} epochs, {result['step']:,} steps, {result['seconds']:,} s"
    print(f"{head}; weights, curves and metrics in {result['folder']}")
