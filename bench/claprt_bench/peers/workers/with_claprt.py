"""claprt itself. The job has `bundle` and `precision`."""

from __future__ import annotations

from typing import Any

import claprt


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`."""
    clap = claprt.load(job["bundle"], "ort-cpu", job["precision"], job["threads"])
    return {"waveform": clap.embed_audio, "text": clap.embed_text}, {"versions": {}, "notes": {}}
