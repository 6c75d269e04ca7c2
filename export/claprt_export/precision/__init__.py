"""FP16 and INT8 forms of a tower: what they are made of, how they are chosen, and what they cost.

data         what a tower is calibrated and judged on: log-Mel clips and captions
observe      what goes into each Linear layer, as the calibration set shows it
quantize     INT8 weights, ranges and biases of each Linear layer, from what was observed
simulate     a PyTorch tower that rounds as a variant of it will
search       which layers must stay in higher precision for a bound to hold
half         FP32 graph -> typed FP16 graph
int8         FP32 graph -> the two INT8 graphs, for TensorRT and for ONNX Runtime on CPUs
"""
