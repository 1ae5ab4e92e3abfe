"""Immunization as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from . import immunize
from ._errors import extra
from ._two_tasks import roots
from ._validate import Array, FloatArray, as_delta, check_choice, check_real
from .immunize import ImmunizationResult
from .linear import ImmunityReport, blind_extractor
from .linear.of_roots import sufficient_delta

with extra("sklearn"):
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["ConditionImmunizer"]

_METHODS: dict[str, Callable[..., ImmunizationResult]] = {
    method.__name__: method
    for method in (
        immunize.closed_form, immunize.fade, immunize.algorithm1, immunize.alignment,
        immunize.r_ill_only, immunize.opt_kappa, immunize.imma, immunize.published,
    )
}  # fmt: skip
# Those that take harmful labels of any kind, whatever the primary loss is.
_LABELLED = ("fade", "alignment")
# Each reaches the methods whose signature has its name; those in _MADE are made from several.
_PASSED = ("kappa_P", "tau", "rotate", "lambda_P", "lambda_H", "lr", "steps")
_MADE = ("X_P", "y_P", "X_H", "y_H", "delta", "loss", "seed")
_LOSS_OF = {
    "binary": "logistic",
    "multiclass": "softmax",
    "multilabel-indicator": "logistic",
    "continuous": "squared",
    "continuous-multioutput": "squared",
}
_DTYPES = [np.float64, np.float32]


class ConditionImmunizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Linear features that are easy to probe for a primary task and hard for a harmful one.

    :meth:`fit` finds an extractor theta that makes the condition number of linear probing large on
    the harmful inputs and keeps it small on the primary ones; :meth:`transform` applies it,
    :math:`Z = X \theta` (plus a bias, where the method has one). In the notation of
    :mod:`immucond.immunize`, ``X_P`` is ``X``, ``y_P`` is ``y``, ``X_H`` is ``X_harmful``.

    Without harmful inputs it is the blind optimum, :func:`immucond.linear.blind_extractor`, which
    attains the limit for every harmful task at once.

    Parameters
    ----------
    method : str, default "closed_form"
        The function of :mod:`immucond.immunize` that finds theta: ``"closed_form"``, ``"fade"`` or
        ``"alignment"`` (which slow descent on ``y_harmful`` itself), ``"algorithm1"``,
        ``"r_ill_only"``, ``"opt_kappa"``, ``"imma"`` or ``"published"``. Parameters below that it
        does not have are ignored.
    kappa_P : float, optional
        Condition number that the primary Hessian shall have, for the closed form. By default it
        keeps its own (with `delta`), so that the harmful one can only grow; without harmful inputs
        it is 1.
    tau : float, optional
        How much slower descent along the harmful labels shall be, for ``"fade"``; None leaves it to
        the method.
    delta : "auto", float or (float, float), default "auto"
        Added to the diagonals of the Gram matrices of (X, X_harmful), for the closed form. Where
        harmful inputs have energy in directions that X leaves out, the supremum of the relative
        immunization ratio is infinite, and without a delta there is no optimum. ``"auto"`` adds
        nothing where there is one, and the smallest nonzero eigenvalue of X's Gram matrix where
        there is none: see ``delta_``. ``"fade"`` needs none, and takes one number.
    rotate : bool, default True
        Rotate the features so that rescaling them does not undo the immunization. For the closed
        form, with harmful inputs.
    loss : {"auto", "squared", "logistic", "softmax"}, default "auto"
        Primary loss of the iterative methods. ``"auto"`` follows the kind of `y` as
        :func:`sklearn.utils.multiclass.type_of_target` sees it: logistic for two classes and for
        multilabel targets, softmax for more classes, squared for the rest. Regression on whole
        numbers has to be told: ``loss="squared"``.
    lambda_P, lambda_H, lr : float, optional
        Weights and step size of the iterative methods; None leaves it to the method.
    steps : int, optional
        Their number of steps.
    method_params : dict, optional
        Further keyword arguments of the method, such as ``{"nearest_to": theta}`` or
        ``{"batch_size": 64}``.
    random_state : int, RandomState instance or None, default None
        Seeds the head that the iterative methods start from.

    Attributes
    ----------
    theta_ : (n_features, m) array
        The extractor, float64.
    bias_ : (m,) array or None
        Added to the features; ``"published"`` alone has one.
    omega_ : (m,) or (m, c) array, or None
        Head of the primary task, for methods with a loss and where `y` was given.
    classes_ : (c,) array or None
        Class labels that the columns of `omega_` belong to; of two classes its one column
        speaks for the second.
    report_ : ImmunityReport or None
        Condition numbers, (i), (ii), RIR and the limit, on the rows given to :meth:`fit`; None
        without harmful inputs. ``report_.limit.case == "unbounded"`` tells an infinite supremum.
    history_ : dict of str to array
        What an iterative method measured before each step and after the last.
    delta_ : (float, float)
        What was added to the diagonals of both Gram matrices.
    n_features_in_ : int
        Number of features seen in :meth:`fit`.
    feature_names_in_ : (n_features,) array of str
        Their names, where X had any.

    See Also
    --------
    immucond.immunize : The methods, with all their parameters.
    sklearn.decomposition.PCA : With ``whiten=True`` a blind optimum up to centring, on the range.

    Notes
    -----
    Gram matrices are not centred. A probe with an intercept sees the condition number of the
    features with a column of ones; standardize before where the inputs have a mean.

    float32 inputs are transformed in float64 and returned in float32. Their numerical rank is
    decided by the precision of float32. Other inputs become float64.

    Inside a pipeline ``X_harmful`` needs metadata routing, and ``transform_input=["X_harmful"]``
    where steps before this one shall transform it as well. Searches such as
    :class:`sklearn.model_selection.GridSearchCV` split metadata that has as many rows as X, and
    hand on whole what has not.

    Examples
    --------
    >>> import numpy as np
    >>> from immucond.sklearn import ConditionImmunizer
    >>> rng = np.random.default_rng(0)
    >>> X, X_harmful = rng.normal(size=(50, 4)) * [40, 20, 5, 1], rng.normal(size=(30, 4))
    >>> immunizer = ConditionImmunizer().fit(X, X_harmful=X_harmful)
    >>> bool(np.isclose(immunizer.report_.rir, immunizer.report_.limit.rir))
    True
    >>> immunizer.transform(X).shape
    (50, 4)
    """

    def __init__(
        self, method: str = "closed_form", *, kappa_P: float | None = None,
        tau: float | None = None, delta: float | tuple[float, float] | Literal["auto"] = "auto",
        rotate: bool = True, loss: str = "auto", lambda_P: float | None = None,
        lambda_H: float | None = None, lr: float | None = None, steps: int | None = None,
        method_params: Mapping[str, Any] | None = None, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.method = method
        self.kappa_P = kappa_P
        self.tau = tau
        self.delta = delta
        self.rotate = rotate
        self.loss = loss
        self.lambda_P = lambda_P
        self.lambda_H = lambda_H
        self.lr = lr
        self.steps = steps
        self.method_params = method_params
        self.random_state = random_state

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        X_harmful: npt.ArrayLike | None = None,
        y_harmful: npt.ArrayLike | None = None,
    ) -> Self:
        """Find the extractor.

        Parameters
        ----------
        X : (n_samples, n_features) array_like
            Inputs of the primary task.
        y : (n_samples,) or (n_samples, n_outputs) array_like, optional
            Its targets or class labels. Without them an iterative method has no primary loss
            (``"imma"`` and ``"published"`` need one); the closed form keeps every primary
            prediction whatever they are, and ignores them.
        X_harmful : (n_samples_harmful, n_features) array_like, optional
            Inputs of the harmful task. Without them the blind optimum is found.
        y_harmful : (n_samples_harmful,) or (n_samples_harmful, n_outputs) array_like, optional
            Its targets or class labels, for ``"fade"``, ``"alignment"`` and ``"imma"`` (where their
            loss is that of `y`).

        Returns
        -------
        ConditionImmunizer
            Itself.

        Raises
        ------
        ValueError
            For NaN, sizes that do not fit, class labels of one class, a parameter that the method
            needs and was not given, and as the method does.
        TypeError
            For sparse inputs, and parameters of another type.

        Warns
        -----
        ImmunityWarning
            Where the harmful task got easier: ``report_.i`` is below 1.
        """
        method = _METHODS[check_choice(self.method, "method", tuple(_METHODS))]
        inputs: FloatArray = validate_data(self, X, dtype=_DTYPES)
        self.omega_: FloatArray | None = None
        self.bias_: FloatArray | None = None
        self.classes_: Array | None = None
        self.report_: ImmunityReport | None = None
        self.history_: dict[str, FloatArray] = {}
        if X_harmful is None:
            self._fit_blind(inputs, y_harmful)
        else:
            self._fit_against(inputs, y, self._as_harmful(X_harmful), y_harmful, method)
        self._n_features_out = self.theta_.shape[1]
        return self

    def transform(self, X: npt.ArrayLike) -> Array:
        """Extract the features, ``X @ theta_`` plus ``bias_`` where there is one.

        Parameters
        ----------
        X : (n_samples, n_features) array_like
            Inputs of any task.

        Returns
        -------
        (n_samples, m) array
            Features; float32 for float32 inputs, else float64.

        Raises
        ------
        ValueError
            For NaN and another number of features.
        OverflowError
            Where a feature is not representable in the dtype of the result.
        """
        check_is_fitted(self)
        inputs = validate_data(self, X, dtype=_DTYPES, reset=False)
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            features: Array = inputs @ self.theta_
            if self.bias_ is not None:
                features = features + self.bias_
            features = features.astype(inputs.dtype, copy=False)
        if not np.isfinite(features).all():
            raise OverflowError(
                f"a feature is not representable in {inputs.dtype}: scale X down, or theta_"
            )
        return features

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [np.dtype(dtype).name for dtype in _DTYPES]
        return tags

    def _fit_blind(self, X: FloatArray, y_harmful: npt.ArrayLike | None) -> None:
        if y_harmful is not None:
            raise ValueError("y_harmful is given without X_harmful")
        if self.method != "closed_form":
            raise ValueError(
                f"X_harmful is needed for method={self.method!r}; without it there is only the "
                f"blind optimum of 'closed_form'"
            )
        if self.kappa_P is not None and check_real(self.kappa_P, "kappa_P", low=1.0) != 1.0:
            raise ValueError(f"kappa_P must be 1 without X_harmful, and is {self.kappa_P!r}")
        self.delta_ = self._delta(X, None)
        self.theta_ = blind_extractor(X_P=X, delta=self.delta_[0])

    def _fit_against(
        self,
        X: FloatArray,
        y: npt.ArrayLike | None,
        harmful: FloatArray,
        y_harmful: npt.ArrayLike | None,
        method: Callable[..., ImmunizationResult],
    ) -> None:
        accepted = signature(method).parameters
        keywords = self._keywords(accepted)
        self.delta_ = (0.0, 0.0)
        targets: Array = np.zeros(X.shape[0])
        labelled = self.method in _LABELLED
        if labelled:
            self._need("y_harmful", y_harmful)
            keywords["y_H"], _, _ = _targets(harmful, y_harmful, "auto", "y_harmful")
        if self.method == "fade":
            keywords["delta"], _ = self.delta_ = self._delta(X, harmful)
            if keywords.get("protect"):
                self._need("y", y)
                targets, _, classes = _targets(X, y, "auto", "y")
                targets = targets if classes is None else np.eye(classes.size)[targets.astype(int)]
        elif "delta" in accepted:
            self.delta_ = keywords["delta"] = self._delta(X, harmful)
        trains_head = "loss" in accepted and y is not None
        if trains_head:
            targets, loss, self.classes_ = _targets(X, y, self.loss, "y")
            keywords["loss"] = loss
            if "y_H" in accepted and not labelled:
                self._need("y_harmful", y_harmful)
                keywords["y_H"], _, _ = _targets(harmful, y_harmful, loss, "y_harmful")
        elif "loss" in accepted:  # a head of zeros that predicts zeros: no loss, no gradient
            if "omega" not in accepted or ("y_H" in accepted and not labelled):
                self._need("y", y)
            m = np.shape(keywords.get("theta", X))[1]
            keywords |= {"loss": "squared", "omega": np.zeros(m)}
        result = method(X, targets, harmful, **keywords)
        self.theta_, self.report_, self.history_ = result.theta, result.report, result.history
        self.bias_ = result.bias
        self.omega_ = result.omega if trains_head else None

    def _need(self, name: str, given: npt.ArrayLike | None) -> None:
        if given is None:
            raise ValueError(f"{name} is needed for method={self.method!r}")

    def _as_harmful(self, X_harmful: npt.ArrayLike) -> FloatArray:
        harmful: FloatArray = check_array(
            X_harmful, dtype=_DTYPES, input_name="X_harmful", estimator=self
        )
        if harmful.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X_harmful must have {self.n_features_in_} features, as X, and has shape "
                f"{harmful.shape}"
            )
        validate_data(self, X_harmful, reset=False, skip_check_array=True)  # compares their names
        return harmful

    def _delta(self, X: FloatArray, harmful: FloatArray | None) -> tuple[float, float]:
        """Deltas of both Gram matrices; that of K_P is all that fade takes."""
        fade = self.method == "fade"
        if not isinstance(self.delta, str):
            delta = as_delta(self.delta)
            if fade and np.ndim(self.delta) and delta[1] != 0.0:
                raise ValueError(f"delta must be one number for method='fade', got {self.delta!r}")
            return (delta[0], 0.0) if fade else delta
        check_choice(self.delta, "delta", ("auto",))
        if fade or harmful is None:
            return 0.0, 0.0
        P, H = roots(X, harmful, None, None, names=("X", "X_harmful", "K_P", "K_H"))
        return sufficient_delta(P, H), 0.0

    def _keywords(self, accepted: Mapping[str, Parameter]) -> dict[str, Any]:
        """Keyword arguments of the method that need nothing but the estimator's parameters."""
        if not isinstance(self.method_params, Mapping | None):
            raise TypeError(f"method_params must be a dictionary, and is {self.method_params!r}")
        keywords = dict(self.method_params or {})
        for name in keywords:
            if name in (*_PASSED, *_MADE) or name not in accepted:
                free = [n for n in accepted if n not in (*_PASSED, *_MADE)]
                raise ValueError(
                    f"method_params of {self.method!r} may hold {', '.join(free)}, got {name!r}"
                )
        passed = {name: getattr(self, name) for name in _PASSED if name in accepted}
        keywords |= {name: value for name, value in passed.items() if value is not None}
        if "seed" in accepted:
            keywords["seed"] = self._seed()
        missing = [
            name
            for name, parameter in accepted.items()
            if parameter.default is Parameter.empty and name not in (*keywords, *_MADE)
        ]
        if missing:
            raise ValueError(f"method={self.method!r} needs {', '.join(missing)}")
        return keywords

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _targets(X: FloatArray, y: Any, loss: str, name: str) -> tuple[Array, str, Array | None]:
    """Targets as the loss wants them, the loss, and the classes that their columns stand for."""
    y = check_array(y, ensure_2d=False, dtype=None, input_name=name)
    check_consistent_length(X, y)
    kind = type_of_target(y, input_name=name, raise_unknown=True)
    if loss == "auto":
        if kind not in _LOSS_OF:
            raise ValueError(f"{name} has targets of kind {kind!r}, for which there is no loss")
        loss = _LOSS_OF[kind]
    if loss == "squared" or kind == "multilabel-indicator":
        return y, loss, None
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"loss={loss!r} needs class labels, and {name} is {kind}")
    classes, codes = np.unique(column_or_1d(y), return_inverse=True)
    if classes.size == 1:
        raise ValueError(f"{name} holds one class ({classes.tolist()[0]!r}), and two are needed")
    if loss == "logistic" and classes.size > 2:  # one against the rest
        codes = codes[:, None] == np.arange(classes.size)
    return codes, loss, classes
