"""Both extreme pairs of a psd matrix cost a few Cholesky factorizations, not an eigendecomposition.

dpotrf, one Cholesky factorization, is the yardstick. A peer that would take over a minute (without
--large, ten seconds) for its rounds, going by its time at the size before, is left out, and so is
an iterative one that does not reach six digits of both ends.
"""

import gzip
from functools import cache, lru_cache

import numpy as np
import pytest
import scipy.linalg
import torch
from floors import fastest_threads, reduction
from scipy.linalg.lapack import dpotrf
from scipy.sparse.linalg import ArpackError, eigsh, lobpcg, svds

import immucond as ic

SIZES = [64, 256, 512, 1024, 2048]
LARGE_SIZES = [4096, 8192]
DIGITS = [8, pytest.param(1, marks=pytest.mark.large)]
CAP_SECONDS, LARGE_CAP_SECONDS = 10.0, 60.0
ACCURACY = 1e-6  # of either end, that a contestant must reach
ITERATIONS = 500  # that an iterative peer may take to reach it, restarts for ARPACK

EIGH, DIRECT = "torch.linalg.eigh", "direct method (immucond)"
WARM, YARDSTICK = "immucond, warm start", "floor: LAPACK dpotrf"
LOOP = "loop over torch.linalg.eigh"
RANGE, PRIMME = "scipy eigh, each end by its index", "PRIMME"


def goals(n):
    least = {("immucond", DIRECT): 1 / 1.1, (WARM, DIRECT): 1 / 1.1}
    if n >= 1024:
        least |= {("immucond", EIGH): 4.0, (WARM, EIGH): 7.0}
        least |= {("immucond", peer): 2.0 for peer in (RANGE, PRIMME)}
    return least


# ---- contestants: from a matrix to its two ends ----


def ends(values):
    """Each in an array of its own, so that each must agree relative to itself."""
    values = np.asarray(values)
    return values[..., :1], values[..., -1:]


def of_pairs(pairs):
    return ends(np.stack([pairs.sigma_min, pairs.sigma_max], axis=-1))


def by_lobpcg(H):
    X = np.random.default_rng(0).standard_normal((len(H), 1))
    keywords = {"tol": 1e-8 * np.linalg.norm(H, 1), "maxiter": ITERATIONS}
    return ends([lobpcg(H, X, largest=top, **keywords)[0][0] for top in (False, True)])


def by_torch_lobpcg(H):
    H = torch.from_numpy(H)
    X = torch.ones(len(H), 1, dtype=H.dtype) + torch.arange(len(H))[:, None] / len(H)
    return ends(
        [torch.lobpcg(H, X=X, largest=top, niter=ITERATIONS)[0][0] for top in (False, True)]
    )


def by_svds(H):
    keywords = {"maxiter": ITERATIONS, "return_singular_vectors": False}
    return ends([svds(H, 1, which=end, **keywords)[0] for end in ("SM", "LM")])


def by_range(H):
    """LAPACK's driver for a range of indices, once for each end: two reductions."""
    last = len(H) - 1
    return ends([scipy.linalg.eigh(H, subset_by_index=(i, i))[0][0] for i in (0, last)])


def by_primme(H):
    import primme  # a peer that who wants it beside ours installs

    keywords = {"tol": 1e-8, "maxiter": 100 * ITERATIONS}
    return ends([primme.eigsh(H, 1, which=end, **keywords)[0][0] for end in ("SA", "LA")])


def by_eigsh(H):
    return ends(eigsh(H, 2, which="BE", maxiter=ITERATIONS)[0])


def by_inverse(H):
    return ends([eigsh(H, 1, maxiter=ITERATIONS, **end)[0][0] for end in ({"sigma": 0.0}, {})])


