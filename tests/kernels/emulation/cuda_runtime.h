// As much of the CUDA runtime as claprt_log_mel.cu uses, on a CPU: device memory is host memory, a stream is done at once.
// Fresh memory is full of NaN. CLAPRT_EMULATED_FAIL names a function that fails.
#pragma once

#include "cuda_emulation.h"

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrL2CacheSize };
using cudaStream_t = void*;
using cudaEvent_t = int*;
struct cudaFuncAttributes {};
constexpr unsigned cudaEventDisableTiming = 2;

namespace emulation {
inline bool fails(const char* function) {
    const char* named = std::getenv("CLAPRT_EMULATED_FAIL");
    return named != nullptr && std::strcmp(named, function) == 0;
}
}  // namespace emulation

inline const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorNoDevice: return "cudaErrorNoDevice";
        default: return "cudaErrorLaunchFailure";
    }
}
inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return emulation::fails("cudaGetDevice") ? cudaErrorNoDevice : cudaSuccess;
}
inline cudaError_t cudaMalloc(void** address, std::size_t size) {
    if (emulation::fails("cudaMalloc")) return cudaErrorMemoryAllocation;
    *address = std::malloc(size);
    std::memset(*address, 0xFF, size);
    return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** address, std::size_t size) {
    return emulation::fails("cudaMallocHost") ? cudaErrorMemoryAllocation : cudaMalloc(address, size);
}
inline cudaError_t cudaFree(void* address) {
    std::free(address);
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind) {
    std::memcpy(to, from, size);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t) {
    return emulation::fails("cudaMemcpyAsync") ? cudaErrorInvalidValue : cudaMemcpy(to, from, size, kind);
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new int(0);
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 0.0f;
    return cudaErrorInvalidValue;  // there is nothing to be timed here
}
inline cudaError_t cudaMemset(void* to, int value, std::size_t size) {
    std::memset(to, value, size);
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = 1;
    return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
    return cudaSuccess;
}
template <typename Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, std::size_t, cudaStream_t) {
    if (emulation::fails("cudaLaunchKernel")) return cudaErrorLaunchFailure;
    const Argument argument = *static_cast<Argument*>(arguments[0]);
    emulation::launch(grid, block.x, [&] { kernel(argument); });
    return cudaSuccess;
}
