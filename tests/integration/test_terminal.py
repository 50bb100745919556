"""What a run shows on a terminal: a bar while an epoch trains, and nothing of it afterwards."""

import os
import pty
import re
import threading

import pytest
from rich.console import Console

from gluonexp import experiment
from gluonexp.training import callbacks

SMALL = ["dataset=synthetic", "model=mlp", "tracking=none", "export=none", "trainer.epochs=2"]


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __enter__(self):
        self._ours, theirs = pty.openpty()
        self._file = os.fdopen(theirs, "w")
        self._written = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()  # a terminal that nobody reads is soon full
        self.console = Console(file=self._file, width=100, _environ={"TERM": "xterm"})
        assert self.console.is_terminal
        return self

    def _read(self):
        try:
            while data := os.read(self._ours, 1 << 16):
                self._written.append(data)
        except OSError:  # Linux says so at the end
            pass

    def __exit__(self, *error):
        self._file.close()
        self._reader.join()
        os.close(self._ours)

    @property
    def text(self):
        return b"".join(self._written).decode()


def left(text):
    """Return the lines that a terminal shows in the end; moves up and erasures are obeyed."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] not in "\x1b\r":
            lines[row] += part
    return [line.rstrip() for line in lines]


@pytest.fixture
def often(monkeypatch):
    """Let the bar be drawn after each batch, however fast."""
    monkeypatch.setattr(callbacks, "REFRESH_SECONDS", 1e-3)


def test_a_terminal_shows_a_bar_and_keeps_a_line_an_epoch(compose, tmp_path, often):
    with Terminal() as terminal:
        result = experiment.run(compose(*SMALL), tmp_path, console=terminal.console)
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.text)
    for epoch in (0, 1):
        shown = [line for line in re.split(r"[\r\n]+", drawn) if f"epoch {epoch}/1 ━" in line]
        assert re.search(
            r" (\d+)/\1  ?loss \d\.\d{3}  acc [01]\.\d{3}  [\d,]+ images/s", shown[-1]
        )
    kept = left(terminal.text)
    assert not [line for line in kept if "━" in line or "images/s" in line]
    assert [line for line in kept if line.startswith("Epoch ")] == [
        f"Epoch {row['epoch']}. Loss: {row['train/loss']:.3f}, Train acc {row['train/acc']:.3f}, "
        f"Val acc {row['val/acc']:.3f}"
        for row in result.history
    ]
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")  # the cursor


def test_a_run_that_breaks_leaves_the_terminal_as_it_was(compose, tmp_path, often, monkeypatch):
    def interrupted(self, fit):
        if fit.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.StopOnDivergence, "batch_end", interrupted)
    with Terminal() as terminal, pytest.raises(KeyboardInterrupt):
        experiment.run(compose(*SMALL), tmp_path, console=terminal.console)
    assert "epoch 0/1 " in terminal.text
    assert not [line for line in left(terminal.text) if "━" in line]
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
