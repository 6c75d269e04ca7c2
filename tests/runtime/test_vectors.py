"""Vectors on disk: what is saved comes back, a failure leaves nothing behind, and a forged archive is only refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claprt import Embeddings, load_embeddings
from claprt.errors import BundleError, OptionError

NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")


def embeddings(*names: str, dim: int = 4) -> Embeddings:
    vectors = np.random.default_rng(0).standard_normal((len(names), dim)).astype(np.float32)
    return Embeddings(list(names), vectors, "0123456789abcdef")


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "names",
    [(), ("a.wav",), ("a.wav", "a.wav"), ("naïve 🎺", "你好", "  spaces  ", ""), (NOT_UTF8,), ("x" * 5000, "y")],
    ids=["none", "one", "doubled", "unicode", "not UTF-8", "long"],
)
def test_round_trip(tmp_path: Path, names: tuple[str, ...]) -> None:
    saved = embeddings(*names)
    saved.save(tmp_path / "v.npz")
    loaded = load_embeddings(tmp_path / "v.npz")
    assert list(loaded.names) == list(names)
    assert loaded.space_id == saved.space_id
    assert loaded.vectors.dtype == np.float32
    np.testing.assert_array_equal(loaded.vectors, saved.vectors)


def test_names_that_are_not_utf8_name_the_same_file_again(tmp_path: Path) -> None:
    embeddings(NOT_UTF8).save(tmp_path / "v.npz")
    assert os.fsencode(load_embeddings(tmp_path / "v.npz").names[0]) == b"caf\xe9.wav"


def test_archive_is_plain_numpy(tmp_path: Path) -> None:
    """Users read it without claprt."""
    embeddings("a", "b").save(tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        assert {name: (archive[name].dtype.kind, archive[name].shape) for name in archive} == {
            "names": ("U", (2,)),
            "vectors": ("f", (2, 4)),
            "space_id": ("U", ()),
        }


def test_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """NumPy alone would append .npz."""
    embeddings("a").save(str(tmp_path / "vectors"))
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_result_has_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        embeddings("a").save(tmp_path / "v.npz")
    finally:
        os.umask(before)
    assert (tmp_path / "v.npz").stat().st_mode & 0o777 == 0o640


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_text("old")
    embeddings("a").save(tmp_path / "v.npz")
    assert load_embeddings(tmp_path / "v.npz").names == ["a"]


def test_a_file_name_of_the_longest_allowed_length(tmp_path: Path) -> None:
    """The temporary file beside it must not need a longer one."""
    embeddings("a").save(tmp_path / ("x" * 255))
    assert len(load_embeddings(tmp_path / ("x" * 255)).names) == 1


@pytest.mark.parametrize("target", ["missing/v.npz", "file/v.npz", "folder", "x" * 300])
def test_a_target_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OptionError, match="cannot be written") as caught:
        embeddings("a").save(tmp_path / target)
    assert str(tmp_path / target) in str(caught.value)
    assert "None" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("permission bits have no effect for this user (root)")
    with pytest.raises(OptionError, match="cannot be written"):
        embeddings("a").save(folder / "v.npz")


def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """As root, `-o /dev/null` would have replaced the device."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="not a regular file"):
        embeddings("a").save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OptionError, match="not a regular file"):
        embeddings("a").save(os.devnull)
    assert not Path(os.devnull).is_file()


def test_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    saved = embeddings("a")
    saved.save(tmp_path / "v.npz")
    before = (tmp_path / "v.npz").read_bytes()

    class Unwritable:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[Any, Any]:
            raise KeyboardInterrupt

    object.__setattr__(saved, "vectors", Unwritable())
    with pytest.raises(KeyboardInterrupt):
        saved.save(tmp_path / "v.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]
    assert (tmp_path / "v.npz").read_bytes() == before


def test_names_and_vectors_must_belong_together() -> None:
    with pytest.raises(OptionError, match="2 names"):
        Embeddings(["a", "b"], np.zeros((1, 4), np.float32), "x")
    with pytest.raises(OptionError, match="expected"):
        Embeddings(["a"], np.zeros(1, np.float32), "x")


class Bomb:
    """What a pickle runs when it is opened: here it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("holder", ["pickle", "npy", "names", "vectors", "space_id"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, holder: str) -> None:
    bomb, trace = Bomb(tmp_path / "executed"), tmp_path / "executed"
    objects = np.array([bomb], dtype=object)
    path = tmp_path / "v.npz"
    if holder == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif holder == "npy":
        with path.open("wb") as stream:
            np.save(stream, objects)
    else:
        arrays: dict[str, Any] = {"names": np.array(["a"]), "vectors": np.zeros((1, 4), np.float32)}
        path.write_bytes(npz(**(arrays | {"space_id": np.array("x")} | {holder: objects})))
    with pytest.raises(BundleError, match="not an archive of vectors"):
        load_embeddings(path)
    assert not trace.exists()


GOOD: dict[str, Any] = {"names": np.array(["a"]), "vectors": np.zeros((1, 4), np.float32), "space_id": np.array("x")}


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": np.zeros(1, np.float32)},
        {"vectors": np.zeros((1, 4), np.float64)},
        {"vectors": np.zeros((1, 4, 1), np.float32)},
        {"vectors": np.zeros((2, 4), np.float32)},
        {"vectors": np.array(["a"])},
        {"names": np.array("a")},
        {"names": np.array([["a"]])},
        {"names": np.array([1])},
        {"names": np.array([b"a"])},
        {"space_id": np.array(["x"])},
        {"space_id": np.array(1)},
    ],
    ids=lambda changes: ",".join(f"{name} {value.dtype} {value.shape}" for name, value in changes.items()),
)
def test_archives_of_other_arrays(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "v.npz"
    path.write_bytes(npz(**(GOOD | changes)))
    with pytest.raises(BundleError, match="not an archive of vectors") as caught:
        load_embeddings(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", list(GOOD))
def test_archives_that_lack_an_array(tmp_path: Path, name: str) -> None:
    path = tmp_path / "v.npz"
    path.write_bytes(npz(**{key: value for key, value in GOOD.items() if key != name}))
    with pytest.raises(BundleError, match=name):
        load_embeddings(path)


def _huge_header() -> bytes:
    """An array that claims 4 EB."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 30, 1 << 30)})
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        archive.writestr("names.npy", stream.getvalue())
    return result.getvalue()


def _broken_deflate() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **(GOOD | {"names": np.array(["a" * 1000])}))
    data = bytearray(stream.getvalue())
    data[60:120] = b"\xff" * 60
    return bytes(data)


