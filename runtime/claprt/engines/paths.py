"""File names for libraries that take UTF-8 only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A path of the same file in UTF-8, which is all that ONNX Runtime and TensorRT take."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{directory}/{path.name}"
        finally:
            os.close(directory)
    else:
        yield str(path)
