"""The paper's graph network, its derivatives, and the partial loss of each task."""
