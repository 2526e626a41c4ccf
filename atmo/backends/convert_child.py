"""The child process that reads a pickled scikit-learn estimator and writes it as ONNX. Started by `convert`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atmo.backends.child_side import Refusal, serve
from atmo.backends.sandbox import confine, fence, leave_network

MAX_CLASSES = 1_000
MAX_FEATURES = 4_096


def work(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Converts `request["path"]`; the ONNX file is `model.onnx` in `folder`."""
    isolated = leave_network()
    # Imported before the fence stands, so that what they do at import is theirs.
    import joblib
    import sklearn

    from atmo.backends import export  # noqa: F401

    _count_threads()
    path = Path(request["path"])
    confined = confine(folder, path)
    stop_reading = fence(folder, path)
    estimator, made_by = _read(path, joblib, sklearn)
    stop_reading()
    return describe(estimator, made_by, folder) | {"isolated": isolated, "confined": confined}


def _count_threads() -> None:
    """Has scikit-learn look up the thread pools of its libraries, which it does once and by loading them."""
    from sklearn.metrics import pairwise_distances_argmin

    pairwise_distances_argmin([[0.0]], [[0.0]])


def describe(estimator: Any, made_by: str, folder: Path) -> dict[str, Any]:
    """Writes `estimator` to `model.onnx` in `folder` and returns the type and config of its manifest.

    Raises:
        Refusal: It is no fitted estimator, or has no faithful ONNX form.
    """
    from atmo.backends import export

    estimator = getattr(estimator, "best_estimator_", estimator)
    kind = _check(estimator, export)
    width = _width(estimator, export)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", [])]
    agreement = export.export(estimator, width, folder / "model.onnx")
    config: dict[str, Any] = {
        "input": "numeric",
        "n_features": width,
        "estimator": type(export.last_step(estimator)).__name__,
        "sklearn_version": made_by,
        "agreement": round(agreement, 4),
    }
    if names:
        config["feature_columns"] = names
    if kind == "classifier":
        config["labels"] = _classes(estimator)
        if not hasattr(estimator, "predict_proba"):
            config["scores"] = "logits"
    if kind == "anomaly_detector":
        config |= export.describe_scores(estimator)
    return {"type": kind, "config": config}


def _read(path: Path, joblib: Any, sklearn: Any) -> tuple[Any, str]:
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(path)
        except (Refusal, MemoryError):
            raise
        except (ImportError, AttributeError) as error:
            raise Refusal(
                f"It was saved by another version of scikit-learn than {sklearn.__version__}: {_short(error)}",
                "Save it again with that version, or export it to ONNX yourself.",
            ) from error
        except Exception as error:
            raise Refusal(
                f"It cannot be read; it is truncated, damaged, or no joblib or pickle file: {_short(error)}",
                "Copy it again from where it was made.",
            ) from error
    versions = [
        str(w.message.original_sklearn_version) for w in caught if isinstance(w.message, InconsistentVersionWarning)
    ]
    return estimator, versions[0] if versions else str(sklearn.__version__)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _check(estimator: Any, export: Any) -> str:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    if not isinstance(estimator, BaseEstimator):
        raise Refusal(f"It holds a {name}, not a scikit-learn estimator.", "Save the fitted estimator alone.")
    kind = str(export.kind_of(estimator))
    if not kind or not hasattr(estimator, "predict"):
        raise Refusal(f"{name} does not predict anything that can be served.", export.SUPPORTED)
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise Refusal(f"Its {name} is not fitted.", "Fit it, then save it.") from error
    return kind


def _width(estimator: Any, export: Any) -> int:
    width = getattr(estimator, "n_features_in_", None)
    if not isinstance(width, int) or not 0 < width <= MAX_FEATURES:
        name = type(export.last_step(estimator)).__name__
        raise Refusal(
            f"Its {name} does not take rows of 1 to {MAX_FEATURES} numbers; texts are not converted.",
            "For texts, fit a classifier with POST /v1/ml/classify.",
        )
    return width


def _classes(estimator: Any) -> list[Any]:
    classes = estimator.classes_
    if getattr(classes, "ndim", 0) != 1 or len(classes) > MAX_CLASSES:
        raise Refusal(f"It tells apart more than {MAX_CLASSES} classes, or several outputs at once.")
    return [
        int(label) if isinstance(label, float) and label.is_integer() else label
        for label in (item.item() if hasattr(item, "item") else str(item) for item in classes)
    ]


if __name__ == "__main__":
    serve(work)
