"""The Lightning task, its losses and optimizers, and what makes a run exact."""
