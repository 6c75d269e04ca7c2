// CLAP's audio front end as one CUDA kernel: PCM in, log-Mel spectrograms out, as the audio tower reads them.
//
//     nvcc -O3 -std=c++17 -arch=sm_90 -c log_mel.cu
//
// What is computed, for each frame t of each clip x (the float64 oracle is ../reference.py):
//
//     frame[n]  = x[hop·t - 512 + n] · w[n]             n = 0 … 1023; w: periodic Hann; x mirrored at both ends
//     power[k]  = |Σ_n frame[n] · exp(-2πi·k·n / 1024)|²                           k = 0 … 512
//     out[t, m] = 10·log10(max(Σ_k power[k] · bank[k, m], floor))                  m = 0 … mels-1, decibels
//
// How, and why so:
//
//  * One warp works on two frames, from samples to decibels. Nothing but the result leaves the chip: a 10 s clip reads
//    1 MB of int16 and writes 0.13 MB of FP16, which is the least there is to move. No block barrier anywhere, no
//    scratch in device memory, and one launch for a batch of clips of any lengths.
//  * Two real frames are one complex one: z = frame a + i·frame b, and the spectra come apart again by symmetry,
//    A[k] = (Z[k] + conj Z[-k]) / 2, B[k] = (Z[k] - conj Z[-k]) / 2i. One FFT for two frames.
//  * 1024 = 32 · 32, and a warp has 32 lanes. Lane l holds samples l, l + 32, l + 64, …, transforms those 32 in its
//    registers, turns them (twiddles), and the warp transposes the 32 × 32 matrix through shared memory, once. Then a
//    second transform in registers leaves Z[l + 32·j] in lane l. A lane touches shared memory 128
//    times for two frames; with radix 2 through shared memory it would be 1280 times.
//  * Every butterfly is additions and fused multiply-adds, 6 for two complex outputs (Linzer and Feig, 1993): the
//    smaller one of sine and cosine is taken as a ratio to the larger. Constants are immediates, the registers are
//    never indexed at run time.
//  * Padding, mirroring and cropping are arithmetic on sample positions: there is no padded copy of a clip. Most frames
//    lie in one piece of the PCM and take none of that arithmetic.
//  * The mel bank is sparse: about 600 of 513 · 64 weights. Each lane sums two bands, one narrow and one wide, over the
//    powers in shared memory.
//
// Precision: FP32 throughout, within 1e-4 dB of float64 where a band is not far below the loudest of its two frames;
// `tolerance` in tests/kernels/log_mel_cases.py gives the bound by level, and where it comes from.

#pragma once

#include <cuda_fp16.h>

