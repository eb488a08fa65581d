#include "isa.h"
#define RUN run_baseline
#define LOOK look_baseline
#define LOOK_WIDE look_wide_baseline
#define SUMS sums_baseline
#include "interpreter.inc"
