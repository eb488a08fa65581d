#include "isa.h"
#define RUN run_baseline
#define LOOK look_baseline
#define SUMS sums_baseline
#include "interpreter.inc"
