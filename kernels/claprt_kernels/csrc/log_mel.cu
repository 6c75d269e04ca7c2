// The kernels that the fatbin holds: one for each type of sample and result, and each width of mel bank.

#include "log_mel.cuh"

namespace {

using claprt::kThreads;

// 10 · 32 bins reach 15 kHz, which every released CLAP (14 kHz) lies under; 17 hold the whole spectrum.
constexpr int kNarrow = 10, kWide = 17;

}  // namespace

#define CLAPRT_LOG_MEL(name, Sample, Out, Groups)                                                       \
    extern "C" __global__ void __launch_bounds__(kThreads, 4) name(const claprt::LogMelArguments arguments) { \
        claprt::log_mel<Sample, Out, Groups>(arguments);                                                \
    }

CLAPRT_LOG_MEL(log_mel_int16_fp16_narrow, short, __half, kNarrow)
CLAPRT_LOG_MEL(log_mel_int16_fp32_narrow, short, float, kNarrow)
CLAPRT_LOG_MEL(log_mel_fp32_fp16_narrow, float, __half, kNarrow)
CLAPRT_LOG_MEL(log_mel_fp32_fp32_narrow, float, float, kNarrow)
CLAPRT_LOG_MEL(log_mel_int16_fp16_wide, short, __half, kWide)
CLAPRT_LOG_MEL(log_mel_int16_fp32_wide, short, float, kWide)
CLAPRT_LOG_MEL(log_mel_fp32_fp16_wide, float, __half, kWide)
CLAPRT_LOG_MEL(log_mel_fp32_fp32_wide, float, float, kWide)
