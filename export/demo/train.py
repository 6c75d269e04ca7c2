"""Train a demo checkpoint: a small CLAP that knows made-up sounds and spoken digits.

    PYTHONPATH=export python -m demo.train --fsdd DIR --output DIR --minutes 25
    PYTHONPATH=export python -m demo.train --fsdd DIR --output DIR --fusion --from UNFUSED_DIR --minutes 20

DIR of --fsdd is a directory with the Free Spoken Digit Dataset. The clips are made first (a few
minutes, kept in --cache), then the model is trained contrastively on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import ClapModel, ClapProcessor

from claprt_export.demo.captions import AVERAGING_TEMPLATES, LABELS
from claprt_export.demo.sounds import render
from demo import data, features
from demo import model as narrow
from demo.sampling import CAPTIONS_PER_LABEL, STRIPS, Batch, Captioner, Sampler

TEXT_SHARE = 0.05  # of the learning rate; more makes the captions' vectors collapse
MAX_LOG_SCALE = math.log(100)


def contrastive(
    model: ClapModel, audio: torch.Tensor, text: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """CLAP's symmetric loss where several items may belong together.

    audio: (b, d). text: (labels * captions, d). targets: (b, labels), rows sum to 1.
    A clip's probability is spread over all captions of its label, and a caption's over all clips
    of that label, so that duplicates are never pushed apart.
    Returns (loss, share of clips whose best caption is of the right label).
    """
    audio = functional.normalize(audio.float(), dim=-1)
    text = functional.normalize(text.float(), dim=-1)
    cosine = audio @ text.T
    belong = targets.repeat_interleave(CAPTIONS_PER_LABEL, 1)
    loss_audio = functional.cross_entropy(cosine * model.logit_scale_a.exp(), belong / CAPTIONS_PER_LABEL)
    present = belong.sum(0) > 0
    wanted = belong.T[present]
    loss_text = functional.cross_entropy(
        cosine.T[present] * model.logit_scale_t.exp(), wanted / wanted.sum(1, keepdim=True)
    )
    right = cosine.argmax(1) // CAPTIONS_PER_LABEL == targets.argmax(1)
    return (loss_audio + loss_text) / 2, right.float().mean()


def descend(loss: torch.Tensor, module: nn.Module, adam: torch.optim.AdamW) -> None:
    """One step of the optimiser, with the gradient's length clipped to 1."""
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    adam.step()


def teach_text(model: ClapModel, captioner: Captioner, steps: int) -> None:
    """Let captions of one label meet, and others part, before any audio.

    It takes a minute and gives the audio side, whose steps are dear, good points to aim at.
    """
    modules = nn.ModuleList([model.text_model, model.text_projection])
    adam = torch.optim.AdamW(modules.parameters(), lr=1e-3, betas=(0.9, 0.98))
    label = torch.arange(len(LABELS)).repeat_interleave(CAPTIONS_PER_LABEL)
    own = torch.eye(len(label), dtype=torch.bool)
    wanted = ((label[:, None] == label[None]) & ~own).float()
    wanted /= wanted.sum(1, keepdim=True)
    modules.train()
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 1e-3 * schedule(step / steps)
        vectors = model.text_projection(model.text_model(**captioner.draw()).pooler_output)
        vectors = functional.normalize(vectors, dim=-1)
        logits = (vectors @ vectors.T * 10).masked_fill(own, -1e4)
        loss = functional.cross_entropy(logits, wanted)
        descend(loss, modules, adam)
        if step % 100 == 99:
            print(f"text step {step + 1}  loss {loss.item():.3f}", flush=True)


def widen_text(model: ClapModel, processor: ClapProcessor, captioner: Captioner, steps: int) -> None:
    """Teach the text side that a label means the same whatever words stand around it.

    The labels' vectors, as the audio side has learnt them, stay what they are: any caption of a
    label is drawn to the mean of its vectors under a few templates, and away from the others.
    """
    model.eval()
    fixed = torch.zeros(len(LABELS), model.config.projection_dim)
    with torch.no_grad():
        for template in AVERAGING_TEMPLATES:
            tokens = processor(text=[template.format(x) for x in LABELS], padding=True, return_tensors="pt")
            fixed += model.get_text_features(**tokens).pooler_output
    fixed = functional.normalize(fixed, dim=-1)
    modules = nn.ModuleList([model.text_model, model.text_projection])
    adam = torch.optim.AdamW(modules.parameters(), lr=5e-4, betas=(0.9, 0.98))
    label = torch.arange(len(LABELS)).repeat_interleave(CAPTIONS_PER_LABEL)
    modules.train()
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 5e-4 * schedule(step / steps)
        vectors = model.text_projection(model.text_model(**captioner.draw(loose=0.5)).pooler_output)
        vectors = functional.normalize(vectors, dim=-1)
        away = 1 - (vectors * fixed[label]).sum(-1).mean()
        loss = functional.cross_entropy(vectors @ fixed.T * 20, label) + 5 * away
        descend(loss, modules, adam)
        if step % 100 == 99:
            print(f"wider text, step {step + 1}  1 - cosine {away.item():.3f}", flush=True)
    model.eval()


