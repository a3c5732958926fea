"""Networks whose layers are the steps of the solvers (needs torch)."""

from srr.nn.blocks import AlphaBlock, AttentionOnlyBlock, CrateBlock
from srr.nn.causal import CausalConfig, CausalCRATE, DecodingState
from srr.nn.cbsa import CBSA, ContractBroadcastBlock
from srr.nn.config import Config, CrateConfig
from srr.nn.convert import load_released
from srr.nn.crate import CRATE, ClassifierHead
from srr.nn.decoder import DecoderBlock
from srr.nn.embed import PatchEmbedding, TokenEmbedding, patchify, unpatchify
from srr.nn.inspect import attention_maps, layer_tokens
from srr.nn.investigations import FixedBlock, NegatedBlock, ProxMMBlock, StrictBlock, TiedBlock, TransposedBlock
from srr.nn.ista import ISTA
from srr.nn.mae import CrateMAE, MaeConfig, random_patch_mask, reconstruction_loss
from srr.nn.mssa import MSSA
from srr.nn.mssa_variants import FixedMSSA, StrictMSSA, TiedMSSA, TransposedMSSA
from srr.nn.overcomplete import OvercompleteISTA
from srr.nn.positions import interpolate_positions, sincos_positions
from srr.nn.presets import PRESETS, build_model, create_model, load_model
from srr.nn.pretrained import PretrainedModel
from srr.nn.prox_mm import ProxMM
from srr.nn.released import released_names, to_released
from srr.nn.tssa import TSSA, TokenStatisticsBlock, TostBlock
from srr.nn.variants import BLOCKS, build_blocks, keep_orthonormal

__all__ = [
    "BLOCKS",
    "CBSA",
    "CRATE",
    "ISTA",
    "MSSA",
    "PRESETS",
    "TSSA",
    "AlphaBlock",
    "AttentionOnlyBlock",
    "CausalCRATE",
    "CausalConfig",
    "ClassifierHead",
    "Config",
    "ContractBroadcastBlock",
    "CrateBlock",
    "CrateConfig",
    "CrateMAE",
    "DecoderBlock",
    "DecodingState",
    "FixedBlock",
    "FixedMSSA",
    "MaeConfig",
    "NegatedBlock",
    "OvercompleteISTA",
    "PatchEmbedding",
    "PretrainedModel",
    "ProxMM",
    "ProxMMBlock",
    "StrictBlock",
    "StrictMSSA",
    "TiedBlock",
    "TiedMSSA",
    "TokenEmbedding",
    "TokenStatisticsBlock",
    "TostBlock",
    "TransposedBlock",
    "TransposedMSSA",
    "attention_maps",
    "build_blocks",
    "build_model",
    "create_model",
    "interpolate_positions",
    "keep_orthonormal",
    "layer_tokens",
    "load_model",
    "load_released",
    "patchify",
    "random_patch_mask",
    "reconstruction_loss",
    "released_names",
    "sincos_positions",
    "to_released",
    "unpatchify",
]
