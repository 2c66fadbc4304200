/* The plain C interface: what Python calls, and what every variant implements.

   A weight matrix [outputs][inputs] is cut into blocks of `height` consecutive outputs, and into parts
   of PART consecutive inputs. Of every block only the columns that hold something but zero
   are stored, in ascending order:

     starts  [blocks * parts + 1]               where the columns of a block's part begin
     columns [starts[blocks * parts]]           uint16, or uint32 where there are more than 65536
     values  [starts[blocks * parts]][height]   zeros fill up the last block of a group

   A convolution's weight is the matrix [outputs][inputs / groups * kernel rows * kernel columns]; each
   of its groups begins a block of its own. */
#ifndef SECATEUR_INTERFACE_H
#define SECATEUR_INTERFACE_H

#include <stddef.h>
#include <stdint.h>

enum { PART = 128 };

typedef struct {
    const int32_t *starts;
    const void *columns;
    const float *values;
    const float *bias; /* [outputs], or null */
    int32_t wide;      /* whether columns are uint32 */
    int32_t height;    /* 1, 4, 8 or 16 */
    int32_t activation;
    int32_t threads;
} Weights;

/* x [tokens][inputs] with rows `stride` apart -> y [tokens][outputs]. */
typedef struct {
    int64_t tokens, inputs, outputs, stride;
} Linear;

/* x [batch][channels][rows][columns] -> y [batch][outputs][out_rows][out_columns]. What lies outside
   of x counts as zero, so padding at the end follows from the size of y. */
typedef struct {
    int64_t batch, channels, rows, columns;
    int64_t outputs, out_rows, out_columns;
    int64_t kernel_rows, kernel_columns;
    int64_t stride_rows, stride_columns;
    int64_t pad_rows, pad_columns;
    int64_t step_rows, step_columns; /* dilation */
    int64_t groups;
} Convolution;

enum Status { DONE = 0, OUT_OF_MEMORY = 1 };

typedef struct {
    const char *name;
    int (*linear)(const Linear *, const Weights *, const float *x, float *y);
    int (*linear_gradient)(const Linear *, const Weights *, const float *dy, float *dx);
    int (*convolution)(const Convolution *, const Weights *, const float *x, float *y);
    int (*convolution_gradient)(const Convolution *, const Weights *, const float *dy, float *dx);
} Variant;

/* Memory of the calling thread that is kept for its next call: fresh pages cost more than small
   products. Null where there is none. */
float *secateur_scratch(size_t floats);

#endif
