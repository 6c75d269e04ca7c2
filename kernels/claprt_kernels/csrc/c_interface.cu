// What both halves of the C interface report and check.

#include "c_interface.h"

#include <cstdarg>
#include <cstdio>

namespace {

thread_local char message[512];

}  // namespace

namespace claprt {

claprt_status fail(claprt_status status, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

claprt_status failed(cudaError_t error, const char* what) {
    return fail(error == cudaErrorMemoryAllocation ? CLAPRT_OUT_OF_MEMORY : CLAPRT_CUDA_ERROR, "%s failed: %s (%s)", what,
                cudaGetErrorString(error), cudaGetErrorName(error));
}

void forget_failure() { message[0] = '\0'; }

claprt_status check_pointer(const NamedPointer& p) {
    if (p.pointer == nullptr) return fail(CLAPRT_INVALID_ARGUMENT, "%s is NULL; pass the address of its memory", p.name);
    if (reinterpret_cast<std::uintptr_t>(p.pointer) % p.alignment != 0)
        return fail(CLAPRT_INVALID_ARGUMENT, "%s is misaligned: %p is no multiple of %zu", p.name, p.pointer, p.alignment);
    return CLAPRT_OK;
}

claprt_status check_sample_type(claprt_type type) {
    if (type == CLAPRT_INT16 || type == CLAPRT_FLOAT32) return CLAPRT_OK;
    return fail(CLAPRT_INVALID_ARGUMENT, "pcm_type is %d; samples are CLAPRT_INT16 or CLAPRT_FLOAT32", type);
}

claprt_status check_clips(const claprt_clip* clips, int batch, std::int64_t count, const char* unit) {
    for (int i = 0; i < batch; ++i) {
        const long long offset = clips[i].offset, length = clips[i].length;
        if (length < 1) return fail(CLAPRT_INVALID_ARGUMENT, "clip %d has %lld %s; it needs at least one", i, length, unit);
        if (offset < 0 || length > count - offset)
            return fail(CLAPRT_INVALID_ARGUMENT, "clip %d is %lld %s from %lld on, which is outside of the %lld of pcm", i,
                        length, unit, offset, static_cast<long long>(count));
    }
    return CLAPRT_OK;
}

claprt_status check_max_batch(int max_batch) {
    if (max_batch >= 1 && max_batch <= kLargestBatch) return CLAPRT_OK;
    return fail(CLAPRT_INVALID_ARGUMENT, "max_batch is %d; pass 1 ... %d", max_batch, kLargestBatch);
}

claprt_status check_batch(int batch, int max_batch) {
    if (batch >= 1 && batch <= max_batch) return CLAPRT_OK;
    return fail(CLAPRT_INVALID_ARGUMENT, "batch is %d; this handle was created for 1 ... %d", batch, max_batch);
}

claprt_status launch_failed(cudaError_t error, const char* kernel, dim3 grid, int threads) {
    return fail(CLAPRT_CUDA_ERROR, "launching %s on %u x %u blocks of %d threads failed: %s (%s)", kernel, grid.x, grid.y,
                threads, cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace claprt

CLAPRT_API const char* claprt_log_mel_message(void) { return message; }
