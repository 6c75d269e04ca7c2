// Stream capture, graphs.
//
// A capture is a list of nodes in the order in which they were submitted; a launch does them in it, on one stream.
// What is forbidden while a stream is captured is refused and makes its capture invalid, as CUDA says that it may.

#include <algorithm>

#include "fake.h"

struct CUgraph_st {
    CUcontext context;
    std::vector<fake::Work> nodes;
};
struct CUgraphExec_st {
    CUcontext context;
    std::vector<fake::Work> nodes;
    fake::OperationPtr last{};  // launches of a graph follow each other
};

namespace fake {
namespace {

CUresult invalidated(const CapturePtr& capture, CUresult code, const std::string& message) {
    capture->valid = false;
    return fail(code, message);
}

// The streams' state as before the capture.
void end(const CapturePtr& capture) {
    for (const auto& [stream, nodes] : capture->last) stream->capture = nullptr;
    capture->ended = true;
    state.captures.erase(capture);
}

// Whether all nodes are before the end of the stream in which the capture began.
bool joined(const Capture& capture) {
    std::vector<bool> reached(capture.nodes.size());
    std::vector<size_t> left = capture.last.at(capture.origin);
    while (!left.empty()) {
        const size_t node = left.back();
        left.pop_back();
        if (reached[node]) continue;
        reached[node] = true;
        left.insert(left.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
    }
    return std::find(reached.begin(), reached.end(), false) == reached.end();
}

CUresult instantiate(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    REQUIRE_USABLE(graph);
    REQUIRE(executable && flags == 0, CUDA_ERROR_INVALID_VALUE, "flags %llu", flags);
    return give(executable, created(new CUgraphExec_st{graph->context, graph->nodes}));
}

}  // namespace

// Refuse what CUDA calls unsafe: in a thread that captures, unless relaxed; in all while there is a global capture.
CUresult refuse_while_capturing() {
    bool refused = false;
    for (const CapturePtr& capture : state.captures) {
        const bool here = capture->thread == std::this_thread::get_id();
        const bool all = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (!all && (!here || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED)) continue;
        capture->valid = false;
        refused = true;
    }
    REQUIRE(!refused, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "unsafe while a stream is captured");
    return CUDA_SUCCESS;
}

CUresult refuse_capturing(CUstream stream, const char* what) {
    return invalidated(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                       formatted("the stream is captured, which forbids %s", what));
}

// The legacy default stream waits for all others that are not non-blocking: a captured one cannot be waited for.
CUresult refuse_implicit(CUstream stream) {
    if (stream != stream->context->legacy) return CUDA_SUCCESS;
    for (CUstream other : stream->context->streams)
        if (other->blocking && other->capture)
            return invalidated(other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                               "the default stream would wait for one that is captured");
    return CUDA_SUCCESS;
}

// Events that cannot be waited for or asked.
CUresult refuse_captured(CUevent event) {
    if (event->capture)
        return invalidated(event->capture, CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture");
    return refuse_while_capturing();
}

CUresult capture_work(CUstream stream, Work work) {
    Capture& capture = *stream->capture;
    REQUIRE(capture.valid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid since an earlier error");
    std::vector<size_t>& last = capture.last[stream];
    capture.nodes.push_back({std::move(work), last});
    last = {capture.nodes.size() - 1};
    return CUDA_SUCCESS;
}

CUresult capture_record(CUevent event, CUstream stream) {
    if (CUresult result = capture_work(stream, {})) return result;
    event->capture = stream->capture;
    event->nodes = stream->capture->last[stream];
    event->mark = nullptr;
    return CUDA_SUCCESS;
}

// A stream that waits for an event of a capture joins it.
CUresult capture_wait(CUstream stream, CUevent event) {
    const CapturePtr own = stream->capture, other = event->capture;
    if (!other) {
        if (!event->mark) return CUDA_SUCCESS;
        return invalidated(own, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "the event was recorded outside of the capture");
    }
    REQUIRE(!other->ended, CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture that has ended");
    if (own && own != other) {
        own->valid = false;
        return invalidated(other, CUDA_ERROR_STREAM_CAPTURE_MERGE, "the event belongs to another capture");
    }
    if (stream == stream->context->legacy)
        return invalidated(other, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the default stream cannot be captured");
    stream->capture = other;
    std::vector<size_t>& last = other->last[stream];
    last.insert(last.end(), event->nodes.begin(), event->nodes.end());
    return capture_work(stream, {});
}

void forget_captures(CUcontext context) {
    const std::set<CapturePtr> captures = state.captures;
    for (const CapturePtr& capture : captures)
        if (capture->origin->context == context) end(capture);
}

}  // namespace fake

using namespace fake;

extern "C" {

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    REQUIRE(stream != current()->legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            "the default stream cannot be captured");
    REQUIRE(!stream->capture, CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already");
    stream->capture = std::make_shared<Capture>(Capture{stream, mode, std::this_thread::get_id()});
    stream->capture->last[stream] = {};
    state.captures.insert(stream->capture);
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    ENTER(CONTEXT);
    REQUIRE(graph, CUDA_ERROR_INVALID_VALUE, "no place for the graph");
    *graph = nullptr;
    REQUIRE_USABLE(stream);
    const CapturePtr capture = stream->capture;
    REQUIRE(capture, CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured");
    if (capture->origin != stream)
        return invalidated(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture began in another stream");
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
        return invalidated(capture, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread");
    end(capture);
    REQUIRE(capture->valid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid since an earlier error");
    REQUIRE(joined(*capture), CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream of the capture was not waited for");
    CUgraph made = created(new CUgraph_st{current(), {}});
    for (Node& node : capture->nodes)
        if (node.work.does) made->nodes.push_back(node.work);
    return give(graph, made);
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    ENTER(CONTEXT);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    if (CUresult result = refuse_implicit(stream)) return result;
    if (!stream->capture) return give(status, CU_STREAM_CAPTURE_STATUS_NONE);
    return give(status, stream->capture->valid ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                               : CU_STREAM_CAPTURE_STATUS_INVALIDATED);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    FORWARD(CONTEXT, instantiate(executable, graph, flags));
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* wanted) {
    ENTER(CONTEXT);
    REQUIRE(wanted, CUDA_ERROR_INVALID_VALUE, "no parameters");
    const CUresult result = instantiate(executable, graph, wanted->flags);
    wanted->result_out = result ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return result;
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream handle) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(graph);
    const CUstream stream = resolved(handle);
    REQUIRE_USABLE(stream);
    REQUIRE(!stream->capture, CUDA_ERROR_NOT_SUPPORTED, "a graph in a capture: not implemented by this fake driver");
    OperationPtr last = graph->last;
    if (CUresult result = submit(stream, {}, graph->last, &last)) return result;
    for (const Work& node : graph->nodes)
        if (CUresult result = submit(stream, node, nullptr, &last)) return result;
    graph->last = last;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(graph);
    state.live.erase(graph);  // its work is still done
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    ENTER(CONTEXT);
    REQUIRE_USABLE(graph);
    state.live.erase(graph);
    return CUDA_SUCCESS;
}

}  // extern "C"
