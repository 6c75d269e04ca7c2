"""Datasets as files: trees, tables as people have them, and what is no dataset."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import Dataset, Options
from claprt_bench.evaluation.files import dataset_hash, enough, look_at
from claprt_bench.evaluation.reading import read_dataset


def sound(path: Path, seconds: float = 0.01, pitch: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    at = np.arange(round(seconds * 8000)) / 8000
    with path.open("wb") as stream:  # soundfile refuses names that are not UTF-8
        soundfile.write(stream, 0.3 * np.sin(2 * np.pi * pitch * at), 8000, format="WAV", subtype="PCM_16")
    return path


def sounds(folder: Path, *names: str) -> None:
    for name in names:
        sound(folder / name)


def table(path: Path, header: Sequence[str], *rows: Sequence[Any], delimiter: str = ",", **encoding: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding.get("encoding", "utf-8")) as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([header, *rows])
    return path


def labels(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {item.name: item.labels for item in dataset.items}


def captions(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {item.name: item.captions for item in dataset.items}


def there(dataset: Dataset) -> bool:
    return all(Path(item.path).is_file() for item in dataset.items)


# Trees


def test_a_tree_of_classes(tmp_path: Path) -> None:
    """The folder is the class, at any depth below; what is hidden or no sound is left out."""
    root = tmp_path / "set"
    sounds(root, "dog/b.wav", "dog/a.WAV", "dog/deeper/c.flac", "Crying_baby/a.ogg", ".git/x.wav", "dog/.hidden.wav")
    (root / "dog" / "notes.txt").write_text("no sound")
    (root / "README.md").write_text("nor this")
    dataset = read_dataset(root, "labels")
    assert labels(dataset) == {
        "Crying_baby/a.ogg": ("Crying_baby",),
        "dog/a.WAV": ("dog",),
        "dog/b.wav": ("dog",),
        "dog/deeper/c.flac": ("dog",),
    }
    assert (dataset.name, dataset.classes, dataset.warnings, dataset.multi_label) == (
        "set",
        ["Crying_baby", "dog"],
        (),
        False,
    )
    assert there(dataset)


def test_a_tree_of_splits(tmp_path: Path) -> None:
    sounds(tmp_path, "train/dog/a.wav", "train/rain/a.wav", "Test/dog/b.wav")
    dataset = read_dataset(tmp_path, "labels")
    assert [(item.name, item.labels, item.split) for item in dataset.items] == [
        ("Test/dog/b.wav", ("dog",), "Test"),
        ("train/dog/a.wav", ("dog",), "train"),
        ("train/rain/a.wav", ("rain",), "train"),
    ]
    only = read_dataset(tmp_path, "labels", Options(split="train"))
    assert list(labels(only)) == ["train/dog/a.wav", "train/rain/a.wav"]
    with pytest.raises(DatasetError, match=r"no split 'val': .*: its splits are 'Test', 'train'"):
        read_dataset(tmp_path, "labels", Options(split="val"))


def test_what_a_tree_leaves_out_is_said(tmp_path: Path) -> None:
    sounds(tmp_path, "dog/a.wav", "stray.wav")
    (tmp_path / "empty").mkdir()
    dataset = read_dataset(tmp_path, "labels")
    assert list(labels(dataset)) == ["dog/a.wav"]
    assert [warning.split(":")[0] for warning in dataset.warnings] == [
        "1 sounds beside the folders of classes have no class and are left out",
        "1 folders hold no sounds and are left out",
    ]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    sound(tmp_path / name / "a.wav")
    sound(tmp_path / "b" / f"{name}.wav")
    dataset = read_dataset(tmp_path, "labels")
    found, skipped = look_at(dataset.items)
    assert (len(found), skipped) == (2, [])
    assert len(dataset_hash(dict(enumerate(dataset.items)), found)) == 64


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no sounds in folders of classes; expected DATASET/<class>/<sound>"),
        (["a.wav", "b.wav"], "2 sounds, but no folders of classes; expected DATASET/<class>/<sound>"),
        (["dog/a.txt"], "no sounds in folders of classes"),
        (["a.wav", "metadata.csv"], "or pass .*metadata.csv"),
    ],
)
def test_folders_that_are_no_tree(tmp_path: Path, names: list[str], reason: str) -> None:
    sounds(tmp_path, *names)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_dataset(tmp_path, "labels")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_dataset(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", sound(tmp_path / "a.wav"), Path("/dev/null")):
        with pytest.raises(DatasetError, match="not a dataset"):
            read_dataset(path, "labels")
    sounds(tmp_path, "dog/a.wav")
    with pytest.raises(DatasetError, match="folders have no captions"):
        read_dataset(tmp_path, "captions")
    with pytest.raises(DatasetError, match="--label-column is for tables"):
        read_dataset(tmp_path, "labels", Options(label_column="x"))


# Tables as datasets come


@pytest.mark.parametrize("given", ["directory", "table"])
def test_esc50(tmp_path: Path, given: str) -> None:
    root = tmp_path / "ESC-50-master"
    sounds(root / "audio", "1-100032-A-0.wav", "2-100038-A-14.wav")
    meta = table(
        root / "meta" / "esc50.csv",
        ["filename", "fold", "target", "category", "esc10", "src_file", "take"],
        ["1-100032-A-0.wav", 1, 0, "dog", "True", 100032, "A"],
        ["2-100038-A-14.wav", 2, 14, "chirping_birds", "False", 100038, "A"],
    )
    dataset = read_dataset(root if given == "directory" else meta, "labels")
    assert dataset.name == ("ESC-50-master" if given == "directory" else "esc50")
    assert labels(dataset) == {"1-100032-A-0.wav": ("dog",), "2-100038-A-14.wav": ("chirping_birds",)}
    assert [item.fold for item in dataset.items] == ["1", "2"]
    assert there(dataset)


def test_urbansound8k(tmp_path: Path) -> None:
    """Its table leaves the folder of the fold out."""
    sounds(tmp_path / "audio", "fold5/100032-3-0-0.wav", "fold10/100263-2-0-3.wav")
    meta = table(
        tmp_path / "metadata" / "UrbanSound8K.csv",
        ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"],
        ["100032-3-0-0.wav", 100032, 0.0, 0.317551, 1, 5, 3, "dog_bark"],
        ["100263-2-0-3.wav", 100263, 61.5, 65.5, 1, 10, 2, "children_playing"],
    )
    dataset = read_dataset(meta, "labels")
    assert labels(dataset) == {
        "fold5/100032-3-0-0.wav": ("dog_bark",),
        "fold10/100263-2-0-3.wav": ("children_playing",),
    }
    assert there(dataset)


def test_fsd50k(tmp_path: Path) -> None:
    """Names without suffix; several labels in a quoted field."""
    sounds(tmp_path / "eval_audio", "37199.wav", "175151.wav")
    truth = table(
        tmp_path / "eval.csv",
        ["fname", "labels", "mids"],
        [37199, "Electric_guitar,Guitar,Music", "/m/1,/m/2"],
        [175151, "Bark", "/m/3"],
    )
    dataset = read_dataset(truth, "labels", Options(audio_root=tmp_path / "eval_audio"))
    assert labels(dataset) == {"37199.wav": ("Electric_guitar", "Guitar", "Music"), "175151.wav": ("Bark",)}
    assert dataset.multi_label
    assert there(dataset)


def test_clotho(tmp_path: Path) -> None:
    sounds(tmp_path / "evaluation", "Santa Motor.wav", "rain.wav")
    path = table(
        tmp_path / "clotho_captions_evaluation.csv",
        ["file_name", *(f"caption_{i}" for i in range(1, 6))],
        ["Santa Motor.wav", "A machine whines, and squeals.", "b", "c", "d", "e"],
        ["rain.wav", "Rain falls.", "g", "h", "i", ""],
    )
    dataset = read_dataset(path, "captions", Options(audio_root=tmp_path / "evaluation"))
    assert captions(dataset) == {
        "Santa Motor.wav": ("A machine whines, and squeals.", "b", "c", "d", "e"),
        "rain.wav": ("Rain falls.", "g", "h", "i"),
    }
    assert there(dataset)


def test_audiocaps(tmp_path: Path) -> None:
    """One row for each caption, and no path but the name of the video."""
    sounds(tmp_path / "audio", "-BUWGM7qeUM.wav", "0_uv-2dyBjA.wav")
    path = table(
        tmp_path / "test.csv",
        ["audiocap_id", "youtube_id", "start_time", "caption"],
        [103549, "-BUWGM7qeUM", 10, "A man talks."],
        [97151, "0_uv-2dyBjA", 30, "A bell rings."],
        [103548, "-BUWGM7qeUM", 10, "Someone speaks"],
    )
    dataset = read_dataset(path, "captions")
    assert captions(dataset) == {
        "-BUWGM7qeUM.wav": ("A man talks.", "Someone speaks"),
        "0_uv-2dyBjA.wav": ("A bell rings.",),
    }
    assert dataset.warnings == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_and_marks(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = table(
        tmp_path / "x.csv",
        ["Path", "Class Name"],
        ["a, b; c.wav", 'the "dog", naïve'],
        [],
        ["d.wav", "line\nbreak"],
        delimiter=delimiter,
        encoding=encoding,
    )
    assert labels(read_dataset(path, "labels")) == {"a, b; c.wav": ('the "dog", naïve',), "d.wav": ("line\nbreak",)}


def test_columns_are_named(tmp_path: Path) -> None:
    path = table(
        tmp_path / "x.csv",
        ["path", "label", "my file", "my label", "k", "part", "said", "also"],
        ["no.wav", "no", "a.wav", "dog", "3", "x", "one", "two"],
    )
    options = Options("my file", "my label", ("also", "said"), "k", "part", split="x")
    (item,) = read_dataset(path, "labels", options).items
    assert (item.name, item.labels, item.fold, item.split) == ("a.wav", ("dog",), "3", "x")
    assert captions(read_dataset(path, "captions", options)) == {"a.wav": ("two", "one")}


@pytest.mark.parametrize(
    ("field", "separator", "expected"),
    [
        ("Bark;Child speech, kid", None, ("Bark", "Child speech, kid")),
        ("Bark,Dog", None, ("Bark", "Dog")),
        ("Bark | Dog|Bark||", "|", ("Bark", "Dog")),
    ],
)
def test_several_labels(tmp_path: Path, field: str, separator: str | None, expected: tuple[str, ...]) -> None:
    path = table(tmp_path / "x.csv", ["path", "labels"], ["a.wav", field])
    assert labels(read_dataset(path, "labels", Options(label_separator=separator))) == {"a.wav": expected}


def test_one_label_is_not_split(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["path", "label"], ["a.wav", "Bark, yip; howl"])
    assert labels(read_dataset(path, "labels")) == {"a.wav": ("Bark, yip; howl",)}


def test_a_sound_of_several_rows(tmp_path: Path) -> None:
    """The same label: once, with a warning. Another one: an error, or one more label where sounds have several."""
    same = table(tmp_path / "same.csv", ["path", "label"], ["a.wav", "dog"], ["./a.wav", "dog"], ["b.wav", "cat"])
    dataset = read_dataset(same, "labels")
    assert labels(dataset) == {"a.wav": ("dog",), "b.wav": ("cat",)}
    assert dataset.warnings == ("1 rows name a sound that another row names too; each sound counts once",)
    other = table(tmp_path / "other.csv", ["path", "label"], ["a.wav", "dog"], ["a.wav", "cat"])
    with pytest.raises(DatasetError, match=r"line 3: 'a.wav' is 'dog' and 'cat'; keep one, or pass --label-separator"):
        read_dataset(other, "labels")
    assert labels(read_dataset(other, "labels", Options(label_separator=";"))) == {"a.wav": ("dog", "cat")}
    folds = table(tmp_path / "folds.csv", ["path", "label", "fold"], ["a.wav", "dog", 1], ["a.wav", "dog", 2])
    with pytest.raises(DatasetError, match="different folds or splits"):
        read_dataset(folds, "labels")


def test_rows_that_lack_something_are_skipped(tmp_path: Path) -> None:
    """Those of the split that is evaluated."""
    path = table(
        tmp_path / "x.csv",
        ["path", "label", "split"],
        ["a.wav", "dog", "test"],
        ["b.wav", " ", "test"],
        ["", "cat", "test"],
        ["c.wav", "", "train"],
    )
    dataset = read_dataset(path, "labels", Options(split="test"))
    assert list(labels(dataset)) == ["a.wav"]
    assert [(one.path, one.why) for one in dataset.skipped] == [
        ("b.wav", "line 3 has no label"),
        ("line 4", "line 4 has no path"),
    ]


# Parquet


def parquet(target: Path, /, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), target)
    return target


def test_parquet(tmp_path: Path) -> None:
    """Lists are several labels or captions; whole numbers that were stored as floats have no point."""
    path = parquet(
        tmp_path / "x.parquet",
        file=["a.wav", "b.wav", "c.wav"],
        human_labels=[["Bark", "Dog"], ["Cat"], None],
        fold=[1.0, 2.0, None],
        captions=[["one", "two"], ["three"], ["four"]],
    )
    dataset = read_dataset(path, "labels", Options(label_column="human_labels"))
    assert labels(dataset) == {"a.wav": ("Bark", "Dog"), "b.wav": ("Cat",)}
    assert [item.fold for item in dataset.items] == ["1", "2"]
    assert [one.why for one in dataset.skipped] == ["row 3 has no label"]
    assert captions(read_dataset(path, "captions")) == {
        "a.wav": ("one", "two"),
        "b.wav": ("three",),
        "c.wav": ("four",),
    }


def test_sounds_inside_parquet_are_not_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", audio=[{"bytes": b"RIFF", "path": "a.wav"}], label=["dog"])
    with pytest.raises(DatasetError, match=r"row 1: dict; .*sounds inside a Parquet file are not read"):
        read_dataset(path, "labels")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path,label\na.wav,dog\n", b"PAR1" + bytes(2000) + b"PAR1"])
def test_damaged_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match="not a Parquet file") as caught:
        read_dataset(tmp_path / "x.parquet", "labels")
    assert "\n" not in str(caught.value)


def test_parquet_cut_short(tmp_path: Path) -> None:
    """The end, which says where columns are, is good: pages are not."""
    path = parquet(tmp_path / "x.parquet", path=[f"{i}.wav" for i in range(5000)], label=["dog"] * 5000)
    data = bytearray(path.read_bytes())
    data[100:20_000] = os.urandom(19_900)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="not a Parquet file"):
        read_dataset(path, "labels")


# Tables that are none

HOSTILE: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n \n", "is empty"),
    "header only": (b"path,label\n", "has no rows"),
    "no path column": (b"sound,label\na,b\n", "no column of paths: .*'sound', 'label'"),
    "no label column": (b"path,sound\na,b\n", "no column of labels: .*--label-column"),
    "two of a name": (b"path,label,Label\na,b,c\n", "two columns have one name"),
    "NUL bytes": (b"path,label\na\0.wav,b\n", "NUL bytes"),
    "UTF-16": ("path,label\na,b\n".encode("utf-16"), "NUL bytes"),
    "Latin-1": (b"path,label\ncaf\xe9.wav,b\n", "byte 14 is 0xe9"),
    "open quote": (b'path,label\n"a.wav,b\nc.wav,d\n', "check the quotes"),
    "quote inside": (b'path,label\n"a"b.wav,c\n', "check the quotes"),
    "huge field": (b"path,label\n" + b"a" * 200_000 + b",b\n", "field larger than field limit"),
    "short row": (b"path,label\na.wav\n", "line 2 has 1 fields, the header 2"),
    "long row": (b"path,label\na.wav,b,c\n", "line 2 has 3 fields"),
    "only blanks": (b"path,label\n,dog\nb.wav,\n", "nothing to use"),
    "binary": (bytes(range(1, 256)) * 20, "not a CSV"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_tables_that_are_none(tmp_path: Path, case: str) -> None:
    content, reason = HOSTILE[case]
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_dataset(path, "labels")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(path_column="nowhere"), "no such column: .*'nowhere'; it has 'path', 'label'.*--path-column"),
        (Options(label_column="nowhere"), "--label-column"),
        (Options(fold_column="nowhere"), "--fold-column"),
        (Options(split_column="nowhere"), "--split-column"),
        (Options(split="test"), "no split 'test': .*says nothing of splits"),
        (Options(label_separator=""), "separator of labels is empty"),
        (Options(audio_root=Path("/nowhere/at/all")), "no such directory"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: Options, reason: str) -> None:
    path = table(tmp_path / "x.csv", ["path", "label"], ["a.wav", "dog"])
    with pytest.raises(DatasetError, match=reason):
        read_dataset(path, "labels", options)
    with pytest.raises(DatasetError, match="no column of captions"):
        read_dataset(path, "captions")


# Files


def test_files_that_are_not_there_or_no_sounds(tmp_path: Path) -> None:
    """Each is named with a reason, none by the machine's path; devices, pipes and folders are never opened."""
    sound(tmp_path / "a.wav", seconds=1.5)
    sound(tmp_path / "b.wav", seconds=0.25)
    (tmp_path / "text.wav").write_text("This is not a sound.\n" * 20)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "broken.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.wav")
    names = ["a.wav", "missing.wav", "text.wav", "empty.wav", "folder.wav", "broken.wav", "pipe.wav", "b.wav"]
    rows = [[name, "dog"] for name in [*names, "x" * 400 + ".wav"]]
    dataset = read_dataset(table(tmp_path / "x.csv", ["path", "label"], *rows), "labels")
    found, skipped = look_at(dataset.items)
    assert {dataset.items[index].name: one.seconds for index, one in found.items()} == {"a.wav": 1.5, "b.wav": 0.25}
    why = {one.path: one.why for one in skipped}
    assert why["missing.wav"] == why["broken.wav"] == "there is no such file"
    assert why["folder.wav"] == why["pipe.wav"] == "it is not a regular file"
    assert why["text.wav"].startswith("text.wav is not a ")
    assert len(why) == 7
    assert not any(str(tmp_path) in text for text in why.values())
    with pytest.raises(DatasetError, match=r"2 of 9 sounds, the first: missing.wav: there is no such file; check"):
        enough(len(found), skipped, tmp_path)


