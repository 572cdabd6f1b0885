"""`--score-at`: the shares of an asset's iterations after which it is scored, for curves of score against cost."""

import math
from collections.abc import Iterable

from pipeline.errors import UserError, shortened

END = 1.0  # the finished asset, which is always scored
MOST = 32


def parse(text: str) -> tuple[float, ...]:
    """The shares that an option names, in ascending order and with the end. Raises UserError."""
    shares = [_share(part) for part in text.split(",")]
    if len(shares) > MOST or not all(0 < share <= END for share in shares):
        raise UserError(
            f"--score-at is {shortened(text)!r}; expected up to {MOST} shares of the iterations, above 0 and at most "
            "1, such as 0.25,0.5,1."
        )
    return joined(shares, [END])


def joined(*shares: Iterable[float]) -> tuple[float, ...]:
    """All of these shares, each once, in ascending order."""
    return tuple(sorted({share for each in shares for share in each}))


def iteration(share: float, iterations: int) -> int:
    """The iteration after which a share of them is done; at least the first."""
    return max(1, round(share * iterations))


def snapshots(shares: Iterable[float], iterations: int) -> list[int]:
    """The iterations before the last one after which an asset is scored."""
    return sorted({iteration(share, iterations) for share in shares} - {iterations})


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
