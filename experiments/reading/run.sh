#!/usr/bin/env bash
# Make a store of 10,000 runs in PostgreSQL and one in SQLite, serve each, and time the commands;
# results.csv gets what comes out. Needs PostgreSQL and 2 GB; about ten minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python "$here/measure.py" > "$here/results.csv"