namespace claprt {

// Where a clip lies in the PCM, in samples. One that does not lie inside it, or is empty, becomes NaN.
struct Clip {
    long long offset;
    long long length;
};

enum Padding : int { kRepeatPad = 0, kRepeat = 1, kPad = 2 };

// The kernel's one argument, passed by value. Pointers are to device memory. The grid has (pairs_per_clip / kWarps rounded
// up, batch) blocks of kThreads threads.
struct LogMelArguments {
    const void* pcm;          // int16 or float32, mono, at the model's rate
    const Clip* clips;        // (batch,)
    const float* tables;      // kWindow, kTwiddles, and so on, see below
    void* out;                // (batch, channels, frames, mels), FP16 or FP32
    long long pcm_samples;    // how many there are at `pcm`
    int channels;             // 1, or 4 for a model with fusion
    int clip_samples;         // length of a full clip; a shorter one is padded, a longer one cut (1 channel) or fused (4)
    int hop;                  // samples between frames
    int frames;               // 1 + clip_samples / hop
    int mels;
    int padding;              // a Padding
    int round_trip;           // not 0: samples go through int16 first, as in LAION's own code
    float floor;              // smallest power
    float gain;               // what a power is multiplied with, so that a full-scale sample is 1
};

constexpr int kFft = 1024;
constexpr int kWarp = 32;
constexpr int kWarps = 4;                 // of a block; each one works alone
constexpr int kThreads = kWarp * kWarps;
constexpr int kExchange = 32 * 33;        // floats of shared memory of a warp: 32 rows, one float apart from alignment

// Float offsets into the tables. After the fixed ones, for each band: its first bin, one past its last, where its
// weights are (three int32), then a factor and a summand for its decibels, then all weights.
constexpr int kWindow = 0;                           // (1024,)
constexpr int kTwiddles = kWindow + kFft;            // (32, 32, 2): cos, -sin of 2π·row·column / 1024
constexpr int kBands = kTwiddles + 2 * kFft;         // (mels, 5)
constexpr int kBandFields = 5;

// ---- The 32-point FFT in registers ----------------------------------------------------------------------------------

// 5 bits in reverse order: where the in-place FFT leaves its output i.
__host__ __device__ constexpr int reversed(int i) {
    return (i & 1) << 4 | (i & 2) << 2 | (i & 4) | (i & 8) >> 2 | (i & 16) >> 4;
}

// (a, b) <- (a + W·b, a - W·b) with W = exp(-iπ·k / half), 0 <= k < half, half one of 1, 2, 4, 8, 16. After the loops
// around it are unrolled, k and half are constants, all branches are decided, and 4 or 6 instructions are left.
__device__ __forceinline__ void butterfly(float2& a, float2& b, int k, int half) {
    // cos and tan of π·i / 16, i = 0 … 4: one eighth of the circle, the others follow by symmetry.
    constexpr float kCos[5] = {1.0f, 0.98078528040323044f, 0.92387953251128676f, 0.83146961230254524f,
                               0.70710678118654752f};
    constexpr float kTan[5] = {0.0f, 0.19891236737965801f, 0.41421356237309505f, 0.66817863791929892f, 1.0f};
    int i = k * (16 / half);              // the angle in sixteenths of π
    if (i >= 8) {                         // a quarter turn is an exchange: -i·(x + iy) = y - ix
        i -= 8;
        b = make_float2(b.y, -b.x);
    }
    float2 u = b;
    float scale = 1.0f;
    if (i > 0 && i <= 4) {                // W = cos·(1 - i·tan)
        scale = kCos[i];
        u = make_float2(fmaf(kTan[i], b.y, b.x), fmaf(-kTan[i], b.x, b.y));
    } else if (i > 4) {                   // W = sin·(cot - i), of the angle that is missing to a quarter turn
        scale = kCos[8 - i];
        u = make_float2(fmaf(kTan[8 - i], b.x, b.y), fmaf(kTan[8 - i], b.y, -b.x));
    }
    if (i == 0) {
        b = make_float2(a.x - u.x, a.y - u.y);
        a = make_float2(a.x + u.x, a.y + u.y);
    } else {
        b = make_float2(fmaf(-scale, u.x, a.x), fmaf(-scale, u.y, a.y));
        a = make_float2(fmaf(scale, u.x, a.x), fmaf(scale, u.y, a.y));
    }
}

// z[0 … 31], in order, becomes its Fourier transform; output i is left in z[reversed(i)]. Decimation in time.
__device__ __forceinline__ void fft32(float2 (&z)[32]) {
#pragma unroll
    for (int half = 1; half <= 16; half *= 2) {
#pragma unroll
        for (int pair = 0; pair < 16; ++pair) {
            const int k = pair % half;
            const int top = pair / half * 2 * half + k;
            butterfly(z[reversed(top)], z[reversed(top + half)], k, half);
        }
    }
}

// The 1024-point FFT of a warp. In: lane l holds sample l + 32·j in z[j]. Out: lane l holds Z[l + 32·j] in
// z[reversed(j)].
//
//     Z[p + 32·q] = Σ_l exp(-2πi·l·q / 32) · exp(-2πi·l·p / 1024) · Σ_j exp(-2πi·j·p / 32) · sample[l + 32·j]
//                  fft32 over lanes          twiddle                fft32 in each lane
__device__ __forceinline__ void fft1024(float2 (&z)[32], const float2* twiddles, float* exchange, int lane) {
    fft32(z);
    float2 turned[32];
#pragma unroll
    for (int p = 0; p < 32; ++p) {
        const float2 value = z[reversed(p)];
        turned[p] = value;
        if (p == 0) continue;  // by a turn of 0
        const float2 w = __ldg(twiddles + 32 * p + lane);
        turned[p] = make_float2(fmaf(-w.y, value.y, w.x * value.x), fmaf(w.y, value.x, w.x * value.y));
    }
    // Lane l has row l of a matrix and needs column l. Rows are 33 floats apart, so that writing a column of it and
    // reading a row both touch all 32 banks. Real and imaginary parts take turns in the same memory.
#pragma unroll
    for (int p = 0; p < 32; ++p) exchange[33 * lane + p] = turned[p].x;
    __syncwarp();
#pragma unroll
    for (int l = 0; l < 32; ++l) z[l].x = exchange[33 * l + lane];
    __syncwarp();
#pragma unroll
    for (int p = 0; p < 32; ++p) exchange[33 * lane + p] = turned[p].y;
    __syncwarp();
#pragma unroll
    for (int l = 0; l < 32; ++l) z[l].y = exchange[33 * l + lane];
    __syncwarp();
    fft32(z);
}

// ---- Samples --------------------------------------------------------------------------------------------------------

// The signal that frames are cut from: the clip, filled up to `total` samples by the padding policy.
template <typename Sample>
struct Signal {
    const Sample* samples;
    long long length;   // of the clip
    long long filled;   // from here on there is silence
    long long total;
    bool round_trip;

