/* One block of outputs for one token: vectors run along the outputs, and every weight is read once.
   Included once for every height and type of column. */

#define LENGTH (HEIGHT < LANES ? HEIGHT : LANES)
#define VECTORS (HEIGHT / LENGTH)
#define CHAINS (HEIGHT == 1 ? 8 : 4)

static void SINGLE(const void *all_columns, const float *restrict values, size_t left,
                   const float *restrict x, float *restrict out) {
    const COLUMN *restrict columns = all_columns;
    SUM sums[CHAINS][VECTORS] = {0};

#define MULTIPLY(chain)                                                                            \
    UNROLLED for (int at = 0; at < VECTORS; at++)                                                       \
        sums[chain][at] += *(const UNALIGNED *)(values + (chain)*HEIGHT + at * LENGTH) *           \
                           x[columns[chain]]

    for (; left >= CHAINS; left -= CHAINS) {
        UNROLLED for (int chain = 0; chain < CHAINS; chain++) MULTIPLY(chain);
        columns += CHAINS;
        values += CHAINS * HEIGHT;
    }
    if (left & 4) {
        UNROLLED for (int chain = 0; chain < 4; chain++) MULTIPLY(chain);
        columns += 4;
        values += 4 * HEIGHT;
    }
    for (left &= 3; left > 0; left--) {
        MULTIPLY(0);
        columns += 1;
        values += HEIGHT;
    }
#undef MULTIPLY

    UNROLLED for (int half = CHAINS / 2; half > 0; half /= 2)
        UNROLLED for (int chain = 0; chain < half; chain++)
            for (int at = 0; at < VECTORS; at++) sums[chain][at] += sums[chain + half][at];
    memcpy(out, sums[0], HEIGHT * sizeof(float));
}

#undef CHAINS
#undef VECTORS
#undef LENGTH
#undef SINGLE
#undef SUM
#undef UNALIGNED
#undef HEIGHT
