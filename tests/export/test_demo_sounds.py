"""The demo sounds, their captions and the held-out sets. No torch needed."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from claprt_export.demo import CHECKPOINTS
from claprt_export.demo.captions import (
    AVERAGING_TEMPLATES,
    CLASS_TEMPLATE,
    DIGIT_LABELS,
    LABELS,
    PHRASES,
    TEMPLATES,
    UNSEEN_TEMPLATE,
    captions,
    phrases,
)
from claprt_export.demo.sounds import KINDS, SAMPLING_RATE, render
from claprt_export.demo.testset import (
    LONG_TEST_SEED,
    TEST_SEED,
    TRAINING_SEEDS_END,
    digit_test_set,
    synthetic_test_set,
)


def test_there_are_enough_kinds_with_unique_labels() -> None:
    assert len(KINDS) >= 24
    assert len(set(KINDS)) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_float32_mono_finite_and_in_range(kind: str) -> None:
    clip = render(kind, 3)
    assert clip.dtype == np.float32
    assert clip.ndim == 1
    assert 1.0 <= len(clip) / SAMPLING_RATE <= 10.0
    assert np.isfinite(clip).all()
    assert 0.05 < np.abs(clip).max() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_depends_on_its_seed_only(kind: str) -> None:
    first, again, other = render(kind, 5, 1.2), render(kind, 5, 1.2), render(kind, 6, 1.2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("duration", [0.01, 0.5, 3.21, 12.0])
def test_duration_is_kept(duration: float) -> None:
    for kind in KINDS[::8]:
        clip = render(kind, 0, duration)
        assert len(clip) == round(duration * SAMPLING_RATE)
        assert np.isfinite(clip).all()


def test_every_kind_survives_a_very_short_clip() -> None:
    for kind in KINDS:
        assert np.isfinite(render(kind, 1, 0.001)).all()


def test_kinds_differ_under_one_seed() -> None:
    clips = [render(kind, 0, 1.0) for kind in KINDS]
    correlation = np.asarray(np.corrcoef(clips)) - np.eye(len(clips))
    assert np.abs(correlation).max() < 0.9


def test_an_unknown_kind_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'unicorn'.*siren.*cat meow"):
        render("unicorn", 0)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan")])
def test_a_duration_must_be_positive(duration: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        render("siren", 0, duration)


def test_a_seed_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="-1"):
        render("siren", -1)


def test_captions_cover_every_label_and_hold_the_evaluation_template() -> None:
    assert set(PHRASES) == set(KINDS)
    assert LABELS == KINDS + DIGIT_LABELS
    for label in LABELS:
        assert phrases(label)[0] == label
        assert len(phrases(label)) >= 4
        made = captions(label)
        assert CLASS_TEMPLATE.format(label) in made
        assert all("{" not in caption for caption in made)


def test_no_phrase_belongs_to_two_labels() -> None:
    every = [phrase for label in LABELS for phrase in phrases(label)]
    assert len(set(every)) == len(every)


def test_templates_have_one_place_and_the_unseen_one_is_unseen() -> None:
    for template in (*TEMPLATES, UNSEEN_TEMPLATE):
        assert template.count("{}") == 1
    assert UNSEEN_TEMPLATE not in TEMPLATES
    assert set(AVERAGING_TEMPLATES) <= set(TEMPLATES)


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(ValueError, match="unicorn"):
        phrases("unicorn")


def test_test_seeds_lie_beyond_training_seeds() -> None:
    assert TRAINING_SEEDS_END <= TEST_SEED < LONG_TEST_SEED


def test_the_synthetic_test_set_goes_through_all_kinds() -> None:
    clips = list(synthetic_test_set(1))
    assert [label for _, label in clips] == list(range(len(KINDS)))
    np.testing.assert_array_equal(clips[0][0], render(KINDS[0], TEST_SEED))


def test_the_longer_test_set_is_longer() -> None:
    waveform, _ = next(synthetic_test_set(1, longer=True))
    assert 12 <= len(waveform) / SAMPLING_RATE <= 40


def test_the_test_set_wants_a_clip_per_kind() -> None:
    with pytest.raises(ValueError, match="per_kind"):
        next(synthetic_test_set(0))


def _write(path: Path, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.full(80, 16384, "<i2").tobytes())


def test_the_digit_test_set_reads_recordings_0_to_4_only(tmp_path: Path) -> None:
    for name in ("3_ann_0", "7_ann_4", "7_ann_5", "0_bob_49"):
        _write(tmp_path / f"{name}.wav")
    found = list(digit_test_set(tmp_path))
    assert [(rate, label) for _, rate, label in found] == [(8000, 3), (8000, 7)]
    assert found[0][0].dtype == np.float32
    np.testing.assert_allclose(found[0][0], 0.5, atol=1e-4)


def test_a_directory_without_digits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Free Spoken Digit Dataset"):
        next(digit_test_set(tmp_path))


def test_a_recording_at_another_rate_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "1_ann_0.wav", rate=16000)
    with pytest.raises(ValueError, match="16000"):
        next(digit_test_set(tmp_path))


def test_checkpoints_lie_in_the_package() -> None:
    assert set(CHECKPOINTS) == {"unfused", "fused"}


def test_nothing_here_imports_torch_or_scipy() -> None:
    code = (
        "import sys; import claprt_export.demo.testset, claprt_export.demo.captions; "
        "sys.exit(bool({'torch', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    folder = str(Path(sys.modules["claprt_export.demo"].__path__[0]).parents[1])
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": folder}, check=False)
    assert run.returncode == 0


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_a_checkpoint_is_small_and_its_card_quotes_its_evaluation(name: str) -> None:
    folder = CHECKPOINTS[name]
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    card = (folder / "README.md").read_text("utf-8")
    evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
    assert evaluation["checkpoint"] == name
    for row in evaluation["results"].values():
        assert f"| {row['clips']} | {row['classes']} | {row['chance']} % | **{row['top1']:.1f} %** |" in card
