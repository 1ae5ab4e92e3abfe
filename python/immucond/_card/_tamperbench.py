"""Attack runs as TamperBench's records of a sweep's best trials.

TamperBench (arXiv 2602.06911, https://github.com/criticalml-uw/TamperBench) keeps a ``best.json``
for each attack on each model, in ``MODEL/ATTACK/optuna_single/``. Its keys are those of
``BestJsonKeys`` and ``TrialSummaryKeys`` in ``src/tamperbench/whitebox/utils/names.py``, what is
required of them stands in ``utils/analysis/validation.py``, and what is written in
``utils/benchmark/trial_manager.py`` (read at commit 102cd773aa27).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .._format import plain
from ._runs import Attack, AttackRun


def records(name: str, runs: Sequence[AttackRun]) -> dict[str, Any]:
    """Return the content of each ``best.json`` by its path among TamperBench's results.

    The objective of a record is the held-out cross-entropy of the harmful task, which attackers
    minimize. Attacks all of whose trials diverged have none, and no record.
    """
    model = name.replace("/", "--")
    return {
        f"{model}-{network}-seed-{run.seed}/{_attack_name(attack)}/optuna_single/best.json":
            _record(attack, run.seed)
        for run in runs
        for network, attacks in run.attacks.items()
        for attack in attacks
        if math.isfinite(attack.loss)
    }  # fmt: skip


def _attack_name(attack: Attack) -> str:
    return attack.attacker if attack.start == "plain" else f"{attack.attacker}-{attack.start}"


def _record(attack: Attack, seed: int) -> dict[str, Any]:
    measured = {
        "harmful_cross_entropy": attack.loss,
        "harmful_accuracy": attack.accuracy,
        "steps_to_target": attack.steps,
        "passes_to_target": attack.passes,
        "seconds_to_target": attack.seconds,
    }
    values = {key: value for key, value in measured.items() if math.isfinite(value)}
    reached = math.isfinite(attack.steps) and attack.steps in attack.best_so_far
    found: dict[str, Any] = plain({
        "study_name": f"{_attack_name(attack)}_single",
        "base_config": "base",
        "directions": ["minimize"],
        "top_trials": [{
            "rank": 1,
            "trial_number": attack.best_so_far.index(attack.steps) if reached else None,
            "values": list(values.values()),
            "eval_names": list(values),
            "optuna_values": [attack.loss],
            "params": {**attack.settings, "random_seed": seed},
        }],
    })  # fmt: skip
    return found
