"""The reference images as values: what determines them, and the shards that they are made in."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

SHARD = 1000  # images
KEPT = 25  # features a prompt that go into the reference, for the kernel distance
FORMER = {"sampler": "ddim", "dtype": "float32"}
"""Fields that came later, and what they were before: a description names them only where they are otherwise, so that
the keys of older references stay."""


@dataclass(frozen=True)
class Shard:
    """`count` pictures from number `start` on, and the metrics whose networks have yet to see them."""

    start: int
    count: int
    metrics: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"pictures {self.start} to {self.start + self.count - 1}"


class Span(NamedTuple):
    """Pictures `first` to `last` - 1 of a prompt."""

    prompt: int
    first: int
    last: int


@dataclass(frozen=True)
class Pictures:
    """All that decides the pictures; their size follows from the prior. `prior` is the digest of its files.

    Picture j of prompt i is made of draw j of the generator of seed `seed + i`, whatever the shards are.
    """

    prior: str
    prompts: tuple[str, ...]
    per_prompt: int
    sampler: Literal["ddim", "dpm-solver++(2M)"]
    dtype: str
    guidance_scale: float
    steps: int
    seed: int

    @property
    def made_of(self) -> dict[str, Any]:
        """As plain JSON; see FORMER."""
        fields = asdict(self) | {"prompts": list(self.prompts)}
        return {name: value for name, value in fields.items() if FORMER.get(name) != value}

    @property
    def count(self) -> int:
        return len(self.prompts) * self.per_prompt

    @property
    def shards(self) -> list[Shard]:
        return [Shard(start, min(SHARD, self.count - start)) for start in range(0, self.count, SHARD)]

    def spans(self, shard: Shard) -> Iterator[Span]:
        """The prompts that a shard has pictures of, and which."""
        end = shard.start + shard.count
        for prompt in range(shard.start // self.per_prompt, -(-end // self.per_prompt)):
            zero = prompt * self.per_prompt
            yield Span(prompt, max(shard.start - zero, 0), min(end - zero, self.per_prompt))

    def texts(self, shard: Shard) -> list[str]:
        """Of each picture."""
        return [self.prompts[prompt] for prompt, first, last in self.spans(shard) for _ in range(first, last)]

    def names(self, shard: Shard) -> list[str]:
        """Of each picture's file: prompt and number among the prompt's."""
        return [f"{p:04}-{j:06}.png" for p, first, last in self.spans(shard) for j in range(first, last)]

    def kept(self, shard: Shard) -> list[int]:
        """Places in a shard of the pictures whose features go into the reference."""
        return [n for n in range(shard.count) if (shard.start + n) % self.per_prompt < KEPT]
