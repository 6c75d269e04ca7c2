"""The shapes that engines are built for: exact, without gaps, and bad steps refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from claprt.bundle import open_bundle
from claprt.engines.tensorrt.profiles import (
    DEFAULT_BATCHES,
    DEFAULT_TOKENS,
    Profile,
    audio_profiles,
    text_profiles,
)
from claprt.errors import OptionError
from claprt.manifest import Manifest

TEXT = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def manifest(demo_bundle: Path) -> Manifest:
    return open_bundle(demo_bundle).manifest


def fused(manifest: Manifest) -> Manifest:
    return replace(manifest, audio=replace(manifest.audio, fusion=True))


def limited(manifest: Manifest, tokens: int) -> Manifest:
    """A tower that takes texts of so many tokens."""
    return replace(manifest, text=replace(manifest.text, max_tokens=tokens))


def ranges(profiles: Sequence[Profile]) -> list[list[tuple[int, ...]]]:
    """Smallest, typical and largest shape of each profile; all inputs of texts must have the same."""
    for profile in profiles:
        assert tuple(profile.shapes) == TEXT
        assert profile.shapes["input_ids"] == profile.shapes["attention_mask"]
    return [list(profile.shapes["input_ids"]) for profile in profiles]


def test_audio_by_default(manifest: Manifest) -> None:
    profiles = audio_profiles(manifest, DEFAULT_BATCHES)
    clip = (1, 1001, 64)
    assert [dict(profile.shapes) for profile in profiles] == [
        {"input_features": ((1, *clip), (1, *clip), (1, *clip))},
        {"input_features": ((2, *clip), (8, *clip), (8, *clip))},
        {"input_features": ((9, *clip), (64, *clip), (64, *clip))},
    ]
    assert [profile.batch for profile in profiles] == [(1, 1), (2, 8), (9, 64)]


def test_fused_audio_has_is_longer(manifest: Manifest) -> None:
    one, some = audio_profiles(fused(manifest), (1, 4))
    assert dict(one.shapes) == {"input_features": ((1, 4, 1001, 64),) * 3, "is_longer": ((1, 1),) * 3}
    assert some.shapes["is_longer"] == ((2, 1), (4, 1), (4, 1))
    assert some.shapes["input_features"][0] == (2, 4, 1001, 64)


def test_texts_by_default(manifest: Manifest) -> None:
    """Beyond 77 tokens, up to the tower's 512, no run holds more tokens than 64 texts of 77: 8 texts at most."""
    assert ranges(text_profiles(manifest, DEFAULT_BATCHES, DEFAULT_TOKENS)) == [
        [(1, 1), (1, 16), (1, 16)],
        [(2, 1), (8, 16), (8, 16)],
        [(9, 1), (64, 16), (64, 16)],
        [(1, 17), (1, 80), (1, 80)],
        [(2, 17), (8, 80), (8, 80)],
        [(9, 17), (64, 80), (64, 80)],
        [(1, 81), (1, 512), (1, 512)],
        [(2, 81), (8, 512), (8, 512)],
    ]


def test_other_steps_of_texts(manifest: Manifest) -> None:
    short = limited(manifest, 77)
    assert ranges(text_profiles(short, (4,), (77,))) == [[(1, 1), (4, 77), (4, 77)]]
    assert ranges(text_profiles(short, (4,), (16,))) == [
        [(1, 1), (4, 16), (4, 16)],
        [(1, 17), (1, 77), (1, 77)],  # four texts of 77 tokens are more than four of 16; one there always is
    ]
    assert ranges(text_profiles(manifest, (1, 64), (512,))) == [
        [(1, 1), (1, 512), (1, 512)],
        [(2, 1), (64, 512), (64, 512)],  # a step that was asked for is not bounded
    ]


@pytest.mark.parametrize("batches", [(1, 8, 64), (1,), (3,), (2, 3, 40), (1, 2, 4, 8, 16)])
@pytest.mark.parametrize("tokens", [(16, 77), (1,), (512,), (1, 2, 3), (77, 300)])
def test_no_gaps(manifest: Manifest, batches: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    """Any text of up to the tower's limit runs, in batches of any size up to the largest that its length allows.

    Just one profile takes each size: which one runs does not depend on their order.
    """
    profiles = text_profiles(manifest, batches, tokens)
    for length in range(1, 513):
        rows = [
            profile.batch[1] for profile in profiles if profile.admits(dict.fromkeys(TEXT, (profile.batch[1], length)))
        ]
        assert rows, length
        if length <= tokens[-1]:
            assert max(rows) == batches[-1]
        else:
            assert max(rows) * length <= max(batches[-1] * tokens[-1], length)
        for batch in range(1, max(rows) + 1):
            found = [profile for profile in profiles if profile.admits(dict.fromkeys(TEXT, (batch, length)))]
            assert len(found) == 1, (batch, length)
    assert not any(profile.admits(dict.fromkeys(TEXT, (1, 513))) for profile in profiles)
    for batch in range(1, batches[-1] + 2):
        shape = (batch, 1, 1001, 64)
        admitted = [one for one in audio_profiles(manifest, batches) if one.admits({"input_features": shape})]
        assert len(admitted) == (batch <= batches[-1])


def test_what_a_profile_does_not_admit(manifest: Manifest) -> None:
    (profile,) = audio_profiles(fused(manifest), (4,))
    good = {"input_features": (4, 4, 1001, 64), "is_longer": (4, 1)}
    assert profile.admits(good)
    for other in ((5, 4, 1001, 64), (0, 4, 1001, 64), (4, 1, 1001, 64), (4, 4, 1000, 64), (4, 4, 1001), ()):
        assert not profile.admits(good | {"input_features": other})
    assert not profile.admits(good | {"is_longer": (5, 1)})


@pytest.mark.parametrize("steps", [(), (0,), (-1,), (1, 0), (8, 1), (1, 1), (1, 8, 8), (0, 1), (4097,), (1, 5000)])
def test_bad_batches(manifest: Manifest, steps: tuple[int, ...]) -> None:
    for make in (audio_profiles, lambda manifest, steps: text_profiles(manifest, steps, DEFAULT_TOKENS)):
        with pytest.raises(OptionError, match="bad steps of batch") as caught:
            make(manifest, steps)
        assert "pass ascending integers of 1 to 4096" in str(caught.value)
        assert all(str(step) in str(caught.value) for step in steps)


@pytest.mark.parametrize("steps", [(), (0,), (77, 16), (16, 16), (513,), (16, 600)])
def test_bad_lengths(manifest: Manifest, steps: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"bad steps of tokens: .*; pass ascending integers of 1 to 512"):
        text_profiles(manifest, DEFAULT_BATCHES, steps)
