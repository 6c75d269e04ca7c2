// The kernels, compiled for the CPU: kernels.cu is found through the include path, so that a test may put a
// faulty one there.

#include "kernels.cu"

#include "emulated_kernel.h"

namespace {

template <typename Arguments, void (*kernel)(Arguments)>
void launch(const unsigned grid[3], const unsigned block[3], std::size_t, const void* parameters) {
    Arguments arguments;
    std::memcpy(&arguments, parameters, sizeof arguments);
    emulation::launch({grid[0], grid[1], grid[2]}, block[0], [&] { kernel(arguments); });
}

// Are all memory and the grid as large as the arguments say? For the fake driver, before it launches.
template <int sample_size, int out_size>
const char* check(const unsigned grid[3], const unsigned block[3], const void* parameters,
                  int (*device_range)(unsigned long long address, unsigned long long bytes)) {
    claprt::LogMelArguments a;
    std::memcpy(&a, parameters, sizeof a);
    const auto live = [&](const void* address, unsigned long long bytes) {
        return device_range(reinterpret_cast<unsigned long long>(address), bytes) != 0;
    };
    const unsigned pairs = static_cast<unsigned>(claprt::pairs_per_clip(a.frames, a.channels));
    if (!live(a.pcm, static_cast<unsigned long long>(a.pcm_samples) * sample_size)) return "pcm is out of range";
    if (!live(a.clips, sizeof(claprt::Clip) * grid[1])) return "clips are out of range";
    if (!live(a.tables, sizeof(float) * (claprt::kBands + claprt::kBandFields * a.mels))) return "tables are out of range";
    if (!live(a.out, 1ull * out_size * grid[1] * a.channels * a.frames * a.mels)) return "out is out of range";
    if (block[0] != claprt::kThreads || grid[0] * claprt::kWarps < pairs) return "the grid does not cover a clip";
    return nullptr;
}

template <int sample_size>
const char* check_resample(const unsigned grid[3], const unsigned block[3], const void* parameters,
                           int (*device_range)(unsigned long long address, unsigned long long bytes)) {
    claprt::ResampleArguments a;
    std::memcpy(&a, parameters, sizeof a);
    const auto live = [&](const void* address, unsigned long long bytes) {
        return device_range(reinterpret_cast<unsigned long long>(address), bytes) != 0;
    };
    if (!live(a.pcm, static_cast<unsigned long long>(a.pcm_frames) * a.channels * sample_size)) return "pcm is out of range";
    if (!live(a.clips, sizeof(claprt::ResampledClip) * grid[1])) return "clips are out of range";
    if (!live(a.taps, sizeof(float) * a.tap_count * a.up)) return "taps are out of range";
    if (!live(a.out, sizeof(float) * a.out_samples)) return "out is out of range";
    if (block[0] != claprt::kResampleThreads) return "the block has the wrong size";
    return nullptr;
}

}  // namespace

#define KERNEL(name, sample_size, out_size)                                                          \
    {#name, sizeof(claprt::LogMelArguments), launch<claprt::LogMelArguments, name>, check<sample_size, out_size>}
#define RESAMPLE(name, sample_size)                                                                        \
    {#name, sizeof(claprt::ResampleArguments), launch<claprt::ResampleArguments, name>, check_resample<sample_size>}

extern "C" {
const EmulatedKernel emulated_kernels[] = {
    KERNEL(log_mel_int16_fp16_narrow, 2, 2), KERNEL(log_mel_int16_fp32_narrow, 2, 4),
    KERNEL(log_mel_fp32_fp16_narrow, 4, 2),  KERNEL(log_mel_fp32_fp32_narrow, 4, 4),
    KERNEL(log_mel_int16_fp16_wide, 2, 2),   KERNEL(log_mel_int16_fp32_wide, 2, 4),
    KERNEL(log_mel_fp32_fp16_wide, 4, 2),    KERNEL(log_mel_fp32_fp32_wide, 4, 4),
    RESAMPLE(resample_int16, 2),             RESAMPLE(resample_fp32, 4),
};
const int emulated_kernel_count = sizeof emulated_kernels / sizeof *emulated_kernels;

// For callers without a driver in between: 0, or 1 if there is no such kernel.
int emulate(const char* name, unsigned grid_x, unsigned grid_y, unsigned block, const void* parameters) {
    for (const EmulatedKernel& kernel : emulated_kernels) {
        if (std::strcmp(kernel.name, name) != 0) continue;
        const unsigned grids[3] = {grid_x, grid_y, 1}, blocks[3] = {block, 1, 1};
        kernel.launch(grids, blocks, 0, parameters);
        return 0;
    }
    return 1;
}
}
