/* Log-Mel of a clip from C.
 *
 *     python -m claprt_kernels.compile --library lib
 *     cc -Ilib log_mel.c -Llib -lclaprt_log_mel -lcudart -lm -o log_mel && LD_LIBRARY_PATH=lib ./log_mel < clip.pcm
 *
 * Reads int16 mono samples at 48 kHz from standard input, writes (1001, 64) decibels as text to standard output. */

#include <claprt_log_mel.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what, const char* why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    return 2;
}

int main(void) {
    enum { MOST = 480000 };
    int16_t* samples = malloc(MOST * sizeof *samples);
    const claprt_clip clip = {0, (int64_t)fread(samples, sizeof *samples, MOST, stdin)};

    claprt_log_mel_spec spec;
    claprt_log_mel_default_spec(&spec);
    claprt_log_mel* log_mel;
    if (claprt_log_mel_create(&log_mel, &spec, 1) != CLAPRT_OK) return fail("create", claprt_log_mel_message());
    const size_t frames = (size_t)claprt_log_mel_frames(log_mel), values = frames * (size_t)spec.n_mels;

    void *pcm, *out;
    float* decibels = malloc(values * sizeof *decibels);
    cudaError_t error = cudaMalloc(&pcm, MOST * sizeof *samples);
    if (error == cudaSuccess) error = cudaMalloc(&out, values * sizeof *decibels);
    if (error == cudaSuccess) error = cudaMemcpy(pcm, samples, MOST * sizeof *samples, cudaMemcpyHostToDevice);
    if (error != cudaSuccess) return fail("device memory", cudaGetErrorString(error));

    if (claprt_log_mel_run(log_mel, pcm, MOST, CLAPRT_INT16, &clip, 1, out, CLAPRT_FLOAT32, NULL) != CLAPRT_OK)
        return fail("run", claprt_log_mel_message());
    error = cudaMemcpy(decibels, out, values * sizeof *decibels, cudaMemcpyDeviceToHost); /* waits for the kernel */
    if (error != cudaSuccess) return fail("result", cudaGetErrorString(error));

    for (size_t i = 0; i < values; ++i)
        printf("%.9g%c", decibels[i], (i + 1) % (size_t)spec.n_mels == 0 ? '\n' : ' ');

    claprt_log_mel_destroy(log_mel);
    cudaFree(out);
    cudaFree(pcm);
    free(decibels);
    free(samples);
    return 0;
}
