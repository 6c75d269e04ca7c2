"""A CLAP checkpoint: found, loaded completely, and checked to be of an architecture that claprt exports.

transformers is forgiving: it loads half a checkpoint with a warning and builds models whose forward pass then fails.
Here everything that would end in a wrong bundle is a `CheckpointError` that names the field.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from claprt.bpe import ByteLevelBpe
from claprt.errors import CheckpointError, OptionError
from claprt.spec import PADDINGS, LogMelSpec
from claprt_export import laion
from claprt_export.laion_file import read_state_dict
from claprt_export.source import Source, find_source, find_tokenizer, is_file

# Buffers that the architecture fixes; released checkpoints have some of them and lack others.
_CONSTANT_BUFFERS = ("relative_position_index", "position_ids", "token_type_ids", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `model` is a transformers `ClapModel` in FP32 and evaluation mode."""

    source: str
    revision: str | None
    model: Any
    feature_extractor: Any
    tokenizer: Any
    log_mel: LogMelSpec

    @property
    def fusion(self) -> bool:
        """Whether the audio tower takes four log-Mel channels and `is_longer`."""
        return bool(self.model.config.audio_config.enable_fusion)

    @property
    def embedding_dim(self) -> int:
        """Length of the vectors of both towers."""
        return int(self.model.config.projection_dim)

    @property
    def logit_scale(self) -> float:
        """What a cosine is multiplied with to become `logits_per_audio`: exp(logit_scale_a)."""
        return float(torch.exp(self.model.logit_scale_a.double()))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over name, shape and FP32 bytes of each tensor, sorted by name: the same in every file format."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if not name.endswith(_CONSTANT_BUFFERS):
                digest.update(f"{name} {list(tensor.shape)}\n".encode())
                digest.update(tensor.float().contiguous().numpy().astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens, <s> and </s> included: what positions and tokenizer both allow."""
        config = self.model.config.text_config
        positions = config.max_position_embeddings - config.pad_token_id - 1
        return int(min(positions, self.tokenizer.model_max_length))

    def tokenizer_json(self) -> str:
        """The tokenizer as a tokenizer.json, without truncation and padding: the runtime sets those."""
        document = json.loads(self.tokenizer.backend_tokenizer.to_str())
        document["truncation"] = document["padding"] = None
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def load_checkpoint(
    source: str, revision: str | None = None, tokenizer: str | None = None, int16: bool | None = None
) -> Checkpoint:
    """Load a CLAP checkpoint.

    Args:
        source: "demo" or "demo-fused" (shipped with claprt), a directory as transformers saves one, a hub id, or one of
            LAION's .pt files.
        revision: branch, tag or commit of a hub repository.
        tokenizer: directory or hub id of the tokenizer, for a .pt file only; None is roberta-base.
        int16: whether samples go through int16; None is as the checkpoint was trained: yes for a .pt file, else no.

    Raises:
        CheckpointError: not found, unreachable, incomplete, or of an architecture that claprt cannot export.
        OptionError: `tokenizer` for a source that has its own.
    """
    if tokenizer is not None and not is_file(source):
        raise OptionError(f"the source has its own tokenizer: {source}; leave out --tokenizer, it is for .pt files")
    found = find_source(source, revision)
    with quiet_transformers():
        if is_file(source):
            return _load_laion(found, source, laion.TOKENIZER if tokenizer is None else tokenizer, int16 is not False)
        return _load(found, source, bool(int16))


def _load_laion(found: Source, source: str, tokenizer_name: str, int16: bool) -> Checkpoint:
    """Load one of LAION's own files."""
    from transformers import AutoTokenizer

    weights = read_state_dict(found.path, source)
    config = laion.config_of(weights, source)
    refuse_unsupported(config, source)
    extractor = laion.feature_extractor(config.audio_config.enable_fusion)
    log_mel = log_mel_spec(extractor, config, source, int16)
    directory = find_tokenizer(tokenizer_name)
    with _explained(tokenizer_name, "the tokenizer that --tokenizer names"):
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    _check_tokenizer(tokenizer, config, tokenizer_name)
    if len(tokenizer) != config.text_config.vocab_size:
        raise CheckpointError(
            f"unsupported tokenizer: {tokenizer_name}: it has {len(tokenizer)} entries, {source} has "
            f"{config.text_config.vocab_size} embeddings; pass roberta-base's as --tokenizer"
        )
    model = laion.model_of(weights, config, log_mel, source)
    model.eval().requires_grad_(False)
    return Checkpoint(found.name, found.revision, model, extractor, tokenizer, log_mel)


def _load(found: Source, source: str, int16: bool) -> Checkpoint:
    """Load from a local directory; `source` is what the user called it, for errors."""
    from transformers import AutoConfig, AutoTokenizer, ClapFeatureExtractor, ClapModel

    location = str(found.path)
    with _explained(source, "its configuration"):
        config = AutoConfig.from_pretrained(location, local_files_only=True)
    if config.model_type != "clap":
        raise CheckpointError(
            f"not a CLAP checkpoint: {source}: model_type is {config.model_type!r}; "
            "claprt exports 'clap' (laion/clap-htsat-*, laion/larger_clap_*)"
        )
    refuse_unsupported(config, source)
    with _explained(source, "its feature extractor (preprocessor_config.json or processor_config.json)"):
        extractor = ClapFeatureExtractor.from_pretrained(location, local_files_only=True)
    with _explained(source, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=True)
    with _explained(source, "its weights"):
        model, info = ClapModel.from_pretrained(
            location, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    model.eval().requires_grad_(False)
    _refuse_incomplete(model, info, source)
    log_mel = log_mel_spec(extractor, config, source, int16)
    _check_tokenizer(tokenizer, config, source)
    return Checkpoint(
        source=found.name,
        revision=found.revision,
        model=model,
        feature_extractor=extractor,
        tokenizer=tokenizer,
        log_mel=log_mel,
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers while it loads and saves; what matters is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class _explained:  # noqa: N801  (reads as a phrase: with _explained(source, "its weights"))
    """Turns what transformers raises while loading a part of a checkpoint into one `CheckpointError`."""

    def __init__(self, source: str, part: str) -> None:
        self.source, self.part = source, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(
            f"cannot load {self.part}: {self.source}: {reason[:300]}; check that the checkpoint is complete"
        ) from error


def refuse_unsupported(config: Any, source: str) -> None:
    """Refuse, by name, every configuration whose deployment tower would differ from the checkpoint.

    Raises:
        CheckpointError: the field, its value, and what is supported.
    """
    audio = config.audio_config

    def refuse(field: str, value: object, supported: str) -> CheckpointError:
        return CheckpointError(f"unsupported checkpoint: {source}: {field} is {value!r}; claprt exports {supported}")

    if audio.enable_fusion and audio.fusion_type not in (None, "aff_2d"):
        raise refuse("audio_config.fusion_type", audio.fusion_type, "the fusion type 'aff_2d'")
    if audio.patch_embed_input_channels != 1:
        raise refuse("audio_config.patch_embed_input_channels", audio.patch_embed_input_channels, "1 channel")
    if not audio.flatten_patch_embeds:
        raise refuse("audio_config.flatten_patch_embeds", audio.flatten_patch_embeds, "flattened patch embeddings")
    if not isinstance(audio.spec_size, int) or audio.spec_size < audio.num_mel_bins:
        raise refuse("audio_config.spec_size", audio.spec_size, f"one integer >= num_mel_bins ({audio.num_mel_bins})")
    if audio.spec_size % audio.num_mel_bins:  # transformers' stretch of the mel axis fails
        raise refuse("audio_config.num_mel_bins", audio.num_mel_bins, f"divisors of spec_size ({audio.spec_size})")
    if len(audio.depths) != len(audio.num_attention_heads) or min(audio.depths, default=0) < 1:
        raise refuse("audio_config.depths", list(audio.depths), "at least one block a stage, heads for each stage")
    for field in ("patch_size", "patch_stride"):
        value = getattr(audio, field)
        if not isinstance(value, int) and (len(value) != 2 or value[0] != value[1]):
            raise refuse(f"audio_config.{field}", value, "square patches")
    size, stride = (v if isinstance(v, int) else v[0] for v in (audio.patch_size, audio.patch_stride))
    if size < stride or (size - stride) % 2 or audio.spec_size % stride:
        raise refuse("audio_config.patch_stride", stride, f"strides that tile the image with patches of {size}")
    _refuse_grid(audio, audio.spec_size // stride, refuse)
    width = audio.patch_embeds_hidden_size * 2 ** (len(audio.depths) - 1)
    if audio.hidden_size != width:
        raise refuse("audio_config.hidden_size", audio.hidden_size, f"the last stage's width, here {width}")


def _refuse_grid(audio: Any, grid: int, refuse: Any) -> None:
    """Each stage's grid must be tiled by whole windows: transformers pads with unmasked zeros, or fails."""
    window = audio.window_size
    for stage, heads in enumerate(audio.num_attention_heads):
        dim = audio.patch_embeds_hidden_size * 2**stage
        if dim % heads:
            raise refuse(f"audio_config.num_attention_heads[{stage}]", heads, f"a divisor of the stage's width, {dim}")
        if grid < window or grid % window:
            raise refuse(
                "audio_config.window_size",
                window,
                f"windows that tile the grid of every stage; stage {stage} of {len(audio.depths)} is {grid}x{grid}",
            )
        if stage < len(audio.depths) - 1 and grid % 2:
            raise refuse("audio_config.depths", list(audio.depths), f"even grids; stage {stage} is {grid}x{grid}")
        grid //= 2


def log_mel_spec(extractor: Any, config: Any, source: str, int16: bool) -> LogMelSpec:
    """The complete log-Mel specification, from the checkpoint's own feature extractor.

    transformers uses two mel banks: HTK without normalisation for fused checkpoints (truncation "fusion"), Slaney with
    Slaney normalisation for the others. `top_db` has no effect there, so it has none here. `int16` is no setting of it.

    Raises:
        CheckpointError: the extractor and the model do not fit together.
    """

    def refuse(field: str, value: object, why: str) -> CheckpointError:
        return CheckpointError(f"unsupported feature extractor: {source}: {field} is {value!r}; {why}")

    audio = config.audio_config
    expected = "fusion" if audio.enable_fusion else "rand_trunc"
    if extractor.truncation != expected:
        raise refuse(
            "truncation",
            extractor.truncation,
            f"a model with enable_fusion = {audio.enable_fusion} needs {expected!r}",
        )
    if extractor.padding not in PADDINGS:
        raise refuse("padding", extractor.padding, f"claprt knows {', '.join(PADDINGS)}")
    if extractor.feature_size != audio.num_mel_bins:
        raise refuse("feature_size", extractor.feature_size, f"the model takes {audio.num_mel_bins} mel bands")
    clip_samples = extractor.nb_max_samples
    if clip_samples != int(clip_samples):
        raise refuse("max_length_s", extractor.max_length_s, "a clip must be a whole number of samples")
    fused = extractor.truncation == "fusion"
    spec = LogMelSpec(
        sampling_rate=int(extractor.sampling_rate),
        n_fft=int(extractor.fft_window_size),
        hop_length=int(extractor.hop_length),
        n_mels=int(extractor.feature_size),
        f_min=float(extractor.frequency_min),
        f_max=float(extractor.frequency_max),
        mel_scale="htk" if fused else "slaney",
        mel_norm="none" if fused else "slaney",
        log_floor=1e-10,  # fixed in transformers' spectrogram(): mel_floor and min_value
        clip_samples=int(clip_samples),
        padding=extractor.padding,
        int16=int16,
    )
    width = audio.spec_size * (audio.spec_size // audio.num_mel_bins)
    if spec.frames > width:
        raise refuse("max_length_s", extractor.max_length_s, f"{spec.frames} frames; the model takes at most {width}")
    if fused and spec.n_mels != 64:
        raise refuse("feature_size", spec.n_mels, "transformers fuses exactly 64 mel bands")
    return spec


def _check_tokenizer(tokenizer: Any, config: Any, source: str) -> None:
    text = config.text_config

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"unsupported tokenizer: {source}: {what}")

    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise refuse(f"{type(tokenizer).__name__} has no tokenizer.json form; add the fast tokenizer's tokenizer.json")
    if tokenizer.pad_token_id != text.pad_token_id:
        raise refuse(f"it pads with id {tokenizer.pad_token_id}, the model with {text.pad_token_id}")
    if tokenizer.padding_side != "right":
        raise refuse(f"padding_side is {tokenizer.padding_side!r}; CLAP's positions need 'right'")
    largest = max(tokenizer.get_vocab().values())
    if largest >= text.vocab_size:
        raise refuse(f"its largest id is {largest}, the model has {text.vocab_size} embeddings")
    backend = tokenizer.backend_tokenizer
    document = json.loads(backend.to_str())
    try:
        ByteLevelBpe(document)
    except ValueError as error:
        raise refuse(f"{error}; claprt runs RoBERTa's byte-level BPE") from error
    # Where a token is not what its own characters become, the runtime's merges would differ: claprt.bpe says why.
    tokens = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in document["model"]["merges"])
    for token in tokens:
        if len(backend.model.tokenize(token)) != 1:
            raise refuse(f"its merges do not make its token {token!r} of that token's own characters")


def _refuse_incomplete(model: Any, info: Any, source: str) -> None:
    """Every weight must come from the checkpoint, have the right shape and be finite."""

    def names(kind: str) -> Iterator[str]:
        for item in info.get(kind) or ():
            name = item if isinstance(item, str) else item[0]
            if not name.endswith(_CONSTANT_BUFFERS):
                yield name

    for kind, fact in (("missing_keys", "is missing"), ("mismatched_keys", "has another shape than config.json says")):
        found = sorted(names(kind))
        if found:
            raise CheckpointError(
                f"incomplete checkpoint: {source}: {found[0]} {fact} ({len(found)} such weights); "
                "download it again, or pass the whole ClapModel"
            )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"damaged checkpoint: {source}: {name} has values that are not finite")
