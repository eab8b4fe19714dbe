"""What can be wrong with a store."""

from __future__ import annotations

from pathlib import Path


class StoreError(RuntimeError):
    """The store cannot do what was asked of it."""


class DamagedArtifact(StoreError):
    """An artifact is not what was put on the shelf."""

    def __init__(self, folder: Path, reason: str):
        self.folder, self.reason = folder, reason
        super().__init__(
            f"the artifact in {folder} is damaged: {reason}. It was neither used nor made again. Restore the "
            "folder from a copy, or remove it (`ebmzoo store prune` removes damaged artifacts), and say the "
            "command again."
        )
