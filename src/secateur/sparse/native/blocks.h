/* Rows of blocks, summed part by part. */
#ifndef SECATEUR_BLOCKS_H
#define SECATEUR_BLOCKS_H

#include "tiles.h"

enum { FLOATS_IN_CACHE = 1 << 14, LONGEST_SORTED = 63, SOME_PARTS = -1 };

static int64_t parts_of(int64_t columns) {
    return most(divide_up(columns, PART), 1);
}

/* Parts [part, next) of every tile of rows. Shortest first where they are single weights: of rows of one
   length the processor foresees the end, and what it foresees wrong costs as much as ten weights. */
static void take_turns(const Rows *r, int rows, int64_t part, int64_t next, Turn *turn) {
    const int32_t *starts = r->weights->starts;
    const int64_t height = r->weights->height;
    int32_t places[LONGEST_SORTED + 2] = {0};
    turn->count = divide_up(r->last - r->first, rows);
    if (height == 1) {
        const int32_t *from = starts + (r->block + r->first) * r->parts;
        for (int64_t i = 0; i < turn->count; i++, from += r->parts)
            places[least(from[next] - from[part], LONGEST_SORTED) + 1]++;
        for (int length = 1; length <= LONGEST_SORTED; length++) places[length] += places[length - 1];
    }
    int64_t within = 0;
    const int32_t *from = starts + (r->block + r->first / height) * r->parts;
    for (int64_t i = 0; i < turn->count; i++) {
        const int32_t length = from[next] - from[part];
        const int64_t to = height == 1 ? places[least(length, LONGEST_SORTED)]++ : i;
        turn->columns[to] = from[part];
        turn->values[to] = from[part] * height + within;
        turn->lengths[to] = length;
        turn->rows[to] = (int32_t)(i * rows);
        within += rows;
        if (within == height) {
            within = 0;
            from += r->parts;
        }
    }
}

/* The sums of those outputs into lines `pitch` apart, up to the next whole tile of rows. As many parts at
   once as have their activations in the first caches. `turn` is the same for all positions of the same
   rows, with rows_each 0 at first: where all parts go at once, it is made once. */
static void sum_rows(const Rows *r, Turn *turn, const float *positions, const Place *places, int placed,
                     float *lines, int64_t width, int64_t pitch) {
    const Weights *weights = r->weights;
    const int rows = rows_of(weights->height, width / LANES), activation = weights->activation;
    const Tile tile = find_tile(weights->wide, placed, rows, width / LANES);
    const int64_t together = most(FLOATS_IN_CACHE / (PART * width), 1);
    const int cheap = activation == RELU || activation == RELU6;
    if (!turn->rows_each)
        for (int64_t row = 0; row < divide_up(r->last - r->first, MOST_ROWS) * MOST_ROWS; row++)
            turn->bias[row] = r->bias && r->first + row < r->outputs ? r->bias[r->first + row] : 0.0f;
    turn->lowest = 0.0f;
    turn->highest = activation == RELU6 ? 6.0f : __builtin_inff();
    for (int64_t part = 0; part < r->parts; part += together) {
        const int64_t next = least(part + together, r->parts);
        const int all = part == 0 && next == r->parts;
        if (!all || turn->rows_each != rows) take_turns(r, rows, part, next, turn);
        turn->rows_each = all ? rows : SOME_PARTS;
        turn->fresh = part == 0;
        turn->clamped = cheap && next == r->parts;
        tile(r, turn, positions, places, lines, pitch);
    }
    if (activation != NONE && !cheap)
        for (int64_t row = 0; row < r->last - r->first; row++)
            for (int64_t at = 0; at < width; at += LANES) {
                float *to = lines + row * pitch + at;
                store(to, activate(load(to), activation));
            }
}

/* How many pieces of at most ROWS_A_TASK rows to cut `rows` into, where each is done for `panels` panels:
   enough for all threads; a multiple of MOST_HEIGHT is in each but the last. */
static int64_t pieces_of(int64_t rows, int64_t panels, int threads) {
    const int64_t lines = divide_up(rows, MOST_HEIGHT), wanted = threads > 1 ? 8 * threads : 1;
    return least(lines, most(divide_up(rows, ROWS_A_TASK), divide_up(wanted, panels)));
}

static int64_t row_of_piece(int64_t rows, int64_t pieces, int64_t piece) {
    return least(cut(divide_up(rows, MOST_HEIGHT), pieces, piece) * MOST_HEIGHT, rows);
}

#endif
