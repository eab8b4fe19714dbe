"""Recipes, and the shelf on which what they make is kept.

A recipe is a frozen value that says everything that changes a result. Its key, the hash of its description,
is the address of the artifact it makes; so whatever two tables share is made once, a repeated command makes
nothing, and a killed one goes on where it was.

A shelf holds a folder ``<kind>-<key12>`` for each artifact::

    recipe.json     the description, the key, and the keys of the recipes it needs
    run.json        provenance and the artifact's checksum; no part of the key
    log/            TensorBoard
    checkpoint      while it is being made
    artifact.*      renamed in last: present means whole
"""

from ebmzoo.store.errors import DamagedArtifact, StoreError, store_command
from ebmzoo.store.files import canonical, load_tensors, replace, save_tensors, write
from ebmzoo.store.inspection import Kept, inspect
from ebmzoo.store.provenance import environment
from ebmzoo.store.references import alone_in, note_references, referenced
from ebmzoo.store.shelf import Recipe, Store, describe, everything_behind, recipes_within, unfinished
from ebmzoo.store.transfer import Arrivals, bring, export

__all__ = [
    "Arrivals",
    "DamagedArtifact",
    "Kept",
    "Recipe",
    "Store",
    "StoreError",
    "alone_in",
    "bring",
    "canonical",
    "describe",
    "environment",
    "everything_behind",
    "export",
    "inspect",
    "load_tensors",
    "note_references",
    "recipes_within",
    "referenced",
    "replace",
    "save_tensors",
    "store_command",
    "unfinished",
    "write",
]
