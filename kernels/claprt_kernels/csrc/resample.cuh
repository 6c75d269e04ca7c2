// PCM of any usual rate, mono or interleaved, to mono at the model's rate: a polyphase filter.
//
//     y[n] = Σ_t taps[t, n·down mod up] · x[floor(n·down / up) - taps / 2 + 1 + t]        x: mean of a frame's channels
//
// up / down is the output's rate over the input's, reduced: 160 / 147 for 44.1 to 48 kHz. x is zero outside of its clip.
//
//  * A block makes 256 samples of one clip. What they need of the input, at most a few thousand samples, is mixed down
//    into shared memory once; then every thread makes one sample.
//  * The taps are stored by tap, then phase: neighbouring threads have other phases of one tap, which lie together.

#pragma once

#include "log_mel.cuh"

namespace claprt {

// Where a clip lies, in frames of the input (a frame has one sample of each channel), and where its output goes.
struct ResampledClip {
    long long offset;
    long long length;
    long long out_offset;
};

// The kernel's one argument. The grid has (the longest clip's output / kResampleThreads rounded up, batch) blocks.
struct ResampleArguments {
    const void* pcm;             // int16 or float32, interleaved
    const ResampledClip* clips;  // (batch,)
    const float* taps;           // (tap_count, up)
    float* out;                  // mono, full scale 1
    long long pcm_frames;        // how many there are at `pcm`
    long long out_samples;       // how many there is room for at `out`
    int channels;
    int up, down;
    int tap_count;
    float gain;                  // what a mixed sample is multiplied with: full scale becomes 1, a sum a mean
};

constexpr int kResampleThreads = 256;
constexpr int kResampleSpan = 3072;  // input frames that a block may need: 256 · down / up + tap_count + 1

// Samples after conversion: rounded half up, at least one.
__host__ __device__ constexpr long long resampled_length(long long frames, int up, int down) {
    const long long length = (2 * frames * up + down) / (2 * down);
    return length > 0 ? length : 1;
}

template <typename Sample>
__device__ __forceinline__ void resample(const ResampleArguments& a) {
    __shared__ float x[kResampleSpan];
    const ResampledClip clip = a.clips[blockIdx.y];
    if (clip.offset < 0 || clip.length <= 0 || clip.length > a.pcm_frames - clip.offset) return;
    const long long length = resampled_length(clip.length, a.up, a.down);
    if (clip.out_offset < 0 || length > a.out_samples - clip.out_offset) return;
    const long long first = static_cast<long long>(blockIdx.x) * kResampleThreads;
    if (first >= length) return;
    const long long last = first + kResampleThreads < length ? first + kResampleThreads - 1 : length - 1;

    // The input under this block's samples.
    const long long begin = first * a.down / a.up - a.tap_count / 2 + 1;
    const int span = static_cast<int>(last * a.down / a.up + a.tap_count / 2 - begin) + 1;
    const Sample* samples = static_cast<const Sample*>(a.pcm) + clip.offset * a.channels;
    for (int i = threadIdx.x; i < span; i += kResampleThreads) {
        const long long frame = begin + i;
        float sum = 0.0f;
        if (frame >= 0 && frame < clip.length)
            for (int channel = 0; channel < a.channels; ++channel) sum += samples[frame * a.channels + channel];
        x[i] = sum * a.gain;
    }
    __syncthreads();

    const long long n = first + threadIdx.x;
    if (n > last) return;
    const long long position = n * a.down;
    const int phase = static_cast<int>(position % a.up);
    const float* from = x + (position / a.up - a.tap_count / 2 + 1 - begin);
    const float* tap = a.taps + phase;
    float sum = 0.0f;
#pragma unroll 4
    for (int t = 0; t < a.tap_count; ++t) sum = fmaf(__ldg(tap + t * a.up), from[t], sum);
    a.out[clip.out_offset + n] = sum;
}

}  // namespace claprt
