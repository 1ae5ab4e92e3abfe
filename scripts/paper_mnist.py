"""MNIST beside the paper: grids of digit pairs, by pair where they are few, and shortfalls."""

import math
from collections.abc import Iterator
from statistics import mean
from typing import Any

from paper_tables import (
    CONVENTIONS,
    CURVES,
    hundredths,
    legend,
    methods_of,
    over_seeds,
    parameters,
    provenance,
    table,
    walk_units,
)

from immucond._format import MARK, marked, not_harder, number
from immucond.experiments import mnist as mnist_package

# Methods whose grids stand as numbers beside the picture.
NUMBERS = ("algorithm1", "closed-form")
# Of the paper's grids, in the ridge convention: positive pairs, least and largest log RIR.
TOLD = {"algorithm1": ("90 of 90", "2.2", "6.3"), "opt-kappa": ("58 of 90", "", "")}
TITLES = {
    "mnist-pairs": "every method on three pairs",
    "mnist": "30 steps on all images",
    "mnist-mini-batch": "the published protocol, 30 epochs of batches of 64",
    "mnist-mini-batch-pairs": "the published code's formulation, on three pairs",
}


def log_rir(method: dict[str, Any], convention: str, rows: str = "training") -> dict[str, float]:
    """log10 RIR by pair, where the method finished."""
    return {
        pair: math.log10(over_seeds(done, rows, convention, "rir"))
        for pair, done in finished(method).items()
    }


def eased(method: dict[str, Any], convention: str, rows: str = "training") -> set[str]:
    """Pairs whose harmful task got no harder."""
    return {
        pair
        for pair, done in finished(method).items()
        if not_harder(*(over_seeds(done, rows, convention, key) for key in ("i", "rir")))
    }


