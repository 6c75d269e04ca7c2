"""Engines: what executes a tower's graph. One small protocol, one module per backend, chosen by name."""

from claprt.engines.base import Engine
from claprt.engines.select import BACKENDS, BackendStatus, Choice, backend_status, choose_backend

__all__ = ["BACKENDS", "BackendStatus", "Choice", "Engine", "backend_status", "choose_backend"]
