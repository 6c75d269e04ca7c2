"""Building variants, and what the demo's compute against transformers on real recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import OptionError, TextError
from claprt.log_mel import LogMel
from claprt.model import Clap, load_variant
from claprt_export import build as build_module
from claprt_export.build import build
from claprt_export.checkpoint import load_checkpoint
from claprt_export.on_cpu import running
from claprt_export.random_checkpoint import save_random_checkpoint

VARIANTS = {"fp32": (0.999999,) * 2, "fp16": (0.9999,) * 2, "int8": (0.9995, 0.999), "int8-cpu": (0.9995, 0.999)}
TEXTS = [
    "a robin sings in a garden",
    "trumpet",
    "A dog barks, and then a church bell rings in the distance while it rains.",
    "orchestra playing; celesta",
    "naïve 🎺 ¿qué?",
    "water " * 40,
]
# Nobody has calibrated or judged on these.
UNLIKE = [
    "Somebody reads a book aloud in a quiet room, slowly and clearly.",
    "speech",
    "The bartender shakes a cocktail and pours it into a chilled glass.",
    "A cello plays a sad melody over a soft organ chord.",
    "camel",
    "Marbles roll down a wooden track.",
    "An auctioneer calls out bids faster and faster.",
    "hand saw",
    "A flock of geese flies overhead, honking.",
    "The old lift rattles and stops between two floors.",
    "disco with slap bass and handclaps",
    "Snow crunches under heavy shoes.",
    "Popping bubble wrap",
    "A teacher scolds a noisy class in Spanish.",
    "Rain drips from the gutter into a bucket.",
    "opera",
    "Someone gargles and coughs.",
    "A racing car changes gear and disappears around the bend.",
    "Wolves howl at the moon far away across the frozen valley.",
    "the beep of a supermarket checkout",
    "A soldier shouts commands, and boots hit the ground in unison.",
    "grunge",
    "Peeling an orange and eating it slice by slice",
    "A quiet conversation between two elderly ladies on a park bench, with sparrows hopping about and a fountain "
    "behind them",
    "Wind chimes tinkle on the porch.",
    "A broken fridge buzzes and clicks off.",
    "Elephants trumpet.",
    "Radio play with actors, door creaks and eerie music",
    "synthesizer arpeggio",
    "A waterfall so loud that the guide has to yell",
    "kazoo",
    "Someone opens a can of beer and sighs with pleasure.",
    "Vuvuzelas at a football match",
    "The conductor taps the stand; the orchestra tunes up.",
]


def cosines(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def clips_of(clap: Clap, folder: Path, recipe: str) -> list[Any]:
    """Clips of each recording, by their log-Mel and `is_longer`."""
    info = clap.manifest.audio
    log_mel, result = LogMel(info.log_mel), []
    for path in sorted(folder.glob("*.ogg")):
        with open_audio(path) as source:
            for number, clip in enumerate(recipes.clips(source, info.log_mel, recipe, info.channels)):
                if number % 2 == 0 and number < 12:
                    result.append((recipes.features(clip, log_mel, info.channels), clip.is_longer))
    return result


@pytest.mark.parametrize(("bundle", "source"), [("demo_bundle", "demo"), ("demo_fused_bundle", "demo-fused")])
def test_bounds_on_real_recordings(
    request: pytest.FixtureRequest, shared_audio: Path, bundle: str, source: str
) -> None:
    """Every variant's worst clip and text against transformers' own model, on sounds that calibration never saw."""
    path: Path = request.getfixturevalue(bundle)
    checkpoint = load_checkpoint(source)
    model, fused = checkpoint.model, source == "demo-fused"
    clips = clips_of(load_variant(path, "fp32"), shared_audio, "fusion" if fused else "windows")
    assert len(clips) >= 5
    features = torch.from_numpy(np.stack([features for features, _ in clips]))
    longer = torch.tensor([[is_longer] for _, is_longer in clips])
    tokens = checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        audio = model.get_audio_features(input_features=features, is_longer=longer).pooler_output.numpy()
        text = model.get_text_features(**tokens).pooler_output.numpy()
    assert cosines(audio[1:], audio[:-1]).mean() < 0.95
    for variant, (audio_bound, text_bound) in VARIANTS.items():
        with running(path, variant) as clap:
            assert cosines(clap.embed_text(TEXTS), text).min() >= text_bound, variant
            engine = clap._engine("audio")
            inputs = {"input_features": features.numpy()} | ({"is_longer": longer.numpy()} if fused else {})
            rows = [engine.run({k: v[i : i + 1] for k, v in inputs.items()})[0] for i in range(len(clips))]
            assert cosines(np.stack(rows), audio).min() >= audio_bound, variant


@pytest.mark.parametrize(("bundle", "source"), [("demo_bundle", "demo"), ("demo_fused_bundle", "demo-fused")])
def test_bounds_on_texts_unlike_the_calibration(request: pytest.FixtureRequest, bundle: str, source: str) -> None:
    """Few layers too many in INT8, and a handful of ordinary sentences miss the bound by far."""
    path: Path = request.getfixturevalue(bundle)
    checkpoint = load_checkpoint(source)
    with torch.inference_mode():
        tokens = checkpoint.tokenizer(UNLIKE, padding=True, return_tensors="pt")
        text = checkpoint.model.get_text_features(**tokens).pooler_output.numpy()
    worst = {}
    for name in VARIANTS:
        with running(path, name) as clap:
            worst[name] = cosines(clap.embed_text(UNLIKE), text).min()
    assert all(worst[name] >= bound for name, (_, bound) in VARIANTS.items()), worst


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        (("fp32", "int4"), "unknown precision: 'int4'; choose among fp32, fp16, int8"),
        (("int8-cpu",), "unknown precision: 'int8-cpu'"),
        (("FP16",), "unknown precision: 'FP16'"),
        (("",), "unknown precision: ''"),
        ((), "no precision was named"),
    ],
)
def test_precisions_that_there_are_not(tmp_path: Path, precisions: tuple[str, ...], message: str) -> None:
    """Refused before anything is loaded."""
    with pytest.raises(OptionError, match=message):
        build("no-such-checkpoint", tmp_path / "bundle", precisions=precisions)
    assert not list(tmp_path.iterdir())


def test_a_calibration_directory_needs_int8(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"without INT8: .*add --precision fp32,int8"):
        build("no-such-checkpoint", tmp_path / "bundle", precisions=("fp16",), calibration=tmp_path)
    with pytest.raises(OptionError, match="does not exist"):
        build("no-such-checkpoint", tmp_path / "bundle", precisions=("int8",), calibration=tmp_path / "none")


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        (("fp32",), ["fp32"]),
        (("fp16",), ["fp32", "fp16"]),
        (("int8",), ["fp32", "int8", "int8-cpu"]),
        (("int8", "fp16", "fp32", "fp16"), ["fp32", "fp16", "int8", "int8-cpu"]),
    ],
)
def test_variants_of_precisions(asked: tuple[str, ...], built: list[str]) -> None:
    """FP32 is always there; INT8 is two graphs; each once, in one order."""
    assert build_module._variants(asked) == built


def test_a_bad_calibration_directory_leaves_nothing(tmp_path: Path) -> None:
    source, folder = save_random_checkpoint(tmp_path / "checkpoint", "tiny"), tmp_path / "calibration"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(4800), 48_000)
    (folder / "captions.txt").write_bytes(b"caf\xe9")
    with pytest.raises(TextError, match=r"captions\.txt"):
        build(str(source), tmp_path / "bundle", precisions=("int8",), calibration=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration", "checkpoint"]
