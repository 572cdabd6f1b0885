"""The settings that determine the reference images, and the shards in which they are sampled."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

SHARD = 1000  # images
KEPT = 25  # features per prompt stored in the reference, for the kernel distance
FORMER = {"sampler": "ddim", "dtype": "float32"}
"""Fields that were added later, with the values used before. `made_of` omits them if they have these values, so that
the keys of older references stay the same."""


@dataclass(frozen=True)
class Shard:
    """`count` images starting at number `start`, and the metrics whose features are missing."""

    start: int
    count: int
    metrics: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"images {self.start} to {self.start + self.count - 1}"


class Span(NamedTuple):
    """Images `first` to `last` - 1 of a prompt."""

    prompt: int
    first: int
    last: int


@dataclass(frozen=True)
class ReferenceImages:
    """The settings that determine the images; their size follows from the prior. `prior` is the digest of its files.

    Image j of prompt i is sampled from draw j of the generator with seed `seed + i`, independent of the shards.
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
        """The settings as JSON; see FORMER."""
        fields = asdict(self) | {"prompts": list(self.prompts)}
        return {name: value for name, value in fields.items() if FORMER.get(name) != value}

    @property
    def count(self) -> int:
        return len(self.prompts) * self.per_prompt

    @property
    def shards(self) -> list[Shard]:
        return [Shard(start, min(SHARD, self.count - start)) for start in range(0, self.count, SHARD)]

    def spans(self, shard: Shard) -> Iterator[Span]:
        """The prompts of a shard, with the range of images of each."""
        end = shard.start + shard.count
        for prompt in range(shard.start // self.per_prompt, -(-end // self.per_prompt)):
            zero = prompt * self.per_prompt
            yield Span(prompt, max(shard.start - zero, 0), min(end - zero, self.per_prompt))

    def texts(self, shard: Shard) -> list[str]:
        """The prompt of each image."""
        return [self.prompts[prompt] for prompt, first, last in self.spans(shard) for _ in range(first, last)]

    def names(self, shard: Shard) -> list[str]:
        """The file name of each image: index of the prompt, and of the image of that prompt."""
        return [f"{p:04}-{j:06}.png" for p, first, last in self.spans(shard) for j in range(first, last)]

    def kept_indices(self, shard: Shard) -> list[int]:
        """Indices in a shard of the images whose features are stored in the reference."""
        return [n for n in range(shard.count) if (shard.start + n) % self.per_prompt < KEPT]
