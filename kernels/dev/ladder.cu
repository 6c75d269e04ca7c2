// The log-Mel kernel's ladder: versions that taught something, checked against float64, then timed against the memory.
//
//     nvcc -O3 -std=c++17 -arch=native -I../claprt_kernels/csrc ladder.cu -o ladder && ./ladder
//     ./ladder --check             the check alone (for compute-sanitizer, and for CPUs)
//     ./ladder --json              one JSON object a line
//
// 1  textbook: a block for each frame, radix 2 in shared memory, sines computed.   10 barriers a frame, 20 accesses to
//    shared memory for each sample.
// 2  two frames as one complex transform, radix 4, twiddles from a table.          5 barriers for two frames.
// 3  a warp for two frames, 32 points in each lane's registers, one transposition. No barrier, 4 accesses. This one is
//    csrc/log_mel.cuh, what the package runs.
//
// Every version computes the same: batches of clips of any length, padded by index arithmetic, int16 or FP32 in, FP16 or
// FP32 out. Working sets rotate through more than twice the memory that the L2 cache holds, and no version is timed before its
// numbers are right. The floor is the time that the same bytes take when they are only copied, measured in the same run. A
// batch that device memory has no room for is named and left out. Times are of launches back to back, for a batch of one
// also from a launch to when the host knows that it is done.

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <utility>

#include "c_interface.cu"
#include "claprt_log_mel.cu"