def _bomb() -> bytes:
    """A third of a megabyte that unpacks to 300 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in GOOD.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
        with archive.open("more.npy", "w") as member:
            for _ in range(300):
                member.write(bytes(1_000_000))
    return stream.getvalue()


def _plain_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 4), np.float32))
    return stream.getvalue()


FORGED = {
    "empty": b"",
    "text": b"hello\n",
    "one npy": _plain_npy(),
    "cut short": npz(**GOOD)[:-40],
    "broken inside": npz(**GOOD).replace(b"NUMPY", b"numpy"),
    "huge": _huge_header(),
    "broken deflate": _broken_deflate(),
    "bomb": _bomb(),
    "zip of nothing": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("case", FORGED)
def test_files_that_are_no_archive(tmp_path: Path, case: str) -> None:
    path = tmp_path / "v.npz"
    path.write_bytes(FORGED[case])
    with pytest.raises(BundleError, match="not an archive of vectors") as caught:
        load_embeddings(path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_somebody_compressed_is_read(tmp_path: Path) -> None:
    with (tmp_path / "v.npz").open("wb") as stream:
        np.savez_compressed(stream, **(GOOD | {"names": np.array(["a" * 50_000])}))
    assert load_embeddings(tmp_path / "v.npz").names == ["a" * 50_000]


@pytest.mark.parametrize("name", ["missing.npz", "folder", "x" * 300])
def test_paths_that_are_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="not an archive of vectors"):
        load_embeddings(tmp_path / name)


@pytest.mark.parametrize("path", ["fifo", "/dev/zero"])
def test_pipes_and_devices_are_not_read(tmp_path: Path, path: str) -> None:
    """Nobody writes into the one, the other never ends."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BundleError, match="not a regular file"):
        load_embeddings(tmp_path / path)


@pytest.mark.parametrize(
    "vectors",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        [[0, 1, 2], [3, 4, 5]],
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],
    ],
    ids=["float64", "lists", "float16", "every other column"],
)
def test_whatever_is_saved_can_be_loaded(tmp_path: Path, vectors: Any) -> None:
    """Numbers become float32, row by row."""
    saved = Embeddings(np.array(["a", "b"]), vectors, np.str_("space"))  # type: ignore[arg-type]
    assert saved.names == ["a", "b"]
    assert saved.vectors.dtype == np.float32
    assert saved.vectors.flags.c_contiguous
    saved.save(tmp_path / "v.npz")
    np.testing.assert_array_equal(load_embeddings(tmp_path / "v.npz").vectors, np.asarray(vectors, np.float32))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": "ab"}, "names are not a list of strings: str"),
        ({"names": None}, "names are not a list of strings: NoneType"),
        ({"names": ["a", 1]}, r"names\[1\] is not a string: int"),
        ({"names": ["a", "b\0"]}, r"a NUL character in names\[1\]: 'b"),
        ({"space_id": 7}, "space_id is not a string: int"),
        ({"space_id": "x\0"}, "a NUL character in space_id"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "vectors are no array"),
        ({"vectors": "ab"}, "vectors are not real numbers"),
        ({"vectors": np.zeros((2, 4), complex)}, "vectors are not real numbers: complex128"),
        ({"vectors": np.array([[0.0], [np.nan]])}, r"a value of vectors is not a finite number .*: nan at \[1, 0\]"),
        ({"vectors": [[0.0], [1e300]]}, r"inf at \[1, 0\]"),
    ],
)
def test_fields_that_make_no_vectors(changes: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {"names": ["a", "b"], "vectors": np.zeros((2, 4), np.float32), "space_id": "x"}
    with pytest.raises(OptionError, match=reason):
        Embeddings(**(fields | changes))


def test_an_archive_of_nan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_bytes(npz(**(GOOD | {"vectors": np.full((1, 4), np.nan, np.float32)})))
    with pytest.raises(BundleError, match=r"v\.npz: a value of vectors is not a finite number"):
        load_embeddings(tmp_path / "v.npz")
