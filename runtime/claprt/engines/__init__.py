"""Engines: what executes a tower's graph. One small protocol, one module per backend, chosen by name."""

from claprt.engines.base import Engine
from claprt.engines.select import BACKENDS, BackendStatus, backend_status, choose_backend, load_engine

__all__ = ["BACKENDS", "BackendStatus", "Engine", "backend_status", "choose_backend", "load_engine"]
