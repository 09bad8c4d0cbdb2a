"""Generates the raw interaction table of an example shop, given numbers of users and items and a generator.

The table is a DataFrame with N ≈ 10 × users rows in order of time and the columns user_id, item_id (str), timestamp
(int64 milliseconds), title, categories (str). The shop is designed so that no simple rule predicts it:

- Every item belongs to a hidden group (a product type; in large shops a type and a line). Every group has two
  complements drawn at random: tents may lead to headlamps and on to coffee presses. Only interactions show this.
- Within the group, the next item tends to share the brand of a recent item and the style word of the user's present
  taste. Titles show both.
- Popularity follows a Zipf–Mandelbrot law, items are introduced over time, and departments have seasons.
- Tastes (department and style) move from an early to a late favourite within each user's history.

With a turnover, items have a limited life as well. Every item is introduced at its own time; demand for it rises and
then fades away as age · exp(-age / peak). Groups, brands, styles and complements stay. Time is counted here in
interactions of the shop, from 0 to 1, so that train ends at 0.8 and validation at 0.9. The age at the peak is chosen
so that the expected share of validation's targets that train lacks is the one that was asked for.

All users are simulated in parallel, one step of every history at a time: O(users × longest history) in numpy.

`ShopBlocks` makes shops of any number of rows: the same users and items, but the users in blocks, one after the other,
each with a generator of its own. `write_blocks` writes them to a file as they come, so that memory depends on the
number of items and not on that of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foster_cli.errors import FosterError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
#: Items and weights of a block, at half the memory.
Items = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]

MIN_USERS, MIN_ITEMS = 10, 20
SHORTEST, LONGEST, MEAN = 5, 40, 10
#: Monday 2022-01-03 00:00 UTC, in days since the epoch, and the number of days the shop is open.
FIRST_DAY, DAYS = 18_995, 730
GROUP_SIZE = 40
CANDIDATES = 32
#: The largest --turnover, the steps in which demand changes with it, and the ages at the peak that are searched.
MAX_TURNOVER, STEPS, PEAKS = 0.8, 200, (0.002, 4.0)
#: A purchase is chosen among candidates by brand and style, so that items in low demand sell more than their share.
#: A power of demand describes what is sold: with 0.8, the share is within 0.04 of the request on average over seeds.
SOLD = 0.8
#: About so many rows are in a block, which is a row group of the file.
BLOCK = 500_000
#: In blocks, the longest history by the mean, at most; and the items of the catalogue by the longest history, at least.
LONGEST_TO_MEAN, ITEMS_TO_LONGEST = 4, 2
#: Tickets of a bin: so many per member and at least so many or, with a turnover, so many in each of the steps.
TICKETS, LEAST_TICKETS, STEP_TICKETS = 8, 512, 128
#: With blocks, the age at the peak is searched on groups of about so many items.
SEARCHED = 10_000
#: So often another group is tried when a user has all the items that a group offers.
TRIES = 50
#: Weights of candidates: neither the brand nor the style that is wanted, the brand, the style, both.
LIKED = np.array([1, 31, 16, 31 * 16], dtype=np.float32)
#: Row groups with many titles stay dictionary-encoded up to so many bytes.
DICTIONARY_BYTES = 1 << 26

#: Probabilities of the next item's source: complement of a recent item, same group, same department, taste, any.
MODES = {"complement": 0.46, "group": 0.09, "department": 0.12, "taste": 0.21, "any": 0.12}

DEPARTMENTS = {
    "Outdoor & Camping": "Dome Tent|LED Headlamp|Sleeping Bag|Hiking Backpack|Trekking Poles|Camping Stove|"
    "Hammock|Water Filter",
    "Shoes": "Trail Running Shoes|Leather Boots|Canvas Sneakers|Women's Sandals|Wool Slippers|Rain Boots|"
    "Climbing Shoes|Ballet Flats",
    "Kitchen": "Coffee Press|Salt & Pepper Mill|Chef's Knife|Cast Iron Skillet|Crème Brûlée Torch|"
    "Electric Kettle|Bread Maker|Cutting Board",
    "Office": "Mechanical Keyboard|Desk Lamp|Fountain Pen|Standing Desk|Paper Shredder|Monitor Arm|"
    "Dotted Notebook|Swivel Chair",
    "Music": 'Acoustic Guitar|Ukulele|12" Vinyl Record|Drums|Digital Piano|Violin|Mic Stand|Metronome',
    "Garden": "Pruning Shears|Watering Can|Bird Feeder|Compost Bin|Garden Hose|Raised Bed|Seed Tray|Rake",
    "Baby & Toddler": "Baby Carrier|Stroller|Crib Mobile|Teething Ring|High Chair|Night Light|Bottle|Swaddle",
    "Pets": "Dog Harness|Cat Tree|Aquarium Heater|Chew Toy|Litter Box|Pet Blanket|Hamster Wheel|Bird Cage",
    "Tools": 'Cordless Drill|3/8" Socket Set|Claw Hammer|Spirit Level|Jigsaw|Paint Roller|Gloves|Tool Belt',
    "Beauty": "Rosé Lip Balm|Shaving Brush|Face Mask|Hair Dryer|Bath Salts|Nail Polish|Perfume|Sun Cream",
    "Toys & Games": "Building Blocks|Jigsaw Puzzle|Card Game|Plush Bear|Toy Train|Paint Box|Yo-Yo|Chess Set",
    "Fitness": "Yoga Mat|Kettlebell|Jump Rope|Resistance Band|Foam Roller|Swim Goggles|Bike Helmet|Racket",
}
LINES = ("Classic", "Junior", "Pro", "Travel", "Compact", "Studio", "Heritage", "Winter", "Lite", "Basic")
STYLES = ("Retro", "Minimalist", "Rugged", "Elegant", "Playful", "Nordic", "Urban", "Sporty")
STYLE_BITS = 3
COLOURS = ("Blue", "Black", "White", "Red", "Forest Green", "Sand", "Grey", "Écru", "Mustard", "Teal",
           "Coral", "Lavender", "Café au Lait", "Copper", "Ivory", "Charcoal")  # fmt: skip
SIZES = ("Small", "Medium", "Large", "Slim", "Extra Large", "Set of 2", "Set of 4", '10" Edition')
SHOE_SIZES = ("Wide", "Narrow", "EU 38", "EU 39", "EU 40", "EU 41", "EU 42", "EU 43")
BRANDS = ("Norvik", "O'Malley", "Kaldale", "Brontë & Söhne", "Solano", 'The "Half Moon" Co.', "Lumella",
          "Ångström", "Torgard", "Fenwick")  # fmt: skip
#: Relative demand by hour of the day (UTC).
HOURS = (1.0, 0.6, 0.4, 0.3, 0.3, 0.5, 1.0, 1.8, 2.4, 2.8, 3.0, 3.2, 3.6, 3.3, 3.0, 3.0, 3.3, 3.9, 4.8, 5.6,
         6.0, 5.2, 3.6, 2.0)  # fmt: skip


@dataclass(frozen=True)
class _Pool:
    """Members 0…n-1 sorted into bins by key. Draws from a bin are proportional to the members' weights."""

    order: Ints
    total: Floats
    start: Ints
    stop: Ints

    @classmethod
    def of(cls, key: Ints, weight: npt.NDArray[Any], bins: int) -> _Pool:
        order = np.lexsort((-weight, key))
        edges = np.searchsorted(key[order], np.arange(bins + 1))
        return cls(order, np.concatenate([[0.0], np.cumsum(weight[order])]), edges[:-1], edges[1:])

    def draw(self, key: Ints, rng: np.random.Generator, k: int = 1) -> Ints:
        """Draw k members of each bin in `key` with replacement: (len(key), k)."""
        low, high = self.total[self.start[key]], self.total[self.stop[key]]
        at = low[:, None] + (high - low)[:, None] * rng.random((len(key), k))
        slot = np.searchsorted(self.total, at, side="right") - 1
        slot = np.clip(slot, self.start[key][:, None], self.stop[key][:, None] - 1)
        return np.asarray(self.order[slot], dtype=np.int64)

    def best(self, key: Ints) -> Ints:
        """The heaviest member of each bin."""
        return np.asarray(self.order[self.start[key]], dtype=np.int64)


