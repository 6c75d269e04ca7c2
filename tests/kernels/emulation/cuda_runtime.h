// As much of the CUDA runtime as the C library, its example and the programs in kernels/dev use, on a CPU: device memory is
// host memory. A stream is done at once; with CLAPRT_EMULATED_DEFER=1 nothing is done until somebody waits, and then in the
// order in which it was submitted, as if all streams were one. Fresh memory is full of NaN. CLAPRT_EMULATED_FAIL names a
// function that fails, CLAPRT_EMULATED_MEMORY says how many bytes there are.
#pragma once

#include "cuda_emulation.h"

#include <deque>
#include <functional>
#include <map>
#include <mutex>

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
using cudaEvent_t = std::size_t*;  // how much must have been submitted when it happens
struct cudaFuncAttributes {};
constexpr unsigned cudaEventDisableTiming = 2;

namespace emulation {
inline bool fails(const char* function) {
    const char* named = std::getenv("CLAPRT_EMULATED_FAIL");
    return named != nullptr && std::strcmp(named, function) == 0;
}

// Work that has been put off.
struct Deferred {
    std::recursive_mutex mutex;
    std::deque<std::function<void()>> work;
    std::size_t submitted = 0, done = 0;

    void submit(std::function<void()> what) {
        const std::lock_guard<std::recursive_mutex> lock(mutex);
        work.push_back(std::move(what));
        ++submitted;
        if (std::getenv("CLAPRT_EMULATED_DEFER") == nullptr) until(submitted);
    }
    void until(std::size_t place) {
        const std::lock_guard<std::recursive_mutex> lock(mutex);
        for (; done < place; ++done) {
            work.front()();
            work.pop_front();
        }
    }
    void all() { until(submitted); }
};
inline Deferred& deferred = *new Deferred;

// How large device memory is, and how much of it is taken.
inline std::size_t memory() {
    const char* size = std::getenv("CLAPRT_EMULATED_MEMORY");
    return size == nullptr ? std::size_t{1} << 40 : std::strtoull(size, nullptr, 10);
}
inline std::map<void*, std::size_t>& allocations = *new std::map<void*, std::size_t>;
inline std::size_t& allocated = *new std::size_t(0);
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
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return emulation::fails("cudaGetDevice") ? cudaErrorNoDevice : cudaSuccess;
}
inline cudaError_t cudaMalloc(void** address, std::size_t size) {
    const std::lock_guard<std::recursive_mutex> lock(emulation::deferred.mutex);
    if (emulation::fails("cudaMalloc") || size > emulation::memory() - emulation::allocated) return cudaErrorMemoryAllocation;
    *address = std::malloc(size);
    std::memset(*address, 0xFF, size);
    emulation::allocated += emulation::allocations[*address] = size;
    return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** address, std::size_t size) {
    return emulation::fails("cudaMallocHost") ? cudaErrorMemoryAllocation : cudaMalloc(address, size);
}
inline cudaError_t cudaFree(void* address) {
    const std::lock_guard<std::recursive_mutex> lock(emulation::deferred.mutex);
    emulation::deferred.all();
    emulation::allocated -= emulation::allocations[address];
    emulation::allocations.erase(address);
    std::free(address);
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = emulation::memory(), *free = *total - emulation::allocated;
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
    if (emulation::fails("cudaMemcpyAsync")) return cudaErrorInvalidValue;
    emulation::deferred.submit([=] { std::memcpy(to, from, size); });
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind) {
    emulation::deferred.all();
    std::memcpy(to, from, size);
    return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
    emulation::deferred.all();
    return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new std::size_t(0);
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    const std::lock_guard<std::recursive_mutex> lock(emulation::deferred.mutex);
    *event = emulation::deferred.submitted;
    return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emulation::deferred.until(*event);
    return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 10.0f;  // there is nothing to be timed here
    return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, std::size_t size) {
    emulation::deferred.submit([=] { std::memset(to, value, size); });
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = 50 << 20;
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
    emulation::deferred.submit([=] { emulation::launch(grid, block.x, [&] { kernel(argument); }); });
    return cudaSuccess;
}
