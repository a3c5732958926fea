"""Training of the networks on Lightning: data, objectives, optimisers, checkpoints that survive a crash."""
