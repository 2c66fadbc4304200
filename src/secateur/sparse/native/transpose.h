/* Matrices turned around in squares of eight. */
#ifndef SECATEUR_TRANSPOSE_H
#define SECATEUR_TRANSPOSE_H

#include "vector.h"
#include "whole.h"

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t Order8 __attribute__((vector_size(32)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Order8){__VA_ARGS__})
#endif

INLINE void transpose_square(const float *from, int64_t from_pitch, float *to,
                             int64_t to_pitch) {
    Vector8 a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = *(const Unaligned8 *)(from + i * from_pitch);
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = SHUFFLE(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + 2 * j + 1] = SHUFFLE(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        *(Unaligned8 *)(to + i * to_pitch) = SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(Unaligned8 *)(to + (i + 4) * to_pitch) =
            SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* from [rows][columns] -> to [columns][rows], in stripes of columns: as many as fill the cache lines of
   one side, where that side's lines are far apart. */
static void transpose(const float *from, int64_t from_pitch, int64_t rows, int64_t columns, float *to,
                      int64_t to_pitch, int64_t stripe) {
    const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
    for (int64_t left = 0; left < whole_columns; left += stripe)
        for (int64_t row = 0; row < whole_rows; row += 8)
            for (int64_t column = left; column < least(left + stripe, whole_columns); column += 8)
                transpose_square(from + row * from_pitch + column, from_pitch,
                                 to + column * to_pitch + row, to_pitch);
    for (int64_t column = 0; column < columns; column++)
        for (int64_t row = column < whole_columns ? whole_rows : 0; row < rows; row++)
            to[column * to_pitch + row] = from[row * from_pitch + column];
}

#endif
