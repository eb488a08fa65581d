// SHA-256 of blocks of equal size (FIPS 180-4), with the instructions of x86 for it. Two blocks at a time, because each
// instruction waits for the one before it in its own block.

#include "isa.h"

#if defined(__SHA__)

namespace {

constexpr int CHUNK = 64;  // bytes that the hash takes in at a time

alignas(16) constexpr uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// The eight words of a state in the order of the instructions, the first one highest.
struct State {
    __m128i abef = _mm_set_epi32(0x6a09e667, int(0xbb67ae85), 0x510e527f, int(0x9b05688c));
    __m128i cdgh = _mm_set_epi32(0x3c6ef372, int(0xa54ff53a), 0x1f83d9ab, 0x5be0cd19);
};

__m128i reversed_words(__m128i words) {
    return _mm_shuffle_epi8(words, _mm_set_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203));
}

// Take in one chunk of each of N messages.
template <int N>
inline void compress(State *states, const uint8_t *const *chunks) {
    State before[N];
    __m128i words[N][4];
    for (int n = 0; n < N; n++) before[n] = states[n];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i *>(ROUND + 4 * i));
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) {
            __m128i *w = words[n], &now = w[i % 4];
            if (i < 4) {
                now = reversed_words(_mm_loadu_si128(reinterpret_cast<const __m128i *>(chunks[n]) + i));
            } else {  // the schedule: each word follows from those 16, 15, 7, and 2 before it
                const __m128i last = w[(i + 3) % 4], seventh = _mm_alignr_epi8(last, w[(i + 2) % 4], 4);
                now = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) % 4]), seventh), last);
            }
            const __m128i sums = _mm_add_epi32(now, constants);
            const __m128i half = _mm_sha256rnds2_epu32(states[n].cdgh, states[n].abef, sums);
            states[n].abef = _mm_sha256rnds2_epu32(states[n].abef, half, _mm_shuffle_epi32(sums, 0x0e));
            states[n].cdgh = half;
        }
    }
    for (int n = 0; n < N; n++) {
        states[n].abef = _mm_add_epi32(states[n].abef, before[n].abef);
        states[n].cdgh = _mm_add_epi32(states[n].cdgh, before[n].cdgh);
    }
}

template <int N>
void hash(const uint8_t *data, int64_t size, uint8_t *digests) {
    State states[N];
    const uint8_t *chunks[N];
    for (int64_t at = 0; at < size; at += CHUNK) {
        for (int n = 0; n < N; n++) chunks[n] = data + n * size + at;
        compress<N>(states, chunks);
    }
    uint8_t end[CHUNK] = {0x80};
    for (int byte = 0; byte < 8; byte++) end[CHUNK - 1 - byte] = uint8_t(uint64_t(size) * 8 >> 8 * byte);
    for (int n = 0; n < N; n++) chunks[n] = end;
    compress<N>(states, chunks);
    for (int n = 0; n < N; n++) {
        const __m128i abcd = _mm_unpackhi_epi64(states[n].cdgh, states[n].abef);
        const __m128i efgh = _mm_unpacklo_epi64(states[n].cdgh, states[n].abef);
        __m128i *out = reinterpret_cast<__m128i *>(digests + 32 * n);
        _mm_storeu_si128(out, reversed_words(_mm_shuffle_epi32(abcd, 0x1b)));
        _mm_storeu_si128(out + 1, reversed_words(_mm_shuffle_epi32(efgh, 0x1b)));
    }
}

}  // namespace

void sha256_x86(const uint8_t *data, int64_t count, int64_t size, uint8_t *digests) {
    for (; count >= 2; count -= 2, data += 2 * size, digests += 64) hash<2>(data, size, digests);
    if (count) hash<1>(data, size, digests);
}

#endif
