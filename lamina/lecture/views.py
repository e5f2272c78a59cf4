"""From a claim's command to the view of the explorer that shows the same."""

import shlex
from urllib.parse import urlencode

from lamina.zoo import registry

TABS = {"fit": "accelerator", "roofline": "roofline", "eval": "live", "table": "zoo", "list": "zoo"}


def view(command: str) -> str:
    """The part after "#" of the explorer's address; empty where it shows no such thing. Of two commands, "one; other", the
    networks are shown side by side."""
    calls = [shlex.split(part)[1:] for part in command.split(";")]
    verbs = {call[0] for call in calls if call}
    names = [word for call in calls for word in call[1:] if word in registry.counts()]
    shown: dict[str, str] = {}
    if names:
        shown["net"] = names[0]
    if len(calls) > 1 and len(names) > 1:
        shown |= {"beside": names[1], "tab": "compare"}
    elif tab := next((TABS[verb] for verb in verbs if verb in TABS), ""):
        shown["tab"] = tab
    elif "--by layer" in command:
        shown["tab"] = "table"
    elif "--by kind" in command:
        shown["heat"] = "kind"
    return urlencode(shown) if names or shown.get("tab") == "zoo" else ""
