"""Networks of scikit-learn that read or imitate: small, of one size, and stopped in time."""

from typing import Any

import numpy as np

# Beyond it, fitting takes long
MOST_SAMPLES = 20_000
HIDDEN_LAYERS = (64, 64)
# A tenth of the samples tells when to stop; of few, that is no judge
_FEWEST_TO_STOP_BY = 200


def small_network(targets: np.ndarray, is_class: bool, seed: int) -> Any:
    """
    :param targets: that it will be fitted to, (n,) or (n, D)
    :param is_class: whether they are classes
    :param seed: of weights and order
    :return: to be fitted to inputs of any scale
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    stops_early = len(targets) >= _FEWEST_TO_STOP_BY
    if is_class:
        # Every class must be among those that tell when to stop
        stops_early &= np.unique(targets, return_counts=True)[1].min() >= 2
    network = MLPClassifier if is_class else MLPRegressor
    return make_pipeline(
        StandardScaler(),
        network(hidden_layer_sizes=HIDDEN_LAYERS, early_stopping=bool(stops_early), max_iter=200, random_state=seed),
    )