namespace {

using Clock = std::chrono::steady_clock;
using claprt::kBandFields;
using claprt::kBands;
using claprt::kTwiddles;
using claprt::kWindow;
using claprt::Signal;

// ---- Version 1 ------------------------------------------------------------------------------------------------------

constexpr int kThreads1 = 256;

__device__ __forceinline__ int reversed10(int i) {
    int result = 0;
    for (int bit = 0; bit < 10; ++bit) result |= (i >> bit & 1) << (9 - bit);
    return result;
}

// Sums of one band over powers in shared memory, to decibels.
__device__ __forceinline__ float decibels(const LogMelArguments& a, const float* power, int stride, int band) {
    const float* fields = a.tables + kBands + kBandFields * band;
    const int begin = __float_as_int(fields[0]), end = __float_as_int(fields[1]);
    const float* weight = a.tables + kBands + kBandFields * a.mels + __float_as_int(fields[2]) - begin;
    float sum = 0.0f;
    for (int k = begin; k < end; ++k) sum = fmaf(weight[k], power[k * stride], sum);
    sum *= a.gain;
    return 3.01029995663981195f * __log2f(sum < a.floor ? a.floor : sum);
}

template <typename Sample, typename Out>
__device__ __forceinline__ void version1(const LogMelArguments& a) {
    __shared__ float2 z[kFft];
    __shared__ float power[kFft / 2 + 1];
    const Signal<Sample> signal(a, a.clips[blockIdx.y]);
    const int frame = blockIdx.x, thread = threadIdx.x;
    const long long first = static_cast<long long>(frame) * a.hop - kFft / 2;
    for (int n = thread; n < kFft; n += kThreads1)
        z[reversed10(n)] = make_float2(signal.at(first + n) * a.tables[kWindow + n], 0.0f);
    __syncthreads();
    for (int half = 1; half < kFft; half *= 2) {
        for (int pair = thread; pair < kFft / 2; pair += kThreads1) {
            const int k = pair % half, top = pair / half * 2 * half + k;
            float s, c;
            sincospif(-static_cast<float>(k) / half, &s, &c);
            const float2 x = z[top], y = z[top + half];
            const float2 turned = make_float2(c * y.x - s * y.y, c * y.y + s * y.x);
            z[top] = make_float2(x.x + turned.x, x.y + turned.y);
            z[top + half] = make_float2(x.x - turned.x, x.y - turned.y);
        }
        __syncthreads();
    }
    for (int k = thread; k <= kFft / 2; k += kThreads1) power[k] = 4.0f * (z[k].x * z[k].x + z[k].y * z[k].y);
    __syncthreads();
    Out* out = static_cast<Out*>(a.out) + (static_cast<long long>(blockIdx.y) * a.frames + frame) * a.mels;
    for (int band = thread; band < a.mels; band += kThreads1) claprt::store(out + band, decibels(a, power, 1, band));
}

// ---- Version 2 ------------------------------------------------------------------------------------------------------

constexpr int kThreads2 = 256;

// Digits of 5 figures to the base of 4, in reverse order.
__device__ __forceinline__ int reversed4(int i) {
    int result = 0;
    for (int digit = 0; digit < 5; ++digit) result |= (i >> 2 * digit & 3) << (8 - 2 * digit);
    return result;
}

__device__ __forceinline__ float2 times(float2 a, float2 b) {
    return make_float2(fmaf(-a.y, b.y, a.x * b.x), fmaf(a.y, b.x, a.x * b.y));
}

template <typename Sample, typename Out>
__device__ __forceinline__ void version2(const LogMelArguments& a) {
    __shared__ float2 z[kFft];
    __shared__ float2 power[kFft / 2 + 1];
    const Signal<Sample> signal(a, a.clips[blockIdx.y]);
    const int frame = 2 * blockIdx.x, thread = threadIdx.x;
    const bool both = frame + 1 < a.frames;
    const long long first = static_cast<long long>(frame) * a.hop - kFft / 2;
    for (int n = thread; n < kFft; n += kThreads2) {
        const float w = a.tables[kWindow + n];
        z[reversed4(n)] = make_float2(signal.at(first + n) * w, both ? signal.at(first + a.hop + n) * w : 0.0f);
    }
    __syncthreads();
    for (int quarter = 1; quarter < kFft; quarter *= 4) {
        const int k = thread % quarter, top = thread / quarter * 4 * quarter + k;
        // exp(-2πi·k / (4·quarter)), its square and its cube. The table has row · column / 1024 of a turn: row 1 has the
        // fine angles, row 8 those that are multiples of 32.
        const int turn = k * (kFft / 4 / quarter);
        const float2* table = reinterpret_cast<const float2*>(a.tables + kTwiddles);
        const float2 fine = table[32 + turn % 32], coarse = table[32 * 8 + turn / 32 * 4];
        const float2 w1 = times(fine, coarse), w2 = times(w1, w1), w3 = times(w1, w2);
        const float2 x0 = z[top], x1 = times(w1, z[top + quarter]), x2 = times(w2, z[top + 2 * quarter]),
                     x3 = times(w3, z[top + 3 * quarter]);
        const float2 even = make_float2(x0.x + x2.x, x0.y + x2.y), odd = make_float2(x1.x + x3.x, x1.y + x3.y);
        const float2 even2 = make_float2(x0.x - x2.x, x0.y - x2.y), odd2 = make_float2(x1.y - x3.y, x3.x - x1.x);
        z[top] = make_float2(even.x + odd.x, even.y + odd.y);
        z[top + quarter] = make_float2(even2.x + odd2.x, even2.y + odd2.y);
        z[top + 2 * quarter] = make_float2(even.x - odd.x, even.y - odd.y);
        z[top + 3 * quarter] = make_float2(even2.x - odd2.x, even2.y - odd2.y);
        __syncthreads();
    }
    for (int k = thread; k <= kFft / 2; k += kThreads2) {
        const float2 here = z[k], there = z[(kFft - k) % kFft];
        const float ar = here.x + there.x, ai = here.y - there.y, br = here.y + there.y, bi = here.x - there.x;
        power[k] = make_float2(ar * ar + ai * ai, br * br + bi * bi);
    }
    __syncthreads();
    Out* out = static_cast<Out*>(a.out) + (static_cast<long long>(blockIdx.y) * a.frames + frame) * a.mels;
    for (int i = thread; i < 2 * a.mels; i += kThreads2) {
        const int band = i % a.mels, second = i / a.mels;
        if (second != 0 && !both) continue;
        claprt::store(out + i, decibels(a, second ? &power[0].y : &power[0].x, 2, band));
    }
}

}  // namespace

#define VERSION(name, function, threads, Sample, Out) \
    extern "C" __global__ void __launch_bounds__(threads) name(const LogMelArguments a) { function<Sample, Out>(a); }

VERSION(version1_int16_fp16, version1, kThreads1, short, __half)
VERSION(version1_fp32_fp32, version1, kThreads1, float, float)
VERSION(version2_int16_fp16, version2, kThreads2, short, __half)
VERSION(version2_fp32_fp32, version2, kThreads2, float, float)

