// Column reductions: rows are summed in COLUMN_LANES strided partial sums (lane p adds rows
// p, p + COLUMN_LANES, ... ascending), then column_finish adds the lanes over a fixed binary tree.
#include "flat.glsl"

const uint COLUMN_LANES = 64;

// Rows that an invocation reads before it adds them up, so that their ways from memory overlap.
const uint AT_ONCE = 16;
