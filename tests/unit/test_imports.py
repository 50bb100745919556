"""Large packages are imported without looking for garbage, then and later."""

import gc
import sys
import types

import pytest

from gluonexp.base import imports
from gluonexp.base.imports import heavy_imports


@pytest.mark.parametrize("own", [True, False])
def test_what_a_large_import_made_is_looked_through_no_more_in_a_process_of_our_own(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setattr(imports, "_own", False)
    if own:
        imports.own_process()
    gc.unfreeze()
    try:
        with heavy_imports():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() == 0
        with heavy_imports():
            for number in range(200):
                monkeypatch.setitem(sys.modules, f"part{number}", types.ModuleType("part"))
        assert gc.isenabled() and (gc.get_freeze_count() > 0) == own
    finally:
        gc.unfreeze()
