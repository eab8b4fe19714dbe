"""Which folders become which packages; all else is in pyproject.toml.

Plugins and reproductions lie beside the package in the source tree. Installed, a plugin is a package of its
own, and the reproductions are ``ebmzoo.reproductions``.
"""

from setuptools import find_packages, setup

plugins = find_packages("plugins")

setup(
    packages=[*find_packages(include=["ebmzoo", "ebmzoo.*"]), *plugins, "ebmzoo.reproductions"],
    package_dir={
        **{name: f"plugins/{name}" for name in plugins if "." not in name},
        "ebmzoo.reproductions": "reproductions",
    },
    package_data={"ebmzoo": ["py.typed"], "ebmzoo.reproductions": ["**/*.gin", "**/*.md"]},
)
