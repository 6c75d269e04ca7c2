// Device memory, pinned memory, what is wrong with an address.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fake.h"

namespace fake {
namespace {

constexpr size_t ARENA_BYTES = size_t{1} << 40, ALIGNMENT = 256;
constexpr unsigned char POISON = 0xFF, CANARY = 0xC5;

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

}  // namespace

size_t device_memory() { return setting("FAKE_CUDA_MEMORY", size_t{4} << 30); }

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

void release(std::map<CUdeviceptr, Allocation>::iterator found) {
    const Allocation& allocation = found->second;
    mmap(allocation.pages, allocation.pages_end - allocation.pages, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    state.used -= allocation.bytes;
    state.freed.insert(state.allocations.extract(found));
}

namespace {

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

CUresult allocate_host(void** pointer, size_t bytes) {
    REQUIRE(pointer && bytes, CUDA_ERROR_INVALID_VALUE, "%zu bytes wanted", bytes);
    const bool done = !posix_memalign(pointer, sysconf(_SC_PAGESIZE), bytes);
    REQUIRE(done, CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes of host memory wanted", bytes);
    memset(*pointer, POISON, bytes);
    state.pinned[address_of(*pointer)] = {bytes, true};
    return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) { FORWARD_UNSAFE(allocate(address, bytes)); }

CUresult cuMemFree(CUdeviceptr address) {
    ENTER_UNSAFE;
    if (!address) return CUDA_SUCCESS;
    if (CUresult result = drain(current())) return result;
    if (CUresult result = check_device(address, 1)) return result;
    const auto found = state.allocations.find(address);
    REQUIRE(found != state.allocations.end(), CUDA_ERROR_INVALID_VALUE, "%#llx is inside an allocation", address);
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

CUresult cuMemAllocHost(void** pointer, size_t bytes) { FORWARD_UNSAFE(allocate_host(pointer, bytes)); }

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { FORWARD_UNSAFE(allocate_host(pointer, bytes)); }

CUresult cuMemFreeHost(void* pointer) {
    ENTER_UNSAFE;
    const CUresult result = drain(current());
    const auto found = state.pinned.find(address_of(pointer));
    const bool owned = found != state.pinned.end() && found->second.owned;
    REQUIRE(owned, CUDA_ERROR_INVALID_VALUE, "%p was not allocated", pointer);
    state.pinned.erase(found);
    free(pointer);
    return result;
}

CUresult cuMemHostRegister(void* pointer, size_t bytes, unsigned) {
    ENTER_UNSAFE;
    REQUIRE(bytes, CUDA_ERROR_INVALID_VALUE, "0 bytes");
    if (CUresult result = check_host(address_of(pointer), bytes)) return result;
    REQUIRE(!pinned(address_of(pointer)), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "%p is pinned already", pointer);
    state.pinned[address_of(pointer)] = {bytes, false};
    return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* pointer) {
    ENTER_UNSAFE;
    const CUresult result = drain(current());
    const auto found = state.pinned.find(address_of(pointer));
    REQUIRE(found != state.pinned.end() && !found->second.owned, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
            "%p was not registered", pointer);
    state.pinned.erase(found);
    return result;
}

}  // extern "C"
