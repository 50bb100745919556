"""The libraries that compute what a run comes to, besides MXNet: their versions belong to it."""

from __future__ import annotations

from collections.abc import Iterator

from gluonexp.config.schema import Config


def libraries(config: Config) -> tuple[str, ...]:
    """Return the names on PyPI of those that compute in a run, where they are installed."""
    return tuple(sorted(set(_libraries(config))))


def _libraries(config: Config) -> Iterator[str]:
    features, export = config.features, config.export
    if config.engine.name == "torch" or (export.enabled and export.torch):
        yield "torch"
    if export.enabled and export.onnx is not False:  # they prove it
        yield from ("onnxruntime", "openvino")
    frozen = any(rule.state == "frozen" for rule in config.freeze.rules)
    if frozen and features.cache != "off":
        yield "torch" if features.engine == "torch" else "openvino"
