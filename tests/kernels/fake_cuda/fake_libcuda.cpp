// A CUDA driver for machines without a GPU: device memory is guarded host memory, kernels are functions of a library.
//
// It is stricter than a real driver, so that tests fail where a GPU would only sometimes. Settings, read from the
// environment at each call:
//   FAKE_CUDA_KERNELS=PATH           library of kernels (emulated_kernel.h), opened by the first module
//   FAKE_CUDA_CC=9.0                 compute capability
//   FAKE_CUDA_MEMORY=BYTES           device memory, 4 GiB if not set
//   FAKE_CUDA_DEFER=1                work on streams waits for a synchronisation
//   FAKE_CUDA_FAIL=FUNCTION:NTH:CODE the NTH call of FUNCTION, counted from the start of the process, returns CODE
//   FAKE_CUDA_LOG=1                  messages about errors go to stderr
// What cuda.h declares and this file does not define is made by build.py and returns CUDA_ERROR_NOT_SUPPORTED.

#include <cuda.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulated_kernel.h"

struct Symbol {
    const char* name;
    void* address;
};
struct Error {
    int code;
    const char *name, *text;
};
extern const Symbol symbols[];  // made by build.py, as is the next
extern const Error errors[];

struct Operation {
    CUstream stream;
    std::function<CUresult()> work;
    std::vector<std::shared_ptr<Operation>> after;  // operations of other streams
    bool done = false;
    std::chrono::steady_clock::time_point finished{};
};
using OperationPtr = std::shared_ptr<Operation>;

// What the driver's handles point to. These are never deleted, so that a stale handle is always recognised.
struct CUstream_st {
    CUcontext context;
    bool blocking;  // waits for the legacy default stream, and makes it wait
    std::deque<OperationPtr> queue{};
};
struct CUctx_st {
    CUstream legacy;
    unsigned flags;
    CUresult error = CUDA_SUCCESS;  // what every call returns from then on
    std::vector<CUstream> streams{};
};
struct CUevent_st {
    CUcontext context;
    bool timing;
    OperationPtr mark{};
};
struct CUmod_st {
    CUcontext context;
    std::map<std::string, CUfunction> functions{};
};
struct CUfunc_st {
    CUcontext context;
    const EmulatedKernel* kernel;
    int dynamic_shared_limit = 48 << 10;
};

namespace {

constexpr size_t ARENA_BYTES = size_t{1} << 40, ALIGNMENT = 256;
constexpr int SHARED_OPT_IN = 227 << 10;
constexpr unsigned MAX_GRID_X = 0x7FFFFFFF, MAX_GRID_YZ = 65535, MAX_BLOCK = 1024, MAX_BLOCK_Z = 64;
constexpr unsigned char POISON = 0xFF, CANARY = 0xC5;

struct Allocation {
    CUcontext context;
    size_t bytes;
    char *pages, *pages_end;
};
struct HostRange {
    size_t bytes;
    bool owned;
};

struct State {
    std::recursive_mutex mutex;
    bool initialised = false;
    const char* function = "";
    std::string last_error;
    std::map<std::string, int> counts;
    std::set<const void*> live;
    CUcontext primary = nullptr;
    int primary_retained = 0;
    unsigned primary_flags = 0;
    char *arena = nullptr, *arena_next = nullptr;
    size_t used = 0;
    std::map<CUdeviceptr, Allocation> allocations;
    std::map<CUdeviceptr, Allocation> freed;
    std::map<CUdeviceptr, HostRange> pinned;
    void* kernels = nullptr;
};

State& state = *new State;  // outlives the objects of the program, which call the driver when they are destroyed
thread_local std::vector<CUcontext> contexts;

size_t setting(const char* name, size_t otherwise) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}

size_t device_memory() { return setting("FAKE_CUDA_MEMORY", size_t{4} << 30); }

