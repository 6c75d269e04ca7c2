// Copies and fills.

#include <algorithm>
#include <cstring>

#include "fake.h"

namespace fake {
namespace {

struct Side {
    CUdeviceptr address;
    bool on_device;
};
Side device(CUdeviceptr address) { return {address, true}; }
Side host(const void* pointer) { return {address_of(pointer), false}; }

// In a graph, memory may be gone when it is launched.
CUresult check_graph_memory(Side side, size_t bytes) {
    std::string problem;
    if (side.on_device) problem = device_problem(side.address, bytes);
    else if (!pinned(side.address)) problem = formatted("%#llx is no longer pinned", side.address);
    REQUIRE(problem.empty(), CUDA_ERROR_ILLEGAL_ADDRESS, "a graph copies or fills: %s", problem.c_str());
    return CUDA_SUCCESS;
}

CUresult copy(Side to, Side from, size_t bytes, CUstream handle, bool wait) {
    if (wait)
        if (CUresult result = refuse_while_capturing()) return result;
    if (!bytes) return CUDA_SUCCESS;
    for (const Side& side : {to, from})
        if (CUresult result = (side.on_device ? check_device : check_host)(side.address, bytes)) return result;
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    const auto pageable = [](Side side) { return !side.on_device && !pinned(side.address); };
    const bool in_graph = stream->capture != nullptr;
    if (in_graph && (pageable(from) || pageable(to))) return refuse_capturing(stream, "copies of pageable memory");
    if (to.on_device && !from.on_device) state.counts["bytes_to_device"] += int(bytes);
    const char* source = bytes_at(from.address);
    std::shared_ptr<std::vector<char>> staged;
    // Host memory that is not pinned is read before an asynchronous copy returns, and written before it returns.
    if (!wait && pageable(from)) {
        state.counts["pageable_async_copy"]++;
        staged = std::make_shared<std::vector<char>>(source, source + bytes);
        source = staged->data();
    }
    if (!wait && pageable(to)) {
        state.counts["pageable_async_copy"]++;
        wait = true;
    }
    const auto work = [staged, source, to, from, bytes, in_graph] {
        if (in_graph)
            for (const Side& side : {to, from})
                if (CUresult result = check_graph_memory(side, bytes)) return result;
        memmove(bytes_at(to.address), source, bytes);
        return CUDA_SUCCESS;
    };
    if (CUresult result = submit(stream, {work})) return result;
    return wait ? drain(stream) : CUDA_SUCCESS;
}

template <class Value>
CUresult fill(CUdeviceptr to, Value value, size_t count, CUstream handle) {
    if (!count) return CUDA_SUCCESS;
    REQUIRE(to % sizeof value == 0, CUDA_ERROR_INVALID_VALUE, "%#llx is no multiple of %zu", to, sizeof value);
    if (CUresult result = check_device(to, count * sizeof value)) return result;
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    const bool in_graph = stream->capture != nullptr;
    const auto work = [=] {
        if (in_graph)
            if (CUresult result = check_graph_memory(device(to), count * sizeof value)) return result;
        std::fill_n(reinterpret_cast<Value*>(to), count, value);
        return CUDA_SUCCESS;
    };
    return submit(stream, {work});
}

}  // namespace
}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
    FORWARD(CONTEXT, copy(device(to), host(from), bytes, nullptr, true));
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
    FORWARD(CONTEXT, copy(host(to), device(from), bytes, nullptr, true));
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    FORWARD(CONTEXT, copy(device(to), device(from), bytes, nullptr, false));
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    FORWARD(CONTEXT, copy(device(to), host(from), bytes, stream, false));
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    FORWARD(CONTEXT, copy(host(to), device(from), bytes, stream, false));
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    FORWARD(CONTEXT, copy(device(to), device(from), bytes, stream, false));
}

#define MEMSET(name, Value)                                                                                  \
    CUresult name(CUdeviceptr to, Value value, size_t count) { FORWARD(CONTEXT, fill(to, value, count, nullptr)); } \
    CUresult name##Async(CUdeviceptr to, Value value, size_t count, CUstream stream) {                       \
        FORWARD(CONTEXT, fill(to, value, count, stream));                                                    \
    }
MEMSET(cuMemsetD8, unsigned char)
MEMSET(cuMemsetD16, unsigned short)
MEMSET(cuMemsetD32, unsigned)

}  // extern "C"
