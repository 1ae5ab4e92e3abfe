"""Check what ``immucond demo`` printed and wrote: check_demo.py FOLDER FILE_WITH_ITS_OUTPUT."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METHODS = ("identity", "Algorithm 1", "closed form", "fade")
PRINTED = (
    *("(i)", "(ii)", "RIR", "limit", "training", "held-out", "loss", "gradient descent"),
    *("conjugate", "whitened", "least squares", "not slowed", "rho", "before", *METHODS),
)
MAY_BE_INFINITE = {"rir", "kappa_M"}  # the limit, where there is none


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"demo: {message}")


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, path)
    elif value == "inf":
        yield path, math.inf
    elif isinstance(value, int | float):
        yield path, value


def check_picture(path: Path) -> None:
    with Image.open(path) as image:
        require(image.format == "PNG", f"{path.name} is not a PNG")
        pixels = np.asarray(image.convert("RGB"))
    require(min(pixels.shape[:2]) >= 300, f"{path.name} is only {pixels.shape[:2]}")
    background = pixels[0, 0]
    share = np.mean(np.any(pixels != background, axis=2))
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    require(share > 0.01 and colours > 50, f"{path.name} is blank: {share:.2%} inked")


def check_numbers(path: Path) -> None:
    results = json.loads(path.read_text(), parse_constant=lambda text: require(False, text))
    require(set(METHODS) == set(results["methods"]), "wrong methods in results.json")
    for where, number in numbers(results):
        fine = math.isfinite(number) or (number == math.inf and where[-1] in MAY_BE_INFINITE)
        require(fine, f"{'.'.join(where)} is {number}")
    for name, method in results["methods"].items():
        for rows in ("training", "held_out"):
            exact, noisy = method[rows]["exact"], method[rows]["noisy"]
            require(exact["kappa_P"] >= 1 and exact["kappa_H"] >= 1, f"{name}: kappa below 1")
            limit = noisy["limit"]["rir"]
            require(noisy["rir"] <= limit * (1 + 1e-6), f"{name}: RIR beyond the limit {limit}")
            if name == "identity":
                require(abs(noisy["rir"] - 1) < 1e-12, "the identity's RIR is not 1")
            elif name == "fade":
                felt = method["alignment"][rows]["harmful"]
                less = felt["after"]["rho"] < 0.5 * felt["before"]["rho"]
                require(less, f"fade leaves rho of {rows} rows as it was")
            else:
                require(noisy["rir"] > 1, f"{name} does not immunize {rows} rows")
        for attackers in method["probes"].values():
            require(
                set(attackers) == {"gd", "cg", "whitening", "lstsq"}, f"{name}: wrong attackers"
            )
            require(attackers["lstsq"]["steps_to_tolerance"] == 1, f"{name}: least squares slowed")


def main(folder: Path, output: Path) -> None:
    text = output.read_text()
    for word in PRINTED:
        require(word in text, f"{word!r} is not in the output")
    for name in ("norm_ratio.png", "loss.png"):
        check_picture(folder / name)
    check_numbers(folder / "results.json")
    print(f"{folder.name}: tables, pictures and numbers are in order")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
