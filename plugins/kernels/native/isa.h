// The interpreters, one for each instruction set.
#ifndef MERGECORE_ISA_H
#define MERGECORE_ISA_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "kernels.h"

using Run = int(const Op *, int64_t, int64_t, const Buffer *, Buffer, int64_t, int64_t);

template <class Integer>
using LookAt = int64_t(const Op *, int64_t, int64_t, const Buffer *, int64_t, int64_t, const Integer *, int64_t,
                       int64_t, Integer *, int64_t *);
using Look = LookAt<int32_t>;
using LookWide = LookAt<int64_t>;

using Sums = void(const Op *, int64_t, const Term *, int64_t, const Buffer *, int64_t, int64_t, double *);

using Sha256 = void(const uint8_t *, int64_t, int64_t, uint8_t *);

Sha256 sha256_x86;
Run run_baseline, run_avx2, run_avx512;
Sums sums_baseline, sums_avx2, sums_avx512;
Look look_baseline, look_avx2, look_avx512;
LookWide look_wide_baseline, look_wide_avx2, look_wide_avx512;

#endif
