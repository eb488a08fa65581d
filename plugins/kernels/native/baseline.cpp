#include "isa.h"
#define NAME run_baseline
#include "interpreter.inc"