def test_devices_are_not_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", path=["/dev/zero", "/dev/stdin", "nul\0.wav"], label=["a", "b", "c"])
    found, skipped = look_at(read_dataset(path, "labels").items)
    assert not found
    assert [one.why.split(":")[0] for one in skipped][:2] == ["it is not a regular file"] * 2
    assert len(skipped) == 3


def digest(dataset: Dataset) -> str:
    found, skipped = look_at(dataset.items)
    assert not skipped
    return dataset_hash(dict(enumerate(dataset.items)), found)


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    """Wherever the dataset lies and in whatever order; any change of a sound, a name or a label is another one."""
    rows = [["a.wav", "dog", "1"], ["sub/b.wav", "cat", "2"]]

    def make(name: str, *listed: Sequence[str], pitch: float = 440.0) -> str:
        sound(tmp_path / name / "a.wav", pitch=pitch)
        sound(tmp_path / name / "sub" / "b.wav")
        return digest(read_dataset(table(tmp_path / name / "x.csv", ["path", "label", "fold"], *listed), "labels"))

    first = make("one", *rows)
    assert make("two", *rows) == make("three", *reversed(rows)) == first
    assert make("four", *rows, pitch=441.0) != first
    assert make("five", ["a.wav", "wolf", "1"], rows[1]) != first
    assert make("six", ["a.wav", "dog", "3"], rows[1]) != first
    shutil.move(tmp_path / "one" / "a.wav", tmp_path / "one" / "c.wav")
    path = table(tmp_path / "one" / "x.csv", ["path", "label", "fold"], ["c.wav", "dog", "1"], rows[1])
    assert digest(read_dataset(path, "labels")) != first
