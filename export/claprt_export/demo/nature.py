"""Recipes of sounds of weather, water, animals and people: one short function per kind.

Each takes a random generator and a number of samples and returns float32 (n,) of any level.
"""

from __future__ import annotations

import numpy as np

from .synthesis import (
    SAMPLING_RATE,
    Array,
    Rng,
    add,
    band_noise,
    beats,
    decay,
    formants,
    glide,
    hump,
    log_uniform,
    samples,
    shower,
    struck,
    tone,
    uniform,
    wander,
)

# ---------------------------------------------------------------- weather and water


def rain(rng: Rng, n: int) -> Array:
    """A dense shower of tiny drops over a soft high-pitched bed."""
    m = samples(0.004)
    grain = band_noise(rng, m, 2500, uniform(rng, 7000, 13000)) * decay(m, 0.004)
    drops = shower(rng, n, log_uniform(rng, 250, 900), grain, spread=3.0)
    bed = band_noise(rng, n, uniform(rng, 800, 2500), uniform(rng, 6000, 12000), tilt=0.4)
    drops /= np.sqrt(np.mean(drops**2)) + np.float32(1e-9)
    return drops + np.float32(uniform(rng, 0.1, 0.5)) * bed


def thunder(rng: Rng, n: int) -> Array:
    """One or more claps: a crack, then a rumble that rolls and dies away."""
    out = np.zeros(n, np.float32)
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 4.0, 8.0), 0.2):
        m = min(n, samples(uniform(rng, 3.0, 6.0)))
        rumble = band_noise(rng, m, 25, uniform(rng, 110, 260), tilt=0.5)
        roll = decay(m, uniform(rng, 3.0, 6.0), 0.05) * (0.25 + wander(rng, m, 6.0))
        add(out, rumble * roll, start)
        k = min(n, samples(uniform(rng, 0.3, 0.8)))
        crack = band_noise(rng, k, 150, uniform(rng, 1500, 4000), tilt=0.7)
        add(out, crack * decay(k, k / SAMPLING_RATE), start, uniform(rng, 0.1, 0.6))
    return out


def wind(rng: Rng, n: int) -> Array:
    """Gusts: low noise that swells, with a howl whose pitch follows the gust."""
    gust = wander(rng, n, uniform(rng, 0.4, 1.2))
    low = band_noise(rng, n, 80, uniform(rng, 250, 500), tilt=0.6)
    # slow noise times a gliding sine is a howl: noise in a narrow band that moves
    breath = band_noise(rng, n, 2, uniform(rng, 20, 45))
    pitch = uniform(rng, 350, 700) * (1 + uniform(rng, 0.4, 1.0) * gust)
    howl = breath * tone(pitch.astype(np.float32), [1.0], n)
    return (low * 0.6 + howl * uniform(rng, 0.6, 1.2)) * (0.15 + gust)


def sea_waves(rng: Rng, n: int) -> Array:
    """Breakers: noise that swells up, hisses and draws back every few seconds."""
    low = band_noise(rng, n, 100, uniform(rng, 600, 1200), tilt=0.4)
    high = band_noise(rng, n, 900, uniform(rng, 4000, 8000), tilt=0.6)
    swell = np.zeros(n, np.float32)
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 2.5, 4.5), 0.1):
        m = samples(uniform(rng, 2.2, 4.5))
        add(swell, hump(m, uniform(rng, 0.3, 0.5), 0.6) ** 2, start, uniform(rng, 0.7, 1.0))
    return low * (0.1 + swell) + high * (0.02 + swell**2)