DENSE = {
    "immucond": lambda H: of_pairs(ic.psd_extreme_pairs(H)),
    DIRECT: lambda H: of_pairs(ic.psd_extreme_pairs(H, method="direct")),
    EIGH: lambda H: ends(torch.linalg.eigh(torch.from_numpy(H))[0]),
    "torch.linalg.eigvalsh": lambda H: ends(torch.linalg.eigvalsh(torch.from_numpy(H))),
    "torch.linalg.svdvals": lambda H: ends(torch.linalg.svdvals(torch.from_numpy(H)).flip(0)),
    "scipy eigvalsh": lambda H: ends(scipy.linalg.eigvalsh(H)),
    RANGE: by_range,
}
ITERATIVE = {
    "torch.lobpcg": by_torch_lobpcg,
    "scipy eigsh, both ends": by_eigsh,
    "scipy eigsh, inverse for the small end": by_inverse,
    PRIMME: by_primme,
    "scipy svds": by_svds,
    "scipy lobpcg": by_lobpcg,
}
CONTESTANTS = [*DENSE, *ITERATIVE, WARM, YARDSTICK]
GIVES_UP = (ArpackError, np.linalg.LinAlgError, UserWarning, AssertionError, ImportError)


def reference(H):
    return DENSE[DIRECT](H)


class Walk:
    """To and fro along a slowly changing sequence theta^T K theta, relative steps of 1e-3."""

    def __init__(self, K, steps=2):
        rng = np.random.default_rng(2)
        theta = np.eye(len(K))
        self._matrices = [K]
        for _ in range(steps):
            theta += 1e-3 / np.sqrt(len(K)) * rng.standard_normal(K.shape) @ theta
            self._matrices.append(ic.hessian(theta, K))
        self._at, self._by = 0, 1
        self._pairs = ic.psd_extreme_pairs(K)

    def step(self):
        if not 0 <= self._at + self._by < len(self._matrices):
            self._by = -self._by
        self._at += self._by
        self._pairs = ic.psd_extreme_pairs(self._matrices[self._at], start=self._pairs)
        return of_pairs(self._pairs)

    def reference(self):
        return reference(self._matrices[self._at])


def race(contest, group, name, H, walk, **keywords):
    """One contestant; its pairs, or for the yardstick its factor, must be right."""
    if name == WARM:
        contest(group, name, walk.step, like=walk.reference, rtol=ACCURACY, **keywords)
    elif name == YARDSTICK:
        # The transpose of a C-ordered matrix is what LAPACK wants, and here the same matrix.
        contest(
            group,
            name,
            lambda: dpotrf(H.T, lower=0)[0].diagonal(),
            like=lambda: np.linalg.cholesky(H).diagonal(),
            rtol=ACCURACY,
            **keywords,
        )
    else:
        solve = (DENSE | ITERATIVE)[name]
        try:
            contest(
                group,
                name,
                lambda: solve(H),
                like=lambda: reference(H),
                rtol=ACCURACY,
                **keywords,
            )
        except GIVES_UP as error:
            if name in DENSE:
                raise
            wrong = isinstance(error, AssertionError)
            why = "ends wrong in six digits" if wrong else str(error).strip().splitlines()[0]
            contest.leave_out(group, name, why)


# ---- spectra ----


@lru_cache(maxsize=1)
def matrix(spectrum, n):
    rng = np.random.default_rng(1)
    if spectrum == "random":
        return ic.gram(rng.standard_normal((2 * n, n)))
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    H = (q * np.geomspace(1.0, 1e-6, n)) @ q.T
    return (H + H.T) / 2


@lru_cache(maxsize=1)
def walk_from(spectrum, n):
    return Walk(matrix(spectrum, n))


SPECTRA = {
    "random": "random (Wishart, 2n rows)",
    "decaying": "decaying (condition number 1e6)",
}


