"""Groups of channels that may only be scaled by a common factor."""

from collections.abc import Iterable


class ChannelGroups:
    """A disjoint-set forest over channels; group 0 holds the channels whose factor is 1."""

    FIXED = 0

    def __init__(self) -> None:
        self._parents = [self.FIXED]

    def new(self, count: int) -> list[int]:
        """``count`` channels, each in a group of its own."""
        fresh = range(len(self._parents), len(self._parents) + count)
        self._parents += fresh
        return list(fresh)

    def root(self, channel: int) -> int:
        """The number that all channels of a group share."""
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def join(self, left: int, right: int) -> None:
        """Merge the groups of two channels."""
        low, high = sorted((self.root(left), self.root(right)))
        self._parents[high] = low

    def fix(self, channels: Iterable[int]) -> None:
        """Demand the factor 1 for these channels and for all that are grouped with them."""
        for channel in channels:
            self.join(self.FIXED, channel)
