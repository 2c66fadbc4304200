/* One set of register tiles; how a column is read and where it points is the includer's to define. */
#define ROWS 1
#define VECTORS 1
#define TILE TILE_NAME(1, 1)
#include "tile.h"
#define ROWS 1
#define VECTORS 2
#define TILE TILE_NAME(1, 2)
#include "tile.h"
#define ROWS 1
#define VECTORS 3
#define TILE TILE_NAME(1, 3)
#include "tile.h"
#define ROWS 1
#define VECTORS 4
#define TILE TILE_NAME(1, 4)
#include "tile.h"
#define ROWS 1
#define VECTORS 5
#define TILE TILE_NAME(1, 5)
#include "tile.h"
#define ROWS 1
#define VECTORS 6
#define TILE TILE_NAME(1, 6)
#include "tile.h"
#define ROWS 1
#define VECTORS 7
#define TILE TILE_NAME(1, 7)
#include "tile.h"
#define ROWS 1
#define VECTORS 8
#define TILE TILE_NAME(1, 8)
#include "tile.h"
#define ROWS 4
#define VECTORS 1
#define TILE TILE_NAME(4, 1)
#include "tile.h"
#define ROWS 4
#define VECTORS 2
#define TILE TILE_NAME(4, 2)
#include "tile.h"
#define ROWS 4
#define VECTORS 3
#define TILE TILE_NAME(4, 3)
#include "tile.h"
#define ROWS 8
#define VECTORS 1
#define TILE TILE_NAME(8, 1)
#include "tile.h"

#if LANES == 16
#define ROWS 4
#define VECTORS 4
#define TILE TILE_NAME(4, 4)
#include "tile.h"
#define ROWS 4
#define VECTORS 5
#define TILE TILE_NAME(4, 5)
#include "tile.h"
#define ROWS 4
#define VECTORS 6
#define TILE TILE_NAME(4, 6)
#include "tile.h"
#define ROWS 8
#define VECTORS 2
#define TILE TILE_NAME(8, 2)
#include "tile.h"
#define ROWS 8
#define VECTORS 3
#define TILE TILE_NAME(8, 3)
#include "tile.h"
#endif

#undef COLUMN
#undef PLACE
#undef TILE_NAME
