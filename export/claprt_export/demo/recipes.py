"""All kinds of sound: the label, the function that makes it, the usual duration of a clip.

Every recipe takes a random generator and a number of samples and returns float32 (n,) of any
level; `sounds.render` sets the level, adds background noise and clips. A kind that lives in its
rhythm (sea waves, thunder) gets longer clips, so that one clip is enough to tell it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import machines, nature
from .synthesis import Array, Rng


class Recipe(NamedTuple):
    """How to make one kind: the function and the usual duration of a clip, (low, high) in s."""

    make: Callable[[Rng, int], Array]
    durations: tuple[float, float]


RECIPES: dict[str, Recipe] = {
    "siren": Recipe(machines.siren, (3, 10)),
    "rain": Recipe(nature.rain, (1, 10)),
    "ticking clock": Recipe(machines.ticking_clock, (2, 10)),
    "church bell": Recipe(machines.church_bell, (3, 10)),
    "engine": Recipe(machines.engine, (1, 10)),
    "bird chirp": Recipe(nature.bird_chirp, (1, 10)),
    "knocking": Recipe(nature.knocking, (1.5, 10)),
    "plucked string": Recipe(machines.plucked_string, (1.5, 10)),
    "thunder": Recipe(nature.thunder, (3, 10)),
    "wind": Recipe(nature.wind, (3, 10)),
    "sea waves": Recipe(nature.sea_waves, (5, 10)),
    "telephone ring": Recipe(machines.telephone_ring, (1, 10)),
    "alarm beeps": Recipe(machines.alarm_beeps, (1, 10)),
    "helicopter": Recipe(machines.helicopter, (1, 10)),
    "applause": Recipe(nature.applause, (1, 10)),
    "laser zap": Recipe(machines.laser_zap, (1, 10)),
    "drum beat": Recipe(machines.drum_beat, (2, 10)),
    "cricket": Recipe(nature.cricket, (1, 10)),
    "frog croak": Recipe(nature.frog_croak, (1, 10)),
    "referee whistle": Recipe(machines.referee_whistle, (1, 10)),
    "glass clink": Recipe(machines.glass_clink, (1, 10)),
    "footsteps": Recipe(nature.footsteps, (2, 10)),
    "flute": Recipe(machines.flute, (1.5, 10)),
    "train horn": Recipe(machines.train_horn, (1.5, 10)),
    "vinyl crackle": Recipe(machines.vinyl_crackle, (2, 10)),
    "dripping water": Recipe(nature.dripping_water, (1.5, 10)),
    "jackhammer": Recipe(machines.jackhammer, (1, 10)),
    "sine sweep": Recipe(machines.sine_sweep, (1.5, 10)),
    "white noise": Recipe(machines.white_noise, (1, 10)),
    "heartbeat": Recipe(nature.heartbeat, (2, 10)),
    "dog bark": Recipe(nature.dog_bark, (1, 10)),
    "cat meow": Recipe(nature.cat_meow, (1.5, 10)),
}
"""Every kind, by its label."""
