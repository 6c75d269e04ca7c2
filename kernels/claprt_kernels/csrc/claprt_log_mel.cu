// The C interface of the log-Mel kernel: checks, tables, and the launch. With c_interface.cu and claprt_resample.cu it makes
// one shared library:
//
//     nvcc -O3 -std=c++17 -shared -Xcompiler -fPIC,-fvisibility=hidden -cudart static
//          claprt_log_mel.cu claprt_resample.cu c_interface.cu -o libclaprt_log_mel.so

#include "c_interface.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "log_mel.cu"

namespace {

using claprt::Clip;
using claprt::fail;
using claprt::kFft;
using claprt::LogMelArguments;

static_assert(sizeof(Clip) == sizeof(claprt_clip), "one layout for C, the kernel and Python");

// HTK book, 5.4; Slaney, Auditory Toolbox (1998).
double to_mel(double hz, claprt_mel_scale scale) {
    if (scale == CLAPRT_HTK) return 2595.0 * std::log10(1.0 + hz / 700.0);
    return hz < 1000.0 ? 3.0 * hz / 200.0 : 15.0 + 27.0 * std::log(hz / 1000.0) / std::log(6.4);
}

double to_hz(double mel, claprt_mel_scale scale) {
    if (scale == CLAPRT_HTK) return 700.0 * (std::pow(10.0, mel / 2595.0) - 1.0);
    return mel < 15.0 ? 200.0 * mel / 3.0 : 1000.0 * std::pow(6.4, (mel - 15.0) / 27.0);
}

float as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The kernel's tables, as log_mel.cuh lays them out; `narrow` becomes whether the bank lies under 15 kHz.
std::vector<float> make_tables(const claprt_log_mel_spec& spec, bool& narrow) {
    const double pi = std::acos(-1.0);
    std::vector<float> tables;
    for (int n = 0; n < kFft; ++n) tables.push_back(static_cast<float>(0.5 - 0.5 * std::cos(2.0 * pi * n / kFft)));
    for (int row = 0; row < 32; ++row) {
        for (int column = 0; column < 32; ++column) {
            tables.push_back(static_cast<float>(std::cos(2.0 * pi * row * column / kFft)));
            tables.push_back(static_cast<float>(-std::sin(2.0 * pi * row * column / kFft)));
        }
    }
    const double low = to_mel(spec.f_min, spec.mel_scale), high = to_mel(spec.f_max, spec.mel_scale);
    std::vector<double> edges;
    for (int i = 0; i < spec.n_mels + 2; ++i)
        edges.push_back(to_hz(low + i * (high - low) / (spec.n_mels + 1), spec.mel_scale));
    std::vector<float> weights;
    narrow = true;
    for (int band = 0; band < spec.n_mels; ++band) {
        const double left = edges[band], centre = edges[band + 1], right = edges[band + 2];
        const double area = spec.mel_norm == CLAPRT_NORM_SLANEY ? 2.0 / (right - left) : 1.0;
        const int first_weight = static_cast<int>(weights.size());
        int begin = 0, end = 0;
        for (int k = 0; k <= kFft / 2; ++k) {
            const double hz = static_cast<double>(k) * (spec.sampling_rate / 2) / (kFft / 2);
            double weight = 0.0;
            if (left < hz && hz <= centre) weight = (hz - left) / (centre - left);
            if (centre < hz && hz < right) weight = (right - hz) / (right - centre);
            if (weight <= 0.0) continue;
            if (end == 0) begin = k;
            end = k + 1;
            weights.push_back(static_cast<float>(area * weight));
        }
        if (end > 32 * kNarrow) narrow = false;
        for (int field : {begin, end, first_weight}) tables.push_back(as_float(field));
        tables.push_back(spec.factor == nullptr ? 1.0f : spec.factor[band]);
        tables.push_back(spec.summand == nullptr ? 0.0f : spec.summand[band]);
    }
    tables.insert(tables.end(), weights.begin(), weights.end());
    return tables;
}

claprt_status check_spec(const claprt_log_mel_spec& spec) {
    const auto refuse = [](const char* field, double value, const char* supported) {
        return fail(CLAPRT_INVALID_SPEC, "the log-Mel kernel does not support %s = %.17g; it supports %s", field, value,
                    supported);
    };
    if (spec.n_fft != kFft) return refuse("n_fft", spec.n_fft, "1024");
    if (spec.sampling_rate < 1) return refuse("sampling_rate", spec.sampling_rate, "1 ... 2^31 - 1");
    if (spec.clip_samples <= kFft / 2 || spec.clip_samples > INT32_MAX - kFft)
        return refuse("clip_samples", spec.clip_samples, "513 ... 2^31 - 1025");
    if (spec.hop_length < 1 || spec.hop_length > spec.clip_samples)
        return refuse("hop_length", spec.hop_length, "1 ... clip_samples");
    if (spec.n_mels < 1 || spec.n_mels > 1024) return refuse("n_mels", spec.n_mels, "1 ... 1024");
    if (!(spec.f_min >= 0.0 && spec.f_min < spec.f_max)) return refuse("f_min", spec.f_min, "0 ... f_max");
    if (!(spec.f_max <= 0.5 * spec.sampling_rate)) return refuse("f_max", spec.f_max, "f_min ... sampling_rate / 2");
    if (!(spec.log_floor >= 1e-30 && spec.log_floor <= 1e30)) return refuse("log_floor", spec.log_floor, "1e-30 ... 1e30");
    if (spec.mel_scale != CLAPRT_HTK && spec.mel_scale != CLAPRT_SLANEY)
        return refuse("mel_scale", spec.mel_scale, "CLAPRT_HTK, CLAPRT_SLANEY");
    if (spec.mel_norm != CLAPRT_NORM_NONE && spec.mel_norm != CLAPRT_NORM_SLANEY)
        return refuse("mel_norm", spec.mel_norm, "CLAPRT_NORM_NONE, CLAPRT_NORM_SLANEY");
    if (spec.padding < CLAPRT_REPEATPAD || spec.padding > CLAPRT_PAD)
        return refuse("padding", spec.padding, "CLAPRT_REPEATPAD, CLAPRT_REPEAT, CLAPRT_PAD");
    if (spec.channels != 1 && spec.channels != 4) return refuse("channels", spec.channels, "1, and 4 for fusion");
    return CLAPRT_OK;
}

using NamedKernel = claprt::NamedKernel<LogMelArguments>;

NamedKernel find_kernel(claprt_type samples, claprt_type out, bool narrow) {
    static const NamedKernel kernels[] = {
        {"log_mel_int16_fp16_narrow", log_mel_int16_fp16_narrow}, {"log_mel_int16_fp32_narrow", log_mel_int16_fp32_narrow},
        {"log_mel_fp32_fp16_narrow", log_mel_fp32_fp16_narrow},   {"log_mel_fp32_fp32_narrow", log_mel_fp32_fp32_narrow},
        {"log_mel_int16_fp16_wide", log_mel_int16_fp16_wide},     {"log_mel_int16_fp32_wide", log_mel_int16_fp32_wide},
        {"log_mel_fp32_fp16_wide", log_mel_fp32_fp16_wide},       {"log_mel_fp32_fp32_wide", log_mel_fp32_fp32_wide},
    };
    return kernels[(narrow ? 0 : 4) + (samples == CLAPRT_FLOAT32 ? 2 : 0) + (out == CLAPRT_FLOAT32 ? 1 : 0)];
}

}  // namespace