namespace {

struct Version {
    const char* name;
    decltype(NamedKernel::kernel) int16_fp16, fp32_fp32;
    int threads, frames_per_block;
};

const Version kVersions[] = {
    {"1 textbook", version1_int16_fp16, version1_fp32_fp32, kThreads1, 1},
    {"2 pairs, radix 4", version2_int16_fp16, version2_fp32_fp32, kThreads2, 2},
    {"3 a warp in registers", log_mel_int16_fp16_narrow, log_mel_fp32_fp32_narrow, claprt::kThreads, 2 * claprt::kWarps},
};

void require(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "error: %s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
}

// Device memory that gives itself back.
struct Memory {
    explicit Memory(std::size_t size) : size(size) { require(cudaMalloc(&address, size), "device memory"); }
    ~Memory() { cudaFree(address); }
    Memory(const Memory&) = delete;
    void* address = nullptr;
    std::size_t size;
};

struct Problem {
    std::vector<Clip> clips;
    std::vector<short> pcm;
};

// Noise with a loud tone and silent stretches; every other clip is shorter than 10 s if `mixed`.
Problem make_problem(int batch, bool mixed) {
    Problem problem;
    std::mt19937 random(batch);
    std::normal_distribution<float> noise(0.0f, 1500.0f);
    const int lengths[] = {480000, 158400, 480000, 4800, 480000, 1};
    for (int b = 0; b < batch; ++b) {
        const int length = mixed ? lengths[b % 6] : 480000;
        problem.clips.push_back({static_cast<long long>(problem.pcm.size()), length});
        for (int i = 0; i < length; ++i) {
            const float tone = 20000.0f * std::sin(0.05f * static_cast<float>(i % 100000));
            const float value = i / 24000 % 5 == 4 ? 0.0f : noise(random) + (i / 48000 % 2 ? tone : 0.0f);
            problem.pcm.push_back(static_cast<short>(std::max(-32768.0f, std::min(32767.0f, value))));
        }
    }
    return problem;
}

float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                      : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return exponent == 31 ? NAN : (bits & 0x8000 ? -value : value);
}

// One frame by the definition, in double: repeatpad, mirrored ends, the discrete Fourier transform as a sum.
std::vector<double> oracle(const Problem& problem, int clip, int frame, const claprt_log_mel_spec& spec,
                           const std::vector<float>& tables) {
    const double pi = std::acos(-1.0);
    const long long length = std::min<long long>(problem.clips[clip].length, spec.clip_samples);
    const long long filled = length < spec.clip_samples ? spec.clip_samples / length * length : spec.clip_samples;
    std::vector<double> x(kFft), cosine(kFft), power(kFft / 2 + 1);
    for (int n = 0; n < kFft; ++n) {
        long long at = static_cast<long long>(frame) * spec.hop_length - kFft / 2 + n;
        if (at < 0) at = -at;
        if (at >= spec.clip_samples) at = 2LL * (spec.clip_samples - 1) - at;
        const double sample = at < filled ? problem.pcm[problem.clips[clip].offset + at % length] / 32768.0 : 0.0;
        x[n] = sample * (0.5 - 0.5 * std::cos(2.0 * pi * n / kFft));
        cosine[n] = std::cos(2.0 * pi * n / kFft);
    }
    for (int k = 0; k <= kFft / 2; ++k) {
        double re = 0.0, im = 0.0;
        for (int n = 0; n < kFft; ++n) {
            re += x[n] * cosine[k * n % kFft];
            im += x[n] * cosine[(k * n + kFft / 4) % kFft];
        }
        power[k] = re * re + im * im;
    }
    std::vector<double> result;
    for (int band = 0; band < spec.n_mels; ++band) {
        const float* fields = tables.data() + kBands + kBandFields * band;
        int bounds[3];
        std::memcpy(bounds, fields, sizeof bounds);
        double sum = 0.0;
        for (int k = bounds[0]; k < bounds[1]; ++k)
            sum += power[k] * tables[kBands + kBandFields * spec.n_mels + bounds[2] + k - bounds[0]];
        result.push_back(10.0 * std::log10(std::max(sum, spec.log_floor)));
    }
    return result;
}

// As tests/kernels/log_mel_cases.py: two units in the last place of the peak of the two frames of a pair.
double allowed(double level) { return std::max(1e-4, 20.0 * std::log10(1.0 + std::ldexp(1.0, -22) * std::pow(10.0, level / 20.0))); }

