from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from atmo.backends.pickle_names import is_allowed

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X).astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"], dtype=object)[Y]

ESTIMATORS = [
    LogisticRegression(), RandomForestClassifier(4), GradientBoostingClassifier(n_estimators=2),
    HistGradientBoostingClassifier(max_iter=2), SVC(), KNeighborsClassifier(), KNeighborsClassifier(algorithm="brute"),
    DecisionTreeClassifier(), MLPClassifier((4,), max_iter=20, early_stopping=True), GaussianNB(), LinearRegression(),
    make_pipeline(StandardScaler(), LogisticRegression()), IsolationForest(n_estimators=4), SGDClassifier(),
    GridSearchCV(LogisticRegression(), {"C": [1]}, scoring="f1_macro", cv=StratifiedKFold(3)),
    CalibratedClassifierCV(LinearSVC()), make_pipeline(SelectKBest(k=2), DecisionTreeClassifier()),
    VotingClassifier([("a", LogisticRegression())], flatten_transform=False),
    StackingClassifier([("a", LogisticRegression())], cv=2),
    GaussianProcessRegressor(RBF() + WhiteKernel()), RandomForestClassifier(2, random_state=np.random.RandomState(0)),
]  # fmt: skip

CONVERT_ALL = """
import sys, warnings
from pathlib import Path
import joblib, sklearn
from atmo.backends import convert_child, export
from atmo.backends.sandbox import confine, fence

warnings.simplefilter("ignore")
folder, model = Path(sys.argv[1]), Path(sys.argv[2])
convert_child._count_threads()
confine(folder, model)
fence(folder, model)
for path in sorted(folder.glob("*.pickled")):
    estimator, _ = convert_child._read(path, joblib, sklearn)
    convert_child.describe(estimator, "", folder)
    print(path.name)
"""


class Strict(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        assert is_allowed(module, name), (module, name)
        return super().find_class(module, name)


@pytest.fixture(scope="module")
def fitted() -> list[Any]:
    return [estimator.fit(X, NAMES if is_classifier(estimator) else Y) for estimator in ESTIMATORS]


@pytest.mark.filterwarnings("ignore")  # as the child does
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_what_fitted_estimators_name(fitted: list[Any], protocol: int) -> None:
    others = [
        sparse.csr_matrix(np.eye(2)), sparse.csc_array(np.eye(2)), np.random.default_rng(0),
        np.ma.masked_array([1], [False]),
        OneHotEncoder().fit([["a"], ["b"]]), FunctionTransformer(np.log1p), np.float32(1), np.dtype("f4"), {1},
        range(3),
        np.random.Generator(np.random.Philox(1)), 2**70, "text", b"bytes", [frozenset({1.0})],
    ]  # fmt: skip
    for value in [*fitted, *others]:
        Strict(io.BytesIO(pickle.dumps(value, protocol))).load()


@pytest.mark.filterwarnings("ignore")
def test_fitted_estimators_convert_behind_the_fences(fitted: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for index, estimator in enumerate(fitted):
        name = f"{index:02d}-{type(estimator).__name__}"
        joblib.dump(estimator, folder / f"{name}-joblib.pickled", compress=index % 2)
        (folder / f"{name}-pickle.pickled").write_bytes(pickle.dumps(estimator))
    command = [sys.executable, "-c", CONVERT_ALL, str(folder), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2_000:])
    assert len(done.stdout.splitlines()) == 2 * len(ESTIMATORS)


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "subprocess.Popen", "importlib.import_module", "__main__.mine", "sys.exit",
        "builtins.eval", "builtins.getattr", "builtins.exec", "builtins.open", "builtins.type", "__builtin__.getattr",
        "io.open", "io.FileIO", "pathlib.Path", "functools.partial", "operator.attrgetter", "operator.methodcaller",
        "types.FunctionType", "types.CodeType", "ctypes.CDLL", "mmap.mmap", "pickle.loads", "marshal.loads",
        "numpy.load", "numpy.save", "numpy.fromfile", "numpy.loadtxt", "numpy.genfromtxt", "numpy.memmap",
        "numpy.DataSource", "numpy.frompyfunc", "numpy.vectorize", "numpy.rec.fromfile", "numpy.core.memmap",
        "numpy.core.records.fromfile", "numpy._core.memmap.memmap", "numpy._core._ufunc_reconstruct",
        "numpy._core._multiarray_umath.fromfile", "numpy._core.multiarray.fromfile", "numpy.lib.npyio.NpzFile",
        "numpy.lib._npyio_impl.load", "numpy.lib._npyio_impl.NpzFile", "numpy.lib.format.open_memmap",
        "numpy.ctypeslib.load_library", "numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.myeval",
        "numpy.distutils.exec_command.exec_command", "scipy.io.loadmat", "scipy.io._mmio.mmread",
        "scipy.sparse.load_npz", "scipy.sparse._matrix_io.load_npz", "scipy.sparse._csr.np",
        "scipy.stats._distn_infrastructure.rv_continuous", "scipy.io.netcdf_file", "scipy.datasets.face",
        "sklearn.datasets.load_files", "sklearn.datasets._base.load_files", "sklearn.datasets._base.load_iris",
        "sklearn.datasets.load_svmlight_file", "sklearn.externals._arff.load", "sklearn.set_config",
        "sklearn.utils._testing.TempMemmap", "sklearn.utils.deprecation.functools",
        "sklearn.tree._tree.BestFirstTreeBuilder", "sklearn.tree._export.export_graphviz",
        "sklearn.metrics._classification.check_array", "sklearn.metrics._scorer.make_scorer",
        "joblib.load", "joblib.memory.Memory", "joblib.Memory", "joblib.numpy_pickle.load",
        "joblib.numpy_pickle_compat.NDArrayWrapper", "joblib.numpy_pickle_compat.ZNDArrayWrapper",
        "joblib._memmapping_reducer._strided_from_memmap", "joblib._memmapping_reducer.make_memmap",
        "joblib.backports.make_memmap", "joblib.parallel.Parallel",
    ],
)  # fmt: skip
def test_barred_names(name: str) -> None:
    module, _, last = name.rpartition(".")
    assert not is_allowed(module, last)


def test_dotted_names_are_refused() -> None:
    assert not is_allowed("sklearn.linear_model", "LogisticRegression.fit")
    assert not is_allowed("numpy", "ndarray.tofile")


def test_what_is_of_another_version_is_left_to_the_reader() -> None:
    assert is_allowed("sklearn.linear_model", "NoSuchThing")
    with pytest.raises(ImportError):
        is_allowed("sklearn.no_such_module", "Thing")
