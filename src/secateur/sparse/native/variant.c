/* All kernels for the instruction set that this file is compiled for: the build compiles it once for
   each, with VARIANT naming what it makes. */
#include "convolution.h"
#include "gradient.h"
#include "linear.h"

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define SYMBOL_OF(name) secateur_##name
#define SYMBOL(name) SYMBOL_OF(name)

const Variant SYMBOL(VARIANT) = {TEXT(VARIANT), linear, linear_gradient, convolution,
                                 convolution_gradient};