struct Bench {
    claprt_log_mel_spec spec;
    std::vector<float> tables;
    bool narrow, json;
    Memory* tables_on_device;

    LogMelArguments arguments(bool int16, const void* pcm, long long samples, const void* clips, void* out) const {
        LogMelArguments a{};
        a.pcm = pcm;
        a.clips = static_cast<const Clip*>(clips);
        a.tables = static_cast<const float*>(tables_on_device->address);
        a.out = out;
        a.pcm_samples = samples;
        a.channels = 1;
        a.clip_samples = spec.clip_samples;
        a.hop = spec.hop_length;
        a.frames = frames();
        a.mels = spec.n_mels;
        a.padding = spec.padding;
        a.floor = static_cast<float>(spec.log_floor);
        a.gain = static_cast<float>(0.25 * (int16 ? std::ldexp(1.0, -30) : 1.0));
        return a;
    }
    int frames() const { return 1 + spec.clip_samples / spec.hop_length; }

    void launch(const Version& version, bool int16, LogMelArguments a, int batch) const {
        void* parameters[] = {&a};
        const dim3 grid((frames() + version.frames_per_block - 1) / version.frames_per_block, batch);
        require(cudaLaunchKernel(int16 ? version.int16_fp16 : version.fp32_fp32, grid, dim3(version.threads), parameters, 0,
                                 nullptr),
                version.name);
    }

    // Whether a version's numbers are right: mixed lengths, some frames of each clip, both pairs of types. The last frame has
    // no partner. Nothing is left as it was before.
    bool check(const Version& version, int batch) const {
        const Problem problem = make_problem(batch, true);
        double worst = 0.0;
        for (bool int16 : {true, false}) {
            std::vector<float> floats(problem.pcm.size());
            for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = problem.pcm[i] / 32768.0f;
            const void* samples = int16 ? static_cast<const void*>(problem.pcm.data()) : floats.data();
            Memory pcm(problem.pcm.size() * (int16 ? 2 : 4)), clips(sizeof(Clip) * batch);
            const std::size_t values = static_cast<std::size_t>(batch) * frames() * spec.n_mels;
            Memory out(values * (int16 ? 2 : 4));
            require(cudaMemcpy(pcm.address, samples, pcm.size, cudaMemcpyHostToDevice), "copy");
            require(cudaMemcpy(clips.address, problem.clips.data(), clips.size, cudaMemcpyHostToDevice), "copy");
            require(cudaMemset(out.address, 0xFF, out.size), "memset");
            launch(version, int16, arguments(int16, pcm.address, problem.pcm.size(), clips.address, out.address), batch);
            std::vector<unsigned char> bytes(out.size);
            require(cudaMemcpy(bytes.data(), out.address, out.size, cudaMemcpyDeviceToHost), version.name);
            const auto value = [&](std::size_t i) {
                unsigned short half;
                float single;
                std::memcpy(&half, bytes.data() + (int16 ? 2 * i : 0), 2);
                std::memcpy(&single, bytes.data() + (int16 ? 0 : 4 * i), 4);
                return int16 ? half_to_float(half) : single;
            };
            for (std::size_t i = 0; i < values; ++i)
                if (!std::isfinite(value(i))) worst = INFINITY;  // 0xFF… is a NaN
            for (int clip = 0; clip < batch; ++clip) {
                for (int pair : {0, 1, 16, 52, 200, 333, frames() / 2 - 1, (frames() - 1) / 2}) {
                    std::vector<std::vector<double>> rows;
                    for (int frame = 2 * pair; frame < std::min(2 * pair + 2, frames()); ++frame)
                        rows.push_back(oracle(problem, clip, frame, spec, tables));
                    double peak = -1e9;
                    for (const auto& row : rows) peak = std::max(peak, *std::max_element(row.begin(), row.end()));
                    for (std::size_t row = 0; row < rows.size(); ++row) {
                        const std::size_t first = (static_cast<std::size_t>(clip) * frames() + 2 * pair + row) * spec.n_mels;
                        for (int band = 0; band < spec.n_mels; ++band) {
                            const double expected = rows[row][band];
                            const double bound = allowed(peak - expected) + std::fabs(expected) * (int16 ? 0x1p-11 : 0x1p-24);
                            const double error = std::fabs(value(first + band) - expected) / bound;
                            if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
                        }
                    }
                }
            }
        }
        if (json && std::isfinite(worst))
            std::printf("{\"check\": \"%s\", \"batch\": %d, \"error_over_bound\": %.4g}\n", version.name, batch, worst);
        else if (json)
            std::printf("{\"check\": \"%s\", \"batch\": %d, \"error_over_bound\": null}\n", version.name, batch);
        else
            std::printf("%-22s batch %d: error is %.2g of what is allowed\n", version.name, batch, worst);
        return worst <= 1.0;
    }

