/* Every register tile of this instruction set, for narrow and wide columns, and for activations that
   lie in rows of one pitch (a matrix) or at looked-up places (a convolution). */
#ifndef SECATEUR_TILES_H
#define SECATEUR_TILES_H

#include "activation.h"
#include "interface.h"
#include "whole.h"

/* Where the activations of a column begin. */
typedef struct {
    size_t pitch;
    const uint32_t *offsets; /* by column; null where all are `pitch` apart */
} Place;

/* Some outputs of one group. */
typedef struct {
    const Weights *weights;
    int64_t block, parts; /* the group's first block; parts of every block */
    int64_t outputs;      /* of the group */
    int64_t first, last;  /* those to compute; `first` begins a block */
    const float *bias;    /* of the group, or null */
} Rows;

enum { ROWS_A_TASK = 128, MOST_HEIGHT = 16 };
/* Pieces of rows end at multiples of MOST_HEIGHT, so one may be longer than asked for by that. */
enum { ROWS_IN_LINES = ROWS_A_TASK + MOST_HEIGHT };

/* The tiles of rows of one part, in the order that they are computed in. */
typedef struct {
    int64_t count;
    int rows_each;          /* of the tiles that all parts are held for; 0 at first */
    int fresh;              /* whether sums begin with the bias, instead of what is in the lines */
    int clamped;            /* whether they end between the following two */
    float lowest, highest;
    float bias[ROWS_IN_LINES];
    int64_t columns[ROWS_IN_LINES], values[ROWS_IN_LINES]; /* where they begin */
    int32_t lengths[ROWS_IN_LINES], rows[ROWS_IN_LINES];
} Turn;

/* Adds one part of every row to its line; lines are `pitch` apart. Whole tiles of rows, also where fewer
   are left. */
typedef void (*Tile)(const Rows *r, const Turn *turn, const float *positions, const Place *places,
                     float *lines, int64_t pitch);

/* As many vectors as registers hold sums for, beside the inputs and one weight. */
#if LANES == 16
enum { MOST_1 = 8, MOST_4 = 6, MOST_8 = 3 };
#else
enum { MOST_1 = 8, MOST_4 = 3, MOST_8 = 1 };
#endif
enum { MOST_VECTORS = 8, MOST_ROWS = 8 };

#define COLUMN uint16_t
#define PLACE(column) ((size_t)(column)*places->pitch)
#define TILE_NAME(rows, vectors) narrow_even_##rows##_##vectors
#include "shapes.h"

#define COLUMN uint16_t
#define PLACE(column) ((size_t)places->offsets[column])
#define TILE_NAME(rows, vectors) narrow_placed_##rows##_##vectors
#include "shapes.h"

#define COLUMN uint32_t
#define PLACE(column) ((size_t)(column)*places->pitch)
#define TILE_NAME(rows, vectors) wide_even_##rows##_##vectors
#include "shapes.h"

#define COLUMN uint32_t
#define PLACE(column) ((size_t)places->offsets[column])
#define TILE_NAME(rows, vectors) wide_placed_##rows##_##vectors
#include "shapes.h"

#if LANES == 16
#define TILES(kind)                                                                                \
    {                                                                                              \
        {kind##_1_1, kind##_1_2, kind##_1_3, kind##_1_4, kind##_1_5, kind##_1_6, kind##_1_7,       \
         kind##_1_8},                                                                              \
            {kind##_4_1, kind##_4_2, kind##_4_3, kind##_4_4, kind##_4_5, kind##_4_6},              \
            {kind##_8_1, kind##_8_2, kind##_8_3},                                                  \
    }
#else
#define TILES(kind)                                                                                \
    {                                                                                              \
        {kind##_1_1, kind##_1_2, kind##_1_3, kind##_1_4, kind##_1_5, kind##_1_6, kind##_1_7,       \
         kind##_1_8},                                                                              \
            {kind##_4_1, kind##_4_2, kind##_4_3}, {kind##_8_1},                                    \
    }
#endif

static const Tile all_tiles[4][3][MOST_VECTORS] = {
    TILES(narrow_even), TILES(narrow_placed), TILES(wide_even), TILES(wide_placed)};

/* How many outputs one tile computes of a block; where registers are few, half a block at a time,
   with more positions, needs fewer loads. */
static int rows_of(int height, int64_t vectors) {
    if (height < 8) return height;
    return LANES == 16 || vectors == 1 ? 8 : 4;
}

static int most_vectors(int rows) { return rows == 1 ? MOST_1 : rows == 4 ? MOST_4 : MOST_8; }

/* The tile of one width; `rows` is 1, 4 or 8. */
static Tile find_tile(int wide, int placed, int rows, int64_t vectors) {
    return all_tiles[2 * wide + placed][rows == 1 ? 0 : rows == 4 ? 1 : 2][vectors - 1];
}

#endif
