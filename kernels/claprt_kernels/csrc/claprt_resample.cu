// The C interface of the resampling kernel: the filter, checks, and the launch.

#include "c_interface.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "resample.cu"

namespace {

using claprt::fail;
using claprt::kResampleThreads;
using claprt::ResampleArguments;
using claprt::ResampledClip;

constexpr int kMaxChannels = 64;
constexpr int kMaxUp = 1024;
constexpr long long kMostFrames = 1ll << 48;  // more than any memory has; products with `up` do not overflow

// The band that passes ends at 0.913 of the lower rate's half, as soxr's "HQ" does; at that half it is gone.
constexpr double kPassband = 0.913;
constexpr double kRejection = 120.0;  // dB

const double kPi = std::acos(-1.0);

// Taps of each phase, a multiple of 4. Kaiser (1974). Where the rates are equal nothing is filtered.
long long tap_count(int up, int down) {
    if (up == down) return 4;
    const double width = kPi * (1.0 - kPassband) * std::min(1.0, 1.0 * up / down);  // of the transition, radians
    return 4 * static_cast<long long>(std::ceil((kRejection - 7.95) / (2.285 * width) / 4.0));
}

// The modified Bessel function of order 0, by its series: to the last digits for the small x of windows.
double bessel_i0(double x) {
    double sum = 1.0, term = 1.0;
    for (int k = 1; term > 1e-17 * sum; ++k) {
        term *= 0.25 * x * x / (1.0 * k * k);
        sum += term;
    }
    return sum;
}

// (taps, up): a sinc under a Kaiser window, every phase of sum 1.
std::vector<float> make_taps(int up, int down) {
    if (up == down) return {0.0f, 1.0f, 0.0f, 0.0f};
    const int taps = static_cast<int>(tap_count(up, down));
    const double cutoff = 0.5 * (1.0 + kPassband) * 0.5 * std::min(1.0, 1.0 * up / down);  // cycles per input sample
    const double beta = 0.1102 * (kRejection - 8.7);
    std::vector<float> table(static_cast<std::size_t>(taps) * up);
    std::vector<double> phase(taps);
    for (int p = 0; p < up; ++p) {
        double sum = 0.0;
        for (int t = 0; t < taps; ++t) {
            const double distance = 1.0 * p / up + taps / 2 - 1 - t, inside = distance / (taps / 2);
            const double angle = 2.0 * kPi * cutoff * distance;
            const double sinc = angle == 0.0 ? 1.0 : std::sin(angle) / angle;
            phase[t] = sinc * bessel_i0(beta * std::sqrt(std::max(0.0, 1.0 - inside * inside)));
            sum += phase[t];
        }
        for (int t = 0; t < taps; ++t) table[static_cast<std::size_t>(t) * up + p] = static_cast<float>(phase[t] / sum);
    }
    return table;
}

}  // namespace

struct claprt_resampler {
    int up, down, channels, max_batch;
    claprt::DeviceArray<float> taps;
    claprt::TableRing<ResampledClip> clips;  // the last member, destroyed first: it waits for what is under way
};

namespace {

claprt_status check_run(const claprt_resampler* handle, const void* pcm, int64_t pcm_frames, claprt_type pcm_type,
                        const claprt_clip* clips, int32_t batch, const float* out, int64_t out_samples,
                        const claprt_clip* out_clips) {
    if (handle == nullptr) return fail(CLAPRT_INVALID_ARGUMENT, "handle is NULL; create one first");
    if (const claprt_status status = claprt::check_batch(batch, handle->max_batch)) return status;
    if (pcm_frames < 1 || pcm_frames > kMostFrames)
        return fail(CLAPRT_INVALID_ARGUMENT, "pcm_frames is %lld; pass 1 ... 2^48", static_cast<long long>(pcm_frames));
    if (out_samples < 1)
        return fail(CLAPRT_INVALID_ARGUMENT, "out_samples is %lld; there must be room for at least one",
                    static_cast<long long>(out_samples));
    if (const claprt_status status = claprt::check_sample_type(pcm_type)) return status;
    const claprt::NamedPointer pointers[] = {
        {"pcm", pcm, pcm_type == CLAPRT_INT16 ? 2u : 4u}, {"clips", clips, 8}, {"out", out, 4}, {"out_clips", out_clips, 8}};
    for (const auto& pointer : pointers)
        if (const claprt_status status = claprt::check_pointer(pointer)) return status;
    return claprt::check_clips(clips, batch, pcm_frames, "frames");
}

}  // namespace

