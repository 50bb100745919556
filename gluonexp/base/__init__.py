"""What every room stands on: errors, MXNet's door, devices, processes, downloads, files, text."""

from gluonexp.base import streams

streams.open_all()