def dripping_water(rng: Rng, n: int) -> Array:
    """Single drops: short blips whose pitch jumps up."""
    out = np.zeros(n, np.float32)
    base = log_uniform(rng, 500, 1300)
    for start in beats(rng, n / SAMPLING_RATE, log_uniform(rng, 0.25, 0.9), 0.25):
        m = samples(uniform(rng, 0.05, 0.12))
        low = base * uniform(rng, 0.85, 1.2)
        blip = tone(glide([low, low * 1.1, low * uniform(rng, 1.6, 2.4)], m), [1.0], m)
        blip *= decay(m, uniform(rng, 0.06, 0.12), 0.002)
        add(out, blip, start, uniform(rng, 0.5, 1.0))
        add(out, blip, start + uniform(rng, 0.04, 0.08), 0.25)
    return out


# ---------------------------------------------------------------- animals and people


def bird_chirp(rng: Rng, n: int) -> Array:
    """Phrases of quick whistled sweeps, 2 to 8 kHz."""
    out = np.zeros(n, np.float32)
    base = log_uniform(rng, 2300, 4500)
    shape = [base * f for f in rng.uniform(0.8, 1.7, 3)]
    length, calls = uniform(rng, 0.05, 0.15), int(rng.integers(2, 6))
    gap = length * uniform(rng, 1.3, 2.0)
    for start in beats(rng, n / SAMPLING_RATE, calls * gap + uniform(rng, 0.2, 0.9), 0.1):
        for call in range(calls):
            m = samples(length * uniform(rng, 0.8, 1.2))
            curve = glide([f * uniform(rng, 0.95, 1.05) for f in shape], m)
            add(out, tone(curve, [1.0, 0.15], m) * hump(m, 0.2, 0.4), start + call * gap)
    return out


def cricket(rng: Rng, n: int) -> Array:
    """Groups of fast pulses of one high pitch."""
    out = np.zeros(n, np.float32)
    pitch, rate = log_uniform(rng, 3500, 5500), uniform(rng, 28, 55)
    m = samples(0.7 / rate)
    pulse = tone(pitch, [1.0, 0.05], m) * hump(m, 0.3, 0.5)
    count = int(rng.integers(3, 7))
    period = count / rate + uniform(rng, 0.12, 0.5)
    for start in beats(rng, n / SAMPLING_RATE, period, 0.02):
        for k in range(count):
            add(out, pulse, start + k / rate, 0.6 + 0.4 * k / count)
    return out


def frog_croak(rng: Rng, n: int) -> Array:
    """Croaks: a rasp of 30 to 70 resonant clicks a second."""
    out = np.zeros(n, np.float32)
    first, second = uniform(rng, 350, 700), uniform(rng, 1000, 1800)
    length, rate = uniform(rng, 0.25, 0.6), uniform(rng, 30, 70)
    click = struck([(first, 1.0, 0.05), (second, 0.6, 0.03)], samples(0.06))
    for start in beats(rng, n / SAMPLING_RATE, length + uniform(rng, 0.25, 0.9), 0.1):
        count = int(length * rate)
        for k in range(count):
            drift = rate * (0.8 + 0.3 * k / count)
            add(out, click, start + k / drift, 0.3 + np.sin(np.pi * (k + 0.5) / count))
    return out


def dog_bark(rng: Rng, n: int) -> Array:
    """Short rough barks, alone or in pairs: pitch falls, the mouth opens and shuts."""
    out = np.zeros(n, np.float32)
    base = log_uniform(rng, 220, 520)
    count, period = int(rng.integers(1, 4)), uniform(rng, 0.8, 1.6)
    for start in beats(rng, n / SAMPLING_RATE, period + 0.3 * count, 0.1):
        for k in range(count):
            m = samples(uniform(rng, 0.13, 0.25))
            pitch = glide([base * 0.9, base * 1.35, base * 0.7], m)
            rough = band_noise(rng, m, 500, 2800) * 0.25
            voice = formants(pitch, [uniform(rng, 700, 1000), 1900.0], [250, 350], 12)
            add(out, (voice + rough) * hump(m, 0.12, 0.5), start + 0.32 * k)
    return out