def set_mel_statistics(model: ClapModel, sampler: Sampler, batches: int = 40) -> None:
    """Give the mel BatchNorm the true mean and variance of each bin, over training batches."""
    total, squares, count = torch.zeros(64), torch.zeros(64), 0
    for _ in range(batches):
        values = sampler.draw().features.flatten(0, 2).double()
        total = total + values.sum(0)
        squares = squares + values.square().sum(0)
        count += len(values)
    norm = model.audio_model.audio_encoder.batch_norm
    mean = total / count
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(squares / count - mean.square())


def fusion_norms(model: ClapModel) -> list[nn.BatchNorm2d]:
    """The BatchNorms of the fusion block; [] for an unfused model."""
    patch = model.audio_model.audio_encoder.patch_embed
    block = getattr(patch, "fusion_model", None)
    return [] if block is None else [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]


def embed(model: ClapModel, batch: Batch, tokens: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Projected, not yet normalised vectors of a batch's clips, or its strips, and of captions."""
    audio = model.audio_model(input_features=batch.features, is_longer=batch.longer)
    pooled = audio.pooler_output
    if batch.targets.ndim == 3:  # (b, width, 2, 4 * 8): the strips lie one after the other
        strips = audio.last_hidden_state.unflatten(-1, (STRIPS, -1)).mean((2, 4))
        pooled = strips.transpose(1, 2).flatten(0, 1)
    text = model.text_model(**tokens)
    return model.audio_projection(pooled), model.text_projection(text.pooler_output)


def settle_fusion_norms(model: ClapModel, sampler: Sampler, batches: int = 30) -> None:
    """Replace the fusion BatchNorms' moving averages by plain averages over training batches."""
    norms = fusion_norms(model)
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    with torch.no_grad():
        for _ in range(batches):
            batch = sampler.draw()
            keep = batch.longer[:, 0]
            model.audio_model(input_features=batch.features[keep], is_longer=batch.longer[keep])
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def optimiser(model: ClapModel, rate: float) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices only, and small steps for the text side: it knows already.

    Each group holds its peak learning rate as ``peak``.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and "embedding" not in name and "bias_table" not in name
        groups.setdefault((decays, name.startswith("text_")), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.05 if decays else 0.0,
                "peak": rate * (TEXT_SHARE if text else 1.0),
            }
            for (decays, text), parameters in groups.items()
        ],
        lr=rate,
        betas=(0.9, 0.98),
    )


def schedule(done: float) -> float:
    """Learning rate factor at a part of the training: 4 % warm-up, then a cosine to 1 %."""
    if done < 0.04:
        return max(done, 0.001) / 0.04
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - 0.04) / 0.96)))


def check_features() -> None:
    """Stop unless our log-mel equals the feature extractor's."""
    clip = render("siren", 0, 7.3)
    for bank, fusion in enumerate((False, True)):
        theirs = features.extractor(fusion)(clip, sampling_rate=48_000, return_tensors="np")
        ours = features.log_mel(features.repeat_pad(clip))[bank].astype(np.float32)
        worst = float(np.abs(theirs["input_features"][0, 0] - ours).max())
        if worst > 0.07:  # half precision near -100 dB is 0.03 dB off at most
            raise RuntimeError(f"The log-mel differs from the extractor's by {worst:.3f} dB.")


@torch.no_grad()
def follow(average: ClapModel, model: ClapModel, keep: float) -> None:
    """Move the running average of the weights towards the model: the part ``keep`` stays."""
    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)
    for mean, now in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(now)


def prepare(arguments: argparse.Namespace, sampler: Sampler) -> tuple[ClapModel, ClapProcessor]:
    """The model to train, fresh or from a checkpoint, and its processor."""
    if arguments.start is not None:
        source, processor = narrow.load(arguments.start)
        tokenizer = processor.tokenizer
    else:
        source, tokenizer = None, narrow.build_tokenizer()
    processor = narrow.build_processor(arguments.fusion, tokenizer)
    model = narrow.build_model(narrow.build_config(arguments.fusion, len(tokenizer)))
    if source is not None:
        narrow.start_from(model, source)
    if source is None or source.config.audio_config.enable_fusion != arguments.fusion:
        set_mel_statistics(model, sampler)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    if source is None:
        teach_text(model, Captioner(processor, arguments.seed), arguments.text_steps)
    return model, processor