    __device__ Signal(const LogMelArguments& a, const Clip& clip)
        : samples(static_cast<const Sample*>(a.pcm) + clip.offset), length(clip.length), round_trip(a.round_trip != 0) {
        if (a.channels == 1 && length > a.clip_samples) length = a.clip_samples;
        total = length < a.clip_samples ? a.clip_samples : length;
        filled = a.padding == kPad ? length : total;
        // Whole repetitions only, then silence.
        if (a.padding == kRepeatPad && length < total)
            filled = static_cast<int>(total) / static_cast<int>(length) * static_cast<int>(length);
    }

    __device__ __forceinline__ float value(const Sample* sample) const {
        const float x = static_cast<float>(*sample);
        if (!round_trip) return x;
        // Each step is rounded, as NumPy does it in float32: rounding the product lifts many values that came from
        // int16 back to the integer that they were. The last step, a division by 32767, is part of `gain`.
        const float unit = sizeof(Sample) == 2 ? x * (1.0f / 32768.0f) : x;
        // Written so that NaN stays NaN.
        const float clipped = unit > 1.0f ? 1.0f : (unit < -1.0f ? -1.0f : unit);
        return truncf(__fmul_rn(clipped, 32767.0f));
    }

    // The sample at any position that a centred frame can reach: -512 … total + 511.
    __device__ float at(long long position) const {
        if (position < 0) position = -position;
        if (position >= total) position = 2 * (total - 1) - position;
        if (position >= filled) return 0.0f;
        // Only a clip that is shorter than a full one repeats, so 32 bits hold both.
        if (position >= length) position = static_cast<unsigned>(position) % static_cast<unsigned>(length);
        return value(samples + position);
    }

