// What a library of kernels compiled for the CPU exports, and the fake driver launches.
#pragma once

#include <cstddef>

struct EmulatedKernel {
    const char* name;
    // Size of all parameters as a GPU takes them: each at a multiple of its own alignment, nothing after the last.
    size_t parameter_bytes;
    void (*launch)(const unsigned grid[3], const unsigned block[3], size_t shared_bytes, const void* parameters);
    // May be null. Called before each launch: what is wrong with the arguments, or null. `device_range` says whether
    // `bytes` bytes from `address` on lie within one live device allocation.
    const char* (*check)(const unsigned grid[3], const unsigned block[3], const void* parameters,
                         int (*device_range)(unsigned long long address, unsigned long long bytes));
};

extern "C" {
extern const EmulatedKernel emulated_kernels[];
extern const int emulated_kernel_count;
}
