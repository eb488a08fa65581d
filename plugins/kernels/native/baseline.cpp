#include "isa.h"
#define RUN run_baseline
#define LOOK look_baseline
#include "interpreter.inc"