struct claprt_log_mel {
    claprt_log_mel(const claprt_log_mel_spec& spec, int max_batch) : spec(spec), max_batch(max_batch) {}

    claprt_log_mel_spec spec;
    const int max_batch;
    bool narrow = false;  // whether the mel bank lies under 15 kHz
    claprt::DeviceArray<float> tables;
    claprt::TableRing<Clip> clips;  // the last member, destroyed first: it waits for what is under way
};

namespace {

claprt_status fill(claprt_log_mel& handle) {
    int device;
    CLAPRT_CHECK(cudaGetDevice(&device));
    if (const claprt_status status = handle.tables.create(make_tables(handle.spec, handle.narrow))) return status;
    cudaFuncAttributes attributes;  // is there code for this GPU?
    CLAPRT_CHECK(cudaFuncGetAttributes(&attributes, log_mel_int16_fp16_narrow));
    return handle.clips.create(handle.max_batch);
}

claprt_status check_run(const claprt_log_mel* handle, const void* pcm, int64_t pcm_samples, claprt_type pcm_type,
                        const claprt_clip* clips, int32_t batch, const void* out, claprt_type out_type) {
    if (handle == nullptr) return fail(CLAPRT_INVALID_ARGUMENT, "handle is NULL; create one first");
    if (out_type != CLAPRT_FLOAT16 && out_type != CLAPRT_FLOAT32)
        return fail(CLAPRT_INVALID_ARGUMENT, "out_type is %d; results are CLAPRT_FLOAT16 or CLAPRT_FLOAT32", out_type);
    if (const claprt_status status = claprt::check_batch(batch, handle->max_batch)) return status;
    if (pcm_samples < 1)
        return fail(CLAPRT_INVALID_ARGUMENT, "pcm_samples is %lld; there must be at least one", (long long)pcm_samples);
    if (const claprt_status status = claprt::check_sample_type(pcm_type)) return status;
    const claprt::NamedPointer pointers[] = {{"pcm", pcm, pcm_type == CLAPRT_INT16 ? 2u : 4u},
                                             {"clips", clips, 8},
                                             {"out", out, out_type == CLAPRT_FLOAT16 ? 2u : 4u}};
    for (const auto& pointer : pointers)
        if (const claprt_status status = claprt::check_pointer(pointer)) return status;
    return CLAPRT_OK;
}

claprt_status launch(claprt_log_mel& handle, const void* pcm, int64_t pcm_samples, claprt_type pcm_type, const Clip* clips,
                     int batch, void* out, claprt_type out_type, cudaStream_t stream) {
    const claprt_log_mel_spec& spec = handle.spec;
    const double unit = spec.int16_round_trip != 0 ? 1.0 / 32767.0 : (pcm_type == CLAPRT_INT16 ? 1.0 / 32768.0 : 1.0);
    LogMelArguments arguments;
    arguments.pcm = pcm;
    arguments.clips = clips;
    arguments.tables = handle.tables.data();
    arguments.out = out;
    arguments.pcm_samples = pcm_samples;
    arguments.channels = spec.channels;
    arguments.clip_samples = spec.clip_samples;
    arguments.hop = spec.hop_length;
    arguments.frames = claprt_log_mel_frames(&handle);
    arguments.mels = spec.n_mels;
    arguments.padding = spec.padding;
    arguments.round_trip = spec.int16_round_trip != 0;
    arguments.floor = static_cast<float>(spec.log_floor);
    arguments.gain = static_cast<float>(0.25 * unit * unit);
    const NamedKernel found = find_kernel(pcm_type, out_type, handle.narrow);
    const int pairs = claprt::pairs_per_clip(arguments.frames, arguments.channels);
    const dim3 grid((pairs + claprt::kWarps - 1) / claprt::kWarps, batch);
    return claprt::launch(found, grid, claprt::kThreads, arguments, stream);
}

}  // namespace

