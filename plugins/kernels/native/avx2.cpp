#include "isa.h"
#define NAME run_avx2
#include "interpreter.inc"
