"""``python -m gateway``: the command ``ostiary``."""

import sys
from pathlib import Path

# Python looks in the working directory first, and in a gateway's folder there are a certs/ and a persistence/ that are
# not our packages of these names. Look where this package is instead.
_HERE = str(Path.cwd())
sys.path[:] = [
    *(path for path in sys.path if path not in {"", _HERE}),
    str(Path(__file__).resolve().parent.parent),
]

from gateway.cli import main  # noqa: E402 - after the path is set right

if __name__ == "__main__":
    sys.exit(main())
