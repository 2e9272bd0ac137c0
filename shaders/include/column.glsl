// Column reductions: rows are summed in COLUMN_LANES strided partial sums (lane p adds rows
// p, p + COLUMN_LANES, ... ascending), then column_finish adds the lanes over a fixed binary tree.
#include "flat.glsl"

const uint COLUMN_LANES = 64;
