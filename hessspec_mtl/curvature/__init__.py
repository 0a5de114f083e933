"""The curvature of each task's loss: over training, between tasks; and appendix E."""
