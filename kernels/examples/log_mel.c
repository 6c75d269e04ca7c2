/* Log-Mel of a clip from C.
 *
 *     python -m claprt_kernels.compile --library lib
 *     nvcc -Ilib log_mel.c -Llib -lclaprt_log_mel -o log_mel && LD_LIBRARY_PATH=lib ./log_mel 44100 2 < clip.pcm
 *
 * Reads at most ten seconds of interleaved int16 samples, of the rate and the channels given (without them 48000 Hz, mono),
 * from the file that a third argument names, else from standard input, and writes (1001, 64) decibels as text to standard
 * output. */

#include <claprt_log_mel.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what, const char* why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    return 2;
}

int main(int count, char** arguments) {
    const int rate = count > 1 ? atoi(arguments[1]) : 48000, channels = count > 2 ? atoi(arguments[2]) : 1;
    FILE* input = count > 3 ? fopen(arguments[3], "rb") : stdin;
    if (input == NULL) return fail(arguments[3], "cannot be opened");

    claprt_log_mel_spec spec;
    claprt_log_mel_default_spec(&spec);
    claprt_log_mel* log_mel;
    claprt_resampler* resampler;
    if (claprt_log_mel_create(&log_mel, &spec, 1) != CLAPRT_OK) return fail("create", claprt_log_mel_message());
    if (claprt_resampler_create(&resampler, rate, spec.sampling_rate, channels, 1) != CLAPRT_OK)
        return fail("create", claprt_log_mel_message());
    const size_t frames = (size_t)claprt_log_mel_frames(log_mel), values = frames * (size_t)spec.n_mels;

    /* A frame has one sample of each channel. */
    const size_t most = 10 * (size_t)rate, bytes = most * (size_t)channels * sizeof(int16_t);
    int16_t* samples = malloc(bytes);
    float* decibels = malloc(values * sizeof *decibels);
    if (samples == NULL || decibels == NULL) return fail("memory", "out of it");
    claprt_clip clip = {0, (int64_t)fread(samples, (size_t)channels * sizeof(int16_t), most, input)};
    if (input != stdin) fclose(input);

    /* The PCM as it was read, mono at the model's rate, log-Mel. */
    void *pcm, *mono, *out;
    const int64_t room = claprt_resampler_length(resampler, (int64_t)most);
    cudaError_t error = cudaMalloc(&pcm, bytes);
    if (error == cudaSuccess) error = cudaMalloc(&mono, (size_t)room * sizeof(float));
    if (error == cudaSuccess) error = cudaMalloc(&out, values * sizeof *decibels);
    if (error == cudaSuccess) error = cudaMemcpy(pcm, samples, bytes, cudaMemcpyHostToDevice);
    if (error != cudaSuccess) return fail("device memory", cudaGetErrorString(error));

    if (claprt_resampler_run(resampler, pcm, (int64_t)most, CLAPRT_INT16, &clip, 1, mono, room, &clip, NULL) != CLAPRT_OK ||
        claprt_log_mel_run(log_mel, mono, room, CLAPRT_FLOAT32, &clip, 1, out, CLAPRT_FLOAT32, NULL) != CLAPRT_OK)
        return fail("run", claprt_log_mel_message());
    error = cudaMemcpy(decibels, out, values * sizeof *decibels, cudaMemcpyDeviceToHost); /* waits for the kernels */
    if (error != cudaSuccess) return fail("result", cudaGetErrorString(error));

    for (size_t i = 0; i < values; ++i)
        printf("%.9g%c", decibels[i], (i + 1) % (size_t)spec.n_mels == 0 ? '\n' : ' ');

    claprt_resampler_destroy(resampler);
    claprt_log_mel_destroy(log_mel);
    cudaFree(out);
    cudaFree(mono);
    cudaFree(pcm);
    free(decibels);
    free(samples);
    return 0;
}
