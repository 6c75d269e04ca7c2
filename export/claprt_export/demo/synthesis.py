"""Building blocks of procedural sounds: tones, shaped noise, struck objects, events in time.

NumPy only. Every function returns float32 mono audio at 48 kHz unless it says otherwise, and every
random choice comes from the generator that is passed in, so a sound depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

SAMPLING_RATE = 48_000
"""Samples per second of everything in this package."""

Array = npt.NDArray[np.float32]
Rng = np.random.Generator

_TABLE = 4096  # samples of one stored period: a lookup without interpolation is 60 dB clean


def seconds(n: int) -> Array:
    """Time of each of ``n`` samples, float32 (n,), in seconds."""
    return np.arange(n, dtype=np.float32) / np.float32(SAMPLING_RATE)


def samples(duration: float) -> int:
    """Number of samples in ``duration`` seconds, at least 1."""
    return max(1, round(duration * SAMPLING_RATE))


def uniform(rng: Rng, low: float, high: float) -> float:
    """A float drawn evenly from [low, high)."""
    return float(rng.uniform(low, high))


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A positive float whose logarithm is drawn evenly: right for pitches, rates and decays."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def harmonics(count: int, slope: float) -> Array:
    """Amplitudes ``k ** -slope`` of the harmonics 1..count, float32 (count,)."""
    return np.arange(1, count + 1, dtype=np.float32) ** np.float32(-slope)


def tone(frequency: float | Array, amplitudes: Sequence[float] | Array, n: int) -> Array:
    """A periodic tone from the amplitudes of its harmonics.

    frequency: Hz, a constant or one value per sample (n,).
    amplitudes: linear amplitude of harmonic 1, 2, ...; keep count * frequency below 24 kHz.
    Returns (n,), peak 1.
    """
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex64)
    amount = np.asarray(amplitudes, np.float32)
    # spread phases (Schroeder): all harmonics in step would be one spike per period
    order = np.arange(1, len(amount) + 1, dtype=np.float32)
    phases = -np.pi * order * (order - 1) / max(1, len(amount))
    spectrum[1 : len(amount) + 1] = amount * np.exp(1j * phases)
    period = np.fft.irfft(spectrum, _TABLE).astype(np.float32)
    period /= np.abs(period).max() + np.float32(1e-9)
    if isinstance(frequency, np.ndarray):
        phase = np.cumsum(frequency, dtype=np.float64)
    else:
        phase = np.arange(n, dtype=np.float64) * frequency
    index = (phase * (_TABLE / SAMPLING_RATE)).astype(np.int64) & (_TABLE - 1)
    return period[index]


def _fast_length(n: int) -> int:
    """The FFT length to use for ``n`` samples: up to 6 % longer, with no prime factor above 31."""
    block: int = 2 ** max(1, n.bit_length() - 5)
    return -(-n // block) * block


def shaped_noise(rng: Rng, n: int, gain: Callable[[Array], Array]) -> Array:
    """Gaussian noise whose amplitude spectrum is ``gain(frequency in Hz)``; (n,), RMS 1."""
    length = _fast_length(n)
    frequency = np.fft.rfftfreq(length, 1 / SAMPLING_RATE).astype(np.float32)
    weight = gain(frequency)
    parts = rng.standard_normal((2, len(frequency)), np.float32)
    spectrum = np.empty(len(frequency), np.complex64)
    spectrum.real = parts[0] * weight
    spectrum.imag = parts[1] * weight
    noise = np.fft.irfft(spectrum, length)[:n].astype(np.float32)
    return noise / np.float32(np.sqrt(np.mean(noise**2)) + 1e-9)


def band_noise(rng: Rng, n: int, low: float, high: float, tilt: float = 0.0) -> Array:
    """Noise between ``low`` and ``high`` Hz with soft edges, falling as frequency ** -tilt."""

    def gain(frequency: Array) -> Array:
        safe = np.maximum(frequency, np.float32(1.0))
        rise = (safe / low) ** 2
        fall = (safe / high) ** 4
        shape = rise / (1 + rise) / (1 + fall)
        return shape if tilt == 0.0 else shape * (safe / low) ** -tilt

    return shaped_noise(rng, n, gain)


def wander(rng: Rng, n: int, rate: float) -> Array:
    """A smooth random curve in [0, 1] that changes about ``rate`` times a second; (n,)."""
    knots = max(2, int(n / SAMPLING_RATE * rate) + 2)
    values = rng.random(knots)
    position = np.linspace(0, knots - 1, n, dtype=np.float32)
    left = np.minimum(position.astype(np.int64), knots - 2)
    part = position - left
    part = part * part * (3 - 2 * part)  # smoothstep: no corners at the knots
    return (values[left] * (1 - part) + values[left + 1] * part).astype(np.float32)


def decay(n: int, time: float, attack: float = 0.001) -> Array:
    """An envelope that rises in ``attack`` s and falls by 60 dB in ``time`` s; (n,)."""
    t = seconds(n)
    fall = np.exp(t * np.float32(-6.9 / time))
    return np.minimum(t / np.float32(max(attack, 1e-4)), 1) * fall


def hump(n: int, attack: float = 0.1, release: float = 0.3) -> Array:
    """An envelope 0 → 1 → 0 with raised-cosine edges, given as parts of its length; (n,)."""
    x = np.linspace(0, 1, n, dtype=np.float32)
    rise = np.clip(x / max(attack, 1e-3), 0, 1)
    fall = np.clip((1 - x) / max(release, 1e-3), 0, 1)
    edge = np.minimum(rise, fall)
    return (0.5 - 0.5 * np.cos(np.pi * edge)).astype(np.float32)


def glide(points: Sequence[float], n: int) -> Array:
    """A curve in Hz through evenly spaced positive ``points``, straight in octaves; (n,)."""
    x = np.linspace(0, len(points) - 1, n, dtype=np.float32)
    return np.exp2(np.interp(x, range(len(points)), np.log2(points))).astype(np.float32)


def struck(modes: Iterable[tuple[float, float, float]], n: int) -> Array:
    """A struck object: the sum of dying sines; (n,).

    modes: (frequency in Hz, amplitude, time in s to fall by 60 dB) of each.
    """
    # With t = block + offset, exp(z t) = exp(z block) exp(z offset): two short tables per mode,
    # and one matrix product sums all modes.
    width = 256
    table = np.asarray(list(modes), np.float64)
    rate = (2j * np.pi * table[:, 0] - 6.9 / table[:, 2]) / SAMPLING_RATE
    coarse = np.exp(rate[:, None] * np.arange(0, n, width)) * table[:, 1:2]
    fine = np.exp(rate[:, None] * np.arange(width))
    left = np.concatenate([coarse.real, coarse.imag]).astype(np.float32)
    right = np.concatenate([fine.imag, fine.real]).astype(np.float32)
    # in slices: a small product stays on one thread, and many small ones on a busy machine would
    # otherwise spend their time waiting for the other threads
    rows = max(1, 200_000 // (width * len(left)))
    blocks = [left[:, i : i + rows].T @ right for i in range(0, left.shape[1], rows)]
    out: Array = np.concatenate(blocks).reshape(-1)[:n]
    return out * np.minimum(seconds(n) / np.float32(0.0005), 1)


def add(out: Array, event: Array, start: float, gain: float = 1.0) -> None:
    """Add ``event`` to ``out`` in place, ``start`` seconds in; what passes the end is cut."""
    first = int(start * SAMPLING_RATE)
    if first >= len(out):
        return
    part = event[: len(out) - first]
    out[first : first + len(part)] += np.float32(gain) * part


def beats(rng: Rng, duration: float, period: float, jitter: float = 0.0) -> list[float]:
    """Start times in s of events every ``period`` s, each off by up to ``jitter`` periods.

    The first falls within the first half second or quarter period, whichever is sooner, so that
    even a short clip holds one.
    """
    start = uniform(rng, 0.0, min(0.5, 0.25 * period))
    times = np.arange(start, duration, period)
    shift = rng.uniform(-jitter, jitter, len(times)) * period
    return [float(t) for t in np.maximum(times + shift, 0.0)]


def shower(rng: Rng, n: int, density: float, grain: Array, spread: float = 4.0) -> Array:
    """``density`` grains a second at random times, louder ones rarer; (n,).

    spread: how uneven their loudness is; 0 makes all equal.
    """
    count = max(1, int(rng.poisson(density * n / SAMPLING_RATE)))
    level = rng.random(count) ** spread * rng.choice([-1, 1], count)
    place = rng.integers(0, n, count)
    out = np.zeros(n + len(grain), np.float32)
    for start, gain in zip(place.tolist(), level.astype(np.float32), strict=True):
        out[start : start + len(grain)] += gain * grain
    return out[:n]


def formants(fundamental: Array, centres: Sequence[Array | float], widths: Sequence[float], count: int) -> Array:
    """A voice: ``count`` harmonics of a moving pitch, weighted by moving resonances.

    fundamental: Hz (n,). centres: resonance frequencies in Hz, constant or (n,). widths: Hz.
    Returns (n,), not normalised.
    """
    turns = np.cumsum(fundamental, dtype=np.float64) / SAMPLING_RATE % 1.0
    phase = (turns * (2 * np.pi)).astype(np.float32)
    out = np.zeros(len(fundamental), np.float32)
    for k in range(1, count + 1):
        here = fundamental * np.float32(k)
        weight = np.zeros_like(here)
        for centre, width in zip(centres, widths, strict=True):
            weight += 1 / (1 + ((here - centre) / width) ** 2)
        out += weight * np.sin(k * phase) / np.float32(k**0.5)
    return out
