"""The product's version, known without being installed (the build reads it), and its commit."""

import subprocess
from pathlib import Path

__version__ = "0.1.0"


def commit() -> str | None:
    """The commit that this file is tracked in, "-dirty" if changed; None outside a checkout."""
    here = Path(__file__)
    for arguments in (
        ["ls-files", "--error-unmatch", here.name],
        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=here.parent,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
    return done.stdout.strip()
