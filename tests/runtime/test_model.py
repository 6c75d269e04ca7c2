"""The public face: what `claprt.load` takes, and the vectors of sounds in every form, order, length and state."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import claprt
from claprt import Clap
from claprt.engines import BACKENDS, backend_status
from claprt.errors import (
    AudioError,
    AudioNotFoundError,
    BackendError,
    BundleError,
    BundleNotFoundError,
    ClaprtError,
    OptionError,
)
from claprt.manifest import compute_space_id
from tests.runtime.model_helpers import RATE, TEXTS, assert_unit, cosine, noise, with_manifest

# load


def test_defaults(clap: Clap, demo_bundle: Path) -> None:
    assert (clap.backend, clap.precision, clap.sampling_rate) == ("ort-cpu", "fp32", RATE)
    assert clap.space_id == clap.manifest.model.space_id
    assert "ort-cpu" in repr(clap)
    assert "fp32" in repr(clap)


def test_auto_logs_what_it_chose(demo_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="claprt"):
        claprt.load(demo_bundle, backend="auto")
    assert "backend ort-cpu (asked for: auto)" in caplog.text
    assert str(demo_bundle) in caplog.text


def test_backend_by_name(demo_bundle: Path) -> None:
    assert claprt.load(demo_bundle, backend="ort-cpu").backend == "ort-cpu"


@pytest.mark.parametrize("name", ["cpu", "", "ORT-CPU", "cuda", None, 1, ["ort-cpu"]])
def test_unknown_backend(demo_bundle: Path, name: Any) -> None:
    with pytest.raises(OptionError, match="unknown backend") as caught:
        claprt.load(demo_bundle, backend=name)
    assert repr(name) in str(caught.value)
    assert "ort-cpu" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in BACKENDS if not backend_status(name).usable])
def test_unusable_backend_is_an_error_with_the_reason_and_no_fallback(demo_bundle: Path, name: str) -> None:
    with pytest.raises(BackendError) as caught:
        claprt.load(demo_bundle, backend=name)
    assert name in str(caught.value)
    assert backend_status(name).reason in str(caught.value)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precision_that_the_bundle_lacks(demo_bundle: Path, tmp_path: Path, precision: str) -> None:
    copied = with_manifest(demo_bundle, tmp_path, only_fp32)
    with pytest.raises(OptionError, match=f"the bundle has no {precision}: .* it has fp32"):
        claprt.load(copied, precision=precision)


def test_precision_must_be_named_where_there_is_no_fp32(demo_bundle: Path, tmp_path: Path) -> None:
    def only_fp16(document: Any) -> None:
        for tower in ("audio", "text"):
            document[tower]["variants"] = {"fp16": document[tower]["variants"]["fp32"]}

    copied = with_manifest(demo_bundle, tmp_path, only_fp16)
    with pytest.raises(OptionError, match=r"the bundle has no fp32: .* it has fp16"):
        claprt.load(copied)
    assert claprt.load(copied, precision="fp16").precision == "fp16"


@pytest.mark.parametrize("precision", ["fp64", "FP32", "", 32])
def test_unknown_precision(demo_bundle: Path, precision: Any) -> None:
    with pytest.raises(OptionError, match="unknown precision"):
        claprt.load(demo_bundle, precision=precision)


@pytest.mark.parametrize("threads", [0, -1, True, False, "2", 1.0, 1025, 10**12])
def test_bad_threads(demo_bundle: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="bad number of threads"):
        claprt.load(demo_bundle, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_vectors_visibly(clap: Clap, demo_bundle: Path, threads: int) -> None:
    other = claprt.load(demo_bundle, threads=threads)
    np.testing.assert_allclose(other.embed_text(TEXTS), clap.embed_text(TEXTS), atol=1e-6)
    np.testing.assert_allclose(other.embed_audio(noise(1)), clap.embed_audio(noise(1)), atol=1e-6)


def only_fp32(document: Any) -> None:
    for tower in ("audio", "text"):
        document[tower]["variants"] = {"fp32": document[tower]["variants"]["fp32"]}


# Sounds


def test_audio_vectors_are_unit_rows_in_order(either: Clap) -> None:
    waves = [noise(0.5, seed) for seed in range(3)]
    vectors = either.embed_audio(waves)
    assert_unit(vectors, 3, either)
    for wave, vector in zip(waves, vectors, strict=True):
        np.testing.assert_array_equal(either.embed_audio(wave)[0], vector)
    np.testing.assert_array_equal(either.embed_audio(waves[::-1]), vectors[::-1])


@pytest.mark.parametrize("empty", [[], ()])
def test_no_sounds_give_no_vectors(clap: Clap, empty: Any) -> None:
    vectors = clap.embed_audio(empty)
    assert vectors.shape == (0, clap.embedding_dim)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("clips", [None, 5, "a.wav", b"a.wav", Path("a.wav")], ids=repr)
def test_one_sound_is_not_several(clap: Clap, clips: Any) -> None:
    """A string would be taken letter by letter."""
    with pytest.raises(AudioError, match=r"clips are one \w+, not several sounds; pass \[clip\]"):
        clap.embed_many(clips)


@pytest.mark.parametrize("path", [None, 5, b"bundle"], ids=repr)
def test_what_is_no_path_is_no_bundle(path: Any) -> None:
    with pytest.raises(BundleNotFoundError, match="is no path; pass a bundle's directory"):
        claprt.load(path)


def test_path_file_object_and_array_of_a_sound_are_the_same(clap: Clap, tmp_path: Path) -> None:
    wave = noise(1.5)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    expected = clap.embed_audio(wave)
    for form in (str(tmp_path / "a.wav"), tmp_path / "a.wav", io.BytesIO((tmp_path / "a.wav").read_bytes())):
        np.testing.assert_array_equal(clap.embed_audio(form), expected)
    with (tmp_path / "a.wav").open("rb") as stream:
        np.testing.assert_array_equal(clap.embed_audio(stream), expected)
        assert not stream.closed
    np.testing.assert_array_equal(clap.embed_audio([wave[:, None]], sampling_rate=RATE), expected)


def test_integers_are_full_scale(clap: Clap, tmp_path: Path) -> None:
    pcm = (noise(1) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, RATE, subtype="PCM_16")
    np.testing.assert_array_equal(clap.embed_audio(pcm), clap.embed_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(clap.embed_audio(pcm), clap.embed_audio(pcm.astype(np.float32) / 32768))


def test_sampling_rate_is_heard(clap: Clap) -> None:
    wave = noise(1)
    assert cosine(clap.embed_audio(wave)[0], clap.embed_audio(wave, sampling_rate=16_000)[0]) < 0.9999
    with pytest.raises(AudioError):
        clap.embed_audio(wave, sampling_rate=0)


@pytest.mark.parametrize("seconds", [0.3, 12.0], ids=["short", "long"])
def test_a_sound_does_not_depend_on_its_neighbours_by_a_bit(either: Clap, seconds: float) -> None:
    """transformers marks a random short clip of a batch as longer; here neighbours have no effect whatever they are."""
    wave = noise(seconds, 9)
    alone = either.embed_audio(wave)[0]
    for neighbours in ([np.zeros(1, np.float32)], [noise(11, 1)], [noise(0.2, seed) for seed in range(3)]):
        np.testing.assert_array_equal(either.embed_audio([*neighbours, wave])[-1], alone)
        np.testing.assert_array_equal(either.embed_audio([wave, *neighbours])[0], alone)


@pytest.mark.parametrize("samples", [1, 480, RATE, 10 * RATE, 10 * RATE + 1, 25 * RATE])
def test_silence_of_any_length_has_a_vector(either: Clap, samples: int) -> None:
    assert_unit(either.embed_audio(np.zeros(samples, np.float32)), 1, either)


def test_the_callers_array_is_left_alone(clap: Clap) -> None:
    wave = noise(0.5)
    before = wave.copy()
    wave.setflags(write=False)
    clap.embed_audio([wave, wave])
    np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize(
    ("sound", "kind"),
    [
        ("missing.wav", AudioNotFoundError),
        (np.empty(0, np.float32), AudioError),
        (np.array([np.nan], np.float32), AudioError),
        (np.zeros((2, 2, 2), np.float32), AudioError),
        (b"RIFF", AudioError),
        (None, AudioError),
        (io.BytesIO(b"not a sound"), AudioError),
    ],
    ids=["missing", "empty", "NaN", "three dimensions", "bytes", "None", "not a sound"],
)
def test_unusable_sounds(clap: Clap, sound: Any, kind: type[AudioError]) -> None:
    with pytest.raises(kind) as caught:
        clap.embed_audio([noise(0.1), sound])
    assert "\n" not in str(caught.value)


# Recipes


@pytest.mark.parametrize(
    ("seconds", "starts"), [(9.0, [0]), (10.0, [0]), (12.0, [0, 2]), (15.0, [0, 5]), (23.0, [0, 5, 10, 13])]
)
def test_windows_is_the_mean_of_its_windows(either: Clap, seconds: float, starts: list[int]) -> None:
    """Ten seconds every five, the tail once, each window's vector by hand, summed in float64."""
    wave = noise(seconds)
    parts = [wave[start * RATE : (start + 10) * RATE] for start in starts]
    mean = either.embed_audio(parts, recipe="head").astype(np.float64).mean(axis=0)
    found = either.embed_audio(wave, recipe="windows")[0]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


