"""What a pickled scikit-learn estimator may name: estimators, the parts that fitted ones hold, and their rebuilders.

Reading a pickle calls what it names with arguments of its choice. Nothing here takes a path, an address or code.
"""

from __future__ import annotations

import sys
from typing import Any

_SCALARS = frozenset({"bool", "bytes", "complex", "float", "int", "object", "str"})
_BUILTINS = _SCALARS | {"bytearray", "dict", "frozenset", "list", "range", "set", "slice", "tuple"}
_BIT_GENERATORS = {"_mt19937": "MT19937", "_pcg64": "PCG64", "_philox": "Philox", "_sfc64": "SFC64"}

_NAMES: dict[str, frozenset[str]] = {
    "builtins": _BUILTINS,
    # As Python 2 and pickle protocols below 3 call them.
    "__builtin__": _BUILTINS | {"unicode", "long", "xrange"},
    "copy_reg": frozenset({"_reconstructor"}),
    "copyreg": frozenset({"_reconstructor"}),
    "_codecs": frozenset({"encode"}),
    "collections": frozenset({"OrderedDict", "defaultdict"}),
    "joblib.numpy_pickle": frozenset({"NumpyArrayWrapper"}),
    "numpy": frozenset({"ndarray", "dtype"}),
    "numpy.ma": frozenset({"MaskedArray"}),
    "numpy.ma.core": frozenset({"MaskedArray", "_mareconstruct"}),
    "numpy.random._pickle": frozenset({"__generator_ctor", "__bit_generator_ctor", "__randomstate_ctor"}),
    "numpy.random.bit_generator": frozenset({"SeedSequence", "__pyx_unpickle_SeedSequence"}),
    "sklearn.tree._tree": frozenset({"Tree"}),
    "sklearn.feature_selection._univariate_selection": frozenset({"f_classif", "f_regression", "r_regression", "chi2"}),
    "sklearn.feature_selection._mutual_info": frozenset({"mutual_info_classif", "mutual_info_regression"}),
}
_NAMES |= {f"{core}.multiarray": frozenset({"_reconstruct", "scalar"}) for core in ("numpy.core", "numpy._core")}
_NAMES |= {f"{core}.numeric": frozenset({"_frombuffer"}) for core in ("numpy.core", "numpy._core")}
_NAMES |= {f"numpy.random.{module}": frozenset({name}) for module, name in _BIT_GENERATORS.items()}

_PARTS = frozenset(
    {
        "sklearn._loss._loss",
        "sklearn._loss.link",
        "sklearn._loss.loss",
        "sklearn.calibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor",
        "sklearn.gaussian_process.kernels",
        "sklearn.linear_model._sgd_fast",
        "sklearn.metrics._dist_metrics",
        "sklearn.metrics._scorer",
        "sklearn.model_selection._split",
        "sklearn.neighbors._ball_tree",
        "sklearn.neighbors._kd_tree",
        "sklearn.neural_network._stochastic_optimizers",
        "sklearn.utils._bunch",
        "sklearn.utils._metadata_requests",
    }
)
"""Modules whose own classes are parts of fitted estimators; Cython rebuilds some by functions beside them."""

_SCORES = frozenset(f"sklearn.metrics.{module}" for module in ("_classification", "_ranking", "_regression"))
"""Modules of the functions that `scoring="f1"` leaves in a fitted search; they take numbers and give one."""

_BARRED = frozenset({"datasets", "externals", "tests", "test", "conftest", "_testing", "testing", "_build_utils"})


def is_allowed(module: str, name: str) -> bool:
    """Returns whether a pickle may name `name` of `module`.

    What is not there is allowed: the reader's own error tells that it comes from another version.

    Raises:
        ImportError: This version of the library has no such module.
    """
    if name in _NAMES.get(module, ()):
        return True
    parts = module.split(".")
    if "." in name or any(part in _BARRED for part in parts):
        return False
    if module == "numpy":
        return _is_number_type(name)
    if parts[:2] == ["scipy", "sparse"]:
        return _is_sparse(module, name)
    return parts[0] == "sklearn" and _is_part_of_sklearn(module, name)


def _find(module: str, name: str) -> Any:
    __import__(module)
    return getattr(sys.modules[module], name, None)


def _is_number_type(name: str) -> bool:
    import numpy as np

    found = getattr(np, name, None)
    # The loggers and exponentials of a FunctionTransformer.
    return isinstance(found, np.ufunc) or (isinstance(found, type) and issubclass(found, np.generic))


def _is_sparse(module: str, name: str) -> bool:
    from scipy import sparse

    found = _find(module, name)
    return isinstance(found, type) and issubclass(found, sparse.sparray | sparse.spmatrix)


def _is_part_of_sklearn(module: str, name: str) -> bool:
    from sklearn.base import BaseEstimator

    found = _find(module, name)
    if found is None:
        return True
    own = getattr(found, "__module__", None) == module
    if isinstance(found, type):
        return issubclass(found, BaseEstimator) or (own and module in _PARTS)
    if module in _PARTS:
        return name == "newObj" or name.startswith("__pyx_unpickle_")
    return own and module in _SCORES and name.endswith(("_score", "_error", "_loss"))
