"""The state dict of a .pt file, read as data: the pickle inside is never allowed to run anything.

What `torch.save` writes is a zip archive of one pickle and the bytes of the tensors. The archive is checked first, then
the pickle's names against a short list, and only then does torch's own restricted unpickler read it. The tensors stay
in the file (memory map): a training checkpoint is three times the size of its weights, for the optimiser's state.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from claprt.errors import CheckpointError

_MAX_PICKLE = 64 << 20  # bytes; a training checkpoint's names and sizes take about one megabyte

# All that the pickle may name: tensors, dicts, and the NumPy scalars that learning rates are.
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    "_codecs.encode",
    *(f"torch.{kind}Storage" for kind in _STORAGES),
    *_SCALARS,
}
_NAMING_OPCODES = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")


class _Scalar:
    """Stands where the pickle asks for NumPy: nothing of NumPy is called, and nobody needs the value."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def read_state_dict(path: Path, source: str) -> dict[str, torch.Tensor]:
    """The weights in a .pt file, by name, without the `module.` that training on several GPUs puts before each.

    Args:
        path: a file that `torch.save` wrote: a state dict, or a dict that holds one as `state_dict`.
        source: what the user called it, for errors.

    Returns:
        Tensors of any shape and dtype on the CPU, mapped from the file: copy what is to be kept.

    Raises:
        CheckpointError: not such a file, damaged, or asking for code.
    """
    _check_pickle(_read_pickle(path, source), source)
    try:
        with torch.serialization.safe_globals([(_Scalar, name) for name in _SCALARS]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of many kinds, none documented
        raise _damaged(source, error) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(
            f"not a checkpoint: {source}: it holds a {type(weights).__name__} in place of weights; pass a .pt file "
            "that LAION's CLAP code saved"
        )
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"not a checkpoint: {source}: {name!r:.100} is a {type(tensor).__name__}, not a weight; pass a .pt "
                "file that LAION's CLAP code saved"
            )
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return {name[len(prefix) :]: tensor.detach() for name, tensor in weights.items()}


def _read_pickle(path: Path, source: str) -> bytes:
    """The archive's pickle, once it is known that nothing in the archive grows when it is read."""

    def refuse(fact: str, fix: str) -> CheckpointError:
        return CheckpointError(f"not a checkpoint: {source}: {fact}; {fix}")

    another = "pass a .pt file that LAION's CLAP code saved"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(b"PK"):
        fact = f"it begins with {start!r}, not as a zip archive does" if start else "the file is empty"
        raise refuse(fact, another)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if "constants.pkl" in names:
                raise refuse("it is a TorchScript program", another)
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise refuse("its archive is compressed or encrypted, which torch.save never does", another)
            if sum(entry.file_size for entry in entries) > size:
                raise refuse(f"its archive claims to hold more than its {size} bytes", another)
            if names.count("data.pkl") != 1:
                raise refuse("a zip archive without a data.pkl", another)
            entry = entries[names.index("data.pkl")]
            if entry.file_size > _MAX_PICKLE:
                raise refuse(f"its pickle has {entry.file_size} bytes, beside the weights", "save the state dict alone")
            return archive.read(entry)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeError) as error:
        raise _damaged(source, error) from error


def _check_pickle(data: bytes, source: str) -> None:
    """Refuse a pickle that names anything but tensors and containers, before anything reads it."""
    try:
        named = [
            str(argument or opcode.name).replace(" ", ".", 1)
            for opcode, argument, _ in pickletools.genops(data)
            if opcode.name in _NAMING_OPCODES
        ]
    except Exception as error:
        raise _damaged(source, error) from error
    for name in named:
        if name not in _NAMES:
            raise CheckpointError(
                f"unsafe checkpoint: {source}: its pickle asks for {name!r:.100}; nothing but weights is taken from "
                "a checkpoint; where you trust the file, save its state dict alone"
            )


def _damaged(source: str, error: Any) -> CheckpointError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(f"damaged checkpoint: {source}: {reason}; download it again")
