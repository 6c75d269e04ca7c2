"""TensorRT, and TensorRT for RTX: one code for both, which takes the library's Python module as a parameter.

library   which library is installed, and whether claprt can work with it
profiles  the shapes that an engine is built for
build     graph -> serialized engine (a "plan")
cache     plans on disk, by everything that they depend on
create    what `claprt engine` does: build, verify, keep
runner    plan -> a tower on the GPU

The two libraries have nearly the same interface. Full TensorRT compiles for the GPU that it runs on. TensorRT for RTX
compiles for classes of GPUs, without having one, and finishes the work on the user's GPU.
"""
