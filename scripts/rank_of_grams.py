"""Count, on Gram matrices of known rank, who finds it: the table of docs/guide/record.md.

rank_of_grams.py [--count N] [--seed N] [--write]

Rows are float32, of whole numbers times powers of two, so that their exact rank is known: some
columns are dead, some repeat others, are sums of others, or nearly (to about 2^-10) another one.
"""

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
from numpy.linalg import LinAlgError, cholesky, matrix_rank
from page import GUIDE, commit, tell

import immucond as ic

PAGE = GUIDE / "record.md"
PRIME = 2**31 - 1
KINDS = ("full", "dead", "duplicate", "sum", "nearly", "all of these")


def rows_of(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, int]:
    """Rows X (n, m), float32, and their exact rank."""
    m = int(rng.integers(8, 49))
    n = int(rng.integers(2 * m, 8 * m))
    X = rng.integers(-(2**10), 2**10, size=(n, m))
    places = rng.permutation(m)
    for number, change in enumerate(KINDS[1:-1]):
        if kind in (change, KINDS[-1]):
            to, one, other = places[3 * number % m], places[-1], places[-2 - number]
            X[:, to] = {
                "dead": 0 * X[:, one],
                "duplicate": X[:, one],
                "sum": X[:, one] + X[:, other],
                "nearly": X[:, one] + _few(rng, n),
            }[change]
    # Whole numbers of one scale a column leave the rank as it is.
    return (X * 2.0 ** rng.integers(-1, 2, size=m)).astype(np.float32), exact_rank(X)


def _few(rng: np.random.Generator, n: int) -> np.ndarray:
    """Ones, of either sign, in so many rows that their norm is about 2^-10 of a column's."""
    return rng.choice([-1, 0, 1], size=n) * (rng.random(n) < rng.choice([0.2, 0.5, 1.0]))


def exact_rank(X: np.ndarray) -> int:
    """Rank over the integers modulo a prime: never above the true one, below it by bad luck."""
    A, rank = X.astype(np.int64) % PRIME, 0
    for column in range(A.shape[1]):
        (nonzero,) = np.nonzero(A[rank:, column])
        if not nonzero.size:
            continue
        A[[rank, rank + nonzero[0]]] = A[[rank + nonzero[0], rank]]
        A[rank] = A[rank] * pow(int(A[rank, column]), -1, PRIME) % PRIME
        below = A[rank + 1 :]
        below -= below[:, column : column + 1] * A[rank] % PRIME
        below %= PRIME
        rank += 1
    return rank


def ours(kind: type) -> Callable[[np.ndarray], int]:
    """The certified rank of a stream of blocks."""

    def rank(X: np.ndarray) -> int:
        found = kind(X.shape[1])
        for block in np.array_split(X, 5):
            found.update(block)
        return int(found.pairs().rank)

    return rank


def by_cholesky(X: np.ndarray) -> int | None:
    """Full rank where float32's factorization works; that it does not tells no rank."""
    try:
        cholesky(X.T @ X)
    except LinAlgError:
        return None
    return X.shape[1]


WAYS: dict[str, Callable[[np.ndarray], int | None]] = {
    "`TriangleAccumulator.pairs().rank`": ours(ic.TriangleAccumulator),
    "`GramAccumulator.pairs().rank`": ours(ic.GramAccumulator),
    "`matrix_rank` of all rows (SVD, float32)": lambda X: int(matrix_rank(X)),
    "`matrix_rank` of `X.T @ X`, float32": lambda X: int(matrix_rank(X.T @ X, hermitian=True)),
    "`cholesky` of `X.T @ X`, float32, taken for full rank where it works": by_cholesky,
}


def count(number: int, seed: int) -> dict[str, dict[str, int]]:
    """How often each way is right, by kind; and how many instances there are."""
    rng = np.random.default_rng(seed)
    right = {way: dict.fromkeys(KINDS, 0) for way in ("instances", *WAYS)}
    for place in range(number):
        kind = KINDS[place % len(KINDS)]
        X, rank = rows_of(rng, kind)
        right["instances"][kind] += 1
        for way, found in WAYS.items():
            told = found(X)
            # A factorization that fails is right where the rank is not full.
            good = told == rank if told is not None else rank < X.shape[1]
            right[way][kind] += good
    return right


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    args = parser.parse_args()
    head, start = commit(), time.perf_counter()
    right = count(args.count, args.seed)
    seconds = time.perf_counter() - start
    lines = [
        f"|  | {' | '.join(KINDS)} | in all |", "|---|" + "--:|" * (len(KINDS) + 1),
        *(
            f"| {way} | {' | '.join(map(str, found.values()))} | {sum(found.values())} |"
            for way, found in right.items()
        ), "",
        f"`python scripts/rank_of_grams.py --count {args.count} --seed {args.seed} --write`, "
        f"commit {head}, {seconds:.0f} s, numpy {np.__version__}, {platform.machine()}.",
    ]  # fmt: skip
    tell(lines, PAGE, "rank_of_grams.py", into=args.write)


if __name__ == "__main__":
    main()
