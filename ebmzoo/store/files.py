"""Files that are there as a whole or not at all, and what is read from them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ebmzoo.store.errors import DamagedArtifact


def write(path: Path, text: str) -> None:
    """Writes a text file as a whole: after a crash, the old content or the new one is there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    replace(part, path)


def replace(part: Path, path: Path) -> None:
    """Renames a written file into its place, after its content has reached the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Lets renames within a folder reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors, contiguous and on the CPU; equal tensors make equal files.

    Raises:
        OSError: If the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(plain, path)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from None
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors as safetensors.

    Raises:
        DamagedArtifact: If the file is none.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise DamagedArtifact(path.parent, f"{path.name} cannot be read ({error})") from None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pretty(value: Any) -> str:
    """Returns a value as JSON for people."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def canonical(description: Any) -> str:
    """Returns the one JSON text of a description, which is what a key hashes."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
