// What the two halves of the C interface share: errors, and tables of clips on their way to the device. Not for users.

#pragma once

#include "claprt_log_mel.h"

#include <cuda_runtime.h>

#include <mutex>
#include <vector>

#define CLAPRT_API extern "C" __attribute__((visibility("default")))

namespace claprt {

constexpr int kRuns = 16;             // how many may be under way before one has to wait
constexpr int kLargestBatch = 65535;  // gridDim.y

// Set what claprt_log_mel_message() says, and return the status.
__attribute__((format(printf, 2, 3))) claprt_status fail(claprt_status status, const char* format, ...);
claprt_status failed(cudaError_t error, const char* what);
// A call begins: what the last one was refused for is forgotten.
void forget_failure();

#define CLAPRT_CHECK(call)                                               \
    do {                                                                 \
        const cudaError_t error_ = (call);                               \
        if (error_ != cudaSuccess) return claprt::failed(error_, #call); \
    } while (0)

struct NamedPointer {
    const char* name;
    const void* pointer;
    std::size_t alignment;
};

claprt_status check_pointer(const NamedPointer& pointer);
claprt_status check_sample_type(claprt_type type);
// Every clip lies inside `count` samples (or frames: `unit`).
claprt_status check_clips(const claprt_clip* clips, int batch, std::int64_t count, const char* unit);
claprt_status check_max_batch(int max_batch);
claprt_status check_batch(int batch, int max_batch);
// A launch that CUDA refused.
claprt_status launch_failed(cudaError_t error, const char* kernel, dim3 grid, int threads);

template <typename Arguments>
struct NamedKernel {
    const char* name;
    void (*kernel)(Arguments);
};

template <typename Arguments>
claprt_status launch(const NamedKernel<Arguments>& found, dim3 grid, int threads, Arguments arguments, cudaStream_t stream) {
    void* parameters[] = {&arguments};
    const cudaError_t error = cudaLaunchKernel(found.kernel, grid, dim3(threads), parameters, 0, stream);
    return error == cudaSuccess ? CLAPRT_OK : launch_failed(error, found.name, grid, threads);
}

// Device memory that lives as long as this.
template <typename T>
class DeviceArray {
  public:
    DeviceArray() = default;
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;
    ~DeviceArray() { cudaFree(data_); }

    claprt_status create(const std::vector<T>& values) {
        CLAPRT_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), sizeof(T) * values.size()));
        CLAPRT_CHECK(cudaMemcpy(data_, values.data(), sizeof(T) * values.size(), cudaMemcpyHostToDevice));
        return CLAPRT_OK;
    }

    const T* data() const { return data_; }

  private:
    T* data_ = nullptr;
};

// A run's table of clips: staged in pinned memory, and copied by its stream. 16 runs may be under way.
template <typename Entry>
class TableRing {
  public:
    TableRing() = default;
    TableRing(const TableRing&) = delete;
    TableRing& operator=(const TableRing&) = delete;

    ~TableRing() {
        for (cudaEvent_t event : done_) {
            if (event == nullptr) continue;
            cudaEventSynchronize(event);
            cudaEventDestroy(event);
        }
        cudaFree(on_device_);
        cudaFreeHost(staged_);
    }

    claprt_status create(int max_batch) {
        max_batch_ = max_batch;
        const std::size_t bytes = sizeof(Entry) * kRuns * max_batch;
        CLAPRT_CHECK(cudaMalloc(reinterpret_cast<void**>(&on_device_), bytes));
        CLAPRT_CHECK(cudaMallocHost(reinterpret_cast<void**>(&staged_), bytes));
        for (cudaEvent_t& event : done_) CLAPRT_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        return CLAPRT_OK;
    }

    // Have `fill` write a table of `batch` entries, copy it, and call `launch` with its address on the device, one run after
    // the other.
    template <typename Fill, typename Launch>
    claprt_status run(int batch, cudaStream_t stream, const Fill& fill, const Launch& launch) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const int slot = next_;
        next_ = (slot + 1) % kRuns;
        CLAPRT_CHECK(cudaEventSynchronize(done_[slot]));  // returns at once if the run 16 runs ago is done
        Entry* staged = staged_ + static_cast<std::size_t>(slot) * max_batch_;
        Entry* on_device = on_device_ + static_cast<std::size_t>(slot) * max_batch_;
        fill(staged);
        CLAPRT_CHECK(cudaMemcpyAsync(on_device, staged, sizeof(Entry) * batch, cudaMemcpyHostToDevice, stream));
        const claprt_status launched = launch(on_device);
        CLAPRT_CHECK(cudaEventRecord(done_[slot], stream));
        return launched;
    }

  private:
    int max_batch_ = 0;
    Entry* staged_ = nullptr;     // kRuns · max_batch, pinned
    Entry* on_device_ = nullptr;  // the same on the device
    cudaEvent_t done_[kRuns] = {};
    int next_ = 0;
    std::mutex mutex_;
};

}  // namespace claprt
