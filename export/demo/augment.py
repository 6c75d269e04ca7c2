"""Changes to log-mel batches that keep what they sound like: cheap, since clips are made once.

Everything works in dB on float32 (b, c, frames, 64); all channels of a clip change alike.
"""

from __future__ import annotations

import math

import torch

FLOOR = -100.0  # dB, the extractor's lowest value
_NEPER = math.log(10) / 10


def _uniform(count: int, low: float, high: float, noise: torch.Generator) -> torch.Tensor:
    """Return (count, 1, 1, 1), even in [low, high)."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=noise)


def _sometimes(count: int, chance: float, noise: torch.Generator) -> torch.Tensor:
    """Return bool (count, 1, 1, 1), True with this chance."""
    return torch.rand(count, 1, 1, 1, generator=noise) < chance


def add_power(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The level in dB of two sounds together, from the level of each."""
    return torch.logaddexp(first * _NEPER, second * _NEPER) / _NEPER


def mix(clips: torch.Tensor, targets: torch.Tensor, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Play another clip of the batch along, softly or, now and then, nearly as loud.

    Softly (10 to 30 dB below): the label stays. Nearly as loud (0 to 6 dB below): both labels
    count. targets: (b, labels). Returns the same shapes.
    """
    count = len(clips)
    other = torch.roll(torch.arange(count), 1)
    level = clips.amax((1, 2, 3), keepdim=True)
    soft = _sometimes(count, 0.35, noise)
    equal = _sometimes(count, 0.05, noise) & ~soft
    below = torch.where(equal, _uniform(count, 0, 6, noise), _uniform(count, 10, 30, noise))
    second = clips[other] - level[other] + level - below
    chosen = (soft | equal).flatten()
    mixed = clips.clone()
    mixed[chosen] = add_power(clips[chosen], second[chosen])
    share = torch.where(equal, 0.35, 0.0).flatten(1)
    return mixed, targets * (1 - share) + targets[other] * share


def augment(clips: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Shift in time, tilt, add steady noise, change the level and blank small parts."""
    count, channels, frames, bins = clips.shape
    clips = clips.clone()
    for i in torch.nonzero(_sometimes(count, 0.5, noise).flatten()).flatten().tolist():
        shift = int(torch.randint(frames, (1,), generator=noise))
        clips[i] = torch.roll(clips[i], shift, 1)

    axis = torch.linspace(-1, 1, bins)
    tilt = _uniform(count, -5, 5, noise) * axis + _uniform(count, -3, 3, noise) * (axis**2 - 0.5)
    clips = clips + tilt * _sometimes(count, 0.6, noise)

    noisy = torch.nonzero(_sometimes(count, 0.25, noise).flatten()).flatten()
    if len(noisy):
        part = clips[noisy]
        m = len(noisy)
        loud = part.mean((1, 2, 3), keepdim=True) - _uniform(m, 0, 30, noise)
        slope = _uniform(m, -12, 12, noise) * axis
        rough = torch.rand(m, channels, frames, bins, generator=noise).clamp_min(1e-3)
        steady = loud + slope + 10 * torch.log10((-torch.log(rough)).clamp_min(1e-4))
        clips[noisy] = add_power(part, steady)

    clips = clips + _uniform(count, -14, 8, noise)

    for i in torch.nonzero(_sometimes(count, 0.4, noise).flatten()).flatten().tolist():
        start = int(torch.randint(bins - 8, (1,), generator=noise))
        width = int(torch.randint(1, 8, (1,), generator=noise))
        clips[i, :, :, start : start + width] = clips[i].mean()
    for i in torch.nonzero(_sometimes(count, 0.3, noise).flatten()).flatten().tolist():
        start = int(torch.randint(frames - frames // 10, (1,), generator=noise))
        width = int(torch.randint(5, frames // 10, (1,), generator=noise))
        clips[i, :, start : start + width] = clips[i].mean()
    return clips.clamp_min(FLOOR)
