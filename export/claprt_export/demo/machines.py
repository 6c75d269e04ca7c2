"""Recipes of sounds of machines, signals and music: one short function per kind.

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
    glide,
    harmonics,
    hump,
    log_uniform,
    samples,
    seconds,
    shower,
    struck,
    tone,
    uniform,
    wander,
)

# ---------------------------------------------------------------- machines and signals


def siren(rng: Rng, n: int) -> Array:
    """A wail: a harsh tone that climbs and falls between two pitches."""
    low, period = log_uniform(rng, 450, 750), log_uniform(rng, 0.35, 4.0)
    ratio = uniform(rng, 1.7, 2.6)
    place = (seconds(n) / period + uniform(rng, 0, 1)) % 1.0
    swing = np.abs(2 * place - 1) if rng.random() < 0.5 else 0.5 - 0.5 * np.cos(2 * np.pi * place)
    pitch = (low * ratio**swing).astype(np.float32)
    return tone(pitch, harmonics(10, uniform(rng, 0.9, 1.6)), n)


def engine(rng: Rng, n: int) -> Array:
    """A motor: a rich low tone at the firing rate, uneven, with exhaust noise in step."""
    speed = uniform(rng, 28, 75) * (1 + uniform(rng, 0.05, 0.5) * wander(rng, n, 0.7))
    speed *= 1 + np.float32(0.03) * wander(rng, n, 12.0)
    hum = tone(speed.astype(np.float32), harmonics(40, uniform(rng, 0.5, 1.0)), n)
    half = tone((speed * 0.5).astype(np.float32), harmonics(12, 0.6), n)
    noise = band_noise(rng, n, 100, uniform(rng, 700, 1800), tilt=0.5)
    exhaust = noise * np.float32(uniform(rng, 0.05, 0.2)) * (np.float32(0.5) + np.abs(hum))
    return hum + np.float32(0.5) * half + exhaust


def helicopter(rng: Rng, n: int) -> Array:
    """Rotor chops: low thuds of noise 9 to 17 times a second, over a turbine whine."""
    rate = uniform(rng, 9, 17)
    place = (seconds(n) * rate + uniform(rng, 0, 1)) % 1.0
    chop = np.exp(place * np.float32(-uniform(rng, 3.5, 7.0))) * np.minimum(place * 10, 1)
    low = band_noise(rng, n, 50, uniform(rng, 180, 380), tilt=0.3)
    whine = tone(uniform(rng, 700, 1600), [1.0, 0.3], n)
    return low * (0.08 + chop) + whine * uniform(rng, 0.01, 0.05)


def jackhammer(rng: Rng, n: int) -> Array:
    """A pneumatic drill: hard metallic blows 14 to 30 times a second, in bursts."""
    out = np.zeros(n, np.float32)
    rate = uniform(rng, 14, 30)
    m = samples(0.05)
    ring = struck([(f, 0.6, 0.05) for f in rng.uniform(1200, 5000, 4)], m)
    body = struck([(uniform(rng, 100, 180), 1.5, 0.05)], m)
    blow = ring + body + 0.5 * band_noise(rng, m, 800, 6000) * decay(m, 0.03)
    burst = uniform(rng, 0.8, 2.5)
    for start in beats(rng, n / SAMPLING_RATE, burst + uniform(rng, 0.15, 0.5), 0.05):
        for k in range(int(burst * rate)):
            add(out, blow, start + (k + uniform(rng, 0, 0.06)) / rate, uniform(rng, 0.8, 1.0))
    return out


def train_horn(rng: Rng, n: int) -> Array:
    """Blasts of a brassy chord."""
    out = np.zeros(n, np.float32)
    root = log_uniform(rng, 230, 350)
    chord = [1.0, 1.19, 1.41, 1.68] if rng.random() < 0.5 else [1.0, 1.26, 1.5, 1.78]
    long = uniform(rng, 0.7, 2.0)
    for start in beats(rng, n / SAMPLING_RATE, long + uniform(rng, 0.25, 0.7), 0.05):
        m = samples(long * uniform(rng, 0.8, 1.1))
        bend = (1 - 0.04 * np.exp(seconds(m) * -12)).astype(np.float32)
        for step in chord:
            pitch = bend * np.float32(root * step * uniform(rng, 0.995, 1.005))
            add(out, tone(pitch, harmonics(14, 0.8), m) * hump(m, 0.05, 0.12), start)
    return out


def ticking_clock(rng: Rng, n: int) -> Array:
    """Tick, tock: tiny dry clicks of two pitches, as even as clockwork."""
    out = np.zeros(n, np.float32)
    pitch, m = uniform(rng, 2400, 4200), samples(0.03)
    tick = struck([(pitch, 1.0, 0.015), (pitch * 1.9, 0.6, 0.01)], m)
    tock = struck([(pitch * 0.75, 1.0, 0.018), (pitch * 1.5, 0.5, 0.01)], m)
    for k, start in enumerate(beats(rng, n / SAMPLING_RATE, 1 / uniform(rng, 1.8, 5.0))):
        add(out, tick if k % 2 == 0 else tock, start, uniform(rng, 0.9, 1.0))
    return out


def telephone_ring(rng: Rng, n: int) -> Array:
    """An old telephone: two small bells hit 18 to 28 times a second, ring and pause."""
    out = np.zeros(n, np.float32)
    low, rate = uniform(rng, 1100, 1700), uniform(rng, 18, 28)
    m = samples(0.3)
    bells = [
        struck([(f, 1.0, 0.25), (f * 2.3, 0.5, 0.15), (f * 3.9, 0.2, 0.1)], m)
        for f in (low, low * uniform(rng, 1.18, 1.3))
    ]
    long = uniform(rng, 0.7, 1.6)
    for start in beats(rng, n / SAMPLING_RATE, long + uniform(rng, 0.5, 1.4)):
        for k in range(int(long * rate)):
            add(out, bells[k % 2], start + k / rate)
    return out


def alarm_beeps(rng: Rng, n: int) -> Array:
    """An alarm clock: equal electronic beeps in a strict rhythm."""
    out = np.zeros(n, np.float32)
    pitch, long = log_uniform(rng, 900, 2600), uniform(rng, 0.06, 0.18)
    group = int(rng.integers(1, 5))
    m = samples(long)
    beep = tone(pitch, [1.0, 0, 1 / 3, 0, 1 / 5, 0, 1 / 7], m) * hump(m, 0.03, 0.03)
    period = 2 * long * group + (uniform(rng, 0.2, 0.5) if group > 1 else 0.0)
    for start in beats(rng, n / SAMPLING_RATE, period):
        for k in range(group):
            add(out, beep, start + 2 * long * k)
    return out


def laser_zap(rng: Rng, n: int) -> Array:
    """Toy rays: tones that plunge from very high to low."""
    out = np.zeros(n, np.float32)
    top, bottom = uniform(rng, 4000, 9000), uniform(rng, 120, 400)
    long = uniform(rng, 0.15, 0.4)
    for start in beats(rng, n / SAMPLING_RATE, long + uniform(rng, 0.1, 0.7), 0.2):
        m = samples(long * uniform(rng, 0.85, 1.15))
        add(out, tone(glide([top, bottom], m), [1.0, 0.3], m) * hump(m, 0.02, 0.4), start)
    return out


def referee_whistle(rng: Rng, n: int) -> Array:
    """A pea whistle: a shrill tone that trills, in long and short blasts."""
    out = np.zeros(n, np.float32)
    pitch, trill = uniform(rng, 2400, 3600), uniform(rng, 22, 42)
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 0.7, 1.5), 0.15):
        m = samples(uniform(rng, 0.35, 1.0))
        pea = np.sin(seconds(m) * np.float32(2 * np.pi * trill))
        curve = (pitch * (1 + uniform(rng, 0.03, 0.07) * pea)).astype(np.float32)
        breath = band_noise(rng, m, 2000, 9000) * 0.06
        blast = (tone(curve, [1.0, 0.25], m) * (0.7 + 0.3 * pea) + breath) * hump(m, 0.06, 0.1)
        add(out, blast, start)
    return out


def sine_sweep(rng: Rng, n: int) -> Array:
    """A test signal: one pure tone that glides evenly over several octaves."""
    ends = [log_uniform(rng, 60, 250), log_uniform(rng, 5000, 14000)]
    if rng.random() < 0.5:
        ends.reverse()
    return tone(glide(ends, n), [1.0], n)


def white_noise(rng: Rng, n: int) -> Array:
    """Steady hiss, the same at every frequency."""
    return rng.standard_normal(n, np.float32)


def vinyl_crackle(rng: Rng, n: int) -> Array:
    """An old record: sparse sharp pops, turning with the disc, over rumble and faint hiss."""
    m = samples(0.003)
    pop = band_noise(rng, m, 1000, 9000) * decay(m, 0.003, 0.0002)
    out = shower(rng, n, log_uniform(rng, 8, 40), pop, spread=3.0)
    for start in beats(rng, n / SAMPLING_RATE, 1.8 / uniform(rng, 1.0, 1.35)):
        add(out, pop, start, uniform(rng, 0.8, 1.2))
    peak = np.abs(out).max() + np.float32(1e-9)
    hiss = band_noise(rng, n, 2000, 12000) * uniform(rng, 0.002, 0.008)
    return out / peak + band_noise(rng, n, 25, 90) * uniform(rng, 0.02, 0.06) + hiss


# ---------------------------------------------------------------- music


def church_bell(rng: Rng, n: int) -> Array:
    """Slow strokes of a big bell: inharmonic partials that ring for seconds."""
    out = np.zeros(n, np.float32)
    strike = log_uniform(rng, 180, 480)
    partials = [(0.5, 0.6, 5), (1, 1, 4), (1.19, 0.7, 3), (1.5, 0.4, 2.5), (2, 0.8, 2)]
    partials += [(2.67, 0.4, 1.2), (3.0, 0.3, 1.0), (4.1, 0.25, 0.7), (5.4, 0.2, 0.4)]
    long = uniform(rng, 0.7, 1.3)
    modes = [(strike * f * uniform(rng, 0.995, 1.005), a, t * long) for f, a, t in partials]
    stroke = struck(modes, samples(5.0))
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 1.2, 2.8), 0.04):
        add(out, stroke, start, uniform(rng, 0.8, 1.0))
    return out


def plucked_string(rng: Rng, n: int) -> Array:
    """A guitar-like melody: each note is bright at first and darkens as it dies."""
    out = np.zeros(n, np.float32)
    root = log_uniform(rng, 98, 262)
    scale = np.asarray([0, 2, 4, 7, 9, 12, 14, 16])
    place, damping = uniform(rng, 0.12, 0.4), uniform(rng, 1.2, 2.5)
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 0.25, 0.7), 0.03):
        pitch = root * 2 ** (int(rng.choice(scale)) / 12)
        modes = [
            (pitch * k * (1 + 2e-4 * k * k), abs(np.sin(np.pi * k * place)) / k, damping / k**0.7)
            for k in range(1, min(14, int(15000 / pitch)))
        ]
        add(out, struck(modes, samples(1.2)), start, uniform(rng, 0.6, 1.0))
    return out


def flute(rng: Rng, n: int) -> Array:
    """A melody of soft tones with vibrato and breath."""
    out = np.zeros(n, np.float32)
    root, vibrato = log_uniform(rng, 440, 880), uniform(rng, 4.5, 6.5)
    scale = np.asarray([0, 2, 4, 5, 7, 9, 11, 12])
    long = uniform(rng, 0.35, 1.0)
    for start in beats(rng, n / SAMPLING_RATE, long):
        m = samples(long * 0.98)
        pitch = root * 2 ** (int(rng.choice(scale)) / 12)
        shake = np.sin(seconds(m) * np.float32(2 * np.pi * vibrato))
        curve = (pitch * (1 + 0.006 * shake)).astype(np.float32)
        breath = band_noise(rng, m, pitch, pitch * 5, tilt=0.5) * uniform(rng, 0.02, 0.06)
        note = tone(curve, [1.0, 0.35, 0.12, 0.04], m) * (1 + 0.15 * shake)
        add(out, (note + breath) * hump(m, 0.12, 0.15), start)
    return out


def drum_beat(rng: Rng, n: int) -> Array:
    """A drum kit: kick on one and three, snare on two and four, hats between."""
    out = np.zeros(n, np.float32)
    step = 60 / uniform(rng, 85, 160) / 2
    m = samples(0.25)
    kick_pitch = uniform(rng, 45, 65)
    kick = tone(glide([kick_pitch * 3.5, kick_pitch, kick_pitch], m), [1.0], m) * decay(m, 0.25)
    snare = 0.5 * struck([(uniform(rng, 170, 230), 1.0, 0.12)], m)
    snare += 0.35 * band_noise(rng, m, 1200, 8000) * decay(m, 0.2)
    k = samples(0.06)
    hat = 0.2 * band_noise(rng, k, 7000, 15000) * decay(k, uniform(rng, 0.04, 0.08))
    extra = uniform(rng, 0.0, 0.5)
    for place, start in enumerate(beats(rng, n / SAMPLING_RATE, step, 0.01)):
        add(out, hat, start, uniform(rng, 0.6, 1.0))
        if place % 4 == 0 or (place % 2 == 1 and rng.random() < extra):
            add(out, kick, start)
        if place % 4 == 2:
            add(out, snare, start)
    return out


def glass_clink(rng: Rng, n: int) -> Array:
    """Glasses that touch: high clear partials, quickly gone."""
    out = np.zeros(n, np.float32)
    base = log_uniform(rng, 2000, 3600)
    ratios = [1.0, 1.02, 1.83, 2.65, 3.4, 4.2]
    for start in beats(rng, n / SAMPLING_RATE, uniform(rng, 0.5, 1.4), 0.3):
        here = base * uniform(rng, 0.93, 1.07)
        long = uniform(rng, 0.4, 0.9)
        modes = [
            (here * f, uniform(rng, 0.4, 1.0), long / (1 + 0.5 * i)) for i, f in enumerate(ratios) if here * f < 15_000
        ]
        add(out, struck(modes, samples(1.0)), start, uniform(rng, 0.6, 1.0))
    return out