    // Until clocks and caches are as they stay: by time, as a fixed number of short launches warms nothing up.
    template <typename Work>
    static void warm_up(int sets, Work work) {
        const auto begin = Clock::now();
        for (int i = 0; Clock::now() - begin < std::chrono::milliseconds(200); ++i) {
            work(i % sets);
            if (i % 16 == 15) require(cudaDeviceSynchronize(), "warming up");
        }
        require(cudaDeviceSynchronize(), "warming up");
    }

    // Microseconds from one launch to the next, back to back, inputs rotating: the median of 11 rounds, each of 5 ms or more.
    template <typename Work>
    static double back_to_back(int sets, Work work) {
        warm_up(sets, work);
        cudaEvent_t begin, end;
        require(cudaEventCreate(&begin), "event");
        require(cudaEventCreate(&end), "event");
        std::vector<double> times;
        int repeats = std::max(sets, 16);
        for (int round = 0; round < 12; ++round) {
            require(cudaEventRecord(begin, nullptr), "event");
            for (int i = 0; i < repeats; ++i) work(i % sets);
            require(cudaEventRecord(end, nullptr), "event");
            require(cudaEventSynchronize(end), "the timed work");
            float milliseconds;
            require(cudaEventElapsedTime(&milliseconds, begin, end), "event");
            if (round > 0) times.push_back(1000.0 * milliseconds / repeats);
            if (round == 0 && milliseconds < 5.0f) repeats *= static_cast<int>(5.0f / std::max(milliseconds, 0.05f)) + 1;
        }
        cudaEventDestroy(begin);
        cudaEventDestroy(end);
        std::sort(times.begin(), times.end());
        return times[times.size() / 2];
    }

