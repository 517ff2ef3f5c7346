"""Pure functions of tensors, time-major: targets and per-step losses. The caller weights, masks and sums."""