def test_head_hears_the_first_clip_only(either: Clap) -> None:
    wave = noise(17)
    np.testing.assert_array_equal(
        either.embed_audio(wave, recipe="head"), either.embed_audio(wave[: 10 * RATE], recipe="head")
    )


def test_default_recipe_is_the_bundles(clap: Clap, fused: Clap, demo_bundle: Path, tmp_path: Path) -> None:
    wave = noise(12)
    assert (clap.manifest.audio.default_recipe, fused.manifest.audio.default_recipe) == ("windows", "fusion")
    np.testing.assert_array_equal(clap.embed_audio(wave), clap.embed_audio(wave, recipe="windows"))
    np.testing.assert_array_equal(fused.embed_audio(wave), fused.embed_audio(wave, recipe="fusion"))

    def head(document: Any) -> None:
        document["audio"]["default_recipe"] = "head"

    changed = claprt.load(with_manifest(demo_bundle, tmp_path, head))
    np.testing.assert_array_equal(changed.embed_audio(wave), clap.embed_audio(wave, recipe="head"))
    assert changed.space_id == clap.space_id


def test_recipes_differ_on_long_sounds_and_agree_on_short_ones(fused: Clap) -> None:
    """Else the tests above would prove nothing."""
    long, short = ([fused.embed_audio(noise(s), recipe=r)[0] for r in ("head", "windows", "fusion")] for s in (25, 3))
    assert max(cosine(long[0], long[1]), cosine(long[0], long[2]), cosine(long[1], long[2])) < 0.99999
    np.testing.assert_allclose(short[1], short[0], atol=1e-6)
    np.testing.assert_allclose(short[2], short[0], atol=1e-6)


