#include "isa.h"
#define RUN run_avx2
#define LOOK look_avx2
#define LOOK_WIDE look_wide_avx2
#define SUMS sums_avx2
#include "interpreter.inc"
