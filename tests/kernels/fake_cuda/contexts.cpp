// Contexts.

#include "fake.h"

namespace fake {
namespace {

CUcontext new_context(unsigned flags, CUdevice device) {
    CUcontext context = created(new CUctx_st{nullptr, flags, device});
    context->legacy = created(new CUstream_st{context, true});
    return context;
}

// Its allocations, streams and all else go with it: none is usable in another context.
void destroy(CUcontext context) {
    drain(context);
    forget_captures(context);
    state.live.erase(context);
    for (auto next = state.allocations.begin(); next != state.allocations.end();) {
        auto found = next++;
        if (found->second.context == context) release(found);
    }
}

CUresult destroy_created(CUcontext context) {
    REQUIRE(state.live.count(context) && context != state.primary[context->device].context, CUDA_ERROR_INVALID_CONTEXT,
            "no context to destroy");
    if (context == current()) contexts.pop_back();
    destroy(context);
    return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    ENTER_DEVICE(device);
    auto& primary = state.primary[device];
    if (!primary.retained++) primary.context = new_context(primary.flags, device);
    return give(context, primary.context);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER_DEVICE(device);
    auto& primary = state.primary[device];
    REQUIRE(primary.retained, CUDA_ERROR_INVALID_CONTEXT, "released more often than retained");
    if (!--primary.retained) destroy(primary.context);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    ENTER_DEVICE(device);
    *flags = state.primary[device].flags;
    return give(active, int(state.primary[device].retained > 0));
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    ENTER_DEVICE(device);
    return give(&state.primary[device].flags, flags);
}

#if CUDA_VERSION >= 13000
CUresult cuCtxCreate(CUcontext* context, CUctxCreateParams*, unsigned flags, CUdevice device) {
#else
CUresult cuCtxCreate(CUcontext* context, unsigned flags, CUdevice device) {
#endif
    ENTER_DEVICE(device);
    contexts.push_back(*context = new_context(flags, device));
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

CUresult cuCtxGetDevice(CUdevice* device) { FORWARD(CONTEXT, give(device, current()->device)); }

CUresult cuCtxGetFlags(unsigned* flags) { FORWARD(CONTEXT, give(flags, current()->flags)); }

CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) { FORWARD(CONTEXT, give(version, 3020u)); }

CUresult cuCtxSynchronize() {
    ENTER_UNSAFE;
    for (CUstream stream : current()->streams)
        if (stream->capture) return refuse_capturing(stream, "waiting for all streams");
    return drain(current());
}

}  // extern "C"
