"""The extras of claprt that are not engines: their packages, what they are for, and the error where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from claprt.errors import MissingExtraError


@dataclass(frozen=True)
class Extra:
    """An extra of pyproject.toml.

    Attributes:
        name: as pip has it in brackets.
        packages: the names that pip knows, and for each what needs it.
    """

    name: str
    packages: Mapping[str, str]

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'claprt[{self.name}]'"

    def require(self, what: str, *packages: str) -> None:
        """Refuse to do `what`, such as "claprt build", without one of `packages`; without any, all of the extra's.

        Raises:
            MissingExtraError: names those that are missing.
        """
        needed = packages or tuple(self.packages)
        missing = [name for name in needed if importlib.util.find_spec(_MODULES.get(name, name)) is None]
        if missing:
            raise MissingExtraError(
                f"{what} needs packages that are not installed: {', '.join(missing)}; {self.install}"
            )


_MODULES = {"scikit-learn": "sklearn"}  # where the module has another name

AV = Extra("av", {"av": "sounds in MP4, WebM and other containers"})
EXPORT = Extra(
    "export",
    dict.fromkeys(
        ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "safetensors"), "claprt build, claprt verify"
    ),
)
BENCH = Extra(
    "bench",
    {
        "matplotlib": "the report of claprt bench",
        "scikit-learn": "claprt eval",
        "scipy": "claprt bench compare, claprt eval",
        "pyarrow": "claprt eval",
    },
)
EXTRAS = (AV, EXPORT, BENCH)
