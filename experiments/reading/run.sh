#!/usr/bin/env bash
# Make a store of 10,000 runs in PostgreSQL and one in SQLite, serve each, and time the commands;
# results.csv gets what comes out. Needs PostgreSQL; about ten minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where the stores go
chmod go+x "$work"        # PostgreSQL has a user of its own where this one is root
cd "$here/../.."
python -m experiments.reading.measure "$work" > "$here/results.csv"
