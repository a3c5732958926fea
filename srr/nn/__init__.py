"""Networks whose layers are the steps of the solvers (needs torch)."""

from srr.nn.blocks import CrateBlock
from srr.nn.config import Config, CrateConfig
from srr.nn.crate import CRATE, ClassifierHead
from srr.nn.embed import PatchEmbedding, TokenEmbedding, patchify, unpatchify
from srr.nn.ista import ISTA
from srr.nn.mssa import MSSA, FixedMSSA, StrictMSSA, TiedMSSA, TransposedMSSA
from srr.nn.presets import PRESETS, build_model, create_model
from srr.nn.variants import BLOCKS, build_blocks, keep_orthonormal

__all__ = [
    "BLOCKS",
    "CRATE",
    "ISTA",
    "MSSA",
    "PRESETS",
    "ClassifierHead",
    "Config",
    "CrateBlock",
    "CrateConfig",
    "FixedMSSA",
    "PatchEmbedding",
    "StrictMSSA",
    "TiedMSSA",
    "TokenEmbedding",
    "TransposedMSSA",
    "build_blocks",
    "build_model",
    "create_model",
    "keep_orthonormal",
    "patchify",
    "unpatchify",
]
