"""A stand-in for an ONNX Runtime session on the CUDA provider, which does not start without a GPU.

It computes with the CPU provider, on the addresses that were bound, in the order of the stream it was given.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime
import tensorrt  # the stand-in beside this


class CudaSession:
    def __init__(self, graph: str | bytes, options: dict[str, str]) -> None:
        assert options["use_tf32"] == "0"
        assert options["device_id"] == "0"
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        self._stream = int(options["user_compute_stream"])
        assert self._stream
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        waits = options.get_run_config_entry("disable_synchronize_execution_providers")
        assert waits == "1", "the run would wait"
        inputs = {name: tensorrt._at(address, shape, dtype) for name, (address, shape, dtype) in binding.inputs.items()}
        (output,) = [tensorrt._at(address, shape, dtype) for address, shape, dtype in binding.outputs.values()]

        def compute(_: Any) -> None:
            output[:] = self._session.run(None, {name: value.copy() for name, value in inputs.items()})[0]

        context = ctypes.c_void_p()  # the CUDA runtime makes the primary context current by itself
        assert not tensorrt._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        assert not tensorrt._cuda.cuCtxPushCurrent_v2(context)
        assert tensorrt.launch(self._stream, compute)
        assert not tensorrt._cuda.cuCtxPopCurrent_v2(ctypes.byref(context))


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_input(self, name: str, kind: str, device: int, dtype: Any, shape: list[int], address: int) -> None:
        assert (kind, device) == ("cuda", 0)
        self.inputs[name] = address, shape, np.dtype(dtype)

    def bind_output(self, name: str, kind: str, device: int, dtype: Any, shape: list[int], address: int) -> None:
        assert (kind, device) == ("cuda", 0)
        self.outputs[name] = address, shape, np.dtype(dtype)
