// Streams, events, host functions: what is done when, and by which thread.

#include <dlfcn.h>

#include "fake.h"

// The lock, and Python's. Programs enter the driver with the interpreter's lock (GIL) held or not, and host functions
// are often Python, which takes it. So that no order of events ends in a deadlock:
//   - A host function runs without the driver's lock, in the thread that waits for it or (without FAKE_CUDA_DEFER)
//     submits it; where that thread holds the GIL already, Python finds it held.
//   - A thread that waits for what another thread is running gives the GIL away until that is done, if it holds it.
//   - Nothing that holds the driver's lock takes the GIL. Host functions get CUDA_ERROR_NOT_PERMITTED from the driver.
//   - Submitting never waits: what cannot be done yet, as another thread is at it, stays for who waits or submits next.
// A real driver does not do the second: there, waiting with the GIL for a host function in Python never ends.

namespace fake {
namespace {

class WithoutPython {
  public:
    WithoutPython() {
        const auto held = symbol<int()>("PyGILState_Check");
        if (held && held()) thread_state = symbol<void*()>("PyEval_SaveThread")();
    }
    ~WithoutPython() {
        if (thread_state) symbol<void(void*)>("PyEval_RestoreThread")(thread_state);
    }

  private:
    template <class Function>
    static Function* symbol(const char* name) {
        return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
    }
    void* thread_state = nullptr;
};

// Wait for what another thread runs. Anything may have changed when this returns.
void wait_for(const OperationPtr& operation) {
    state.mutex.unlock();
    {
        WithoutPython released;
        std::unique_lock<std::mutex> lock(state.mutex);
        state.finished.wait(lock, [&] { return operation->done; });
    }
    state.mutex.lock();
}

CUresult run(const Work& work) {
    if (!work.unlocked) return work.does();
    state.mutex.unlock();
    in_host_function = true;
    const CUresult result = work.does();
    in_host_function = false;
    state.mutex.lock();
    return result;
}

// Do what was submitted to the operation's stream up to this, and what that waits for. Nothing runs after an error.
// False if another thread is at it, unless this may wait.
bool run_until(const OperationPtr& last, bool may_wait = true) {
    while (!last->done) {
        const OperationPtr next = last->stream->queue.front();
        if (next->running) {
            if (!may_wait) return false;
            wait_for(next);
            continue;
        }
        if (!next->after.empty()) {
            const OperationPtr earlier = next->after.back();
            if (!run_until(earlier, may_wait)) return false;
            // Others may have come here in between.
            if (!next->after.empty() && next->after.back() == earlier) next->after.pop_back();
            continue;
        }
        CUresult& error = last->stream->context->error;
        next->running = true;
        const CUresult result = error || !next->work.does ? CUDA_SUCCESS : run(next->work);
        if (!error) error = result;
        next->finished = std::chrono::steady_clock::now();
        next->work = {};
        next->running = false;
        next->done = true;
        last->stream->queue.pop_front();
        state.finished.notify_all();
    }
    return true;
}

// Whether all is done. A program that asks again and again gets on: each time, one operation is done.
CUresult query(const OperationPtr& last) {
    if (!last || last->done) return CUDA_SUCCESS;
    run_until(OperationPtr(last->stream->queue.front()), false);
    return last->stream->context->error ? last->stream->context->error : CUDA_ERROR_NOT_READY;
}

}  // namespace

CUstream resolved(CUstream handle) { return !handle || handle == CU_STREAM_LEGACY ? current()->legacy : handle; }

CUresult drain(CUstream stream) {
    if (!stream->queue.empty()) run_until(OperationPtr(stream->queue.back()));
    return stream->context->error;
}

CUresult drain(CUcontext context) {
    drain(context->legacy);
    for (size_t i = 0; i < context->streams.size(); i++) drain(context->streams[i]);
    return context->error;
}

CUresult submit(CUstream handle, Work work, OperationPtr after, OperationPtr* mark) {
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (stream->capture) return capture_work(stream, std::move(work));
    if (CUresult result = refuse_implicit(stream)) return result;
    const CUcontext context = stream->context;
    auto operation = std::make_shared<Operation>(Operation{stream, std::move(work)});
    if (after) operation->after.push_back(after);
    if (stream == context->legacy) {
        for (CUstream other : context->streams)
            if (other->blocking && !other->queue.empty()) operation->after.push_back(other->queue.back());
    } else if (stream->blocking && !context->legacy->queue.empty()) {
        operation->after.push_back(context->legacy->queue.back());
    }
    stream->queue.push_back(operation);
    if (mark) *mark = operation;
    if (!setting("FAKE_CUDA_DEFER", 0)) run_until(operation, false);
    return setting("FAKE_CUDA_DEFER", 0) ? CUDA_SUCCESS : context->error;
}

}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    ENTER(CONTEXT);
    *stream = created(new CUstream_st{current(), !(flags & CU_STREAM_NON_BLOCKING)});
    current()->streams.push_back(*stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(stream);
    if (stream->capture) return refuse_capturing(stream, "destroying it");
    state.live.erase(stream);  // its work is still done
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (stream->capture) return refuse_capturing(stream, "waiting for it");
    if (CUresult result = refuse_implicit(stream)) return result;
    if (CUresult result = refuse_while_capturing()) return result;
    return drain(stream);
}

CUresult cuStreamQuery(CUstream handle) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (stream->capture) return refuse_capturing(stream, "asking whether it is done");
    if (CUresult result = refuse_implicit(stream)) return result;
    if (CUresult result = refuse_while_capturing()) return result;
    return query(stream->queue.empty() ? nullptr : stream->queue.back());
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (stream->capture || event->capture) return capture_wait(stream, event);
    return submit(stream, {}, event->mark);
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    ENTER(CONTEXT);
    REQUIRE(function, CUDA_ERROR_INVALID_VALUE, "no function");
    const auto work = [=] {
        function(data);
        return CUDA_SUCCESS;
    };
    return submit(stream, {work, true});
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

CUresult cuEventRecord(CUevent event, CUstream handle) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (stream->capture) return capture_record(event, stream);
    if (CUresult result = refuse_implicit(stream)) return result;
    event->capture = nullptr;
    return submit(stream, {}, nullptr, &event->mark);
}

CUresult cuEventSynchronize(CUevent event) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    if (CUresult result = refuse_captured(event)) return result;
    if (const OperationPtr mark = event->mark) run_until(mark);
    return current()->error;
}

CUresult cuEventQuery(CUevent event) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(event);
    if (CUresult result = refuse_captured(event)) return result;
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

}  // extern "C"
