#include "isa.h"
#define NAME run_avx512
#include "interpreter.inc"
