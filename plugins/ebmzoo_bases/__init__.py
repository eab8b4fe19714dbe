"""Base generators: models that other methods tilt."""
