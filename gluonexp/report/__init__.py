"""Pictures and tables of runs; the only importer of matplotlib."""
