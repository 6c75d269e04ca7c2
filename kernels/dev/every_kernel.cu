// Every kernel through the C interface, on clips of a few milliseconds, against double: small enough for compute-sanitizer.
//
//     nvcc -O3 -std=c++17 -arch=native -lineinfo -I../claprt_kernels/csrc every_kernel.cu -o every_kernel
//     compute-sanitizer --tool memcheck ./every_kernel
//
// Both types of samples and of results, both widths of mel bank, all paddings, the round trip through int16, fusion, clips in
// host and in device memory, some of which lie outside of the PCM; then both resampling kernels, up, down, and mixing only.
// One JSON object for each case. Exit codes: 0 all of it is right, 1 something is wrong, 2 CUDA or the library refused.

#include <algorithm>
#include <random>

#include "c_interface.cu"
#include "claprt_log_mel.cu"
#include "claprt_resample.cu"

namespace {

void require(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "error: %s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
}

void require(claprt_status status) {
    if (status == CLAPRT_OK) return;
    std::fprintf(stderr, "error: %s\n", claprt_log_mel_message());
    std::exit(2);
}

// Device memory of exactly the size of some values, which it has.
template <typename T>
struct OnDevice {
    explicit OnDevice(const std::vector<T>& values) : size(sizeof(T) * values.size()) {
        require(cudaMalloc(&address, size), "device memory");
        require(cudaMemcpy(address, values.data(), size, cudaMemcpyHostToDevice), "copy");
    }
    ~OnDevice() { cudaFree(address); }
    OnDevice(const OnDevice&) = delete;
    std::vector<T> back() const {
        std::vector<T> values(size / sizeof(T));
        require(cudaMemcpy(values.data(), address, size, cudaMemcpyDeviceToHost), "the kernel");
        return values;
    }
    void* address = nullptr;
    std::size_t size;
};

float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                      : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return exponent == 31 ? NAN : (bits & 0x8000 ? -value : value);
}

bool report(const char* name, const char* what, double worst) {
    std::printf("{\"kernel\": \"%s\", \"case\": \"%s\", \"error_over_bound\": ", name, what);
    std::isfinite(worst) ? std::printf("%.4g}\n", worst) : std::printf("null}\n");
    std::fflush(stdout);
    return worst <= 1.0;
}

// ---- Log-Mel, by the definition -------------------------------------------------------------------------------------

constexpr int kClip = 2048, kHop = 480, kFrames = 1 + kClip / kHop, kMels = 20;
const long long kLengths[] = {1, 300, 1023, 1030, 2047, 2048, 2049, 5003};

// All frames of a signal, (frames, 513): mirrored ends, the discrete Fourier transform as a sum.
std::vector<std::vector<double>> powers(const std::vector<double>& x) {
    static const std::vector<double> cosine = [] {
        std::vector<double> table(kFft);
        for (int n = 0; n < kFft; ++n) table[n] = std::cos(2.0 * std::acos(-1.0) * n / kFft);
        return table;
    }();
    const long long total = static_cast<long long>(x.size());
    std::vector<std::vector<double>> result;
    for (long long frame = 0; frame <= total / kHop; ++frame) {
        double windowed[kFft];
        for (int n = 0; n < kFft; ++n) {
            long long at = frame * kHop - kFft / 2 + n;
            if (at < 0) at = -at;
            if (at >= total) at = 2 * (total - 1) - at;
            windowed[n] = x[at] * (0.5 - 0.5 * cosine[n]);
        }
        result.emplace_back();
        for (int k = 0; k <= kFft / 2; ++k) {
            double re = 0.0, im = 0.0;
            for (int n = 0; n < kFft; ++n) {
                re += windowed[n] * cosine[k * n % kFft];
                im += windowed[n] * cosine[(k * n + kFft / 4) % kFft];
            }
            result.back().push_back(re * re + im * im);
        }
    }
    return result;
}

