"""What reaches a person's terminal."""

import io

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mqtt_service.fleet.output import Output

SAID = "gate\x1b]0;title\x07\x1b[2J\x9b31m\x7f\r\b ok"
SHOWN = "gate]0;title[2J31m ok"


@pytest.mark.parametrize("terminal", [False, True])
def test_words_of_a_device_do_not_move_the_cursor(terminal: bool) -> None:
    """ECMA-48, section 5.3: what begins with ESC or a C1 character commands the terminal."""
    output = Output(as_json=False)
    written = io.StringIO()
    for console in (output.out, output.err):
        console.file, console._force_terminal = written, terminal
        console.no_color = True
    table = Table(box=None, show_header=False)
    table.add_row(Text(SAID, style="bold"))
    output.say(SAID)
    output.note(SAID)
    output.show(table)
    with Live(console=output.out, auto_refresh=False) as live:
        live.update(table, refresh=True)
    assert written.getvalue().count(SHOWN) >= 4
    for sign in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\x7f"):
        assert sign not in written.getvalue()
