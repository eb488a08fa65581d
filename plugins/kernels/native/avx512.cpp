#include "isa.h"
#define RUN run_avx512
#define LOOK look_avx512
#define LOOK_WIDE look_wide_avx512
#define SUMS sums_avx512
#include "interpreter.inc"
