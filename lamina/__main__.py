"""`python -m lamina`: the command, for processes that are started without its script."""

import os
import sys

from lamina.cli import main

try:
    main()
except SystemExit as exit:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise
    # One of several processes that train together. The threads of torch's process groups may still want the interpreter, and
    # would abort the process while it shuts down: there is nothing left to shut down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit.code if isinstance(exit.code, int) else 0)
