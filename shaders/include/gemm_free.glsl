// What the products outside the exact contract have in common: they sum in whatever order is fastest, by
// blocks of any length, and may be told that no tile is cut off by an edge.

#define FREE_BLOCKS
#include "gemm_push.glsl"
#include "gemm_tiles.glsl"
