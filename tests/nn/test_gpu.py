"""Models and losses on a CUDA device: the numbers of the CPU, and the fused attention kernel at work."""

import pytest
import torch

from srr.nn import create_model
from srr.nn.losses import fused_rate_reduction, fused_subspace_coding_rate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_losses_equal_those_of_the_cpu() -> None:
    Z, U, labels = torch.randn(60, 12), torch.randn(3, 12, 4), torch.arange(60) % 3
    for rate in (
        lambda Z: fused_rate_reduction(Z, labels.to(Z.device), eps=0.5),
        lambda Z: fused_subspace_coding_rate(Z, U.to(Z.device), eps=0.5),
    ):
        here, there = Z.clone().requires_grad_(), Z.cuda().requires_grad_()
        value, moved = rate(here), rate(there)
        value.backward()
        moved.backward()
        torch.testing.assert_close(moved.cpu(), value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-5, atol=1e-7)


def test_logits_equal_those_of_the_cpu() -> None:
    model, images = create_model("crate_micro").eval(), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model.cuda()(images.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_attention_runs_in_a_fused_kernel() -> None:
    model, images = create_model("crate_tiny", depth=1).cuda(), torch.randn(2, 3, 224, 224, device="cuda")
    with torch.profiler.profile() as profile, torch.autocast("cuda", dtype=torch.bfloat16):
        model(images).sum().backward()
    names = " ".join(event.key for event in profile.key_averages())
    assert "_flash_attention" in names or "_efficient_attention" in names or "_cudnn_attention" in names
    assert "aten::_scaled_dot_product_attention_math" not in names
