// Found in place of CUDA's own header when a kernel is compiled for the CPU.
#pragma once
#include "cuda_emulation.h"
