"""Bundles that are damaged, forged, or try to make a reader leave the bundle: made from a good one at test time.

    python tests/hostile/make_bundles.py GOOD_BUNDLE FOLDER

writes them all for a look by hand. None may be loaded and used without a `BundleError`. A bundle whose name begins with
"signed" has the right sizes, hashes and space id: there only the content is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claprt.bundle import sha256_file
from claprt.manifest import compute_space_id
from claprt.spec import LogMelSpec

AUDIO, TEXT, TOKENIZER = "audio.fp32.onnx", "text.fp32.onnx", "tokenizer.json"
Attack = Callable[[Path], None]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Register what turns a good bundle, in place, into the hostile one of that name."""
    ATTACKS[function.__name__] = function
    return function


def make_bundle(good: Path, name: str, folder: Path) -> Path:
    """Write the hostile bundle `name` into `folder` and return its path."""
    bundle = folder / name
    shutil.copytree(good, bundle, copy_function=_link)
    ATTACKS[name](bundle)
    return bundle


def _link(source: str, target: str) -> None:
    """Graphs are large: share them. Attacks replace files and never write into them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write(path: Path, content: bytes | str) -> None:
    """Replace a file."""
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def manifest(bundle: Path) -> Any:
    """The manifest as plain JSON."""
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def put_manifest(bundle: Path, document: Any) -> None:
    """Write a manifest from plain JSON."""
    write(bundle / "manifest.json", json.dumps(document, indent=2))


def sign(bundle: Path, document: Any | None = None) -> None:
    """Make sizes, hashes and the space id of a manifest true."""
    document = manifest(bundle) if document is None else document
    audio, text, model = document["audio"], document["text"], document["model"]
    for entry in (*audio["variants"].values(), *text["variants"].values(), text["tokenizer"]):
        path = bundle / entry["file"]
        entry["sha256"], entry["bytes"] = sha256_file(path), path.stat().st_size
    model["space_id"] = compute_space_id(
        model["weights_sha256"], LogMelSpec(**audio["log_mel"]), audio["fusion"], text["tokenizer"]["sha256"]
    )
    put_manifest(bundle, document)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    write(path, bytes(data))


def _rename_entry(bundle: Path, name: str) -> None:
    document = manifest(bundle)
    document["audio"]["variants"]["fp32"]["file"] = name
    put_manifest(bundle, document)


# The manifest.


@attack
def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


@attack
def manifest_is_a_directory(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()


@attack
def manifest_is_a_loop(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").symlink_to("manifest.json")


@attack
def manifest_is_a_fifo(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")


@attack
def manifest_is_empty(bundle: Path) -> None:
    write(bundle / "manifest.json", b"")


@attack
def manifest_is_deep(bundle: Path) -> None:
    write(bundle / "manifest.json", b"[" * 1_000_000)


@attack
def manifest_is_huge(bundle: Path) -> None:
    write(bundle / "manifest.json", b" " * (5 << 20) + b"{}")


@attack
def manifest_is_utf16(bundle: Path) -> None:
    write(bundle / "manifest.json", json.dumps(manifest(bundle)).encode("utf-16"))


@attack
def manifest_has_a_key_twice(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    write(bundle / "manifest.json", text.replace('"fusion":', '"fusion": null, "fusion":', 1))


@attack
def another_format(bundle: Path) -> None:
    put_manifest(bundle, {"format": "other\nformat" * 1_000, "schema_version": 1})


@attack
def newer_schema(bundle: Path) -> None:
    put_manifest(bundle, manifest(bundle) | {"schema_version": 2})


@attack
def other_weights(bundle: Path) -> None:
    document = manifest(bundle)
    document["model"]["weights_sha256"] = "0" * 64
    put_manifest(bundle, document)


@attack
def climbs_out(bundle: Path) -> None:
    _rename_entry(bundle, "../good/" + AUDIO)


@attack
def absolute_path(bundle: Path) -> None:
    _rename_entry(bundle, "/etc/passwd")


# The files.


@attack
def flipped_bit_in_audio(bundle: Path) -> None:
    _flip(bundle / AUDIO)


@attack
def flipped_bit_in_text(bundle: Path) -> None:
    _flip(bundle / TEXT)


@attack
def flipped_bit_in_tokenizer(bundle: Path) -> None:
    _flip(bundle / TOKENIZER)


@attack
def one_byte_more(bundle: Path) -> None:
    write(bundle / AUDIO, (bundle / AUDIO).read_bytes() + b"\0")


@attack
def cut_short(bundle: Path) -> None:
    write(bundle / TEXT, (bundle / TEXT).read_bytes()[:1000])


@attack
def missing_graph(bundle: Path) -> None:
    (bundle / TEXT).unlink()


@attack
def missing_tokenizer(bundle: Path) -> None:
    (bundle / TOKENIZER).unlink()


@attack
def graph_is_a_directory(bundle: Path) -> None:
    (bundle / AUDIO).unlink()
    (bundle / AUDIO).mkdir()


@attack
def graph_is_a_fifo(bundle: Path) -> None:
    (bundle / AUDIO).unlink()
    os.mkfifo(bundle / AUDIO)


@attack
def graph_below_a_file(bundle: Path) -> None:
    _rename_entry(bundle, f"{AUDIO}/graph.onnx")


@attack
def link_out_of_the_bundle(bundle: Path) -> None:
    """The very file that the manifest describes, but beside the bundle."""
    (bundle / AUDIO).rename(bundle.parent / f"{bundle.name}.outside")
    (bundle / AUDIO).symlink_to(f"../{bundle.name}.outside")


@attack
def directory_link_out_of_the_bundle(bundle: Path) -> None:
    outside = bundle.parent / f"{bundle.name}.outside"
    outside.mkdir()
    (bundle / AUDIO).rename(outside / AUDIO)
    (bundle / "graphs").symlink_to(outside)
    _rename_entry(bundle, f"graphs/{AUDIO}")


@attack
def link_loop(bundle: Path) -> None:
    (bundle / AUDIO).unlink()
    (bundle / AUDIO).symlink_to(AUDIO)


@attack
def dangling_link(bundle: Path) -> None:
    (bundle / TEXT).unlink()
    (bundle / TEXT).symlink_to("nowhere")


# Rightly signed, wrong inside.


@attack
def signed_graph_of_zeros(bundle: Path) -> None:
    write(bundle / AUDIO, bytes(1000))
    sign(bundle)


@attack
def signed_empty_graph(bundle: Path) -> None:
    write(bundle / TEXT, b"")
    sign(bundle)


@attack
def signed_half_a_graph(bundle: Path) -> None:
    data = (bundle / AUDIO).read_bytes()
    write(bundle / AUDIO, data[: len(data) // 2])
    sign(bundle)


@attack
def signed_swapped_towers(bundle: Path) -> None:
    document = manifest(bundle)
    audio, text = (document[tower]["variants"]["fp32"] for tower in ("audio", "text"))
    audio["file"], text["file"] = text["file"], audio["file"]
    sign(bundle, document)


@attack
def signed_text_as_audio(bundle: Path) -> None:
    document = manifest(bundle)
    document["audio"]["variants"]["fp32"]["file"] = TEXT
    sign(bundle, document)


@attack
def signed_other_dimension(bundle: Path) -> None:
    document = manifest(bundle)
    document["model"]["embedding_dim"] += 1
    sign(bundle, document)


@attack
def signed_other_fusion(bundle: Path) -> None:
    document = manifest(bundle)
    document["audio"]["fusion"] = not document["audio"]["fusion"]
    document["audio"]["default_recipe"] = "head"
    sign(bundle, document)


@attack
def signed_tokenizer_of_bytes(bundle: Path) -> None:
    write(bundle / TOKENIZER, bytes(range(256)))
    sign(bundle)


@attack
def signed_tokenizer_of_json(bundle: Path) -> None:
    write(bundle / TOKENIZER, "{}")
    sign(bundle)


@attack
def signed_other_tokenizer(bundle: Path) -> None:
    """A good tokenizer of the same size of vocabulary, but of another model: two words have changed places."""
    document = json.loads((bundle / TOKENIZER).read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    write(bundle / TOKENIZER, json.dumps(document))
    sign(bundle)


@attack
def signed_tokenizer_beyond_the_tower(bundle: Path) -> None:
    """One more word, whose id the text tower has no embedding for."""
    document = json.loads((bundle / TOKENIZER).read_text(encoding="utf-8"))
    document["model"]["vocab"]["zzzzzzzz"] = manifest(bundle)["text"]["vocab_size"]
    write(bundle / TOKENIZER, json.dumps(document))
    sign(bundle)


@attack
def signed_probe_with_a_lone_surrogate(bundle: Path) -> None:
    document = manifest(bundle)
    document["text"]["probe"]["text"] = "\ud800"
    sign(bundle, document)


def make_bundles(good: Path, folder: Path) -> dict[str, Path]:
    """Write them all into `folder` and return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: make_bundle(good, name, folder) for name in ATTACKS}


if __name__ == "__main__":
    for path in make_bundles(Path(sys.argv[1]), Path(sys.argv[2])).values():
        print(path)
