/* See crc32.h. Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ" (Intel, 2009),
 * whose constants for the reflected polynomial of 0x04C11DB7 these are. */
#include "crc32.h"

#define POLYNOMIAL 0xEDB88320u

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>

/* Fewer than 64 bytes at the start or the end of a buffer, bit by bit. */
static uint32_t crc32_bits(uint32_t crc, const uint8_t *data, size_t length) {
    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (POLYNOMIAL & (0 - (crc & 1)));
    }
    return crc;
}

#define PCLMUL __attribute__((target("pclmul,sse4.1")))

/* `at` moved on by as many bits as the constants' distance, and `next` added. */
PCLMUL static inline __m128i fold(__m128i at, __m128i constants, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(at, constants, 0x00);
    __m128i high = _mm_clmulepi64_si128(at, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

PCLMUL static inline __m128i load(const uint8_t *data) { return _mm_loadu_si128((const __m128i *)data); }

PCLMUL static uint32_t crc32_pclmul(uint32_t crc, const uint8_t *data, size_t length) {
    const __m128i by_512 = _mm_set_epi64x(0x01C6E41596, 0x0154442BD4); /* x^(512-32), x^(512+32) mod P */
    const __m128i by_128 = _mm_set_epi64x(0x00CCAA009E, 0x01751997D0); /* x^(128-32), x^(128+32) mod P */
    const __m128i by_64 = _mm_set_epi64x(0, 0x0163CD6124);             /* x^64 mod P */
    const __m128i barrett = _mm_set_epi64x(0x01F7011641, 0x01DB710641); /* floor(x^64 / P), P */
    const __m128i low_32 = _mm_set_epi32(0, -1, 0, -1);

    crc = ~crc;
    if (length >= 64) {
        __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128((int)crc));
        __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
        for (data += 64, length -= 64; length >= 64; data += 64, length -= 64) {
            a = fold(a, by_512, load(data));
            b = fold(b, by_512, load(data + 16));
            c = fold(c, by_512, load(data + 32));
            d = fold(d, by_512, load(data + 48));
        }
        a = fold(fold(fold(a, by_128, b), by_128, c), by_128, d);
        for (; length >= 16; data += 16, length -= 16) a = fold(a, by_128, load(data));

        /* 128 bits to 64, to 32, and Barrett's reduction of what is left. */
        a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_128, 0x10));
        a = _mm_xor_si128(_mm_srli_si128(a, 4), _mm_clmulepi64_si128(_mm_and_si128(a, low_32), by_64, 0x00));
        __m128i t = _mm_clmulepi64_si128(_mm_and_si128(a, low_32), barrett, 0x10);
        t = _mm_clmulepi64_si128(_mm_and_si128(t, low_32), barrett, 0x00);
        crc = (uint32_t)_mm_extract_epi32(_mm_xor_si128(a, t), 1);
    }
    return ~crc32_bits(crc, data, length);
}

crc32_fn crc32_accelerated(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_PCLMUL) || !(c & bit_SSE4_1)) return NULL;
    return crc32_pclmul;
}

#else
crc32_fn crc32_accelerated(void) { return NULL; }
#endif