[[gnu::format(printf, 1, 2)]] std::string formatted(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

CUresult fail(CUresult code, const std::string& message) {
    state.last_error = std::string(state.function) + ": " + message;
    if (setting("FAKE_CUDA_LOG", 0)) fprintf(stderr, "fake CUDA: %s\n", state.last_error.c_str());
    return code;
}

enum class Needs { NOTHING, INIT, CONTEXT };

CUcontext current() { return contexts.empty() ? nullptr : contexts.back(); }

// What every function does first: count, fail if that is wanted, check the state that it needs.
CUresult enter(const char* function, Needs needs) {
    state.function = function;
    const int count = ++state.counts[function];
    if (const char* wanted = getenv("FAKE_CUDA_FAIL")) {
        int nth = 0, code = 0;
        const size_t length = strlen(function);
        if (!strncmp(wanted, function, length) && sscanf(wanted + length, ":%d:%d", &nth, &code) == 2 && count == nth)
            return fail(CUresult(code), formatted("call %d fails as FAKE_CUDA_FAIL wants", nth));
    }
    if (needs == Needs::NOTHING) return CUDA_SUCCESS;
    if (!state.initialised) return fail(CUDA_ERROR_NOT_INITIALIZED, "before cuInit");
    if (needs == Needs::INIT) return CUDA_SUCCESS;
    if (!current()) return fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread");
    if (!state.live.count(current())) return fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context is destroyed");
    return current()->error;
}

#define ENTER(needs)                                         \
    std::lock_guard<std::recursive_mutex> lock(state.mutex); \
    if (CUresult entered = enter(__func__, Needs::needs)) return entered

#define FORWARD(needs, ...) \
    ENTER(needs);           \
    return __VA_ARGS__

#define REQUIRE(condition, code, ...) \
    if (!(condition)) return fail(code, formatted(__VA_ARGS__))

#define REQUIRE_USABLE(object) \
    REQUIRE(usable(object), CUDA_ERROR_INVALID_HANDLE, "no live " #object " of the current context")

template <class Value>
CUresult give(Value* result, Value value) {
    *result = value;
    return CUDA_SUCCESS;
}

template <class Object>
Object* created(Object* object) {
    state.live.insert(object);
    return object;
}

template <class Object>
bool usable(Object* object) {
    return state.live.count(object) && object->context == current();
}

// --- memory

char* bytes_at(CUdeviceptr address) { return reinterpret_cast<char*>(address); }
CUdeviceptr address_of(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

bool in_arena(CUdeviceptr address) {
    return state.arena && address >= address_of(state.arena) && address < address_of(state.arena) + ARENA_BYTES;
}

// The range that `address` lies in, or end().
template <class Ranges>
auto containing(Ranges& ranges, CUdeviceptr address) {
    auto found = ranges.upper_bound(address);
    if (found == ranges.begin()) return ranges.end();
    --found;
    return address < found->first + found->second.bytes ? found : ranges.end();
}

// Why [address, address + bytes) cannot be used as device memory; empty if it can.
std::string device_problem(CUdeviceptr address, size_t bytes) {
    if (!in_arena(address)) return formatted("%#llx is not device memory", address);
    const auto found = containing(state.allocations, address);
    if (found == state.allocations.end()) {
        const bool freed = containing(state.freed, address) != state.freed.end();
        return formatted("device memory at %#llx %s", address, freed ? "was freed" : "is not allocated");
    }
    const size_t all = found->second.bytes, left = found->first + all - address;
    if (bytes > left) return formatted("%zu bytes at %#llx, where %zu of %zu are left", bytes, address, left, all);
    if (found->second.context != current()) return formatted("device memory at %#llx is of another context", address);
    return "";
}

int device_range(unsigned long long address, unsigned long long bytes) {
    return device_problem(address, bytes).empty();
}

CUresult check_device(CUdeviceptr address, size_t bytes) {
    const std::string problem = device_problem(address, bytes);
    REQUIRE(problem.empty(), CUDA_ERROR_INVALID_VALUE, "%s", problem.c_str());
    return CUDA_SUCCESS;
}

CUresult check_host(CUdeviceptr address, size_t bytes) {
    REQUIRE(address, CUDA_ERROR_INVALID_VALUE, "a null pointer where host memory belongs");
    REQUIRE(!in_arena(address), CUDA_ERROR_INVALID_VALUE, "device memory at %#llx where host memory belongs", address);
    const auto found = containing(state.pinned, address);
    if (found == state.pinned.end()) return CUDA_SUCCESS;
    const size_t left = found->first + found->second.bytes - address;
    REQUIRE(bytes <= left, CUDA_ERROR_INVALID_VALUE, "%zu bytes at %#llx, where %zu are left of pinned memory", bytes,
            address, left);
    return CUDA_SUCCESS;
}

bool pinned(CUdeviceptr address) { return containing(state.pinned, address) != state.pinned.end(); }

void fill_canaries(CUdeviceptr address, const Allocation& allocation) {
    char* end = bytes_at(address) + allocation.bytes;
    memset(allocation.pages, CANARY, bytes_at(address) - allocation.pages);
    memset(end, CANARY, allocation.pages_end - end);
}

// Whether `culprit` wrote beside an allocation, but not as far as the pages that cannot be touched.
CUresult check_canaries(const char* culprit) {
    const auto is_canary = [](unsigned char byte) { return byte == CANARY; };
    for (const auto& [address, allocation] : state.allocations) {
        const char *begin = bytes_at(address), *end = begin + allocation.bytes;
        REQUIRE(std::all_of(end, static_cast<const char*>(allocation.pages_end), is_canary), CUDA_ERROR_ILLEGAL_ADDRESS,
                "%s wrote behind the end of the %zu bytes at %#llx", culprit, allocation.bytes, address);
        REQUIRE(std::all_of(static_cast<const char*>(allocation.pages), begin, is_canary), CUDA_ERROR_ILLEGAL_ADDRESS,
                "%s wrote before the start of the %zu bytes at %#llx", culprit, allocation.bytes, address);
    }
    return CUDA_SUCCESS;
}

CUresult allocate(CUdeviceptr* address, size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE), total = device_memory();
    REQUIRE(address && bytes, CUDA_ERROR_INVALID_VALUE, "%zu bytes wanted", bytes);
    REQUIRE(bytes <= total && state.used <= total - bytes, CUDA_ERROR_OUT_OF_MEMORY,
            "%zu bytes wanted, %zu of %zu are in use", bytes, state.used, total);
    if (!state.arena) {
        void* arena = mmap(nullptr, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        REQUIRE(arena != MAP_FAILED, CUDA_ERROR_OUT_OF_MEMORY, "no %zu bytes of address space", ARENA_BYTES);
        state.arena = state.arena_next = static_cast<char*>(arena);
    }
    // Addresses are never used again. The allocation ends where a page ends, and untouchable ones are on either side.
    const size_t aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t mapped = (aligned + page - 1) / page * page;
    char* pages = state.arena_next + page;
    const size_t left = state.arena + ARENA_BYTES - pages;
    REQUIRE(mapped + page <= left && !mprotect(pages, mapped, PROT_READ | PROT_WRITE), CUDA_ERROR_OUT_OF_MEMORY,
            "the address space for device memory is used up");
    state.arena_next = pages + mapped;
    char* begin = pages + mapped - aligned;
    memset(begin, POISON, bytes);
    const Allocation allocation{current(), bytes, pages, pages + mapped};
    fill_canaries(address_of(begin), allocation);
    state.allocations[address_of(begin)] = allocation;
    state.used += bytes;
    *address = address_of(begin);
    return CUDA_SUCCESS;
}

void release(std::map<CUdeviceptr, Allocation>::iterator found) {
    const Allocation& allocation = found->second;
    mmap(allocation.pages, allocation.pages_end - allocation.pages, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    state.used -= allocation.bytes;
    state.freed.insert(state.allocations.extract(found));
}

CUresult allocate_host(void** pointer, size_t bytes) {
    REQUIRE(pointer && bytes, CUDA_ERROR_INVALID_VALUE, "%zu bytes wanted", bytes);
    const bool done = !posix_memalign(pointer, sysconf(_SC_PAGESIZE), bytes);
    REQUIRE(done, CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes of host memory wanted", bytes);
    memset(*pointer, POISON, bytes);
    state.pinned[address_of(*pointer)] = {bytes, true};
    return CUDA_SUCCESS;
}

// --- streams

// Do what was submitted to the operation's stream up to this, and what that waits for. Nothing runs after an error.
void run_until(const OperationPtr& last) {
    while (!last->done) {
        const OperationPtr next = last->stream->queue.front();
        last->stream->queue.pop_front();
        for (const auto& earlier : next->after) run_until(earlier);
        CUresult& error = last->stream->context->error;
        if (!error && next->work) error = next->work();
        next->finished = std::chrono::steady_clock::now();
        next->work = nullptr;
        next->after.clear();
        next->done = true;
    }
}

CUresult drain(CUstream stream) {
    if (!stream->queue.empty()) run_until(OperationPtr(stream->queue.back()));
    return stream->context->error;
}

CUresult drain(CUcontext context) {
    drain(context->legacy);
    for (CUstream stream : context->streams) drain(stream);
    return context->error;
}

CUstream resolved(CUstream handle) { return !handle || handle == CU_STREAM_LEGACY ? current()->legacy : handle; }

CUresult submit(CUstream handle, std::function<CUresult()> work, OperationPtr after = nullptr,
                OperationPtr* mark = nullptr) {
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    const CUcontext context = stream->context;
    auto operation = std::make_shared<Operation>(Operation{stream, std::move(work), {}});
    if (after) operation->after.push_back(after);
    if (stream == context->legacy) {
        for (CUstream other : context->streams)
            if (other->blocking && !other->queue.empty()) operation->after.push_back(other->queue.back());
    } else if (stream->blocking && !context->legacy->queue.empty()) {
        operation->after.push_back(context->legacy->queue.back());
    }
    stream->queue.push_back(operation);
    if (mark) *mark = operation;
    if (setting("FAKE_CUDA_DEFER", 0)) return CUDA_SUCCESS;
    run_until(operation);
    return context->error;
}

// Whether all is done. A program that asks again and again gets on: each time, one operation is done.
CUresult query(const OperationPtr& last) {
    if (!last || last->done) return CUDA_SUCCESS;
    run_until(OperationPtr(last->stream->queue.front()));
    return last->stream->context->error ? last->stream->context->error : CUDA_ERROR_NOT_READY;
}

struct Side {
    CUdeviceptr address;
    bool on_device;
};
Side device(CUdeviceptr address) { return {address, true}; }
Side host(const void* pointer) { return {address_of(pointer), false}; }

CUresult copy(Side to, Side from, size_t bytes, CUstream stream, bool wait) {
    if (!bytes) return CUDA_SUCCESS;
    for (const Side& side : {to, from})
        if (CUresult result = (side.on_device ? check_device : check_host)(side.address, bytes)) return result;
    const char* source = bytes_at(from.address);
    std::shared_ptr<std::vector<char>> staged;
    // Host memory that is not pinned is read before an asynchronous copy returns, and written before it returns.
    if (!wait && !from.on_device && !pinned(from.address)) {
        state.counts["pageable_async_copy"]++;
        staged = std::make_shared<std::vector<char>>(source, source + bytes);
        source = staged->data();
    }
    if (!wait && !to.on_device && !pinned(to.address)) {
        state.counts["pageable_async_copy"]++;
        wait = true;
    }
    const auto work = [staged, source, to, bytes] {
        memmove(bytes_at(to.address), source, bytes);
        return CUDA_SUCCESS;
    };
    if (CUresult result = submit(stream, work)) return result;
    return wait ? drain(resolved(stream)) : CUDA_SUCCESS;
}

template <class Value>
CUresult fill(CUdeviceptr to, Value value, size_t count, CUstream stream) {
    if (!count) return CUDA_SUCCESS;
    REQUIRE(to % sizeof value == 0, CUDA_ERROR_INVALID_VALUE, "%#llx is no multiple of %zu", to, sizeof value);
    if (CUresult result = check_device(to, count * sizeof value)) return result;
    return submit(stream, [=] {
        std::fill_n(reinterpret_cast<Value*>(to), count, value);
        return CUDA_SUCCESS;
    });
}

// --- contexts

CUcontext new_context(unsigned flags) {
    CUcontext context = created(new CUctx_st{nullptr, flags});
    context->legacy = created(new CUstream_st{context, true});
    return context;
}

// Its allocations, streams and all else go with it: none is usable in another context.
void destroy(CUcontext context) {
    drain(context);
    state.live.erase(context);
    for (auto next = state.allocations.begin(); next != state.allocations.end();) {
        auto found = next++;
        if (found->second.context == context) release(found);
    }
}

CUresult destroy_created(CUcontext context) {
    REQUIRE(state.live.count(context) && context != state.primary, CUDA_ERROR_INVALID_CONTEXT, "no context to destroy");
    if (context == current()) contexts.pop_back();
    destroy(context);
    return CUDA_SUCCESS;
}

#define ENTER_DEVICE(device) \
    ENTER(INIT);             \
    REQUIRE((device) == 0, CUDA_ERROR_INVALID_DEVICE, "there is no device %d", device)

void compute_capability(int* major, int* minor) {
    *major = 9, *minor = 0;
    if (const char* wanted = getenv("FAKE_CUDA_CC")) sscanf(wanted, "%d.%d", major, minor);
}

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

// --- modules

CUresult load(CUmodule* module, const void* data) {
    const auto* image = static_cast<const char*>(data);
    const bool binary = image && (!memcmp(image, "\x50\xED\x55\xBA", 4) || !memcmp(image, "\x7F" "ELF", 4));
    const bool ptx = image && (!strncmp(image, "//", 2) || !strncmp(image, ".version", 8));
    REQUIRE(module && (binary || ptx), CUDA_ERROR_INVALID_IMAGE, "neither a fatbin nor a cubin nor PTX");
    const char* path = getenv("FAKE_CUDA_KERNELS");
    if (path && !state.kernels) {
        state.kernels = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        REQUIRE(state.kernels, CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "%s", dlerror());
    }
    *module = created(new CUmod_st{current()});
    return CUDA_SUCCESS;
}

const EmulatedKernel* kernel_named(const char* name) {
    if (!state.kernels) return nullptr;
    const auto* kernels = static_cast<const EmulatedKernel*>(dlsym(state.kernels, "emulated_kernels"));
    const auto* count = static_cast<const int*>(dlsym(state.kernels, "emulated_kernel_count"));
    for (int i = 0; kernels && count && i < *count; i++)
        if (!strcmp(kernels[i].name, name)) return &kernels[i];
    return nullptr;
}

CUresult check_block(const EmulatedKernel& kernel, unsigned x, unsigned y, unsigned z) {
    const bool fits = x && y && z && x <= MAX_BLOCK && y <= MAX_BLOCK && z <= MAX_BLOCK_Z && x * y * z <= MAX_BLOCK;
    REQUIRE(fits, CUDA_ERROR_INVALID_VALUE, "%s: a block of %u x %u x %u threads", kernel.name, x, y, z);
    return CUDA_SUCCESS;
}

// Where a launch's parameters are, in either way of giving them.
CUresult find_parameters(const EmulatedKernel& kernel, void** parameters, void** extra, const void** found) {
    *found = nullptr;
    REQUIRE(!parameters || !extra, CUDA_ERROR_INVALID_VALUE, "%s: both kernelParams and extra", kernel.name);
    if (!kernel.parameter_bytes && !extra) return CUDA_SUCCESS;
    REQUIRE(parameters || extra, CUDA_ERROR_INVALID_VALUE, "%s takes %zu bytes of parameters, got none", kernel.name,
            kernel.parameter_bytes);
    if (parameters) {  // sizes are not known here: a kernel that is launched so must have one parameter
        *found = parameters[0];
        return CUDA_SUCCESS;
    }
    size_t bytes = 0;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) *found = extra[1];
        else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) bytes = *static_cast<const size_t*>(extra[1]);
        else return fail(CUDA_ERROR_INVALID_VALUE, formatted("%s: extra has unknown entries", kernel.name));
    }
    REQUIRE(bytes == kernel.parameter_bytes && (*found || !bytes), CUDA_ERROR_INVALID_VALUE,
            "%s takes %zu bytes of parameters, got %zu", kernel.name, kernel.parameter_bytes, bytes);
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

// --- for tests

const char* fake_cuda_last_error() { return state.last_error.c_str(); }

// How many calls of a function there were so far. The name is the symbol's: cuMemAlloc_v2. Also counted is
// pageable_async_copy: asynchronous copies that were not, as the host memory was not pinned.
int fake_cuda_count(const char* function) {
    std::lock_guard<std::recursive_mutex> lock(state.mutex);
    const auto found = state.counts.find(function);
    return found == state.counts.end() ? 0 : found->second;
}

// Forget the current context's error, the work that waits on its streams, and the last message; make good what was
// written beside allocations.
void fake_cuda_reset() {
    std::lock_guard<std::recursive_mutex> lock(state.mutex);
    state.last_error.clear();
    for (auto& [address, allocation] : state.allocations) fill_canaries(address, allocation);
    if (CUcontext context = current()) {
        context->error = CUDA_ERROR_UNKNOWN;  // so that none of the work is done
        drain(context);
        context->error = CUDA_SUCCESS;
    }
}

CUresult fake_cuda_unsupported(const char* function) {
    std::lock_guard<std::recursive_mutex> lock(state.mutex);
    if (CUresult entered = enter(function, Needs::NOTHING)) return entered;
    return fail(CUDA_ERROR_NOT_SUPPORTED, "not implemented by this fake driver");
}

// --- driver, device

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

CUresult cuDeviceGetCount(int* count) { FORWARD(INIT, give(count, 1)); }

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    ENTER_DEVICE(ordinal);
    return give(device, 0);
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    ENTER_DEVICE(device);
    snprintf(name, length, "Fake CUDA device (CPU)");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
    ENTER_DEVICE(device);
    snprintf(id, length, "0000:00:00.0");
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

// --- contexts

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    ENTER_DEVICE(device);
    if (!state.primary_retained++) state.primary = new_context(state.primary_flags);
    return give(context, state.primary);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER_DEVICE(device);
    REQUIRE(state.primary_retained, CUDA_ERROR_INVALID_CONTEXT, "released more often than retained");
    if (!--state.primary_retained) destroy(state.primary);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    ENTER_DEVICE(device);
    *flags = state.primary_flags;
    return give(active, int(state.primary_retained > 0));
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    ENTER_DEVICE(device);
    return give(&state.primary_flags, flags);
}

#if CUDA_VERSION >= 13000
CUresult cuCtxCreate(CUcontext* context, CUctxCreateParams*, unsigned flags, CUdevice device) {
#else
CUresult cuCtxCreate(CUcontext* context, unsigned flags, CUdevice device) {
#endif
    ENTER_DEVICE(device);
    contexts.push_back(*context = new_context(flags));
    return CUDA_SUCCESS;
}

CUresult cuCtxDestroy(CUcontext context) { FORWARD(INIT, destroy_created(context)); }

CUresult cuCtxDetach(CUcontext context) { FORWARD(INIT, destroy_created(context)); }

CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER(INIT);
    REQUIRE(state.live.count(context), CUDA_ERROR_INVALID_CONTEXT, "no live context");
    contexts.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
    ENTER(INIT);
    REQUIRE(!contexts.empty(), CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread");
    if (context) *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER(INIT);
    REQUIRE(!context || state.live.count(context), CUDA_ERROR_INVALID_CONTEXT, "no live context");
    if (!contexts.empty()) contexts.pop_back();
    if (context) contexts.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) { FORWARD(INIT, give(context, current())); }

CUresult cuCtxGetDevice(CUdevice* device) { FORWARD(CONTEXT, give(device, 0)); }

CUresult cuCtxGetFlags(unsigned* flags) { FORWARD(CONTEXT, give(flags, current()->flags)); }

CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) { FORWARD(CONTEXT, give(version, 3020u)); }

CUresult cuCtxSynchronize() { FORWARD(CONTEXT, drain(current())); }

// --- memory

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) { FORWARD(CONTEXT, allocate(address, bytes)); }

CUresult cuMemFree(CUdeviceptr address) {
    ENTER(CONTEXT);
    if (!address) return CUDA_SUCCESS;
    if (CUresult result = check_device(address, 1)) return result;
    const auto found = state.allocations.find(address);
    REQUIRE(found != state.allocations.end(), CUDA_ERROR_INVALID_VALUE, "%#llx is inside an allocation", address);
    if (CUresult result = drain(current())) return result;
    current()->error = check_canaries("something");
    release(found);
    return current()->error;
}

CUresult cuMemGetInfo(size_t* available, size_t* total) {
    ENTER(CONTEXT);
    *total = device_memory();
    return give(available, *total - state.used);
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    ENTER(CONTEXT);
    if (CUresult result = check_device(address, 1)) return result;
    const auto found = containing(state.allocations, address);
    if (base) *base = found->first;
    if (bytes) *bytes = found->second.bytes;
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
    ENTER(CONTEXT);
    const auto found = containing(state.allocations, address);
    const bool on_device = found != state.allocations.end();
    REQUIRE(on_device || pinned(address), CUDA_ERROR_INVALID_VALUE, "%#llx is not known to CUDA", address);
    if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
        return give(static_cast<unsigned*>(value), unsigned(on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST));
    if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
        return give(static_cast<CUcontext*>(value), on_device ? found->second.context : current());
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) return give(static_cast<int*>(value), 0);
    if (attribute == (on_device ? CU_POINTER_ATTRIBUTE_DEVICE_POINTER : CU_POINTER_ATTRIBUTE_HOST_POINTER))
        return give(static_cast<CUdeviceptr*>(value), address);
    return fail(CUDA_ERROR_NOT_SUPPORTED, formatted("attribute %d", attribute));
}

