"""What the demo sounds are called: labels, synonyms and caption templates.

A caption is a template filled with a phrase: "This is a sound of {}." with "a barking dog". The
first phrase of a kind is its label in `sounds.KINDS`; the others let the text side learn that
different words mean the same sound.
"""

from __future__ import annotations

from .sounds import KINDS

CLASS_TEMPLATE = "This is a sound of {}."
"""The template of the zero-shot evaluation."""

UNSEEN_TEMPLATE = "Now you are listening to {}."
"""A template that training never used: it shows whether the text side reads the phrase."""

TEMPLATES: tuple[str, ...] = (
    CLASS_TEMPLATE,
    "{}",
    "{}.",
    "a sound of {}",
    "the sound of {}",
    "the sound of {}.",
    "a recording of {}",
    "This is a recording of {}.",
    "an audio clip of {}",
    "I can hear {}.",
    "you can hear {}",
    "we hear {} here",
    "listen to {}",
    "this audio contains {}",
    "a clip with {}",
    "{} with some noise in the background",
    "{} in the distance",
    "a quiet recording of {}",
    "a loud {}",
    "There is {} in this recording.",
    "it sounds like {}",
    "a short sound of {}",
    "a long sound of {}",
)
"""Templates of the training captions; the first is `CLASS_TEMPLATE`."""

AVERAGING_TEMPLATES: tuple[str, ...] = (
    CLASS_TEMPLATE,
    "the sound of {}",
    "a recording of {}",
    "I can hear {}.",
    "{}",
)
"""Templates whose text vectors are averaged when a label is to be described more than once."""

PHRASES: dict[str, tuple[str, ...]] = {
    "siren": ("a siren", "an ambulance siren", "a police siren", "a wailing siren",
              "a siren wailing", "an emergency vehicle passing"),
    "rain": ("rain falling", "heavy rain", "falling rain", "raindrops", "a rain shower",
             "rain pouring down", "rainy weather"),
    "ticking clock": ("a ticking clock", "a clock ticking", "the tick tock of a clock",
                      "clock ticks", "a watch ticking"),
    "church bell": ("a church bell", "church bells ringing", "a bell tolling",
                    "a big bell being struck", "a tolling bell"),
    "engine": ("an engine", "a running engine", "an engine idling", "a motor running",
               "a car engine", "a motorcycle engine", "a truck motor"),
    "bird chirp": ("a bird chirping", "birds singing", "bird song", "a chirping bird",
                   "birds tweeting", "a songbird"),
    "knocking": ("knocking on a door", "a knock on the door", "someone knocking",
                 "knocks on wood", "a door being knocked on"),
    "plucked string": ("a plucked string", "an acoustic guitar", "someone plucking a guitar",
                       "guitar notes", "plucked strings playing a melody", "a harp"),
    "thunder": ("thunder rumbling", "a clap of thunder", "a thunderstorm", "rolling thunder",
                "a thunder clap"),
    "wind": ("wind blowing", "howling wind", "a strong wind", "gusts of wind",
             "the wind howling", "windy weather"),
    "sea waves": ("waves on a beach", "ocean waves", "the sea", "waves crashing on the shore",
                  "surf at the beach", "breaking waves"),
    "telephone ring": ("a telephone ringing", "a ringing telephone", "an old phone ringing",
                       "a phone call coming in", "the ring of a phone"),
    "alarm beeps": ("an alarm clock beeping", "electronic beeps", "a beeping alarm",
                    "a digital alarm", "beep beep beep"),
    "helicopter": ("a helicopter", "a helicopter flying", "chopper blades",
                   "a hovering helicopter", "rotor blades of a helicopter"),
    "applause": ("people clapping", "a crowd applauding", "hand clapping",
                 "an audience clapping hands", "clapping hands"),
    "laser zap": ("a laser zap", "a ray gun", "laser shots", "a toy laser gun",
                  "a science fiction blaster"),
    "drum beat": ("a drum beat", "a drum kit", "someone playing drums", "drumming",
                  "a drummer playing a rhythm", "drums"),
    "cricket": ("a cricket", "crickets chirping at night", "a chirring cricket", "crickets",
                "insects at night"),
    "frog croak": ("a frog croaking", "frogs", "a croaking frog", "a toad", "frogs in a pond"),
    "referee whistle": ("a referee whistle", "a whistle being blown", "a pea whistle",
                        "a sports whistle", "a referee blowing a whistle"),
    "glass clink": ("glasses clinking", "a clinking glass", "a toast with wine glasses",
                    "glass being tapped", "clinking glasses"),
    "footsteps": ("someone walking", "a person walking", "steps on the floor",
                  "walking feet", "shoes on a path"),
    "flute": ("a flute", "a flute playing a melody", "flute music", "a flutist",
              "someone playing the flute"),
    "train horn": ("a train horn", "a locomotive blowing its horn", "a train passing by",
                   "the horn of a train", "a railway horn"),
    "vinyl crackle": ("an old record crackling", "crackle of a vinyl record", "record crackle",
                      "a gramophone needle", "a turntable popping"),
    "dripping water": ("water dripping", "a dripping tap", "water drops", "a leaking faucet",
                       "drops of water falling into a sink"),
    "jackhammer": ("a jackhammer", "a pneumatic drill", "road works", "a machine gun",
                   "a construction site with a jackhammer"),
    "sine sweep": ("a sine sweep", "a test tone sweeping", "a frequency sweep",
                   "a gliding pure tone", "a sweep of a sine wave"),
    "white noise": ("hiss", "static", "radio static", "steady white noise", "tv static"),
    "heartbeat": ("a heartbeat", "a heart beating", "a beating heart", "a human heart",
                  "the pulse of a heart"),
    "dog bark": ("a dog barking", "a barking dog", "dogs barking", "a dog",
                 "a puppy that barks"),
    "cat meow": ("a cat meowing", "a meowing cat", "a cat", "a kitten", "a cat that cries"),
}  # fmt: skip
"""Other phrases for each kind, beside the label itself."""

