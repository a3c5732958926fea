"""The autoencoder: masking, positions, what hidden patches may and may not influence."""

import math

import numpy as np
import pytest
import torch

from srr.nn import CrateMAE, create_model, patchify, random_patch_mask, sincos_positions


def model(**overrides: object) -> CrateMAE:
    torch.manual_seed(0)
    return create_model("crate_mae_micro", **{"depth": 2, "decoder_depth": 2, **overrides}).double()


def images() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 4), (0.5, 8), (0.7, 4), (0.0, 16), (1.0, 0)])
def test_masks_hide_the_ratio(ratio: float, kept: int) -> None:
    mask = random_patch_mask(100, 16, ratio=ratio, seed=0)
    assert (mask.sum(1) == 16 - kept).all()
    if 0 < kept < 16:  # every place is hidden about equally often
        share = mask.double().mean(0)
        assert (share - (16 - kept) / 16).abs().max() < 5 * math.sqrt(0.25 / 100)
    assert torch.equal(mask, random_patch_mask(100, 16, ratio=ratio, seed=0))


def test_hidden_patches_are_unseen() -> None:
    net, one = model(), images()
    hidden = net.draw_mask(3, seed=0)
    other = one.clone()
    patches = patchify(other, 2)
    other = net.reconstruct(other, hidden)  # visible patches kept, hidden ones replaced
    torch.testing.assert_close(patchify(other, 2)[~hidden], patches[~hidden])
    assert not torch.allclose(patchify(other, 2)[hidden], patches[hidden])
    torch.testing.assert_close(net(one, hidden), net(other, hidden), rtol=1e-12, atol=1e-12)


def test_padded_patches_are_unseen_and_uncounted() -> None:
    net, one, other = model(), images(), images()
    hidden = net.draw_mask(3, seed=0)
    hidden[:, 15] = True
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[:, 14:] = False
    other[:, :, 6:, 4:] = torch.randn(3, 1, 2, 4, dtype=torch.float64)  # the last two patches
    torch.testing.assert_close(net(one, hidden, mask)[:, :14], net(other, hidden, mask)[:, :14], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.loss(one, hidden, mask), net.loss(other, hidden, mask), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net.loss(one, hidden), net.loss(other, hidden))
    torch.testing.assert_close(net.loss(one, hidden, torch.ones_like(mask)), net.loss(one, hidden))


def test_every_trained_parameter_receives_a_gradient() -> None:
    net = model()
    net.loss(images(), net.draw_mask(3, seed=0)).backward()
    for name, parameter in net.named_parameters():
        if name.startswith("unread") or name == "positions":
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_a_few_steps_lower_the_loss() -> None:
    net = model().float()
    hidden, pictures = net.draw_mask(3, seed=0), images().float()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = net.loss(pictures, hidden)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_positions_are_the_sines_and_cosines_of_row_and_column() -> None:
    table = sincos_positions((3, 5), 8).numpy()
    assert (table[0] == 0).all()
    for row in range(3):
        for column in range(5):
            waves = [
                [f(place / 10000 ** (i / 2)) for f in (np.sin, np.cos) for i in range(2)] for place in (column, row)
            ]
            np.testing.assert_allclose(table[1 + 5 * row + column], np.concatenate(waves), atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((2, 2), 6)


def test_recomputed_layers_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        net = model(checkpoint_blocks=recompute)
        net.loss(images(), net.draw_mask(3, seed=0)).backward()
        gradients.append([p.grad for p in net.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-12, atol=1e-12)


def test_bad_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        model(mask_ratio=1.0)
    with pytest.raises(ValueError, match="ratio"):
        random_patch_mask(2, 4, ratio=1.5, seed=0)
