/* One function of singles for every height. */
#define HEIGHT 1
#define SUM float
#define UNALIGNED float
#define SINGLE NAME(1)
#include "single.h"
#define HEIGHT 4
#define SUM Vector4
#define UNALIGNED Unaligned4
#define SINGLE NAME(4)
#include "single.h"
#define HEIGHT 8
#define SUM Upto8
#define UNALIGNED UnalignedUpto8
#define SINGLE NAME(8)
#include "single.h"
#define HEIGHT 16
#define SUM Vector
#define UNALIGNED Unaligned
#define SINGLE NAME(16)
#include "single.h"

#undef COLUMN
#undef NAME
