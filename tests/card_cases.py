"""Raw runs written by hand, as the commands leave them."""

import json

INF = "inf"


def attack(attacker, steps, *, start="plain", trials=40, best=None, **more):
    """An attack on one network."""
    return {
        "attacker": attacker, "start": start, "steps": steps, "passes": steps, "seconds": steps,
        "loss": 0.3, "accuracy": 0.9, "trials": trials, "diverged": 2,
        "best_so_far": [steps] if best is None else best, "settings": {"rate": 0.1},
        "curve": {"step": [0, 1], "loss": [1.6, 0.3], "accuracy": [0.2, 0.9]},
        "rfd": None, "rfd_signed": None, **more,
    }  # fmt: skip


def strongest(attacks):
    """The strongest of them."""
    if not attacks:
        return None
    found = min(attacks, key=lambda one: float(one["steps"]))
    return {name: found[name] for name in ("attacker", "start", "steps", "passes", "seconds")}


def seed(number, release, reference=None, scratch=None, **more):
    """A run of one seed, from steps or from lists of attacks on each network."""

    def some(of):
        if of is None:
            return None
        return of if isinstance(of, list) else [attack("gd", of)]

    attacks = {"release": some(release), "reference": some(reference), "scratch": some(scratch)}
    return {
        "seed": number, "target": 0.4, "steps": 600, "trials": 40, "max_utility_drop": 0.1,
        "rows": {"harmful": 600, "held_out": 2000, "utility": 1000}, "classes": 5, "majority": 0.28,
        "strongest": {network: strongest(of) for network, of in attacks.items()},
        "factor": None, "scratch_share": None,
        "attacks": {network: of for network, of in attacks.items() if of is not None}, **more,
    }  # fmt: skip


PRINTS = {"release": "aa11", "harmful": "bb22", "primary": "cc33"}
VERSIONS = {"immucond": "0.1.0", "python": "3.11"}


def attacks(*seeds, **more):
    """``attack.json``."""
    return {
        "command": "immucond attack --backbone /somewhere/else/my-model",
        "versions": VERSIONS,
        "settings": {"backbone": "/somewhere/else/my-model", "harmful": "their-task",
                     "primary": "my-task", "reference": "plain-model", "seeds": len(seeds),
                     "steps": 600, "trials": 40, "data_dir": None},
        "fingerprints": {**PRINTS, "reference": "dd44", "defender": "ee55"},
        "runs": list(seeds),
        **more,
    }  # fmt: skip


def probe(accuracy, **more):
    """What is read at a cut."""
    return {
        "features": 16, "accuracy": accuracy, "standard_error": 0.01, "optimism": 0.0,
        "ridge": 0.1, "majority": 0.28, "rank": 16, "rank_P": 16, "kappa": 1e4, "rho": 0.02,
        "count": 2000, "untrained": {"accuracy": 0.35, "standard_error": 0.01}, **more,
    }  # fmt: skip


def leak(**more):
    """``leak.json``."""
    cuts = {"0": probe(0.5), "1": probe(0.7, kappa=INF), "2 (input)": probe(0.6)}
    return {
        "command": "immucond leak",
        "versions": VERSIONS,
        "settings": {"backbone": "/somewhere/else/my-model", "harmful": "their-task",
                     "primary": "my-task", "cuts": [], "data_dir": None},
        "fingerprints": dict(PRINTS),
        "profile": {"ceiling": 0.7, "where": "1", "logits": probe(0.4, untrained=None),
                    "majority": 0.28, "classes": 5,
                    "unaided": {"accuracy": 0.615, "sees": "pixels"},
                    "rows": {"harmful": 600, "primary": 500, "held_out": 2000}, "cuts": cuts},
        **more,
    }  # fmt: skip


def forecast(lazy=True):
    """The cost of one way of training."""
    return {
        "params": "full", "start": 100.0, "step": 0.01, "lambda_max": 100.0,
        "steps": {"0.5": {"lower": 9.0, "forecast": 9.0, "upper": 9.0},
                  "0.1": {"lower": 184.0, "forecast": 185.0, "upper": INF}},
        "krylov": {"0.5": 3.0, "0.1": INF}, "loss": {"step": [0.0]}, "measured": [100.0, 90.0],
        "error": 0.1 if lazy else 0.6, "lazy": lazy, "certified": False,
    }  # fmt: skip


def cost(**more):
    """``cost.json``."""
    return {
        "command": "immucond cost",
        "versions": VERSIONS,
        "settings": {"backbone": "/somewhere/else/my-model", "harmful": "their-task",
                     "reference": "plain-model", "data_dir": None},
        "fingerprints": {"release": "aa11", "harmful": "bb22", "reference": "dd44"},
        "rows": 128,
        "costs": {"release": {"full": forecast()}, "reference": {"full": forecast()}},
        **more,
    }  # fmt: skip


def written(folder, **files):
    """Write runs to files of these names; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, run in files.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(run))
    return paths