    // Microseconds of the host's clock from before one launch until its end is known: median and 95th percentile of 401.
    template <typename Work>
    static std::pair<double, double> launch_to_done(int sets, Work work) {
        warm_up(sets, work);
        cudaEvent_t done;
        require(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event");
        std::vector<double> times;
        for (int i = 0; i < 401; ++i) {
            const auto begin = Clock::now();
            work(i % sets);
            require(cudaEventRecord(done, nullptr), "event");
            require(cudaEventSynchronize(done), "the timed work");
            times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
        }
        cudaEventDestroy(done);
        std::sort(times.begin(), times.end());
        return {times[times.size() / 2], times[times.size() * 95 / 100]};
    }

    // Every version on a batch of full clips. Its inputs and outputs rotate through more than twice the L2 cache.
    void time(const Problem& problem, int batch, bool int16, std::size_t l2) const {
        const char* types = int16 ? "int16 to fp16" : "fp32 to fp32";
        const std::size_t sample = int16 ? 2 : 4, read = batch * 480000 * sample;
        const std::size_t written = batch * sample * frames() * spec.n_mels, bytes = read + written;
        const int sets = static_cast<int>(2 * l2 / bytes) + 1;
        std::size_t free = 0, total = 0;
        require(cudaMemGetInfo(&free, &total), "free memory");
        const std::size_t needed = bytes * sets + sizeof(Clip) * batch, spare = std::size_t{64} << 20;
        if (needed + spare > free) {
            if (json)
                std::printf("{\"types\": \"%s\", \"batch\": %d, \"not_run\": \"%zu MB of device memory are needed, %zu are "
                            "free\"}\n", types, batch, (needed + spare) >> 20, free >> 20);
            else
                std::printf("%-22s %-13s batch %5d: not run, %zu MB of device memory are needed, %zu are free\n", "", types,
                            batch, (needed + spare) >> 20, free >> 20);
            return;
        }
        // What a copy of as many bytes takes, half of them read and half written.
        double copied;
        {
            const std::size_t half = bytes / 2;
            Memory from(half * sets), to(half * sets);
            require(cudaMemset(from.address, 1, from.size), "memset");
            copied = back_to_back(sets, [&](int set) {
                require(cudaMemcpyAsync(static_cast<char*>(to.address) + set * half, static_cast<char*>(from.address) + set * half,
                                        half, cudaMemcpyDeviceToDevice, nullptr),
                        "copy");
            });
        }
        std::vector<float> floats(int16 ? 0 : problem.pcm.size());
        for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = problem.pcm[i] / 32768.0f;
        const void* samples = int16 ? static_cast<const void*>(problem.pcm.data()) : floats.data();
        std::vector<Clip> clips;
        for (int b = 0; b < batch; ++b) clips.push_back({480000LL * b, 480000});
        Memory pcm(read * sets), out(written * sets), table(sizeof(Clip) * batch);
        const std::size_t have = problem.pcm.size() * sample;
        for (std::size_t at = 0; at < pcm.size; at += have)
            require(cudaMemcpy(static_cast<char*>(pcm.address) + at, samples, std::min(have, pcm.size - at), cudaMemcpyHostToDevice), "copy");
        require(cudaMemcpy(table.address, clips.data(), table.size, cudaMemcpyHostToDevice), "copy");
        for (const Version& version : kVersions) {
            const auto work = [&](int set) {
                launch(version, int16,
                       arguments(int16, static_cast<char*>(pcm.address) + set * read, 480000LL * batch, table.address,
                                 static_cast<char*>(out.address) + set * written),
                       batch);
            };
            const double took = back_to_back(sets, work);
            const double bandwidth = bytes / took * 1e-3, ceiling = bytes / copied * 1e-3;
            if (json)
                std::printf("{\"version\": \"%s\", \"types\": \"%s\", \"batch\": %d, \"measured\": \"back to back\", \"us\": %.4g, "
                            "\"us_per_clip\": %.4g, \"gb_per_s\": %.4g, \"copy_gb_per_s\": %.4g, \"fraction_of_copy\": %.4g, "
                            "\"working_set_mb\": %.4g}\n",
                            version.name, types, batch, took, took / batch, bandwidth, ceiling, bandwidth / ceiling,
                            1e-6 * bytes * sets);
            else
                std::printf("%-22s %-13s batch %5d: %9.2f us back to back, %8.3f us a clip, %7.1f GB/s, %5.1f %% of a copy's %.0f\n",
                            version.name, types, batch, took, took / batch, bandwidth, 100.0 * bandwidth / ceiling, ceiling);
            if (batch == 1) {
                const auto [median, late] = launch_to_done(sets, work);
                if (json)
                    std::printf("{\"version\": \"%s\", \"types\": \"%s\", \"batch\": 1, \"measured\": \"launch to done\", "
                                "\"us\": %.4g, \"us_p95\": %.4g}\n", version.name, types, median, late);
                else
                    std::printf("%-22s %-13s batch %5d: %9.2f us from launch to done, %.2f in 1 of 20\n", version.name, types, 1,
                                median, late);
            }
            std::fflush(stdout);
        }
    }
};

}  // namespace

int main(int count, char** arguments) {
    bool check_only = false, json = false;
    const int batches[] = {1, 8, 64, 256, 1024};
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        if (argument == "--check") {
            check_only = true;
        } else if (argument == "--json") {
            json = true;
        } else {
            std::fprintf(stderr, "usage: ladder [--check] [--json]\n");
            return 2;
        }
    }
    Bench bench{};
    bench.json = json;
    claprt_log_mel_default_spec(&bench.spec);
    bench.tables = make_tables(bench.spec, bench.narrow);
    Memory tables(sizeof(float) * bench.tables.size());
    require(cudaMemcpy(tables.address, bench.tables.data(), tables.size, cudaMemcpyHostToDevice), "tables");
    bench.tables_on_device = &tables;
    for (const Version& version : kVersions) {
        for (int batch : {1, 6}) {
            if (bench.check(version, batch)) continue;
            std::fprintf(stderr, "error: version %s is wrong; nothing is timed\n", version.name);
            return 1;
        }
    }
    if (check_only) return 0;
    int device = 0, l2 = 0;
    require(cudaGetDevice(&device), "device");
    require(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device), "L2 size");
    const Problem problem = make_problem(16, false);  // larger batches have it several times
    for (int batch : batches)
        for (bool int16 : {true, false}) bench.time(problem, batch, int16, l2);
    return 0;
}
