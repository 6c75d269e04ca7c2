"""`python -m claprt_export.demo.environment`: how large this environment is, and that it runs without torch."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path


def main() -> None:
    """Print one line."""
    site = Path(sysconfig.get_path("purelib"))
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and not path.is_symlink())
    heavy = [name for name in ("torch", "transformers", "onnx") if importlib.util.find_spec(name) is not None]
    what = f"with {', '.join(heavy)} installed" if heavy else "torch, transformers and onnx are not installed"
    print(f"That ran in an environment of {size / 1e6:.0f} MB: {what}.")


if __name__ == "__main__":
    main()
