"""Which indexes have been met: ranges of whole numbers, few where they come nearly in order."""

from bisect import bisect_left, bisect_right


class IndexRanges:
    """A set of whole numbers, kept as ranges, so that a scan of millions takes no memory."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._starts, index) - 1
        return place >= 0 and index < self._stops[place]

    def add(self, index: int) -> bool:
        """Add a number; return whether it is new."""
        if index in self:
            return False
        self._count += 1
        place = bisect_left(self._starts, index)
        joins_before = place > 0 and self._stops[place - 1] == index
        joins_after = place < len(self._starts) and self._starts[place] == index + 1
        if joins_before and joins_after:
            self._stops[place - 1] = self._stops.pop(place)
            del self._starts[place]
        elif joins_before:
            self._stops[place - 1] = index + 1
        elif joins_after:
            self._starts[place] = index
        else:
            self._starts.insert(place, index)
            self._stops.insert(place, index + 1)
        return True

    def gaps(self) -> int:
        """Return how many numbers between the first and the last are missing."""
        if not self._starts:
            return 0
        return self._stops[-1] - self._starts[0] - self._count