    // Samples lane, lane + 32, … of the 1024 from `first` on.
    __device__ __forceinline__ void frame(long long first, int lane, float* scratch, float (&x)[32]) const {
        // Where the frame begins in the clip, if it lies there in one piece.
        const long long begin =
            first < length ? first : static_cast<unsigned>(first) % static_cast<unsigned>(length);
        if (first >= 0 && first + kFft <= filled && begin + kFft <= length) {
            const Sample* from = samples + begin + lane;
#pragma unroll
            for (int j = 0; j < 32; ++j) x[j] = value(from + 32 * j);
        } else {  // few frames: through memory, so that the arithmetic is there once and not 32 times
#pragma unroll 1
            for (int i = lane; i < kFft; i += kWarp) scratch[i] = at(first + i);
#pragma unroll
            for (int j = 0; j < 32; ++j) x[j] = scratch[lane + 32 * j];
        }
    }
};

// ---- Which frames a warp works on, and where their decibels go ------------------------------------------------------

// Two frames of a clip. Their rows of the output are either written as they are, or mixed into one.
struct Pair {
    long long first, second;  // frame numbers
    int channel, row;         // of the first one
    float weight;             // of the second one, if they are mixed
    bool mixed;
};

// Two neighbouring rows of a clip that fills no more than one.
__device__ __forceinline__ Pair plain_pair(int item) {
    return {2LL * item, 2LL * item + 1, 0, 2 * item, 0.0f, false};
}

// Of a long clip, for a model with fusion. Channels 1, 2 and 3 are crops of its log-Mel, from the middle of each third
// of the possible places. Channel 0 is the whole of it, shrunk to as many rows as a clip has: bilinear, without
// antialiasing or aligned corners, which takes two neighbouring frames for each row.
__device__ __forceinline__ Pair fusion_pair(int item, long long total, int frames) {
    const int pairs = (frames + 1) / 2;
    if (item < 3 * pairs) {
        // The places 0 … total - frames fall into three runs, the first ones longer, as numpy.array_split does it.
        const int crop = item / pairs;
        const long long places = total - frames + 1;
        const long long size = places / 3, longer = places % 3;
        const long long length = size + (crop < longer);
        const long long before = crop * size + (crop < longer ? crop : longer);
        const int row = item % pairs * 2;
        const long long frame = (length > 0 ? before + length / 2 : 0) + row;
        return {frame, frame + 1, 1 + crop, row, 0.0f, false};
    }
    // PyTorch computes the source row in float32, with a fused multiply-add: float64, rounded once, is the same.
    const int row = item - 3 * pairs;
    const double scale = static_cast<double>(static_cast<float>(total) / static_cast<float>(frames));
    const double exact = scale * (row + 0.5) - 0.5;
    const float source = static_cast<float>(exact > 0.0 ? exact : 0.0);
    long long low = static_cast<long long>(source);
    if (low > total - 1) low = total - 1;
    const float weight = source - static_cast<float>(low);
    return {low, low + 1 < total ? low + 1 : low, 0, row, weight < 0.0f ? 0.0f : (weight > 1.0f ? 1.0f : weight), true};
}

// How many pairs of frames a clip needs at most.
__host__ __device__ constexpr int pairs_per_clip(int frames, int channels) {
    return channels == 1 ? (frames + 1) / 2 : 3 * ((frames + 1) / 2) + frames;
}

__device__ __forceinline__ void store(float* out, float value) { *out = value; }
__device__ __forceinline__ void store(__half* out, float value) { *out = __float2half_rn(value); }

// ---- The kernel -----------------------------------------------------------------------------------------------------

// Groups: how many times 32 frequency bins the mel bank uses; a spectrum has 16 and one bin. The FFT's outputs beyond
// them are not computed.
template <typename Sample, typename Out, int Groups>
__device__ __forceinline__ void log_mel(const LogMelArguments& a) {
    __shared__ __align__(16) float shared[kWarps * kExchange];  // the powers in it are float2
    const int lane = threadIdx.x % kWarp;
    float* exchange = shared + threadIdx.x / kWarp * kExchange;

    const Clip clip = a.clips[blockIdx.y];
    const int item = blockIdx.x * kWarps + threadIdx.x / kWarp;
    const long long row_size = a.mels, channel_size = row_size * a.frames;
    Out* const out = static_cast<Out*>(a.out) + blockIdx.y * a.channels * channel_size;
    if (clip.offset < 0 || clip.length <= 0 || clip.length > a.pcm_samples - clip.offset) {
        const long long size = a.channels * channel_size;  // the whole grid of the clip fills it
        for (long long i = blockIdx.x * kThreads + threadIdx.x; i < size; i += gridDim.x * kThreads)
            store(out + i, nanf(""));
        return;
    }
    const Signal<Sample> signal(a, clip);
    // One more than a clip has only where there are channels for it.
    const long long total = a.channels == 1 ? a.frames : signal.total / a.hop + 1;
    const bool fused = total > a.frames;
    if (item >= (fused ? pairs_per_clip(a.frames, a.channels) : (a.frames + 1) / 2)) return;
    const Pair pair = fused ? fusion_pair(item, total, a.frames) : plain_pair(item);

    // Samples times window, two frames as one complex signal.
    float2 z[32];
    float x[32];
    signal.frame(pair.first * a.hop - kFft / 2, lane, exchange, x);
#pragma unroll
    for (int j = 0; j < 32; ++j) z[j].x = x[j];
    const bool last = pair.second >= total;  // an odd number of frames: the last pair is one frame twice
    signal.frame((last ? pair.first : pair.second) * a.hop - kFft / 2, lane, exchange, x);
    const float* window = a.tables + kWindow + lane;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
        const float w = __ldg(window + 32 * j);
        z[j] = make_float2(z[j].x * w, x[j] * w);
    }
    __syncwarp();
    fft1024(z, reinterpret_cast<const float2*>(a.tables + kTwiddles), exchange, lane);

