"""Along training: a tracker of curvature, what Adam makes of it, and pictures of the loss."""
