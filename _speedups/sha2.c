/* See sha2.h. Sources: FIPS 180-4 sections 4.1, 4.2, 6.2, 6.4; Intel "SHA Extensions" (2013); Arm ARM "SHA256H". */
#include "sha2.h"

static const uint32_t K256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static const uint64_t K512[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538,
    0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe,
    0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2, 0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235,
    0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5, 0x983e5152ee66dfab,
    0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed,
    0x53380d139d95b3df, 0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218,
    0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8, 0x19a4c116b8d2d0c8, 0x1e376c085141ab53,
    0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373,
    0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c,
    0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6,
    0x113f9804bef90dae, 0x1b710b35131c471b, 0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc,
    0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817};

static inline uint32_t load32(const uint8_t *p) {
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}

static inline uint64_t load64(const uint8_t *p) { return ((uint64_t)load32(p) << 32) | load32(p + 4); }

#define ROTR32(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define ROTR64(x, n) (((x) >> (n)) | ((x) << (64 - (n))))
#define CH(x, y, z) (((x) & ((y) ^ (z))) ^ (z))
#define MAJ(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

/* One round with the working variables renamed instead of moved: eight in a row bring the names round again. */
#define ROUND(T, BIG0, BIG1, a, b, c, d, e, f, g, h, k, w) \
    do {                                                   \
        T t1 = (h) + BIG1(e) + CH(e, f, g) + (k) + (w);    \
        (d) += t1;                                         \
        (h) = t1 + BIG0(a) + MAJ(a, b, c);                 \
    } while (0)

#define BIG0_32(x) (ROTR32(x, 2) ^ ROTR32(x, 13) ^ ROTR32(x, 22))
#define BIG1_32(x) (ROTR32(x, 6) ^ ROTR32(x, 11) ^ ROTR32(x, 25))
#define SMALL0_32(x) (ROTR32(x, 7) ^ ROTR32(x, 18) ^ ((x) >> 3))
#define SMALL1_32(x) (ROTR32(x, 17) ^ ROTR32(x, 19) ^ ((x) >> 10))
#define BIG0_64(x) (ROTR64(x, 28) ^ ROTR64(x, 34) ^ ROTR64(x, 39))
#define BIG1_64(x) (ROTR64(x, 14) ^ ROTR64(x, 18) ^ ROTR64(x, 41))
#define SMALL0_64(x) (ROTR64(x, 1) ^ ROTR64(x, 8) ^ ((x) >> 7))
#define SMALL1_64(x) (ROTR64(x, 19) ^ ROTR64(x, 61) ^ ((x) >> 6))

#define EIGHT(T, BITS, K, i)                                                             \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, a, b, c, d, e, f, g, h, K[i], w[(i) & 15]);           \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, h, a, b, c, d, e, f, g, K[(i) + 1], w[((i) + 1) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, g, h, a, b, c, d, e, f, K[(i) + 2], w[((i) + 2) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, f, g, h, a, b, c, d, e, K[(i) + 3], w[((i) + 3) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, e, f, g, h, a, b, c, d, K[(i) + 4], w[((i) + 4) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, d, e, f, g, h, a, b, c, K[(i) + 5], w[((i) + 5) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, c, d, e, f, g, h, a, b, K[(i) + 6], w[((i) + 6) & 15]); \
    ROUND(T, BIG0_##BITS, BIG1_##BITS, b, c, d, e, f, g, h, a, K[(i) + 7], w[((i) + 7) & 15])

#define SCHEDULE(BITS, w)                                                                                   \
    for (int j = 0; j < 16; j++)                                                                            \
    (w)[j] += SMALL1_##BITS((w)[(j + 14) & 15]) + (w)[(j + 9) & 15] + SMALL0_##BITS((w)[(j + 1) & 15])

#define COMPRESS(T, BITS, K, ROUNDS, load, state, data, blocks)                                                   \
    for (; blocks; blocks--, data += 16 * sizeof(T)) {                                                            \
        T w[16];                                                                                                  \
        T a = state[0], b = state[1], c = state[2], d = state[3];                                                 \
        T e = state[4], f = state[5], g = state[6], h = state[7];                                                 \
        for (int j = 0; j < 16; j++) w[j] = load(data + j * sizeof(T));                                           \
        for (int i = 0;;) {                                                                                       \
            EIGHT(T, BITS, K, i);                                                                                 \
            EIGHT(T, BITS, K, i + 8);                                                                             \
            i += 16;                                                                                              \
            if (i == ROUNDS) break;                                                                               \
            SCHEDULE(BITS, w);                                                                                    \
        }                                                                                                         \
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;                                               \
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;                                               \
    }

void sha256_blocks_portable(uint32_t state[8], const uint8_t *data, size_t blocks) {
    COMPRESS(uint32_t, 32, K256, 64, load32, state, data, blocks)
}

void sha512_blocks_portable(uint64_t state[8], const uint8_t *data, size_t blocks) {
    COMPRESS(uint64_t, 64, K512, 80, load64, state, data, blocks)
}

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>

/* Four rounds a step: sha256rnds2 wants the state as ABEF and CDGH, so it is shuffled on the way in and out. Steps of
 * two streams stand side by side: a step waits for the one before it, and the other stream's runs meanwhile. */
#define SHANI __attribute__((target("sha,sse4.1,ssse3")))
#define SHANI_SWAP _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL)

struct shani {
    __m128i abef, cdgh, m[4];
};

SHANI static inline struct shani shani_load(const uint32_t state[8]) {
    __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    return (struct shani){.abef = _mm_alignr_epi8(dcba, hgfe, 8), .cdgh = _mm_blend_epi16(hgfe, dcba, 0xF0)};
}

SHANI static inline void shani_store(const struct shani *s, uint32_t state[8]) {
    __m128i feba = _mm_shuffle_epi32(s->abef, 0x1B);
    __m128i dchg = _mm_shuffle_epi32(s->cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

SHANI static inline __attribute__((always_inline)) void shani_step(struct shani *s, const uint8_t *data, int i,
                                                                  __m128i swap) {
    if (i < 4) s->m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
    __m128i wk = _mm_add_epi32(s->m[i & 3], _mm_loadu_si128((const __m128i *)(K256 + 4 * i)));
    s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, wk);
    if (i >= 3 && i < 15) {
        __m128i carried = _mm_alignr_epi8(s->m[i & 3], s->m[(i + 3) & 3], 4);
        s->m[(i + 1) & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(s->m[(i + 1) & 3], carried), s->m[i & 3]);
    }
    s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(wk, 0x0E));
    if (i >= 1 && i < 13) s->m[(i + 3) & 3] = _mm_sha256msg1_epu32(s->m[(i + 3) & 3], s->m[i & 3]);
}

SHANI static void sha256_blocks_shani(uint32_t state[8], const uint8_t *data, size_t blocks) {
    const __m128i swap = SHANI_SWAP;
    struct shani s = shani_load(state);
    for (; blocks; blocks--, data += 64) {
        const __m128i abef_before = s.abef, cdgh_before = s.cdgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) shani_step(&s, data, i, swap);
        s.abef = _mm_add_epi32(s.abef, abef_before);
        s.cdgh = _mm_add_epi32(s.cdgh, cdgh_before);
    }
    shani_store(&s, state);
}

