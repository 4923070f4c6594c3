"""The method of the paper: features, I, D, corruption, training and anomaly maps."""

__all__: list[str] = []