@dataclass(frozen=True)
class _Tickets:
    """Like `_Pool`, in whole tickets: a draw is one look-up, and shares in a bin are rounded to its tickets."""

    ticket: Items  # bin by bin, in the order of the pool
    start: Ints
    count: Ints

    @classmethod
    def of(cls, pool: _Pool, count: Ints, offset: Floats) -> _Tickets:
        """`count` tickets of each bin, at equal distances from an `offset` in [0, 1) of the first distance on."""
        start = np.concatenate([[0], np.cumsum(count)])
        place = np.arange(start[-1]) - np.repeat(start[:-1], count)
        low, high = pool.total[pool.start], pool.total[pool.stop]
        at = np.repeat(low + offset * (high - low) / count, count) + place * np.repeat((high - low) / count, count)
        slot = np.searchsorted(pool.total, at, side="right") - 1
        slot = np.clip(slot, np.repeat(pool.start, count), np.repeat(pool.stop, count) - 1)
        return cls(pool.order[slot].astype(np.int32), start[:-1], count)

    @classmethod
    def per_member(cls, pool: _Pool) -> _Tickets:
        count = np.maximum((pool.stop - pool.start) * TICKETS, LEAST_TICKETS)
        return cls.of(pool, count, np.full(len(count), 0.5))

    def draw(self, key: Ints, rng: np.random.Generator, k: int = 1) -> Items:
        """Draw k members of each bin in `key` with replacement: (len(key), k)."""
        at = rng.random((len(key), k), dtype=np.float32)
        at *= np.nextafter(self.count[key, None].astype(np.float32), np.float32(0))  # stays below, also when rounded
        place = at.astype(np.int64)
        place += self.start[key, None]
        return self.ticket.take(place, mode="clip")

    def best(self, key: Ints) -> Items:
        """The first member of each bin: the heaviest one, unless demand changes in steps."""
        return self.ticket[self.start[key]]


