"""Where the weight files that ship come from, as their own metadata say."""

from pathlib import Path
from typing import Any

from lamina.weights.describing import read_table
from lamina.weights.reading import read_metadata

RECORDED = ("lamina", "python", "machine", "recorded", "started", "recipe_sha256", "data_sha256")


def provenance(path: Path) -> dict[str, Any]:
    """{"file", "data", "seed", "epochs", "torch", "recipe", "result", "commit", "commit_of", ...} of a file of `lamina train`.

    "result" is what `lamina eval` gave on the test split. "commit" is that of the code; "commit_of" is "training" where the
    run recorded it at its start ("dirty" then says whether the code differed from it, and `RECORDED` stands beside), else
    "stamping": files of earlier versions have the commit of the moment when the result was written into them, which may be
    later than that of training.
    """
    metadata = read_metadata(path)
    found: dict[str, Any] = {"file": path.name}
    found |= {key: metadata.get(key) for key in ("data", "seed", "epochs", "torch", "recipe")}
    found["result"] = read_table(path, metadata, "result") or None
    made = read_table(path, metadata, "provenance")
    found |= {key: made[key] for key in RECORDED if key in made}
    if "commit" in made:
        return found | {"commit": made["commit"], "commit_of": "training", "dirty": made["dirty"]}
    return found | {"commit": metadata.get("commit"), "commit_of": "stamping"}


def lines(found: dict[str, Any]) -> list[str]:
    """The same as text: the file, and what was measured, by which recipe, on which data, with which code it was made.

    `found` may have more than `provenance` gives: "apart", {"unseen", "seen"} of a BLEU on references that training has not and
    has seen; "recipe_name" and "recipe_changes"."""
    shown = {"result": _result(found), "recipe": _recipe(found), "data": _data(found), "code": _code(found)}
    return [found["file"], *(f"  {key:<7} {text}" for key, text in shown.items() if text)]


def _result(found: dict[str, Any]) -> str:
    result = found["result"] or {}
    if "top1" in result:
        return f"top-1 {result['top1']:.2f} % on {result['count']:,} images ({result['protocol']})"
    if "bleu" not in result:
        return ""
    text = f"BLEU {result['bleu']:.2f} with beam 5, {result['bleu_greedy']:.2f} greedy, "
    text += f"on {result['count']:,} sentences of the test split"
    if apart := found.get("apart"):
        unseen, seen = apart["unseen"], apart["seen"]
        text += f"; with beam 5 {unseen['bleu']:.2f} on the {unseen['count']:,} whose reference is not in the training split, "
        text += f"{seen['bleu']:.2f} on the other {seen['count']:,}"
    return text


def _recipe(found: dict[str, Any]) -> str:
    changes = found.get("recipe_changes") or {}
    settings = f" with {', '.join(f'{key}={value}' for key, value in changes.items())}" if changes else ""
    name = f"{found['recipe_name']}{settings}, " if found.get("recipe_name") else ""
    return f"{name}seed {found['seed']}, {found['epochs']} epochs"


def _data(found: dict[str, Any]) -> str:
    held_out = f", {found['held_out']:,} samples of it held out for validation" if found.get("held_out") else ""
    digests = found.get("data_sha256") or {}
    names = "; SHA-256 " + ", ".join(f"{name} {digest[:8]}" for name, digest in digests.items()) if digests else ""
    return f"{found['data']}, training split{held_out}{names}"


def _code(found: dict[str, Any]) -> str:
    parts = []
    if found["commit_of"] == "training":
        parts.append(f"commit {found['commit'][:12]}" + (" with changes" if found["dirty"] else ""))
    elif found["commit"]:
        parts.append(f"stamped at commit {found['commit'][:12]}; that of its training was not recorded")
    parts += [f"torch {found['torch']}", *(found[key] for key in ("machine",) if found.get(key))]
    return ", ".join(parts) + (f" (written down {found['recorded']})" if found.get("recorded") else "")
