/* CLAP's log-Mel front end on a GPU, for C and C++ services: create from a specification, run on a stream, destroy. A
 * resampler beside it takes PCM of other rates and of several channels.
 *
 * The library needs no Python, no PyTorch and no CUDA toolkit at run time: only the driver. It works in the CUDA context
 * that is current (the primary one, if none is), as the CUDA runtime does. Calls with one handle may come from several
 * threads; they are put one after the other.
 *
 * Every function that can fail returns a claprt_status; claprt_log_mel_message() then says what was wrong, with which
 * value, and what to do. Nothing is launched by a call that fails its checks. */

#ifndef CLAPRT_LOG_MEL_H
#define CLAPRT_LOG_MEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLAPRT_LOG_MEL_VERSION 1

typedef enum {
    CLAPRT_OK = 0,
    CLAPRT_INVALID_SPEC = 1,     /* the kernel does not compute this specification */
    CLAPRT_INVALID_ARGUMENT = 2, /* a pointer, length, type or batch that it cannot take */
    CLAPRT_OUT_OF_MEMORY = 3,    /* of the device or the host */
    CLAPRT_CUDA_ERROR = 4        /* CUDA refused or lost something; an error of earlier work may show up here */
} claprt_status;

typedef enum { CLAPRT_INT16 = 0, CLAPRT_FLOAT32 = 1, CLAPRT_FLOAT16 = 2 } claprt_type;
typedef enum { CLAPRT_HTK = 0, CLAPRT_SLANEY = 1 } claprt_mel_scale;
typedef enum { CLAPRT_NORM_NONE = 0, CLAPRT_NORM_SLANEY = 1 } claprt_mel_norm;
typedef enum { CLAPRT_REPEATPAD = 0, CLAPRT_REPEAT = 1, CLAPRT_PAD = 2 } claprt_padding;

/* The log-Mel specification of a bundle: `audio.log_mel` in its manifest.json, field by field. */
typedef struct {
    int32_t sampling_rate;   /* Hz */
    int32_t n_fft;           /* 1024 */
    int32_t hop_length;      /* samples between frames */
    int32_t n_mels;          /* 1 ... 1024 */
    double f_min, f_max;     /* Hz, edges of the mel bank */
    claprt_mel_scale mel_scale;
    claprt_mel_norm mel_norm;
    double log_floor;        /* smallest power before the logarithm */
    int32_t clip_samples;    /* samples of a full clip */
    claprt_padding padding;  /* how a shorter one is filled */
    int32_t int16_round_trip;/* not 0: samples go through int16 first (`int16` in the manifest) */
    int32_t channels;        /* 1, or 4 for a bundle with `fusion` */
    const float* factor;     /* (n_mels,) or NULL: what the decibels are multiplied with, last */
    const float* summand;    /* (n_mels,) or NULL: what is then added */
} claprt_log_mel_spec;

/* Where a clip lies in the PCM, in samples. Clips may overlap. With one channel, what is longer than clip_samples is cut;
 * with four, a clip of any length is fused. */
typedef struct {
    int64_t offset;
    int64_t length;
} claprt_clip;

typedef struct claprt_log_mel claprt_log_mel;

/* The specification of laion/clap-htsat-unfused and the larger_clap models; clap-htsat-fused has HTK, NORM_NONE, 4. */
void claprt_log_mel_default_spec(claprt_log_mel_spec* spec);

/* Allocates device memory for the tables and for max_batch clips; loads the kernels. *handle is NULL on failure. */
claprt_status claprt_log_mel_create(claprt_log_mel** handle, const claprt_log_mel_spec* spec, int32_t max_batch);

/* Rows of one clip's output: 1 + clip_samples / hop_length. */
int32_t claprt_log_mel_frames(const claprt_log_mel* handle);

/* Log-Mel of a batch, in one kernel launch on `stream` (a cudaStream_t or CUstream; NULL: the default stream). Returns
 * as soon as it is launched; allocates nothing, and waits for nothing unless 16 earlier runs have not finished.
 *
 * pcm:   device memory, pcm_samples of pcm_type (INT16: full scale is 32768; FLOAT32: 1), mono, at sampling_rate.
 * clips: host memory, (batch,); copied before the call returns.
 * out:   device memory, (batch, channels, frames, n_mels) of out_type (FLOAT16 or FLOAT32), decibels. */
claprt_status claprt_log_mel_run(claprt_log_mel* handle, const void* pcm, int64_t pcm_samples, claprt_type pcm_type,
                                 const claprt_clip* clips, int32_t batch, void* out, claprt_type out_type, void* stream);

/* The same with the clips in device memory, where they cannot be checked: one that does not lie inside the PCM, or is
 * empty, comes out as NaN. May be captured into a CUDA graph. */
claprt_status claprt_log_mel_run_device(claprt_log_mel* handle, const void* pcm, int64_t pcm_samples,
                                        claprt_type pcm_type, const claprt_clip* clips, int32_t batch, void* out,
                                        claprt_type out_type, void* stream);

/* Waits for the handle's work and frees it. NULL is allowed. */
void claprt_log_mel_destroy(claprt_log_mel* handle);

/* PCM of another rate, or of several channels, to what claprt_log_mel_run reads: mono float32 at the model's rate. */
typedef struct claprt_resampler claprt_resampler;

/* For PCM of `channels` (1 ... 64) interleaved channels, whose mean is resampled. The rates, in Hz, need a simple ratio: to
 * 48000 the kernel does 8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000 and 192000; others are refused
 * with CLAPRT_INVALID_SPEC. Up to 0.9 of the lower rate's half, what differs from the exact signal is 115 dB below it; linear
 * phase, no delay. Where both rates are equal only the channels are mixed. *handle is NULL on failure. */
claprt_status claprt_resampler_create(claprt_resampler** handle, int32_t in_rate, int32_t out_rate, int32_t channels,
                                      int32_t max_batch);

/* Samples that a clip of so many frames becomes: frames * out_rate / in_rate rounded half up, at least 1; 0 for no frames.
 * A frame is one sample of each channel. */
int64_t claprt_resampler_length(const claprt_resampler* handle, int64_t frames);

/* One kernel launch on `stream`, as claprt_log_mel_run. It cannot be captured into a CUDA graph.
 *
 * pcm:       device memory, pcm_frames * channels of pcm_type.
 * clips:     host memory, (batch,), in frames.
 * out:       device memory, float32, room for out_samples. The results lie there back to back; full scale is 1.
 * out_clips: host memory, (batch,): where each result lies, for claprt_log_mel_run. May be `clips` itself. */
claprt_status claprt_resampler_run(claprt_resampler* handle, const void* pcm, int64_t pcm_frames, claprt_type pcm_type,
                                   const claprt_clip* clips, int32_t batch, float* out, int64_t out_samples,
                                   claprt_clip* out_clips, void* stream);

/* Waits for the handle's work and frees it. NULL is allowed. */
void claprt_resampler_destroy(claprt_resampler* handle);

/* What the last failing call of this thread was refused for; "" if none was. Valid until the thread's next call. */
const char* claprt_log_mel_message(void);

#ifdef __cplusplus
}
#endif

#endif