def cat_meow(rng: Rng, n: int) -> Array:
    """Long meows: pitch rises and falls while the mouth opens from "mi" to "au"."""
    out = np.zeros(n, np.float32)
    base = log_uniform(rng, 420, 800)
    length = uniform(rng, 0.6, 1.2)
    for start in beats(rng, n / SAMPLING_RATE, length + uniform(rng, 0.3, 1.2), 0.05):
        m = samples(length * uniform(rng, 0.9, 1.1))
        top = base * uniform(rng, 1.15, 1.4)
        pitch = glide([base, top, top * 0.95, base * uniform(rng, 0.7, 0.9)], m)
        centres = [glide([800, 1300, 1500, 800], m), glide([2600, 2200, 1900, 1300], m)]
        voice = formants(pitch, centres, [300, 400], 9)
        add(out, voice * hump(m, 0.2, 0.35), start)
    return out


def heartbeat(rng: Rng, n: int) -> Array:
    """Lub-dub: two soft thumps, over and over."""
    out = np.zeros(n, np.float32)
    pitch = uniform(rng, 45, 80)
    period = 60 / uniform(rng, 55, 125)
    lub = struck([(pitch, 1.0, 0.2), (pitch * 1.7, 0.4, 0.12)], samples(0.3))
    dub = struck([(pitch * 1.35, 0.8, 0.14), (pitch * 2.1, 0.3, 0.1)], samples(0.25))
    gap = min(0.34, period * uniform(rng, 0.3, 0.38))
    for start in beats(rng, n / SAMPLING_RATE, period, 0.02):
        add(out, lub, start)
        add(out, dub, start + gap, uniform(rng, 0.7, 0.9))
    return out


def applause(rng: Rng, n: int) -> Array:
    """A crowd of hand claps."""
    out = np.zeros(n, np.float32)
    crowd = log_uniform(rng, 25, 120)
    for _ in range(3):  # three sizes of hand
        m = samples(0.025)
        centre = uniform(rng, 800, 1900)
        clap = band_noise(rng, m, centre, centre * 2.2, tilt=0.5) * decay(m, 0.022, 0.0005)
        out += shower(rng, n, crowd, clap, spread=1.5)
    return out * (0.6 + 0.4 * wander(rng, n, 1.0))


def footsteps(rng: Rng, n: int) -> Array:
    """A walk: heel thump, then a scuff of the sole, at an even pace."""
    out = np.zeros(n, np.float32)
    body, grit = uniform(rng, 80, 140), uniform(rng, 2000, 5000)
    for start in beats(rng, n / SAMPLING_RATE, 1 / uniform(rng, 1.4, 2.6), 0.04):
        heel = struck([(body, 1.0, 0.09), (body * 2.6, 0.4, 0.05)], samples(0.12))
        add(out, heel, start, uniform(rng, 0.8, 1.0))
        m = samples(uniform(rng, 0.08, 0.13))
        scuff = band_noise(rng, m, grit * 0.5, grit * 1.6) * hump(m, 0.3, 0.6)
        add(out, scuff, start + uniform(rng, 0.04, 0.07), uniform(rng, 0.12, 0.25))
    return out


def knocking(rng: Rng, n: int) -> Array:
    """Knuckles on a door: quick groups of woody knocks."""
    out = np.zeros(n, np.float32)
    wood = uniform(rng, 220, 420)
    modes = [(wood, 1.0, 0.08), (wood * 2.3, 0.6, 0.05), (wood * 4.1, 0.35, 0.03)]
    knock = struck(modes, samples(0.12))
    count, gap = int(rng.integers(2, 6)), uniform(rng, 0.13, 0.24)
    for start in beats(rng, n / SAMPLING_RATE, count * gap + uniform(rng, 0.5, 1.2), 0.03):
        for k in range(count):
            add(out, knock, start + k * gap * uniform(rng, 0.97, 1.03), uniform(rng, 0.7, 1.0))
    return out
