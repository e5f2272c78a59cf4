"""Where the weight files that ship come from, as their own metadata say."""

from pathlib import Path
from typing import Any

from lamina.weights.describing import read_table
from lamina.weights.reading import read_metadata


def provenance(path: Path) -> dict[str, Any]:
    """{"file", "data", "seed", "epochs", "torch", "recipe", "result", "commit", "commit_of"} of a file of `lamina train`.

    "result" is what `lamina eval` gave on the test split. "commit" is that of the code; "commit_of" is "training" where the
    run recorded it at its start ("dirty" then says whether the code differed from it), else "stamping": files of earlier
    versions have the commit of the moment when the result was written into them, which may be later than that of training.
    """
    metadata = read_metadata(path)
    found: dict[str, Any] = {"file": path.name}
    found |= {key: metadata.get(key) for key in ("data", "seed", "epochs", "torch", "recipe")}
    found["result"] = read_table(path, metadata, "result") or None
    made = read_table(path, metadata, "provenance")
    if "commit" in made:
        return found | {"commit": made["commit"], "commit_of": "training", "dirty": made["dirty"]}
    return found | {"commit": metadata.get("commit"), "commit_of": "stamping"}


def sentence(found: dict[str, Any]) -> str:
    """The same in one line."""
    result, parts = found["result"] or {}, []
    if "top1" in result:
        parts.append(f"top-1 {result['top1']:.2f} % on {result['count']:,} images ({result['protocol']})")
    if "bleu" in result:
        parts.append(f"BLEU {result['bleu']:.2f} on {result['count']:,} sentences of the test split")
    parts.append(f"trained on {found['data']}, seed {found['seed']}, {found['epochs']} epochs, torch {found['torch']}")
    if found["commit_of"] == "training":
        parts.append(f"commit {found['commit'][:12]}" + (" with changes" if found["dirty"] else ""))
    elif found["commit"]:
        parts.append(f"stamped at commit {found['commit'][:12]}; that of its training was not recorded")
    return f"{found['file']}: {'; '.join(parts)}"
