"""The only epoch loop, callbacks, checkpoints, schedules, an engine's protocol; no MXNet."""