// Decibels of one clip, (channels · frames, mels), as ../claprt_kernels/reference.py has them.
std::vector<std::vector<double>> oracle(std::vector<double> x, const claprt_log_mel_spec& spec, const std::vector<float>& tables) {
    if (spec.channels == 1 && x.size() > kClip) x.resize(kClip);
    const std::size_t length = x.size();
    if (length < kClip) {
        const std::size_t filled = spec.padding == CLAPRT_REPEAT ? kClip
                                   : spec.padding == CLAPRT_PAD  ? length
                                                                 : kClip / length * length;
        for (std::size_t i = length; i < kClip; ++i) x.push_back(i < filled ? x[i % length] : 0.0);
    }
    std::vector<std::vector<double>> whole;
    for (const auto& power : powers(x)) {
        whole.emplace_back();
        for (int band = 0; band < kMels; ++band) {
            int bounds[3];
            std::memcpy(bounds, tables.data() + claprt::kBands + claprt::kBandFields * band, sizeof bounds);
            double sum = 0.0;
            for (int k = bounds[0]; k < bounds[1]; ++k)
                sum += power[k] * tables[claprt::kBands + claprt::kBandFields * kMels + bounds[2] + k - bounds[0]];
            whole.back().push_back(10.0 * std::log10(std::max(sum, spec.log_floor)));
        }
    }
    if (spec.channels == 1) return whole;
    const int total = static_cast<int>(whole.size());
    std::vector<std::vector<double>> result;
    if (total == kFrames) {
        for (int channel = 0; channel < 4; ++channel) result.insert(result.end(), whole.begin(), whole.end());
        return result;
    }
    const double scale = static_cast<float>(total) / static_cast<float>(kFrames);
    for (int row = 0; row < kFrames; ++row) {
        const double source = static_cast<float>(std::max(scale * (row + 0.5) - 0.5, 0.0));
        const int low = static_cast<int>(source), high = std::min(low + 1, total - 1);
        result.emplace_back();
        for (int band = 0; band < kMels; ++band)
            result.back().push_back(whole[low][band] * (1.0 - (source - low)) + whole[high][band] * (source - low));
    }
    // Three runs of the places where a crop may begin, the first ones longer; of each the one in the middle.
    const int places = total - kFrames + 1;
    for (int crop = 0, before = 0; crop < 3; ++crop) {
        const int size = places / 3 + (crop < places % 3);
        const int start = size > 0 ? before + size / 2 : 0;
        before += size;
        result.insert(result.end(), whole.begin() + start, whole.begin() + start + kFrames);
    }
    return result;
}

bool log_mel(bool int16, bool half, bool wide, int channels, claprt_padding padding, bool round_trip, bool table_on_device) {
    constexpr int kBatch = sizeof kLengths / sizeof *kLengths;
    claprt_log_mel_spec spec;
    claprt_log_mel_default_spec(&spec);
    spec.clip_samples = kClip;
    spec.n_mels = kMels;
    spec.f_max = wide ? 24000.0 : 14000.0;
    spec.channels = channels;
    spec.padding = padding;
    spec.int16_round_trip = round_trip;
    std::mt19937 random(kBatch);
    std::normal_distribution<float> noise(0.0f, 4000.0f);
    std::vector<short> shorts;
    std::vector<claprt_clip> clips;
    for (long long length : kLengths) {
        clips.push_back({static_cast<int64_t>(shorts.size()), length});
        for (long long i = 0; i < length; ++i)
            shorts.push_back(static_cast<short>(std::max(-32768.0f, std::min(32767.0f, noise(random)))));
    }
    const int64_t samples = static_cast<int64_t>(shorts.size());
    std::vector<float> floats;
    for (short sample : shorts) floats.push_back(static_cast<float>(sample) / 32768.0f);
    if (table_on_device) clips.insert(clips.end(), {{samples - 10, 11}, {-1, 1}});  // become NaN
    const int batch = static_cast<int>(clips.size());
    const std::size_t row = static_cast<std::size_t>(channels) * kFrames * kMels;

    OnDevice<short> pcm16(shorts);
    OnDevice<float> pcm32(floats);
    OnDevice<claprt_clip> table(clips);
    OnDevice<unsigned short> out16(std::vector<unsigned short>(row * batch, 0x7C00));  // infinity: not yet written
    OnDevice<float> out32(std::vector<float>(row * batch, INFINITY));
    claprt_log_mel* handle;
    require(claprt_log_mel_create(&handle, &spec, batch));
    const auto run = table_on_device ? claprt_log_mel_run_device : claprt_log_mel_run;
    require(run(handle, int16 ? pcm16.address : pcm32.address, samples, int16 ? CLAPRT_INT16 : CLAPRT_FLOAT32,
                table_on_device ? static_cast<const claprt_clip*>(table.address) : clips.data(), batch,
                half ? out16.address : out32.address, half ? CLAPRT_FLOAT16 : CLAPRT_FLOAT32, nullptr));
    claprt_log_mel_destroy(handle);
    const std::vector<unsigned short> halves = out16.back();
    const std::vector<float> singles = out32.back();

    bool narrow;
    const std::vector<float> tables = make_tables(spec, narrow);
    double worst = narrow == wide ? INFINITY : 0.0;
    for (int clip = 0; clip < batch; ++clip) {
        std::vector<std::vector<double>> expected;
        double peak = -1e9;
        if (clip < kBatch) {
            std::vector<double> x;
            for (long long i = 0; i < kLengths[clip]; ++i) {
                const float sample = floats[clips[clip].offset + i];
                x.push_back(round_trip ? static_cast<short>(sample * 32767.0f) / 32767.0 : sample);
            }
            expected = oracle(x, spec, tables);
            for (const auto& values : expected) peak = std::max(peak, *std::max_element(values.begin(), values.end()));
        }
        for (std::size_t i = 0; i < row; ++i) {
            const float value = half ? half_to_float(halves[clip * row + i]) : singles[clip * row + i];
            if (clip >= kBatch) {
                const bool nan = half ? (halves[clip * row + i] & 0x7FFF) > 0x7C00 : std::isnan(value);
                if (!nan) worst = INFINITY;
                continue;
            }
            const double right = expected[i / kMels][i % kMels];
            // As tests/kernels/log_mel_cases.py, and a rounding of the result.
            const double bound = std::max(1e-4, 20.0 * std::log10(1.0 + std::ldexp(1.0, -22) * std::pow(10.0, (peak - right) / 20.0))) +
                                 std::fabs(right) * (half ? 0x1p-11 : 0x1p-24);
            const double error = std::fabs(value - right) / bound;
            worst = error <= worst ? worst : (std::isfinite(error) ? error : INFINITY);
        }
    }
    const NamedKernel kernel = find_kernel(int16 ? CLAPRT_INT16 : CLAPRT_FLOAT32, half ? CLAPRT_FLOAT16 : CLAPRT_FLOAT32, !wide);
    const char* paddings[] = {"repeatpad", "repeat", "pad"};
    char what[80];
    std::snprintf(what, sizeof what, "%s%s%s, clips in %s memory", paddings[padding], channels == 4 ? ", fusion" : "",
                  round_trip ? ", through int16" : "", table_on_device ? "device" : "host");
    return report(kernel.name, what, worst);
}

