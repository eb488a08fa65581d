// The C interface of the kernels, which Python calls through ctypes.
#ifndef MERGECORE_KERNELS_H
#define MERGECORE_KERNELS_H

#include <stdint.h>

// The operations. Every register holds a block of float32 numbers, and a few other registers one of float64 numbers. `a`, `b`, and `c` are registers, `x` and `y` numbers.
enum Code {
    LOAD,        // input number `k0`, decoded
    FILL,        // x
    ADD,         // a + b
    SUB,         // a - b
    MUL,         // a * b
    DIV,         // a / b
    FMA,         // a + x * b, rounded once
    MULADD,      // a + x * b * c, with x * b rounded and the rest rounded once
    ADD_X,       // a + x
    RSUB_X,      // x - a
    MUL_X,       // a * x
    DIV_X,       // a / x
    RDIV_X,      // x / a
    NEG,         // -a
    ABS,         // |a|
    SIGN,        // -1, 0, or 1, and 0 for NaN
    SQRT,        // the square root of a
    RELU,        // 0 if a < 0, else a
    MINIMUM,     // the smaller one, NaN if one is NaN
    MAXIMUM,     // the larger one, NaN if one is NaN
    CLAMP,       // a, at least x and at most y, NaN if a is NaN
    LT, LE, GT, GE, EQ, NE,              // 1 if a and b compare so, else 0
    LT_X, LE_X, GT_X, GE_X, EQ_X, NE_X,  // 1 if a and x compare so, else 0
    WHERE,       // b where a is not 0, else c
    HARDSHRINK,  // 0 if -x <= a <= x, else a
    KEEP,        // a if |a| > x, or if |a| == x and its index is at most n, else 0; NaN stays
    RANDOM,      // a uniform number in [0, 1) for the element's index and the keys k0 and k1
    WIDEN,       // float register a as float64
    NARROW,      // float64 register a, rounded to float32
    WIDE_ADD, WIDE_SUB, WIDE_MUL,  // of float64 registers a and b
    WIDE_ADD_X, WIDE_MUL_X,        // of float64 register a and the float64 number in n
    WIDE_KEEP,                     // KEEP for float64: the number is in n, and the index in k0 and k1
    NE_X_OF_WIDE,                  // 1 if float64 register a is not the float64 number in n, else 0
    CODES
};

struct Op {
    uint8_t code, out, a, b, c, unused[3];
    float x, y;
    uint32_t k0, k1;
    int64_t n;
};

// Stored dtypes. F64 is only for outputs, of float64 registers.
enum Dtype { F32, BF16, F16, F64 };

struct Buffer {
    void *data;
    int64_t dtype;
};

#ifdef __cplusplus
extern "C" {
#endif

// The layout of this file. Python refuses a library with another one.
int mergecore_version(void);

// The name of the instruction set in use.
const char *mergecore_isa(void);

// Use an instruction set by name. Return 0 if this processor does not have it.
int mergecore_use(const char *isa);

// Run a program over `count` elements of `inputs`. The first one has the flat index `offset` in its tensor. Register
// `result` is rounded to the dtype of `out`. Return 1 if every number written is finite, else 0.
int mergecore_run(const struct Op *ops, int64_t length, int64_t result, const struct Buffer *inputs, struct Buffer out,
                  int64_t count, int64_t offset);

// Two registers whose product is summed. If `b` is negative, the magnitudes of `a` are.
struct Term {
    int64_t a, b;
};

// Run a program, and add each term's sums over blocks of 16384 elements to `sums`, one block after another. A block is
// summed in float32 and float64, in a fixed order, and again in float64 if the sum is tiny or not finite, or the block
// incomplete.
void mergecore_sums(const struct Op *ops, int64_t length, const struct Term *terms, int64_t term_count,
                    const struct Buffer *inputs, int64_t count, int64_t offset, double *sums);

// Run a program, and clear the signs of the numbers in register `result`, so that their bits sort like their
// magnitudes. Count those above each of `edge_count` edges, at most 8. If `inner` is not negative, write those above
// edge `inner` and at most the next one to `picked`. Return how many were written.
int64_t mergecore_look(const struct Op *ops, int64_t length, int64_t result, const struct Buffer *inputs, int64_t count,
                       int64_t offset, const int32_t *edges, int64_t edge_count, int64_t inner, int32_t *picked,
                       int64_t *above);

// The same for a float64 register.
int64_t mergecore_look_wide(const struct Op *ops, int64_t length, int64_t result, const struct Buffer *inputs,
                            int64_t count, int64_t offset, const int64_t *edges, int64_t edge_count, int64_t inner,
                            int64_t *picked, int64_t *above);

// Write the SHA-256 of each of `count` blocks of `size` bytes, a multiple of 64, to `digests`, 32 bytes each. Return 0
// if this processor has no instructions for it.
int mergecore_sha256(const uint8_t *data, int64_t count, int64_t size, uint8_t *digests);

#ifdef __cplusplus
}
#endif
#endif
