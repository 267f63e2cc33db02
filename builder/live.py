"""The line at the bottom of a terminal that changes while something runs.

It says what runs and, where earlier runs tell how long such a run takes, shows a bar and the time
that is left.
"""

from __future__ import annotations

import contextlib
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BAR_WIDTH = 20
_MINUTE = 60
# Below this, an estimate has nothing left to say.
_NEARLY = 3


@contextlib.contextmanager
def downloads(total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much came of ``total`` bytes; yield what hears of more."""
    console = Console(stderr=True, quiet=quiet)
    columns = (SpinnerColumn("line"), BarColumn(_BAR_WIDTH), DownloadColumn(binary_units=True),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total or None)
        yield lambda count: bar.advance(task, count)


class LiveLine:
    """A line that stays until it is stopped. ``remaining`` gives seconds in all and left."""

    def __init__(
        self, stream: IO[str], remaining: Callable[[], tuple[float, float] | None]
    ) -> None:
        self._remaining = remaining
        self._spinner = Spinner("line")
        self._text = ""
        self._live = Live(
            get_renderable=self._line,
            console=Console(file=stream),
            refresh_per_second=8,
            transient=True,
        )

    def show(self, text: str) -> None:
        """Show ``text`` from now on."""
        self._text = text
        if not self._live.is_started:
            self._live.start()

    def stop(self) -> None:
        """Take the line away."""
        self._live.stop()

    def _line(self) -> Table:
        row: list[Spinner | Text | ProgressBar] = [self._spinner]
        if known := self._remaining():
            total, left = known
            row += [ProgressBar(total=total, completed=total - left, width=_BAR_WIDTH)]
            row += [Text(time_left(left))]
        table = Table.grid(padding=(0, 1), expand=True)
        for _ in row:
            table.add_column(no_wrap=True)
        # A long name gives way to the others.
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_row(*row, Text(self._text))
        return table


def time_left(seconds: float) -> str:
    """Return how long it will still take, as coarse as it is known: ``3 min left``."""
    if seconds < _NEARLY:
        return "soon done"
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes} min {rest:02} s left" if minutes else f"{rest} s left"