CLAPRT_API claprt_status claprt_resampler_create(claprt_resampler** handle, int32_t in_rate, int32_t out_rate,
                                                 int32_t channels, int32_t max_batch) {
    claprt::forget_failure();
    if (handle == nullptr) return fail(CLAPRT_INVALID_ARGUMENT, "handle is NULL; pass its address");
    *handle = nullptr;
    if (const claprt_status status = claprt::check_max_batch(max_batch)) return status;
    if (channels < 1 || channels > kMaxChannels)
        return fail(CLAPRT_INVALID_ARGUMENT, "channels is %d; pass 1 ... %d", channels, kMaxChannels);
    if (in_rate < 1 || out_rate < 1)
        return fail(CLAPRT_INVALID_SPEC, "rates are positive, not %d and %d Hz", in_rate, out_rate);
    const int divisor = std::gcd(in_rate, out_rate), up = out_rate / divisor, down = in_rate / divisor;
    if (up > kMaxUp ||
        static_cast<long long>(kResampleThreads) * down / up + tap_count(up, down) + 2 > claprt::kResampleSpan)
        return fail(CLAPRT_INVALID_SPEC,
                    "the kernel does not resample %d to %d Hz (by %d / %d); it does 8, 11.025, 16, 22.05, 24, 32, 44.1, 88.2, "
                    "96, 192 kHz and others with a simple ratio to 48: resample on the host",
                    in_rate, out_rate, up, down);
    try {
        auto made = std::make_unique<claprt_resampler>();
        made->up = up;
        made->down = down;
        made->channels = channels;
        made->max_batch = max_batch;
        int device;
        CLAPRT_CHECK(cudaGetDevice(&device));
        if (const claprt_status status = made->taps.create(make_taps(up, down))) return status;
        cudaFuncAttributes attributes;  // is there code for this GPU?
        CLAPRT_CHECK(cudaFuncGetAttributes(&attributes, resample_int16));
        if (const claprt_status status = made->clips.create(max_batch)) return status;
        *handle = made.release();
    } catch (const std::bad_alloc&) {
        return fail(CLAPRT_OUT_OF_MEMORY, "out of host memory for a batch of %d; pass a smaller max_batch", max_batch);
    }
    return CLAPRT_OK;
}

CLAPRT_API int64_t claprt_resampler_length(const claprt_resampler* handle, int64_t frames) {
    if (handle == nullptr || frames < 1 || frames > kMostFrames) return 0;
    return claprt::resampled_length(frames, handle->up, handle->down);
}

CLAPRT_API claprt_status claprt_resampler_run(claprt_resampler* handle, const void* pcm, int64_t pcm_frames,
                                              claprt_type pcm_type, const claprt_clip* clips, int32_t batch, float* out,
                                              int64_t out_samples, claprt_clip* out_clips, void* stream) {
    claprt::forget_failure();
    if (const claprt_status status =
            check_run(handle, pcm, pcm_frames, pcm_type, clips, batch, out, out_samples, out_clips))
        return status;
    const auto length_of = [&](int clip) {
        return claprt::resampled_length(clips[clip].length, handle->up, handle->down);
    };
    long long needed = 0, longest = 0;
    for (int i = 0; i < batch; ++i) {
        const long long length = length_of(i);
        if (length > out_samples - needed)
            return fail(CLAPRT_INVALID_ARGUMENT, "out has room for %lld samples; clips 0 ... %d need %lld",
                        static_cast<long long>(out_samples), i, needed + length);
        needed += length;
        longest = std::max(longest, length);
    }
    const long long blocks = (longest + kResampleThreads - 1) / kResampleThreads;
    if (blocks > INT32_MAX)
        return fail(CLAPRT_INVALID_ARGUMENT, "a clip of %lld samples is too long for a launch; cut it", longest);
    ResampleArguments arguments;
    arguments.pcm = pcm;
    arguments.taps = handle->taps.data();
    arguments.out = out;
    arguments.pcm_frames = pcm_frames;
    arguments.out_samples = out_samples;
    arguments.channels = handle->channels;
    arguments.up = handle->up;
    arguments.down = handle->down;
    arguments.tap_count = static_cast<int>(tap_count(handle->up, handle->down));
    arguments.gain = static_cast<float>(1.0 / (handle->channels * (pcm_type == CLAPRT_INT16 ? 32768.0 : 1.0)));
    const claprt::NamedKernel<ResampleArguments> int16{"resample_int16", resample_int16}, fp32{"resample_fp32", resample_fp32};
    const dim3 grid(static_cast<unsigned>(blocks), batch);
    const auto on = static_cast<cudaStream_t>(stream);
    const auto fill = [&](ResampledClip* table) {
        for (long long i = 0, place = 0; i < batch; place += length_of(i), ++i)
            table[i] = {clips[i].offset, clips[i].length, place};
    };
    const auto launch = [&](const ResampledClip* table) {
        arguments.clips = table;
        return claprt::launch(pcm_type == CLAPRT_INT16 ? int16 : fp32, grid, kResampleThreads, arguments, on);
    };
    if (const claprt_status status = handle->clips.run(batch, on, fill, launch)) return status;
    for (long long i = 0, place = 0, length = 0; i < batch; place += length, ++i) {
        length = length_of(i);  // before out_clips, which may be `clips` itself
        out_clips[i] = {place, length};
    }
    return CLAPRT_OK;
}

CLAPRT_API void claprt_resampler_destroy(claprt_resampler* handle) { delete handle; }
