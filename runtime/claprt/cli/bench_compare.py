"""`claprt bench compare`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from claprt.cli.output import EXIT_ERROR, EXIT_PARTIAL, print_json, print_table, report_error
from claprt.errors import OptionError

if TYPE_CHECKING:
    from claprt_bench.comparing.compare import Change, Comparison

_MOST_LISTED = 12


def percentage(text: str) -> float:
    """The argument of `--fail-on` as a fraction: "10%", "10 %" and "10" are 0.1.

    Raises:
        OptionError: it is anything else, or below 1 without a sign: that may be meant as a fraction.
    """
    found = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,4})?)( ?%)?", text)
    if not found:
        raise OptionError(f"bad --fail-on: {text!r}; pass a percentage, such as 10%")
    value = float(found[1])
    if 0 < value < 1 and not found[2]:
        raise OptionError(
            f"bad --fail-on: {text!r} may be {value:g} % or {100 * value:g} %; pass {text}% or {100 * value:g}%"
        )
    return value / 100


def run_compare(args: argparse.Namespace) -> int:
    """Print what changed; exit code 1 when something got worse by more than `--fail-on`, a percentage or None.

    With a limit and not one time to judge by it the exit code is 2.
    """
    from claprt_bench.comparing.compare import compare

    fail_on = None if args.fail_on is None else percentage(args.fail_on)
    found = compare(args.before, args.after, fail_on)
    if args.json:
        print_json({"before": str(args.before), "after": str(args.after), **found.to_json()})
    else:
        _print(found)
    if found.failed:
        return EXIT_PARTIAL
    if fail_on is not None and found.nothing_judged:
        reasons = list(dict.fromkeys(change.note for change in found.changes if change.verdict == "not judged"))
        report_error(
            f"no time could be judged, so --fail-on {args.fail_on} tests nothing: {reasons[0]}"
            + (f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else "")
        )
        return EXIT_ERROR
    return 0


def _print(found: Comparison) -> None:
    for warning in found.warnings:
        print(f"note: {warning}")
    if found.differences:
        print_table(
            ("differs", "before", "after"),
            [(_short(one.field), _short(one.before), _short(one.after)) for one in found.differences],
        )
        print()
    by_verdict = {
        verdict: sorted(
            (change for change in found.changes if change.verdict == verdict), key=lambda change: -abs(change.change)
        )
        for verdict in ("worse", "better", "unchanged", "not judged")
    }
    changed = by_verdict["worse"] + by_verdict["better"]
    if changed:
        print_table(
            ("what changed", "figure", "before", "after", "change", "between", ""),
            [(_name(change, found.changes), *_row(change)) for change in changed],
            right=(2, 3, 4, 5),
        )
    elif not found.not_judged:
        print("Nothing changed beyond noise.")
    elif by_verdict["unchanged"]:
        print("Nothing that could be judged changed beyond noise.")
    else:
        print("Nothing could be judged.")
    print()
    _print_counts(found, by_verdict["unchanged"], by_verdict["not judged"], len(changed))
    for name, ids in (("before", found.only_before), ("after", found.only_after)):
        if ids:
            more = f" and {len(ids) - _MOST_LISTED} more" if len(ids) > _MOST_LISTED else ""
            print(f"only in {name}: {', '.join(ids[:_MOST_LISTED])}{more}")
    if found.fail_on is not None:
        limit = f"{100 * found.fail_on:g} %"
        failed = sum(change.failed for change in found.changes)
        print(f"worse by more than {limit}: {failed or 'nothing'}" + (" (and a check)" if found.check_failed else ""))
        if found.not_judged:
            print(f"{found.not_judged} figures were not judged: whether they got worse is not known.")
        if found.hidden:
            fix = "raise --duration and --repeats, on a quiet machine" if found.kind == "speed" else "take more sounds"
            print(f"In {found.hidden} figures noise hides changes of that size: {fix}.")


def _print_counts(found: Comparison, unchanged: Sequence[Change], not_judged: Sequence[Change], changed: int) -> None:
    count = f"{len(unchanged)} of {len(unchanged) + len(not_judged) + changed}"
    least = 100 * found.floor
    if found.kind == "speed":
        print(f"{count} figures are unchanged: their change is within noise, or below {least:.3g} %.")
    else:
        print(f"{count} metrics are unchanged: other items would change them as much, or it is below {least:g} points.")
    if found.together is not None:
        print(f"All medians together moved by {100 * found.together:+.1f} %.")
    reasons: dict[str, int] = {}
    for change in not_judged:
        reasons[change.note] = reasons.get(change.note, 0) + 1
    for reason, times in sorted(reasons.items(), key=lambda item: -item[1])[:_MOST_LISTED]:
        print(f"not judged: {times} ({reason})")


def _name(change: Change, all_changes: Sequence[Change]) -> str:
    """What changed; with its id where others are called the same (another backend, other threads)."""
    alike = any(other.what == change.what and other.id != change.id for other in all_changes)
    return f"{change.what} ({change.id})" if alike else change.what


def _row(change: Change) -> tuple[str, ...]:
    low, high = change.low, change.high
    interval = "" if low is None or high is None else f"{_change(low, change.unit)} … {_change(high, change.unit)}"
    verdict = (
        change.verdict + (", over the limit" if change.failed else "") + (f": {change.note}" if change.note else "")
    )
    before, after = _figure(change.before, change.unit), _figure(change.after, change.unit)
    return change.figure, before, after, _change(change.change, change.unit), interval, verdict


def _change(value: float, unit: str) -> str:
    """A fraction as a signed percentage; of metrics, which are fractions themselves, points."""
    if value > 10:
        return "> +1000 %"
    return f"{100 * value:+.1f}{' points' if unit == '' else ' %'}"


def _figure(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    if unit == "":
        return f"{100 * value:.1f} %"
    if unit == "x":
        return f"{value:.2f} times"
    digits = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{digits} a second" if unit == "1/s" else f"{digits} {unit}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