CUresult cuMemAllocHost(void** pointer, size_t bytes) { FORWARD(CONTEXT, allocate_host(pointer, bytes)); }

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { FORWARD(CONTEXT, allocate_host(pointer, bytes)); }

CUresult cuMemFreeHost(void* pointer) {
    ENTER(CONTEXT);
    const auto found = state.pinned.find(address_of(pointer));
    const bool owned = found != state.pinned.end() && found->second.owned;
    REQUIRE(owned, CUDA_ERROR_INVALID_VALUE, "%p was not allocated", pointer);
    const CUresult result = drain(current());
    state.pinned.erase(found);
    free(pointer);
    return result;
}

CUresult cuMemHostRegister(void* pointer, size_t bytes, unsigned) {
    ENTER(CONTEXT);
    REQUIRE(bytes, CUDA_ERROR_INVALID_VALUE, "0 bytes");
    if (CUresult result = check_host(address_of(pointer), bytes)) return result;
    REQUIRE(!pinned(address_of(pointer)), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "%p is pinned already", pointer);
    state.pinned[address_of(pointer)] = {bytes, false};
    return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* pointer) {
    ENTER(CONTEXT);
    const auto found = state.pinned.find(address_of(pointer));
    REQUIRE(found != state.pinned.end() && !found->second.owned, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
            "%p was not registered", pointer);
    const CUresult result = drain(current());
    state.pinned.erase(found);
    return result;
}

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