def title(spectrum, n):
    return f"both psd ends, {spectrum}, n = {n}"


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize(
    "n", [*SIZES, *(pytest.param(n, marks=pytest.mark.large) for n in LARGE_SIZES)]
)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_extreme_pairs_outrun_their_peers(contest, size, request, spectrum, n, name):
    group, sizes = title(spectrum, n), SIZES + LARGE_SIZES
    if n > sizes[0] and not name.startswith("immucond"):
        before = sizes[sizes.index(n) - 1]
        cap = LARGE_CAP_SECONDS if request.config.getoption("--large") else CAP_SECONDS
        why = contest.left_out(title(spectrum, before), name)
        seconds = contest.predicted(title(spectrum, before), name, (n / before) ** 3)
        if why is None and seconds > cap and before >= 256:  # below, overheads do not grow so
            why = f"{seconds:.0f} s foreseen, of {cap:.0f}"
        if why is not None:
            contest.leave_out(group, name, why)
            return
    H, walk = matrix(spectrum, size(n)), walk_from(spectrum, size(n)) if name == WARM else None
    race(
        contest,
        group,
        name,
        H,
        walk,
        goals=goals(n),
        at=("extreme_pairs", SPECTRA[spectrum], n),
        seconds=0.3 if n < 1024 else 0.6,
    )


# ---- real spectra ----


def idx(path):
    """An array in MNIST's IDX format: two zero bytes, the type (8: uint8), the rank, the sizes."""
    with gzip.open(path) as file:
        content = file.read()
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


@cache
def digit_gram(folder, digit):
    """Of one digit's images, normalized as usual, with a ridge: pixels that never vary leave it
    singular, and with the ridge a smallest eigenvalue of high multiplicity."""
    pixels = idx(folder / "train-images-idx3-ubyte.gz").reshape(60_000, -1)
    X = pixels[idx(folder / "train-labels-idx1-ubyte.gz") == digit]
    K = ic.gram((X / 255 - 0.1307) / 0.3081)
    return K + 1e-3 * np.trace(K) / len(K) * np.eye(len(K))


@cache
def middle(folder, digit, n):
    K = digit_gram(folder, digit)
    inside = slice((len(K) - n) // 2, (len(K) + n) // 2)
    return np.ascontiguousarray(K[inside, inside])


@cache
def digit_walk(folder, digit, n):
    return Walk(middle(folder, digit, n))


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("digit", DIGITS)
def test_extreme_pairs_of_images_outrun_their_peers(contest, size, data_dir, digit, name):
    folder, n = data_dir / "mnist", size(784)
    walk = digit_walk(folder, digit, n) if name == WARM else None
    group = f"both psd ends, MNIST digit {digit}, n = 784"
    race(contest, group, name, middle(folder, digit, n), walk, goals=goals(784), seconds=0.3)


# ---- many small ones ----


@cache
def batch(count, n):
    Z = np.random.default_rng(3).standard_normal((count, 100, n))
    return Z.transpose(0, 2, 1) @ Z


BATCH = {
    "immucond": lambda H: of_pairs(ic.psd_extreme_pairs(H)),
    LOOP: lambda H: ends(np.array([torch.linalg.eigh(h)[0].numpy() for h in torch.from_numpy(H)])),
    "torch.linalg.eigh, batched": lambda H: ends(torch.linalg.eigh(torch.from_numpy(H))[0]),
    "loop over psd_extreme_pairs (immucond)": lambda H: tuple(
        np.array(column) for column in zip(*(DENSE["immucond"](h) for h in H), strict=True)
    ),
}


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_outruns_a_loop(contest, size, name):
    H = batch(100, size(64))
    contest(
        "both psd ends of 100 matrices 64 x 64",
        name,
        lambda: BATCH[name](H),
        like=lambda: ends(np.linalg.eigvalsh(H)),
        goals={("immucond", LOOP): 6.0},
    )


def test_a_batch_beside_its_reductions(contest, size):
    H = batch(100, size(64))
    with fastest_threads(len(H[0])):
        contest(
            "both psd ends of 100 matrices 64 x 64",
            "floor: 100 dsytrd alone",
            lambda: ([reduction(h.T) for h in H], ())[1],
            like=lambda: (),
        )