DIGITS: tuple[str, ...] = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
"""The ten digits as words; the position is the digit."""

DIGIT_LABELS: tuple[str, ...] = tuple(f"the spoken digit {digit}" for digit in DIGITS)
"""The labels of the spoken digits, for `CLASS_TEMPLATE`."""

DIGIT_PHRASES: tuple[str, ...] = (
    "the spoken digit {}",
    "the spoken digit {}",
    "a person saying {}",
    "someone saying {}",
    "a man saying {}",
    "a voice saying {}",
    "a speaker who says {}",
    "the word {}",
    "the number {}",
    "the digit {}",
    "spoken {}",
    'the word "{}"',
    "speech: {}",
    "{} spoken aloud",
    "{}",
)
"""Phrases for a spoken digit, to be filled with its word; the label's phrase counts twice."""

LABELS: tuple[str, ...] = KINDS + DIGIT_LABELS
"""All labels: the kinds, then the digits. The position is the class index of training."""


def phrases(label: str) -> tuple[str, ...]:
    """All phrases for a label of `LABELS`, the label first.

    Raises ValueError for any other label.
    """
    if label in PHRASES:
        return (label, *PHRASES[label])
    if label in DIGIT_LABELS:
        word = DIGITS[DIGIT_LABELS.index(label)]
        filled = dict.fromkeys(phrase.format(word) for phrase in DIGIT_PHRASES)
        return tuple(filled)
    raise ValueError(f"Unknown label {label!r}. Choose one of: {', '.join(LABELS)}.")


def captions(label: str) -> tuple[str, ...]:
    """Every training caption of a label: each template with each phrase."""
    return tuple(t.format(p) for t in TEMPLATES for p in phrases(label))