// --- streams, events

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    ENTER(CONTEXT);
    *stream = created(new CUstream_st{current(), !(flags & CU_STREAM_NON_BLOCKING)});
    current()->streams.push_back(*stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(stream);
    state.live.erase(stream);  // its work is still done
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    return drain(stream);
}

CUresult cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    return query(stream->queue.empty() ? nullptr : stream->queue.back());
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    return submit(stream, nullptr, event->mark);
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
    FORWARD(CONTEXT, give(event, created(new CUevent_st{current(), !(flags & CU_EVENT_DISABLE_TIMING)})));
}

CUresult cuEventDestroy(CUevent event) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    state.live.erase(event);
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    return submit(stream, nullptr, nullptr, &event->mark);
}

CUresult cuEventSynchronize(CUevent event) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    if (event->mark) run_until(event->mark);
    return current()->error;
}

CUresult cuEventQuery(CUevent event) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    return query(event->mark);
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    ENTER(CONTEXT);
    for (CUevent event : {start, end}) {
        REQUIRE_USABLE(event);
        REQUIRE(event->timing && event->mark, CUDA_ERROR_INVALID_HANDLE, "an event without a time");
        REQUIRE(event->mark->done, CUDA_ERROR_NOT_READY, "the event has not happened yet");
    }
    const std::chrono::duration<float, std::milli> elapsed = end->mark->finished - start->mark->finished;
    return give(milliseconds, elapsed.count());
}

