/* Vectors of floats as wide as the instruction set that this variant is compiled for. */
#ifndef SECATEUR_VECTOR_H
#define SECATEUR_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Tests compile other widths than the instruction set has, to try all tiles on any machine. */
#ifdef LANES
#elif defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

typedef float Vector4 __attribute__((vector_size(16)));
typedef float Vector8 __attribute__((vector_size(32)));
typedef float Unaligned4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float Unaligned8 __attribute__((vector_size(32), aligned(4), may_alias));
#if LANES >= 8
typedef Vector8 Upto8;
typedef Unaligned8 UnalignedUpto8;
#else
typedef Vector4 Upto8;
typedef Unaligned4 UnalignedUpto8;
#endif

INLINE Vector load(const float *from) { return *(const Unaligned *)from; }
INLINE void store(float *to, Vector value) { *(Unaligned *)to = value; }

/* Subtracting a zero, unlike adding one, keeps the sign of -0. */
INLINE Vector broadcast(float value) { return value - (Vector){0}; }

INLINE Vector choose(Mask where, Vector yes, Vector no) {
    return (Vector)(((Bits)yes & (Bits)where) | ((Bits)no & ~(Bits)where));
}

#endif