def train(arguments: argparse.Namespace) -> None:
    """Train one checkpoint and save it, now and then and at the end."""
    torch.set_flush_denormal(True)  # the -100 of the shifted windows' mask gives subnormals
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    check_features()
    if not arguments.cache.exists():
        data.build(
            arguments.cache,
            arguments.fsdd,
            arguments.per_kind,
            arguments.digit_variants,
            arguments.long_per_kind,
            arguments.threads,
        )
    corpus = data.load(arguments.cache, arguments.fusion)
    sampler = Sampler(corpus, arguments.fusion, arguments.batch, arguments.digit_share, arguments.seed)

    model, processor = prepare(arguments, sampler)
    captioner = Captioner(processor, arguments.seed)
    average = copy.deepcopy(model).eval()
    adam = optimiser(model, arguments.rate)
    start = saved = time.monotonic()
    step, losses = 0, []
    settled = False
    hits: dict[bool, list[float]] = {True: [], False: []}
    while True:
        elapsed = time.monotonic() - start
        done = step / arguments.steps if arguments.steps else elapsed / (60 * arguments.minutes)
        if done >= 1:
            break
        if done > 0.8 and not settled:
            settle_fusion_norms(model, sampler)
            settled = True
        model.train()
        # its statistics were measured and are not to drift; the fusion block's settle late
        model.audio_model.audio_encoder.batch_norm.eval()
        for norm in fusion_norms(model) if settled else []:
            norm.eval()
        for group in adam.param_groups:
            group["lr"] = group["peak"] * schedule(done)
        mosaic = sampler.rng.random() < arguments.mosaic * min(1.0, 3 * (1 - done))
        batch = sampler.draw_mosaic() if mosaic else sampler.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=not arguments.full_precision):
            audio, text = embed(model, batch, captioner.draw())
        loss, hit = contrastive(model, audio, text, batch.targets.flatten(0, -2))
        descend(loss, model, adam)
        for scale in (model.logit_scale_a, model.logit_scale_t):
            scale.data.clamp_(max=MAX_LOG_SCALE)
        follow(average, model, min(0.997, (step + 1) / (step + 10)))
        losses.append(loss.item())
        hits[mosaic].append(hit.item())
        step += 1
        if step % 50 == 0:
            rate = step * arguments.batch / (time.monotonic() - start)
            print(
                f"step {step}  {100 * done:.0f} %  loss {np.mean(losses):.3f}  "
                f"right {100 * np.mean(hits[False] or [0]):.1f} %, strips "
                f"{100 * np.mean(hits[True] or [0]):.1f} %  {rate:.0f} clips/s",
                flush=True,
            )
            losses, hits = [], {True: [], False: []}
        if time.monotonic() - saved > 60 * arguments.save_minutes:
            narrow.save(average, processor, arguments.output)
            saved = time.monotonic()
    minutes = (time.monotonic() - start) / 60
    settle_fusion_norms(average, sampler)
    widen_text(average, processor, captioner, arguments.widen_steps)
    narrow.save(average, processor, arguments.output)
    write_record(arguments, corpus, step, minutes)


def write_record(arguments: argparse.Namespace, corpus: data.Corpus, steps: int, minutes: float) -> None:
    """Write training.json: how the checkpoint was made, and what it started from."""
    record = {
        "command": "PYTHONPATH=export python -m demo.train " + describe(arguments),
        "seed": arguments.seed,
        "steps": steps,
        "batch": arguments.batch,
        "minutes": round(minutes, 1),
        "clips_per_second": round(steps * arguments.batch / (60 * minutes), 1),
        "short_clips": len(corpus.short_labels),
        "long_clips": len(corpus.long_labels) if arguments.fusion else 0,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    if arguments.start is not None:
        record["started_from"] = json.loads((arguments.start / "training.json").read_text("utf-8"))
    (arguments.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def describe(arguments: argparse.Namespace) -> str:
    """The options of a run as they would be typed, without the machine's own paths."""
    parts = ["--fsdd FSDD", "--output OUTPUT"]
    if arguments.fusion:
        parts.append("--fusion")
    if arguments.start is not None:
        parts.append("--from START")
    parts.append(f"--steps {arguments.steps}" if arguments.steps else f"--minutes {arguments.minutes:g}")
    options = ("batch", "rate", "mosaic", "digit_share", "seed", "widen_steps")
    parts += [f"--{name.replace('_', '-')} {getattr(arguments, name):g}" for name in options]
    return " ".join(parts)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fsdd", type=Path, required=True, help="directory of spoken digits")
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--cache", type=Path, default=Path("demo-cache"), help="where clips go")
    parser.add_argument("--fusion", action="store_true", help="train the fused model")
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint to start from")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for this long")
    length.add_argument("--steps", type=int, default=0, help="train for this many batches")
    parser.add_argument("--text-steps", type=int, default=500, help="text alone, at first")
    parser.add_argument("--widen-steps", type=int, default=250, help="text alone, at last")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--digit-share", type=float, default=0.4, help="share of digits in 0..1")
    parser.add_argument("--mosaic", type=float, default=0.85, help="share of mosaics at first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--per-kind", type=int, default=400)
    parser.add_argument("--digit-variants", type=int, default=4)
    parser.add_argument("--long-per-kind", type=int, default=60)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--full-precision", action="store_true", help="no bfloat16")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