// --- modules, kernels

CUresult cuModuleLoadData(CUmodule* module, const void* image) { FORWARD(CONTEXT, load(module, image)); }

CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) { FORWARD(CONTEXT, load(module, image)); }

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    FORWARD(CONTEXT, load(module, image));
}

CUresult cuModuleUnload(CUmodule module) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(module);
    const CUresult result = drain(current());
    for (const auto& [name, function] : module->functions) state.live.erase(function);
    state.live.erase(module);
    return result;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(module);
    const EmulatedKernel* kernel = kernel_named(name);
    REQUIRE(kernel, CUDA_ERROR_NOT_FOUND, "no kernel %s in %s", name,
            state.kernels ? "the library that FAKE_CUDA_KERNELS names" : "FAKE_CUDA_KERNELS, which is not set");
    CUfunction& known = module->functions[name];
    if (!known) known = created(new CUfunc_st{current(), kernel});
    return give(function, known);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(function);
    int major, minor;
    compute_capability(&major, &minor);
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return give(value, 1024);
        case CU_FUNC_ATTRIBUTE_NUM_REGS: return give(value, 32);
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return give(value, 10 * major + minor);
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return give(value, function->dynamic_shared_limit);
        default: return give(value, 0);
    }
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(function);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    REQUIRE(value >= 0 && value <= SHARED_OPT_IN, CUDA_ERROR_INVALID_VALUE, "%d bytes of shared memory, at most %d",
            value, SHARED_OPT_IN);
    return give(&function->dynamic_shared_limit, value);
}

