"""A parser of arguments that takes options and positional arguments in any order.

argparse fills the positional arguments at the first ones that it sees: of `embed BUNDLE -o OUT FILE` it would refuse
FILE. Its own answer, `parse_intermixed_args`, is not for commands with subcommands.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from claprt.cli.output import EXIT_ERROR, one_line

_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


class Parser(argparse.ArgumentParser):
    """argparse's, with whole option names only and with errors of one line."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{**fields, "allow_abbrev": False})
        self._taken: list[tuple[str, str]] = []

    def in_order(self, argv: Sequence[str]) -> list[str]:
        """Options with their values, then `--` and the positional arguments, each in their order; exits as `error`.

        An option that may go without a value (`--json [FILE]`) takes the argument behind it, as argparse has it.
        """
        options: list[str] = []
        others: list[str] = []
        unknown: list[str] = []
        self._taken.clear()
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--":
                others += rest
                break
            if not self._is_option(word):
                others.append(word)
                continue
            options.append(word)
            action = self._option_string_actions.get(word)
            if action is None:  # with its value joined on, or none of ours
                unknown += [] if self._is_joined(word) else [word]
                continue
            if action.nargs not in (None, "?") or not rest or rest[0] == "--":
                continue
            if not self._is_option(rest[0]):
                options.append(rest.pop(0))
                if action.nargs == "?":
                    self._taken.append((word, options[-1]))
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        # A file may be called `--`, which argparse would drop.
        return [*options, *["--"][: len(others)], *("./--" if word == "--" else word for word in others)]

    def error(self, message: str) -> NoReturn:
        """One line on stderr; the process exits with 2."""
        if "arguments are required" in message and self._taken:
            option, value = self._taken[-1]
            message += f" ({option} took {value!r} for its own; write {option} last, or {option}=FILE)"
        self.exit(EXIT_ERROR, f"claprt: error: {one_line(message)}; see {self.prog} --help\n")

    def _is_joined(self, word: str) -> bool:
        """Whether it is `--option=value` or `-ovalue`."""
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        return name in self._option_string_actions

    def _is_option(self, word: str) -> bool:
        """As argparse tells them: `-`, numbers and what has a space are none, unless there is such an option."""
        if word in self._option_string_actions:
            return True
        if len(word) < 2 or word[0] != "-" or _NUMBER.fullmatch(word):
            return False
        return " " not in word.partition("=")[0]
