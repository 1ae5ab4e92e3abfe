"""What a harmful task costs the strongest attacker of a released network.

``attack`` runs all of them: descents on the whole network, adapters beside it, heads on its
features, from the parameters as they are and from their canonical form.
"""

from ._attackers import parse_attackers
from ._report import Attack, AttackReport
from ._suite import attack
from ._trial import Trial

__all__ = ["Attack", "AttackReport", "Trial", "attack", "parse_attackers"]