SHANI static void sha256_two_shani(uint32_t one[8], const uint8_t *of_one, uint32_t two[8], const uint8_t *of_two,
                                   size_t blocks) {
    const __m128i swap = SHANI_SWAP;
    struct shani s = shani_load(one), t = shani_load(two);
    for (; blocks; blocks--, of_one += 64, of_two += 64) {
        const struct shani s_before = s, t_before = t;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            shani_step(&s, of_one, i, swap);
            shani_step(&t, of_two, i, swap);
        }
        s.abef = _mm_add_epi32(s.abef, s_before.abef);
        s.cdgh = _mm_add_epi32(s.cdgh, s_before.cdgh);
        t.abef = _mm_add_epi32(t.abef, t_before.abef);
        t.cdgh = _mm_add_epi32(t.cdgh, t_before.cdgh);
    }
    shani_store(&s, one);
    shani_store(&t, two);
}

sha256_blocks_fn sha256_blocks_accelerated(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return NULL;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & (1u << 29))) return NULL; /* leaf 7 EBX bit 29: SHA */
    return sha256_blocks_shani;
}
sha256_two_fn sha256_two_accelerated(void) { return sha256_blocks_accelerated() ? sha256_two_shani : NULL; }
const char *sha256_accelerated_name(void) { return "sha-ni"; }

#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif
#endif
#if defined(__clang__)
#define ARM_SHA2 __attribute__((target("sha2")))
#else
#define ARM_SHA2 __attribute__((target("+crypto")))
#endif

ARM_SHA2 static void sha256_blocks_armv8(uint32_t state[8], const uint8_t *data, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; blocks; blocks--, data += 64) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t m[4];
        for (int i = 0; i < 4; i++) m[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            uint32x4_t wk = vaddq_u32(m[i & 3], vld1q_u32(K256 + 4 * i));
            if (i < 12)
                m[i & 3] = vsha256su1q_u32(vsha256su0q_u32(m[i & 3], m[(i + 1) & 3]), m[(i + 2) & 3], m[(i + 3) & 3]);
            uint32x4_t before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, before, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

sha256_blocks_fn sha256_blocks_accelerated(void) {
#if defined(__APPLE__)
    return sha256_blocks_armv8; /* every Apple arm64 CPU has it */
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) ? sha256_blocks_armv8 : NULL;
#else
    return NULL;
#endif
}
sha256_two_fn sha256_two_accelerated(void) { return NULL; }
const char *sha256_accelerated_name(void) { return "armv8"; }

#else
sha256_blocks_fn sha256_blocks_accelerated(void) { return NULL; }
sha256_two_fn sha256_two_accelerated(void) { return NULL; }
const char *sha256_accelerated_name(void) { return "none"; }
#endif
