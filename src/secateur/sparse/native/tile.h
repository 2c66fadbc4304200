/* The register tile: ROWS outputs at VECTORS * LANES positions, summed over the weights that one part of
   their block stores; and so for all the rows that are asked for. Included once for every shape.

   One index serves all rows of a tile, one load of the activations serves ROWS multiplications, one
   broadcast of a weight serves VECTORS of them. CHAINS sums in parallel hide the latency of multiply-add
   where a tile is small; how many there are depends on the shape alone, so that the same shape always
   rounds alike. */

#define CHAINS (ROWS * VECTORS >= 6 ? 1 : ROWS * VECTORS >= 3 ? 2 : 4)

static void TILE(const Rows *r, const Turn *turn, const float *restrict positions,
                 const Place *places, float *restrict lines, int64_t pitch) {
    const Weights *weights = r->weights;
    const COLUMN *all_columns = weights->columns;
    const int64_t height = weights->height;
    const Vector lowest = broadcast(turn->lowest), highest = broadcast(turn->highest);
    for (int64_t i = 0; i < turn->count; i++) {
        const COLUMN *restrict columns = all_columns + turn->columns[i];
        const float *restrict values = weights->values + turn->values[i];
        float *restrict out = lines + turn->rows[i] * pitch;
        int64_t left = turn->lengths[i];
        Vector sums[CHAINS][ROWS][VECTORS];
        UNROLLED for (int row = 0; row < ROWS; row++)
            UNROLLED for (int at = 0; at < VECTORS; at++) {
                sums[0][row][at] = turn->fresh ? broadcast(turn->bias[turn->rows[i] + row])
                                               : load(out + row * pitch + at * LANES);
                UNROLLED for (int chain = 1; chain < CHAINS; chain++)
                    sums[chain][row][at] = broadcast(0.0f);
            }

#define MULTIPLY(chain, ahead)                                                                     \
    do {                                                                                           \
        const float *restrict from = positions + PLACE(columns[ahead]);                            \
        Vector inputs[VECTORS];                                                                    \
        UNROLLED for (int at = 0; at < VECTORS; at++) inputs[at] = load(from + at * LANES);        \
        UNROLLED for (int row = 0; row < ROWS; row++) {                                            \
            const Vector weight = broadcast(values[(ahead) * height + row]);                       \
            UNROLLED for (int at = 0; at < VECTORS; at++)                                          \
                sums[chain][row][at] += inputs[at] * weight;                                       \
        }                                                                                          \
    } while (0)

        for (; left >= CHAINS; left -= CHAINS) {
            UNROLLED for (int chain = 0; chain < CHAINS; chain++) MULTIPLY(chain, chain);
            columns += CHAINS;
            values += CHAINS * height;
        }
        for (; CHAINS > 1 && left > 0; left--) {
            MULTIPLY(0, 0);
            columns += 1;
            values += height;
        }
#undef MULTIPLY

        UNROLLED for (int row = 0; row < ROWS; row++)
            UNROLLED for (int at = 0; at < VECTORS; at++) {
                UNROLLED for (int chain = 1; chain < CHAINS; chain++)
                    sums[0][row][at] += sums[chain][row][at];
                if (turn->clamped) sums[0][row][at] = clamp(sums[0][row][at], lowest, highest);
                store(out + row * pitch + at * LANES, sums[0][row][at]);
            }
    }
}

#undef CHAINS
#undef TILE
#undef ROWS
#undef VECTORS
