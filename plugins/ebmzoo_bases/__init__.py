"""Base generators: models without an energy, which other methods tilt."""
