"""What can be wrong with a store."""

from __future__ import annotations

import shlex
from pathlib import Path


class StoreError(RuntimeError):
    """The store cannot do what was asked of it."""


class DamagedArtifact(StoreError):
    """An artifact is not what was put on the shelf."""

    def __init__(self, folder: Path, reason: str):
        self.folder, self.reason = folder, reason
        super().__init__(
            f"the artifact in {folder} is damaged: {reason}. It was neither used nor made again. Restore the "
            f"folder from a copy, or remove it (`{store_command(folder.parent, 'prune')}` removes damaged "
            "artifacts), and say the command again."
        )


def store_command(root: Path, what: str) -> str:
    """Returns the command line that does something with a store."""
    return f"ebmzoo store {what} --store {shlex.quote(str(root))}"
