// A program for sanitizers: every kernel once, on small problems in memory of exactly the size that it may touch.

#include "emulated_kernels.cpp"

#include <memory>

namespace {

void run(const char* name, bool int16, bool half, int channels, int padding, bool round_trip, int mels, int last_bin) {
    using claprt::Clip;
    constexpr int kClip = 2040, kHop = 480, kFrames = 1 + kClip / kHop;
    const long long lengths[] = {1, 511, 1023, 1030, 2039, 2040, 2041, 5003};
    constexpr int kBatch = sizeof lengths / sizeof *lengths;
    std::unique_ptr<Clip[]> clips(new Clip[kBatch + 2]);
    long long samples = 0;
    // Two clips lie outside, and must not be read: beside good ones, the first or the last of the batch.
    const int good = channels == 1 ? 0 : 2, bad = channels == 1 ? kBatch : 0;
    for (int i = 0; i < kBatch; ++i) {
        clips[good + i] = {samples, lengths[i]};
        samples += lengths[i];
    }
    clips[bad] = {samples - 10, 11};
    clips[bad + 1] = {-1, 1};
    const std::size_t size = int16 ? 2 : 4;
    std::unique_ptr<unsigned char[]> pcm(new unsigned char[samples * size]);
    for (long long i = 0; i < samples; ++i) {
        const short value = static_cast<short>(i * 7919 % 65536 - 32768);
        const float as_float = value / 32768.0f;
        std::memcpy(pcm.get() + i * size, int16 ? static_cast<const void*>(&value) : &as_float, size);
    }
    // Bands of a few bins that reach up to the last one; window and twiddles of ones.
    const int weights = mels * 3, floats = claprt::kBands + claprt::kBandFields * mels + weights;
    std::unique_ptr<float[]> tables(new float[floats]);
    for (int i = 0; i < floats; ++i) tables[i] = 1.0f;
    for (int band = 0; band < mels; ++band) {
        const int end = 3 + (last_bin - 2) * band / (mels - 1), fields[] = {end - 3, end, 3 * band};
        std::memcpy(tables.get() + claprt::kBands + claprt::kBandFields * band, fields, sizeof fields);
    }
    const std::size_t values = static_cast<std::size_t>(kBatch + 2) * channels * kFrames * mels;
    std::unique_ptr<unsigned char[]> out(new unsigned char[values * (half ? 2 : 4)]);
    claprt::LogMelArguments arguments{};
    arguments.pcm = pcm.get();
    arguments.clips = clips.get();
    arguments.tables = tables.get();
    arguments.out = out.get();
    arguments.pcm_samples = samples;
    arguments.channels = channels;
    arguments.clip_samples = kClip;
    arguments.hop = kHop;
    arguments.frames = kFrames;
    arguments.mels = mels;
    arguments.padding = padding;
    arguments.round_trip = round_trip;
    arguments.floor = 1e-10f;
    arguments.gain = 0.25f;
    const int pairs = claprt::pairs_per_clip(kFrames, channels);
    if (emulate(name, (pairs + claprt::kWarps - 1) / claprt::kWarps, kBatch + 2, claprt::kThreads, &arguments) != 0)
        std::abort();
}

void resample(const char* name, bool int16, int channels, int up, int down, int tap_count) {
    using claprt::ResampledClip;
    const long long lengths[] = {1, 100, 255, 1500};
    constexpr int kBatch = sizeof lengths / sizeof *lengths;
    std::unique_ptr<ResampledClip[]> clips(new ResampledClip[kBatch + 2]);
    long long frames = 0, samples = 0, longest = 0;
    for (int i = 0; i < kBatch; ++i) {
        const long long length = claprt::resampled_length(lengths[i], up, down);
        clips[i] = {frames, lengths[i], samples};
        frames += lengths[i];
        samples += length;
        longest = length > longest ? length : longest;
    }
    clips[kBatch] = {frames - 10, 11, 0};           // beyond the input
    clips[kBatch + 1] = {0, lengths[1], samples - 1};  // beyond the output
    const std::size_t size = (int16 ? 2 : 4) * static_cast<std::size_t>(frames * channels);
    std::unique_ptr<unsigned char[]> pcm(new unsigned char[size]());
    std::unique_ptr<float[]> taps(new float[tap_count * up]());
    std::unique_ptr<float[]> out(new float[samples]);
    claprt::ResampleArguments arguments{};
    arguments.pcm = pcm.get();
    arguments.clips = clips.get();
    arguments.taps = taps.get();
    arguments.out = out.get();
    arguments.pcm_frames = frames;
    arguments.out_samples = samples;
    arguments.channels = channels;
    arguments.up = up;
    arguments.down = down;
    arguments.tap_count = tap_count;
    arguments.gain = 1.0f;
    const unsigned blocks = static_cast<unsigned>((longest + claprt::kResampleThreads - 1) / claprt::kResampleThreads);
    if (emulate(name, blocks, kBatch + 2, claprt::kResampleThreads, &arguments) != 0) std::abort();
    for (long long i = 0; i < samples; ++i)
        if (out[i] != 0.0f) std::abort();  // not written, or not silence
}

}  // namespace

int main() {
    run("log_mel_int16_fp16_narrow", true, true, 1, claprt::kRepeatPad, false, 64, 319);
    run("log_mel_int16_fp32_wide", true, false, 1, claprt::kRepeat, true, 33, 512);
    run("log_mel_fp32_fp16_wide", false, true, 4, claprt::kPad, true, 70, 512);
    run("log_mel_fp32_fp32_narrow", false, false, 4, claprt::kRepeatPad, false, 64, 319);
    resample("resample_int16", true, 2, 160, 147, 164);
    resample("resample_fp32", false, 1, 6, 1, 164);
    resample("resample_fp32", false, 3, 1, 4, 656);
    std::puts("done");
}
