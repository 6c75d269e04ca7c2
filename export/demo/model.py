"""The demo model: CLAP's architecture, narrow, with a tokenizer of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import ClapConfig, ClapModel, ClapProcessor, RobertaTokenizer

from claprt_export.demo.captions import LABELS, captions
from demo.features import MELS, extractor

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # ids 0 to 4, as RoBERTa has them
VOCABULARY = 1024
_LEFTOVERS = ("is_local", "local_files_only", "max_length", "pad_to_multiple_of", "pad_token_type_id", "padding_side")
MAX_TOKENS = 512

# Ordinary words, so that text beyond the captions does not fall apart into single letters.
COMMON_WORDS = """\
the of and to in is you that it he was for on are with as his they be at one have this
from or had by not but what all were when we there can an your which their said if do will each
about how up out them then she many some so these would other into has more her two like him see
time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know get through back much before go
good new write our used me man too any day same right look think also around another came come
work three word must because does part even place well such here take why things help put years
different away again off went old number great tell men say small every found still between name
should home big give air line set own under read last never us left end along while might next
sound below saw something thought both few those always looked show large often together asked
house don't world going want school important until form food keep children feet land side without
boy once animals life enough took sometimes four head above kind began almost live page got earth
need far hand high year mother light parts country father let night following picture being study
second eyes soon times story boys since white days ever paper hard near sentence better best across
during today others however sure means knew it's try told young miles sun ways thing whole hear
music voice noise song car street dog cat bird child woman playing talking singing laughing door
window machine rain wind fire guitar piano violin drum trumpet orchestra speech crowd city forest
river ocean train plane quiet loud soft bright dark slow fast deep low sharp"""


def build_tokenizer() -> RobertaTokenizer:
    """A byte-level BPE tokenizer trained on the captions and common English words.

    It is lossless for any text: all 256 bytes are in the vocabulary.
    """
    text = [caption for label in LABELS for caption in captions(label)]
    text += [f"{word} {word.capitalize()} {word}" for word in COMMON_WORDS.split()] * 4
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        trained.save_model(folder)
        lines = (Path(folder) / "merges.txt").read_text("utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
    return RobertaTokenizer(vocab=trained.get_vocab(), merges=pairs, model_max_length=MAX_TOKENS)


def build_processor(fusion: bool, tokenizer: RobertaTokenizer) -> ClapProcessor:
    """The processor of a checkpoint: the released settings' feature extractor and a tokenizer."""
    return ClapProcessor(feature_extractor=extractor(fusion), tokenizer=tokenizer)


def build_config(fusion: bool, vocabulary: int) -> ClapConfig:
    """HTSAT with embedding 24 and heads of 24, as wide as the real ones; RoBERTa of width 128."""
    return ClapConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": MAX_TOKENS + 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        audio_config={
            "spec_size": 256,
            "num_mel_bins": MELS,
            "window_size": 8,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 24,
            "hidden_size": 24 * 8,
            "depths": [2, 2, 2, 2],
            "num_attention_heads": [1, 2, 4, 8],
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "drop_path_rate": 0.0,
            "enable_fusion": fusion,
            "fusion_type": "aff_2d" if fusion else None,
            "num_classes": len(LABELS),
        },
        projection_dim=128,
    )


def build_model(config: ClapConfig) -> ClapModel:
    """A model with fresh weights that train well at this width.

    transformers' own initialisation is meant for the wide models and gives parallel vectors here.
    """
    model = ClapModel(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if name.endswith("output.dense") and "audio" in name:
                module.weight.data.mul_(0.5)  # residual branches start small
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)
            if module.padding_idx is not None:
                module.weight.data[module.padding_idx].zero_()
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter, std=0.02)
    return model


def start_from(model: ClapModel, trained: ClapModel) -> None:
    """Copy what a model shares with a trained one, in place.

    The local convolution starts as three copies of the global one, a third each.
    """
    state = model.state_dict()
    shared = {k: v for k, v in trained.state_dict().items() if k in state}
    model.load_state_dict(shared, strict=False)
    patch = model.audio_model.audio_encoder.patch_embed
    if any("mel_conv2d" in name for name in shared) or not hasattr(patch, "mel_conv2d"):
        return
    patch.mel_conv2d.weight.data.copy_(patch.proj.weight.data.repeat(1, 1, 1, 3) / 3)
    patch.mel_conv2d.bias.data.copy_(patch.proj.bias.data)


def save(model: ClapModel, processor: ClapProcessor, directory: Path) -> None:
    """Save in half precision as transformers does; each file is replaced in one step.

    Readers of a directory that is saved again see the old or the new file, never half of one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = processor.tokenizer  # what earlier calls and loading left behind is not to be saved
    tokenizer.backend_tokenizer.no_padding()
    for key in _LEFTOVERS:
        tokenizer.init_kwargs.pop(key, None)
    half = ClapModel(model.config)
    half.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".saving-") as folder:
        half.half().save_pretrained(folder)
        processor.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            file.chmod(0o644)
            file.replace(directory / file.name)


def load(directory: Path) -> tuple[ClapModel, ClapProcessor]:
    """Load a saved checkpoint; the half-precision weights compute in float32."""
    model = ClapModel.from_pretrained(directory, dtype=torch.float32).eval()
    return model, ClapProcessor.from_pretrained(directory)
