"""What to evaluate, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from claprt.errors import OptionError
from claprt_bench.evaluation.bootstrap import Bootstrap
from claprt_bench.evaluation.dataset import Options

TASKS = ("zero-shot", "retrieval", "probe")


@dataclass(frozen=True)
class Settings:
    """What to evaluate, and how.

    Attributes:
        task: one of `TASKS`.
        precisions: names, or "all" for all that the bundle has.
        backend, threads, device: as `claprt.load`.
        recipe: as `Clap.embed_audio`.
        templates, labels_file: of zero-shot; see `ZeroShot.of`.
        folds: of the probe; see `claprt_bench.evaluation.probe`.
        train_head: also train a head on all sounds, with the first precision's vectors.
        options: how to read the dataset.
        bootstrap: how to make intervals.
        outputs: options and the files that will be written: none may be a sound or a table of the dataset.
    """

    task: str
    precisions: tuple[str, ...] = ("fp32",)
    backend: str = "auto"
    threads: int | None = None
    device: int = 0
    recipe: str | None = None
    templates: tuple[str, ...] = ()
    labels_file: Path | None = None
    folds: int | None = None
    train_head: bool = False
    options: Options = field(default_factory=Options)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    outputs: tuple[tuple[str, Path], ...] = ()

    def check(self) -> None:
        """Refuse what does not belong together.

        Raises:
            OptionError: an unknown task, an option of another task, or a number out of its range.
        """
        if self.task not in TASKS:
            raise OptionError(f"unknown task: {self.task!r}; choose one of {', '.join(TASKS)}")
        for given, option, task in (
            (self.templates, "--template", "zero-shot"),
            (self.labels_file, "--labels-file", "zero-shot"),
            (self.folds, "--folds", "probe"),
            (self.train_head, "--save-head", "probe"),
            (self.options.caption_columns, "--caption-column", "retrieval"),
        ):
            if given and task != self.task:
                raise OptionError(f"{option} is for the task {task}, this is {self.task}; leave it out")
        for text, option in (
            (self.options.label_column, "--label-column"),
            (self.options.label_separator, "--label-separator"),
        ):
            if text is not None and self.task == "retrieval":
                raise OptionError(f"{option} is for labels, retrieval takes captions; leave it out")
        if not 0.5 <= self.bootstrap.confidence < 1.0:
            raise OptionError(f"bad confidence: {self.bootstrap.confidence}; pass a share from 0.5, such as 0.95")
        if not 100 <= self.bootstrap.resamples <= 1_000_000:
            raise OptionError(f"bad number of resamples: {self.bootstrap.resamples}; pass 100 to 1000000")
        if self.folds is not None and self.folds < 2:
            raise OptionError(f"bad number of folds: {self.folds}; pass 2 or more")