CLAPRT_API void claprt_log_mel_default_spec(claprt_log_mel_spec* spec) {
    *spec = {48000, 1024, 480, 64, 50.0, 14000.0, CLAPRT_SLANEY, CLAPRT_NORM_SLANEY, 1e-10, 480000, CLAPRT_REPEATPAD,
             0, 1, nullptr, nullptr};
}

CLAPRT_API claprt_status claprt_log_mel_create(claprt_log_mel** handle, const claprt_log_mel_spec* spec, int32_t max_batch) {
    claprt::forget_failure();
    if (handle == nullptr || spec == nullptr)
        return fail(CLAPRT_INVALID_ARGUMENT, "%s is NULL; pass its address", handle == nullptr ? "handle" : "spec");
    *handle = nullptr;
    if (const claprt_status status = claprt::check_max_batch(max_batch)) return status;
    if (const claprt_status status = check_spec(*spec)) return status;
    try {
        auto made = std::make_unique<claprt_log_mel>(*spec, max_batch);
        if (const claprt_status failure = fill(*made)) return failure;
        made->spec.factor = made->spec.summand = nullptr;  // the caller's, and in the tables now
        *handle = made.release();
    } catch (const std::bad_alloc&) {
        return fail(CLAPRT_OUT_OF_MEMORY, "out of host memory for a batch of %d; pass a smaller max_batch", max_batch);
    }
    return CLAPRT_OK;
}

CLAPRT_API int32_t claprt_log_mel_frames(const claprt_log_mel* handle) {
    return handle == nullptr ? 0 : 1 + handle->spec.clip_samples / handle->spec.hop_length;
}

CLAPRT_API claprt_status claprt_log_mel_run(claprt_log_mel* handle, const void* pcm, int64_t pcm_samples,
                                            claprt_type pcm_type, const claprt_clip* clips, int32_t batch, void* out,
                                            claprt_type out_type, void* stream) {
    claprt::forget_failure();
    if (const claprt_status status = check_run(handle, pcm, pcm_samples, pcm_type, clips, batch, out, out_type))
        return status;
    if (const claprt_status status = claprt::check_clips(clips, batch, pcm_samples, "samples")) return status;
    const auto on = static_cast<cudaStream_t>(stream);
    return handle->clips.run(
        batch, on, [&](Clip* table) { std::memcpy(table, clips, sizeof(Clip) * batch); },
        [&](const Clip* table) { return launch(*handle, pcm, pcm_samples, pcm_type, table, batch, out, out_type, on); });
}

CLAPRT_API claprt_status claprt_log_mel_run_device(claprt_log_mel* handle, const void* pcm, int64_t pcm_samples,
                                                   claprt_type pcm_type, const claprt_clip* clips, int32_t batch,
                                                   void* out, claprt_type out_type, void* stream) {
    claprt::forget_failure();
    if (const claprt_status status = check_run(handle, pcm, pcm_samples, pcm_type, clips, batch, out, out_type))
        return status;
    return launch(*handle, pcm, pcm_samples, pcm_type, reinterpret_cast<const Clip*>(clips), batch, out, out_type,
                  static_cast<cudaStream_t>(stream));
}

CLAPRT_API void claprt_log_mel_destroy(claprt_log_mel* handle) { delete handle; }
