"""Networks whose layers are the steps of the solvers (needs torch)."""

from srr._array.extras import need

need("torch", "safetensors", by="srr.nn")

from srr.nn.alternatives import CBSA, TSSA, OvercompleteISTA, Perceptron, ProxMM
from srr.nn.blocks import BLOCKS, Block, Variant, keep_orthonormal
from srr.nn.causal import CausalConfig, CausalCRATE, DecodingState, TokenEmbedding
from srr.nn.classify import Classifier, Predictions, load_classifier
from srr.nn.crate import CRATE, ClassifierHead, CrateConfig, PatchEmbedding, build_blocks
from srr.nn.descent import Descent, EnergyAttention, FeasibleISTA, RateCompression
from srr.nn.export import export_model
from srr.nn.halves import HalfObjective
from srr.nn.layers import ISTA, MSSA
from srr.nn.losses import (
    cross_entropy,
    ctrl_loss,
    expansion_weight,
    fused_coding_rate,
    fused_rate_reduction,
    fused_subspace_coding_rate,
    manifold_loss,
    mcr2_loss,
    nmce_loss,
    patch_loss,
    rate_gradient_bound,
    reconstruction_loss,
    srr_regularizer,
    total_coding_rate_regularizer,
    views_loss,
)
from srr.nn.mae import CrateMAE, DecoderBlock, MaeConfig, random_patch_mask, sincos_positions, unpatchify
from srr.nn.network import NetworkConfig, patchify
from srr.nn.preprocessing import Preprocessing, image_files, read_image
from srr.nn.presets import PRESETS, create_model, load_model
from srr.nn.pretrained import PretrainedModel, interpolate_positions
from srr.nn.probe import LayerState, attention_maps, head_inputs, layer_states, layer_tokens, patch_maps, patch_tokens
from srr.nn.released import load_released, released_names, to_released
from srr.nn.segmentation import MASKS, attention_mask, cut_mask, mean_iou, principal_mask, segment
from srr.nn.stem import ClassAttention, ConvolutionalEmbedding, fourier_positions
from srr.nn.steps import HalfProblem
from srr.nn.unrolled import Equilibrium, Unrolled

# In the order of use: make a model, look into it, its parts from the whole to the single layer, files.
__all__ = [
    "create_model",
    "PRESETS",
    "load_model",
    "load_classifier",
    "Classifier",
    "Predictions",
    "Preprocessing",
    "read_image",
    "image_files",
    "CRATE",
    "CrateConfig",
    "CausalCRATE",
    "CausalConfig",
    "DecodingState",
    "CrateMAE",
    "MaeConfig",
    "layer_states",
    "LayerState",
    "layer_tokens",
    "attention_maps",
    "patch_maps",
    "patch_tokens",
    "segment",
    "MASKS",
    "attention_mask",
    "principal_mask",
    "cut_mask",
    "mean_iou",
    "head_inputs",
    "cross_entropy",
    "reconstruction_loss",
    "mcr2_loss",
    "srr_regularizer",
    "total_coding_rate_regularizer",
    "manifold_loss",
    "views_loss",
    "patch_loss",
    "nmce_loss",
    "ctrl_loss",
    "expansion_weight",
    "rate_gradient_bound",
    "fused_coding_rate",
    "fused_subspace_coding_rate",
    "fused_rate_reduction",
    "Unrolled",
    "Equilibrium",
    "BLOCKS",
    "Variant",
    "HalfObjective",
    "HalfProblem",
    "Block",
    "DecoderBlock",
    "build_blocks",
    "keep_orthonormal",
    "MSSA",
    "ISTA",
    "TSSA",
    "CBSA",
    "OvercompleteISTA",
    "ProxMM",
    "Perceptron",
    "RateCompression",
    "EnergyAttention",
    "FeasibleISTA",
    "Descent",
    "PatchEmbedding",
    "ConvolutionalEmbedding",
    "fourier_positions",
    "ClassAttention",
    "TokenEmbedding",
    "ClassifierHead",
    "patchify",
    "unpatchify",
    "random_patch_mask",
    "sincos_positions",
    "interpolate_positions",
    "NetworkConfig",
    "PretrainedModel",
    "load_released",
    "to_released",
    "export_model",
    "released_names",
]