// ---- The resampler, by the definition -------------------------------------------------------------------------------

bool resample(bool int16, int channels, int rate) {
    const int divisor = std::gcd(rate, 48000), up = 48000 / divisor, down = rate / divisor;
    const std::vector<float> taps = make_taps(up, down);
    const int count = static_cast<int>(tap_count(up, down));
    std::mt19937 random(rate);
    std::uniform_int_distribution<int> noise(-32768, 32767);
    std::vector<claprt_clip> clips;
    std::vector<short> shorts;
    std::vector<double> mono;
    for (long long length : {1, 100, 257, 900}) {
        clips.push_back({static_cast<int64_t>(mono.size()), length});
        for (long long i = 0; i < length; ++i) {
            double sum = 0.0;
            for (int channel = 0; channel < channels; ++channel) {
                shorts.push_back(static_cast<short>(noise(random)));
                sum += shorts.back() / 32768.0;
            }
            mono.push_back(sum / channels);
        }
    }
    std::vector<float> floats;
    for (short sample : shorts) floats.push_back(static_cast<float>(sample) / 32768.0f);
    const int batch = static_cast<int>(clips.size());
    claprt_resampler* handle;
    require(claprt_resampler_create(&handle, rate, 48000, channels, batch));
    int64_t samples = 0;
    for (const claprt_clip& clip : clips) samples += claprt_resampler_length(handle, clip.length);
    OnDevice<short> pcm16(shorts);
    OnDevice<float> pcm32(floats);
    OnDevice<float> out(std::vector<float>(samples, INFINITY));
    std::vector<claprt_clip> placed(batch);
    require(claprt_resampler_run(handle, int16 ? pcm16.address : pcm32.address, static_cast<int64_t>(mono.size()),
                                 int16 ? CLAPRT_INT16 : CLAPRT_FLOAT32, clips.data(), batch, static_cast<float*>(out.address),
                                 samples, placed.data(), nullptr));
    claprt_resampler_destroy(handle);
    const std::vector<float> found = out.back();
    double worst = 0.0;
    for (int clip = 0; clip < batch; ++clip) {
        for (long long n = 0; n < placed[clip].length; ++n) {
            double sum = 0.0;
            for (int t = 0; t < count; ++t) {
                const long long at = n * down / up - count / 2 + 1 + t;
                if (at >= 0 && at < clips[clip].length) sum += taps[t * up + n * down % up] * mono[clips[clip].offset + at];
            }
            const double error = std::fabs(found[placed[clip].offset + n] - sum) / 2e-6;
            worst = error <= worst ? worst : (std::isfinite(error) ? error : INFINITY);
        }
    }
    char what[80];
    std::snprintf(what, sizeof what, "%d channels, %d to 48000 Hz", channels, rate);
    return report(int16 ? "resample_int16" : "resample_fp32", what, worst);
}

}  // namespace

int main() {
    bool right = true;
    int number = 0;
    for (bool int16 : {true, false})
        for (bool half : {true, false})
            for (bool wide : {false, true})
                for (int channels : {1, 4})
                    for (claprt_padding padding : {CLAPRT_REPEATPAD, CLAPRT_REPEAT, CLAPRT_PAD}) {
                        // Each kernel has both entry points and both ways of reading samples.
                        right &= log_mel(int16, half, wide, channels, padding, number % 2 == 0, number % 4 < 2);
                        ++number;
                    }
    for (bool int16 : {true, false})
        for (int rate : {8000, 44100, 48000, 192000}) right &= resample(int16, int16 ? 2 : 3, rate);
    return right ? 0 : 1;
}