    // Z[-k] is in lane -l, mod 32. The powers of both frames (4 times too large, which `gain` makes good) go to shared
    // memory, where all lanes need them.
    float2* power = reinterpret_cast<float2*>(exchange);
#pragma unroll
    for (int j = 0; j < Groups; ++j) {
        const float2 here = z[reversed(j)];
        const float2 from = z[reversed(31 - j)];
        float2 there = make_float2(__shfl_sync(0xffffffffu, from.x, (32 - lane) % 32),
                                   __shfl_sync(0xffffffffu, from.y, (32 - lane) % 32));
        if (lane == 0) there = z[reversed((32 - j) % 32)];
        const float ar = here.x + there.x, ai = here.y - there.y;
        const float br = here.y + there.y, bi = here.x - there.x;
        if (32 * j + lane <= kFft / 2) {
            power[32 * j + lane] = make_float2(fmaf(ar, ar, ai * ai), fmaf(br, br, bi * bi));
        }
    }
    __syncwarp();

    // Bands: lane l takes l, then 63 - l, then 64 + l, …: low bands are narrow and high ones wide, so that all lanes
    // have about the same to do.
    const float* band_table = a.tables + kBands;
    const float* weights = band_table + kBandFields * a.mels;
    Out* const row = out + pair.channel * channel_size + pair.row * row_size;
    const bool both = !pair.mixed && pair.row + 1 < a.frames;
    const int copies = a.channels > 1 && !fused ? a.channels : 1;  // a short clip fills every channel
    for (int start = 0; start < a.mels; start += kWarp) {
        const int band = start / kWarp % 2 == 0 ? start + lane : start + kWarp - 1 - lane;
        if (band >= a.mels) continue;
        const float* fields = band_table + kBandFields * band;
        const int begin = __float_as_int(__ldg(fields)), end = __float_as_int(__ldg(fields + 1));
        const float* weight = weights + __float_as_int(__ldg(fields + 2)) - begin;
        float2 sum = make_float2(0.0f, 0.0f);
        for (int k = begin; k < end; ++k) {
            const float w = __ldg(weight + k);
            sum = make_float2(fmaf(w, power[k].x, sum.x), fmaf(w, power[k].y, sum.y));
        }
        // 10·log10(x) = 3.01…·log2(x). Not fmaxf, which would take the floor for NaN.
        const float x = sum.x * a.gain, y = sum.y * a.gain;
        float first = 3.01029995663981195f * __log2f(x < a.floor ? a.floor : x);
        float second = 3.01029995663981195f * __log2f(y < a.floor ? a.floor : y);
        if (pair.mixed) first = first * (1.0f - pair.weight) + second * pair.weight;
        const float factor = __ldg(fields + 3), summand = __ldg(fields + 4);
        for (int copy = 0; copy < copies; ++copy) {
            Out* const to = row + copy * channel_size + band;
            store(to, fmaf(factor, first, summand));
            if (both) store(to + row_size, fmaf(factor, second, summand));
        }
    }
}

}  // namespace claprt