def finished(method: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Seeds that reached an extractor, by pair that has one."""
    done = {
        pair: [value for value in values if "failure" not in value]
        for pair, values in method["pairs"].items()
    }
    return {pair: values for pair, values in done.items() if values}


def felt(results: dict[str, Any]) -> Iterator[str]:
    """What probes feel; a run before that was measured has no such numbers."""
    if not all("alignment" in v or "failure" in v for v in walk_units(results)):
        return
    pairs = {f"{P}-{H}": (P, H) for P, H in results["settings"]["pairs"]}
    result = mnist_package.Result(
        settings=mnist_package.Settings(pairs=tuple(pairs.values())), source="", fingerprint="",
        counts={}, methods=methods_of(results),
        units={(name, pair): method["pairs"][told] for name, method in results["methods"].items()
               for told, pair in pairs.items()},
        limits={pair: results["limits"][told] for told, pair in pairs.items()},
    )  # fmt: skip
    yield mnist_package.tables(result)[0].markdown()


def mnist(run: str, results: dict[str, Any], commit: str) -> Iterator[str]:
    yield provenance(results, commit)
    yield ""
    yield from felt(results)
    methods = {k: m for k, m in results["methods"].items() if k != "identity"}
    for rows, title in (("held_out", "held-out images"), ("training", "training images")):
        yield from (summary if whole_grid(results) else by_pair)(methods, rows, title)
    yield from parameters(methods, mnist_package.GRIDS[results["settings"]["protocol"]])
    for picture, told in pictures(run, results).items():
        yield f"![{told}](../images/{run}-{picture})"
        yield ""
        for name in NUMBERS:
            if picture == f"grid-{name}.png":
                yield from grids(methods[name])


def pictures(run: str, results: dict[str, Any]) -> dict[str, str]:
    """Those that the page shows of a run, with what they show: none of a few pairs."""
    if not whole_grid(results):
        return {}
    told = {f"grid-{name}.png": f"{results['methods'][name]['label']}: the grid in both conventions"
            for name in NUMBERS if name in results["methods"]}  # fmt: skip
    if "fade" in results["methods"]:
        told["rho-fade.png"] = "fade: what became of the label alignment of every harmful task"
    return told | CURVES


def whole_grid(results: dict[str, Any]) -> bool:
    return len(results["settings"]["pairs"]) == 90


def summary(methods: dict[str, Any], of: str, title: str) -> Iterator[str]:
    rows = []
    for name, method in methods.items():
        total = len(method["pairs"])
        for convention in CONVENTIONS:
            logs = log_rir(method, convention, of)
            values = list(logs.values())
            told = (of, convention) == ("training", "ridge")
            paper = TOLD.get(name, ("", "", "")) if told else ("", "", "")
            if not values:
                rows.append([f"{method['label']}, {convention}", *paper, "failed", *[""] * 5])
                continue
            order, easy = sorted(logs, key=lambda pair: logs[pair]), eased(method, convention, of)
            middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
            right = [
                sum(sign * math.log(over_seeds(done, of, convention, figure)) > 0
                    for done in finished(method).values())
                for figure, sign in (("i", 1), ("ii", -1))
            ]  # fmt: skip
            rows.append(
                [f"{method['label']}, {convention}", *paper,
                 f"{sum(v > 0 for v in values)} of {total}", *(f"{n} of {total}" for n in right),
                 *(hundredths(mean(logs[p] for p in some)) + MARK * bool(easy.intersection(some))
                   for some in (order[:1], middle, order[-1:]))]
            )  # fmt: skip
    yield from table(
        [title, "paper: positive", "paper: least", "paper: largest", "positive", "(i) > 1",
         "(ii) < 1", "least", "median", "largest"],
        rows,
    )  # fmt: skip
    yield from legend(rows)


def by_pair(methods: dict[str, Any], of: str, title: str) -> Iterator[str]:
    pairs = list(next(iter(methods.values()))["pairs"])
    rows = []
    for method in methods.values():
        for convention in CONVENTIONS:
            done = finished(method)
            cells = []
            for pair in pairs:
                if pair not in done:
                    cells += ["failed", "", ""]
                    continue
                i, ii, rir = (
                    over_seeds(done[pair], of, convention, key) for key in ("i", "ii", "rir")
                )
                cells += [number(i), number(ii), marked(f"{math.log10(rir):.2f}", i, rir)]
            rows.append([f"{method['label']}, {convention}", *cells])
    headings = [f"{pair}: {key}" for pair in pairs for key in ("(i)", "(ii)", "log RIR")]
    yield from table([title, *headings], rows)
    yield from legend(rows)


def grids(method: dict[str, Any]) -> Iterator[str]:
    apart = conventions_apart(method)
    same = apart < 0.005  # half of the last digit shown
    for convention in CONVENTIONS[:1] if same else CONVENTIONS:
        values, easy = log_rir(method, convention), eased(method, convention)
        exact = f" (exact: the same within {apart:.1g})" if same else ""
        told = f"{method['label']}, training images, {convention} convention{exact}"
        yield f"{told}, primary digit P by harmful digit H:"
        yield ""
        rows = [
            [str(P), *(f"{values[k]:.2f}" + MARK * (k in easy) if (k := f"{P}-{H}") in values
                       else "" for H in range(10))]
            for P in range(10)
        ]  # fmt: skip
        yield from table(["P \\ H", *map(str, range(10))], rows)
        yield from legend(rows)


def conventions_apart(method: dict[str, Any]) -> float:
    """Largest difference of log RIR between the conventions; infinite without results."""
    ridge, exact = (log_rir(method, convention) for convention in CONVENTIONS)
    return max((abs(ridge[pair] - exact[pair]) for pair in ridge), default=math.inf)


def short_of_grid(name: str, method: dict[str, Any]) -> Iterator[str]:
    told = method["label"]
    total = len(method["pairs"])
    if name == "closed-form":
        for convention in CONVENTIONS:
            low = [
                pair
                for pair, done in finished(method).items()
                if over_seeds(done, "training", convention, "i") <= 1
            ]
            if low:
                yield (
                    f"{told}, {convention}: (i) is not above 1 in {len(low)} pairs. It is "
                    "balanced, (i) = 1/(ii), for Gram matrices with delta, and scaled to the norm "
                    "of the identity; in this convention (ii) falls further than (i)."
                )
        return
    if name not in TOLD:
        return
    positive, _, largest = TOLD[name]
    wanted = int(positive.split()[0])
    for convention in CONVENTIONS:
        values = log_rir(method, convention)
        right = sum(value > 0 for value in values.values())
        if right < wanted:
            yield (
                f"{told}, {convention}: {right} of {total} pairs are positive, {positive} in the "
                f"paper ({total - len(values)} failed)."
            )
    values = log_rir(method, "ridge")
    if largest and values and max(values.values()) < float(largest):
        yield (
            f"{told}: the largest log RIR is {max(values.values()):.2f} in the ridge convention, "
            f"the paper's {largest} (natural: {float(largest) / math.log(10):.2f} here). K_P and "
            "K_H are singular, so a kappa in this convention is the largest eigenvalue over the "
            "ridge, and the RIR a ratio of largest eigenvalues. The two conventions differ by at "
            f"most {conventions_apart(method):.1g} in the logarithm: the steps move hardly "
            "anything but the largest eigenvalues."
        )
