"""What a scikit-learn estimator or a PyTorch state says of itself, out of a pickle that was only looked at."""

from __future__ import annotations

from typing import Any, BinaryIO

from atmo.storage.formats.pickle_look import look
from atmo.storage.formats.pickle_values import Global, Made, Unclear, values_of

CLASSES_MOST = 256
NAMES_MOST = 256
_TEXT_CHARS = 200
_DETECTORS = ("IsolationForest", "OneClassSVM", "SGDOneClassSVM", "LocalOutlierFactor", "EllipticEnvelope")
_CLASSIFIERS = ("LogisticRegression", "LogisticRegressionCV", "SVC", "LinearSVC", "NuSVC", "GaussianNB", "BernoulliNB",
                "MultinomialNB", "ComplementNB", "Perceptron", "NearestCentroid", "LinearDiscriminantAnalysis",
                "QuadraticDiscriminantAnalysis")  # fmt: skip
_REGRESSORS = ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SVR", "LinearSVR", "NuSVR", "BayesianRidge",
               "KernelRidge", "HuberRegressor")  # fmt: skip
_CAPABILITIES = {
    "classifier": ("classification",),
    "anomaly_detector": ("anomaly_detection",),
    "regressor": ("regression",),
}
"""In the words that a conversion uses (`atmo.backends.convert`)."""


def about_estimator(stream: BinaryIO) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Returns the type, the config and the capabilities of the estimator in a pickle, as far as it tells.

    A pickle that tells nothing, or that holds something else, gives `model` and nothing.
    """
    try:
        found = look(stream)
    except Unclear:
        return "model", {}, ()
    if not isinstance(found, Made):
        return "model", {}, ()
    outer = _attributes(found)
    estimator = outer.get("best_estimator_") if isinstance(outer.get("best_estimator_"), Made) else found
    last = _last_step(estimator)
    name, kind = _class_of(last), _type_of(_class_of(last))
    attributes = _attributes(last)
    config: dict[str, Any] = {"estimator": name} if name else {}
    classes = values_of(attributes.get("classes_"))
    if classes and len(classes) <= CLASSES_MOST and all(map(_is_plain, classes)):
        config["labels"] = [_short(value) for value in classes]
        kind = "classifier" if kind == "model" else kind
    for key, place in (("n_features", "n_features_in_"), ("sklearn_version", "_sklearn_version")):
        places = (_attributes(estimator), attributes)
        value = next((plain for found in places if _is_plain(plain := found.get(place))), None)
        if value is not None:
            config[key] = _short(value)
    names = values_of(_attributes(estimator).get("feature_names_in_"))
    if names and len(names) <= NAMES_MOST and all(isinstance(value, str) for value in names):
        config["feature_columns"] = [_short(value) for value in names]
    return kind, config, _CAPABILITIES.get(kind, ())


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _short(value: Any) -> Any:
    return value[:_TEXT_CHARS] if isinstance(value, str) else value


def about_state(stream: BinaryIO) -> dict[str, Any]:
    """Returns how many tensors and parameters a PyTorch state has, as far as its pickle tells."""
    try:
        found = look(stream)
    except Unclear:
        return {}
    state = found if isinstance(found, dict) else _attributes(found) if isinstance(found, Made) else {}
    inner = next((state[key] for key in ("state_dict", "model_state_dict") if isinstance(state.get(key), dict)), state)
    shapes = [shape for value in inner.values() if (shape := _shape_of(value)) is not None]
    if not shapes:
        return {}
    parameters = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= size
        parameters += count
    return {"tensors": len(shapes), "parameters": parameters} if parameters < 2**53 else {"tensors": len(shapes)}


def _shape_of(value: Any) -> tuple[int, ...] | None:
    """Reads the shape of a tensor. Source: torch/_utils.py, `_rebuild_tensor_v2`."""
    if isinstance(value, Made) and value.is_of("_rebuild_parameter") and isinstance(value.arguments, tuple):
        value = value.arguments[0] if value.arguments else None
    if not isinstance(value, Made) or not value.is_of("_rebuild_tensor_v2"):
        return None
    match value.arguments:
        case (_, _, tuple() as shape, *_) if len(shape) <= 16 and all(
            isinstance(size, int) and 0 <= size < 2**53 for size in shape
        ):
            return shape
    return None


def _attributes(value: Any) -> dict[Any, Any]:
    return value.state if isinstance(value, Made) and isinstance(value.state, dict) else {}


def _last_step(estimator: Any) -> Any:
    """Returns the last step of a pipeline, else the estimator itself."""
    steps = _attributes(estimator).get("steps")
    match steps[-1] if isinstance(steps, list) and steps else None:
        case (_, Made() as last):
            return last
    return estimator


def _class_of(value: Any) -> str:
    """Returns the name of a class of scikit-learn, empty for others."""
    if not isinstance(value, Made):
        return ""
    of = value.of
    if isinstance(of, Global) and of.name == "_reconstructor" and isinstance(value.arguments, tuple):
        of = value.arguments[0] if value.arguments else None
    return of.name[:_TEXT_CHARS] if isinstance(of, Global) and of.module.split(".")[0] == "sklearn" else ""


def _type_of(name: str) -> str:
    if name in _DETECTORS:
        return "anomaly_detector"
    if name.endswith(("Classifier", "ClassifierCV")) or name in _CLASSIFIERS:
        return "classifier"
    return "regressor" if name.endswith("Regressor") or name in _REGRESSORS else "model"
