// Everything that the fatbin holds.

#include "log_mel.cu"
#include "resample.cu"
