// Entering a function, failing, what tests ask; the driver itself and the device.

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "fake.h"

namespace fake {

State& state = *new State;  // outlives the objects of the program, which call the driver when they are destroyed
thread_local std::vector<CUcontext> contexts;
thread_local bool in_host_function = false;

namespace {

thread_local const char* entered_function = "";

}  // namespace

size_t setting(const char* name, size_t otherwise) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}

std::string formatted(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

CUresult fail(CUresult code, const std::string& message) {
    state.last_error = std::string(entered_function) + ": " + message;
    if (setting("FAKE_CUDA_LOG", 0)) fprintf(stderr, "fake CUDA: %s\n", state.last_error.c_str());
    return code;
}

CUcontext current() { return contexts.empty() ? nullptr : contexts.back(); }

// What every function does first: count, fail if that is wanted, check the state that it needs.
CUresult enter(const char* function, Needs needs) {
    entered_function = function;
    const int count = ++state.counts[function];
    if (const char* wanted = getenv("FAKE_CUDA_FAIL")) {
        int nth = 0, code = 0;
        const size_t length = strlen(function);
        if (!strncmp(wanted, function, length) && sscanf(wanted + length, ":%d:%d", &nth, &code) == 2 && count == nth) {
            if (current() && setting("FAKE_CUDA_STICKY", 0)) current()->error = CUresult(code);
            return fail(CUresult(code), formatted("call %d fails as FAKE_CUDA_FAIL wants", nth));
        }
    }
    REQUIRE(!in_host_function, CUDA_ERROR_NOT_PERMITTED, "called from a host function");
    if (needs == Needs::NOTHING) return CUDA_SUCCESS;
    if (!state.initialised) return fail(CUDA_ERROR_NOT_INITIALIZED, "before cuInit");
    if (needs == Needs::INIT) return CUDA_SUCCESS;
    if (!current()) return fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread");
    if (!state.live.count(current())) return fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context is destroyed");
    return current()->error;
}

int devices() { return int(std::min(setting("FAKE_CUDA_DEVICES", 1), size_t{DEVICES})); }

void compute_capability(int* major, int* minor) {
    *major = 9, *minor = 0;
    if (const char* wanted = getenv("FAKE_CUDA_CC")) sscanf(wanted, "%d.%d", major, minor);
}

namespace {

int attribute_value(CUdevice_attribute attribute) {
    int major, minor;
    compute_capability(&major, &minor);
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return major;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return minor;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return MAX_BLOCK;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return MAX_BLOCK_Z;
        case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return MAX_GRID_X;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return MAX_GRID_YZ;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 << 10;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return SHARED_OPT_IN;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return SHARED_OPT_IN + 1024;
        case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 65536;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return 32;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 16;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 1'000'000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 256;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 4 << 20;
        case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT: return 512;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED: return 1;
        default: return 0;
    }
}

}  // namespace
}  // namespace fake

using namespace fake;

extern "C" {

const char* fake_cuda_last_error() { return state.last_error.c_str(); }

// How many calls of a function there were so far. The name is the symbol's: cuMemAlloc_v2. Also counted is
// pageable_async_copy: asynchronous copies that were not, as the host memory was not pinned; and bytes_to_device: bytes of
// copies from the host.
int fake_cuda_count(const char* function) {
    std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = state.counts.find(function);
    return found == state.counts.end() ? 0 : found->second;
}

// Forget the current context's error, the work that waits on its streams, and the last message; make good what was
// written beside allocations.
void fake_cuda_reset() {
    std::lock_guard<std::mutex> lock(state.mutex);
    state.last_error.clear();
    for (auto& [address, allocation] : state.allocations) fill_canaries(address, allocation);
    if (CUcontext context = current()) {
        context->error = CUDA_ERROR_UNKNOWN;  // so that none of the work is done
        drain(context);
        context->error = CUDA_SUCCESS;
    }
}

CUresult fake_cuda_unsupported(const char* function) {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (CUresult entered = enter(function, Needs::NOTHING)) return entered;
    return fail(CUDA_ERROR_NOT_SUPPORTED, "not implemented by this fake driver");
}

// --- the driver and the device

CUresult cuInit(unsigned flags) {
    ENTER(NOTHING);
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE, "flags %u", flags);
    return give(&state.initialised, true);
}

CUresult cuDriverGetVersion(int* version) { FORWARD(NOTHING, give(version, CUDA_VERSION)); }

CUresult cuGetErrorName(CUresult code, const char** name) {
    const Error* error = errors;
    while (error->name && error->code != code) error++;
    *name = error->name;
    return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char** text) {
    const Error* error = errors;
    while (error->name && error->code != code) error++;
    *text = error->text;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetProcAddress(const char* name, void** address, int, cuuint64_t, CUdriverProcAddressQueryResult* status) {
    ENTER(NOTHING);
    const Symbol* symbol = symbols;
    while (symbol->name && strcmp(symbol->name, name)) symbol++;
    *address = symbol->address;
    if (status) *status = *address ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *address ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuDeviceGetCount(int* count) { FORWARD(INIT, give(count, devices())); }

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    ENTER_DEVICE(ordinal);
    return give(device, CUdevice(ordinal));
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    ENTER_DEVICE(device);
    snprintf(name, length, "Fake CUDA device (CPU)");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
    ENTER_DEVICE(device);
    snprintf(id, length, "0000:%02d:00.0", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    ENTER_DEVICE(device);
    return give(value, attribute_value(attribute));
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
    ENTER_DEVICE(device);
    compute_capability(major, minor);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
    ENTER_DEVICE(device);
    return give(bytes, device_memory());
}

}  // extern "C"