def test_fusion_needs_a_fused_checkpoint(clap: Clap) -> None:
    with pytest.raises(OptionError, match="needs a checkpoint with fusion"):
        clap.embed_audio(noise(0.1), recipe="fusion")


@pytest.mark.parametrize("recipe", ["middle", "", "HEAD", 1])
def test_unknown_recipe_is_refused_even_without_sounds(clap: Clap, recipe: Any) -> None:
    with pytest.raises(OptionError, match="unknown recipe"):
        clap.embed_audio([], recipe=recipe)


# Going on past errors


def test_a_broken_sound_does_not_stop_or_change_the_others(clap: Clap, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    late = noise(23)
    late[14 * RATE] = np.nan  # the first window is embedded before this is seen
    waves = [noise(12, 1), noise(0.5, 2), noise(6, 3)]
    sounds: list[Any] = [waves[0], tmp_path / "text.wav", waves[1], late, tmp_path / "missing.wav", waves[2]]
    errors: list[tuple[int, ClaprtError]] = []
    indices, vectors = clap.embed_many(sounds, recipe="windows", on_error=lambda *error: errors.append(error))
    assert indices == [0, 2, 5]
    assert [index for index, _ in errors] == [1, 3, 4]
    assert "14" in str(errors[1][1])
    assert isinstance(errors[2][1], AudioNotFoundError)
    np.testing.assert_array_equal(vectors, clap.embed_audio(waves, recipe="windows"))


def test_all_broken_gives_no_vectors(clap: Clap) -> None:
    errors: list[int] = []
    found = clap.embed_many(["missing"] * 2, on_error=lambda index, _: errors.append(index))
    assert (found[0], found[1].shape, errors) == ([], (0, clap.embedding_dim), [0, 1])


def test_an_engine_that_fails_is_no_fault_of_the_sound(demo_bundle: Path, tmp_path: Path) -> None:
    """A log-Mel of another size than the graph takes: not reported sound by sound, but raised."""

    def more_mels(document: Any) -> None:
        document["audio"]["log_mel"]["n_mels"] = 32

    copied = with_manifest(demo_bundle, tmp_path, more_mels)
    document = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    spec = dataclasses.replace(claprt.load(demo_bundle).manifest.audio.log_mel, n_mels=32)
    document["model"]["space_id"] = compute_space_id(
        document["model"]["weights_sha256"], spec, False, document["text"]["tokenizer"]["sha256"]
    )
    (copied / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    errors: list[int] = []
    with pytest.raises((BackendError, BundleError)) as caught:
        claprt.load(copied).embed_many([noise(0.1)], on_error=lambda index, _: errors.append(index))
    assert errors == []
    assert "\n" not in str(caught.value)


def test_progress_counts_clips(clap: Clap) -> None:
    calls: list[int] = []
    clap.embed_many([noise(0.1), noise(23), noise(0.1)], recipe="windows", on_progress=calls.append)
    assert calls == [0, 1, 1, 1, 1, 2]


def test_sounds_are_taken_one_by_one(clap: Clap) -> None:
    """A generator over millions of files must not be read ahead."""
    taken: list[int] = []
    done: list[int] = []

    def sounds() -> Any:
        for index in range(3):
            assert len(done) == index
            taken.append(index)
            yield noise(0.1)

    clap.embed_many(sounds(), on_progress=done.append)
    assert taken == [0, 1, 2]


# Threads


def test_four_threads_at_once_give_the_same_vectors(demo_bundle: Path, clap: Clap) -> None:
    """On a model whose towers have not started yet, so that all four meet in its first use."""
    waves = [noise(0.3 + seed, seed) for seed in range(4)]
    texts = [[f"text {n} of thread {seed}" for n in range(5 + seed)] for seed in range(4)]
    expected = [(clap.embed_audio(wave), clap.embed_text(some)) for wave, some in zip(waves, texts, strict=True)]
    fresh = claprt.load(demo_bundle)

    def work(seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        return [(fresh.embed_audio(waves[seed]), fresh.embed_text(texts[seed])) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for seed, results in enumerate(pool.map(work, range(4))):
            for audio, text in results:
                np.testing.assert_array_equal(audio, expected[seed][0])
                np.testing.assert_allclose(text, expected[seed][1], atol=1e-6)