@dataclass(frozen=True)
class _Shop:
    """n items in g groups in d departments. Arrays are (n,) unless a comment says otherwise."""

    group: Ints
    department: Ints
    brand: Ints
    style: Ints
    introduced: Floats  # day
    season: Floats  # (d,) phase
    partner: Ints  # (g, 2) complements of a group
    group_department: Ints  # (g,)
    popularity: Floats
    in_group: _Pool | _Tickets  # by step · g + group; without a turnover there is one step
    in_department: _Pool | _Tickets
    anywhere: _Pool | _Tickets
    titles: npt.NDArray[np.object_]
    categories: npt.NDArray[np.object_]

    @cached_property
    def shown(self) -> tuple[Items, Weights]:
        """Brand and style of each item as one number, and the day of its introduction."""
        return (self.brand << STYLE_BITS | self.style).astype(np.int32), self.introduced.astype(np.float32)


def generate_shop(users: int, items: int, rng: np.random.Generator, turnover: float = 0.0) -> pd.DataFrame:
    """The table described above. The same arguments and generator state give the same table.

    Every user has 5 to 40 interactions. The table lacks items that nobody bought (few, unless `items` is large
    relative to `users`). `turnover`: the share of validation's targets that do not occur in train after the default
    preparation, approximately; 0: items stay. Raises FosterError below 10 users or 20 items, and for a turnover that
    is not in [0, 0.8].
    """
    _check(users, items, turnover)
    import pandas as pd

    shop = _stock(items, rng)
    extra = rng.gamma(1.1, (MEAN - SHORTEST + 0.5) / 1.1, users).astype(np.int64)
    lengths = -np.sort(-np.minimum(SHORTEST + extra, LONGEST))
    times = _times(lengths, rng)
    steps = np.zeros(len(times), dtype=np.int64)
    if turnover > 0:
        shop = _with_turnover(shop, turnover, len(times), rng)
        steps = np.searchsorted(np.sort(times), times) * STEPS // len(times)
    bought = _purchases(shop, lengths, times, steps, rng)

    user = np.repeat(rng.permutation(users), lengths)
    order = np.lexsort((user, times))
    item_ids = np.array([f"P{i:06d}" for i in range(items)], dtype=object)
    user_ids = np.array([f"U{u:06d}" for u in range(users)], dtype=object)
    item = bought[order]
    return pd.DataFrame(
        {
            "user_id": user_ids[user[order]],
            "item_id": item_ids[item],
            "timestamp": times[order],
            "title": shop.titles[item],
            "categories": shop.categories[item],
        }
    )


def _check(users: int, items: int, turnover: float) -> None:
    if users < MIN_USERS:
        raise FosterError(f"--users {users}: too few for a shop", f"give {MIN_USERS} or more")
    if items < MIN_ITEMS:
        raise FosterError(f"--items {items}: too few for a shop", f"give {MIN_ITEMS} or more")
    if not 0 <= turnover <= MAX_TURNOVER:
        raise FosterError(f"--turnover {turnover:g}: not a share from 0 to {MAX_TURNOVER}", "give one such as 0.5")


