"""The types that a skops file may hold, besides what skops itself trusts.

skops trusts scikit-learn's public estimators, numpy's scalars and numpy's and scipy's ufuncs. A fitted model
also holds the private helpers below, found by writing every classifier, regressor and common transformer of
scikit-learn 1.9 and asking skops what it does not know. Each is plain data with arithmetic: constructing or
calling one can neither read a file, open a connection nor run text as code.

Left out on purpose: ``KDTree`` and ``BallTree`` (raw node memory that cannot be checked from outside: fit
neighbours with ``algorithm="brute"``), ``BSpline`` (compiled code over unchecked knots), and every
user-written class or function.

The two tree storages hold raw node numbers that compiled code follows without looking. They are here because
:mod:`backend.model_service.tree_bounds` checks every number before the model is used.
"""

from typing import Final

TRUSTED_TYPES: Final = (
    # Trees, forests, boosting: checked by tree_bounds after loading.
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    # Hist-boosting with categorical features: its own preprocessor is a partial of check_array.
    "functools.partial",
    "sklearn.utils.validation.check_array",
    # Encoders keep the dtype they write.
    "numpy.dtype",
    # ColumnTransformer, VotingClassifier, StackingClassifier and relatives.
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.utils._bunch.Bunch",
    # Calibration.
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    # Imputation.
    "sklearn.impute._iterative.IterativeImputer",
    "sklearn.impute._iterative._ImputerTriplet",
    # Feature selection keeps its score function.
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._mutual_info.mutual_info_regression",
    # Generalised linear models.
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    # Neural networks keep their optimizer.
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    # Gaussian processes.
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
)
