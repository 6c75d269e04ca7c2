// Modules, kernels, launches.

#include <dlfcn.h>

#include <cstring>

#include "emulated_kernel.h"
#include "fake.h"

struct CUmod_st {
    CUcontext context;
    std::map<std::string, CUfunction> functions{};
};
struct CUfunc_st {
    CUcontext context;
    const EmulatedKernel* kernel;
    int dynamic_shared_limit = 48 << 10;
};

namespace fake {
namespace {

// Whether a fatbin has code for this device: machine code of its generation, not newer, or PTX, not newer. One without
// entries, as tests write it, is for every device.
bool has_code(const char* image) {
    int major, minor;
    compute_capability(&major, &minor);
    const auto read = [&](size_t at, auto value) {
        memcpy(&value, image + at, sizeof value);
        return value;
    };
    // A header, of the size at 6, says at 8 how many bytes of entries follow. An entry has its kind (1: PTX, 2: machine
    // code), at 4 its header's size, at 8 that of what follows, at 28 its generation.
    size_t at = read(6, uint16_t{});
    const size_t end = at + read(8, uint64_t{});
    bool found = at == end;
    while (at < end && !found) {
        const int kind = read(at, uint16_t{}), target = int(read(at + 28, uint32_t{}));
        if (kind == 1) found = target <= 10 * major + minor;
        if (kind == 2) found = target / 10 == major && target % 10 <= minor;
        at += read(at + 4, uint32_t{}) + read(at + 8, uint64_t{});
    }
    return found;
}

CUresult load(CUmodule* module, const void* data) {
    const auto* image = static_cast<const char*>(data);
    const bool binary = image && (!memcmp(image, "\x50\xED\x55\xBA", 4) || !memcmp(image, "\x7F" "ELF", 4));
    const bool ptx = image && (!strncmp(image, "//", 2) || !strncmp(image, ".version", 8));
    REQUIRE(module && (binary || ptx), CUDA_ERROR_INVALID_IMAGE, "neither a fatbin nor a cubin nor PTX");
    const bool fatbin = !memcmp(image, "\x50\xED\x55\xBA", 4);
    REQUIRE(!fatbin || has_code(image), CUDA_ERROR_NO_BINARY_FOR_GPU, "the fatbin has no code for this device");
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
}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) { FORWARD_UNSAFE(load(module, image)); }

CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) { FORWARD_UNSAFE(load(module, image)); }

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    FORWARD_UNSAFE(load(module, image));
}

CUresult cuModuleUnload(CUmodule module) {
    ENTER_UNSAFE;
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
    const auto work = [=, &kernel] {
        const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
        const char* wrong = kernel.check ? kernel.check(grid, block, copied.data(), device_range) : nullptr;
        REQUIRE(!wrong, CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %s", kernel.name, wrong);
        kernel.launch(grid, block, shared, copied.data());
        return check_canaries(kernel.name);
    };
    return submit(stream, {work});
}

}  // extern "C"