class ShopBlocks:
    """A shop of about `rows` interactions as Arrow tables, one per block of users, each in order of time.

    In: numbers, and a generator of which the same state gives the same tables. Without `users` there is one per ten
    rows. Lengths are those of `generate_shop` in proportion: from 5 to four times the mean. With a turnover, demand
    follows the order of time within each block; every block spans the whole time.

    An item's share in its group is rounded to whole tickets: a rare item's to within a half. A user buys an item once;
    one who has all that a group offers buys from another group, and repeats an item only if many groups fail.

    Out: tables with the columns of `generate_shop`, the strings dictionary-encoded. Iterating again gives the same
    tables. Raises FosterError for numbers that make no shop.
    """

    def __init__(
        self, rows: int, users: int | None, items: int, rng: np.random.Generator, turnover: float = 0.0
    ) -> None:
        if rows < MEAN * MIN_USERS:
            raise FosterError(f"--rows {rows}: too few for a shop", f"give {MEAN * MIN_USERS} or more")
        self.rows, self.users, self.items = rows, rows // MEAN if users is None else users, items
        _check(self.users, items, turnover)
        self.longest = LONGEST_TO_MEAN * rows // self.users
        self._check_lengths(users is not None)
        self.shop = _in_tickets(_stock(items, rng), turnover, rows, rng)
        self._seed = int(rng.integers(2**63))
        self._count = max(1, min(round(rows / BLOCK), self.users // MIN_USERS))
        #: Whether somebody bought an item, in the blocks that were made so far.
        self.bought = np.zeros(items, dtype=bool)

    def _check_lengths(self, users_given: bool) -> None:
        if self.rows < SHORTEST * self.users:
            raise FosterError(
                f"--rows {self.rows}: too few for {self.users} users, who have {SHORTEST} or more each",
                f"give --users {self.rows // SHORTEST} or fewer",
            )
        if self.items >= ITEMS_TO_LONGEST * self.longest:
            return
        hint = f"give --items {ITEMS_TO_LONGEST * self.longest} or more"
        least = -(-ITEMS_TO_LONGEST * LONGEST_TO_MEAN * self.rows // self.items)
        if users_given and least * SHORTEST <= self.rows:
            hint += f", or --users {least} or more"
        raise FosterError(
            f"--items {self.items}: too few for users who have up to {self.longest} interactions each", hint
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        ids = pa.array([f"P{i:06d}" for i in range(self.items)])
        titles = pa.array(self.shop.titles, pa.string())
        categories = pa.array(self.shop.categories, pa.string()).dictionary_encode()
        for block in range(self._count):
            begin, end = (self.users * k // self._count for k in (block, block + 1))
            rows = self.rows * end // self.users - self.rows * begin // self.users
            user, item, times = self._block(end - begin, rows, np.random.default_rng([self._seed, block]))
            present = np.bincount(item, minlength=self.items) > 0
            used = np.flatnonzero(present)
            number = (np.cumsum(present, dtype=np.int32) - np.int32(1))[item]
            self.bought |= present
            encoded = pa.DictionaryArray.from_arrays
            yield pa.table(
                {
                    "user_id": encoded(user.astype(np.int32), [f"U{u:06d}" for u in range(begin, end)]),
                    "item_id": encoded(number, ids.take(pa.array(used))),
                    "timestamp": pa.array(times),
                    "title": encoded(number, titles.take(pa.array(used))),
                    "categories": encoded(categories.indices.to_numpy()[item], categories.dictionary),
                }
            )

    def _block(self, users: int, rows: int, rng: np.random.Generator) -> tuple[Ints, Items, Ints]:
        """Users from 0 to `users` - 1, items and times, about (rows,) each."""
        lengths = _lengths(users, rows, self.longest, rng)
        times = _times(lengths, rng)
        order = np.argsort(times, kind="stable")
        steps = np.zeros(len(times), dtype=np.int64)
        if len(self.shop.in_group.start) > len(self.shop.partner):
            steps[order] = np.arange(len(times)) * STEPS // len(times)
        bought = _block_purchases(self.shop, lengths, times, steps, rng)
        return np.repeat(rng.permutation(users), lengths)[order], bought[order], times[order]


def write_blocks(blocks: ShopBlocks, path: Path, as_csv: bool, done: Callable[[int], None]) -> int:
    """Write `blocks` to `path`, as CSV or as parquet with a row group each, and call `done` with the number written.

    Out: the number of rows. Readers see plain strings.
    """
    from pyarrow import csv, parquet

    rows, writer = 0, None
    try:
        for k, table in enumerate(blocks, 1):
            if as_csv:
                table = plain(table)
            if writer is None:
                writer = (
                    csv.CSVWriter(path, table.schema)
                    if as_csv
                    else parquet.ParquetWriter(
                        path, table.schema, store_schema=False, dictionary_pagesize_limit=DICTIONARY_BYTES
                    )
                )
            writer.write_table(table)
            rows += len(table)
            done(k)
    finally:
        if writer is not None:
            writer.close()
    return rows


def plain(table: pa.Table) -> pa.Table:
    """`table` with strings instead of dictionaries."""
    import pyarrow as pa

    kinds = [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(kinds))


def _lengths(users: int, rows: int, longest: int, rng: np.random.Generator) -> Ints:
    """Lengths (users,) of histories from 5 to `longest` with the sum `rows`, but for rounding; in falling order."""
    extra = rng.gamma(1.1, 1.0, users)
    for _ in range(20):
        extra = np.minimum(extra * ((rows - SHORTEST * users) / extra.sum()), longest - SHORTEST)
        if rows == SHORTEST * users:
            break
    whole = np.diff(np.round(np.cumsum(extra)), prepend=0.0).astype(np.int64)
    return np.asarray(-np.sort(-np.minimum(SHORTEST + whole, longest)), dtype=np.int64)


def _stock(items: int, rng: np.random.Generator) -> _Shop:
    departments = [(name, types.split("|")) for name, types in DEPARTMENTS.items()]
    kinds = sum(len(types) for _, types in departments)
    lines = int(np.clip(round(items / GROUP_SIZE / kinds), 1, len(LINES)))
    groups = kinds * lines if lines > 1 else int(np.clip(items // GROUP_SIZE, 4, kinds))
    n_departments = min(len(departments), groups)
    shelf = [rng.permutation(len(types)) for _, types in departments]
    # Group g is in department g mod d. It is one type of that department and, in large shops, one line.
    group_department = np.arange(groups) % n_departments
    turn = np.arange(groups) // n_departments
    group_type = np.array([shelf[d][t % len(shelf[d])] for d, t in zip(group_department, turn, strict=True)])
    group_line = np.arange(groups) // kinds

    group = rng.permutation(np.arange(items) % groups)
    rank = rng.permutation(items) + 1.0
    popularity = np.asarray((rank + items / 80) ** -0.8, dtype=np.float64)
    group_weight = np.bincount(group, popularity, minlength=groups)
    introduced = np.where(rng.random(items) < 0.3, rng.uniform(0.05, 0.9, items) * DAYS, -1e9)
    in_group = _Pool.of(group, popularity, groups)
    introduced[in_group.best(np.arange(groups))] = -1e9  # each group has something to sell from the start

    cycle = rng.permutation(groups)  # one random cycle: no group is its own complement
    partner = np.empty((groups, 2), dtype=np.int64)
    partner[cycle, 0], partner[cycle, 1] = np.roll(cycle, -1), np.roll(cycle, -groups // 2)
    brand = rng.integers(0, max(6, round(items**0.5 / 4)), items)
    style = rng.integers(0, len(STYLES), items)
    colour, size = rng.integers(0, len(COLOURS), items), rng.integers(0, len(SIZES), items)

    names = _brands(int(brand.max()) + 1, rng)
    titles, categories = [], []
    seen: dict[str, int] = {}
    for i in range(items):
        g = group[i]
        name, types = departments[group_department[g]]
        line = f"{LINES[group_line[g]]} " if lines > 1 else ""
        kind = types[group_type[g]]
        fit = (SHOE_SIZES if name == "Shoes" else SIZES)[size[i]]
        title = f"{names[brand[i]]} {STYLES[style[i]]} {line}{kind} – {COLOURS[colour[i]]}, {fit}"
        seen[title] = seen.get(title, 0) + 1
        titles.append(title if seen[title] == 1 else f"{title} (No. {seen[title]})")
        categories.append(f"{name} > {kind}")
    return _Shop(
        group=group,
        department=group_department[group],
        brand=brand,
        style=style,
        introduced=introduced,
        season=rng.uniform(0, 2 * np.pi, n_departments),
        partner=partner,
        popularity=popularity,
        group_department=group_department,
        in_group=in_group,
        in_department=_Pool.of(group_department, group_weight, n_departments),
        anywhere=_Pool.of(np.zeros(groups, dtype=np.int64), group_weight, 1),
        titles=np.array(titles, dtype=object),
        categories=np.array(categories, dtype=object),
    )


def _brands(count: int, rng: np.random.Generator) -> list[str]:
    starts = ("Bel", "Cor", "Dar", "Fen", "Gal", "Hol", "Jor", "Kal", "Lum", "Mar", "Nor", "Or", "Pel",
              "Quin", "Ros", "Sol", "Tor", "Ul", "Ver", "Zan")  # fmt: skip
    ends = ("vik", "dale", "ano", "eska", "mont", "ix", "ella", "gard", "ino", "wick", "stad", "ora", "umi")
    one = ["".join(p) for p in product(starts, ends)]
    two = ["".join(p) for p in product(starts, ("a", "e", "i", "o", "um", "er", "is"), ends)]
    made = [one[i] for i in rng.permutation(len(one))] + [two[i] for i in rng.permutation(len(two))]
    names = [*BRANDS, *(name for name in made if name not in BRANDS)]
    n = len(names)
    return [names[i % n] + (f" {i // n + 1}" if i >= n else "") for i in range(count)]


def _times(lengths: Ints, rng: np.random.Generator) -> Ints:
    """Times (N,), int64 milliseconds, rising within a user: sessions days apart, by hour and weekday."""
    n = int(lengths.sum())
    owner = np.repeat(np.arange(len(lengths)), lengths)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    fresh = rng.random(n) < 0.55  # starts a session
    fresh[first] = True
    gap = np.where(fresh, 1.0 + rng.lognormal(np.log(16.0), 1.0, n), 0.0)
    gap[first] = 0.0
    since = np.cumsum(gap)
    since -= since[first][owner]
    span = since[first + lengths - 1]
    since *= np.minimum(1.0, 0.95 * DAYS / np.maximum(span, 1.0))[owner]
    span = since[first + lengths - 1]
    begin = rng.random(len(lengths)) ** 0.8 * (DAYS - span)
    day = np.floor(begin[owner] + since)
    weekend = rng.random(n) < 0.25
    day += np.where(weekend, (5 + (rng.random(n) < 0.5) - day) % 7, 0)

    hours = np.array(HOURS) / sum(HOURS)
    seconds = 3600.0 * rng.choice(24, n, p=hours) + rng.uniform(0, 3600, n)
    start = np.maximum.accumulate(np.where(fresh, np.arange(n), 0))  # the session's first row
    pause = np.cumsum(np.where(fresh, 0.0, 20.0 + rng.exponential(400.0, n)))
    moment = (FIRST_DAY + day[start]) * 86_400.0 + seconds[start] + pause - pause[start]
    stamp = np.round(moment * 1000).astype(np.int64)
    return np.asarray(stamp[np.lexsort((stamp, owner))], dtype=np.int64)


def _with_turnover(shop: _Shop, share: float, interactions: int, rng: np.random.Generator) -> _Shop:
    """`shop` with items that come and go, such that train is expected to lack `share` of validation's targets."""
    n, groups = len(shop.group), len(shop.partner)
    place = _places(shop, rng)
    demand = _demand(shop, place, _peak(shop, place, share, interactions)).ravel()
    live = np.flatnonzero(demand > 1e-9)
    pool = _Pool.of(live // n * groups + shop.group[live % n], demand[live], STEPS * groups)
    return replace(shop, introduced=np.full(n, -1e9), in_group=replace(pool, order=live[pool.order] % n))


def _places(shop: _Shop, rng: np.random.Generator) -> Floats:
    """When each item is introduced, in [0, 1), spread evenly within each group."""
    n, groups = len(shop.group), len(shop.partner)
    size = np.bincount(shop.group, minlength=groups)
    order = np.lexsort((rng.random(n), shop.group))
    place = np.empty(n)
    place[order] = (np.concatenate([np.arange(m) for m in size]) + rng.random(n)) / size[shop.group[order]]
    return place


def _peak(shop: _Shop, place: Floats, share: float, interactions: float) -> float:
    """The age at the peak with which train is expected to lack `share` of validation's targets."""
    low, high = np.log(PEAKS)
    for _ in range(16):
        middle = (low + high) / 2
        sold = _demand(shop, place, float(np.exp(middle)), SOLD)
        low, high = (middle, high) if _expected_share(shop, sold, interactions) > share else (low, middle)
    return float(np.exp(low))


def _in_tickets(shop: _Shop, share: float, interactions: int, rng: np.random.Generator) -> _Shop:
    """`shop`, drawn from by tickets; with a turnover unless `share` is 0. Needs less memory than `_with_turnover`."""
    assert isinstance(shop.in_group, _Pool) and isinstance(shop.in_department, _Pool)
    assert isinstance(shop.anywhere, _Pool)
    in_group = shop.in_group
    shop = replace(
        shop,
        in_department=_Tickets.per_member(shop.in_department),
        anywhere=_Tickets.per_member(shop.anywhere),
    )
    if share == 0:
        return replace(shop, in_group=_Tickets.per_member(in_group))
    n, groups = len(shop.group), len(shop.partner)
    place = _places(shop, rng)
    # All groups are alike, so that the peak of some is that of all.
    some = max(1, min(groups, groups * SEARCHED // n))
    few = np.flatnonzero(shop.group < some)
    part = replace(shop, group=shop.group[few], popularity=shop.popularity[few], partner=shop.partner[:some])
    of_all = part.popularity.sum() / shop.popularity.sum()
    peak = _peak(part, place[few], share, float(interactions * of_all))
    order, count = np.argsort(shop.group, kind="stable"), np.full(groups, STEP_TICKETS)
    edges = np.searchsorted(shop.group[order], np.arange(groups + 1))
    ticket = np.empty((STEPS, groups * STEP_TICKETS), dtype=np.int32)
    for first in range(0, STEPS, STEPS // 20):
        steps = np.arange(first, first + STEPS // 20)
        for step, demand in zip(steps, _demand(shop, place, peak, steps=steps), strict=True):
            pool = _Pool(order, np.concatenate([[0.0], np.cumsum(demand[order])]), edges[:-1], edges[1:])
            ticket[step] = _Tickets.of(pool, count, rng.random(groups)).ticket
    start = np.arange(STEPS * groups) * STEP_TICKETS
    tickets = _Tickets(ticket.ravel(), start, np.full(len(start), STEP_TICKETS))
    return replace(shop, introduced=np.full(n, -1e9), in_group=tickets)


def _demand(shop: _Shop, place: Floats, peak: float, power: float = 1.0, steps: Ints | None = None) -> Floats:
    """Shares (STEPS, n) of the items in their group's demand, to a power, for an age at the peak; or those in `steps`.

    Every group has an item that was introduced before the shop opened.
    """
    before = min(4.74 * peak, 1.0)  # an item that was introduced earlier has less than a twentieth of its demand left
    born = place * (1 + before) - before
    order = np.lexsort((place, shop.group))
    start = np.searchsorted(shop.group[order], np.arange(len(shop.partner)))
    born[order[start]] = -peak
    steps = np.arange(STEPS) if steps is None else steps
    age = (steps[:, None] + 0.5 - np.floor(born * STEPS)) / STEPS
    demand = shop.popularity * np.maximum(age, 0.0) * np.exp(-np.maximum(age, 0.0) / peak)
    demand **= power
    return demand / np.add.reduceat(demand[:, order], start, axis=1)[:, shop.group]


def _expected_share(shop: _Shop, sold: Floats, interactions: float) -> float:
    """The share of the interactions from 0.8 to 0.9 of the time whose items have none before 0.8.

    `sold`: shares (STEPS, n) of the items in their group's interactions. An item's interactions are Poisson
    distributed, and it stays with five or more of them, as in the 5-core.
    """
    weight = np.bincount(shop.group, shop.popularity)
    count = sold * (weight / weight.sum() * interactions / STEPS)[shop.group]
    train, total = count[: STEPS * 8 // 10].sum(0), count.sum(0)
    kept = 1 - np.exp(-total) * (1 + total * (1 + total / 2 * (1 + total / 3 * (1 + total / 4))))
    valid = count[STEPS * 8 // 10 : STEPS * 9 // 10].sum(0) * np.maximum(kept, 1e-12)
    return float((valid * np.exp(-train)).sum() / valid.sum())


@dataclass(frozen=True)
class _Habits:
    """Of each user: departments and styles (users, 2), an early and a late favourite, and when the late one begins."""

    department: Ints
    style: Ints
    turning: Floats

    @classmethod
    def of(cls, users: int, departments: int, rng: np.random.Generator) -> _Habits:
        return cls(
            rng.integers(0, departments, (users, 2)),
            rng.integers(0, len(STYLES), (users, 2)),
            rng.uniform(0.3, 0.7, users),
        )


def _aims(
    shop: _Shop, habits: _Habits, lengths: Ints, history: npt.NDArray[Any], t: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """The item that each of the first m users goes on from at step t, the group to buy from, and the style wanted.

    `lengths`: (m,). `history`: items (users, longest).
    """
    m = len(lengths)
    rows = np.arange(m)
    progress = t / (lengths - 1)
    late = (rng.random(m) < 1 / (1 + np.exp((habits.turning[:m] - progress) / 0.07))).astype(np.int64)
    modes = np.cumsum(list(MODES.values()))
    mode = np.searchsorted(modes, rng.random(m) * modes[-1], side="right")
    if t == 0:
        mode = np.where(mode == 4, 4, 3)
    back = np.minimum(1 + np.searchsorted([0.7, 0.92], rng.random(m)), max(t, 1))
    source = np.where(t > 0, history[rows, t - back], 0)
    complement = shop.partner[shop.group[source], (rng.random(m) < 0.25).astype(np.int64)]
    target = np.choose(
        mode,
        [
            complement,
            shop.group[source],
            shop.in_department.draw(shop.department[source], rng)[:, 0],
            shop.in_department.draw(habits.department[rows, late], rng)[:, 0],
            shop.anywhere.draw(np.zeros(m, dtype=np.int64), rng)[:, 0],
        ],
    )
    return source, target, habits.style[rows, late]


def _purchases(shop: _Shop, lengths: Ints, times: Ints, steps: Ints, rng: np.random.Generator) -> Ints:
    """Items (N,), user by user, bought at `times` (N,) by the demand of `steps` (N,).

    `lengths` is in falling order, so that the first m users are active at a step of their histories.
    """
    users, longest = len(lengths), int(lengths[0])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    history = np.full((users, longest), -1, dtype=np.int64)
    habits = _Habits.of(users, len(shop.season), rng)
    for t in range(longest):
        m = int(np.searchsorted(-lengths, -t, side="left"))
        source, target, style = _aims(shop, habits, lengths[:m], history, t, rng)
        bin = steps[first[:m] + t] * len(shop.partner) + target
        found = shop.in_group.draw(bin, rng, CANDIDATES)
        day = times[first[:m] + t] / 86_400_000 - FIRST_DAY
        age = day[:, None] - shop.introduced[found]
        weight = (age >= 0) * (1 + 1.5 * (age < 60))
        weight *= 1 + 30.0 * (shop.brand[found] == shop.brand[source][:, None]) * (t > 0)
        weight *= 1 + 15.0 * (shop.style[found] == style[:, None])
        weight *= 1 + 0.5 * np.cos(2 * np.pi * day[:, None] / 365 - shop.season[shop.department[found]])
        for before in range(t):
            weight *= found != history[:m, before][:, None]
        total = np.cumsum(weight, axis=1)
        pick = (total <= rng.random((m, 1)) * total[:, -1:]).sum(axis=1)
        none = total[:, -1] <= 0
        chosen = found[np.arange(m), np.minimum(pick, CANDIDATES - 1)]
        history[:m, t] = np.where(none, shop.in_group.best(bin), chosen)
    return history[np.arange(longest) < lengths[:, None]]


def _block_purchases(shop: _Shop, lengths: Ints, times: Ints, steps: Ints, rng: np.random.Generator) -> Items:
    """Like `_purchases`, made for long histories: of the candidates only the chosen one is looked up among the earlier
    items, and if it is there, it is chosen again without that item. The season is left out: all candidates share it.
    """
    users, longest = len(lengths), int(lengths[0])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    history = np.full((users, longest), -1, dtype=np.int32)
    habits = _Habits.of(users, len(shop.season), rng)
    for t in range(longest):
        m = int(np.searchsorted(-lengths, -t, side="left"))
        source, target, style = _aims(shop, habits, lengths[:m], history, t, rng)
        bin = steps[first[:m] + t] * len(shop.partner) + target
        day = (times[first[:m] + t] / 86_400_000 - FIRST_DAY).astype(np.float32)
        brand = np.where(t > 0, shop.brand[source], -1)
        found = shop.in_group.draw(bin, rng, CANDIDATES)
        weight = _weights(shop, found, day, brand, style)
        chosen, left = _choice(found, weight, history[:m, :t], rng)
        for _ in range(TRIES):
            if not len(left):
                break
            other = shop.anywhere.draw(np.zeros(len(left), dtype=np.int64), rng)[:, 0]
            bin[left] += other - target[left]
            target[left] = other
            found = shop.in_group.draw(bin[left], rng, CANDIDATES)
            weight = _weights(shop, found, day[left], brand[left], style[left])
            chosen[left], again = _choice(found, weight, history[left, :t], rng)
            left = left[again]
        chosen[left] = shop.in_group.best(bin[left])
        history[:m, t] = chosen
    return history[np.arange(longest) < lengths[:, None]]


def _weights(shop: _Shop, found: npt.NDArray[Any], day: Weights, brand: Ints, style: Ints) -> Weights:
    """Weights (m, candidates) of the items `found` for m users who prefer a brand and a style."""
    code, introduced = shop.shown
    shown = code.take(found, mode="clip")
    age = day[:, None] - introduced.take(found, mode="clip")
    weight = np.asarray(age < 60, dtype=np.float32)
    weight *= 1.5
    weight += 1
    weight *= age >= 0
    kind = (shown >> STYLE_BITS == brand.astype(np.int32)[:, None]).view(np.int8)
    kind = kind + 2 * ((shown & (1 << STYLE_BITS) - 1) == style.astype(np.int32)[:, None]).view(np.int8)
    weight *= LIKED.take(kind, mode="clip")
    return weight


def _choice(
    found: npt.NDArray[Any], weight: Weights, earlier: Items, rng: np.random.Generator
) -> tuple[Items, npt.NDArray[np.intp]]:
    """One of the items `found` (m, candidates) for each of m users in proportion to `weight`, which this changes, but
    none of the `earlier` ones (m, t); and the rows for which there is none."""
    chosen = np.empty(len(found), dtype=np.int32)
    nothing = []
    left = np.arange(len(found))
    while len(left):
        total = np.cumsum(weight, axis=1)
        least = rng.random(len(left), dtype=np.float32) * total[:, -1]
        pick = np.argmax(total > least[:, None], axis=1)
        item = found[np.arange(len(left)), pick]
        none = total[:, -1] <= 0
        repeated = (earlier == item[:, None]).any(axis=1) & ~none
        chosen[left] = item
        nothing.append(left[none])
        weight, found, earlier = weight[repeated], found[repeated], earlier[repeated]
        weight *= found != item[repeated, None]
        left = left[repeated]
    return chosen, np.concatenate(nothing)
