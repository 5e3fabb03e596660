"""Retries: which failure may be tried again, how long to wait, and the budget that keeps a storm from feeding itself.

The budget is a share of traffic a server: every call earns a part of a retry, every retry costs a whole one. With 20 %
a server that fails for good sees at most 1.2 times the calls that agents made (and a small floor for quiet times).
Source of the idea: Envoy's and Finagle's retry budgets.
"""

import random
from dataclasses import dataclass

FLOOR = 3.0
"""Retries that a server has saved up before any traffic: a single call can still be retried."""

CEILING = 100.0


@dataclass(slots=True)
class RetryBudget:
    """The retries that one tool server has left."""

    percent: float
    saved: float = FLOOR

    def earn(self) -> None:
        """A call was made for the first time."""
        self.saved = min(CEILING, self.saved + self.percent / 100.0)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True


def backoff_seconds(attempt: int, base_seconds: float, chance: random.Random) -> float:
    """The wait before try number `attempt` (2, 3, ...): exponential with full jitter, at most 30 s."""
    return chance.uniform(0.0, min(30.0, base_seconds * 2.0 ** (attempt - 1)))
