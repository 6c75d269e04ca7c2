// A CUDA driver for machines without a GPU: device memory is guarded host memory, kernels are functions of a library.
//
// It is stricter than a real driver, so that tests fail where a GPU would only sometimes. Settings, read from the
// environment at each call:
//   FAKE_CUDA_KERNELS=PATH           library of kernels (emulated_kernel.h), opened by the first module
//   FAKE_CUDA_CC=9.0                 compute capability
//   FAKE_CUDA_DEVICES=1              how many devices there are, 2 at most; they share FAKE_CUDA_MEMORY
//   FAKE_CUDA_MEMORY=BYTES           device memory, 4 GiB if not set
//   FAKE_CUDA_DEFER=1                work on streams waits for a synchronisation
//   FAKE_CUDA_FAIL=FUNCTION:NTH:CODE the NTH call of FUNCTION, counted from the start of the process, returns CODE
//   FAKE_CUDA_STICKY=1               after that the context returns CODE from every call
//   FAKE_CUDA_LOG=1                  messages about errors go to stderr
// What cuda.h declares and no file here defines is made by build.py and returns CUDA_ERROR_NOT_SUPPORTED.
//
//   driver.cpp    entering a function, failing, what tests ask; the driver itself and the device
//   contexts.cpp  contexts
//   memory.cpp    device memory, pinned memory, what is wrong with an address
//   copies.cpp    copies and fills
//   streams.cpp   streams, events, host functions: what is done when, and by which thread
//   graphs.cpp    stream capture, graphs
//   modules.cpp   modules, kernels, launches

#pragma once

#include <cuda.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

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

namespace fake {

constexpr int SHARED_OPT_IN = 227 << 10;
constexpr unsigned MAX_GRID_X = 0x7FFFFFFF, MAX_GRID_YZ = 65535, MAX_BLOCK = 1024, MAX_BLOCK_Z = 64;

// What is done in stream order. `work` runs under the lock, or without it if it calls into the program (`unlocked`).
struct Work {
    std::function<CUresult()> does{};
    bool unlocked = false;
};
struct Operation {
    CUstream stream;
    Work work;
    std::vector<std::shared_ptr<Operation>> after{};  // operations of other streams
    bool running = false, done = false;
    std::chrono::steady_clock::time_point finished{};
};
using OperationPtr = std::shared_ptr<Operation>;

struct Node {
    Work work;
    std::vector<size_t> after;  // nodes before it
};
struct Capture {
    CUstream origin;
    CUstreamCaptureMode mode;
    std::thread::id thread;
    bool valid = true, ended = false;
    std::vector<Node> nodes{};
    std::map<CUstream, std::vector<size_t>> last{};  // the streams in it, and what comes before their next node
};
using CapturePtr = std::shared_ptr<Capture>;

struct Allocation {
    CUcontext context;
    size_t bytes;
    char *pages, *pages_end;
};
struct HostRange {
    size_t bytes;
    bool owned;
};

constexpr int DEVICES = 2;

struct State {
    std::mutex mutex;  // see streams.cpp: no thread that holds it waits for another
    std::condition_variable finished;
    bool initialised = false;
    std::string last_error;
    std::map<std::string, int> counts;
    std::set<const void*> live;
    std::set<CapturePtr> captures;  // those that have not ended
    struct {
        CUcontext context = nullptr;
        int retained = 0;
        unsigned flags = 0;
    } primary[DEVICES];  // of each device
    char *arena = nullptr, *arena_next = nullptr;
    size_t used = 0;
    std::map<CUdeviceptr, Allocation> allocations;
    std::map<CUdeviceptr, Allocation> freed;
    std::map<CUdeviceptr, HostRange> pinned;
    void* kernels = nullptr;
};
extern State& state;
extern thread_local std::vector<CUcontext> contexts;
extern thread_local bool in_host_function;

}  // namespace fake

// What the driver's handles point to. These are never deleted, so that a stale handle is always recognised.
struct CUstream_st {
    CUcontext context;
    bool blocking;  // waits for the legacy default stream, and makes it wait
    std::deque<fake::OperationPtr> queue{};
    fake::CapturePtr capture{};
};
struct CUctx_st {
    CUstream legacy;
    unsigned flags;
    CUdevice device;
    CUresult error = CUDA_SUCCESS;  // what every call returns from then on
    std::vector<CUstream> streams{};
};
struct CUevent_st {
    CUcontext context;
    bool timing;
    fake::OperationPtr mark{};
    fake::CapturePtr capture{};  // in which it was recorded last, and after which nodes
    std::vector<size_t> nodes{};
};

namespace fake {

size_t setting(const char* name, size_t otherwise);
[[gnu::format(printf, 1, 2)]] std::string formatted(const char* format, ...);
CUresult fail(CUresult code, const std::string& message);

enum class Needs { NOTHING, INIT, CONTEXT };
CUresult enter(const char* function, Needs needs);
CUcontext current();

#define ENTER(needs)                               \
    std::lock_guard<std::mutex> lock(state.mutex); \
    if (CUresult entered = enter(__func__, Needs::needs)) return entered

#define FORWARD(needs, ...) \
    ENTER(needs);           \
    return __VA_ARGS__

// For functions that a thread must not call while it captures, as CUDA does not know what they may wait for.
#define ENTER_UNSAFE \
    ENTER(CONTEXT);  \
    if (CUresult captured = refuse_while_capturing()) return captured

#define FORWARD_UNSAFE(...) \
    ENTER_UNSAFE;           \
    return __VA_ARGS__

#define REQUIRE(condition, code, ...) \
    if (!(condition)) return fail(code, formatted(__VA_ARGS__))

#define REQUIRE_USABLE(object) \
    REQUIRE(usable(object), CUDA_ERROR_INVALID_HANDLE, "no live " #object " of the current context")

#define ENTER_DEVICE(device) \
    ENTER(INIT);             \
    REQUIRE((device) >= 0 && (device) < devices(), CUDA_ERROR_INVALID_DEVICE, "there is no device %d", device)

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

// driver.cpp
int devices();
void compute_capability(int* major, int* minor);

// memory.cpp
inline char* bytes_at(CUdeviceptr address) { return reinterpret_cast<char*>(address); }
inline CUdeviceptr address_of(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }
size_t device_memory();
std::string device_problem(CUdeviceptr address, size_t bytes);
int device_range(unsigned long long address, unsigned long long bytes);
CUresult check_device(CUdeviceptr address, size_t bytes);
CUresult check_host(CUdeviceptr address, size_t bytes);
CUresult check_canaries(const char* culprit);
void fill_canaries(CUdeviceptr address, const Allocation& allocation);
bool pinned(CUdeviceptr address);
void release(std::map<CUdeviceptr, Allocation>::iterator found);

// streams.cpp
CUstream resolved(CUstream handle);
CUresult submit(CUstream handle, Work work, OperationPtr after = nullptr, OperationPtr* mark = nullptr);
CUresult drain(CUstream stream);
CUresult drain(CUcontext context);

// graphs.cpp
CUresult refuse_while_capturing();
CUresult refuse_capturing(CUstream stream, const char* what);
CUresult refuse_implicit(CUstream stream);
CUresult refuse_captured(CUevent event);
CUresult capture_work(CUstream stream, Work work);
CUresult capture_record(CUevent event, CUstream stream);
CUresult capture_wait(CUstream stream, CUevent event);
void forget_captures(CUcontext context);

}  // namespace fake
