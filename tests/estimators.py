"""Every classifier and regressor of scikit-learn, fitted on data so small that all of them take seconds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import all_estimators

FEW = {"n_estimators": 5, "max_iter": 200, "n_restarts_optimizer": 0, "random_state": 0}
CLASSES = make_classification(80, 4, n_informative=3, n_redundant=0, n_classes=3, random_state=1)
NUMBERS = make_regression(80, 4, noise=1.0, random_state=1)
NEEDS_ANOTHER = {
    "FixedThresholdClassifier",
    "OneVsOneClassifier",
    "OneVsRestClassifier",
    "OutputCodeClassifier",
    "SelfTrainingClassifier",
    "TunedThresholdClassifierCV",
}


def _made(name: str, kind: type[Any], base: Any) -> Any:
    """An instance that is quick to fit."""
    if name.startswith(("Stacking", "Voting")):
        return kind([("one", base), ("other", base)])
    if name in NEEDS_ANOTHER:
        return kind(base)
    model = kind()
    known = model.get_params(deep=False)
    model.set_params(**{key: value for key, value in FEW.items() if key in known})
    return model.set_params(max_iter=4) if name.startswith(("Hist", "Orthogonal")) and "max_iter" in known else model


def fitted(kind: type[Any], classifies: bool) -> tuple[Any, Any]:
    """Return one that was fitted, and the data it was fitted on."""
    data, truth = CLASSES if classifies else NUMBERS
    if kind.__name__.endswith(("ThresholdClassifier", "ThresholdClassifierCV")):
        truth = truth > 0
    if kind.__name__ in {"PoissonRegressor", "GammaRegressor", "TweedieRegressor"}:
        truth = np.abs(truth) / 100 + 1
    if kind.__name__ in {"CategoricalNB", "ComplementNB", "MultinomialNB"}:
        data = np.abs(data).round()
    model = _made(kind.__name__, kind, LogisticRegression() if classifies else Ridge())
    return model.fit(data, truth), data


def kinds() -> Iterator[tuple[str, type[Any], bool]]:
    """Yield each one's name, its class, and whether it classifies; some are both, and come twice."""
    for what in ("classifier", "regressor"):
        for name, kind in all_estimators(type_filter=what):
            yield name, kind, what == "classifier"
