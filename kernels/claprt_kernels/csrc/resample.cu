// The resampling kernels that the fatbin holds: one for each type of sample.

#include "resample.cuh"

#define CLAPRT_RESAMPLE(name, Sample)                                                                                   \
    extern "C" __global__ void __launch_bounds__(claprt::kResampleThreads) name(const claprt::ResampleArguments arguments) { \
        claprt::resample<Sample>(arguments);                                                                            \
    }

CLAPRT_RESAMPLE(resample_int16, short)
CLAPRT_RESAMPLE(resample_fp32, float)
