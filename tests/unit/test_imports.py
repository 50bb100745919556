"""Large packages are imported without looking for garbage, then and later."""

import gc
import sys
import types

import pytest

from gluonexp.base.imports import heavy_imports


def test_what_a_large_import_made_is_looked_through_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.unfreeze()
    try:
        with heavy_imports():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() == 0
        with heavy_imports():
            for number in range(200):
                monkeypatch.setitem(sys.modules, f"part{number}", types.ModuleType("part"))
        assert gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
