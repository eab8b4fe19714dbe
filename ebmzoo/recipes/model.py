"""What all recipes of models have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from ebmzoo.data.dataset import Dataset
from ebmzoo.store import Recipe


class ModelRecipe(Recipe):
    """A recipe that makes a :class:`~ebmzoo.models.Model`, trained or put together of others.

    Attributes:
        data: What the model is of: the data set that its samples and scores are compared with.
    """

    data: Dataset

    @abstractmethod
    def reseeded(self, index: int) -> Self:
        """Returns the same recipe with ``index`` added to all its seeds."""