CUresult cuFuncSetBlockShape(CUfunction function, int x, int y, int z) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(function);
    return check_block(*function->kernel, x, y, z);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void** parameters,
                        void** extra) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(function);
    const EmulatedKernel& kernel = *function->kernel;
    if (CUresult result = check_block(kernel, block_x, block_y, block_z)) return result;
    const bool fits = grid_x <= MAX_GRID_X && grid_y <= MAX_GRID_YZ && grid_z <= MAX_GRID_YZ;
    REQUIRE(fits && grid_x && grid_y && grid_z, CUDA_ERROR_INVALID_VALUE, "%s: a grid of %u x %u x %u blocks",
            kernel.name, grid_x, grid_y, grid_z);
    REQUIRE(shared <= unsigned(function->dynamic_shared_limit), CUDA_ERROR_INVALID_VALUE,
            "%s: %u bytes of shared memory, at most %d", kernel.name, shared, function->dynamic_shared_limit);
    const void* given;
    if (CUresult result = find_parameters(kernel, parameters, extra, &given)) return result;
    std::vector<std::max_align_t> copied(kernel.parameter_bytes / sizeof(std::max_align_t) + 1);
    if (given) memcpy(copied.data(), given, kernel.parameter_bytes);
    return submit(stream, [=, &kernel] {
        const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
        const char* wrong = kernel.check ? kernel.check(grid, block, copied.data(), device_range) : nullptr;
        REQUIRE(!wrong, CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %s", kernel.name, wrong);
        kernel.launch(grid, block, shared, copied.data());
        return check_canaries(kernel.name);
    });
}

}  // extern "C"
